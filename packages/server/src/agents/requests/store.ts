import type { Asker } from '../../approvals/door.ts'
import { isClash } from '../../kernel/db/clash.ts'
import type { Database } from '../../kernel/db/database.ts'
import type { Place } from '../../kernel/http/cursors.ts'
import { requestLimits } from './limits.ts'
import { isPending, type Sight } from './rules.ts'
import type { SuspensionRecord, TokenRequestRecord, TokenRequestState } from './record.ts'

interface Row {
  id: string
  account_id: string
  agent_id: string
  line: string
  tokens: number
  reason: string
  automatic: number
  state: TokenRequestState
  asker: string
  main_id: string | null
  main_until: number | null
  endorsed_by: string | null
  source: string | null
  approval_id: string | null
  asked_at: number
  expires_at: number
  decided_by: string | null
  decided_at: number | null
  refusal: string | null
  ended_at: number | null
  failure_code: string | null
  failure_text: string | null
  idempotency_key: string | null
  body_hash: string | null
  changed: number
}

interface SuspensionRow {
  agent_id: string
  account_id: string
  state: SuspensionRecord['state']
  wanted: number
  had: number
  at: number
}

interface Tables {
  token_requests: Row
  agent_suspensions: SuspensionRow
  agent_lines: { agent_id: string; above_id: string }
}

export interface TokenRequestFilter {
  accountId: string
  sight: Sight
  states?: readonly TokenRequestState[] | undefined
  agentId?: string | undefined
  now: number
  limit: number
  before?: Place | undefined
}

export interface RequestKey {
  key: string
  bodyHash: string
}

const changeable = {
  mainId: 'main_id',
  mainUntil: 'main_until',
  endorsedBy: 'endorsed_by',
  source: 'source',
  approvalId: 'approval_id',
  decidedBy: 'decided_by',
  decidedAt: 'decided_at',
  refusal: 'refusal',
  endedAt: 'ended_at',
  failureCode: 'failure_code',
  failureText: 'failure_text',
} as const satisfies Partial<Record<keyof TokenRequestRecord, keyof Row>>
export type Changes = Partial<Pick<TokenRequestRecord, keyof typeof changeable>>

export type TokenRequestStore = ReturnType<typeof createTokenRequestStore>

export function createTokenRequestStore(database: Database) {
  const db = database.of<Tables>()
  const { sql } = db
  const all = sql.selectFrom('token_requests').selectAll()

  const nextChange = (accountId: string) =>
    sql
      .selectFrom('token_requests as other')
      .select(({ eb, fn, lit }) => eb(fn.coalesce(fn.max('other.changed'), lit(0)), '+', lit(1)).as('next'))
      .where('other.account_id', '=', accountId)

  /** Two changes of an account at once ask for the same number; one of them asks again. */
  async function numbered<Result>(write: () => Promise<Result>): Promise<Result> {
    for (let left: number = requestLimits.clashes; ; left--) {
      try {
        return await write()
      } catch (error) {
        if (left === 0 || !isClash(error)) throw error
      }
    }
  }

  async function first(query: typeof all): Promise<TokenRequestRecord | undefined> {
    const row = await db.first(query.compile())
    return row && toRecord(row)
  }

  async function many(query: typeof all): Promise<TokenRequestRecord[]> {
    return (await db.all(query.compile())).map(toRecord)
  }

  return {
    /** False where the agent waits for one already, or the key is known. */
    async insert(record: Omit<TokenRequestRecord, 'changed'>, key?: RequestKey): Promise<boolean> {
      const { accountId, agentId } = record
      const row = { ...toRow(record, key), changed: nextChange(accountId) }
      return numbered(async () => {
        try {
          await db.run(sql.insertInto('token_requests').values(row).compile())
          return true
        } catch (error) {
          if (!isClash(error)) throw error
          if ((await this.openOf(agentId)) || (key && (await this.withKey(agentId, key.key)))) return false
          throw error
        }
      })
    },

    get: (id: string) => first(all.where('id', '=', id)),

    openOf: (agentId: string) => first(all.where('agent_id', '=', agentId).where('ended_at', 'is', null)),

    ofApproval: (approvalId: string) => first(all.where('approval_id', '=', approvalId)),

    async withKey(agentId: string, key: string) {
      const query = all.where('agent_id', '=', agentId).where('idempotency_key', '=', key)
      const row = await db.first(query.compile())
      return row && { request: toRecord(row), bodyHash: row.body_hash }
    },

    async countAsked(agentId: string, since: number): Promise<number> {
      const query = sql
        .selectFrom('token_requests')
        .select(({ fn }) => fn.countAll<number>().as('found'))
        .where('agent_id', '=', agentId)
        .where('asked_at', '>', since)
      return Number((await db.first(query.compile()))?.found ?? 0)
    },

    /** Whether somebody said no to what the server asked for it. */
    async wasRefused(agentId: string, since: number): Promise<boolean> {
      const query = sql
        .selectFrom('token_requests')
        .select('id')
        .where('agent_id', '=', agentId)
        .where('asked_at', '>=', since)
        .where('automatic', '=', 1)
        .where('state', '=', 'refused')
        .limit(1)
      return (await db.first(query.compile())) !== undefined
    },

    /** Only from the state in which it was seen; false where it has another by now. */
    async move(record: TokenRequestRecord, to: TokenRequestState, changes: Changes = {}): Promise<boolean> {
      const columns = Object.entries(changes).map(([name, value]) => [changeable[name as keyof Changes], value])
      const query = sql
        .updateTable('token_requests')
        .set({ state: to, changed: nextChange(record.accountId), ...Object.fromEntries(columns) })
        .where('id', '=', record.id)
        .where('state', '=', record.state)
      return numbered(async () => (await db.run(query.compile())).changed === 1)
    },

    /** Which approval a person decides on. */
    async attach({ id, accountId }: TokenRequestRecord, approvalId: string): Promise<void> {
      const query = sql
        .updateTable('token_requests')
        .set({ approval_id: approvalId, changed: nextChange(accountId) })
        .where('id', '=', id)
        .where('state', '=', 'pending_user')
        .where('approval_id', 'is', null)
      await numbered(() => db.run(query.compile()))
    },

    /** Newest first. All of the filter is in the statement: what was left out after it would make pages short, or the last of them. */
    async list(filter: TokenRequestFilter): Promise<TokenRequestRecord[]> {
      const { accountId, states, agentId, now, limit, before } = filter
      const { below, only } = filter.sight
      if (only?.length === 0) return []
      let query = all.where('account_id', '=', accountId)
      if (only) query = query.where('agent_id', 'in', only)
      if (agentId !== undefined) query = query.where('agent_id', '=', agentId)
      if (states) {
        query = query.where((where) => {
          const pending = states.filter(isPending)
          const others = states.filter((state) => !isPending(state))
          const either = []
          if (others.length > 0) either.push(where('state', 'in', others))
          if (pending.length > 0) either.push(where.and([where('state', 'in', pending), where('expires_at', '>', now)]))
          if (states.includes('expired')) {
            const late = where.and([
              where('state', 'in', ['pending_main', 'pending_user']),
              where('expires_at', '<=', now),
            ])
            either.push(late)
          }
          return where.or(either)
        })
      }
      if (below !== undefined) {
        query = query.where((where) =>
          where.exists(
            where
              .selectFrom('agent_lines')
              .select('agent_lines.agent_id')
              .whereRef('agent_lines.agent_id', '=', 'token_requests.agent_id')
              .where('agent_lines.above_id', '=', below),
          ),
        )
      }
      if (before) {
        query = query.where((where) =>
          where.or([
            where('asked_at', '<', before.createdAt),
            where.and([where('asked_at', '=', before.createdAt), where('id', '<', before.id)]),
          ]),
        )
      }
      return many(query.orderBy('asked_at', 'desc').orderBy('id', 'desc').limit(limit))
    },

    async lastChange(accountId: string): Promise<number> {
      const query = sql
        .selectFrom('token_requests')
        .select('changed')
        .where('account_id', '=', accountId)
        .orderBy('changed', 'desc')
        .limit(1)
      return (await db.first(query.compile()))?.changed ?? 0
    },

    /** In the order of their last change. Up to `openUntil` only what is not over. */
    changedAfter(
      accountId: string,
      { after, openUntil, limit }: { after: number; openUntil: number; limit: number },
    ): Promise<TokenRequestRecord[]> {
      const query = all
        .where('account_id', '=', accountId)
        .where('changed', '>', after)
        .where((where) => where.or([where('changed', '>', openUntil), where('ended_at', 'is', null)]))
      return many(query.orderBy('changed').limit(limit))
    },

    waitingFor: (mainId: string) =>
      many(all.where('state', '=', 'pending_main').where('main_id', '=', mainId).limit(requestLimits.swept)),

    /** The main agent did not say a word in time. */
    unanswered: (now: number) =>
      many(
        all
          .where('state', '=', 'pending_main')
          .where('main_until', '<=', now)
          .where('expires_at', '>', now)
          .orderBy('main_until')
          .limit(requestLimits.swept),
      ),

    due: (now: number) =>
      many(
        all
          .where('state', 'in', ['pending_main', 'pending_user'])
          .where('expires_at', '<=', now)
          .orderBy('expires_at')
          .limit(requestLimits.swept),
      ),

    /** A person is to be asked, and whoever was to ask did not. */
    unasked: (now: number) =>
      many(
        all
          .where('state', '=', 'pending_user')
          .where('approval_id', 'is', null)
          .where('expires_at', '>', now)
          .orderBy('asked_at')
          .limit(requestLimits.swept),
      ),

    /** With an approval that may have ended, and with a transfer that may have been done. */
    unsettled: (after: string) =>
      many(
        all
          .where('state', 'in', ['pending_user', 'granting'])
          .where('approval_id', 'is not', null)
          .where('id', '>', after)
          .orderBy('id')
          .limit(requestLimits.swept),
      ),

    halfGranted: (decidedBefore: number) =>
      many(
        all
          .where('state', '=', 'granting')
          .where('approval_id', 'is', null)
          .where('decided_at', '<=', decidedBefore)
          .orderBy('decided_at')
          .limit(requestLimits.swept),
      ),

    /** The account's last change stays, so that no number is given twice. */
    async forget(endedBefore: number): Promise<void> {
      const query = sql
        .deleteFrom('token_requests')
        .where('ended_at', '<', endedBefore)
        .where(({ exists, selectFrom }) =>
          exists(
            selectFrom('token_requests as other')
              .select('other.id')
              .whereRef('other.account_id', '=', 'token_requests.account_id')
              .whereRef('other.changed', '>', 'token_requests.changed'),
          ),
        )
      await db.run(query.compile())
    },

    async suspension(agentId: string): Promise<SuspensionRecord | undefined> {
      const query = sql.selectFrom('agent_suspensions').selectAll().where('agent_id', '=', agentId)
      const row = await db.first(query.compile())
      return row && toSuspension(row)
    },

    async putSuspension(record: SuspensionRecord): Promise<void> {
      const { agentId: agent_id, accountId: account_id, state, wanted, had, at } = record
      const query = sql
        .insertInto('agent_suspensions')
        .values({ agent_id, account_id, state, wanted, had, at })
        .onConflict((conflict) => conflict.column('agent_id').doUpdateSet({ state, wanted, had, at }))
      await db.run(query.compile())
    },

    async dropSuspension(agentId: string): Promise<void> {
      await db.run(sql.deleteFrom('agent_suspensions').where('agent_id', '=', agentId).compile())
    },

    async suspensions(after: string): Promise<SuspensionRecord[]> {
      const query = sql.selectFrom('agent_suspensions').selectAll().where('agent_id', '>', after)
      return (await db.all(query.orderBy('agent_id').limit(requestLimits.swept).compile())).map(toSuspension)
    },
  }
}

function toSuspension({ agent_id, account_id, state, wanted, had, at }: SuspensionRow): SuspensionRecord {
  return { agentId: agent_id, accountId: account_id, state, wanted, had, at }
}

function toRow(record: Omit<TokenRequestRecord, 'changed'>, key: RequestKey | undefined): Omit<Row, 'changed'> {
  return {
    id: record.id,
    account_id: record.accountId,
    agent_id: record.agentId,
    line: JSON.stringify(record.line),
    tokens: record.tokens,
    reason: record.reason,
    automatic: Number(record.automatic),
    state: record.state,
    asker: JSON.stringify(record.asker),
    main_id: record.mainId,
    main_until: record.mainUntil,
    endorsed_by: record.endorsedBy,
    source: record.source,
    approval_id: record.approvalId,
    asked_at: record.askedAt,
    expires_at: record.expiresAt,
    decided_by: record.decidedBy,
    decided_at: record.decidedAt,
    refusal: record.refusal,
    ended_at: record.endedAt,
    failure_code: record.failureCode,
    failure_text: record.failureText,
    idempotency_key: key?.key ?? null,
    body_hash: key?.bodyHash ?? null,
  }
}

function toRecord(row: Row): TokenRequestRecord {
  return {
    id: row.id,
    accountId: row.account_id,
    agentId: row.agent_id,
    line: JSON.parse(row.line) as string[],
    tokens: row.tokens,
    reason: row.reason,
    automatic: row.automatic === 1,
    state: row.state,
    asker: JSON.parse(row.asker) as Asker,
    mainId: row.main_id,
    mainUntil: row.main_until,
    endorsedBy: row.endorsed_by,
    source: row.source,
    approvalId: row.approval_id,
    askedAt: row.asked_at,
    expiresAt: row.expires_at,
    decidedBy: row.decided_by,
    decidedAt: row.decided_at,
    refusal: row.refusal,
    endedAt: row.ended_at,
    failureCode: row.failure_code,
    failureText: row.failure_text,
    changed: row.changed,
  }
}
