import { parentPort, workerData } from 'node:worker_threads'
import { giveBackWhenCalm } from '../calm-memory.ts'
import { serveDatabase } from './sqlite-connection.ts'
import type { WorkerSettings } from './worker-messages.ts'

serveDatabase(parentPort!, workerData as WorkerSettings)
giveBackWhenCalm()
