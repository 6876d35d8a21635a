import { DeltaError } from '../kernel/errors.ts'

/** SHA-256 of the content as it was given, whatever form a store keeps it in. */
export type Digest = `sha256:${string}`

/** Chunks that an iterable has handed out are not written to again: whoever holds one may keep it. */
export type Bytes = AsyncIterable<Uint8Array>

export interface BlobSource {
  digest: Digest
  size: number
  /** The bytes from `start` on. May be called several times. */
  open(start: number): Bytes
  /** A file that holds them and was hashed while it was written: a folder on the same file system takes it in without reading it again. Never written to any more. */
  path?: string | undefined
}

export interface PutOptions {
  signal?: AbortSignal | undefined
  /** How many bytes of `size` are behind us, of this try or of one before it. */
  onProgress?: ((sentBytes: number) => void) | undefined
}

export interface StoredBlob {
  digest: Digest
  size: number
  modifiedAt: number
}

/** Where blobs lie. Every store passes `conformance.ts`. */
export interface BlobStore {
  readonly name: string
  /** Durable when it resolves. Present already: success without sending. Digest and size are verified before it can be seen. */
  put(blob: BlobSource, options?: PutOptions): Promise<{ stored: boolean }>
  /** Verified while it is read: what is damaged throws `blob_damaged`, which names the digest, before its end is handed out. */
  get(digest: Digest, options?: { signal?: AbortSignal }): Bytes
  /** Its size, null where it is not there. */
  has(digest: Digest): Promise<number | null>
  /** Removing what is missing succeeds. */
  remove(digest: Digest): Promise<void>
  list(): AsyncIterable<StoredBlob>
  /** A small document of at most 1 MiB, replaced as a whole. Durable when it resolves. */
  putDocument(name: string, text: string): Promise<void>
  getDocument(name: string): Promise<string | null>
  removeDocument(name: string): Promise<void>
  /** Names that start with `prefix`, sorted. */
  listDocuments(prefix: string): AsyncIterable<string>
  close(): Promise<void>
}

export const documentLimitBytes = 1024 * 1024
const documentNameChars = 180
const documentNameSlashes = 8

export function isDigest(text: string): text is Digest {
  return /^sha256:[0-9a-f]{64}$/.test(text)
}

/** `manifests/wsp_1/snp_2.json`: parts of letters, digits, `_`, `-` and `.`, none of which starts with a dot. */
export function isDocumentName(name: string): boolean {
  return (
    name.length <= documentNameChars &&
    name.split('/').length <= documentNameSlashes + 1 &&
    name.split('/').every((part) => /^[A-Za-z0-9_-][A-Za-z0-9_.-]*$/.test(part))
  )
}

export function blobMissing(digest: Digest, cause?: unknown): DeltaError {
  return new DeltaError('blob_missing', `There is no blob ${digest} in the storage`, { cause, context: { digest } })
}

export function blobDamaged(digest: Digest, cause: unknown): DeltaError {
  return new DeltaError('blob_damaged', `The blob ${digest} is damaged`, { cause, context: { digest } })
}
