import { WireError } from './codec.ts'
import type { Reader } from './codec.ts'
import type { HeldAccount } from '../kernel/held-bytes.ts'
import type { GuestError } from './errors.ts'

/** What a channel may be sent unread, each way, at the most. */
export const windowBytes = 1024 * 1024
/** What it may be sent from a guest that starts small; more as it is taken and there is room. */
export const startWindowBytes = 16 * 1024

/** What a channel's owner hears, in the order of the frames. A `WireError` thrown here ends the connection. */
export interface ChannelOwner {
  /** The streams DATA may name. */
  readonly streams: readonly number[]
  /** Absent where the op has no OPENED. */
  opened?(reader: Reader): void
  data?(stream: number, offset: number, bytes: Buffer): void
  /** It is done with the bytes when `data` returns; the others get a copy that they may keep. */
  readonly borrows?: boolean
  ended?(): void
  /** CLOSE with code 0. */
  closed(reader: Reader): void
  /**
   * CLOSE with another code, the caller's own cancel, the end of the connection, or a `closed` that could not be read. Nothing
   * follows.
   */
  failed(error: GuestError): void
}

export interface Outgoing {
  chunk: Buffer
  sent: number
  resolve(): void
  reject(error: GuestError): void
}

export interface Channel {
  readonly id: number
  owner: ChannelOwner
  /** `canceled`: the owner has been told; what still comes is checked and dropped until CLOSE. */
  state: 'opening' | 'open' | 'canceled' | 'closed'
  sendCredit: number
  sendOffset: number
  queue: Outgoing[]
  queuedBytes: number
  /** In the outbound's round of channels that have something to send and may. */
  enlisted: boolean
  end: 'no' | 'queued' | 'sent'
  receiveAllowed: number
  /** Memory held for what may come and what came and is not consumed yet. Nothing where no DATA may come. */
  windowBytes: number
  /** Came and is not consumed yet. */
  unreadBytes: number
  /** Where the next raw bytes belong, while a DATA frame comes in pieces. */
  receiveStream: number
  receiveOffset: number
  /** Taken by the consumer and not yet given back as credit. */
  consumedBytes: number
  peerEnded: boolean
}

export function createChannel(id: number, owner: ChannelOwner, state: Channel['state'], startBytes: number): Channel {
  return {
    id,
    owner,
    state,
    sendCredit: windowBytes,
    sendOffset: 0,
    queue: [],
    queuedBytes: 0,
    enlisted: false,
    end: 'no',
    receiveAllowed: startBytes,
    windowBytes: 0,
    unreadBytes: 0,
    receiveStream: 0,
    receiveOffset: 0,
    consumedBytes: 0,
    peerEnded: false,
  }
}

export function takesData(channel: Channel): boolean {
  return (channel.state === 'opening' || channel.state === 'open') && channel.end === 'no'
}

/** Tells the owner, and whoever waits for something to be sent. */
export function failChannel(channel: Channel, error: GuestError, held: HeldAccount): void {
  dropOutgoing(channel, error, held)
  channel.owner.failed(error)
}

export function dropOutgoing(channel: Channel, error: GuestError, held: HeldAccount): void {
  const queue = channel.queue
  held.giveKept(channel.queuedBytes)
  channel.queue = []
  channel.queuedBytes = 0
  for (const outgoing of queue) outgoing.reject(error)
}

export function violation(what: string): WireError {
  return new WireError('bad_value', what)
}
