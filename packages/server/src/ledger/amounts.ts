/** Inside, tokens are whole micro-tokens: no fraction is ever rounded. */
export const microPerToken = 1_000_000
export const largestAmount = Number.MAX_SAFE_INTEGER
/** The most whole tokens whose micro-tokens are still exact. */
export const largestTokens = Math.floor(largestAmount / microPerToken)

/** Micro-tokens from 1 on. */
export function isAmount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 1
}

/** The same or 0, which means none. −0 is neither. */
export function isAmountOrNone(value: unknown): value is number {
  return isAmount(value) || Object.is(value, 0)
}

/** Tokens with at most six places, exact below 2³² tokens. */
export function shownTokens(amount: number): number {
  return amount / microPerToken
}
