import { allows, decide, type KnownCaller, type Principal, type Right } from '../../access/callers/door.ts'
import { isOwn, mayApprove } from '../../approvals/door.ts'
import type { Action } from '../../approvals/service.ts'
import type { AgentKind, AgentState } from '../schema.ts'
import { microPerToken } from '../../ledger/door.ts'
import type { SuspensionRecord, TokenRequestRecord, TokenRequestState } from './record.ts'

/** Pure decisions about requests for tokens: who may ask, who decides, and what then happens. */

/** From each state to which. What has no successor is over. */
export const successors: Record<TokenRequestState, readonly TokenRequestState[]> = {
  pending_main: ['pending_user', 'granting', 'refused', 'expired', 'unneeded', 'canceled'],
  pending_user: ['granting', 'failed', 'granted', 'refused', 'expired', 'unneeded', 'canceled'],
  granting: ['granted', 'failed', 'pending_user'],
  granted: [],
  refused: [],
  expired: [],
  failed: [],
  unneeded: [],
  canceled: [],
}

export function isOpen(state: TokenRequestState): boolean {
  return successors[state].length > 0
}

export function isPending(state: TokenRequestState): boolean {
  return state === 'pending_main' || state === 'pending_user'
}

/** A row says that it expired only when somebody has looked. */
export function stateOf(
  { state, expiresAt }: Pick<TokenRequestRecord, 'state' | 'expiresAt'>,
  now: number,
): TokenRequestState {
  return isPending(state) && expiresAt <= now ? 'expired' : state
}

/** One of a line, as it is now. */
export interface Member {
  id: string
  kind: AgentKind
  state: AgentState
  /** Effective. */
  rights: readonly Right[]
  /** Micro-tokens up to which its yes is enough. */
  confirmAbove: number
}

/** Who decides first: the nearest main agent above that could. `line`: from the first down, the last is who needs the tokens. */
export function deciderOf(line: readonly Member[]): Member | undefined {
  return line
    .slice(0, -1)
    .findLast(({ kind, state, rights }) => kind === 'main' && state === 'active' && allows(rights, 'allocate'))
}

/** An agent asks for itself; for it asks also who may change it. */
export function mayAsk(principal: Principal, agentId: string): boolean {
  if (principal.kind === 'agent') return principal.agentId === agentId
  return decide(principal, { right: 'write:agents', resource: 'agent', id: agentId }).allowed
}

type About = Pick<TokenRequestRecord, 'accountId' | 'agentId' | 'line'>

/** What somebody sees of the requests of their account, in a form that a statement can ask for. */
export interface Sight {
  /** Of this agent and those below it. @default all */
  below?: string | undefined
  /** Of these agents. @default all */
  only?: readonly string[] | undefined
}

/** Agents see what they and those below them ask for; whoever else may look at that agent sees it too. Undefined: nothing. */
export function sightOf(principal: Principal): Sight | undefined {
  if (principal.kind === 'agent') return { below: principal.agentId, only: principal.agents }
  const seen = decide(principal, { right: 'read:agents', resource: 'agent' })
  return seen.allowed ? { only: seen.only } : undefined
}

export function maySee(principal: Principal, { accountId, agentId, line }: About): boolean {
  const sight = principal.accountId === accountId ? sightOf(principal) : undefined
  if (!sight) return false
  const { below, only } = sight
  return (below === undefined || line.includes(below)) && (only === undefined || only.includes(agentId))
}

export type Ruling =
  | { ok: true; as: 'main' | 'user' }
  | { ok: false; reason: 'lacks_right' | 'own' | 'not_main' | 'expired' | 'changed' }
  | { ok: false; reason: 'decided'; state: TokenRequestState }

export interface Deciding {
  caller: Pick<KnownCaller, 'principal'>
  /** Where an agent decides: what it is. */
  kind?: AgentKind | undefined
  /** What whoever approves has seen. @default what is refused need not have been seen */
  tokens?: number | undefined
  now: number
}

/** Whether somebody who may see it may decide on it, now and in this state. */
export function mayDecide(record: TokenRequestRecord, { caller: { principal }, kind, tokens, now }: Deciding): Ruling {
  const as = principal.kind === 'agent' ? 'main' : 'user'
  const { accountId, agentId, line, asker } = record
  if (principal.kind === 'agent') {
    if (principal.agentId === agentId) return { ok: false, reason: 'own' }
    if (!line.includes(principal.agentId) || kind !== 'main') return { ok: false, reason: 'not_main' }
    if (!allows(principal.rights, 'allocate')) return { ok: false, reason: 'lacks_right' }
  } else {
    if (!mayApprove(principal, { accountId, kind: 'tokens', sandboxId: null })) {
      return { ok: false, reason: 'lacks_right' }
    }
    if (isOwn(principal, asker)) return { ok: false, reason: 'own' }
  }
  const state = stateOf(record, now)
  if (state === 'expired') return { ok: false, reason: 'expired' }
  // From the moment that a person was asked it is the person’s to say.
  const isTheirs = as === 'main' ? state === 'pending_main' : isPending(state)
  if (!isTheirs) return { ok: false, reason: 'decided', state }
  if (tokens !== undefined && tokens !== record.tokens) return { ok: false, reason: 'changed' }
  return { ok: true, as }
}

export type Way = { by: 'main' } | { by: 'user'; from: 'main' | 'reserve' }

/**
 * What becomes of a main agent’s yes. It is enough where its right goes so far, its own balance does, and no person wants to be asked about so many; all else a person
 * confirms, and what its balance does not cover comes from the reserve.
 */
export function wayOf(
  tokens: number,
  { rights, confirmAbove, free }: { rights: readonly Right[]; confirmAbove: number; free: number },
): Way {
  const amount = tokens * microPerToken
  if (free < amount) return { by: 'user', from: 'reserve' }
  const isEnough = allows(rights, 'allocate', String(tokens)) && amount <= confirmAbove
  return isEnough ? { by: 'main' } : { by: 'user', from: 'main' }
}

/** Exactly what a person decides on. */
export function actionOf({ agentId, source, tokens, id }: TokenRequestRecord): Action {
  return { kind: 'tokens', agentId, fromPurse: source, tokens, requestId: id }
}

/** What the server asks for by itself: what was refused, and a tenth of what the agent has each month. */
export function automaticTokens(wanted: number, monthly: number): number {
  return Math.max(1, Math.ceil((wanted + monthly / 10) / microPerToken))
}

/** Whether an agent that ran out goes on: it has more than it had, or enough for what was refused. */
export function hasTokensAgain(
  { wanted, had }: Pick<SuspensionRecord, 'wanted' | 'had'>,
  { granted, bought, held }: { granted: number; bought: number; held: number },
): boolean {
  return granted + bought + held > had || granted + bought >= wanted
}
