import { DeltaError } from '../../kernel/errors.ts'
import { newId } from '../../kernel/ids.ts'
import type { Role } from '../principal.ts'
import type { Actor, Origin, SessionActor } from './context.ts'
import { peopleLimits } from './limits.ts'
import { hashOf, linkInvalid } from './links.ts'
import type { LogIn, LogInParts } from './log-in.ts'
import { invitationMail } from './mails.ts'
import { accountNameOf, mayChangeRole, mayInvite, notInvitedBy } from './rules.ts'
import type { RoleRefusal } from './rules.ts'
import { newPasswordSchema } from './schema.ts'
import type { AccountInfo, InvitationInfo, MemberInfo } from './schema.ts'
import { from, iso } from './sessions.ts'
import type { IssuedTokens } from './sessions.ts'
import type { DayCount, InvitationRow } from './store.ts'
import { laneOf } from './throttle.ts'

export type Members = ReturnType<typeof createMembers>

/** Who belongs to an account, as what, and who is invited. */
export function createMembers({
  context,
  links,
  sessions,
  logIn,
}: Omit<LogInParts, 'secondFactor'> & { logIn: LogIn }) {
  const { store, clock, passwords, revocations, sendMail, mustRecord, record, endKeysSteps } = context

  async function accountRow(id: string) {
    const account = await store.account(id)
    if (account) return account
    throw new DeltaError('account_not_found', 'There is no such account')
  }

  /** The role of before. */
  async function change(actor: Actor, userId: string, to: Role | undefined): Promise<Role> {
    const { accountId } = actor
    const role = await store.roleOf(accountId, userId)
    if (role === undefined) throw new DeltaError('member_not_found', 'Nobody of that id belongs to the account')
    const self = actor.userId === userId
    const owners = await store.owners(accountId)
    const decision = mayChangeRole({ by: actor.role, from: role, to, self, owners })
    if (!decision.ok) throw roleRefused(decision.reason)
    if (role === to) return role
    // Whatever they had open is decided anew when it is opened again.
    const wish = { accountId, userId, from: role, to, mayNotInvite: notInvitedBy(to) }
    const keys = to === undefined ? endKeysSteps(userId, accountId) : []
    if (!(await store.changeRole(wish, [...keys, ...revocations.steps([userId])]))) {
      // Somebody else was quicker; what was decided above may not hold any more.
      throw roleRefused((await store.owners(accountId)) <= 1 ? 'last_owner' : 'too_high')
    }
    revocations.heard([userId])
    return role
  }

  /** Whoever invited them must still be somebody who may. */
  async function isGood({ account_id: accountId, user_id: userId, role }: InvitationRow): Promise<boolean> {
    if (userId === null) return true
    const by = await store.roleOf(accountId, userId)
    return by !== undefined && mayInvite(by, role).ok
  }

  const issueInvitation = ({ id, email }: InvitationRow) => links.issue('invitation', { email, invitation_id: id })

  return {
    async account(id: string): Promise<AccountInfo> {
      const { name, created_at: createdAt, members } = await accountRow(id)
      return { id, name, createdAt: iso(createdAt), members: Number(members) }
    },

    async renameAccount({ accountId }: Actor, name: string): Promise<AccountInfo> {
      await store.renameAccount(accountId, name)
      return this.account(accountId)
    },

    async list(accountId: string): Promise<MemberInfo[]> {
      const rows = await store.members(accountId)
      return rows.map(({ user_id: userId, email, name, role, created_at: joinedAt, totp }) => {
        return { userId, email, name, role, totp: Number(totp) === 1, joinedAt: iso(joinedAt) }
      })
    },

    changeRole: change,
    remove: (actor: Actor, userId: string) => change(actor, userId, undefined),
    leave: (actor: SessionActor) => change(actor, actor.userId, undefined),

    /** Answers alike whether somebody has that address or not. */
    async invite(actor: Actor, { email, role }: { email: string; role: Role }): Promise<InvitationInfo> {
      const { accountId, actorId } = actor
      const now = clock.now()
      const id = newId('inv')
      const decision = mayInvite(actor.role, role)
      if (!decision.ok) throw roleRefused(decision.reason)
      const members = await store.members(accountId)
      if (members.some((member) => member.email === email)) {
        throw new DeltaError('member_exists', 'Whoever has that address belongs to the account already')
      }
      const open = await store.invitations(accountId, now)
      if (open.length >= peopleLimits.invitationsOfAccount || members.length >= peopleLimits.membersOfAccount) {
        throw new DeltaError('member_limit_reached', 'The account has as many members or invitations as it may have', {
          context: { members: peopleLimits.membersOfAccount, invitations: peopleLimits.invitationsOfAccount },
        })
      }
      const { name } = await accountRow(accountId)
      const invitation = {
        id,
        account_id: accountId,
        email,
        role,
        invited_by: actorId,
        user_id: actor.userId ?? null,
        created_at: now,
        expires_at: now + peopleLimits.linkMs.invitation,
      }
      const full = await store.invite(invitation, { day: dayOf(now), counts: countsOf(accountId, email) })
      if (full) throw tooManyInvitations(full, now)
      sendMail(invitationMail(email, await issueInvitation(invitation), { id: accountId, name }))
      return toInvitation(invitation)
    },

    async invitations(accountId: string): Promise<InvitationInfo[]> {
      return (await store.invitations(accountId, clock.now())).map(toInvitation)
    },

    async withdraw({ accountId }: Actor, id: string): Promise<void> {
      if (!(await store.withdraw(accountId, id))) {
        throw new DeltaError('invitation_not_found', 'The account has no such invitation')
      }
    },

    /** What an invitation is for; undefined once it is good for nothing. */
    async invitedInto(invitationId: string): Promise<{ account: string; role: Role } | undefined> {
      const invitation = await store.invitation(invitationId)
      if (!invitation || !(await isGood(invitation))) return undefined
      return { account: (await accountRow(invitation.account_id)).name, role: invitation.role }
    },

    /** The link shows whose address it is; who has a user there proves to be that user all the same. */
    async accept(
      {
        token,
        password,
        code,
        name,
      }: { token: string; password: string; code?: string | undefined; name?: string | undefined },
      origin: Origin,
    ): Promise<IssuedTokens> {
      const link = await links.find(token, 'invitation')
      const invitation = link.invitation_id === null ? undefined : await store.invitation(link.invitation_id)
      if (invitation?.email !== link.email || !(await isGood(invitation))) throw linkInvalid()
      const known = await store.userByEmail(link.email)
      const accountId = invitation.account_id
      mustRecord(accountId)
      if (known) {
        const { user, secondFactor } = await logIn.prove(link.email, { password, code, origin })
        if ((await store.accountsOf(user.id)).length >= peopleLimits.accountsOfUser) {
          throw new DeltaError('member_limit_reached', 'You belong to as many accounts as one may')
        }
        const wasMember = (await store.roleOf(accountId, user.id)) !== undefined
        // Keys from before they were removed, if one was made at that very moment.
        const more = wasMember ? [] : endKeysSteps(user.id, accountId)
        const joined = await store.acceptByLink(link.hash, invitation, { userId: user.id, now: clock.now(), more })
        if (!joined) throw linkInvalid()
        await this.joined(invitation, user.id, origin)
        return sessions.start(user, { accountId, secondFactor, origin })
      }
      const chosen = newPasswordSchema.safeParse(password)
      if (!chosen.success) {
        const rules = chosen.error.issues.map(({ message }) => message).join('; ')
        throw new DeltaError('invalid_request', 'The request is not valid at body.password', {
          cause: `body.password: ${rules}`,
        })
      }
      const passwordHash = await passwords.hash(password, laneOf(link.email, origin.address))
      const user = logIn.newUser(link.email, name ?? accountNameOf(link.email), passwordHash)
      const joined = await store.acceptByLink(link.hash, invitation, { userId: user.id, user, now: clock.now() })
      if (!joined) throw linkInvalid()
      await this.joined(invitation, user.id, origin)
      return sessions.start(user, { accountId, secondFactor: false, origin })
    },

    async joined({ account_id: accountId, id, role }: InvitationRow, userId: string, origin: Origin): Promise<void> {
      const details = { role, invitation: id }
      await record({
        accountId,
        actorId: userId,
        action: 'member.joined',
        target: userId,
        outcome: 'done',
        details,
        ...from(origin),
      })
    },

    /** For the operator, where mails do not arrive: the way in that somebody is waiting for. */
    async linkFor(email: string) {
      const found = await this.findLinkFor(email)
      if (!found) throw new DeltaError('member_not_found', 'Nobody with that address has registered or is invited')
      const { link, whose } = found
      return { link: { ...link, expiresAt: iso(link.expiresAt) }, whose }
    },

    /** `whose`: the user or the invitation; undefined where there is neither yet. */
    async findLinkFor(email: string) {
      const user = await store.userByEmail(email)
      if (user) return { link: await links.issue('signin', { email, user_id: user.id }), whose: user.id }
      const invitation = await store.invitationTo(email, clock.now())
      if (invitation) return { link: await issueInvitation(invitation), whose: invitation.id }
      const asked = await store.openLink(email, 'verify', clock.now())
      return asked && { link: await links.issue('verify', { email, name: asked.name }), whose: undefined }
    },
  }
}

const dayMs = 86_400_000
const dayOf = (now: number) => Math.floor(now / dayMs)

function countsOf(accountId: string, email: string): DayCount[] {
  const { ofAccount, toAddress, toAddressByAll } = peopleLimits.invitationsADay
  const to = hashOf(email)
  return [
    { name: `invitations of ${accountId}`, most: ofAccount },
    { name: `invitations of ${accountId} to ${to}`, most: toAddress },
    { name: `invitations to ${to}`, most: toAddressByAll },
  ]
}

function tooManyInvitations({ most }: DayCount, now: number): DeltaError {
  return new DeltaError('too_many_requests', 'Too many invitations were sent today', {
    context: { limit: most, windowMs: dayMs, count: most, retryAfterMs: dayMs - (now % dayMs) },
  })
}

function toInvitation({
  id,
  email,
  role,
  invited_by: invitedBy,
  created_at,
  expires_at,
}: InvitationRow): InvitationInfo {
  return { id, email, role, invitedBy, createdAt: iso(created_at), expiresAt: iso(expires_at) }
}

function roleRefused(reason: RoleRefusal): DeltaError {
  if (reason === 'last_owner') return new DeltaError('last_owner', 'An account has at least one owner')
  const why = { owners_only: 'Only owners make and unmake owners', too_high: 'Your role does not allow that' }
  return new DeltaError('role_not_allowed', why[reason])
}
