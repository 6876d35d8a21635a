import { sql } from 'kysely'
import { DeltaError } from '../errors.ts'
import type { Logger } from '../log.ts'
import { rawQuery } from './compile.ts'
import type { Database, Migration } from './database.ts'

interface MigrationTables {
  migrations: { name: string; applied_at: string }
}

const createTable = 'create table if not exists migrations (name text primary key, applied_at text not null)'

/** Applies what is not recorded yet, each migration with its record in one transaction. */
export async function migrate(
  database: Database,
  { migrations, log }: { migrations: readonly Migration[]; log: Logger },
): Promise<void> {
  refuseDuplicates(migrations)
  await database.run(rawQuery(createTable))
  const tables = database.of<MigrationTables>().sql
  const applied = new Set(
    (await database.all(tables.selectFrom('migrations').select('name').compile())).map(({ name }) => name),
  )
  refuseUnknown(applied, migrations)
  for (const migration of migrations) {
    if (applied.has(migration.name)) continue
    await apply(database, migration)
    log.info('migration_applied', { name: migration.name })
  }
}

async function apply(database: Database, { name, up }: Migration): Promise<void> {
  const tables = database.of<MigrationTables>().sql
  // The record comes first: of several servers starting on one PostgreSQL, the others wait on it and find it taken.
  const record = tables
    .insertInto('migrations')
    .values({ name, applied_at: sqlNow })
    .onConflict((conflict) => conflict.doNothing())
  const steps = up(database.kind).map((text) => ({ query: rawQuery(text) }))
  await database.batch([{ query: record.compile(), mustChange: 1 }, ...steps])
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
