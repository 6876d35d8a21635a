import type { Asker } from '../../approvals/door.ts'

export const tokenRequestStates = [
  'pending_main',
  'pending_user',
  'granting',
  'granted',
  'refused',
  'expired',
  'failed',
  'unneeded',
  'canceled',
] as const
export type TokenRequestState = (typeof tokenRequestStates)[number]

/** One request as it is stored. Times are unix milliseconds. */
export interface TokenRequestRecord {
  id: string
  accountId: string
  agentId: string
  /** The agent and all above it, from the first down, as they always are. */
  line: readonly string[]
  /** Whole tokens. */
  tokens: number
  reason: string
  /** Made by the server, when the agent ran out. */
  automatic: boolean
  state: TokenRequestState
  asker: Asker
  /** The main agent that is asked first, and until when. */
  mainId: string | null
  mainUntil: number | null
  /** The main agent that said yes. */
  endorsedBy: string | null
  /** The purse that the tokens come from, as soon as that is known. */
  source: string | null
  /** What a person decides on. */
  approvalId: string | null
  askedAt: number
  expiresAt: number
  decidedBy: string | null
  decidedAt: number | null
  refusal: string | null
  endedAt: number | null
  failureCode: string | null
  failureText: string | null
  /** Numbers the changes of an account. */
  changed: number
}

/** An agent whose tokens are at an end. Amounts are micro-tokens. */
export interface SuspensionRecord {
  agentId: string
  accountId: string
  /** `waking`: its tokens have come, and it is about to go on. */
  state: 'low' | 'waking'
  /** What was to be held for it and could not be. */
  wanted: number
  /** All it had then, what was held included: it goes on when it has more. */
  had: number
  /** Since when it stands still. */
  at: number
}
