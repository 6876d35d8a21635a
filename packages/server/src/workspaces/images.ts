import type { Driver } from '../drivers/driver.ts'
import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import { newId } from '../kernel/ids.ts'
import type { Logger } from '../kernel/log.ts'
import type { BlobStore, Digest } from '../storage/blobs.ts'
import { createSpace } from '../storage/space.ts'
import { exportArchive, type ImageLayer } from './image/export.ts'
import { openArchive } from './image/import.ts'
import { checkPacking, packingOfFile, packingOfType } from './image/packing.ts'
import type { ImageConfig } from './image/schema.ts'
import { type IncomingLayer, type Layers, openFile } from './layers.ts'
import type { LayerBounds, Local } from './local.ts'
import type { ImageRecord, LayerRecord, SnapshotRecord } from './records.ts'
import type { ChainLink, Saving } from './saving.ts'
import { workspaceLimits } from './schema.ts'
import type { WorkspaceStore } from './store.ts'

export interface ImagesDeps {
  store: WorkspaceStore
  driver: Driver
  blobs: BlobStore
  layers: Layers
  local: Local
  saving: Saving
  /** Snapshots that are being made: collection leaves them alone. */
  importing: Set<string>
  folder: string
  clock: Clock
  log: Logger
}

/** `path`: it lies there already, verified. */
type FoundLayer = IncomingLayer & { path?: string }

export interface IncomingImage {
  layers: readonly FoundLayer[]
  image: ImageRecord
}

export interface ImportOptions {
  accountId: string
  comment: string
  /** Makes something stand on it. */
  use: (record: SnapshotRecord) => Promise<void>
  /** All layers together. @default each for itself, as workspaces may hold */
  bounds?: LayerBounds
  signal?: AbortSignal
  /** Before each layer is fetched; `isHere`: it need not be. */
  onLayer?: (at: number, known: { isHere: boolean }) => void
}

/** `tar`: layers that every tool reads. `zstd`: as they are stored, a fraction of that. */
export type ExportForm = 'tar' | 'zstd'

const tarLayer = 'application/vnd.oci.image.layer.v1.tar'
/** Saving, and packing a template, may come first. */
const savedLimitMs = 20 * 60_000
const architectures: Partial<Record<NodeJS.Architecture, string>> = { x64: 'amd64', arm64: 'arm64' }

/** Snapshots as images that other tools know, and back. */
export function createImages(deps: ImagesDeps) {
  const { store, driver, blobs, layers, local, saving, importing, folder, clock, log } = deps
  const space = createSpace({ folder, room: driver.room })

  /** Resolves when it is known that all of it can be had; the bytes follow as they are asked for. */
  async function exportImage(
    record: SnapshotRecord,
    { form, signal }: { form: ExportForm; signal: AbortSignal },
  ): Promise<AsyncGenerator<Uint8Array>> {
    await saving.whenSaved(record.id, savedLimitMs)
    const base = await saving.baseOf(record.template, { isNeeded: true, signal })
    const chain = await saving.chain(record.id)
    // What came as an image leaves with the layers it came with; what was made here on top, in the form that was asked for.
    const came = lastThatCame(chain)
    const own = chain.map(({ layer }, at) => (at <= came || form === 'zstd' ? storedForm(layer) : unpackedForm(layer)))
    const below = base.layer ? [form === 'zstd' ? storedForm(base.layer) : unpackedForm(base.layer)] : []
    return exportArchive({
      layers: [...below, ...own],
      image: record.image,
      config: await configOf(chain),
      architecture: architectures[process.arch] ?? process.arch,
      createdAt: record.createdAt,
      reference: record.name ?? record.id,
    })
  }

  /** Where in the chain the image ends that it stands on; -1 where there is none. */
  function lastThatCame(chain: readonly ChainLink[]): number {
    return chain.findLastIndex(({ reason, hasImage }) => reason === 'import' && hasImage)
  }

  function storedForm({ digest, diffId, mediaType, size }: LayerRecord): ImageLayer {
    return { digest, diffId, mediaType, size, open: () => blobs.get(digest as Digest) }
  }

  /** Not every tool reads zstd; every tool reads a tar, and its digest is known. */
  function unpackedForm(layer: LayerRecord): ImageLayer {
    const { diffId, tarSize } = layer
    return { digest: diffId, diffId, mediaType: tarLayer, size: tarSize, open: () => layers.open(layer) }
  }

  /** Of the last link that has one: what was built on an image starts like it. */
  async function configOf(chain: readonly ChainLink[]): Promise<ImageConfig> {
    const link = chain.findLast(({ hasImage }) => hasImage)
    return (link && (await store.snapshot(link.snapshotId))?.image?.config) ?? {}
  }

  /** An archive as a snapshot; see `importLayers`. */
  function importImage(source: AsyncIterable<Uint8Array>, options: ImportOptions): Promise<SnapshotRecord> {
    return space.oneOfFew(() => importArchive(source, options))
  }

  async function importArchive(source: AsyncIterable<Uint8Array>, options: ImportOptions): Promise<SnapshotRecord> {
    const archive = await openArchive(space.guarded(source), folder)
    try {
      const { configText, manifestText } = archive
      const found = archive.layers.map((layer) => ({ ...layer, open: openFile(layer.path) }))
      const image = { config: archive.image.config ?? {}, configText, manifestText }
      return await importLayers({ layers: found, image }, options)
    } finally {
      await archive.close()
    }
  }

  /** A snapshot on nothing, one row for each layer, with the layers in storage as they came. What the account has already is not fetched again. */
  async function importLayers(incoming: IncomingImage, options: ImportOptions): Promise<SnapshotRecord> {
    // On its way a layer lies in a file of its own and in storage; the tars that they are unpack to no less than that.
    const bytes = incoming.layers.reduce((sum, { size }) => sum + size, 0)
    if (bytes > workspaceLimits.archiveBytes) {
      throw new DeltaError('image_invalid', 'The image can not be used', {
        cause: `its layers together are said to have ${bytes} bytes, more than ${workspaceLimits.archiveBytes}`,
      })
    }
    return space.promise(2 * bytes, () => importChecked(incoming, options))
  }

  async function importChecked(
    { layers: incoming, image }: IncomingImage,
    options: ImportOptions,
  ): Promise<SnapshotRecord> {
    const { accountId, comment, use } = options
    const records = recordsOf(incoming, { accountId, comment, now: clock.now() })
    const last = records.at(-1)!
    last.image = image
    for (const { id } of records) importing.add(id)
    try {
      await store.insertSnapshots(records)
      for (const [at, layer] of incoming.entries()) await keepLayer(layer, records[at]!.id, { at, ...options })
      const bytes = await unpack(last.id, incoming, options)
      await store.admit(last.id)
      await use({ ...last, bytes, state: 'taken', isLocal: true })
      // From now on something stands on it, or it is garbage like any other.
      log.info('image_imported', { snapshotId: last.id, layers: incoming.length })
      return (await store.snapshot(last.id))!
    } catch (error) {
      await store.drop(last.id).catch(() => false)
      throw error
    } finally {
      for (const { id } of records) importing.delete(id)
    }
  }

  async function keepLayer(
    layer: FoundLayer,
    snapshotId: string,
    { at, accountId, signal, onLayer }: ImportOptions & { at: number },
  ): Promise<void> {
    signal?.throwIfAborted()
    const isHere = layer.path !== undefined || (await store.hasLayer(accountId, layer.digest))
    onLayer?.(at, { isHere })
    const guarded = { ...layer, open: (start: number) => space.guarded(layer.open(start)) }
    const fetched = isHere ? undefined : await layers.fetch(guarded, { signal })
    try {
      const path = fetched?.path ?? layer.path
      // One that is here was looked at when it came.
      const known = path === undefined ? await store.layer(layer.digest) : undefined
      if (path !== undefined) checkPacking(layer, await packingOfFile(path))
      else if (known) checkPacking(layer, packingOfType(known.mediaType))
      // Its size as a tar is counted when it is applied; until then its own stands for it.
      const source = fetched ?? { ...layer, tarSize: layer.size }
      await layers.keep(source, { snapshotId }, { ...(signal && { signal }), isPacked: false })
    } finally {
      if (fetched) await layers.discard(fetched)
    }
  }

  async function unpack(
    snapshotId: string,
    all: readonly FoundLayer[],
    { bounds, signal }: ImportOptions,
  ): Promise<number | null> {
    const left = bounds && { ...bounds }
    const upperId = newId('wup')
    await local.makeUpper(upperId, 'scratch', importDiskMb)
    try {
      for (const { digest, diffId, mediaType, size } of all) {
        const layer = { digest, diffId, mediaType, size, tarSize: size }
        const record: LayerRecord = { ...layer, state: 'stored', createdAt: clock.now() }
        // Its own diff id is what is verified, not what another image said of the same blob.
        const counted = (tarBytes: number): Promise<void> => store.noteUnpacked(record, tarBytes)
        const applied = await local.applyLayer(upperId, record, { ...(left && { bounds: left }), signal, counted })
        if (!left) continue
        left.maxBytes -= applied.bytes
        left.maxEntries -= applied.entries
      }
      const { bytes } = await driver.snapshot(upperId, snapshotId)
      await store.noteLocal(snapshotId, true, bytes)
      return bytes
    } finally {
      await local.dropUpper(upperId).catch((error: unknown) => log.warn('upper_left', { upperId, error }))
    }
  }

  return { exportImage, importImage, importLayers }
}

/** Room for unpacking an image, and for what a build writes. */
export const importDiskMb = 65_536

function recordsOf(
  all: readonly unknown[],
  { accountId, comment, now }: { accountId: string; comment: string; now: number },
): SnapshotRecord[] {
  const ids = all.map(() => newId('snp'))
  return all.map((_, at) => ({
    id: ids[at]!,
    accountId,
    workspaceId: null,
    parentId: ids[at - 1] ?? null,
    layerParentId: ids[at - 1] ?? null,
    template: 'scratch',
    name: null,
    comment: at === all.length - 1 ? comment : '',
    reason: 'import',
    state: 'dropped',
    isLocal: false,
    bytes: null,
    flushMicros: 0,
    frozenMicros: 0,
    // Its layer is what came.
    saveState: 'saved',
    saveError: null,
    layerDigest: null,
    changes: null,
    inventory: null,
    image: null,
    createdAt: now,
    published: 'no',
  }))
}
