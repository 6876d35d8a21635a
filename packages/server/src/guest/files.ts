import { Readable } from 'node:stream'
import { brokenAnswer, canceled, ignore, readRecords } from './call.ts'
import { GuestError } from './errors.ts'
import { createInbox, iterate } from './inbox.ts'
import { violation } from './channel.ts'
import {
  ops,
  readEntry,
  readMore,
  readWatchEvent,
  writeList,
  writePathFlag,
  writeRead,
  writeWrite,
} from './messages.ts'
import type { CallOptions } from './call.ts'
import type { Inbox } from './inbox.ts'
import type { Channel } from './channel.ts'
import type { Link } from './link.ts'
import type { Entry, PathInput, WatchEvent, WriteOptions } from './messages.ts'

const fileStream = 0
const recordStream = 3
/** Most entries of one page, and most bytes it may come as. */
const maxListEntries = 10_000
const maxListBytes = 64 * 1024 * 1024

export interface ListOptions extends CallOptions {
  /** 1 = the folder's own entries. @default 1 */
  depth?: number | undefined
  /** Last path of the page before. */
  after?: PathInput | undefined
  /** At most 10,000. @default 1000 */
  limit?: number | undefined
}

export interface ListPage {
  entries: Entry[]
  more: boolean
}

export interface ReadOptions extends CallOptions {
  /** @default 0 */
  from?: number | undefined
  /** @default to the end */
  length?: number | undefined
  /**
   * Deliver what `entry.size` promised, no more where the file grows meanwhile, and fail with `io` where it shrinks: for answers whose
   * length was announced. Files of size 0 (as in /proc) are delivered as they come.
   * @default false
   */
  exact?: boolean | undefined
}

export interface FileRead {
  entry: Entry
  body: AsyncIterableIterator<Buffer> & { cancel(): void }
}

export interface FileWrite {
  /** Takes the chunk over. A promise: wait for it before the next. Undefined: go on. */
  write(chunk: Buffer): Promise<void> | undefined
  /** The file is in place when it resolves. */
  end(): Promise<Entry>
  /** Leaves the old file. */
  cancel(): void
  /** Rejects as soon as the guest gives up, while the caller may still be waiting for its source; resolves as `end` does. */
  readonly result: Promise<Entry>
}

export interface Watch {
  events: AsyncIterableIterator<WatchEvent>
  cancel(): void
}

export function listEntries(link: Link, path: PathInput, options: ListOptions = {}): Promise<ListPage> {
  const { depth = 1, after = '', limit = 1000, signal } = options
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(canceled())
    if (!(limit >= 1 && limit <= maxListEntries))
      throw new GuestError('invalid', `A page has 1 to ${maxListEntries} entries.`)
    const open = writeList(path, depth, after, limit)
    const entries: Entry[] = []
    let receivedBytes = 0
    const onAbort = (): void => link.cancel(channel)
    const channel = link.open(open, {
      streams: [recordStream],
      data(_stream, offset, bytes) {
        if (offset !== receivedBytes) throw violation('records out of order')
        receivedBytes += bytes.length
        for (const entry of readRecords(bytes, readEntry)) entries.push(entry)
        if (entries.length > limit || receivedBytes > maxListBytes) throw violation('more entries than asked for')
        link.consumed(channel, bytes.length)
      },
      closed(reader) {
        signal?.removeEventListener('abort', onAbort)
        resolve({ entries, more: readMore(reader) })
      },
      failed(error) {
        signal?.removeEventListener('abort', onAbort)
        reject(error)
      },
    })
    signal?.addEventListener('abort', onAbort, { once: true })
  })
}

interface OpenRead {
  entry: Entry
  inbox: Inbox
  cancel(): void
}

function openRead(link: Link, path: PathInput, options: ReadOptions): Promise<OpenRead> {
  const { from = 0, length, exact = false, signal } = options
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(canceled())
    let received = 0
    let wanted = length ?? Infinity
    let promised = 0
    const inbox = createInbox((bytes) => link.consumed(channel, bytes))
    const cancel = (): void => {
      inbox.drop()
      link.cancel(channel)
    }
    const open = writeRead(path, from, length)
    const channel = link.open(open, {
      streams: [fileStream],
      opened(reader) {
        const entry = readEntry(reader)
        if (exact && entry.size > 0) {
          promised = Math.min(wanted, Math.max(0, entry.size - from))
          wanted = promised
        }
        resolve({ entry, inbox, cancel })
      },
      data(_stream, offset, bytes) {
        if (offset !== received) throw violation(`file data at ${offset} instead of ${received}`)
        received += bytes.length
        const excess = received - wanted
        if (excess <= 0) return inbox.push({ stream: fileStream, offset, bytes, gap: 0 })
        if (length !== undefined && received > length) throw violation('more file data than asked for')
        const rest = bytes.length - excess
        if (rest > 0) inbox.push({ stream: fileStream, offset, bytes: bytes.subarray(0, rest), gap: 0 })
        // The file grew behind the size that was announced: what was promised is complete.
        inbox.close()
        link.cancel(channel)
      },
      closed() {
        signal?.removeEventListener('abort', cancel)
        inbox.close(
          received < promised ? new GuestError('io', 'The file became shorter while it was read.') : undefined,
        )
      },
      failed(error) {
        signal?.removeEventListener('abort', cancel)
        reject(error)
        inbox.close(error)
      },
    })
    signal?.addEventListener('abort', cancel, { once: true })
  })
}

export async function readFile(link: Link, path: PathInput, options: ReadOptions = {}): Promise<FileRead> {
  const { entry, inbox, cancel } = await openRead(link, path, options)
  const body = iterate(inbox, (chunk) => chunk.bytes, cancel)
  return { entry, body: Object.assign(body, { cancel: () => void body.return() }) }
}

/** The same as a Node stream: destroying it cancels the read. */
export async function readFileStream(
  link: Link,
  path: PathInput,
  options: ReadOptions = {},
): Promise<{ entry: Entry; stream: Readable }> {
  const { entry, inbox, cancel } = await openRead(link, path, options)
  return { entry, stream: inboxStream(inbox, cancel) }
}

function inboxStream(inbox: Inbox, cancel: () => void): Readable {
  const stream = new Readable({
    highWaterMark: 128 * 1024,
    read() {
      const pump = (): void => {
        if (this.destroyed) return
        for (let chunk = inbox.take(); chunk; chunk = inbox.take()) {
          if (!this.push(chunk.bytes)) return
        }
        if (!inbox.closed) inbox.whenReady(pump)
        else if (inbox.error) this.destroy(inbox.error)
        else this.push(null)
      }
      pump()
    },
    destroy(error, done) {
      if (!inbox.closed) cancel()
      inbox.drop()
      done(error)
    },
  })
  // A guest must not be able to end the server with an error event that nobody listens to yet.
  return stream.on('error', ignore)
}

export function openWrite(link: Link, path: PathInput, options: WriteOptions & CallOptions = {}): Promise<FileWrite> {
  const { signal } = options
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(canceled())
    const result = Promise.withResolvers<Entry>()
    result.promise.catch(ignore)
    const cancel = (): void => link.cancel(channel)
    const channel: Channel = link.open(writeWrite(path, options), {
      streams: [],
      opened() {
        resolve({
          write: (chunk) => link.send(channel, chunk),
          end() {
            link.sendEnd(channel)
            return result.promise
          },
          cancel,
          result: result.promise,
        })
      },
      closed(reader) {
        signal?.removeEventListener('abort', cancel)
        // Success before the end of the data would be a file that was cut without anyone hearing of it.
        if (channel.end !== 'sent') throw violation('a write succeeds before its end')
        result.resolve(readEntry(reader))
      },
      failed(error) {
        signal?.removeEventListener('abort', cancel)
        reject(error)
        result.reject(error)
      },
    })
    signal?.addEventListener('abort', cancel, { once: true })
  })
}

/**
 * Pipes a Node stream into a file. A source that errors or closes before its end, and an abort, leave the old file. The source is only
 * paused, never destroyed: it is the caller's.
 */
export async function writeFileFrom(
  link: Link,
  path: PathInput,
  source: Readable,
  options: WriteOptions & CallOptions = {},
): Promise<Entry> {
  const file = await openWrite(link, path, options)
  return new Promise((resolve, reject) => {
    const onData = (chunk: Buffer | string): void => {
      const busy = file.write(typeof chunk === 'string' ? Buffer.from(chunk) : chunk)
      if (!busy) return
      source.pause()
      // A refused write is heard through the result.
      busy.then(() => source.resume(), ignore)
    }
    const onEnd = (): void => {
      stopListening()
      file.end().then(resolve, reject)
    }
    const onCut = (cause?: unknown): void => {
      stopListening()
      const isError = cause instanceof Error
      reject(
        new GuestError(
          'canceled',
          'The source ended before its end, so the file was left as it was.',
          isError ? { cause } : undefined,
        ),
      )
      file.cancel()
    }
    const onRefused = (error: GuestError): void => {
      stopListening()
      source.pause()
      reject(error)
    }
    const stopListening = (): void => {
      source.off('data', onData)
      source.off('end', onEnd)
      source.off('error', onCut)
      source.off('close', onCut)
    }
    file.result.catch(onRefused)
    if (source.readableEnded) return onEnd()
    if (source.destroyed) return onCut(source.errored)
    source.on('end', onEnd)
    source.on('error', onCut)
    source.on('close', onCut)
    source.on('data', onData)
  })
}

export function openWatch(
  link: Link,
  path: PathInput,
  { recursive = false, signal }: CallOptions & { recursive?: boolean | undefined } = {},
): Promise<Watch> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(canceled())
    let received = 0
    const inbox = createInbox((bytes) => link.consumed(channel, bytes))
    const onAbort = (): void => link.cancel(channel)
    const cancel = (): void => {
      inbox.drop()
      inbox.close()
      link.cancel(channel)
    }
    const channel = link.open(writePathFlag(ops.watch, path, recursive), {
      streams: [recordStream],
      opened() {
        resolve({ events: watchEvents(link, inbox, cancel), cancel })
      },
      data(_stream, offset, bytes) {
        if (offset !== received) throw violation('events out of order')
        received += bytes.length
        inbox.push({ stream: recordStream, offset, bytes, gap: 0 })
      },
      closed() {
        signal?.removeEventListener('abort', onAbort)
        inbox.close()
      },
      failed(error) {
        signal?.removeEventListener('abort', onAbort)
        reject(error)
        inbox.close(error)
      },
    })
    signal?.addEventListener('abort', onAbort, { once: true })
  })
}

/** Events wait as bytes, bounded by the channel's credit, and are read one chunk at a time. */
async function* watchEvents(link: Link, inbox: Inbox, cancel: () => void): AsyncGenerator<WatchEvent, undefined> {
  try {
    for await (const bytes of iterate(inbox, (chunk) => chunk.bytes, ignore)) {
      let events: WatchEvent[]
      try {
        events = readRecords(bytes, readWatchEvent)
      } catch (cause) {
        const error = brokenAnswer(cause)
        link.close(error)
        throw error
      }
      yield* events
    }
  } finally {
    cancel()
  }
  return undefined
}
