import { randomBytes } from 'node:crypto'
import type { Clock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import type { Access, AccessDoor, AccessEnd, AccessScope } from './door.ts'
import { type Claims, mayAccess, nextGeneration, readToken, signToken } from './rules.ts'
import { accessLimits } from './schema.ts'
import { createAccessStore } from './store.ts'

export interface AccessTokensDeps {
  database: Database
  clock: Clock
}

export interface AccessTokens extends AccessDoor {
  create(wish: { sandboxId: string; accountId: string; scopes: readonly AccessScope[]; ttlMs: number }): {
    token: string
    expiresAt: number
  }
  /** Ends every token of the sandbox made so far, and what was opened with them. On disk when it resolves. */
  revoke(sandboxId: string): Promise<void>
  /** The sandbox is gone for good: what was opened with its tokens ends. */
  forget(sandboxId: string): void
  stop(): void
}

interface Hold {
  /** On the monotonic clock: a wall clock set back must not prolong what runs. */
  endsMs: number
  onEnd(reason: AccessEnd): void
}

/** Good signatures that are known again. Checking one costs as much as all the rest of a small request. */
const remembered = 1_024

/** Expiries are looked for no more often than this. */
const sweepMs = 250

/** The secret is made once and kept in the database, so tokens outlive a restart; so do revocations. */
export async function openAccessTokens({ database, clock }: AccessTokensDeps): Promise<AccessTokens> {
  const store = createAccessStore(database)
  await store.purgeGenerations(clock.now() - accessLimits.ttlMs.max)
  const secret = Buffer.from(await store.secret('access-tokens', randomBytes(32).toString('hex')), 'hex')
  const generations = await store.generations()
  const holds = new Map<string, Set<Hold>>()
  let nap: { untilMs: number; end: AbortController } | undefined

  const known = new Map<string, Claims>()

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

  const isRevoked = ({ sandboxId, generation }: Access): boolean => generation < (generations.get(sandboxId) ?? 0)

  const endAll = (sandboxId: string, reason: AccessEnd): void => {
    const ended = holds.get(sandboxId)
    holds.delete(sandboxId)
    for (const { onEnd } of ended ?? []) onEnd(reason)
  }

  /** Wakes at the first expiry among what is held, and not at all where nothing is. */
  const watch = (untilMs: number): void => {
    if (nap && nap.untilMs <= untilMs) return
    nap?.end.abort()
    const own = (nap = { untilMs, end: new AbortController() })
    const waitMs = Math.max(sweepMs, untilMs - clock.monotonic())
    clock.sleep(waitMs, own.end.signal).then(
      () => {
        nap = undefined
        sweep()
      },
      () => undefined,
    )
  }

  const sweep = (): void => {
    const nowMs = clock.monotonic()
    let next = Infinity
    for (const [sandboxId, held] of Array.from(holds)) {
      for (const hold of Array.from(held)) {
        if (hold.endsMs > nowMs) {
          next = Math.min(next, hold.endsMs)
          continue
        }
        drop(sandboxId, hold)
        hold.onEnd('expired')
      }
    }
    if (next < Infinity) watch(next)
  }

  const drop = (sandboxId: string, hold: Hold): void => {
    const held = holds.get(sandboxId)
    if (held?.delete(hold) && held.size === 0) holds.delete(sandboxId)
  }

  return {
    create({ sandboxId, accountId, scopes, ttlMs }) {
      const expiresAt = clock.now() + ttlMs
      const claims = {
        sandboxId,
        accountId,
        scopes: [...scopes],
        generation: generations.get(sandboxId) ?? 0,
        expiresAt,
      }
      return { token: signToken(claims, secret), expiresAt }
    },
    verify(token, { sandboxId, scope }) {
      const claims = read(token)
      if (!claims) return null
      const wish = { sandboxId, scope, generation: generations.get(sandboxId) ?? 0, now: clock.now() }
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
      const hold: Hold = { endsMs: clock.monotonic() + expiresAt - clock.now(), onEnd }
      const held = holds.get(sandboxId)
      if (held) held.add(hold)
      else holds.set(sandboxId, new Set([hold]))
      watch(hold.endsMs)
      return () => drop(sandboxId, hold)
    },
    async revoke(sandboxId) {
      const generation = nextGeneration(generations.get(sandboxId) ?? 0, clock.now())
      await store.putGeneration(sandboxId, generation, clock.now())
      // Two revocations may have waited for the disk side by side.
      generations.set(sandboxId, Math.max(generation, generations.get(sandboxId) ?? 0))
      endAll(sandboxId, 'revoked')
    },
    forget: (sandboxId) => endAll(sandboxId, 'killed'),
    stop: () => nap?.end.abort(),
  }
}
