import type { Driver } from '../drivers/driver.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Events } from '../kernel/events.ts'
import { newId } from '../kernel/ids.ts'
import type { Logger } from '../kernel/log.ts'
import type { WorkspaceEvents } from './events.ts'
import type { Local } from './local.ts'
import type { SnapshotRecord, WorkspaceRecord } from './records.ts'
import { changedMeanwhile, inUse } from './refusals.ts'
import type { SnapshotReason } from './schema.ts'
import type { RequestKey, WorkspaceStore } from './store.ts'
import type { Turns } from '../kernel/turns.ts'

export interface HistoryDeps {
  store: WorkspaceStore
  driver: Driver
  local: Local
  turns: Turns
  clock: Clock
  log: Logger
  events: Events<WorkspaceEvents>
  /** Brings what a sandbox's own kernel still holds of its files to where the driver sees it. */
  settle: (sandboxId: string) => Promise<void>
}

export interface SnapshotWish {
  reason: SnapshotReason
  name?: string | undefined
  comment?: string | undefined
  /** Leaves no snapshot where nothing changed since the last. */
  onlyIfChanged?: boolean
  /** What a repetition of it is known by, from the moment the snapshot is there. */
  request?: RequestKey | undefined
}

export type History = ReturnType<typeof createHistory>

/** Taking snapshots and going back to them. Every function here runs in its workspace's turn. */
export function createHistory({ store, driver, local, turns, clock, log, events, settle }: HistoryDeps) {
  /**
   * The row is there before the driver is asked and says `taken` only after its answer: whatever a crash in between left in the pool is found by
   * its row, and dropped with it.
   */
  async function take(workspace: WorkspaceRecord, wish: SnapshotWish): Promise<SnapshotRecord | null> {
    const began = clock.monotonic()
    const record = newSnapshot(workspace, wish, clock.now())
    await store.beginSnapshot(record)
    try {
      if (workspace.holder !== null) await settle(workspace.holder)
      const taken = await driver.snapshot(workspace.upperId, record.id)
      if (wish.onlyIfChanged && (await isUnchanged(record))) {
        await abandon(record.id)
        return null
      }
      const after: SnapshotRecord = { ...record, ...taken, state: 'taken' }
      if (!(await store.endSnapshot(workspace, after, clock.now(), wish.request))) throw changedMeanwhile(workspace)
      const { flushMicros, frozenMicros } = taken
      const durationMs = clock.monotonic() - began
      const [workspaceId, snapshotId, reason] = [workspace.id, record.id, wish.reason]
      log.info('snapshot_taken', { workspaceId, snapshotId, reason, flushMicros, frozenMicros })
      events.emit('workspace.snapshotted', {
        workspaceId,
        snapshotId,
        reason,
        flushMicros,
        frozenMicros,
        durationMs,
      })
      return after
    } catch (error) {
      // A write whose answer was lost may have happened; then it is taken, and the head. What cannot be read is for the next start.
      const row = await store.snapshot(record.id).catch(() => null)
      if (row === null || row?.state === 'taken') throw error
      await abandon(record.id).catch((cause: unknown) => log.error('snapshot_left', { snapshotId: record.id, cause }))
      throw error
    }
  }

  async function isUnchanged({ id, parentId }: SnapshotRecord): Promise<boolean> {
    // Without the parent's folder (fetched never, or dropped) there is nothing to compare with.
    if (parentId !== null && !(await store.snapshot(parentId))?.isLocal) return false
    for await (const _ of driver.changes({ snapshotId: id, ...(parentId !== null && { parent: parentId }) }))
      return false
    return true
  }

  /** Of a snapshot that is not to be. Repeating it is harmless. */
  async function abandon(snapshotId: string): Promise<void> {
    await driver.dropSnapshot(snapshotId)
    await store.noteLocal(snapshotId, false)
    await store.removeSnapshot(snapshotId)
  }

  /** To a new upper made from the snapshot; only when the row says so does the old one go. */
  async function rollBack(workspace: WorkspaceRecord, snapshotId: string): Promise<WorkspaceRecord> {
    if (workspace.holder !== null) throw inUse(workspace)
    await local.provideSnapshot(snapshotId)
    let current = workspace
    if (workspace.autoSnapshot && local.uppers.has(workspace.upperId)) {
      await take(workspace, { reason: 'rollback', comment: `Before going back to ${snapshotId}`, onlyIfChanged: true })
      current = (await store.get(workspace.id)) ?? workspace
    }
    const upperId = newId('wup')
    await local.makeUpper(upperId, snapshotId, workspace.diskMb)
    let applied = false
    try {
      applied = await store.rollBack(current, { upperId, headId: snapshotId, now: clock.now() })
      if (!applied) throw changedMeanwhile(workspace)
    } catch (error) {
      // A write whose answer was lost may have happened; then the new upper is the one that counts.
      const row = applied ? undefined : await store.get(workspace.id).catch(() => undefined)
      if (row && row.upperId !== upperId) await drop(upperId)
      throw error
    }
    log.info('workspace_rolled_back', { workspaceId: workspace.id, snapshotId })
    // Nobody's any more; to wait for its end would double the time.
    void turns.takeAlways(workspace.upperId, () => drop(workspace.upperId))
    return (await store.get(workspace.id)) ?? current
  }

  /** What cannot be dropped now is nobody's, and goes at the next start. */
  async function drop(upperId: string): Promise<void> {
    await local.dropUpper(upperId).catch((error: unknown) => log.error('upper_left', { upperId, error }))
  }

  return { take, abandon, rollBack, drop }
}

function newSnapshot(workspace: WorkspaceRecord, wish: SnapshotWish, now: number): SnapshotRecord {
  return {
    id: newId('snp'),
    accountId: workspace.accountId,
    workspaceId: workspace.id,
    parentId: workspace.headId,
    layerParentId: workspace.headId,
    template: workspace.template,
    name: wish.name ?? null,
    comment: wish.comment ?? '',
    reason: wish.reason,
    state: 'taking',
    isLocal: true,
    bytes: null,
    flushMicros: 0,
    frozenMicros: 0,
    saveState: 'pending',
    saveError: null,
    layerDigest: null,
    changes: null,
    inventory: null,
    image: null,
    createdAt: now,
    published: 'no',
  }
}
