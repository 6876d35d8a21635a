import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe } from 'vitest'
import { testPostgresUrl } from '../config.ts'
import { newId } from '../ids.ts'
import { silentLogger } from '../log.ts'
import type { Database, Migration } from './database.ts'
import { openDatabase } from './open.ts'

/** Opens an empty database of its own, closed and removed after the test. */
export type OpenTestDatabase = <Schema>(migrations: readonly Migration[]) => Promise<Database<Schema>>

/** Runs a suite on SQLite, and on PostgreSQL too where DELTA_TEST_POSTGRES_URL names a server on which databases may be created. */
export function testDatabases(name: string, suite: (open: OpenTestDatabase) => void): void {
  testOn(`${name} (sqlite)`, suite, openTestSqlite)
  const url = testPostgresUrl()
  if (url) testOn(`${name} (postgres)`, suite, (migrations) => openTestPostgres(url, migrations))
}

interface Opened {
  database: Database
  remove(): Promise<void>
}

function testOn(
  title: string,
  suite: (open: OpenTestDatabase) => void,
  open: (migrations: readonly Migration[]) => Promise<Opened>,
): void {
  describe(title, () => {
    const opened: Opened[] = []
    afterEach(async () => {
      for (const { database, remove } of opened.splice(0).toReversed()) {
        await database.close()
        await remove()
      }
    })
    suite(async <Schema>(migrations: readonly Migration[]) => {
      const one = await open(migrations)
      opened.push(one)
      return one.database.of<Schema>()
    })
  })
}

async function openTestSqlite(migrations: readonly Migration[]): Promise<Opened> {
  const folder = mkdtempSync(join(tmpdir(), 'delta-db-'))
  const database = await openDatabase({ path: join(folder, 'delta.db'), migrations, log: silentLogger })
  return { database, remove: async () => rmSync(folder, { recursive: true }) }
}

async function openTestPostgres(server: string, migrations: readonly Migration[]): Promise<Opened> {
  const name = `delta_test_${newId('evt')}`
  await administer(server, `create database ${name}`)
  const url = new URL(server)
  url.pathname = `/${name}`
  const database = await openDatabase({ url: url.href, path: '', migrations, log: silentLogger })
  return { database, remove: () => administer(server, `drop database ${name} with (force)`) }
}

async function administer(server: string, statement: string): Promise<void> {
  const { default: pg } = await import('pg')
  const client = new pg.Client({ connectionString: server })
  await client.connect()
  try {
    await client.query(statement)
  } finally {
    await client.end()
  }
}
