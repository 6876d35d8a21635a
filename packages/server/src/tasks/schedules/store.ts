import type { Right } from '../../access/callers/door.ts'
import type { Asker } from '../../approvals/door.ts'
import type { BatchStep, Database } from '../../kernel/db/database.ts'
import type { Place } from '../../kernel/http/cursors.ts'
import { scheduleLimits } from './limits.ts'
import type {
  DisabledReason,
  MissedPolicy,
  OverlapPolicy,
  RunRecord,
  RunState,
  ScheduleRecord,
  ScheduleState,
  SkipReason,
} from './record.ts'

interface ScheduleRow {
  id: string
  account_id: string
  agent_id: string
  title: string
  sealed_task: string
  cron: string | null
  time_zone: string
  at: number | null
  missed: MissedPolicy
  overlap: OverlapPolicy
  state: ScheduleState
  reason: DisabledReason | null
  next_at: number | null
  asker: string
  rights: string | null
  revision: number
  lease_until: number
  created_at: number
  changed_at: number
}

interface RunRow {
  id: string
  key: string
  schedule_id: string
  due_at: number
  manual: number
  state: RunState
  reason: SkipReason | null
  task_id: string | null
  open: number
  failure_code: string | null
  failure_text: string | null
  tries: number
  retry_at: number
  started_at: number | null
}

interface Tables {
  schedules: ScheduleRow
  schedule_runs: RunRow
}

export interface ScheduleFilter {
  accountId: string
  /** @default all */
  agents?: readonly string[] | undefined
  agentId?: string | undefined
  state?: ScheduleState | undefined
  before?: Place | undefined
  limit: number
}

export type ScheduleStore = ReturnType<typeof createScheduleStore>

export function createScheduleStore(database: Database) {
  const db = database.of<Tables>()
  const { sql } = db
  const schedules = sql.selectFrom('schedules').selectAll()
  const runs = sql.selectFrom('schedule_runs').selectAll()

  const many = async (query: typeof schedules) => (await db.all(query.compile())).map(toSchedule)
  const manyRuns = async (query: typeof runs) => (await db.all(query.compile())).map(toRun)

  const insertRuns = (records: readonly RunRecord[]): BatchStep[] =>
    // A time that has its run already, as after a clock that stepped back, gets no other.
    records.map((record) => ({
      query: sql
        .insertInto('schedule_runs')
        .values(fromRun(record))
        .onConflict((conflict) => conflict.column('key').doNothing())
        .compile(),
    }))

  const skipWaiting = (scheduleId: string, reason: SkipReason): BatchStep => ({
    query: sql
      .updateTable('schedule_runs')
      .set({ state: 'skipped', reason })
      .where('schedule_id', '=', scheduleId)
      .where('state', '=', 'waiting')
      .where('manual', '=', 0)
      .compile(),
  })

  return {
    async insert(record: ScheduleRecord): Promise<void> {
      await db.run(
        sql
          .insertInto('schedules')
          .values({ ...fromSchedule(record), lease_until: 0 })
          .compile(),
      )
    },

    async get(id: string): Promise<ScheduleRecord | undefined> {
      const row = await db.first(schedules.where('id', '=', id).compile())
      return row && toSchedule(row)
    },

    async countOf(accountId: string): Promise<number> {
      const query = sql
        .selectFrom('schedules')
        .select(({ fn }) => fn.countAll<number>().as('found'))
        .where('account_id', '=', accountId)
      return Number((await db.first(query.compile()))?.found ?? 0)
    },

    /** Newest first. */
    list({ accountId, agents, agentId, state, before, limit }: ScheduleFilter): Promise<ScheduleRecord[]> {
      if (agents?.length === 0) return Promise.resolve([])
      let query = schedules.where('account_id', '=', accountId)
      if (agents) query = query.where('agent_id', 'in', agents)
      if (agentId !== undefined) query = query.where('agent_id', '=', agentId)
      if (state !== undefined) query = query.where('state', '=', state)
      if (before) {
        query = query.where((where) =>
          where.or([
            where('created_at', '<', before.createdAt),
            where.and([where('created_at', '=', before.createdAt), where('id', '<', before.id)]),
          ]),
        )
      }
      return many(query.orderBy('created_at', 'desc').orderBy('id', 'desc').limit(limit))
    },

    /** Only as it was seen; false where it has changed since. With `skip` its runs that wait do so no longer. */
    async change(seen: ScheduleRecord, next: ScheduleRecord, skip?: SkipReason): Promise<boolean> {
      const { id: _id, ...row } = fromSchedule({ ...next, revision: seen.revision + 1 })
      const query = sql
        .updateTable('schedules')
        .set(row)
        .where('id', '=', seen.id)
        .where('revision', '=', seen.revision)
        .compile()
      const steps: BatchStep[] = [{ query, mustChange: 1 }]
      if (skip) steps.push(skipWaiting(seen.id, skip))
      return (await db.batch(steps)).applied
    },

    /** Its runs get their rows and it its next time, in one commit; nothing where another server was first, or somebody changed it. */
    async plan(
      { id, nextAt, revision }: ScheduleRecord,
      next: { nextAt: number | null; runs: readonly RunRecord[] },
    ): Promise<void> {
      const query = sql
        .updateTable('schedules')
        .set({ next_at: next.nextAt, ...(next.nextAt === null && { state: 'done' as const }) })
        .where('id', '=', id)
        .where('state', '=', 'active')
        .where('next_at', '=', nextAt)
        .where('revision', '=', revision)
        .compile()
      await db.batch([{ query, mustChange: 1 }, ...insertRuns(next.runs)])
    },

    async remove(id: string): Promise<void> {
      await db.batch([
        { query: sql.deleteFrom('schedules').where('id', '=', id).compile() },
        { query: sql.deleteFrom('schedule_runs').where('schedule_id', '=', id).compile() },
      ])
    },

    due: (now: number) =>
      many(
        schedules
          .where('state', '=', 'active')
          .where('next_at', '<=', now)
          .orderBy('next_at')
          .limit(scheduleLimits.looked),
      ),

    /** When something is to be done next. */
    async nextMoment(): Promise<number | undefined> {
      const [next, waiting] = await Promise.all([
        db.first(
          sql
            .selectFrom('schedules')
            .select('next_at as moment')
            .where('state', '=', 'active')
            .where('next_at', 'is not', null)
            .orderBy('next_at')
            .limit(1)
            .compile(),
        ),
        db.first(
          sql
            .selectFrom('schedule_runs')
            .select('retry_at as moment')
            .where('state', '=', 'waiting')
            .orderBy('retry_at')
            .limit(1)
            .compile(),
        ),
      ])
      const moments = [next?.moment, waiting?.moment].filter((one) => one !== undefined && one !== null)
      return moments.length > 0 ? Math.min(...moments) : undefined
    },

    /** Schedules with runs that may be begun. */
    async withWaiting(now: number): Promise<string[]> {
      const query = sql
        .selectFrom('schedule_runs')
        .select('schedule_id')
        .distinct()
        .where('state', '=', 'waiting')
        .where('retry_at', '<=', now)
        .limit(scheduleLimits.looked)
      return (await db.all(query.compile())).map(({ schedule_id }) => schedule_id)
    },

    activeOf: (agentId: string) =>
      many(schedules.where('agent_id', '=', agentId).where('state', 'in', ['active', 'paused'])),

    /** From now on this server begins its runs; false where another does. */
    async lease(id: string, { now, until }: { now: number; until: number }): Promise<boolean> {
      const query = sql
        .updateTable('schedules')
        .set({ lease_until: until })
        .where('id', '=', id)
        // One that ends later than any can was taken before the clock was set back.
        .where((where) =>
          where.or([where('lease_until', '<=', now), where('lease_until', '>', now + scheduleLimits.leaseMs)]),
        )
      return (await db.run(query.compile())).changed === 1
    },

    async release(id: string, until: number): Promise<void> {
      const query = sql.updateTable('schedules').set({ lease_until: 0 }).where('id', '=', id)
      await db.run(query.where('lease_until', '=', until).compile())
    },

    /** Oldest first. */
    waitingOf: (scheduleId: string) =>
      manyRuns(
        runs
          .where('schedule_id', '=', scheduleId)
          .where('state', '=', 'waiting')
          .orderBy('due_at')
          .orderBy('id')
          .limit(2 * scheduleLimits.queued),
      ),

    openOf: (scheduleId: string) => manyRuns(runs.where('schedule_id', '=', scheduleId).where('open', '=', 1)),

    async runWithKey(key: string): Promise<RunRecord | undefined> {
      const row = await db.first(runs.where('key', '=', key).compile())
      return row && toRun(row)
    },

    /** Nothing where its key is known. */
    async insertRun(record: RunRecord): Promise<void> {
      await db.batch(insertRuns([record]))
    },

    /** Only while it waits. */
    async settle(
      { id }: RunRecord,
      changes: Partial<Pick<RunRow, 'state' | 'reason' | 'failure_code' | 'failure_text' | 'tries' | 'retry_at'>>,
    ): Promise<void> {
      const query = sql.updateTable('schedule_runs').set(changes).where('id', '=', id).where('state', '=', 'waiting')
      await db.run(query.compile())
    },

    /** Whatever it was meanwhile: its task is there. */
    async started({ id }: RunRecord, taskId: string, now: number): Promise<void> {
      const changes = { state: 'started', reason: null, task_id: taskId, open: 1, started_at: now } as const
      const query = sql
        .updateTable('schedule_runs')
        .set({ ...changes, failure_code: null, failure_text: null })
        .where('id', '=', id)
        .where('task_id', 'is', null)
      await db.run(query.compile())
    },

    async ended({ id }: RunRecord): Promise<void> {
      await db.run(sql.updateTable('schedule_runs').set({ open: 0 }).where('id', '=', id).compile())
    },

    /** Those that wait for a task which has ended. */
    async hurry(scheduleId: string, now: number): Promise<void> {
      const query = sql
        .updateTable('schedule_runs')
        .set({ retry_at: now })
        .where('schedule_id', '=', scheduleId)
        .where('state', '=', 'waiting')
        .where('tries', '=', 0)
      await db.run(query.compile())
    },

    /** Newest first. */
    listRuns(scheduleId: string, { before, limit }: { before?: Place | undefined; limit: number }) {
      let query = runs.where('schedule_id', '=', scheduleId)
      if (before) {
        query = query.where((where) =>
          where.or([
            where('due_at', '<', before.createdAt),
            where.and([where('due_at', '=', before.createdAt), where('id', '<', before.id)]),
          ]),
        )
      }
      return manyRuns(query.orderBy('due_at', 'desc').orderBy('id', 'desc').limit(limit))
    },

    async forget(dueBefore: number): Promise<void> {
      const query = sql
        .deleteFrom('schedule_runs')
        .where('due_at', '<', dueBefore)
        .where('state', '!=', 'waiting')
        .where('open', '=', 0)
      await db.run(query.compile())
    },
  }
}

function fromSchedule(record: ScheduleRecord): Omit<ScheduleRow, 'lease_until'> {
  return {
    id: record.id,
    account_id: record.accountId,
    agent_id: record.agentId,
    title: record.title,
    sealed_task: record.sealedTask,
    cron: record.cron,
    time_zone: record.timeZone,
    at: record.at,
    missed: record.missed,
    overlap: record.overlap,
    state: record.state,
    reason: record.reason,
    next_at: record.nextAt,
    asker: JSON.stringify(record.asker),
    rights: record.rights && JSON.stringify(record.rights),
    revision: record.revision,
    created_at: record.createdAt,
    changed_at: record.changedAt,
  }
}

function toSchedule(row: ScheduleRow): ScheduleRecord {
  return {
    id: row.id,
    accountId: row.account_id,
    agentId: row.agent_id,
    title: row.title,
    sealedTask: row.sealed_task,
    cron: row.cron,
    timeZone: row.time_zone,
    at: row.at,
    missed: row.missed,
    overlap: row.overlap,
    state: row.state,
    reason: row.reason,
    nextAt: row.next_at,
    asker: JSON.parse(row.asker) as Asker,
    rights: row.rights === null ? null : (JSON.parse(row.rights) as Right[]),
    revision: row.revision,
    createdAt: row.created_at,
    changedAt: row.changed_at,
  }
}

function fromRun(record: RunRecord): RunRow {
  return {
    id: record.id,
    key: record.key,
    schedule_id: record.scheduleId,
    due_at: record.dueAt,
    manual: Number(record.manual),
    state: record.state,
    reason: record.reason,
    task_id: record.taskId,
    open: Number(record.isOpen),
    failure_code: record.failureCode,
    failure_text: record.failureText,
    tries: record.tries,
    retry_at: record.retryAt,
    started_at: record.startedAt,
  }
}

function toRun(row: RunRow): RunRecord {
  return {
    id: row.id,
    key: row.key,
    scheduleId: row.schedule_id,
    dueAt: row.due_at,
    manual: row.manual === 1,
    state: row.state,
    reason: row.reason,
    taskId: row.task_id,
    isOpen: row.open === 1,
    failureCode: row.failure_code,
    failureText: row.failure_text,
    tries: row.tries,
    retryAt: row.retry_at,
    startedAt: row.started_at,
  }
}
