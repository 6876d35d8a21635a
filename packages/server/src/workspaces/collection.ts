import type { Driver } from '../drivers/driver.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Logger } from '../kernel/log.ts'
import type { BlobStore, Digest } from '../storage/blobs.ts'
import { snapshotFolder, workspaceFolder } from './documents.ts'
import type { Layers } from './layers.ts'
import { createLoop } from './loop.ts'
import { garbageOf, tooMany } from './rules.ts'
import type { WorkspaceStore } from './store.ts'
import type { Turns } from '../kernel/turns.ts'
import { collectionTurn, documentsTurn } from './shared-turns.ts'

export interface CollectionDeps {
  store: WorkspaceStore
  driver: Driver
  blobs: BlobStore
  layers: Layers
  /** Snapshots that are being made and that nothing stands on yet. */
  importing: ReadonlySet<string>
  turns: Turns
  clock: Clock
  log: Logger
}

const quietMs = 300_000
const layersAtOnce = 100
/** Idempotency keys are known for so long. */
const rememberMs = 24 * 3_600_000

/**
 * Removes what nothing needs any more. A row says that something goes before it goes, and in the same step that nothing stands on it; so whatever
 * cuts this off, the next round goes on where it was, and nothing that is needed is ever on its way out.
 */
export function createCollection({ store, driver, blobs, layers, importing, turns, clock, log }: CollectionDeps) {
  const loop = createLoop({ name: 'collection', clock, log, work })

  async function work(): Promise<number> {
    await collect()
    return quietMs
  }

  function collect(): Promise<void> {
    return turns.takeAlways(collectionTurn, async () => {
      await store.purgeRequests(clock.now() - rememberMs)
      // Half of what is needed may not be known yet.
      if ((await store.restores()).length > 0) return
      await dropTheTooMany()
      await dropFoldersAndRows()
      await removeDocuments()
      await removeLayers()
    })
  }

  async function heldNow(): Promise<Set<string>> {
    const [workspaces, pinned] = await Promise.all([store.all(), store.pinned()])
    const heads = workspaces.flatMap(({ headId }) => headId ?? [])
    return new Set([...heads, ...pinned, ...importing])
  }

  async function dropTheTooMany(): Promise<void> {
    const [workspaces, nodes, held] = await Promise.all([store.all(), store.nodes(), heldNow()])
    const byWorkspace = Map.groupBy(nodes, ({ workspaceId }) => workspaceId)
    // Kept for forks of a workspace that is gone, which have moved on.
    const there = new Set<string | null>(workspaces.map(({ id }) => id))
    for (const { id, state } of nodes.filter(({ workspaceId }) => !there.has(workspaceId))) {
      if (state === 'taken' && !held.has(id)) await store.drop(id)
    }
    for (const { id, keepLast } of workspaces) {
      for (const snapshotId of tooMany(byWorkspace.get(id) ?? [], { keepLast, held })) {
        if (await store.drop(snapshotId)) log.info('snapshot_expired', { workspaceId: id, snapshotId })
      }
    }
  }

  async function dropFoldersAndRows(): Promise<void> {
    const [nodes, held] = await Promise.all([store.nodes(), heldNow()])
    const { folders, rows } = garbageOf(nodes, held)
    const stuck = new Set<string>()
    for (const snapshotId of folders) {
      if (!(await store.forgetLocal(snapshotId))) continue
      try {
        await driver.dropSnapshot(snapshotId)
      } catch (error) {
        // A sandbox or a packing uses it still; then it is there still.
        stuck.add(snapshotId)
        await store.noteLocal(snapshotId, true)
        log.info('snapshot_stays', { snapshotId, error })
      }
    }
    for (const snapshotId of rows) {
      if (stuck.has(snapshotId)) continue
      // The document before the row, which alone knows that there is one.
      await turns.takeAlways(documentsTurn, async () => {
        const published = (await store.snapshot(snapshotId))?.published ?? 'no'
        if (published !== 'no') await blobs.removeDocument(`${snapshotFolder}${snapshotId}`)
        await store.removeSnapshot(snapshotId)
      })
    }
  }

  async function removeDocuments(): Promise<void> {
    for (const { id, state, published } of await store.nodes()) {
      if (state !== 'dropped' || published === 'no' || importing.has(id)) continue
      await turns.takeAlways(documentsTurn, async () => {
        await blobs.removeDocument(`${snapshotFolder}${id}`)
        await store.setPublished(id, 'no')
      })
    }
    for (const { id, state } of await store.all()) {
      if (state !== 'deleting') continue
      await turns.takeAlways(documentsTurn, async () => {
        if ((await store.get(id))?.published) await blobs.removeDocument(`${workspaceFolder}${id}`)
        await store.remove(id)
      })
    }
  }

  async function removeLayers(): Promise<void> {
    await store.markUnused(layersAtOnce)
    for (const digest of await store.removing(layersAtOnce)) {
      if (layers.isWriting(digest)) continue
      await blobs.remove(digest as Digest)
      await store.removeLayer(digest)
      log.info('layer_removed', { digest })
    }
  }

  return { start: loop.start, kick: loop.kick, stop: loop.stop, collect }
}
