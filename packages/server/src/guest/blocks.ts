/** Of the memory that is used again and again for bytes on their way. */
export const blockBytes = 64 * 1024
/** What is kept for the next; more is left to the garbage collector. */
const mostFree = 64
/** For less than this no block is taken: what is held is counted in bytes, and must not cost more than twice as much memory. */
export const leastBlockBytes = blockBytes / 2

const free: Buffer[] = []
const lent = new WeakSet<ArrayBufferLike>()

/** A block to fill. Who forgets to give it back costs what a fresh one does. */
export function takeBlock(): Buffer {
  const block = free.pop() ?? Buffer.allocUnsafeSlow(blockBytes)
  lent.add(block.buffer)
  return block
}

/** A copy, in a block where it fills enough of one. */
export function copyToBlock(bytes: Buffer): Buffer {
  if (bytes.length < leastBlockBytes || bytes.length > blockBytes) return Buffer.from(bytes)
  const block = takeBlock()
  block.set(bytes)
  return block.subarray(0, bytes.length)
}

/** The block under these bytes, where there is one, is free again: nobody looks at it any more, the kernel neither. Only once. */
export function giveBlock(bytes: Buffer): void {
  if (lent.delete(bytes.buffer) && free.length < mostFree) free.push(Buffer.from(bytes.buffer))
}
