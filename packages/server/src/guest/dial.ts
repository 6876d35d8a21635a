import { Duplex } from 'node:stream'
import type { Socket as NetSocket } from 'node:net'
import { bridgeChannel } from './bridge.ts'
import { canceled, ignore } from './call.ts'
import { GuestError } from './errors.ts'
import { createInbox } from './inbox.ts'
import { violation } from './channel.ts'
import { readEgress, writeDial } from './messages.ts'
import type { Bridge, BridgeOptions } from './bridge.ts'
import type { CallOptions } from './call.ts'
import type { GuestErrorName } from './errors.ts'
import type { Channel, ChannelOwner } from './channel.ts'
import type { GuestOpen, Link } from './link.ts'
import type { EgressTarget } from './messages.ts'

const socketStream = 0

/** Connects to a port inside. Ending either side half closes; destroying gives the connection up. */
export function dialPort(link: Link, port: number, { signal }: CallOptions = {}): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(canceled())
    const onAbort = (): void => link.cancel(channel)
    const socket = createSocket(
      link,
      () => channel,
      (error) => link.cancel(channel, error),
    )
    const channel: Channel = link.open(writeDial(port), {
      ...socket.owner,
      opened() {
        signal?.removeEventListener('abort', onAbort)
        resolve(socket.duplex)
      },
      failed(error) {
        signal?.removeEventListener('abort', onAbort)
        socket.owner.failed(error)
        reject(error)
      },
    })
    signal?.addEventListener('abort', onAbort, { once: true })
  })
}

/** A connection that code inside the sandbox wants to the outside. Answer once. */
export interface EgressRequest extends EgressTarget {
  /** Accepts, and joins it with a socket that is connected to where it wants to go. Throws where the guest gave it up meanwhile. */
  join(socket: NetSocket, options: BridgeOptions): Bridge
  refuse(code: GuestErrorName, message: string): void
  /** Called when the guest gives it up before it was answered, or its connection ends. */
  onAbandoned(listener: () => void): void
}

export function egressRequest(link: Link, open: GuestOpen): EgressRequest {
  return {
    ...readEgress(open.reader),
    join: (socket, options) => bridgeChannel(link, open.accept, socket, options),
    refuse: open.refuse,
    onAbandoned: open.onAbandoned,
  }
}

interface Socket {
  duplex: Duplex
  owner: ChannelOwner
}

/** A channel of raw bytes both ways as a Duplex. */
function createSocket(link: Link, channel: () => Channel, giveUp: (error?: GuestError) => void): Socket {
  let received = 0
  let over = false
  const inbox = createInbox((bytes) => link.consumed(channel(), bytes))

  const duplex = new Duplex({
    allowHalfOpen: true,
    readableHighWaterMark: 128 * 1024,
    writableHighWaterMark: 128 * 1024,
    read() {
      const pump = (): void => {
        if (duplex.destroyed) return
        for (let chunk = inbox.take(); chunk; chunk = inbox.take()) {
          if (!duplex.push(chunk.bytes)) return
        }
        if (!inbox.closed) inbox.whenReady(pump)
        else duplex.push(null)
      }
      pump()
    },
    write(chunk: Buffer, _encoding, done) {
      const busy = link.send(channel(), chunk)
      if (busy) busy.then(() => done(), done)
      else done()
    },
    final(done) {
      link.sendEnd(channel())
      done()
    },
    destroy(error, done) {
      inbox.drop()
      if (!over) {
        over = true
        giveUp(error instanceof GuestError ? error : undefined)
      }
      done(error)
    },
  })

  // It may be destroyed before the caller had a turn to listen, and an error event nobody hears would end the server.
  duplex.on('error', ignore)

  return {
    duplex,
    owner: {
      streams: [socketStream],
      data(_stream, offset, bytes) {
        if (offset !== received) throw violation(`data at ${offset} instead of ${received}`)
        received += bytes.length
        inbox.push({ stream: socketStream, offset, bytes, gap: 0 })
      },
      ended: () => inbox.close(),
      closed() {
        over = true
        inbox.close()
        // Nobody takes any more what would still be written.
        if (!duplex.writableEnded) duplex.end()
      },
      failed(error) {
        over = true
        if (!duplex.destroyed) duplex.destroy(error)
      },
    },
  }
}
