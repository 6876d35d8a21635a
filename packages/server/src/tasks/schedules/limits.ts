const second = 1_000
const minute = 60 * second
const hour = 60 * minute
const day = 24 * hour

export const scheduleLimits = {
  perAccount: 1_000,
  listed: { max: 200, default: 50 },
  /** UTF-8 bytes of what is to be done, as JSON. */
  taskBytes: 256 * 1_024,
  cronChars: 200,
  /** Of the task's text in lists. */
  titleChars: 200,
  /** A run that begins later than this after its time was missed. */
  lateMs: 5 * minute,
  /** Missed runs that are made up for, the last ones of them. */
  madeUp: 100,
  /** Runs of a schedule that wait for the one before them. */
  queued: 100,
  /** The longest sleep: for other servers' schedules, clocks that jump and machines that slept. */
  lookMs: minute,
  /** The shortest sleep while something is left to do that could not be done. */
  leastMs: second,
  /** Schedules of one look, and runs of one schedule that begin in one go. */
  looked: 100,
  /** Schedules whose runs are begun at once. */
  atOnce: 8,
  /** One server at a time begins the runs of a schedule; one that died leaves them after so long. */
  leaseMs: minute,
  /** Of a run whose task could not be made though nothing speaks against it. */
  tries: 12,
  pauseMs: { first: 5 * second, longest: 10 * minute },
  /** Runs are forgotten after so long. */
  keptMs: 90 * day,
  tidyMs: hour,
  /** Tries of a change that met another one. */
  clashes: 20,
} as const
