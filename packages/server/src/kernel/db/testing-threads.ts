import { EventEmitter } from 'node:events'
import { MessageChannel, Worker } from 'node:worker_threads'
import type { Database } from './database.ts'
import { openDatabase } from './open.ts'
import type { OpenDatabaseOptions } from './open.ts'
import { databaseWorkerOptions } from './sqlite.ts'
import type { DatabaseWorker } from './sqlite.ts'
import type { NotOpened, ServeMessage } from './testing-worker.ts'
import type { WorkerMessage, WorkerReport, WorkerSettings } from './worker-messages.ts'

interface Thread {
  worker: Worker
  serves: Map<string, DatabaseWorker>
}

const threads = new Set<Thread>()
const mostPerThread = 16

/**
 * As `openDatabase`, for tests that open many: a thread takes a tenth of a second of processor time to start, so each serves several databases, at a time and one after the other.
 * Servers on one database have a thread each, as they have in their processes.
 */
export function openInSharedThread<Schema = unknown>(options: OpenDatabaseOptions): Promise<Database<Schema>> {
  return openDatabase<Schema>({ ...options, startWorker: useThread })
}

function useThread(settings: WorkerSettings): DatabaseWorker {
  const { path } = settings
  const thread = [...threads].find(({ serves }) => !serves.has(path) && serves.size < mostPerThread) ?? startThread()
  const { port1, port2 } = new MessageChannel()
  const database = Object.assign(new EventEmitter(), {
    postMessage: (message: WorkerMessage) => port1.postMessage(message),
  })
  thread.serves.set(path, database)
  port1.on('message', (message: WorkerReport | NotOpened | 'ready') => {
    if (typeof message === 'object' && 'notOpened' in message) database.emit('error', new Error(message.notOpened))
    else database.emit('message', message)
  })
  port1.once('close', () => {
    thread.serves.delete(path)
    database.emit('exit', 0)
  })
  const message: ServeMessage = { port: port2, settings }
  thread.worker.postMessage(message, [port2])
  return database
}

function startThread(): Thread {
  const worker = new Worker(new URL('./testing-worker.ts', import.meta.url), databaseWorkerOptions)
  const thread: Thread = { worker, serves: new Map() }
  threads.add(thread)
  worker.once('error', (error) => {
    threads.delete(thread)
    for (const database of thread.serves.values()) database.emit('error', error)
  })
  // An open database keeps the process, by its port.
  worker.unref()
  return thread
}
