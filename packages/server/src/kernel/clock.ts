export interface Clock {
  /** Unix time in milliseconds, for what is shown and stored. It can jump. */
  now(): number
  /** Milliseconds from an arbitrary start that never jump, for durations and deadlines. */
  monotonic(): number
  /** Rejects with the signal's reason when it is aborted. */
  sleep(durationMs: number, signal?: AbortSignal): Promise<void>
  /** Wakes once, unless what it returns is called before: for what is nearly always over sooner. At most 24 days. */
  after(durationMs: number, wake: () => void): () => void
}

// setTimeout fires at once when asked for more than a signed 32-bit count of milliseconds.
const longestTimerMs = 2 ** 31 - 1

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  async sleep(durationMs, signal) {
    const endAt = performance.now() + durationMs
    for (let leftMs = durationMs; leftMs > 0; leftMs = endAt - performance.now()) {
      await timer(Math.min(leftMs, longestTimerMs), signal)
    }
  },
  after(durationMs, wake) {
    const handle = setTimeout(wake, durationMs)
    return () => clearTimeout(handle)
  },
}

function timer(durationMs: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason as Error)
    const onAbort = () => {
      clearTimeout(handle)
      reject(signal!.reason as Error)
    }
    const handle = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort)
      resolve()
    }, durationMs)
    signal?.addEventListener('abort', onAbort, { once: true })
  })
}

export interface ManualClock extends Clock {
  /** Moves both clocks, waking sleepers in the order of their deadlines. */
  advance(durationMs: number): Promise<void>
  /** Moves the wall clock alone, as NTP or an operator does. */
  jump(durationMs: number): void
  /** How many sleeps are waiting. */
  readonly sleepers: number
}

/** For tests: time passes only when told to. */
export function manualClock(startMs: number): ManualClock {
  let elapsedMs = 0
  let jumpedMs = 0
  const sleepers = new Set<{ atMs: number; wake: () => void }>()
  return {
    now: () => startMs + elapsedMs + jumpedMs,
    monotonic: () => elapsedMs,
    sleep(durationMs, signal) {
      return new Promise((resolve, reject) => {
        if (signal?.aborted) return reject(signal.reason as Error)
        if (durationMs <= 0) return resolve()
        const sleeper = { atMs: elapsedMs + durationMs, wake: resolve }
        sleepers.add(sleeper)
        const onAbort = () => sleepers.delete(sleeper) && reject(signal!.reason as Error)
        signal?.addEventListener('abort', onAbort, { once: true })
      })
    },
    after(durationMs, wake) {
      const sleeper = { atMs: elapsedMs + durationMs, wake }
      sleepers.add(sleeper)
      return () => void sleepers.delete(sleeper)
    },
    async advance(durationMs) {
      const untilMs = elapsedMs + durationMs
      for (;;) {
        const next = [...sleepers].toSorted((a, b) => a.atMs - b.atMs)[0]
        if (!next || next.atMs > untilMs) break
        sleepers.delete(next)
        elapsedMs = next.atMs
        next.wake()
        // Lets what was woken run, so that a sleep it starts counts from here.
        await new Promise((resolve) => setImmediate(resolve))
      }
      elapsedMs = untilMs
    },
    jump(durationMs) {
      jumpedMs += durationMs
    },
    get sleepers() {
      return sleepers.size
    },
  }
}
