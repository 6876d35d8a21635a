import type { Redis } from 'ioredis'
import type { Clock } from '../../kernel/clock.ts'
import type { Logger } from '../../kernel/log.ts'

/** What several servers count together. */
export interface SharedCounts {
  client: Redis
  /** Asks Redis; where that is away, `alone` at once. What `together` throws that is no Error is an answer. */
  count<Result>(together: (client: Redis) => Promise<Result>, alone: () => Result | Promise<Result>): Promise<Result>
  close(): void
}

export interface SharedCountsDeps {
  url: string
  clock: Pick<Clock, 'monotonic'>
  log: Pick<Logger, 'info' | 'warn'>
}

export const redisLimits = {
  connectMs: 2_000,
  /** A request waits no longer for a count. */
  commandMs: 250,
  /** After a failure nobody asks again for so long. */
  restMs: 1_000,
  longestReconnectMs: 2_000,
  /** Commands that were sent and not answered yet. */
  waiting: 10_000,
} as const

/** Never waits for Redis to be there: it connects, and connects again, by itself. */
export async function openSharedCounts({ url, clock, log }: SharedCountsDeps): Promise<SharedCounts> {
  // By its default: once bundled, a CommonJS module has no other name.
  const { Redis } = (await import('ioredis')).default
  let away = false
  let closed = false
  let restsUntil = 0
  let waiting = 0
  const client = new Redis(url, {
    connectTimeout: redisLimits.connectMs,
    commandTimeout: redisLimits.commandMs,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    retryStrategy: (times) => Math.min(redisLimits.longestReconnectMs, 50 * 2 ** Math.min(10, times)),
  })
  const failed = (error?: unknown) => {
    restsUntil = clock.monotonic() + redisLimits.restMs
    if (away || closed) return
    away = true
    log.warn('redis_away', { counts: 'in memory of this server', error })
  }
  const answered = () => {
    if (!away) return
    away = false
    log.info('redis_back', {})
  }
  client.on('error', failed)
  client.on('close', () => failed())
  client.on('ready', () => {
    restsUntil = 0
    answered()
  })
  return {
    client,
    async count(together, alone) {
      const isUsable = client.status === 'ready' && clock.monotonic() >= restsUntil && waiting < redisLimits.waiting
      if (!isUsable) return alone()
      waiting += 1
      try {
        const result = await together(client)
        answered()
        return result
      } catch (error) {
        if (!(error instanceof Error)) throw error
        failed(error)
        return await alone()
      } finally {
        waiting -= 1
      }
    },
    close() {
      closed = true
      client.disconnect()
    },
  }
}
