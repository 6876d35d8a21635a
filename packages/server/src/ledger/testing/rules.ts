/** The rules of the ledger and nothing else. Every row, purse or side, has both sorts; a movement takes from one row what it gives to another. */
import { purseKinds, sideKinds } from '../operations.ts'
import type { Done, HoldState, Operation, SideKind, Split } from '../operations.ts'
import { costOf, isWellFormed } from './forms.ts'
import { bodyOf, firstOf, refuse, total } from './model-state.ts'
import type { ModelAccount, ModelHold, ModelRow, ModelState, OwnId } from './model-state.ts'

const empty = { parentId: null, state: 'open', granted: 0, bought: 0, monthly: 0, used: 0 } as const
/** By which it is known that an operation was done before. */
const nameOf = (o: Operation) => ('key' in o ? `key ${o.key}` : o.type === 'hold' ? `hold ${o.holdId}` : '')

export function decide(state: ModelState, o: Operation, idOf: OwnId): Done {
  if (!isWellFormed(o)) refuse('amount_invalid')
  if (o.type === 'open_account') {
    if (state.accounts.has(o.accountId)) return { ok: true, seq: 0, amount: 0, repeated: true }
    const rows = new Map<string, ModelRow>()
    for (const kind of ['reserve', ...sideKinds] as const) rows.set(idOf(o.accountId, kind), { ...empty, kind })
    state.accounts.set(o.accountId, { period: o.period, rows, done: new Map(), seq: 0, booked: 0 })
  }
  const account = state.accounts.get(o.accountId) ?? refuse('ledger_account_not_found')
  const before = account.done.get(nameOf(o))
  if (before && before.body !== bodyOf(o)) refuse(o.type === 'hold' ? 'hold_conflict' : 'key_conflict')
  if (before) return { ...before.done, repeated: true }
  const { seq } = account
  const acted = act(state, account, o, idOf)
  const done: Done = { ok: true, seq: account.seq > seq ? account.seq : 0, amount: 0, ...acted }
  const ended =
    o.type === 'commit' || o.type === 'release' || o.type === 'settle' ? state.holds.get(o.holdId) : undefined
  if (ended && !done.repeated) Object.assign(ended, { seq: done.seq, body: bodyOf(o) })
  if (nameOf(o)) account.done.set(nameOf(o), { body: bodyOf(o), done })
  return done
}

function act(state: ModelState, account: ModelAccount, o: Operation, idOf: OwnId): Partial<Done> {
  const { rows } = account
  const side = (kind: SideKind) => rows.get(idOf(o.accountId, kind))!
  const reserve = rows.get(idOf(o.accountId, 'reserve'))!
  const purses = () => [...rows].filter(([, { kind }]) => purseKinds.some((one) => one === kind))
  const purse = (id: string) => purses().find(([one]) => one === id)?.[1] ?? refuse('purse_not_found')
  const open = (id: string) => (purse(id).state === 'open' ? purse(id) : refuse('purse_archived'))
  /** What has taken the place of what is archived. */
  const placeOf = (id: string): ModelRow => (purse(id).state === 'archived' ? placeOf(purse(id).parentId!) : purse(id))
  const isOwn = (hold?: ModelHold) => hold?.asked.accountId === o.accountId
  const holdOf = (id: string) => (isOwn(state.holds.get(id)) ? state.holds.get(id)! : refuse('hold_not_found'))

  const again = ({ seq, cost }: ModelHold): Partial<Done> => ({ seq, amount: cost, repeated: true })

  function move(from: Split, to: Split, { granted = 0, bought = 0 }: Partial<Split>): number {
    Object.assign(from, { granted: from.granted - granted, bought: from.bought - bought })
    Object.assign(to, { granted: to.granted + granted, bought: to.bought + bought })
    account.seq += Number(granted > 0) + Number(bought > 0)
    return granted + bought
  }
  /** All that there is came from these: as much as can be counted. */
  const sources = ['grant', 'refund', 'absorbed', 'owed'] as const
  const room = () => sources.reduce((left, kind) => left + total(side(kind)), Number.MAX_SAFE_INTEGER)
  const within = (amount: number) => (amount > room() ? refuse('ledger_full') : amount)
  function pay(from: ModelRow, to: Split, cost: number): number {
    const paid = move(from, to, firstOf(from, Math.min(cost, total(from))))
    from.used += paid
    return paid
  }
  const payOwed = () => pay(reserve, side('owed'), -total(side('owed')))
  /** A purse that is being archived is so as soon as none of its holds is open: what it has goes to its parent. */
  function finishArchive(id: string): Partial<Done> {
    const row = purse(id)
    const held = [...state.holds.values()].some((hold) => hold.asked.payer === id && hold.state === 'open')
    if (row.state !== 'closing' || held) return {}
    row.state = 'archived'
    return { amount: move(row, purse(row.parentId!), { ...row }), archived: id }
  }
  /** The cost is paid from the hold; the rest goes back, or expires with its period. */
  function end(hold: ModelHold, as: HoldState, cost: number): Partial<Done> {
    const payer = purse(hold.asked.payer)
    const paid = firstOf(hold, cost)
    move(side('hold'), side('usage'), paid)
    move(side('hold'), hold.period === account.period ? payer : side('grant'), { granted: hold.granted - paid.granted })
    move(side('hold'), payer, { bought: hold.bought - paid.bought })
    payer.used += cost
    account.booked += cost
    Object.assign(hold, { state: as, cost })
    return { ...finishArchive(hold.asked.payer), amount: cost }
  }
  /** What was spent last goes back first; granted tokens of a period that is over expire. */
  function giveBack(hold: ModelHold, amount: number): number {
    const [had, kept] = [0, amount].map((less) => firstOf(hold, hold.cost - hold.refunded - less)) as [Split, Split]
    const payer = placeOf(hold.asked.payer)
    const bought = move(side('refund'), payer, { bought: had.bought - kept.bought })
    const to = hold.period === account.period ? payer : side('grant')
    const granted = move(side('refund'), to, { granted: had.granted - kept.granted })
    purse(hold.asked.payer).used -= amount
    hold.refunded += amount
    return to === payer ? granted + bought : bought
  }

  switch (o.type) {
    case 'open_account':
      return { amount: move(side('grant'), reserve, { granted: o.grantTokens }) }
    case 'open_purse': {
      const there = rows.get(o.purseId)
      if (there?.kind === o.kind && there.parentId === o.parentId) return { repeated: true }
      if ([...state.accounts.values()].some((any) => any.rows.has(o.purseId))) refuse('purse_exists')
      open(o.parentId)
      rows.set(o.purseId, { ...empty, kind: o.kind, parentId: o.parentId, monthly: o.monthly })
      return {}
    }
    case 'change_purse':
      open(o.purseId).monthly = o.monthly
      return {}
    case 'grant': {
      const amount = move(side('grant'), reserve, { [o.sort]: within(o.amount) })
      payOwed()
      return { amount }
    }
    case 'transfer': {
      if (o.from === o.to) refuse('transfer_to_itself')
      const [from, to] = [purse(o.from), purse(o.to)]
      if (from.state === 'archived' || to.state !== 'open') refuse('purse_archived')
      if (total(from) < o.amount) refuse('balance_too_low', total(from))
      const amount = move(from, to, firstOf(from, o.amount))
      if (to === reserve) payOwed()
      return { amount }
    }
    case 'hold': {
      if (state.holds.has(o.holdId)) refuse('hold_conflict')
      const payer = open(o.payer)
      if (total(side('owed')) < 0) refuse('account_owes')
      if (total(payer) < (o.atLeast ?? o.amount)) refuse('balance_too_low', total(payer))
      const held = firstOf(payer, Math.min(o.amount, total(payer)))
      const fresh = { asked: o, period: account.period, state: 'open', seq: 0, body: '' } as const
      state.holds.set(o.holdId, { ...held, ...fresh, sent: false, cost: 0, absorbed: 0, refunded: 0 })
      return { amount: move(payer, side('hold'), held) }
    }
    case 'sent':
      if (holdOf(o.holdId).state !== 'open') refuse('hold_over')
      Object.assign(holdOf(o.holdId), { sent: true, observed: o.observed })
      return {}
    case 'commit': {
      const hold = holdOf(o.holdId)
      const { state: was, cost } = hold
      if (was === 'committed' && hold.body === bodyOf(o)) return { ...again(hold), unpaid: hold.absorbed }
      if (was === 'released' || was === 'committed') refuse('hold_over')
      // Of one that was settled nothing more is taken, and what it has cost less goes back.
      const paid = Math.min(costOf(o.lines), was === 'open' ? total(hold) : cost)
      if (costOf(o.lines) > paid && o.excess !== 'absorb') refuse('commit_above_hold', paid)
      hold.absorbed = within(costOf(o.lines) - paid)
      const net = cost - hold.refunded
      if (was === 'unknown') giveBack(hold, Math.max(0, net - paid))
      if (was === 'unknown') Object.assign(hold, { state: 'committed', cost: paid, refunded: Math.max(0, paid - net) })
      account.booked += hold.absorbed + (was === 'unknown' ? paid - cost : 0)
      const done = was === 'open' ? end(hold, 'committed', paid) : { amount: paid }
      return { ...done, unpaid: move(side('absorbed'), side('usage'), { bought: hold.absorbed }) }
    }
    case 'release': {
      const hold = holdOf(o.holdId)
      if (hold.state === 'released') return again(hold)
      if (hold.state !== 'open') refuse('hold_over')
      return hold.sent ? refuse('hold_sent') : end(hold, 'released', 0)
    }
    case 'settle': {
      const hold = holdOf(o.holdId)
      if (hold.state !== 'open') return again(hold)
      if (!hold.sent) return end(hold, 'released', 0)
      return end(hold, 'unknown', Math.min(hold.observed ?? total(hold), total(hold)))
    }
    case 'charge': {
      const amount = pay(placeOf(o.payer), side('usage'), costOf(o.lines))
      account.booked += costOf(o.lines)
      return { amount, unpaid: move(side('owed'), side('usage'), { bought: within(costOf(o.lines) - amount) }) }
    }
    case 'pay_owed':
      return { amount: payOwed() }
    case 'refund': {
      const hold = holdOf(o.holdId)
      if (o.amount > hold.cost - hold.refunded) refuse('refund_above_cost', hold.cost - hold.refunded)
      return { amount: giveBack(hold, within(o.amount)) }
    }
    case 'archive': {
      const row = purse(o.purseId)
      if (row === reserve) refuse('purse_not_found')
      if (row.state !== 'open') return { repeated: true, ...(row.state === 'archived' && { archived: o.purseId }) }
      for (const [, { parentId, state: is }] of purses())
        if (parentId === o.purseId && is !== 'archived') refuse('purse_has_children')
      Object.assign(row, { state: 'closing', monthly: 0 })
      return finishArchive(o.purseId)
    }
    case 'roll_over': {
      if (o.period <= account.period) return { repeated: true }
      account.period = o.period
      for (const [, row] of purses()) move(row, side('grant'), { granted: row.granted })
      const amount = move(side('grant'), reserve, { granted: Math.min(o.grantTokens, room()) })
      payOwed()
      const due = purses().filter(([, { state: is, monthly }]) => is === 'open' && monthly > 0)
      const renew = (to: ModelRow) => move(reserve, to, { granted: Math.min(to.monthly, reserve.granted) })
      return { amount, unrenewed: due.filter(([, to]) => renew(to) < to.monthly).map(([id]) => id) }
    }
  }
}
