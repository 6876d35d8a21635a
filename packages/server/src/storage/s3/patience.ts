import type { Clock } from '../../kernel/clock.ts'
import { failureOf, judge } from './failures.ts'

export interface Patience {
  clock: Clock
  /** In [0, 1): spreads the tries of many clients. */
  random: () => number
  /** @default 8: about a minute in all */
  tries?: number
}

export interface Attempt {
  key: string
  signal: AbortSignal | undefined
}

const firstPauseMs = 250
const longestPauseMs = 20_000
const usualTries = 8
/** One try may take this long: 32 MiB at 60 kB/s. */
const tryMs = 10 * 60_000

export function triesOf({ tries = usualTries }: Patience): number {
  return tries
}

/** Grows with each failure in a row, up to a bound; anywhere in its second half, and never before the service wished it. */
export function pauseMs(failures: number, { random, wishMs }: { random: number; wishMs: number }): number {
  const full = Math.min(longestPauseMs, firstPauseMs * 2 ** (failures - 1))
  return Math.max(wishMs, Math.round(full * (0.5 + random / 2)))
}

/** Waits before the next try, or throws what the failure means when another is useless or was the last. */
export async function again(
  error: unknown,
  { key, signal, failures, patience }: Attempt & { failures: number; patience: Patience },
): Promise<void> {
  signal?.throwIfAborted()
  const verdict = judge(error)
  if (verdict.kind !== 'again' || failures >= triesOf(patience)) throw failureOf(error, { key, tries: failures })
  await patience.clock.sleep(pauseMs(failures, { random: patience.random(), wishMs: verdict.afterMs }), signal)
}

/** Does `act` until it succeeds, each time with a signal that ends a try which takes too long. */
export async function persistently<T>(
  patience: Patience,
  { key, signal }: Attempt,
  act: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  for (let failures = 0; ;) {
    signal?.throwIfAborted()
    const limit = AbortSignal.timeout(tryMs)
    try {
      return await act(signal ? AbortSignal.any([signal, limit]) : limit)
    } catch (error) {
      failures += 1
      await again(error, { key, signal, failures, patience })
    }
  }
}
