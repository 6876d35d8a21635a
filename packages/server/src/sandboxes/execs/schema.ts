import { z } from '@hono/zod-openapi'

export const execLimits = {
  timeoutMs: { max: 3_600_000, default: 60_000 },
  argv: 16_384,
  userChars: 64,
  cwdBytes: 4_096,
  tagChars: 256,
  ptySize: { min: 1, max: 1_000 },
  /** `source` of `/code`. */
  sourceBytes: 1024 * 1024,
} as const

export const execStates = ['running', 'exited', 'signalled', 'unknown'] as const
export const execEncodings = ['utf8', 'base64'] as const
export const codeLanguages = ['python', 'javascript', 'bash'] as const
export type CodeLanguage = (typeof codeLanguages)[number]

/** A login shell, as `ssh` and a console give it. */
export const loginShell: string[] = ['/bin/bash', '-l']

const withoutNul = (text: string) => !text.includes('\0')
const nulMessage = { message: 'must not contain NUL characters' }

const ptySide = z.int().min(execLimits.ptySize.min).max(execLimits.ptySize.max)
const ptySchema = z.strictObject({ cols: ptySide, rows: ptySide })

const execOptions = {
  stdin: z.string().optional().openapi({
    description: 'Text given to the process as its standard input, followed by its end unless `stdinOpen`',
  }),
  stdinOpen: z
    .boolean()
    .default(false)
    .openapi({ description: 'Keep stdin open for POST …/stdin; otherwise it is empty or what `stdin` holds' }),
  user: z
    .string()
    .regex(
      /^[A-Za-z0-9._][A-Za-z0-9._-]*(:[A-Za-z0-9._][A-Za-z0-9._-]*)?$/,
      'a user is a name or number, with an optional :group',
    )
    .max(execLimits.userChars)
    .optional()
    .openapi({ description: '`user`, or whom the sandbox’s template names', example: 'root' }),
  cwd: z.string().min(1).max(execLimits.cwdBytes).refine(withoutNul, nulMessage).optional().openapi({
    description: '/workspace, or the folder that the sandbox’s template names; a relative path starts there',
  }),
  env: z
    .record(z.string(), z.string())
    .optional()
    .openapi({ description: 'Variables on top of the sandbox’s own', example: { CI: '1' } }),
  timeoutMs: z
    .int()
    .min(0)
    .max(execLimits.timeoutMs.max)
    .optional()
    .openapi({
      description: `At its end the process and its session get SIGTERM, 2 s later SIGKILL. 0 (none) is for background execs, whose default it is; otherwise ${execLimits.timeoutMs.default}`,
    }),
  background: z
    .boolean()
    .default(false)
    .openapi({ description: 'Answer 202 as soon as the process has started; it outlives the request' }),
  tag: z
    .string()
    .min(1)
    .max(execLimits.tagChars)
    .refine(withoutNul, nulMessage)
    .optional()
    .openapi({ description: 'Your own name for it' }),
  pty: ptySchema
    .optional()
    .openapi({ description: 'Run on a terminal of this size; everything it writes is then stdout' }),
  encoding: z.enum(execEncodings).default('utf8').openapi({
    description:
      'How output is written in the answer: text with U+FFFD for what is not UTF-8, or base64 of the exact bytes',
  }),
  stream: z
    .boolean()
    .default(false)
    .openapi({ description: 'Answer with server-sent events, as `Accept: text/event-stream` does' }),
}

export const execBodySchema = z
  .strictObject({
    cmd: z.union([z.string(), z.array(z.string()).min(1).max(execLimits.argv)]).openapi({
      description:
        'A text is run by `/bin/bash -l -c` (`/bin/sh` where there is no bash); an array is executed as it is',
      example: 'echo hi',
    }),
    ...execOptions,
  })
  .openapi('CreateExec')
export type ExecBody = z.output<typeof execBodySchema>

export const codeBodySchema = z
  .strictObject({ language: z.enum(codeLanguages), source: z.string().min(1), ...execOptions })
  .openapi('RunCode')
export type CodeBody = z.output<typeof codeBodySchema>

const summaryFields = {
  id: z.string().openapi({ example: 'exe_p2m8c1d0z4q7v9k3x5b6' }),
  pid: z.int().openapi({ description: 'Inside the sandbox' }),
  state: z.enum(execStates).openapi({ description: '`unknown`: it is over, and how it ended can not be known' }),
  reason: z
    .string()
    .optional()
    .openapi({ description: 'Why how it ended is not known', example: 'Sandbox sbx_… is stopped (stop_requested)' }),
  exitCode: z
    .int()
    .nullable()
    .openapi({ description: 'Null while it runs, and when a signal or the timeout ended it' }),
  signal: z.string().nullable().openapi({ example: 'SIGKILL' }),
  timedOut: z.boolean(),
  oomKilled: z.boolean().openapi({ description: 'The kernel ended it because the sandbox’s memory was used up' }),
  durationMs: z.number(),
  outputBytes: z.number().openapi({ description: 'All that was written to stdout and stderr' }),
  tag: z.string().nullable(),
  cmd: z.array(z.string()).optional(),
  cwd: z.string().optional(),
  user: z.string().optional(),
  pty: z.boolean().optional(),
  startedAt: z.iso.datetime().optional(),
}

export const execSummarySchema = z.object(summaryFields).openapi('ExecSummary')
export type ExecSummary = z.output<typeof execSummarySchema>

export const execSchema = z
  .object({
    ...summaryFields,
    stdout: z
      .string()
      .openapi({ description: 'The first and last 1 MiB; what lay between is counted in `truncatedBytes`' }),
    stderr: z.string(),
    truncated: z.boolean(),
    truncatedBytes: z.object({ stdout: z.int(), stderr: z.int() }),
    encoding: z.enum(execEncodings),
  })
  .openapi('Exec')
export type Exec = z.output<typeof execSchema>

export const execListSchema = z.object({ data: z.array(execSummarySchema), nextCursor: z.null() }).openapi('ExecList')

export const signalBodySchema = z
  .strictObject({
    signal: z
      .union([z.string().min(1).max(16), z.int()])
      .openapi({ description: 'A name or a number', example: 'SIGTERM' }),
    scope: z
      .enum(['process', 'session'])
      .default('process')
      .openapi({ description: 'The process alone, or everything in its session' }),
  })
  .openapi('SignalExec')

export const resizeBodySchema = ptySchema.openapi('ResizeExec')
