import { createHash } from 'node:crypto'
import { DeltaError } from '../../kernel/errors.ts'
import type { Bytes } from '../blobs.ts'

const mib = 1024 * 1024
/** What the service allows. */
const mostParts = 10_000
export const usualPartBytes = 8 * mib
/** A part lies in memory until it is sent. */
const largestPartBytes = 32 * mib
export const largestObjectBytes = mostParts * largestPartBytes
/** Of parts under way, without the one that is being filled. */
const sendingBytes = 24 * mib

/** The usual size, and a whole number of mebibytes more where there would be too many parts. */
export function partBytesOf(size: number, usual = usualPartBytes): number {
  if (size > largestObjectBytes) {
    throw new DeltaError('storage_refused', `A blob of ${size} bytes is larger than ${largestObjectBytes} bytes`)
  }
  return Math.max(usual, Math.ceil(size / mostParts / mib) * mib)
}

/** How many parts of that size may be under way at once. */
export function partsAtOnce(partBytes: number): number {
  return Math.max(1, Math.floor(sendingBytes / partBytes))
}

export interface Part {
  /** From 1. */
  number: number
  bytes: Buffer
  md5: Buffer
  sha256: Buffer
}

/** Memory for parts, used again: what is left to the collector of garbage is collected late, and grew with the size of the object. */
export interface PartMemory {
  take(): Buffer
  /** Nobody reads that part any more. */
  give(part: Part): void
}

export function createPartMemory(partBytes: number): PartMemory {
  const free: Buffer[] = []
  return {
    // Untouched memory costs nothing, so that a small object is not charged for a whole part.
    take: () => free.pop() ?? Buffer.allocUnsafeSlow(partBytes),
    give: ({ bytes }) => free.push(Buffer.from(bytes.buffer as ArrayBuffer)),
  }
}

/** Cuts into parts, each with its digests, made chunk by chunk: no stretch of hashing longer than a chunk takes. */
export async function* inParts(
  source: Bytes,
  partBytes: number,
  memory = createPartMemory(partBytes),
): AsyncGenerator<Part> {
  let part = startPart(1, memory.take())
  for await (const chunk of source) {
    for (let at = 0; at < chunk.length;) {
      at += part.add(chunk.subarray(at))
      if (!part.isFull()) continue
      yield part.end()
      part = startPart(part.number + 1, memory.take())
    }
  }
  if (!part.isEmpty() || part.number === 1) yield part.end()
}

function startPart(number: number, bytes: Buffer) {
  const partBytes = bytes.length
  const md5 = createHash('md5')
  const sha256 = createHash('sha256')
  let filled = 0
  return {
    number,
    isEmpty: () => filled === 0,
    isFull: () => filled === partBytes,
    add(chunk: Uint8Array): number {
      const taken = chunk.subarray(0, partBytes - filled)
      md5.update(taken)
      sha256.update(taken)
      bytes.set(taken, filled)
      filled += taken.length
      return taken.length
    },
    end: (): Part => ({
      number,
      bytes: bytes.subarray(0, filled),
      md5: md5.digest(),
      sha256: sha256.digest(),
    }),
  }
}
