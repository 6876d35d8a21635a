import { DeltaError } from '../kernel/errors.ts'
import {
  blobDamaged,
  blobMissing,
  documentLimitBytes,
  isDigest,
  isDocumentName,
  type BlobSource,
  type BlobStore,
  type Bytes,
  type Digest,
  type PutOptions,
  type StoredBlob,
} from './blobs.ts'
import type { Cipher } from './encryption/cipher.ts'
import type { ObjectStore } from './objects.ts'
import { verified } from './verify.ts'

export interface BlobStoreDeps {
  objects: ObjectStore
  /** Everything written from now on is sealed. Blobs that were stored without it stay readable: their digest vouches for them. Documents do not. */
  cipher?: Cipher | undefined
}

const plainBlobs = 'sha256'
const sealedBlobs = 'sealed-sha256'

/** Gives objects their meaning: names, digests and, with a cipher, the sealed form. */
export function createBlobStore({ objects, cipher }: BlobStoreDeps): BlobStore {
  /** Where a blob is looked for, the preferred place first. */
  const areas = cipher ? [sealedBlobs, plainBlobs] : [plainBlobs]
  const documents = cipher ? 'sealed-documents' : 'documents'

  const cipherOf = (area: string) => (area === sealedBlobs ? cipher : undefined)

  async function find(digest: Digest): Promise<{ area: string; size: number } | undefined> {
    for (const area of areas) {
      const stored = await objects.size(blobKey(area, digest))
      if (stored === null) continue
      const of = cipherOf(area)
      // A size that nothing sealed can have is reported as it is: reading it says what is wrong.
      return { area, size: of ? (of.plainSize(stored) ?? stored) : stored }
    }
    return undefined
  }

  async function put({ digest, size, open, path }: BlobSource, options: PutOptions = {}): Promise<{ stored: boolean }> {
    checkDigest(digest)
    if (cipher && (await objects.size(blobKey(plainBlobs, digest))) === size) return { stored: false }
    const plain = () => verified(open(0), { digest, size })
    if (!cipher) return objects.put({ key: blobKey(plainBlobs, digest), size, open: plain, path }, options)
    const { onProgress, ...others } = options
    const sealed = {
      key: blobKey(sealedBlobs, digest),
      size: cipher.sealedSize(size),
      open: () => cipher.seal(plain(), digest),
    }
    return objects.put(sealed, {
      ...others,
      onProgress: onProgress && ((sent) => onProgress(Math.floor((sent / sealed.size) * size))),
    })
  }

  async function* get(digest: Digest, { signal }: { signal?: AbortSignal } = {}): Bytes {
    checkDigest(digest)
    const area = areas.length === 1 ? plainBlobs : (await find(digest))?.area
    if (!area) throw blobMissing(digest)
    const of = cipherOf(area)
    const stored = objects.get(blobKey(area, digest), { signal })
    try {
      yield* verified(of ? of.open(stored, digest) : stored, { digest })
    } catch (error) {
      throw await named(error, digest)
    }
  }

  async function named(error: unknown, digest: Digest): Promise<unknown> {
    if (!(error instanceof DeltaError) || error.context?.['digest'] === digest) return error
    if (error.code === 'blob_damaged') return blobDamaged(digest, error)
    if (error.code !== 'blob_missing') return error
    if (cipher || (await objects.size(blobKey(sealedBlobs, digest))) === null) return blobMissing(digest)
    return new DeltaError('storage_key_wrong', `The blob ${digest} is encrypted, and no key is configured`, {
      context: { digest },
    })
  }

  async function* list(): AsyncIterable<StoredBlob> {
    for (const area of areas) {
      const of = cipherOf(area)
      for await (const { key, size, modifiedAt } of objects.list(area)) {
        const digest = `sha256:${key.slice(key.lastIndexOf('/') + 1)}`
        if (!isDigest(digest) || blobKey(area, digest) !== key) continue
        yield { digest, size: of ? (of.plainSize(size) ?? size) : size, modifiedAt }
      }
    }
  }

  async function putDocument(name: string, text: string): Promise<void> {
    const plain = Buffer.from(text)
    const key = documentKey(documents, name)
    if (plain.length > documentLimitBytes) {
      throw new DeltaError('storage_refused', `The document ${name} has more than ${documentLimitBytes} bytes`)
    }
    const bytes = cipher ? await collect(cipher.seal(once(plain), key)) : plain
    await objects.put({ key, size: bytes.length, open: () => once(bytes) }, { replace: true })
  }

  async function getDocument(name: string): Promise<string | null> {
    const key = documentKey(documents, name)
    try {
      const stored = bounded(objects.get(key), documentLimitBytes * 2)
      return (await collect(cipher ? cipher.open(stored, key) : stored)).toString('utf8')
    } catch (error) {
      if (error instanceof DeltaError && error.code === 'blob_missing') return null
      throw error
    }
  }

  async function* listDocuments(prefix: string): AsyncIterable<string> {
    for await (const { key } of objects.list(documents)) {
      const name = key.slice(documents.length + 1)
      if (name.startsWith(prefix) && isDocumentName(name)) yield name
    }
  }

  return {
    name: cipher ? `${objects.name}, encrypted` : objects.name,
    put,
    get,
    has: async (digest) => (await find(checkDigest(digest)))?.size ?? null,
    async remove(digest) {
      checkDigest(digest)
      for (const area of areas) await objects.remove(blobKey(area, digest))
    },
    list,
    putDocument,
    getDocument,
    removeDocument: (name) => objects.remove(documentKey(documents, name)),
    listDocuments,
    close: objects.close,
  }
}

function blobKey(area: string, digest: Digest): string {
  const hex = digest.slice('sha256:'.length)
  return `${area}/${hex.slice(0, 2)}/${hex}`
}

function documentKey(area: string, name: string): string {
  if (!isDocumentName(name)) throw new DeltaError('storage_refused', `'${name}' can not be the name of a document`)
  return `${area}/${name}`
}

// Digests come out of manifests that others wrote, and become parts of paths.
function checkDigest(digest: string): Digest {
  if (!isDigest(digest)) throw new DeltaError('storage_refused', `'${digest.slice(0, 100)}' is no SHA-256 digest`)
  return digest
}

async function* once(bytes: Uint8Array): Bytes {
  yield bytes
}

async function* bounded(source: Bytes, limitBytes: number): Bytes {
  let bytes = 0
  for await (const chunk of source) {
    bytes += chunk.length
    if (bytes > limitBytes) throw new DeltaError('blob_damaged', `A document has more than ${limitBytes} bytes`)
    yield chunk
  }
}

async function collect(source: Bytes): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  for await (const chunk of source) chunks.push(chunk)
  return Buffer.concat(chunks)
}
