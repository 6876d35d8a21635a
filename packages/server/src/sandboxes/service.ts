import type { BoxVolume, DeathCause, Driver, DriverInfo } from '../drivers/driver.ts'
import { connectGuest as connectToGuest } from '../guest/client.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { DeltaError, type ErrorCode, errorTable } from '../kernel/errors.ts'
import { createEvents, type Events } from '../kernel/events.ts'
import type { StopMode } from '../kernel/http/api.ts'
import type { HashBody } from '../kernel/http/body-hash.ts'
import { badCursor, pageOf, readCursor, textOfCursor, writeCursor } from '../kernel/http/cursors.ts'
import { isId, newId } from '../kernel/ids.ts'
import type { Logger } from '../kernel/log.ts'
import { createDeadlines } from './deadlines.ts'
import type { AllowEgress, Network } from './egress/schema.ts'
import { ruleLimits } from './egress/rule-text.ts'
import type { CheckReach } from './egress/reach.ts'
import { widened } from './egress/rules.ts'
import type { Volumes } from '../workspaces/volumes/service.ts'
import type { Egress } from './egress/service.ts'
import type { DoorCaller, DoorOptions, OpenDoor, SandboxDoor } from './door.ts'
import { createEntries, type Entry } from './entries.ts'
import type { SandboxEvents } from './events.ts'
import { createGate } from './gate.ts'
import { createActivity, isAtWork, nextLookMs } from './idle.ts'
import { type ConnectGuest, createLifecycle, dropLink, type Phase } from './lifecycle.ts'
import type { Lease, Origin, ResolveTemplate } from '../workspaces/service.ts'
import { planMending, sortFound } from './reconcile.ts'
import {
  agentOf,
  iso,
  isRunBy,
  isSeenBy,
  newRecord,
  patched,
  type SandboxAgent,
  viewOf,
  warmSpecOf,
} from './records.ts'
import { defaultTemplate } from './schema.ts'
import type { CreateSandbox, OnTimeout, PatchSandbox, Sandbox, SandboxLog, SandboxMetrics } from './schema.ts'
import { holdsBox, isOver, type SandboxAction, type SandboxState, type TransitionReason } from './states.ts'
import { createSandboxStore, type SandboxRecord, type Seal, type WantedRequest } from './store.ts'
import { createClaims } from './warm/claim.ts'
import { createWarmPool, refillsAtOnce } from './warm/pool.ts'
import type { WarmKind } from './warm/rules.ts'
import type { MeterLedger } from './metering/ledger.ts'
import { createMeter, type SuspendReason } from './metering/service.ts'
import { unmetered } from './meter.ts'
import { createInsertPaid, type PaidInsert } from './paid-insert.ts'
import { noWorkspaces, type SandboxWorkspaces } from './workspaces.ts'

export interface SandboxesDeps {
  database: Database
  driver: Driver
  hashBody: HashBody
  clock: Clock
  log: Logger
  /** For what is stored of a sandbox and may be a secret. */
  seal: Seal
  /** Most sandboxes that have a box at once. @default 1000 */
  maxSandboxes?: number
  /** Boxes kept ready for creates to come; 0: none. They are made from `warmUp` on. @default 0 */
  poolSize?: number
  /** How long a guest may take to say hello: gVisor on a busy machine needs seconds. @default 15000 */
  helloTimeoutMs?: number
  /** Takes the connections to the outside. Without it every one is refused. */
  egress?: Pick<Egress, 'handlerFor' | 'enforce' | 'endAll'>
  /** Without it a sandbox with volumes is refused. */
  volumes?: Pick<Volumes, 'use' | 'release'>
  /** Knows templates that the driver does not. @default none */
  resolveTemplate?: ResolveTemplate
  /** Whose files sandboxes with a workspace work on. @default none */
  workspaces?: SandboxWorkspaces
  /** Where the time of sandboxes is paid. Without it none is metered. */
  ledger?: MeterLedger
  /** Whether what let the caller in has ended since. @default it never does */
  isOver?: (caller: DoorCaller) => boolean
  /** @default guest/client's, with as much memory for each connection as all may hold */
  connectGuest?: ConnectGuest
}

export interface CreateOptions {
  idempotencyKey?: string | undefined
  /** Whose it is, and who pays for it. @default the agent's who makes it, or nobody's in particular */
  agent?: SandboxAgent | undefined
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
/** Writing out what a kernel of a sandbox's own holds. */
const settleMs = 30_000
/** A timeout that could not be carried out is tried again after this. */
const retryTimeoutMs = 5_000
/** Of what is held for the end of a sandbox, this may go into writing out what it holds itself. */
const finalSettleMs = 5_000

export type Sandboxes = ReturnType<typeof createSandboxes>

export function createSandboxes(deps: SandboxesDeps) {
  const { driver, hashBody, clock, log, workspaces = noWorkspaces } = deps
  const store = createSandboxStore(deps.database, deps.seal)
  const events: Events<SandboxEvents> = createEvents({ log })
  const entries = createEntries({ maxSandboxes: deps.maxSandboxes ?? 1_000 })
  const deadlines = createDeadlines({ clock, onDue: (id) => void timeOut(id) })
  const idles = createDeadlines({ clock, onDue: (id) => void stopIdle(id) })
  const activity = createActivity({ clock })
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

  const metering =
    deps.ledger &&
    createMeter({ ledger: deps.ledger, database: deps.database, driver, clock, log, payerOf, living, suspend })
  const meter = metering ?? unmetered
  const lifecycle = createLifecycle({
    store,
    driver,
    connectGuest: deps.connectGuest ?? connectToGuest,
    clock,
    log,
    events,
    entries,
    deadlines,
    idles,
    activity,
    gate: makeGate,
    endGate,
    egressOf: deps.egress && egressOf,
    helloTimeoutMs: deps.helloTimeoutMs ?? 15_000,
    makeRoom: () => pool.giveUp(),
    workspaces,
    meter,
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
  const insertPaid = createInsertPaid({ store, meter })
  const { claim } = createClaims({ pool, driver, lifecycle, insert: insertPaid, entries, clock, log })

  /** The policy is read anew for each connection: the entry's record is always the row as it is. */
  function egressOf(entry: Entry) {
    const { id: sandboxId, accountId } = entry.record
    return deps.egress!.handlerFor({
      sandboxId,
      accountId,
      payer: payerOf(entry.record),
      policy: () => entry.record.network.egress,
    })
  }

  events.on('sandbox.changed', ({ sandboxId, to }) => {
    if (to === 'paused' || to === 'stopping' || to === 'killed') deps.egress?.endAll(sandboxId, to)
  })

  events.on('sandbox.changed', ({ sandboxId, to }) => {
    const record = isOver(to) ? entries.get(sandboxId)?.record : undefined
    if (record && record.volumes.length > 0) void releaseVolumes(sandboxId)
  })

  events.on('sandbox.changed', ({ sandboxId }) => {
    const record = entries.get(sandboxId)?.record
    if (record) meter.follow(record)
  })

  function living(): SandboxRecord[] {
    return Array.from(entries.all(), ({ record }) => record).filter(
      ({ state, boxId }) => boxId !== null && (state === 'running' || state === 'paused'),
    )
  }

  /** It stands still from here on, and is stopped as if somebody had asked for it: with its snapshot, its disk kept. */
  async function suspend(sandboxId: string, reason: SuspendReason): Promise<void> {
    const entry = entries.get(sandboxId)
    if (!entry || stopping) return
    await settleFiles(sandboxId, finalSettleMs).catch((error: unknown) =>
      log.warn('files_not_settled', { sandboxId, error }),
    )
    await entries.inTurnAlways(entry, async () => {
      const { state, boxId } = entry.record
      if (stopping || (state !== 'running' && state !== 'paused')) return
      if (state === 'running') await driver.freeze(boxId!)
      await lifecycle.act(entry, 'stop', reason)
    })
  }

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
  async function entryFor(sandboxId: string, caller: DoorCaller): Promise<Entry> {
    refuseWhenStopping()
    const known = entries.get(sandboxId)
    // Memory is asked for the caller's own alone: somebody else's must cost as much work as one that never was.
    if (known && isSeenBy(known.record, caller)) return known
    const entry = await admitFromStore(sandboxId, caller)
    if (!entry) throw notFound(sandboxId)
    return entry
  }

  /** Of those that somebody may know of, or whosever it is. */
  async function admitFromStore(sandboxId: string, caller?: DoorCaller): Promise<Entry | undefined> {
    const record = isId('sbx', sandboxId) ? await store.get(sandboxId) : undefined
    return record && (caller === undefined || isSeenBy(record, caller)) ? entries.admit(record) : undefined
  }

  /**
   * Between reading a row and its turn, another request may have worked on the sandbox and been forgotten; what was read is then old. The
   * guard on every write notices, and one more reading puts it right.
   */
  /** As `entryFor`, for what changes it. */
  async function entryToChange(sandboxId: string, caller: DoorCaller): Promise<Entry> {
    const entry = await entryFor(sandboxId, caller)
    if (isRunBy(entry.record, caller)) return entry
    throw new DeltaError('forbidden', `The account pays for ${sandboxId}, so no agent changes it or makes it run`, {
      context: { right: 'write:sandboxes', sandboxId },
    })
  }

  async function actOn(sandboxId: string, caller: DoorCaller, action: SandboxAction, reason: TransitionReason) {
    const entry = await entryToChange(sandboxId, caller)
    return entries.inTurn(entry, async () => {
      await lifecycle.act(entry, action, reason)
      return view(entry.record)
    })
  }

  async function create(
    wish: CreateSandbox,
    caller: DoorCaller,
    { idempotencyKey, agent = agentOf(caller) }: CreateOptions = {},
  ): Promise<Sandbox> {
    refuseWhenStopping()
    const { accountId } = caller
    const request = idempotencyKey === undefined ? undefined : { key: idempotencyKey, bodyHash: hashBody(wish) }
    const earlier = request && (await replay(accountId, request))
    if (earlier?.made) return earlier.made
    if (earlier && !earlier.mayRepeat) throw earlier.failure
    if (makeGate.waiting >= mostBoxesWaiting) {
      throw new DeltaError('capacity_exhausted', `${mostBoxesWaiting} sandboxes are waiting to be made already`)
    }

    const asked = clock.monotonic()
    const origin = wish.workspace === undefined ? await deps.resolveTemplate?.(wish.template, { accountId }) : undefined
    const own = { accountId, runtime: wish.runtime ?? knownDriver().runtime, origin, agent }
    const kind = { runtime: own.runtime, template: origin?.template ?? wish.template }
    const wanted: WantedRequest | undefined = request && { ...request, insteadOf: earlier?.failedId }
    const plain = wish.volumes.length === 0 && wish.workspace === undefined
    const warm = plain ? await tracked(entries.withRoom(() => claim(wish, own, wanted))) : undefined
    if (plain) tellPool(kind, warm !== undefined)
    if (warm?.entry) return { ...view(warm.entry.record), timings: warm.timings }
    const entry = warm ? undefined : await entries.withRoom(() => insertNew(wish, own, wanted))
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
      if (!wish.workspace) pool.note(kind)
      return { ...view(entry.record), timings: [row, ...timings] }
    })
  }

  /** They are its own before its row is written; a crash in between leaves what the next start forgets. */
  async function volumesFor(sandboxId: string, { volumes }: CreateSandbox, accountId: string): Promise<BoxVolume[]> {
    if (volumes.length === 0) return []
    if (!deps.volumes) throw new DeltaError('not_supported', 'This installation has no volumes')
    return deps.volumes.use(sandboxId, volumes, { accountId })
  }

  async function kill(sandboxId: string, caller: DoorCaller): Promise<void> {
    const { volumes } = await actOn(sandboxId, caller, 'kill', 'kill_requested')
    // Whoever has the answer may remove them.
    if (volumes.length > 0) await releaseVolumes(sandboxId)
  }

  async function releaseVolumes(sandboxId: string): Promise<void> {
    await deps.volumes
      ?.release(sandboxId)
      .catch((error: unknown) => log.error('volumes_not_released', { sandboxId, error }))
  }

  /** The row of a new sandbox, which holds its workspace already; undefined where somebody with the same key was quicker. */
  async function insertNew(
    wish: CreateSandbox,
    own: { accountId: string; runtime: string; origin: Origin | undefined; agent: SandboxAgent | undefined },
    wanted: WantedRequest | undefined,
  ): Promise<Entry | undefined> {
    const id = newId('sbx')
    const volumes = await volumesFor(id, wish, own.accountId)
    const lease = await leaseFor(id, wish, own.accountId)
    const record = newRecord(wish, { ...own, id, now: clock.now(), volumes, lease })
    let outcome: PaidInsert
    try {
      outcome = await insertPaid(record, wanted)
    } catch (error) {
      // It may have been written all the same: the janitor looks, and lets the workspace go where it was not.
      if (lease) lifecycle.doubt(id, { boxId: null, upperId: lease.upperId, hold: holdOf(lease, id) })
      else lifecycle.uneasy.add(id)
      throw error
    }
    if (outcome.written) return entries.admit(record)
    await releaseVolumes(id)
    if (lease) await workspaces.release(lease.workspaceId, id)
    if (outcome.refused !== undefined) throw outcome.refused
    return undefined
  }

  async function leaseFor(sandboxId: string, { workspace }: CreateSandbox, accountId: string) {
    if (workspace === undefined) return undefined
    try {
      return await workspaces.acquire(accountId, workspace, sandboxId)
    } catch (error) {
      await releaseVolumes(sandboxId)
      throw error
    }
  }

  /** As `create`; where a sandbox runs on the workspace already and the wish is to join it, that one. */
  async function createOrJoin(
    wish: CreateSandbox,
    caller: DoorCaller,
    options: CreateOptions = {},
  ): Promise<{ sandbox: Sandbox; joined: boolean }> {
    for (let tries = 1; ; tries += 1) {
      try {
        return { sandbox: await create(wish, caller, options), joined: false }
      } catch (error) {
        const holder = wish.ifHeld === 'join' ? holderOf(error) : undefined
        if (holder === undefined) throw error
        const sandbox = await joined(holder, caller).catch((cause: unknown) => {
          // It has just ended; then it is this caller's turn, or the next one's.
          if (tries < mostJoinTries && isOneOf(cause, ['sandbox_not_found', 'sandbox_not_running'])) return undefined
          throw cause
        })
        if (sandbox) return { sandbox, joined: true }
        await clock.sleep(joinRetryMs)
      }
    }
  }

  /** The sandbox that holds the workspace, as soon as it runs. */
  async function joined(sandboxId: string, caller: DoorCaller): Promise<Sandbox> {
    const entry = await entryFor(sandboxId, caller)
    return entries.inTurn(entry, async () => {
      if (!holdsBox(entry.record.state)) {
        throw new DeltaError('sandbox_not_running', `Sandbox ${sandboxId} is ${entry.record.state}`)
      }
      return view(entry.record)
    })
  }

  /** Its workspace as it was; the sandbox starts anew on it. */
  async function rollback(sandboxId: string, snapshotId: string, caller: DoorCaller): Promise<Sandbox> {
    const entry = await entryToChange(sandboxId, caller)
    return entries.inTurn(entry, async () => {
      const { workspaceId } = entry.record
      if (workspaceId === null) {
        throw new DeltaError('sandbox_state_conflict', `Sandbox ${sandboxId} has no workspace to roll back`, {
          context: { sandboxId, state: entry.record.state },
        })
      }
      await lifecycle.act(entry, 'stop', 'stop_requested')
      await workspaces.rollback(workspaceId, snapshotId, caller)
      await lifecycle.act(entry, 'start', 'start_requested')
      return view(entry.record)
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

  /** `checkReach` says whether whoever asks may; without it nobody in particular does. */
  async function setNetwork(
    sandboxId: string,
    network: Network,
    caller: DoorCaller,
    checkReach?: CheckReach,
  ): Promise<Network> {
    const after = await change(sandboxId, caller, (record) => {
      checkReach?.(network.egress, record.network.egress)
      return { ...record, network }
    })
    deps.egress?.enforce(sandboxId)
    return after.network
  }

  async function allowEgress(
    sandboxId: string,
    more: AllowEgress,
    caller: DoorCaller,
    checkReach?: CheckReach,
  ): Promise<Network> {
    const after = await change(sandboxId, caller, (record) => {
      const egress = widened(record.network.egress, more)
      checkReach?.(egress, record.network.egress)
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
    const entry = await entryToChange(sandboxId, caller)
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

  async function get(sandboxId: string, caller: DoorCaller): Promise<Sandbox> {
    return view(await recordOf(sandboxId, caller))
  }

  async function getNetwork(sandboxId: string, caller: DoorCaller): Promise<Network> {
    return (await recordOf(sandboxId, caller)).network
  }

  async function recordOf(sandboxId: string, caller: DoorCaller): Promise<SandboxRecord> {
    const known = entries.get(sandboxId)?.record
    if (known && isSeenBy(known, caller)) return known
    const record = isId('sbx', sandboxId) ? await store.get(sandboxId) : undefined
    if (!record || !isSeenBy(record, caller)) throw notFound(sandboxId)
    return record
  }

  /** A runtime with a kernel of its own keeps writes to itself for a while; a snapshot from outside would miss them. */
  async function settleFiles(sandboxId: string, limitMs = settleMs): Promise<void> {
    const entry = entries.get(sandboxId)
    if (entry?.record.state !== 'running' || !knownDriver().ownKernelRuntimes.includes(entry.record.runtime)) return
    // Not in its turn: a stop that has it may be waiting for the workspace, which whoever asks this has.
    const guest = entry.link?.guest ?? (await lifecycle.reach(sandboxId, entry.record.boxId!))
    try {
      await guest.sync({ signal: AbortSignal.timeout(limitMs) })
    } finally {
      if (guest !== entry.link?.guest) guest.close()
    }
  }

  /** Whether it is there and not over, whosever it is. */
  async function isAlive(sandboxId: string): Promise<boolean> {
    const record = entries.get(sandboxId)?.record ?? (await store.get(sandboxId))
    return record !== undefined && !isOver(record.state)
  }

  async function list(
    { accountId, only, actorId }: DoorCaller,
    filter: {
      agentId?: string | undefined
      states?: SandboxState[] | undefined
      metadata: Record<string, string>
      limit: number
      cursor?: string | undefined
    },
  ): Promise<Page<Sandbox>> {
    const before = readCursor(filter.cursor, ['sbx'])
    const { states, agentId, metadata, limit } = filter
    const seenBy = actorId !== undefined && isId('agt', actorId) ? actorId : undefined
    // One more than asked tells whether there is a next page.
    const found = await store.list({ accountId, only, agentId, seenBy, states, metadata, limit: limit + 1, before })
    const { items, nextCursor } = pageOf(found, limit)
    return { data: items.map(view), nextCursor }
  }

  async function metrics(sandboxId: string, caller: DoorCaller): Promise<SandboxMetrics> {
    const { state, reason, boxId, startedAt } = await recordOf(sandboxId, caller)
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
    caller: DoorCaller,
    { limit, cursor }: { limit: number; cursor?: string | undefined },
  ): Promise<Page<SandboxLog>> {
    await recordOf(sandboxId, caller)
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
      nextCursor: found.length > limit ? writeCursor(`${shown.at(-1)!.sequence}`) : null,
    }
  }

  const door: SandboxDoor = {
    open(sandboxId, caller, options) {
      const entry = entries.get(sandboxId)
      if (entry?.link && entry.record.state === 'running' && isSeenBy(entry.record, caller) && !stopping) {
        if (entry.record.idleTimeoutMs !== null) activity.note(sandboxId)
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
    if (entry.record.idleTimeoutMs !== null) activity.note(sandboxId)
    const mayWake = wake && isRunBy(entry.record, caller)
    const opening = mayWake
      ? openTogether(entry)
      : entries.inTurn(entry, () => lifecycle.open(entry, { wake: mayWake }))
    const opened = await (signal ? orAborted(opening, signal) : opening)
    // Waking takes its time: what let the caller in may have been taken back meanwhile.
    if (deps.isOver?.(caller)) throw new DeltaError('unauthorized', 'The key, token or session has ended')
    return opened
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

  /** Nothing was asked of it for its idle time: it stops, unless somebody is still at work in it. */
  async function stopIdle(sandboxId: string): Promise<void> {
    const entry = entries.get(sandboxId)
    const limitMs = entry?.record.idleTimeoutMs ?? null
    if (!entry || limitMs === null || entry.record.state !== 'running' || stopping) return
    try {
      const leftMs = limitMs - activity.idleMs(sandboxId)
      if (leftMs > 0) return idles.set(sandboxId, leftMs)
      const { guest } = await entries.inTurnAlways(entry, () => lifecycle.open(entry, { wake: false }))
      if (await isAtWork(guest)) {
        activity.note(sandboxId)
        return idles.set(sandboxId, nextLookMs(limitMs))
      }
      await entries.inTurnAlways(entry, async () => {
        const { state, idleTimeoutMs } = entry.record
        if (stopping || state !== 'running' || idleTimeoutMs === null) return
        // Somebody came while it was asked.
        if (guest.channels > 0 || activity.idleMs(sandboxId) < idleTimeoutMs) {
          return idles.set(sandboxId, nextLookMs(idleTimeoutMs))
        }
        await lifecycle.act(entry, 'stop', 'idle')
      })
    } catch (error) {
      log.warn('sandbox_idle_stop_failed', { sandboxId, error })
      if (entry.record.state === 'running' && !stopping) idles.set(sandboxId, retryTimeoutMs)
    }
  }

  function onDeath(boxId: string, cause: DeathCause): void {
    pool.died(boxId, cause)
    for (const entry of entries.all()) {
      if (entry.record.boxId !== boxId) continue
      entries
        .inTurnAlways(entry, () => lifecycle.buryDead(entry, boxId, cause))
        .catch((error: unknown) => log.error('sandbox_not_buried', { sandboxId: entry.record.id, error }))
    }
  }

  /**
   * Learns what is there and brings rows and boxes together. Resolves as soon as every sandbox is known and requests can be served; each waits
   * for its own mending only. `reconciled` resolves when all of it is done.
   */
  async function start(): Promise<{ reconciled: Promise<void> }> {
    const sealed = await store.sealPlain()
    if (sealed > 0) log.info('sandbox_env_sealed', { sandboxes: sealed })
    const [info, rows, listed] = await Promise.all([driver.info(), store.unfinished(), driver.list()])
    driverInfo = info
    stopListening = driver.onDeath(onDeath)
    const { found, strayBoxes, strayUppers } = sortFound(rows, listed)
    const work: Promise<void>[] = []
    const held = await workspaces.held()
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
    await metering?.start()
    events.on('sandbox.changed', pool.look)
    janitor = keepTidy()
    return { reconciled: Promise.all(work).then(() => letGoOfTheEnded(held)) }
  }

  /** Workspaces whose sandbox ended while the server was away, or was never written. */
  async function letGoOfTheEnded(held: { workspaceId: string; sandboxId: string }[]): Promise<void> {
    for (const { workspaceId, sandboxId } of held) {
      const state = (entries.get(sandboxId)?.record ?? (await store.get(sandboxId)))?.state
      if (state !== undefined && holdsBox(state)) continue
      await workspaces
        .release(workspaceId, sandboxId, { snapshot: 'stop' })
        .catch((error: unknown) => log.error('workspace_not_released', { workspaceId, sandboxId, error }))
    }
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
    idles.close()
    janitorSleep.abort()
    await janitor
    await Promise.allSettled(claiming)
    await Promise.all([pool.stop(), ...Array.from(entries.all(), (entry) => entry.tail)])
    if (mode === 'stop-all') {
      const live = Array.from(entries.all()).filter(({ record }) => holdsBox(record.state))
      await Promise.all(live.map((entry) => endGate.pass(() => stopOne(entry))))
    }
    await metering?.stop()
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
    /** A template was built anew: what is kept ready of the old one is given up. */
    templateBuilt: pool.renew,
    /** Boxes kept ready are not replaced from now on. */
    rest: pool.rest,
    stop,
    create,
    createOrJoin,
    rollback,
    get,
    isAlive,
    ofAgents: store.ofAgents,
    settleFiles,
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
    kill,
    door,
    events,
    /** Sandboxes this process holds, by state; those at rest without a box are not among them. */
    counts: entries.counts,
    /** What became of the tokens that pay for the time of sandboxes. */
    meterCounts: () => metering?.counts(),
    /** Boxes kept ready. */
    poolCounts: pool.counts,
    /** Sandboxes waiting for their box to be made. */
    waiting: () => makeGate.waiting,
  }
}

/** How often a join meets a sandbox that is just ending before it gives up. */
const mostJoinTries = 50
const joinRetryMs = 100

function holderOf(error: unknown): string | undefined {
  if (!(error instanceof DeltaError) || error.code !== 'workspace_in_use') return undefined
  const holder = error.context?.['sandboxId']
  return typeof holder === 'string' ? holder : undefined
}

function isOneOf(error: unknown, codes: readonly ErrorCode[]): boolean {
  return error instanceof DeltaError && codes.includes(error.code)
}

function holdOf({ workspaceId }: Lease, sandboxId: string) {
  return { workspaceId, sandboxId }
}

const straysKept = {
  meaning:
    'There are sandboxes, but this database is empty: nothing was removed, and none is kept ready. Start with the database they belong to, or run `delta-helper end-all` and remove the pool to give them up.',
}

/** The agent whose sandbox it is pays for it; without one the reserve of the account does. */
function payerOf({ agentId }: SandboxRecord): string | undefined {
  return agentId ?? undefined
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

function readLogsCursor(cursor: string): number {
  const text = textOfCursor(cursor)
  if (!/^[0-9]{1,15}$/.test(text)) throw badCursor()
  return Number(text)
}

function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(new DeltaError('canceled', 'The request was given up by its sender'))
    signal.addEventListener('abort', onAbort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}
