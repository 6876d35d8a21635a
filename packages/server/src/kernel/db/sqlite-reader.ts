import { DatabaseSync } from 'node:sqlite'
import { limits } from '../limits.ts'
import { keepStatements } from './sqlite-statements.ts'
import type { WorkerStep } from './worker-messages.ts'

/** A second connection, of this thread, for the few rows that a request waits for: a way to the worker and back costs more than ten times what such a read does. */
export interface SqliteReader {
  rows(step: WorkerStep): unknown[]
  close(): void
}

/**
 * Of a database that the worker has open. By the write-ahead log it sees at once whatever was committed, and holds no writer up: it is in no transaction but for the moment of a read.
 * It can not write, and waits for nobody, since nothing else is served meanwhile.
 */
export function openSqliteReader(path: string): SqliteReader {
  const database = new DatabaseSync(path, { readOnly: true, timeout: 0, defensive: true })
  database.exec(`
    PRAGMA query_only = ON;
    PRAGMA trusted_schema = OFF;
    PRAGMA temp_store = MEMORY;
    PRAGMA cache_size = -${limits.databaseReaderCacheKib};
  `)
  const prepared = keepStatements(database, limits.databaseStatements)
  return {
    rows: ({ sql, parameters }) => prepared(sql).all(...parameters),
    close() {
      if (database.isOpen) database.close()
    },
  }
}
