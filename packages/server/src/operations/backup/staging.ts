import { hkdfSync } from 'node:crypto'
import { open, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { isDigest } from '../../storage/blobs.ts'
import type { Digest } from '../../storage/blobs.ts'
import { invalid, type Manifest } from './archive.ts'

/** What the installation derives everything from. */
const secretsSchema = z.strictObject({ secretKey: z.string().min(32), jwtSecretKey: z.string().min(32).optional() })
export interface PlatformSecrets {
  secretKey: string
  jwtSecretKey?: string | undefined
}

export interface StagedRestore {
  id: string
  manifest: Manifest
}

/** A fingerprint from which nothing of the key is learnt. */
export function secretKeyId({ secretKey }: PlatformSecrets): string {
  return Buffer.from(hkdfSync('sha256', secretKey, 'delta/1', 'backup key id', 12)).toString('base64url')
}

export function isDigestPart(name: string): name is Digest {
  return isDigest(name)
}

/** Where a restore lies until it is finished. */
export function placesIn(dataFolder: string) {
  const folder = join(dataFolder, 'restore')
  const staged = join(folder, 'staged.json')
  const added = join(folder, 'added.json')
  const ready = join(folder, 'ready')

  return {
    folder,
    /** Of backups that are being sent. */
    drafts: join(dataFolder, 'backups'),
    /** Of SQLite: what is to take the old one's place. */
    database: join(folder, 'delta.db'),
    auditHeads: join(folder, 'audit-heads'),
    writeStaged: (value: StagedRestore) => durable(staged, JSON.stringify(value)),
    readStaged: () => readJson(staged) as Promise<StagedRestore | undefined>,
    writeAdded: (digests: readonly string[]) => durable(added, JSON.stringify(digests)),
    readAdded: async () => ((await readJson(added)) ?? []) as Digest[],
    markReady: () => durable(ready, ''),
    isReady: async () => (await readText(ready)) !== undefined,
    /** Once: they need not lie there any longer. */
    async takeSecrets(): Promise<PlatformSecrets> {
      const path = join(folder, 'secrets')
      const found = secretsSchema.safeParse(await readJson(path))
      await rm(path)
      if (!found.success) throw invalid('Its secrets can not be read')
      return found.data
    },
    remove: () => rm(folder, { recursive: true, force: true }),
  }
}

export type RestorePlaces = ReturnType<typeof placesIn>

async function readText(path: string): Promise<string | undefined> {
  return readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
}

async function readJson(path: string): Promise<unknown> {
  const text = await readText(path)
  return text === undefined ? undefined : (JSON.parse(text) as unknown)
}

/** Whole or not there, and on the disk when it resolves. */
async function durable(path: string, text: string): Promise<void> {
  const draft = `${path}.draft`
  const file = await open(draft, 'w', 0o600)
  try {
    await file.writeFile(text)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(draft, path)
  await syncFolder(join(path, '..'))
}

export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
