import fc from 'fast-check'
import type { HoldState, Operation, UsageLine } from '../operations.ts'
import type { Model } from './model.ts'
import { total } from './model-state.ts'

/** What may stand in a history, and how often it does. The last four are no operations of their own: they repeat one, let the server die, or set the clock. */
const weights = [
  ['open_account', 1],
  ['open_purse', 10],
  ['change_purse', 3],
  ['grant', 7],
  ['transfer', 10],
  ['approve', 4],
  ['hold', 18],
  ['sent', 7],
  ['commit', 10],
  ['release', 6],
  ['settle', 3],
  ['charge', 5],
  ['pay_owed', 2],
  ['refund', 5],
  ['archive', 8],
  ['roll_over', 6],
  ['again', 5],
  ['again_with_another_body', 3],
  ['crash', 2],
  ['clock', 6],
] as const

/** Which purse, hold and amount is meant is settled when its turn has come, from what there is then. */
export interface Step {
  kind: (typeof weights)[number][0]
  which: number
  other: number
  /** Of what there is. */
  measure: 'some' | 'all' | 'one more' | 'huge' | 'nothing'
  amount: number
  /** One of sixteen steps names what is another account's, or has ended. */
  rarely: number
}

const kind = fc.oneof(...weights.map(([one, weight]) => ({ weight, arbitrary: fc.constant(one) })))
const measure = fc.oneof(
  { weight: 12, arbitrary: fc.constant<Step['measure']>('some') },
  { weight: 4, arbitrary: fc.constantFrom<Step['measure']>('all', 'one more') },
  { weight: 1, arbitrary: fc.constantFrom<Step['measure']>('huge', 'nothing') },
)

export const anyStep: fc.Arbitrary<Step> = fc.record({
  kind,
  which: fc.nat(40),
  other: fc.nat(40),
  measure,
  amount: fc.integer({ min: 1, max: 40 }),
  rarely: fc.nat(15),
})

/** The names and the clock of one history. */
export interface Setting {
  model: Model
  accountIds: readonly [string, string]
  reserveIdOf(accountId: string): string
  newName(prefix: string): string
  now: number
  /** The life of the server. */
  owner: string
  past: Operation[]
}

const minuteMs = 60_000
const dayMs = 24 * 60 * minuteMs

export const periodOf = (at: number) => new Date(at).toISOString().slice(0, 7)

/** Forward by minutes, to beyond the month's end or by months, and back by as much. */
export function clockAfter(now: number, { which, amount }: Step): number {
  const steps = [amount * minuteMs, 31 * dayMs, -amount * minuteMs, -31 * dayMs, 70 * dayMs, amount * dayMs]
  return Math.max(0, now + pick(steps, which))
}

const pick = <Item>(list: readonly Item[], number: number): Item => list[number % list.length]!

function amountOf({ measure: of, amount }: Step, there: number): number {
  if (of === 'some') return amount
  if (of === 'huge') return Number.MAX_SAFE_INTEGER - (amount % 3)
  if (of === 'nothing') return 0
  return of === 'all' ? there : there + 1
}

/** The operation that a step means at this moment, or undefined where there is nothing to repeat. */
export function operationOf(step: Step, setting: Setting): Operation | undefined {
  if (step.kind === 'again' || step.kind === 'again_with_another_body') return repeated(step, setting)
  const { model, accountIds, now: at, owner } = setting
  const { which, other, rarely } = step
  const accountId = accountIds[which % 5 === 4 ? 1 : 0]
  const base = { accountId, at }
  const from = rarely === 0 ? accountIds[1] : accountId
  const purseIds = purseIdsOf(from, setting)
  const living = purseIds.filter((id) => rarely === 1 || rowOf(from, id, setting)?.state === 'open')
  const purseId = pick(living, other)
  const there = total(rowOf(from, purseId, setting) ?? { granted: 0, bought: 0 })
  const holds = [...model.state().holds].filter(([, { asked }]) => asked.accountId === from)
  // What was settled for a dead owner may be committed late.
  const isDue = (state: HoldState) => state === 'open' || (state === 'unknown' && step.kind === 'commit')
  const openHolds = holds.filter(([, { state }]) => rarely === 1 || isDue(state))
  const [holdId, hold] = pick(step.kind === 'refund' ? holds : openHolds, which) ?? ['hld_unknown', undefined]
  const held = hold ? total(hold) : 0
  const key = setting.newName('key')
  const purpose = { kind: 'model', agentId: purseId }
  const lines = linesOf(amountOf(step, step.kind === 'charge' ? there : held), other)
  switch (step.kind) {
    case 'open_account':
      return { ...base, type: 'open_account', grantTokens: step.amount, period: periodOf(at), plan: 'pro' }
    case 'open_purse': {
      const monthly = which % 2 ? amountOf(step, 100) : 0
      const known = rarely === 2
      const opened = { type: 'open_purse' as const, parentId: purseId, monthly }
      const fresh =
        which % 3
          ? { kind: 'agent' as const, purseId: setting.newName('agt') }
          : { kind: 'task' as const, purseId: setting.newName('tsk') }
      return { ...base, ...opened, ...fresh, ...(known ? { purseId: pick(purseIds, which) } : {}) }
    }
    case 'change_purse':
      return { ...base, type: 'change_purse', purseId: notReserve(purseId, setting), monthly: amountOf(step, 100) }
    case 'grant':
      return {
        ...base,
        type: 'grant',
        sort: which % 2 ? 'granted' : 'bought',
        amount: amountOf(step, 100),
        reason: 'trial',
        key,
      }
    case 'transfer':
      return {
        ...base,
        type: 'transfer',
        from: purseId,
        to: pick(living, which + step.amount),
        amount: amountOf(step, there),
        reason: 'wish',
        key,
      }
    case 'approve': {
      const reserveId = setting.reserveIdOf(accountId)
      const amount = amountOf(step, total(rowOf(accountId, reserveId, setting) ?? { granted: 0, bought: 0 }))
      return {
        ...base,
        type: 'transfer',
        from: reserveId,
        to: purseId,
        amount,
        reason: 'asked for',
        key,
        reference: `apr_${key}`,
      }
    }
    case 'hold': {
      const amount = amountOf(step, there)
      const atLeast = other % 3 ? {} : { atLeast: Math.ceil(amount / 3) }
      return {
        ...base,
        type: 'hold',
        holdId: setting.newName('hld'),
        payer: purseId,
        amount,
        ...atLeast,
        purpose,
        owner,
      }
    }
    case 'sent':
      return { ...base, type: 'sent', holdId, ...(which % 2 ? { observed: amountOf(step, held) } : {}) }
    case 'commit':
      return {
        ...base,
        type: 'commit',
        holdId,
        lines,
        rates: '1',
        excess: which % 2 ? 'absorb' : 'refuse',
        estimated: other % 2 === 0,
      }
    case 'release':
      return { ...base, type: 'release', holdId }
    case 'settle':
      return { ...base, type: 'settle', holdId }
    case 'charge':
      return { ...base, type: 'charge', payer: purseId, lines, rates: '1', purpose: { kind: 'storage' }, key }
    case 'pay_owed':
      return { ...base, type: 'pay_owed', key }
    case 'refund':
      return { ...base, type: 'refund', holdId, amount: amountOf(step, hold?.cost ?? 0), reason: 'mended', key }
    case 'archive':
      return { ...base, type: 'archive', purseId: notReserve(purseId, setting) }
    case 'roll_over':
      return { ...base, type: 'roll_over', period: periodOf(at), grantTokens: pick([0, step.amount, 100], other) }
    case 'crash':
    case 'clock':
      return undefined
  }
}

function rowOf(accountId: string, id: string, { model }: Setting) {
  return model.state().accounts.get(accountId)?.rows.get(id)
}

function purseIdsOf(accountId: string, setting: Setting): string[] {
  const rows = setting.model.state().accounts.get(accountId)?.rows ?? new Map()
  const made = [...rows].filter(([, row]) => row.kind === 'agent' || row.kind === 'task').map(([id]) => id)
  return [setting.reserveIdOf(accountId), ...made]
}

/** The reserve has no month of its own and is never archived; a purse that there is not is refused instead. */
function notReserve(id: string, { accountIds, reserveIdOf }: Setting): string {
  return accountIds.some((one) => reserveIdOf(one) === id) ? 'agt_unknown' : id
}

function linesOf(cost: number, count: number): UsageLine[] {
  const first = Math.floor(cost / 2)
  const both = [
    { meter: 'model_input', quantity: first / 4, cost: first },
    { meter: 'model_output', quantity: cost, cost: cost - first },
  ]
  return count % 2 ? both : [{ meter: 'model_output', quantity: cost, cost }]
}

/** The same words at another time, or with something else in them. */
function repeated(step: Step, { past, now: at }: Setting): Operation | undefined {
  const known = past.filter((one) => 'key' in one || one.type === 'hold')
  const asked = pick(known, step.which)
  if (!asked || step.kind === 'again') return asked && { ...asked, at }
  if ('reason' in asked)
    return { ...asked, at, ...(step.which % 2 ? { amount: asked.amount + 1 } : { reason: 'another' }) }
  if (asked.type === 'hold')
    return { ...asked, at, ...(step.which % 2 ? { amount: asked.amount + 1 } : { owner: 'srv_other' }) }
  if (asked.type === 'charge') return { ...asked, at, payer: `${asked.payer}x` }
  return { ...asked, at }
}
