import type { Socket } from 'node:net'
import type { Channel, ChannelOwner } from './channel.ts'
import { violation } from './channel.ts'
import type { GuestErrorName } from './errors.ts'
import { createInbox } from './inbox.ts'
import type { Link } from './link.ts'

const socketStream = 0
/** What one write to the socket carries at most. */
const batchBytes = 256 * 1024
/** A connection with less than this waiting is never the one that is given up for what waits in all. */
const smallBacklogBytes = 64 * 1024

/** What waits for far sides that do not read, of all bridges that share it. Beyond `mostBytes` the one that adds to it is cut. */
export interface Backlog {
  bytes: number
  readonly mostBytes: number
  /** The same of all that share memory: while those hold more than `mostBytes`, this one may hold no more than `shareBytes`. */
  readonly all?: { bytes: number; readonly mostBytes: number; readonly shareBytes: number }
}

export interface BridgeOptions {
  /** A connection on which nothing moves for this long is cut. */
  idleMs: number
  backlog: Backlog
}

/** Both sides ended well; the far side broke off; the guest did, or its connection ended; nothing moved; too much waited; by `cut`. */
export type BridgeEnd = 'closed' | 'reset' | 'guest' | 'idle' | 'backlog' | 'cut'

export interface Bridge {
  bytes(): { up: number; down: number }
  /** Ends both sides at once and tells the guest why. */
  cut(code: GuestErrorName, message: string): void
  readonly ended: Promise<BridgeEnd>
}

/**
 * Joins a channel with a connected socket (made with `allowHalfOpen`), which it then owns. Chunks pass from one to the other as they are,
 * without a stream of their own between them. A half-closed side stays so, and each side holds the other back.
 */
export function bridgeChannel(
  link: Link,
  accept: (owner: ChannelOwner) => Channel,
  socket: Socket,
  { idleMs, backlog }: BridgeOptions,
): Bridge {
  const ended = Promise.withResolvers<BridgeEnd>()
  let up = 0
  let down = 0
  let received = 0
  /** What waits here, and what the kernel has not taken of what was written. */
  let heldBytes = 0
  let writtenBytes = 0
  let writing = false
  let guestEnded = false
  let farEnded = false
  let over = false

  const inbox = createInbox((bytes) => link.consumed(channel, bytes))

  const hold = (bytes: number): void => {
    heldBytes += bytes
    backlog.bytes += bytes
    if (backlog.all) backlog.all.bytes += bytes
  }

  const holdsTooMuch = (): boolean => {
    if (heldBytes <= smallBacklogBytes) return false
    const { all } = backlog
    return backlog.bytes > (all && all.bytes > all.mostBytes ? all.shareBytes : backlog.mostBytes)
  }

  const finish = (how: BridgeEnd): void => {
    if (over) return
    over = true
    hold(-heldBytes)
    inbox.drop()
    socket.destroy()
    ended.resolve(how)
  }

  const giveUp = (how: BridgeEnd, code: GuestErrorName, message: string): void => {
    if (over) return
    finish(how)
    link.closeAccepted(channel, code, message)
  }

  /** Both directions have ended, and everything was handed on. */
  const settle = (): void => {
    if (over || !farEnded || !guestEnded || writing || !socket.writableFinished) return
    finish('closed')
    link.closeAccepted(channel, undefined, '')
  }

  // ── from the guest ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  const onWritten = (error?: Error | null): void => {
    // The socket's own error event tells the rest.
    if (error || over) return
    hold(-writtenBytes)
    writtenBytes = 0
    writeBatch()
  }

  const writeBatch = (): void => {
    let chunk = inbox.take()
    writing = chunk !== undefined
    if (!chunk) {
      if (guestEnded) socket.end(settle)
      return
    }
    socket.cork()
    let batch = chunk.bytes.length
    for (let next = batch < batchBytes ? inbox.take() : undefined; next;) {
      socket.write(chunk.bytes)
      chunk = next
      batch += next.bytes.length
      next = batch < batchBytes ? inbox.take() : undefined
    }
    up += batch
    writtenBytes = batch
    socket.write(chunk.bytes, onWritten)
    socket.uncork()
  }

  const onData = (bytes: Buffer): void => {
    if (over) return
    hold(bytes.length)
    if (!writing) {
      writing = true
      up += bytes.length
      writtenBytes = bytes.length
      socket.write(bytes, onWritten)
      return link.consumed(channel, bytes.length)
    }
    inbox.push({ stream: socketStream, offset: received, bytes, gap: 0 })
    if (holdsTooMuch()) {
      giveUp('backlog', 'limit', 'Too many connections of this sandbox wait for far sides that do not read.')
    }
  }

  const channel = accept({
    streams: [socketStream],
    data(_stream, offset, bytes) {
      if (offset !== received) throw violation(`data at ${offset} instead of ${received}`)
      received += bytes.length
      onData(bytes)
    },
    ended() {
      guestEnded = true
      if (!writing && !over) writeBatch()
    },
    closed: () => finish('guest'),
    failed: () => finish('guest'),
  })

  // ── from the far side ──────────────────────────────────────────────────────────────────────────────────────────────────────

  const onFarEnd = (): void => {
    if (over) return
    farEnded = true
    link.sendEnd(channel)
    settle()
  }

  let sending: Promise<void> | undefined
  socket.on('data', (chunk: Buffer) => {
    if (over) return
    down += chunk.length
    sending = link.send(channel, chunk)
    if (!sending) return
    socket.pause()
    sending.then(
      () => {
        sending = undefined
        socket.resume()
      },
      // The channel's end tells why.
      () => {},
    )
  })
  let farEnding = false
  socket.on('end', () => {
    farEnding = true
    if (sending) sending.then(onFarEnd, () => {})
    else onFarEnd()
  })
  socket.on('error', (error: NodeJS.ErrnoException) => {
    giveUp('reset', 'io', `The connection broke off (${error.code ?? 'error'}).`)
  })
  socket.on('close', () => {
    // Both sides said their end, and the guest has yet to take the last of it.
    if (farEnding && socket.writableFinished) return
    giveUp('reset', 'io', 'The connection broke off.')
  })
  socket.setTimeout(idleMs, () => giveUp('idle', 'timed_out', `Nothing moved for ${Math.round(idleMs / 1_000)} s.`))
  // Who made it may have read an answer of a proxy from it and paused it then.
  socket.resume()
  if (socket.destroyed) giveUp('reset', 'io', 'The connection broke off.')

  return {
    bytes: () => ({ up, down }),
    cut: (code, message) => giveUp('cut', code, message),
    ended: ended.promise,
  }
}
