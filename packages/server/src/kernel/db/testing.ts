import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe } from 'vitest'
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
export function testDatabases(name: string, suite: Suite): void {
  testOn(`${name} (sqlite)`, suite, groundForSqlite())
  const url = testPostgresUrl()
  if (url) testOn(`${name} (postgres)`, suite, groundOnPostgres(url))
}

/** `kind`: for what need not be repeated on each database, since no database can make it otherwise. */
type Suite = (
  open: OpenTestDatabase,
  openServers: OpenTestServers,
  newPlace: NewTestPlace,
  kind: Database['kind'],
) => void

/** Where a database of a test's own lies. */
export interface Place {
  url?: string
  path: string
  remove(): Promise<void>
}

/** Where the databases of a suite lie. */
interface Ground {
  kind: Database['kind']
  /** Empty. */
  newPlace(): Promise<Place>
  /** With its tables, which are made once and copied: made for every test they would take more of its time than the test. */
  migratedPlace(migrations: readonly Migration[]): Promise<Place>
  end(): Promise<void>
}

function testOn(title: string, suite: Suite, ground: Ground): void {
  describe(title, () => {
    const places: Place[] = []
    const databases: Database[] = []
    afterEach(async () => {
      for (const database of databases.splice(0).toReversed()) await database.close()
      for (const { remove } of places.splice(0).toReversed()) await remove()
    })
    afterAll(ground.end)
    const kept = async (making: Promise<Place>) => {
      const place = await making
      places.push(place)
      return place
    }
    const openServers: OpenTestServers = async (count, options) => {
      const place = await kept(ground.newPlace())
      const opening = Array.from({ length: count }, () => openInSharedThread({ ...place, ...options }))
      const opened = await Promise.allSettled(opening)
      databases.push(...opened.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : [])))
      // Of those that failed only one can be told; the others are closed by then.
      return Promise.all(opening)
    }
    suite(
      async <Schema>(migrations: readonly Migration[]) => {
        const place = await kept(ground.migratedPlace(migrations))
        const database = await openInSharedThread({ ...place, migrations, log: silentLogger })
        databases.push(database)
        return database.of<Schema>()
      },
      openServers,
      () => kept(ground.newPlace()),
      ground.kind,
    )
  })
}

/** Files that were migrated, for all suites of this process. */
const migratedFiles = new Map<string, Promise<Buffer>>()

function groundForSqlite(): Ground {
  const newPlace = async (): Promise<Place & { folder: string }> => {
    const folder = mkdtempSync(join(tmpdir(), 'delta-db-'))
    return { folder, path: join(folder, 'delta.db'), remove: async () => rmSync(folder, { recursive: true }) }
  }
  const migrated = async (migrations: readonly Migration[]) => {
    const { path, remove } = await newPlace()
    try {
      await (await openInSharedThread({ path, migrations, log: silentLogger })).close()
      return readFileSync(path)
    } finally {
      await remove()
    }
  }
  return {
    kind: 'sqlite',
    newPlace,
    async migratedPlace(migrations) {
      const file = await madeOnce(migratedFiles, keyOf(migrations, 'sqlite'), () => migrated(migrations))
      const place = await newPlace()
      writeFileSync(place.path, file, { mode: 0o600 })
      return place
    },
    end: async () => {},
  }
}

function groundOnPostgres(server: string): Ground {
  /** Databases that were migrated, until the suite ends: whoever names a server of his own finds nothing left on it. */
  const templates = new Map<string, Promise<Place & { name: string }>>()
  const newPlace = async (template = 'template1') => {
    const name = `delta_test_${newId('evt')}`
    await administer(server, `create database ${name} template ${template}`)
    const url = new URL(server)
    url.pathname = `/${name}`
    return { name, url: url.href, path: '', remove: () => administer(server, `drop database ${name} with (force)`) }
  }
  const migrated = async (migrations: readonly Migration[]) => {
    const place = await newPlace()
    try {
      await (await openInSharedThread({ ...place, migrations, log: silentLogger })).close()
      return place
    } catch (error) {
      await place.remove()
      throw error
    }
  }
  return {
    kind: 'postgres',
    newPlace: () => newPlace(),
    async migratedPlace(migrations) {
      const { name } = await madeOnce(templates, keyOf(migrations, 'postgres'), () => migrated(migrations))
      return newPlace(name)
    },
    async end() {
      for (const template of templates.values()) await (await template).remove()
      templates.clear()
    },
  }
}

/** Of what failed the next one tries again. */
function madeOnce<Made>(all: Map<string, Promise<Made>>, key: string, make: () => Promise<Made>): Promise<Made> {
  const known = all.get(key)
  if (known) return known
  const making = make()
  all.set(key, making)
  making.catch(() => all.delete(key))
  return making
}

/** Tests of migrations give other ones the same names. */
function keyOf(migrations: readonly Migration[], kind: Database['kind']): string {
  return JSON.stringify(migrations.map(({ name, up }) => [name, up(kind)]))
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
