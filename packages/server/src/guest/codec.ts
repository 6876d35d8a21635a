import { frameHeaderBytes, WireError, writeSafeU64 } from './payload.ts'

export { createReader, createWriter, frameHeaderBytes, readSafeU64, WireError, writeSafeU64 } from './payload.ts'
export type { RawText, Reader, WireFault, Writer } from './payload.ts'

export const frameTypes = {
  hello: 1,
  open: 2,
  opened: 3,
  data: 4,
  credit: 5,
  end: 6,
  close: 7,
  cancel: 8,
  ping: 9,
  pong: 10,
  control: 11,
} as const

/** Most payload bytes of an OPEN, host to guest. */
export const maxOpenPayloadBytes = 4 * 1024 * 1024
/** Most raw bytes the host puts in one DATA frame. */
export const maxDataBytes = 64 * 1024
/** Most payload bytes of any other frame. */
export const maxPayloadBytes = 64 * 1024 + 64
/** `u8 stream`, `u64 offset` in front of the raw bytes of DATA. */
export const dataHeaderBytes = 9

export interface Frame {
  type: number
  channel: number
  /** May point into the chunk it arrived in: copy what is kept. */
  payload: Buffer
  /** Only with `splitData`: the payload goes on with the raw bytes of the DATA frame before, on the same channel. */
  continues: boolean
}

export interface FrameDecoder {
  /**
   * The frames that are complete with this chunk. A violation after some good frames is kept in `error` until they have been
   * handled; with none before it, and on every later push, it is thrown.
   */
  push(chunk: Buffer): Frame[]
  readonly error: WireError | undefined
  /** Bytes of an unfinished frame held back. */
  readonly heldBytes: number
}

/** The limits of frames from a guest. */
export function fromGuest(type: number): number | undefined {
  return type >= frameTypes.hello && type <= frameTypes.control ? maxPayloadBytes : undefined
}

/** The limits of frames from a host. */
export function fromHost(type: number): number | undefined {
  return type === frameTypes.open ? maxOpenPayloadBytes : fromGuest(type)
}

export interface FrameDecoderOptions {
  /** Most payload bytes, for every type or by type (undefined: unknown type). @default the limits of frames from a guest */
  maxPayload?: number | ((type: number) => number | undefined)
  /**
   * Hand out large DATA frames (of no records) in the pieces they arrive in: a bulk transfer then allocates and copies nothing.
   * @default false
   */
  splitData?: boolean
}

const recordStream = 3
/** Below this a frame is put together: it costs less than the extra piece. */
const leastSplitBytes = 8 * 1024
const dataStartBytes = frameHeaderBytes + dataHeaderBytes

/**
 * Cuts a byte stream into frames. A frame that lies in one chunk is not copied. One that spans chunks is handed out in pieces
 * (`splitData`) or collected in a buffer that grows with what has arrived (at most twice that), never by the length it claims.
 */
export function createFrameDecoder({
  maxPayload = fromGuest,
  splitData = false,
}: FrameDecoderOptions = {}): FrameDecoder {
  const nothing = Buffer.alloc(0)
  let held = nothing
  let heldBytes = 0
  let error: WireError | undefined
  let pieceChannel = 0
  let pieceBytesLeft = 0

  /** Bytes of the whole frame whose first `there` bytes lie at `at`; 0 where that cannot be said yet, or is an error. */
  const frameLength = (bytes: Buffer, at: number, there: number): number => {
    if (there < 4) return 0
    const length = bytes.readUInt32LE(at)
    if (length < 5) {
      error = new WireError('frame_too_short', `a frame claims ${length} bytes, less than its header`)
      return 0
    }
    if (there < 5) return 0
    const type = bytes[at + 4]!
    const limit = typeof maxPayload === 'number' ? maxPayload : maxPayload(type)
    if (limit !== undefined && length - 5 <= limit) return length + 4
    error =
      limit === undefined
        ? new WireError('unknown_type', `frame type ${type} is unknown`)
        : new WireError('frame_too_large', `a frame of type ${type} claims ${length - 5} bytes, more than ${limit}`)
    return 0
  }

  const hold = (chunk: Buffer, from: number, to: number): void => {
    const needed = heldBytes + to - from
    if (needed > held.length) {
      const grown = Buffer.allocUnsafeSlow(Math.max(64, needed * 2))
      held.copy(grown, 0, 0, heldBytes)
      held = grown
    }
    chunk.copy(held, heldBytes, from, to)
    heldBytes = needed
  }

  const release = (): void => {
    held = nothing
    heldBytes = 0
  }

  /** Holds up to `wanted` bytes of one frame. Answers where in the chunk to go on. */
  const holdUpTo = (wanted: number, chunk: Buffer, from: number): number => {
    const to = Math.min(chunk.length, from + Math.max(0, wanted - heldBytes))
    if (to > from) hold(chunk, from, to)
    return to
  }

  const isSplit = (bytes: Buffer, at: number, length: number): boolean => {
    return splitData && length >= leastSplitBytes && bytes[at + 4] === frameTypes.data && bytes[at + 9] !== recordStream
  }

  /** The next raw bytes of a DATA frame whose start was handed out. */
  const nextPiece = (chunk: Buffer, from: number, frames: Frame[]): number => {
    const to = Math.min(chunk.length, from + pieceBytesLeft)
    if (to === from) return from
    pieceBytesLeft -= to - from
    frames.push({ type: frameTypes.data, channel: pieceChannel, payload: chunk.subarray(from, to), continues: true })
    return to
  }

  const startPieces = (frame: Frame, left: number, frames: Frame[]): void => {
    frames.push(frame)
    pieceChannel = frame.channel
    pieceBytesLeft = left
  }

  /** Goes on with the held frame. Answers where in the chunk the next one starts. */
  const finishHeld = (chunk: Buffer, frames: Frame[]): number => {
    let at = holdUpTo(frameHeaderBytes, chunk, 0)
    const wanted = frameLength(held, 0, heldBytes)
    if (wanted === 0) return at
    at = holdUpTo(Math.min(wanted, dataStartBytes), chunk, at)
    if (heldBytes >= dataStartBytes && heldBytes < wanted && isSplit(held, 0, wanted)) {
      startPieces(frameAt(held, 0, heldBytes), wanted - heldBytes, frames)
      release()
      return nextPiece(chunk, at, frames)
    }
    at = holdUpTo(wanted, chunk, at)
    if (heldBytes < wanted) return at
    frames.push(frameAt(held, 0, wanted))
    release()
    return at
  }

  /** Cuts what lies whole in the chunk and holds the rest. */
  const cut = (chunk: Buffer, from: number, frames: Frame[]): void => {
    let at = from
    while (at < chunk.length) {
      const length = frameLength(chunk, at, chunk.length - at)
      const there = chunk.length - at
      if (length > there && there >= dataStartBytes && isSplit(chunk, at, length)) {
        startPieces(frameAt(chunk, at, there), length - there, frames)
        return
      }
      if (length === 0 || length > there) break
      frames.push(frameAt(chunk, at, length))
      at += length
    }
    if (!error && at < chunk.length) hold(chunk, at, chunk.length)
  }

  return {
    push(chunk) {
      if (error) throw error
      const frames: Frame[] = []
      let from = 0
      if (pieceBytesLeft > 0) from = nextPiece(chunk, 0, frames)
      else if (heldBytes > 0) from = finishHeld(chunk, frames)
      if (!error) cut(chunk, from, frames)
      if (error) {
        release()
        if (frames.length === 0) throw error
      }
      return frames
    },
    get error() {
      return error
    },
    get heldBytes() {
      return heldBytes
    },
  }
}

function frameAt(bytes: Buffer, at: number, length: number): Frame {
  return {
    type: bytes[at + 4]!,
    channel: bytes.readUInt32LE(at + 5),
    payload: bytes.subarray(at + frameHeaderBytes, at + length),
    continues: false,
  }
}

export function encodeFrame(type: number, channel: number, payload?: Uint8Array): Buffer {
  const payloadBytes = payload ? payload.length : 0
  const frame = Buffer.allocUnsafe(frameHeaderBytes + payloadBytes)
  frame.writeUInt32LE(5 + payloadBytes, 0)
  frame[4] = type
  frame.writeUInt32LE(channel, 5)
  if (payload) frame.set(payload, frameHeaderBytes)
  return frame
}

/** All of a DATA frame but its raw bytes, which follow from the caller's own buffer without being copied. */
export function encodeDataHeader(channel: number, stream: number, offset: number, rawBytes: number): Buffer {
  const header = Buffer.allocUnsafe(frameHeaderBytes + dataHeaderBytes)
  header.writeUInt32LE(5 + dataHeaderBytes + rawBytes, 0)
  header[4] = frameTypes.data
  header.writeUInt32LE(channel, 5)
  header[9] = stream
  writeSafeU64(header, offset, 10)
  return header
}

export function encodeCredit(channel: number, bytes: number): Buffer {
  const frame = Buffer.allocUnsafe(frameHeaderBytes + 4)
  frame.writeUInt32LE(9, 0)
  frame[4] = frameTypes.credit
  frame.writeUInt32LE(channel, 5)
  frame.writeUInt32LE(bytes, 9)
  return frame
}
