import type { Usage } from './provider.ts'

// What a model costs by the rate card, whose meters are named `model:<provider>/<name>:<kind>`: a name may end in `*`, and a kind in `_over_<tokens>`, which is its rate for a
// call of more input tokens than that, whichever way they are counted. `own_key_` before the kind is the rate for calls with the account's own key.

export const usageKinds = ['input', 'cache_read', 'cache_write', 'cache_write_hour', 'output'] as const
export type UsageKind = (typeof usageKinds)[number]

const fields = {
  input: 'input',
  cache_read: 'cacheRead',
  cache_write: 'cacheWrite',
  cache_write_hour: 'cacheWriteHour',
  output: 'output',
} as const satisfies Record<UsageKind, keyof Usage>

const inputKinds = ['input', 'cache_read', 'cache_write', 'cache_write_hour'] as const

export interface Rate {
  /** Under which it is booked. */
  booked: string
  /** Whose price in the card it has; undefined: it costs nothing. */
  meter: string | undefined
  /** Micro-tokens for 1,000,000. */
  perMillion: number
}

interface Tier {
  /** Applies to calls of more input tokens than this. */
  over: number
  rates: Readonly<Record<UsageKind, Rate>>
}

/** From the cheapest tier on, which is over nothing, in the order in which they begin to apply. */
export type ModelRates = readonly [Tier, ...Tier[]]

export interface RateWish {
  /** `<provider>/<name>` */
  model: string
  ownKey: boolean
  /** Costs nothing where the card does not say otherwise. */
  isFree: boolean
}

type Kinds = Map<number, Partial<Record<UsageKind, { meter: string; perMillion: number }>>>

const meterName = new RegExp(`^model:(.+):(own_key_)?(${usageKinds.join('|')})(?:_over_([1-9][0-9]{0,8}))?$`)

export interface ModelPrices {
  /** Undefined: it has none, so that it is not called. */
  of(wish: RateWish): ModelRates | undefined
  /** Models that the card names one by one. */
  named: readonly string[]
}

export function readModelPrices(meters: Readonly<Record<string, { perMillion: number }>>): ModelPrices {
  const plain = new Map<string, Kinds>()
  const ownKey = new Map<string, Kinds>()
  for (const [meter, { perMillion }] of Object.entries(meters)) {
    const [, name, own, kind, over = '0'] = meterName.exec(meter) ?? []
    if (name === undefined) continue
    const table = own === undefined ? plain : ownKey
    const kinds: Kinds = table.get(name) ?? new Map()
    table.set(name, kinds)
    kinds.set(Number(over), { ...kinds.get(Number(over)), [kind as UsageKind]: { meter, perMillion } })
  }
  return {
    named: [...plain.keys()].filter((name) => !name.endsWith('*')),
    of({ model, ownKey: isOwn, isFree }) {
      const found = entryOf(isOwn ? ownKey : plain, model)
      // The account pays its provider itself.
      if (!found && (isOwn || isFree)) return [{ over: 0, rates: ratesOf(model, isOwn, 0, [{}]) }]
      const base = found?.get(0)
      if (!found || !base?.input || !base.output) return undefined
      const overs = [...found.keys()].filter((over) => over > 0).toSorted((a, b) => a - b)
      const tier = (over: number): Tier => ({
        over,
        rates: ratesOf(model, isOwn, over, over === 0 ? [base] : [found.get(over)!, base]),
      })
      return [tier(0), ...overs.map(tier)]
    },
  }
}

/** The name itself, also of a dated version of it, else the longest of those with a star that it begins with. */
function entryOf(table: Map<string, Kinds>, model: string): Kinds | undefined {
  const exact = table.get(model) ?? table.get(model.replace(/-20[0-9]{6}$/, ''))
  if (exact) return exact
  const [longest] = [...table.keys()]
    .filter((name) => name.endsWith('*') && model.startsWith(name.slice(0, -1)))
    .toSorted((a, b) => b.length - a.length)
  return longest === undefined ? undefined : table.get(longest)
}

/** What stands in for a kind that has no price of its own. */
const substitutes: Record<UsageKind, readonly UsageKind[]> = {
  input: ['input'],
  cache_read: ['cache_read', 'input'],
  cache_write: ['cache_write', 'input'],
  cache_write_hour: ['cache_write_hour', 'cache_write', 'input'],
  output: ['output'],
}

function ratesOf(
  model: string,
  isOwn: boolean,
  over: number,
  sources: readonly Partial<Record<UsageKind, { meter: string; perMillion: number }>>[],
): Record<UsageKind, Rate> {
  const rate = (kind: UsageKind): Rate => {
    for (const [index, source] of sources.entries()) {
      const found = substitutes[kind].map((one) => source[one]).find((one) => one !== undefined)
      if (!found) continue
      const suffix = over > 0 && index === 0 ? `_over_${over}` : ''
      return { booked: `model:${model}:${isOwn ? 'own_key_' : ''}${kind}${suffix}`, ...found }
    }
    return { booked: `model:${model}:${isOwn ? 'own_key_' : ''}${kind}`, meter: undefined, perMillion: 0 }
  }
  return {
    input: rate('input'),
    cache_read: rate('cache_read'),
    cache_write: rate('cache_write'),
    cache_write_hour: rate('cache_write_hour'),
    output: rate('output'),
  }
}

/** What the ledger says of prices. */
export interface Pricing {
  price(meter: string, quantity: number): number
  bound(meter: string, amount: number): number
}

export interface ModelLine {
  meter: string
  quantity: number
  cost: number
}

function costOf({ meter }: Rate, quantity: number, { price }: Pricing): number {
  return meter === undefined ? 0 : price(meter, quantity)
}

function lineOf(rate: Rate, quantity: number, pricing: Pricing): ModelLine {
  return { meter: rate.booked, quantity, cost: costOf(rate, quantity, pricing) }
}

export function totalInput({ input, cacheRead, cacheWrite, cacheWriteHour }: Usage): number {
  return input + cacheRead + cacheWrite + cacheWriteHour
}

export function linesOf(rates: ModelRates, usage: Usage, pricing: Pricing): ModelLine[] {
  const tier = tierOf(rates, totalInput(usage))
  return usageKinds
    .filter((kind) => usage[fields[kind]] > 0)
    .map((kind) => lineOf(tier.rates[kind], usage[fields[kind]], pricing))
}

function tierOf(rates: ModelRates, input: number): Tier {
  return rates.findLast(({ over }) => over === 0 || input > over)!
}

/** Which rates a call may come to: what is written into the provider's cache costs more. */
export interface Possible {
  /** No more input than this. */
  input: number
  writes: 'none' | 'minutes' | 'hour'
}

// Every line is rounded up once, and input may come in as many as it has kinds.
const roundings = inputKinds.length - 1

function possibleTiers(rates: ModelRates, { input }: Possible): readonly Tier[] {
  return rates.filter(({ over }) => over === 0 || input > over)
}

function possibleKinds({ writes }: Possible): readonly UsageKind[] {
  if (writes === 'none') return ['input', 'cache_read']
  return writes === 'minutes' ? ['input', 'cache_read', 'cache_write'] : inputKinds
}

/** Micro-tokens, no less than what the input can cost; 0 where it costs nothing. */
export function inputBound(rates: ModelRates, possible: Possible, pricing: Pricing): number {
  const all = possibleTiers(rates, possible).flatMap((tier) => possibleKinds(possible).map((kind) => tier.rates[kind]))
  const most = Math.max(...all.map((rate) => pricing.bound(rate.booked, costOf(rate, possible.input, pricing))))
  return most === 0 ? 0 : most + roundings
}

/** The same for so much output. */
export function outputBound(rates: ModelRates, possible: Possible, output: number, pricing: Pricing): number {
  const all = possibleTiers(rates, possible).map((tier) => tier.rates.output)
  return Math.max(...all.map((rate) => pricing.bound(rate.booked, costOf(rate, output, pricing))))
}

/** The line of input of which nothing is known but its bound. */
export function unknownInput(rates: ModelRates, possible: Possible, pricing: Pricing): ModelLine[] {
  const { rates: dearest } = tierOf(rates, possible.input)
  const [kind] = possibleKinds(possible).toSorted((a, b) => dearest[b].perMillion - dearest[a].perMillion)
  return possible.input === 0 ? [] : [lineOf(dearest[kind!], possible.input, pricing)]
}

/** The most output, of `wanted` at most, whose bound is within `amount`. */
export function affordableOutput(
  rates: ModelRates,
  possible: Possible,
  { wanted, amount }: { wanted: number; amount: number },
  pricing: Pricing,
): number {
  let [fits, tooMuch] = [0, wanted + 1]
  while (tooMuch - fits > 1) {
    const middle = Math.floor((fits + tooMuch) / 2)
    if (outputBound(rates, possible, middle, pricing) <= amount) fits = middle
    else tooMuch = middle
  }
  return fits
}

/** Micro-tokens for 1,000,000 tokens of output, in whichever tier. */
export function dearestOutput(rates: ModelRates): number {
  return Math.max(...rates.map((tier) => tier.rates.output.perMillion))
}
