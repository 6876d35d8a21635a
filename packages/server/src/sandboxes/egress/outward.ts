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

/** Hears one of the two, once, perhaps before `ConnectOutward` has returned. */
export interface OutwardListener {
  connected(outward: Outward): void
  failed(error: unknown): void
}

/**
 * By calls and not by promises and signals, which cost half of what a quick connection does. What it returns gives up: the listener hears the reason
 * at once, where it has heard nothing yet.
 */
export type ConnectOutward = (owner: string, target: Target, listener: OutwardListener) => (reason: Error) => void

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
  return (owner, target, listener) => {
    let over = false
    let stop = (): void => {}
    /** The one place where it ends; false where it has. */
    const ends = (): boolean => {
      if (over) return false
      over = true
      forgetTimer()
      return true
    }
    const connected = (outward: Outward): void => {
      if (ends()) listener.connected(outward)
      else outward.socket.destroy()
    }
    const failed = (cause: unknown): void => {
      if (ends()) listener.failed(cause)
    }
    const giveUp = (reason: Error): void => {
      if (!ends()) return
      stop()
      listener.failed(reason)
    }
    const forgetTimer = clock.after(connectMs, () => giveUp(lateError(target)))

    const direct = (all: Address[]): void => {
      if (over) return
      const fit = all.filter((address) => isFit(guard, address))
      if (fit.length === 0) return failed(notPublic(target))
      stop = connectFirst(connect, fit, target.port, {
        connected: (socket, { address }) => connected({ socket, address }),
        failed: (cause) => failed(connectError(target, cause)),
      })
    }
    const throughProxy = async (proxy: Upstream): Promise<Outward> => {
      const aborter = new AbortController()
      stop = () => aborter.abort(new Error('given up'))
      // The proxy may know names that are not known here; of those nothing can be judged.
      const all = await resolved(names, owner, target).catch((error: unknown) => {
        if (error instanceof OutwardError && error.reason === 'name_unknown') return []
        throw error
      })
      // The proxy resolves for itself and may take any of them.
      if (!all.every((address) => isFit(guard, address))) throw notPublic(target)
      const socket = await proxy(target, aborter.signal).catch((cause) => {
        throw cause instanceof OutwardError ? cause : connectError(target, cause)
      })
      return { socket, address: null }
    }

    if (upstream) {
      throughProxy(upstream).then(connected, failed)
      return giveUp
    }
    const known = names.known(target.host)
    if (known) direct(known)
    else resolved(names, owner, target).then(direct).catch(failed)
    return giveUp
  }
}

/** For who waits with others, and can. */
export function awaitOutward(
  connectOutward: ConnectOutward,
  owner: string,
  target: Target,
  signal: AbortSignal,
): Promise<Outward> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason as Error)
    const onAbort = (): void => giveUp(signal.reason as Error)
    signal.addEventListener('abort', onAbort, { once: true })
    const leave = (): void => signal.removeEventListener('abort', onAbort)
    const giveUp = connectOutward(owner, target, {
      connected(outward) {
        leave()
        resolve(outward)
      },
      failed(error) {
        leave()
        reject(error as Error)
      },
    })
  })
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

function lateError(target: Target): OutwardError {
  return new OutwardError('failed', 'timed_out', 'timed_out', `${shownTarget(target)} did not answer in time`)
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
