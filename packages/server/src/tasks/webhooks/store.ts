import { sql as raw } from 'kysely'
import type { Asker } from '../../approvals/door.ts'
import type { BatchStep, Database } from '../../kernel/db/database.ts'
import type { Place } from '../../kernel/http/cursors.ts'
import { webhookLimits } from './limits.ts'
import {
  type DeliveryRecord,
  type DeliveryState,
  type WebhookEvent,
  webhookEvents,
  type WebhookRecord,
} from './record.ts'
import { columnOf, type DeliveryRow, type WebhookRow, type WebhookTables } from './tables.ts'

export type WebhookStore = ReturnType<typeof createWebhookStore>

export interface Outcome {
  /** Of the answer, where there was one. */
  status: number | null
  error: string | null
}

export function createWebhookStore(database: Database) {
  const db = database.of<WebhookTables>()
  const { sql } = db
  const webhooks = sql.selectFrom('webhooks').selectAll()
  const deliveries = sql.selectFrom('webhook_deliveries').selectAll()

  const many = async (query: typeof webhooks) => (await db.all(query.compile())).map(toWebhook)
  const manyDeliveries = async (query: typeof deliveries) => (await db.all(query.compile())).map(toDelivery)

  const end = ({ id, tries }: DeliveryRecord, state: DeliveryState, { status, error }: Outcome, now: number) =>
    sql
      .updateTable('webhook_deliveries')
      .set({ state, last_status: status, last_error: error, ended_at: now, body: null, lease_until: 0 })
      .where('id', '=', id)
      .where('state', '=', 'waiting')
      .where('tries', '=', tries)
      .compile()

  const failedOnce = (webhookId: string, now: number): BatchStep => ({
    query: sql
      .updateTable('webhooks')
      .set({
        failures: raw<number>`failures + 1`,
        failing_since: raw<number>`coalesce(failing_since, ${raw.lit(now)})`,
      })
      .where('id', '=', webhookId)
      .compile(),
  })

  return {
    async insert(record: WebhookRecord): Promise<void> {
      await db.run(sql.insertInto('webhooks').values(fromWebhook(record)).compile())
    },

    async get(id: string): Promise<WebhookRecord | undefined> {
      const row = await db.first(webhooks.where('id', '=', id).compile())
      return row && toWebhook(row)
    },

    async countOf(accountId: string): Promise<number> {
      const query = sql
        .selectFrom('webhooks')
        .select(({ fn }) => fn.countAll<number>().as('found'))
        .where('account_id', '=', accountId)
      return Number((await db.first(query.compile()))?.found ?? 0)
    },

    /** Newest first: all, or those of some agents alone. */
    list(accountId: string, agents: readonly string[] | undefined): Promise<WebhookRecord[]> {
      if (agents?.length === 0) return Promise.resolve([])
      let query = webhooks.where('account_id', '=', accountId)
      if (agents) query = query.where('agent_id', 'in', agents)
      return many(query.orderBy('created_at', 'desc').orderBy('id', 'desc').limit(webhookLimits.perAccount))
    },

    /** Only as it was seen; false where it has changed since. One that is not active any more has nothing left to send. */
    async change(seen: WebhookRecord, next: WebhookRecord, now: number): Promise<boolean> {
      // How it fares is counted beside, and begins anew where somebody lets it go on.
      const { id: _id, failures, failing_since, ...row } = fromWebhook({ ...next, revision: seen.revision + 1 })
      const isAnew = next.state === 'active' && seen.state !== 'active'
      const query = sql
        .updateTable('webhooks')
        .set({ ...row, ...(isAnew && { failures, failing_since }) })
        .where('id', '=', seen.id)
        .where('revision', '=', seen.revision)
        .compile()
      const cancel = sql
        .updateTable('webhook_deliveries')
        .set({ state: 'canceled', ended_at: now, body: null })
        .where('webhook_id', '=', seen.id)
        .where('state', '=', 'waiting')
        .compile()
      const steps: BatchStep[] = [{ query, mustChange: 1 }]
      if (next.state !== 'active') steps.push({ query: cancel })
      return (await db.batch(steps)).applied
    },

    async remove(id: string): Promise<void> {
      await db.batch([
        { query: sql.deleteFrom('webhooks').where('id', '=', id).compile() },
        { query: sql.deleteFrom('webhook_deliveries').where('webhook_id', '=', id).compile() },
      ])
    },

    async insertDelivery(record: DeliveryRecord): Promise<void> {
      const row = { ...fromDelivery(record), lease_until: 0 }
      await db.run(sql.insertInto('webhook_deliveries').values(row).compile())
    },

    async delivery(id: string): Promise<DeliveryRecord | undefined> {
      const row = await db.first(deliveries.where('id', '=', id).compile())
      return row && toDelivery(row)
    },

    /** Newest first. */
    listDeliveries(
      webhookId: string,
      { state, before, limit }: { state?: DeliveryState | undefined; before?: Place | undefined; limit: number },
    ) {
      let query = deliveries.where('webhook_id', '=', webhookId)
      if (state !== undefined) query = query.where('state', '=', state)
      if (before) {
        query = query.where((where) =>
          where.or([
            where('created_at', '<', before.createdAt),
            where.and([where('created_at', '=', before.createdAt), where('id', '<', before.id)]),
          ]),
        )
      }
      return manyDeliveries(query.orderBy('created_at', 'desc').orderBy('id', 'desc').limit(limit))
    },

    /** Those that may be sent, but of these webhooks. */
    due(now: number, { but, limit }: { but: readonly string[]; limit: number }): Promise<DeliveryRecord[]> {
      let query = deliveries
        .where('state', '=', 'waiting')
        .where('next_try_at', '<=', now)
        .where((where) => where.or(isFree(where, now)))
      if (but.length > 0) query = query.where('webhook_id', 'not in', but)
      return manyDeliveries(query.orderBy('next_try_at').limit(limit))
    },

    async nextMoment(): Promise<number | undefined> {
      const query = sql
        .selectFrom('webhook_deliveries')
        .select('next_try_at')
        .where('state', '=', 'waiting')
        .orderBy('next_try_at')
        .limit(1)
      return (await db.first(query.compile()))?.next_try_at
    },

    /** The try is counted before it is made; false where another server makes it. */
    async claim({ id }: DeliveryRecord, { body, now }: { body: string; now: number }): Promise<boolean> {
      const query = sql
        .updateTable('webhook_deliveries')
        .set({ lease_until: now + webhookLimits.leaseMs, tries: raw<number>`tries + 1`, body })
        .where('id', '=', id)
        .where('state', '=', 'waiting')
        .where('next_try_at', '<=', now)
        .where((where) => where.or(isFree(where, now)))
      return (await db.run(query.compile())).changed === 1
    },

    /** A try that did not come about. */
    async giveBack({ id, tries }: DeliveryRecord): Promise<void> {
      const query = sql
        .updateTable('webhook_deliveries')
        .set({ lease_until: 0, tries: tries - 1 })
        .where('id', '=', id)
        .where('state', '=', 'waiting')
        .where('tries', '=', tries)
      await db.run(query.compile())
    },

    async delivered(delivery: DeliveryRecord, status: number, now: number): Promise<void> {
      const anew = sql
        .updateTable('webhooks')
        .set({ failures: 0, failing_since: null })
        .where('id', '=', delivery.webhookId)
        .where('failures', '>', 0)
        .compile()
      await db.batch([{ query: end(delivery, 'delivered', { status, error: null }, now) }, { query: anew }])
    },

    /** With `nextTryAt` it is tried again then. */
    async failed(
      delivery: DeliveryRecord,
      outcome: Outcome,
      { nextTryAt, now }: { nextTryAt: number | undefined; now: number },
    ): Promise<void> {
      const again = sql
        .updateTable('webhook_deliveries')
        .set({ last_status: outcome.status, last_error: outcome.error, next_try_at: nextTryAt ?? now, lease_until: 0 })
        .where('id', '=', delivery.id)
        .where('state', '=', 'waiting')
        .where('tries', '=', delivery.tries)
        .compile()
      const query = nextTryAt === undefined ? end(delivery, 'failed', outcome, now) : again
      await db.batch([{ query }, failedOnce(delivery.webhookId, now)])
    },

    /** Nothing is there to be sent. */
    async drop(delivery: DeliveryRecord, error: string, now: number): Promise<void> {
      await db.run(end(delivery, 'failed', { status: null, error }, now))
    },

    /** From its beginning; false where it waits. */
    async again({ id }: DeliveryRecord, now: number): Promise<boolean> {
      const query = sql
        .updateTable('webhook_deliveries')
        .set({ state: 'waiting', tries: 0, next_try_at: now, lease_until: 0, ended_at: null })
        .where('id', '=', id)
        .where('state', '!=', 'waiting')
      return (await db.run(query.compile())).changed === 1
    },

    async forget(endedBefore: number): Promise<void> {
      await db.run(sql.deleteFrom('webhook_deliveries').where('ended_at', '<', endedBefore).compile())
    },
  }
}

/** Nobody has it in hand. A lease that ends later than any can was taken before the clock was set back. */
function isFree<Condition>(
  where: (column: 'lease_until', operator: '<=' | '>', value: number) => Condition,
  now: number,
): Condition[] {
  return [where('lease_until', '<=', now), where('lease_until', '>', now + webhookLimits.leaseMs)]
}

function fromWebhook(record: WebhookRecord): WebhookRow {
  const has = (event: WebhookEvent) => Number(record.events.includes(event))
  return {
    id: record.id,
    account_id: record.accountId,
    url: record.url,
    on_finished: has('task.finished'),
    on_failed: has('task.failed'),
    on_needs_decision: has('task.needs_decision'),
    agent_id: record.agentId,
    sealed_secret: record.sealedSecret,
    state: record.state,
    reason: record.reason,
    asker: JSON.stringify(record.asker),
    failures: record.failures,
    failing_since: record.failingSince,
    revision: record.revision,
    created_at: record.createdAt,
    changed_at: record.changedAt,
  }
}

function toWebhook(row: WebhookRow): WebhookRecord {
  return {
    id: row.id,
    accountId: row.account_id,
    url: row.url,
    events: webhookEvents.filter((event) => row[columnOf[event]] === 1),
    agentId: row.agent_id,
    sealedSecret: row.sealed_secret,
    state: row.state,
    reason: row.reason,
    asker: JSON.parse(row.asker) as Asker,
    failures: row.failures,
    failingSince: row.failing_since,
    revision: row.revision,
    createdAt: row.created_at,
    changedAt: row.changed_at,
  }
}

function fromDelivery(record: DeliveryRecord): Omit<DeliveryRow, 'lease_until'> {
  return {
    id: record.id,
    webhook_id: record.webhookId,
    account_id: record.accountId,
    type: record.type,
    task_id: record.taskId,
    created_at: record.createdAt,
    state: record.state,
    tries: record.tries,
    next_try_at: record.nextTryAt,
    body: record.body,
    last_status: record.lastStatus,
    last_error: record.lastError,
    ended_at: record.endedAt,
  }
}

function toDelivery(row: DeliveryRow): DeliveryRecord {
  return {
    id: row.id,
    webhookId: row.webhook_id,
    accountId: row.account_id,
    type: row.type,
    taskId: row.task_id,
    createdAt: row.created_at,
    state: row.state,
    tries: row.tries,
    nextTryAt: row.next_try_at,
    body: row.body,
    lastStatus: row.last_status,
    lastError: row.last_error,
    endedAt: row.ended_at,
  }
}
