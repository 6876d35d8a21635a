import { createHash } from 'node:crypto'
import { DeltaError } from '../kernel/errors.ts'
import { type ImagePart, type ImageType, readImageHeader } from '../models/door.ts'
import type { BlobStore, Digest } from '../storage/blobs.ts'
import { isDigest } from '../storage/blobs.ts'
import { taskLimits } from './limits.ts'

export type Attachments = ReturnType<typeof createAttachments>

/** Images and files that belong to tasks: blobs by their digest, which stay as long as the storage does. */
export function createAttachments(blobs: Pick<BlobStore, 'put' | 'get'>) {
  async function save(bytes: Buffer): Promise<Digest> {
    const digest: Digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`
    await blobs.put({
      digest,
      size: bytes.length,
      async *open(start) {
        yield bytes.subarray(start)
      },
    })
    return digest
  }

  return {
    save,

    /** Refused where its header does not say that it is what it is called, or that it is larger than models take. */
    async saveImage({ mediaType, data }: { mediaType: ImageType; data: string }, at: number): Promise<ImagePart> {
      const bytes = Buffer.from(data, 'base64')
      const header = readImageHeader(bytes)
      const field = `body.images.${at}`
      if (header?.mediaType !== mediaType) throw refused(field, `is no ${mediaType}, by its header`)
      const { imageBytes, imagePixels } = taskLimits
      if (bytes.length > imageBytes) throw refused(field, `has at most ${imageBytes} bytes`)
      const { width, height } = header
      if (Math.max(width, height) > imagePixels) throw refused(field, `has at most ${imagePixels} pixels a side`)
      return { type: 'image', digest: await save(bytes), mediaType, width, height }
    },

    async read(digest: string): Promise<Buffer> {
      if (!isDigest(digest)) throw new DeltaError('blob_missing', 'There is no such image')
      const chunks: Uint8Array[] = []
      for await (const chunk of blobs.get(digest)) chunks.push(chunk)
      return Buffer.concat(chunks)
    },
  }
}

function refused(field: string, rule: string): DeltaError {
  return new DeltaError('invalid_request', `The request is not valid at ${field}`, { cause: `${field}: ${rule}` })
}
