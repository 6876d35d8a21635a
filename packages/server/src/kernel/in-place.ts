import { type NetConnectOpts, Socket } from 'node:net'
import type { Duplex } from 'node:stream'

/** Hears bytes where they were read: they are its own until it returns, then others are read into the same place. */
export type InPlaceListener = (bytes: Buffer) => void

/** As much as is read at once. */
const placeBytes = 64 * 1024
/**
 * One place for all sockets, since each is done with it before the next is read. Fresh memory for every 64 KiB, as a stream takes it, has
 * the whole heap marked for every few MiB: at hundreds of MB a second that costs more than the bytes themselves.
 */
const place = Buffer.allocUnsafeSlow(placeBytes)
const listeners = new WeakMap<Duplex, { hear: InPlaceListener }>()

/** A socket for `readInPlace`, which emits no 'data'. It reads nothing before. */
export function connectInPlace({ allowHalfOpen, ...where }: NetConnectOpts & { allowHalfOpen?: boolean }): Socket {
  return socketInPlace({ allowHalfOpen }).connect(where)
}

/** The same, not connected yet. */
export function socketInPlace({ allowHalfOpen = false }: { allowHalfOpen?: boolean | undefined }): Socket {
  const listener = { hear: (_bytes: Buffer): void => undefined }
  const callback = (bytes: number): boolean => {
    listener.hear(place.subarray(0, bytes))
    return true
  }
  const socket = new Socket({ allowHalfOpen, onread: { buffer: place, callback } })
  socket.pause()
  listeners.set(socket, listener)
  return socket
}

/** From now on the listener gets what comes, of any stream; one that was made by `connectInPlace` costs no memory for it. */
export function readInPlace(stream: Duplex, hear: InPlaceListener): void {
  const listener = listeners.get(stream)
  if (listener) listener.hear = hear
  else stream.on('data', hear)
  stream.resume()
}
