import { DeltaError } from '../../kernel/errors.ts'
import { expandLayer } from '../../storage/expand.ts'
import { contentOf, contextLimits } from './context.ts'
import type { Item } from './context.ts'
import { indexTar } from './tar-index.ts'

export type Keep = (chunks: AsyncIterable<Uint8Array>, limitBytes: number) => Promise<{ path: string; size: number }>

const headBytes = 512
const plain = 'application/vnd.oci.image.layer.v1.tar'

/** The files of a tar, plain or compressed by gzip or zstd, as ADD takes them out. Undefined for what is no archive. */
export async function unpackArchive(item: Item, keep: Keep): Promise<Item[] | undefined> {
  const kind = kindOf(await headOf(item))
  if (kind === undefined) return undefined
  if (kind === 'other') {
    throw new DeltaError('template_build_failed', `ADD cannot unpack ${item.path}`, {
      cause: 'it is compressed by bzip2 or xz: COPY it and unpack it in a RUN',
    })
  }
  const mediaType = kind === 'tar' ? plain : `${plain}+${kind}`
  const { path } = await keep(
    expandLayer(item.open(), { mediaType, maxBytes: contextLimits.bytes }),
    contextLimits.bytes,
  )
  // A single file that was compressed is no archive.
  const entries = await indexTar(path, { entries: contextLimits.entries }).catch((error: unknown) => {
    if (kind !== 'tar' && error instanceof DeltaError && error.code === 'archive_invalid') return undefined
    throw error
  })
  if (!entries) return undefined
  return [...entries.values()]
    .filter((entry) => entry.path !== '')
    .map(({ offset, ...entry }) => ({ ...entry, open: () => contentOf(path, offset, entry.size) }))
}

function kindOf(head: Buffer): 'tar' | 'gzip' | 'zstd' | 'other' | undefined {
  if (head.toString('latin1', 257, 262) === 'ustar') return 'tar'
  const magic = head.toString('hex', 0, 6)
  if (magic.startsWith('1f8b')) return 'gzip'
  if (magic.startsWith('28b52ffd')) return 'zstd'
  return magic.startsWith('425a68') || magic === 'fd377a585a00' ? 'other' : undefined
}

async function headOf(item: Item): Promise<Buffer> {
  const parts: Uint8Array[] = []
  let length = 0
  for await (const chunk of item.open()) {
    parts.push(chunk)
    length += chunk.length
    if (length >= headBytes) break
  }
  return Buffer.concat(parts).subarray(0, headBytes)
}
