import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe } from 'vitest'
import { testPostgresUrl } from '../config.ts'
import { newId } from '../ids.ts'
import { silentLogger } from '../log.ts'
import type { Logger } from '../log.ts'
import type { Database, Migration } from './database.ts'
import { openInSharedThread } from './testing-threads.ts'

/** Starts several servers at once on one empty database. */
export type OpenTestServers = (
  count: number,
  options: { migrations: readonly Migration[]; log: Logger },
) => Promise<Database[]>

/** A place for a database of its own, removed after the test, which closes what it opens. */
export type NewTestPlace = () => Promise<Place>

/** Opens an empty database of its own, closed and removed after the test. */
export type OpenTestDatabase = <Schema>(migrations: readonly Migration[]) => Promise<Database<Schema>>

/** The same database, of which `guard` is asked before each write: it may reject, or wait. */
export function guardWrites<Schema>(database: Database<Schema>, guard: () => Promise<void>): Database<Schema> {
  return {
    ...database,
    run: (query) => guard().then(() => database.run(query)),
    batch: (steps) => guard().then(() => database.batch(steps)),
    program<Operation, Answer>(url: URL) {
      const call = database.program<Operation, Answer>(url)
      return (operation: Operation) => guard().then(() => call(operation))
    },
    of: <Tables>() => guardWrites(database.of<Tables>(), guard),
  }
}

/** Runs a suite on SQLite, and on PostgreSQL too where DELTA_TEST_POSTGRES_URL names a server on which databases may be created. */
export function testDatabases(
  name: string,
  suite: (open: OpenTestDatabase, openServers: OpenTestServers, newPlace: NewTestPlace) => void,
): void {
  testOn(`${name} (sqlite)`, suite, placeForSqlite)
  const url = testPostgresUrl()
  if (url) testOn(`${name} (postgres)`, suite, () => placeOnPostgres(url))
}

/** Where a database of a test's own lies. */
export interface Place {
  url?: string
  path: string
  remove(): Promise<void>
}

function testOn(
  title: string,
  suite: (open: OpenTestDatabase, openServers: OpenTestServers, newPlace: NewTestPlace) => void,
  makePlace: () => Promise<Place>,
): void {
  describe(title, () => {
    const places: Place[] = []
    const databases: Database[] = []
    afterEach(async () => {
      for (const database of databases.splice(0).toReversed()) await database.close()
      for (const { remove } of places.splice(0).toReversed()) await remove()
    })
    const newPlace: NewTestPlace = async () => {
      const place = await makePlace()
      places.push(place)
      return place
    }
    const openServers: OpenTestServers = async (count, options) => {
      const place = await newPlace()
      const opening = Array.from({ length: count }, () => openInSharedThread({ ...place, ...options }))
      const opened = await Promise.allSettled(opening)
      databases.push(...opened.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : [])))
      // Of those that failed only one can be told; the others are closed by then.
      return Promise.all(opening)
    }
    suite(
      async <Schema>(migrations: readonly Migration[]) => {
        const [database] = await openServers(1, { migrations, log: silentLogger })
        return database!.of<Schema>()
      },
      openServers,
      newPlace,
    )
  })
}

async function placeForSqlite(): Promise<Place> {
  const folder = mkdtempSync(join(tmpdir(), 'delta-db-'))
  return { path: join(folder, 'delta.db'), remove: async () => rmSync(folder, { recursive: true }) }
}

async function placeOnPostgres(server: string): Promise<Place> {
  const name = `delta_test_${newId('evt')}`
  await administer(server, `create database ${name}`)
  const url = new URL(server)
  url.pathname = `/${name}`
  return { url: url.href, path: '', remove: () => administer(server, `drop database ${name} with (force)`) }
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
