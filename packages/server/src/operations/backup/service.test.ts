import { hash } from 'node:crypto'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import pg from 'pg'
import { describe, expect, onTestFinished, test } from 'vitest'
import { rawQuery } from '../../kernel/db/compile.ts'
import { fillAll, keyOf, readAll } from '../../kernel/db/testing-rows.ts'
import type { Row } from '../../kernel/db/testing-rows.ts'
import { testDatabases } from '../../kernel/db/testing.ts'
import { finishSwap } from './finish.ts'
import { backupMigrations } from './migrations.ts'
import { silentLogger } from '../../kernel/log.ts'
import { placesIn } from './staging.ts'
import { bytesOf, inChunks, openTestPlatform } from './testing.ts'
import type { TestPlatform, TestPlatformOptions } from './testing.ts'

const passphrase = 'correct horse battery'
const byte = (text: string) =>
  async function* (): AsyncGenerator<Uint8Array> {
    yield Buffer.from(text)
  }

async function open(options: TestPlatformOptions = {}): Promise<TestPlatform> {
  const platform = await openTestPlatform(options)
  onTestFinished(platform.end)
  return platform
}

async function backupOf(
  platform: TestPlatform,
  wish: { passphrase?: string; secrets?: boolean } = {},
): Promise<Buffer> {
  return bytesOf((await platform.backups.backup({ secrets: false, ...wish })).body)
}

async function restore(
  platform: TestPlatform,
  bytes: Buffer,
  wish: { passphrase?: string; replace?: boolean } = {},
): Promise<void> {
  const { id } = await platform.backups.stage(inChunks(bytes), { replace: false, ...wish })
  await platform.backups.commit(id)
  expect(platform.restarts).toBe(1)
  await platform.start()
}

/** Rows of every table but the one that says what was restored, in one form for both databases. */
async function content(platform: TestPlatform): Promise<Record<string, string[]>> {
  const all = await readAll(platform.database)
  all.delete('platform_restores')
  return Object.fromEntries(Array.from(all, ([table, rows]) => [table, rows.map(keyOf).toSorted()]))
}

async function addBlob(platform: TestPlatform, text: string): Promise<string> {
  const digest = `sha256:${hash('sha256', text)}` as const
  const size = Buffer.byteLength(text)
  await platform.blobs.put({ digest, size, open: byte(text) })
  platform.layers.push({ digest, size })
  return digest
}

async function blobsOf(platform: TestPlatform): Promise<string[]> {
  const found: string[] = []
  for await (const { digest } of platform.blobs.list()) found.push(digest)
  return found.toSorted()
}

const addUser = (platform: TestPlatform, id: string) =>
  platform.database.run(rawQuery(`insert into users (id, email, name, created_at) values ('${id}', '${id}@x', 'n', 1)`))

const userIds = async ({ database }: TestPlatform) =>
  (await database.all<{ id: string }>(rawQuery('select id from users order by id'))).map(({ id }) => id)

testDatabases('backups', (...[, , newPlace]) => {
  test.for(['as it is', 'sealed'])('every row and blob is there again in an empty platform, %s', async (how) => {
    const heads = ['{"name":"audit-heads/acc_a/2026-11-22T10-x.jsonl","text":"a\\nb"}']
    const source = await open({ place: await newPlace(), heads })
    await fillAll(source.database)
    const digests = [await addBlob(source, 'one layer'), await addBlob(source, 'x'.repeat(700_000))]
    const before = await content(source)
    const sealed = how === 'sealed' ? { passphrase } : {}
    const bytes = await backupOf(source, sealed)
    if (how === 'sealed') expect(bytes.includes('one layer')).toBe(false)

    const target = await open({ place: await newPlace() })
    await restore(target, bytes, sealed)
    expect(await content(target)).toEqual(before)
    expect(await blobsOf(target)).toEqual(digests.toSorted())
    expect(target.heads).toEqual(heads)
    expect(existsSync(placesIn(target.folder).folder)).toBe(false)
    expect(existsSync(placesIn(source.folder).drafts) && readdirSync(placesIn(source.folder).drafts)).toEqual([])
  })

  test('is not restored while another server has the database open', async () => {
    const source = await open({ place: await newPlace() })
    const bytes = await backupOf(source)
    const place = await newPlace()
    const target = await open({ place })
    expect(await target.database.otherServers()).toBe(0)
    // SQLite's file is one process's alone.
    if (place.url === undefined) return restore(target, bytes)
    const other = new pg.Client({ connectionString: place.url, application_name: 'delta-0123456789abcdef' })
    await other.connect()
    expect(await target.database.otherServers()).toBe(1)
    await expect(restore(target, bytes)).rejects.toMatchObject({ code: 'restore_among_servers' })
    await other.end()
    await expect.poll(() => target.database.otherServers()).toBe(0)
    await restore(target, bytes)
  })

  test('a server that comes while blobs are taken in is found before anything is replaced', async () => {
    const source = await open({ place: await newPlace() })
    await addUser(source, 'usr_new')
    await addBlob(source, 'a layer')
    const bytes = await backupOf(source)
    const place = await newPlace()
    const target = await open({ place })
    // SQLite's file is one process's alone.
    if (place.url === undefined) return restore(target, bytes)
    await addUser(target, 'usr_old')
    const other = new pg.Client({ connectionString: place.url, application_name: 'delta-0123456789abcdef' })
    const { put } = target.blobs
    target.blobs.put = async (blob) => {
      await other.connect()
      target.blobs.put = put
      return put(blob)
    }
    await expect(restore(target, bytes, { replace: true })).rejects.toMatchObject({ code: 'restore_among_servers' })
    expect(target.restarts).toBe(0)
    expect(await userIds(target)).toEqual(['usr_old'])
    await other.end()
    await expect.poll(() => target.database.otherServers()).toBe(0)
    await restore(target, bytes, { replace: true })
    expect(await userIds(target)).toEqual(['usr_new'])
  })

  test('a backup of one database is restored into the other kind too', async () => {
    const source = await open({ place: await newPlace() })
    await fillAll(source.database)
    const target = await open()
    await restore(target, await backupOf(source))
    expect(await content(target)).toEqual(await content(source))
    const back = await open({ place: await newPlace() })
    await restore(back, await backupOf(target))
    const all = await content(source)
    expect(await content(back)).toEqual(all)
    // Numbers that the database gives go on after the last.
    await back.database.run(rawQuery(`insert into access_revocations (id, server, revoked_at) values ('new', 's', 1)`))
    const newest = rawQuery(`select number from access_revocations order by number desc limit 1`)
    expect((await back.database.first<Row>(newest))?.['number']).toBe(all['access_revocations']!.length + 1)
  })

  test('what was written before it began is in it, and of each later write all or nothing, while writes go on', async () => {
    const source = await open({ place: await newPlace() })
    const acknowledged: string[] = []
    const enough = new AbortController()
    const write = async () => {
      for (let number = 0; !enough.signal.aborted; number += 1) {
        const id = `usr_${number}`
        const account = { query: rawQuery(`insert into accounts (id, name, created_at) values ('acc_${id}', 'n', 1)`) }
        const user = {
          query: rawQuery(`insert into users (id, email, name, created_at) values ('${id}', '${id}', 'n', 1)`),
        }
        await source.database.batch([account, user])
        acknowledged.push(id)
        await setImmediate()
      }
    }
    const written = write()
    // More than are read at once.
    await expect.poll(() => acknowledged.length, { timeout: 20_000 }).toBeGreaterThan(300)
    const first = [...acknowledged]
    const bytes = await backupOf(source)
    const during = acknowledged.length
    enough.abort()
    await written
    expect(during).toBeGreaterThan(first.length)

    const target = await open({ place: await newPlace() })
    await restore(target, bytes)
    const users = await userIds(target)
    expect(users).toEqual(expect.arrayContaining(first))
    const accounts = await target.database.all(
      rawQuery(`select id from accounts where id like 'acc!_usr!_%' escape '!'`),
    )
    expect(accounts).toHaveLength(users.length)
  })

  test('a backup of an earlier state of the tables is brought up to date', async () => {
    const source = await open({ place: await newPlace() })
    await fillAll(source.database)
    const users = await source.database.all<Row>(rawQuery('select * from users'))
    // What was before a migration that made that table and nothing else.
    const last = backupMigrations.at(-1)!.name
    await source.database.run(rawQuery(`delete from migrations where name = '${last}'`))
    await source.database.run(rawQuery('drop table platform_restores'))
    const target = await open({ place: await newPlace() })
    await restore(target, await backupOf(source))
    expect((await target.database.all<Row>(rawQuery('select * from users'))).map(keyOf).toSorted()).toEqual(
      users.map(keyOf).toSorted(),
    )
    expect(await target.database.all(rawQuery(`select name from migrations where name = '${last}'`))).toHaveLength(1)
  })

  test('a platform that was used is replaced only where that is said, and then whole', async () => {
    const source = await open({ place: await newPlace() })
    await addUser(source, 'usr_old')
    const bytes = await backupOf(source)
    const target = await open({ place: await newPlace() })
    await addUser(target, 'usr_new')
    await expect(target.backups.stage(inChunks(bytes), { replace: false })).rejects.toMatchObject({
      code: 'restore_not_empty',
    })
    expect(await userIds(target)).toEqual(['usr_new'])
    await restore(target, bytes, { replace: true })
    expect(await userIds(target)).toEqual(['usr_old'])
    expect(await target.backups.list()).toMatchObject([{ state: 'done' }])
  })

  test('one that was not committed changes nothing, and what it brought is gone after the next start', async () => {
    const source = await open({ place: await newPlace() })
    await addUser(source, 'usr_old')
    await addBlob(source, 'of the backup')
    const bytes = await backupOf(source)
    const target = await open({ place: await newPlace() })
    const { id, manifest } = await target.backups.stage(inChunks(bytes), { replace: false })
    expect(await userIds(target)).toEqual([])
    // Killed right before the commit, with blobs taken in.
    const [digest] = manifest.references.map((one) => one.digest)
    await addBlob(target, 'of the backup')
    target.layers.length = 0
    await placesIn(target.folder).writeAdded([digest as `sha256:${string}`])
    await target.start()
    expect(await userIds(target)).toEqual([])
    expect(await blobsOf(target)).toEqual([])
    expect(existsSync(placesIn(target.folder).folder)).toBe(false)
    await expect(target.backups.commit(id)).rejects.toMatchObject({ code: 'restore_not_found' })
  })
})

describe('a backup that is not whole', () => {
  const damaged = async () => {
    const source = await open()
    await fillAll(source.database)
    await addBlob(source, 'y'.repeat(10_000))
    const target = await open()
    await addUser(target, 'usr_here')
    const refuses = async (bytes: Buffer, expected: object, wish: { passphrase?: string } = {}) => {
      await expect(target.backups.stage(inChunks(bytes), { replace: true, ...wish })).rejects.toMatchObject(expected)
      expect(existsSync(placesIn(target.folder).folder)).toBe(false)
      expect(await userIds(target)).toEqual(['usr_here'])
      expect(await blobsOf(target)).toEqual([])
    }
    return { source, refuses }
  }

  test('is refused wherever it was cut', async () => {
    const { source, refuses } = await damaged()
    const bytes = await backupOf(source)
    for (const part of [0, 0.001, 0.01, 0.3, 0.6, 0.9]) {
      await refuses(bytes.subarray(0, Math.floor(bytes.length * part)), { code: 'backup_invalid' })
    }
    await refuses(bytes.subarray(0, bytes.length - 1), {
      code: 'backup_invalid',
      cause: expect.stringContaining('cut'),
    })
    await refuses(Buffer.concat([bytes, Buffer.from('x')]), { code: 'backup_invalid' })
  })

  test('is refused wherever a byte of it was changed', async () => {
    const { source, refuses } = await damaged()
    // Each look into a sealed one costs a quarter of a second, by intention.
    for (const { steps, ...wish } of [{ steps: 24 }, { steps: 5, passphrase }]) {
      const bytes = await backupOf(source, wish)
      for (let step = 0; step < steps; step += 1) {
        const changed = Buffer.from(bytes)
        const at = Math.floor((bytes.length * step) / steps)
        changed[at] = changed[at]! ^ 0x01
        await refuses(changed, { code: expect.stringMatching(/^backup_/) }, wish)
      }
    }
  })

  test('of a later form, a later version, another passphrase or none is refused with a word about it', async () => {
    const { source, refuses } = await damaged()
    const bytes = await backupOf(source)
    await refuses(Buffer.from('a song\n'), { code: 'backup_invalid' })
    await refuses(Buffer.from(bytes.toString('latin1').replace('delta backup 1 ', 'delta backup 2 '), 'latin1'), {
      code: 'backup_too_new',
    })
    await source.database.run(rawQuery(`insert into migrations values ('of-tomorrow-1', 'now')`))
    await refuses(await backupOf(source), { code: 'backup_too_new', message: expect.stringContaining('of-tomorrow-1') })
    const sealed = await backupOf(source, { passphrase })
    await refuses(sealed, { code: 'backup_passphrase_wrong' })
    await refuses(sealed, { code: 'backup_passphrase_wrong' }, { passphrase: 'another passphrase' })
  })

  test('or that has no room here is refused before its parts are read', async () => {
    const source = await open()
    await addBlob(source, 'z'.repeat(100_000))
    const bytes = await backupOf(source)
    const target = await open({ freeBytes: 50_000 })
    let read = 0
    const watched = async function* () {
      for await (const chunk of inChunks(bytes, 1_000)) {
        read += chunk.length
        yield chunk
      }
    }
    await expect(target.backups.stage(watched(), { replace: false })).rejects.toMatchObject({ code: 'disk_full' })
    expect(read).toBeLessThan(20_000)
  })
})

describe('what storage holds', () => {
  test('stays in a bucket, and must be there for whoever restores', async () => {
    const source = await open({ blobsStay: true })
    await addBlob(source, 'in the bucket')
    const bytes = await backupOf(source)
    expect(bytes.includes('in the bucket')).toBe(false)
    const other = await open()
    await expect(other.backups.stage(inChunks(bytes), { replace: false })).rejects.toMatchObject({
      code: 'blob_missing',
    })
    const same = await open({ blobsStay: true })
    await addBlob(same, 'in the bucket')
    await restore(same, bytes)
  })

  test('is not as the database says: no backup is made', async () => {
    const source = await open()
    source.layers.push({ digest: `sha256:${'a'.repeat(64)}`, size: 5 })
    await expect(source.backups.backup({ secrets: false })).rejects.toMatchObject({ code: 'blob_missing' })
    expect(readdirSync(placesIn(source.folder).drafts)).toEqual([])
  })
})

test('secrets are in it only where that is asked for, and it is said whether they are the same', async () => {
  const secretKey = 'the key of the source, which has 32 bytes'
  const source = await open({ secretKey })
  const without = await backupOf(source)
  expect(without.includes(secretKey)).toBe(false)
  const target = await open()
  expect(await target.backups.stage(inChunks(without), { replace: false })).toMatchObject({
    secrets: undefined,
    sameSecretKey: false,
  })
  const withSecrets = await backupOf(source, { secrets: true })
  expect(await target.backups.stage(inChunks(withSecrets), { replace: false })).toMatchObject({
    secrets: { secretKey },
  })
  const same = await open({ secretKey })
  expect(await same.backups.stage(inChunks(without), { replace: false })).toMatchObject({ sameSecretKey: true })
})

test('a reader that leaves in the middle of a backup leaves nothing behind', async () => {
  const source = await open()
  await addBlob(source, 'w'.repeat(2_000_000))
  const { body } = await source.backups.backup({ secrets: false })
  for await (const _ of body) break
  await expect.poll(() => readdirSync(placesIn(source.folder).drafts)).toEqual([])
})

test('what the old database had not yet taken in from its log does not get into the new one', async () => {
  const source = await open()
  await addUser(source, 'usr_old')
  const bytes = await backupOf(source)
  const target = await open()
  const { id } = await target.backups.stage(inChunks(bytes), { replace: false })
  await target.backups.commit(id)
  await addUser(target, 'usr_late')
  expect(existsSync(`${target.place.path}-wal`)).toBe(true)
  // Cut off right before the file takes its place, and done again.
  await finishSwap({ folder: target.folder, path: join(target.folder, 'delta.db'), log: silentLogger })
  await target.start()
  expect(await userIds(target)).toEqual(['usr_old'])
})
