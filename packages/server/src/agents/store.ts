import type { Right } from '../access/callers/door.ts'
import { compiledOnce } from '../kernel/db/compile.ts'
import type { BatchStep, Database } from '../kernel/db/database.ts'
import type { Place } from '../kernel/http/cursors.ts'
import type { AgentKind, AgentState, Channel } from './schema.ts'
import { shownStates } from './schema.ts'

/** One agent as it is stored. Amounts are micro-tokens, times unix milliseconds. */
export interface AgentRecord {
  id: string
  accountId: string
  name: string
  kind: AgentKind
  parentId: string | null
  state: AgentState
  task: string | null
  channel: Channel | null
  template: string
  memoryMb: number
  /** Its own; what it may is what is left after all above it. */
  rights: readonly Right[]
  /** What it is made with. */
  budget: number
  monthly: number
  /** What it may give one of its bots at once, by its own decision, without a person's confirmation. */
  confirmAbove: number
  workspaceId: string | null
  sandboxId: string | null
  /** Guards every write. */
  version: number
  createdAt: number
  changedAt: number
}

export interface SavedRequest {
  bodyHash: string
  agentId: string
}

export interface AgentFilter {
  accountId: string
  /** Agents above which all must stand that are listed, or be it themselves. */
  below?: string | undefined
  only?: readonly string[] | undefined
  state?: AgentState | undefined
  kind?: AgentKind | undefined
  parentId?: string | undefined
  limit: number
  before?: Place | undefined
}

interface AgentsTable {
  id: string
  account_id: string
  name: string
  kind: AgentKind
  parent_id: string | null
  state: AgentState
  ended: number
  task: string | null
  channel: Channel | null
  template: string
  memory_mb: number
  rights: string
  budget: number
  monthly: number
  confirm_above: number
  workspace_id: string | null
  sandbox_id: string | null
  version: number
  created_at: number
  changed_at: number
}

interface Tables {
  agents: AgentsTable
  agent_lines: { agent_id: string; above_id: string; distance: number }
  agent_counts: { account_id: string; live: number }
  agent_requests: {
    account_id: string
    idempotency_key: string
    body_hash: string
    agent_id: string
    created_at: number
  }
}

export type Inserted = 'made' | 'full' | 'known'

/** Old requests one clean-up removes at most. */
const purgeRows = 1_000

export type AgentStore = ReturnType<typeof createAgentStore>

export function createAgentStore(database: Database) {
  const db = database.of<Tables>()
  const sql = db.sql
  const lineOf = compiledOnce((id) =>
    sql
      .selectFrom('agent_lines')
      .innerJoin('agents', 'agents.id', 'agent_lines.above_id')
      .selectAll('agents')
      .where('agent_lines.agent_id', '=', id)
      .orderBy('agent_lines.distance', 'desc'),
  )

  return {
    /**
     * The row of a new agent, with its line, its request and its place among those that the plan allows: all or none. `limit` undefined: any number.
     */
    async insert(
      record: AgentRecord,
      {
        line,
        limit,
        request,
      }: {
        line: readonly string[]
        limit: number | undefined
        request?: { key: string; bodyHash: string } | undefined
      },
    ): Promise<Inserted> {
      const { accountId: account_id, id: agent_id, createdAt: created_at } = record
      const steps: BatchStep[] = []
      if (request) {
        const row = { account_id, idempotency_key: request.key, body_hash: request.bodyHash, agent_id, created_at }
        steps.push({
          query: sql
            .insertInto('agent_requests')
            .values(row)
            .onConflict((conflict) => conflict.doNothing())
            .compile(),
          mustChange: 1,
        })
      }
      const fresh = sql.insertInto('agent_counts').values({ account_id, live: 0 })
      steps.push({ query: fresh.onConflict((conflict) => conflict.doNothing()).compile() })
      const count = sql
        .updateTable('agent_counts')
        .set((set) => ({ live: set('live', '+', 1) }))
        .where('account_id', '=', account_id)
      const place = steps.length
      steps.push({ query: (limit === undefined ? count : count.where('live', '<', limit)).compile(), mustChange: 1 })
      steps.push({ query: sql.insertInto('agents').values(rowOf(record)).compile(), mustChange: 1 })
      const lines = line.map((above_id, at) => ({ agent_id, above_id, distance: line.length - 1 - at }))
      steps.push({ query: sql.insertInto('agent_lines').values(lines).compile(), mustChange: lines.length })
      const { applied, failedStep } = await db.batch(steps)
      if (applied) return 'made'
      return failedStep === place ? 'full' : 'known'
    },

    /** False when the row is no longer as `before` says. `more`: written with it. */
    async update(before: AgentRecord, after: AgentRecord, more: readonly BatchStep[] = []): Promise<boolean> {
      const { id: _, account_id: __, created_at: ___, workspace_id: ____, sandbox_id: _____, ...changes } = rowOf(after)
      const query = sql
        .updateTable('agents')
        .set({ ...changes, version: before.version + 1 })
        .where('id', '=', before.id)
        .where('version', '=', before.version)
        .compile()
      const steps: BatchStep[] = [{ query, mustChange: 1 }, ...more]
      if (before.state !== 'archived' && after.state === 'archived') steps.push(oneLess(before.accountId))
      return (await db.batch(steps)).applied
    },

    /** Where it works from now on: nothing else of it changes, so no version says so. */
    async setComputer(
      id: string,
      { workspaceId, sandboxId }: { workspaceId: string; sandboxId: string },
    ): Promise<void> {
      const changes = { workspace_id: workspaceId, sandbox_id: sandboxId }
      await db.run(sql.updateTable('agents').set(changes).where('id', '=', id).compile())
    },

    /** Forgets one whose making is undone, and its request: whoever asks again gets another try. */
    async remove({ id, accountId }: AgentRecord): Promise<void> {
      await db.batch([
        {
          query: sql.deleteFrom('agents').where('id', '=', id).where('state', '=', 'undoing').compile(),
          mustChange: 1,
        },
        {
          query: sql
            .deleteFrom('agent_requests')
            .where('account_id', '=', accountId)
            .where('agent_id', '=', id)
            .compile(),
        },
        oneLess(accountId),
      ])
    },

    async get(id: string): Promise<AgentRecord | undefined> {
      const row = await db.first(sql.selectFrom('agents').selectAll().where('id', '=', id).compile())
      return row && recordOf(row)
    },

    /** The agent with all above it, from the first down; empty where there is none. */
    async line(id: string): Promise<AgentRecord[]> {
      return (await db.all(lineOf(id))).map(recordOf)
    },

    /** The same for every request of an agent. */
    async lookUpLine(id: string): Promise<AgentRecord[]> {
      return (await db.lookUp(lineOf(id))).map(recordOf)
    },

    /** The lines of several at once, by agent. */
    async lines(ids: readonly string[]): Promise<Map<string, AgentRecord[]>> {
      const found = new Map<string, AgentRecord[]>()
      if (ids.length === 0) return found
      const query = sql
        .selectFrom('agent_lines')
        .innerJoin('agents', 'agents.id', 'agent_lines.above_id')
        .selectAll('agents')
        .select('agent_lines.agent_id as of')
        .where('agent_lines.agent_id', 'in', ids)
        .orderBy('agent_lines.distance', 'desc')
        .compile()
      for (const { of, ...row } of await db.all(query)) found.set(of, [...(found.get(of) ?? []), recordOf(row)])
      return found
    },

    /** Newest first; those that are archived only where that is asked for. */
    async list({ accountId, below, only, state, kind, parentId, limit, before }: AgentFilter): Promise<AgentRecord[]> {
      if (only?.length === 0) return []
      let query = sql
        .selectFrom('agents')
        .selectAll()
        .where('account_id', '=', accountId)
        .where('ended', '=', state === 'archived' ? 1 : 0)
        .where('state', 'in', state ? [state] : shownStates.filter((one) => one !== 'archived'))
      if (only) query = query.where('id', 'in', only)
      if (kind) query = query.where('kind', '=', kind)
      if (parentId !== undefined) query = query.where('parent_id', '=', parentId)
      if (below !== undefined) {
        query = query.where((where) =>
          where.exists(
            where
              .selectFrom('agent_lines')
              .select('agent_lines.agent_id')
              .whereRef('agent_lines.agent_id', '=', 'agents.id')
              .where('agent_lines.above_id', '=', below),
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
      return rows.map(recordOf)
    },

    /** Of those below it, itself included, that are not archived: the deepest first. */
    async living(id: string): Promise<AgentRecord[]> {
      const query = sql
        .selectFrom('agent_lines')
        .innerJoin('agents', 'agents.id', 'agent_lines.agent_id')
        .selectAll('agents')
        .where('agent_lines.above_id', '=', id)
        .where('agents.ended', '=', 0)
        .orderBy('agent_lines.distance', 'desc')
        .compile()
      return (await db.all(query)).map(recordOf)
    },

    /** Whether one right below it is not archived yet. */
    async hasLivingChild(id: string): Promise<boolean> {
      const query = sql.selectFrom('agents').select('id').where('parent_id', '=', id).where('ended', '=', 0).limit(1)
      return (await db.first(query.compile())) !== undefined
    },

    /** Of all accounts, those in one of these states; `untouchedSince`: that nobody has changed since then. */
    async inStates(
      states: readonly AgentState[],
      { untouchedSince }: { untouchedSince?: number | undefined } = {},
    ): Promise<AgentRecord[]> {
      let query = sql.selectFrom('agents').selectAll().where('state', 'in', states)
      if (untouchedSince !== undefined) query = query.where('changed_at', '<', untouchedSince)
      return (await db.all(query.orderBy('id').compile())).map(recordOf)
    },

    async savedRequest(accountId: string, key: string): Promise<SavedRequest | undefined> {
      const query = sql
        .selectFrom('agent_requests')
        .select(['body_hash', 'agent_id'])
        .where('account_id', '=', accountId)
        .where('idempotency_key', '=', key)
        .compile()
      const row = await db.first(query)
      return row && { bodyHash: row.body_hash, agentId: row.agent_id }
    },

    /** Forgets requests from before `before`. */
    async purge(before: number): Promise<void> {
      const old = sql.selectFrom('agent_requests').select('agent_id').where('created_at', '<', before).limit(purgeRows)
      await db.run(sql.deleteFrom('agent_requests').where('agent_id', 'in', old).compile())
    },
  }

  function oneLess(accountId: string): BatchStep {
    const query = sql
      .updateTable('agent_counts')
      .set((set) => ({ live: set('live', '-', 1) }))
      .where('account_id', '=', accountId)
      .compile()
    return { query, mustChange: 1 }
  }
}

function rowOf(record: AgentRecord): AgentsTable {
  return {
    id: record.id,
    account_id: record.accountId,
    name: record.name,
    kind: record.kind,
    parent_id: record.parentId,
    state: record.state,
    ended: Number(record.state === 'archived'),
    task: record.task,
    channel: record.channel,
    template: record.template,
    memory_mb: record.memoryMb,
    rights: JSON.stringify(record.rights),
    budget: record.budget,
    monthly: record.monthly,
    confirm_above: record.confirmAbove,
    workspace_id: record.workspaceId,
    sandbox_id: record.sandboxId,
    version: record.version,
    created_at: record.createdAt,
    changed_at: record.changedAt,
  }
}

function recordOf(row: AgentsTable): AgentRecord {
  return {
    id: row.id,
    accountId: row.account_id,
    name: row.name,
    kind: row.kind,
    parentId: row.parent_id,
    state: row.state,
    task: row.task,
    channel: row.channel,
    template: row.template,
    memoryMb: row.memory_mb,
    rights: JSON.parse(row.rights) as Right[],
    budget: row.budget,
    monthly: row.monthly,
    confirmAbove: row.confirm_above,
    workspaceId: row.workspace_id,
    sandboxId: row.sandbox_id,
    version: row.version,
    createdAt: row.created_at,
    changedAt: row.changed_at,
  }
}
