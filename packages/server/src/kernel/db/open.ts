import { limits } from '../limits.ts'
import type { Logger } from '../log.ts'
import type { Database, Migration } from './database.ts'
import { migrate } from './migrate.ts'
import { openSqlite } from './sqlite.ts'
import type { StartDatabaseWorker } from './sqlite.ts'

export interface OpenDatabaseOptions {
  /** `postgres://…`; without it SQLite in `path`. */
  url?: string | undefined
  path: string
  log: Logger
  /** In the order in which they are applied: features from low to high. */
  migrations: readonly Migration[]
  /** See `SqliteOptions.onLost`. */
  onLost?: (error: Error) => void
  /** See `SqliteOptions.startWorker`. */
  startWorker?: StartDatabaseWorker
}

/** Opens the database and brings its tables up to date. */
export async function openDatabase<Schema = unknown>(options: OpenDatabaseOptions): Promise<Database<Schema>> {
  const { url, path, log, migrations, onLost, startWorker } = options
  if (url) return openPostgresLazily<Schema>(url, { migrations, log })
  const database = await openSqlite({ path, log, onLost, startWorker })
  try {
    await migrate(database, { migrations, log })
    return database.of<Schema>()
  } catch (error) {
    await database.close()
    throw error
  }
}

async function openPostgresLazily<Schema>(
  url: string,
  { migrations, log }: Pick<OpenDatabaseOptions, 'migrations' | 'log'>,
): Promise<Database<Schema>> {
  const { openPostgres } = await import('./postgres.ts')
  // Its own connection: what serves requests gives a statement up after a moment, and a migration may need longer.
  const patient = await openPostgres({ url, log, statementMs: limits.databaseMigrationMs })
  try {
    await migrate(patient, { migrations, log })
  } finally {
    await patient.close()
  }
  return (await openPostgres({ url, log })).of<Schema>()
}
