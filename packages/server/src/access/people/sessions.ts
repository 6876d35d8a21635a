import { DeltaError } from '../../kernel/errors.ts'
import { isId, newId } from '../../kernel/ids.ts'
import type { TokenReader } from '../authenticate.ts'
import type { KnownCaller } from '../door.ts'
import type { Role } from '../principal.ts'
import type { Origin, PeopleContext, SessionActor } from './context.ts'
import { peopleLimits } from './limits.ts'
import { hashOf, linkInvalid, newSecret } from './links.ts'
import type { SessionInfo } from './schema.ts'
import { readSession, signSession } from './session-token.ts'
import type { SessionClaims } from './session-token.ts'
import type { SessionRow, UserRow } from './store.ts'

export interface IssuedTokens {
  accessToken: string
  refreshToken: string
  expiresAt: number
  refreshExpiresAt: number
  sessionId: string
  userId: string
  accountId: string
}

export type Sessions = ReturnType<typeof createSessions>

interface Standing {
  role: Role
  /** The session and its user. */
  ties: readonly string[]
  /** What was revoked when it was looked up. */
  since: number
  /** On the monotonic clock. */
  untilMs: number
}

type SessionDeps = Pick<PeopleContext, 'store' | 'clock' | 'log' | 'secrets' | 'revocations' | 'mustRecord' | 'record'>

export function createSessions({ store, clock, secrets, revocations, mustRecord, record }: SessionDeps) {
  const { privateKey, publicKey } = secrets.signing
  /** By the token's hash: a signature costs more to check than all the rest of a small request. */
  const verified = new Map<string, SessionClaims>()
  /** By session and account. */
  const standings = new Map<string, Standing>()

  revocations.onRevoked((id) => {
    // News of keys and tokens are none of people.
    if (!isId('ses', id) && !isId('usr', id)) return
    for (const [key, { ties }] of standings) if (ties.includes(id)) standings.delete(key)
  })

  function accessToken(session: Pick<SessionRow, 'id' | 'user_id' | 'account_id' | 'second_factor'>) {
    const issuedAt = clock.now()
    const expiresAt = issuedAt + peopleLimits.accessTokenMs
    const claims = {
      userId: session.user_id,
      sessionId: session.id,
      accountId: session.account_id,
      secondFactor: Number(session.second_factor) === 1,
      id: newId('jti'),
      issuedAt,
      expiresAt,
    }
    return { accessToken: signSession(claims, privateKey), expiresAt }
  }

  function issued(session: SessionRow, refreshToken: string): IssuedTokens {
    const { id: sessionId, user_id: userId, account_id: accountId, expires_at: refreshExpiresAt } = session
    return { ...accessToken(session), refreshToken, refreshExpiresAt, sessionId, userId, accountId }
  }

  /** What is wrong is never kept. */
  function claimsOf(token: string): SessionClaims | undefined {
    const hash = hashOf(token)
    const known = verified.get(hash)
    if (known) return known.expiresAt > clock.now() ? known : undefined
    const claims = readSession(token, publicKey, clock.now())
    if (!claims) return undefined
    if (verified.size >= peopleLimits.remembered) verified.clear()
    verified.set(hash, claims)
    return claims
  }

  function callerOf(claims: SessionClaims, { role, since, ties }: Standing): KnownCaller {
    const { accountId, userId, sessionId, secondFactor, expiresAt } = claims
    return {
      accountId,
      actorId: userId,
      principal: { kind: 'user', accountId, userId, sessionId, role, secondFactor },
      ties,
      since,
      expiresAt,
    }
  }

  async function lookUp(claims: SessionClaims): Promise<KnownCaller | null> {
    // Counted before it is asked: what is revoked meanwhile must not be missed.
    const since = revocations.count
    const role = await store.standing(claims.sessionId, claims.accountId, clock.now())
    if (role === undefined) {
      standings.delete(keyOf(claims))
      return null
    }
    const untilMs = clock.monotonic() + peopleLimits.standingMs
    const standing = { role, ties: [claims.sessionId, claims.userId], since, untilMs }
    if (standings.size >= peopleLimits.remembered) standings.clear()
    standings.set(keyOf(claims), standing)
    return callerOf(claims, standing)
  }

  /** Who shows a session token; null for whatever is not one that is good now, without saying why. */
  function read(token: string): KnownCaller | null | Promise<KnownCaller | null> {
    const claims = claimsOf(token)
    if (!claims) return null
    const standing = standings.get(keyOf(claims))
    const isFresh = standing !== undefined && clock.monotonic() < standing.untilMs
    return isFresh && !revocations.isRevoked(standing.ties, standing.since)
      ? callerOf(claims, standing)
      : lookUp(claims)
  }

  // No API key has a dot in it.
  const reader: TokenReader = { fits: (token) => token.startsWith('eyJ') && token.includes('.'), read }

  return {
    reader,
    read,

    /** Who stands behind a session in an account now; null where it has ended. For tokens of agents, which are made in it. */
    async find(sessionId: string, accountId: string): Promise<KnownCaller | null> {
      const since = revocations.count
      const holder = await store.holder(sessionId, accountId, clock.now())
      if (!holder) return null
      const { role, userId } = holder
      return {
        accountId,
        actorId: userId,
        principal: { kind: 'user', accountId, userId, sessionId, role, secondFactor: false },
        ties: [sessionId, userId],
        since,
      }
    },

    async start(
      user: Pick<UserRow, 'id' | 'password_hash'>,
      {
        accountId,
        secondFactor,
        origin,
        linkHash,
      }: { accountId: string; secondFactor: boolean; origin: Origin; linkHash?: string },
    ): Promise<IssuedTokens> {
      mustRecord(accountId)
      const now = clock.now()
      const refreshToken = newSecret('drt')
      const session: SessionRow = {
        id: newId('ses'),
        user_id: user.id,
        account_id: accountId,
        second_factor: secondFactor ? 1 : 0,
        client: shownClient(origin.client),
        address: origin.address ?? '',
        created_at: now,
        used_at: now,
        expires_at: now + peopleLimits.refreshTokenMs,
        ended_at: null,
      }
      const most = peopleLimits.sessionsOfUser
      const started = await store.startSession(session, hashOf(refreshToken), {
        most,
        ...(linkHash !== undefined && { linkHash }),
        // Who gave this user another password meanwhile has ended what the old one opened.
        ...(user.password_hash !== null && { passwordHash: user.password_hash }),
      })
      if (!started) throw linkHash === undefined ? sessionEnded() : linkInvalid()
      await record({
        accountId,
        actorId: user.id,
        action: 'session.started',
        target: session.id,
        outcome: 'done',
        ...from(origin),
      })
      return issued(session, refreshToken)
    },

    /** Each refresh token is good once. One that comes again was stolen, or its thief was first: the session ends for both. */
    async refresh(refreshToken: string, origin: Origin): Promise<IssuedTokens> {
      const now = clock.now()
      const hash = hashOf(refreshToken)
      const found = await store.refreshToken(hash)
      if (!found) throw sessionEnded()
      const { token_used_at: usedAt, ...session } = found
      if (usedAt !== null) {
        // Written down when it ends the session, not each time that it comes again.
        if (await this.end(session.id, session.user_id)) {
          await record({
            accountId: session.account_id,
            actorId: session.user_id,
            action: 'session.refreshTokenReused',
            target: session.id,
            outcome: 'refused',
            reason: 'session_ended',
            ...from(origin),
          })
        }
        throw sessionEnded()
      }
      const accounts = await store.accountsOf(session.user_id)
      const account = accounts.find(({ id }) => id === session.account_id) ?? accounts[0]
      if (!account) throw sessionEnded()
      const next = newSecret('drt')
      const longest = Number(session.created_at) + peopleLimits.sessionMs
      const expiresAt = Math.min(now + peopleLimits.refreshTokenMs, longest)
      const rotated = await store.rotate({ from: hash, to: hashOf(next), sessionId: session.id, now, expiresAt })
      if (!rotated) {
        // Either it is over, or somebody else used the same token at this moment.
        await this.end(session.id, session.user_id)
        throw sessionEnded()
      }
      if (account.id !== session.account_id) await store.switchSession(session.id, account.id)
      return issued({ ...session, account_id: account.id, expires_at: expiresAt }, next)
    },

    /** By the refresh token alone, so that who has nothing else any more can log out. What is unknown is over already. */
    async endByRefreshToken(refreshToken: string): Promise<void> {
      const session = await store.refreshToken(hashOf(refreshToken))
      if (session) await this.end(session.id, session.user_id)
    },

    /** False: there is none of that user. */
    async end(id: string, userId: string): Promise<boolean> {
      if (!(await store.endSession(id, userId, clock.now(), revocations.steps([id])))) return false
      revocations.heard([id])
      return true
    },

    async endOthers(userId: string, but: string): Promise<void> {
      const ended = await store.endOtherSessions(userId, but, clock.now(), revocations.steps)
      revocations.heard(ended ?? [])
    },

    async switchAccount({ userId, sessionId, secondFactor }: SessionActor, accountId: string) {
      if ((await store.roleOf(accountId, userId)) === undefined) {
        throw new DeltaError('account_not_found', 'You belong to no such account')
      }
      await store.switchSession(sessionId, accountId)
      const session = { id: sessionId, user_id: userId, account_id: accountId, second_factor: secondFactor ? 1 : 0 }
      return { ...accessToken(session), sessionId, userId, accountId }
    },

    async list(userId: string, current: string): Promise<SessionInfo[]> {
      const rows = await store.sessionsOf(userId, clock.now())
      return rows.map((row) => ({
        id: row.id,
        current: row.id === current,
        accountId: row.account_id,
        client: row.client,
        address: row.address,
        secondFactor: Number(row.second_factor) === 1,
        createdAt: iso(row.created_at),
        usedAt: iso(row.used_at),
        expiresAt: iso(row.expires_at),
      }))
    },
  }
}

const keyOf = ({ sessionId, accountId }: SessionClaims) => `${sessionId} ${accountId}`
const clientChars = 200

/** One line, whatever was sent. */
function shownClient(client = ''): string {
  return client.replaceAll(/[\p{Cc}\p{Cf}]/gu, '').slice(0, clientChars)
}

export function from({ address }: Origin): { address?: string } {
  return address === undefined ? {} : { address }
}

export function iso(time: number): string {
  return new Date(Number(time)).toISOString()
}

function sessionEnded(): DeltaError {
  return new DeltaError('session_ended', 'The session is over')
}
