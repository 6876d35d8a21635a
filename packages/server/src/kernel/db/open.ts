import type { Logger } from '../log.ts'
import type { Database, Migration } from './database.ts'
import { migrate } from './migrate.ts'
import { openSqlite } from './sqlite.ts'

export interface OpenDatabaseOptions {
  /** `postgres://…`; without it SQLite in `path`. */
  url?: string | undefined
  path: string
  log: Logger
  /** In the order in which they are applied: features from low to high. */
  migrations: readonly Migration[]
  /** See `SqliteOptions.onLost`. */
  onLost?: (error: Error) => void
}

/** Opens the database and brings its tables up to date. */
export async function openDatabase<Schema = unknown>(options: OpenDatabaseOptions): Promise<Database<Schema>> {
  const { url, path, log, migrations, onLost } = options
  const database = url ? await openPostgresLazily(url, log) : await openSqlite({ path, log, onLost })
  try {
    await migrate(database, { migrations, log })
    return database.of<Schema>()
  } catch (error) {
    await database.close()
    throw error
  }
}

async function openPostgresLazily(url: string, log: Logger): Promise<Database> {
  const { openPostgres } = await import('./postgres.ts')
  return openPostgres({ url, log })
}
