import { createHash } from 'node:crypto'
import { decide, type KnownCaller, type Principal } from '../access/callers/door.ts'
import type { Place } from '../kernel/http/followers.ts'
import { isId } from '../kernel/ids.ts'
import type { Action, Json } from './kinds.ts'
import type { ApprovalRecord, ApprovalState, Asker } from './record.ts'

/** The one text of an action: names sorted by UTF-16 code units, no spaces, scalars as `JSON.stringify` writes them (RFC 8785). */
export function canonical(value: Json): string {
  if (typeof value !== 'object' || value === null) return JSON.stringify(value)
  if (isList(value)) return `[${value.map(canonical).join(',')}]`
  const fields = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1))
  return `{${fields.map(([name, one]) => `${JSON.stringify(name)}:${canonical(one)}`).join(',')}}`
}

function isList(value: object): value is readonly Json[] {
  return Array.isArray(value)
}

export function hashOf(action: string): string {
  return createHash('sha256').update(action).digest('hex')
}

export function readAction(text: string): Action {
  return JSON.parse(text) as Action
}

/** From each state to which. What has no successor is over. */
export const successors: Record<ApprovalState, readonly ApprovalState[]> = {
  pending: ['approved', 'refused', 'expired', 'canceled'],
  approved: ['executed', 'failed'],
  executed: [],
  failed: [],
  refused: [],
  expired: [],
  canceled: [],
}

/** A row says that it expired only when somebody has looked. */
export function stateOf({ state, expiresAt }: Pick<ApprovalRecord, 'state' | 'expiresAt'>, now: number): ApprovalState {
  return state === 'pending' && expiresAt <= now ? 'expired' : state
}

/** Who looks, or asks. */
export type Looker = Pick<KnownCaller, 'actorId' | 'principal' | 'ties' | 'above'>

export function askerOf(caller: Looker): Asker {
  const { actorId, principal, ties } = caller
  const userId = principal.kind === 'agent' ? null : (principal.userId ?? null)
  return { actorId, userId, ties: [...new Set(ties)], line: lineOf(caller), root: rootOf(ties) }
}

/** An agent of the same name elsewhere is another one: whoever makes a token writes the name into it. */
export function lineOf({ actorId, principal, ties, above = [] }: Looker): string {
  return principal.kind === 'agent' ? [rootOf(ties), ...above, actorId].join('/') : actorId
}

/** Who stands above an agent, from whoever answers for it down. */
export function aboveOf({ line }: Pick<Asker, 'line'>): string[] {
  return line.split('/').slice(0, -1)
}

/** Only what descends from the key in the data folder has no person. */
export function rootOf(ties: readonly string[]): string {
  return ties.find((id) => isId('usr', id)) ?? 'key_default'
}

/** Whether somebody asked for it themselves: as the same actor, or the same person once by a key and once not. */
export function isOwn(principal: Principal, { actorId, userId, ties }: Asker): boolean {
  if (principal.kind === 'agent') return principal.agentId === actorId
  if (principal.userId !== undefined && [userId, actorId].includes(principal.userId)) return true
  // A person decides on what their agents ask for. A key does not: whoever has the key from which an agent descends speaks through that agent too.
  if (principal.kind === 'user') return false
  return (
    principal.keyId === actorId ||
    ties.includes(principal.keyId) ||
    (principal.userId !== undefined && ties.includes(principal.userId))
  )
}

type About = Pick<ApprovalRecord, 'accountId' | 'kind' | 'sandboxId' | 'asker'>

/** Whether they may decide on such a thing at all, but for what they asked themselves. */
export function hasRight(principal: Principal, { accountId, kind, sandboxId }: Omit<About, 'asker'>): boolean {
  if (principal.kind === 'agent' || principal.accountId !== accountId) return false
  if (!decide(principal, { right: 'approve', selector: kind }).allowed) return false
  if (principal.kind === 'user' || (principal.sandboxes === undefined && principal.agents === undefined)) return true
  return sandboxId !== null && principal.sandboxes?.includes(sandboxId) === true
}

/** Whoever asked, and whoever may decide; to all others it does not exist. */
export function maySee(looker: Looker, about: About): boolean {
  if (looker.principal.accountId !== about.accountId) return false
  return isAsker(looker, about.asker) || hasRight(looker.principal, about)
}

/** Whoever asked, and the person behind a key that did. */
export function isAsker(looker: Looker, { actorId, userId, line }: Asker): boolean {
  const { principal } = looker
  if (principal.kind === 'user') return principal.userId === userId || principal.userId === actorId
  return lineOf(looker) === line
}

export type Ruling =
  | { ok: true }
  | { ok: false; reason: 'hidden' | 'lacks_right' | 'own' | 'expired' | 'changed' | 'second_factor' | 'gone' }
  | { ok: false; reason: 'decided'; state: ApprovalState }

export interface Deciding {
  looker: Looker
  /** Whether the person of the session has a second factor now. */
  hasSecondFactor: boolean
  /** What the decider saw. @default what is refused need not have been seen */
  actionHash?: string | undefined
  /** Whether whoever asked could ask for it now. */
  mayStillAsk: boolean
  now: number
}

export function mayDecide(
  record: About & Pick<ApprovalRecord, 'state' | 'expiresAt' | 'actionHash'>,
  { looker, hasSecondFactor, actionHash, mayStillAsk, now }: Deciding,
): Ruling {
  const { principal } = looker
  if (!maySee(looker, record)) return { ok: false, reason: 'hidden' }
  if (!hasRight(principal, record)) return { ok: false, reason: 'lacks_right' }
  if (isOwn(principal, record.asker)) return { ok: false, reason: 'own' }
  const state = stateOf(record, now)
  if (state === 'expired') return { ok: false, reason: 'expired' }
  if (state !== 'pending') return { ok: false, reason: 'decided', state }
  if (actionHash !== undefined && actionHash !== record.actionHash) return { ok: false, reason: 'changed' }
  if (principal.kind === 'user' && hasSecondFactor && !principal.secondFactor) {
    return { ok: false, reason: 'second_factor' }
  }
  // To refuse it is right whoever they have become.
  if (actionHash !== undefined && !mayStillAsk) return { ok: false, reason: 'gone' }
  return { ok: true }
}

/** Of whoever follows what changes. Programs have places of their own, so that no agent keeps people from watching. */
export function placesOf(
  { principal, ties }: Looker,
  { perAccount, perGroup }: { perAccount: number; perGroup: number },
): Place[] {
  const { accountId } = principal
  const group = principal.kind === 'user' ? principal.userId : `programs of ${rootOf(ties)}`
  return [
    { name: accountId, who: 'the account', limit: perAccount },
    { name: `${accountId} ${group}`, who: group, limit: perGroup },
  ]
}
