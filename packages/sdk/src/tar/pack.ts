import { nodeModule } from '../environment.ts'
import { DeltaError } from '../errors.ts'
import type { TransferOptions } from '../files.ts'
import { encodeHeader, endOfArchive, padding } from './format.ts'

type Fs = typeof import('node:fs/promises')

const chunkBytes = 256 * 1024

/**
 * The contents of a local folder as a tar archive, at flat memory. Links stay links and are not followed; sockets, pipes and
 * devices are left out.
 */
export async function* packFolder(folder: string, options: TransferOptions = {}): AsyncGenerator<Uint8Array, void> {
  const fs = await nodeModule<Fs>('fs/promises')
  const counter = { bytes: 0 }
  for await (const part of packEntries(fs, folder, '', options)) {
    counter.bytes += part.bytes.length
    options.onProgress?.({ bytes: counter.bytes, path: part.path })
    yield part.bytes
  }
  yield endOfArchive()
}

interface Part {
  path: string
  bytes: Uint8Array
}

async function* packEntries(
  fs: Fs,
  folder: string,
  prefix: string,
  options: TransferOptions,
): AsyncGenerator<Part, void> {
  const names = (await fs.readdir(prefix === '' ? folder : `${folder}/${prefix}`)).toSorted()
  for (const name of names) {
    options.signal?.throwIfAborted()
    const path = prefix === '' ? name : `${prefix}/${name}`
    const full = `${folder}/${path}`
    const stats = await fs.lstat(full)
    const common = { mode: stats.mode & 0o777, mtimeSeconds: stats.mtimeMs / 1000, size: 0, linkTarget: '' }
    if (stats.isDirectory()) {
      yield* parts(path, encodeHeader({ ...common, path: `${path}/`, type: 'directory' }))
      yield* packEntries(fs, folder, path, options)
    } else if (stats.isSymbolicLink()) {
      const linkTarget = await fs.readlink(full)
      yield* parts(path, encodeHeader({ ...common, path, type: 'symlink', linkTarget }))
    } else if (stats.isFile()) {
      yield* parts(path, encodeHeader({ ...common, path, type: 'file', size: stats.size }))
      yield* packContent(fs, full, { path, size: stats.size })
    }
  }
}

function* parts(path: string, blocks: Uint8Array[]): Generator<Part, void> {
  for (const bytes of blocks) if (bytes.length > 0) yield { path, bytes }
}

/** Exactly `size` bytes, as the header has promised. */
async function* packContent(
  fs: Fs,
  full: string,
  { path, size }: { path: string; size: number },
): AsyncGenerator<Part, void> {
  const file = await fs.open(full)
  try {
    for (let left = size; left > 0;) {
      const { bytesRead, buffer } = await file.read(new Uint8Array(Math.min(chunkBytes, left)))
      if (bytesRead === 0)
        throw new DeltaError(`${full} became shorter while it was being read. Try again when nothing writes to it`)
      left -= bytesRead
      yield { path, bytes: buffer.subarray(0, bytesRead) }
    }
  } finally {
    await file.close()
  }
  yield* parts(path, [padding(size)])
}
