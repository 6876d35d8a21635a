import { createHash } from 'node:crypto'
import type { Driver, DriverInfo } from '../drivers/driver.ts'
import { connectGuest as connectToGuest } from '../guest/client.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { DeltaError, type ErrorCode, errorTable } from '../kernel/errors.ts'
import { createEvents, type Events } from '../kernel/events.ts'
import type { StopMode } from '../kernel/http/api.ts'
import { isId, newId } from '../kernel/ids.ts'
import type { Logger } from '../kernel/log.ts'
import { createDeadlines } from './deadlines.ts'
import type { AllowEgress, Network } from './egress/schema.ts'
import { ruleLimits } from './egress/rule-text.ts'
import { widened } from './egress/rules.ts'
import type { Egress } from './egress/service.ts'
import type { DoorCaller, DoorOptions, OpenDoor, SandboxDoor } from './door.ts'
import { createEntries, type Entry } from './entries.ts'
import type { SandboxEvents } from './events.ts'
import { createGate } from './gate.ts'
import { type ConnectGuest, createLifecycle, dropLink, type Phase } from './lifecycle.ts'
import { planMending, sortFound } from './reconcile.ts'
import { iso, newRecord, patched, viewOf, warmSpecOf } from './records.ts'
import { defaultTemplate } from './schema.ts'
import type { CreateSandbox, OnTimeout, PatchSandbox, Sandbox, SandboxLog, SandboxMetrics } from './schema.ts'
import { holdsBox, isOver, type SandboxAction, type SandboxState, type TransitionReason } from './states.ts'
import { createSandboxStore, type SandboxRecord, type WantedRequest } from './store.ts'
import { createClaims } from './warm/claim.ts'
import { createWarmPool, refillsAtOnce } from './warm/pool.ts'
import type { WarmKind } from './warm/rules.ts'

export interface SandboxesDeps {
  database: Database
  driver: Driver
  clock: Clock
  log: Logger
  /** Most sandboxes that have a box at once. @default 1000 */
  maxSandboxes?: number
  /** Boxes kept ready for creates to come; 0: none. They are made from `warmUp` on. @default 0 */
  poolSize?: number
  /** How long a guest may take to say hello: gVisor on a busy machine needs seconds. @default 15000 */
  helloTimeoutMs?: number
  /** Takes the connections to the outside. Without it every one is refused. */
  egress?: Pick<Egress, 'handlerFor' | 'enforce' | 'endAll'>
  /** For tests in which nobody speaks to the guest. */
  connectGuest?: ConnectGuest
}

export interface Page<Item> {
  data: Item[]
  nextCursor: string | null
}

/** Boxes made at once. More only make each slower: two processors are busy with three. */
const boxesAtOnce = 4
const mostBoxesWaiting = 1_000
/** Boxes ended or mended at once where many are (start, shutdown). */
const endsAtOnce = 8
/** Pause of the janitor between looks at what went wrong before. */
const janitorMs = 5_000
/** Pause between forgetting what is old. */
const purgeEveryMs = 600_000
/** How long a sandbox that is over stays listed, and an idempotency key known. */
const rememberMs = 24 * 3_600_000
/** A timeout that could not be carried out is tried again after this. */
const retryTimeoutMs = 5_000

export type Sandboxes = ReturnType<typeof createSandboxes>

export function createSandboxes(deps: SandboxesDeps) {
  const { driver, clock, log } = deps
  const store = createSandboxStore(deps.database)
  const events: Events<SandboxEvents> = createEvents({ log })
  const entries = createEntries({ maxSandboxes: deps.maxSandboxes ?? 1_000 })
  const deadlines = createDeadlines({ clock, onDue: (id) => void timeOut(id) })
  const makeGate = createGate({ places: boxesAtOnce, mostWaiting: mostBoxesWaiting, patientPlaces: refillsAtOnce })
  const endGate = createGate({ places: endsAtOnce, mostWaiting: Infinity })
  const janitorSleep = new AbortController()
  let stopping = false
  let driverInfo: DriverInfo | undefined
  let stopListening: (() => void) | undefined
  let janitor: Promise<void> = Promise.resolve()
  /** There are boxes and disks of another database. */
  let amongStrangers = false
  /** Creates that the pool serves, until their row is known. */
  const claiming = new Set<Promise<unknown>>()

  const lifecycle = createLifecycle({
    store,
    driver,
    connectGuest: deps.connectGuest ?? connectToGuest,
    clock,
    log,
    events,
    entries,
    deadlines,
    gate: makeGate,
    endGate,
    egressOf: deps.egress && egressOf,
    helloTimeoutMs: deps.helloTimeoutMs ?? 15_000,
    makeRoom: () => pool.giveUp(),
    refuseWhenStopping,
  })
  const pool = createWarmPool({
    size: deps.poolSize ?? 0,
    driver,
    gate: makeGate,
    clock,
    log,
    specOf: warmSpecOf,
    reach: lifecycle.reach,
    clear: (what) => endGate.pass(() => lifecycle.clear(what.upperId, what)),
    room: entries.room,
    mayGrow: () => driver.room().state === 'fine',
    onMade: (kind, durationMs) => events.emit('warm.made', { ...kind, durationMs }),
  })
  const { claim } = createClaims({ pool, store, driver, lifecycle, entries, clock, log })

  /** The policy is read anew for each connection: the entry's record is always the row as it is. */
  function egressOf(entry: Entry) {
    const { id: sandboxId, accountId } = entry.record
    return deps.egress!.handlerFor({ sandboxId, accountId, policy: () => entry.record.network.egress })
  }

  events.on('sandbox.changed', ({ sandboxId, to }) => {
    if (to === 'paused' || to === 'stopping' || to === 'killed') deps.egress?.endAll(sandboxId, to)
  })

  function knownDriver(): DriverInfo {
    if (!driverInfo) throw new Error('start() comes before everything else')
    return driverInfo
  }

  function view(record: SandboxRecord): Sandbox {
    return viewOf(record, knownDriver(), { unsettled: lifecycle.uneasy.has(record.id) })
  }

  function refuseWhenStopping(): void {
    if (stopping) throw new DeltaError('shutting_down', 'The server is stopping')
  }

  /** The sandbox's entry, if it is the caller's. Another account's looks like one that does not exist. */
  async function entryFor(sandboxId: string, { accountId }: DoorCaller): Promise<Entry> {
    refuseWhenStopping()
    const entry = entries.get(sandboxId) ?? (await admitFromStore(sandboxId))
    if (!entry || entry.record.accountId !== accountId) throw notFound(sandboxId)
    return entry
  }

  async function admitFromStore(sandboxId: string): Promise<Entry | undefined> {
    const record = isId('sbx', sandboxId) ? await store.get(sandboxId) : undefined
    return record && entries.admit(record)
  }

  /**
   * Between reading a row and its turn, another request may have worked on the sandbox and been forgotten; what was read is then old. The
   * guard on every write notices, and one more reading puts it right.
   */
  async function actOn(sandboxId: string, caller: DoorCaller, action: SandboxAction, reason: TransitionReason) {
    const entry = await entryFor(sandboxId, caller)
    return entries.inTurn(entry, async () => {
      await lifecycle.act(entry, action, reason)
      return view(entry.record)
    })
  }

  async function create(
    wish: CreateSandbox,
    { accountId }: DoorCaller,
    { idempotencyKey }: { idempotencyKey?: string | undefined } = {},
  ): Promise<Sandbox> {
    refuseWhenStopping()
    const request = idempotencyKey === undefined ? undefined : { key: idempotencyKey, bodyHash: hashOf(wish) }
    const earlier = request && (await replay(accountId, request))
    if (earlier?.made) return earlier.made
    if (earlier && !earlier.mayRepeat) throw earlier.failure
    if (makeGate.waiting >= mostBoxesWaiting) {
      throw new DeltaError('capacity_exhausted', `${mostBoxesWaiting} sandboxes are waiting to be made already`)
    }

    const asked = clock.monotonic()
    const own = { accountId, runtime: wish.runtime ?? knownDriver().runtime }
    const wanted: WantedRequest | undefined = request && { ...request, insteadOf: earlier?.failedId }
    const warm = await tracked(entries.withRoom(() => claim(wish, own, wanted)))
    tellPool({ runtime: own.runtime, template: wish.template }, warm !== undefined)
    if (warm?.entry) return { ...view(warm.entry.record), timings: warm.timings }
    const entry = warm
      ? undefined
      : await entries.withRoom(async () => {
          const record = newRecord(wish, { ...own, id: newId('sbx'), now: clock.now() })
          try {
            return (await store.insert(record, wanted)) ? entries.admit(record) : undefined
          } catch (error) {
            // It may have been written all the same: the janitor looks.
            lifecycle.uneasy.add(record.id)
            throw error
          }
        })
    if (!entry) {
      // Somebody with the same key was quicker, in between.
      const other = await replay(accountId, request!)
      if (other?.made) return other.made
      if (other) throw other.failure
      throw new DeltaError('idempotency_in_progress', 'The first request with this key is still being worked on')
    }
    lifecycle.announce(null, entry.record)
    const row: Phase = { phase: 'row', micros: Math.round((clock.monotonic() - asked) * 1_000) }
    return entries.inTurnAlways(entry, async () => {
      const timings = await lifecycle.create(entry)
      // What could be made once can be made again, ahead of time.
      pool.note({ runtime: own.runtime, template: wish.template })
      return { ...view(entry.record), timings: [row, ...timings] }
    })
  }

  /** A stopping server waits for these: it must know of every box whether it is a sandbox. */
  async function tracked<T>(work: Promise<T>): Promise<T> {
    claiming.add(work)
    try {
      return await work
    } finally {
      claiming.delete(work)
    }
  }

  function tellPool(kind: WarmKind, served: boolean): void {
    const kept = pool.keeps(kind)
    if (served) pool.note(kind)
    events.emit('warm.asked', { outcome: served ? 'hit' : kept ? 'empty' : 'not_kept' })
  }

  /** What became of an earlier request with this key; undefined where there was none. */
  async function replay(
    accountId: string,
    { key, bodyHash }: { key: string; bodyHash: string },
  ): Promise<Replay | undefined> {
    const saved = await store.savedRequest(accountId, key)
    if (!saved) return undefined
    if (saved.bodyHash !== bodyHash) {
      throw new DeltaError('idempotency_conflict', 'This Idempotency-Key was used with another body')
    }
    const entry = entries.get(saved.sandboxId) ?? (await admitFromStore(saved.sandboxId))
    if (!entry) throw notFound(saved.sandboxId)
    return entries.inTurn(entry, async () => {
      const { record } = entry
      return record.state === 'failed' ? replayOfFailure(record) : { made: view(record) }
    })
  }

  async function patch(sandboxId: string, wish: PatchSandbox, caller: DoorCaller): Promise<Sandbox> {
    return view(await change(sandboxId, caller, (record) => patched(record, wish, clock.now())))
  }

  async function setNetwork(sandboxId: string, network: Network, caller: DoorCaller): Promise<Network> {
    const after = await change(sandboxId, caller, (record) => ({ ...record, network }))
    deps.egress?.enforce(sandboxId)
    return after.network
  }

  async function allowEgress(sandboxId: string, more: AllowEgress, caller: DoorCaller): Promise<Network> {
    const after = await change(sandboxId, caller, (record) => {
      const egress = widened(record.network.egress, more)
      const hosts = typeof egress === 'string' ? 0 : egress.hosts.length
      if (hosts <= ruleLimits.hosts) return { ...record, network: { egress } }
      throw new DeltaError('invalid_request', 'The request is not valid at body.hosts', {
        cause: `body.hosts: with those it has, ${hosts} hosts; at most ${ruleLimits.hosts}`,
      })
    })
    return after.network
  }

  /** Changes settings, which are no transition. */
  async function change(
    sandboxId: string,
    caller: DoorCaller,
    changed: (record: SandboxRecord) => SandboxRecord,
  ): Promise<SandboxRecord> {
    const entry = await entryFor(sandboxId, caller)
    return entries.inTurn(entry, async () => {
      const before = entry.record
      if (isOver(before.state)) {
        throw new DeltaError('sandbox_state_conflict', `Sandbox ${sandboxId} is ${before.state}`, {
          context: { sandboxId, state: before.state },
        })
      }
      const after = changed(before)
      if (!(await store.patch(before, after))) {
        lifecycle.uneasy.add(sandboxId)
        throw new DeltaError('sandbox_state_conflict', `Sandbox ${sandboxId} was changed by something else`)
      }
      entries.put(entry, after)
      lifecycle.arm(after)
      return after
    })
  }

  async function get(sandboxId: string, { accountId }: DoorCaller): Promise<Sandbox> {
    return view(await recordOf(sandboxId, accountId))
  }

  async function getNetwork(sandboxId: string, { accountId }: DoorCaller): Promise<Network> {
    return (await recordOf(sandboxId, accountId)).network
  }

  async function recordOf(sandboxId: string, accountId: string): Promise<SandboxRecord> {
    const known = entries.get(sandboxId)?.record
    const record = known ?? (isId('sbx', sandboxId) ? await store.get(sandboxId) : undefined)
    if (!record || record.accountId !== accountId) throw notFound(sandboxId)
    return record
  }

  async function list(
    { accountId }: DoorCaller,
    filter: {
      states?: SandboxState[] | undefined
      metadata: Record<string, string>
      limit: number
      cursor?: string | undefined
    },
  ): Promise<Page<Sandbox>> {
    const before = filter.cursor === undefined ? undefined : readListCursor(filter.cursor)
    const { states, metadata, limit } = filter
    // One more than asked tells whether there is a next page.
    const found = await store.list({ accountId, states, metadata, limit: limit + 1, before })
    const records = found.slice(0, limit)
    const last = records.at(-1)
    return {
      data: records.map(view),
      nextCursor: found.length > limit && last ? writeCursor([last.createdAt, last.id]) : null,
    }
  }

  async function metrics(sandboxId: string, { accountId }: DoorCaller): Promise<SandboxMetrics> {
    const { state, reason, boxId, startedAt } = await recordOf(sandboxId, accountId)
    if ((state !== 'running' && state !== 'paused') || !boxId) {
      throw new DeltaError('sandbox_not_running', `Sandbox ${sandboxId} is ${state} (${reason})`, {
        context: { sandboxId, state, reason },
      })
    }
    const { cpuMicros, ...stats } = await driver.stats(boxId)
    // The wall clock may have been set back since.
    const uptimeMs = Math.max(0, clock.now() - (startedAt ?? clock.now()))
    return { cpuMs: cpuMicros / 1_000, ...stats, uptimeMs }
  }

  async function logs(
    sandboxId: string,
    { accountId }: DoorCaller,
    { limit, cursor }: { limit: number; cursor?: string | undefined },
  ): Promise<Page<SandboxLog>> {
    await recordOf(sandboxId, accountId)
    const after = cursor === undefined ? 0 : readLogsCursor(cursor)
    const found = await store.transitions(sandboxId, after, limit + 1)
    const shown = found.slice(0, limit)
    return {
      data: shown.map(({ at, from, to, reason, detail }) => ({
        at: iso(at),
        kind: 'transition',
        from,
        to,
        reason,
        detail,
      })),
      nextCursor: found.length > limit ? writeCursor([shown.at(-1)!.sequence]) : null,
    }
  }

  const door: SandboxDoor = {
    open(sandboxId, caller, options) {
      const entry = entries.get(sandboxId)
      if (entry?.link && entry.record.state === 'running' && entry.record.accountId === caller.accountId && !stopping) {
        return entry.link.door
      }
      return openSlowly(sandboxId, caller, options)
    },
    async oomKills(sandboxId) {
      const boxId = entries.get(sandboxId)?.record.boxId
      return boxId ? (await driver.stats(boxId)).oomKills : 0
    },
  }

  async function openSlowly(
    sandboxId: string,
    caller: DoorCaller,
    { signal, wake = true }: DoorOptions = {},
  ): Promise<OpenDoor> {
    signal?.throwIfAborted()
    const entry = await entryFor(sandboxId, caller)
    const opening = wake ? openTogether(entry) : entries.inTurn(entry, () => lifecycle.open(entry, { wake }))
    return signal ? orAborted(opening, signal) : opening
  }

  /** All who come while it is being opened wait for the same opening: a thousand execs on a stopped sandbox start it once. */
  function openTogether(entry: Entry): Promise<OpenDoor> {
    entry.opening ??= entries
      .inTurnAlways(entry, () => lifecycle.open(entry, { wake: true }))
      .finally(() => (entry.opening = undefined))
    return entry.opening
  }

  async function timeOut(sandboxId: string): Promise<void> {
    const entry = entries.get(sandboxId)
    if (!entry || stopping) return
    try {
      await entries.inTurnAlways(entry, async () => {
        // Its turn may come after somebody gave it more time, or ended it.
        if (stopping || entry.record.state !== 'running' || deadlines.left(sandboxId) !== undefined) return
        await lifecycle.act(entry, actionOf[entry.record.onTimeout], 'timeout')
      })
    } catch (error) {
      log.error('sandbox_timeout_failed', { sandboxId, error })
      if (entry.record.state === 'running' && !stopping) deadlines.set(sandboxId, retryTimeoutMs)
    }
  }

  function onDeath(boxId: string, { oom }: { oom: boolean }): void {
    pool.died(boxId, { oom })
    for (const entry of entries.all()) {
      if (entry.record.boxId !== boxId) continue
      entries
        .inTurnAlways(entry, () => lifecycle.buryDead(entry, boxId, oom))
        .catch((error: unknown) => log.error('sandbox_not_buried', { sandboxId: entry.record.id, error }))
    }
  }

  /**
   * Learns what is there and brings rows and boxes together. Resolves as soon as every sandbox is known and requests can be served; each waits
   * for its own mending only. `reconciled` resolves when all of it is done.
   */
  async function start(): Promise<{ reconciled: Promise<void> }> {
    const [info, rows, listed] = await Promise.all([driver.info(), store.unfinished(), driver.list()])
    driverInfo = info
    stopListening = driver.onDeath(onDeath)
    const { found, strayBoxes, strayUppers } = sortFound(rows, listed)
    const work: Promise<void>[] = []
    if (strayBoxes.length + strayUppers.length > 0) {
      // A row is written before its box is made, so an empty database beside disks is another database than the one they belong to.
      amongStrangers = await store.isEmpty()
      if (amongStrangers) log.error('strays_kept', { ...straysKept, boxes: strayBoxes, disks: strayUppers })
      else work.push(lifecycle.clearStrays({ strayBoxes, strayUppers }))
    }
    for (const record of rows) {
      const { end, dropUpper, moves } = planMending(record, found.get(record.id)!)
      const atRest = !end && !dropUpper && moves.length === 0
      if (atRest && !holdsBox(record.state)) continue
      const entry = entries.admit(record)
      if (atRest) lifecycle.arm(record)
      else work.push(mendLater(entry))
    }
    events.on('sandbox.changed', pool.look)
    janitor = keepTidy()
    return { reconciled: Promise.all(work).then(() => undefined) }
  }

  /** Begins to keep boxes ready. Apart from `start`, so that who waits for the server is served first. */
  async function warmUp(): Promise<void> {
    if (stopping || amongStrangers || (deps.poolSize ?? 0) === 0) return
    await store.notePool(clock.now())
    if (!stopping) pool.start({ runtime: knownDriver().runtime, template: defaultTemplate })
  }

  async function mendLater(entry: Entry): Promise<void> {
    const { id } = entry.record
    lifecycle.uneasy.add(id)
    await entries
      .inTurnAlways(entry, () =>
        // An action that came first has mended it.
        endGate.pass(async () => (lifecycle.uneasy.has(id) ? lifecycle.mend(entry) : undefined)),
      )
      .catch((error: unknown) => log.error('sandbox_not_mended', { sandboxId: id, error }))
  }

  /** Tries again what failed half-way, and forgets what is old. */
  async function keepTidy(): Promise<void> {
    let purgedAt = -Infinity
    while (!janitorSleep.signal.aborted) {
      try {
        if (clock.monotonic() - purgedAt >= purgeEveryMs) {
          await store.purge(clock.now() - rememberMs)
          purgedAt = clock.monotonic()
        }
        await tidyOnce()
      } catch (error) {
        log.error('sandbox_janitor_failed', { error })
      }
      await clock.sleep(janitorMs, janitorSleep.signal).catch(() => undefined)
    }
  }

  async function tidyOnce(): Promise<void> {
    for (const sandboxId of Array.from(lifecycle.uneasy)) {
      const entry = entries.get(sandboxId) ?? (await admitFromStore(sandboxId))
      if (entry) await mendLater(entry)
      else lifecycle.uneasy.delete(sandboxId)
      await lifecycle.settleDoubt(sandboxId, { hasRow: entry !== undefined })
    }
    for (const [key, what] of Array.from(lifecycle.remains)) {
      // What is being cleared in its own turn is left to it.
      if ((entries.get(key)?.turns ?? 0) > 0) continue
      await lifecycle.clear(key, what).catch((error: unknown) => log.error('sandbox_remains', { ...what, error }))
    }
  }

  /** Ends background work and connections; with `stop-all` every sandbox stops first and keeps its disk. */
  async function stop(mode: StopMode): Promise<void> {
    stopping = true
    pool.rest()
    stopListening?.()
    deadlines.close()
    janitorSleep.abort()
    await janitor
    await Promise.allSettled(claiming)
    await Promise.all([pool.stop(), ...Array.from(entries.all(), (entry) => entry.tail)])
    if (mode === 'stop-all') {
      const live = Array.from(entries.all()).filter(({ record }) => holdsBox(record.state))
      await Promise.all(live.map((entry) => endGate.pass(() => stopOne(entry))))
    }
    for (const entry of entries.all()) dropLink(entry)
  }

  async function stopOne(entry: Entry): Promise<void> {
    await entries
      .inTurnAlways(entry, () => lifecycle.act(entry, 'stop', 'server_stopped'))
      .catch((error: unknown) => log.error('sandbox_not_stopped', { sandboxId: entry.record.id, error }))
  }

  return {
    start,
    warmUp,
    /** Boxes kept ready are not replaced from now on. */
    rest: pool.rest,
    stop,
    create,
    get,
    list,
    patch,
    getNetwork,
    setNetwork,
    allowEgress,
    metrics,
    logs,
    pause: (id: string, caller: DoorCaller) => actOn(id, caller, 'pause', 'pause_requested'),
    resume: (id: string, caller: DoorCaller) => actOn(id, caller, 'resume', 'resume_requested'),
    stopSandbox: (id: string, caller: DoorCaller) => actOn(id, caller, 'stop', 'stop_requested'),
    startSandbox: (id: string, caller: DoorCaller) => actOn(id, caller, 'start', 'start_requested'),
    kill: async (id: string, caller: DoorCaller) => void (await actOn(id, caller, 'kill', 'kill_requested')),
    door,
    events,
    /** Sandboxes this process holds, by state; those at rest without a box are not among them. */
    counts: entries.counts,
    /** Boxes kept ready. */
    poolCounts: pool.counts,
    /** Sandboxes waiting for their box to be made. */
    waiting: () => makeGate.waiting,
  }
}

const straysKept = {
  meaning:
    'There are sandboxes, but this database is empty: nothing was removed, and none is kept ready. Start with the database they belong to, or run `delta-helper end-all` and remove the pool to give them up.',
}

const actionOf: Record<OnTimeout, SandboxAction> = { kill: 'kill', stop: 'stop', pause: 'pause' }

type Replay =
  | { made: Sandbox; failedId?: never }
  | { made?: never; failedId: string; failure: DeltaError; mayRepeat: boolean }

/**
 * A refusal stays one. What failed on our side left nothing, so whoever asks again, as the error told him to, gets another try under the
 * same key instead of the old error.
 */
function replayOfFailure({ id, reason, failure: stored }: SandboxRecord): Replay {
  const { code, message } = stored ?? { code: 'sandbox_start_failed', message: `It failed: ${reason}` }
  const failure = new DeltaError(code in errorTable ? (code as ErrorCode) : 'internal', message, {
    context: { sandboxId: id },
  })
  return { failedId: id, failure, mayRepeat: failure.status >= 500 }
}

function notFound(sandboxId: string): DeltaError {
  return new DeltaError('sandbox_not_found', `There is no sandbox ${sandboxId.slice(0, 64)}`)
}

/** The same for the same wish, however its fields were ordered. */
function hashOf(value: unknown): string {
  const ordered = JSON.stringify(value, (_key, item: unknown) =>
    typeof item === 'object' && item !== null && !Array.isArray(item)
      ? Object.fromEntries(Object.entries(item).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : item,
  )
  return createHash('sha256').update(ordered).digest('hex')
}

function writeCursor(parts: (string | number)[]): string {
  return Buffer.from(parts.join('.')).toString('base64url')
}

function readListCursor(cursor: string): { createdAt: number; id: string } {
  const [, createdAt, id] = /^([0-9]{1,15})\.(sbx_[a-z0-9]+)$/.exec(textOf(cursor)) ?? []
  if (createdAt === undefined || id === undefined) throw badCursor()
  return { createdAt: Number(createdAt), id }
}

function readLogsCursor(cursor: string): number {
  const text = textOf(cursor)
  if (!/^[0-9]{1,15}$/.test(text)) throw badCursor()
  return Number(text)
}

function textOf(cursor: string): string {
  return Buffer.from(cursor, 'base64url').toString('latin1')
}

function badCursor(): DeltaError {
  return new DeltaError('invalid_request', 'The request is not valid at query.cursor', {
    cause: 'query.cursor: not a cursor of this list',
  })
}

function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(new DeltaError('canceled', 'The request was given up by its sender'))
    signal.addEventListener('abort', onAbort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}
