import { randomInt } from 'node:crypto'
import type { Clock } from '../../kernel/clock.ts'
import type { S3Config } from '../../kernel/config.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { Logger } from '../../kernel/log.ts'
import type { Bytes } from '../blobs.ts'
import type { ObjectPutOptions, ObjectSource, ObjectStore } from '../objects.ts'
import { createCalls } from './calls.ts'
import { inParts, partBytesOf } from './parts.ts'
import { again, persistently } from './patience.ts'
import type { Patience } from './patience.ts'
import { pagesOf, uploadInParts } from './upload.ts'

export interface S3Deps {
  config: S3Config
  clock: Clock
  log: Logger
  /** @default random */
  random?: () => number
  /** Tries of one request. @default 8 */
  tries?: number
  /** Objects up to this size are sent in one go, larger ones in parts of it. @default 8 MiB */
  partBytes?: number
}

const dayMs = 24 * 60 * 60_000
/** An upload that nobody ended for this long has lost whoever began it. */
export const orphanAgeMs = 7 * dayMs
const sweepEveryMs = dayMs

/** Objects in a bucket of any service that speaks S3. */
export function openS3({ config, clock, log, random = anyRandom, tries, partBytes }: S3Deps): ObjectStore {
  const calls = createCalls(config)
  const patience: Patience = { clock, random, ...(tries !== undefined && { tries }) }
  const fullKey = (key: string) => `${config.prefix}${key}`
  const closed = new AbortController()
  /** By key. A second put of the same object waits for the first, and then finds it. */
  const underWay = new Map<string, Promise<unknown>>()
  let sweptAtMs: number | undefined

  async function size(key: string, signal?: AbortSignal): Promise<number | null> {
    const attempt = { key: fullKey(key), signal: signalOf(signal) }
    return persistently(patience, attempt, (limit) => calls.size(attempt.key, limit)).catch(unlessMissing)
  }

  const signalOf = (signal: AbortSignal | undefined) =>
    signal ? AbortSignal.any([signal, closed.signal]) : closed.signal

  async function send(source: ObjectSource, options: ObjectPutOptions): Promise<{ stored: boolean }> {
    const { signal, onProgress } = options
    if (!options.replace && (await size(source.key, signal)) === source.size) return { stored: false }
    const whole = { ...source, key: fullKey(source.key) }
    const bounds = { ...options, signal: signalOf(signal) }
    if (source.size > partBytesOf(source.size, partBytes)) {
      await uploadInParts({ calls, patience, partBytes }, whole, bounds)
    } else {
      for await (const part of inParts(source.open(), Math.max(1, source.size))) {
        if (part.number > 1 || part.bytes.length !== source.size) throw wrongSize(source)
        await persistently(patience, { key: whole.key, signal: bounds.signal }, (limit) =>
          calls.put(whole.key, part, limit),
        )
      }
      onProgress?.(source.size)
    }
    return { stored: true }
  }

  async function put(source: ObjectSource, options: ObjectPutOptions = {}): Promise<{ stored: boolean }> {
    void sweepSometimes()
    for (let other = underWay.get(source.key); other; other = underWay.get(source.key)) await other.catch(() => {})
    const mine = send(source, options)
    underWay.set(source.key, mine)
    try {
      return await mine
    } finally {
      underWay.delete(source.key)
    }
  }

  /** Goes on where a connection was cut; as long as something comes, there is no bound on how often. */
  async function* get(key: string, { signal }: { signal?: AbortSignal | undefined } = {}): Bytes {
    const attempt = { key: fullKey(key), signal: signalOf(signal) }
    let from = 0
    let etag: string | undefined
    for (let failures = 0; ;) {
      let body: Awaited<ReturnType<typeof calls.get>>['body'] | undefined
      try {
        attempt.signal.throwIfAborted()
        const answer = await calls.get(attempt.key, { from, etag, signal: attempt.signal })
        body = answer.body
        etag = answer.etag
        if (answer.size === from) return
        for await (const chunk of body) {
          from += chunk.length
          failures = 0
          yield chunk
        }
        if (from >= answer.size) return
        throw new Error(`The connection ended at byte ${from} of ${answer.size}`)
      } catch (error) {
        failures += 1
        await again(error, { ...attempt, failures, patience })
      } finally {
        body?.destroy()
      }
    }
  }

  /** Uploads that nobody goes on with cost money, and no list of objects shows them. */
  async function sweepSometimes(): Promise<void> {
    if (sweptAtMs !== undefined && clock.monotonic() - sweptAtMs < sweepEveryMs) return
    sweptAtMs = clock.monotonic()
    try {
      const attempt = { key: config.prefix, signal: closed.signal }
      const pages = pagesOf({ patience, attempt }, (token, limit) =>
        calls.uploads(config.prefix, { token, signal: limit }),
      )
      for await (const upload of pages) {
        const isOld = clock.now() - upload.startedAt > orphanAgeMs
        if (!isOld || underWay.has(upload.key.slice(config.prefix.length))) continue
        await persistently(patience, attempt, (limit) => calls.abort(upload, limit))
        log.info('storage_upload_dropped', { object: upload.key, startedAt: upload.startedAt })
      }
    } catch (error) {
      if (!closed.signal.aborted) log.warn('storage_uploads_not_swept', { error })
    }
  }

  return {
    name: `s3://${config.bucket}/${config.prefix}`,
    put,
    get,
    size,
    async remove(key) {
      const attempt = { key: fullKey(key), signal: closed.signal }
      await persistently(patience, attempt, (limit) => calls.remove(attempt.key, limit)).catch(unlessMissing)
    },
    async *list(area) {
      const attempt = { key: `${fullKey(area)}/`, signal: closed.signal }
      const pages = pagesOf({ patience, attempt }, (token, limit) => calls.list(attempt.key, { token, signal: limit }))
      for await (const object of pages) yield { ...object, key: object.key.slice(config.prefix.length) }
    },
    async close() {
      closed.abort(new DeltaError('shutting_down', 'The storage is closing'))
      await Promise.allSettled(underWay.values())
      calls.close()
    },
  }
}

const anyRandom = () => randomInt(2 ** 32) / 2 ** 32

function unlessMissing(error: unknown): null {
  if (error instanceof DeltaError && error.code === 'blob_missing') return null
  throw error
}

function wrongSize({ size }: ObjectSource): DeltaError {
  return new DeltaError('storage_refused', `An object of ${size} bytes came with another size`)
}
