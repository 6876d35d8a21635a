import type { Socket } from 'node:net'
import type { GuestErrorName } from '../../guest/client.ts'
import type { Clock } from '../../kernel/clock.ts'
import type { Address, AddressGuard } from './addresses.ts'
import { type ConnectSocket, connectFirst, socketErrorOf } from './connect.ts'
import { NameError, type Names } from './names.ts'
import { oneLine, shownTarget, type Target } from './rules.ts'
import type { Upstream } from './upstream.ts'

/** From the wish to the connection, with the resolving of its name. */
const connectMs = 15_000

/** Why a connection did not come about: for the log a word, for the program inside a code and a line. */
export class OutwardError extends Error {
  readonly outcome: 'refused' | 'failed'
  readonly reason: string
  readonly code: GuestErrorName
  constructor(outcome: OutwardError['outcome'], reason: string, code: GuestErrorName, message: string) {
    super(oneLine(message))
    this.name = 'OutwardError'
    this.outcome = outcome
    this.reason = reason
    this.code = code
  }
}

export interface Outward {
  socket: Socket
  /** Null where an upstream proxy connected. */
  address: string | null
}

export type ConnectOutward = (owner: string, target: Target, signal: AbortSignal) => Promise<Outward>

export interface OutwardDeps {
  names: Names
  guard: AddressGuard
  connect: ConnectSocket
  clock: Clock
  /** The operator's proxy, through which everything goes where there is one. */
  upstream?: Upstream | undefined
}

/**
 * Connects to where a policy allows it: resolves, judges every address, and connects to exactly one of those it judged, so that a name which
 * leads elsewhere the second time gains nothing.
 */
export function createOutward({ names, guard, connect, clock, upstream }: OutwardDeps): ConnectOutward {
  return async (owner, target, signal) => {
    const patience = new AbortController()
    const onAbort = (): void => patience.abort(signal.reason)
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
    const late = new OutwardError('failed', 'timed_out', 'timed_out', `${shownTarget(target)} did not answer in time`)
    const timer = new AbortController()
    clock.sleep(connectMs, timer.signal).then(
      () => patience.abort(late),
      () => undefined,
    )
    try {
      return await orAborted(upstream ? throughProxy(upstream) : direct(), patience.signal)
    } finally {
      timer.abort()
      signal.removeEventListener('abort', onAbort)
    }

    async function direct(): Promise<Outward> {
      const all = await resolved(names, owner, target)
      const fit = all.filter((address) => isFit(guard, address))
      if (fit.length === 0) throw notPublic(target)
      const { socket, address } = await connectFirst(connect, fit, target.port, patience.signal).catch((cause) => {
        throw connectError(target, cause)
      })
      return { socket, address: address.address }
    }

    async function throughProxy(proxy: Upstream): Promise<Outward> {
      // The proxy may know names that are not known here; of those nothing can be judged.
      const all = await resolved(names, owner, target).catch((error: unknown) => {
        if (error instanceof OutwardError && error.reason === 'name_unknown') return []
        throw error
      })
      // The proxy resolves for itself and may take any of them.
      if (!all.every((address) => isFit(guard, address))) throw notPublic(target)
      const socket = await proxy(target, patience.signal).catch((cause) => {
        throw cause instanceof OutwardError ? cause : connectError(target, cause)
      })
      return { socket, address: null }
    }
  }
}

function isFit(guard: AddressGuard, address: Address): boolean {
  const verdict = guard.judge(address)
  return verdict === 'public' || verdict === 'listed'
}

async function resolved(names: Names, owner: string, target: Target): Promise<Address[]> {
  try {
    return await names.resolve(owner, target.host)
  } catch (cause) {
    if (!(cause instanceof NameError)) throw cause
    const where = shownTarget(target)
    if (cause.code === 'busy') {
      throw new OutwardError('refused', 'too_many_names', 'limit', `Egress to ${where} has to wait: ${cause.message}`)
    }
    const [reason, code] =
      cause.code === 'not_found'
        ? (['name_unknown', 'not_found'] as const)
        : (['name_not_resolved', 'timed_out'] as const)
    throw new OutwardError('failed', reason, code, `Egress to ${where} failed: ${cause.message}`)
  }
}

function notPublic(target: Target): OutwardError {
  const message = `Egress to ${shownTarget(target)} is refused: it leads to an address that is not public; the operator of the server can allow it in DELTA_EGRESS_ALLOW_CIDRS`
  return new OutwardError('refused', 'address_not_public', 'permission_denied', message)
}

function connectError(target: Target, cause: unknown): unknown {
  const code = socketErrorOf(cause)
  if (code === undefined) return cause
  const where = shownTarget(target)
  if (code === 'ETIMEDOUT') {
    return new OutwardError('failed', 'timed_out', 'timed_out', `Egress to ${where} failed: it did not answer in time`)
  }
  return new OutwardError('failed', 'not_connected', 'connection_refused', `Egress to ${where} failed: ${code}`)
}

/** Rejects with the signal's reason at once; a socket that comes later is closed. */
function orAborted(connecting: Promise<Outward>, signal: AbortSignal): Promise<Outward> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason as Error)
    if (signal.aborted) onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    connecting
      .then((outward) => {
        if (signal.aborted) outward.socket.destroy()
        else resolve(outward)
      }, reject)
      .finally(() => signal.removeEventListener('abort', onAbort))
  })
}
