import { parentPort } from 'node:worker_threads'
import type { MessagePort } from 'node:worker_threads'
import { serveDatabase } from './sqlite-connection.ts'
import type { WorkerSettings } from './worker-messages.ts'

export interface ServeMessage {
  port: MessagePort
  settings: WorkerSettings
}

/** Sent instead of 'ready'. */
export interface NotOpened {
  notOpened: string
}

parentPort!.on('message', ({ port, settings }: ServeMessage) => {
  try {
    serveDatabase(port, settings)
  } catch (error) {
    const message: NotOpened = { notOpened: (error as Error).message }
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- A worker's port has no origin; the rule is for windows.
    port.postMessage(message)
    port.close()
  }
})
