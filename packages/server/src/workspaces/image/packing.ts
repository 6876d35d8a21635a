import { open } from 'node:fs/promises'
import { DeltaError } from '../../kernel/errors.ts'

/** How the tar of a layer is packed. */
export type Packing = 'tar' | 'gzip' | 'zstd'

/** By what it begins with; what is neither is a tar, or nothing that can be unpacked. */
export function packingOf(head: Uint8Array): Packing {
  const magic = Buffer.from(head.subarray(0, 4)).toString('hex')
  if (magic.startsWith('1f8b')) return 'gzip'
  // A frame, or one to be skipped before it (as parallel compressors write).
  return magic === '28b52ffd' || /^5[0-9a-f]2a4d18$/.test(magic) ? 'zstd' : 'tar'
}

export function packingOfType(mediaType: string): Packing {
  return /[.+]gzip$/.test(mediaType) ? 'gzip' : /[.+]zstd$/.test(mediaType) ? 'zstd' : 'tar'
}

/** A layer is kept under its digest for everybody: what its first owner says that it is must be what it is. */
export function checkPacking(layer: { digest: string; mediaType: string }, found: Packing): void {
  const said = packingOfType(layer.mediaType)
  if (said === found) return
  throw new DeltaError('image_invalid', 'The image can not be used', {
    cause: `the layer ${layer.digest} is said to be ${layer.mediaType}, and its content is ${found}`,
  })
}

export async function packingOfFile(path: string): Promise<Packing> {
  await using file = await open(path, 'r')
  const { buffer, bytesRead } = await file.read(Buffer.alloc(4), 0, 4, 0)
  return packingOf(buffer.subarray(0, bytesRead))
}
