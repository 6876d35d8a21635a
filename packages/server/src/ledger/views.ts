import { shownTokens } from './amounts.ts'
import { reserveId, sideId } from './book.ts'
import type { Forecast } from './forecast.ts'
import { sideKinds } from './operations.ts'
import { usageOrder } from './reading.ts'
import type { HoldRow, PurseRow, TransferRow, UsageRow } from './reading.ts'
import type { HoldView, PurseView, TransferView, UsageGroup, UsageView } from './schema.ts'

/** How the rows that each account has one of are called outside. */
export function partyOf(accountId: string, id: string): string {
  if (id === reserveId(accountId)) return 'reserve'
  return sideKinds.find((kind) => sideId(accountId, kind) === id) ?? id
}

/** The row that a request names. */
export function purseIdOf(accountId: string, party: string): string {
  return party === 'reserve' ? reserveId(accountId) : party
}

/** Each purse right before those below it, in the order in which they were made. */
export function purseViews(accountId: string, rows: readonly PurseRow[]): PurseView[] {
  const known = new Set(rows.map(({ id }) => id))
  const children = new Map<string, PurseRow[]>()
  for (const row of rows) {
    const parent = row.parent_id !== null && known.has(row.parent_id) ? row.parent_id : ''
    const siblings = children.get(parent)
    if (siblings) siblings.push(row)
    else children.set(parent, [row])
  }
  const views: PurseView[] = []
  const visit = (parent: string, depth: number) => {
    for (const row of children.get(parent) ?? []) {
      views.push(purseView(accountId, row, depth))
      visit(row.id, depth + 1)
    }
  }
  visit('', 0)
  return views
}

function purseView(accountId: string, row: PurseRow, depth: number): PurseView {
  return {
    id: partyOf(accountId, row.id),
    kind: row.kind,
    parentId: row.parent_id === null ? null : partyOf(accountId, row.parent_id),
    depth,
    state: row.state,
    granted: shownTokens(row.granted),
    bought: shownTokens(row.bought),
    held: shownTokens(row.held),
    used: shownTokens(row.used),
    monthlyTokens: shownTokens(row.monthly),
  }
}

export function transferView(row: TransferRow): TransferView {
  return {
    seq: row.seq,
    at: iso(row.at),
    kind: row.kind,
    from: partyOf(row.account_id, row.debit),
    to: partyOf(row.account_id, row.credit),
    tokens: shownTokens(row.amount),
    sort: row.sort,
    holdId: row.hold_id,
    reference: row.reference,
    reason: row.reason,
  }
}

export function holdView(row: HoldRow): HoldView {
  return {
    id: row.id,
    purseId: partyOf(row.account_id, row.payer),
    state: row.state,
    kind: row.kind,
    agentId: row.agent_id || null,
    taskId: row.task_id || null,
    sandboxId: row.sandbox_id || null,
    tokens: shownTokens(row.granted + row.bought),
    cost: row.state === 'open' ? null : shownTokens(row.cost),
    refunded: shownTokens(row.refunded),
    at: iso(row.made_at),
    endedAt: row.ended_at === null ? null : iso(row.ended_at),
  }
}

export function usageView(groups: readonly UsageGroup[], { place, quantity, cost, estimated }: UsageRow): UsageView {
  const values = new Map(usageOrder.filter((group) => groups.includes(group)).map((group, at) => [group, place[at]]))
  const text = (group: UsageGroup) => String(values.get(group) ?? '') || null
  const begins = values.get('hour') ?? values.get('day')
  return {
    from: begins === undefined ? null : iso(Number(begins)),
    agentId: text('agent'),
    taskId: text('task'),
    sandboxId: text('sandbox'),
    kind: text('kind'),
    meter: text('meter'),
    quantity: groups.includes('meter') ? quantity : null,
    tokens: shownTokens(cost),
    estimated: shownTokens(estimated),
  }
}

export function forecastView({ spent, perDay, expected, available, short, runsOutAt }: Forecast) {
  return {
    spent: shownTokens(spent),
    perDay: shownTokens(perDay),
    expected: shownTokens(expected),
    available: shownTokens(available),
    short: shownTokens(short),
    runsOutAt: runsOutAt === undefined ? null : iso(runsOutAt),
  }
}

export function iso(at: number): string {
  return new Date(at).toISOString()
}
