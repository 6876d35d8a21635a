import type { Driver, LayerApplied } from '../drivers/driver.ts'
import { DeltaError } from '../kernel/errors.ts'
import { newId } from '../kernel/ids.ts'
import type { Logger } from '../kernel/log.ts'
import type { LayerRecord, SnapshotRecord, WorkspaceRecord } from './records.ts'
import { noSnapshot } from './refusals.ts'
import { workspaceLimits } from './schema.ts'
import type { WorkspaceStore } from './store.ts'

export interface LocalDeps {
  store: WorkspaceStore
  driver: Driver
  /** The layer as an uncompressed tar, verified while it is read. */
  openLayer: (layer: LayerRecord) => AsyncIterable<Uint8Array>
  log: Logger
}

/** What a layer may unpack to. */
export interface LayerBounds {
  maxBytes: number
  maxEntries: number
}

export type Local = ReturnType<typeof createLocal>

const mebibyte = 1024 * 1024
/** Room beside the files themselves while layers are unpacked over each other. */
const spareMb = 1_024

/** Brings what a workspace needs into the pool: from the pool itself at once, else layer by layer from storage. */
export function createLocal({ store, driver, openLayer, log }: LocalDeps) {
  /** Uppers of workspaces that exist, those in use by a box among them. */
  const uppers = new Set<string>()
  /** Being fetched; all who come meanwhile wait for the same. */
  const fetching = new Map<string, Promise<void>>()

  async function makeUpper(upperId: string, from: string, diskMb: number): Promise<void> {
    await driver.makeUpper({ upperId, from, diskMb })
    uppers.add(upperId)
  }

  async function dropUpper(upperId: string): Promise<void> {
    await driver.dropUpper(upperId)
    uppers.delete(upperId)
  }

  /** The workspace's own upper, made from its head where this machine has none. */
  async function provideUpper({ upperId, headId, template, diskMb }: WorkspaceRecord): Promise<void> {
    if (uppers.has(upperId)) return
    if (headId !== null) await provideSnapshot(headId)
    await makeUpper(upperId, headId ?? template, diskMb)
  }

  async function provideSnapshot(snapshotId: string): Promise<void> {
    const record = await store.snapshot(snapshotId)
    if (!record) throw noSnapshot(snapshotId)
    if (record.isLocal) return
    const running = fetching.get(snapshotId)
    if (running) return running
    const fetch = fetchSnapshot(record).finally(() => fetching.delete(snapshotId))
    fetching.set(snapshotId, fetch)
    return fetch
  }

  async function fetchSnapshot(record: SnapshotRecord): Promise<void> {
    const { from, layers } = await wayTo(record)
    const upperId = newId('wup')
    const tarBytes = layers.reduce((sum, { tarSize }) => sum + tarSize, 0)
    log.info('snapshot_fetch_started', { snapshotId: record.id, layers: layers.length, tarBytes })
    await makeUpper(upperId, from, Math.ceil(tarBytes / mebibyte) + spareMb)
    try {
      for (const layer of layers) await applyLayer(upperId, layer)
      await driver.snapshot(upperId, record.id)
      await store.noteLocal(record.id, true)
    } finally {
      await dropUpper(upperId).catch((error: unknown) => log.warn('upper_left', { upperId, error }))
    }
  }

  /** The nearest snapshot of its history that is here, and the layers from there. */
  async function wayTo(record: SnapshotRecord): Promise<{ from: string; layers: LayerRecord[] }> {
    const chain = await store.chain(record.id)
    const here = chain.findLastIndex(({ isLocal }) => isLocal)
    const from = chain[here]?.id ?? record.template
    const digests = chain.slice(here + 1).map(({ id, layerDigest, saveState }) => {
      if (layerDigest === null || saveState !== 'saved') throw lost(record.id, id)
      return layerDigest
    })
    const known = await store.layers(digests)
    const layers = digests.map((digest) => {
      const layer = known.get(digest)
      if (layer?.state !== 'stored') throw lost(record.id, digest)
      return layer
    })
    return { from, layers }
  }

  /** `counted` hears the bytes of its tar, which only whoever made it knows before. */
  async function applyLayer(
    upperId: string,
    layer: LayerRecord,
    {
      bounds = { maxBytes: workspaceLimits.layerBytes, maxEntries: workspaceLimits.layerEntries },
      signal,
      counted,
    }: { bounds?: LayerBounds; signal?: AbortSignal | undefined; counted?: (tarBytes: number) => Promise<void> } = {},
  ): Promise<LayerApplied> {
    let tarBytes = 0
    const counting = async function* (): AsyncGenerator<Uint8Array> {
      for await (const chunk of openLayer(layer)) {
        signal?.throwIfAborted()
        tarBytes += chunk.byteLength
        yield chunk
      }
    }
    const applied = await driver.apply({ upperId, ...bounds }, counting())
    await counted?.(tarBytes)
    return applied
  }

  return { uppers, makeUpper, dropUpper, provideUpper, provideSnapshot, applyLayer }
}

function lost(snapshotId: string, missing: string): DeltaError {
  return new DeltaError('snapshot_lost', `Snapshot ${snapshotId} is neither on this machine nor whole in storage`, {
    cause: `${missing} is missing`,
    context: { snapshotId },
  })
}
