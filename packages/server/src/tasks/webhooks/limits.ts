const second = 1_000
const minute = 60 * second
const hour = 60 * minute
const day = 24 * hour

export const webhookLimits = {
  perAccount: 20,
  listed: { max: 200, default: 50 },
  urlChars: 2_000,
  /** From the wish to connect to the status of the answer. */
  timeoutMs: 10 * second,
  /** Of the answer’s head; its body is not read. */
  headBytes: 16 * 1_024,
  /** From each failed try to the next one: about three days in all. */
  pausesMs: [5 * second, 5 * minute, 30 * minute, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 18 * hour, 22 * hour],
  /** A receiver may ask for a longer pause, up to this. */
  longestPauseMs: day,
  /** So much longer than that, by chance, so that what failed together does not come back together. */
  jitter: 0.1,
  /** A webhook is disabled after so many failed tries in a row, if the first of them is so long ago. */
  failing: { tries: 20, forMs: day },
  /** Sent at once: by this server, and to one webhook. */
  atOnce: 64,
  perWebhook: 4,
  /** Of one webhook that wait; what happens beyond them is not told. */
  waiting: 10_000,
  /** A server that died leaves what it was sending after so long. */
  leaseMs: 30 * second,
  /** The longest sleep, for what other servers wrote. */
  lookMs: 10 * second,
  /** The shortest while something is due that another server has in hand. */
  leastMs: second,
  errorChars: 300,
  /** Deliveries that are over are forgotten after so long. */
  keptMs: 30 * day,
  tidyMs: hour,
  clashes: 20,
} as const
