import type { CompiledQuery } from 'kysely'
import type { BoxVolume } from '../drivers/driver.ts'
import type { BatchStep, Database } from '../kernel/db/database.ts'
import type { Place } from '../kernel/http/cursors.ts'
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
  /** As the driver knows it. */
  template: string
  /** What its template says, where that is one of the account's. */
  origin: { name: string; cwd?: string; user?: string } | null
  runtime: string
  cpuMilli: number
  memoryMb: number
  diskMb: number
  processes: number
  timeoutMs: number
  onTimeout: OnTimeout
  autoResume: boolean
  metadata: Record<string, string>
  /** Null where it was sealed under a SECRET_KEY that is lost. It never changes. */
  env: Record<string, string> | null
  network: Network
  volumes: BoxVolume[]
  upperId: string
  /** The workspace that its disk belongs to. */
  workspaceId: string | null
  idleTimeoutMs: number | null
  /** Whose computer it is, who pays for it; null: the account's own. */
  agentId: string | null
  /** That agent and those above it, from the first down: agents see the sandboxes of these alone. It never changes. */
  agentLine: readonly string[]
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

/** What only this installation reads, bound to the place where it lies. */
export interface Seal {
  seal(text: string, place: string): string
  /** Undefined for whatever was not sealed by the present SECRET_KEY for this place. */
  open(sealed: string, place: string): string | undefined
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
  only?: readonly string[] | undefined
  /** Of this agent alone. */
  agentId?: string | undefined
  /** Those that this agent may know of. */
  seenBy?: string | undefined
  states?: readonly SandboxState[] | undefined
  metadata: Readonly<Record<string, string>>
  limit: number
  before?: Place | undefined
}

interface SandboxesTable {
  id: string
  account_id: string
  state: SandboxState
  reason: string
  detail: string | null
  failure: string | null
  template: string
  origin: string | null
  runtime: string
  cpu_milli: number
  memory_mb: number
  disk_mb: number
  processes: number
  timeout_ms: number
  on_timeout: OnTimeout
  auto_resume: number
  metadata: string
  /** JSON if it is empty, else sealed: base64url never begins with a brace. */
  env: string
  network: string
  volumes: string
  upper_id: string
  workspace_id: string | null
  idle_timeout_ms: number | null
  agent_id: string | null
  /** Ids, each between spaces. */
  agent_line: string
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
/** Rows of an earlier version that are sealed in one commit. */
const sealRows = 200

export type SandboxStore = ReturnType<typeof createSandboxStore>

export function createSandboxStore(database: Database, seal: Seal) {
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
      const env = sealedEnv(record.id, JSON.stringify(record.env))
      steps.push({ query: sandboxInsert({ ...toRow(became ?? record), env }), mustChange: 1 })
      steps.push(...metadataInsert(record))
      steps.push(transition(record, null))
      if (became) steps.push(transition(became, record.state))
      return (await db.batch(steps)).applied
    },

    /** Takes back an `insert` of which nobody was told: neither the sandbox nor its key was ever there. */
    async withdraw({ id, accountId }: SandboxRecord, request?: WantedRequest): Promise<void> {
      const steps: BatchStep[] = [{ query: sql.deleteFrom('sandboxes').where('id', '=', id).compile() }]
      if (request) {
        const query = sql
          .deleteFrom('sandbox_requests')
          .where('account_id', '=', accountId)
          .where('idempotency_key', '=', request.key)
          .where('sandbox_id', '=', id)
          .compile()
        steps.push({ query })
      }
      await db.batch(steps)
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
          idle_timeout_ms: after.idleTimeoutMs,
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
    async list({
      accountId,
      only,
      agentId,
      seenBy,
      states,
      metadata,
      limit,
      before,
    }: SandboxFilter): Promise<SandboxRecord[]> {
      let query = sql.selectFrom('sandboxes').selectAll().where('account_id', '=', accountId)
      if (only?.length === 0) return []
      if (only) query = query.where('id', 'in', only)
      if (agentId !== undefined) query = query.where('agent_id', '=', agentId)
      if (seenBy !== undefined) {
        query = query.where((where) =>
          where.or([where('agent_id', 'is', null), where('agent_line', 'like', `% ${seenBy} %`)]),
        )
      }
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

    /** Of all accounts, those of agents that are not over. */
    async ofAgents(): Promise<{ sandboxId: string; agentId: string }[]> {
      const query = sql
        .selectFrom('sandboxes')
        .select(['id as sandboxId', 'agent_id as agentId'])
        .where('agent_id', 'is not', null)
        .where('state', 'not in', ['killed', 'failed'])
        .$narrowType<{ agentId: string }>()
      return db.all(query.compile())
    },

    /** Seals variables that an earlier version wrote in clear. Returns of how many sandboxes they were. */
    async sealPlain(): Promise<number> {
      let sealed = 0
      let after = ''
      for (;;) {
        const query = sql
          .selectFrom('sandboxes')
          .select(['id', 'env'])
          .where('id', '>', after)
          .where('env', 'like', '{%')
          .where('env', '!=', '{}')
          .orderBy('id')
          .limit(sealRows)
          .compile()
        const rows = await db.all(query)
        if (rows.length === 0) return sealed
        const steps = rows.map(({ id, env }) => ({
          query: sql
            .updateTable('sandboxes')
            .set({ env: sealedEnv(id, env) })
            .where('id', '=', id)
            .where('env', '=', env)
            .compile(),
        }))
        await db.batch(steps)
        sealed += rows.length
        after = rows.at(-1)!.id
      }
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

  function sealedEnv(sandboxId: string, json: string): string {
    return json === '{}' ? json : seal.seal(json, placeOf(sandboxId))
  }

  function toRecord(row: SandboxesTable): SandboxRecord {
    const json = row.env.startsWith('{') ? row.env : seal.open(row.env, placeOf(row.id))
    return recordOf(row, json === undefined ? null : (JSON.parse(json) as Record<string, string>))
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

function placeOf(sandboxId: string): string {
  return `env ${sandboxId}`
}

/** All but the variables, which are written once. */
function toRow(record: SandboxRecord): Omit<SandboxesTable, 'env'> {
  return {
    id: record.id,
    account_id: record.accountId,
    state: record.state,
    reason: record.reason,
    detail: record.detail,
    failure: record.failure && JSON.stringify(record.failure),
    template: record.template,
    origin: record.origin && JSON.stringify(record.origin),
    runtime: record.runtime,
    cpu_milli: record.cpuMilli,
    memory_mb: record.memoryMb,
    disk_mb: record.diskMb,
    processes: record.processes,
    timeout_ms: record.timeoutMs,
    on_timeout: record.onTimeout,
    auto_resume: Number(record.autoResume),
    metadata: JSON.stringify(record.metadata),
    network: JSON.stringify(record.network),
    volumes: JSON.stringify(record.volumes),
    upper_id: record.upperId,
    workspace_id: record.workspaceId,
    idle_timeout_ms: record.idleTimeoutMs,
    agent_id: record.agentId,
    agent_line: record.agentLine.length === 0 ? '' : ` ${record.agentLine.join(' ')} `,
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

function recordOf(row: SandboxesTable, env: SandboxRecord['env']): SandboxRecord {
  return {
    id: row.id,
    accountId: row.account_id,
    state: row.state,
    reason: row.reason as TransitionReason,
    detail: row.detail,
    failure: row.failure === null ? null : (JSON.parse(row.failure) as { code: string; message: string }),
    template: row.template,
    origin: row.origin === null ? null : (JSON.parse(row.origin) as SandboxRecord['origin']),
    runtime: row.runtime,
    cpuMilli: row.cpu_milli,
    memoryMb: row.memory_mb,
    diskMb: row.disk_mb,
    processes: row.processes,
    timeoutMs: row.timeout_ms,
    onTimeout: row.on_timeout,
    autoResume: row.auto_resume === 1,
    metadata: JSON.parse(row.metadata) as Record<string, string>,
    env,
    network: JSON.parse(row.network) as Network,
    volumes: JSON.parse(row.volumes) as BoxVolume[],
    upperId: row.upper_id,
    workspaceId: row.workspace_id,
    idleTimeoutMs: row.idle_timeout_ms,
    agentId: row.agent_id,
    agentLine: row.agent_line === '' ? [] : row.agent_line.trim().split(' '),
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
