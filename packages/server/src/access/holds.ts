import type { Clock } from '../kernel/clock.ts'

export interface Holds<Reason> {
  /** Calls `onEnd` once, when one of `ties` is ended or the time is over, `expiresAt` being Unix milliseconds. Returns how to stop listening. */
  add(ties: readonly string[], expiresAt: number | undefined, onEnd: (reason: Reason | 'expired') => void): () => void
  end(tie: string, reason: Reason): void
  /** Ends what hangs on it no later than then, Unix milliseconds. */
  limit(tie: string, expiresAt: number): void
  stop(): void
}

interface Hold<Reason> {
  ties: readonly string[]
  /** On the monotonic clock: a wall clock set back must not prolong what runs. */
  endsMs: number
  onEnd(reason: Reason | 'expired'): void
}

/** Expiries are looked for no more often than this. */
const sweepMs = 250

/** What outlives its request's beginning (a body, a stream, a WebSocket) and must end with what let it in. */
export function createHolds<Reason>(clock: Clock): Holds<Reason> {
  const byTie = new Map<string, Set<Hold<Reason>>>()
  const ending = new Set<Hold<Reason>>()
  let nap: { untilMs: number; end: AbortController } | undefined

  const drop = (hold: Hold<Reason>): boolean => {
    let held = false
    for (const tie of hold.ties) {
      const set = byTie.get(tie)
      if (set?.delete(hold)) held = true
      if (set?.size === 0) byTie.delete(tie)
    }
    ending.delete(hold)
    return held
  }

  /** Wakes at the first expiry among what is held, and not at all where nothing is. */
  const watch = (untilMs: number): void => {
    if (nap && nap.untilMs <= untilMs) return
    nap?.end.abort()
    const own = (nap = { untilMs, end: new AbortController() })
    clock.sleep(Math.max(sweepMs, untilMs - clock.monotonic()), own.end.signal).then(
      () => {
        nap = undefined
        sweep()
      },
      () => undefined,
    )
  }

  const sweep = (): void => {
    const nowMs = clock.monotonic()
    let next = Infinity
    for (const hold of Array.from(ending)) {
      if (hold.endsMs > nowMs) next = Math.min(next, hold.endsMs)
      else if (drop(hold)) hold.onEnd('expired')
    }
    if (next < Infinity) watch(next)
  }

  return {
    add(ties, expiresAt, onEnd) {
      const endsMs = expiresAt === undefined ? Infinity : clock.monotonic() + expiresAt - clock.now()
      const hold: Hold<Reason> = { ties, endsMs, onEnd }
      for (const tie of ties) {
        const set = byTie.get(tie)
        if (set) set.add(hold)
        else byTie.set(tie, new Set([hold]))
      }
      if (endsMs < Infinity) {
        ending.add(hold)
        watch(endsMs)
      }
      return () => void drop(hold)
    },
    end(tie, reason) {
      for (const hold of Array.from(byTie.get(tie) ?? [])) if (drop(hold)) hold.onEnd(reason)
    },
    limit(tie, expiresAt) {
      const endsMs = clock.monotonic() + expiresAt - clock.now()
      for (const hold of byTie.get(tie) ?? []) {
        hold.endsMs = Math.min(hold.endsMs, endsMs)
        ending.add(hold)
      }
      if (byTie.has(tie)) watch(endsMs)
    },
    stop() {
      nap?.end.abort()
      nap = undefined
    },
  }
}
