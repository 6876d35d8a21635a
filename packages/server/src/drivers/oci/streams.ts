import { connect, type Socket } from 'node:net'
import { createReader, type Reader } from '../../guest/codec.ts'
import { type GuestErrorName, guestErrorNames } from '../../guest/errors.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { FileChange, LayerApplied } from '../driver.ts'
import { HelperRefusal } from './calls.ts'

/** Longest chunk either side sends. */
const maxChunkBytes = 1024 * 1024
/** The sentence at the end of a stream. */
const maxTailBytes = 64 * 1024
/** A path of 4,096 bytes and what goes before it. */
const maxRecordBytes = 64 * 1024
const recordHeadBytes = 14
const memoryBytes = 1024 * 1024
const firstBytes = 64 * 1024
/** With less left, new memory is taken. */
const leastReadBytes = 64 * 1024
const changeKinds: Record<number, FileChange['kind']> = { 1: 'added', 2: 'changed', 3: 'removed' }
const changeTypes: Record<number, FileChange['type']> = { 1: 'file', 2: 'directory', 3: 'symlink', 4: 'other' }

/** Bytes of a socket in the pieces that are asked for. */
interface Source {
  /** Exactly so many. */
  take(bytes: number): Promise<Buffer>
  /** At least one, at most so many. */
  some(most: number): Promise<Buffer>
}

/** The bytes of a stream of the helper's, as they come. Ending early closes the connection, and the helper stops. */
export async function* readStream(socket: Socket): AsyncGenerator<Uint8Array> {
  try {
    const source = sourceOf(socket)
    for (;;) {
      let left = await chunkLength(source)
      if (left === 0) break
      while (left > 0) {
        const piece = await source.some(left)
        left -= piece.length
        yield piece
      }
    }
    await readTail(source)
  } finally {
    socket.destroy()
  }
}

/** Sends a stream to the helper, no faster than it takes it, and returns what it says at the end, which may come early. */
export async function sendStream(socket: Socket, bytes: AsyncIterable<Uint8Array>): Promise<LayerApplied> {
  const answer = readTail(sourceOf(socket))
  // Whoever waits for it is told below; until then it is nobody's failure.
  const state = { answered: false }
  const answered = (): void => void (state.answered = true)
  const settled = answer.then(answered, answered)
  const iterator = bytes[Symbol.asyncIterator]()
  try {
    while (!state.answered) {
      const next = await Promise.race([iterator.next(), settled])
      if (!next) break
      if (next.done === true) {
        await send(socket, Buffer.alloc(4), settled)
        return await answer
      }
      for (let at = 0; at < next.value.byteLength && !state.answered; at += maxChunkBytes) {
        const piece = next.value.subarray(at, at + maxChunkBytes)
        const length = Buffer.alloc(4)
        length.writeUInt32LE(piece.byteLength)
        socket.write(length)
        await send(socket, piece, settled)
      }
    }
    return await answer
  } finally {
    socket.destroy()
    await settled
    await iterator.return?.()
  }
}

/** The records of a stream of changes. */
export async function* readChanges(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<FileChange> {
  let held: Buffer = Buffer.alloc(0)
  for await (const chunk of chunks) {
    held = held.length === 0 ? Buffer.from(chunk) : Buffer.concat([held, chunk])
    let at = 0
    for (;;) {
      const length = recordLength(held, at)
      if (length === undefined || held.length - at < length) break
      yield readChange(createReader(held.subarray(at, at + length)))
      at += length
    }
    held = held.subarray(at)
  }
  if (held.length > 0) throw misunderstood('a change is cut short')
}

function recordLength(held: Buffer, at: number): number | undefined {
  if (held.length - at < recordHeadBytes) return undefined
  const length = recordHeadBytes + held.readUInt32LE(at + recordHeadBytes - 4)
  if (length > maxRecordBytes) throw misunderstood(`a change of ${length} bytes`)
  return length
}

function readChange(reader: Reader): FileChange {
  const kind = changeKinds[reader.u8('kind')]
  const type = changeTypes[reader.u8('type')]
  const size = reader.size('size')
  const { text: path } = reader.text('path')
  if (!kind || !type) throw misunderstood('a change of an unknown kind')
  return { kind, type, size, path }
}

async function chunkLength(source: Source): Promise<number> {
  const length = (await source.take(4)).readUInt32LE()
  if (length > maxChunkBytes) throw misunderstood(`a chunk of ${length} bytes`)
  return length
}

/** Code, message and counts; throws what the helper refused. */
async function readTail(source: Source): Promise<LayerApplied> {
  const head = await source.take(6)
  const messageBytes = head.readUInt32LE(2)
  if (messageBytes > maxTailBytes) throw misunderstood(`a message of ${messageBytes} bytes`)
  const message = (await source.take(messageBytes)).toString()
  const reader = createReader(await source.take(16))
  const code = head.readUInt16LE()
  if (code !== 0) {
    const name: GuestErrorName = guestErrorNames[code - 1] ?? 'io'
    throw new HelperRefusal(name, message)
  }
  return { entries: reader.size('entries'), bytes: reader.size('bytes') }
}

/** Resolves when it may be followed by more, or the other side has answered and wants nothing more. */
async function send(socket: Socket, bytes: Uint8Array, settled: Promise<void>): Promise<void> {
  if (bytes.byteLength === 0 || socket.write(bytes)) return
  const { promise: drained, resolve } = Promise.withResolvers<void>()
  socket.once('drain', resolve)
  await Promise.race([drained, settled])
  socket.removeListener('drain', resolve)
}

const listeners = new WeakMap<Socket, { hear: (bytes: Buffer) => void; passing: boolean }>()

/**
 * A socket for the streams here, which emits no 'data' and reads only when it is asked to. Memory for what comes is made a mebibyte at a time:
 * a stream takes 64 KiB for each read, and tells the collector of garbage of each. With `passing` it is always the same mebibyte: what was
 * read is gone when more is asked for. Most say little, so the
 * first memory is small: a mebibyte for each would have the collector look through the whole heap every few snapshots.
 */
export function connectStream({ path, passing = false }: { path: string; passing?: boolean }): Socket {
  const listener = { hear: (_bytes: Buffer): void => undefined, passing }
  let memory = Buffer.alloc(0)
  let received = 0
  const socket = connect({
    path,
    onread: {
      buffer() {
        if (received < firstBytes / 2) {
          if (memory.length === 0) memory = Buffer.allocUnsafeSlow(firstBytes)
        } else if (memory.length < leastReadBytes || (passing && memory.length < memoryBytes)) {
          memory = Buffer.allocUnsafeSlow(memoryBytes)
        }
        return memory
      },
      callback(bytes) {
        const read = memory.subarray(0, bytes)
        received += bytes
        // Whoever holds what was read may keep it.
        if (!passing) memory = memory.subarray(bytes)
        listener.hear(read)
        return false
      },
    },
  })
  socket.pause()
  listeners.set(socket, listener)
  return socket
}

function sourceOf(socket: Socket): Source {
  const listener = listeners.get(socket)
  if (!listener) throw new Error('The socket was not made by connectStream')
  let held: Buffer = Buffer.alloc(0)
  let waiter: PromiseWithResolvers<Buffer> | undefined
  let end: DeltaError | undefined
  const settle = (act: (waiting: PromiseWithResolvers<Buffer>) => void): void => {
    const waiting = waiter
    waiter = undefined
    if (waiting) act(waiting)
  }
  const broken = (error: DeltaError): void => {
    end ??= error
    settle(({ reject }) => reject(end))
  }
  listener.hear = (bytes) => {
    if (waiter) settle(({ resolve }) => resolve(bytes))
    else held = Buffer.concat([held, bytes])
  }
  socket.on('error', (cause) => {
    broken(new DeltaError('driver_unavailable', 'The connection to the privileged helper broke', { cause }))
  })
  socket.on('end', () => broken(new DeltaError('driver_unavailable', 'The privileged helper broke off a stream')))
  socket.on('close', () => broken(new DeltaError('driver_unavailable', 'The privileged helper broke off a stream')))
  const more = (): Promise<Buffer> => {
    if (end) return Promise.reject(end)
    waiter = Promise.withResolvers<Buffer>()
    socket.resume()
    return waiter.promise
  }
  return {
    async take(bytes) {
      while (held.length < bytes) {
        if (listener.passing) held = Buffer.from(held)
        const next = await more()
        held = held.length === 0 ? next : Buffer.concat([held, next])
      }
      const taken = held.subarray(0, bytes)
      held = held.subarray(bytes)
      return taken
    },
    async some(most) {
      if (held.length === 0) held = await more()
      const taken = held.subarray(0, most)
      held = held.subarray(taken.length)
      return taken
    },
  }
}

function misunderstood(what: string): DeltaError {
  const message = 'The privileged helper sent something this server does not understand'
  return new DeltaError('driver_failed', message, { cause: what })
}
