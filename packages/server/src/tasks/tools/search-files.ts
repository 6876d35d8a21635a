import { z } from 'zod'
import { execBodySchema, execSummarySchema } from '../../sandboxes/execs/schema.ts'
import type { LiveExec } from '../../sandboxes/execs/service.ts'
import { resultChars, shortened } from './bounded.ts'
import { type CommandDeps, pieceSchema, startSchema } from './command.ts'
import { computerFor } from './guard.ts'
import { fromComputer } from './outside.ts'
import { absolute, pathSchema, workFolder } from './paths.ts'
import { done, failed, type Tool, type ToolContext } from './tool.ts'

export interface SearchFilesDeps extends Pick<CommandDeps, 'folder'> {
  execs: Pick<CommandDeps['execs'], 'stream' | 'signal'>
}

const searchLimits = {
  timeoutMs: 30_000,
  matches: { max: 1_000, default: 200 },
  lineChars: 400,
  /** What grep may say before it is stopped: a line may be as long as a file. */
  readChars: 4 * 1024 * 1024,
} as const

/** Hardly ever meant, and large. */
const skipped = ['.git', 'node_modules']

const input = z.strictObject({
  pattern: z
    .string()
    .min(1)
    .max(2_000)
    .refine((text) => !/[\0\n\r]/.test(text), { message: 'must be one line' })
    .describe('An extended regular expression, as grep -E takes it'),
  path: pathSchema.default('.').describe('File or folder to search, /workspace by default'),
  fixed: z.boolean().default(false).describe('The pattern is plain text'),
  ignoreCase: z.boolean().default(false),
  include: z
    .string()
    .min(1)
    .max(200)
    .regex(/^[^\0/\n\r]+$/, 'a pattern for names, such as *.ts')
    .optional()
    .describe('Only files whose names fit, such as *.ts'),
  limit: z.int().min(1).max(searchLimits.matches.max).default(searchLimits.matches.default).describe('Most matches'),
})
type Input = z.output<typeof input>

export function createSearchFiles({ execs, folder = workFolder }: SearchFilesDeps): Tool<Input> {
  return {
    name: 'search_files',
    description: `Search files for lines that fit a regular expression: file:line:text for each. Binary files are left out, and folders named ${skipped.join(' and ')} unless path leads into one.`,
    input,
    needs: ['read:files', 'write:exec'],
    mode: 'auto',
    isParallel: true,
    changesFiles: false,
    afterCrash: 'again',
    async run(wish, context) {
      const sandboxId = await computerFor(context, 'read:files')
      const cmd = grepOf(wish, folder)
      const body = execBodySchema.parse({ cmd, timeoutMs: searchLimits.timeoutMs })
      const live = await execs.stream(sandboxId, context.caller, body)
      try {
        return await matchesOf(live, {
          limit: wish.limit,
          folder,
          context,
          stop: (execId) =>
            execs
              .signal(sandboxId, context.caller, execId, { signal: 'SIGKILL', scope: 'session' })
              .catch(() => undefined),
        })
      } finally {
        live.leave()
      }
    },
  }
}

/** What is searched for and where never becomes an option: both stand behind `--`. */
export function grepOf({ pattern, path, fixed, ignoreCase, include }: Omit<Input, 'limit'>, folder: string): string[] {
  const at = absolute(path, folder)
  const leftOut = skipped.filter((name) => !at.split('/').includes(name)).map((name) => `--exclude-dir=${name}`)
  return [
    'grep',
    fixed ? '-rnIHF' : '-rnIHE',
    ...(ignoreCase ? ['-i'] : []),
    ...leftOut,
    ...(include === undefined ? [] : [`--include=${include}`]),
    '--',
    pattern,
    at,
  ]
}

interface Reading {
  limit: number
  folder: string
  context: ToolContext
  stop(execId: string): Promise<void>
}

async function matchesOf({ events }: LiveExec, { limit, folder, context, stop }: Reading) {
  let execId = ''
  const lines: string[] = []
  let waiting = ''
  let errors = ''
  let chars = 0
  let readChars = 0
  let isFull = false

  const keep = (line: string): void => {
    const own = line.startsWith(`${folder}/`) ? line.slice(folder.length + 1) : line
    const shown = shortened(own, searchLimits.lineChars)
    if (lines.length >= limit || chars + shown.length > resultChars) {
      isFull = true
      return
    }
    lines.push(shown)
    chars += shown.length + 1
  }
  const take = (text: string): void => {
    const parts = (waiting + text).split('\n')
    // Of a line that does not end only its beginning is kept.
    waiting = parts.pop()!.slice(0, 2 * searchLimits.lineChars)
    for (const line of parts) keep(line)
  }

  for (;;) {
    const step = await events.next()
    if (step.done === true) return failed('The search ended early.')
    const { event, data } = step.value
    if (event === 'start') execId = startSchema.parse(data).id
    if (event === 'stdout' && !isFull) {
      const piece = pieceSchema.parse(data).data
      readChars += piece.length
      take(piece)
    }
    if (event === 'stderr') errors = (errors + pieceSchema.parse(data).data).slice(0, 1_000)
    const isOver = isFull || readChars > searchLimits.readChars || context.signal.aborted
    if (isOver && event !== 'exit') {
      await stop(execId)
      const why = context.signal.aborted
        ? 'interrupted'
        : `the first ${lines.length} matches; narrow the pattern, path or include to see others`
      return done([...(await found(lines, context)), `[${why}]`].join('\n'))
    }
    if (event !== 'exit') continue
    const { exitCode, timedOut } = execSummarySchema.parse(data)
    if (waiting !== '') keep(waiting)
    if (timedOut) {
      return failed(
        [
          ...(await found(lines, context)),
          `[not all was searched within ${searchLimits.timeoutMs / 1_000} s: narrow path or include]`,
        ].join('\n'),
      )
    }
    if (lines.length === 0 && exitCode === 1) return done('No line fits.')
    if (lines.length === 0) return failed(`The search failed: ${errors.trim() || `grep ended with ${exitCode}`}`)
    // A file that may not be read does not spoil what was found elsewhere.
    return done(
      [
        ...(await found(lines, context)),
        ...(isFull ? [`[the first ${lines.length} matches]`] : []),
        ...(errors === '' ? [] : [`[not all could be read: ${shortened(errors.trim(), 300)}]`]),
      ].join('\n'),
    )
  }
}

async function found(lines: readonly string[], context: ToolContext): Promise<string[]> {
  return lines.length === 0 ? [] : [await fromComputer(lines.join('\n'), context)]
}
