/** The latest output of a terminal, numbered as the guest numbers it, in memory that is bounded whatever the pieces were. */
export interface OutputWindow {
  /** The oldest offset kept. */
  readonly base: number
  readonly end: number
  /** Bytes right after `end`, or further on: then what came before is given up, since nobody may read over a hole. */
  append(offset: number, bytes: Buffer): void
  /** A copy: what a socket is given must stay as it is while it waits there. `from` lies within the window. */
  read(from: number, most: number): Buffer
}

const firstBytes = 16 * 1024

export function createOutputWindow(start: number, mostBytes: number): OutputWindow {
  let ring = Buffer.alloc(0)
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

  const makeRoom = (bytes: number): void => {
    const wanted = Math.min(mostBytes, end - base + bytes)
    if (wanted <= ring.length) return
    let size = Math.max(firstBytes, ring.length)
    while (size < wanted) size *= 2
    const larger = Buffer.allocUnsafeSlow(Math.min(size, mostBytes))
    if (end > base) put(larger, base, slice(base, end - base))
    ring = larger
  }

  return {
    get base() {
      return base
    },
    get end() {
      return end
    },
    append(offset, bytes) {
      if (offset !== end) base = end = offset
      const kept = bytes.length > mostBytes ? bytes.subarray(bytes.length - mostBytes) : bytes
      if (kept !== bytes) base = end = offset + bytes.length - kept.length
      makeRoom(kept.length)
      put(ring, end, kept)
      end += kept.length
      base = Math.max(base, end - ring.length)
    },
    read(from, most) {
      const count = Math.min(most, end - from)
      return count <= 0 ? Buffer.alloc(0) : slice(from, count)
    },
  }
}
