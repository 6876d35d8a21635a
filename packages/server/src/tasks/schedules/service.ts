import { createHash } from 'node:crypto'
import type { KnownCaller } from '../../access/callers/door.ts'
import { askerOf } from '../../approvals/door.ts'
import type { Database } from '../../kernel/db/database.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { pageOf, readCursor } from '../../kernel/http/cursors.ts'
import { isId, newId } from '../../kernel/ids.ts'
import { createTurns } from '../../kernel/turns.ts'
import { parseTokens } from '../../ledger/door.ts'
import { handedOn } from '../rules.ts'
import { scheduleLimits } from './limits.ts'
import type { RunRecord, ScheduleRecord, SkipReason, Timing } from './record.ts'
import { mayChange, maySee, sightOf } from './rules.ts'
import { createRunner, newRun, type RunnerDeps } from './runner.ts'
import type {
  CreateSchedule,
  ScheduledTask,
  ScheduleListQuery,
  ScheduleRunListQuery,
  ScheduleRunView,
  ScheduleView,
  ScheduleWithTask,
  UpdateSchedule,
} from './schema.ts'
import { createScheduleStore } from './store.ts'
import { nextTime } from './times.ts'

export interface SchedulesDeps extends Omit<RunnerDeps, 'store' | 'openTask'> {
  database: Database
  /** What a task holds may let into MCP servers. */
  box: { seal(text: string, place: string): string; open(sealed: string, place: string): string | undefined }
}

export type Schedules = ReturnType<typeof createSchedules>

export function createSchedules({ database, box, ...deps }: SchedulesDeps) {
  const { findAgent, clock, log } = deps
  const store = createScheduleStore(database)
  const runner = createRunner({ ...deps, store, openTask })
  const turns = createTurns('schedules of')

  const sealTask = (id: string, task: ScheduledTask) => box.seal(taskText(task), `schedule ${id}`)

  function openTask({ id, sealedTask }: ScheduleRecord): ScheduledTask | undefined {
    const text = box.open(sealedTask, `schedule ${id}`)
    return text === undefined ? undefined : (JSON.parse(text) as ScheduledTask)
  }

  async function create(wish: CreateSchedule, caller: KnownCaller): Promise<ScheduleWithTask> {
    const { accountId } = caller
    requireChange(caller, wish.agent)
    const agent = await findAgent(wish.agent, accountId)
    if (!agent) throw noAgent(wish.agent)
    if (agent.state === 'archiving' || agent.state === 'archived') {
      throw new DeltaError('agent_archived', `${wish.agent} is ${agent.state}`, {
        context: { agentId: wish.agent, state: agent.state },
      })
    }
    const now = clock.now()
    const timing = timingOf(wish)
    const nextAt = nextOf(timing, now)
    const id = newId('sch')
    const made: ScheduleRecord = {
      id,
      accountId,
      agentId: wish.agent,
      title: titleOf(wish.task),
      sealedTask: sealTask(id, wish.task),
      ...timing,
      missed: wish.missed,
      overlap: wish.overlap,
      state: wish.enabled ? 'active' : 'paused',
      reason: null,
      nextAt: wish.enabled ? nextAt : null,
      asker: askerOf(caller),
      rights: handedOn(caller),
      revision: 1,
      createdAt: now,
      changedAt: now,
    }
    await turns.take(accountId, async () => {
      const limit = scheduleLimits.perAccount
      if ((await store.countOf(accountId)) >= limit) {
        throw new DeltaError('schedule_limit_reached', `The account has ${limit} schedules`, { context: { limit } })
      }
      await store.insert(made)
    })
    runner.ring()
    return withTask(made)
  }

  async function recordFor(id: string, { accountId, principal }: KnownCaller): Promise<ScheduleRecord> {
    const found = isId('sch', id) ? await store.get(id) : undefined
    if (found?.accountId !== accountId || !maySee(principal, found.agentId)) throw notFound(id)
    return found
  }

  async function recordToChange(id: string, caller: KnownCaller): Promise<ScheduleRecord> {
    const found = await recordFor(id, caller)
    requireChange(caller, found.agentId)
    return found
  }

  /** Whoever changes it answers for it from then on. */
  async function change(
    id: string,
    caller: KnownCaller,
    { to, skip }: { to: (seen: ScheduleRecord, now: number) => ScheduleRecord; skip?: SkipReason },
  ): Promise<ScheduleRecord> {
    for (let left: number = scheduleLimits.clashes; left > 0; left--) {
      const seen = await recordToChange(id, caller)
      const now = clock.now()
      const next = to(seen, now)
      if (next === seen) return seen
      const changed = { ...next, asker: askerOf(caller), rights: handedOn(caller), changedAt: now }
      if (!(await store.change(seen, changed, skip))) continue
      runner.ring()
      return changed
    }
    throw new DeltaError('schedule_state_conflict', `Something else changed ${id} at the same moment`)
  }

  async function update(id: string, wish: UpdateSchedule, caller: KnownCaller): Promise<ScheduleWithTask> {
    const changed = await change(id, caller, {
      to(seen, now) {
        const { task, cron, timeZone, at, missed, overlap } = wish
        const isTimed = cron !== undefined || timeZone !== undefined || at !== undefined
        const timing = isTimed ? timingOf({ ...timingWish(seen), ...whenWish(wish) }) : undefined
        const nextAt = timing && nextOf(timing, now)
        // One for a time that has passed begins anew with another time.
        const state = timing && seen.state === 'done' ? 'active' : seen.state
        return {
          ...seen,
          ...(task && { title: titleOf(task), sealedTask: sealTask(id, task) }),
          ...(missed && { missed }),
          ...(overlap && { overlap }),
          ...(timing && { ...timing, state, nextAt: state === 'active' ? nextAt! : null }),
        }
      },
    })
    return withTask(changed)
  }

  async function pause(id: string, caller: KnownCaller): Promise<ScheduleView> {
    const changed = await change(id, caller, {
      to(seen) {
        if (seen.state === 'paused') return seen
        if (seen.state !== 'active') throw conflict(seen)
        return { ...seen, state: 'paused', nextAt: null }
      },
      skip: 'paused',
    })
    return view(changed)
  }

  /** From the next time on: those that passed meanwhile were not missed. */
  async function resume(id: string, caller: KnownCaller): Promise<ScheduleView> {
    const changed = await change(id, caller, {
      to(seen, now) {
        if (seen.state === 'active') return seen
        if (seen.state === 'done') throw conflict(seen)
        return { ...seen, state: 'active', reason: null, nextAt: nextOf(seen, now) }
      },
    })
    return view(changed)
  }

  async function remove(id: string, caller: KnownCaller): Promise<void> {
    await recordToChange(id, caller)
    await store.remove(id)
  }

  /** Now, whatever goes on. */
  async function runNow(
    id: string,
    caller: KnownCaller,
    { idempotencyKey }: { idempotencyKey?: string | undefined } = {},
  ): Promise<ScheduleRunView> {
    const schedule = await recordToChange(id, caller)
    if (schedule.state === 'disabled') throw conflict(schedule)
    const now = clock.now()
    const by = `${caller.actorId} ${idempotencyKey}`
    const name = idempotencyKey === undefined ? newId('scr') : createHash('sha256').update(by).digest('hex')
    const run = newRun(id, { at: now, key: `${id}:run:${name}`, manual: true, now })
    await store.insertRun(run)
    await runner.advance(id)
    const made = await store.runWithKey(run.key)
    // Another server is just about to begin it.
    if (made?.state === 'waiting') runner.ring()
    return runView(made ?? run)
  }

  async function list(query: ScheduleListQuery, { accountId, principal }: KnownCaller) {
    const { limit, cursor, agentId, state } = query
    const before = readCursor(cursor, ['sch'])
    const sight = sightOf(principal)
    if (sight === null) return { data: [], nextCursor: null }
    const found = await store.list({ accountId, agents: sight, agentId, state, before, limit: limit + 1 })
    const { items, nextCursor } = pageOf(found, limit)
    return { data: items.map(view), nextCursor }
  }

  async function listRuns(id: string, { limit, cursor }: ScheduleRunListQuery, caller: KnownCaller) {
    const before = readCursor(cursor, ['scr'])
    await recordFor(id, caller)
    const found = await store.listRuns(id, { before, limit: limit + 1 })
    const { items, nextCursor } = pageOf(
      found.map((run) => ({ ...run, createdAt: run.dueAt })),
      limit,
    )
    return { data: items.map(runView), nextCursor }
  }

  async function agentEnded(agentId: string): Promise<void> {
    for (const one of await store.activeOf(agentId)) await runner.disable(one, 'agent_archived')
  }

  function withTask(schedule: ScheduleRecord): ScheduleWithTask {
    const task = openTask(schedule)
    return { ...view(schedule), task: task ? shownTask(task) : null }
  }

  return {
    create,
    update,
    pause,
    resume,
    remove,
    runNow,
    list,
    listRuns,
    get: async (id: string, caller: KnownCaller) => withTask(await recordFor(id, caller)),
    taskChanged: runner.taskChanged,
    look: runner.look,
    start: runner.start,
    stop: runner.stop,

    /** News of an agent; each run looks too. */
    agentArchived(agentId: string): void {
      void agentEnded(agentId).catch((error: unknown) => log.warn('schedules_not_ended', { agentId, error }))
    },
  }
}

interface WhenWish {
  cron?: string | undefined
  timeZone: string
  at?: string | undefined
}

function timingOf({ cron, timeZone, at }: WhenWish): Timing {
  return { cron: cron ?? null, timeZone, at: at === undefined ? null : Date.parse(at) }
}

function timingWish({ cron, timeZone, at }: Timing): WhenWish {
  return { cron: cron ?? undefined, timeZone, at: at === null ? undefined : new Date(at).toISOString() }
}

/** One of the two takes the place of the other. */
function whenWish({ cron, timeZone, at }: UpdateSchedule): Partial<WhenWish> {
  const when = cron !== undefined ? { cron, at: undefined } : at !== undefined ? { at, cron: undefined } : {}
  return { ...when, ...(timeZone !== undefined && { timeZone }) }
}

function nextOf(timing: Timing, now: number): number {
  const next = nextTime(timing, now)
  if (next === null) throw new DeltaError('schedule_never_runs', 'There is no time to come at which it would run')
  return next
}

function taskText(task: ScheduledTask): string {
  if (task.tokenBudget !== undefined) parseTokens(task.tokenBudget, { field: 'task.tokenBudget' })
  const text = JSON.stringify(task)
  const limitBytes = scheduleLimits.taskBytes
  if (Buffer.byteLength(text) > limitBytes) {
    throw new DeltaError('body_too_large', `The task of a schedule has at most ${limitBytes} bytes`, {
      context: { limitBytes },
    })
  }
  return text
}

function titleOf({ text }: ScheduledTask): string {
  // Never half of a character.
  return Array.from(text.slice(0, 2 * scheduleLimits.titleChars))
    .slice(0, scheduleLimits.titleChars)
    .join('')
}

function shownTask({ mcpServers, ...task }: ScheduledTask): Record<string, unknown> {
  return { ...task, ...(mcpServers && { mcpServers: mcpServers.map(({ name, url }) => ({ name, url })) }) }
}

function requireChange({ principal }: KnownCaller, agentId: string): void {
  if (mayChange(principal, agentId)) return
  const message =
    principal.kind === 'agent'
      ? 'An agent with the right write:tasks makes and changes schedules of its own'
      : 'This needs the right write:tasks for the agent'
  throw new DeltaError('forbidden', message, { context: { right: 'write:tasks' } })
}

function view(record: ScheduleRecord): ScheduleView {
  const { id, agentId, title, cron, timeZone, at, missed, overlap, state, reason, nextAt, asker } = record
  return {
    id,
    agentId,
    title,
    cron,
    timeZone,
    at: orNull(at),
    missed,
    overlap,
    state,
    reason,
    nextAt: orNull(nextAt),
    createdBy: asker.actorId,
    createdAt: iso(record.createdAt),
    changedAt: iso(record.changedAt),
  }
}

function runView(run: RunRecord): ScheduleRunView {
  const { id, dueAt, manual, state, reason, taskId, failureCode, failureText, startedAt } = run
  return {
    id,
    dueAt: iso(dueAt),
    manual,
    state,
    reason,
    taskId,
    failure: failureCode === null ? null : { code: failureCode, message: failureText ?? '' },
    startedAt: orNull(startedAt),
  }
}

function conflict({ id, state, reason }: ScheduleRecord): DeltaError {
  const why = reason === null ? '' : ` (${reason})`
  return new DeltaError('schedule_state_conflict', `${id} is ${state}${why}`, { context: { state, reason } })
}

function notFound(id: string): DeltaError {
  return new DeltaError('schedule_not_found', `There is no schedule ${id.slice(0, 64)}`)
}

function noAgent(id: string): DeltaError {
  return new DeltaError('agent_not_found', `There is no agent ${id.slice(0, 64)}`)
}

const iso = (at: number) => new Date(at).toISOString()
const orNull = (at: number | null) => (at === null ? null : iso(at))
