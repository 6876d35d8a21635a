import { z } from '@hono/zod-openapi'
import { DeltaError } from '../kernel/errors.ts'
import { largestTokens, microPerToken } from './amounts.ts'

/** Whole tokens that a request names. It lets through whatever there is, since only `parseTokens` has a name for what is wrong with it. */
export function tokensSchema(description: string, least: 0 | 1 = 1) {
  return z
    .custom<unknown>((value) => value !== undefined, 'required')
    .openapi({ type: 'integer', minimum: least, maximum: largestTokens, description })
}

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
