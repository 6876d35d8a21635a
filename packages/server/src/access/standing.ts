import type { FindAgent } from './agents.ts'
import type { FindRoot } from './agent-tokens/service.ts'
import { isId } from '../kernel/ids.ts'
import { decide, type Need } from './policy.ts'
import type { Role } from './principal.ts'
import type { Revocations } from './revocations.ts'
import { roleHas } from './rights.ts'

export interface StandingDeps {
  /** Of a key or session. */
  findRoot: FindRoot
  findAgent: FindAgent
  roleOf(accountId: string, userId: string): Role | undefined | Promise<Role | undefined>
  revocations: Pick<Revocations, 'isRevoked'>
}

/** Somebody as they were when they asked for something. */
export interface Formerly {
  accountId: string
  actorId: string
  /** As of `KnownCaller`. */
  ties: readonly string[]
}

/**
 * Whether somebody who asked for something could do so now, by the right that it `needs`. That a token of an agent has ended by the clock says nothing: agents get a new one every
 * few minutes. That it, or what it came from, was revoked does.
 */
export function createStanding({ findRoot, findAgent, roleOf, revocations }: StandingDeps) {
  return async function mayStill({ accountId, actorId, ties }: Formerly, needs: Need): Promise<boolean> {
    const mayRole = async (userId: string) => {
      const role = await roleOf(accountId, userId)
      return role !== undefined && roleHas(role, needs.right)
    }
    // For an agent that ran out of tokens the server asks by itself.
    if (actorId === 'platform') return true
    if (isId('usr', actorId)) return mayRole(actorId)
    // Tokens have no rows; of their revocations the last hour is known, and those of what they came from for ever.
    const tokens = ties.filter((id) => isId('tok', id))
    if (tokens.length > 0 && revocations.isRevoked(tokens, 0)) return false
    if (isId('agt', actorId)) {
      const agent = await findAgent(actorId, accountId)
      // One that stands still may have asked for just what it needs to go on.
      if (!agent || agent.state === 'archiving' || agent.state === 'archived') return false
    }
    const rootId = ties.find((id) => isId('key', id) || isId('ses', id))
    // A task outlives the session that it was given in: behind it stands the person.
    const userId = rootId === undefined ? ties.find((id) => isId('usr', id)) : undefined
    if (userId !== undefined) return mayRole(userId)
    const root = rootId === undefined ? null : await findRoot(rootId, accountId)
    if (root?.accountId !== accountId) return false
    return decide(root.principal, needs).allowed
  }
}

/** What asking for something about a sandbox, or about none, needs. */
export function toAskAbout(sandboxId: string | null): Need {
  return { right: 'request', ...(sandboxId !== null && { resource: 'sandbox' as const, id: sandboxId }) }
}
