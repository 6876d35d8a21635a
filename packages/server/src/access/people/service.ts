import type { Clock } from '../../kernel/clock.ts'
import type { BatchStep, Database } from '../../kernel/db/database.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { Logger } from '../../kernel/log.ts'
import type { RecordAudit } from '../audit/entry.ts'
import type { Mail } from '../mail/events.ts'
import { actorIdOf } from '../principal.ts'
import type { Principal } from '../principal.ts'
import type { Secrets } from '../secrets.ts'
import { createAttempts } from './attempts.ts'
import type { Attempts } from './attempts.ts'
import type { Actor, PeopleContext, PeopleSettings, SessionRevocations } from './context.ts'
import { attemptLimits, hashingLimits, peopleLimits } from './limits.ts'
import { createLinks } from './links.ts'
import type { IssuedLink } from './links.ts'
import { createLogIn } from './log-in.ts'
import { secondFactorRemovedMail } from './mails.ts'
import { createMembers } from './members.ts'
import { createPasswords } from './passwords.ts'
import type { Derive } from './passwords.ts'
import { firstAccountId } from './rules.ts'
import type { LinkPurpose } from './rules.ts'
import type { Me, UserInfo } from './schema.ts'
import { createSecondFactor } from './second-factor.ts'
import { createSessions, iso } from './sessions.ts'
import { createPeopleStore } from './store.ts'
import { createTurns } from './turns.ts'

export interface PeopleDeps {
  database: Database
  clock: Clock
  log: Logger
  secrets: Secrets
  revocations: SessionRevocations
  sendMail(mail: Mail): void
  endKeysSteps(userId: string, accountId: string): BatchStep[]
  mustRecord(accountId: string): void
  record: RecordAudit
  settings: PeopleSettings
  /** @default in this process's memory */
  attempts?: Attempts
  /** @default Argon2id */
  derive?: Derive
}

const dayMs = 86_400_000

export type People = ReturnType<typeof createPeople>

export function createPeople({ database, attempts, derive, ...deps }: PeopleDeps) {
  const { clock, log } = deps
  const turns = createTurns(hashingLimits)
  const store = createPeopleStore(database)
  const context: PeopleContext = {
    ...deps,
    store,
    passwords: createPasswords({ turns, ...(derive && { derive }) }),
    attempts: attempts ?? createAttempts({ clock, kept: attemptLimits.kept }),
  }
  const links = createLinks(context)
  const sessions = createSessions(context)
  const secondFactor = createSecondFactor(context)
  const logIn = createLogIn({ context, links, sessions, secondFactor })
  const members = createMembers({ context, links, sessions, logIn })
  const stopped = new AbortController()

  async function sweep(): Promise<void> {
    const now = clock.now()
    await store.sweep(now, Math.floor(now / dayMs) - 1)
    const { sweptAtOnce: most, refreshTokenMs } = peopleLimits
    for (let swept: number = most; swept === most && !stopped.signal.aborted;) {
      swept = await store.sweepSessions(now, now - refreshTokenMs, most)
    }
  }

  async function keepTidy(): Promise<void> {
    while (!stopped.signal.aborted) {
      await clock.sleep(peopleLimits.sweepMs, stopped.signal).catch(() => undefined)
      // A database that is away is asked again the next time.
      if (!stopped.signal.aborted) await sweep().catch((error: unknown) => log.warn('people_not_swept', { error }))
    }
  }

  async function userInfo(userId: string): Promise<UserInfo | null> {
    const user = await store.userById(userId)
    if (!user) return null
    return {
      id: user.id,
      email: user.email,
      name: user.name,
      emailVerifiedAt: user.email_verified_at === null ? null : iso(user.email_verified_at),
      createdAt: iso(user.created_at),
      totp: await secondFactor.isOn(userId),
      recoveryCodesLeft: await store.recoveryCodesLeft(userId),
    }
  }

  return {
    sessions,
    secondFactor,
    logIn,
    members,
    userInfo,
    rename: store.rename,

    /** Passwords being hashed and waiting, for /metrics. */
    turns,

    async me(principal: Principal): Promise<Me> {
      const { kind, accountId } = principal
      const isUser = kind === 'user'
      const own = isUser ? await store.accountsOf(principal.userId) : []
      const account = own.length === 0 ? await store.account(accountId) : undefined
      const role = kind === 'agent' ? null : principal.role
      return {
        kind,
        id: actorIdOf(principal),
        accountId,
        role,
        sessionId: isUser ? principal.sessionId : null,
        user: isUser ? await userInfo(principal.userId) : null,
        accounts: account && role ? [{ id: account.id, name: account.name, role }] : own,
      }
    },

    /** What a page asks for, without using the link up. Undefined: it is over, or was never made. */
    async describeLink(token: string, purpose: LinkPurpose) {
      const link = await links.find(token, purpose).catch(() => undefined)
      if (!link) return undefined
      const into = link.invitation_id === null ? undefined : await members.invitedInto(link.invitation_id)
      if (purpose === 'invitation' && !into) return undefined
      const user = link.email === '' ? undefined : await store.userByEmail(link.email)
      return {
        into,
        email: link.email,
        isKnown: user !== undefined,
        totp: user !== undefined && (await secondFactor.isOn(user.id)),
      }
    },

    /** For the operator; whose it was, who is told. In their own account it is written down too. */
    async resetSecondFactor(email: string, { accountId: operatorsId, actorId }: Actor): Promise<string> {
      const user = await store.userByEmail(email)
      if (!user) throw new DeltaError('member_not_found', 'Nobody has that address')
      await secondFactor.turnOff({ userId: user.id })
      context.sendMail(secondFactorRemovedMail(user))
      const accountId = (await store.accountsOf(user.id))[0]?.id
      if (accountId !== undefined && accountId !== operatorsId) {
        const change = { actorId, action: 'resetSecondFactor', target: user.id, outcome: 'done' } as const
        await context.record({ accountId, ...change })
      }
      return user.id
    },

    /** The role of somebody in an account, as it is now. */
    roleOf: store.roleOf,

    /** The one-time link by which the first owner comes in; undefined once there is one. */
    async firstLink(): Promise<IssuedLink | undefined> {
      return (await store.hasOwner(firstAccountId)) ? undefined : links.issue('owner', {})
    },

    async start(): Promise<void> {
      await sweep()
      void keepTidy()
    },
    stop(): void {
      stopped.abort()
    },
  }
}
