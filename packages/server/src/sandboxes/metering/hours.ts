import type { Clock } from '../../kernel/clock.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { periodOf } from './rules.ts'
import type { MeterStore } from './store.ts'

export interface HoursDeps {
  store: Pick<MeterStore, 'addRunning' | 'runningMs'>
  clock: Clock
  /** Null: none. */
  limitOf: (accountId: string) => Promise<number | null>
}

/** For so long a plan and what was written are taken as they were. */
const rememberMs = 10_000
/** Accounts of which it is remembered. */
const mostKnown = 10_000
const hourMs = 3_600_000

interface Known {
  period: string
  limitMs: number
  /** With what is not written yet. */
  runningMs: number
  untilMs: number
}

/** Counts the hours that sandboxes of an account run in a month, against what its plan has. */
export function createHours({ store, clock, limitOf }: HoursDeps) {
  const known = new Map<string, Known>()
  let pending = new Map<string, number>()

  async function look(accountId: string): Promise<Known> {
    const period = periodOf(clock.now())
    const remembered = known.get(accountId)
    if (remembered && remembered.period === period && remembered.untilMs > clock.monotonic()) return remembered
    const hours = await limitOf(accountId)
    const writtenMs = hours === null ? 0 : await store.runningMs(accountId, period)
    const found = {
      period,
      limitMs: hours === null ? Infinity : hours * hourMs,
      runningMs: writtenMs + (pending.get(accountId) ?? 0),
      untilMs: clock.monotonic() + rememberMs,
    }
    if (known.size >= mostKnown) known.clear()
    known.set(accountId, found)
    return found
  }

  async function isOver(accountId: string): Promise<boolean> {
    const { limitMs, runningMs } = await look(accountId)
    return runningMs >= limitMs
  }

  function refusal(): DeltaError {
    return new DeltaError('plan_limit_reached', 'The sandbox hours of this month, as the plan has them, are used up', {
      context: { limit: 'sandboxHours' },
    })
  }

  return {
    isOver,
    refusal,

    async check(accountId: string): Promise<void> {
      if (await isOver(accountId)) throw refusal()
    },

    add(accountId: string, ms: number): void {
      if (ms <= 0) return
      pending.set(accountId, (pending.get(accountId) ?? 0) + ms)
      const remembered = known.get(accountId)
      if (remembered) remembered.runningMs += ms
    },

    /** What could not be written is kept for the next time. */
    async write(): Promise<void> {
      if (pending.size === 0) return
      const added = pending
      pending = new Map()
      try {
        await store.addRunning(periodOf(clock.now()), added)
      } catch (error) {
        for (const [accountId, ms] of added) pending.set(accountId, (pending.get(accountId) ?? 0) + ms)
        throw error
      }
    },
  }
}
