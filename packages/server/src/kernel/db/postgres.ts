import { randomBytes } from 'node:crypto'
import { PostgresAdapter, PostgresIntrospector, PostgresQueryCompiler } from 'kysely'
import type { CompiledQuery } from 'kysely'
import pg from 'pg'
import type { Pool } from 'pg'
import { DeltaError } from '../errors.ts'
import { limits } from '../limits.ts'
import type { Logger } from '../log.ts'
import { queryBuilder, rawQuery, readsOnly, refuseWriting, sqlValues } from './compile.ts'
import type { BatchStep, Database, DatabaseCounts } from './database.ts'
import { postgresError } from './postgres-failure.ts'
import { createPostgresPrograms } from './postgres-programs.ts'
import { createPostgresWriter } from './postgres-writer.ts'
import type { PostgresStep } from './postgres-writer.ts'

const int8Oid = 20
const numericOid = 1700
/** By which the database tells servers apart: all connections of one process have the same. */
const applicationName = `delta-${randomBytes(8).toString('hex')}`

/** How many processes beside this one have the database open. */
export const otherServersQuery = rawQuery(
  `select count(distinct application_name) as count from pg_stat_activity
   where datname = current_database() and application_name like 'delta-%' and application_name <> $1`,
  [applicationName],
)

export interface PostgresOptions {
  url: string
  log: Logger
  /** The longest statement. @default limits.databaseWaitMs */
  statementMs?: number
}

export async function openPostgres({
  url,
  log,
  statementMs = limits.databaseWaitMs,
}: PostgresOptions): Promise<Database> {
  const pool = new pg.Pool({
    connectionString: url,
    max: limits.databaseConnections,
    connectionTimeoutMillis: limits.databaseWaitMs,
    statement_timeout: statementMs,
    // Longer than the server's own, which leaves the connection usable.
    query_timeout: statementMs * 2,
    application_name: applicationName,
    types: { getTypeParser },
  })
  // An idle connection that breaks is replaced by the pool; without a listener it would end the process.
  pool.on('error', (error) => log.warn('database_connection_broke', { error }))
  const database = postgresDatabase(pool)
  try {
    await database.check()
  } catch (error) {
    await database.close()
    throw error
  }
  return database
}

/** One connection of its own, for what takes long and must not be done by those that serve requests. */
export async function connectPostgres(url: string): Promise<pg.Client> {
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: limits.databaseWaitMs,
    statement_timeout: limits.databaseMigrationMs,
    application_name: applicationName,
    types: { getTypeParser },
  })
  // What breaks is told by the query that needs it.
  client.on('error', () => {})
  try {
    await client.connect()
    return client
  } catch (error) {
    throw postgresError(error)
  }
}

/** `bigint` and sums come as texts, since they may exceed 2^53; within it they are numbers here, as in SQLite. */
function getTypeParser(oid: number, format?: 'text' | 'binary'): (text: string) => unknown {
  if (oid === int8Oid || oid === numericOid) return safeNumber
  return pg.types.getTypeParser(oid, format as 'text') as (text: string) => unknown
}

function safeNumber(text: string): number {
  const value = Number(text)
  if (Number.isInteger(value) && !Number.isSafeInteger(value)) throw new RangeError(`${text} is beyond ±2^53`)
  return value
}

function postgresDatabase(pool: Pool): Database {
  const counts = { operations: 0, commits: 0, waiting: 0 }
  const door = openDoor(pool, counts)
  const onCommit = () => void (counts.commits += 1)
  const writer = createPostgresWriter(pool, onCommit)
  const programs = createPostgresPrograms(pool, onCommit)
  const database: Database = {
    kind: 'postgres',
    sql: queryBuilder({
      createAdapter: () => new PostgresAdapter(),
      createIntrospector: (db) => new PostgresIntrospector(db),
      createQueryCompiler: () => new PostgresQueryCompiler(),
    }),
    counts,
    async all<Row>(query: CompiledQuery<Row>) {
      const step = stepOf({ query })
      const read = () => pool.query<Row & object>(step.text, step.values)
      const { rows } = await door.pass<{ rows: unknown[] }>(readsOnly(query) ? read : () => writer.write([step]))
      return rows as Row[]
    },
    async first<Row>(query: CompiledQuery<Row>) {
      return (await database.all(query))[0]
    },
    async lookUp<Row>(query: CompiledQuery<Row>) {
      refuseWriting(query)
      return database.all(query)
    },
    async run(query) {
      const step = stepOf({ query })
      const { changed } = await door.pass(() => writer.write([step]))
      return { changed: changed[0]! }
    },
    async batch(steps) {
      if (steps.length > limits.databaseBatchSteps)
        throw new RangeError(`A batch has at most ${limits.databaseBatchSteps} steps`)
      const prepared = steps.map(stepOf)
      const { applied, failedStep, changed } = await door.pass(() => writer.write(prepared))
      return { applied, changed, ...(failedStep !== undefined && { failedStep }) }
    },
    program<Operation, Answer>({ href }: URL) {
      return (operation: Operation) => door.pass(() => programs.call(href, operation)) as Promise<Answer>
    },
    of: <Tables>() => database as unknown as Database<Tables>,
    async check() {
      await database.all(rawQuery('select 1 as one'))
    },
    async otherServers() {
      return ((await database.all(otherServersQuery)) as { count: number }[])[0]!.count
    },
    close: door.close,
  }
  return database
}

function stepOf({ query, mustChange }: BatchStep): PostgresStep {
  return { text: query.sql, values: sqlValues(query), mustChange }
}

/** Counts operations, bounds how many wait, and closes when none is left. */
function openDoor(pool: Pool, counts: DatabaseCounts) {
  let closed: Promise<void> | undefined
  let onIdle: (() => void) | undefined
  const close = async () => {
    if (counts.waiting > 0) await new Promise<void>((resolve) => (onIdle = resolve))
    await pool.end()
  }
  return {
    async pass<Result>(operation: () => Promise<Result>): Promise<Result> {
      if (closed) throw new DeltaError('shutting_down', 'The database is closing')
      if (counts.waiting >= limits.databaseQueued) {
        throw new DeltaError('database_busy', `${limits.databaseQueued} operations wait for the database already`)
      }
      counts.operations += 1
      counts.waiting += 1
      try {
        return await operation()
      } catch (error) {
        throw postgresError(error)
      } finally {
        counts.waiting -= 1
        if (counts.waiting === 0) onIdle?.()
      }
    },
    close: () => (closed ??= close()),
  }
}
