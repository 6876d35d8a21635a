import { type ExpressionBuilder, expressionBuilder, type ExpressionWrapper, sql as raw } from 'kysely'
import type { Database } from '../kernel/db/database.ts'
import type { Sight } from './allocation.ts'
import { readingLimits } from './reading-limits.ts'
import { sideId, type TransferKind } from './book.ts'
import type { HoldState, Period, PurseKind } from './operations.ts'
import type { UsageGroup } from './schema.ts'

/** What is read of an account's ledger, as it is stored; amounts are micro-tokens, times unix milliseconds. */
export interface PurseRow {
  id: string
  account_id: string
  kind: PurseKind
  parent_id: string | null
  state: 'open' | 'closing' | 'archived'
  granted: number
  bought: number
  held: number
  used: number
  monthly: number
  number: number
}

export interface TransferRow {
  account_id: string
  seq: number
  at: number
  kind: TransferKind
  debit: string
  credit: string
  amount: number
  sort: 'granted' | 'bought'
  hold_id: string | null
  reference: string | null
  reason: string | null
}

export interface HoldRow {
  id: string
  account_id: string
  payer: string
  granted: number
  bought: number
  kind: string
  agent_id: string | null
  task_id: string | null
  sandbox_id: string | null
  state: HoldState
  cost: number
  refunded: number
  made_at: number
  made_seq: number
  ended_at: number | null
}

interface LedgerTables {
  ledger_tenants: { account_id: string; period: Period; seq: number }
  ledger_accounts: Pick<PurseRow, 'id' | 'account_id' | 'kind' | 'parent_id'>
  ledger_accounts_whole: PurseRow
  ledger_transfers: TransferRow
  ledger_holds: HoldRow
  ledger_usage: {
    account_id: string
    hour: number
    kind: string
    agent_id: string
    task_id: string
    sandbox_id: string
    meter: string
    quantity: number
    cost: number
    estimated: number
  }
}

/** Depth is bounded where purses are made; this only ends a search in rows that are broken. */
const mostLinks = 16

/** Part of a list, newest first. Undefined `next`: nothing comes after it. */
export interface JournalPage<Row> {
  rows: Row[]
  next: number | undefined
}

export interface TransferFilter {
  /** Only what comes before this position. */
  before?: number | undefined
  kind?: TransferKind | undefined
  from?: number | undefined
  to?: number | undefined
  limit: number
}

export interface HoldFilter {
  before?: number | undefined
  state?: HoldState | undefined
  limit: number
}

/** Values of the groups that are asked for, in the order of `usageOrder`. */
export type UsagePlace = (string | number)[]

export interface UsageFilter {
  groups: readonly UsageGroup[]
  from: number
  to: number
  agentId?: string | undefined
  taskId?: string | undefined
  sandboxId?: string | undefined
  kind?: string | undefined
  meter?: string | undefined
  after?: UsagePlace | undefined
  limit: number
}

export interface UsageRow {
  place: UsagePlace
  quantity: number
  cost: number
  estimated: number
}

export interface SpentRow {
  spent: number
  since: number | undefined
}

const dayMs = 86_400_000

const eb = expressionBuilder<LedgerTables, 'ledger_usage'>()
/** Usage is given by time first. */
export const usageOrder = ['hour', 'day', 'agent', 'task', 'sandbox', 'kind', 'meter'] as const satisfies UsageGroup[]
const groupOf: Record<UsageGroup, ExpressionWrapper<LedgerTables, 'ledger_usage', string | number>> = {
  hour: eb.ref('hour'),
  day: eb('hour', '-', eb('hour', '%', eb.lit(dayMs))),
  agent: eb.ref('agent_id'),
  task: eb.ref('task_id'),
  sandbox: eb.ref('sandbox_id'),
  kind: eb.ref('kind'),
  meter: eb.ref('meter'),
}

/** After that place, in the order of the first value, then the second, and so on. */
function follows(
  places: readonly ExpressionWrapper<LedgerTables, 'ledger_usage', string | number>[],
  after: UsagePlace,
) {
  return eb.or(
    places.map((place, at) =>
      eb.and([...places.slice(0, at).map((same, index) => eb(same, '=', after[index]!)), eb(place, '>', after[at]!)]),
    ),
  )
}

function availableOf(select: ExpressionBuilder<LedgerTables, 'ledger_accounts_whole'>) {
  return select(select('granted', '+', select.ref('bought')), '+', select.ref('held'))
}

export type LedgerReading = ReturnType<typeof createLedgerReading>

/** Reads what the lists show. Decides nothing: what it answers may have changed by the time it is seen. */
export function createLedgerReading(database: Database) {
  const db = database.of<LedgerTables>()
  const { sql } = db

  /** The purse and all below it. */
  const below = (accountId: string, purseId: string) =>
    sql
      .withRecursive('below(id, depth)', (start) =>
        start
          .selectFrom('ledger_accounts')
          .select((select) => ['ledger_accounts.id', select.lit(0).as('depth')])
          .where('account_id', '=', accountId)
          .where('id', '=', purseId)
          .where('kind', 'in', ['reserve', 'agent', 'task'])
          .unionAll((rest) =>
            rest
              .selectFrom('ledger_accounts')
              .innerJoin('below', 'below.id', 'ledger_accounts.parent_id')
              .select((select) => ['ledger_accounts.id', select('below.depth', '+', 1).as('depth')])
              .where('below.depth', '<', mostLinks),
          ),
      )
      .selectFrom('below')
      .select('below.id')

  async function lastSeq(accountId: string): Promise<number> {
    const query = sql.selectFrom('ledger_tenants').select('seq').where('account_id', '=', accountId)
    return (await db.first(query.compile()))?.seq ?? 0
  }

  /** Of a part of the journal so many entries are looked through at once: who had few of them does not hold the database for long. */
  async function spanOf(accountId: string, before: number | undefined, isPart: boolean) {
    const end = before ?? (await lastSeq(accountId)) + 1
    const begin = isPart ? Math.max(0, end - readingLimits.searched) : 0
    return { begin, end, next: begin > 1 ? begin : undefined }
  }

  const journal = ({ accountId, below: root }: Sight) => {
    const query = sql.selectFrom('ledger_transfers').selectAll().where('account_id', '=', accountId)
    if (root === undefined) return query
    return query.where((where) =>
      where.or([
        where('debit', 'in', below(accountId, root)),
        where('credit', 'in', below(accountId, root)),
        // Of what is spent of a hold, or expires in it, neither end is the purse that pays.
        where.and([
          where('kind', 'in', ['commit', 'absorb', 'expire']),
          where.exists(
            where
              .selectFrom('ledger_holds')
              .select('ledger_holds.id')
              .whereRef('ledger_holds.id', '=', 'ledger_transfers.hold_id')
              .where('payer', 'in', below(accountId, root)),
          ),
        ]),
      ]),
    )
  }

  const usage = ({ accountId, below: root }: Sight, { from, to }: { from: number; to: number }) => {
    const query = sql
      .selectFrom('ledger_usage')
      .where('account_id', '=', accountId)
      .where('hour', '>=', from)
      .where('hour', '<', to)
    if (root === undefined) return query
    return query.where((where) =>
      where.or([where('agent_id', 'in', below(accountId, root)), where('task_id', 'in', below(accountId, root))]),
    )
  }

  return {
    lastSeq,

    async period(accountId: string): Promise<Period> {
      const query = sql.selectFrom('ledger_tenants').select('period').where('account_id', '=', accountId)
      return (await db.first(query.compile()))!.period
    },

    async owed(accountId: string): Promise<number> {
      const query = sql.selectFrom('ledger_accounts_whole').selectAll().where('id', '=', sideId(accountId, 'owed'))
      const row = await db.first(query.compile())
      return row ? -(row.granted + row.bought) : 0
    },

    /** Whether the purse is there and within sight: looked for upwards, where there is little, however much is below. */
    async isSeen({ accountId, below: root }: Sight, purseId: string): Promise<boolean> {
      const query = sql
        .withRecursive('above(id, parent_id, height)', (start) =>
          start
            .selectFrom('ledger_accounts')
            .select((select) => ['ledger_accounts.id', 'ledger_accounts.parent_id', select.lit(0).as('height')])
            .where('account_id', '=', accountId)
            .where('id', '=', purseId)
            .where('kind', 'in', ['reserve', 'agent', 'task'])
            .unionAll((rest) =>
              rest
                .selectFrom('ledger_accounts')
                .innerJoin('above', 'above.parent_id', 'ledger_accounts.id')
                .select((select) => [
                  'ledger_accounts.id',
                  'ledger_accounts.parent_id',
                  select('above.height', '+', 1).as('height'),
                ])
                .where('above.height', '<', mostLinks),
            ),
        )
        .selectFrom('above')
        .select('above.id')
      const found = await db.first((root === undefined ? query : query.where('above.id', '=', root)).limit(1).compile())
      return found !== undefined
    },

    /** In the order in which they were made, so each after the one above it; at most one more than an answer may have. */
    async purses({ accountId, below: root }: Sight, { archived }: { archived: boolean }): Promise<PurseRow[]> {
      // What is below a purse is of its account: to ask for the account too would have all of that looked through.
      const all = sql.selectFrom('ledger_accounts_whole').selectAll().where('kind', 'in', ['reserve', 'agent', 'task'])
      let query =
        root === undefined ? all.where('account_id', '=', accountId) : all.where('id', 'in', below(accountId, root))
      // In the words of the index.
      if (!archived) query = query.where('state', '<>', raw.lit('archived'))
      const ordered = query.orderBy('number')
      return db.all(ordered.limit(readingLimits.purses + 1).compile())
    },

    /** Newest first. */
    async transfers(
      sight: Sight,
      { before, kind, from, to, limit }: TransferFilter,
    ): Promise<JournalPage<TransferRow>> {
      const isPart = [sight.below, kind, from, to].some((one) => one !== undefined)
      const span = await spanOf(sight.accountId, before, isPart)
      let query = journal(sight).where('seq', '<', span.end).where('seq', '>=', span.begin)
      if (kind !== undefined) query = query.where('kind', '=', kind)
      if (from !== undefined) query = query.where('at', '>=', from)
      if (to !== undefined) query = query.where('at', '<', to)
      const found = await db.all(
        query
          .orderBy('seq', 'desc')
          .limit(limit + 1)
          .compile(),
      )
      const rows = found.slice(0, limit)
      return { rows, next: found.length > limit ? rows.at(-1)!.seq : span.next }
    },

    /** Oldest first; `next` is the position up to which was looked. */
    async after(sight: Sight, seq: number, limit: number): Promise<{ rows: TransferRow[]; next: number }> {
      const end = Math.min(await lastSeq(sight.accountId), seq + readingLimits.searched)
      if (end <= seq) return { rows: [], next: seq }
      const query = journal(sight).where('seq', '>', seq).where('seq', '<=', end)
      const rows = await db.all(query.orderBy('seq').limit(limit).compile())
      return { rows, next: rows.length === limit ? rows.at(-1)!.seq : end }
    },

    /** Newest first. */
    async holds(sight: Sight, { before, state, limit }: HoldFilter): Promise<JournalPage<HoldRow>> {
      const { accountId, below: root } = sight
      const isPart = root !== undefined || state !== undefined
      const span = await spanOf(accountId, before, isPart)
      let query = sql
        .selectFrom('ledger_holds')
        .selectAll()
        .where('account_id', '=', accountId)
        .where('made_seq', '<', span.end)
        .where('made_seq', '>=', span.begin)
      if (root !== undefined) query = query.where('payer', 'in', below(accountId, root))
      if (state !== undefined) query = query.where('state', '=', state)
      const found = await db.all(
        query
          .orderBy('made_seq', 'desc')
          .limit(limit + 1)
          .compile(),
      )
      const rows = found.slice(0, limit)
      return { rows, next: found.length > limit ? rows.at(-1)!.made_seq : span.next }
    },

    /** In the order of their places. */
    async usage(sight: Sight, { groups, after, limit, ...filter }: UsageFilter): Promise<UsageRow[]> {
      const { agentId, taskId, sandboxId, kind, meter } = filter
      let query = usage(sight, filter)
      if (agentId !== undefined) query = query.where('agent_id', '=', agentId)
      if (taskId !== undefined) query = query.where('task_id', '=', taskId)
      if (sandboxId !== undefined) query = query.where('sandbox_id', '=', sandboxId)
      if (kind !== undefined) query = query.where('kind', '=', kind)
      if (meter !== undefined) query = query.where('meter', '=', meter)
      const places = usageOrder.filter((group) => groups.includes(group)).map((group) => groupOf[group])
      if (after) query = query.where(follows(places, after))
      // What lies before it is not read again: rows are found by their hour.
      if (after && (groups.includes('hour') || groups.includes('day')))
        query = query.where('hour', '>=', Number(after[0]))
      const names = places.map((_, at) => `g${at}`)
      const grouped = query
        .select(places.map((place, at) => place.as(names[at]!)))
        .select(({ fn }) => [
          fn.sum<number>('quantity').as('quantity'),
          fn.sum<number>('cost').as('cost'),
          fn.sum<number>('estimated').as('estimated'),
        ])
        .$call((all) => places.reduce((some, place) => some.groupBy(place).orderBy(place), all))
      const rows = await db.all(grouped.limit(limit).compile())
      return rows
        .filter(({ cost }) => cost !== null)
        .map((row) => ({
          place: names.map((name) => Reflect.get(row, name) as string | number),
          quantity: row.quantity,
          cost: row.cost,
          estimated: row.estimated,
        }))
    },

    /** All of the usage that is within sight. */
    async spent(sight: Sight, span: { from: number; to: number }): Promise<SpentRow> {
      const query = usage(sight, span).select(({ fn }) => [
        fn.sum<number | null>('cost').as('spent'),
        fn.min<number | null>('hour').as('since'),
      ])
      const row = await db.first(query.compile())
      return { spent: row?.spent ?? 0, since: row?.since ?? undefined }
    },

    /** Those who spent most first, with what their purses have. */
    async spenders(
      sight: Sight,
      span: { from: number; to: number },
    ): Promise<(SpentRow & { agentId: string; available: number })[]> {
      const query = usage(sight, span)
        .where('agent_id', '!=', '')
        .groupBy('agent_id')
        .select(({ fn }) => ['agent_id', fn.sum<number>('cost').as('spent'), fn.min<number>('hour').as('since')])
        .orderBy('spent', 'desc')
        .orderBy('agent_id')
        .limit(readingLimits.forecastAgents)
      const rows = await db.all(query.compile())
      if (rows.length === 0) return []
      const purses = sql
        .selectFrom('ledger_accounts_whole')
        .select((select) => ['id', availableOf(select).as('available')])
        .where('account_id', '=', sight.accountId)
        .where(
          'id',
          'in',
          rows.map(({ agent_id: id }) => id),
        )
      const available = new Map((await db.all(purses.compile())).map((one) => [one.id, one.available]))
      return rows.map(({ agent_id: agentId, spent, since }) => ({
        agentId,
        spent,
        since,
        available: available.get(agentId) ?? 0,
      }))
    },

    /** What all purses within sight have, with what is held. */
    async available({ accountId, below: root }: Sight): Promise<number> {
      const all = sql
        .selectFrom('ledger_accounts_whole')
        .select((select) => select.fn.sum<number | null>(availableOf(select)).as('available'))
        .where('kind', 'in', ['reserve', 'agent', 'task'])
      const query =
        root === undefined ? all.where('account_id', '=', accountId) : all.where('id', 'in', below(accountId, root))
      return (await db.first(query.compile()))?.available ?? 0
    },
  }
}
