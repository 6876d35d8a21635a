const kib = 1024
const mib = 1024 * kib

/** Every bound of the server that is not a feature's own, with its unit in the name. */
export const limits = {
  /** A JSON body: an exec may carry 4 MiB of command and stdin, and JSON escapes need room. */
  jsonBodyBytes: 4 * mib + 256 * kib,
  /** A slow client may take this long for a JSON body. */
  jsonBodyMs: 30_000,
  /** A streamed body may pause this long. */
  bodyIdleMs: 60_000,
  /** A client may take nothing of a streamed answer for this long. */
  responseIdleMs: 120_000,
  /** Header lines of a request, all together. */
  requestHeaderBytes: 32 * kib,
  /** Time for the header of a request to arrive whole. */
  requestHeaderMs: 20_000,
  /** An idle kept-alive connection is closed after this. */
  keepAliveMs: 65_000,
  /** Connections the HTTP server holds at once. */
  connections: 10_000,
  /** `Idempotency-Key` header. */
  idempotencyKeyChars: 255,
  /** Request ids taken over from a caller. */
  requestIdChars: 64,
  /** Entries of one page of a list. */
  pageItems: 500,

  /** Operations waiting for the database; one more is refused with `database_busy`. */
  databaseQueued: 4_096,
  /** Steps of one batch. */
  databaseBatchSteps: 1_000,
  /** Operations that share one commit. */
  databaseGroup: 512,
  /** Statements kept prepared per connection. */
  databaseStatements: 256,
  /** Rows that a program keeps in the memory of SQLite's worker; for moments twice as many. */
  databaseRemembered: 10_000,
  /** Waiting for another process's lock (SQLite), a connection or a statement (PostgreSQL). */
  databaseWaitMs: 2_000,
  /** The same for one migration at the start, which may rewrite a large table. */
  databaseMigrationMs: 600_000,
  /** Heap of the worker that holds the SQLite connection. */
  databaseWorkerHeapMb: 48,
  /** Page cache of SQLite. */
  databaseCacheKib: 4 * kib,
  /** The same for the connection by which SQLite is read beside the worker. */
  databaseReaderCacheKib: kib,
  /** The write-ahead log is cut back to this after a checkpoint. */
  databaseWalBytes: 16 * mib,
  /** Connections to PostgreSQL. */
  databaseConnections: 10,
  /** Tries of a PostgreSQL transaction that lost to another (deadlock, serialisation). */
  databaseTries: 5,

  /** A request whose key or session has ended may still answer for this long, where its answer has not begun. */
  endedGraceMs: 500,

  /** The check of the database in /health. */
  healthCheckMs: 1_000,
  /** From the answer that says so to the end of a process that is to be started anew. */
  restartMs: 100,
  /** From the wish to stop to the end of the process; the helper kills it at 15 s. */
  shutdownMs: 12_000,
  /** Of these, for the helper to say whether the sandboxes end too. */
  shutdownOrderMs: 100,
  /** And for requests that are under way. */
  shutdownRequestsMs: 5_000,

  logTextChars: 4_000,
  logItems: 50,
  logDepth: 6,
  /** Log lines that wait for a slow reader; beyond it they are dropped and counted. */
  logWaitingBytes: 1 * mib,
  /** Log lines wait this long for company. */
  logDelayMs: 20,

  /** Label combinations one metric keeps; more are counted together. */
  metricSeries: 1_000,

  /** Spans that wait to be sent; beyond it they are dropped and counted. */
  traceSpans: 2_048,
  /** Spans of one request. */
  traceBatchSpans: 512,
  /** Spans wait this long for company. */
  traceDelayMs: 5_000,
  /** A receiver may take this long for one request. */
  traceExportMs: 10_000,
  /** Requests for the same spans. */
  traceTries: 4,
  /** Longest pause between these, whatever the receiver asks for. */
  tracePauseMs: 30_000,
  /** Of the time to stop, for what still waits. */
  traceStopMs: 2_000,
  /** One name or value of a span. */
  traceTextChars: 256,
  /** Of an answer, what is looked at. */
  traceAnswerChars: 16 * kib,
} as const
