const second = 1_000
const minute = 60 * second
const hour = 60 * minute

export const taskLimits = {
  textChars: 200_000,
  images: 8,
  /** By the providers; pixels of either side by `imagePixels`. */
  imageBytes: 5_000_000,
  imagePixels: 8_000,
  /** Of a conversation, those that the model sees again at each step: the newest. */
  imagesSeen: 8,
  files: 50,
  /** Of one file that comes with a task; larger ones are uploaded to the agent's computer. */
  fileBytes: 1_000_000,
  /** Of one that is being removed it is waited for the end; a server that died over it is waited for no longer than `removalMs`. */
  attachments: { removalPollMs: 100, removalPolls: 100, removalMs: 10 * minute },
  fallbackModels: 5,
  mcpServers: 8,
  timeLimitMs: { max: 30 * 24 * hour, default: 24 * hour },
  steps: { max: 2_000, default: 200 },
  listed: { max: 200, default: 50 },
  /** Worked on at once by this server; the others are queued. */
  working: 1_024,
  /** Of these, one account's. */
  workingPerAccount: 512,
  /** Tasks of an account that have not ended. */
  openPerAccount: 20_000,
  /** Calls of one reply; more are refused, each with a result that says so. */
  callsPerReply: 32,
  /** Of what a model calls at once no more is kept: what comes after that is as if it had never been said. */
  callsKept: 64,
  /** Of one call's arguments. */
  inputChars: 1_000_000,
  /** Pieces of a reply that is being written are stored no more often than this. */
  chunkMs: 250,
  /** Of one such piece; a model that writes faster is stored more often. */
  chunkChars: 16_384,
  /** Output of tools that is kept for viewers, of one call. */
  outputChars: 65_536,
  /** The same call with the same result so often in a row: it goes round in circles. */
  sameCalls: 5,
  /** Failed calls in a row. */
  failures: 12,
  /** Tries at a result that fits its schema. */
  resultTries: 3,
  /** A conversation of more UTF-8 bytes is compacted before its next call. */
  compactBytes: 600_000,
  /** Of `AGENTS.md`. */
  agentsFileBytes: 32_768,
  /** Event streams at once: of an account, and of one person or program. */
  streams: { perAccount: 2_048, perGroup: 512 },
  /** Events that a stream reads at once. */
  events: 256,
  /** Of these, what is written to a viewer at once; one that is larger goes alone. */
  pieceChars: 32_768,
  pollMs: 2 * second,
  /** Said to a task that it has not read. */
  inbox: 1_000,
  /** Steps in a row whose reply nobody received, since the server died each time: no more are tried. */
  lostSteps: 5,
  /** How often is looked for what came unheard, since a server died at that moment. */
  mendMs: 10 * minute,
  /** Rows of one look for what is due. */
  swept: 200,
  /** How often a server says that it lives, and looks for tasks of those that don't. */
  sweepMs: 5 * second,
  /** The same where it has the database for itself, and hears of nearly everything at once. */
  sweepAloneMs: 10 * second,
  ownerDeadMs: 20 * second,
  /** A task that is canceled has so long before its request is answered all the same. */
  haltMs: 8 * second,
  /** A tool that was told to stop has so long; an exec's own way from SIGINT to SIGKILL is shorter. */
  lateMs: 20 * second,
  /** Tasks of a stopping server have so long to let go. */
  stopMs: 2 * second,
  /** Tries of a change that met another one. */
  clashes: 20,
} as const
