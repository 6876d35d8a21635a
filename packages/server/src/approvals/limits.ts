const second = 1_000
const minute = 60 * second
const day = 24 * 60 * minute

export const approvalLimits = {
  /** Until when somebody must have decided. */
  ttlMs: { min: minute, max: 7 * day, default: day },
  reasonChars: 500,
  /** Of an action as canonical JSON. */
  actionChars: 65_536,
  /** Requests that wait to be decided on. */
  pending: { perAccount: 1_000, perRoot: 200, perRequester: 20 },
  /** Requests within the window, also those that are over: each is a row that is kept and something that a person may be shown. */
  asked: { windowMs: day, perAccount: 10_000, perRoot: 1_000, perRequester: 100 },
  listed: { max: 200, default: 50 },
  /** Event streams at once: of an account, of one person, and of all programs that one person answers for. */
  streams: { perAccount: 256, perGroup: 16 },
  /** Changes that an event stream reads at once. */
  changes: 100,
  /** A stream looks by itself that often, for what other servers of the same database did. */
  pollMs: 2 * second,
  /** How often is looked for what expired and what a server left behind that died. */
  sweepMs: 5 * second,
  /** Rows of one look. */
  swept: 100,
  /** What was approved should be done by then. */
  executeMs: 30 * second,
  /** From then on it counts as left behind. */
  leaseMs: minute,
  /** How often what can be repeated is begun. */
  tries: 5,
  /** What is over is forgotten after so long; the audit log goes on to have it. */
  keptMs: 90 * day,
  tidyMs: 60 * minute,
  /** Tries of a change that met another one of the account. */
  clashes: 20,
} as const
