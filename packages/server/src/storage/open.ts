import type { Clock } from '../kernel/clock.ts'
import type { StorageConfig } from '../kernel/config.ts'
import type { Logger } from '../kernel/log.ts'
import { createBlobStore } from './blob-store.ts'
import type { BlobStore } from './blobs.ts'
import { createSeal } from './encryption/seal.ts'
import { openFolder } from './folder/folder.ts'
import type { ObjectStore } from './objects.ts'

export interface OpenStorageOptions {
  config: StorageConfig
  clock: Clock
  log: Logger
}

/** The storage that was configured. Whoever uses a folder never loads the client of S3, which takes some 30 MB. */
export async function openStorage(options: OpenStorageOptions): Promise<BlobStore> {
  const { key } = options.config
  return createBlobStore({ objects: await openObjects(options), cipher: key && createSeal(key) })
}

async function openObjects({ config, clock, log }: OpenStorageOptions): Promise<ObjectStore> {
  if (!config.s3) return openFolder({ path: config.folder })
  const { openS3 } = await import('./s3/s3.ts')
  return openS3({ config: config.s3, clock, log })
}
