import { randomBytes } from 'node:crypto'
import type { Clock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import type { Logger } from '../kernel/log.ts'
import type { Revocations } from './revocations.ts'
import type { Access, AccessDoor, AccessEnd, AccessScope } from './door.ts'
import { createHolds } from './holds.ts'
import { type Claims, mayAccess, nextGeneration, readToken, signToken } from './rules.ts'
import { accessLimits } from './schema.ts'
import { createAccessStore } from './store.ts'

export interface AccessTokensDeps {
  database: Database
  clock: Clock
  log: Logger
  /** What ends those who make tokens ends the tokens; and other servers hear by it of what ends here. */
  callers: Pick<Revocations, 'isRevoked' | 'onRevoked' | 'steps'>
}

export interface AccessTokens extends AccessDoor {
  create(wish: {
    sandboxId: string
    accountId: string
    scopes: readonly AccessScope[]
    ttlMs: number
    /** The end of whoever makes it, which is its end at the latest. @default none */
    until?: number | undefined
  }): { token: string; expiresAt: number }
  /**
   * Whose right lets a token be made: the key, the session, the person. When one of them is revoked, all tokens of the sandbox end. On disk when it
   * resolves, so to be waited for before the token is given out.
   */
  noteMakers(makers: readonly string[], token: { sandboxId: string; expiresAt: number }): Promise<void>
  /** Ends every token of the sandbox made so far, and what was opened with them. On disk when it resolves. */
  revoke(sandboxId: string): Promise<void>
  /** The sandbox is gone for good: what was opened with its tokens ends. */
  forget(sandboxId: string): void
  stop(): void
}

/** Good signatures that are known again. Checking one costs as much as all the rest of a small request. */
const remembered = 1_024

/** Revocations that no token can remember are forgotten this often. */
const purgeEveryMs = 3_600_000

const newsPattern = /^access\/([^/]+)\/([0-9]+)$/
const newsOf = (sandboxId: string, generation: number) => `access/${sandboxId}/${generation}`

function readNews(news: string): { sandboxId: string; generation: number } | undefined {
  const [, sandboxId, generation] = newsPattern.exec(news) ?? []
  return sandboxId === undefined ? undefined : { sandboxId, generation: Number(generation) }
}

/** The secret is made once and kept in the database, so tokens outlive a restart; so do revocations. */
export async function openAccessTokens({ database, clock, log, callers }: AccessTokensDeps): Promise<AccessTokens> {
  const store = createAccessStore(database)
  const secret = Buffer.from(await store.secret('access-tokens', randomBytes(32).toString('hex')), 'hex')
  const revocations = await store.generations()
  const holds = createHolds<AccessEnd>(clock)

  const known = new Map<string, Claims>()
  const generationOf = (sandboxId: string): number => revocations.get(sandboxId)?.generation ?? 0

  /** No token lives longer than this: what was revoked before has expired by itself. */
  const purge = async (): Promise<void> => {
    const before = clock.now() - accessLimits.ttlMs.max
    await store.purgeGenerations(before)
    await store.purgeMakers(clock.now())
    for (const [sandboxId, { revokedAt }] of revocations) if (revokedAt < before) revocations.delete(sandboxId)
  }

  const stopped = new AbortController()
  const keepTidy = async (): Promise<void> => {
    while (!stopped.signal.aborted) {
      await clock.sleep(purgeEveryMs, stopped.signal).catch(() => undefined)
      // A database that is away is asked again the next time.
      if (!stopped.signal.aborted)
        await purge().catch((error: unknown) => log.warn('revocations_not_purged', { error }))
    }
  }
  await purge()
  void keepTidy()

  /** What is wrong is never kept, so that looking it up tells nothing of what is right. */
  const read = (token: string): Claims | undefined => {
    const seen = known.get(token)
    if (seen) return seen
    const claims = readToken(token, secret)
    if (!claims) return undefined
    if (known.size >= remembered) known.clear()
    known.set(token, claims)
    return claims
  }

  const isRevoked = ({ sandboxId, generation }: Access): boolean => generation < generationOf(sandboxId)

  const revoke = async (sandboxId: string): Promise<void> => {
    const revokedAt = clock.now()
    const generation = nextGeneration(generationOf(sandboxId), revokedAt)
    const news = callers.steps([newsOf(sandboxId, generation)])
    await store.putGeneration({ sandboxId, generation, now: revokedAt }, news)
    revoked(sandboxId, generation)
  }

  const revoked = (sandboxId: string, generation: number): void => {
    // Two revocations may have waited for the disk side by side, or on two servers.
    if (generation <= generationOf(sandboxId)) return
    revocations.set(sandboxId, { generation, revokedAt: clock.now() })
    holds.end(sandboxId, 'revoked')
  }

  const revokeMadeBy = async (maker: string): Promise<void> => {
    for (const { sandboxId } of await store.makers(maker)) await revoke(sandboxId)
    await store.removeMaker(maker)
  }
  const makerGone = (maker: string): void => {
    const tries = async (): Promise<void> => {
      for (let waitMs = 100; !stopped.signal.aborted; waitMs = Math.min(2 * waitMs, 5_000)) {
        try {
          return await revokeMadeBy(maker)
        } catch (error) {
          log.error('tokens_not_revoked', { maker, error })
          await clock.sleep(waitMs, stopped.signal).catch(() => undefined)
        }
      }
    }
    void tries()
  }
  callers.onRevoked((news) => {
    const other = readNews(news)
    if (other) revoked(other.sandboxId, other.generation)
    else makerGone(news)
  })
  // Those that were revoked while a server ended in the middle.
  for (const maker of new Set((await store.makers()).map((row) => row.maker))) {
    if (callers.isRevoked([maker], 0)) await revokeMadeBy(maker)
  }

  return {
    create({ sandboxId, accountId, scopes, ttlMs, until = Infinity }) {
      const expiresAt = Math.min(clock.now() + ttlMs, until)
      const claims = {
        sandboxId,
        accountId,
        scopes: [...scopes],
        generation: generationOf(sandboxId),
        expiresAt,
      }
      return { token: signToken(claims, secret), expiresAt }
    },
    verify(token, { sandboxId, scope }) {
      const claims = read(token)
      if (!claims) return null
      const wish = { sandboxId, scope, generation: generationOf(sandboxId), now: clock.now() }
      if (!mayAccess(claims, wish)) return null
      return { sandboxId, accountId: claims.accountId, expiresAt: claims.expiresAt, generation: claims.generation }
    },
    isOver: (access) => access.expiresAt <= clock.now() || isRevoked(access),
    hold(access: Access, onEnd) {
      const { sandboxId, expiresAt } = access
      // What was verified before a sandbox was woken may have been revoked meanwhile.
      if (isRevoked(access)) {
        queueMicrotask(() => onEnd('revoked'))
        return () => {}
      }
      return holds.add([sandboxId], expiresAt, onEnd)
    },
    async noteMakers(makers, { sandboxId, expiresAt }) {
      if (makers.length > 0) await store.putMakers(makers, sandboxId, expiresAt)
    },
    revoke,
    forget: (sandboxId) => holds.end(sandboxId, 'killed'),
    stop() {
      holds.stop()
      stopped.abort()
    },
  }
}
