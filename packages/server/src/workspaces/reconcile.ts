import type { Driver } from '../drivers/driver.ts'
import type { Logger } from '../kernel/log.ts'
import type { History } from './history.ts'
import type { Local } from './local.ts'
import type { WorkspaceStore } from './store.ts'

export interface ReconciliationDeps {
  store: WorkspaceStore
  driver: Driver
  local: Local
  history: History
  log: Logger
}

/** Brings rows and pool together at the start, before anybody is served. */
export function createReconciliation({ store, driver, local, history, log }: ReconciliationDeps) {
  /** `isNew`: the database knows no workspace. */
  async function reconcile(): Promise<{ isNew: boolean }> {
    const [listed, disks, rows, nodes] = await Promise.all([driver.list(), driver.disks(), store.all(), store.nodes()])
    const idle = listed.upperIds.filter((upperId) => upperId.startsWith('wup_'))
    const used = listed.boxes.map(({ upperId }) => upperId).filter((upperId) => upperId.startsWith('wup_'))
    for (const upperId of [...idle, ...used]) local.uppers.add(upperId)

    const here = new Set(disks.snapshots.map(({ snapshotId }) => snapshotId))
    const named = new Set(rows.map(({ upperId }) => upperId))
    const known = new Set(nodes.map(({ id }) => id))
    const strays = {
      uppers: idle.filter((upperId) => !named.has(upperId)),
      snapshots: [...here].filter((snapshotId) => !known.has(snapshotId)),
    }
    // A row is written before anything is taken, so an empty database beside disks is another database than the one they belong to.
    if (rows.length === 0 && nodes.length === 0 && strays.uppers.length + strays.snapshots.length > 0) {
      log.error('workspace_strays_kept', strays)
      return { isNew: true }
    }
    for (const upperId of strays.uppers) await history.drop(upperId)
    for (const snapshotId of strays.snapshots) {
      await driver.dropSnapshot(snapshotId).catch((error: unknown) => log.error('snapshot_left', { snapshotId, error }))
    }
    for (const { id } of await store.takings()) {
      await history.abandon(id).catch((error: unknown) => log.error('snapshot_left', { snapshotId: id, error }))
    }
    for (const { id, state, isLocal } of nodes) {
      if (state !== 'taking' && isLocal !== here.has(id)) await store.noteLocal(id, here.has(id))
    }
    for (const { id, upperId } of rows.filter(({ state }) => state === 'deleting')) {
      // Its row goes with what storage says of it.
      if (local.uppers.has(upperId)) await history.drop(upperId)
      log.info('workspace_removal_goes_on', { workspaceId: id })
    }
    const stoodOn = new Set([...rows.flatMap(({ headId }) => headId ?? []), ...(await store.pinned())])
    for (const { id, workspaceId, state } of nodes) {
      // The import that made it was cut before anything stood on it.
      if (workspaceId === null && state === 'taken' && !stoodOn.has(id)) await store.drop(id)
    }
    return { isNew: rows.length === 0 && nodes.length === 0 }
  }

  return { reconcile }
}
