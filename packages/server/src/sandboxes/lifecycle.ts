import type { Duplex } from 'node:stream'
import type { Box, BoxSpec, BoxStatus, DeathCause, Driver } from '../drivers/driver.ts'
import { type ConnectOptions, type EgressRequest, type GuestConnection, GuestError } from '../guest/client.ts'
import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Events } from '../kernel/events.ts'
import type { Logger } from '../kernel/log.ts'
import type { Deadlines } from './deadlines.ts'
import type { OpenDoor } from './door.ts'
import type { Entries, Entry, Link } from './entries.ts'
import type { SandboxEvents } from './events.ts'
import type { Gate } from './gate.ts'
import type { Activity } from './idle.ts'
import type { SandboxMeter } from './meter.ts'
import { planMending, sortFound } from './reconcile.ts'
import { boxIdOf, type Change, isWorkspaceUpper, moved, specOf } from './records.ts'
import { holdsBox, type SandboxAction, type SandboxState, steps, type TransitionReason } from './states.ts'
import type { SandboxRecord, SandboxStore } from './store.ts'
import type { Lease } from '../workspaces/service.ts'
import type { SandboxWorkspaces } from './workspaces.ts'

export type ConnectGuest = (stream: Duplex, options: ConnectOptions) => Promise<GuestConnection>

type OnEgress = (request: EgressRequest) => void

export interface LifecycleDeps {
  store: SandboxStore
  driver: Driver
  connectGuest: ConnectGuest
  clock: Clock
  log: Logger
  events: Events<SandboxEvents>
  entries: Entries
  deadlines: Deadlines
  /** When it is looked whether anybody still uses it. */
  idles: Deadlines
  activity: Activity
  gate: Gate
  endGate: Gate
  /** What takes the connections that programs in the sandbox want to the outside. */
  egressOf?: ((entry: Entry) => OnEgress) | undefined
  /** How long a guest may take from the connection to its hello. */
  helloTimeoutMs: number
  /** Gives up what is kept for later where a caller finds no room now. True when trying again may help. */
  makeRoom: () => Promise<boolean>
  /** Whose disk a sandbox with a workspace runs on. */
  workspaces: SandboxWorkspaces
  /** Who pays for boxes. */
  meter: SandboxMeter
  /** Throws once the server is stopping, so that nothing new is made meanwhile. */
  refuseWhenStopping: () => void
}

export interface Phase {
  phase: string
  micros: number
}

/** What a box or a disk that must go is known by. */
export interface Remains {
  boxId: string | null
  upperId: string
  /** The workspace it held, which is let go once the box is gone. */
  hold?: { workspaceId: string; sandboxId: string; snapshot?: 'stop' } | undefined
}

/** Settling an interrupted operation and asking again: twice is what it takes, more means that something else goes on. */
const mostSteps = 4

export type Lifecycle = ReturnType<typeof createLifecycle>

/**
 * What is done to sandboxes, one step at a time. Every function here runs in its sandbox's turn. A row is written before the driver is
 * called wherever the call makes or ends something, so that a crash in between leaves a row that tells what to look for.
 */
export function createLifecycle(deps: LifecycleDeps) {
  const {
    store,
    driver,
    clock,
    log,
    events,
    entries,
    deadlines,
    idles,
    activity,
    gate,
    endGate,
    helloTimeoutMs,
    workspaces,
    meter,
  } = deps
  /** Sandboxes of which row and box may differ, because something failed half-way. The janitor mends them. */
  const uneasy = new Set<string>()
  /** What is left of sandboxes that are over, by sandbox id or, for strays, by its own. */
  const remains = new Map<string, Remains>()
  /** Boxes of sandboxes of which it is not known whether their row was written. The janitor looks. */
  const doubts = new Map<string, Remains>()

  async function move(entry: Entry, change: Change): Promise<void> {
    const before = entry.record
    const after = moved(before, change, clock.now())
    let applied = false
    try {
      applied = await store.move(before, after)
    } finally {
      // A write that failed may have happened; the row is read again before anything else is decided.
      if (!applied) uneasy.add(before.id)
    }
    if (!applied) throw new DeltaError('sandbox_state_conflict', `Sandbox ${before.id} was changed by something else`)
    entries.put(entry, after)
    arm(after)
    announce(before.state, after)
  }

  /** Tells log and listeners of a transition that is on disk. */
  function announce(from: SandboxState | null, record: SandboxRecord): void {
    const { id: sandboxId, accountId, state: to, reason, detail, changedAt: at } = record
    log.info('sandbox_changed', { sandboxId, from, to, reason, ...(detail !== null && { detail }) })
    events.emit('sandbox.changed', { sandboxId, accountId, from, to, reason, at })
  }

  function arm(record: SandboxRecord): void {
    if (record.state === 'running' && record.endAt !== null) deadlines.set(record.id, record.endAt - clock.now())
    else deadlines.clear(record.id)
    if (record.state === 'running' && record.idleTimeoutMs !== null) {
      activity.note(record.id)
      idles.set(record.id, record.idleTimeoutMs)
    } else {
      idles.clear(record.id)
      activity.forget(record.id)
    }
  }

  /** A new connection to a box's guest, which has said hello. */
  async function reach(id: string, boxId: string, onEgress?: OnEgress): Promise<GuestConnection> {
    const signal = AbortSignal.timeout(helloTimeoutMs)
    const stream = await driver.connect(boxId, { signal })
    try {
      return await deps.connectGuest(stream, {
        log: log.child({ sandboxId: id }),
        helloTimeoutMs,
        signal,
        onEgress,
      })
    } catch (cause) {
      stream.destroy()
      if (cause instanceof GuestError && cause.code === 'protocol_error') {
        throw new DeltaError('guest_protocol_error', `The guest of sandbox ${id} sent something invalid`, { cause })
      }
      throw new DeltaError('guest_unreachable', `The guest of sandbox ${id} did not say hello`, { cause })
    }
  }

  /** The guest was told at its start how much memory there is; `tellMemory` when that is no longer so. */
  async function tellMemory(guest: GuestConnection, memoryMb: number): Promise<void> {
    await guest.setMemory(memoryMb, { signal: AbortSignal.timeout(helloTimeoutMs) })
  }

  async function connect(entry: Entry): Promise<Link> {
    const { id, boxId } = entry.record
    // Given with the connection: what waits inside for a way out comes with the guest's first word.
    return attach(entry, await reach(id, boxId!, deps.egressOf?.(entry)))
  }

  /** A connection that was opened before anything could run in the box is this sandbox's from now on. */
  function takeOver(entry: Entry, guest: GuestConnection): void {
    guest.onEgress(deps.egressOf?.(entry))
    attach(entry, guest)
  }

  function attach(entry: Entry, guest: GuestConnection): Link {
    const { id, boxId, env, template, origin, memoryMb } = entry.record
    const own = origin ? { cwd: origin.cwd, user: origin.user } : {}
    const door: OpenDoor = { guest, sandbox: { id, env, template: origin?.name ?? template, memoryMb, ...own } }
    const link: Link = { boxId: boxId!, guest, door: Promise.resolve(door) }
    entry.link = link
    void guest.closed.then(() => {
      if (entry.link === link) entry.link = undefined
    })
    return link
  }

  /** The box and its first connection. Nothing is called running before its guest has answered. */
  async function make(entry: Entry, fresh: boolean): Promise<{ timings: Phase[]; userNamespace: string | undefined }> {
    const asked = clock.monotonic()
    return gate.pass(async () => {
      deps.refuseWhenStopping()
      const waited = clock.monotonic()
      const box = await createWithRoom(specOf(entry.record, fresh))
      const made = clock.monotonic()
      await connect(entry)
      const timings = [
        { phase: 'queue', micros: microsBetween(asked, waited) },
        ...box.timings,
        { phase: 'guest', micros: microsBetween(made, clock.monotonic()) },
      ]
      return { timings, userNamespace: box.uids && `${box.uids.first}+${box.uids.count}` }
    })
  }

  async function createWithRoom(spec: BoxSpec): Promise<Box> {
    try {
      return await driver.create(spec)
    } catch (error) {
      if (!isShortage(error) || !(await deps.makeRoom())) throw error
      return driver.create(spec)
    }
  }

  async function create(entry: Entry): Promise<Phase[]> {
    const what = remainsOf(entry.record)
    try {
      const { timings, userNamespace } = await make(entry, entry.record.workspaceId === null)
      await move(entry, { to: 'running', reason: 'created', userNamespace })
      return timings
    } catch (cause) {
      dropLink(entry)
      await clear(entry.record.id, what).catch(() => undefined)
      const failure = failureOf(cause)
      await move(entry, { to: 'failed', reason: 'create_failed', detail: failure.message, failure }).catch((error) =>
        log.error('sandbox_row_left_behind', { sandboxId: entry.record.id, error }),
      )
      throw cause
    }
  }

  async function start(entry: Entry, reason: TransitionReason): Promise<void> {
    const { id } = entry.record
    const lease = await leaseFor(entry)
    await entries
      .withRoom(() => move(entry, { to: 'starting', reason, lease }))
      .catch((error: unknown) => undoLease(lease, entry, error))
      .catch((error: unknown) => unpaid(id, error))
    try {
      const { userNamespace } = await make(entry, false)
      await move(entry, { to: 'running', reason: 'started', userNamespace })
    } catch (cause) {
      await settle(entry, failureOf(cause).message).catch((error: unknown) => {
        uneasy.add(entry.record.id)
        log.error('sandbox_start_not_undone', { sandboxId: entry.record.id, error })
      })
      if (cause instanceof DeltaError) throw cause
      throw new DeltaError('sandbox_start_failed', `Sandbox ${entry.record.id} could not be started`, { cause })
    }
  }

  /** Paid for first: nothing has changed where that is refused. */
  async function leaseFor({ record }: Entry): Promise<Lease | undefined> {
    const { id, accountId, workspaceId, starts } = record
    await meter.begin({ ...record, boxId: boxIdOf(id, starts + 1) })
    if (workspaceId === null) return undefined
    return workspaces.acquire(accountId, workspaceId, id).catch((error: unknown) => unpaid(id, error))
  }

  /** Its box was not made: what was held for it is given back. */
  async function unpaid(sandboxId: string, error: unknown): Promise<never> {
    await meter.end(sandboxId)
    throw error
  }

  /** It was not started after all. Where it is not known whether the row says so, the row decides when it is mended. */
  async function undoLease(lease: Lease | undefined, { record }: Entry, error: unknown): Promise<never> {
    if (lease && !uneasy.has(record.id)) await workspaces.release(lease.workspaceId, record.id)
    throw error
  }

  async function pause(entry: Entry, reason: TransitionReason): Promise<void> {
    await uneasily(entry, async () => {
      await driver.freeze(entry.record.boxId!)
      await move(entry, { to: 'paused', reason })
    })
  }

  async function resume(entry: Entry, reason: TransitionReason): Promise<void> {
    await meter.resume(entry.record.id)
    await uneasily(entry, async () => {
      await driver.thaw(entry.record.boxId!)
      await move(entry, { to: 'running', reason })
    })
  }

  async function stop(entry: Entry, reason: TransitionReason): Promise<void> {
    await move(entry, { to: 'stopping', reason })
    await settle(entry)
  }

  /** Brings what was cut short to the nearest state of rest. */
  async function settle(entry: Entry, detail?: string): Promise<void> {
    await uneasily(entry, async () => {
      const { state, reason, boxId, id } = entry.record
      dropLink(entry)
      if (state === 'creating') {
        await clear(id, remainsOf(entry.record))
        await move(entry, { to: 'failed', reason: 'create_failed', detail })
        return
      }
      await meter.end(id)
      if (boxId) await driver.end(boxId, { keepUpper: true })
      await letGo(entry.record)
      await move(entry, { to: 'stopped', reason: state === 'starting' ? 'start_failed' : reason, detail })
    })
  }

  async function kill(entry: Entry, reason: TransitionReason): Promise<void> {
    const { id } = entry.record
    const what = remainsOf(entry.record)
    await move(entry, { to: 'killed', reason })
    await meter.end(id)
    dropLink(entry)
    uneasy.delete(id)
    await clear(id, what)
  }

  /** The workspace of a sandbox whose box has ended is anybody's again. What a box wrote is snapshotted; where none ran, nothing is new. */
  async function letGo({ id, state, reason, workspaceId }: SandboxRecord): Promise<void> {
    if (workspaceId === null) return
    const snapshot = state === 'starting' || state === 'creating' ? undefined : reason === 'idle' ? 'idle' : 'stop'
    await workspaces.release(workspaceId, id, { snapshot })
  }

  /** Removes a box and its disk. What cannot be removed now is remembered and tried again. */
  async function clear(key: string, what: Remains): Promise<void> {
    remains.set(key, what)
    const keepUpper = isWorkspaceUpper(what.upperId)
    if (what.boxId) await driver.end(what.boxId, { keepUpper })
    if (!keepUpper) await driver.dropUpper(what.upperId)
    if (what.hold)
      await workspaces.release(what.hold.workspaceId, what.hold.sandboxId, { snapshot: what.hold.snapshot })
    remains.delete(key)
  }

  async function uneasily(entry: Entry, work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      uneasy.add(entry.record.id)
      throw error
    }
  }

  /** Leads to where the action aims, over as many steps as that takes. Refusals come as `sandbox_state_conflict` or `sandbox_not_running`. */
  async function act(
    entry: Entry,
    action: SandboxAction,
    reason: TransitionReason,
    { wake = true }: { wake?: boolean } = {},
  ): Promise<void> {
    if (uneasy.has(entry.record.id)) await (action === 'kill' ? reread(entry) : mend(entry))
    for (let count = 0; count < mostSteps; count += 1) {
      const { id, state, autoResume } = entry.record
      const step = steps[action][state]
      if (step === 'done') {
        const left = action === 'kill' ? remains.get(id) : undefined
        if (left) await clear(id, left)
        return
      }
      if (step === 'refuse' || (action === 'open' && !(autoResume && wake) && step !== 'settle')) {
        throw action === 'open' ? notRunning(entry.record) : conflict(entry.record, action)
      }
      if (step === 'settle') await settle(entry)
      else if (step === 'pause') await pause(entry, reason)
      else if (step === 'resume') await resume(entry, reason)
      else if (step === 'stop') await stop(entry, reason)
      else if (step === 'start') await start(entry, reason)
      else await kill(entry, reason)
    }
    if (steps[action][entry.record.state] !== 'done') throw conflict(entry.record, action)
  }

  /** The connection to a running sandbox's guest, opened again where it was lost. Without `wake`, what does not run is left so. */
  async function open(entry: Entry, { wake }: { wake: boolean }): Promise<OpenDoor> {
    await act(entry, 'open', 'auto_resumed', { wake })
    if (entry.link) return entry.link.door
    try {
      return await (
        await connect(entry)
      ).door
    } catch (cause) {
      // Perhaps it died and the news has not come yet: then the row learns it here, and a sandbox that may start by itself does.
      await mend(entry)
      if (entry.record.state === 'running') throw cause
      await act(entry, 'open', 'auto_resumed', { wake })
      return (entry.link ?? (await connect(entry))).door
    }
  }

  /** A box ended by itself: its processes are gone, its disk is kept. */
  async function buryDead(entry: Entry, boxId: string, cause: DeathCause): Promise<void> {
    const { record } = entry
    if (record.boxId !== boxId || (record.state !== 'running' && record.state !== 'paused')) return
    await stop(entry, cause)
  }

  async function reread(entry: Entry): Promise<void> {
    const record = await store.get(entry.record.id)
    if (!record) throw new DeltaError('sandbox_not_found', `There is no sandbox ${entry.record.id}`)
    entries.put(entry, record)
    arm(record)
  }

  /** Reads the row and the driver anew and brings them together. */
  async function mend(entry: Entry, listed?: Awaited<ReturnType<Driver['list']>>): Promise<void> {
    await reread(entry)
    const { record } = entry
    const { id } = record
    const found = sortFound([record], listed ?? (await driver.list())).found.get(id)!
    const { end, dropUpper, moves } = planMending(record, found)
    const early = moves.filter(({ to }) => to === 'stopping')
    for (const change of early) await move(entry, change)
    if (end || dropUpper) dropLink(entry)
    if (end) await meter.end(id)
    if (end) await driver.end(end.boxId, { keepUpper: end.keepUpper })
    if (dropUpper) await driver.dropUpper(dropUpper)
    const last = moves.at(-1)?.to ?? record.state
    if (!holdsBox(last)) await letGo(entry.record)
    for (const change of moves.filter((each) => !early.includes(each))) await move(entry, change)
    uneasy.delete(id)
    remains.delete(id)
  }

  async function clearStrays(strays: { strayBoxes: BoxStatus[]; strayUppers: string[] }): Promise<void> {
    const all: [string, Remains][] = [
      ...strays.strayBoxes.map(({ boxId, upperId }): [string, Remains] => [boxId, { boxId, upperId }]),
      ...strays.strayUppers.map((upperId): [string, Remains] => [upperId, { boxId: null, upperId }]),
    ]
    const each = async ([key, what]: [string, Remains]): Promise<void> => {
      log.info('stray_removed', { ...what })
      await clear(key, what).catch((error: unknown) => log.error('stray_left', { ...what, error }))
    }
    await Promise.all(all.map((stray) => endGate.pass(() => each(stray))))
  }

  /** The row of this new sandbox may have been written or not. */
  function doubt(sandboxId: string, what: Remains): void {
    doubts.set(sandboxId, what)
    uneasy.add(sandboxId)
  }

  /** The row is there, or it is not: then neither may the box be. */
  async function settleDoubt(sandboxId: string, { hasRow }: { hasRow: boolean }): Promise<void> {
    const what = doubts.get(sandboxId)
    doubts.delete(sandboxId)
    if (hasRow) return
    uneasy.delete(sandboxId)
    if (what) await clear(sandboxId, what)
  }

  const doubtful = { doubt, settleDoubt }
  return {
    create,
    act,
    open,
    announce,
    buryDead,
    mend,
    clear,
    clearStrays,
    arm,
    reach,
    takeOver,
    tellMemory,
    uneasy,
    remains,
    ...doubtful,
  }
}

/** What must go with a sandbox. A workspace keeps what was written, as a snapshot of its own. */
function remainsOf({ id, state, boxId, upperId, workspaceId }: SandboxRecord): Remains {
  if (workspaceId === null) return { boxId, upperId }
  const ran = state !== 'creating' && state !== 'starting' && state !== 'stopped'
  return { boxId, upperId, hold: { workspaceId, sandboxId: id, ...(ran && { snapshot: 'stop' }) } }
}

const shortages: readonly string[] = ['capacity_exhausted', 'disk_full']

function isShortage(error: unknown): boolean {
  return error instanceof DeltaError && shortages.includes(error.code)
}

export function dropLink(entry: Entry): void {
  entry.link?.guest.close()
  entry.link = undefined
}

function microsBetween(fromMs: number, toMs: number): number {
  return Math.max(0, Math.round((toMs - fromMs) * 1_000))
}

/** What a caller may be told of an error; of one that is not ours, nothing but that it happened. */
function failureOf(cause: unknown): { code: string; message: string } {
  if (!(cause instanceof DeltaError)) return { code: 'internal', message: 'The server made a mistake' }
  const more = typeof cause.cause === 'string' ? `: ${cause.cause}` : ''
  return { code: cause.code, message: cause.message + more }
}

function conflict({ id, state }: SandboxRecord, action: SandboxAction): DeltaError {
  return new DeltaError('sandbox_state_conflict', `Sandbox ${id} is ${state}: it cannot be asked to ${action}`, {
    context: { sandboxId: id, state },
  })
}

function notRunning({ id, state, reason }: SandboxRecord): DeltaError {
  return new DeltaError('sandbox_not_running', `Sandbox ${id} is ${state} (${reason})`, {
    context: { sandboxId: id, state, reason },
  })
}
