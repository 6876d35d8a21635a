import type { CompiledQuery, Kysely } from 'kysely'

export type DatabaseKind = 'sqlite' | 'postgres'

export interface BatchStep {
  query: CompiledQuery
  /** When the step changes another number of rows, the whole batch is rolled back and answered with `applied: false`. */
  mustChange?: number
}

export interface BatchResult {
  applied: boolean
  /** The step whose `mustChange` did not hold. */
  failedStep?: number
  /** Rows changed by each step, up to the failed one. */
  changed: number[]
}

/**
 * Stores build queries with `sql` and hand them over compiled: `database.all(sql.selectFrom('sandboxes').selectAll().compile())`.
 * What is written must be understood by SQLite and PostgreSQL alike: texts, finite numbers (whole ones within ±2⁵³), bytes and null; no
 * booleans, no dates. When a promise of `run` or `batch` resolves, the change is on disk.
 *
 * Throws `DeltaError`: database_constraint (context.kind: unique, foreign_key, check, not_null), database_busy, database_unavailable,
 * disk_full, database_failed.
 */
export interface Database<Schema = unknown> {
  readonly kind: DatabaseKind
  /** For building queries only; executing through it throws. */
  readonly sql: Kysely<Schema>
  all<Row>(query: CompiledQuery<Row>): Promise<Row[]>
  first<Row>(query: CompiledQuery<Row>): Promise<Row | undefined>
  /**
   * For what every request waits for: a few rows, by an index. It sees all that was committed, whoever has heard of it, and not what is still on its way: `all` comes after whatever was asked
   * for before it here, this does not. SQLite answers at once and on this thread, so that nothing else is served meanwhile: never for what may be many rows, or long.
   */
  lookUp<Row>(query: CompiledQuery<Row>): Promise<Row[]>
  run(query: CompiledQuery<unknown>): Promise<{ changed: number }>
  /** All steps or none. Concurrent batches share a commit but not their fate. */
  batch(steps: BatchStep[]): Promise<BatchResult>
  /**
   * The way to a program (see `Program`) in the module at this address, which is loaded when it is first called. Operations that are called at once are decided as one group and share
   * a commit; each is answered when it is on disk.
   */
  program<Operation, Answer>(url: URL): (operation: Operation) => Promise<Answer>
  /** The same database seen with a feature's tables. */
  of<Tables>(): Database<Tables>
  /** Resolves when a trivial query was answered; rejects otherwise. */
  check(signal?: AbortSignal): Promise<void>
  /** Processes beside this one that have the same database open now; SQLite's is one process's alone. */
  otherServers(): Promise<number>
  /** Counted since opening, for /metrics. */
  readonly counts: DatabaseCounts
  /** What was accepted is finished first. */
  close(): Promise<void>
}

export interface DatabaseCounts {
  operations: number
  commits: number
  waiting: number
}

export interface Migration {
  /** Unique and final: it is recorded when applied, and never applied again. Begins with the feature's name. */
  name: string
  /** Statements, applied in one transaction. `kind` only for what the two databases spell differently. */
  up(kind: DatabaseKind): string[]
}
