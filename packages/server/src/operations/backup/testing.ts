import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../../kernel/clock.ts'
import type { Database } from '../../kernel/db/database.ts'
import { openInSharedThread } from '../../kernel/db/testing-threads.ts'
import { silentLogger } from '../../kernel/log.ts'
import { allMigrations } from '../../migrations.ts'
import { createBlobStore } from '../../storage/blob-store.ts'
import type { BlobStore } from '../../storage/blobs.ts'
import { openFolder } from '../../storage/folder/folder.ts'
import { createSpace } from '../../storage/space.ts'
import { finishRestore, finishSwap } from './finish.ts'
import { type Backups, createBackups } from './service.ts'

export interface TestPlatform {
  folder: string
  place: { url?: string; path: string }
  database: Database
  blobs: BlobStore
  backups: Backups
  /** What rows refer to in storage. */
  layers: { digest: string; size: number }[]
  /** Heads that came back with the last restore. */
  heads: string[]
  /** How often the process was to be started anew. */
  restarts: number
  /** As the next process does it. */
  start(): Promise<void>
  end(): Promise<void>
}

export interface TestPlatformOptions {
  place?: { url?: string; path: string }
  folder?: string
  secretKey?: string
  blobsStay?: boolean
  freeBytes?: number
  heads?: string[]
  stop?: () => void
}

/** A server's database and storage, with their backup and restore, and without the rest of it. */
export async function openTestPlatform(options: TestPlatformOptions = {}): Promise<TestPlatform> {
  const made = options.folder === undefined ? mkdtempSync(join(tmpdir(), 'delta-backup-')) : undefined
  const folder = options.folder ?? made!
  const place = options.place ?? { path: join(folder, 'delta.db') }
  const blobs = createBlobStore({ objects: await openFolder({ path: join(folder, 'blobs') }) })
  const log = silentLogger
  const { freeBytes } = options
  const platform = { folder, place, blobs, layers: [], heads: [], restarts: 0, start, end } as unknown as TestPlatform

  async function start(): Promise<void> {
    await (platform.database as Database | undefined)?.close()
    await finishSwap({ folder, path: place.path, log })
    const database = await openInSharedThread({ ...place, migrations: allMigrations, log })
    platform.database = database
    await finishRestore({
      folder,
      database,
      blobs,
      knownLayers: async () => new Set(platform.layers.map(({ digest }) => digest)),
      publishAgain: async () => {},
      continueAudit: async ({ heads }) => void (platform.heads = [...heads]),
      log,
    })
    platform.backups = createBackups({
      database,
      place,
      migrations: allMigrations,
      blobs,
      blobsStay: options.blobsStay ?? false,
      keepStored: (_, work) => work({ stored: async () => platform.layers, unsaved: 0 }),
      async *auditHeads() {
        for (const line of options.heads ?? []) yield `${line}\n`
      },
      secrets: { secretKey: options.secretKey ?? 'a secret key of the tests, 32 bytes or more' },
      space: createSpace({
        folder,
        room: () => ({ state: 'fine' }),
        ...(freeBytes !== undefined && { freeBytes: async () => freeBytes }),
      }),
      clock: systemClock,
      log,
      folder,
      version: 'test',
      restart() {
        platform.restarts += 1
        options.stop?.()
      },
    })
  }

  async function end(): Promise<void> {
    await platform.backups.stop()
    await platform.database.close()
    await blobs.close()
    if (made !== undefined) rmSync(made, { recursive: true, force: true })
  }

  await start()
  return platform
}

export async function bytesOf(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  for await (const chunk of source) chunks.push(Uint8Array.from(chunk))
  return Buffer.concat(chunks)
}

export async function* inChunks(bytes: Buffer, size = 50_000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}
