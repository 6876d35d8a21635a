/** Every bound of model calls. */
export const modelLimits = {
  /** Output that is asked for where the caller does not say how much. */
  outputTokens: 32_000,
  /** The same of a model of which nobody knows what it allows. */
  unknownOutputTokens: 8_000,
  /** With less output than this a call is not worth its input: it is refused instead. */
  leastOutputTokens: 256,
  /** Until the first byte of an answer: a model may think long before it says anything. */
  firstByteMs: 300_000,
  /** Until the tokens of a request are counted. */
  countMs: 30_000,
  /** Between two pieces of an answer; providers send pings. */
  idleMs: 120_000,
  /** Of an answer, whatever it holds. */
  answerBytes: 64 * 1024 * 1024,
  /** How often it is written down what a call has cost so far, for a process that dies. */
  observedMs: 5_000,
  /** More output than any model gives in between, so that what is written down is a bound of what it will have cost. */
  observedAheadTokens: 10_000,
  /** Requests to one model for one call, the first included. */
  tries: 4,
  /** Of these, after output had come: whoever watches sees it begin anew. */
  triesAfterOutput: 1,
  /** The first wait is between 0 and this; each later one up to twice as long as the one before. */
  backoffMs: 500,
  /** A provider that asks for a longer pause is not waited for. */
  retryAfterMs: 60_000,
  /** All pauses of one call together. */
  waitedMs: 120_000,
  /** Failures one after the other that open a breaker. */
  breakerFailures: 5,
  /** How long it stays open before one request tries again. */
  breakerOpenMs: 15_000,
  /** Models and keys that breakers are kept for. */
  breakers: 1_000,
  /** What could not be written at once is tried so often before the answer is given, and from then on in the background. */
  commitTries: 3,
  commitRetryMs: 250,
  /** Commits that wait for the database. Beyond it they are left to the next start, which settles them at what was observed or whole. */
  commitsWaiting: 10_000,
  /** Characters of a model's name. */
  nameChars: 120,
  /** Of a provider's key. */
  keyChars: { min: 8, max: 512 },
  /** What an OpenAI-compatible server says it has: how long it may take, how much it may send, how many of it are shown, how long it is kept. */
  servedMs: 2_000,
  servedBytes: 1024 * 1024,
  served: 200,
  servedKeptMs: 30_000,
} as const
