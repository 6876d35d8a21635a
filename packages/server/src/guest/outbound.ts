import { giveBlock } from './blocks.ts'
import { takesData, violation } from './channel.ts'
import { encodeDataHeader, encodeFrame, frameTypes, maxDataBytes } from './codec.ts'
import { GuestError } from './errors.ts'
import type { Duplex } from 'node:stream'
import type { HeldAccount } from '../kernel/held-bytes.ts'
import type { Channel } from './channel.ts'

/** Written but not yet taken by the socket: above this DATA waits; other frames still go. */
const congestedBytes = 256 * 1024
/** A guest that does not read lets calls pile up; above this new ones are refused. */
const maxQueuedBytes = 32 * 1024 * 1024
/** Answers (PONG, CREDIT, refusals) to a guest that goes on asking without reading them. */
const maxUnreadReplyBytes = 1024 * 1024
/** Small pieces are copied into one: a copy of so much costs less than telling the kernel of two places. */
const copiedBytes = 32 * 1024
/** What one channel may queue when its caller does not wait for `send`. A single larger chunk is fine. */
const maxChannelQueueBytes = 4 * 1024 * 1024
/** A round with more leaves in several writes: the guest works on the first while the rest is made. Of one message there are two, its header and its bytes. */
const piecesOfWrite = 16

/** The way to the guest: frames of one turn leave in one write, DATA with those of the whole round unless they are many; it waits for the socket and for its channel's credit. */
export interface Outbound {
  put(frame: Buffer): void
  /** For frames the guest provokes: there is no caller to hold back, so a guest that never reads is a violation. */
  putReply(frame: Buffer): void
  /** For frames a caller wants: throws `busy` when too much waits already. */
  putRequest(frame: Buffer): void
  send(channel: Channel, chunk: Buffer): Promise<void> | undefined
  sendEnd(channel: Channel): void
  /** The channel was given credit. */
  credited(channel: Channel): void
  /** What waits for the end of the turn leaves now. */
  flush(): void
  stop(): void
}

export function createOutbound(stream: Duplex, held: HeldAccount): Outbound {
  let pending: Buffer[] = []
  let pendingBytes = 0
  /** Chunks whose last piece is pending. */
  let spent: Buffer[] = []
  let flushScheduled = false
  let flushLater: NodeJS.Immediate | undefined
  let unreadReplyBytes = 0
  let stopped = false
  /** Of what was written, what the socket has not taken; as it was when it was last looked at. */
  let unsentBytes = 0
  const round: Channel[] = []

  /** Bytes on this side of the kernel. `writableLength` counts only where a 'drain' is sure to follow. */
  const queuedBytes = (): number => pendingBytes + (stream.writableNeedDrain ? stream.writableLength : 0)

  const put = (bytes: Buffer): void => {
    if (stopped) return
    pending.push(bytes)
    pendingBytes += bytes.length
    if (flushScheduled) return
    flushScheduled = true
    queueMicrotask(flush)
  }

  /** With all that comes in this round of the event loop: a hundred small messages of a hundred callers wake the guest once. */
  const putLater = (bytes: Buffer): void => {
    if (stopped) return
    pending.push(bytes)
    pendingBytes += bytes.length
    if (!flushScheduled) flushLater ??= setImmediate(flush)
  }

  const flush = (): void => {
    flushScheduled = false
    if (flushLater) clearImmediate(flushLater)
    flushLater = undefined
    if (stopped) return
    const batch = pending
    const bytes = pendingBytes
    const sent = spent
    pending = []
    pendingBytes = 0
    spent = []
    // What the kernel may still read when the stream breaks is left to the garbage collector.
    const onWritten = (failure?: Error | null): void => {
      if (!failure) sent.forEach(giveBlock)
    }
    if (batch.length === 1) stream.write(batch[0]!, onWritten)
    else if (batch.length > 1 && bytes <= copiedBytes) stream.write(Buffer.concat(batch, bytes), onWritten)
    else if (batch.length > 1) {
      const last = batch.pop()!
      stream.cork()
      for (const piece of batch) stream.write(piece)
      stream.write(last, onWritten)
      stream.uncork()
    }
    countUnsent()
    pump()
  }

  const countUnsent = (): void => {
    const now = stream.writableNeedDrain && !stopped ? stream.writableLength : 0
    if (now > unsentBytes) held.keep(now - unsentBytes)
    else if (now < unsentBytes) held.giveKept(unsentBytes - now)
    unsentBytes = now
  }

  /** One frame a channel in turn, while the socket takes them. */
  const pump = (): void => {
    while (round.length > 0 && queuedBytes() < congestedBytes) {
      const channel = round.shift()!
      channel.enlisted = false
      putNextPiece(channel)
      enlist(channel)
      if (channel.queue.length === 0 && channel.end === 'queued' && channel.state === 'open') putEnd(channel)
    }
  }

  const putNextPiece = (channel: Channel): void => {
    const head = channel.queue[0]
    if (!head) return
    const bytes = Math.min(head.chunk.length - head.sent, channel.sendCredit, maxDataBytes)
    putData(channel, head.chunk.subarray(head.sent, head.sent + bytes))
    head.sent += bytes
    channel.queuedBytes -= bytes
    held.giveKept(bytes)
    if (head.sent < head.chunk.length) return
    channel.queue.shift()
    spent.push(head.chunk)
    head.resolve()
  }

  const enlist = (channel: Channel): void => {
    if (channel.enlisted || channel.queue.length === 0 || channel.sendCredit === 0) return
    channel.enlisted = true
    round.push(channel)
  }

  const putData = (channel: Channel, bytes: Buffer): void => {
    putLater(encodeDataHeader(channel.id, 0, channel.sendOffset, bytes.length))
    putLater(bytes)
    channel.sendOffset += bytes.length
    channel.sendCredit -= bytes.length
  }

  const putEnd = (channel: Channel): void => {
    channel.end = 'sent'
    put(encodeFrame(frameTypes.end, channel.id))
  }

  stream.on('drain', () => {
    // Looked at only while replies are put, a stream that is always busy would seem never to have been read.
    unreadReplyBytes = 0
    countUnsent()
    pump()
  })

  return {
    put,
    putReply(frame) {
      if (!stream.writableNeedDrain) unreadReplyBytes = 0
      unreadReplyBytes += frame.length
      if (unreadReplyBytes > maxUnreadReplyBytes) throw violation('the guest asks but does not read the answers')
      put(frame)
    },
    putRequest(frame) {
      if (queuedBytes() > maxQueuedBytes) {
        throw new GuestError('busy', 'The guest does not read what it is sent; try again later.')
      }
      put(frame)
    },
    send(channel, chunk) {
      if (!takesData(channel)) return Promise.reject(new GuestError('canceled', 'The channel takes no more data.'))
      if (chunk.length === 0) return undefined
      const free = channel.queue.length === 0 && channel.sendCredit >= chunk.length
      if (free && chunk.length <= maxDataBytes && queuedBytes() < congestedBytes) {
        putData(channel, chunk)
        spent.push(chunk)
        if (pending.length >= piecesOfWrite) flush()
        return undefined
      }
      if (channel.queue.length > 0 && channel.queuedBytes + chunk.length > maxChannelQueueBytes) {
        return Promise.reject(new GuestError('limit', 'Wait for the last write to finish before the next.'))
      }
      return new Promise((resolve, reject) => {
        channel.queue.push({ chunk, sent: 0, resolve, reject })
        channel.queuedBytes += chunk.length
        held.keep(chunk.length)
        enlist(channel)
        pump()
      })
    },
    sendEnd(channel) {
      if (!takesData(channel)) return
      if (channel.queue.length === 0) putEnd(channel)
      else channel.end = 'queued'
    },
    credited(channel) {
      enlist(channel)
      pump()
    },
    flush,
    stop() {
      stopped = true
      countUnsent()
      if (flushLater) clearImmediate(flushLater)
      pending = []
      pendingBytes = 0
      spent = []
      round.length = 0
    },
  }
}
