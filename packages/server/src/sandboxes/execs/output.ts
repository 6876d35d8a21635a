import type { HeldAccount } from '../../kernel/held-bytes.ts'

/** Bytes of each end of a stream that a JSON answer keeps. */
export const KEPT_END_BYTES = 1024 * 1024
/** What a stream may always keep, however much the others hold. */
const GRANTED_BYTES = 16 * 1024

/** Memory for output beyond what each is granted: a hundred floods at once must not cost a hundred times two streams of 2 MiB. */
export interface OutputBudget {
  take(bytes: number): boolean
  give(bytes: number): void
}

/** Of the memory of a sandbox; what its channels need to go on comes first. */
export function outputBudgetOf({ grow: take, give }: Pick<HeldAccount, 'grow' | 'give'>): OutputBudget {
  return { take, give }
}

export interface KeptOutput {
  /** The bytes kept: the whole stream, or its beginning and its end joined. */
  bytes: Buffer
  /** Where the beginning ends in `bytes` when something between was cut; equal to the length otherwise. */
  cutAt: number
  droppedBytes: number
}

export interface OutputKeeper {
  add(bytes: Buffer): void
  /** Counts bytes of the stream that were lost before they arrived. */
  skip(bytes: number): void
  result(): KeptOutput
  /** Returns the memory to the budget; the keeper is empty afterwards. */
  release(): void
}

const none = Buffer.alloc(0)

/**
 * Keeps the first and the last half of `capacity` bytes of a stream.
 *
 * Invariant: `buffer` grows to at most `capacity`. Up to there byte i of the stream lies at i; after that the first half stays and the
 * second half is a ring, so that growing and wrapping need no copy of what is there. Where the budget refuses to let it grow, the
 * capacity becomes what it has.
 */
export function createOutputKeeper(budget: OutputBudget, endBytes = KEPT_END_BYTES): OutputKeeper {
  let capacity = endBytes * 2
  let buffer = none
  let borrowed = 0
  let total = 0
  let lost = 0

  function grow(needed: number): void {
    const size = Math.min(capacity, Math.max(needed, buffer.length * 2, Math.min(1024, capacity)))
    const extra = Math.max(0, size - GRANTED_BYTES) - borrowed
    if (extra > 0 && !budget.take(extra)) {
      settleFor(Math.max(buffer.length, Math.min(GRANTED_BYTES, capacity)))
      return
    }
    borrowed += Math.max(0, extra)
    const larger = Buffer.allocUnsafeSlow(size)
    buffer.copy(larger, 0, 0, Math.min(total, buffer.length))
    buffer = larger
  }

  function settleFor(size: number): void {
    capacity = size
    if (buffer.length === size) return
    const larger = Buffer.allocUnsafeSlow(size)
    buffer.copy(larger, 0, 0, Math.min(total, buffer.length))
    buffer = larger
  }

  /** Writes into the ring behind the head. Only what still counts of a chunk longer than the ring is copied. */
  function wrap(bytes: Buffer): void {
    const head = capacity >> 1
    const ring = capacity - head
    const skipped = Math.max(0, bytes.length - ring)
    let at = head + ((total + skipped - head) % ring)
    let from = skipped
    while (from < bytes.length) {
      const copied = bytes.copy(buffer, at, from, Math.min(bytes.length, from + capacity - at))
      from += copied
      at = head
    }
    total += bytes.length
  }

  return {
    add(bytes) {
      if (bytes.length === 0) return
      if (total + bytes.length > buffer.length && buffer.length < capacity) grow(total + bytes.length)
      const room = Math.max(0, Math.min(bytes.length, capacity - total))
      if (room > 0) {
        bytes.copy(buffer, total, 0, room)
        total += room
      }
      if (room < bytes.length) wrap(room === 0 ? bytes : bytes.subarray(room))
    },
    skip(bytes) {
      lost += bytes
    },
    result() {
      if (total <= capacity) return { bytes: buffer.subarray(0, total), cutAt: total, droppedBytes: lost }
      const head = capacity >> 1
      const ring = capacity - head
      const oldest = head + ((total - head) % ring)
      const bytes = Buffer.concat([buffer.subarray(0, head), buffer.subarray(oldest), buffer.subarray(head, oldest)])
      return { bytes, cutAt: head, droppedBytes: lost + total - capacity }
    },
    release() {
      budget.give(borrowed)
      borrowed = 0
      buffer = none
      total = 0
    },
  }
}

export type OutputEncoding = 'utf8' | 'base64'

/** The text of what was kept, and how many bytes of the stream are not in it. */
export function encodeOutput(kept: KeptOutput, encoding: OutputEncoding): { text: string; droppedBytes: number } {
  const { bytes, cutAt, droppedBytes } = kept
  if (encoding === 'base64') return { text: bytes.toString('base64'), droppedBytes }
  if (cutAt === bytes.length) return { text: bytes.toString('utf8'), droppedBytes }
  const headEnd = cutAt - incompleteTail(bytes.subarray(0, cutAt))
  const tailStart = cutAt + continuationHead(bytes.subarray(cutAt))
  const text = bytes.toString('utf8', 0, headEnd) + bytes.toString('utf8', tailStart)
  return { text, droppedBytes: droppedBytes + tailStart - headEnd }
}

/** How many bytes at the end begin a UTF-8 character that is not complete yet: 0 to 3. */
export function incompleteTail(bytes: Buffer): number {
  for (let back = 1; back <= 3 && back <= bytes.length; back++) {
    const byte = bytes[bytes.length - back]!
    if ((byte & 0xc0) === 0x80) continue
    const length = byte >= 0xf0 && byte <= 0xf4 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc2 ? 2 : 1
    return byte <= 0xf4 && length > back ? back : 0
  }
  return 0
}

/** How many bytes at the start belong to a character that began before: 0 to 3. */
function continuationHead(bytes: Buffer): number {
  let count = 0
  while (count < 3 && count < bytes.length && (bytes[count]! & 0xc0) === 0x80) count++
  return count
}
