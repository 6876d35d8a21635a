import { isUtf8 } from 'node:buffer'

/** What is wrong with the bytes; the names of the golden vectors. */
export type WireFault = 'frame_too_short' | 'frame_too_large' | 'unknown_type' | 'truncated' | 'bad_utf8' | 'bad_value'

/** Bytes that break the protocol. Each ends the connection. */
export class WireError extends Error {
  readonly code = 'protocol_error'
  readonly fault: WireFault
  constructor(fault: WireFault, message: string) {
    super(message)
    this.name = 'WireError'
    this.fault = fault
  }
}

/** Room for `u32 length`, `u8 type`, `u32 channel`, kept free in front of every payload so that a frame is one buffer. */
export const frameHeaderBytes = 9

/** Builds one payload, and the frame around it, in a single buffer. Every method returns the writer. */
export interface Writer {
  u8(value: number): Writer
  u16(value: number): Writer
  u32(value: number): Writer
  u64(value: number | bigint): Writer
  i64(value: bigint): Writer
  /** Bytes without a length in front. */
  raw(value: Uint8Array): Writer
  bytes(value: Uint8Array | string): Writer
  str(value: string): Writer
  list<T>(items: readonly T[], writeItem: (writer: Writer, item: T) => void): Writer
  opt<T>(value: T | undefined, writeValue: (writer: Writer, value: T) => void): Writer
  /** The payload so far. */
  payload(): Buffer
  /** The payload as a frame. The writer must not be used afterwards. */
  frame(type: number, channel: number): Buffer
}

export function createWriter(expectedBytes = 247): Writer {
  let buffer = Buffer.allocUnsafe(frameHeaderBytes + expectedBytes)
  let at = frameHeaderBytes

  const reserve = (bytes: number): void => {
    if (at + bytes <= buffer.length) return
    const grown = Buffer.allocUnsafe(Math.max(at + bytes, buffer.length * 2))
    buffer.copy(grown, 0, 0, at)
    buffer = grown
  }

  const writer: Writer = {
    u8(value) {
      reserve(1)
      at = buffer.writeUInt8(value, at)
      return writer
    },
    u16(value) {
      reserve(2)
      at = buffer.writeUInt16LE(value, at)
      return writer
    },
    u32(value) {
      reserve(4)
      at = buffer.writeUInt32LE(value, at)
      return writer
    },
    u64(value) {
      reserve(8)
      at = typeof value === 'bigint' ? buffer.writeBigUInt64LE(value, at) : writeSafeU64(buffer, value, at)
      return writer
    },
    i64(value) {
      reserve(8)
      at = buffer.writeBigInt64LE(value, at)
      return writer
    },
    raw(value) {
      reserve(value.length)
      buffer.set(value, at)
      at += value.length
      return writer
    },
    bytes(value) {
      if (typeof value === 'string') return writer.str(value)
      return writer.u32(value.length).raw(value)
    },
    str(value) {
      const most = value.length < 256 ? value.length * 3 : Buffer.byteLength(value)
      reserve(4 + most)
      const length = buffer.write(value, at + 4, 'utf8')
      buffer.writeUInt32LE(length, at)
      at += 4 + length
      return writer
    },
    list(items, writeItem) {
      writer.u32(items.length)
      for (const item of items) writeItem(writer, item)
      return writer
    },
    opt(value, writeValue) {
      if (value === undefined) return writer.u8(0)
      writer.u8(1)
      writeValue(writer, value)
      return writer
    },
    payload: () => buffer.subarray(frameHeaderBytes, at),
    frame(type, channel) {
      buffer.writeUInt32LE(at - 4, 0)
      buffer[4] = type
      buffer.writeUInt32LE(channel, 5)
      return buffer.subarray(0, at)
    },
  }
  return writer
}

/** Writes a number below 2⁵³ without making a BigInt of it. */
export function writeSafeU64(buffer: Buffer, value: number, at: number): number {
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`${value} is not an unsigned 64-bit count`)
  buffer.writeUInt32LE(value % 0x1_0000_0000, at)
  return buffer.writeUInt32LE(Math.floor(value / 0x1_0000_0000), at + 4)
}

/** Reads a u64 that only counts something; undefined where it is beyond what a number holds exactly. */
export function readSafeU64(buffer: Buffer, at: number): number | undefined {
  const value = buffer.readUInt32LE(at) + buffer.readUInt32LE(at + 4) * 0x1_0000_0000
  return Number.isSafeInteger(value) ? value : undefined
}

/** Text and, only where the bytes are not valid UTF-8 and the text therefore cannot be turned back, the bytes. */
export interface RawText {
  text: string
  raw?: Buffer
}

/**
 * Reads a payload that an enemy may have written. Every read is checked against what is really there and throws
 * `WireError`; nothing is allocated by a length that is merely claimed. What it returns never points into the payload.
 */
export interface Reader {
  /** Bytes not read yet. */
  remaining: number
  u8(what: string): number
  u16(what: string): number
  u32(what: string): number
  /** Exact, for identities such as an inode. */
  u64(what: string): bigint
  /** A count or an offset: above 2⁵³−1 is a violation. */
  count(what: string): number
  /** A size that may honestly be absurd (a sparse file of 8 EiB): cut to 2⁵³−1. */
  size(what: string): number
  i64(what: string): bigint
  bytes(what: string, mostBytes?: number): Buffer
  str(what: string, mostBytes?: number): string
  /** A path, an argument: bytes that are text most of the time. */
  text(what: string, mostBytes?: number): RawText
  /** `leastItemBytes` bounds the count by what is left, so that a lying count costs nothing. */
  list<T>(what: string, leastItemBytes: number, readItem: (reader: Reader) => T, mostItems?: number): T[]
  opt<T>(what: string, readValue: (reader: Reader) => T): T | undefined
  flag(what: string): boolean
}

// No accessor in here, nor in anything else made per call: V8 gives each object literal with one a hidden class of its own, which lives
// until a full collection (4.8 against 0.7 µs an object).
export function createReader(payload: Buffer): Reader {
  let at = 0

  const take = (bytes: number, what: string): number => {
    if (payload.length - at < bytes) throw new WireError('truncated', `${what} is cut short`)
    const start = at
    at += bytes
    reader.remaining -= bytes
    return start
  }
  const takeBytes = (what: string, mostBytes: number): number => {
    const length = payload.readUInt32LE(take(4, what))
    const start = take(length, what)
    if (length > mostBytes) throw new WireError('bad_value', `${what} is ${length} bytes, more than ${mostBytes}`)
    return start
  }

  const reader: Reader = {
    remaining: payload.length,
    u8: (what) => payload[take(1, what)]!,
    u16: (what) => payload.readUInt16LE(take(2, what)),
    u32: (what) => payload.readUInt32LE(take(4, what)),
    u64: (what) => payload.readBigUInt64LE(take(8, what)),
    count(what) {
      const value = readSafeU64(payload, take(8, what))
      if (value === undefined) throw new WireError('bad_value', `${what} is beyond any real count`)
      return value
    },
    size: (what) => readSafeU64(payload, take(8, what)) ?? Number.MAX_SAFE_INTEGER,
    i64: (what) => payload.readBigInt64LE(take(8, what)),
    bytes: (what, mostBytes = Infinity) => Buffer.from(payload.subarray(takeBytes(what, mostBytes), at)),
    str(what, mostBytes = Infinity) {
      const { text, raw } = reader.text(what, mostBytes)
      if (raw) throw new WireError('bad_utf8', `${what} is not UTF-8`)
      return text
    },
    text(what, mostBytes = Infinity) {
      const start = takeBytes(what, mostBytes)
      const text = payload.toString('utf8', start, at)
      // The replacement character may also be what was really written, hence the second look.
      if (!text.includes('\ufffd') || isUtf8(payload.subarray(start, at))) return { text }
      return { text, raw: Buffer.from(payload.subarray(start, at)) }
    },
    list(what, leastItemBytes, readItem, mostItems = Infinity) {
      const count = reader.u32(what)
      if (count * leastItemBytes > reader.remaining) throw new WireError('truncated', `${what} claims ${count} items`)
      if (count > mostItems) throw new WireError('bad_value', `${what} has ${count} items, more than ${mostItems}`)
      const items = []
      for (let index = 0; index < count; index++) items.push(readItem(reader))
      return items
    },
    opt(what, readValue) {
      return reader.flag(what) ? readValue(reader) : undefined
    },
    flag(what) {
      const value = reader.u8(what)
      if (value > 1) throw new WireError('bad_value', `${what} is ${value}, neither 0 nor 1`)
      return value === 1
    },
  }
  return reader
}
