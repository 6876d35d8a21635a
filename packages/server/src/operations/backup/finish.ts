import { readFile, rename, rm, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { rawQuery } from '../../kernel/db/compile.ts'
import type { Database } from '../../kernel/db/database.ts'
import type { Logger } from '../../kernel/log.ts'
import type { BlobStore } from '../../storage/blobs.ts'
import { placesIn, syncFolder } from './staging.ts'

/** Before the database is opened: a restore that was committed takes its place. Can be repeated from wherever it was cut off. */
export async function finishSwap({ folder, path, log }: { folder: string; path: string; log: Logger }): Promise<void> {
  const places = placesIn(folder)
  if (!(await places.isReady()) || !(await isThere(places.database))) return
  // What the old one's log holds must not be played into the new one.
  for (const suffix of ['-wal', '-shm', '-journal']) await rm(`${path}${suffix}`, { force: true })
  await rename(places.database, path)
  await syncFolder(dirname(path))
  log.warn('database_replaced', { by: (await places.readStaged())?.id })
}

export interface FinishDeps {
  folder: string
  database: Database
  blobs: BlobStore
  /** Layers that rows speak of: what else was brought in by a restore that was not committed goes again. */
  knownLayers(): Promise<ReadonlySet<string>>
  /** What storage says of workspaces is written anew from their rows. */
  publishAgain(): Promise<void>
  /** The audit log goes on where the backup left it; `heads` are those that were signed until then. */
  continueAudit(restore: { id: string; backupAt: number; heads: readonly string[] }): Promise<void>
  log: Logger
}

/** After it is opened, before anybody is served. */
export async function finishRestore({
  folder,
  database,
  blobs,
  knownLayers,
  publishAgain,
  continueAudit,
  log,
}: FinishDeps): Promise<void> {
  const places = placesIn(folder)
  const staged = await places.readStaged()
  if (staged) {
    const { id } = staged
    const find = rawQuery(
      `select backup_at, state from platform_restores where id = '${id.replaceAll(/[^a-z0-9_]/g, '')}'`,
    )
    const row = await database.first<{ backup_at: number; state: string }>(find)
    if (row?.state === 'loaded') {
      const heads = (await readFile(places.auditHeads, 'utf8')).split('\n').filter((line) => line !== '')
      await publishAgain()
      await continueAudit({ id, backupAt: Number(row.backup_at), heads })
      await database.run(rawQuery(`update platform_restores set state = 'done' where state = 'loaded'`))
      log.warn('restore_finished', { id, backupAt: new Date(Number(row.backup_at)).toISOString() })
    } else if (!row) {
      const known = await knownLayers()
      for (const digest of await places.readAdded()) if (!known.has(digest)) await blobs.remove(digest)
      log.warn('restore_abandoned', { id })
    }
  }
  await places.remove()
  // What a killed process was about to send.
  await rm(places.drafts, { recursive: true, force: true })
}

async function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return false
      throw error
    },
  )
}
