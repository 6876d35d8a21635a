import { createHash } from 'node:crypto'
import { type FileHandle, open } from 'node:fs/promises'
import { dirname } from 'node:path'
import { constants, createZstdCompress } from 'node:zlib'
import type { CompressedLayer } from './compress.ts'
import { zstdOptions } from './compress-messages.ts'

/** What is no larger, as after most steps of a task, needs no thread of its own: to start one takes longer than all the rest, and more memory. */
export const smallBytes = 256 * 1024

/** The one frame of a small tar, byte for byte as the thread would make it. Hashed here, compressed beside. */
export async function compressSmall(
  tar: Buffer,
  { file, path }: { file: FileHandle; path: string },
): Promise<Omit<CompressedLayer, 'path'>> {
  const layer = await frameOf(tar)
  await file.writeFile(layer)
  await file.sync()
  const folder = await open(dirname(path), 'r')
  await folder.sync().finally(() => folder.close())
  return { digest: digestOf(layer), diffId: digestOf(tar), size: layer.length, tarSize: tar.length }
}

async function frameOf(tar: Buffer): Promise<Buffer> {
  const zstd = createZstdCompress(zstdOptions)
  const output: Buffer[] = []
  zstd.on('data', (chunk: Buffer) => output.push(chunk))
  try {
    // Not in one step: then zstd takes a shorter way where its output happens to have room, to other bytes.
    zstd.write(tar)
    await new Promise<void>((resolve, reject) => {
      zstd.once('error', reject)
      zstd.flush(constants.ZSTD_e_end, resolve)
    })
    return Buffer.concat(output)
  } finally {
    zstd.destroy()
  }
}

function digestOf(bytes: Buffer): CompressedLayer['digest'] {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}
