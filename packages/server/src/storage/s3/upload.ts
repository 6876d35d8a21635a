import { DeltaError } from '../../kernel/errors.ts'
import type { ObjectPutOptions, ObjectSource } from '../objects.ts'
import { isSame, type Page, type S3Calls, type SentPart, type Upload } from './calls.ts'
import { judge } from './failures.ts'
import { createPartMemory, inParts, partBytesOf, partsAtOnce, type Part } from './parts.ts'
import { persistently, type Patience } from './patience.ts'

export interface UploadDeps {
  calls: S3Calls
  patience: Patience
  partBytes?: number | undefined
}

/** Sends an object in parts, going on with an upload of it that was cut where there is one. */
export async function uploadInParts(
  { calls, patience, partBytes }: UploadDeps,
  source: ObjectSource,
  { signal, onProgress }: ObjectPutOptions,
): Promise<void> {
  const attempt = { key: source.key, signal }
  const size = partBytesOf(source.size, partBytes)
  const upload = (await find(calls, { patience, attempt })) ?? (await start(calls, { patience, attempt }))
  const there = await partsOf(calls, { upload, patience, attempt })
  const lied = new AbortController()
  const either = { key: source.key, signal: signal ? AbortSignal.any([signal, lied.signal]) : lied.signal }
  const memory = createPartMemory(size)
  const sending = new Set<Promise<void>>()
  const parts: SentPart[] = []
  let failure: { reason: unknown } | undefined
  let sentBytes = 0
  const send = async (part: Part) => {
    const known = there.get(part.number)
    parts[part.number - 1] =
      known && isSound(known, part)
        ? known
        : await persistently(patience, either, (limit) => calls.sendPart(upload, part, limit))
    sentBytes += part.bytes.length
    onProgress?.(sentBytes)
  }
  try {
    for await (const part of inParts(source.open(), size, memory)) {
      const sent = send(part)
        .then(() => memory.give(part))
        .catch((reason: unknown) => {
          failure ??= { reason }
        })
        .finally(() => sending.delete(sent))
      sending.add(sent)
      if (sending.size >= partsAtOnce(size)) await Promise.race(sending)
      signal?.throwIfAborted()
      if (failure) break
    }
  } catch (error) {
    if (isDamaged(error)) lied.abort(error)
    failure ??= { reason: error }
  }
  // Parts on their way may still arrive, and are then not sent again by the next try.
  await Promise.all(sending)
  if (failure) {
    if (isDamaged(failure.reason)) await forget(calls, upload)
    throw failure.reason
  }
  await complete(calls, { upload, parts, source, patience, attempt })
}

interface Trying {
  patience: Patience
  attempt: { key: string; signal: AbortSignal | undefined }
}

/** The newest upload of that very object which has not ended. */
async function find(calls: S3Calls, { patience, attempt }: Trying): Promise<Upload | undefined> {
  try {
    const pages = pagesOf({ patience, attempt }, (token, signal) => calls.uploads(attempt.key, { token, signal }))
    let newest: Upload | undefined
    for await (const upload of pages) {
      if (upload.key === attempt.key && upload.startedAt >= (newest?.startedAt ?? 0)) newest = upload
    }
    return newest
  } catch (error) {
    // A service, or a right, that knows no list of uploads: then each starts anew.
    if (error instanceof DeltaError && error.code === 'storage_refused') return undefined
    throw error
  }
}

async function start(calls: S3Calls, { patience, attempt }: Trying): Promise<Upload> {
  const id = await persistently(patience, attempt, (signal) => calls.startUpload(attempt.key, signal))
  return { key: attempt.key, id, startedAt: 0 }
}

async function partsOf(
  calls: S3Calls,
  { upload, patience, attempt }: Trying & { upload: Upload },
): Promise<Map<number, SentPart>> {
  const parts = new Map<number, SentPart>()
  if (upload.startedAt === 0) return parts
  try {
    const pages = pagesOf({ patience, attempt }, (token, signal) => calls.sentParts(upload, { token, signal }))
    for await (const part of pages) parts.set(part.number, part)
  } catch (error) {
    if (!(error instanceof DeltaError && error.code === 'storage_refused')) throw error
    // Sending every part once more is right all the same, unless the upload has gone meanwhile.
    parts.clear()
  }
  return parts
}

/** All items of all pages. A service that repeats a page for ever is cut off. */
export async function* pagesOf<Item>(
  { patience, attempt }: Trying,
  ask: (token: string | undefined, signal: AbortSignal) => Promise<Page<Item>>,
): AsyncGenerator<Item> {
  let token: string | undefined
  do {
    const page: Page<Item> = await persistently(patience, attempt, (signal) => ask(token, signal))
    yield* page.items
    token = page.next === token ? undefined : page.next
  } while (token !== undefined)
}

/** A part that is there counts only when its digest is the one of the bytes it should have. */
function isSound(known: SentPart, part: Part): boolean {
  if (known.size !== part.bytes.length) return false
  return known.sha256 === undefined ? isSame(part, known.etag) : known.sha256 === part.sha256.toString('base64')
}

function isDamaged(error: unknown): boolean {
  return error instanceof DeltaError && error.code === 'blob_damaged'
}

/** Nothing of a source that lied may stay. After any other failure the parts are kept, for the next try. */
async function forget(calls: S3Calls, upload: Upload): Promise<void> {
  // When even that fails, age will take it.
  await calls.abort(upload, AbortSignal.timeout(10_000)).catch(() => {})
}

/** An answer that was lost leaves open whether the object is there: then its size says it. */
async function complete(
  calls: S3Calls,
  { upload, parts, source, patience, attempt }: Trying & { upload: Upload; parts: SentPart[]; source: ObjectSource },
): Promise<void> {
  await persistently(patience, attempt, async (signal) => {
    try {
      await calls.complete(upload, parts, signal)
    } catch (error) {
      if (judge(error).kind !== 'upload gone') throw error
      if ((await calls.size(upload.key, signal).catch(() => undefined)) !== source.size) throw error
    }
  })
}
