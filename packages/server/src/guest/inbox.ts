import { GuestError } from './errors.ts'

/** Raw bytes of one channel, in order. `gap` counts the bytes lost right before them. */
export interface Chunk {
  stream: number
  offset: number
  bytes: Buffer
  gap: number
}

/** Several small chunks in one buffer: `segments` holds, in order, `stream × 2²⁰ + length`, or a gap as a negative number. */
interface Pack {
  buffer: Buffer
  filled: number
  taken: number
  offset: number
  segments: number[]
  next: number
}

/** What has arrived on a channel and nobody has taken yet. */
export interface Inbox {
  push(chunk: Chunk): void
  /** Nothing more comes. What is held can still be taken; then `error`, if any, is what the consumer gets. */
  close(error?: GuestError): void
  take(): Chunk | undefined
  /** Forgets what is held and everything to come. */
  drop(): void
  closed: boolean
  error: GuestError | undefined
  /** Called once, when there is something to take or the end has come. One consumer at a time. */
  whenReady(listener: () => void): void
}

/** Up to here chunks are kept as they are; beyond it small ones are packed, so that a million one-byte chunks stay within a few MiB. */
const looseChunks = 16
const smallBytes = 2 * 1024
const packBytes = 8 * 1024
const streamUnit = 2 ** 20

/** The credit of the channel bounds what an inbox holds; `onTaken` is where it is given back. */
export function createInbox(onTaken: (bytes: number) => void): Inbox {
  let entries: (Chunk | Pack | undefined)[] = []
  let head = 0
  let dropped = false
  let listener: (() => void) | undefined

  const notify = (): void => {
    const ready = listener
    listener = undefined
    ready?.()
  }

  const shift = (): void => {
    entries[head] = undefined
    head += 1
    if (head === entries.length) {
      entries = []
      head = 0
    } else if (head >= 1024) {
      entries = entries.slice(head)
      head = 0
    }
  }

  const add = (chunk: Chunk): void => {
    if (entries.length - head < looseChunks || chunk.bytes.length >= smallBytes) {
      chunk.bytes = unpinned(chunk.bytes)
      entries.push(chunk)
      return
    }
    let last = entries.at(-1)
    if (!last || 'bytes' in last || last.filled + chunk.bytes.length > packBytes) {
      last = {
        buffer: Buffer.allocUnsafeSlow(packBytes),
        filled: 0,
        taken: 0,
        offset: chunk.offset - chunk.gap,
        segments: [],
        next: 0,
      }
      entries.push(last)
    }
    addToPack(last, chunk)
  }

  const inbox: Inbox = {
    closed: false,
    error: undefined,
    push(chunk) {
      if (dropped || inbox.closed) return onTaken(chunk.bytes.length)
      add(chunk)
      if (listener) notify()
    },
    close(reason) {
      if (inbox.closed) return
      inbox.closed = true
      inbox.error = reason
      notify()
    },
    take() {
      const entry = entries[head]
      if (!entry) return undefined
      const chunk = 'bytes' in entry ? entry : takeFromPack(entry)
      if ('bytes' in entry || entry.next === entry.segments.length) shift()
      onTaken(chunk.bytes.length)
      return chunk
    },
    drop() {
      if (dropped) return
      dropped = true
      let bytes = 0
      for (const entry of entries.slice(head)) bytes += entry ? untaken(entry) : 0
      entries = []
      head = 0
      if (bytes > 0) onTaken(bytes)
    },
    whenReady(whenReady) {
      if (entries.length > head || inbox.closed) whenReady()
      else listener = whenReady
    },
  }
  return inbox
}

function untaken(entry: Chunk | Pack): number {
  return 'bytes' in entry ? entry.bytes.length : entry.filled - entry.taken
}

function addToPack(pack: Pack, { stream, bytes, gap }: Chunk): void {
  pack.buffer.set(bytes, pack.filled)
  pack.filled += bytes.length
  const last = pack.segments.length - 1
  if (gap === 0 && last >= pack.next && Math.floor(pack.segments[last]! / streamUnit) === stream) {
    pack.segments[last]! += bytes.length
    return
  }
  if (gap > 0) pack.segments.push(-gap)
  pack.segments.push(stream * streamUnit + bytes.length)
}

function takeFromPack(pack: Pack): Chunk {
  let gap = 0
  let segment = pack.segments[pack.next++]!
  if (segment < 0) {
    gap = -segment
    segment = pack.segments[pack.next++]!
  }
  const length = segment % streamUnit
  const offset = pack.offset + gap
  const bytes = pack.buffer.subarray(pack.taken, pack.taken + length)
  pack.taken += length
  pack.offset = offset + length
  return { stream: Math.floor(segment / streamUnit), offset, bytes, gap }
}

/** A small piece of a large chunk is copied: whoever keeps it would keep all of the chunk. */
function unpinned(bytes: Buffer): Buffer {
  const whole = bytes.buffer.byteLength
  return whole > 4096 && bytes.length * 4 < whole ? Buffer.from(bytes) : bytes
}

export interface Taker<T> extends AsyncIterableIterator<T> {
  next(): Promise<IteratorResult<T, undefined>>
  return(): Promise<IteratorResult<T, undefined>>
}

/**
 * The inbox as an async iterator for one reader. `map` may answer undefined to skip a chunk. `onReturn` is called when the reader
 * leaves before the end.
 */
export function iterate<T>(inbox: Inbox, map: (chunk: Chunk) => T | undefined, onReturn: () => void): Taker<T> {
  let left = false
  let waiting = false

  /** What can be said at once; undefined when there is nothing yet. */
  const now = (): IteratorResult<T, undefined> | undefined => {
    if (left) return { value: undefined, done: true }
    for (let chunk = inbox.take(); chunk; chunk = inbox.take()) {
      const value = map(chunk)
      if (value !== undefined) return { value, done: false }
    }
    if (!inbox.closed) return undefined
    if (inbox.error) throw inbox.error
    return { value: undefined, done: true }
  }
  const settle = (resolve: (result: IteratorResult<T, undefined>) => void, reject: (reason: unknown) => void): void => {
    try {
      const result = now()
      if (!result) return inbox.whenReady(() => settle(resolve, reject))
      waiting = false
      resolve(result)
    } catch (reason) {
      waiting = false
      reject(reason)
    }
  }

  return {
    next() {
      if (waiting)
        return Promise.reject(new GuestError('invalid', 'Wait for the last chunk before asking for the next.'))
      waiting = true
      return new Promise(settle)
    },
    return() {
      if (!left) {
        left = true
        inbox.drop()
        onReturn()
        inbox.close()
      }
      return Promise.resolve({ value: undefined, done: true })
    },
    [Symbol.asyncIterator]() {
      return this
    },
  }
}
