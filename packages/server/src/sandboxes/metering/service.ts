import type { Driver } from '../../drivers/driver.ts'
import type { Clock } from '../../kernel/clock.ts'
import type { Database } from '../../kernel/db/database.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { newId } from '../../kernel/ids.ts'
import type { Logger } from '../../kernel/log.ts'
import type { SandboxMeter } from '../meter.ts'
import type { SandboxRecord } from '../store.ts'
import { createHours } from './hours.ts'
import type { MeterCounts, MeterLedger } from './ledger.ts'
import { coverMs, isKept, linesOf, looked, type MeteredLimits, meterTimes, nextLookMs } from './rules.ts'
import { supposed, supposedWithin, type Window, worstCost } from './rules.ts'
import { createMeterStore, type WindowRecord } from './store.ts'

export interface MeterDeps {
  ledger: MeterLedger
  database: Database
  driver: Pick<Driver, 'measure'>
  clock: Clock
  log: Logger
  /** The agent whose sandbox it is; without one the account's reserve pays. */
  payerOf: (record: SandboxRecord) => string | undefined
  /** Sandboxes that have a box, running or paused. */
  living: () => SandboxRecord[]
  /** Nobody pays any more: stops it and keeps what it has. */
  suspend: (sandboxId: string, reason: SuspendReason) => Promise<void>
}

export type SuspendReason = 'out_of_tokens' | 'plan_limit'

/** One box from its first minute to its end. */
interface Run {
  sandboxId: string
  accountId: string
  payer: string | undefined
  boxId: string
  limits: MeteredLimits
  /** Undefined only until the first hold. */
  window: Window | undefined
  /** What its window begins with is not known: the first look that reads it says. */
  isUnread: boolean
  /** Before its box runs no time counts. */
  state: 'held' | 'running' | 'paused'
  lookAtMs: number
  /** Since when its time was not counted towards the plan's hours. */
  countedMs: number
  /** What is under way for it; never rejects. */
  busy: Promise<void> | undefined
  ending: Promise<void> | undefined
  isSuspended: boolean
}

/** A hold to be made, and what its window begins with. */
interface Wanted {
  wish: Parameters<MeterLedger['hold']>[0]
  withCpu: boolean
  /** Undefined: it is being measured. */
  use: Window['first'] | undefined
}

/** What is to be paid and could not be written yet. */
interface Unpaid {
  window: Window
  accountId: string
}

/** Boxes looked at together at most. */
const looksAtOnce = 256
const nothing = { cpuMicros: 0, memoryBytes: 0 }
/** Written of a box that was measured only while this was written. */
const unknown = { cpuMicros: -1, memoryBytes: 0 }

export type Meter = ReturnType<typeof createMeter>

/**
 * Holds tokens ahead of what sandboxes use, commits what was measured, and has those stopped for which nothing can be held any more, within what is
 * held for them. Sandboxes that are due at about the same time are looked at, held for and paid together: each of the three is one call.
 */
export function createMeter(deps: MeterDeps) {
  const { ledger, driver, clock, log } = deps
  const store = createMeterStore(deps.database)
  const hours = createHours({ store, clock, limitOf: ledger.sandboxHoursOf })
  const runs = new Map<string, Run>()
  const unpaid = new Map<string, Unpaid>()
  /** Holds of the process before this one. */
  const inherited = new Set<string>()
  const work = new Set<Promise<void>>()
  const counts: MeterCounts = { held: 0, committed: 0, absorbed: 0 }
  const sleep = new AbortController()
  let ticking: Promise<void> = Promise.resolve()

  function newRun(record: SandboxRecord): Run {
    const { id: sandboxId, accountId, boxId, cpuMilli, memoryMb } = record
    return {
      sandboxId,
      accountId,
      payer: deps.payerOf(record),
      boxId: boxId!,
      limits: { cpuMilli, memoryMb },
      window: undefined,
      isUnread: false,
      state: 'held',
      lookAtMs: Infinity,
      countedMs: clock.monotonic(),
      busy: undefined,
      ending: undefined,
      isSuspended: false,
    }
  }

  // ── holding and paying ─────────────────────────────────────────────────────────────────────────────────────────────────────

  function wishOf({ accountId, payer, limits, sandboxId }: Run, withCpu: boolean) {
    const { aheadMs, leastMs } = meterTimes
    return {
      holdId: newId('hld'),
      accountId,
      payer,
      amount: worstCost(limits, ledger.price, { ms: aheadMs, withCpu }),
      atLeast: worstCost(limits, ledger.price, { ms: leastMs, withCpu }),
      purpose: { kind: 'sandbox', agentId: payer, sandboxId },
    }
  }

  function recordOf({ sandboxId, accountId, boxId }: Run, wanted: Wanted): WindowRecord {
    const { wish, withCpu, use = unknown } = wanted
    const { holdId, amount: held } = wish
    return { holdId, sandboxId, accountId, boxId, held, withCpu, since: clock.now(), ...use }
  }

  /** A new window from now on. */
  async function hold({ wish, withCpu, use = nothing }: Wanted): Promise<Window> {
    const nowMs = clock.monotonic()
    await ledger.ensure(wish.accountId)
    const { amount: held } = await ledger.hold(wish)
    counts.held += held
    return { holdId: wish.holdId, held, withCpu, beganMs: nowMs, first: use, lookedMs: nowMs, last: use, memoryMbMs: 0 }
  }

  /** What windows begin with is written down while they are held, so that both share a commit. One that was refused is forgotten again. */
  async function note(records: WindowRecord[], holding: Promise<unknown>[]): Promise<void> {
    const written = await store.put(records).then(
      () => true,
      (error: unknown) => log.warn('sandbox_windows_not_written', { error }),
    )
    const outcomes = await Promise.allSettled(holding)
    const refused = records.filter((_, index) => outcomes[index]?.status === 'rejected')
    if (written && refused.length > 0) await store.drop(refused.map(({ holdId }) => holdId))
  }

  /** What could not be written is tried again; what is refused for good is a fault of ours, and told. */
  async function pay(window: Window, accountId: string): Promise<void> {
    const { holdId, held, isEstimated } = window
    const lines = linesOf(window, ledger.price)
    try {
      if (lines.length === 0) await ledger.release(holdId, accountId)
      else {
        const done = await ledger.commit(holdId, accountId, lines, {
          excess: 'absorb',
          ...(isEstimated && { estimated: true }),
        })
        counts.committed += done.amount
        counts.absorbed += done.unpaid ?? 0
        if (done.unpaid) log.warn('sandbox_cost_absorbed', { holdId, accountId, microTokens: done.unpaid })
      }
    } catch (error) {
      if (isPassing(error)) {
        unpaid.set(holdId, { window, accountId })
        return
      }
      log.error('sandbox_not_paid', { holdId, accountId, lines, error })
    }
    unpaid.delete(holdId)
    counts.held -= held
    await store.drop([holdId]).catch((error: unknown) => log.warn('sandbox_window_left', { holdId, error }))
  }

  function inBackground(task: Promise<void>): void {
    const done = task
      .catch((error: unknown) => log.error('metering_failed', { error }))
      .finally(() => work.delete(done))
    work.add(done)
  }

  // ── the life of a run ──────────────────────────────────────────────────────────────────────────────────────────────────────

  const begin: SandboxMeter['begin'] = async (record, { isMade, used: before } = { isMade: false }) => {
    const run = newRun(record)
    runs.set(run.sandboxId, run)
    const wanted: Wanted = { wish: wishOf(run, true), withCpu: true, use: isMade ? before && used(before) : nothing }
    const holding = hold(wanted)
    inBackground(note([recordOf(run, wanted)], [holding]))
    const [held, use, allowed] = await Promise.allSettled([
      holding,
      isMade ? useOf(run.boxId) : nothing,
      hours.check(run.accountId),
    ])
    const refused = [held, allowed].find((one) => one.status === 'rejected')
    if (refused) {
      runs.delete(run.sandboxId)
      if (held.status === 'fulfilled') await pay(held.value, run.accountId)
      throw refused.reason
    }
    if (held.status !== 'fulfilled') return
    // What it has used since it was made ready is the operator's too.
    const first = use.status === 'fulfilled' ? use.value : held.value.first
    run.window = { ...held.value, first, last: first }
    run.isUnread = use.status === 'rejected' && wanted.use === undefined
  }

  function follow({ id, state }: SandboxRecord): void {
    const run = runs.get(id)
    if (!run) return
    if (state === 'running' || state === 'paused') {
      if (run.state === 'held') startTime(run)
      countHours(run)
      run.state = state
    } else if (state !== 'creating' && state !== 'starting') inBackground(end(id))
  }

  /** Making a box may have waited for its turn, which nobody pays for. */
  function startTime(run: Run): void {
    const nowMs = clock.monotonic()
    run.countedMs = nowMs
    if (!run.window) return
    run.window = { ...run.window, beganMs: nowMs, lookedMs: nowMs }
    run.lookAtMs = nextLookMs(run.window, run.limits, ledger.price, true)
  }

  function countHours(run: Run): void {
    const nowMs = clock.monotonic()
    if (run.state === 'running') hours.add(run.accountId, nowMs - run.countedMs)
    run.countedMs = nowMs
  }

  /** While it is paused its processor was not held for. */
  async function resume(sandboxId: string): Promise<void> {
    const run = runs.get(sandboxId)
    for (let busy = run?.busy; busy; busy = run?.busy) await busy
    if (!run?.window || run.ending) return
    // From here on nobody else looks at it, so that of its window there is one.
    const { window } = run
    const failure = await alone(run, () => holdToWake(run, window))
    if (failure !== undefined) throw failure
  }

  /** What the ledger refuses with, if it does. */
  async function holdToWake(run: Run, window: Window): Promise<unknown> {
    const { accountId, boxId, limits } = run
    await hours.check(accountId)
    if (window.withCpu && coverMs(window, limits, ledger.price, true) >= meterTimes.leastMs) return undefined
    const use = await useOf(boxId).catch(() => undefined)
    const nowMs = clock.monotonic()
    run.window = use ? read(run, window, use) : supposedWithin(window, nowMs, limits, ledger.price)
    return (await renew([run], { withCpu: true })).get(run)
  }

  function end(sandboxId: string): Promise<void> {
    const run = runs.get(sandboxId)
    if (!run) return Promise.resolve()
    run.ending ??= finish(run)
    return run.ending
  }

  async function finish(run: Run): Promise<void> {
    await run.busy
    const use = run.state === 'held' ? nothing : await useOf(run.boxId).catch(() => undefined)
    const nowMs = clock.monotonic()
    countHours(run)
    if (runs.get(run.sandboxId) === run) runs.delete(run.sandboxId)
    if (!run.window) return
    if (run.state === 'held') return inBackground(pay({ ...run.window, last: run.window.first }, run.accountId))
    inBackground(pay(use ? read(run, run.window, use) : supposed(run.window, nowMs, run.limits), run.accountId))
  }

  /** The window of a run of which this was read now. */
  function read(run: Run, window: Window, use: Window['first']): Window {
    const begun = run.isUnread ? { ...window, first: use, last: use } : window
    run.isUnread = false
    return looked(begun, use, clock.monotonic(), run.limits)
  }

  async function useOf(boxId: string): Promise<Window['first']> {
    const use = (await driver.measure([boxId])).get(boxId)
    if (!use) throw new DeltaError('driver_failed', `The box ${boxId} could not be measured`)
    return used(use)
  }

  /** Whoever comes meanwhile waits until it is over. */
  async function alone<T>(run: Run, task: () => Promise<T>): Promise<T> {
    const { promise, resolve } = Promise.withResolvers<void>()
    run.busy = promise
    try {
      return await task()
    } finally {
      run.busy = undefined
      resolve()
    }
  }

  // ── looking at all that are due ────────────────────────────────────────────────────────────────────────────────────────────

  async function look(due: readonly Run[], { mayKeep = true } = {}): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    for (const run of due) run.busy = promise
    let refused = new Map<Run, unknown>()
    try {
      refused = await lookTogether(due, mayKeep)
    } finally {
      for (const run of due) run.busy = undefined
      resolve()
    }
    for (const [run, failure] of refused) suspend(run, failure)
  }

  async function lookTogether(due: readonly Run[], mayKeep: boolean): Promise<Map<Run, unknown>> {
    const uses = (await measured(due.map(({ boxId }) => boxId))) ?? new Map<string, Window['first']>()
    const nowMs = clock.monotonic()
    const ending: Run[] = []
    const refused = new Map<Run, unknown>()
    for (const run of due) {
      run.lookAtMs = nowMs + meterTimes.tickMs
      // Its end is on its way, and pays.
      if (run.ending) continue
      countHours(run)
      const use = uses.get(run.boxId)
      const isRunning = run.state === 'running'
      if (use) run.window = run.window && read(run, run.window, used(use))
      else if (run.window) {
        const most = supposedWithin(run.window, nowMs, run.limits, ledger.price)
        // Nothing is settled by a guess as long as what is held lasts: the next look may read it.
        if (mayKeep && coverMs(most, run.limits, ledger.price, isRunning) > meterTimes.leastMs) continue
        run.window = most
      }
      if (mayKeep && run.window && isKept(run.window, run.limits, ledger.price, isRunning)) {
        run.lookAtMs = nextLookMs(run.window, run.limits, ledger.price, isRunning)
      } else ending.push(run)
    }
    await hours.write()
    const overdrawn = new Set<string>()
    for (const accountId of new Set(ending.map((run) => run.accountId))) {
      if (await hours.isOver(accountId)) overdrawn.add(accountId)
    }
    const mayGoOn = ending.filter((run) => run.state !== 'running' || !overdrawn.has(run.accountId))
    for (const run of ending) if (!mayGoOn.includes(run)) refused.set(run, hours.refusal())
    for (const [run, failure] of await renew(mayGoOn, { uses })) refused.set(run, failure)
    return refused
  }

  /** Undefined where none could be: they run on all the same, and are paid by what they use at most. */
  async function measured(boxIds: readonly string[]): Promise<Map<string, Window['first']> | undefined> {
    try {
      return await driver.measure(boxIds)
    } catch (error) {
      log.warn('sandboxes_not_measured', { boxes: boxIds.length, error })
      return undefined
    }
  }

  /**
   * Holds anew for each, then pays what is over: where holding is refused, what is still held lasts until the box has ended. Tells for which it
   * was refused; where the ledger can not be reached, it is tried again soon.
   */
  async function renew(
    due: readonly Run[],
    { withCpu, uses }: { withCpu?: boolean; uses?: ReadonlyMap<string, Window['first']> },
  ): Promise<Map<Run, unknown>> {
    const refused = new Map<Run, unknown>()
    const over: { accountId: string; window: Window }[] = []
    const wanted = due.map((run): Wanted & { run: Run } => {
      const isRunning = withCpu ?? run.state === 'running'
      const begun = run.window?.last ?? uses?.get(run.boxId)
      const use = run.isUnread || !begun ? undefined : used(begun)
      return { run, wish: wishOf(run, isRunning), withCpu: isRunning, use }
    })
    const holding = wanted.map(hold)
    const noting = note(
      wanted.map((each) => recordOf(each.run, each)),
      holding,
    )
    const take = async ({ run, withCpu: isRunning, use }: Wanted & { run: Run }, index: number): Promise<void> => {
      try {
        const window = await holding[index]!
        if (run.window) over.push({ accountId: run.accountId, window: run.window })
        run.window = window
        run.isUnread = use === undefined
        run.lookAtMs = nextLookMs(window, run.limits, ledger.price, isRunning)
        run.isSuspended = false
      } catch (error) {
        if (withCpu !== undefined) refused.set(run, error)
        else if (!isPassing(error)) spendRest(run, error, refused)
        else log.warn('sandbox_hold_failed', { sandboxId: run.sandboxId, error })
      }
    }
    await Promise.all(wanted.map(take))
    await noting
    await Promise.all(over.map(({ window, accountId }) => pay(window, accountId)))
    return refused
  }

  /** What is held still is used as far as it goes. */
  function spendRest(run: Run, failure: unknown, refused: Map<Run, unknown>): void {
    const { window, limits } = run
    const isRunning = run.state === 'running'
    if (window && coverMs(window, limits, ledger.price, isRunning) > meterTimes.lastMs) {
      run.lookAtMs = nextLookMs(window, limits, ledger.price, isRunning)
    } else refused.set(run, failure)
  }

  function suspend(run: Run, failure: unknown): void {
    if (run.isSuspended || run.ending) return
    run.isSuspended = true
    const { sandboxId } = run
    const code = failure instanceof DeltaError ? failure.code : undefined
    const reason: SuspendReason = code === 'plan_limit_reached' ? 'plan_limit' : 'out_of_tokens'
    log.info('sandbox_suspended', { sandboxId, reason, code })
    inBackground(
      deps.suspend(sandboxId, reason).catch((error: unknown) => {
        run.isSuspended = false
        log.error('sandbox_not_suspended', { sandboxId, error })
      }),
    )
  }

  async function tick(): Promise<void> {
    for (const record of deps.living()) if (!runs.has(record.id)) admit(record)
    for (const { window, accountId } of Array.from(unpaid.values())) await pay(window, accountId)
    const soonMs = clock.monotonic() + meterTimes.tickMs
    const due = Array.from(runs.values()).filter((run) => run.lookAtMs <= soonMs && !run.busy && !run.ending)
    for (let from = 0; from < due.length; from += looksAtOnce) {
      // Some may have been taken up while others were looked at.
      const free = due.slice(from, from + looksAtOnce).filter((run) => !run.busy && !run.ending)
      if (free.length > 0) await look(free)
    }
    await hours.write()
  }

  /** One that runs, and of which nothing is held. */
  function admit(record: SandboxRecord): Run {
    const run = newRun(record)
    runs.set(run.sandboxId, run)
    run.state = record.state === 'paused' ? 'paused' : 'running'
    run.lookAtMs = clock.monotonic()
    return run
  }

  async function keepTicking(): Promise<void> {
    while (!sleep.signal.aborted) {
      await clock.sleep(meterTimes.tickMs, sleep.signal).catch(() => undefined)
      if (sleep.signal.aborted) return
      await tick().catch((error: unknown) => log.error('metering_failed', { error }))
    }
  }

  // ── start and stop ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * What the server before this one held is paid by what the boxes have used since, and the sandboxes go on; what they used beyond it is absorbed.
   * Of what ended meanwhile nobody knows the use: it is given back. Where nothing can be measured just now, what they use at most is taken, within what was held.
   */
  async function start(): Promise<void> {
    const left = Map.groupBy(await store.all(), ({ sandboxId }) => sandboxId)
    const living = deps.living()
    const uses = await measured(living.map(({ boxId }) => boxId!))
    for (const record of living) if (uses?.has(record.boxId!) ?? true) admit(record)
    const paying: Promise<void>[] = []
    for (const [sandboxId, windows] of left) {
      const run = runs.get(sandboxId)
      for (const [index, window] of windows.entries()) {
        const next = windows[index + 1]
        const isOwn = run?.boxId === window.boxId
        if (next?.boxId === window.boxId) paying.push(payUntil(window, next))
        else if (run && isOwn) {
          const use = uses?.get(run.boxId)
          run.window = restored(window, use)
          run.isUnread = window.cpuMicros < 0 && use === undefined
        } else paying.push(pay(restored(window), window.accountId))
      }
    }
    await Promise.all(paying)
    const all = Array.from(runs.values())
    for (let from = 0; from < all.length; from += looksAtOnce) {
      await look(all.slice(from, from + looksAtOnce), { mayKeep: false })
    }
    // What is left of the process before this one is settled by the ledger from now on.
    await Promise.all(all.filter(({ window }) => window && inherited.has(window.holdId)).map(payInherited))
    inherited.clear()
    ticking = keepTicking()
  }

  /** Where the next was begun, this one ended. */
  function payUntil(window: WindowRecord, next: WindowRecord): Promise<void> {
    const own = restored(window, next.cpuMicros < 0 ? undefined : used(next))
    const endMs = own.beganMs + Math.max(0, next.since - window.since)
    const limits = { cpuMilli: 0, memoryMb: Infinity }
    return pay(next.cpuMicros < 0 ? own : looked(own, used(next), endMs, limits), window.accountId)
  }

  async function payInherited(run: Run): Promise<void> {
    const { window } = run
    run.window = undefined
    if (window) await pay(window, run.accountId)
  }

  function restored({ holdId, held, withCpu, since, ...begun }: WindowRecord, later?: Window['first']): Window {
    inherited.add(holdId)
    counts.held += held
    const use = begun.cpuMicros < 0 ? used(later ?? nothing) : used(begun)
    const beganMs = clock.monotonic() - Math.max(0, clock.now() - since)
    return { holdId, held, withCpu, beganMs, first: use, lookedMs: beganMs, last: use, memoryMbMs: 0 }
  }

  /** Sandboxes that run on are paid for by the next start. */
  async function stop(): Promise<void> {
    sleep.abort()
    await ticking
    while (work.size > 0) await Promise.all(work)
    for (const run of runs.values()) countHours(run)
    await hours.write().catch((error: unknown) => log.warn('sandbox_hours_not_written', { error }))
  }

  const meter: SandboxMeter = { begin, follow, resume, end }
  return { ...meter, start, stop, counts: (): Readonly<MeterCounts> => counts }
}

/** No more than these two, of whatever has them. */
function used({ cpuMicros, memoryBytes }: Window['first']): Window['first'] {
  return { cpuMicros, memoryBytes }
}

/** The ledger could not be asked; another time it may. */
function isPassing(error: unknown): boolean {
  return !(error instanceof DeltaError) || error.status >= 500
}
