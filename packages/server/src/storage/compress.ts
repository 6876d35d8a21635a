import { randomUUID } from 'node:crypto'
import { type FileHandle, open, rm } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { compressSmall, smallBytes } from './compress-small.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Bytes, Digest } from './blobs.ts'
import { type CompressReport, type CompressRequest, type CompressSettings, pieceBytes } from './compress-messages.ts'

export interface CompressedLayer {
  /** Durable. Whoever asked for it removes it. */
  path: string
  digest: Digest
  /** Digest of the tar that went in. */
  diffId: Digest
  size: number
  tarSize: number
}

export interface CompressOptions {
  /** Where the file is made, under a name of its own. */
  folder: string
  signal?: AbortSignal | undefined
}

/** Two keep both of a small machine's processors busy; more would be felt by whoever works on it. */
const lanes = Math.min(2, availableParallelism())
/** Of memory: one is filled, one waits, the others are compressed. Used again and again, so that a large layer takes no more than these. */
const mostPieces = lanes + 2
/** The collector of garbage goes through all of it whenever half as much outside, such as pieces, has come since it did so last. */
const heapMb = 64

// Beside this source file in development, beside the bundle in a release.
const workerUrl = new URL(
  import.meta.url.endsWith('.ts') ? './compress-worker.ts' : './compress-worker.mjs',
  import.meta.url,
)

/**
 * zstd level 3, a frame for each 4 MiB, with both digests. A small one is made here; of a larger one the rest is done in a thread of its own that ends with the layer: about 30 ms and
 * 10 MB for each call, and as much memory as the tar has bytes, up to 16 MiB.
 */
export async function compressLayer(tar: Bytes, { folder, signal }: CompressOptions): Promise<CompressedLayer> {
  signal?.throwIfAborted()
  const path = join(folder, `${randomUUID()}.layer`)
  const file = await newFile(path)
  try {
    const source = tar[Symbol.asyncIterator]()
    const begun = await beginning(source, signal)
    if (begun.isWhole) return { path, ...(await compressSmall(begun.bytes, { file, path }).catch(failedTo)) }
    return { path, ...(await compressLarge(path, { begun: begun.bytes, source, signal })) }
  } catch (error) {
    await rm(path, { force: true })
    throw error
  } finally {
    await file.close()
  }
}

function newFile(path: string): Promise<FileHandle> {
  return open(path, 'wx', 0o600).catch(failedTo)
}

/** All of a small tar, or what came of a larger one until that was known. A source that hangs can be given up, and is told. */
async function beginning(
  source: AsyncIterator<Uint8Array>,
  signal: AbortSignal | undefined,
): Promise<{ bytes: Buffer; isWhole: boolean }> {
  const chunks: Uint8Array[] = []
  let length = 0
  let onAbort = () => {}
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(signal!.reason)
  })
  aborted.catch(() => {})
  signal?.addEventListener('abort', onAbort, { once: true })
  let isWhole = false
  try {
    while (length <= smallBytes) {
      const next = await Promise.race([source.next(), aborted])
      if (next.done) {
        isWhole = true
        break
      }
      // A copy: the source may read what follows into the same memory.
      chunks.push(Buffer.from(next.value))
      length += next.value.length
    }
    return { bytes: Buffer.concat(chunks), isWhole }
  } catch (error) {
    source.return?.()?.catch(() => {})
    throw error
  } finally {
    signal?.removeEventListener('abort', onAbort)
  }
}

interface Large {
  begun: Uint8Array
  source: AsyncIterator<Uint8Array>
  signal: AbortSignal | undefined
}

async function compressLarge(path: string, { begun, source, signal }: Large): Promise<Omit<CompressedLayer, 'path'>> {
  const compressor = startCompressor({ path, lanes })
  const abort = () => compressor.fail(signal!.reason)
  signal?.addEventListener('abort', abort, { once: true })
  if (signal?.aborted) abort()
  try {
    await feed({ begun, source }, compressor)
    return await compressor.done
  } finally {
    signal?.removeEventListener('abort', abort)
    await compressor.end()
  }
}

type Memory = Uint8Array<ArrayBuffer>

interface Compressor {
  /** Rejects when it fails, also while nobody sends. */
  done: Promise<Omit<CompressedLayer, 'path'>>
  /** Memory for a piece, as soon as there is some. */
  take(): Promise<Memory>
  /** Gives the memory away, with so many bytes in it. */
  send(piece: Memory, bytes: number): void
  finish(): void
  fail(reason: unknown): void
  end(): Promise<void>
}

async function feed(
  { begun, source }: Pick<Large, 'begun' | 'source'>,
  { take, send, finish, done }: Compressor,
): Promise<void> {
  let failure: { reason: unknown } | undefined
  let giveUp = (_reason: unknown) => {}
  done.catch((reason: unknown) => {
    failure = { reason }
    giveUp(reason)
  })
  // A source that hangs must not hide that the worker has failed. (Promise.race with `done` would keep every chunk until the end.)
  const unlessFailed = <T>(act: () => Promise<T>): Promise<T> =>
    new Promise((resolve, reject) => {
      giveUp = reject
      if (failure) reject(failure.reason)
      else act().then(resolve, reject)
    })
  let whole = false
  try {
    let piece = await unlessFailed(take)
    let filled = 0
    for (let first = true; ; first = false) {
      const next = first ? { done: false, value: begun } : await unlessFailed(() => source.next())
      if (next.done) break
      for (let at = 0; at < next.value.length;) {
        // A full one goes only when something follows: the last may be full, but an empty one only the first.
        if (filled === pieceBytes) {
          send(piece, filled)
          piece = await unlessFailed(take)
          filled = 0
        }
        const part = next.value.subarray(at, at + pieceBytes - filled)
        piece.set(part, filled)
        filled += part.length
        at += part.length
      }
    }
    whole = true
    send(piece, filled)
    finish()
  } finally {
    // Not awaited: it may be what hangs.
    if (!whole) source.return?.()?.catch(() => {})
  }
}

function startCompressor(settings: CompressSettings): Compressor {
  const worker = new Worker(workerUrl, {
    workerData: settings,
    resourceLimits: { maxOldGenerationSizeMb: heapMb, maxYoungGenerationSizeMb: 4 },
    // The environment holds secrets that compressing does not need.
    env: {},
  })
  const done = Promise.withResolvers<Omit<CompressedLayer, 'path'>>()
  const free: ArrayBuffer[] = []
  let made = 0
  let room: (() => void) | undefined
  worker.on('message', (message: CompressReport) => {
    if (message.kind === 'failed') return done.reject(failureOf(message))
    if (message.kind === 'done') {
      const { kind: _, ...layer } = message
      return done.resolve(layer)
    }
    free.push(message.memory)
    room?.()
  })
  worker.on('error', (error) => done.reject(error))
  worker.on('exit', (code) => done.reject(new Error(`The thread that compresses ended with ${code}`)))
  return {
    done: done.promise,
    async take() {
      if (free.length === 0 && made < mostPieces) {
        made += 1
        // Untouched memory costs nothing, so that a small layer is not charged for a whole piece.
        return new Uint8Array(pieceBytes)
      }
      while (free.length === 0) {
        await new Promise<void>((resolve) => {
          room = resolve
        })
      }
      return new Uint8Array(free.pop()!)
    },
    send: (piece, bytes) => post(worker, piece.subarray(0, bytes), [piece.buffer]),
    finish: () => post(worker, 'end'),
    fail: (reason) => done.reject(reason),
    async end() {
      await worker.terminate()
    },
  }
}

function post(worker: Worker, message: CompressRequest, transfer: ArrayBuffer[] = []): void {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- A worker's port has no origin; the rule is for windows.
  worker.postMessage(message, transfer)
}

function failedTo(error: unknown): never {
  const { code, message } = error as NodeJS.ErrnoException
  throw failureOf({ code, message })
}

function failureOf({
  code,
  message,
}: Pick<Extract<CompressReport, { kind: 'failed' }>, 'code' | 'message'>): DeltaError {
  const cause = new Error(message)
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new DeltaError('disk_full', 'The disk is full: the layer could not be packed', { cause })
  }
  return new DeltaError('storage_unavailable', 'The layer could not be packed', { cause })
}
