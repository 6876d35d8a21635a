import { hash, type KeyObject } from 'node:crypto'
import type { Clock } from '../../kernel/clock.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { newId } from '../../kernel/ids.ts'
import type { FindAgent, KnownAgent } from '../agents.ts'
import type { TokenReader } from '../authenticate.ts'
import type { KnownCaller } from '../door.ts'
import { inheritable, mayGrant } from '../policy.ts'
import type { Revocations } from '../revocations.ts'
import { isRight, narrow } from '../rights.ts'
import {
  type AgentClaims,
  atRest,
  isAgentToken,
  narrowed,
  readAgentToken,
  readSignedToken,
  signAgentToken,
} from './rules.ts'
import { agentTokenLimits, type AgentTokenView, type CreateAgentToken } from './schema.ts'

/** Who a key or session stands for now, by its id; null where it has ended. Changes nothing: it is asked for ids that nobody vouches for yet. */
export type FindRoot = (id: string, accountId: string) => KnownCaller | null | Promise<KnownCaller | null>

export interface AgentTokensDeps {
  signing: { privateKey: KeyObject; publicKey: KeyObject }
  findRoot: FindRoot
  findAgent: FindAgent
  revocations: Pick<Revocations, 'count' | 'isRevoked' | 'onRevoked' | 'revoke'>
  clock: Clock
}

export type AgentTokens = ReturnType<typeof createAgentTokens>

interface Known {
  caller: KnownCaller
  /** On the monotonic clock. */
  readMs: number
}

/** Tokens in use, and tokens made here, whose signature is not checked again. */
const remembered = 10_000
/** What stands above a token is looked up again after this. */
const trustedMs = 30_000
const second = 1_000

/**
 * Short-lived tokens by which an agent acts for itself: a part of what their maker has, signed, and kept nowhere. Whatever is taken from the agent, from those above it, or from the key or
 * session at the root is taken from them too, since all are asked at every look.
 */
export function createAgentTokens({ signing, findRoot, findAgent, revocations, clock }: AgentTokensDeps) {
  const known = new Map<string, Known>()
  const textsOf = new Map<string, Set<string>>()
  /** SHA-256 of texts that were signed here: to check their signature takes longer than all else of their first request. */
  const signedHere = new Set<string>()

  const forget = (text: string): void => {
    for (const tie of known.get(text)?.caller.ties ?? []) {
      const texts = textsOf.get(tie)
      if (texts?.delete(text) && texts.size === 0) textsOf.delete(tie)
    }
    known.delete(text)
  }

  const remember = (text: string, caller: KnownCaller): void => {
    forget(text)
    if (known.size >= remembered) forget(known.keys().next().value!)
    known.set(text, { caller, readMs: clock.monotonic() })
    for (const tie of caller.ties) {
      const texts = textsOf.get(tie)
      if (texts) texts.add(text)
      else textsOf.set(tie, new Set([text]))
    }
  }

  const noteSigned = (text: string): void => {
    if (signedHere.size >= remembered) signedHere.delete(signedHere.values().next().value!)
    signedHere.add(hash('sha256', text))
  }

  revocations.onRevoked((id) => {
    for (const text of Array.from(textsOf.get(id) ?? [])) forget(text)
  })

  async function look(text: string, hashed: string): Promise<KnownCaller | null> {
    const since = revocations.count
    // What nobody here signed is refused before anything is looked up: it learns of no key or agent, and costs no read.
    const now = clock.now()
    const isSigned = signedHere.has(hashed) || known.has(hashed)
    const claims = isSigned ? readSignedToken(text, now) : readAgentToken(text, signing.publicKey, now)
    if (!claims) return null
    // Tokens have no row: what was revoked of them is in the news of the last hour, which is longer than any of them lives.
    if (revocations.isRevoked([claims.jti, ...claims.parents.slice(1)], 0)) return null
    const { account, parents, sub } = claims
    const [root, agent] = await Promise.all([findRoot(parents[0]!, account), findAgent(sub, account)])
    if (!root || root.accountId !== account || !agent?.mayAct) return null
    const caller = callerOf(claims, { root, agent, since })
    if (revocations.isRevoked(caller.ties, since)) return null
    remember(hashed, caller)
    return caller
  }

  const reader: TokenReader = {
    fits: isAgentToken,
    read(text) {
      if (text.length > agentTokenLimits.tokenChars) return null
      const hashed = hash('sha256', text)
      const found = known.get(hashed)
      if (found && clock.monotonic() - found.readMs < trustedMs) {
        if (found.caller.expiresAt! > clock.now()) return found.caller
        forget(hashed)
        return null
      }
      return look(text, hashed).then((caller) => {
        if (!caller) forget(hashed)
        return caller
      })
    },
  }

  async function create(wish: CreateAgentToken, caller: KnownCaller): Promise<AgentTokenView> {
    const { principal, accountId, actorId } = caller
    const { agentId, agents, sandboxes, ttlMs } = wish
    const agent = await findAgent(agentId, accountId)
    // An agent makes tokens for itself and for those below it, and knows of no others.
    if (!agent || (principal.kind === 'agent' && !agent.line.includes(principal.agentId))) {
      throw new DeltaError('agent_not_found', `There is no agent ${agentId}`)
    }
    refuseUnfit(agent, wish)
    const { kind: agentKind } = agent
    const found = narrowed(narrow(inheritable(principal), agent.rights), wish.rights.filter(isRight), agentKind)
    if (!found.ok) {
      throw new DeltaError('forbidden', `${actorId} may not hand on the right ${found.right} to a ${agentKind}`, {
        context: { right: found.right },
      })
    }
    const within = mayGrant(principal, { rights: [], agents, sandboxes })
    const limits = principal.kind === 'user' ? undefined : principal.agents
    if (!within.ok || (limits && !limits.includes(agentId))) {
      throw new DeltaError(
        'forbidden',
        `${actorId} is limited to some agents or sandboxes, so what it makes must be too`,
        {
          context: { scope: !within.ok && 'scope' in within ? within.scope : 'agents' },
        },
      )
    }
    const parents = [...parentsOf(caller)]
    if (parents.length > agentTokenLimits.depth) {
      throw new DeltaError('forbidden', `Agents are at most ${agentTokenLimits.depth} deep`, {
        context: { right: 'delegate' },
      })
    }
    const now = clock.now()
    const iat = Math.floor(now / second)
    const exp = Math.floor(Math.min(now + ttlMs, caller.expiresAt ?? Infinity) / second)
    if (exp <= iat)
      throw new DeltaError('forbidden', 'What it would be made with ends within the second', {
        context: { right: 'delegate' },
      })
    const jti = newId('tok')
    const claims = {
      sub: agentId,
      jti,
      iat,
      exp,
      account: accountId,
      parents,
      rights: found.rights,
      agents: agents ?? null,
      sandboxes: sandboxes ?? null,
    }
    const token = signAgentToken(claims, signing.privateKey)
    if (token.length > agentTokenLimits.tokenChars) {
      throw new DeltaError('invalid_request', 'The request is not valid at body', {
        cause: `body: so many rights, agents and sandboxes make a token of ${token.length} characters, and a request carries ${agentTokenLimits.tokenChars}`,
      })
    }
    noteSigned(token)
    return {
      id: jti,
      token,
      agentId,
      agentKind,
      rights: found.rights,
      agents: claims.agents,
      sandboxes: claims.sandboxes,
      expiresAt: new Date(exp * second).toISOString(),
    }
  }

  /** Whoever shows a token of their account may end it, with those made with it; nobody learns whether another text was one. */
  async function revoke(text: string, { accountId }: KnownCaller): Promise<void> {
    const claims = readAgentToken(text, signing.publicKey, clock.now())
    if (claims?.account === accountId) await revocations.revoke([claims.jti])
  }

  return { reader, create, revoke }
}

/** From the root down to whoever makes the next one. */
function parentsOf({ principal, parents = [] }: KnownCaller): readonly string[] {
  if (principal.kind === 'user') return [principal.sessionId]
  return principal.kind === 'key' ? [principal.keyId] : [...parents, principal.jti]
}

function refuseUnfit({ id, kind, state, mayAct }: KnownAgent, { agentKind }: CreateAgentToken): void {
  if (!mayAct) {
    const code = state === 'paused' ? 'agent_paused' : 'agent_archived'
    throw new DeltaError(code, `${id} is ${state}`, { context: { agentId: id, state } })
  }
  if (agentKind === undefined || agentKind === kind) return
  throw new DeltaError('invalid_request', 'The request is not valid at body.agentKind', {
    cause: `body.agentKind: ${id} is a ${kind}`,
  })
}

interface Standing {
  root: KnownCaller
  agent: KnownAgent
  since: number
}

function callerOf(claims: AgentClaims, { root, agent, since }: Standing): KnownCaller {
  const { sub, jti, exp, account, parents, rights, agents, sandboxes } = claims
  const end = exp * second
  const own = agent.isAtRest ? atRest(agent.rights) : agent.rights
  return {
    accountId: account,
    actorId: sub,
    principal: {
      kind: 'agent',
      accountId: account,
      agentId: sub,
      agentKind: agent.kind,
      jti,
      rights: narrow(narrow(inheritable(root.principal), own), rights.filter(isRight)),
      ...(agents && { agents }),
      ...(sandboxes && { sandboxes }),
    },
    ties: [jti, ...parents, ...root.ties, ...agent.line],
    parents,
    above: agent.line.slice(0, -1),
    ...(sandboxes && { sandboxes }),
    expiresAt: Math.min(end, root.expiresAt ?? end),
    since,
  }
}
