import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Logger } from '../kernel/log.ts'
import { modelLimits } from './limits.ts'

export interface Settlement {
  /** Resolves when it is written, or after a few tries, which then go on in the background. Rejects only for a fault of ours, which is logged. */
  settle(what: Settling): Promise<void>
  /** What waits is tried once more. */
  stop(): Promise<void>
  waiting(): number
}

export interface Settling {
  holdId: string
  /** May be asked again: the same is the same. */
  write: () => Promise<unknown>
}

export interface SettlementDeps {
  clock: Clock
  log: Logger
}

/** The database did not answer, or not now. */
function isPassing(error: unknown): boolean {
  return !(error instanceof DeltaError) || error.status >= 500
}

/** The end of calls reaches the ledger also where its database is away for a moment. */
export function createSettlement({ clock, log }: SettlementDeps): Settlement {
  const late = new Map<string, Settling>()
  const stopping = new AbortController()
  let loop: Promise<void> | undefined

  /** Whether it is over: written, or refused for good. */
  async function tryOnce({ holdId, write }: Settling): Promise<boolean> {
    try {
      await write()
      return true
    } catch (error) {
      if (isPassing(error)) return false
      log.error('model_call_not_settled', { holdId, error })
      return true
    }
  }

  async function writeLate(): Promise<void> {
    while (late.size > 0 && !stopping.signal.aborted) {
      await clock.sleep(modelLimits.commitRetryMs * 4, stopping.signal).catch(() => undefined)
      if (!stopping.signal.aborted) await writeAll()
    }
  }

  async function writeAll(): Promise<void> {
    for (const one of Array.from(late.values())) {
      if (!(await tryOnce(one))) return
      late.delete(one.holdId)
    }
  }

  return {
    async settle(what) {
      for (let left: number = modelLimits.commitTries; left > 0; left--) {
        if (await tryOnce(what)) return
        if (left > 1) await clock.sleep(modelLimits.commitRetryMs, stopping.signal).catch(() => undefined)
      }
      if (late.size >= modelLimits.commitsWaiting) return log.error('model_call_left', { holdId: what.holdId })
      log.warn('model_call_settled_late', { holdId: what.holdId })
      late.set(what.holdId, what)
      loop ??= writeLate().finally(() => {
        loop = undefined
      })
    },
    async stop() {
      stopping.abort()
      await loop
      await writeAll()
    },
    waiting: () => late.size,
  }
}
