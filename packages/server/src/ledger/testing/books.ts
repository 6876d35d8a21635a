import { expect } from 'vitest'
import type { Database } from '../../kernel/db/database.ts'
import { purseKinds, sideKinds, type Answer, type Operation, type SideKind, type Split } from '../operations.ts'
import type { Model } from './model.ts'
import { total, type ModelHold, type ModelRow } from './model-state.ts'

export interface Movement extends Split {
  seq: number
  debit: string
  credit: string
}

/** What an account's tables say, in the words of the model. */
export interface Book {
  period: string
  seq: number
  rows: Record<string, ModelRow>
  /** By each purse. */
  held: Record<string, number>
  holds: Record<string, HoldRow>
  journal: Movement[]
  /** Micro-tokens of all usage written. */
  usage: number
}

export interface HoldRow extends Split {
  payer: string
  owner: string
  period: string
  state: ModelHold['state']
  sent: boolean
  observed: number | null
  cost: number
  refunded: number
}

export type Books = Record<string, Book>

/** What is read of each column by name here; all others are only compared. */
interface LedgerTables {
  ledger_tenants: { account_id: string; period: string; seq: number }
  ledger_accounts_whole: AccountRow
  ledger_holds: Omit<HoldRow, 'sent'> & { id: string; account_id: string; sent: number }
  ledger_transfers: JournalRow
  ledger_usage: { account_id: string; cost: number }
  ledger_keys: { account_id: string; key: string }
}

interface AccountRow extends Omit<ModelRow, 'parentId'> {
  id: string
  account_id: string
  parent_id: string | null
  held: number
  number: number
}

interface JournalRow {
  account_id: string
  seq: number
  debit: string
  credit: string
  amount: number
  sort: keyof Split
}

export type Tables = { [Name in keyof LedgerTables]: LedgerTables[Name][] }

/** All that the ledger's tables say of these accounts. */
export async function readTables(database: Database, accountIds: readonly string[]): Promise<Tables> {
  const { sql, all } = database.of<LedgerTables>()
  const tables = {
    tenants: sql.selectFrom('ledger_tenants').where('account_id', 'in', accountIds).orderBy('account_id'),
    accounts: sql
      .selectFrom('ledger_accounts_whole')
      .where('account_id', 'in', accountIds)
      .orderBy('number')
      .orderBy('id'),
    holds: sql.selectFrom('ledger_holds').where('account_id', 'in', accountIds).orderBy('id'),
    transfers: sql.selectFrom('ledger_transfers').where('account_id', 'in', accountIds).orderBy('seq'),
    usage: sql.selectFrom('ledger_usage').where('account_id', 'in', accountIds).orderBy('account_id'),
    keys: sql.selectFrom('ledger_keys').where('account_id', 'in', accountIds).orderBy('account_id').orderBy('key'),
  }
  const [tenants, accounts, holds, transfers, usage, keys] = await Promise.all([
    all(tables.tenants.selectAll().compile()),
    all(tables.accounts.selectAll().compile()),
    all(tables.holds.selectAll().compile()),
    all(tables.transfers.selectAll().compile()),
    all(tables.usage.selectAll().compile()),
    all(tables.keys.selectAll().compile()),
  ])
  return {
    ledger_tenants: tenants,
    ledger_accounts_whole: accounts,
    ledger_holds: holds,
    ledger_transfers: transfers,
    ledger_usage: usage,
    ledger_keys: keys,
  }
}

export function booksOf(tables: Tables): Books {
  return Object.fromEntries(tables.ledger_tenants.map((tenant) => [tenant.account_id, bookOf(tables, tenant)]))
}

function bookOf(tables: Tables, { account_id, period, seq }: LedgerTables['ledger_tenants']): Book {
  const own = <Row extends { account_id: string }>(rows: Row[]) => rows.filter((row) => row.account_id === account_id)
  const rows = own(tables.ledger_accounts_whole)
  return {
    period,
    seq,
    rows: Object.fromEntries(rows.map((row) => [row.id, rowOf(row)])),
    held: Object.fromEntries(rows.filter(isPurse).map(({ id, held }) => [id, held])),
    holds: Object.fromEntries(own(tables.ledger_holds).map((row) => [row.id, holdOf(row)])),
    journal: own(tables.ledger_transfers).map(({ seq: at, debit, credit, amount, sort }) => {
      const split = { granted: 0, bought: 0, [sort]: amount }
      return { seq: at, debit, credit, ...split }
    }),
    usage: own(tables.ledger_usage).reduce((sum, { cost }) => sum + cost, 0),
  }
}

const rowOf = ({ kind, parent_id, state, granted, bought, monthly, used }: AccountRow): ModelRow => ({
  kind,
  parentId: parent_id,
  state,
  granted,
  bought,
  monthly,
  used,
})

function holdOf(row: LedgerTables['ledger_holds']): HoldRow {
  const { payer, owner, granted, bought, period, state, sent, observed, cost, refunded } = row
  return { payer, owner, granted, bought, period, state, sent: sent === 1, observed, cost, refunded }
}

/** The model's state in the words of the tables. */
export function expectSame(model: Model, books: Books): void {
  const { accounts, holds } = model.state()
  for (const [accountId, account] of accounts) {
    const own = [...holds].filter(([, { asked }]) => asked.accountId === accountId)
    const { journal: _, ...book } = books[accountId]!
    const purses = [...account.rows].filter(([, row]) => isPurse(row))
    const heldOf = (id: string) => own.filter(([, { asked, state }]) => asked.payer === id && state === 'open')
    expect(book, accountId).toEqual({
      period: account.period,
      seq: account.seq,
      rows: Object.fromEntries(account.rows),
      held: Object.fromEntries(purses.map(([id]) => [id, heldOf(id).reduce((sum, [, hold]) => sum + total(hold), 0)])),
      holds: Object.fromEntries(own.map(([id, hold]) => [id, rowOfHold(hold)])),
      usage: account.booked,
    })
  }
}

function rowOfHold({ asked, granted, bought, period, state, sent, observed, cost, refunded }: ModelHold): HoldRow {
  const { payer, owner } = asked
  return { payer, owner, granted, bought, period, state, sent, observed: observed ?? null, cost, refunded }
}

/**
 * That the books follow from those before, without asking the model: the journal has only grown; what was added to it, applied to the rows before, makes the rows of now; no purse is
 * below 0 and no side on the wrong side of it; all rows together are 0; and what is held is what the open holds say.
 */
export function expectConserved(before: Books, after: Books): void {
  for (const [accountId, book] of Object.entries(after)) {
    const old = before[accountId]
    const oldJournal = old?.journal ?? []
    expect(book.journal.slice(0, oldJournal.length), 'what was written stays').toEqual(oldJournal)
    const added = book.journal.slice(oldJournal.length)
    expect(added.map(({ seq }) => seq)).toEqual(added.map((_, index) => (old?.seq ?? 0) + index + 1))
    const rows = new Map(Object.keys(book.rows).map((id) => [id, splitOf(old?.rows[id])]))
    for (const { debit, credit, granted, bought } of added) {
      expect(debit).not.toBe(credit)
      expect(granted + bought).toBeGreaterThan(0)
      add(rows.get(debit)!, -granted, -bought)
      add(rows.get(credit)!, granted, bought)
    }
    for (const [id, row] of Object.entries(book.rows)) {
      expect(splitOf(row), id).toEqual(rows.get(id))
      if (isPurse(row)) expect(Math.min(row.granted, row.bought), id).toBeGreaterThanOrEqual(0)
      else if (row.kind === 'hold' || row.kind === 'usage') expect(total(row), id).toBeGreaterThanOrEqual(0)
      else expect(total(row), id).toBeLessThanOrEqual(0)
    }
    const sum = Object.values(book.rows).reduce((all, row) => all + BigInt(row.granted) + BigInt(row.bought), 0n)
    expect(sum).toBe(0n)
    const open = Object.values(book.holds).filter(({ state }) => state === 'open')
    const held = { granted: sumOf(open, 'granted'), bought: sumOf(open, 'bought') }
    expect(rowOfKind(book, 'hold')).toEqual(held)
  }
}

const splitOf = (row?: Split): Split => ({ granted: row?.granted ?? 0, bought: row?.bought ?? 0 })
const sumOf = (rows: readonly Split[], sort: keyof Split) => rows.reduce((sum, row) => sum + row[sort], 0)
const isPurse = (row: Pick<ModelRow, 'kind'>) => purseKinds.some((kind) => kind === row.kind)
const rowOfKind = (book: Book | undefined, kind: ModelRow['kind']) =>
  splitOf(Object.values(book?.rows ?? {}).find((row) => row.kind === kind))

function add(row: Split, granted: number, bought: number): void {
  row.granted += granted
  row.bought += bought
}

/** That the sides have changed by what the operation and its answer say, from what they were before, and no other account has changed at all. */
export function expectSaid(operation: Operation, answer: Answer, before: Books, after: Books): void {
  for (const [accountId, book] of Object.entries(after)) {
    if (answer.ok && accountId === operation.accountId) continue
    expect(book, `${accountId} is not concerned`).toEqual(before[accountId])
  }
  const now = after[operation.accountId]
  if (!answer.ok || !now) return
  const old = before[operation.accountId]
  const changes = sideKinds.map((kind) => [kind, total(rowOfKind(now, kind)) - total(rowOfKind(old, kind))])
  const said = answer.repeated ? {} : saidOf(operation, answer, old)
  expect(Object.fromEntries(changes)).toEqual({ ...noChange, ...said })
  if (answer.repeated) return
  const credited = now.journal.slice(old?.journal.length ?? 0).map(({ credit }) => credit)
  const purses = [...new Set(credited)].filter((id) => isPurse(now.rows[id]!))
  const filled = [...(answer.filled ?? [])]
  // What a hold gives back had been its payer's before.
  const payer = 'holdId' in operation && operation.type !== 'refund' ? now.holds[operation.holdId]?.payer : undefined
  if (operation.type === 'commit' && old?.holds[operation.holdId]?.state === 'unknown') expect(filled).toEqual(purses)
  else expect(filled.toSorted(), 'filled').toEqual(purses.filter((id) => id !== payer).toSorted())
}

const noChange = { hold: 0, grant: 0, usage: 0, refund: 0, absorbed: 0, owed: 0 }

function saidOf(o: Operation, done: Extract<Answer, { ok: true }>, old?: Book): Partial<Record<SideKind, number>> {
  const { amount, unpaid = 0 } = done
  const hold = 'holdId' in o ? old?.holds[o.holdId] : undefined
  const reserve = rowOfKind(old, 'reserve')
  const owed = 0 - total(rowOfKind(old, 'owed'))
  const expired = (paid: number) => (hold && hold.period !== old?.period ? Math.max(0, hold.granted - paid) : 0)
  switch (o.type) {
    case 'open_account':
      return { grant: 0 - amount }
    case 'grant':
      return { grant: 0 - amount, owed: Math.min(owed, total(reserve) + amount) }
    case 'transfer': {
      const isToReserve = old!.rows[o.to]!.kind === 'reserve'
      return isToReserve ? { owed: Math.min(owed, total(reserve) + amount) } : {}
    }
    case 'hold':
      return { hold: amount }
    case 'commit':
      if (hold?.state === 'unknown') {
        const net = hold.cost - hold.refunded
        const given = Math.max(0, net - amount)
        const expires =
          hold.period === old?.period ? 0 : Math.min(hold.granted, net) - Math.min(hold.granted, net - given)
        return { refund: 0 - given, grant: expires, usage: unpaid, absorbed: 0 - unpaid }
      }
      return { hold: -total(hold!), usage: amount + unpaid, absorbed: 0 - unpaid, grant: expired(amount) }
    case 'release':
      return { hold: -total(hold!), grant: expired(0) }
    case 'settle': {
      const paid = hold!.sent ? amount : 0
      return { hold: -total(hold!), usage: paid + unpaid, absorbed: 0 - unpaid, grant: expired(paid) }
    }
    case 'charge':
      return { usage: amount + unpaid, owed: 0 - unpaid }
    case 'pay_owed':
      return { owed: amount }
    case 'refund':
      return { refund: 0 - o.amount, grant: o.amount - amount }
    case 'roll_over': {
      if (o.period <= old!.period) return {}
      const rows = Object.values(old!.rows).filter(isPurse)
      return { grant: sumOf(rows, 'granted') - amount, owed: Math.min(owed, reserve.bought + amount) }
    }
    default:
      return {}
  }
}
