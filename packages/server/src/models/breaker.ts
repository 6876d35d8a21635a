import { modelLimits } from './limits.ts'

export type Admission = { ok: true; isProbe: boolean } | { ok: false; retryAfterMs: number }

interface State {
  failures: number
  /** Undefined: closed. */
  openUntilMs: number | undefined
  isProbing: boolean
}

export interface Breaker {
  /** Whether a request may go to it now. One that was admitted must be told the end of. */
  admit(name: string): Admission
  /** `neither`: it says nothing of the provider, such as a request that was given up. */
  told(name: string, outcome: 'answered' | 'failed' | 'neither', options: { isProbe: boolean }): void
  open(): number
}

/** A provider that fails again and again is left alone for a while; then one request finds out. */
export function createBreaker(monotonic: () => number): Breaker {
  // Only what has failed is in here.
  const states = new Map<string, State>()
  return {
    admit(name) {
      const state = states.get(name)
      if (state?.openUntilMs === undefined) return { ok: true, isProbe: false }
      const leftMs = state.openUntilMs - monotonic()
      if (leftMs > 0) return { ok: false, retryAfterMs: Math.ceil(leftMs) }
      if (state.isProbing) return { ok: false, retryAfterMs: modelLimits.backoffMs }
      state.isProbing = true
      return { ok: true, isProbe: true }
    },
    told(name, outcome, { isProbe }) {
      if (outcome === 'answered') return void states.delete(name)
      const state = states.get(name) ?? { failures: 0, openUntilMs: undefined, isProbing: false }
      if (isProbe) state.isProbing = false
      if (outcome === 'neither') return
      state.failures += 1
      if (isProbe || state.failures >= modelLimits.breakerFailures)
        state.openUntilMs = monotonic() + modelLimits.breakerOpenMs
      if (!states.has(name) && states.size >= modelLimits.breakers) states.delete(states.keys().next().value!)
      states.set(name, state)
    },
    open: () => [...states.values()].filter(({ openUntilMs }) => openUntilMs !== undefined).length,
  }
}
