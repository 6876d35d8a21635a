import { z } from 'zod'
import { DeltaError } from '../kernel/errors.ts'
import { largestAmount } from './amounts.ts'
import { modelMeters } from './model-rates.ts'

export interface MeterRate {
  /** In words: `second`, `MB second`, `byte`. */
  unit: string
  /** Micro-tokens for 1,000,000 units. */
  perMillion: number
}

export interface RateCard {
  version: string
  /** US dollars. */
  tokenUsd: number
  meters: Readonly<Record<string, MeterRate>>
}

/** From the DELTA document, with one token = US$ 0.01. A sandbox of the smallest size costs US$ 0.0000008 a second: 80 micro-tokens, half for its processor, half for its 256 MB. */
export const firstCard: RateCard = {
  version: '2026-11-2',
  tokenUsd: 0.01,
  meters: {
    sandbox_cpu_seconds: { unit: 'second of one shared processor', perMillion: 40_000_000 },
    sandbox_memory_mb_seconds: { unit: 'MB for a second', perMillion: 156_250 },
    storage_mb_days: { unit: 'MB (10^6 bytes) for a day', perMillion: 50_000_000 },
    storage_s3_mb_days: { unit: 'MB (10^6 bytes) in S3 for a day', perMillion: 76_666_667 },
    egress_bytes: { unit: 'byte', perMillion: 2_000 },
    email: { unit: 'e-mail', perMillion: 10_000_000_000 },
    sms: { unit: 'SMS', perMillion: 790_000_000_000 },
    voice_minutes: { unit: 'minute', perMillion: 1_300_000_000_000 },
    ...modelMeters,
  },
}

const cardShape = z.strictObject({
  version: z.string().trim().min(1).max(100),
  tokenUsd: z.number().positive().max(1_000_000),
  meters: z.record(
    // Models have names of their own, of which a star may stand for the rest.
    z.string().regex(/^([a-z][a-z0-9_.:/-]{0,199}|model:[A-Za-z0-9_.:/@+*-]{1,200})$/),
    z.strictObject({ unit: z.string().trim().min(1).max(200), perMillion: z.number().int().min(0).max(largestAmount) }),
  ),
})

/** The text of the operator's own card, else the first one; throws `config_invalid`, which says what is wrong with it. */
export function readRateCard(text: string | undefined): RateCard {
  if (text === undefined) return firstCard
  try {
    const parsed = cardShape.safeParse(JSON.parse(text))
    if (parsed.success) return complete(parsed.data)
    throw new Error(parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; '))
  } catch (error) {
    throw new DeltaError(
      'config_invalid',
      `DELTA_RATE_CARD names a file that is no rate card: ${(error as Error).message}`,
    )
  }
}

/** Of what there is all is metered: a server that finds no price for it would stop in the middle of its work. A model without one is not called. */
function complete(card: RateCard): RateCard {
  const isNeeded = (meter: string) => !meter.startsWith('model:') && !Object.hasOwn(card.meters, meter)
  const missing = Object.keys(firstCard.meters).filter(isNeeded)
  if (missing.length === 0) return card
  throw new Error(`meters: no price for ${missing.join(', ')}: give one, 0 where it is to cost nothing`)
}

const million = 1_000_000

/** Micro-tokens for so much, rounded up once. Throws `meter_not_priced`. */
export function priceOf({ meters, version }: RateCard, meter: string, quantity: number): number {
  const rate = Object.hasOwn(meters, meter) ? meters[meter] : undefined
  if (!rate) {
    throw new DeltaError('meter_not_priced', `The rate card ${version} has no price for ${meter}`, {
      context: { meter },
    })
  }
  if (!Number.isFinite(quantity) || quantity < 0)
    throw new DeltaError('amount_invalid', `A quantity of ${quantity} ${meter} can not be priced`, {
      context: { meter },
    })
  const cost = exactly(rate.perMillion, quantity)
  if (cost > largestAmount) throw new DeltaError('amount_invalid', `${quantity} ${meter} cost more than can be counted`)
  return cost
}

function exactly(perMillion: number, quantity: number): number {
  const product = perMillion * quantity
  if (Number.isSafeInteger(product) || !Number.isInteger(quantity) || product > largestAmount * million)
    return Math.ceil(product / million)
  return Number((BigInt(perMillion) * BigInt(quantity) + BigInt(million - 1)) / BigInt(million))
}
