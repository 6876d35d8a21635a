import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Clock } from '../../kernel/clock.ts'
import type { Database, Migration } from '../../kernel/db/database.ts'
import { loadPostgres, loadSqlite, RowsDoNotFit, tablesOf } from '../../kernel/db/load.ts'
import { openSnapshot } from '../../kernel/db/snapshot.ts'
import { rawQuery } from '../../kernel/db/compile.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { newId } from '../../kernel/ids.ts'
import type { Logger } from '../../kernel/log.ts'
import type { BlobStore, Bytes, Digest } from '../../storage/blobs.ts'
import type { Space } from '../../storage/space.ts'
import { archiveBytes, invalid, type Manifest, type Part, readArchive, writeArchive } from './archive.ts'
import { readRows, writeRows } from './rows.ts'
import { isDigestPart, type PlatformSecrets, placesIn, secretKeyId } from './staging.ts'

/** What rows refer to in storage. */
export interface KeptLayers {
  /** At least those of whatever was read before this is asked. */
  stored(): Promise<{ digest: string; size: number }[]>
  /** Snapshots whose layers are not there yet. */
  unsaved: number
}

export interface BackupsDeps {
  database: Database
  /** Where it lies. */
  place: { url?: string | undefined; path: string }
  migrations: readonly Migration[]
  blobs: BlobStore
  /** Whether blobs lie in a bucket, which is backed up by whoever keeps it. */
  blobsStay: boolean
  /** Runs `work` while nothing that the rows refer to is removed from storage. */
  keepStored<T>(waitMs: number, work: (kept: KeptLayers) => Promise<T>): Promise<T>
  /** Signed heads of the audit log, as lines. */
  auditHeads(): AsyncIterable<string>
  secrets: PlatformSecrets
  space: Space
  clock: Clock
  log: Logger
  /** The data folder's part of this process. */
  folder: string
  version: string
  /** Ends this process; the next one finds what is ready. */
  restart(): void
}

export interface BackupWish {
  passphrase?: string | undefined
  /** With SECRET_KEY in it. */
  secrets: boolean
}

export interface Backup {
  manifest: Manifest
  /** Of the whole, where it is known. */
  bytes: number | undefined
  body: Bytes
}

export interface RestoreWish {
  passphrase?: string | undefined
  /** What is here is given up. */
  replace: boolean
}

export interface Staged {
  id: string
  manifest: Manifest
  /** In the backup, where it was asked for when it was made. */
  secrets: PlatformSecrets | undefined
  sameSecretKey: boolean
}

/** What is being saved to storage is waited for. */
const saveWaitMs = 60_000
/** Of tables that a platform fills by itself before anybody has used it. */
const ownTables = [
  'migrations',
  'accounts',
  'access_secrets',
  'access_revocations',
  'audit_entries',
  'audit_heads',
  'login_links',
  'mails',
  'platform_restores',
  'sandbox_pool',
]

interface RestoreRow {
  id: string
  backup_at: number
  restored_at: number
  state: 'loaded' | 'done'
}

export interface Restore {
  id: string
  backupAt: string
  restoredAt: string
  state: RestoreRow['state']
}

export type Backups = ReturnType<typeof createBackups>

/**
 * One file with all that can not be made again, taken while everything goes on, and the way back. A backup is read whole and tried before anything is
 * changed; then it takes the place of what is here at one moment, or not at all.
 */
export function createBackups(deps: BackupsDeps) {
  const { database, place, migrations, blobs, space, clock, log, folder } = deps
  const places = placesIn(folder)
  const stopped = new AbortController()
  let busy = false

  /** Resolves when its first byte can be sent. */
  async function backup(wish: BackupWish): Promise<Backup> {
    const own = join(places.drafts, newId('evt'))
    await mkdir(own, { recursive: true, mode: 0o700 })
    const { promise: sent, resolve } = Promise.withResolvers<void>()
    const finish = () => resolve()
    const begun = Promise.withResolvers<Backup>()
    const work = deps.keepStored(saveWaitMs, async (kept) => {
      const manifest = await describe(own, wish, kept)
      const bytes = wish.passphrase === undefined ? archiveBytes({ manifest }) : undefined
      begun.resolve({ manifest, bytes, body: bodyOf(manifest) })
      await sent
    })
    const clear = async () => {
      stopped.signal.removeEventListener('abort', finish)
      await rm(own, { recursive: true, force: true })
    }
    void work.then(clear, async (error: unknown) => {
      await clear()
      begun.reject(fault(error))
    })
    stopped.signal.addEventListener('abort', finish, { once: true })
    return begun.promise

    async function* bodyOf(manifest: Manifest): Bytes {
      try {
        yield* writeArchive({ manifest, open: (part) => partOf(own, part) }, wish.passphrase)
        log.info('backup_sent', { parts: manifest.parts.length, sealed: wish.passphrase !== undefined })
      } finally {
        finish()
      }
    }
  }

  function partOf(own: string, { name }: Part): Bytes {
    return isDigestPart(name) ? blobs.get(name, { signal: stopped.signal }) : createReadStream(join(own, name))
  }

  async function describe(own: string, { secrets }: BackupWish, { stored, unsaved }: KeptLayers): Promise<Manifest> {
    const createdAt = new Date(clock.now()).toISOString()
    const snapshot = await openSnapshot({ ...place, tables: tablesOf(migrations) })
    let rows
    try {
      rows = await writeRows(snapshot, join(own, 'database'))
    } finally {
      await snapshot.close()
    }
    await pipeline(Readable.from(deps.auditHeads()), createWriteStream(join(own, 'audit-heads'), { mode: 0o600 }))
    if (secrets) await writeFile(join(own, 'secrets'), JSON.stringify(deps.secrets), { mode: 0o600 })
    const files = ['database', 'audit-heads', ...(secrets ? ['secrets'] : [])]
    const parts: Part[] = await Promise.all(files.map((name) => partFrom(join(own, name), name)))
    // After the rows: what was stored meanwhile may be among them.
    const layers = await stored()
    for (const { digest, size } of layers) {
      const found = await blobs.has(digest as Digest)
      if (found !== size) {
        throw new DeltaError('blob_missing', `The storage does not hold ${digest} as the database says`, {
          context: { digest },
        })
      }
      if (!deps.blobsStay) parts.push({ name: digest, bytes: size, sha256: digest.slice('sha256:'.length) })
    }
    return {
      createdAt,
      server: deps.version,
      migrations: rows.migrations,
      tables: rows.tables,
      databaseBytes: rows.bytes,
      secretKeyId: secretKeyId(deps.secrets),
      references: layers,
      unsaved,
      parts,
    }
  }

  /** Reads it whole, tries it, and keeps it beside what is here. */
  async function stage(source: Bytes, wish: RestoreWish): Promise<Staged> {
    if (busy) throw new DeltaError('restore_in_progress', 'Another restore is under way')
    busy = true
    try {
      await rm(places.folder, { recursive: true, force: true })
      await mkdir(places.folder, { recursive: true, mode: 0o700 })
      return await stageInto(source, wish)
    } catch (error) {
      await rm(places.folder, { recursive: true, force: true })
      throw fault(error)
    } finally {
      busy = false
    }
  }

  async function stageInto(source: Bytes, { passphrase, replace }: RestoreWish): Promise<Staged> {
    const { manifest, parts } = await readArchive(source, passphrase)
    const unknown = manifest.migrations.find((name) => !migrations.some((one) => one.name === name))
    if (unknown !== undefined) {
      throw new DeltaError(
        'backup_too_new',
        `The backup was made by a newer version, ${manifest.server}: it knows ${unknown}`,
      )
    }
    if (!replace) await refuseUsed()
    refuseOthers(await database.otherServers())
    const needed = archiveBytes({ manifest }) + 2 * manifest.databaseBytes
    return space.promise(needed, async () => {
      for await (const { part, body } of parts()) {
        const path = join(places.folder, part.name)
        await pipeline(Readable.from(body), createWriteStream(path, { mode: 0o600, flush: true }))
      }
      await refuseMissing(manifest)
      const id = newId('evt')
      // Also where the rows go to PostgreSQL: what does not fit shows here.
      await loadSqlite(places.database, loadOptions(manifest, id))
      const secrets = manifest.parts.some(({ name }) => name === 'secrets') ? await places.takeSecrets() : undefined
      await places.writeStaged({ id, manifest })
      log.info('restore_staged', { id, createdAt: manifest.createdAt, server: manifest.server })
      return { id, manifest, secrets, sameSecretKey: manifest.secretKeyId === secretKeyId(deps.secrets) }
    })
  }

  function loadOptions(manifest: Manifest, id: string) {
    const backupAt = Date.parse(manifest.createdAt)
    return {
      migrations,
      applied: manifest.migrations,
      rows: readRows(join(places.folder, 'database')),
      counts: manifest.tables,
      last: {
        table: 'platform_restores',
        columns: ['id', 'backup_at', 'restored_at', 'state'],
        rows: [[id, backupAt, clock.now(), 'loaded']],
      },
    }
  }

  async function refuseUsed(): Promise<void> {
    for (const table of tablesOf(migrations)) {
      if (ownTables.includes(table)) continue
      if ((await database.all(rawQuery(`select 1 as one from ${table} limit 1`))).length === 0) continue
      throw new DeltaError(
        'restore_not_empty',
        'This platform has been used, and a restore would replace all that it holds',
        {
          context: { table },
        },
      )
    }
  }

  /** They would go on with what they remember, and write it. */
  function refuseOthers(servers: number): void {
    if (servers === 0) return
    throw new DeltaError(
      'restore_among_servers',
      `${servers} other ${servers === 1 ? 'server has' : 'servers have'} this database open`,
      { context: { servers } },
    )
  }

  async function refuseMissing({ references, parts }: Manifest): Promise<void> {
    const sent = new Set(parts.map(({ name }) => name))
    for (const { digest, size } of references) {
      if (sent.has(digest) || (await blobs.has(digest as Digest)) === size) continue
      throw new DeltaError(
        'blob_missing',
        `The backup refers to ${digest}, which is neither in it nor in the storage of this platform`,
        {
          context: { digest },
        },
      )
    }
  }

  /** The point of no return is one write; what is cut off after it is finished by the next start. */
  async function commit(id: string): Promise<void> {
    if (busy) throw new DeltaError('restore_in_progress', 'Another restore is under way')
    busy = true
    try {
      const staged = await places.readStaged()
      if (staged?.id !== id)
        throw new DeltaError('restore_not_found', `There is no restore ${id} that waits to be committed`)
      refuseOthers(await database.otherServers())
      await takeInBlobs(staged.manifest)
      if (place.url) {
        await loadPostgres(place.url, loadOptions(staged.manifest, id), refuseOthers)
      } else {
        await places.markReady()
      }
      log.info('restore_committed', { id })
      deps.restart()
    } catch (error) {
      busy = false
      throw fault(error)
    }
  }

  async function takeInBlobs({ parts }: Manifest): Promise<void> {
    const fresh: string[] = []
    for (const { name } of parts) if (isDigestPart(name) && (await blobs.has(name)) === null) fresh.push(name)
    // Where the restore ends before its commit, these are removed again.
    await places.writeAdded(fresh)
    for (const { name, bytes } of parts) {
      if (!isDigestPart(name)) continue
      const path = join(places.folder, name)
      await blobs.put({ digest: name, size: bytes, path, open: (start) => createReadStream(path, { start }) })
    }
  }

  async function list(): Promise<Restore[]> {
    const query = 'select id, backup_at, restored_at, state from platform_restores order by restored_at desc limit 100'
    const rows = await database.all<RestoreRow>(rawQuery(query))
    return rows.map(({ id, backup_at: backupAt, restored_at: restoredAt, state }) => ({
      id,
      backupAt: new Date(backupAt).toISOString(),
      restoredAt: new Date(restoredAt).toISOString(),
      state,
    }))
  }

  async function stop(): Promise<void> {
    stopped.abort()
  }

  return { backup, stage, commit, list, stop }
}

async function partFrom(path: string, name: string): Promise<Part> {
  const found = createHash('sha256')
  for await (const chunk of createReadStream(path)) found.update(chunk as Buffer)
  return { name, bytes: (await stat(path)).size, sha256: found.digest('hex') }
}

function fault(error: unknown): unknown {
  if (error instanceof RowsDoNotFit) return invalid(error.message)
  const code = (error as { code?: unknown }).code
  if (code !== 'ENOSPC' && code !== 'EDQUOT') return error
  return new DeltaError('disk_full', 'The disk of the server is full', { cause: error })
}
