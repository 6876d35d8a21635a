import { describe, expect, test } from 'vitest'
import { firstCard, priceOf, readRateCard } from './rate-card.ts'

const card = (meters: Record<string, number>) =>
  readRateCard(
    JSON.stringify({
      version: 'test',
      tokenUsd: 0.01,
      meters: {
        ...firstCard.meters,
        ...Object.fromEntries(Object.entries(meters).map(([name, perMillion]) => [name, { unit: 'x', perMillion }])),
      },
    }),
  )

describe('a price', () => {
  test.each([
    ['sandbox_cpu_seconds', 1, 40],
    ['sandbox_memory_mb_seconds', 256, 40],
    ['email', 1, 10_000],
    ['egress_bytes', 1, 1],
    ['egress_bytes', 1_000_000_000, 2_000_000],
    ['storage_mb_days', 30_000, 1_500_000],
    ['sandbox_cpu_seconds', 0, 0],
    ['sandbox_cpu_seconds', 0.5, 20],
    ['voice_minutes', 6_928, 9_006_400_000],
  ])('of the first card: %s × %d is %d micro-tokens', (meter, quantity, cost) => {
    expect(priceOf(firstCard, meter, quantity)).toBe(cost)
  })

  test('is rounded up once, exactly, also where the product is beyond 2^53', () => {
    expect(priceOf(card({ a: 1 }), 'a', 1_000_001)).toBe(2)
    expect(priceOf(card({ a: 999_999_999_999 }), 'a', 1_000_003)).toBe(1_000_003_000_000 - 1)
    expect(priceOf(card({ a: 1_000_000_000_001 }), 'a', 9_007_199)).toBe(9_007_199_000_010)
  })

  test.each([Number.NaN, Number.POSITIVE_INFINITY, -1])('of %d is refused', (quantity) => {
    expect(() => priceOf(firstCard, 'email', quantity)).toThrow(expect.objectContaining({ code: 'amount_invalid' }))
  })

  test('beyond what can be counted is refused', () => {
    expect(() => priceOf(firstCard, 'sms', 1e15)).toThrow(expect.objectContaining({ code: 'amount_invalid' }))
  })

  test.each(['gold', 'toString', '__proto__'])('of %s, which the card does not name, is refused', (meter) => {
    const refused = expect.objectContaining({ code: 'meter_not_priced', context: { meter } })
    expect(() => priceOf(firstCard, meter, 1)).toThrow(refused)
  })
})

test.each([
  ['no JSON', '{'],
  ['a fraction', '{"version":"1","tokenUsd":0.01,"meters":{"a":{"unit":"x","perMillion":0.5}}}'],
  ['a negative price', '{"version":"1","tokenUsd":0.01,"meters":{"a":{"unit":"x","perMillion":-1}}}'],
  [
    'no price for something that is metered',
    '{"version":"1","tokenUsd":0.01,"meters":{"a":{"unit":"x","perMillion":1}}}',
  ],
  ['an unknown field', '{"version":"1","tokenUsd":0.01,"meters":{},"currency":"EUR"}'],
])('a card with %s is refused at the start', (_what, text) => {
  expect(() => readRateCard(text)).toThrow(expect.objectContaining({ code: 'config_invalid' }))
})
