import { violation } from './channel.ts'
import type { Channel } from './channel.ts'
import type { GuestError } from './errors.ts'
import type { Link } from './link.ts'
import { writeDial } from './messages.ts'

const socketStream = 0

/** What a dialled port has to say. After `ended` no more data comes; after `failed` nothing at all. */
export interface DialListener {
  data(bytes: Buffer): void
  ended(): void
  failed(error: GuestError): void
}

/** A connection to a port inside as frames, without a stream around it: what carries many small messages has no use for one. */
export interface DialChannel {
  /** Who hears it; may change between messages. */
  listener: DialListener
  /** Takes the chunk over, also before the port has answered. Undefined when it is on its way, else a promise for when it is. */
  send(chunk: Buffer): Promise<void> | undefined
  sendEnd(): void
  /** So many of the bytes heard are done with: that many more may come. */
  consumed(bytes: number): void
  /** Gives the connection up. The listener hears nothing more. */
  cancel(): void
}

/** Throws where no channel can be opened. Whether somebody listens shows later: `failed` with `connection_refused`. */
export function openDialChannel(link: Link, port: number, listener: DialListener): DialChannel {
  let received = 0
  let over = false
  const channel: Channel = link.open(writeDial(port), {
    streams: [socketStream],
    opened() {},
    data(_stream, offset, bytes) {
      if (offset !== received) throw violation(`data at ${offset} instead of ${received}`)
      received += bytes.length
      if (!over) dial.listener.data(bytes)
    },
    ended() {
      if (!over) dial.listener.ended()
    },
    closed() {
      if (over) return
      over = true
      dial.listener.ended()
    },
    failed(error) {
      if (over) return
      over = true
      dial.listener.failed(error)
    },
  })
  const dial: DialChannel = {
    listener,
    send: (chunk) => link.send(channel, chunk),
    sendEnd: () => link.sendEnd(channel),
    consumed: (bytes) => link.consumed(channel, bytes),
    cancel() {
      over = true
      link.cancel(channel)
    },
  }
  return dial
}
