import type { Role } from '../principal.ts'

/** Why somebody may not change who belongs to an account. */
export type RoleRefusal = 'owners_only' | 'last_owner' | 'too_high'
export type RoleDecision = { ok: true } | { ok: false; reason: RoleRefusal }

const allowed: RoleDecision = { ok: true }
const refused = (reason: RoleRefusal): RoleDecision => ({ ok: false, reason })

interface RoleChange {
  /** Of whoever asks for it. */
  by: Role
  from: Role
  /** Undefined: they leave or are removed. */
  to: Role | undefined
  /** They ask it of themselves. */
  self: boolean
  owners: number
}

/** Only owners make and unmake owners, and there is always one. Whoever belongs to an account may leave it. */
export function mayChangeRole({ by, from, to, self, owners }: RoleChange): RoleDecision {
  const leaves = self && to === undefined
  if (!leaves && by !== 'owner') {
    if (by !== 'admin') return refused('too_high')
    if (from === 'owner' || to === 'owner') return refused('owners_only')
  }
  return from === 'owner' && to !== 'owner' && owners <= 1 ? refused('last_owner') : allowed
}

export function mayInvite(by: Role, role: Role): RoleDecision {
  if (by === 'owner') return allowed
  if (by !== 'admin') return refused('too_high')
  return role === 'owner' ? refused('owners_only') : allowed
}

/** What somebody of that role, or of none any more, may not invite others to be. */
export function notInvitedBy(by: Role | undefined): Role[] {
  const roles: Role[] = ['owner', 'admin', 'member', 'viewer']
  return roles.filter((role) => by === undefined || !mayInvite(by, role).ok)
}

/** The account whose owner comes first, and whose key lies in the data folder. */
export const firstAccountId = 'acc_default'

export type LinkPurpose = 'verify' | 'reset' | 'signin' | 'owner' | 'invitation'

/** The name of an account that nobody has named yet. */
export function accountNameOf(email: string): string {
  return email.split('@')[0]!.slice(0, 60)
}
