import type { Pool, PoolClient, QueryResult } from 'pg'
import { limits } from '../limits.ts'
import type { BatchResult } from './database.ts'
import { isConnectionLost, isRepeatable, postgresError } from './postgres-failure.ts'

export interface PostgresStep {
  text: string
  values: unknown[]
  mustChange?: number | undefined
}

/** What one operation came to: the rows of its last step, and the counts of all. */
export interface PostgresOutcome extends BatchResult {
  rows: unknown[]
}

interface Waiting {
  steps: PostgresStep[]
  resolve(outcome: PostgresOutcome): void
  reject(error: unknown): void
}

export interface PostgresWriter {
  write(steps: PostgresStep[]): Promise<PostgresOutcome>
}

/**
 * One transaction at a time, for all operations that came while the last one was committed, each under its own savepoint, as with SQLite. Besides
 * sharing the commit it keeps this process from deadlocking with itself; with another server's, the group is repeated.
 */
export function createPostgresWriter(pool: Pool, onCommit: () => void): PostgresWriter {
  const queue: Waiting[] = []
  let working = false
  const work = async () => {
    working = true
    while (queue.length > 0) await writeGroup(queue.splice(0, limits.databaseGroup))
    working = false
  }
  const writeGroup = async (group: Waiting[]) => {
    try {
      const outcomes = await repeating(() => transaction(pool, (client) => writeAll(client, group)))
      onCommit()
      for (const [index, outcome] of outcomes.entries()) {
        if ('error' in outcome) group[index]!.reject(outcome.error)
        else group[index]!.resolve(outcome)
      }
    } catch (error) {
      const told = postgresError(error)
      for (const { reject } of group) reject(told)
    }
  }
  return {
    write(steps) {
      return new Promise((resolve, reject) => {
        queue.push({ steps, resolve, reject })
        if (!working) void work()
      })
    },
  }
}

type Outcome = PostgresOutcome | { error: unknown }

export async function repeating<Result>(attempt: () => Promise<Result>): Promise<Result> {
  for (let tries = 1; ; tries++) {
    try {
      return await attempt()
    } catch (error) {
      if (tries === limits.databaseTries || !isRepeatable(error)) throw error
    }
  }
}

async function writeAll(client: PoolClient, group: Waiting[]): Promise<Outcome[]> {
  const outcomes: Outcome[] = []
  for (const { steps } of group) outcomes.push(await underSavepoint(client, steps))
  return outcomes
}

export async function transaction<Result>(pool: Pool, work: (client: PoolClient) => Promise<Result>): Promise<Result> {
  const client = await pool.connect()
  let broken: Error | undefined
  try {
    await client.query('begin')
    const result = await work(client)
    await client.query('commit')
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

/** Throws only when the whole transaction is gone. */
async function underSavepoint(client: PoolClient, steps: PostgresStep[]): Promise<Outcome> {
  await client.query('savepoint operation')
  try {
    const outcome = await applySteps(client, steps)
    await client.query(outcome.applied ? 'release operation' : undoOperation)
    return outcome
  } catch (error) {
    if (isRepeatable(error) || isConnectionLost(error)) throw error
    await client.query(undoOperation)
    return { error: postgresError(error) }
  }
}

const undoOperation = 'rollback to operation; release operation'

async function applySteps(client: PoolClient, steps: PostgresStep[]): Promise<PostgresOutcome> {
  const changed: number[] = []
  let rows: unknown[] = []
  for (const [index, { text, values, mustChange }] of steps.entries()) {
    const result: QueryResult = await client.query(text, values)
    changed.push(result.rowCount ?? 0)
    rows = result.rows
    if (mustChange !== undefined && result.rowCount !== mustChange)
      return { applied: false, failedStep: index, changed, rows: [] }
  }
  return { applied: true, changed, rows }
}
