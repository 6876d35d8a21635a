import type { ProgramQuery } from '../kernel/db/program.ts'
import type { SqlValue } from '../kernel/db/worker-messages.ts'

/** A table's columns by the names that rows in memory have. */
export type Columns<Row> = { readonly [Name in keyof Row & string]: 'text' | 'bigint' | 'double precision' }

const snake = (name: string) => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

export interface Table<Row> {
  /** Columns under the names of memory. */
  selected: string
  insert(rows: readonly Row[]): ProgramQuery
  update(rows: readonly Row[]): ProgramQuery
}

export function selectedOf(columns: object): string {
  return Object.keys(columns)
    .map((column) => `${snake(column)} as "${column}"`)
    .join(', ')
}

/** The statements of a program on a table: the same for both databases but for how many rows are given. */
export function tableOf<Row extends object>(
  name: string,
  columns: Columns<Row>,
  { key, changing, after = '' }: { key: keyof Row & string; changing: readonly (keyof Row & string)[]; after?: string },
): Table<Row> {
  const names = Object.keys(columns) as (keyof Row & string)[]
  const list = (of: readonly string[]) => of.map(snake).join(', ')
  const arrays = (of: readonly (keyof Row & string)[]) =>
    of.map((column, index) => `$${index + 1}::${columns[column]}[]`).join(', ')
  const valuesOf = (rows: readonly Row[], of: readonly (keyof Row & string)[]) =>
    rows.map((row) => of.map((column) => row[column] as SqlValue))
  const updated = [key, ...changing]
  const insert = `insert into ${name} (${list(names)})`
  const texts = {
    insert: {
      sqlite: `${insert} values (${names.map(() => '?').join(', ')})${after}`,
      postgres: `${insert} select * from unnest(${arrays(names)})${after}`,
    },
    update: {
      sqlite: `update ${name} set ${changing.map((column, index) => `${snake(column)} = ?${index + 2}`).join(', ')} where ${snake(key)} = ?1`,
      postgres: `update ${name} t set ${changing.map((column) => `${snake(column)} = v.${snake(column)}`).join(', ')}
        from unnest(${arrays(updated)}) as v (${list(updated)}) where t.${snake(key)} = v.${snake(key)}`,
    },
  }
  return {
    selected: selectedOf(columns),
    insert: (rows) => ({ ...texts.insert, rows: valuesOf(rows, names) }),
    update: (rows) => ({ ...texts.update, rows: valuesOf(rows, updated) }),
  }
}
