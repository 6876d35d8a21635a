import { createCipheriv, createDecipheriv, createHmac, hkdfSync } from 'node:crypto'
import { DeltaError } from '../../kernel/errors.ts'
import type { Bytes } from '../blobs.ts'
import type { Cipher } from './cipher.ts'
import { inPieces } from './pieces.ts'

// An object is a header (magic, id of the key) and segments of nonce, AES-256-GCM ciphertext and tag. Its keys come from the operator's key and its name.
// A segment's nonce is an HMAC of its place and its plaintext. So an upload that was cut goes on with the very bytes it began with, and different
// plaintexts, say of a source that lied, never share a nonce. That equal content gives equal bytes tells nothing new: the name is its digest.

const magic = Buffer.from('DELTAe1\n')
const keyIdBytes = 8
const headerBytes = magic.length + keyIdBytes
const segmentBytes = 256 * 1024
const nonceBytes = 12
const tagBytes = 16
const overheadBytes = nonceBytes + tagBytes

export const masterKeyBytes = 32

export function createSeal(masterKey: Buffer): Cipher {
  const keyId = createHmac('sha256', masterKey).update('delta storage key id').digest().subarray(0, keyIdBytes)
  const header = Buffer.concat([magic, keyId])

  return {
    sealedSize: (plainBytes) => headerBytes + plainBytes + overheadBytes * segmentsOf(plainBytes),
    plainSize(sealedBytes) {
      const rest = sealedBytes - headerBytes
      const plain = rest - overheadBytes * Math.ceil(rest / (segmentBytes + overheadBytes))
      return plain >= 0 && headerBytes + plain + overheadBytes * segmentsOf(plain) === sealedBytes ? plain : null
    },
    async *seal(source, name) {
      const keys = keysOf(masterKey, name)
      yield header
      let index = 0
      for await (const { piece, last } of inPieces(source, segmentBytes)) {
        yield* sealed(piece, { keys, place: placeOf(header, index, last) })
        index += 1
      }
    },
    async *open(source, name) {
      const keys = keysOf(masterKey, name)
      const rest = await afterHeader(source, { header, name })
      let index = 0
      for await (const { piece, last } of inPieces(rest, segmentBytes + overheadBytes)) {
        const plain = opened(piece, { keys, place: placeOf(header, index, last) })
        if (!plain) throw damaged(name, `Its segment ${index} is not genuine.`)
        if (plain.length > 0) yield plain
        index += 1
      }
    },
  }
}

function segmentsOf(plainBytes: number): number {
  return Math.max(1, Math.ceil(plainBytes / segmentBytes))
}

interface Keys {
  segment: Buffer
  nonce: Buffer
}

function keysOf(masterKey: Buffer, name: string): Keys {
  const derived = Buffer.from(hkdfSync('sha256', masterKey, '', `delta object ${name}`, 64))
  return { segment: derived.subarray(0, 32), nonce: derived.subarray(32) }
}

/** Bound to each segment: which object format and key, the how-manieth, and whether it is the last. */
function placeOf(header: Buffer, index: number, last: boolean): Buffer {
  const place = Buffer.alloc(headerBytes + 9)
  header.copy(place)
  place.writeBigUInt64BE(BigInt(index), headerBytes)
  place[headerBytes + 8] = last ? 1 : 0
  return place
}

interface Segment {
  keys: Keys
  place: Buffer
}

/** Nonce, ciphertext and tag, not put together: that would be another copy of everything. */
function sealed(plain: Uint8Array, { keys, place }: Segment): Buffer[] {
  const nonce = createHmac('sha256', keys.nonce).update(place).update(plain).digest().subarray(0, nonceBytes)
  const cipher = createCipheriv('aes-256-gcm', keys.segment, nonce)
  cipher.setAAD(place)
  const segment = cipher.update(plain)
  // Of GCM nothing is left for the end.
  cipher.final()
  return [nonce, segment, cipher.getAuthTag()]
}

function opened(segment: Uint8Array, { keys, place }: Segment): Buffer | undefined {
  if (segment.length < overheadBytes) return undefined
  const nonce = segment.subarray(0, nonceBytes)
  const decipher = createDecipheriv('aes-256-gcm', keys.segment, nonce, { authTagLength: tagBytes })
  decipher.setAAD(place)
  decipher.setAuthTag(segment.subarray(-tagBytes))
  const plain = decipher.update(segment.subarray(nonceBytes, -tagBytes))
  try {
    decipher.final()
    return plain
  } catch {
    return undefined
  }
}

/** What follows the header, which is checked. */
async function afterHeader(source: Bytes, { header, name }: { header: Buffer; name: string }): Promise<Bytes> {
  const iterator = source[Symbol.asyncIterator]()
  let start = Buffer.alloc(0)
  try {
    while (start.length < headerBytes) {
      const next = await iterator.next()
      if (next.done) throw damaged(name, 'It ends before its header does.')
      start = Buffer.concat([start, next.value])
    }
    if (!start.subarray(0, magic.length).equals(magic)) throw damaged(name, 'It is not in the encrypted form.')
    if (!start.subarray(0, headerBytes).equals(header)) {
      throw new DeltaError('storage_key_wrong', `${name} was encrypted with another key than the one configured`)
    }
  } catch (error) {
    await iterator.return?.()
    throw error
  }
  return (async function* () {
    try {
      yield start.subarray(headerBytes)
      for (let next = await iterator.next(); !next.done; next = await iterator.next()) yield next.value
    } finally {
      await iterator.return?.()
    }
  })()
}

function damaged(name: string, cause: string): DeltaError {
  return new DeltaError('blob_damaged', `${name} is damaged`, { cause })
}
