import { expect, test } from 'vitest'
import { DeltaError } from '../../kernel/errors.ts'
import { createMetrics } from '../../kernel/metrics.ts'
import { createRateLimits, rateWindowMs } from './rate-limits.ts'
import type { RateLimits } from './rate-limits.ts'

const address = '203.0.113.7'
const caller = (actorId: string, accountId = 'acc_a') => ({ caller: { actorId, accountId }, address })
const nobody = { caller: undefined, address }

/** How many of so many were let through, and the first refusal. */
async function send(limits: RateLimits, requests: number, request: Parameters<RateLimits['count']>[0]) {
  const results = await Promise.allSettled(Array.from({ length: requests }, () => limits.count(request)))
  const refusals = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []))
  return { passed: requests - refusals.length, refusal: refusals[0] }
}

test('a key gets what its window has, and is told the limit, the window, the count and when to come back', async () => {
  const limits = createRateLimits({ settings: { key: 5, account: 0, address: 0 } })
  const { passed, refusal } = await send(limits, 12, caller('key_a'))
  expect(passed).toBe(10)
  expect(refusal).toBeInstanceOf(DeltaError)
  expect(refusal).toMatchObject({
    code: 'too_many_requests',
    status: 429,
    context: { by: 'key', limit: 10, windowMs: rateWindowMs, count: 11, retryAfterMs: expect.any(Number) },
  })
  expect((await send(limits, 12, caller('key_b'))).passed).toBe(10)
})

test('keys of one account share what the account has, and what one sends in vain is not taken from the others', async () => {
  const limits = createRateLimits({ settings: { key: 5, account: 8, address: 0 } })
  expect((await send(limits, 100, caller('key_a'))).passed).toBe(10)
  const { passed, refusal } = await send(limits, 10, caller('key_b'))
  expect(passed).toBe(6)
  expect(refusal).toMatchObject({ context: { by: 'account', limit: 16, count: 17 } })
  expect((await send(limits, 10, caller('key_c', 'acc_b'))).passed).toBe(10)
})

test('whoever is not known counts by address, of IPv6 by its network', async () => {
  const limits = createRateLimits({ settings: { key: 1, account: 1, address: 3 } })
  expect((await send(limits, 10, nobody)).passed).toBe(6)
  expect((await send(limits, 1, { caller: undefined, address: '203.0.113.8' })).passed).toBe(1)
  expect((await send(limits, 6, { caller: undefined, address: '2001:db8:1:2::1' })).passed).toBe(6)
  expect((await send(limits, 6, { caller: undefined, address: '2001:db8:1:2::2' })).passed).toBe(0)
  expect((await send(limits, 1, caller('key_a'))).passed).toBe(1)
})

test('0 is no limit', async () => {
  const limits = createRateLimits({ settings: { key: 0, account: 0, address: 0 } })
  expect((await send(limits, 5_000, caller('key_a'))).passed).toBe(5_000)
  expect((await send(limits, 5_000, nobody)).passed).toBe(5_000)
})

test('refusals are counted for the operator', async () => {
  const limits = createRateLimits({ settings: { key: 1, account: 0, address: 1 } })
  const metrics = createMetrics()
  limits.metrics(metrics)
  await send(limits, 5, caller('key_a'))
  await send(limits, 3, nobody)
  expect(metrics.render()).toContain('delta_rate_limited{by="key"} 3')
  expect(metrics.render()).toContain('delta_rate_limited{by="address"} 1')
})
