import { open } from 'node:fs/promises'
import { DatabaseSync } from 'node:sqlite'
import type { StatementSync } from 'node:sqlite'
import { sqlValues } from './compile.ts'
import type { DatabaseKind, Migration } from './database.ts'
import type { TableRows } from './snapshot.ts'
import type { SqlValue } from './worker-messages.ts'

/** A database that is filled in one transaction: until its end nothing of it is seen. */
interface Target {
  readonly kind: DatabaseKind
  run(sql: string, parameters?: readonly SqlValue[]): Promise<void>
  all(sql: string, parameters?: readonly SqlValue[]): Promise<Record<string, SqlValue>[]>
}

export interface LoadOptions {
  /** All that this program knows. */
  migrations: readonly Migration[]
  /** Those that the rows have been through: a part of `migrations`. */
  applied: readonly string[]
  rows: AsyncIterable<TableRows>
  /** How many rows each table must have when all have come. */
  counts: Readonly<Record<string, number>>
  /** Written with them, into the tables as they are at the end. */
  last: TableRows
}

/** What is wrong with rows that do not fit; everything else that is thrown is the database's fault. */
export class RowsDoNotFit extends Error {
  override name = 'RowsDoNotFit'
}

/** Makes the database file, which must not be there. Durable when it resolves; on failure the caller removes it. */
export async function loadSqlite(path: string, options: LoadOptions): Promise<void> {
  // One transaction with a rollback journal: when it is over there is one file.
  const database = new DatabaseSync(path, { enableForeignKeyConstraints: false })
  try {
    database.exec('PRAGMA synchronous = OFF; BEGIN')
    let last: { sql: string; statement: StatementSync } | undefined
    const prepared = (sql: string): StatementSync => {
      if (last?.sql !== sql) last = { sql, statement: database.prepare(sql) }
      return last.statement
    }
    const target: Target = {
      kind: 'sqlite',
      run: async (sql, parameters = []) => void prepared(sql).run(...parameters),
      all: async (sql, parameters = []) => database.prepare(sql).all(...parameters) as Record<string, SqlValue>[],
    }
    await load(target, options)
    const [orphan] = await target.all('PRAGMA foreign_key_check')
    if (orphan)
      throw new RowsDoNotFit(
        `A row of ${String(orphan['table'])} names one of ${String(orphan['parent'])} that is not there`,
      )
    database.exec('COMMIT')
  } finally {
    database.close()
  }
  const file = await open(path, 'r')
  try {
    await file.sync()
  } finally {
    await file.close()
  }
}

/** In place of what is there, seen by all at one moment. `refuseOthers` is told how many servers beside this one have it open then, and throws where that is too many. */
export async function loadPostgres(
  url: string,
  options: LoadOptions,
  refuseOthers: (servers: number) => void,
): Promise<void> {
  const { connectPostgres, otherServersQuery } = await import('./postgres.ts')
  const client = await connectPostgres(url)
  const target: Target = {
    kind: 'postgres',
    run: async (sql, parameters) => void (await client.query(sql, parameters && [...parameters])),
    all: async (sql, parameters) =>
      (await client.query<Record<string, SqlValue>>(sql, parameters && [...parameters])).rows,
  }
  try {
    await target.run('begin')
    const ours = tablesOf(options.migrations)
    const there = await target.all('select tablename from pg_tables where schemaname = current_schema()')
    const gone = there.map(({ tablename }) => String(tablename)).filter((name) => ours.includes(name))
    if (gone.length > 0) await target.run(`drop table ${gone.join(', ')} cascade`)
    // From here on nobody else reads or writes these tables: whoever has come before has what is of no use any more, whoever comes later waits for what is new.
    const [others] = await target.all(otherServersQuery.sql, sqlValues(otherServersQuery))
    refuseOthers(Number(others!['count']))
    await load(target, options)
    await target.run('commit')
  } finally {
    await client.end()
  }
}

/** Every table that one of these migrations makes, and their own record. */
export function tablesOf(migrations: readonly Migration[]): string[] {
  const statements = migrations.flatMap(({ up }) => up('sqlite'))
  const made = statements.flatMap((text) => /^\s*create table (?:if not exists )?(\w+)/i.exec(text)?.[1] ?? [])
  return ['migrations', ...new Set(made)]
}

async function load(target: Target, { migrations, applied, rows, counts, last }: LoadOptions): Promise<void> {
  await target.run('create table migrations (name text primary key, applied_at text not null)')
  const before = migrations.filter(({ name }) => applied.includes(name))
  for (const { up } of before) for (const text of up(target.kind)) await target.run(text)
  const tables = tablesOf(before)
  // Children first: what migrations themselves put in comes with the rows.
  for (const table of tables.toReversed()) await target.run(`delete from ${table}`)
  const links = target.kind === 'postgres' ? await unlink(target, tables) : []
  const loaded = new Map<string, number>()
  for await (const part of rows) {
    if (!tables.includes(part.table)) throw new RowsDoNotFit(`There is no table ${part.table} at that state`)
    await insert(target, part)
    loaded.set(part.table, (loaded.get(part.table) ?? 0) + part.rows.length)
  }
  for (const [table, count] of Object.entries(counts)) {
    if (loaded.get(table) !== count)
      throw new RowsDoNotFit(`${table} has ${loaded.get(table) ?? 0} rows instead of ${count}`)
  }
  for (const text of links) await target.run(text)
  for (const { name, up } of migrations) {
    if (applied.includes(name)) continue
    for (const text of up(target.kind)) await target.run(text)
    await target.run(
      target.kind === 'sqlite'
        ? 'insert into migrations values (?, CURRENT_TIMESTAMP)'
        : 'insert into migrations values ($1, CURRENT_TIMESTAMP)',
      [name],
    )
  }
  await insert(target, last)
}

async function insert(target: Target, { table, columns, rows }: TableRows): Promise<void> {
  if (columns.some((column) => !/^[a-z_][a-z0-9_]*$/.test(column)))
    throw new RowsDoNotFit(`${table} has columns with odd names`)
  const places = columns.map((_, index) => (target.kind === 'sqlite' ? '?' : `$${index + 1}`)).join(', ')
  const own = target.kind === 'sqlite' ? '' : 'overriding system value '
  const sql = `insert into ${table} (${columns.join(', ')}) ${own}values (${places})`
  for (const row of rows) {
    await target.run(sql, row).catch((cause: unknown) => {
      throw new RowsDoNotFit(`A row of ${table} is not taken: ${(cause as Error).message}`, { cause })
    })
  }
}

/** Rows come in any order: what one of them may name is checked when all are there. Returns what brings the checks back. */
async function unlink(target: Target, tables: readonly string[]): Promise<string[]> {
  const ours = (rows: Record<string, SqlValue>[]) => rows.filter(({ table }) => tables.includes(String(table)))
  const found = ours(
    await target.all(
      `select conrelid::regclass::text as "table", conname as name, pg_get_constraintdef(oid) as definition from pg_constraint
     where contype = 'f' and connamespace = current_schema()::regnamespace`,
    ),
  )
  for (const { table, name } of found) await target.run(`alter table ${String(table)} drop constraint ${String(name)}`)
  const numbered = ours(
    await target.all(
      `select table_name as "table", column_name as "column" from information_schema.columns
     where is_identity = 'YES' and table_schema = current_schema()`,
    ),
  )
  return [
    ...found.map(
      ({ table, name, definition }) =>
        `alter table ${String(table)} add constraint ${String(name)} ${String(definition)}`,
    ),
    // New rows go on after the last number.
    ...numbered.map(
      ({ table, column }) =>
        `select setval(pg_get_serial_sequence('${String(table)}', '${String(column)}'), (select coalesce(max(${String(column)}), 0) + 1 from ${String(table)}), false)`,
    ),
  ]
}
