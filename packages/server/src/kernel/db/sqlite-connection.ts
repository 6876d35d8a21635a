import { DatabaseSync } from 'node:sqlite'
import { receiveMessageOnPort } from 'node:worker_threads'
import type { MessagePort } from 'node:worker_threads'
import { checkAnswers, checkRows, loadProgram } from './program.ts'
import type { ProgramModule, ProgramQuery, ProgramRow } from './program.ts'
import { createProgramMemory } from './program-memory.ts'
import { failureOf, stopsWriting } from './sqlite-failure.ts'
import { keepStatements } from './sqlite-statements.ts'
import type {
  LoadReport,
  ProgramRequest,
  StepsRequest,
  WorkerAnswer,
  WorkerFailure,
  WorkerMessage,
  WorkerReport,
  WorkerRequest,
  WorkerSettings,
  WorkerStep,
} from './worker-messages.ts'

// A page is written for the row, its indexes and their parents.
const walBytesPerStep = 4 * 4096
// Rows that a group writes with one statement lie side by side more often than not: a page, and so much for each column of each row.
const walBytesPerStatement = 4096
const walBytesPerValue = 64

interface LoadedProgram extends ProgramModule {
  memory: ReturnType<typeof createProgramMemory>
}

/**
 * Holds the only connection that writes. `node:sqlite` is synchronous: here it blocks nobody, and all operations that arrived while
 * the last commit waited for the disk go into the next one together.
 */
export function serveDatabase(port: MessagePort, settings: WorkerSettings): void {
  const database = open(settings)
  const prepared = keepStatements(database, settings.statements)
  const programs = new Map<string, LoadedProgram>()
  const begin = database.prepare('BEGIN IMMEDIATE')
  const commit = database.prepare('COMMIT')
  const savepoint = database.prepare('SAVEPOINT operation')
  const release = database.prepare('RELEASE operation')
  const rollbackTo = database.prepare('ROLLBACK TO operation')
  const checkpoint = database.prepare('PRAGMA wal_checkpoint(PASSIVE)')
  const dataVersion = database.prepare('PRAGMA data_version')

  let walBytes = 0

  // It changes when another connection has written, as a person may who mends something while the server runs.
  let seenVersion: unknown

  // After a failed fsync the kernel forgets which pages were dirty, so a second try would report success for data that is nowhere.
  let stopped: WorkerFailure | undefined

  port.on('message', (first: WorkerMessage) => {
    const waiting: WorkerRequest[] = []
    let closing = false
    for (let next: WorkerMessage | undefined = first; next !== undefined; next = nextMessage(waiting.length)) {
      if (next === 'close') closing = true
      else if ('load' in next) void load(next.load)
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

  async function load(href: string): Promise<void> {
    const report: LoadReport = { loaded: href }
    try {
      programs.set(href, { ...(await loadProgram(href)), memory: createProgramMemory(settings.remembered) })
    } catch (error) {
      report.failure = (error as Error).message
    }
    port.postMessage(report)
  }

  /** Operations see each other in the order in which they came. Nothing is answered before what it saw is on disk. */
  function runGroup(group: WorkerRequest[]): WorkerReport {
    const firstWrite = group.findIndex(({ kind }) => kind !== 'read')
    const before = firstWrite === -1 ? group : group.slice(0, firstWrite)
    const answers = before.map((request) => answerRead(request as StepsRequest))
    if (firstWrite === -1) return { answers, committed: 0 }
    const rest = group.slice(firstWrite)
    if (stopped) return { answers: [...answers, ...rest.map(answerStopped)], committed: 0 }
    return { answers: [...answers, ...runTransaction(rest)], committed: 1 }
  }

  function runTransaction(group: WorkerRequest[]): WorkerAnswer[] {
    try {
      begin.run()
      const answers = answerAll(group)
      commit.run()
      checkpointWhenDue(group)
      return answers
    } catch (error) {
      const failure = failureOf(error)
      if (stopsWriting(error)) stopped = failure
      abandon()
      forget(() => true)
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

  function answerRead(request: StepsRequest): WorkerAnswer {
    try {
      return { id: request.id, rows: rowsOf(request.steps[0]!) }
    } catch (error) {
      return { id: request.id, failure: failureOf(error) }
    }
  }

  function answerStopped(request: WorkerRequest): WorkerAnswer {
    return request.kind === 'read' ? answerRead(request) : { id: request.id, failure: stopped! }
  }

  /** In the order in which they came; operations of one program that came one after the other are one group of it. */
  function answerAll(group: WorkerRequest[]): WorkerAnswer[] {
    const answers: WorkerAnswer[] = []
    for (let at = 0; at < group.length;) {
      const first = group[at]!
      if (first.kind !== 'program') {
        answers.push(answerSteps(first))
        at += 1
        continue
      }
      const calls = [first]
      for (let next = group[++at]; next?.kind === 'program' && next.program === first.program; next = group[++at])
        calls.push(next)
      answers.push(...answerProgram(calls))
    }
    return answers
  }

  function answerSteps(request: StepsRequest): WorkerAnswer {
    const { id, kind, steps } = request
    if (kind === 'read') return answerRead(request)
    const outcome = underSavepoint(() => {
      if (kind === 'rows') forgetTablesOf(steps[0]!.sql)
      const answer = kind === 'rows' ? { id, rows: rowsOf(steps[0]!) } : { id, ...applySteps(steps) }
      if ('applied' in answer && !answer.applied) rollbackTo.run()
      return answer
    })
    return 'failure' in outcome ? { id, failure: outcome.failure } : outcome
  }

  function answerProgram(calls: ProgramRequest[]): WorkerAnswer[] {
    const outcome = underSavepoint(() => runProgram(calls))
    if (!('failure' in outcome)) return outcome
    forget(() => true)
    if (calls.length === 1) return [{ id: calls[0]!.id, failure: outcome.failure }]
    return calls.flatMap((call) => answerProgram([call]))
  }

  function runProgram(calls: ProgramRequest[]): WorkerAnswer[] {
    const loaded = programs.get(calls[0]!.program)!
    forgetWhatOthersWrote()
    const running = loaded.program(
      calls.map(({ operation }) => operation),
      loaded.memory,
    )
    let step = running.next()
    while (!step.done) step = running.next(step.value.map((query) => runQuery(query, loaded)))
    checkAnswers(step.value, calls)
    return calls.map(({ id }, index) => ({ id, answer: (step.value as unknown[])[index] }))
  }

  function runQuery({ sqlite, rows }: ProgramQuery, by: LoadedProgram): ProgramRow[] {
    if (rows.length === 0) return []
    checkRows(sqlite, rows)
    const statement = prepared(sqlite)
    if (/^\s*select\b/i.test(sqlite)) {
      const found: ProgramRow[] = []
      for (const row of rows) found.push(...(statement.all(...row) as ProgramRow[]))
      return found
    }
    forgetTablesOf(sqlite, by)
    for (const row of rows) statement.run(...row)
    walBytes += walBytesPerStatement + rows.length * rows[0]!.length * walBytesPerValue
    return []
  }

  function forget(which: (loaded: LoadedProgram) => boolean): void {
    for (const loaded of programs.values()) if (which(loaded)) loaded.memory.forget()
  }

  function forgetWhatOthersWrote(): void {
    const { data_version: version } = dataVersion.get()!
    if (version !== seenVersion) forget(() => true)
    seenVersion = version
  }

  /** Before a statement that writes: whoever remembers rows of a table that it names, other than the program that does it. */
  function forgetTablesOf(sql: string, by?: LoadedProgram): void {
    forget((loaded) => loaded !== by && (loaded.remembers?.some((table) => sql.includes(table)) ?? false))
  }

  /** Throws only when the whole transaction is gone. */
  function underSavepoint<Result extends object>(work: () => Result): Result | { failure: WorkerFailure } {
    savepoint.run()
    try {
      const result = work()
      release.run()
      return result
    } catch (error) {
      // SQLite gives up the whole transaction for some errors, a full disk among them.
      if (!database.isTransaction || stopsWriting(error)) throw error
      rollbackTo.run()
      release.run()
      return { failure: failureOf(error) }
    }
  }

  function applySteps(steps: WorkerStep[]): { applied: boolean; failedStep?: number; changed: number[] } {
    const changed: number[] = []
    for (const [index, step] of steps.entries()) {
      forgetTablesOf(step.sql)
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

  /** By hand, since the automatic one hides a failed fsync. */
  function checkpointWhenDue(group: WorkerRequest[]): void {
    for (const request of group) {
      if (request.kind === 'program') continue
      for (const step of request.steps) walBytes += walBytesPerStep + sizeOf(step)
    }
    if (walBytes < settings.walBytes / 4) return
    walBytes = 0
    try {
      checkpoint.all()
    } catch (error) {
      // The group itself is safe in the log. A full or busy disk is tried again with the next due checkpoint.
      if (stopsWriting(error)) stopped = failureOf(error)
    }
  }

  function close(): void {
    try {
      database.close()
    } finally {
      port.close()
    }
  }
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

function sizeOf({ parameters }: WorkerStep): number {
  let bytes = 0
  for (const value of parameters) {
    if (typeof value === 'string') bytes += value.length
    else if (value instanceof Uint8Array) bytes += value.byteLength
  }
  return bytes
}
