import type { Driver } from '../../drivers/driver.ts'
import type { Clock } from '../../kernel/clock.ts'
import type { Logger } from '../../kernel/log.ts'
import type { Entries, Entry } from '../entries.ts'
import type { Lifecycle, Phase } from '../lifecycle.ts'
import type { Origin } from '../../workspaces/service.ts'
import { limitsOf, moved, newRecord } from '../records.ts'
import type { CreateSandbox } from '../schema.ts'
import type { InsertPaid, PaidInsert } from '../paid-insert.ts'
import type { SandboxRecord, WantedRequest } from '../store.ts'
import type { WarmBox, WarmPool } from './pool.ts'

export interface ClaimDeps {
  pool: WarmPool
  driver: Pick<Driver, 'setLimits'>
  lifecycle: Lifecycle
  /** Writes the row, while it is paid for. */
  insert: InsertPaid
  entries: Entries
  clock: Clock
  log: Logger
}

export interface Claim {
  /** Undefined when somebody else has made a sandbox for the same idempotency key meanwhile. */
  entry: Entry | undefined
  timings: Phase[]
}

/** Boxes of the pool that turn out to be unusable while one create waits. */
const mostTries = 3

/**
 * Serves a create from the pool: what differs from the defaults is bound to a ready box, and one write makes it a sandbox. Before that write
 * nothing durable knows the box; after it the sandbox runs.
 */
export function createClaims({ pool, driver, lifecycle, insert, entries, clock, log }: ClaimDeps) {
  async function claim(
    wish: CreateSandbox,
    own: { accountId: string; runtime: string; origin?: Origin | undefined },
    request: WantedRequest | undefined,
  ): Promise<Claim | undefined> {
    for (let tries = 0; tries < mostTries; tries += 1) {
      const asked = clock.monotonic()
      const box = pool.take({ runtime: own.runtime, template: own.origin?.template ?? wish.template })
      if (!box) return undefined
      const created = newRecord(wish, { ...own, id: box.id, now: clock.now() })
      const bound = await bind(box, created)
      if (!bound) continue
      const ready = clock.monotonic()
      const entry = await write(box, created, { request, isNew: bound === 'as made' })
      const timings = [
        { phase: 'pool', micros: microsBetween(asked, ready) },
        { phase: 'row', micros: microsBetween(ready, clock.monotonic()) },
      ]
      return { entry, timings }
    }
    return undefined
  }

  /** Gives the box the limits that were asked for. Undefined: it cannot be used and is gone. */
  async function bind(box: WarmBox, record: SandboxRecord): Promise<'as made' | 'changed' | undefined> {
    const limits = limitsOf(record)
    try {
      if (sameLimits(limits, box.limits)) return box.lost ? await giveUp(box) : 'as made'
      await Promise.all([
        driver.setLimits(box.boxId, limits),
        limits.memoryMb === box.limits.memoryMb ? undefined : lifecycle.tellMemory(box.guest, limits.memoryMb),
      ])
      return box.lost ? await giveUp(box) : 'changed'
    } catch (error) {
      log.warn('warm_box_unusable', { boxId: box.boxId, error })
      return giveUp(box)
    }
  }

  async function write(
    box: WarmBox,
    created: SandboxRecord,
    { request, isNew }: { request: WantedRequest | undefined; isNew: boolean },
  ): Promise<Entry | undefined> {
    const { userNamespace } = box
    const running = moved(created, { to: 'running', reason: 'created', userNamespace }, clock.now())
    let outcome: PaidInsert
    try {
      outcome = await insert(created, request, { record: running, used: box.used })
    } catch (error) {
      // It may have been written all the same: the janitor looks, and removes the box where it was not.
      box.guest.close()
      pool.settle(box)
      lifecycle.doubt(created.id, { boxId: box.boxId, upperId: box.upperId })
      throw error
    }
    if (!outcome.written) {
      if (isNew) pool.putBack(box)
      else await giveUp(box)
      if (outcome.refused !== undefined) throw outcome.refused
      return undefined
    }
    const entry = entries.admit(running)
    pool.settle(box)
    // Whoever found the row in a list may have been quicker.
    if (entry.record === running) lifecycle.takeOver(entry, box.guest)
    else box.guest.close()
    lifecycle.arm(entry.record)
    lifecycle.announce(null, created)
    lifecycle.announce('creating', running)
    const { died } = box
    if (died) await entries.inTurnAlways(entry, () => lifecycle.buryDead(entry, box.boxId, died))
    return entry
  }

  async function giveUp(box: WarmBox): Promise<undefined> {
    box.guest.close()
    pool.settle(box)
    const { boxId, upperId } = box
    await lifecycle
      .clear(upperId, { boxId, upperId })
      .catch((error: unknown) => log.error('warm_box_left', { boxId, error }))
  }

  return { claim }
}

function sameLimits(one: WarmBox['limits'], other: WarmBox['limits']): boolean {
  return (
    one.cpuMilli === other.cpuMilli &&
    one.memoryMb === other.memoryMb &&
    one.diskMb === other.diskMb &&
    one.processes === other.processes
  )
}

function microsBetween(fromMs: number, toMs: number): number {
  return Math.max(0, Math.round((toMs - fromMs) * 1_000))
}
