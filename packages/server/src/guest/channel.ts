import { WireError } from './codec.ts'
import type { Reader } from './codec.ts'
import type { GuestError } from './errors.ts'

/** Credit a channel starts with, each way. What one channel may hold unread is bounded by it. */
export const windowBytes = 1024 * 1024

/** What a channel's owner hears, in the order of the frames. A `WireError` thrown here ends the connection. */
export interface ChannelOwner {
  /** The streams DATA may name. */
  readonly streams: readonly number[]
  /** Absent where the op has no OPENED. */
  opened?(reader: Reader): void
  data?(stream: number, offset: number, bytes: Buffer): void
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
  /** Where the next raw bytes belong, while a DATA frame comes in pieces. */
  receiveStream: number
  receiveOffset: number
  /** Taken by the consumer and not yet given back as credit. */
  consumedBytes: number
  peerEnded: boolean
}

export function createChannel(id: number, owner: ChannelOwner, state: Channel['state']): Channel {
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
    receiveAllowed: windowBytes,
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
export function failChannel(channel: Channel, error: GuestError): void {
  dropOutgoing(channel, error)
  channel.owner.failed(error)
}

export function dropOutgoing(channel: Channel, error: GuestError): void {
  const queue = channel.queue
  channel.queue = []
  channel.queuedBytes = 0
  for (const outgoing of queue) outgoing.reject(error)
}

export function violation(what: string): WireError {
  return new WireError('bad_value', what)
}
