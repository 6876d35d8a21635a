import type { Operation, UsageLine } from '../operations.ts'

const largest = Number.MAX_SAFE_INTEGER
const isAmount = (it: unknown, least: number) => Number.isSafeInteger(it) && Number(it) >= least && !Object.is(it, -0)
const isQuantity = (it: unknown) => typeof it === 'number' && it >= 0 && it <= largest && !Object.is(it, -0)
const isLine = ({ cost, quantity }: UsageLine) => isAmount(cost, 0) && isQuantity(quantity)

export const costOf = (lines: readonly UsageLine[]) => lines.reduce((sum, { cost }) => sum + cost, 0)

/** Whether every number in it is one that the ledger takes. */
export function isWellFormed(o: Operation): boolean {
  if (o.type === 'open_account' || o.type === 'roll_over') return isAmount(o.grantTokens, 0)
  if (o.type === 'open_purse' || o.type === 'change_purse') return isAmount(o.monthly, 0)
  if (o.type === 'grant' || o.type === 'transfer' || o.type === 'refund') return isAmount(o.amount, 1)
  const least = o.type === 'hold' && o.atLeast !== undefined ? o.atLeast : 1
  if (o.type === 'hold') return isAmount(o.amount, 1) && isAmount(least, 1) && least <= o.amount
  if (o.type === 'sent') return o.observed === undefined || isAmount(o.observed, 0)
  return !('lines' in o) || (o.lines.every(isLine) && isAmount(costOf(o.lines), 0))
}
