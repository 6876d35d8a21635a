/** What a sandbox that runs an engine may ask of the server: whatever is in there is an enemy's. */
export const engineLimits = {
  /** Of a line from the runner. */
  lineBytes: 1024 * 1024,
  /** Of a request to a model. */
  bodyBytes: 16 * 1024 * 1024,
  /** Of all that are being sent or answered. */
  openBytes: 32 * 1024 * 1024,
  /** Requests at once; the engine's own agents ask side by side. More are to come again later. */
  requests: 32,
  /** Of a piece of an answer on its way into the sandbox. */
  pieceBytes: 256 * 1024,
  messages: 20_000,
  blocks: 50_000,
  tools: 512,
  betas: 32,
  /** Of one block that is kept for the transcript. */
  keptChars: 200_000,
  /** Of one result of a tool. */
  resultChars: 50_000,
  /** What it said last on stderr, for whoever wants to know why it ended. */
  stderrChars: 4_000,
  /** The runner ends when it has heard nothing of the server for four of these. */
  pingMs: 15_000,
  /** From an interruption to SIGKILL. */
  killMs: 5_000,
  /** Of a turn that is over, for the program to end by itself. */
  closeMs: 5_000,
  /** Of all that is said and done in one turn, for the transcript. */
  saidChars: 32 * 1024 * 1024,
  /** Requests that were refused, in one turn: whoever asks on and on is not listening. */
  refusals: 200,
  /** Requests to count tokens, in one turn: they cost nothing, and use the provider's patience with everybody. */
  counts: 1_000,
} as const
