import type { Pool, PoolClient } from 'pg'
import { limits } from '../limits.ts'
import { postgresError } from './postgres-failure.ts'
import { repeating, transaction } from './postgres-writer.ts'
import { checkAnswers, checkRows, loadProgram, ProgramFault } from './program.ts'
import type { AnyProgram, ProgramModule, ProgramQuery, ProgramRow } from './program.ts'

interface Call {
  operation: unknown
  resolve(answer: unknown): void
  reject(error: unknown): void
}

export interface PostgresPrograms {
  call(href: string, operation: unknown): Promise<unknown>
}

/**
 * One group of a program at a time, in a transaction of its own on a connection of its own: other writers of this process neither wait for it nor make it wait, and what it has locked
 * is held for a few round trips.
 */
export function createPostgresPrograms(pool: Pool, onCommit: () => void): PostgresPrograms {
  const queues = new Map<string, { add(call: Call): void }>()
  return {
    call: (href, operation) =>
      new Promise((resolve, reject) => {
        let queue = queues.get(href)
        if (!queue) queues.set(href, (queue = createQueue(pool, { href, onCommit })))
        queue.add({ operation, resolve, reject })
      }),
  }
}

function createQueue(pool: Pool, { href, onCommit }: { href: string; onCommit: () => void }) {
  const waiting: Call[] = []
  let working = false
  let loading: Promise<ProgramModule> | undefined
  const work = async () => {
    working = true
    while (waiting.length > 0) await answer(waiting.splice(0, limits.databaseGroup))
    working = false
  }
  const answer = async (group: Call[]): Promise<void> => {
    try {
      const { program } = await (loading ??= loadProgram(href))
      const operations = group.map(({ operation }) => operation)
      const answers = await repeating(() => transaction(pool, (client) => run(program, operations, client)))
      onCommit()
      for (const [index, { resolve }] of group.entries()) resolve(answers[index])
    } catch (error) {
      if (group.length > 1 && isOfOne(error)) for (const call of group) await answer([call])
      else for (const { reject } of group) reject(postgresError(error))
    }
  }
  return {
    add(call: Call) {
      waiting.push(call)
      if (!working) void work()
    },
  }
}

/** Whether another operation of the group may be well: not where the connection, the server or its disk is what failed. */
function isOfOne(error: unknown): boolean {
  const told = postgresError(error) as { code?: unknown }
  return told === error || told.code === 'database_constraint'
}

async function run(program: AnyProgram, operations: readonly unknown[], client: PoolClient): Promise<unknown[]> {
  const running = program(operations)
  let step = stepOf(running, [])
  while (!step.done) {
    const found: ProgramRow[][] = []
    for (const query of step.value) found.push(await runQuery(client, query))
    step = stepOf(running, found)
  }
  checkAnswers(step.value, operations)
  return step.value
}

function stepOf(running: ReturnType<AnyProgram>, found: readonly ProgramRow[][]) {
  try {
    return running.next(found)
  } catch (cause) {
    throw new ProgramFault(cause)
  }
}

async function runQuery(client: PoolClient, { postgres, rows }: ProgramQuery): Promise<ProgramRow[]> {
  const [first] = rows
  if (!first) return []
  checkRows(postgres, rows)
  const columns = first.map((_, index) => rows.map((row) => row[index]))
  const { rows: found } = await client.query<ProgramRow>(postgres, columns)
  return found
}
