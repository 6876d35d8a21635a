import type { Needs, RightName, ScopedResource } from '../kernel/http/needs.ts'
import type { KeyPrincipal, Principal, Role, UserPrincipal } from './principal.ts'
import {
  allows,
  covers,
  isOperators,
  isRight,
  narrow,
  type Right,
  rightName,
  rightsOfRole,
  roleHas,
  withheldFrom,
} from './rights.ts'

/** The account of who runs the installation. */
export const operatorAccountId = 'acc_default'

export interface Need {
  right: RightName
  /** The host, channel or amount, for rights that have a selector. */
  selector?: string
  /** The kind of thing it is about, and which one; without an id all of them, to be listed, or one to be made. */
  resource?: ScopedResource
  id?: string | undefined
}

export type Decision =
  | { allowed: true; only?: readonly string[] }
  /** It must look as if the thing did not exist. */
  | { allowed: false; reason: 'hidden' }
  | { allowed: false; reason: 'lacks_right' | 'limited' }

const allowed: Decision = { allowed: true }
const hidden: Decision = { allowed: false, reason: 'hidden' }
const lacksRight: Decision = { allowed: false, reason: 'lacks_right' }
const limited: Decision = { allowed: false, reason: 'limited' }

/** The one function that decides. Whose account a thing is in is looked up where the thing is read, by `accountId`. */
export function decide(principal: Principal, need: Need): Decision {
  if (!hasRight(principal, need)) return lacksRight
  const limits = limitsOf(principal)
  // An act that is about one thing is bounded as what looks at it and changes it is.
  if (limits === undefined || (!isAboutThings(need.right) && need.resource === undefined)) return allowed
  const own = need.resource && limits[need.resource]
  // Whoever is limited to some things has no right to things of other kinds, nor to make new ones.
  if (!own) return limited
  if (need.id !== undefined) return own.includes(need.id) ? allowed : hidden
  return need.right.startsWith('read:') ? { allowed: true, only: own } : limited
}

/** A route's words as a need. */
export function needOf(needs: Exclude<Needs, 'public' | 'nothing'>, id: string | undefined): Need {
  return typeof needs === 'string' ? { right: needs } : { ...needs, id }
}

function hasRight(principal: Principal, { right, selector }: Need): boolean {
  if (isOperators(right) && principal.accountId !== operatorAccountId) return false
  // An agent's rights were narrowed by all it descends from; of `read:*` these must not be part even so.
  if (principal.kind === 'agent' ? withheldFrom(right) !== undefined : !roleHas(principal.role, right)) return false
  return principal.kind === 'user' || allows(principal.rights, right, selector)
}

/** Acts have selectors of their own. */
function isAboutThings(name: RightName): boolean {
  return name.startsWith('read:') || name.startsWith('write:')
}

type Limits = Partial<Record<ScopedResource, readonly string[]>>

/** Undefined: to nothing in particular. */
function limitsOf(principal: Principal): Limits | undefined {
  if (principal.kind === 'user' || (principal.agents === undefined && principal.sandboxes === undefined))
    return undefined
  const { agents, sandboxes } = principal
  return { ...(agents && { agent: agents }), ...(sandboxes && { sandbox: sandboxes }) }
}

/** Whether they may let a program reach that host, `*.name` for all below it, or `*` for every one. */
export function mayReach(principal: Principal, host: string): boolean {
  // What no selector says is nobody's but theirs who may reach all.
  return decide(principal, { right: 'egress', selector: isRight(`egress:${host}`) ? host : '*' }).allowed
}

/** What is handed on to a key or a token. */
export interface Grant {
  rights: readonly Right[]
  agents?: readonly string[] | undefined
  sandboxes?: readonly string[] | undefined
}

export type Granting = { ok: true } | { ok: false; right: Right } | { ok: false; scope: 'agents' | 'sandboxes' }

/**
 * Whether somebody may hand this on: nothing wider than their own, in no respect. To approve is handed on only by a person, since a chain of keys
 * would otherwise let a program approve what it asked for.
 */
export function mayGrant(principal: Principal, { rights, agents, sandboxes }: Grant): Granting {
  const missing = rights.find((one) => !holds(principal, one))
  if (missing !== undefined) return { ok: false, right: missing }
  if (principal.kind === 'user') return { ok: true }
  if (!isWithin(principal.agents, agents)) return { ok: false, scope: 'agents' }
  return isWithin(principal.sandboxes, sandboxes) ? { ok: true } : { ok: false, scope: 'sandboxes' }
}

/** Whether they have all of that right, whatever it is asked for, and may hand it on to a program. */
export function holds(principal: Principal, one: Right): boolean {
  const withheld = withheldFrom(one)
  if (principal.kind === 'user') return roleHolds(principal, one)
  if (withheld === 'programs' || !principal.rights.some((own) => covers(own, one))) return false
  return principal.kind === 'agent' || roleHolds(principal, one)
}

/** Of `read:*` and `write:*` each role has what it has: they are bounded again whenever they are used. */
function roleHolds({ role, accountId }: { role: Role; accountId: string }, one: Right): boolean {
  const name = rightName(one)
  return name === undefined || (roleHas(role, name) && (!isOperators(name) || accountId === operatorAccountId))
}

/** All that may be handed on to an agent, whatever it was given at first: its parent's rights as they are now. */
export function inheritable(principal: Principal): Right[] {
  const own = principal.kind === 'agent' ? principal.rights : narrow(rightsOfRole(principal.role), ownRights(principal))
  return own.filter((one) => withheldFrom(one) === undefined)
}

function ownRights(principal: UserPrincipal | KeyPrincipal): readonly Right[] {
  return principal.kind === 'user' ? rightsOfRole(principal.role) : principal.rights
}

function isWithin(own: readonly string[] | undefined, wanted: readonly string[] | undefined): boolean {
  return own === undefined || (wanted !== undefined && wanted.every((id) => own.includes(id)))
}
