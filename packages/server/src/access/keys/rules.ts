import type { Role } from '../principal.ts'
import { type Grant, type Granting, mayGrant } from '../policy.ts'
import type { Principal } from '../principal.ts'
import { isRight } from '../rights.ts'
import type { KeyRecord } from './record.ts'

export type KeyState = 'active' | 'expired' | 'revoked'

export function stateOf({ revokedAt, expiresAt }: KeyRecord, now: number): KeyState {
  if (revokedAt !== null) return 'revoked'
  return expiresAt !== null && expiresAt <= now ? 'expired' : 'active'
}

/** Until when the text with that hash opens the key; undefined: it does not. `Infinity`: until it is revoked. */
export function goodUntil(record: KeyRecord, hash: string, now: number): number | undefined {
  if (record.revokedAt !== null) return undefined
  const own = record.expiresAt ?? Infinity
  const until = record.hash === hash ? own : record.previousHash === hash ? Math.min(own, record.previousUntil ?? 0) : 0
  return until > now ? until : undefined
}

export function grantOf({ rights, agents, sandboxes }: KeyRecord): Grant {
  return {
    // A later version may know rights that this one does not.
    rights: rights.filter(isRight),
    ...(agents && { agents }),
    ...(sandboxes && { sandboxes }),
  }
}

/** Whether they may see it: owners and admins all of the account's, others what is their own. */
export function maySee(principal: Principal, { userId }: KeyRecord): boolean {
  if (principal.kind === 'agent') return false
  return (
    principal.role === 'owner' ||
    principal.role === 'admin' ||
    (principal.userId !== undefined && principal.userId === userId)
  )
}

/** A key has to do with itself and with those made with it: any other may outlive it, and its new text would too. */
export function mayReach(principal: Principal, { id, ancestors }: KeyRecord): boolean {
  return principal.kind !== 'key' || principal.keyId === id || ancestors.includes(principal.keyId)
}

const ranks: Record<Role, number> = { viewer: 0, member: 1, admin: 2, owner: 3 }

/**
 * Whether they may take over what a key opens, which is what a new text of it comes to: only who could have made that very key. `role` is that of the person
 * who bounds it.
 */
export function mayTakeOver(principal: Principal, record: KeyRecord, role: Role): Granting | { ok: false; role: Role } {
  if (principal.kind === 'agent' || ranks[principal.role] < ranks[role]) return { ok: false, role }
  return mayGrant(principal, grantOf(record))
}
