import type { Duplex } from 'node:stream'

/** What a box is made of. Every field has been checked by the caller; a driver checks what only it can know. */
export interface BoxSpec {
  boxId: string
  /** The writable upper the box runs on; outlives the box when it is ended with `keepUpper`. */
  upperId: string
  /** True: the upper must not exist and is made. False: it must exist (start after stop). */
  fresh: boolean
  /** A template's name, or the id of a snapshot, which then lies unchanged below the upper and is shared by all boxes on it. */
  template: string
  /** Runtime name, or undefined for the driver's configured one. */
  runtime?: string | undefined
  /** Thousandths of a core. */
  cpuMilli: number
  memoryMb: number
  diskMb: number
  /** Most processes and threads at once. */
  processes: number
  hostname: string
  /** Folders shared with other boxes. @default none */
  volumes?: readonly BoxVolume[]
}

export interface BoxVolume {
  volumeId: string
  /** Absolute path inside, made where it is missing. */
  path: string
  readOnly: boolean
}

/** What a box may use; can be changed while it runs. */
export type BoxLimits = Pick<BoxSpec, 'cpuMilli' | 'memoryMb' | 'diskMb' | 'processes'>

export interface Box {
  boxId: string
  /** Host pid of the guest, where there is one. */
  pid: number
  /** The host's uids that its user namespace is mapped to; absent where it has none of its own. */
  uids?: { first: number; count: number }
  /** How long each phase of making it took, in microseconds, in order. */
  timings: { phase: string; micros: number }[]
}

export type BoxState = 'running' | 'frozen' | 'dead'

/** Why a box ended by itself, in the order in which the helper numbers them. */
export const deathCauses = ['guest_died', 'out_of_memory', 'locks_exceeded'] as const
export type DeathCause = (typeof deathCauses)[number]

export interface BoxStatus {
  boxId: string
  upperId: string
  state: BoxState
  /** Of a dead one, where it is known. */
  cause?: DeathCause
  template: string
}

export interface BoxStats {
  cpuMicros: number
  memoryBytes: number
  memoryPeakBytes: number
  memoryLimitBytes: number
  /** Kills by the kernel for memory since the box was made. */
  oomKills: number
  processes: number
  /** Written since the last snapshot and still held. Null where the pool keeps no quota. */
  diskBytes: number | null
  diskLimitBytes: number
}

/** What a box has used and uses. */
export type BoxUse = Pick<BoxStats, 'cpuMicros' | 'memoryBytes'>

export interface DriverInfo {
  name: string
  runtime: string
  runtimeVersion: string
  /** 'v1' | 'v2' | 'hybrid' for local drivers. */
  cgroup: string
  /** 'btrfs' (quotas) or 'folder' (none). */
  pool: string
  kernel: string
  /** Runtimes that bring a kernel of their own. With the others, boxes share the host's. */
  ownKernelRuntimes: readonly string[]
  templates: string[]
  warnings: string[]
}

export interface TemplateStatus {
  name: string
  state: 'ready' | 'missing' | 'building' | 'failed'
  detail: string
}

export interface Finding {
  name: string
  status: 'ok' | 'warn' | 'fail'
  found: string
  /** What it means for the operator and what to do. */
  meaning: string
}

export interface PoolUsage {
  totalBytes: number
  usedBytes: number
  backingFreeBytes: number
  reserveBytes: number
  readOnly: boolean
}

/** `low`: less is free on the disk that carries the pool than its reserve, so no disk of a sandbox may grow; everything else goes on. */
export const roomStates = ['fine', 'low', 'read_only'] as const
export type RoomState = (typeof roomStates)[number]

export interface Room {
  state: RoomState
  /** When the state was last told of; absent where a driver does not count them. */
  freeBytes?: number
  reserveBytes?: number
}

/** A snapshot as it was taken. */
export interface SnapshotTaken {
  /** How long what was still in memory took to write, while the box ran on. */
  flushMicros: number
  /** How long the box stood still; 0 when none used the upper. */
  frozenMicros: number
  /** What was written to the upper since it was made and is still kept; null where the pool does not count. */
  bytes: number | null
}

export interface SnapshotStatus {
  snapshotId: string
  /** What lies below it: a template's name, or another snapshot. */
  template: string
}

export interface FileChange {
  kind: 'added' | 'changed' | 'removed'
  type: 'file' | 'directory' | 'symlink' | 'other'
  size: number
  /** Absolute, as the box sees it. */
  path: string
}

/** What a layer held when it was unpacked. */
export interface LayerApplied {
  entries: number
  bytes: number
}

/**
 * How boxes are made. Everything else about a sandbox (exec, files, ports) goes over the wire that `connect` opens, so a driver
 * knows nothing of it. Every call throws a `DeltaError`; `end`, `dropUpper` of what is not there succeed.
 */
export interface Driver {
  readonly name: string
  info(): Promise<DriverInfo>
  create(spec: BoxSpec): Promise<Box>
  /** Kills all of it and waits until nothing is left; then drops the upper unless `keepUpper`. */
  end(boxId: string, options: { keepUpper: boolean }): Promise<void>
  freeze(boxId: string): Promise<void>
  thaw(boxId: string): Promise<void>
  /** Replaces the limits of a living box. After a failure some may be changed and others not: end the box. */
  setLimits(boxId: string, limits: BoxLimits): Promise<void>
  stats(boxId: string): Promise<BoxStats>
  /** Of these boxes, those that are there: one call, however many they are. */
  measure(boxIds: readonly string[]): Promise<Map<string, BoxUse>>
  /** What exists, for reconciliation: boxes, and uppers that no box uses. */
  list(): Promise<{ boxes: BoxStatus[]; upperIds: string[] }>
  dropUpper(upperId: string): Promise<void>
  /** Keeps what the upper holds now, for ever and unchanged. A box that uses it stands still for the moment this takes. */
  snapshot(upperId: string, snapshotId: string): Promise<SnapshotTaken>
  /**
   * A new upper. From a snapshot's id: with all that the snapshot holds, and `empty`: with nothing, the snapshot lying below it as its
   * template. From a template's name: with nothing.
   */
  makeUpper(spec: { upperId: string; from: string; diskMb: number; empty?: boolean }): Promise<void>
  /** Refused with `disk_in_use` while a box, an upper or another snapshot stands on it; what is not there is dropped already. */
  dropSnapshot(snapshotId: string): Promise<void>
  /** Snapshots and volumes that exist, for reconciliation; `list` tells of the uppers. */
  disks(): Promise<{ snapshots: SnapshotStatus[]; volumeIds: string[] }>
  /**
   * An uncompressed OCI layer: how the snapshot `source` differs from `parent`, or without one from what lies below it. With a template's name
   * as `source` it holds the whole template. It throws a DeltaError where packing failed; ending early cancels. The bytes of a piece are its
   * reader's until it asks for the next: whoever keeps them makes a copy.
   */
  pack(spec: { source: string; parent?: string }): AsyncIterable<Uint8Array>
  /** Unpacks an uncompressed OCI layer over what the upper holds. After a failure the upper is of no use: drop it. */
  apply(
    spec: { upperId: string; maxBytes: number; maxEntries: number },
    tar: AsyncIterable<Uint8Array>,
  ): Promise<LayerApplied>
  /** How a snapshot differs from `parent`, or without one from what lies below it. */
  changes(spec: { snapshotId: string; parent?: string }): AsyncIterable<FileChange>
  /** One regular file as a box on the snapshot would see it, except that no symbolic link is followed. */
  readFile(spec: { snapshotId: string; path: string }): AsyncIterable<Uint8Array>
  makeVolume(spec: { volumeId: string; diskMb: number }): Promise<void>
  /** Refused with `disk_in_use` while a box uses it; what is not there is dropped already. */
  dropVolume(volumeId: string): Promise<void>
  /** Opens a new connection to the guest; the caller speaks HELLO on it. */
  connect(boxId: string, options?: { signal?: AbortSignal }): Promise<Duplex>
  templates(): Promise<TemplateStatus[]>
  /** Resolves when the template is ready; minutes where packages are fetched. */
  buildTemplate(name: string): Promise<void>
  doctor(): Promise<Finding[]>
  usage(): Promise<PoolUsage>
  /** Whether disks may grow, as far as this process was told; asked before every write, so it costs nothing. */
  room(): Room
  /** A box ended by itself. Returns the function that stops listening. */
  onDeath(listener: (boxId: string, cause: DeathCause) => void): () => void
  close(): Promise<void>
}
