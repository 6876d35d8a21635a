import { DatabaseSync } from 'node:sqlite'
import type { StatementSync } from 'node:sqlite'
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import { failureOf, stopsWriting } from './sqlite-failure.ts'
import type {
  WorkerAnswer,
  WorkerFailure,
  WorkerMessage,
  WorkerReport,
  WorkerRequest,
  WorkerSettings,
  WorkerStep,
} from './worker-messages.ts'

// Holds the only connection that writes. `node:sqlite` is synchronous: here it blocks nobody, and all operations that arrived while
// the last commit waited for the disk go into the next one together.

const settings = workerData as WorkerSettings
const port = parentPort!
const database = open(settings)
const statements = new Map<string, StatementSync>()
const begin = database.prepare('BEGIN IMMEDIATE')
const commit = database.prepare('COMMIT')
const savepoint = database.prepare('SAVEPOINT operation')
const release = database.prepare('RELEASE operation')
const rollbackTo = database.prepare('ROLLBACK TO operation')
const checkpoint = database.prepare('PRAGMA wal_checkpoint(PASSIVE)')

// A page is written for the row, its indexes and their parents.
const walBytesPerStep = 4 * 4096
let walBytes = 0

// After a failed fsync the kernel forgets which pages were dirty, so a second try would report success for data that is nowhere.
let stopped: WorkerFailure | undefined

port.on('message', (first: WorkerMessage) => {
  const waiting: WorkerRequest[] = []
  let closing = false
  for (let next: WorkerMessage | undefined = first; next !== undefined; next = nextMessage(waiting.length)) {
    if (next === 'close') closing = true
    else waiting.push(...next)
  }
  while (waiting.length > 0) port.postMessage(runGroup(waiting.splice(0, settings.group)))
  if (closing) close()
})
port.postMessage('ready')

function nextMessage(gathered: number): WorkerMessage | undefined {
  if (gathered >= settings.group) return undefined
  return (receiveMessageOnPort(port) as { message: WorkerMessage } | undefined)?.message
}

function open({ path, waitMs, cacheKib, walBytes: walLimitBytes }: WorkerSettings): DatabaseSync {
  const opened = new DatabaseSync(path, { timeout: waitMs, enableForeignKeyConstraints: true, defensive: true })
  opened.exec(`
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA trusted_schema = OFF;
    PRAGMA temp_store = MEMORY;
    PRAGMA cache_size = -${cacheKib};
    PRAGMA journal_size_limit = ${walLimitBytes};
    PRAGMA wal_autocheckpoint = 0;
  `)
  return opened
}

/** Operations see each other in the order in which they came. Nothing is answered before what it saw is on disk. */
function runGroup(group: WorkerRequest[]): WorkerReport {
  const firstWrite = group.findIndex(({ kind }) => kind !== 'read')
  const before = firstWrite === -1 ? group : group.slice(0, firstWrite)
  const answers = before.map(answerRead)
  if (firstWrite === -1) return { answers, committed: 0 }
  const rest = group.slice(firstWrite)
  if (stopped) return { answers: [...answers, ...rest.map(answerStopped)], committed: 0 }
  return { answers: [...answers, ...runTransaction(rest)], committed: 1 }
}

function runTransaction(group: WorkerRequest[]): WorkerAnswer[] {
  try {
    begin.run()
    const answers = group.map(answerInTransaction)
    commit.run()
    checkpointWhenDue(group)
    return answers
  } catch (error) {
    const failure = failureOf(error)
    if (stopsWriting(error)) stopped = failure
    abandon()
    return group.map(({ id }) => ({ id, failure }))
  }
}

function abandon(): void {
  if (!database.isTransaction) return
  try {
    database.exec('ROLLBACK')
  } catch (error) {
    // A transaction that neither commits nor rolls back would take the next group with it.
    stopped ??= failureOf(error)
  }
}

function answerRead(request: WorkerRequest): WorkerAnswer {
  try {
    return { id: request.id, rows: rowsOf(request.steps[0]!) }
  } catch (error) {
    return { id: request.id, failure: failureOf(error) }
  }
}

function answerStopped(request: WorkerRequest): WorkerAnswer {
  return request.kind === 'read' ? answerRead(request) : { id: request.id, failure: stopped! }
}

/** Runs one operation under a savepoint. Throws only when the whole transaction is gone. */
function answerInTransaction(request: WorkerRequest): WorkerAnswer {
  const { id, kind, steps } = request
  if (kind === 'read') return answerRead(request)
  savepoint.run()
  try {
    const answer = kind === 'rows' ? { id, rows: rowsOf(steps[0]!) } : { id, ...applySteps(steps) }
    if ('applied' in answer && !answer.applied) rollbackTo.run()
    release.run()
    return answer
  } catch (error) {
    // SQLite gives up the whole transaction for some errors, a full disk among them.
    if (!database.isTransaction || stopsWriting(error)) throw error
    rollbackTo.run()
    release.run()
    return { id, failure: failureOf(error) }
  }
}

function applySteps(steps: WorkerStep[]): { applied: boolean; failedStep?: number; changed: number[] } {
  const changed: number[] = []
  for (const [index, step] of steps.entries()) {
    const changes = Number(prepared(step.sql).run(...step.parameters).changes)
    changed.push(changes)
    if (step.mustChange !== undefined && changes !== step.mustChange)
      return { applied: false, failedStep: index, changed }
  }
  return { applied: true, changed }
}

function rowsOf({ sql, parameters }: WorkerStep): unknown[] {
  return prepared(sql).all(...parameters)
}

function prepared(sql: string): StatementSync {
  let statement = statements.get(sql)
  // Kept in the order of use: the first one is the one unused for longest.
  if (statement) statements.delete(sql)
  else {
    statement = database.prepare(sql)
    if (statements.size >= settings.statements) statements.delete(statements.keys().next().value!)
  }
  statements.set(sql, statement)
  return statement
}

/** By hand, since the automatic one hides a failed fsync. */
function checkpointWhenDue(group: WorkerRequest[]): void {
  for (const { steps } of group) for (const step of steps) walBytes += walBytesPerStep + sizeOf(step)
  if (walBytes < settings.walBytes / 4) return
  walBytes = 0
  try {
    checkpoint.all()
  } catch (error) {
    // The group itself is safe in the log. A full or busy disk is tried again with the next due checkpoint.
    if (stopsWriting(error)) stopped = failureOf(error)
  }
}

function sizeOf({ parameters }: WorkerStep): number {
  let bytes = 0
  for (const value of parameters) {
    if (typeof value === 'string') bytes += value.length
    else if (value instanceof Uint8Array) bytes += value.byteLength
  }
  return bytes
}

function close(): void {
  try {
    database.close()
  } finally {
    port.close()
  }
}
