import type { Clock } from './clock.ts'

export interface Alarm {
  /** Until it rings, or has rung since the last rest, or the time is over, or the signal aborts. Never rejects. */
  rest(durationMs: number, signal: AbortSignal): Promise<void>
  ring(): void
}

/** What a loop sleeps by that is woken when there is something to do: one timer, however much waits. */
export function createAlarm(clock: Pick<Clock, 'sleep'>): Alarm {
  let rung = new AbortController()
  return {
    async rest(durationMs, signal) {
      const bell = rung
      await clock.sleep(durationMs, AbortSignal.any([bell.signal, signal])).catch(() => undefined)
      // What rings from here on is for the next rest.
      if (bell === rung) rung = new AbortController()
    },
    ring: () => rung.abort(new Error('There is something to do')),
  }
}
