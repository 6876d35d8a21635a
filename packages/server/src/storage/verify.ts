import { createHash } from 'node:crypto'
import { blobDamaged } from './blobs.ts'
import type { Bytes, Digest } from './blobs.ts'

/** The same bytes, of which the last chunk comes only when all of them had that digest. */
export async function* verified(
  source: Bytes,
  { digest, size }: { digest: Digest; size?: number },
): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha256')
  let bytes = 0
  let held: Uint8Array | undefined
  for await (const chunk of source) {
    if (chunk.length === 0) continue
    bytes += chunk.length
    if (size !== undefined && bytes > size) throw blobDamaged(digest, `It has more than its ${size} bytes.`)
    hash.update(chunk)
    if (held) yield held
    held = chunk
  }
  if (size !== undefined && bytes !== size) throw blobDamaged(digest, `It has ${bytes} bytes instead of ${size}.`)
  const found = `sha256:${hash.digest('hex')}`
  if (found !== digest) throw blobDamaged(digest, `Its ${bytes} bytes have the digest ${found}.`)
  if (held) yield held
}
