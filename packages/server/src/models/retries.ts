import { modelLimits } from './limits.ts'
import type { FailureKind } from './provider.ts'

export interface Failed {
  kind: FailureKind
  retryAfterMs?: number | undefined
}

export interface SoFar {
  /** Requests to this model, the failed one included. */
  tries: number
  /** Of these, how many had brought output. */
  withOutput: number
  /** Pauses of this call, all together. */
  waitedMs: number
  /** Another model may be asked. */
  hasOther: boolean
}

export type Next = { do: 'wait'; ms: number } | { do: 'other' } | { do: 'give_up' }

/** What follows a request that failed. `random`: from 0 to below 1. */
export function afterFailure({ kind, retryAfterMs = 0 }: Failed, soFar: SoFar, random: number): Next {
  const { tries, withOutput, waitedMs, hasOther } = soFar
  // Whoever watches has seen output of this model, so that no other goes on with it.
  const elsewhere: Next = hasOther && withOutput === 0 ? { do: 'other' } : { do: 'give_up' }
  if (kind === 'request' || kind === 'too_long') return { do: 'give_up' }
  if (kind === 'key') return elsewhere
  if (tries >= modelLimits.tries || withOutput > modelLimits.triesAfterOutput) return elsewhere
  if (retryAfterMs > modelLimits.retryAfterMs) return elsewhere
  const ms = pauseMs(tries, retryAfterMs, random)
  return waitedMs + ms > modelLimits.waitedMs ? elsewhere : { do: 'wait', ms }
}

/** Full jitter, so that many who failed at once do not come back at once; what the provider asked for is kept to, and a little more. */
function pauseMs(tries: number, retryAfterMs: number, random: number): number {
  const most = modelLimits.backoffMs * 2 ** (tries - 1)
  return Math.round(retryAfterMs + random * most)
}
