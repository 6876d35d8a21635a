import { hash } from 'node:crypto'
import { isAmount, isAmountOrNone, largestAmount } from './amounts.ts'
import { isPurse, keyId, ownIds, reserveId, sideId } from './book.ts'
import type { Account, Book, HoldRow, Tenant, TransferKind } from './book.ts'
import type {
  Answer,
  Archive,
  ChangePurse,
  Charge,
  Commit,
  Done,
  Grant,
  Hold,
  OpenAccount,
  OpenPurse,
  Operation,
  PayOwed,
  Purpose,
  Refund,
  Refusal,
  RefusalReason,
  Release,
  RollOver,
  Sent,
  Settle,
  SideKind,
  Split,
  Transfer,
  UsageLine,
} from './operations.ts'
import { sideKinds } from './operations.ts'
import { isPeriod } from './periods.ts'

// Decides over rows in memory and changes them there; reads and writes nothing else. What is refused has changed nothing. Every change of a balance is a `move`, and after each
// operation what it touched is summed up against what was there before: a fault of this file fails the operation, it does not lose tokens.

/** What an operation is done within. */
interface Entry {
  book: Book
  tenant: Tenant
  at: number
  seq: number
  holdId?: string | undefined
  reference?: string | undefined
  reason?: string | undefined
  /** Of the rows that were touched: what they had. */
  before: Map<Account, number>
}

export function decide(book: Book, operation: Operation): Answer {
  if (!hasAmounts(operation)) return refuse('amount_invalid')
  const { accountId, at } = operation
  const tenant = book.tenants.get(accountId)
  if (operation.type === 'open_account') return tenant ? repeated(0, 0) : openAccount(book, operation)
  if (!tenant) return refuse('ledger_account_not_found')
  const key = 'key' in operation ? operation.key : undefined
  const known = key === undefined ? undefined : book.key(keyId({ accountId, key }))
  if (known && known.digest !== digestOf(operation)) return refuse('key_conflict')
  if (known) return { ...(JSON.parse(known.answer) as Done), repeated: true }
  const entry: Entry = { book, tenant, at, seq: 0, before: new Map() }
  const answer = decideWithin(entry, operation)
  if (!answer.ok) return answer
  checkBalanced(entry)
  if (key !== undefined)
    book.addKey({ accountId, key, digest: digestOf(operation), answer: JSON.stringify(answer), at })
  return answer
}

function decideWithin(entry: Entry, operation: Exclude<Operation, OpenAccount>): Answer {
  switch (operation.type) {
    case 'open_purse':
      return openPurse(entry, operation)
    case 'change_purse':
      return changePurse(entry, operation)
    case 'grant':
      return grant(entry, operation)
    case 'transfer':
      return transfer(entry, operation)
    case 'hold':
      return hold(entry, operation)
    case 'sent':
      return sent(entry, operation)
    case 'commit':
      return commit(entry, operation)
    case 'release':
      return release(entry, operation)
    case 'settle':
      return settle(entry, operation)
    case 'charge':
      return charge(entry, operation)
    case 'pay_owed':
      return payOwedNow(entry, operation)
    case 'refund':
      return refund(entry, operation)
    case 'archive':
      return archive(entry, operation)
    case 'roll_over':
      return rollOver(entry, operation)
  }
}

/**
 * The rows of `ledger_accounts` that the operation may touch, as far as can be known from what is loaded: asked again until nothing is missing. `whole`: all of the account that is not archived.
 */
export function rowsOf(book: Book, operation: Operation): readonly string[] | 'whole' {
  const { accountId } = operation
  const sides = (...kinds: SideKind[]) => kinds.map((kind) => sideId(accountId, kind))
  const settling = (holdId: string) => {
    const found = book.peekHold(holdId)
    if (!found || found.accountId !== accountId) return []
    const over = found.state === 'open' ? sides('hold', 'usage') : sides('hold', 'usage', 'refund')
    const expires = found.period === book.tenants.get(accountId)?.period ? [] : sides('grant')
    return [...over, ...expires, ...upwards(book, found.payer)]
  }
  switch (operation.type) {
    case 'open_account':
      return book.tenants.has(accountId) ? [] : ownIds(accountId)
    case 'open_purse':
      return [operation.purseId, operation.parentId]
    case 'change_purse':
      return [operation.purseId]
    case 'grant':
      return [reserveId(accountId), ...sides(...sources)]
    case 'transfer':
      return [operation.from, operation.to, ...sides('owed')]
    case 'hold':
      return [operation.payer, ...sides('hold', 'owed')]
    case 'sent':
      return []
    case 'commit':
      return [...settling(operation.holdId), ...(operation.excess === 'absorb' ? sides(...sources) : [])]
    case 'release':
    case 'settle':
      return settling(operation.holdId)
    case 'charge':
      return [...upwards(book, operation.payer), ...sides('usage', ...sources)]
    case 'pay_owed':
      return [reserveId(accountId), ...sides('owed')]
    case 'refund':
      return [...settling(operation.holdId), ...sides(...sources)]
    case 'archive':
      return upwards(book, operation.purseId, { andParent: true })
    case 'roll_over':
      return isAfter(operation, book.tenants.get(accountId)) ? 'whole' : []
  }
}

/** The purse, and what has taken its place or will. */
function upwards(book: Book, purseId: string, { andParent = false } = {}): string[] {
  const ids = [purseId]
  for (let row = book.peek(purseId); row?.parentId; row = book.peek(row.parentId)) {
    if (row.state === 'open' && !andParent) break
    ids.push(row.parentId)
  }
  return ids
}

function isAfter({ period }: RollOver, tenant: Tenant | undefined): boolean {
  return tenant !== undefined && period > tenant.period
}

function refuse(reason: RefusalReason, available?: number): Refusal {
  return available === undefined ? { ok: false, reason } : { ok: false, reason, available }
}

function repeated(seq: number, amount: number, more: Partial<Done> = {}): Done {
  return { ok: true, seq, amount, ...more, repeated: true }
}

function done({ seq }: Entry, amount: number, more: Partial<Done> = {}): Done {
  return { ok: true, seq, amount, ...more }
}

/** Whether every amount that it names is one. */
function hasAmounts(operation: Operation): boolean {
  switch (operation.type) {
    case 'open_account':
    case 'roll_over':
      return isAmountOrNone(operation.grantTokens) && isPeriod(operation.period)
    case 'open_purse':
    case 'change_purse':
      return isAmountOrNone(operation.monthly)
    case 'grant':
    case 'transfer':
    case 'refund':
      return isAmount(operation.amount)
    case 'hold': {
      const { amount, atLeast = amount } = operation
      return isAmount(amount) && isAmount(atLeast) && atLeast <= amount
    }
    case 'sent':
      return operation.observed === undefined || isAmountOrNone(operation.observed)
    case 'commit':
    case 'charge':
      return areLines(operation.lines)
    case 'release':
    case 'settle':
    case 'pay_owed':
    case 'archive':
      return true
  }
}

function areLines(lines: readonly UsageLine[]): boolean {
  return (
    lines.every(({ quantity, cost }) => isQuantity(quantity) && isAmountOrNone(cost)) && isAmountOrNone(costOf(lines))
  )
}

function isQuantity(value: unknown): boolean {
  return typeof value === 'number' && value >= 0 && value <= largestAmount && !Object.is(value, -0)
}

function costOf(lines: readonly UsageLine[]): number {
  return lines.reduce((sum, { cost }) => sum + cost, 0)
}

/** Of what was asked, not of when. */
function digestOf(operation: Operation): string {
  const { at: _, ...asked } = operation
  const text = JSON.stringify(asked, (_key, value: unknown) =>
    value !== null && typeof value === 'object' && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : value,
  )
  return hash('sha256', text, 'base64url')
}

// Moves.

interface Move {
  kind: TransferKind
  from: Account
  to: Account
  sort: keyof Split
  amount: number
}

function move(entry: Entry, { kind, from, to, sort, amount }: Move): void {
  if (amount === 0) return
  for (const row of [from, to]) {
    if (!entry.before.has(row)) entry.before.set(row, row.granted + row.bought)
    entry.book.changed.balances.add(row)
  }
  from[sort] -= amount
  to[sort] += amount
  const { tenant, book } = entry
  tenant.seq += 1
  entry.seq = tenant.seq
  book.changed.tenants.add(tenant)
  book.added.transfers.push({
    accountId: tenant.accountId,
    seq: tenant.seq,
    at: entry.at,
    kind,
    debit: from.id,
    credit: to.id,
    amount,
    sort,
    holdId: entry.holdId ?? null,
    reference: entry.reference ?? null,
    reason: entry.reason ?? null,
  })
}

function moveSplit(entry: Entry, { split, ...between }: Omit<Move, 'sort' | 'amount'> & { split: Split }): void {
  move(entry, { ...between, sort: 'granted', amount: split.granted })
  move(entry, { ...between, sort: 'bought', amount: split.bought })
}

/** Debit is credit, and nobody has less than nothing: neither a purse, nor a side that only takes, nor one that only gives. */
function checkBalanced({ before, tenant }: Entry): void {
  let drift = 0
  for (const [row, had] of before) {
    const has = row.granted + row.bought
    drift += has - had
    const fault =
      !Number.isSafeInteger(row.granted) || !Number.isSafeInteger(row.bought)
        ? 'is beyond what can be counted'
        : isPurse(row) || row.kind === 'hold'
          ? Math.min(row.granted, row.bought, row.held) < 0 && 'is below zero'
          : row.kind === 'usage'
            ? has < 0 && 'is below zero'
            : has > 0 && 'gave what it had not'
    if (fault) throw new Error(`${row.id} of ${tenant.accountId} ${fault}`)
  }
  if (drift !== 0) throw new Error(`An operation of ${tenant.accountId} made or lost ${drift}`)
}

function totalOf({ granted, bought }: Split): number {
  return granted + bought
}

/** The first `amount` of what there is, `granted` before `bought`. */
function splitOf({ granted, bought }: Split, amount: number): Split {
  const first = Math.min(granted, amount)
  return { granted: first, bought: Math.min(bought, amount - first) }
}

function side({ book, tenant }: Entry, kind: SideKind): Account {
  return book.account(sideId(tenant.accountId, kind))!
}

function reserveOf({ book, tenant }: Entry): Account {
  return book.account(reserveId(tenant.accountId))!
}

/** Where tokens come from. What all of them together have given is what all others have, so it bounds each of those. */
const sources = ['grant', 'refund', 'absorbed', 'owed'] as const satisfies SideKind[]

function roomOf(entry: Entry): number {
  return sources.reduce((room, kind) => room + totalOf(side(entry, kind)), largestAmount)
}

// Accounts and purses.

function openAccount(book: Book, { accountId, at, grantTokens, period, plan }: OpenAccount): Answer {
  const tenant: Tenant = { accountId, period, plan, seq: 0, purses: 0 }
  book.addTenant(tenant)
  const row = { accountId, parentId: null, granted: 0, bought: 0, held: 0, used: 0, monthly: 0 }
  const more = { state: 'open', number: 0, children: 0, createdAt: at, place: 0 } as const
  book.addAccount({ ...row, ...more, id: reserveId(accountId), kind: 'reserve' })
  for (const kind of sideKinds) book.addAccount({ ...row, ...more, id: sideId(accountId, kind), kind })
  const entry: Entry = { book, tenant, at, seq: 0, before: new Map(), reason: plan }
  const [from, to] = [side(entry, 'grant'), reserveOf(entry)]
  move(entry, { kind: 'grant', from, to, sort: 'granted', amount: grantTokens })
  checkBalanced(entry)
  return done(entry, grantTokens, grantTokens === 0 ? {} : { filled: [to.id] })
}

/** One of this account's; of another's nobody here knows. */
function purseOf({ book, tenant }: Entry, id: string): Account | undefined {
  const row = book.account(id)
  return row && row.accountId === tenant.accountId && isPurse(row) ? row : undefined
}

function openPurse(entry: Entry, { purseId, kind, parentId, monthly, at }: OpenPurse): Answer {
  const { book, tenant } = entry
  const there = book.account(purseId)
  if (there) {
    const same = there.accountId === tenant.accountId && there.kind === kind && there.parentId === parentId
    return same ? repeated(0, 0) : refuse('purse_exists')
  }
  const parent = purseOf(entry, parentId)
  if (!parent) return refuse('purse_not_found')
  if (parent.state !== 'open') return refuse('purse_archived')
  tenant.purses += 1
  book.changed.tenants.add(tenant)
  parent.children += 1
  book.changed.accounts.add(parent)
  book.addAccount({
    id: purseId,
    accountId: tenant.accountId,
    kind,
    parentId,
    state: 'open',
    granted: 0,
    bought: 0,
    held: 0,
    used: 0,
    monthly,
    number: tenant.purses,
    children: 0,
    createdAt: at,
    place: 0,
  })
  return done(entry, 0)
}

function changePurse(entry: Entry, { purseId, monthly }: ChangePurse): Answer {
  const purse = purseOf(entry, purseId)
  if (!purse || purse.kind === 'reserve') return refuse('purse_not_found')
  if (purse.state !== 'open') return refuse('purse_archived')
  if (purse.monthly !== monthly) {
    purse.monthly = monthly
    entry.book.changed.accounts.add(purse)
  }
  return done(entry, 0)
}

function archive(entry: Entry, { purseId }: Archive): Answer {
  const purse = purseOf(entry, purseId)
  if (!purse || purse.kind === 'reserve') return refuse('purse_not_found')
  if (purse.state === 'archived') return repeated(0, 0, { archived: purse.id })
  if (purse.state === 'closing') return repeated(0, 0)
  if (purse.children > 0) return refuse('purse_has_children')
  purse.state = 'closing'
  purse.monthly = 0
  entry.book.changed.accounts.add(purse)
  const balance = totalOf(purse)
  const settled = archiveWhenSettled(entry, purse)
  return done(entry, settled.archived === undefined ? 0 : balance, settled)
}

/** Its balance goes to its parent, which can not be archived before it. */
function archiveWhenSettled(entry: Entry, purse: Account): Partial<Done> {
  if (purse.state !== 'closing' || purse.held > 0) return {}
  const parent = entry.book.account(purse.parentId!)!
  const fills = totalOf(purse) > 0
  moveSplit(entry, { kind: 'archive', from: purse, to: parent, split: { ...purse } })
  purse.state = 'archived'
  parent.children -= 1
  entry.book.changed.accounts.add(purse).add(parent)
  return { archived: purse.id, ...(fills && { filled: [parent.id] }) }
}

/** The purse itself, or of those above it the first that is not archived. */
function placeOf({ book }: Entry, purse: Account): Account {
  let place = purse
  while (place.state === 'archived') place = book.account(place.parentId!)!
  return place
}

// Tokens that come, move and go.

function grant(entry: Entry, { sort, amount, reason }: Grant): Answer {
  if (amount > roomOf(entry)) return refuse('ledger_full')
  entry.reason = reason
  const to = reserveOf(entry)
  move(entry, { kind: 'grant', from: side(entry, 'grant'), to, sort, amount })
  payOwed(entry)
  return done(entry, amount, { filled: [to.id] })
}

function transfer(entry: Entry, { from, to, amount, reason, reference }: Transfer): Answer {
  if (from === to) return refuse('transfer_to_itself')
  const [source, target] = [purseOf(entry, from), purseOf(entry, to)]
  if (!source || !target) return refuse('purse_not_found')
  if (source.state === 'archived' || target.state !== 'open') return refuse('purse_archived')
  const available = totalOf(source)
  if (available < amount) return refuse('balance_too_low', available)
  Object.assign(entry, { reason, reference })
  moveSplit(entry, { kind: 'transfer', from: source, to: target, split: splitOf(source, amount) })
  if (target.kind === 'reserve') payOwed(entry)
  return done(entry, amount, { filled: [target.id] })
}

/** As far as the reserve goes. */
function payOwed(entry: Entry): number {
  const [reserve, owed] = [reserveOf(entry), side(entry, 'owed')]
  const amount = Math.min(-totalOf(owed), totalOf(reserve))
  if (amount <= 0) return 0
  moveSplit(entry, { kind: 'pay_owed', from: reserve, to: owed, split: splitOf(reserve, amount) })
  reserve.used += amount
  return amount
}

function payOwedNow(entry: Entry, _operation: PayOwed): Answer {
  const amount = payOwed(entry)
  return done(entry, amount)
}

/** Granted tokens expire, also those that open holds will give back; the new grant pays what is owed, then the monthly allocations in order of creation. */
function rollOver(entry: Entry, operation: RollOver): Answer {
  const { book, tenant } = entry
  if (!isAfter(operation, tenant)) return repeated(0, 0)
  entry.reason = operation.period
  const [source, reserve] = [side(entry, 'grant'), reserveOf(entry)]
  const purses = book.pursesOf(tenant.accountId)
  for (const purse of purses)
    move(entry, { kind: 'expire', from: purse, to: source, sort: 'granted', amount: purse.granted })
  tenant.period = operation.period
  book.changed.tenants.add(tenant)
  const amount = Math.min(operation.grantTokens, roomOf(entry))
  move(entry, { kind: 'grant', from: source, to: reserve, sort: 'granted', amount })
  payOwed(entry)
  const filled = amount > 0 ? [reserve.id] : []
  const unrenewed: string[] = []
  for (const purse of purses) {
    if (purse.monthly === 0 || purse.state !== 'open') continue
    const renewed = Math.min(purse.monthly, reserve.granted)
    move(entry, { kind: 'renew', from: reserve, to: purse, sort: 'granted', amount: renewed })
    if (renewed > 0) filled.push(purse.id)
    if (renewed < purse.monthly) unrenewed.push(purse.id)
  }
  checkWhole(entry)
  return done(entry, amount, { unrenewed, filled })
}

/** Here every row of the account that may have anything is in the book. */
function checkWhole({ book, tenant }: Entry): void {
  let sum = 0
  for (const row of book.all()) if (row?.accountId === tenant.accountId) sum += totalOf(row)
  if (sum !== 0) throw new Error(`The rows of ${tenant.accountId} add up to ${sum}`)
}

// Holds.

function holdOf({ book, tenant }: Entry, holdId: string): HoldRow | undefined {
  const row = book.hold(holdId)
  return row?.accountId === tenant.accountId ? row : undefined
}

function hold(entry: Entry, operation: Hold): Answer {
  const { holdId, payer, amount, atLeast = amount, purpose, owner, at } = operation
  const { book, tenant } = entry
  const there = book.hold(holdId)
  if (there) return isSameHold(there, operation) ? repeated(there.madeSeq, totalOf(there)) : refuse('hold_conflict')
  const purse = purseOf(entry, payer)
  if (!purse) return refuse('purse_not_found')
  if (purse.state !== 'open') return refuse('purse_archived')
  if (totalOf(side(entry, 'owed')) < 0) return refuse('account_owes')
  const available = totalOf(purse)
  if (available < atLeast) return refuse('balance_too_low', available)
  const split = splitOf(purse, Math.min(amount, available))
  entry.holdId = holdId
  moveSplit(entry, { kind: 'hold', from: purse, to: side(entry, 'hold'), split })
  purse.held += totalOf(split)
  const { kind, agentId = null, taskId = null, sandboxId = null } = purpose
  book.addHold({
    id: holdId,
    accountId: tenant.accountId,
    payer,
    wished: amount,
    atLeast,
    ...split,
    period: tenant.period,
    kind,
    agentId,
    taskId,
    sandboxId,
    owner,
    sent: 0,
    observed: null,
    state: 'open',
    cost: 0,
    absorbed: 0,
    refunded: 0,
    digest: null,
    madeAt: at,
    madeSeq: entry.seq,
    endedAt: null,
    endedSeq: 0,
  })
  return done(entry, totalOf(split))
}

/** Whoever asks for it: the owner may have begun anew. */
function isSameHold(there: HoldRow, { accountId, payer, amount, atLeast = amount, purpose }: Hold): boolean {
  return (
    there.accountId === accountId &&
    there.payer === payer &&
    there.wished === amount &&
    there.atLeast === atLeast &&
    there.kind === purpose.kind &&
    there.agentId === (purpose.agentId ?? null) &&
    there.taskId === (purpose.taskId ?? null) &&
    there.sandboxId === (purpose.sandboxId ?? null)
  )
}

function sent(entry: Entry, { holdId, observed }: Sent): Answer {
  const row = holdOf(entry, holdId)
  if (!row) return refuse('hold_not_found')
  if (row.state !== 'open') return refuse('hold_over')
  row.sent = 1
  row.observed = observed ?? null
  entry.book.changed.holds.add(row)
  return done(entry, 0)
}

function commit(entry: Entry, operation: Commit): Answer {
  const { holdId, lines, excess = 'refuse', estimated = false } = operation
  const row = holdOf(entry, holdId)
  if (!row) return refuse('hold_not_found')
  if (row.state === 'released') return refuse('hold_over')
  const digest = digestOf(operation)
  if (row.state === 'committed') {
    if (row.digest !== digest) return refuse('hold_over')
    return repeated(row.endedSeq, row.cost, excess === 'absorb' ? { unpaid: row.absorbed } : {})
  }
  const cost = costOf(lines)
  // Of one that was settled as unknown nothing more is taken than was then.
  const bound = row.state === 'open' ? totalOf(row) : row.cost
  const beyond = Math.max(0, cost - bound)
  if (beyond > 0 && excess === 'refuse') return refuse('commit_above_hold', bound)
  if (beyond > 0 && beyond > roomOf(entry)) return refuse('ledger_full')
  entry.holdId = holdId
  const paid = cost - beyond
  const more = row.state === 'open' ? end(entry, row, { state: 'committed', cost: paid }) : correct(entry, row, paid)
  absorb(entry, row, beyond)
  row.digest = digest
  row.endedSeq = entry.seq
  bookUsage(entry, { purpose: row, lines, estimated })
  return done(entry, paid, { ...more, ...(excess === 'absorb' && { unpaid: beyond }) })
}

function absorb(entry: Entry, row: HoldRow, amount: number): void {
  if (amount === 0) return
  row.absorbed += amount
  move(entry, { kind: 'absorb', from: side(entry, 'absorbed'), to: side(entry, 'usage'), sort: 'bought', amount })
}

/** The cost goes to usage, the rest back; what is left of another period's grant expires. */
function end(entry: Entry, row: HoldRow, { state, cost }: Pick<HoldRow, 'state' | 'cost'>): Partial<Done> {
  const { book: rows, tenant, at } = entry
  const [holding, payer] = [side(entry, 'hold'), rows.account(row.payer)!]
  const spent = splitOf(row, cost)
  moveSplit(entry, { kind: 'commit', from: holding, to: side(entry, 'usage'), split: spent })
  const left = { granted: row.granted - spent.granted, bought: row.bought - spent.bought }
  move(entry, { kind: 'release', from: holding, to: payer, sort: 'bought', amount: left.bought })
  if (row.period === tenant.period)
    move(entry, { kind: 'release', from: holding, to: payer, sort: 'granted', amount: left.granted })
  else move(entry, { kind: 'expire', from: holding, to: side(entry, 'grant'), sort: 'granted', amount: left.granted })
  payer.held -= totalOf(row)
  payer.used += cost
  rows.changed.balances.add(payer)
  Object.assign(row, { state, cost, endedAt: at })
  rows.changed.holds.add(row)
  const more = archiveWhenSettled(entry, payer)
  row.endedSeq = entry.seq
  return more
}

/** A late commit of one that was settled as unknown: what it has cost less goes back. */
function correct(entry: Entry, row: HoldRow, cost: number): Partial<Done> {
  // What was given back meanwhile is not given back twice.
  const paid = row.cost - row.refunded
  entry.reason = 'late_commit'
  const given = giveBack(entry, row, Math.max(0, paid - cost))
  entry.book.addUsage({
    ...usageOf(entry, row),
    hour: hourOf(row.endedAt!),
    ...unknownUse,
    cost: -row.cost,
    estimated: -row.cost,
  })
  Object.assign(row, { state: 'committed', cost, refunded: Math.max(0, cost - paid) })
  entry.book.changed.holds.add(row)
  return given > 0 ? { filled: [placeOf(entry, entry.book.account(row.payer)!).id] } : {}
}

function release(entry: Entry, { holdId }: Release): Answer {
  const row = holdOf(entry, holdId)
  if (!row) return refuse('hold_not_found')
  if (row.state === 'released') return repeated(row.endedSeq, 0)
  if (row.state !== 'open') return refuse('hold_over')
  if (row.sent) return refuse('hold_sent')
  entry.holdId = holdId
  const more = end(entry, row, { state: 'released', cost: 0 })
  return done(entry, 0, more)
}

function settle(entry: Entry, { holdId }: Settle): Answer {
  const row = holdOf(entry, holdId)
  if (!row) return refuse('hold_not_found')
  if (row.state !== 'open') return repeated(row.endedSeq, row.cost)
  entry.holdId = holdId
  if (!row.sent) return done(entry, 0, end(entry, row, { state: 'released', cost: 0 }))
  const cost = Math.min(row.observed ?? totalOf(row), totalOf(row))
  entry.reason = 'unknown'
  const more = end(entry, row, { state: 'unknown', cost })
  entry.book.addUsage({ ...usageOf(entry, row), ...unknownUse, cost, estimated: cost })
  return done(entry, cost, more)
}

/** Of what was paid for a hold, in the order opposite to spending. Granted tokens of a period that is over have expired, also when they are given back. */
function giveBack(entry: Entry, row: HoldRow, amount: number): number {
  if (amount === 0) return 0
  const { book: rows, tenant } = entry
  const payer = rows.account(row.payer)!
  const place = placeOf(entry, payer)
  const spent = splitOf(row, row.cost)
  // Before this, the last of them went back already.
  const left = splitOf(spent, row.cost - row.refunded)
  const kept = splitOf(left, totalOf(left) - amount)
  const split = { granted: left.granted - kept.granted, bought: left.bought - kept.bought }
  const source = side(entry, 'refund')
  move(entry, { kind: 'refund', from: source, to: place, sort: 'bought', amount: split.bought })
  const isOver = row.period !== tenant.period
  if (isOver)
    move(entry, { kind: 'expire', from: source, to: side(entry, 'grant'), sort: 'granted', amount: split.granted })
  else move(entry, { kind: 'refund', from: source, to: place, sort: 'granted', amount: split.granted })
  payer.used -= amount
  row.refunded += amount
  rows.changed.balances.add(payer)
  rows.changed.holds.add(row)
  return isOver ? split.bought : amount
}

function refund(entry: Entry, { holdId, amount, reason }: Refund): Answer {
  const row = holdOf(entry, holdId)
  if (!row) return refuse('hold_not_found')
  const most = row.state === 'open' ? 0 : row.cost - row.refunded
  if (amount > most) return refuse('refund_above_cost', most)
  if (amount > roomOf(entry)) return refuse('ledger_full')
  Object.assign(entry, { holdId, reason })
  const given = giveBack(entry, row, amount)
  return done(entry, given, given > 0 ? { filled: [placeOf(entry, entry.book.account(row.payer)!).id] } : {})
}

function charge(entry: Entry, { payer, lines, purpose }: Charge): Answer {
  const purse = purseOf(entry, payer)
  if (!purse) return refuse('purse_not_found')
  const cost = costOf(lines)
  const place = placeOf(entry, purse)
  const split = splitOf(place, cost)
  const unpaid = cost - totalOf(split)
  if (unpaid > roomOf(entry)) return refuse('ledger_full')
  const usage = side(entry, 'usage')
  moveSplit(entry, { kind: 'charge', from: place, to: usage, split })
  move(entry, { kind: 'owe', from: side(entry, 'owed'), to: usage, sort: 'bought', amount: unpaid })
  place.used += totalOf(split)
  entry.book.changed.balances.add(place)
  bookUsage(entry, { purpose, lines, estimated: false })
  return done(entry, totalOf(split), { unpaid })
}

// What was used.

const unknownUse = { meter: 'unknown', quantity: 0 }
const hourMs = 3_600_000

function hourOf(at: number): number {
  return Math.floor(at / hourMs) * hourMs
}

type PurposeLike = Pick<HoldRow, 'kind' | 'agentId' | 'taskId' | 'sandboxId'> | Purpose

function usageOf({ tenant, at }: Entry, { kind, agentId, taskId, sandboxId }: PurposeLike) {
  return {
    accountId: tenant.accountId,
    hour: hourOf(at),
    kind,
    agentId: agentId ?? '',
    taskId: taskId ?? '',
    sandboxId: sandboxId ?? '',
  }
}

function bookUsage(
  entry: Entry,
  { purpose, lines, estimated }: { purpose: PurposeLike; lines: readonly UsageLine[]; estimated: boolean },
): void {
  const common = usageOf(entry, purpose)
  for (const { meter, quantity, cost } of lines)
    entry.book.addUsage({ ...common, meter, quantity, cost, estimated: estimated ? cost : 0 })
}
