import { afterEach, describe, expect, test, vi } from 'vitest'
import { systemClock } from '../../kernel/clock.ts'
import { createLogger } from '../../kernel/log.ts'
import { createAttempts } from '../people/attempts.ts'
import { createSharedAttempts } from './attempts.ts'
import { createRateLimits } from './rate-limits.ts'
import { openSharedCounts } from './shared-counts.ts'
import { findRedisServer, startRedis } from './testing.ts'

// Two servers of one Redis, which is killed in the middle.

const program = findRedisServer()
const rule = { free: 3, firstMs: 60_000, longestMs: 60_000, forgetMs: 600_000 }
const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).toReversed()) await close()
})

async function openServer(url: string) {
  const events: string[] = []
  const log = createLogger({
    level: 'info',
    write: (line) => events.push((JSON.parse(line) as { event: string }).event),
  })
  const shared = await openSharedCounts({ url, clock: systemClock, log })
  closers.push(shared.close)
  const own = createAttempts({ clock: systemClock, kept: 100 })
  const limits = createRateLimits({ settings: { key: 5, account: 0, address: 0 }, shared })
  return { shared, events, limits, attempts: createSharedAttempts({ shared, own }) }
}

async function openTwo() {
  const redis = await startRedis(program ?? '')
  closers.push(redis.kill)
  const [a, b] = await Promise.all([openServer(redis.url), openServer(redis.url)])
  const ready = () =>
    vi.waitFor(() => expect([a, b].map(({ shared }) => shared.client.status)).toEqual(['ready', 'ready']), 10_000)
  await ready()
  return { redis, a, b, ready }
}

const passedOf = async (server: { limits: ReturnType<typeof createRateLimits> }, requests: number, actorId: string) => {
  const request = { caller: { actorId, accountId: 'acc_a' }, address: undefined }
  const results = await Promise.allSettled(Array.from({ length: requests }, () => server.limits.count(request)))
  return results.filter(({ status }) => status === 'fulfilled').length
}

describe.skipIf(program === undefined)('with Redis [redis-server is not installed]', () => {
  test('servers share a limit', async () => {
    const { a, b } = await openTwo()
    expect((await passedOf(a, 7, 'key_a')) + (await passedOf(b, 7, 'key_a'))).toBe(10)
  })

  test('without Redis each goes on alone with one warning, and they share again when it is back', async () => {
    const { redis, a, b, ready } = await openTwo()
    await redis.kill()
    expect(await passedOf(a, 12, 'key_a')).toBe(10)
    expect(await passedOf(b, 12, 'key_a')).toBe(10)
    await redis.startAgain()
    await ready()
    expect((await passedOf(a, 7, 'key_b')) + (await passedOf(b, 7, 'key_b'))).toBe(10)
    expect(a.events).toEqual(['redis_away', 'redis_back'])
  })

  test('a Redis that answers nothing is left alone after one wait', async () => {
    const { redis, a } = await openTwo()
    redis.freeze()
    expect(await passedOf(a, 12, 'key_a')).toBe(10)
    expect(a.events).toEqual(['redis_away'])
    redis.thaw()
    await vi.waitFor(async () => {
      await passedOf(a, 1, 'key_c')
      expect(a.events).toEqual(['redis_away', 'redis_back'])
    }, 10_000)
  })

  test('wrong passwords at one server make the other wait, and a right one frees both', async () => {
    const { a, b } = await openTwo()
    for (let tries = 0; tries < 3; tries++) await a.attempts.failed('login user x', rule)
    expect(await b.attempts.look('login user x', rule)).toMatchObject({ failures: 3 })
    expect((await b.attempts.look('login user x', rule)).waitMs).toBeGreaterThan(50_000)
    await a.attempts.forget('login user x')
    expect(await a.attempts.look('login user x', rule)).toEqual({ failures: 0, waitMs: 0 })
    expect(await b.attempts.look('login user x', rule)).toEqual({ failures: 0, waitMs: 0 })
  })

  test('who has to wait does so while Redis is away, and after it came back with nothing', async () => {
    const { redis, a, ready } = await openTwo()
    for (let tries = 0; tries < 2; tries++) await a.attempts.failed('login user x', rule)
    await redis.kill()
    await a.attempts.failed('login user x', rule)
    expect((await a.attempts.look('login user x', rule)).waitMs).toBeGreaterThan(50_000)
    await redis.startAgain()
    await ready()
    expect((await a.attempts.look('login user x', rule)).waitMs).toBeGreaterThan(50_000)
  })
})

test('a Redis that was never there is one warning, and nothing waits for it', async () => {
  // Port 9 of the loopback: nobody listens.
  const server = await openServer('redis://127.0.0.1:9')
  expect(await passedOf(server, 12, 'key_a')).toBe(10)
  await vi.waitFor(() => expect(server.events).toEqual(['redis_away']))
})
