import type { CompiledQuery } from 'kysely'
import type { BatchStep, Database } from '../kernel/db/database.ts'
import type { Network } from './egress/schema.ts'
import type { OnTimeout } from './schema.ts'
import type { SandboxState, TransitionReason } from './states.ts'

/** One sandbox as it is stored. Times are unix milliseconds. */
export interface SandboxRecord {
  id: string
  accountId: string
  state: SandboxState
  reason: TransitionReason
  /** The message of the error behind the reason. */
  detail: string | null
  /** Of a failed creation: what a repeated request with the same key is told. */
  failure: { code: string; message: string } | null
  template: string
  runtime: string
  cpuMilli: number
  memoryMb: number
  diskMb: number
  processes: number
  timeoutMs: number
  onTimeout: OnTimeout
  autoResume: boolean
  metadata: Record<string, string>
  env: Record<string, string>
  network: Network
  upperId: string
  /** Set from before the box is made until it is known to be gone. */
  boxId: string | null
  /** The host's uids of its box, as `first+count`, while it has one and they are known. */
  userNamespace: string | null
  /** Boxes made for it so far; each has its own id. */
  starts: number
  /** Counts transitions; guards every write. */
  version: number
  createdAt: number
  startedAt: number | null
  endAt: number | null
  changedAt: number
}

export interface TransitionRecord {
  sequence: number
  at: number
  from: SandboxState | null
  to: SandboxState
  reason: string
  detail: string | null
}

export interface SavedRequest {
  bodyHash: string
  sandboxId: string
}

export interface WantedRequest {
  key: string
  bodyHash: string
  /** The sandbox of an earlier try with the same key, which failed. */
  insteadOf?: string | undefined
}

export interface SandboxFilter {
  accountId: string
  states?: readonly SandboxState[] | undefined
  metadata: Readonly<Record<string, string>>
  limit: number
  before?: { createdAt: number; id: string } | undefined
}

interface SandboxesTable {
  id: string
  account_id: string
  state: SandboxState
  reason: string
  detail: string | null
  failure: string | null
  template: string
  runtime: string
  cpu_milli: number
  memory_mb: number
  disk_mb: number
  processes: number
  timeout_ms: number
  on_timeout: OnTimeout
  auto_resume: number
  metadata: string
  env: string
  network: string
  upper_id: string
  box_id: string | null
  user_namespace: string | null
  starts: number
  version: number
  created_at: number
  started_at: number | null
  end_at: number | null
  changed_at: number
}

interface TransitionsTable {
  sandbox_id: string
  sequence: number
  at: number
  from_state: SandboxState | null
  to_state: SandboxState
  reason: string
  detail: string | null
}

interface Tables {
  sandboxes: SandboxesTable
  sandbox_metadata: { sandbox_id: string; name: string; value: string }
  sandbox_transitions: TransitionsTable
  sandbox_requests: {
    account_id: string
    idempotency_key: string
    body_hash: string
    sandbox_id: string
    created_at: number
  }
  sandbox_pool: { one: number; since: number }
}

/** Rows one clean-up statement removes at most, so that it never holds the database for long. */
const purgeRows = 1_000

export type SandboxStore = ReturnType<typeof createSandboxStore>

export function createSandboxStore(database: Database) {
  const db = database.of<Tables>()
  const sql = db.sql
  const sandboxInsert = compiledOnce((row: SandboxesTable) => sql.insertInto('sandboxes').values(row).compile())
  const transitionInsert = compiledOnce((row: TransitionsTable) =>
    sql.insertInto('sandbox_transitions').values(row).compile(),
  )
  return {
    /**
     * The row of a new sandbox with its first transition and, where there is one, its idempotency key: all or none. False when the key is
     * known already, or belongs to another one than `insteadOf` by now. `became`: what it has become already, recorded with it.
     */
    async insert(record: SandboxRecord, request?: WantedRequest, became?: SandboxRecord): Promise<boolean> {
      const steps: BatchStep[] = []
      if (request?.insteadOf !== undefined) {
        const query = sql
          .updateTable('sandbox_requests')
          .set({ sandbox_id: record.id, created_at: record.createdAt })
          .where('account_id', '=', record.accountId)
          .where('idempotency_key', '=', request.key)
          .where('sandbox_id', '=', request.insteadOf)
          .compile()
        steps.push({ query, mustChange: 1 })
      } else if (request) {
        const query = sql
          .insertInto('sandbox_requests')
          .values({
            account_id: record.accountId,
            idempotency_key: request.key,
            body_hash: request.bodyHash,
            sandbox_id: record.id,
            created_at: record.createdAt,
          })
          .onConflict((conflict) => conflict.doNothing())
          .compile()
        steps.push({ query, mustChange: 1 })
      }
      steps.push({ query: sandboxInsert(toRow(became ?? record)), mustChange: 1 })
      steps.push(...metadataInsert(record))
      steps.push(transition(record, null))
      if (became) steps.push(transition(became, record.state))
      return (await db.batch(steps)).applied
    },

    /** Moves `before` to `after` and records it. False when the row is no longer as `before` says. */
    async move(before: SandboxRecord, after: SandboxRecord): Promise<boolean> {
      const { id: _, ...changes } = toRow(after)
      const query = sql
        .updateTable('sandboxes')
        .set(changes)
        .where('id', '=', before.id)
        .where('state', '=', before.state)
        .where('version', '=', before.version)
        .compile()
      return (await db.batch([{ query, mustChange: 1 }, transition(after, before.state)])).applied
    },

    /** Changes what is no transition: timeout, metadata, network. False when the row is no longer as `before` says. */
    async patch(before: SandboxRecord, after: SandboxRecord): Promise<boolean> {
      const query = sql
        .updateTable('sandboxes')
        .set({
          timeout_ms: after.timeoutMs,
          on_timeout: after.onTimeout,
          auto_resume: Number(after.autoResume),
          metadata: JSON.stringify(after.metadata),
          network: JSON.stringify(after.network),
          end_at: after.endAt,
        })
        .where('id', '=', before.id)
        .where('state', '=', before.state)
        .where('version', '=', before.version)
        .compile()
      const steps: BatchStep[] = [{ query, mustChange: 1 }]
      if (after.metadata !== before.metadata) {
        steps.push({ query: sql.deleteFrom('sandbox_metadata').where('sandbox_id', '=', before.id).compile() })
        steps.push(...metadataInsert(after))
      }
      return (await db.batch(steps)).applied
    },

    async get(id: string): Promise<SandboxRecord | undefined> {
      const row = await db.first(sql.selectFrom('sandboxes').selectAll().where('id', '=', id).compile())
      return row && toRecord(row)
    },

    /** Newest first. */
    async list({ accountId, states, metadata, limit, before }: SandboxFilter): Promise<SandboxRecord[]> {
      let query = sql.selectFrom('sandboxes').selectAll().where('account_id', '=', accountId)
      if (states) query = query.where('state', 'in', states)
      for (const [name, value] of Object.entries(metadata)) {
        query = query.where((where) =>
          where.exists(
            where
              .selectFrom('sandbox_metadata')
              .select('sandbox_metadata.name')
              .whereRef('sandbox_metadata.sandbox_id', '=', 'sandboxes.id')
              .where('sandbox_metadata.name', '=', name)
              .where('sandbox_metadata.value', '=', value),
          ),
        )
      }
      if (before) {
        query = query.where((where) =>
          where.or([
            where('created_at', '<', before.createdAt),
            where.and([where('created_at', '=', before.createdAt), where('id', '<', before.id)]),
          ]),
        )
      }
      const rows = await db.all(query.orderBy('created_at', 'desc').orderBy('id', 'desc').limit(limit).compile())
      return rows.map(toRecord)
    },

    /** Every sandbox that may have a box or a disk, of all accounts, and those that ended and may have left something. */
    async unfinished(): Promise<SandboxRecord[]> {
      const query = sql.selectFrom('sandboxes').selectAll().where('state', 'not in', ['killed', 'failed']).compile()
      return (await db.all(query)).map(toRecord)
    },

    /** Whether no box was ever made for this database, or all were long over. */
    async isEmpty(): Promise<boolean> {
      const any = [
        sql.selectFrom('sandboxes').select('id').limit(1).compile(),
        sql.selectFrom('sandbox_pool').select('since').limit(1).compile(),
      ]
      const found = await Promise.all(any.map((query) => db.first<object>(query)))
      return found.every((row) => row === undefined)
    },

    /** On disk before the first box is kept ready: from then on boxes without a row may be this database's own. */
    async notePool(since: number): Promise<void> {
      const row = sql.insertInto('sandbox_pool').values({ one: 1, since })
      await db.run(row.onConflict((conflict) => conflict.doNothing()).compile())
    },

    /** Oldest first, after `sequence`. */
    async transitions(sandboxId: string, after: number, limit: number): Promise<TransitionRecord[]> {
      const query = sql
        .selectFrom('sandbox_transitions')
        .selectAll()
        .where('sandbox_id', '=', sandboxId)
        .where('sequence', '>', after)
        .orderBy('sequence')
        .limit(limit)
        .compile()
      return (await db.all(query)).map(({ sequence, at, from_state: from, to_state: to, reason, detail }) => ({
        sequence,
        at,
        from,
        to,
        reason,
        detail,
      }))
    },

    async savedRequest(accountId: string, key: string): Promise<SavedRequest | undefined> {
      const row = await db.first(
        sql
          .selectFrom('sandbox_requests')
          .select(['body_hash', 'sandbox_id'])
          .where('account_id', '=', accountId)
          .where('idempotency_key', '=', key)
          .compile(),
      )
      return row && { bodyHash: row.body_hash, sandboxId: row.sandbox_id }
    },

    /** Forgets sandboxes that ended, and idempotency keys that were made, before `before`. Returns how many rows went. */
    async purge(before: number): Promise<number> {
      const over = sql
        .selectFrom('sandboxes')
        .select('id')
        .where('state', 'in', ['killed', 'failed'])
        .where('changed_at', '<', before)
        .limit(purgeRows)
      const old = sql
        .selectFrom('sandbox_requests')
        .select('idempotency_key')
        .where('created_at', '<', before)
        .limit(purgeRows)
      const queries: CompiledQuery<unknown>[] = [
        sql.deleteFrom('sandboxes').where('id', 'in', over).compile(),
        // Young requests share a key's text with an old one of another account at most; the age decides again.
        sql
          .deleteFrom('sandbox_requests')
          .where('idempotency_key', 'in', old)
          .where('created_at', '<', before)
          .compile(),
      ]
      const results = await Promise.all(queries.map((query) => db.run(query)))
      return results.reduce((sum, { changed }) => sum + changed, 0)
    },

    /** How many sandboxes are in each state. */
    async counts(): Promise<Partial<Record<SandboxState, number>>> {
      const query = sql
        .selectFrom('sandboxes')
        .select((select) => ['state', select.fn.countAll<number>().as('count')])
        .groupBy('state')
        .compile()
      return Object.fromEntries((await db.all(query)).map(({ state, count }) => [state, Number(count)]))
    },
  }

  function transition(after: SandboxRecord, from: SandboxState | null): BatchStep {
    const query = transitionInsert({
      sandbox_id: after.id,
      sequence: after.version,
      at: after.changedAt,
      from_state: from,
      to_state: after.state,
      reason: after.reason,
      detail: after.detail,
    })
    return { query, mustChange: 1 }
  }

  function metadataInsert({ id, metadata }: SandboxRecord): BatchStep[] {
    const rows = Object.entries(metadata).map(([name, value]) => ({ sandbox_id: id, name, value }))
    if (rows.length === 0) return []
    return [{ query: sql.insertInto('sandbox_metadata').values(rows).compile(), mustChange: rows.length }]
  }
}

/**
 * An insert whose text is made once: only its values differ, and making it is nearly half of what an insert costs the main thread. Rows with
 * other columns, or in another order, make it anew.
 */
function compiledOnce<Row extends object>(compile: (row: Row) => CompiledQuery): (row: Row) => CompiledQuery {
  let made: { query: CompiledQuery; columns: string } | undefined
  return (row) => {
    const columns = Object.keys(row).join()
    if (made?.columns !== columns) made = { query: compile(row), columns }
    return { ...made.query, parameters: Object.values(row) }
  }
}

function toRow(record: SandboxRecord): SandboxesTable {
  return {
    id: record.id,
    account_id: record.accountId,
    state: record.state,
    reason: record.reason,
    detail: record.detail,
    failure: record.failure && JSON.stringify(record.failure),
    template: record.template,
    runtime: record.runtime,
    cpu_milli: record.cpuMilli,
    memory_mb: record.memoryMb,
    disk_mb: record.diskMb,
    processes: record.processes,
    timeout_ms: record.timeoutMs,
    on_timeout: record.onTimeout,
    auto_resume: Number(record.autoResume),
    metadata: JSON.stringify(record.metadata),
    env: JSON.stringify(record.env),
    network: JSON.stringify(record.network),
    upper_id: record.upperId,
    box_id: record.boxId,
    user_namespace: record.userNamespace,
    starts: record.starts,
    version: record.version,
    created_at: record.createdAt,
    started_at: record.startedAt,
    end_at: record.endAt,
    changed_at: record.changedAt,
  }
}

function toRecord(row: SandboxesTable): SandboxRecord {
  return {
    id: row.id,
    accountId: row.account_id,
    state: row.state,
    reason: row.reason as TransitionReason,
    detail: row.detail,
    failure: row.failure === null ? null : (JSON.parse(row.failure) as { code: string; message: string }),
    template: row.template,
    runtime: row.runtime,
    cpuMilli: row.cpu_milli,
    memoryMb: row.memory_mb,
    diskMb: row.disk_mb,
    processes: row.processes,
    timeoutMs: row.timeout_ms,
    onTimeout: row.on_timeout,
    autoResume: row.auto_resume === 1,
    metadata: JSON.parse(row.metadata) as Record<string, string>,
    env: JSON.parse(row.env) as Record<string, string>,
    network: JSON.parse(row.network) as Network,
    upperId: row.upper_id,
    boxId: row.box_id,
    userNamespace: row.user_namespace,
    starts: row.starts,
    version: row.version,
    createdAt: row.created_at,
    startedAt: row.started_at,
    endAt: row.end_at,
    changedAt: row.changed_at,
  }
}
