import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible'
import { DeltaError } from '../../kernel/errors.ts'
import type { Metrics } from '../../kernel/metrics.ts'
import type { CountRequest } from '../door.ts'
import { addressName } from '../people/attempts.ts'
import type { SharedCounts } from './shared-counts.ts'

/** Requests a second, on average over a window; 0: as many as come. */
export interface RateSettings {
  /** Of one key, session or agent. */
  key: number
  account: number
  /** Of one address, without a caller that is known. */
  address: number
}

/** Refuses whoever sends too much. A stream counts once, when it begins. */
export interface RateLimits {
  count: CountRequest
  metrics(metrics: Metrics): void
}

/** Within it a burst may take all that the window has: twice what a second has. */
export const rateWindowMs = 2_000

type Kind = keyof RateSettings

interface Limiter {
  kind: Kind
  limit: number
  consume(name: string): Promise<RateLimiterRes>
}

const messages: Record<Kind, string> = {
  key: 'This key, session or agent sends too many requests',
  account: 'This account sends too many requests',
  address: 'Too many requests without a valid key or session come from this address',
}

/** Counts in memory, and in Redis where there is one, so that several servers share a limit. */
export function createRateLimits({
  settings,
  shared,
}: {
  settings: RateSettings
  shared?: SharedCounts | undefined
}): RateLimits {
  const refused: Record<Kind, number> = { key: 0, account: 0, address: 0 }
  const limiters = {
    key: createLimiter('key', settings.key, shared),
    account: createLimiter('account', settings.account, shared),
    address: createLimiter('address', settings.address, shared),
  }
  const take = async (limiter: Limiter | undefined, name: string) => {
    if (!limiter) return
    try {
      await limiter.consume(name)
    } catch (result) {
      if (!(result instanceof RateLimiterRes)) throw result
      refused[limiter.kind] += 1
      throw tooMany(limiter, result)
    }
  }
  return {
    async count({ caller, address }) {
      if (!caller) return take(limiters.address, addressName(address))
      // In this order: what one key sends in vain is not taken from the account's others.
      await take(limiters.key, caller.actorId)
      await take(limiters.account, caller.accountId)
    },
    metrics(metrics) {
      metrics.gauge('delta_rate_limited', 'Requests refused since the start because there were too many', () =>
        Object.entries(refused).map(([by, value]) => ({ labels: { by }, value })),
      )
    },
  }
}

function createLimiter(kind: Kind, perSecond: number, shared: SharedCounts | undefined): Limiter | undefined {
  if (perSecond === 0) return undefined
  const limit = Math.ceil((perSecond * rateWindowMs) / 1_000)
  const options = { keyPrefix: `delta:rate:${kind}`, points: limit, duration: rateWindowMs / 1_000 }
  const alone = new RateLimiterMemory(options)
  if (!shared) return { kind, limit, consume: (name) => alone.consume(name) }
  const together = new RateLimiterRedis({ ...options, storeClient: shared.client })
  return {
    kind,
    limit,
    consume: (name) =>
      shared.count(
        () => together.consume(name),
        () => alone.consume(name),
      ),
  }
}

function tooMany({ kind, limit }: Limiter, { consumedPoints, msBeforeNext }: RateLimiterRes): DeltaError {
  return new DeltaError('too_many_requests', messages[kind], {
    context: {
      limit,
      windowMs: rateWindowMs,
      count: consumedPoints,
      retryAfterMs: Math.max(1, Math.ceil(msBeforeNext)),
      by: kind,
    },
  })
}
