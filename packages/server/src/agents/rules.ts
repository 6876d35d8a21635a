import {
  allows,
  covers,
  decide,
  inheritable,
  isRight,
  narrow,
  narrowedFor,
  right,
  type Principal,
  type Right,
} from '../access/callers/door.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { ErrorCode } from '../kernel/errors.ts'
import { agentLimits, type AgentKind, type AgentState, type Channel } from './schema.ts'

/** Pure decisions about agents: who may stand where, who may change whom, and what anybody may do. */

export interface Refusal {
  ok: false
  code: ErrorCode
  message: string
  context?: Record<string, unknown>
}
export type Verdict = { ok: true } | Refusal

const fine: Verdict = { ok: true }

/** What a rule looks at of an agent. */
export interface Standing {
  id: string
  kind: AgentKind
  state: AgentState
  /** It and those above it, from the first down. */
  line: readonly string[]
}

/** Whether an agent of that kind may be made below `parent`. */
export function mayStandBelow(kind: AgentKind, parent: Standing | undefined): Verdict {
  if (!parent) return fine
  if (parent.kind === 'messenger') return refused('invalid_request', 'A messenger has nobody below it')
  if (kind === 'main' && parent.kind !== 'main') {
    return refused(
      'invalid_request',
      `A main agent stands below none or below a main agent, and ${parent.id} is a ${parent.kind}`,
    )
  }
  if (parent.line.length >= agentLimits.depth) {
    return refused(
      'agent_too_deep',
      `Agents are at most ${agentLimits.depth} deep, and ${parent.id} is the last that may be`,
    )
  }
  return isOver(parent.state) ? over(parent) : fine
}

/** Whether an agent may be moved below that one: it keeps its place, and a circle is none. */
export function mayMoveBelow(agent: Standing, parentId: string, parentLine: readonly string[]): Verdict {
  if (parentLine.includes(agent.id)) {
    return refused('agent_cycle', `${parentId} is ${agent.id} itself or stands below it`)
  }
  if (agent.line.at(-2) === parentId) return fine
  return refused('agent_parent_fixed', `${agent.id} stays where it was made`)
}

/** An agent knows of itself and of those below it; people and keys know of all of the account. */
export function mayKnow(principal: Principal, { line }: Pick<Standing, 'line'>): boolean {
  return principal.kind !== 'agent' || line.includes(principal.agentId)
}

/** An agent changes those below it, and never itself. */
export function mayChange(principal: Principal, { id, line }: Pick<Standing, 'id' | 'line'>): Verdict {
  if (principal.kind !== 'agent' || (principal.agentId !== id && line.includes(principal.agentId))) return fine
  return refused('forbidden', `${principal.agentId} changes agents below it, and not itself`, { right: 'write:agents' })
}

/** Agents make agents below themselves alone. */
export function mayPlace(principal: Principal, parent: Pick<Standing, 'line'> | undefined): Verdict {
  if (principal.kind !== 'agent') return fine
  if (parent?.line.includes(principal.agentId)) return fine
  return refused('forbidden', `${principal.agentId} makes agents below itself alone`, { right: 'write:agents' })
}

/** Tokens from the account's reserve take a person, or a key that says so; from an agent above, the right to so many. */
export function mayAllocate(principal: Principal, tokens: number, from: 'reserve' | 'agent'): Verdict {
  if (tokens === 0) return fine
  const need = `allocate:${tokens}`
  if (from === 'reserve' && principal.kind === 'agent') {
    return refused('forbidden', 'What an agent needs from the account’s reserve is asked of a person', { right: need })
  }
  const missing = decide(principal, { right: 'allocate', selector: String(tokens) }).allowed
    ? missingForReserve(principal, from)
    : need
  return missing === undefined
    ? fine
    : refused('forbidden', `This needs the right ${missing}, and whoever asks does not have it`, { right: missing })
}

/** As with every transfer from there: whoever made a key for bots did not mean the account's money. */
function missingForReserve(principal: Principal, from: 'reserve' | 'agent'): string | undefined {
  if (from !== 'reserve' || principal.kind !== 'key') return undefined
  return decide(principal, { right: 'write:billing' }).allowed ? undefined : 'write:billing'
}

/** Whether it may work: use its computer, and whatever costs. */
export function mayWork(
  { id, kind, state }: Pick<Standing, 'id' | 'kind' | 'state'>,
  { computer }: { computer: boolean },
): Verdict {
  if (isOver(state)) return over({ id, state })
  if (computer && kind === 'messenger') {
    return refused('agent_has_no_sandbox', `${id} is a messenger, which has neither workspace nor sandbox`, {
      agentId: id,
    })
  }
  if (state === 'paused') return refused('agent_paused', `${id} is paused`, { agentId: id })
  if (state === 'suspended') return refused('agent_suspended', `${id} is out of tokens`, { agentId: id })
  return fine
}

/** Whether its tokens let anybody in. One that is suspended may still look and ask. */
export function mayAuthenticate(state: AgentState): boolean {
  return state === 'active' || state === 'suspended'
}

export function isOver(state: AgentState): boolean {
  return state === 'archiving' || state === 'archived'
}

function over({ id, state }: Pick<Standing, 'id' | 'state'>): Refusal {
  return refused('agent_archived', `${id} is ${state}`, { agentId: id, state })
}

/** What is left after each above it. `rights` from the first down. */
export function effective(rights: readonly (readonly Right[])[]): Right[] {
  return rights.reduce<Right[] | undefined>((above, own) => (above ? narrow(above, own) : [...own]), undefined) ?? []
}

export type Granted = { ok: true; rights: Right[] } | { ok: false; right: Right }

/** What an agent gets of what was wished: nothing that its parent or whoever asks does not have. Without a wish: what its kind usually needs, as far as these go. */
export function grantedRights(
  wished: readonly Right[] | undefined,
  {
    kind,
    channel,
    principal,
    parent,
  }: {
    kind: AgentKind
    channel: Channel | null
    principal: Principal
    /** Effective, where there is one. */
    parent: readonly Right[] | undefined
  },
): Granted {
  const own = inheritable(principal)
  const ceiling = parent ? narrow(parent, own) : own
  if (wished) return narrowedFor(ceiling, wished, kind)
  const usual = usualRights(kind, channel)
  return { ok: true, rights: usual ? narrow(ceiling, usual) : [...ceiling] }
}

/** Undefined: all that may be had. */
function usualRights(kind: AgentKind, channel: Channel | null): Right[] | undefined {
  if (kind === 'main') return undefined
  const send = channel === null || channel === 'api' ? [] : [`send:${channel}`]
  if (kind === 'messenger') return ['read:agents', 'request', ...send].map(right)
  return ['read:agents', 'read:exec', 'write:exec', 'read:files', 'write:files', 'egress', 'request', ...send].map(
    right,
  )
}

/** Whether `after` has something that `before` had not, for which whoever changes it must have the right. */
export function isWider(after: readonly Right[], before: readonly Right[]): boolean {
  return after.some((one) => !before.some((own) => covers(own, one)))
}

export function mayReachWith(rights: readonly Right[], host: string): boolean {
  // What no selector says is nobody's but theirs who may reach all.
  return allows(rights, 'egress', isRight(`egress:${host}`) ? host : '*')
}

export function refusalOf({ code, message, context }: Refusal): DeltaError {
  return new DeltaError(code, message, context && { context })
}

function refused(code: ErrorCode, message: string, context?: Record<string, unknown>): Refusal {
  return { ok: false, code, message, ...(context && { context }) }
}
