import type { Duplex } from 'node:stream'
import { createHeldBytes } from '../kernel/held-bytes.ts'
import type { HeldAccount } from '../kernel/held-bytes.ts'
import { createQuota } from '../kernel/quota.ts'
import { readInPlace } from '../kernel/in-place.ts'
import { copyToBlock } from './blocks.ts'
import { createChannel, dropOutgoing, failChannel, startWindowBytes, violation, windowBytes } from './channel.ts'
import {
  createFrameDecoder,
  createReader,
  createWriter,
  dataHeaderBytes,
  encodeCredit,
  encodeFrame,
  frameTypes,
  maxOpenPayloadBytes,
  readSafeU64,
  WireError,
  writeSafeU64,
} from './codec.ts'
import { GuestError, guestErrorFrom, guestErrorNumber } from './errors.ts'
import { readHello, startsSmall, writeHello } from './messages.ts'
import { createOutbound } from './outbound.ts'
import type { Channel, ChannelOwner } from './channel.ts'
import type { Frame, Reader, Writer } from './codec.ts'
import type { GuestErrorName } from './errors.ts'
import type { Hello } from './messages.ts'

/** A window grows by this factor each time half of it was consumed. */
const windowGrowth = 4
/** The protocol allows 1,024 open channels on a connection; both sides open without asking, so each gets its share. */
export const maxHostChannels = 768
export const maxGuestChannels = 256
/** A guest opens far fewer by itself (50 a second, 512 at once): more is no honest one, and each costs the host work. */
export const guestOpens = { burst: 2_048, perSecond: 200 } as const
/** No honest receiver grants more than this at once. */
const maxCreditBytes = 0xffff_ffff
const lastHostChannel = 0xffff_ffff

export interface GuestLog {
  debug(event: string, fields?: Record<string, unknown>): void
  warn(event: string, fields?: Record<string, unknown>): void
}

/** A channel the guest opened. Answer with `accept` or `refuse`, once. */
export interface GuestOpen {
  op: number
  reader: Reader
  accept(owner: ChannelOwner): Channel
  refuse(code: GuestErrorName, message: string): void
  /** Called when the guest gives it up before it was answered, or the connection ends. */
  onAbandoned(listener: () => void): void
}

export interface LinkOptions {
  log?: GuestLog | undefined
  token?: Buffer | undefined
  /** Where the memory for unread bytes comes from. @default as much as all sandboxes may hold together */
  held?: HeldAccount | undefined
  /** @default performance.now */
  monotonic?: (() => number) | undefined
}

export interface Link {
  readonly held: HeldAccount
  readonly hello: Promise<Hello>
  readonly closed: Promise<void>
  /** Channels that are open, both sides' together. */
  readonly channels: number
  readonly error: GuestError | undefined
  open(writer: Writer, owner: ChannelOwner): Channel
  /** Takes the chunk over. Undefined when it is on its way, else a promise for when it is. */
  send(channel: Channel, chunk: Buffer): Promise<void> | undefined
  /** The same with a copy, in memory that is used again when it is sent. */
  sendCopy(channel: Channel, bytes: Buffer): Promise<void> | undefined
  /** No more DATA after what is queued. */
  sendEnd(channel: Channel): void
  /** The consumer has taken that many bytes. */
  consumed(channel: Channel, bytes: number): void
  control(channel: Channel, writer: Writer): void
  /** Gives the op up. The owner hears `failed` at once. */
  cancel(channel: Channel, error?: GuestError): void
  /** Ends a channel the guest opened. */
  closeAccepted(channel: Channel, code: GuestErrorName | undefined, message: string): void
  ping(): { answer: Promise<void>; forget(): void }
  onGuestOpen(handler: ((open: GuestOpen) => void) | undefined): void
  close(error: GuestError): void
}

/** Frames over one stream: who may say what when, credit both ways, and the end of it all. Knows no operation. */
export function createLink(
  stream: Duplex,
  { log, token, held = createHeldBytes().account(), monotonic = () => performance.now() }: LinkOptions = {},
): Link {
  const decoder = createFrameDecoder({ splitData: true })
  const out = createOutbound(stream, held)
  const channels = new Map<number, Channel>()
  const pings = new Map<number, { resolve(): void; reject(error: GuestError): void }>()
  const helloSettled = Promise.withResolvers<Hello>()
  const closedSettled = Promise.withResolvers<void>()
  helloSettled.promise.catch(ignore)

  let saidHello = false
  let error: GuestError | undefined
  let nextChannel = 1
  let lastGuestChannel = 0
  let hostChannels = 0
  let guestChannels = 0
  const opens = createQuota(guestOpens, monotonic)
  let nextPing = 1
  let guestOpenHandler: ((open: GuestOpen) => void) | undefined
  let startBytes = windowBytes
  /** Of the windows of all channels. */
  let windowsBytes = 0

  // ── memory ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

  const takeWindow = (channel: Channel): boolean => {
    if (!held.take(startBytes)) return false
    windowsBytes += startBytes
    channel.windowBytes = startBytes
    return true
  }

  const shrinkWindow = (channel: Channel, bytes: number): void => {
    channel.windowBytes -= bytes
    windowsBytes -= bytes
    held.give(bytes)
  }

  /** What takes all it is sent may be sent more at once, while there is plenty of room; less where others want some. */
  const fitWindow = (channel: Channel): number => {
    const { windowBytes: now, consumedBytes } = channel
    const more = Math.min(windowBytes, now * windowGrowth) - now
    if (more > 0 && held.grow(more)) {
      windowsBytes += more
      channel.windowBytes += more
      return more
    }
    if (!held.tight) return 0
    const less = Math.max(0, Math.min(consumedBytes, now - Math.max(startWindowBytes, now / 2)))
    shrinkWindow(channel, less)
    return -less
  }

  /** Nothing more comes: memory is needed for what was not consumed yet, alone. */
  const closeWindow = (channel: Channel): void => {
    if (error) return
    const needed = Math.max(0, Math.min(channel.windowBytes, channel.unreadBytes))
    shrinkWindow(channel, channel.windowBytes - needed)
  }

  const noMemory = (): GuestError =>
    new GuestError(
      'limit',
      'The server holds as much as it may for this sandbox; wait until something has ended or was read.',
    )

  // ── channels ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

  const removeChannel = (channel: Channel): void => {
    if (!channels.delete(channel.id)) return
    if (channel.id % 2 === 1) hostChannels -= 1
    else guestChannels -= 1
    channel.state = 'closed'
    closeWindow(channel)
  }

  /** A reply at a time of our own choosing. */
  const reply = (frame: Buffer): void => {
    try {
      out.putReply(frame)
    } catch (cause) {
      fail(brokenBy(cause))
    }
  }

  // ── from the guest ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  const onHello = (frame: Frame): void => {
    if (frame.type !== frameTypes.hello || frame.channel !== 0) throw violation('the first frame is not HELLO')
    const hello = readHello(createReader(frame.payload))
    if ((hello.features & startsSmall) !== 0n) startBytes = startWindowBytes
    saidHello = true
    helloSettled.resolve(hello)
  }

  const onConnectionFrame = (frame: Frame): void => {
    const reader = createReader(frame.payload)
    if (frame.type === frameTypes.ping) {
      reader.u64('ping')
      out.putReply(encodeFrame(frameTypes.pong, 0, frame.payload.subarray(0, 8)))
    } else if (frame.type === frameTypes.pong) {
      const number = reader.count('pong')
      if (number === 0 || number >= nextPing) throw violation('a PONG nobody asked for')
      pings.get(number)?.resolve()
    } else {
      throw violation(`frame type ${frame.type} on channel 0`)
    }
  }

  const onGuestOpens = (frame: Frame): void => {
    if (frame.channel % 2 === 1) throw violation('the guest opens an odd channel')
    if (frame.channel <= lastGuestChannel) throw violation('the guest uses a channel number twice')
    lastGuestChannel = frame.channel
    if (!opens.take()) throw violation('the guest opens channels without end')
    if (guestChannels >= maxGuestChannels) throw violation(`the guest opens more than ${maxGuestChannels} channels`)
    const reader = createReader(frame.payload)
    const op = reader.u8('op')
    const channelId = frame.channel
    const refuse = (code: GuestErrorName, message: string): void => {
      out.putReply(createWriter().u16(guestErrorNumber(code)).str(message).frame(frameTypes.close, channelId))
    }
    if (!guestOpenHandler) return refuse('not_supported', 'This host takes no connections from the guest.')
    guestChannels += 1
    // Until it is answered the channel exists: what the guest sends ahead is counted, and refused by the empty list of streams.
    let abandoned = ignore
    const unanswered = { streams: [], closed: ignore, failed: () => abandoned() }
    const channel = createChannel(channelId, unanswered, 'opening', startBytes)
    channels.set(channelId, channel)
    guestOpenHandler({
      op,
      reader,
      accept(owner) {
        if (channel.state !== 'opening') throw new GuestError('canceled', 'The guest has given this connection up.')
        if (!takeWindow(channel)) throw noMemory()
        channel.owner = owner
        channel.state = 'open'
        reply(encodeFrame(frameTypes.opened, channelId))
        // An answer too many has ended everything.
        if (channel.state !== 'open') return channel
        // A program waits for it, and the owner has more to do with the channel now.
        out.flush()
        if (channel.peerEnded) {
          closeWindow(channel)
          owner.ended?.()
        }
        return channel
      },
      refuse(code, message) {
        if (channel.state !== 'opening') return
        removeChannel(channel)
        if (!error) reply(closeFrame(channelId, code, message))
      },
      onAbandoned(listener) {
        abandoned = listener
      },
    })
  }

  const onClose = (channel: Channel, payload: Buffer): void => {
    const reader = createReader(payload)
    const code = reader.u16('code')
    const message = reader.text('message').text
    const canceled = channel.state === 'canceled'
    const tooSoon = channel.state === 'opening'
    removeChannel(channel)
    if (canceled) return
    if (code !== 0) return failChannel(channel, guestErrorFrom(code, message), held)
    if (channel.queue.length > 0)
      dropOutgoing(channel, new GuestError('canceled', 'The guest closed the channel.'), held)
    try {
      if (tooSoon) throw violation('CLOSE with success before OPENED')
      channel.owner.closed(reader)
    } catch (cause) {
      channel.owner.failed(brokenBy(cause))
      throw cause
    }
  }

  const onChannelFrame = (channel: Channel, frame: Frame): void => {
    switch (frame.type) {
      case frameTypes.data:
        return receiveData(channel, frame)
      case frameTypes.credit: {
        channel.sendCredit += createReader(frame.payload).u32('credit')
        if (channel.sendCredit > maxCreditBytes) throw violation('credit beyond any real window')
        if (channel.state === 'canceled') return
        return out.credited(channel)
      }
      case frameTypes.opened:
        if (channel.id % 2 === 0) throw violation('OPENED on a channel the guest opened')
        if (channel.state === 'canceled') return
        if (channel.state !== 'opening') throw violation('OPENED twice or unasked')
        channel.state = 'open'
        return channel.owner.opened?.(createReader(frame.payload))
      case frameTypes.end:
        if (channel.peerEnded) throw violation('END twice')
        channel.peerEnded = true
        closeWindow(channel)
        if (channel.state === 'open') channel.owner.ended?.()
        return
      case frameTypes.close:
        return onClose(channel, frame.payload)
      case frameTypes.cancel: {
        if (channel.id % 2 === 1) throw violation('CANCEL of a channel the host opened')
        const message = 'The guest gave it up.'
        removeChannel(channel)
        out.putReply(createWriter().u16(guestErrorNumber('canceled')).str(message).frame(frameTypes.close, channel.id))
        return failChannel(channel, new GuestError('canceled', message), held)
      }
      default:
        throw violation(`frame type ${frame.type} from a guest`)
    }
  }

  const onFrame = (frame: Frame): void => {
    if (!saidHello) return onHello(frame)
    if (frame.channel === 0) return onConnectionFrame(frame)
    if (frame.type === frameTypes.open) return onGuestOpens(frame)
    const channel = channels.get(frame.channel)
    if (channel) return onChannelFrame(channel, frame)
    const existed = frame.channel % 2 === 1 ? frame.channel < nextChannel : frame.channel <= lastGuestChannel
    if (!existed) throw violation(`a frame for channel ${frame.channel}, which never existed`)
    if (frame.type < frameTypes.opened || frame.type > frameTypes.cancel)
      throw violation(`frame type ${frame.type} from a guest`)
  }

  const onChunk = (chunk: Buffer): void => {
    if (error) return
    try {
      for (const frame of decoder.push(chunk)) {
        onFrame(frame)
        if (error) return
      }
      if (decoder.error) throw decoder.error
    } catch (cause) {
      // What is no WireError is a bug of ours; the guest found it, so the connection is given up all the same.
      log?.warn(cause instanceof WireError ? 'guest.protocol_error' : 'guest.frame_not_handled', {
        reason: String(cause),
      })
      fail(brokenBy(cause))
    }
  }

  // ── the end ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

  const fail = (reason: GuestError): void => {
    if (error) return
    held.give(windowsBytes)
    error = reason
    out.stop()
    stream.destroy()
    helloSettled.reject(reason)
    for (const ping of pings.values()) ping.reject(reason)
    pings.clear()
    const open = [...channels.values()]
    channels.clear()
    for (const channel of open) {
      const told = channel.state === 'canceled'
      channel.state = 'closed'
      if (!told) failChannel(channel, reason, held)
    }
    closedSettled.resolve()
  }
  const lost = (cause?: unknown): void => {
    fail(
      new GuestError(
        'connection_lost',
        'The connection to the guest ended.',
        cause === undefined ? undefined : { cause },
      ),
    )
  }

  readInPlace(stream, onChunk)
  stream.on('end', () => lost())
  stream.on('close', () => lost())
  stream.on('error', lost)
  if (stream.destroyed) queueMicrotask(lost)
  out.put(writeHello(token, startsSmall).frame(frameTypes.hello, 0))

  return {
    held,
    hello: helloSettled.promise,
    closed: closedSettled.promise,
    get channels() {
      return channels.size
    },
    get error() {
      return error
    },
    open(writer, owner) {
      if (error) throw new GuestError('connection_lost', 'The connection to the guest has ended.', { cause: error })
      if (hostChannels >= maxHostChannels) {
        throw new GuestError('limit', `${maxHostChannels} calls are open on this connection; wait for some to end.`)
      }
      if (nextChannel > lastHostChannel)
        throw new GuestError('limit', 'This connection has used all channel numbers; connect again.')
      if (writer.payload().length > maxOpenPayloadBytes) {
        throw new GuestError(
          'too_large',
          `The request is larger than ${maxOpenPayloadBytes} bytes; send the rest as stdin or as a file.`,
        )
      }
      const id = nextChannel
      const channel = createChannel(id, owner, owner.opened ? 'opening' : 'open', startBytes)
      if (owner.data && !takeWindow(channel)) throw noMemory()
      try {
        out.putRequest(writer.frame(frameTypes.open, id))
      } catch (cause) {
        closeWindow(channel)
        throw cause
      }
      nextChannel += 2
      hostChannels += 1
      channels.set(id, channel)
      return channel
    },
    send: out.send,
    sendCopy: (channel, bytes) => out.send(channel, copyToBlock(bytes)),
    sendEnd: out.sendEnd,
    consumed(channel, bytes) {
      if (error) return
      channel.unreadBytes -= bytes
      if (channel.state !== 'open' || channel.peerEnded) return closeWindow(channel)
      channel.consumedBytes += bytes
      // In lumps: a small write wakes the guest and costs as much as reading tens of KiB.
      if (channel.consumedBytes < channel.windowBytes / 2) return
      const given = channel.consumedBytes + fitWindow(channel)
      channel.consumedBytes = 0
      if (given === 0) return
      channel.receiveAllowed += given
      reply(encodeCredit(channel.id, given))
    },
    control(channel, writer) {
      if (channel.state === 'open') out.putRequest(writer.frame(frameTypes.control, channel.id))
    },
    cancel(channel, reason = new GuestError('canceled', 'The call was canceled.')) {
      if (channel.state === 'closed' || channel.state === 'canceled') return
      channel.state = 'canceled'
      channel.unreadBytes = 0
      closeWindow(channel)
      out.put(encodeFrame(frameTypes.cancel, channel.id))
      failChannel(channel, reason, held)
    },
    closeAccepted(channel, code, message) {
      if (channel.state === 'closed') return
      removeChannel(channel)
      reply(closeFrame(channel.id, code, message))
      if (code !== undefined) failChannel(channel, new GuestError(code, message), held)
    },
    ping() {
      if (error) throw error
      const number = nextPing++
      const answer = Promise.withResolvers<void>()
      pings.set(number, answer)
      const payload = Buffer.allocUnsafe(8)
      writeSafeU64(payload, number, 0)
      out.put(encodeFrame(frameTypes.ping, 0, payload))
      const forget = (): void => void pings.delete(number)
      answer.promise.then(forget, forget)
      return { answer: answer.promise, forget }
    },
    onGuestOpen(handler) {
      guestOpenHandler = handler
    },
    close: fail,
  }
}

function receiveData(channel: Channel, { payload, continues }: Frame): void {
  const raw = continues ? payload : startData(channel, payload)
  const bytes = raw.length
  const { receiveStream: stream, receiveOffset: offset } = channel
  channel.receiveOffset += bytes
  if (!Number.isSafeInteger(channel.receiveOffset)) throw violation('DATA lies beyond any real offset')
  if (channel.peerEnded) throw violation('DATA after END')
  channel.receiveAllowed -= bytes
  if (channel.receiveAllowed < 0) throw violation('more DATA than the credit given')
  if (channel.state === 'canceled') return
  if (channel.state === 'opening') throw violation('DATA before OPENED')
  const { owner } = channel
  if (!owner.data || !owner.streams.includes(stream)) throw violation(`DATA on stream ${stream}`)
  if (bytes === 0) return
  channel.unreadBytes += bytes
  owner.data(stream, offset, owner.borrows ? raw : Buffer.from(raw))
}

/** Notes where the raw bytes belong, for this piece of the frame and those that continue it. */
function startData(channel: Channel, payload: Buffer): Buffer {
  if (payload.length < dataHeaderBytes) throw new WireError('truncated', 'DATA is cut short')
  const offset = readSafeU64(payload, 1)
  if (offset === undefined) throw violation('DATA lies beyond any real offset')
  channel.receiveStream = payload[0]!
  channel.receiveOffset = offset
  return payload.subarray(dataHeaderBytes)
}

function closeFrame(channelId: number, code: GuestErrorName | undefined, message: string): Buffer {
  return createWriter()
    .u16(code === undefined ? 0 : guestErrorNumber(code))
    .str(message)
    .frame(frameTypes.close, channelId)
}

function brokenBy(cause: unknown): GuestError {
  if (!(cause instanceof WireError)) return new GuestError('protocol_error', 'A frame could not be handled.', { cause })
  return new GuestError('protocol_error', `The guest broke the protocol: ${cause.message}.`, { cause })
}

function ignore(): void {}
