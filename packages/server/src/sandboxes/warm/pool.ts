import type { BoxLimits, BoxSpec, BoxUse, DeathCause, Driver } from '../../drivers/driver.ts'
import type { GuestConnection } from '../../guest/client.ts'
import type { Clock } from '../../kernel/clock.ts'
import { newId } from '../../kernel/ids.ts'
import type { Logger } from '../../kernel/log.ts'
import type { Gate } from '../gate.ts'
import { keyOf, oldestMs, planPool, recentMs, type WarmContent, type WarmKind } from './rules.ts'

export interface WarmPoolDeps {
  size: number
  driver: Pick<Driver, 'create' | 'measure'>
  gate: Gate
  clock: Clock
  log: Logger
  /** What a box of this sandbox is made of where its caller asks for nothing. */
  specOf: (sandboxId: string, kind: WarmKind) => BoxSpec
  reach: (sandboxId: string, boxId: string) => Promise<GuestConnection>
  /** Removes box and disk, now or later. */
  clear: (what: { boxId: string; upperId: string }) => Promise<void>
  /** Boxes there may be beside the callers'. */
  room: () => number
  /** Whether disks may grow: on one that is nearly full nothing is handed out. */
  mayGrow: () => boolean
  onMade: (kind: WarmKind, durationMs: number) => void
}

/** A box in which nothing has run, with the id of the sandbox it will be. No row knows it: whatever is left of it after a crash is a stray. */
export interface WarmBox extends WarmContent {
  boxId: string
  upperId: string
  limits: BoxLimits
  guest: GuestConnection
  userNamespace: string | undefined
  /** What it had used when it was made, which is the operator's; undefined where that could not be read. */
  used: BoxUse | undefined
  /** Of its template, as often as it had been built anew when this was begun. */
  renewal: number
  /** It ended while it was here or on its way to a caller. */
  died: DeathCause | undefined
  /** So did at least its connection. */
  lost: boolean
}

export interface PoolCounts {
  size: number
  ready: number
  making: number
}

/** Boxes made side by side at most, so that half of the gate's places stay free for callers. */
export const refillsAtOnce = 2
/** A box that was taken is replaced after this, so that its caller's first command has the processors; sooner when few are left. */
const calmMs = 15
/** Kinds of which it is remembered when they were asked for. */
const mostKinds = 16
/** After a box could not be made: doubled with each failure up to the last. */
const retryFirstMs = 1_000
const retryLastMs = 60_000
/** After the boxes were given up for a caller, the machine is left alone for this long. */
const shortMs = 30_000

/** Given as the reason of every abort: the default one is an exception with a stack, made for nobody. */
const earlier = 'another time to look was set'

export type WarmPool = ReturnType<typeof createWarmPool>

export function createWarmPool(deps: WarmPoolDeps) {
  const { size, driver, gate, clock, log } = deps
  /** In the order they were made. */
  let ready: WarmBox[] = []
  const making = new Map<string, WarmKind>()
  const lent = new Map<string, WarmBox>()
  const asked = new Map<string, { kind: WarmKind; atMs: number }>()
  const refills = new Set<Promise<void>>()
  const removals = new Set<Promise<void>>()
  let main: WarmKind | undefined
  let wake = new AbortController()
  let wakeAtMs = Infinity
  let failures = 0
  /** How often each template was built anew: what was begun before is not kept. */
  const renewals = new Map<string, number>()
  let restUntilMs = -Infinity

  const renewalOf = ({ template }: WarmKind): number => renewals.get(template) ?? 0
  const isOutdated = ({ kind, renewal }: WarmBox): boolean => renewalOf(kind) !== renewal

  function lookIn(inMs: number): void {
    const atMs = Math.max(clock.monotonic() + inMs, restUntilMs)
    if (!main || atMs >= wakeAtMs) return
    wake.abort(earlier)
    wake = new AbortController()
    wakeAtMs = atMs
    clock.sleep(atMs - clock.monotonic(), wake.signal).then(look, () => undefined)
  }

  function look(): void {
    wakeAtMs = Infinity
    if (!main) return
    const nowMs = clock.monotonic()
    const view = {
      size,
      room: deps.mayGrow() ? deps.room() : 0,
      main,
      asked: [...asked.values()],
      ready,
      making: [...making.values()],
      nowMs,
    }
    const { make, drop, nextLookMs } = planPool(view)
    for (const box of ready.filter(({ id }) => drop.includes(id))) discard(box)
    if (nowMs < restUntilMs) return lookIn(0)
    for (const kind of make.slice(0, Math.max(0, refillsAtOnce - making.size))) track(refills, refill(kind))
    if (nextLookMs !== undefined) lookIn(nextLookMs - nowMs)
  }

  function track(work: Set<Promise<void>>, running: Promise<void>): void {
    const done = running.finally(() => work.delete(done))
    work.add(done)
  }

  async function refill(kind: WarmKind): Promise<void> {
    const id = newId('sbx')
    const spec = deps.specOf(id, kind)
    const { boxId, upperId, cpuMilli, memoryMb, diskMb, processes } = spec
    making.set(id, kind)
    const renewal = renewalOf(kind)
    try {
      const box = await gate.passPatiently(async () => {
        if (!main) return undefined
        const startedMs = clock.monotonic()
        const { uids } = await driver.create(spec)
        const guest = await deps.reach(id, boxId)
        const measured = await driver.measure([boxId]).catch(() => undefined)
        const madeAtMs = clock.monotonic()
        deps.onMade(kind, madeAtMs - startedMs)
        const userNamespace = uids && `${uids.first}+${uids.count}`
        const limits = { cpuMilli, memoryMb, diskMb, processes }
        return {
          id,
          kind,
          boxId,
          upperId,
          limits,
          guest,
          userNamespace,
          used: measured?.get(boxId),
          renewal,
          madeAtMs,
          died: undefined,
          lost: false,
        }
      })
      if (box && isOutdated(box)) discard(box)
      else if (box) keep(box)
      failures = 0
    } catch (error) {
      failures += 1
      const inMs = Math.min(retryLastMs, retryFirstMs * 2 ** (failures - 1))
      restUntilMs = Math.max(restUntilMs, clock.monotonic() + inMs)
      // A kind that is not to be had is not kept; the main one is tried for ever.
      asked.delete(keyOf(kind))
      log.warn('warm_box_failed', { ...kind, error, retryMs: inMs })
      await remove({ boxId, upperId })
    } finally {
      making.delete(id)
      lookIn(0)
    }
  }

  function keep(box: WarmBox): void {
    ready.push(box)
    void box.guest.closed.then(() => lose(box))
  }

  function lose(box: WarmBox): void {
    box.lost = true
    if (!ready.includes(box)) return
    log.warn('warm_box_lost', { boxId: box.boxId })
    discard(box)
    lookIn(0)
  }

  function discard(box: WarmBox): void {
    ready = ready.filter((each) => each !== box)
    box.guest.close()
    track(removals, remove(box))
  }

  async function remove({ boxId, upperId }: { boxId: string; upperId: string }): Promise<void> {
    await deps.clear({ boxId, upperId }).catch((error: unknown) => log.error('warm_box_left', { boxId, error }))
  }

  return {
    /** From now on boxes are kept ready. */
    start(kind: WarmKind): void {
      if (size === 0) return
      main = kind
      lookIn(0)
    },

    /** A box of this kind, the caller's from now on: it must end in `settle`, `putBack` or, cleared, in `settle`. */
    take(kind: WarmKind): WarmBox | undefined {
      // Whoever asks now is told why by the way that makes a box.
      if (!deps.mayGrow()) return undefined
      const youngerThanMs = clock.monotonic() - oldestMs
      const box = ready.find((each) => keyOf(each.kind) === keyOf(kind) && !each.lost && each.madeAtMs > youngerThanMs)
      if (!box) return undefined
      ready = ready.filter((each) => each !== box)
      lent.set(box.boxId, box)
      const left = ready.filter((each) => keyOf(each.kind) === keyOf(kind)).length
      lookIn(left * 2 < size ? 0 : calmMs)
      return box
    },

    /** The box has become a sandbox, or was given up. */
    settle(box: WarmBox): void {
      lent.delete(box.boxId)
    },

    /** It was taken and not touched. */
    putBack(box: WarmBox): void {
      lent.delete(box.boxId)
      if (main && !box.lost && !isOutdated(box)) ready.unshift(box)
      else discard(box)
    },

    /** Somebody got a sandbox of this kind: some of it are kept for a while. */
    note(kind: WarmKind): void {
      if (!main) return
      const key = keyOf(kind)
      const known = asked.delete(key)
      asked.set(key, { kind, atMs: clock.monotonic() })
      for (const [oldest, { atMs }] of asked) {
        if (asked.size > mostKinds || clock.monotonic() - atMs >= recentMs) asked.delete(oldest)
      }
      if (!known && key !== keyOf(main)) lookIn(calmMs)
    },

    /** Whether boxes of this kind are kept at all. */
    keeps: (kind: WarmKind): boolean => main !== undefined && (keyOf(kind) === keyOf(main) || asked.has(keyOf(kind))),

    /** A caller found no room: everything kept here is given up. True when that may have helped. */
    async giveUp(): Promise<boolean> {
      restUntilMs = Math.max(restUntilMs, clock.monotonic() + shortMs)
      const given = ready
      for (const box of given) discard(box)
      // Not those being made: they may wait for the place their caller holds.
      await Promise.all(removals)
      return given.length > 0
    },

    /** Its template was built anew: boxes of the old one are not handed out any more, nor those that are being made of it. */
    renew(template: string): void {
      renewals.set(template, (renewals.get(template) ?? 0) + 1)
      for (const box of ready.filter(({ kind }) => kind.template === template)) discard(box)
      lookIn(0)
    },

    /** The room has changed by another way than through `take`. */
    look: () => lookIn(calmMs),

    died(boxId: string, cause: DeathCause): void {
      const box = lent.get(boxId) ?? ready.find((each) => each.boxId === boxId)
      if (!box) return
      box.died = cause
      lose(box)
    },

    /** Makes no more. */
    rest(): void {
      main = undefined
      wake.abort(earlier)
    },

    /** Ends every box. */
    async stop(): Promise<void> {
      main = undefined
      wake.abort(earlier)
      // A box that is being made comes to `ready` first.
      await Promise.all(refills)
      for (const box of ready) discard(box)
      await Promise.all(removals)
    },

    counts: (): PoolCounts => ({ size, ready: ready.length, making: making.size }),
  }
}
