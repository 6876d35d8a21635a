import { connect } from 'node:net'
import type { Socket } from 'node:net'
import type { Address } from './addresses.ts'

/** A further address is tried when the one before has not answered for this long (RFC 8305 has 250 ms). */
const staggerMs = 250
const mostTried = 6

/** Begins to connect; tells of the rest by events. */
export type ConnectSocket = (address: Address, port: number) => Socket

export const connectSocket: ConnectSocket = ({ address, family }, port) =>
  connect({ host: address, port, family, noDelay: true, keepAlive: true, allowHalfOpen: true })

export interface Connected {
  socket: Socket
  address: Address
}

/** Connects to whichever address answers first; each is tried when the one before failed or takes long. Exactly these are tried. */
export function connectFirst(
  connectTo: ConnectSocket,
  addresses: readonly Address[],
  port: number,
  signal: AbortSignal,
): Promise<Connected> {
  return new Promise((resolve, reject) => {
    const untried = inTurns(addresses).slice(0, mostTried)
    const trying = new Set<Socket>()
    let timer: NodeJS.Timeout | undefined
    let lastError: unknown

    const finish = (): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
      untried.length = 0
      for (const socket of trying) socket.destroy()
      trying.clear()
    }
    const onAbort = (): void => {
      finish()
      reject(signal.reason as Error)
    }
    const tryNext = (): void => {
      clearTimeout(timer)
      const address = untried.shift()
      if (!address) {
        if (trying.size > 0) return
        finish()
        return reject(lastError as Error)
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
        resolve({ socket, address })
      })
      timer = setTimeout(tryNext, staggerMs)
    }
    if (signal.aborted) return onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    tryNext()
  })
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
