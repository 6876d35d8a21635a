import type { Driver } from '../drivers/driver.ts'
import { DeltaError } from '../kernel/errors.ts'

/** A small file of a snapshot; undefined where there is none, it is no regular file, or it is larger. */
export async function readText(
  driver: Pick<Driver, 'readFile'>,
  { snapshotId, path, limitBytes }: { snapshotId: string; path: string; limitBytes: number },
): Promise<string | undefined> {
  const chunks: Uint8Array[] = []
  let bytes = 0
  try {
    for await (const chunk of driver.readFile({ snapshotId, path })) {
      bytes += chunk.byteLength
      if (bytes > limitBytes) return undefined
      chunks.push(chunk)
    }
  } catch (error) {
    if (error instanceof DeltaError && absent.includes(error.code)) return undefined
    throw error
  }
  return Buffer.concat(chunks).toString('utf8')
}

const absent: readonly string[] = ['file_not_found', 'not_a_file', 'not_a_directory', 'symlink_loop', 'disk_not_found']
