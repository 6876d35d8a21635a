import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  ListPartsCommand,
  PutObjectCommand,
  S3Client,
  UploadPartCommand,
} from '@aws-sdk/client-s3'
import type { S3Config } from '../../kernel/config.ts'
import type { Bytes } from '../blobs.ts'
import type { StoredObject } from '../objects.ts'
import { Garbled } from './failures.ts'
import type { Part } from './parts.ts'

export interface Upload {
  key: string
  id: string
  startedAt: number
}

/** A part as the service has it. */
export interface SentPart {
  number: number
  size: number
  etag: string
  /** Where the service keeps checksums. */
  sha256: string | undefined
}

/** One try of each request, in our words. Retries are `patience.ts`'s business. */
export interface S3Calls {
  put(key: string, body: Part, signal: AbortSignal): Promise<void>
  size(key: string, signal: AbortSignal): Promise<number>
  /** The whole object, or what follows `from` of the one with that etag. */
  get(key: string, options: { from: number; etag?: string | undefined; signal: AbortSignal }): Promise<Answer>
  remove(key: string, signal: AbortSignal): Promise<void>
  list(prefix: string, options: { token?: string | undefined; signal: AbortSignal }): Promise<Page<StoredObject>>
  startUpload(key: string, signal: AbortSignal): Promise<string>
  uploads(prefix: string, options: { token?: string | undefined; signal: AbortSignal }): Promise<Page<Upload>>
  sentParts(upload: Upload, options: { token?: string | undefined; signal: AbortSignal }): Promise<Page<SentPart>>
  sendPart(upload: Upload, part: Part, signal: AbortSignal): Promise<SentPart>
  complete(upload: Upload, parts: SentPart[], signal: AbortSignal): Promise<void>
  abort(upload: Upload, signal: AbortSignal): Promise<void>
  close(): void
}

export interface Answer {
  body: Bytes & { destroy(): void }
  etag: string | undefined
  /** Of the whole object. */
  size: number
}

export interface Page<Item> {
  items: Item[]
  /** Asks for the page that follows. */
  next: string | undefined
}

const connectMs = 10_000
/** A connection may be silent for this long. */
const silenceMs = 60_000
const connections = 16

export function createCalls(config: S3Config): S3Calls {
  const { bucket: Bucket, sse } = config
  const client = new S3Client({
    region: config.region,
    ...(config.endpoint !== undefined && { endpoint: config.endpoint }),
    credentials: {
      accessKeyId: config.accessKeyId,
      secretAccessKey: config.secretAccessKey,
      ...(config.sessionToken !== undefined && { sessionToken: config.sessionToken }),
    },
    forcePathStyle: config.pathStyle,
    maxAttempts: 1,
    // Other services refuse checksums they do not know. Every body's SHA-256 is in its signature, and its MD5 in a header.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    // Neither the files of other tools nor the metadata service of a machine have a say.
    defaultsMode: 'legacy',
    ignoreConfiguredEndpointUrls: true,
    requestHandler: {
      connectionTimeout: connectMs,
      socketTimeout: silenceMs,
      requestTimeout: silenceMs,
      throwOnRequestTimeout: true,
      httpAgent: { keepAlive: true, maxSockets: connections },
      httpsAgent: { keepAlive: true, maxSockets: connections },
    },
  })
  const encryption = sse && {
    ServerSideEncryption: sse.algorithm,
    ...(sse.keyId !== undefined && { SSEKMSKeyId: sse.keyId }),
  }
  /** With KMS an ETag is no digest of the content, so that only a checksum can vouch for a part that was sent. */
  const checksums = sse?.algorithm === 'aws:kms'
  const checksumOf = ({ sha256 }: Part) => (checksums ? { ChecksumSHA256: sha256.toString('base64') } : {})

  return {
    async put(Key, part, abortSignal) {
      const command = new PutObjectCommand({
        Bucket,
        Key,
        Body: part.bytes,
        ContentLength: part.bytes.length,
        ContentMD5: part.md5.toString('base64'),
        ...checksumOf(part),
        ...encryption,
      })
      command.middlewareStack.add(digestInSignature(part), { step: 'build' })
      check(part, await client.send(command, { abortSignal }))
    },
    async size(Key, abortSignal) {
      const { ContentLength } = await client.send(new HeadObjectCommand({ Bucket, Key }), { abortSignal })
      if (ContentLength === undefined) throw new Garbled('The service told no size')
      return ContentLength
    },
    async get(Key, { from, etag, signal }) {
      const range = from > 0 ? { Range: `bytes=${from}-`, ...(etag !== undefined && { IfMatch: etag }) } : {}
      const found = await client.send(new GetObjectCommand({ Bucket, Key, ...range }), { abortSignal: signal })
      const body = found.Body
      if (!body || !('destroy' in body)) throw new Garbled('The service gave no body')
      const size = from === 0 ? found.ContentLength : sizeInRange(found.ContentRange, from)
      if (size === undefined) {
        body.destroy()
        throw new Garbled(`The service did not go on from byte ${from}`)
      }
      return { body, etag: found.ETag, size }
    },
    async remove(Key, abortSignal) {
      await client.send(new DeleteObjectCommand({ Bucket, Key }), { abortSignal })
    },
    async list(Prefix, { token, signal }) {
      const command = new ListObjectsV2Command({
        Bucket,
        Prefix,
        ...(token !== undefined && { ContinuationToken: token }),
      })
      const found = await client.send(command, { abortSignal: signal })
      const items = (found.Contents ?? []).flatMap(({ Key, Size, LastModified }) =>
        Key === undefined || Size === undefined
          ? []
          : [{ key: Key, size: Size, modifiedAt: LastModified?.getTime() ?? 0 }],
      )
      return { items, next: found.IsTruncated ? found.NextContinuationToken : undefined }
    },
    async startUpload(Key, abortSignal) {
      const command = new CreateMultipartUploadCommand({
        Bucket,
        Key,
        ...(checksums && { ChecksumAlgorithm: 'SHA256' as const }),
        ...encryption,
      })
      const { UploadId } = await client.send(command, { abortSignal })
      if (UploadId === undefined) throw new Garbled('The service gave an upload no id')
      return UploadId
    },
    async uploads(Prefix, { token, signal }) {
      const [KeyMarker, UploadIdMarker] = token === undefined ? [] : (JSON.parse(token) as [string, string])
      const markers = { ...(KeyMarker && { KeyMarker }), ...(UploadIdMarker && { UploadIdMarker }) }
      const command = new ListMultipartUploadsCommand({ Bucket, Prefix, ...markers })
      const found = await client.send(command, { abortSignal: signal })
      const items = (found.Uploads ?? []).flatMap(({ Key, UploadId, Initiated }) =>
        Key === undefined || UploadId === undefined
          ? []
          : [{ key: Key, id: UploadId, startedAt: Initiated?.getTime() ?? 0 }],
      )
      const next = JSON.stringify([found.NextKeyMarker ?? '', found.NextUploadIdMarker ?? ''])
      return { items, next: found.IsTruncated ? next : undefined }
    },
    async sentParts({ key: Key, id: UploadId }, { token, signal }) {
      const marker = token === undefined ? {} : { PartNumberMarker: token }
      const found = await client.send(new ListPartsCommand({ Bucket, Key, UploadId, ...marker }), {
        abortSignal: signal,
      })
      const items = (found.Parts ?? []).flatMap(({ PartNumber, Size, ETag, ChecksumSHA256 }) =>
        PartNumber === undefined || Size === undefined || ETag === undefined
          ? []
          : [{ number: PartNumber, size: Size, etag: ETag, sha256: ChecksumSHA256 }],
      )
      return { items, next: found.IsTruncated ? found.NextPartNumberMarker : undefined }
    },
    async sendPart({ key: Key, id: UploadId }, part, abortSignal) {
      const command = new UploadPartCommand({
        Bucket,
        Key,
        UploadId,
        PartNumber: part.number,
        Body: part.bytes,
        ContentLength: part.bytes.length,
        ContentMD5: part.md5.toString('base64'),
        ...checksumOf(part),
      })
      command.middlewareStack.add(digestInSignature(part), { step: 'build' })
      const answer = await client.send(command, { abortSignal })
      const etag = check(part, answer)
      const sha256 = checksums ? part.sha256.toString('base64') : undefined
      return { number: part.number, size: part.bytes.length, etag, sha256 }
    },
    async complete({ key: Key, id: UploadId }, parts, abortSignal) {
      const Parts = parts.map(({ number, etag, sha256 }) => ({
        PartNumber: number,
        ETag: etag,
        ...(checksums && { ChecksumSHA256: sha256 }),
      }))
      const command = new CompleteMultipartUploadCommand({ Bucket, Key, UploadId, MultipartUpload: { Parts } })
      await client.send(command, { abortSignal })
    },
    async abort({ key: Key, id: UploadId }, abortSignal) {
      await client.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId }), { abortSignal })
    },
    close: () => client.destroy(),
  }
}

/** The signature covers the body's SHA-256, which the service compares with what arrived. It is known already: hashing again would cost as much as sending. */
function digestInSignature({ sha256 }: Part) {
  return <Args extends { request: unknown }, Output>(next: (args: Args) => Promise<Output>) =>
    (args: Args) => {
      const request = args.request as { headers: Record<string, string> }
      request.headers['x-amz-content-sha256'] = sha256.toString('hex')
      return next(args)
    }
}

/** The ETag of what was stored in one go is its MD5, but where KMS encrypts, which a bucket may do of its own accord. */
function check(part: Part, answer: { ETag?: string | undefined; ServerSideEncryption?: string | undefined }): string {
  const etag = answer.ETag
  if (etag === undefined) throw new Garbled('The service gave no ETag')
  if (!answer.ServerSideEncryption?.startsWith('aws:kms') && isMd5(etag) && !isSame(part, etag)) {
    throw new Garbled('The service stored other bytes than were sent')
  }
  return etag
}

export function isSame(part: Part, etag: string): boolean {
  return etag.replaceAll('"', '') === part.md5.toString('hex')
}

function isMd5(etag: string): boolean {
  return /^"?[0-9a-f]{32}"?$/.test(etag)
}

function sizeInRange(range: string | undefined, from: number): number | undefined {
  const [, start, size] = /^bytes (\d+)-\d+\/(\d+)$/.exec(range ?? '') ?? []
  return Number(start) === from ? Number(size) : undefined
}
