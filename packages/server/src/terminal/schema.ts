import { z } from '@hono/zod-openapi'
import { execBodySchema, execLimits, execSummarySchema } from '../sandboxes/execs/schema.ts'

const kib = 1024
const mib = 1024 * kib

export const terminalLimits = {
  size: execLimits.ptySize,
  defaultSize: { cols: 80, rows: 24 },
  /** Terminals that run in one sandbox; the kernel has 128 for it. */
  perSandbox: 64,
  viewersPerTerminal: 32,
  /** Viewers of all terminals together. */
  viewers: 1_000,
  /** Output the hub of a watched terminal keeps, for viewers that are not all equally fast. */
  windowBytes: 1 * mib,
  /** The program is held back when even the fastest viewer is this far behind. */
  paceBytes: 256 * kib,
  /** Output waiting for one viewer's socket; more is not given to it before it has taken some. */
  viewerQueueBytes: 256 * kib,
  /** What answers to its own frames may add for a viewer that does not read; then it is closed. */
  viewerQueueMostBytes: 1 * mib,
  /** A viewer that was too slow goes on this far before the end. */
  afterGapBytes: 64 * kib,
  outputFrameBytes: 64 * kib,
  /** What a viewer may ask to be sent before it confirms. */
  ahead: { min: 64 * kib, max: 16 * mib },
  /** What the guest keeps of one terminal. */
  scrollbackBytes: { default: 256 * kib, max: 4 * mib },
  inputFrameBytes: 256 * kib,
  controlFrameBytes: 4 * kib,
  /** What one viewer may have typed that the sandbox has not taken; then its socket is not read. */
  inputQueueBytes: 256 * kib,
  /** What a frame that waits costs beside its bytes, about: a viewer that sends single ones would queue a quarter of a million. */
  inputFrameCostBytes: 512,
  pingEveryMs: 15_000,
  /** A viewer that neither takes what it is sent nor sends anything for this long is closed. */
  stalledMs: 60_000,
  /** And one that takes, but sends not even a pong, after this. */
  silentMs: 300_000,
  /** A viewer that was sent all it wants ahead and confirms none of it holds the program back for so long, and then no more. */
  unconfirmedMs: 60_000,
  /** For the closing handshake. */
  closeMs: 1_000,
  /** Between HUP and KILL. */
  killAfterMs: 2_000,
  /** Sizes are passed on to the program no more often than this; the last one always is. */
  resizeEveryMs: 25,
  /** And to the other viewers: one that drags its window must not fill their sockets. */
  resizedEveryMs: 100,
} as const

const side = z
  .int(`a whole number from ${terminalLimits.size.min} to ${terminalLimits.size.max}`)
  .min(terminalLimits.size.min)
  .max(terminalLimits.size.max)

const execFields = execBodySchema.shape

export const createTerminalSchema = z
  .strictObject({
    cols: side.default(terminalLimits.defaultSize.cols),
    rows: side.default(terminalLimits.defaultSize.rows),
    cmd: execFields.cmd.optional().openapi({
      description:
        'A text is run by `/bin/bash -l -c` (`/bin/sh` where there is no bash), an array as it is; without it a login shell',
    }),
    user: execFields.user,
    cwd: execFields.cwd,
    env: execFields.env,
    tag: execFields.tag,
    timeoutMs: z.int().min(0).max(execLimits.timeoutMs.max).default(0).openapi({
      description: 'At its end everything in the terminal gets SIGTERM, 2 s later SIGKILL. 0 is none',
    }),
  })
  .openapi('CreateTerminal')
export type CreateTerminal = z.output<typeof createTerminalSchema>

export const terminalSizeSchema = z.strictObject({ cols: side, rows: side }).openapi('TerminalSize')
export type TerminalSize = z.output<typeof terminalSizeSchema>

export const terminalSchema = execSummarySchema
  .extend({
    cols: z.int().nullable().openapi({ description: 'Null where the server was restarted since it was last set' }),
    rows: z.int().nullable(),
    viewers: z.int().openapi({ description: 'Connections that watch it now' }),
  })
  .openapi('Terminal')
export type Terminal = z.output<typeof terminalSchema>

export const terminalListSchema = z
  .object({ data: z.array(terminalSchema), nextCursor: z.null() })
  .openapi('TerminalList')

const wholeNumber = (most: number) =>
  z
    .string()
    .regex(/^[0-9]{1,15}$/, 'a whole number')
    .transform(Number)
    .refine((value) => value <= most, `at most ${most}`)
    .optional()

const sideText = wholeNumber(terminalLimits.size.max).refine((value) => value !== 0, 'at least 1')

export const connectQuerySchema = z.object({
  from: wholeNumber(Number.MAX_SAFE_INTEGER).openapi({
    type: 'integer',
    minimum: 0,
    description: 'Go on exactly here: the offset after the last byte received',
  }),
  scrollback: wholeNumber(terminalLimits.scrollbackBytes.max).openapi({
    type: 'integer',
    minimum: 0,
    maximum: terminalLimits.scrollbackBytes.max,
    description: `Without \`from\`: how much of the output so far comes first; otherwise ${terminalLimits.scrollbackBytes.default} bytes`,
  }),
  readOnly: z.enum(['0', '1', 'true', 'false']).default('0').openapi({ description: 'Watch, and type nothing' }),
  cols: sideText.openapi({ type: 'integer', description: 'With `rows`: the size to give the terminal at once' }),
  rows: sideText.openapi({ type: 'integer' }),
  ahead: wholeNumber(terminalLimits.ahead.max)
    .refine((value) => value === undefined || value >= terminalLimits.ahead.min, `at least ${terminalLimits.ahead.min}`)
    .openapi({
      type: 'integer',
      minimum: terminalLimits.ahead.min,
      maximum: terminalLimits.ahead.max,
      description:
        'Send at most so many bytes that the viewer has not confirmed with `taken`; without it, as much as the connection takes',
    }),
})
export type ConnectQuery = z.output<typeof connectQuerySchema>

/** What a viewer may say in a text frame. */
export const controlSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('resize'), cols: side, rows: side }),
  z.strictObject({ type: z.literal('taken'), offset: z.int().min(0) }),
  z.strictObject({ type: z.literal('ping') }),
])
export type Control = z.output<typeof controlSchema>

/** What a viewer is told in text frames. */
export type Notice =
  | {
      type: 'ready'
      terminalId: string
      pid: number
      /** Of the first byte that follows. */
      offset: number
      /** The output so far ends here: up to here it is a replay. */
      end: number
      cols: number | null
      rows: number | null
      readOnly: boolean
    }
  /** Output that this viewer does not get; the next byte is at `offset`. */
  | { type: 'gap'; bytes: number; offset: number }
  /** By another viewer, or by a request. */
  | { type: 'resized'; cols: number; rows: number }
  | { type: 'pong' }
  | {
      type: 'exit'
      state: string
      exitCode: number | null
      signal: string | null
      timedOut: boolean
      oomKilled: boolean
      /** Where the output ends. */
      offset: number
    }
  | { type: 'error'; status: number; error: object }
