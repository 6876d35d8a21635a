import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { firstCard, priceOf, readRateCard } from '../ledger/rate-card.ts'
import {
  affordableOutput,
  dearestOutput,
  inputBound,
  linesOf,
  outputBound,
  readModelPrices,
  unknownInput,
  usageKinds,
} from './prices.ts'
import type { ModelRates, Possible, Pricing } from './prices.ts'
import type { Usage } from './provider.ts'

const long = process.env['DELTA_TEST_ALL'] === '1'

const usd = (dollars: number) => Math.round(dollars * 100_000_000)

describe('a model’s rates', () => {
  const of = (meters: Record<string, number>, model: string, more: { ownKey?: boolean; isFree?: boolean } = {}) => {
    const priced = Object.entries(meters).map(([name, perMillion]) => [name, { perMillion }] as const)
    return readModelPrices(Object.fromEntries(priced)).of({ model, ownKey: false, isFree: false, ...more })
  }
  const shown = (rates: ModelRates | undefined) =>
    rates?.map(({ over, rates: tier }) => [over, ...usageKinds.map((kind) => tier[kind].perMillion)])

  test('are those of the first card', () => {
    const { of: first, named } = readModelPrices(firstCard.meters)
    const sonnet = first({ model: 'anthropic/claude-sonnet-5-5', ownKey: false, isFree: false })
    expect(shown(sonnet)).toEqual([[0, usd(2), usd(0.1), usd(2.5), usd(4), usd(10)]])
    const haiku = first({ model: 'anthropic/claude-haiku-5-5', ownKey: false, isFree: false })
    expect(shown(haiku)).toEqual([
      [0, usd(0.1), usd(0.01), usd(0.125), usd(0.2), usd(0.5)],
      [100_000, usd(0.5), usd(0.05), usd(0.625), usd(1), usd(2.5)],
    ])
    expect(dearestOutput(haiku!)).toBe(usd(2.5))
    const gemini = first({ model: 'google/gemini-2.5-pro', ownKey: false, isFree: false })
    expect(shown(gemini)?.map(([over, input]) => [over, input])).toEqual([
      [0, usd(1.25)],
      [200_000, usd(2.5)],
    ])
    expect(named).toContain('anthropic/claude-opus-5-5')
    // Every one of them can be called.
    for (const model of named) expect(first({ model, ownKey: false, isFree: false })).toBeDefined()
  })

  const some = { 'model:google/a:input': 2, 'model:google/a:output': 5 }

  test('are none without both input and output', () => {
    expect(of({ 'model:google/a:input': 2 }, 'google/a')).toBeUndefined()
    expect(of({ 'model:google/a:output': 2 }, 'google/a')).toBeUndefined()
    expect(of({}, 'google/a')).toBeUndefined()
    expect(of(some, 'google/b')).toBeUndefined()
    expect(of(some, 'google/toString')).toBeUndefined()
  })

  test('of what has none of its own are those of input', () => {
    expect(shown(of(some, 'google/a'))).toEqual([[0, 2, 2, 2, 2, 5]])
    expect(shown(of({ ...some, 'model:google/a:cache_write': 3 }, 'google/a'))).toEqual([[0, 2, 2, 3, 3, 5]])
  })

  test('of a dated version are those of its name, and a star stands for the rest of one', () => {
    expect(shown(of(some, 'google/a-20260101'))).toEqual([[0, 2, 2, 2, 2, 5]])
    expect(of(some, 'google/a-2')).toBeUndefined()
    const starred = {
      ...some,
      'model:google/*:input': 7,
      'model:google/*:output': 8,
      'model:google/a-*:input': 9,
      'model:google/a-*:output': 9,
    }
    expect(shown(of(starred, 'google/x'))?.[0]?.[1]).toBe(7)
    expect(shown(of(starred, 'google/a-x'))?.[0]?.[1]).toBe(9)
    expect(shown(of(starred, 'google/a'))?.[0]?.[1]).toBe(2)
  })

  test('with a key of one’s own are nothing, or what the card says', () => {
    expect(shown(of(some, 'google/a', { ownKey: true }))).toEqual([[0, 0, 0, 0, 0, 0]])
    const own = { ...some, 'model:google/*:own_key_input': 1, 'model:google/*:own_key_output': 1 }
    expect(shown(of(own, 'google/a', { ownKey: true }))).toEqual([[0, 1, 1, 1, 1, 1]])
    expect(shown(of(own, 'google/a'))).toEqual([[0, 2, 2, 2, 2, 5]])
  })

  test('of a free one are nothing where the card has none', () => {
    expect(shown(of({}, 'openai/a', { isFree: true }))).toEqual([[0, 0, 0, 0, 0, 0]])
    const priced = { 'model:openai/a:input': 1, 'model:openai/a:output': 2 }
    expect(shown(of(priced, 'openai/a', { isFree: true }))).toEqual([[0, 1, 1, 1, 1, 2]])
  })

  test('may be in an operator’s card, which need not name any', () => {
    const meters = Object.fromEntries(Object.entries(firstCard.meters).filter(([meter]) => !meter.startsWith('model:')))
    const card = { version: 'x', tokenUsd: 0.01, meters }
    expect(readRateCard(JSON.stringify(card)).version).toBe('x')
    const unit = { unit: 'x', perMillion: 1 }
    const withModels = {
      ...card,
      meters: { ...meters, 'model:openai/Qwen/Qwen3-8B:input': unit, 'model:openai/*:output': unit },
    }
    expect(Object.keys(readRateCard(JSON.stringify(withModels)).meters)).toContain('model:openai/Qwen/Qwen3-8B:input')
    const wrong = { ...card, meters: { ...meters, 'Model:x': unit } }
    expect(() => readRateCard(JSON.stringify(wrong))).toThrow(expect.objectContaining({ code: 'config_invalid' }))
  })
})

describe('what is held', () => {
  const rate = fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 10_000_000_000 }))
  const anyCard = fc.record({
    tiers: fc.uniqueArray(fc.integer({ min: 1, max: 300_000 }), { maxLength: 2 }),
    perMillion: fc.array(rate, { minLength: 15, maxLength: 15 }),
    given: fc.array(fc.boolean(), { minLength: 15, maxLength: 15 }),
    factor: fc.constantFrom(1, 1, 1.3, 4),
  })
  type AnyCard = typeof anyCard extends fc.Arbitrary<infer Value> ? Value : never

  function priced({ tiers, perMillion, given, factor }: AnyCard): { rates: ModelRates; pricing: Pricing } {
    const meters: Record<string, { unit: string; perMillion: number }> = {}
    for (const [at, over] of [0, ...tiers].entries()) {
      for (const [kindAt, kind] of usageKinds.entries()) {
        const index = at * 5 + kindAt
        const isNeeded = at === 0 && (kind === 'input' || kind === 'output')
        if (!isNeeded && !given[index]) continue
        meters[`model:google/a:${kind}${over === 0 ? '' : `_over_${over}`}`] = {
          unit: 'x',
          perMillion: perMillion[index]!,
        }
      }
    }
    const rates = readModelPrices(meters).of({ model: 'google/a', ownKey: false, isFree: false })!
    const card = { version: 'x', tokenUsd: 0.01, meters }
    return {
      rates,
      pricing: {
        price: (meter, quantity) => priceOf(card, meter, quantity),
        bound: (_, amount) => Math.ceil(amount * factor),
      },
    }
  }

  /** What a provider may count for a request with those bounds. */
  const anyUse = fc.record({
    bound: fc.integer({ min: 1, max: 400_000 }),
    limit: fc.integer({ min: 1, max: 128_000 }),
    writes: fc.constantFrom('none', 'minutes', 'hour' as const),
    parts: fc.tuple(fc.nat(1_000), fc.nat(1_000), fc.nat(1_000), fc.nat(1_000), fc.nat(1_000)),
    output: fc.double({ min: 0, max: 1, noNaN: true }),
  })
  type AnyUse = typeof anyUse extends fc.Arbitrary<infer Value> ? Value : never

  function usageOf({ bound, limit, writes, parts, output }: AnyUse): { usage: Usage; possible: Possible } {
    const [input, read, write, hour, unused] = parts
    const shares = [input, read, writes === 'none' ? 0 : write, writes === 'hour' ? hour : 0]
    const all = shares.reduce((sum, share) => sum + share, unused) || 1
    const [a, b, c, d] = shares.map((share) => Math.floor((bound * share) / all)) as [number, number, number, number]
    const usage = { input: a, cacheRead: b, cacheWrite: c, cacheWriteHour: d, output: Math.floor(limit * output) }
    return { usage, possible: { input: bound, writes: writes as Possible['writes'] } }
  }

  const costOf = (lines: readonly { cost: number }[]) => lines.reduce((sum, { cost }) => sum + cost, 0)

  test(
    'is never less than what it comes to, nor is what is asked for with less',
    { timeout: long ? 300_000 : 30_000 },
    () => {
      const within = (card: AnyCard, use: AnyUse, share: number) => {
        const { rates, pricing } = priced(card)
        const { usage, possible } = usageOf(use)
        const forInput = inputBound(rates, possible, pricing)
        const held = forInput + outputBound(rates, possible, use.limit, pricing)
        expect(costOf(linesOf(rates, usage, pricing))).toBeLessThanOrEqual(held)
        expect(costOf(unknownInput(rates, possible, pricing))).toBeLessThanOrEqual(forInput)
        const less = forInput + Math.floor((held - forInput) * share)
        const wish = { wanted: use.limit, amount: less - forInput }
        const limit = affordableOutput(rates, possible, wish, pricing)
        const lowered = { ...usage, output: Math.min(usage.output, limit) }
        expect(costOf(linesOf(rates, lowered, pricing))).toBeLessThanOrEqual(less)
        // As much as there is enough for.
        if (limit < use.limit) expect(forInput + outputBound(rates, possible, limit + 1, pricing)).toBeGreaterThan(less)
      }
      const share = fc.double({ min: 0, max: 1, noNaN: true })
      fc.assert(fc.property(anyCard, anyUse, share, within), { numRuns: long ? 100_000 : 3_000 })
    },
  )
})
