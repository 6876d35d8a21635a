const second = 1_000
const minute = 60 * second
const day = 24 * 60 * minute

export const requestLimits = {
  /** After so long without a word of the main agent the request goes to a person. */
  mainMs: 5 * minute,
  /** Until when somebody must have decided on one that the server makes by itself. */
  automaticTtlMs: day,
  /** Requests of one agent within the window, also those that are over. */
  asked: { windowMs: day, perAgent: 100 },
  listed: { max: 200, default: 50 },
  /** Event streams at once: of an account, of one person, and of all programs that one person answers for. */
  streams: { perAccount: 256, perGroup: 16 },
  /** Changes that an event stream reads at once. */
  changes: 100,
  /** A stream looks by itself that often, for what other servers of the same database did. */
  pollMs: 2 * second,
  /** How often is looked for what is due and what a server left behind that died. */
  sweepMs: 5 * second,
  /** Rows of one look. */
  swept: 100,
  /** What was left in the middle of a transfer for so long is done again, which has the effect of once. */
  grantingMs: 10 * second,
  /** How often is looked whether agents that are out of tokens have some again, beside the news of it. */
  mendMs: minute,
  /** What is over is forgotten after so long; the audit log goes on to have it. */
  keptMs: 90 * day,
  tidyMs: 60 * minute,
  /** Tries of a change that met another one of the account. */
  clashes: 20,
} as const
