// What features above the ledger say to it and hear from it, where they do it for themselves.
export { largestTokens, microPerToken, shownTokens } from './amounts.ts'
export type { Done, Operation } from './operations.ts'
export { parseTokens, tokensSchema } from './tokens.ts'
