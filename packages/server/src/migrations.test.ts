import { describe, expect, test } from 'vitest'
import { rawQuery } from './kernel/db/compile.ts'
import type { Database, Migration } from './kernel/db/database.ts'
import { migrate } from './kernel/db/migrate.ts'
import { describeSchema, fillAll, keyOf, readAll } from './kernel/db/testing-rows.ts'
import type { Row } from './kernel/db/testing-rows.ts'
import { guardWrites, testDatabases } from './kernel/db/testing.ts'
import { DeltaError } from './kernel/errors.ts'
import { limits } from './kernel/limits.ts'
import { createLogger, silentLogger } from './kernel/log.ts'
import { allMigrations, featureMigrations } from './migrations.ts'

interface State {
  title: string
  applied: readonly Migration[]
}

interface Purpose {
  table: string
  /** Columns that the table has no longer. */
  gone?: readonly string[]
  check: (before: Row, after: Row, tables: ReadonlyMap<string, readonly Row[]>) => void
}

const balances = ['granted', 'bought', 'held', 'used']

/** What a migration does on purpose to rows that are there: the row it was, the row it has become. Every other row stays as it was. */
const purposes: Record<string, Purpose> = {
  'workspaces-4-chains': {
    table: 'snapshots',
    check: (before, after) => expect(after['layer_parent_id']).toBe(before['parent_id']),
  },
  'ledger-4-balances': {
    table: 'ledger_accounts',
    gone: balances,
    check(before, { place }, tables) {
      const at = (table: string) => tables.get(table)!.filter((row) => row['place'] === place)
      expect(at('ledger_accounts')).toHaveLength(1)
      expect(at('ledger_balances')).toEqual([{ place, ...only(balances, before) }])
    },
  },
}

/** Each beginning of the whole list, and each feature as it was while all others were as they are. */
function earlierStates(): State[] {
  const beginnings = allMigrations.map((_, count) => ({
    title: `the first ${count} migrations`,
    applied: allMigrations.slice(0, count),
  }))
  const behind = featureMigrations.flatMap((own) =>
    own.slice(0, -1).map(({ name }, index) => ({
      title: `all migrations, but of one feature only up to ${name}`,
      applied: allMigrations.filter((one) => !own.includes(one) || own.indexOf(one) <= index),
    })),
  )
  return [...beginnings, ...behind]
}

testDatabases('migrations', (open, openServers) => {
  let fromEmpty: string[]

  const migrateWhole = (database: Database) => migrate(database, { migrations: allMigrations, log: silentLogger })

  describe.for(earlierStates())('from $title', ({ applied }) => {
    test('every row is there and the tables are those of a new database', async () => {
      fromEmpty ??= await describeSchema((await open(allMigrations)).of())
      const database = (await open([])).of()
      await migrate(database, { migrations: applied, log: silentLogger })
      await fillAll(database)
      const before = await readAll(database)
      await migrateWhole(database)
      const after = await readAll(database)
      expect(await describeSchema(database)).toEqual(fromEmpty)
      const done = new Set(applied.map(({ name }) => name))
      const purposed = Object.entries(purposes).flatMap(([name, purpose]) => (done.has(name) ? [] : [purpose]))
      const kept = (table: string, row: Row): Row => {
        const gone = purposed.flatMap((purpose) => (purpose.table === table ? (purpose.gone ?? []) : []))
        return only(
          Object.keys(row).filter((column) => !gone.includes(column)),
          row,
        )
      }
      for (const [table, rows] of before) {
        if (table === 'migrations') continue
        const keptRows = rows.map((row) => kept(table, row))
        expectKept(table, keptRows, after.get(table) ?? [])
      }
      for (const { table, check } of purposed) {
        for (const row of before.get(table) ?? []) check(row, sameIn(kept(table, row), after.get(table)!)!, after)
      }

      await migrateWhole(database)
      expect(await readAll(database)).toEqual(after)
      expect(await describeSchema(database)).toEqual(fromEmpty)
    })
  })

  test('the rows of these tests leave no table and no column out', async () => {
    const database = (await open(allMigrations)).of()
    await fillAll(database)
    for (const [table, rows] of await readAll(database)) {
      expect(rows.length, table).toBeGreaterThan(0)
      for (const column of Object.keys(rows[0]!)) {
        const values = rows.map((row) => row[column])
        expect(
          values.some((value) => value !== null),
          `${table}.${column}`,
        ).toBe(true)
      }
    }
  })

  test('of servers that start at once each migration is applied by one, and all of them serve', async () => {
    const lines: string[] = []
    const log = createLogger({ level: 'info', write: (line) => lines.push(line) })
    const servers = await openServers(6, { migrations: allMigrations, log })
    const applied = lines.map((line) => JSON.parse(line) as { event: string; name: string })
    // In no order: who was answered first need not be first to say so.
    const names = applied.filter(({ event }) => event === 'migration_applied').map(({ name }) => name)
    expect(names.toSorted()).toEqual(allMigrations.map(({ name }) => name).toSorted())
    for (const server of servers) {
      expect(await server.first(rawQuery('select id from accounts'))).toEqual({ id: 'acc_default' })
    }
  })

  test('one that fails is named, leaves all as it was, and what follows it is not begun', async () => {
    const database = (await open(allMigrations)).of()
    await fillAll(database)
    const before = { rows: await readAll(database), schema: await describeSchema(database) }
    const failing: Migration[] = [
      {
        name: 'later-1',
        up: () => [
          'create table half (id text primary key)',
          'alter table workspaces add column half text',
          `update workspaces set name = 'changed' || id`,
          'delete from sandbox_requests',
          `insert into half (id) values ('a'), ('a')`,
        ],
      },
      { name: 'later-2', up: () => ['create table never (id text primary key)'] },
    ]
    const migrated = migrate(database, { migrations: [...allMigrations, ...failing], log: silentLogger })
    await expect(migrated).rejects.toMatchObject({
      code: 'migration_failed',
      message: expect.stringMatching(/later-1.*unique/i),
    })
    expect(await describeSchema(database)).toEqual(before.schema)
    expect(await readAll(database)).toEqual(before.rows)
  })

  test('a migration waits for a busy database, and for nothing else', async () => {
    const database = (await open([])).of()
    let busy = 3
    const waiting = guardWrites(database, async () => {
      busy -= 1
      if (busy >= 0) throw new DeltaError('database_busy', 'Another process holds the database')
    })
    await migrate(waiting, { migrations: allMigrations, log: silentLogger })
    expect(busy).toBeLessThan(0)

    let asked = 0
    const away = guardWrites(database, async () => {
      asked += 1
      throw new DeltaError('database_unavailable', 'The database can not be reached')
    })
    await expect(migrate(away, { migrations: allMigrations, log: silentLogger })).rejects.toMatchObject({
      code: 'database_unavailable',
    })
    expect(asked).toBe(1)
  })

  test('a migration may take longer than a statement of a request', async () => {
    const seconds = (limits.databaseWaitMs + 100) / 1_000
    const slow: Migration = {
      name: 'slow-1',
      // SQLite knows no such limit.
      up: (kind) => (kind === 'postgres' ? [`select pg_sleep(${seconds})`] : ['select 1']),
    }
    const [database] = await openServers(1, { migrations: [...allMigrations, slow], log: silentLogger })
    expect(await database!.first(rawQuery(`select name from migrations where name = 'slow-1'`))).toBeDefined()
  })
})

/** Each of `before` has its own row in `after`, the same in every column it had. */
function expectKept(table: string, before: readonly Row[], after: readonly Row[]): void {
  const columns = Object.keys(before[0] ?? {})
  const left = after.map((row) => keyOf(only(columns, row)))
  for (const row of before) {
    const index = left.indexOf(keyOf(row))
    expect(index, `${table} has lost ${keyOf(row)}`).not.toBe(-1)
    left.splice(index, 1)
  }
}

function sameIn(row: Row, rows: readonly Row[]): Row | undefined {
  return rows.find((one) => keyOf(only(Object.keys(row), one)) === keyOf(row))
}

function only(columns: readonly string[], row: Row): Row {
  return Object.fromEntries(columns.map((column) => [column, row[column]!]))
}
