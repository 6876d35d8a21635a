import { DeltaError } from '../kernel/errors.ts'
import { largestTokens, microPerToken } from './amounts.ts'

/** Micro-tokens of what a request names in whole tokens; throws `amount_invalid`, which says what is wrong. */
export function parseTokens(value: unknown, { field, least = 1 }: { field: string; least?: 0 | 1 }): number {
  const fault = faultOf(value, least)
  if (fault === undefined) return (value as number) * microPerToken
  throw new DeltaError('amount_invalid', `${field} ${fault}`, { context: { field, least, most: largestTokens } })
}

function faultOf(value: unknown, least: 0 | 1): string | undefined {
  if (typeof value !== 'number') return 'must be a number, not a text or anything else'
  if (Number.isNaN(value)) return 'is not a number'
  if (!Number.isFinite(value)) return 'must be finite'
  if (!Number.isInteger(value)) return 'must be a whole number of tokens'
  if (Object.is(value, -0)) return 'must not be −0'
  if (value < least) return `must be at least ${least}`
  return value > largestTokens ? `must be at most ${largestTokens}` : undefined
}
