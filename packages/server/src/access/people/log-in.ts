import { DeltaError } from '../../kernel/errors.ts'
import { newId } from '../../kernel/ids.ts'
import { addressName } from './attempts.ts'
import type { Origin, PeopleContext, SessionActor } from './context.ts'
import { peopleLimits } from './limits.ts'
import { linkInvalid } from './links.ts'
import type { Links } from './links.ts'
import { alreadyRegisteredMail, passwordChangedMail, resetMail, verifyMail } from './mails.ts'
import { accountNameOf, firstAccountId } from './rules.ts'
import { codeInvalid } from './second-factor.ts'
import type { SecondFactor } from './second-factor.ts'
import { from } from './sessions.ts'
import type { IssuedTokens, Sessions } from './sessions.ts'
import type { UserRow } from './store.ts'
import { laneOf, takeMail, throttleLogin, throttleMail, throttleSession } from './throttle.ts'
import type { Throttle } from './throttle.ts'

export type LogIn = ReturnType<typeof createLogIn>

export interface LogInParts {
  context: PeopleContext
  links: Links
  sessions: Sessions
  secondFactor: SecondFactor
}

/** Ways into a session: by registering, by password, by link; and back to one, by a new password. */
export function createLogIn({ context, links, sessions, secondFactor }: LogInParts) {
  const { store, clock, log, passwords, attempts, revocations, sendMail, mustRecord, record, settings } = context
  const newUser = (email: string, name: string, passwordHash: string): UserRow => {
    const now = clock.now()
    return { id: newId('usr'), email, name, email_verified_at: now, password_hash: passwordHash, created_at: now }
  }

  /** After the answer, which so takes the same time whoever has that address. */
  function afterwards(work: () => Promise<void>): void {
    work().catch((error: unknown) => log.error('mail_not_made', { error }))
  }

  /** Refuses who asks too often. Where others did, nothing is sent and nobody is told, who would learn of somebody's mailbox by it. */
  async function mailAfterwards(
    kind: 'registration' | 'reset',
    { email, origin: { address } }: { email: string; origin: Origin },
    send: () => Promise<void>,
  ): Promise<void> {
    const throttle = throttleMail(attempts, email, address)
    await throttle.check()
    await throttle.failed()
    afterwards(async () => {
      if (await takeMail(attempts, kind, { email, isAtHome: () => isAtHome(email, address) })) return send()
      log.info('mail_held_back', { kind, reason: 'too many to one mailbox' })
    })
  }

  /** The same look for a user that does not exist, who has been nowhere. */
  async function isAtHome(email: string, address: string | undefined): Promise<boolean> {
    const user = await store.userByEmail(email)
    const homes = await store.addressesOf(user?.id ?? '', peopleLimits.homes)
    return address !== undefined && homes.some((home) => addressName(home) === addressName(address))
  }

  const loginThrottle = (email: string, { address }: Origin): Throttle =>
    throttleLogin(attempts, { email, address, isAtHome: () => isAtHome(email, address) })

  /** The user, and whether the password is theirs. One password is hashed, whether anybody has that address or not. */
  async function tryPassword(
    email: string,
    password: string,
    { origin, throttle }: { origin: Origin; throttle: Throttle },
  ): Promise<{ user: UserRow | undefined; isRight: boolean }> {
    await throttle.check()
    const user = await store.userByEmail(email)
    const isRight = await passwords.verify(password, user?.password_hash ?? null, {
      lane: laneOf(email, origin.address),
      before: throttle.check,
      after: async (right) => void (right || (await throttle.failed())),
    })
    return { user, isRight }
  }

  async function checkPassword(email: string, password: string, origin: Origin): Promise<UserRow> {
    const { user, isRight } = await tryPassword(email, password, { origin, throttle: loginThrottle(email, origin) })
    if (user && isRight) return user
    // Not waited for: there is no account to write it down for where there is no user.
    if (user) afterwards(() => recordRefusal(user, origin, 'login_failed'))
    throw loginFailed()
  }

  async function recordRefusal(user: UserRow, origin: Origin, reason: string): Promise<void> {
    const [account] = await store.accountsOf(user.id)
    if (!account) return
    await record({
      accountId: account.id,
      actorId: user.id,
      action: 'session.started',
      target: user.id,
      outcome: 'refused',
      reason,
      ...from(origin),
    })
  }

  /** Whether a second factor was shown; refuses where one is needed. */
  async function checkCode(
    user: UserRow,
    code: string | undefined,
    { origin, alsoCount }: { origin: Origin; alsoCount?: () => Promise<void> },
  ): Promise<boolean> {
    if (!(await secondFactor.isOn(user.id))) return false
    if (code === undefined) throw new DeltaError('second_factor_required', 'This user has a second factor')
    if (await secondFactor.spend(user.id, code, alsoCount ? { alsoCount } : {})) return true
    afterwards(() => recordRefusal(user, origin, 'code_invalid'))
    throw codeInvalid()
  }

  async function accountOf(user: Pick<UserRow, 'id'>, wanted?: string): Promise<string> {
    const accounts = await store.accountsOf(user.id)
    const account = wanted === undefined ? accounts[0] : accounts.find(({ id }) => id === wanted)
    if (!account) throw new DeltaError('account_not_found', 'You belong to no such account')
    return account.id
  }

  return {
    /** Both factors of somebody who has a user. */
    async prove(
      email: string,
      { password, code, origin }: { password: string; code: string | undefined; origin: Origin },
    ) {
      const user = await checkPassword(email, password, origin)
      const shown = await checkCode(user, code, { origin })
      await loginThrottle(email, origin).succeeded()
      return { user, secondFactor: shown }
    },

    async login(
      {
        email,
        password,
        code,
        accountId,
      }: { email: string; password: string; code?: string | undefined; accountId?: string | undefined },
      origin: Origin,
    ): Promise<IssuedTokens> {
      const { user, secondFactor: shown } = await this.prove(email, { password, code, origin })
      return sessions.start(user, { accountId: await accountOf(user, accountId), secondFactor: shown, origin })
    },

    /** Answers alike whoever has that address. */
    async register({ email, name }: { email: string; name?: string | undefined }, origin: Origin): Promise<void> {
      if (settings.registration === 'invited') {
        throw new DeltaError('registration_closed', 'This installation takes in whom somebody has invited')
      }
      await mailAfterwards('registration', { email, origin }, async () => {
        const known = await store.userByEmail(email)
        if (known) return sendMail(alreadyRegisteredMail(email, settings.publicUrl))
        sendMail(verifyMail(email, await links.issue('verify', { email, name: name ?? '' })))
      })
    },

    /**
     * The password comes with the link, not with the registration: who registered with somebody else's address would otherwise have chosen the password
     * that its owner then confirms.
     */
    async verify({ token, password }: { token: string; password: string }, origin: Origin): Promise<IssuedTokens> {
      const link = await links.find(token, 'verify')
      const passwordHash = await passwords.hash(password, laneOf(link.email, origin.address))
      const user = newUser(link.email, link.name || accountNameOf(link.email), passwordHash)
      const account = { id: newId('acc'), name: accountNameOf(link.email), created_at: user.created_at }
      if (!(await store.createByLink(link.hash, user, account))) throw linkInvalid()
      await record({
        accountId: account.id,
        actorId: user.id,
        action: 'user.created',
        target: user.id,
        outcome: 'done',
        ...from(origin),
      })
      return sessions.start(user, { accountId: account.id, secondFactor: false, origin })
    },

    /** By the link of the first start. */
    async createOwner(
      { token, email, password, name }: { token: string; email: string; password: string; name?: string | undefined },
      origin: Origin,
    ): Promise<IssuedTokens> {
      const link = await links.find(token, 'owner')
      mustRecord(firstAccountId)
      const passwordHash = await passwords.hash(password, laneOf(email, origin.address))
      const user = newUser(email, name ?? accountNameOf(email), passwordHash)
      if (await store.hasOwner(firstAccountId)) throw linkInvalid()
      if (await store.userByEmail(email)) {
        throw new DeltaError('user_exists', 'Somebody has that address already')
      }
      if (!(await store.createOwnerByLink(link.hash, user, firstAccountId))) throw linkInvalid()
      await record({
        accountId: firstAccountId,
        actorId: user.id,
        action: 'user.created',
        target: user.id,
        outcome: 'done',
        ...from(origin),
      })
      return sessions.start(user, { accountId: firstAccountId, secondFactor: false, origin })
    },

    /** By a link that the operator handed out. It stands for the password, not for the second factor. */
    async loginByLink(
      { token, code }: { token: string; code?: string | undefined },
      origin: Origin,
    ): Promise<IssuedTokens> {
      const link = await links.find(token, 'signin')
      const user = link.user_id === null ? undefined : await store.userById(link.user_id)
      if (!user) throw linkInvalid()
      const shown = await checkCode(user, code, {
        origin,
        async alsoCount() {
          if (!(await store.countLinkTry(link.hash, peopleLimits.codesOfLink, clock.now()))) throw linkInvalid()
        },
      })
      return sessions.start(user, {
        accountId: await accountOf(user),
        secondFactor: shown,
        origin,
        linkHash: link.hash,
      })
    },

    /** Answers alike whoever has that address. */
    async forgot(email: string, origin: Origin): Promise<void> {
      await mailAfterwards('reset', { email, origin }, async () => {
        const user = await store.userByEmail(email)
        if (user) sendMail(resetMail(user, await links.issue('reset', { email, user_id: user.id })))
      })
    },

    /** Ends every session: whoever else knew the password is out. The second factor stays. */
    async reset(
      { token, password, purpose = 'reset' }: { token: string; password: string; purpose?: 'reset' | 'signin' },
      origin: Origin,
    ): Promise<void> {
      const link = await links.find(token, purpose)
      const user = link.user_id === null ? undefined : await store.userById(link.user_id)
      if (!user) throw linkInvalid()
      const accountId = (await store.accountsOf(user.id))[0]?.id
      if (accountId !== undefined) mustRecord(accountId)
      const passwordHash = await passwords.hash(password, laneOf(user.email, origin.address))
      const wish = { hash: link.hash, userId: user.id, passwordHash, now: clock.now() }
      const ended = await store.resetByLink(wish, (ids) => revocations.steps([user.id, ...ids]))
      if (!ended) throw linkInvalid()
      revocations.heard([user.id, ...ended])
      await loginThrottle(user.email, origin).succeeded()
      const change = { actorId: user.id, action: 'user.passwordReset', target: user.id, outcome: 'done' } as const
      if (accountId !== undefined) await record({ accountId, ...change, ...from(origin) })
      sendMail(passwordChangedMail(user))
    },

    async changePassword(
      actor: SessionActor,
      { password, newPassword }: { password: string; newPassword: string },
      origin: Origin,
    ): Promise<void> {
      const user = await this.confirmPassword(actor, password, origin)
      const passwordHash = await passwords.hash(newPassword, laneOf(user.email, origin.address))
      const wish = { userId: user.id, passwordHash, now: clock.now(), keptSession: actor.sessionId }
      const ended = await store.changePassword(wish, revocations.steps)
      if (!ended) throw userGone()
      revocations.heard(ended)
      sendMail(passwordChangedMail(user))
    },

    /** For what a session alone, perhaps left open somewhere, is not enough. */
    async confirmPassword({ userId, sessionId }: SessionActor, password: string, origin: Origin): Promise<UserRow> {
      const known = await store.userById(userId)
      if (!known) throw userGone()
      const throttle = throttleSession(attempts, sessionId)
      const { user, isRight } = await tryPassword(known.email, password, { origin, throttle })
      if (!user || !isRight) throw loginFailed()
      await throttle.succeeded()
      return user
    },

    accountOf,
    newUser,
  }
}

function loginFailed(): DeltaError {
  return new DeltaError('login_failed', 'E-mail and password do not belong together')
}

function userGone(): DeltaError {
  return new DeltaError('login_failed', 'There is no such user any more')
}
