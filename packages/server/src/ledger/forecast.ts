import { readingLimits } from './reading-limits.ts'

/** Micro-tokens and unix milliseconds. */
export interface SpentSoFar {
  spent: number
  /** The beginning of the first hour of this period in which anything was spent; undefined: nothing was. */
  since: number | undefined
  available: number
}

export interface Forecast {
  spent: number
  perDay: number
  expected: number
  available: number
  short: number
  runsOutAt: number | undefined
}

const dayMs = 86_400_000

/**
 * A straight line: what was spent on average since the first hour of this period in which anything was, until the period's end. Whoever began yesterday is not taken for
 * one who rested before, and what was spent within minutes is not taken for what each minute costs.
 */
export function forecast(
  { spent, since, available }: SpentSoFar,
  { now, endsAt }: { now: number; endsAt: number },
): Forecast {
  const passedMs = Math.max(readingLimits.forecastMs, now - (since ?? now))
  const leftMs = Math.max(0, endsAt - now)
  const further = bounded((spent / passedMs) * leftMs)
  const untilEmptyMs = spent === 0 ? Infinity : (available / spent) * passedMs
  return {
    spent,
    perDay: bounded((spent / passedMs) * dayMs),
    expected: bounded(spent + further),
    available,
    short: Math.max(0, further - available),
    runsOutAt: untilEmptyMs < leftMs ? Math.floor(now + untilEmptyMs) : undefined,
  }
}

function bounded(micro: number): number {
  return Math.min(Math.ceil(micro), Number.MAX_SAFE_INTEGER)
}
