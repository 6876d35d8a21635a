import type { Bridge, BridgeEnd, EgressRequest, GuestErrorName } from '../../guest/client.ts'
import { GuestError } from '../../guest/client.ts'
import type { Clock } from '../../kernel/clock.ts'
import type { Database } from '../../kernel/db/database.ts'
import { createEvents, type Events } from '../../kernel/events.ts'
import { readCursor, writeCursor } from '../../kernel/http/cursors.ts'
import { mayHold } from '../../kernel/held-bytes.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { newId } from '../../kernel/ids.ts'
import type { Logger } from '../../kernel/log.ts'
import { createQuota, type Quota } from '../../kernel/quota.ts'
import type { MeterCounts, MeterLedger } from '../metering/ledger.ts'
import { type ConnectionCredit, createCredits } from './credit.ts'
import type { EgressEvents } from './events.ts'
import { type ConnectOutward, type Outward, OutwardError } from './outward.ts'
import { createRecorder } from './recorder.ts'
import { hostOf } from './rule-text.ts'
import { type EgressPolicy, mayConnect, oneLine, policyRefusal, shownTarget, type Target } from './rules.ts'
import type { EgressConnectionView, EgressOutcome } from './schema.ts'
import { createEgressStore, type EgressRecord } from './store.ts'

export { checkHostOf, checkReachOf } from './reach.ts'
export { bounded } from './rules.ts'

export interface EgressDeps {
  database: Database
  clock: Clock
  log: Logger
  connectOutward: ConnectOutward
  /** Where bytes are paid. Without it none is metered. */
  ledger?: MeterLedger | undefined
  /** @default egressLimits.connections */
  mostConnections?: number
  /** Sandboxes that there may be at once: each has its part of half of all connections. @default 1000 */
  mostSandboxes?: number
}

/** What one sandbox, and all together, may do at once. */
export const egressLimits = {
  connectionsPerSandbox: 256,
  connections: 4_096,
  /** Connections asked for by one sandbox: so many at once, and so many a second in the long run. */
  opens: { burst: 512, perSecond: 50 },
  /** Rows of refused and failed connections of one sandbox; more are counted in one row. */
  refusedRows: { burst: 60, perSecond: 0.5 },
  /** A row that stands for several is written this long after the first of them. */
  countedRowMs: 30_000,
  idleMs: 15 * 60_000,
} as const

/** Whose connections they are, and what they may do at the moment they are asked. */
export interface EgressOwner {
  sandboxId: string
  accountId: string
  /** The agent that pays; without one the account's reserve does. */
  payer?: string | undefined
  policy: () => EgressPolicy
}

export interface Egress {
  /** What takes the connections of a guest; to be given to each connection to it. */
  handlerFor(owner: EgressOwner): (request: EgressRequest) => void
  /** The policy of a sandbox has changed: what it refuses now is cut. */
  enforce(sandboxId: string): void
  /** Ends all connections of a sandbox. */
  endAll(sandboxId: string, why: string): void
  /** What is known of connections that ended, newest first. */
  list(
    sandboxId: string,
    accountId: string,
    page: { limit: number; cursor?: string | undefined },
  ): Promise<{ data: EgressConnectionView[]; nextCursor: string | null }>
  events: Events<EgressEvents>
  open(): number
  lostRows(): number
  /** What became of the tokens that pay for bytes. */
  meterCounts(): Readonly<MeterCounts> | undefined
  /** Ends every connection; what is to be logged is written. */
  stop(): Promise<void>
}

interface Connection {
  owner: EgressOwner
  target: Target
  via: EgressRequest['via']
  request: EgressRequest
  at: number
  startedMs: number
  address: string | null
  bridge: Bridge | undefined
  credit: ConnectionCredit | undefined
  /** Ends what is not connected yet. */
  giveUp: (reason: OutwardError) => void
  /** Why it was cut, where it was. */
  cutFor: string | undefined
}

/** What is remembered of one sandbox. */
interface Box {
  live: Set<Connection>
  opens: Quota
  refusedRows: Quota
  /** Refused and failed connections that got no row of their own yet; the last one tells of all. */
  uncounted: EgressRecord | undefined
}

interface Ending {
  outcome: EgressOutcome
  reason: string
}

export function createEgress(deps: EgressDeps): Egress {
  const { clock, log, connectOutward, mostConnections = egressLimits.connections, mostSandboxes = 1_000 } = deps
  const store = createEgressStore(deps.database)
  const events: Events<EgressEvents> = createEvents({ log })
  const recorder = createRecorder({ store, clock, log })
  const credits = deps.ledger && createCredits({ ledger: deps.ledger, clock, log })
  const boxes = new Map<string, Box>()
  const stopped = new AbortController()
  let open = 0
  /** Connections are divided as held bytes are: a part for each sandbox alone, and of the rest half of what the others leave. */
  const part = Math.floor(mostConnections / 2 / mostSandboxes)
  const shared = mostConnections - part * mostSandboxes
  let borrowed = 0

  function boxOf(sandboxId: string): Box {
    const known = boxes.get(sandboxId)
    if (known) return known
    const box: Box = {
      live: new Set(),
      opens: createQuota(egressLimits.opens, clock.monotonic),
      refusedRows: createQuota(egressLimits.refusedRows, clock.monotonic),
      uncounted: undefined,
    }
    boxes.set(sandboxId, box)
    return box
  }

  // ── one connection ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  function take(owner: EgressOwner, request: EgressRequest): void {
    const box = boxOf(owner.sandboxId)
    const host = hostOf(request.host)
    const target = { host: host ?? request.host, port: request.port }
    const connection: Connection = {
      owner,
      target,
      via: request.via,
      request,
      at: clock.now(),
      startedMs: clock.monotonic(),
      address: null,
      bridge: undefined,
      credit: undefined,
      giveUp: () => {},
      cutFor: undefined,
    }
    const isTarget = host !== undefined && target.port !== 0
    const refusal = limitRefusal(box, target) ?? (isTarget ? policyRefusalOf(connection) : noTarget(target))
    if (refusal) return refuse(box, connection, refusal)
    enlist(box, connection)
    carry(box, connection)
  }

  function limitRefusal(box: Box, target: Target): OutwardError | undefined {
    const where = shownTarget(target)
    const no = (reason: string, why: string) =>
      new OutwardError('refused', reason, 'limit', `Egress to ${where} is refused for now: ${why}`)
    if (stopped.signal.aborted) return no('server_stopping', 'the server is stopping')
    if (!box.opens.take())
      return no('too_many_opens', `at most ${egressLimits.opens.perSecond} new connections a second`)
    if (box.live.size >= egressLimits.connectionsPerSandbox) {
      return no('too_many_connections', `${egressLimits.connectionsPerSandbox} connections of this sandbox are open`)
    }
    const others = borrowed - Math.max(0, box.live.size - part)
    if (box.live.size >= mayHold({ part, shared, others })) {
      return no('server_full', 'the server has as many connections as it may have for this sandbox beside the others')
    }
    return undefined
  }

  function enlist(box: Box, connection: Connection): void {
    box.live.add(connection)
    open += 1
    if (box.live.size > part) borrowed += 1
  }

  function strike(box: Box, connection: Connection): void {
    connection.credit?.leave()
    if (box.live.size > part) borrowed -= 1
    open -= 1
    box.live.delete(connection)
  }

  function carry(box: Box, connection: Connection): void {
    const { request, owner, target } = connection
    const failed = (error: unknown): void => {
      strike(box, connection)
      refuse(box, connection, failureOf(target, error))
    }
    const connected = ({ socket, address }: Outward): void => {
      connection.address = address
      try {
        connection.bridge = request.join(socket, { idleMs: egressLimits.idleMs, pay: payerOf(connection) })
      } catch (error) {
        socket.destroy()
        return failed(error)
      }
      void connection.bridge.ended.then((how) => {
        strike(box, connection)
        end(box, connection, { outcome: 'allowed', reason: connection.cutFor ?? endings[how] })
      })
    }
    request.onAbandoned(() => connection.giveUp(new OutwardError('failed', 'given_up', 'canceled', 'Given up inside')))
    // Held while it connects.
    connection.credit = credits?.join(owner)
    connection.credit?.opened?.catch((error: unknown) => endUnpaid(connection, error))
    connection.giveUp = connectOutward(owner.sandboxId, target, { connected, failed })
  }

  function payerOf(connection: Connection): ((bytes: number) => Promise<void> | undefined) | undefined {
    if (!credits) return undefined
    return (bytes) => {
      const paid = connection.credit?.take(bytes)
      paid?.catch((error: unknown) => endUnpaid(connection, error))
      return paid
    }
  }

  /** Nobody pays for what would pass. */
  function endUnpaid(connection: Connection, error: unknown): void {
    if (connection.cutFor !== undefined) return
    const code = error instanceof DeltaError ? error.code : 'internal'
    if (error instanceof DeltaError && error.status < 500) {
      const message = `Egress to ${shownTarget(connection.target)} has ended (${code}): nobody can pay for more bytes. ${howToPay}`
      cut(connection, 'out_of_tokens', 'permission_denied', message)
    } else {
      log.warn('egress_not_held', { sandboxId: connection.owner.sandboxId, error })
      cut(
        connection,
        'unpaid',
        'io',
        `Egress to ${shownTarget(connection.target)} could not be paid just now: try again.`,
      )
    }
  }

  /** A bug of ours is told to the log, and to the program inside as no more than that. */
  function failureOf(target: Target, error: unknown): OutwardError {
    if (error instanceof OutwardError) return error
    if (error instanceof GuestError) {
      const reason = error.code === 'limit' ? 'server_full' : 'given_up'
      return new OutwardError(
        'refused',
        reason,
        'limit',
        `Egress to ${shownTarget(target)} is refused for now: ${error.message}`,
      )
    }
    log.error('egress_failed', { host: target.host, port: target.port, error })
    return new OutwardError('failed', 'internal', 'connection_refused', `Egress to ${shownTarget(target)} failed`)
  }

  function refuse(box: Box, connection: Connection, { outcome, reason, code, message }: OutwardError): void {
    connection.request.refuse(code, message)
    end(box, connection, { outcome, reason: connection.cutFor ?? reason })
  }

  function end(box: Box, connection: Connection, { outcome, reason }: Ending): void {
    const { owner, target, via, at, startedMs, address, bridge } = connection
    const { sandboxId, accountId } = owner
    const { up, down } = bridge?.bytes() ?? { up: 0, down: 0 }
    const durationMs = Math.round(clock.monotonic() - startedMs)
    const facts = { sandboxId, accountId, at, ...shortened(target), via, outcome, reason, durationMs }
    events.emit('egress.ended', { ...facts, bytesUp: up, bytesDown: down })
    log.debug('egress_ended', { ...facts, bytesUp: up, bytesDown: down })
    record(box, { ...facts, id: newId('egc'), address, bytesUp: up, bytesDown: down, count: 1 })
  }

  /** What carried bytes always has its row. Of the others a hostile program makes as many as it likes. */
  function record(box: Box, row: EgressRecord): void {
    if (row.outcome === 'allowed' || (!box.uncounted && box.refusedRows.take())) return recorder.add(row)
    const first = box.uncounted === undefined
    box.uncounted = { ...row, count: (box.uncounted?.count ?? 0) + 1 }
    if (first)
      clock.sleep(egressLimits.countedRowMs, stopped.signal).then(
        () => writeUncounted(box),
        () => undefined,
      )
  }

  function writeUncounted(box: Box): void {
    if (box.uncounted) recorder.add(box.uncounted)
    box.uncounted = undefined
  }

  // ── all of a sandbox ───────────────────────────────────────────────────────────────────────────────────────────────────────

  function cut(connection: Connection, reason: string, code: GuestErrorName, message: string): void {
    connection.cutFor = reason
    if (connection.bridge) connection.bridge.cut(code, message)
    else connection.giveUp(new OutwardError('refused', reason, code, message))
  }

  function endAll(sandboxId: string, why: string): void {
    const box = boxes.get(sandboxId)
    if (!box) return
    for (const connection of box.live)
      cut(connection, why, 'connection_refused', 'The sandbox has no connections any more.')
  }

  return {
    handlerFor: (owner) => (request) => take(owner, request),
    enforce(sandboxId) {
      for (const connection of boxes.get(sandboxId)?.live ?? []) {
        const refusal = policyRefusalOf(connection)
        if (refusal) cut(connection, 'policy_changed', refusal.code, refusal.message)
      }
    },
    endAll(sandboxId, why) {
      endAll(sandboxId, why)
      const box = boxes.get(sandboxId)
      if (!box) return
      writeUncounted(box)
      // Its quota is left behind only with the box that used it up.
      if (why !== 'paused') boxes.delete(sandboxId)
    },
    async list(sandboxId, accountId, { limit, cursor }) {
      await recorder.flush()
      const before = readCursor(cursor, ['egc'])
      // One more than asked tells whether there is a next page.
      const found = await store.list({ sandboxId, accountId, limit: limit + 1, before })
      const shown = found.slice(0, limit)
      const last = shown.at(-1)
      return {
        data: shown.map(viewOf),
        nextCursor: found.length > limit && last ? writeCursor(`${last.at}.${last.id}`) : null,
      }
    },
    events,
    open: () => open,
    lostRows: recorder.lost,
    meterCounts: () => credits?.counts(),
    async stop() {
      stopped.abort()
      const carried: Promise<unknown>[] = []
      for (const [sandboxId, box] of boxes) {
        for (const { bridge } of box.live) if (bridge) carried.push(bridge.ended)
        endAll(sandboxId, 'server_stopped')
      }
      await Promise.all(carried)
      for (const box of boxes.values()) writeUncounted(box)
      await credits?.stop()
      await recorder.close()
    },
  }
}

const howToPay = 'Ask a person or the main agent for tokens (token-requests), or wait until the account is given some.'

const endings: Record<BridgeEnd, string> = {
  closed: 'closed',
  reset: 'broken_off',
  guest: 'closed_inside',
  idle: 'idle',
  cut: 'cut',
}

function noTarget(target: Target): OutwardError {
  const message = oneLine(`${shownTarget(target)} is no host and port to connect to`)
  return new OutwardError('refused', 'invalid_host', 'not_found', message)
}

/** Of a target whose host is in its one form. */
function policyRefusalOf({ owner, target }: Connection): OutwardError | undefined {
  const policy = owner.policy()
  const decision = mayConnect(policy, target)
  if (decision.allowed) return undefined
  const message = policyRefusal(target, policy, owner.sandboxId, decision.reason)
  return new OutwardError('refused', 'policy', 'permission_denied', message)
}

/** A guest may name anything; what is stored and shown is bounded and plain. */
function shortened({ host, port }: Target): Target {
  return { host: host.slice(0, 255).replaceAll(/[^\x21-\x7e]/g, '?'), port }
}

function viewOf(record: EgressRecord): EgressConnectionView {
  const { id, at, host, port, address, via, outcome, reason, bytesUp, bytesDown, durationMs, count } = record
  const shown = { id, at: new Date(at).toISOString(), host, port, address, via, outcome, reason }
  return { ...shown, bytesUp, bytesDown, durationMs, count }
}
