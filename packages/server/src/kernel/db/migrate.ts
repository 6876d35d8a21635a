import { sql } from 'kysely'
import { DeltaError } from '../errors.ts'
import { limits } from '../limits.ts'
import type { Logger } from '../log.ts'
import { rawQuery } from './compile.ts'
import type { BatchResult, BatchStep, Database, Migration } from './database.ts'

interface MigrationTables {
  migrations: { name: string; applied_at: string }
}

const createTable = 'create table if not exists migrations (name text primary key, applied_at text not null)'

// Taken first in each transaction: of servers that start on one database, one applies a migration and the others find it applied. SQLite lets
// only one write anyway. The number is DELTA's own and means nothing.
const postgresLock = 'select pg_advisory_xact_lock(7303614951)'

/** Applies what is not recorded yet, each migration with its record in one transaction. */
export async function migrate(
  database: Database,
  { migrations, log }: { migrations: readonly Migration[]; log: Logger },
): Promise<void> {
  refuseDuplicates(migrations)
  await underLock(database, [{ query: rawQuery(createTable) }])
  const tables = database.of<MigrationTables>().sql
  const applied = new Set(
    (await database.all(tables.selectFrom('migrations').select('name').compile())).map(({ name }) => name),
  )
  refuseUnknown(applied, migrations)
  for (const migration of migrations) {
    if (applied.has(migration.name)) continue
    if (await apply(database, migration)) log.info('migration_applied', { name: migration.name })
  }
}

/** False where another server has done it meanwhile. */
async function apply(database: Database, { name, up }: Migration): Promise<boolean> {
  const tables = database.of<MigrationTables>().sql
  const record = tables
    .insertInto('migrations')
    .values({ name, applied_at: sqlNow })
    .onConflict((conflict) => conflict.doNothing())
  const steps = up(database.kind).map((text) => ({ query: rawQuery(text) }))
  try {
    return (await underLock(database, [{ query: record.compile(), mustChange: 1 }, ...steps])).applied
  } catch (cause) {
    throw new DeltaError(
      'migration_failed',
      `The migration ${name} failed, and the database is as it was before it: ${(cause as Error).message}`,
      { cause },
    )
  }
}

/** Waits for another server's migration as long as that may take. */
async function underLock(database: Database, steps: BatchStep[]): Promise<BatchResult> {
  const lock = database.kind === 'postgres' ? [{ query: rawQuery(postgresLock) }] : []
  for (let tries = 1; ; tries += 1) {
    try {
      return await database.batch([...lock, ...steps])
    } catch (error) {
      const isBusy = error instanceof DeltaError && error.code === 'database_busy'
      if (!isBusy || tries * limits.databaseWaitMs >= limits.databaseMigrationMs) throw error
    }
  }
}

// Spelled alike by both databases, and not worth a clock.
const sqlNow = sql<string>`CURRENT_TIMESTAMP`

function refuseDuplicates(migrations: readonly Migration[]): void {
  const names = migrations.map(({ name }) => name)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice !== undefined) throw new Error(`Two migrations are named ${twice}`)
}

function refuseUnknown(applied: Set<string>, migrations: readonly Migration[]): void {
  const known = new Set(migrations.map(({ name }) => name))
  const unknown = [...applied].find((name) => !known.has(name))
  if (unknown === undefined) return
  throw new DeltaError(
    'config_invalid',
    `The database was used by a newer version (it knows ${unknown}): run that one, or another data folder`,
  )
}
