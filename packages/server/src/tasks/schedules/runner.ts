import type { RecordAudit } from '../../access/audit/service.ts'
import { allows, type FindAgent, type Right } from '../../access/callers/door.ts'
import type { Asker } from '../../approvals/door.ts'
import { createAlarm } from '../../kernel/alarm.ts'
import type { Clock } from '../../kernel/clock.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { isId, newId } from '../../kernel/ids.ts'
import type { Logger } from '../../kernel/log.ts'
import type { CreateTask, TaskState } from '../schema.ts'
import { isOpen } from '../states.ts'
import { scheduleLimits } from './limits.ts'
import type { DisabledReason, RunRecord, ScheduleRecord } from './record.ts'
import { pauseOf, planOf, runKeyOf } from './rules.ts'
import type { ScheduledTask } from './schema.ts'
import type { ScheduleStore } from './store.ts'

/** Whose rights a task has that nobody asks for at this moment. */
export interface ScheduledBy extends Asker {
  accountId: string
}

export interface ScheduledWork {
  wish: CreateTask
  by: ScheduledBy
  /** At most these, of what its agent has. Null: all of it. */
  rights: readonly Right[] | null
}

export interface RunnerDeps {
  store: ScheduleStore
  /** Once for each key, whoever asks again. A refusal is a `DeltaError` below 500. */
  createTask(work: ScheduledWork, key: string): Promise<{ id: string }>
  /** Undefined where there is none (any more). */
  taskState(accountId: string, taskId: string): Promise<TaskState | undefined>
  findAgent: FindAgent
  /** Whether they could give that agent a task now. */
  mayStill(by: ScheduledBy, agentId: string): Promise<boolean>
  openTask(schedule: ScheduleRecord): ScheduledTask | undefined
  record: RecordAudit
  clock: Clock
  log: Logger
}

const platform = 'platform'

/**
 * Runs what is due. The row of a run is written in the commit that gives its schedule the next time; then its task is made by the run's key, and the row says which it is. So a server that is
 * killed anywhere leaves a row that the next one finds, and of several servers each task is made by one.
 */
export function createRunner(deps: RunnerDeps) {
  const { store, createTask, taskState, findAgent, mayStill, openTask, record, clock, log } = deps
  const alarm = createAlarm(clock)
  const stopped = new AbortController()
  /** Tasks for whose end runs wait, and of which schedule. */
  const awaited = new Map<string, string>()
  let loop = Promise.resolve()

  async function plan(schedule: ScheduleRecord, now: number): Promise<void> {
    if (schedule.nextAt === null) return
    let planned: ReturnType<typeof planOf>
    try {
      planned = planOf(schedule, { nextAt: schedule.nextAt, now })
    } catch (error) {
      // Such as a time zone that another version of the server knew.
      log.error('schedule_not_planned', { scheduleId: schedule.id, error })
      return disable(schedule, 'time_unreadable')
    }
    const runs = planned.runs.map(({ at, skipped }) => ({
      ...newRun(schedule.id, { at, key: runKeyOf(schedule.id, at), manual: false, now }),
      ...(skipped && { state: 'skipped' as const, reason: skipped }),
    }))
    await store.plan(schedule, { nextAt: planned.nextAt, runs })
  }

  /** False where another server has it in hand. */
  async function advance(id: string): Promise<boolean> {
    const now = clock.now()
    const until = now + scheduleLimits.leaseMs
    if (!(await store.lease(id, { now, until }))) {
      // Somebody asked for a run of it while it was removed.
      if (!(await store.get(id))) await store.remove(id)
      return false
    }
    try {
      await beginWaiting(id, until)
    } finally {
      await store.release(id, until)
    }
    return true
  }

  async function beginWaiting(id: string, until: number): Promise<void> {
    let place = 0
    let isBlocked = false
    for (const run of await store.waitingOf(id)) {
      const schedule = await store.get(id)
      const now = clock.now()
      // What is left goes on when somebody has taken it anew.
      if (!schedule || now >= until) return
      if (run.manual) {
        if (run.retryAt <= now) await begin(schedule, run)
        continue
      }
      if (schedule.state === 'paused' || schedule.state === 'disabled') {
        await store.settle(run, { state: 'skipped', reason: schedule.state })
        continue
      }
      place += 1
      if (place > scheduleLimits.queued) {
        await store.settle(run, { state: 'skipped', reason: 'queue_full' })
        continue
      }
      const isQueued = schedule.overlap === 'queue'
      if (run.retryAt > now) {
        isBlocked ||= isQueued
        continue
      }
      isBlocked ||= await isBusy(schedule, isQueued)
      if (!isBlocked) {
        await begin(schedule, run)
        place -= 1
      } else if (isQueued) {
        await store.settle(run, { retry_at: now + scheduleLimits.lookMs })
      } else {
        await store.settle(run, { state: 'skipped', reason: 'overlap' })
        isBlocked = false
      }
    }
  }

  /** Whether the task of a run before goes on. */
  async function isBusy({ id, accountId }: ScheduleRecord, isQueued: boolean): Promise<boolean> {
    let isAny = false
    for (const run of await store.openOf(id)) {
      // Before the look: its end, as soon as it comes, is news.
      if (isQueued) awaited.set(run.taskId!, id)
      const state = await taskState(accountId, run.taskId!)
      if (state !== undefined && isOpen(state)) {
        isAny = true
        continue
      }
      awaited.delete(run.taskId!)
      await store.ended(run)
    }
    return isAny
  }

  async function begin(schedule: ScheduleRecord, run: RunRecord): Promise<void> {
    const fault = await faultOf(schedule)
    const task = fault === undefined ? openTask(schedule) : undefined
    if (task === undefined) {
      const reason = fault ?? 'task_unreadable'
      if (run.manual) await store.settle(run, { state: 'failed', failure_code: reason })
      return disable(schedule, reason)
    }
    const { accountId, agentId, asker, rights } = schedule
    try {
      const work = { wish: { agent: agentId, ...task }, by: { accountId, ...asker }, rights }
      const made = await createTask(work, run.key)
      await store.started(run, made.id, clock.now())
      const details = { taskId: made.id, dueAt: new Date(run.dueAt).toISOString() }
      const entry = { accountId, actorId: asker.actorId, target: schedule.id, outcome: 'done' as const }
      await record({ ...entry, action: 'schedule.ran', details })
    } catch (error) {
      await notBegun(run, error)
    }
  }

  /** Why it runs never again. */
  async function faultOf({ accountId, agentId, asker }: ScheduleRecord): Promise<DisabledReason | undefined> {
    const agent = await findAgent(agentId, accountId)
    if (!agent || agent.state === 'archiving' || agent.state === 'archived') return 'agent_archived'
    if (!(await mayStill({ accountId, ...asker }, agentId))) return 'asker_gone'
    // An agent’s own rights may have become narrower than what it comes from.
    if (isId('agt', asker.actorId) && !allows(agent.rights, 'write:tasks')) return 'asker_gone'
    return undefined
  }

  async function notBegun(run: RunRecord, error: unknown): Promise<void> {
    const { scheduleId } = run
    const tries = run.tries + 1
    const isRefused = error instanceof DeltaError && error.status < 500
    const isLast = isRefused || tries >= scheduleLimits.tries
    log.warn('schedule_run_not_begun', { scheduleId, runId: run.id, tries, givenUp: isLast, error })
    // What is not meant for callers says no more than that it failed.
    const failure = error instanceof DeltaError ? error : new DeltaError('internal', 'The task could not be made')
    await store.settle(run, {
      failure_code: failure.code,
      failure_text: failure.message,
      tries,
      ...(isLast ? { state: 'failed' as const } : { retry_at: clock.now() + pauseOf(tries) }),
    })
  }

  async function disable(schedule: ScheduleRecord, reason: DisabledReason): Promise<void> {
    const next = { ...schedule, state: 'disabled', reason, nextAt: null, changedAt: clock.now() } as const
    // Where somebody changed it at this moment it is theirs now, and looked at anew.
    if (!(await store.change(schedule, next, 'disabled'))) return
    log.info('schedule_disabled', { scheduleId: schedule.id, reason })
    const { accountId, id } = schedule
    await record({ accountId, actorId: platform, action: 'schedule.disabled', target: id, outcome: 'done', reason })
  }

  async function look(): Promise<void> {
    for (;;) {
      const now = clock.now()
      const due = await store.due(now)
      await Promise.all(due.map((one) => plan(one, now)))
      if (due.length < scheduleLimits.looked) break
    }
    for (;;) {
      const ids = await store.withWaiting(clock.now())
      const taken = await eachOf(ids, advanceSafely)
      if (ids.length < scheduleLimits.looked || !taken.includes(true)) return
    }
  }

  function advanceSafely(id: string): Promise<boolean> {
    return advance(id).catch((error: unknown) => {
      log.error('schedule_not_advanced', { scheduleId: id, error })
      return false
    })
  }

  async function keepUp(): Promise<void> {
    let tidyAt = 0
    while (!stopped.signal.aborted) {
      let restMs: number = scheduleLimits.lookMs
      try {
        await look()
        if (clock.monotonic() >= tidyAt) {
          tidyAt = clock.monotonic() + scheduleLimits.tidyMs
          await store.forget(clock.now() - scheduleLimits.keptMs)
        }
        const next = await store.nextMoment()
        const leftMs = next === undefined ? restMs : next - clock.now()
        restMs = leftMs > 0 ? Math.min(leftMs, restMs) : scheduleLimits.leastMs
      } catch (error) {
        // A database that is away is asked again the next time.
        log.warn('schedules_not_looked_at', { error })
      }
      await alarm.rest(restMs, stopped.signal)
    }
  }

  return {
    look,
    ring: alarm.ring,
    advance,
    disable,

    /** News of a task: runs may wait for its end. */
    taskChanged({ taskId, state }: { taskId: string; state: TaskState }): void {
      const scheduleId = awaited.get(taskId)
      if (scheduleId === undefined || isOpen(state)) return
      awaited.delete(taskId)
      const hurried = store.hurry(scheduleId, clock.now()).then(alarm.ring)
      void hurried.catch((error: unknown) => log.warn('schedule_not_hurried', { scheduleId, error }))
    },

    start(): void {
      loop = keepUp()
    },

    async stop(): Promise<void> {
      stopped.abort(new Error('The server is stopping'))
      await loop
    },
  }
}

export function newRun(
  scheduleId: string,
  { at, key, manual, now }: { at: number; key: string; manual: boolean; now: number },
): RunRecord {
  return {
    id: newId('scr'),
    key,
    scheduleId,
    dueAt: at,
    manual,
    state: 'waiting',
    reason: null,
    taskId: null,
    isOpen: false,
    failureCode: null,
    failureText: null,
    tries: 0,
    retryAt: now,
    startedAt: null,
  }
}

/** A few at a time. */
async function eachOf<Item, Result>(items: readonly Item[], work: (item: Item) => Promise<Result>): Promise<Result[]> {
  const results: Result[] = []
  const left = [...items]
  const worker = async () => {
    for (let item = left.shift(); item !== undefined; item = left.shift()) results.push(await work(item))
  }
  await Promise.all(Array.from({ length: scheduleLimits.atOnce }, worker))
  return results
}
