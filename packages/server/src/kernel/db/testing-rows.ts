import { hash } from 'node:crypto'
import type { CompiledQuery } from 'kysely'
import { rawQuery } from './compile.ts'
import type { BatchStep, Database } from './database.ts'
import type { SqlValue } from './worker-messages.ts'

// What is in a database, and rows for any table, made from what the database itself says of it: whatever a later migration adds is filled too.

interface Column {
  name: string
  type: 'text' | 'integer' | 'bigint' | 'real' | 'bytes'
  isNullable: boolean
  /** Where a check leaves only these. */
  allowed: SqlValue[] | undefined
  /** Where it names a row of another table, or of its own. */
  parent: { table: string; column: string } | undefined
  isUnique: boolean
}

interface Table {
  name: string
  columns: Column[]
}

export type Row = Record<string, SqlValue>

const rowsPerTable = 6

/** Of every object in it, as comparable lines. */
export async function describeSchema(database: Database): Promise<string[]> {
  const rows = await database.all<{ line: string }>(rawQuery(schemaQueries[database.kind]))
  return rows.map(({ line }) => line).toSorted()
}

const schemaQueries = {
  sqlite: `select type || ' ' || tbl_name || '.' || name || ': ' || coalesce(sql, '') as line from sqlite_master`,
  postgres: `
    select table_name || '.' || column_name || ' ' || ordinal_position || ': ' || data_type || ' ' || is_nullable || ' ' || is_identity || ' '
      || coalesce(column_default, '') as line from information_schema.columns where table_schema = 'public'
    union all select conrelid::regclass::text || ' ' || conname || ': ' || pg_get_constraintdef(oid) from pg_constraint
      where connamespace = 'public'::regnamespace
    union all select tablename || ' ' || indexname || ': ' || indexdef from pg_indexes where schemaname = 'public'`,
}

/** All rows of all tables, each table's in an order of its own content. */
export async function readAll(database: Database): Promise<Map<string, Row[]>> {
  const found = new Map<string, Row[]>()
  for (const name of await tableNames(database)) {
    const rows = await database.all<Row>(rawQuery(`select * from ${name}`))
    const inOrder = rows.map((row) => ({ row, key: keyOf(row) })).toSorted((a, b) => (a.key < b.key ? -1 : 1))
    found.set(
      name,
      inOrder.map(({ row }) => row),
    )
  }
  return found
}

/** Bytes as text, so that equal rows read equal whatever class their bytes came in. */
export function keyOf(row: Row): string {
  return JSON.stringify(row, (_, value: unknown) =>
    value instanceof Uint8Array || (value as { type?: unknown } | null)?.type === 'Buffer'
      ? Buffer.from((value as { data?: Uint8Array }).data ?? (value as Uint8Array)).toString('hex')
      : value,
  )
}

/** Puts rows with odd values into every table but the record of migrations, in one commit. */
export async function fillAll(database: Database): Promise<void> {
  const tables = await readTables(database)
  const filled = new Map<string, Row[]>()
  const steps: BatchStep[] = []
  for (const table of parentsFirst(tables)) {
    const rows = rowsOf(table, filled)
    steps.push(...rows.map((row) => ({ query: insertion(database, table, row), mustChange: 1 })))
    filled.set(table.name, rows)
  }
  await database.batch(steps)
}

function insertion({ kind }: Database, { name }: Table, row: Row): CompiledQuery {
  const columns = Object.keys(row)
  const places = columns.map((_, index) => (kind === 'sqlite' ? '?' : `$${index + 1}`))
  return rawQuery(`insert into ${name} (${columns.join(', ')}) values (${places.join(', ')})`, Object.values(row))
}

function parentsFirst(tables: readonly Table[]): Table[] {
  const ordered = new Set<Table>()
  const visit = (table: Table, below: readonly Table[]) => {
    if (ordered.has(table) || below.includes(table)) return
    for (const { parent } of table.columns) {
      const above = tables.find(({ name }) => name === parent?.table)
      if (above) visit(above, [...below, table])
    }
    ordered.add(table)
  }
  for (const table of tables) visit(table, [])
  return [...ordered]
}

function rowsOf(table: Table, filled: ReadonlyMap<string, readonly Row[]>): Row[] {
  const most = Math.min(
    rowsPerTable,
    ...table.columns.flatMap(({ isUnique, allowed }) => (isUnique && allowed ? [allowed.length] : [])),
  )
  const rows: Row[] = []
  for (let number = 0; number < most; number += 1) {
    const values = table.columns.map((column, place) => {
      const known = shaped[`${table.name}.${column.name}`]?.(number)
      const at = { number, place, parents: parentsOf(column, table, rows, filled) }
      return [column.name, known ?? valueOf(column, at)] as const
    })
    rows.push(Object.fromEntries(values))
  }
  return rows
}

function parentsOf(
  { parent }: Column,
  table: Table,
  own: readonly Row[],
  filled: ReadonlyMap<string, readonly Row[]>,
): readonly Row[] {
  if (!parent) return []
  return parent.table === table.name ? own : (filled.get(parent.table) ?? [])
}

interface Position {
  number: number
  place: number
  parents: readonly Row[]
}

/** The first row has nothing that it need not have, the second all that it can, the others this or that. */
function valueOf(column: Column, { number, place, parents }: Position): SqlValue {
  const { isNullable, allowed, parent, isUnique } = column
  const isNull = number === 0 || (number > 1 && (number + place) % 2 === 0)
  if (isNullable && (isNull || (parent && parents.length === 0))) return null
  if (parent) return parents[number % parents.length]![parent.column]!
  if (allowed) return allowed[number % allowed.length]!
  return isUnique
    ? uniqueValue(column, number)
    : oddValues[column.type][(number + place) % oddValues[column.type].length]!
}

/** What a later migration takes apart has the shape that it has in every row. */
const shaped: Record<string, (number: number) => SqlValue> = {
  'api_keys.hash': (number) => hash('sha256', String(number)),
}

const strange = `o'Brien "\\" %_ \u0001\n\t naïve ✓ 漢字 🜁 \u202Eabc`

const oddValues: Record<Column['type'], SqlValue[]> = {
  text: ['', strange, 'null', ' ', 'x'.repeat(1_000), '{"a":[1,"\\u0000"]}', '2026-11-22T10:14:03.118Z'],
  integer: [0, 1, -1, 2 ** 31 - 1, -(2 ** 31)],
  bigint: [0, 1, -1, 2 ** 31, Number.MAX_SAFE_INTEGER, -Number.MAX_SAFE_INTEGER],
  real: [0, 0.1, -1.5, 1e-300, 2 ** 53 - 1, 3],
  bytes: [new Uint8Array(), new Uint8Array([0, 255, 10, 128])],
}

function uniqueValue({ type }: Column, number: number): SqlValue {
  if (type === 'text') return number === 0 ? '' : `${strange.slice(0, 40)}${number}`
  if (type === 'bytes') return new Uint8Array([number])
  return number === 0 ? 0 : (type === 'integer' ? 2 ** 31 : Number.MAX_SAFE_INTEGER) - number
}

async function tableNames(database: Database): Promise<string[]> {
  const rows = await database.all<{ name: string }>(rawQuery(tableQueries[database.kind]))
  return rows.map(({ name }) => name)
}

const tableQueries = {
  sqlite: `select name from sqlite_master where type = 'table' and name not like 'sqlite!_%' escape '!' order by name`,
  postgres: `select tablename as name from pg_tables where schemaname = 'public' order by tablename`,
}

async function readTables(database: Database): Promise<Table[]> {
  const names = (await tableNames(database)).filter((name) => name !== 'migrations')
  return Promise.all(
    names.map(async (name) => ({
      name,
      columns: await (database.kind === 'sqlite' ? sqliteColumns(database, name) : postgresColumns(database, name)),
    })),
  )
}

async function sqliteColumns(database: Database, table: string): Promise<Column[]> {
  const ask = <Answer>(text: string) => database.all<Answer>(rawQuery(text, [table]))
  const columns = await ask<{ name: string; type: string; notnull: number; pk: number }>(
    'select name, type, "notnull", pk from pragma_table_info(?)',
  )
  const parents = await ask<{ from: string; table: string; to: string }>(
    'select "from", "table", "to" from pragma_foreign_key_list(?)',
  )
  const unique = await ask<{ name: string }>(
    `select i.name from pragma_index_list(?) l, pragma_index_info(l.name) i where l."unique" = 1`,
  )
  const [definition] = await ask<{ sql: string }>('select sql from sqlite_master where name = ?')
  const checks = checksIn(definition!.sql)
  return columns
    .filter(({ name }) => !new RegExp(`\\b${name}\\b[^,]*autoincrement`, 'i').test(definition!.sql))
    .map(({ name, type, notnull, pk }) => {
      const parent = parents.find(({ from }) => from === name)
      return {
        name,
        type: typeOf(type),
        isNullable: notnull === 0 && pk === 0,
        allowed: checks.get(name),
        parent: parent && { table: parent.table, column: parent.to },
        isUnique: pk > 0 || unique.some((one) => one.name === name),
      }
    })
}

async function postgresColumns(database: Database, table: string): Promise<Column[]> {
  const ask = <Answer>(text: string) => database.all<Answer>(rawQuery(text, [table]))
  const columns = await ask<{ name: string; type: string; nullable: string }>(
    `select column_name as name, data_type as type, is_nullable as nullable from information_schema.columns
     where table_schema = 'public' and table_name = $1 and is_identity = 'NO' order by ordinal_position`,
  )
  const parents = await ask<{ from: string; table: string; to: string }>(
    `select a.attname as "from", c.confrelid::regclass::text as "table", p.attname as "to" from pg_constraint c
     join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
     join pg_attribute p on p.attrelid = c.confrelid and p.attnum = c.confkey[1]
     where c.contype = 'f' and c.conrelid = $1::regclass`,
  )
  const unique = await ask<{ name: string }>(
    `select a.attname as name from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
     where i.indisunique and i.indrelid = $1::regclass`,
  )
  const definitions = await ask<{ text: string }>(
    `select pg_get_constraintdef(oid) as text from pg_constraint where contype = 'c' and conrelid = $1::regclass`,
  )
  const checks = checksIn(definitions.map(({ text }) => text).join('\n'))
  return columns.map(({ name, type, nullable }) => {
    const parent = parents.find(({ from }) => from === name)
    return {
      name,
      type: typeOf(type),
      isNullable: nullable === 'YES',
      allowed: checks.get(name),
      parent: parent && { table: parent.table, column: parent.to },
      isUnique: unique.some((one) => one.name === name),
    }
  })
}

function typeOf(name: string): Column['type'] {
  const type = {
    text: 'text',
    integer: 'integer',
    bigint: 'bigint',
    real: 'real',
    'double precision': 'real',
    blob: 'bytes',
    bytea: 'bytes',
  }[name.toLowerCase()]
  if (type === undefined) throw new Error(`A column of type ${name} is not known here`)
  return type as Column['type']
}

/** `check (a in ('x', 'y'))` and `check (a = 1)`, in the words of either database. */
function checksIn(text: string): Map<string, SqlValue[]> {
  const found = new Map<string, SqlValue[]>()
  for (const [, column, list] of text.matchAll(/check\s*\(+\s*(\w+)\s+in\s*\(([^)]*)\)/gi))
    found.set(column!, textsIn(list!))
  for (const [, column, list] of text.matchAll(/check\s*\(+\s*(\w+)\s*=\s*any\s*\(+array\[([^\]]*)\]/gi))
    found.set(column!, textsIn(list!))
  for (const [, column, number] of text.matchAll(/check\s*\(+\s*(\w+)\s*=\s*(\d+)\s*\)/gi))
    found.set(column!, [Number(number)])
  return found
}

function textsIn(list: string): string[] {
  return Array.from(list.matchAll(/'([^']*)'/g), ([, text]) => text!)
}
