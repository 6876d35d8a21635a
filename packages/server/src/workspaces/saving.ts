import { createHash } from 'node:crypto'
import type { Driver } from '../drivers/driver.ts'
import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Events } from '../kernel/events.ts'
import type { Logger } from '../kernel/log.ts'
import type { BlobStore } from '../storage/blobs.ts'
import { isBase, snapshotFolder, snapshotText, workspaceFolder, workspaceText } from './documents.ts'
import type { WorkspaceEvents } from './events.ts'
import type { Layers } from './layers.ts'
import type { Local } from './local.ts'
import { createLoop } from './loop.ts'
import type { LayerRecord, SnapshotRecord, WorkspaceRecord } from './records.ts'
import { nodesById, placeInChain, retryDelayMs } from './rules.ts'
import type { ChainRow, WorkspaceStore } from './store.ts'
import type { TemplateLooks } from './templates.ts'
import type { Turns } from '../kernel/turns.ts'
import { documentsTurn } from './shared-turns.ts'

export interface SavingDeps {
  store: WorkspaceStore
  driver: Driver
  blobs: BlobStore
  layers: Layers
  local: Local
  factsOf: TemplateLooks
  /** Whether templates are saved too, so that another machine needs none of its own. */
  saveTemplates: boolean
  /** Layers that make up a snapshot; one more, and it is saved as one. */
  chainLayers: number
  turns: Turns
  clock: Clock
  log: Logger
  events: Events<WorkspaceEvents>
}

/** Snapshots looked at in one round. */
const roundSize = 100
/** Snapshots whose saving failed and that wait for another try, left out of a round. */
const mostWaiting = 500
const quietMs = 60_000
/** Documents that could not be written are tried again after this. */
const publishAgainMs = 5_000

/** What lies below the first snapshot of a history. */
export interface Base {
  identity: string
  layer: LayerRecord | undefined
}

export interface ChainLink {
  snapshotId: string
  layer: LayerRecord
  reason: SnapshotRecord['reason']
  hasImage: boolean
}

export type Saving = ReturnType<typeof createSaving>

/**
 * Saves snapshots in the background, one at a time, a parent before its children. A snapshot is saved when its layer and then its document are
 * durable; what fails is tried again, later each time, and nothing is lost meanwhile.
 */
export function createSaving(deps: SavingDeps) {
  const { store, driver, blobs, layers, local, factsOf, clock, log, events } = deps
  /** Sent so far of what is being saved. */
  const progress = new Map<string, number>()
  const failures = new Map<string, { count: number; againMs: number }>()
  const loop = createLoop({ name: 'saving', clock, log, work })

  async function work(signal: AbortSignal): Promise<number> {
    for (;;) {
      if (signal.aborted) return 0
      const next = await nextToSave()
      if (!next) break
      await saveOne(next, signal)
    }
    const published = await publishSnapshots(signal)
    await publishWorkspaces(signal)
    if (!published) return publishAgainMs
    const nearestMs = Math.min(...Array.from(failures.values(), ({ againMs }) => againMs), Infinity)
    return Math.min(quietMs, Math.max(0, nearestMs - clock.monotonic()))
  }

  async function nextToSave(): Promise<SnapshotRecord | undefined> {
    const notYet = clock.monotonic()
    const waiting = Array.from(failures).filter(([, { againMs }]) => againMs > notYet)
    const except = waiting.slice(0, mostWaiting).map(([id]) => id)
    const unsaved = await store.unsaved(roundSize, { except })
    const nowMs = clock.monotonic()
    return unsaved.find(({ id }) => (failures.get(id)?.againMs ?? 0) <= nowMs)
  }

  async function saveOne(record: SnapshotRecord, signal: AbortSignal): Promise<void> {
    const { id } = record
    const began = clock.monotonic()
    try {
      progress.set(id, 0)
      await store.setSaving(id, 'saving', null)
      const storedBytes = await save(record, signal)
      await store.setSaving(id, 'saved', null)
      failures.delete(id)
      const durationMs = clock.monotonic() - began
      log.info('snapshot_saved', { snapshotId: id, storedBytes, durationMs: Math.round(durationMs) })
      events.emit('snapshot.saved', { snapshotId: id, storedBytes, durationMs })
    } catch (error) {
      if (signal.aborted) return
      const count = (failures.get(id)?.count ?? 0) + 1
      failures.set(id, { count, againMs: clock.monotonic() + retryDelayMs(count) })
      const told = error instanceof DeltaError ? `${error.code}: ${error.message}` : 'internal'
      log.warn('snapshot_not_saved', { snapshotId: id, tries: count, error })
      await store.setSaving(id, 'failed', told)
      events.emit('snapshot.save_failed', { snapshotId: id, error: told })
    } finally {
      progress.delete(id)
    }
  }

  async function save(record: SnapshotRecord, signal: AbortSignal): Promise<number> {
    const { id, template } = record
    const parentId = await layerParentOf(record)
    if (parentId !== null) await local.provideSnapshot(parentId)
    const base = await baseOf(template, { isNeeded: deps.saveTemplates, signal })
    const file = await layers.pack(driver.pack({ source: id, ...(parentId !== null && { parent: parentId }) }), signal)
    let storedBytes: number
    try {
      const onProgress = (sentBytes: number): void => void progress.set(id, sentBytes)
      storedBytes = await layers.keep(file, { snapshotId: id, parentId }, { signal, onProgress })
    } finally {
      await layers.discard(file)
    }
    await publish(record, base)
    return storedBytes
  }

  /** Its parent, as long as the chain has room; else where it begins anew, and then its one layer holds all that is not below that. */
  async function layerParentOf({ id, parentId, image }: SnapshotRecord): Promise<string | null> {
    if (parentId === null) return null
    const below = await store.chain(parentId)
    const pinned = below.length < deps.chainLayers ? new Set<string>() : await store.pinned()
    const came = ({ reason, hasImage }: ChainRow) => reason === 'import' && hasImage
    const shared = below.map((link) => came(link) || pinned.has(link.id) || isBase(link))
    const at = placeInChain(shared, deps.chainLayers)
    const start = below.findLast(({ hasImage }) => hasImage)
    // What says how a sandbox on it starts must not be left behind.
    if (!image && start && below.indexOf(start) > at) {
      const config = (await store.snapshot(start.id))?.image?.config
      if (config) await store.setImage(id, { config })
    }
    if (at < below.length - 1) log.info('snapshot_saved_whole', { snapshotId: id, layers: below.length, on: at + 1 })
    return below[at]?.id ?? null
  }

  async function publish({ id }: SnapshotRecord, base: Base): Promise<void> {
    await deps.turns.takeAlways(documentsTurn, async () => {
      // Dropped meanwhile, it needs none; and nobody would remove it again.
      const record = await store.snapshot(id)
      if (record?.state !== 'taken') return
      const text = snapshotText(record, await chain(id), base)
      // From here on whoever removes the snapshot removes the document too; and what is cut off before its end is written again.
      await store.setPublished(id, 'writing')
      await blobs.putDocument(`${snapshotFolder}${id}`, text)
      await store.endPublishing(record)
    })
  }

  /** Imported ones came with their layers; and those whose name or comment was changed. False where one could not be written. */
  async function publishSnapshots(signal: AbortSignal): Promise<boolean> {
    let all = true
    for (const { id, state, saveState, published } of await store.nodes()) {
      if (signal.aborted) return true
      if (state !== 'taken' || saveState !== 'saved' || published === 'yes') continue
      const record = await store.snapshot(id)
      if (!record) continue
      try {
        await publish(record, await baseOf(record.template, { isNeeded: deps.saveTemplates, signal }))
      } catch (error) {
        // One whose template is gone, say, holds up no other's.
        log.error('snapshot_not_published', { snapshotId: id, error })
        all = false
      }
    }
    return all
  }

  /** The template's identity, and itself as a layer: packed once for each identity, where it is needed. */
  async function baseOf(
    template: string,
    { isNeeded, signal }: { isNeeded: boolean; signal: AbortSignal },
  ): Promise<Base> {
    const { identity } = await factsOf(template)
    if (template === 'scratch') return { identity, layer: undefined }
    const known = await store.templateLayer(template, identity)
    if (known || !isNeeded) return { identity, layer: known }
    log.info('template_packing', { template })
    const file = await layers.pack(driver.pack({ source: template }), signal)
    try {
      await layers.keep(file, { template, identity }, { signal })
    } finally {
      await layers.discard(file)
    }
    return { identity, layer: await store.templateLayer(template, identity) }
  }

  /** The layers that make it up, all of which are saved, from the first. */
  async function chain(snapshotId: string): Promise<ChainLink[]> {
    const links = await store.chain(snapshotId)
    const known = await store.layers(links.flatMap(({ layerDigest }) => layerDigest ?? []))
    return links.map(({ id, layerDigest, reason, hasImage }) => {
      const layer = layerDigest === null ? undefined : known.get(layerDigest)
      if (layer?.state !== 'stored') throw new Error(`The layer of ${id}, on which ${snapshotId} stands, is not stored`)
      return { snapshotId: id, layer, reason, hasImage }
    })
  }

  /** What storage says of each workspace follows its row. */
  async function publishWorkspaces(signal: AbortSignal): Promise<void> {
    const rows = (await store.all()).filter(({ kind, state }) => kind === 'workspace' && state === 'active')
    if (rows.length === 0) return
    const byId = nodesById(await store.nodes())
    for (const record of rows) {
      if (signal.aborted) return
      const text = workspaceText(record, savedHead(record, byId))
      const digest = createHash('sha256').update(text).digest('hex')
      if (digest === record.published) continue
      await deps.turns.takeAlways(documentsTurn, async () => {
        if ((await store.get(record.id))?.state !== 'active') return
        // From here on whoever removes the workspace removes the document too.
        await store.setWorkspacePublished(record.id, 'writing')
        await blobs.putDocument(`${workspaceFolder}${record.id}`, text)
        await store.setWorkspacePublished(record.id, digest)
      })
    }
  }

  /** Resolves when the snapshot can be had from storage alone; saving it comes first where that is still to be done. */
  async function whenSaved(snapshotId: string, limitMs: number): Promise<void> {
    const untilMs = clock.monotonic() + limitMs
    failures.delete(snapshotId)
    for (;;) {
      const record = await store.snapshot(snapshotId)
      if (record?.saveState === 'saved') return
      const isLate = clock.monotonic() >= untilMs
      if (!record || isLate || record.saveState === 'failed') {
        throw new DeltaError('snapshot_not_saved', `Snapshot ${snapshotId} is not in storage yet`, {
          cause: record?.saveError ?? 'It is being saved',
          context: { snapshotId, state: record?.saveState ?? 'failed' },
        })
      }
      loop.kick()
      await clock.sleep(waitMs)
    }
  }

  return {
    start: loop.start,
    kick: loop.kick,
    stop: loop.stop,
    savedBytes: (snapshotId: string) => progress.get(snapshotId) ?? 0,
    whenSaved,
    chain,
    baseOf,
  }
}

const waitMs = 50

function savedHead(
  { headId }: WorkspaceRecord,
  byId: ReadonlyMap<string, { parentId: string | null; saveState: string; state: string }>,
): string | null {
  for (let id = headId; id !== null; id = byId.get(id)?.parentId ?? null) {
    if (byId.get(id)?.saveState === 'saved') return id
  }
  return null
}
