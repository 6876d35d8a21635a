import type { ErrorCode } from '../errors.ts'

/** What the SQLite worker is started with. */
export interface WorkerSettings {
  path: string
  waitMs: number
  cacheKib: number
  walBytes: number
  group: number
  statements: number
  remembered: number
}

export interface WorkerStep {
  sql: string
  parameters: readonly SqlValue[]
  mustChange?: number
}

export type SqlValue = string | number | bigint | null | Uint8Array

/** Statements that are applied whole or not at all. */
export interface StepsRequest {
  id: number
  kind: 'read' | 'rows' | 'batch'
  steps: WorkerStep[]
}

/** An operation for the program in the module at `program`. */
export interface ProgramRequest {
  id: number
  kind: 'program'
  program: string
  operation: unknown
}

export type WorkerRequest = StepsRequest | ProgramRequest

/** Asked for before the first operation of the program in that module. */
export interface LoadMessage {
  load: string
}

/** All that was asked in one turn of the event loop, so that it shares a commit. */
export type WorkerMessage = WorkerRequest[] | LoadMessage | 'close'

export interface WorkerFailure {
  /** Undefined: a fault of the program, such as SQL that does not compile. */
  code?: ErrorCode
  message: string
  context?: Record<string, unknown>
}

export type WorkerAnswer = { id: number } & (
  | { rows: unknown[] }
  | { applied: boolean; failedStep?: number; changed: number[] }
  | { answer: unknown }
  | { failure: WorkerFailure }
)

/** One message per group; `committed` is 1 when the group needed a transaction. */
export interface WorkerReport {
  answers: WorkerAnswer[]
  committed: 0 | 1
}

/** The answer to a `LoadMessage`. */
export interface LoadReport {
  loaded: string
  /** Why it can not be. */
  failure?: string
}
