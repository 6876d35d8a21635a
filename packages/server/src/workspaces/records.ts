import type { ImageConfig } from './image/schema.ts'
import type { ChangeSummary, SaveState, Snapshot, SnapshotReason, Workspace } from './schema.ts'
import type { Inventory } from './inventory.ts'
import type { Origin } from './origin.ts'

/** One workspace as it is stored. Times are unix milliseconds. */
export interface WorkspaceRecord {
  id: string
  accountId: string
  name: string
  /** A build's is not listed. */
  kind: 'workspace' | 'build'
  /** That its snapshots stand on; `origin` says what it was made of where that is another. */
  template: string
  origin: WorkspaceOrigin | null
  upperId: string
  /** The snapshot that the upper came from, or that was last taken of it. */
  headId: string | null
  diskMb: number
  /** The sandbox that may write to it. */
  holder: string | null
  keepLast: number
  autoSnapshot: boolean
  metadata: Record<string, string>
  state: 'active' | 'deleting'
  version: number
  createdAt: number
  changedAt: number
  /** Digest of what storage says of it; null: nothing. */
  published: string | null
}

/** The template of an account that its first disk is a copy of. */
export type WorkspaceOrigin = Omit<Origin, 'template'>

/** `taking`: the driver was asked. `dropped`: nobody sees it any more; its layer stays while what follows it needs it. */
export type SnapshotState = 'taking' | 'taken' | 'dropped'

/** Whether storage has a document of it. `writing`: perhaps an older one, perhaps none. */
export type Published = 'no' | 'writing' | 'yes'

export interface SnapshotRecord {
  id: string
  accountId: string
  workspaceId: string | null
  /** The one before it in its history. */
  parentId: string | null
  /** That its layer is the difference from; null: the template. As a rule the parent; an older one where the chain of layers was full. */
  layerParentId: string | null
  template: string
  name: string | null
  comment: string
  reason: SnapshotReason
  state: SnapshotState
  /** Whether the driver has it. */
  isLocal: boolean
  bytes: number | null
  flushMicros: number
  frozenMicros: number
  saveState: SaveState
  saveError: string | null
  layerDigest: string | null
  changes: ChangeSummary | null
  inventory: Inventory | null
  /** Of an imported or built image. */
  image: ImageRecord | null
  createdAt: number
  published: Published
}

/** The documents of an image as they came, so that they leave with the same digests. */
export interface ImageRecord {
  config: ImageConfig
  configText?: string | undefined
  manifestText?: string | undefined
}

export interface LayerRecord {
  digest: string
  diffId: string
  mediaType: string
  size: number
  tarSize: number
  /** `storing`: it may not be whole. `removing`: it goes, and must not be taken for present. */
  state: 'storing' | 'stored' | 'removing'
  createdAt: number
}

export function workspaceView(record: WorkspaceRecord, { isLocal }: { isLocal: boolean }): Workspace {
  return {
    id: record.id,
    name: record.name,
    template: record.origin?.name ?? record.template,
    headSnapshotId: record.headId,
    heldBy: record.holder,
    diskMb: record.diskMb,
    retention: { keepLast: record.keepLast },
    autoSnapshot: record.autoSnapshot,
    metadata: record.metadata,
    isLocal,
    createdAt: iso(record.createdAt),
    changedAt: iso(record.changedAt),
  }
}

export function snapshotView(
  record: SnapshotRecord,
  { layer, savedBytes }: { layer: LayerRecord | undefined; savedBytes: number },
): Snapshot {
  const { id, workspaceId, parentId, template, name, comment, reason, bytes, flushMicros, frozenMicros } = record
  return {
    id,
    workspaceId,
    parentId,
    template,
    name,
    comment,
    reason,
    bytes,
    flushMicros,
    frozenMicros,
    isLocal: record.isLocal,
    changes: record.changes,
    save: { state: record.saveState, savedBytes, error: record.saveError, layer: layer ? layerView(layer) : null },
    createdAt: iso(record.createdAt),
  }
}

function layerView({ digest, diffId, mediaType, size, tarSize }: LayerRecord) {
  return { digest, diffId, mediaType, size, tarSize }
}

export function iso(unixMs: number): string {
  return new Date(unixMs).toISOString()
}
