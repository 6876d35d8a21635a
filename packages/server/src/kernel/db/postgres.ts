import { PostgresAdapter, PostgresIntrospector, PostgresQueryCompiler } from 'kysely'
import type { CompiledQuery } from 'kysely'
import pg from 'pg'
import type { Pool, PoolClient, QueryResult } from 'pg'
import { DeltaError } from '../errors.ts'
import { limits } from '../limits.ts'
import type { Logger } from '../log.ts'
import { queryBuilder, rawQuery, sqlValues } from './compile.ts'
import type { BatchResult, BatchStep, Database } from './database.ts'

const constraintKinds: Record<string, string> = {
  '23502': 'not_null',
  '23503': 'foreign_key',
  '23505': 'unique',
  '23514': 'check',
}
/** Serialisation failure, deadlock: PostgreSQL rolled the transaction back and asks to repeat it. */
const repeatable = ['40001', '40P01']
const diskFull = ['53100']
const storageFailed = ['58030', 'XX001', 'XX002']
/** Too many connections, starting up, shutting down, and class 08: no connection. */
const unavailable = /^(08|53300|57P0)/

const int8Oid = 20
const numericOid = 1700

export async function openPostgres({ url, log }: { url: string; log: Logger }): Promise<Database> {
  const pool = new pg.Pool({
    connectionString: url,
    max: limits.databaseConnections,
    connectionTimeoutMillis: limits.databaseWaitMs,
    statement_timeout: limits.databaseWaitMs,
    query_timeout: limits.databaseWaitMs * 2,
    application_name: 'delta',
    types: { getTypeParser },
  })
  // An idle connection that breaks is replaced by the pool; without a listener it would end the process.
  pool.on('error', (error) => log.warn('database_connection_broke', { error }))
  const database = postgresDatabase(pool)
  try {
    await database.check()
  } catch (error) {
    await pool.end()
    throw error
  }
  return database
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
  /** Counts an operation and bounds how many wait for a connection. */
  const bounded = async <Result>(operation: () => Promise<Result>): Promise<Result> => {
    if (counts.waiting >= limits.databaseQueued) {
      throw new DeltaError('database_busy', `${limits.databaseQueued} operations wait for the database already`)
    }
    counts.operations += 1
    counts.waiting += 1
    try {
      return await operation()
    } catch (error) {
      throw errorOf(error)
    } finally {
      counts.waiting -= 1
    }
  }
  const single = (query: CompiledQuery<unknown>) => {
    const values = sqlValues(query)
    return bounded(() => pool.query(query.sql, values) as Promise<QueryResult>)
  }
  const database: Database = {
    kind: 'postgres',
    sql: queryBuilder({
      createAdapter: () => new PostgresAdapter(),
      createIntrospector: (db) => new PostgresIntrospector(db),
      createQueryCompiler: () => new PostgresQueryCompiler(),
    }),
    counts,
    async all<Row>(query: CompiledQuery<Row>) {
      return (await single(query)).rows as Row[]
    },
    async first<Row>(query: CompiledQuery<Row>) {
      return (await database.all(query))[0]
    },
    async run(query) {
      const { rowCount } = await single(query)
      counts.commits += 1
      return { changed: rowCount ?? 0 }
    },
    async batch(steps) {
      if (steps.length > limits.databaseBatchSteps)
        throw new RangeError(`A batch has at most ${limits.databaseBatchSteps} steps`)
      const prepared = steps.map(({ query, mustChange }) => ({ text: query.sql, values: sqlValues(query), mustChange }))
      const result = await bounded(() => repeating(() => transaction(pool, prepared)))
      if (result.applied) counts.commits += 1
      return result
    },
    of: <Tables>() => database as unknown as Database<Tables>,
    async check() {
      await database.all(rawQuery('select 1 as one'))
    },
    close: () => pool.end(),
  }
  return database
}

interface PreparedStep {
  text: string
  values: unknown[]
  mustChange: BatchStep['mustChange']
}

async function transaction(pool: Pool, steps: PreparedStep[]): Promise<BatchResult> {
  const client = await pool.connect()
  let broken: Error | undefined
  try {
    await client.query('begin')
    const result = await applySteps(client, steps)
    await client.query(result.applied ? 'commit' : 'rollback')
    return result
  } catch (error) {
    // A connection whose rollback fails too must not go back into the pool with a transaction open.
    await client.query('rollback').catch((cause: Error) => {
      broken = cause
    })
    throw error
  } finally {
    client.release(broken)
  }
}

async function applySteps(client: PoolClient, steps: PreparedStep[]): Promise<BatchResult> {
  const changed: number[] = []
  for (const [index, { text, values, mustChange }] of steps.entries()) {
    const { rowCount } = await client.query(text, values)
    changed.push(rowCount ?? 0)
    if (mustChange !== undefined && rowCount !== mustChange) return { applied: false, failedStep: index, changed }
  }
  return { applied: true, changed }
}

async function repeating<Result>(attempt: () => Promise<Result>): Promise<Result> {
  for (let tries = 1; ; tries++) {
    try {
      return await attempt()
    } catch (error) {
      if (tries === limits.databaseTries || !repeatable.includes(sqlStateOf(error))) throw error
    }
  }
}

function sqlStateOf(error: unknown): string {
  return String((error as { code?: unknown }).code ?? '')
}

function errorOf(error: unknown): unknown {
  if (error instanceof RangeError || error instanceof DeltaError) return error
  const state = sqlStateOf(error)
  const kind = constraintKinds[state]
  if (kind)
    return new DeltaError('database_constraint', `A ${kind} constraint refuses the change`, {
      cause: error,
      context: { kind },
    })
  if (repeatable.includes(state) || state === '55P03' || state === '57014') {
    return new DeltaError('database_busy', 'The database is too busy for this operation', { cause: error })
  }
  if (diskFull.includes(state)) return new DeltaError('disk_full', 'The disk of the database is full', { cause: error })
  if (storageFailed.includes(state))
    return new DeltaError('database_failed', 'The database reports a storage error', { cause: error })
  // What carries no five-character state came from the connection, not from the server.
  if (unavailable.test(state) || !/^[0-9A-Z]{5}$/.test(state)) {
    return new DeltaError('database_unavailable', 'The database can not be reached', { cause: error })
  }
  return error
}
