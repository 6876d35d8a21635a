const second = 1_000
const hour = 3_600 * second
const day = 24 * hour

/** Bounds of what is read from the ledger. */
export const readingLimits = {
  listed: { max: 500, default: 50 },
  /** A cursor of grouped usage says the whole group: three ids and a meter. */
  usageCursorChars: 1_000,
  /** Entries of the journal that are looked through for one page of a part of it. */
  searched: 5_000,
  /** Purses of one answer. */
  purses: 10_000,
  /** Between `from` and `to`. */
  usageMs: 400 * day,
  /** Rows of one CSV. */
  csvRows: 1_000_000,
  /** Of these, read at once: each time all of the span is summed up again. */
  csvPageRows: 10_000,
  forecastAgents: 100,
  /** A forecast goes by at least so much time. */
  forecastMs: hour,
  /** Event streams at once: of an account, and of one person, key or agent. */
  streams: { perAccount: 256, perActor: 16 },
  /** Entries of the journal that an event stream reads at once. */
  entries: 200,
  /** A stream looks by itself that often, for what other servers of the same database did. */
  pollMs: 2 * second,
} as const
