import { DatabaseSync } from 'node:sqlite'
import { setImmediate } from 'node:timers/promises'
import { limits } from '../limits.ts'
import type { DatabaseKind } from './database.ts'
import type { SqlValue } from './worker-messages.ts'

/** Some rows of one table, each with its values in the order of `columns`. */
export interface TableRows {
  table: string
  columns: readonly string[]
  rows: readonly (readonly SqlValue[])[]
}

/** All tables as they are at one moment, however long they are read and whatever is written meanwhile. */
export interface DatabaseSnapshot {
  readonly kind: DatabaseKind
  /** Each table is there at least once, an empty one without rows. */
  read(): AsyncIterable<TableRows>
  close(): Promise<void>
}

export interface SnapshotOptions {
  /** `postgres://…`; without it SQLite in `path`. */
  url?: string | undefined
  path: string
  /** Of what lies in the database, only these are read. */
  tables: readonly string[]
}

/** Rows between which others get their turn: some milliseconds' work. */
const rowsAtOnce = 200

/** On a connection of its own, which writes nothing and holds no writer up. */
export async function openSnapshot({ url, path, tables }: SnapshotOptions): Promise<DatabaseSnapshot> {
  return url ? openPostgresSnapshot(url, tables) : openSqliteSnapshot(path, tables)
}

function openSqliteSnapshot(path: string, wanted: readonly string[]): DatabaseSnapshot {
  const database = new DatabaseSync(path, { readOnly: true, timeout: limits.databaseWaitMs })
  try {
    database.exec('BEGIN')
    // The moment is that of the first look.
    const there = database.prepare(`select name from sqlite_master where type = 'table'`).all()
    const tables = wanted.filter((table) => there.some(({ name }) => name === table))
    return {
      kind: 'sqlite',
      async *read() {
        for (const table of tables) yield* sqliteRows(database, table)
      },
      close: async () => database.close(),
    }
  } catch (error) {
    database.close()
    throw error
  }
}

async function* sqliteRows(database: DatabaseSync, table: string): AsyncGenerator<TableRows> {
  const statement = database.prepare(`select * from ${table}`)
  const columns = statement.columns().map(({ name }) => name)
  statement.setReturnArrays(true)
  let rows: SqlValue[][] = []
  for (const row of statement.iterate()) {
    // With arrays asked for, that is what comes, whatever the types say.
    if (rows.push(Object.values(row)) < rowsAtOnce) continue
    yield { table, columns, rows }
    rows = []
    await setImmediate()
  }
  yield { table, columns, rows }
}

async function openPostgresSnapshot(url: string, wanted: readonly string[]): Promise<DatabaseSnapshot> {
  const { connectPostgres } = await import('./postgres.ts')
  const client = await connectPostgres(url)
  try {
    await client.query('begin isolation level repeatable read read only')
    const { rows: there } = await client.query<{ name: string }>(
      'select tablename as name from pg_tables where schemaname = current_schema()',
    )
    const tables = wanted.filter((table) => there.some(({ name }) => name === table))
    return {
      kind: 'postgres',
      async *read() {
        for (const table of tables) {
          await client.query(`declare snapshot_rows no scroll cursor for select * from ${table}`)
          for (let more = true; more;) {
            const text = `fetch ${rowsAtOnce} from snapshot_rows`
            const { fields, rows } = await client.query<SqlValue[]>({ text, rowMode: 'array' })
            yield { table, columns: fields.map(({ name }) => name), rows }
            more = rows.length === rowsAtOnce
          }
          await client.query('close snapshot_rows')
        }
      },
      close: () => client.end(),
    }
  } catch (error) {
    await client.end()
    throw error
  }
}
