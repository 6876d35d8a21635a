import type { Clock } from '../../kernel/clock.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { ErrorCode } from '../../kernel/errors.ts'
import type { Api, ApiContext, Feature } from '../../kernel/http/api.ts'
import { json } from '../../kernel/http/document.ts'
import { createRoute } from '../../kernel/http/route.ts'
import { defaultKeyId } from '../api-key.ts'
import { principalOf } from '../authenticate.ts'
import { actorIdOf } from '../principal.ts'
import type { Principal } from '../principal.ts'
import type { Actor, Origin, SessionActor } from './context.ts'
import { shownOf } from './cookies.ts'
import type { Cookies } from './cookies.ts'
import { addPages } from './pages.ts'
import { firstAccountId } from './rules.ts'
import {
  acceptSchema,
  accountSchema,
  changeAccountSchema,
  changePasswordSchema,
  changeRoleSchema,
  changeUserSchema,
  emailOnlySchema,
  idParamSchema,
  invitationSchema,
  inviteSchema,
  linkLoginSchema,
  loginLinkSchema,
  loginSchema,
  logoutSchema,
  memberSchema,
  meSchema,
  ownerSchema,
  passwordOnlySchema,
  recoveryCodesSchema,
  refreshSchema,
  registerSchema,
  resetSchema,
  sentSchema,
  sessionSchema,
  switchSchema,
  tokensSchema,
  totpCodeSchema,
  totpSetupSchema,
  userSchema,
  verifySchema,
  wholeList,
} from './schema.ts'
import type { SessionTokens } from './schema.ts'
import type { People } from './service.ts'
import { iso } from './sessions.ts'
import type { IssuedTokens } from './sessions.ts'

const ofDatabase = ['database_busy', 'database_unavailable', 'database_failed'] as const
const ofPassword = ['login_failed', 'too_many_requests'] as const
const ofCode = ['second_factor_required', 'code_invalid', 'too_many_requests'] as const
const refuses = (...codes: ErrorCode[]) => [...ofDatabase, ...codes] as const
const body = <Schema>(schema: Schema) => ({ content: { 'application/json': { schema } }, required: true }) as const
const done = (description: string) => ({ 204: { description } })
const tokens = { 200: json('A session', tokensSchema) }
const sent = { 202: json('Sent, if there was anything to send', sentSchema) }
const tags = ['people']

const registerRoute = createRoute({
  method: 'post',
  path: '/v1/auth/register',
  operationId: 'register',
  needs: 'public',
  tags,
  refuses: refuses('registration_closed', 'too_many_requests'),
  summary: 'Ask for a user',
  description:
    'A link is sent to the address; by it a password is chosen. Where mails do not arrive, `delta user link` prints the link. Answers alike whether somebody has the address or not.',
  request: { body: body(registerSchema) },
  responses: sent,
})

const verifyRoute = createRoute({
  method: 'post',
  path: '/v1/auth/verify',
  operationId: 'verifyEmail',
  needs: 'public',
  tags,
  refuses: refuses('link_invalid', 'too_many_requests'),
  summary: 'Confirm the address and choose a password',
  description: 'Makes the user, with an account of their own.',
  request: { body: body(verifySchema) },
  responses: tokens,
})

const ownerRoute = createRoute({
  method: 'post',
  path: '/v1/auth/owner',
  operationId: 'createOwner',
  needs: 'public',
  tags,
  refuses: refuses('link_invalid', 'user_exists', 'too_many_requests'),
  summary: 'Become the first owner, by the link of the first start',
  request: { body: body(ownerSchema) },
  responses: tokens,
})

const loginRoute = createRoute({
  method: 'post',
  path: '/v1/auth/login',
  operationId: 'logIn',
  needs: 'public',
  tags,
  refuses: refuses(...ofPassword, ...ofCode, 'account_not_found'),
  summary: 'Log in',
  description:
    'After some wrong passwords each next try has to wait, twice as long each time: `Retry-After` says how long.',
  request: { body: body(loginSchema) },
  responses: tokens,
})

const linkLoginRoute = createRoute({
  method: 'post',
  path: '/v1/auth/link',
  operationId: 'logInByLink',
  needs: 'public',
  tags,
  refuses: refuses('link_invalid', ...ofCode, 'account_not_found'),
  summary: 'Log in by a link that the operator handed out',
  request: { body: body(linkLoginSchema) },
  responses: tokens,
})

const refreshRoute = createRoute({
  method: 'post',
  path: '/v1/auth/refresh',
  operationId: 'refreshSession',
  needs: 'public',
  tags,
  refuses: refuses('session_ended', 'csrf_refused'),
  summary: 'Go on with a session',
  description: 'Each refresh token is good once. One that comes again ends its session, since two have it.',
  request: { body: body(refreshSchema) },
  responses: tokens,
})

const logoutRoute = createRoute({
  method: 'post',
  path: '/v1/auth/logout',
  operationId: 'logOut',
  needs: 'public',
  tags,
  refuses: refuses('csrf_refused', 'session_required', 'unauthorized'),
  summary: 'End the session',
  description:
    'The one of the refresh token, else the one that asks. It ends within a second, open streams included. Keys and agents have none: DELETE /v1/keys/{id} and POST /v1/agent-tokens/revoke end those.',
  request: { body: body(logoutSchema) },
  responses: done('It is over'),
})

const switchRoute = createRoute({
  method: 'post',
  path: '/v1/auth/switch',
  operationId: 'switchAccount',
  needs: 'nothing',
  tags,
  refuses: refuses('session_required', 'account_not_found'),
  summary: 'Speak for another of your accounts',
  request: { body: body(switchSchema) },
  responses: { 200: json('A token for that account; the refresh token stays', tokensSchema) },
})

const forgotRoute = createRoute({
  method: 'post',
  path: '/v1/auth/password/forgot',
  operationId: 'forgotPassword',
  needs: 'public',
  tags,
  refuses: refuses('too_many_requests'),
  summary: 'Ask for a link to choose a new password',
  description: 'Answers alike whether somebody has the address or not.',
  request: { body: body(emailOnlySchema) },
  responses: sent,
})

const resetRoute = createRoute({
  method: 'post',
  path: '/v1/auth/password/reset',
  operationId: 'resetPassword',
  needs: 'public',
  tags,
  refuses: refuses('link_invalid', 'too_many_requests'),
  summary: 'Choose a new password, by a link',
  description: 'Ends all sessions of that user. The second factor stays.',
  request: { body: body(resetSchema) },
  responses: done('It is the password now'),
})

const changePasswordRoute = createRoute({
  method: 'post',
  path: '/v1/auth/password/change',
  operationId: 'changePassword',
  needs: 'nothing',
  tags,
  refuses: refuses('session_required', ...ofPassword),
  summary: 'Choose a new password, by the present one',
  description: 'Ends all other sessions.',
  request: { body: body(changePasswordSchema) },
  responses: done('It is the password now'),
})

const prepareTotpRoute = createRoute({
  method: 'post',
  path: '/v1/auth/totp',
  operationId: 'prepareTotp',
  needs: 'nothing',
  tags,
  refuses: refuses('session_required', 'totp_state_conflict', ...ofPassword),
  summary: 'Begin to set up a second factor',
  description: 'It is asked for from when a code has been confirmed.',
  request: { body: body(passwordOnlySchema) },
  responses: { 200: json('For the authenticator app', totpSetupSchema) },
})

const confirmTotpRoute = createRoute({
  method: 'post',
  path: '/v1/auth/totp/confirm',
  operationId: 'confirmTotp',
  needs: 'nothing',
  tags,
  refuses: refuses('session_required', 'totp_state_conflict', 'code_invalid'),
  summary: 'Turn the second factor on, by a code of the app',
  request: { body: body(totpCodeSchema) },
  responses: { 200: json('It is on; keep these codes for when the app is lost', recoveryCodesSchema) },
})

const recoveryCodesRoute = createRoute({
  method: 'post',
  path: '/v1/auth/totp/recovery-codes',
  operationId: 'replaceRecoveryCodes',
  needs: 'nothing',
  tags,
  refuses: refuses('session_required', 'totp_state_conflict', ...ofPassword),
  summary: 'Make new recovery codes; those of before are over',
  request: { body: body(passwordOnlySchema) },
  responses: { 200: json('The new ones', recoveryCodesSchema) },
})

const removeTotpRoute = createRoute({
  method: 'delete',
  path: '/v1/auth/totp',
  operationId: 'removeTotp',
  needs: 'nothing',
  tags,
  refuses: refuses('session_required', 'totp_state_conflict', ...ofPassword),
  summary: 'Turn the second factor off',
  request: { body: body(passwordOnlySchema) },
  responses: done('It is off'),
})

const meRoute = createRoute({
  method: 'get',
  path: '/v1/users/me',
  operationId: 'whoAmI',
  needs: 'nothing',
  tags,
  refuses: refuses(),
  summary: 'Who asks, for which account, as what',
  responses: { 200: json('Whoever sent the request', meSchema) },
})

const changeMeRoute = createRoute({
  method: 'patch',
  path: '/v1/users/me',
  operationId: 'changeMe',
  needs: 'nothing',
  tags,
  refuses: refuses('session_required'),
  summary: 'Change your name',
  request: { body: body(changeUserSchema) },
  responses: { 200: json('As it is now', userSchema) },
})

const linkRoute = createRoute({
  method: 'post',
  path: '/v1/users/links',
  operationId: 'makeLoginLink',
  needs: 'write:operations',
  tags,
  refuses: refuses('member_not_found'),
  summary: 'Make a one-time link for somebody whom mails do not reach',
  description:
    'To log in, to confirm the address or to accept an invitation, whatever they are waiting for. Only for the operator: the owner of the first account and the key in the data folder.',
  request: { body: body(emailOnlySchema) },
  responses: { 201: json('The link', loginLinkSchema) },
})

const resetTotpRoute = createRoute({
  method: 'post',
  path: '/v1/users/totp/reset',
  operationId: 'resetSecondFactor',
  needs: 'write:operations',
  tags,
  refuses: refuses('member_not_found', 'totp_state_conflict'),
  summary: 'Take the second factor off somebody who has lost it',
  description:
    'For who has neither the app nor a recovery code any more, or whose second factor was stored under a SECRET_KEY that is lost. They are told by mail. Only for the operator: the owner of the first account and the key in the data folder.',
  request: { body: body(emailOnlySchema) },
  responses: done('They log in with the password alone, and can set it up anew'),
})

const listSessionsRoute = createRoute({
  method: 'get',
  path: '/v1/sessions',
  operationId: 'listSessions',
  needs: 'nothing',
  tags,
  refuses: refuses('session_required'),
  summary: 'Your sessions',
  responses: { 200: json('The last used first', wholeList(sessionSchema, 'SessionList')) },
})

const endSessionRoute = createRoute({
  method: 'delete',
  path: '/v1/sessions/{id}',
  operationId: 'endSession',
  needs: 'nothing',
  tags,
  refuses: refuses('session_required', 'session_not_found'),
  summary: 'End one of your sessions',
  request: { params: idParamSchema },
  responses: done('It is over, open streams included'),
})

const endOthersRoute = createRoute({
  method: 'delete',
  path: '/v1/sessions',
  operationId: 'endOtherSessions',
  needs: 'nothing',
  tags,
  refuses: refuses('session_required'),
  summary: 'End all your sessions but this one',
  responses: done('They are over'),
})

const accountRoute = createRoute({
  method: 'get',
  path: '/v1/account',
  operationId: 'getAccount',
  needs: 'read:account',
  tags,
  refuses: refuses('account_not_found'),
  summary: 'The account of whoever asks',
  responses: { 200: json('The account', accountSchema) },
})

const changeAccountRoute = createRoute({
  method: 'patch',
  path: '/v1/account',
  operationId: 'changeAccount',
  needs: 'write:account',
  tags,
  refuses: refuses('account_not_found'),
  summary: 'Give the account another name',
  request: { body: body(changeAccountSchema) },
  responses: { 200: json('As it is now', accountSchema) },
})

const leaveRoute = createRoute({
  method: 'post',
  path: '/v1/account/leave',
  operationId: 'leaveAccount',
  needs: 'nothing',
  tags,
  refuses: refuses('session_required', 'last_owner', 'member_not_found', 'role_not_allowed'),
  summary: 'Leave the account',
  description: 'The last owner cannot.',
  responses: done('You belong to it no more'),
})

const membersRoute = createRoute({
  method: 'get',
  path: '/v1/account/members',
  operationId: 'listMembers',
  needs: 'read:members',
  tags,
  refuses: refuses(),
  summary: 'Who belongs to the account',
  responses: { 200: json('The first to join first', wholeList(memberSchema, 'MemberList')) },
})

const changeRoleRoute = createRoute({
  method: 'patch',
  path: '/v1/account/members/{id}',
  operationId: 'changeMemberRole',
  needs: 'write:members',
  tags,
  refuses: refuses('member_not_found', 'last_owner', 'role_not_allowed'),
  summary: 'Give a member another role',
  description: 'Only owners make and unmake owners. It holds within a second, for their sessions and their keys.',
  request: { params: idParamSchema, body: body(changeRoleSchema) },
  responses: done('It is their role now'),
})

const removeMemberRoute = createRoute({
  method: 'delete',
  path: '/v1/account/members/{id}',
  operationId: 'removeMember',
  needs: 'write:members',
  tags,
  refuses: refuses('member_not_found', 'last_owner', 'role_not_allowed'),
  summary: 'Remove a member',
  request: { params: idParamSchema },
  responses: done('They belong to it no more'),
})

const inviteRoute = createRoute({
  method: 'post',
  path: '/v1/invitations',
  operationId: 'invite',
  needs: 'write:members',
  tags,
  refuses: refuses('member_exists', 'member_limit_reached', 'role_not_allowed', 'account_not_found'),
  summary: 'Invite somebody into the account',
  description: 'A link is sent to the address. Again to the same address replaces the invitation of before.',
  request: { body: body(inviteSchema) },
  responses: { 201: json('The invitation', invitationSchema) },
})

const invitationsRoute = createRoute({
  method: 'get',
  path: '/v1/invitations',
  operationId: 'listInvitations',
  needs: 'read:members',
  tags,
  refuses: refuses(),
  summary: 'Invitations that are open',
  responses: { 200: json('The oldest first', wholeList(invitationSchema, 'InvitationList')) },
})

const withdrawRoute = createRoute({
  method: 'delete',
  path: '/v1/invitations/{id}',
  operationId: 'withdrawInvitation',
  needs: 'write:members',
  tags,
  refuses: refuses('invitation_not_found'),
  summary: 'Withdraw an invitation',
  request: { params: idParamSchema },
  responses: done('Its link is over'),
})

const acceptRoute = createRoute({
  method: 'post',
  path: '/v1/auth/invitation',
  operationId: 'acceptInvitation',
  needs: 'public',
  tags,
  refuses: refuses('link_invalid', 'member_limit_reached', ...ofPassword, ...ofCode),
  summary: 'Accept an invitation',
  description: 'Who has a user at that address proves it by their password; who has none gets one with that password.',
  request: { body: body(acceptSchema) },
  responses: tokens,
})

export interface PeopleFeatureDeps {
  people: People
  cookies: Cookies
  clock: Clock
}

export function peopleFeature(deps: PeopleFeatureDeps): Feature {
  return {
    name: 'people',
    routes(api) {
      addLogInRoutes(api, deps)
      addPasswordRoutes(api, deps)
      addTotpRoutes(api, deps)
      addSessionRoutes(api, deps)
      addAccountRoutes(api, deps)
      addPages(api, deps)
    },
    metrics(metrics) {
      const { turns } = deps.people
      metrics.gauge('delta_passwords_waiting', 'Passwords that wait to be hashed', () => turns.waiting)
    },
    stop: async () => deps.people.stop(),
  }
}

function addLogInRoutes(api: Api, { people, cookies, clock }: PeopleFeatureDeps): void {
  const { logIn, sessions, members } = people
  const answer = (
    c: ApiContext,
    issued: IssuedTokens,
    { asCookies = false }: { asCookies?: boolean | undefined },
  ): SessionTokens => {
    if (asCookies) cookies.set(c, issued, clock.now())
    return shown(issued, asCookies)
  }
  /** Whoever wants cookies shows first that a page of this server asks. */
  const wishOf = <Wish extends { cookies?: boolean | undefined }>(
    c: ApiContext,
    { cookies: asCookies, ...wish }: Wish,
  ) => {
    if (asCookies) cookies.refuseForeign(shownOf(c))
    return { asCookies, wish }
  }
  api.openapi(registerRoute, async (c) => {
    await logIn.register(c.req.valid('json'), originOf(c))
    return c.json({ status: 'sent' as const }, 202)
  })
  api.openapi(verifyRoute, async (c) => {
    const { asCookies, wish } = wishOf(c, c.req.valid('json'))
    return c.json(answer(c, await logIn.verify(wish, originOf(c)), { asCookies }), 200)
  })
  api.openapi(ownerRoute, async (c) => {
    const { asCookies, wish } = wishOf(c, c.req.valid('json'))
    return c.json(answer(c, await logIn.createOwner(wish, originOf(c)), { asCookies }), 200)
  })
  api.openapi(loginRoute, async (c) => {
    const { asCookies, wish } = wishOf(c, c.req.valid('json'))
    return c.json(answer(c, await logIn.login(wish, originOf(c)), { asCookies }), 200)
  })
  api.openapi(linkLoginRoute, async (c) => {
    const { asCookies, wish } = wishOf(c, c.req.valid('json'))
    return c.json(answer(c, await logIn.loginByLink(wish, originOf(c)), { asCookies }), 200)
  })
  api.openapi(acceptRoute, async (c) => {
    const { asCookies, wish } = wishOf(c, c.req.valid('json'))
    return c.json(answer(c, await members.accept(wish, originOf(c)), { asCookies }), 200)
  })
  api.openapi(refreshRoute, async (c) => {
    const { refreshToken } = c.req.valid('json')
    const token = refreshToken ?? cookies.refreshToken(shownOf(c))
    if (token === undefined) throw new DeltaError('session_ended', 'The request has no refresh token')
    const issued = await sessions.refresh(token, originOf(c))
    return c.json(answer(c, issued, { asCookies: refreshToken === undefined }), 200)
  })
  api.openapi(logoutRoute, async (c) => {
    const token = c.req.valid('json').refreshToken ?? cookies.refreshToken(shownOf(c))
    if (token !== undefined) await sessions.endByRefreshToken(token)
    // Of a browser whose session is over already, at least the cookies go.
    cookies.clear(c)
    if (token !== undefined) return c.body(null, 204)
    const caller = c.get('caller') as typeof c.var.caller | undefined
    if (!caller) throw new DeltaError('unauthorized', 'The request has neither a session nor a refresh token')
    const { sessionId, userId } = personOf(c)
    await sessions.end(sessionId, userId)
    return c.body(null, 204)
  })
  api.openapi(switchRoute, async (c) => {
    const { accessToken, expiresAt, ...ids } = await sessions.switchAccount(personOf(c), c.req.valid('json').accountId)
    return c.json({ ...ids, accessToken, refreshToken: null, expiresAt: iso(expiresAt) }, 200)
  })
}

function addPasswordRoutes(api: Api, { people: { logIn } }: PeopleFeatureDeps): void {
  api.openapi(forgotRoute, async (c) => {
    await logIn.forgot(c.req.valid('json').email, originOf(c))
    return c.json({ status: 'sent' as const }, 202)
  })
  api.openapi(resetRoute, async (c) => {
    await logIn.reset(c.req.valid('json'), originOf(c))
    return c.body(null, 204)
  })
  api.openapi(changePasswordRoute, async (c) => {
    await logIn.changePassword(personOf(c), c.req.valid('json'), originOf(c))
    return c.body(null, 204)
  })
}

function addTotpRoutes(api: Api, { people: { logIn, secondFactor } }: PeopleFeatureDeps): void {
  const confirmed = async (c: ApiContext, password: string) => {
    const person = personOf(c)
    return { person, user: await logIn.confirmPassword(person, password, originOf(c)) }
  }
  api.openapi(prepareTotpRoute, async (c) => {
    const { user } = await confirmed(c, c.req.valid('json').password)
    return c.json(await secondFactor.prepare(user), 200)
  })
  api.openapi(confirmTotpRoute, async (c) => {
    return c.json({ recoveryCodes: await secondFactor.confirm(personOf(c), c.req.valid('json').code) }, 200)
  })
  api.openapi(recoveryCodesRoute, async (c) => {
    const { person } = await confirmed(c, c.req.valid('json').password)
    return c.json({ recoveryCodes: await secondFactor.newCodes(person) }, 200)
  })
  api.openapi(removeTotpRoute, async (c) => {
    const { person } = await confirmed(c, c.req.valid('json').password)
    await secondFactor.turnOff(person)
    return c.body(null, 204)
  })
}

function addSessionRoutes(api: Api, { people }: PeopleFeatureDeps): void {
  const { sessions } = people
  api.openapi(meRoute, async (c) => c.json(await people.me(principalOf(c.var.caller)), 200))
  api.openapi(changeMeRoute, async (c) => {
    const { userId } = personOf(c)
    await people.rename(userId, c.req.valid('json').name)
    const user = await people.userInfo(userId)
    if (!user) throw new DeltaError('session_ended', 'There is no such user any more')
    return c.json(user, 200)
  })
  api.openapi(listSessionsRoute, async (c) => {
    const { userId, sessionId } = personOf(c)
    return c.json({ data: await sessions.list(userId, sessionId), nextCursor: null }, 200)
  })
  api.openapi(endSessionRoute, async (c) => {
    const { userId } = personOf(c)
    if (!(await sessions.end(c.req.valid('param').id, userId))) {
      throw new DeltaError('session_not_found', 'You have no such session')
    }
    return c.body(null, 204)
  })
  api.openapi(endOthersRoute, async (c) => {
    const { userId, sessionId } = personOf(c)
    await sessions.endOthers(userId, sessionId)
    return c.body(null, 204)
  })
}

function addAccountRoutes(api: Api, { people }: PeopleFeatureDeps): void {
  const { members } = people
  api.openapi(accountRoute, async (c) => c.json(await members.account(c.var.caller.accountId), 200))
  api.openapi(changeAccountRoute, async (c) =>
    c.json(await members.renameAccount(actorOf(c), c.req.valid('json').name), 200),
  )
  api.openapi(leaveRoute, async (c) => {
    const person = personOf(c)
    tell(c, person.userId, { from: await members.leave(person) })
    return c.body(null, 204)
  })
  api.openapi(membersRoute, async (c) =>
    c.json({ data: await members.list(c.var.caller.accountId), nextCursor: null }, 200),
  )
  api.openapi(changeRoleRoute, async (c) => {
    const { id } = c.req.valid('param')
    const { role: to } = c.req.valid('json')
    tell(c, id, { from: await members.changeRole(actorOf(c), id, to), to })
    return c.body(null, 204)
  })
  api.openapi(removeMemberRoute, async (c) => {
    const { id } = c.req.valid('param')
    tell(c, id, { from: await members.remove(actorOf(c), id) })
    return c.body(null, 204)
  })
  api.openapi(inviteRoute, async (c) => {
    const invitation = await members.invite(actorOf(c), c.req.valid('json'))
    tell(c, invitation.id, { role: invitation.role })
    return c.json(invitation, 201)
  })
  api.openapi(invitationsRoute, async (c) =>
    c.json({ data: await members.invitations(c.var.caller.accountId), nextCursor: null }, 200),
  )
  api.openapi(withdrawRoute, async (c) => {
    await members.withdraw(actorOf(c), c.req.valid('param').id)
    return c.body(null, 204)
  })
  api.openapi(resetTotpRoute, async (c) => {
    requireOperator(c)
    c.set('made', await people.resetSecondFactor(c.req.valid('json').email, actorOf(c)))
    return c.body(null, 204)
  })
  api.openapi(linkRoute, async (c) => {
    requireOperator(c)
    const { link, whose } = await members.linkFor(c.req.valid('json').email)
    tell(c, whose, { purpose: link.purpose })
    return c.json(link, 201)
  })
}

function shown(
  { accessToken, refreshToken, expiresAt, sessionId, userId, accountId }: IssuedTokens,
  asCookies: boolean,
): SessionTokens {
  const ids = { sessionId, userId, accountId, expiresAt: iso(expiresAt) }
  return { ...(asCookies ? { accessToken: null, refreshToken: null } : { accessToken, refreshToken }), ...ids }
}

/** For the audit log's entry of this request. */
function tell(c: ApiContext, target: string | undefined, details: Record<string, string>): void {
  if (target !== undefined) c.set('made', target)
  c.set('told', details)
}

export function originOf(c: ApiContext): Origin {
  return { address: c.get('address'), client: c.req.header('user-agent') }
}

function personOf(c: ApiContext): SessionActor {
  const principal = principalOf(c.var.caller)
  if (principal.kind === 'user') return { ...principal, actorId: principal.userId }
  throw new DeltaError('session_required', 'This is about the person who is logged in, and whoever asks is none')
}

function actorOf(c: ApiContext): Actor {
  const principal = principalOf(c.var.caller)
  if (principal.kind === 'agent')
    throw new DeltaError('session_required', 'Agents do not decide who belongs to an account')
  const { accountId, role, userId } = principal
  return { accountId, role, actorId: actorIdOf(principal), ...(userId !== undefined && { userId }) }
}

/**
 * Whoever has such a link, or reads the mails that hold one, is in as somebody else: so a key that was handed on, or an admin, may not, whatever right they have.
 */
export function requireOperator(c: ApiContext): void {
  if (isOperator(principalOf(c.var.caller))) return
  throw new DeltaError(
    'forbidden',
    'Only the operator may: the owner of the first account, or the key in the data folder',
    {
      context: { right: 'write:operations' },
    },
  )
}

/** Not even the owner: a backup holds all accounts, and a restore replaces them. Whoever reads the data folder has them anyway. */
export function requireDataFolderKey(c: ApiContext): void {
  const principal = principalOf(c.var.caller)
  if (principal.kind === 'key' && principal.keyId === defaultKeyId) return
  throw new DeltaError('data_folder_key_required', 'Only the key in the data folder may')
}

function isOperator(principal: Principal): boolean {
  if (principal.accountId !== firstAccountId) return false
  if (principal.kind === 'user') return principal.role === 'owner'
  return principal.kind === 'key' && principal.keyId === defaultKeyId
}
