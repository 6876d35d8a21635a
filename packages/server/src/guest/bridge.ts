import type { Socket } from 'node:net'
import { readInPlace } from '../kernel/in-place.ts'
import { giveBlock, leastBlockBytes, takeBlock } from './blocks.ts'
import type { Channel, ChannelOwner } from './channel.ts'
import { violation } from './channel.ts'
import type { GuestErrorName } from './errors.ts'
import type { Link } from './link.ts'

const socketStream = 0
/** What one write to the socket carries at most: so many pieces, each of a block at the most. */
const batchPieces = 4
/** What trickles in behind a write that takes long is collected in pieces of this size, whatever the size of its frames. */
const packBytes = 8 * 1024

/** Memory for bytes that wait, filled from its start. */
interface Piece {
  memory: Buffer
  filled: number
}

export interface BridgeOptions {
  /** A connection on which nothing moves for this long is cut. */
  idleMs: number
  /**
   * Asked before so many bytes pass, in either direction. Undefined: they may. Otherwise they wait for it; where it rejects they never pass, and whoever
   * refused them cuts the connection.
   * @default all may
   */
  pay?: ((bytes: number) => Promise<void> | undefined) | undefined
}

/** Both sides ended well; the far side broke off; the guest did, or its connection ended; nothing moved; by `cut`. */
export type BridgeEnd = 'closed' | 'reset' | 'guest' | 'idle' | 'cut'

export interface Bridge {
  bytes(): { up: number; down: number }
  /** Ends both sides at once and tells the guest why. */
  cut(code: GuestErrorName, message: string): void
  readonly ended: Promise<BridgeEnd>
}

/**
 * Joins a channel with a connected socket (made with `allowHalfOpen`), which it then owns, without a stream of their own between them. Bytes are copied
 * once, into memory that is used again. A half-closed side stays so, and each side holds the other back: the guest gets credit for what the
 * kernel has taken, so what waits here is never more than the channel's window, for which memory is held.
 */
export function bridgeChannel(
  link: Link,
  accept: (owner: ChannelOwner) => Channel,
  socket: Socket,
  { idleMs, pay }: BridgeOptions,
): Bridge {
  const ended = Promise.withResolvers<BridgeEnd>()
  let up = 0
  let down = 0
  let received = 0
  let consumed = 0
  let waiting: Piece[] = []
  /** Or about to. */
  let writing = false
  let guestEnded = false
  let farEnded = false
  let over = false
  let leaveSources = (): void => {}

  const finish = (how: BridgeEnd): void => {
    if (over) return
    over = true
    leaveSources()
    if (received > consumed) link.consumed(channel, received - consumed)
    waiting = []
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

  const keep = (bytes: Buffer): void => {
    for (let from = 0; from < bytes.length;) {
      let last = waiting.at(-1)
      if (!last || last.filled === last.memory.length) {
        last = { memory: memoryFor(bytes.length - from), filled: 0 }
        waiting.push(last)
      }
      const copied = bytes.copy(last.memory, last.filled, from)
      last.filled += copied
      from += copied
    }
  }

  const memoryFor = (bytes: number): Buffer => {
    if (bytes >= leastBlockBytes) return takeBlock()
    return Buffer.allocUnsafeSlow(writing ? Math.max(bytes, packBytes) : bytes)
  }

  const writeBatch = (): void => {
    if (over) return
    const batch = waiting.splice(0, batchPieces)
    writing = batch.length > 0
    if (!writing) {
      if (guestEnded) socket.end(settle)
      return
    }
    const bytes = batch.reduce((sum, { filled }) => sum + filled, 0)
    const paid = pay?.(bytes)
    if (!paid) return write(batch, bytes)
    paid.then(
      () => over || write(batch, bytes),
      () => {},
    )
  }

  const write = (batch: Piece[], bytes: number): void => {
    const onWritten = (error?: Error | null): void => {
      // The socket's own error event tells the rest.
      if (error || over) return
      for (const { memory } of batch) giveBlock(memory)
      consumed += bytes
      writeBatch()
      link.consumed(channel, bytes)
    }
    socket.cork()
    for (const [index, { memory, filled }] of batch.entries()) {
      socket.write(memory.subarray(0, filled), index === batch.length - 1 ? onWritten : undefined)
    }
    up += bytes
    socket.uncork()
  }

  const onData = (bytes: Buffer): void => {
    if (over) return
    keep(bytes)
    if (writing) return
    writing = true
    // With all that comes in this round of the event loop.
    setImmediate(writeBatch)
  }

  const channel = accept({
    streams: [socketStream],
    borrows: true,
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
  let paused = false
  leaveSources = link.held.addSource({
    pause() {
      paused = true
      socket.pause()
    },
    resume() {
      paused = false
      if (!sending) socket.resume()
    },
  })
  const hand = (bytes: Buffer): Promise<void> | undefined => {
    const paid = pay?.(bytes.length)
    if (paid) return handLater(Buffer.from(bytes), paid)
    down += bytes.length
    return link.sendCopy(channel, bytes)
  }

  /** What was read and is not paid yet: others are read into the same place meanwhile. */
  const handLater = async (bytes: Buffer, paid: Promise<void>): Promise<void> => {
    link.held.keep(bytes.length)
    try {
      await paid
      if (over) return
      down += bytes.length
      await link.sendCopy(channel, bytes)
    } finally {
      link.held.giveKept(bytes.length)
    }
  }

  readInPlace(socket, (bytes) => {
    if (over) return
    sending = hand(bytes)
    if (!sending) return
    socket.pause()
    sending.then(
      () => {
        sending = undefined
        if (!paused) socket.resume()
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
  if (paused) socket.pause()
  if (socket.destroyed) giveUp('reset', 'io', 'The connection broke off.')

  return {
    bytes: () => ({ up, down }),
    cut: (code, message) => giveUp('cut', code, message),
    ended: ended.promise,
  }
}
