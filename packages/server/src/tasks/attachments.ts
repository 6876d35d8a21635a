import { createHash } from 'node:crypto'
import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Logger } from '../kernel/log.ts'
import { type ImagePart, type ImageType, readImageHeader } from '../models/door.ts'
import type { BlobStore, Digest } from '../storage/blobs.ts'
import { isDigest } from '../storage/blobs.ts'
import type { AttachmentStore } from './attachment-store.ts'
import { taskLimits } from './limits.ts'

export interface AttachmentsDeps {
  store: AttachmentStore
  blobs: Pick<BlobStore, 'put' | 'get' | 'remove'>
  /** Throws where the account has not paid for what it keeps already. */
  mayKeepMore(accountId: string): Promise<void>
  clock: Clock
  log: Logger
}

export interface GivenFile {
  path: string
  content: string
  encoding: 'utf8' | 'base64'
}

/** What came with a request, looked at and stored nowhere. */
export interface Attached {
  files: { path: string; digest: Digest; size: number }[]
  images: ImagePart[]
  blobs: ReadonlyMap<Digest, Buffer>
}

export type Attachments = ReturnType<typeof createAttachments>

/** Images and files that belong to tasks: blobs by their digest, counted by who uses them, which stay as long as the storage does. */
export function createAttachments({ store, blobs, mayKeepMore, clock, log }: AttachmentsDeps) {
  async function keepOne(digest: Digest, bytes: Buffer, use: { useId: string; accountId: string }): Promise<void> {
    await counted({ ...use, digest, bytes: bytes.length })
    const { stored } = await blobs.put({
      digest,
      size: bytes.length,
      async *open(start) {
        yield bytes.subarray(start)
      },
    })
    // What was there before may be somebody's layer.
    if (stored) await store.isOurs(digest)
  }

  /** One that is just being removed is stored anew when it is gone. */
  async function counted(use: Parameters<AttachmentStore['use']>[0]): Promise<void> {
    const { removalPollMs, removalMs, removalPolls } = taskLimits.attachments
    for (let left: number = removalPolls; left > 0; left--) {
      if (await store.use(use, clock.now())) return
      await store.takeBack(use.digest, clock.now() - removalMs)
      await clock.sleep(removalPollMs)
    }
    throw new DeltaError('storage_unavailable', 'The same file is just being removed', {
      context: { digest: use.digest },
    })
  }

  /** What a refusal leaves: blobs that nobody else uses are removed. */
  async function release(useId: string): Promise<void> {
    for (const digest of await store.usedBy(useId)) {
      await store.release(useId, digest)
      if (!(await store.removing(digest, clock.now()))) continue
      await blobs.remove(digest)
      await store.removed(digest)
    }
  }

  /** The refusal is what is told. */
  const releaseSafely = (useId: string): Promise<void> =>
    release(useId).catch((error: unknown) => log.warn('attachments_not_released', { useId, error }))

  return {
    release: releaseSafely,

    /** All of them are there when it resolves, or none is used. */
    async keep(use: { useId: string; accountId: string }, attached: Pick<Attached, 'blobs'>): Promise<void> {
      if (attached.blobs.size === 0) return
      await mayKeepMore(use.accountId)
      try {
        for (const [digest, bytes] of attached.blobs) await keepOne(digest, bytes, use)
      } catch (error) {
        await releaseSafely(use.useId)
        throw error
      }
    },

    async read(digest: string): Promise<Buffer> {
      if (!isDigest(digest)) throw new DeltaError('blob_missing', 'There is no such image')
      const chunks: Uint8Array[] = []
      for await (const chunk of blobs.get(digest)) chunks.push(chunk)
      return Buffer.concat(chunks)
    },
  }
}

/** Throws what is wrong with them before anything is stored. */
export function attach(
  images: readonly { mediaType: ImageType; data: string }[] = [],
  files: readonly GivenFile[] = [],
): Attached {
  const blobs = new Map<Digest, Buffer>()
  const add = (bytes: Buffer): Digest => {
    const digest = digestOf(bytes)
    blobs.set(digest, bytes)
    return digest
  }
  return {
    images: images.map((image, at) => {
      const { bytes, ...size } = readImage(image, `body.images.${at}`)
      return { type: 'image', digest: add(bytes), ...size }
    }),
    files: files.map(({ path, content, encoding }) => {
      const bytes = Buffer.from(content, encoding)
      return { path, digest: add(bytes), size: bytes.length }
    }),
    blobs,
  }
}

export function digestOf(bytes: Buffer): Digest {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}

/** Refused where its header does not say that it is what it is called, or that it is larger than models take. */
function readImage({ mediaType, data }: { mediaType: ImageType; data: string }, field: string) {
  const bytes = Buffer.from(data, 'base64')
  const header = readImageHeader(bytes)
  if (header?.mediaType !== mediaType) throw refused(field, `is no ${mediaType}, by its header`)
  const { imageBytes, imagePixels } = taskLimits
  if (bytes.length > imageBytes) throw refused(field, `has at most ${imageBytes} bytes`)
  const { width, height } = header
  if (Math.max(width, height) > imagePixels) throw refused(field, `has at most ${imagePixels} pixels a side`)
  return { bytes, mediaType, width, height }
}

function refused(field: string, rule: string): DeltaError {
  return new DeltaError('invalid_request', `The request is not valid at ${field}`, { cause: `${field}: ${rule}` })
}
