import { once } from 'node:events'
import { duplexPair } from 'node:stream'
import { connectGuest } from '../client.ts'
import { createFrameDecoder, createReader, createWriter, encodeFrame, frameTypes, fromHost } from '../codec.ts'
import type { Duplex } from 'node:stream'
import type { ConnectOptions, GuestConnection } from '../client.ts'
import type { Frame, Reader, Writer } from '../codec.ts'

/** The guest's end of a wire, played by a test: it sees every frame of the host and says what it likes. */
export interface Peer {
  readonly stream: Duplex
  /** The next frame of the host, in order. */
  next(): Promise<Frame>
  /** The next frame, which must be of this type. */
  expect(type: keyof typeof frameTypes): Promise<{ channel: number; reader: Reader; payload: Buffer }>
  /** The op of the next OPEN and its fields. */
  expectOpen(op: number): Promise<{ channel: number; reader: Reader }>
  /** Frames of the host not yet asked for. */
  readonly waiting: readonly Frame[]
  /** @default 0: a guest of before there were features */
  hello(features?: number): void
  send(type: keyof typeof frameTypes, channel: number, writer?: Writer): void
  data(channel: number, stream: number, offset: number, bytes: Buffer | string): void
  close(channel: number, code?: number, message?: string, fields?: (writer: Writer) => void): void
  raw(bytes: Buffer): void
}

export function createPeer(stream: Duplex): Peer {
  const decoder = createFrameDecoder({ maxPayload: fromHost })
  const waiting: Frame[] = []
  let wake: (() => void) | undefined
  stream.on('error', () => {})
  stream.on('data', (chunk: Buffer) => {
    // A copy: once a write is called back, its memory is the writer's again.
    waiting.push(...decoder.push(Buffer.from(chunk)))
    wake?.()
  })

  const peer: Peer = {
    stream,
    waiting,
    async next() {
      while (waiting.length === 0) await new Promise<void>((resolve) => (wake = resolve))
      return waiting.shift()!
    },
    async expect(type) {
      const frame = await peer.next()
      if (frame.type !== frameTypes[type]) throw new Error(`the host sent a frame of type ${frame.type}, not ${type}`)
      return { channel: frame.channel, reader: createReader(frame.payload), payload: frame.payload }
    },
    async expectOpen(op) {
      const { channel, reader } = await peer.expect('open')
      const said = reader.u8('op')
      if (said !== op) throw new Error(`the host opened op ${said}, not ${op}`)
      return { channel, reader }
    },
    hello(features = 0) {
      peer.send('hello', 0, createWriter().str('DELTA1').u32(1).bytes(Buffer.alloc(16, 7)).u64(features).str(''))
    },
    send(type, channel, writer) {
      peer.raw(writer ? writer.frame(frameTypes[type], channel) : encodeFrame(frameTypes[type], channel))
    },
    data(channel, streamNumber, offset, bytes) {
      peer.send('data', channel, createWriter().u8(streamNumber).u64(offset).raw(Buffer.from(bytes)))
    },
    close(channel, code = 0, message = '', fields) {
      const writer = createWriter().u16(code).str(message)
      fields?.(writer)
      peer.send('close', channel, writer)
    },
    raw(bytes) {
      stream.write(bytes)
    },
  }
  return peer
}

/** A connection whose HELLOs are said, over an in-memory pair. */
export async function connectPeer({ features, ...options }: ConnectOptions & { features?: number } = {}): Promise<{
  guest: GuestConnection
  peer: Peer
  hostStream: Duplex
}> {
  const [hostStream, peerStream] = duplexPair()
  const peer = createPeer(peerStream)
  peer.hello(features)
  const guest = await connectGuest(hostStream, options)
  await peer.expect('hello')
  return { guest, peer, hostStream }
}

export function exitFields(kind: number, value: number, flags = 0, outputBytes = 0, durationMs = 5) {
  return (writer: Writer): void => void writer.u8(kind).u8(value).u8(flags).u64(outputBytes).u64(durationMs)
}

export function openedExec(pid = 7, known = 0, start = 0): Writer {
  return createWriter().u32(pid).u8(known).u64(start)
}

/** Resolves when the stream has said this, so that a test waits for an event and not for a time. */
export async function ended(stream: Duplex): Promise<void> {
  if (!stream.destroyed) await once(stream, 'close')
}
