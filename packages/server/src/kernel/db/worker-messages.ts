import type { ErrorCode } from '../errors.ts'

/** What the SQLite worker is started with. */
export interface WorkerSettings {
  path: string
  waitMs: number
  cacheKib: number
  walBytes: number
  group: number
  statements: number
}

export interface WorkerStep {
  sql: string
  parameters: readonly SqlValue[]
  mustChange?: number
}

export type SqlValue = string | number | bigint | null | Uint8Array

/** One operation: it is applied whole or not at all. */
export interface WorkerRequest {
  id: number
  kind: 'read' | 'rows' | 'batch'
  steps: WorkerStep[]
}

/** All that was asked in one turn of the event loop, so that it shares a commit. */
export type WorkerMessage = WorkerRequest[] | 'close'

export interface WorkerFailure {
  /** Undefined: a fault of the program, such as SQL that does not compile. */
  code?: ErrorCode
  message: string
  context?: Record<string, unknown>
}

export type WorkerAnswer = { id: number } & (
  | { rows: unknown[] }
  | { applied: boolean; failedStep?: number; changed: number[] }
  | { failure: WorkerFailure }
)

/** One message per group; `committed` is 1 when the group needed a transaction. */
export interface WorkerReport {
  answers: WorkerAnswer[]
  committed: 0 | 1
}
