import type { HeldAccount } from '../kernel/held-bytes.ts'

/** The latest output of a terminal, numbered as the guest numbers it, in memory that is bounded whatever the pieces were. */
export interface OutputWindow {
  /** How much it keeps at the moment. */
  readonly size: number
  /** The oldest offset kept. */
  readonly base: number
  readonly end: number
  /** Keeps twice as much from now on; false where there is no memory for it, or it is as large as it may be. */
  widen(): boolean
  /** Bytes right after `end`, or further on: then what came before is given up, since nobody may read over a hole. */
  append(offset: number, bytes: Buffer): void
  /** A copy: what a socket is given must stay as it is while it waits there. `from` lies within the window. */
  read(from: number, most: number): Buffer
  /** Gives its memory back. */
  close(): void
}

/** What it keeps at least. */
export const firstWindowBytes = 16 * 1024

/** Grows up to `mostBytes` where the memory lets it. `firstWindowBytes` of it are taken already. */
export function createOutputWindow(
  start: number,
  mostBytes: number,
  memory: Pick<HeldAccount, 'grow' | 'give'>,
): OutputWindow {
  let ring = Buffer.alloc(0)
  let held = Math.min(firstWindowBytes, mostBytes)
  let base = start
  let end = start

  /** Copies `bytes` to where the byte of number `offset` belongs. */
  const put = (into: Buffer, offset: number, bytes: Buffer): void => {
    const at = offset % into.length
    const first = bytes.subarray(0, into.length - at)
    first.copy(into, at)
    bytes.copy(into, 0, first.length)
  }

  const slice = (from: number, count: number): Buffer => {
    const at = from % ring.length
    const copy = Buffer.allocUnsafeSlow(count)
    const first = ring.copy(copy, 0, at, Math.min(ring.length, at + count))
    ring.copy(copy, first, 0, count - first)
    return copy
  }

  const widenTo = (size: number): boolean => {
    if (size <= held || !memory.grow(size - held)) return false
    held = size
    return true
  }

  const makeRoom = (bytes: number): void => {
    const wanted = Math.min(mostBytes, end - base + bytes)
    if (wanted <= ring.length) return
    let size = Math.max(firstWindowBytes, ring.length)
    while (size < wanted) size *= 2
    widenTo(Math.min(size, mostBytes))
    if (held <= ring.length) return
    const larger = Buffer.allocUnsafeSlow(held)
    if (end > base) put(larger, base, slice(base, end - base))
    ring = larger
  }

  return {
    get size() {
      return held
    },
    get base() {
      return base
    },
    get end() {
      return end
    },
    widen: () => widenTo(Math.min(2 * held, mostBytes)),
    append(offset, bytes) {
      if (offset !== end) base = end = offset
      makeRoom(bytes.length)
      const kept = bytes.length > ring.length ? bytes.subarray(bytes.length - ring.length) : bytes
      if (kept !== bytes) base = end = offset + bytes.length - kept.length
      put(ring, end, kept)
      end += kept.length
      base = Math.max(base, end - ring.length)
    },
    read(from, most) {
      const count = Math.min(most, end - from)
      return count <= 0 ? Buffer.alloc(0) : slice(from, count)
    },
    close() {
      memory.give(held)
      held = 0
    },
  }
}
