import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { socketInPlace } from '../../kernel/in-place.ts'
import type { Address } from './addresses.ts'

/** A further address is tried when the one before has not answered for this long (RFC 8305 has 250 ms). */
const staggerMs = 250
const mostTried = 6

/** Begins to connect; tells of the rest by events, and of what it reads to `readInPlace`. */
export type ConnectSocket = (address: Address, port: number) => Socket

/** For the next connection, made when one has ended: a program waits for each, and making one is a good part of what the server adds to it. */
let spare: Socket | undefined

export const connectSocket: ConnectSocket = ({ address, family }, port) => {
  const socket = spare ?? socketInPlace({ allowHalfOpen: true })
  spare = undefined
  // When the program has heard that it is connected: its first bytes are sent at once in any case.
  socket.once('connect', () =>
    setImmediate(() => {
      if (!socket.destroyed) socket.setNoDelay(true).setKeepAlive(true)
    }),
  )
  socket.once('close', () => (spare ??= socketInPlace({ allowHalfOpen: true })))
  return socket.connect({ host: address, port, family })
}

/** For readers of the server's own, who read it as any socket. */
export const connectPlainly: ConnectSocket = ({ address, family }, port) =>
  connect({ host: address, port, family, noDelay: true, keepAlive: true })

/** Hears one of the two, once, and never before `connectFirst` has returned. */
export interface ConnectListener {
  connected(socket: Socket, address: Address): void
  failed(error: unknown): void
}

/**
 * Connects to whichever address answers first; each is tried when the one before failed or takes long. Exactly these are tried. What it returns
 * gives up: nothing is heard after that.
 */
export function connectFirst(
  connectTo: ConnectSocket,
  addresses: readonly Address[],
  port: number,
  listener: ConnectListener,
): () => void {
  const untried = (addresses.length > 1 ? inTurns(addresses) : [...addresses]).slice(0, mostTried)
  const trying = new Set<Socket>()
  let timer: NodeJS.Timeout | undefined
  let lastError: unknown

  const finish = (): void => {
    clearTimeout(timer)
    untried.length = 0
    for (const socket of trying) socket.destroy()
    trying.clear()
  }
  const tryNext = (): void => {
    clearTimeout(timer)
    const address = untried.shift()
    if (!address) {
      if (trying.size === 0) listener.failed(lastError)
      return
    }
    const socket = connectTo(address, port)
    trying.add(socket)
    const onError = (error: Error): void => {
      lastError = error
      if (trying.delete(socket)) tryNext()
    }
    // Stays: an error event that nobody hears would end the server, and one that was given up may still tell of one.
    socket.on('error', onError)
    socket.once('connect', () => {
      if (!trying.delete(socket)) return
      finish()
      listener.connected(socket, address)
    })
    if (untried.length > 0) timer = setTimeout(tryNext, staggerMs)
  }
  tryNext()
  return finish
}

/** Both kinds in turn, so that a machine without one of them gets to the other soon. */
function inTurns(addresses: readonly Address[]): Address[] {
  const first = addresses.filter(({ family }) => family === addresses[0]?.family)
  const second = addresses.filter(({ family }) => family !== addresses[0]?.family)
  const mixed: Address[] = []
  for (let index = 0; index < Math.max(first.length, second.length); index++) {
    for (const address of [first[index], second[index]]) if (address) mixed.push(address)
  }
  return mixed
}

/** The system's word for what went wrong with a socket; undefined for anything else. */
export function socketErrorOf(error: unknown): string | undefined {
  const { code, syscall } = error as NodeJS.ErrnoException
  return error instanceof Error && code !== undefined && syscall !== undefined ? code : undefined
}
