import type { EventEmitter } from 'node:events'
import { mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { Worker } from 'node:worker_threads'
import type { WorkerOptions } from 'node:worker_threads'
import type { CompiledQuery } from 'kysely'
import { SqliteAdapter, SqliteIntrospector, SqliteQueryCompiler } from 'kysely'
import { DeltaError } from '../errors.ts'
import { limits } from '../limits.ts'
import type { Logger } from '../log.ts'
import { queryBuilder, rawQuery, readsOnly, refuseWriting, sqlValues } from './compile.ts'
import type { BatchResult, BatchStep, Database, DatabaseCounts } from './database.ts'
import { openSqliteReader, type SqliteReader } from './sqlite-reader.ts'
import type {
  LoadReport,
  ProgramRequest,
  StepsRequest,
  WorkerFailure,
  WorkerMessage,
  WorkerReport,
  WorkerRequest,
  WorkerSettings,
  WorkerStep,
} from './worker-messages.ts'

export interface SqliteOptions {
  path: string
  log: Logger
  /** The connection is gone for good, though the file may be well: only a new process helps. */
  onLost?: ((error: Error) => void) | undefined
  /** @default a thread of its own */
  startWorker?: StartDatabaseWorker | undefined
}

/** Starts what holds the connection: it speaks as a `Worker` does whose module is `sqlite-worker.ts`. */
export type StartDatabaseWorker = (settings: WorkerSettings) => DatabaseWorker

export interface DatabaseWorker extends EventEmitter {
  postMessage(message: WorkerMessage): void
}

interface Waiting {
  resolve(answer: never): void
  reject(error: Error): void
}

// Beside this source file in development, beside the bundle in a release.
const workerUrl = new URL(import.meta.url.endsWith('.ts') ? './sqlite-worker.ts' : './db-worker.mjs', import.meta.url)

export const databaseWorkerOptions = {
  resourceLimits: { maxOldGenerationSizeMb: limits.databaseWorkerHeapMb, maxYoungGenerationSizeMb: 4 },
  // The environment holds secrets the connection does not need.
  env: {},
} satisfies WorkerOptions

export async function openSqlite({
  path,
  log,
  onLost,
  startWorker = startOwnWorker,
}: SqliteOptions): Promise<Database> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  const worker = startWorker(workerSettings(path))
  await started(worker, path)
  const door = openDoor(worker, { log, onLost })
  try {
    return sqliteDatabase(door, openSqliteReader(path))
  } catch (cause) {
    await door.close()
    throw notOpened(path, cause as Error)
  }
}

function startOwnWorker(settings: WorkerSettings): DatabaseWorker {
  return new Worker(workerUrl, { ...databaseWorkerOptions, workerData: settings })
}

function workerSettings(path: string): WorkerSettings {
  return {
    path,
    waitMs: limits.databaseWaitMs,
    cacheKib: limits.databaseCacheKib,
    walBytes: limits.databaseWalBytes,
    group: limits.databaseGroup,
    statements: limits.databaseStatements,
    remembered: limits.databaseRemembered,
  }
}

function started(worker: DatabaseWorker, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (cause: Error) => reject(notOpened(path, cause))
    worker.once('error', fail)
    worker.once('message', () => {
      worker.off('error', fail)
      resolve()
    })
  })
}

function notOpened(path: string, { message }: Error): DeltaError {
  return new DeltaError('database_failed', `The database ${path} can not be opened`, { cause: message })
}

type Asked = Omit<StepsRequest, 'id'> | Omit<ProgramRequest, 'id'>

interface Door {
  counts: DatabaseCounts
  /** Why nothing is asked any more. */
  refusal(): DeltaError | undefined
  ask<Answer>(asked: Asked): Promise<Answer>
  load(program: string): Promise<void>
  close(): Promise<void>
}

/** Numbers the requests, bounds how many wait, and gives every answer to the one who asked. */
function openDoor(worker: DatabaseWorker, { log, onLost }: Pick<SqliteOptions, 'log' | 'onLost'>): Door {
  const waiting = new Map<number, Waiting>()
  const loading = new Map<string, { loaded: Promise<void>; settle(report: LoadReport): void }>()
  const counts = { operations: 0, commits: 0, waiting: 0 }
  let nextId = 1
  let ended: DeltaError | undefined
  let closing = false
  const end = (cause: Error) => {
    if (ended) return
    ended = new DeltaError(closing ? 'shutting_down' : 'database_failed', 'The database connection has ended', {
      cause,
    })
    for (const { reject } of waiting.values()) reject(ended)
    waiting.clear()
    for (const [loaded, { settle }] of loading) settle({ loaded, failure: ended.message })
    if (closing) return
    log.error('database_lost', { error: cause })
    onLost?.(cause)
  }
  worker.on('error', end)
  worker.on('exit', (code) => end(new Error(`The database worker ended with ${code}`)))
  worker.on('message', (report: WorkerReport | LoadReport) => {
    if ('loaded' in report) return loading.get(report.loaded)?.settle(report)
    const { answers, committed } = report
    counts.commits += committed
    for (const answer of answers) {
      const asker = waiting.get(answer.id)
      waiting.delete(answer.id)
      if ('failure' in answer) asker?.reject(errorOf(answer.failure, log))
      else asker?.resolve(answer as never)
    }
    counts.waiting = waiting.size
  })
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- A worker's port has no origin; the rule is for windows.
  const post = (message: WorkerMessage) => worker.postMessage(message)
  let outbox: WorkerRequest[] = []
  const flush = () => {
    const requests = outbox
    outbox = []
    if (requests.length > 0) post(requests)
  }
  const refusal = () => ended ?? (closing ? new DeltaError('shutting_down', 'The database is closing') : undefined)
  return {
    counts,
    refusal,
    ask(asked) {
      const refused = refusal()
      if (refused) return Promise.reject(refused)
      if (waiting.size >= limits.databaseQueued) return Promise.reject(tooBusy())
      const id = nextId++
      counts.operations += 1
      counts.waiting = waiting.size + 1
      return new Promise((resolve, reject) => {
        waiting.set(id, { resolve, reject })
        if (outbox.push({ ...asked, id }) === 1) queueMicrotask(flush)
      })
    },
    load(program) {
      const refused = refusal()
      if (refused) return Promise.reject(refused)
      const known = loading.get(program)
      if (known) return known.loaded
      const { promise, resolve, reject } = Promise.withResolvers<void>()
      const settle = ({ failure }: LoadReport) => {
        if (failure === undefined) return resolve()
        loading.delete(program)
        reject(new Error(`The program ${program} can not be loaded: ${failure}`))
      }
      loading.set(program, { loaded: promise, settle })
      post({ load: program })
      return promise
    },
    async close() {
      if (ended) return
      closing = true
      const exited = new Promise((resolve) => worker.once('exit', resolve))
      flush()
      post('close')
      await exited
    },
  }
}

function tooBusy(): DeltaError {
  return new DeltaError('database_busy', `${limits.databaseQueued} operations wait for the database already`)
}

function errorOf({ code, message, context }: WorkerFailure, log: Logger): Error {
  if (!code) return new Error(`SQLite: ${message}`)
  if (code === 'database_failed') log.error('database_failed', { message })
  return new DeltaError(code, message, context ? { context } : {})
}

function sqliteDatabase(door: Door, reader: SqliteReader): Database {
  const database: Database = {
    kind: 'sqlite',
    sql: queryBuilder({
      createAdapter: () => new SqliteAdapter(),
      createIntrospector: (db) => new SqliteIntrospector(db),
      createQueryCompiler: () => new SqliteQueryCompiler(),
    }),
    counts: door.counts,
    async all<Row>(query: CompiledQuery<Row>) {
      const answer = await door.ask<{ rows: Row[] }>({
        kind: readsOnly(query) ? 'read' : 'rows',
        steps: [stepOf({ query })],
      })
      return answer.rows
    },
    async first<Row>(query: CompiledQuery<Row>) {
      return (await database.all(query))[0]
    },
    async lookUp<Row>(query: CompiledQuery<Row>) {
      refuseWriting(query)
      const refused = door.refusal()
      if (refused) throw refused
      const step = stepOf({ query })
      try {
        const rows = reader.rows(step) as Row[]
        door.counts.operations += 1
        return rows
      } catch {
        // Locked for a moment, or the disk fails: the worker may wait, and tells what is wrong.
        return database.all(query)
      }
    },
    async run(query) {
      const { changed } = await door.ask<BatchResult>({ kind: 'batch', steps: [stepOf({ query })] })
      return { changed: changed[0]! }
    },
    async batch(steps) {
      if (steps.length > limits.databaseBatchSteps)
        throw new RangeError(`A batch has at most ${limits.databaseBatchSteps} steps`)
      const answer = await door.ask<BatchResult & { id: number }>({ kind: 'batch', steps: steps.map(stepOf) })
      const { applied, failedStep, changed } = answer
      return { applied, changed, ...(failedStep !== undefined && { failedStep }) }
    },
    program<Operation, Answer>({ href }: URL) {
      return async (operation: Operation) => {
        await door.load(href)
        const { answer } = await door.ask<{ answer: Answer }>({ kind: 'program', program: href, operation })
        return answer
      }
    },
    of: <Tables>() => database as unknown as Database<Tables>,
    async check() {
      await database.all(rawQuery('select 1 as one'))
    },
    otherServers: () => Promise.resolve(0),
    close() {
      // Before the worker's connection: the last one to go leaves no write-ahead log behind, and this one could not write it into the file.
      reader.close()
      return door.close()
    },
  }
  return database
}

function stepOf({ query, mustChange }: BatchStep): WorkerStep {
  const step = { sql: query.sql, parameters: sqlValues(query) }
  return mustChange === undefined ? step : { ...step, mustChange }
}
