import { z } from 'zod'
import type { Clock } from '../../kernel/clock.ts'
import { type ExecSummary, execSummarySchema } from '../../sandboxes/execs/schema.ts'
import type { Execs, LiveExec } from '../../sandboxes/execs/service.ts'
import { type BoundedText, createBoundedText, shownCount } from './bounded.ts'
import { type CommandDeps, commandLimits, endOf, gapSchema, interrupt, pieceSchema } from './command.ts'
import { computerFor } from './guard.ts'
import { fromComputer } from './outside.ts'
import { done, failed, type Tool } from './tool.ts'

export interface ReadTerminalDeps extends Pick<CommandDeps, 'clock'> {
  execs: CommandDeps['execs'] & Pick<Execs, 'inspect'>
}

const mostWaitMs = 600_000
/** For reading what is there. */
const readMs = 10_000

const input = z.strictObject({
  exec: z.string().regex(/^exe_[A-Za-z0-9_-]{1,60}$/, 'an id such as exe_k3v9x0m2qp7a8b1c4d5e'),
  from: z
    .int()
    .min(0)
    .max(Number.MAX_SAFE_INTEGER)
    .default(0)
    .describe('Byte of the output to begin at: what the call before said'),
  waitMs: z.int().min(0).max(mostWaitMs).default(0).describe('Wait at most so long for its end'),
  stop: z.boolean().default(false).describe('End it: SIGINT, after 5 s SIGKILL'),
})
type Input = z.output<typeof input>

export function createReadTerminal({ execs, clock }: ReadTerminalDeps): Tool<Input> {
  return {
    name: 'read_terminal',
    description:
      'See the output of a command that run_terminal or run_code started in the background, wait for its end, or stop it.',
    input,
    needs: ['read:exec', 'write:exec'],
    mode: 'auto',
    isParallel: true,
    changesFiles: false,
    // Ending what has ended is no change.
    afterCrash: 'again',
    async run({ exec, from, waitMs, stop }, context) {
      const sandboxId = await computerFor(context, 'read:exec')
      const { caller, signal } = context
      const { summary, start } = await execs.inspect(sandboxId, caller, exec)
      if (from > summary.outputBytes)
        return failed(`Its output has only ${shownCount(summary.outputBytes)} bytes so far.`)
      const forgets: (() => void)[] = []
      const isRunning = summary.state === 'running'
      if (stop && isRunning) interrupt({ execs, clock }, { sandboxId, execId: exec, context }, forgets)
      const live = await execs.events(sandboxId, caller, exec, { from, encoding: 'utf8' })
      const text = createBoundedText()
      if (start > from) text.add(`[${shownCount(start - from)} bytes of output are not kept any more]\n`)
      try {
        const waitsMs = isRunning ? (stop ? 2 * commandLimits.killMs : waitMs) : readMs
        const known = { start: Math.max(from, start), bytes: summary.outputBytes }
        const { position, exit } = await readUntil(live, { text, known, waitsMs, clock, signal })
        const rest = (leftOut: number): string => `${shownCount(leftOut)} characters left out here`
        const state = exit ? endOf(exit) : `running; for what follows use from: ${position}`
        const said = text.text(rest)
        const shown = said === '' ? said : await fromComputer(said, context)
        const gap = shown === '' || shown.endsWith('\n') ? '' : '\n'
        return done(`${shown === '' ? '[no new output]\n' : shown}${gap}[${state}]`)
      } finally {
        for (const forget of forgets) forget()
        live.leave()
      }
    },
  }
}

interface ReadingOn {
  text: BoundedText
  /** From which byte it is read, and how many there were when it was begun. */
  known: { start: number; bytes: number }
  waitsMs: number
  clock: Clock
  signal: AbortSignal
}

/** Until it has ended or the time is over; what had been there is read whole, however short that is. */
async function readUntil(
  live: LiveExec,
  { text, known, waitsMs, clock, signal }: ReadingOn,
): Promise<{ position: number; exit: ExecSummary | undefined }> {
  let position = known.start
  let isDue = waitsMs === 0
  let hasLeft = false
  const leave = (): void => {
    hasLeft = true
    live.leave()
  }
  const forgets = [
    clock.after(waitsMs, () => {
      isDue = true
      if (position >= known.bytes) leave()
    }),
    clock.after(waitsMs + readMs, leave),
  ]
  signal.addEventListener('abort', leave, { once: true })
  if (signal.aborted) leave()
  try {
    for (;;) {
      if (isDue && position >= known.bytes) return { position, exit: undefined }
      const step = await live.events.next()
      if (step.done === true) return { position, exit: undefined }
      const { event, data, id } = step.value
      if (event === 'stdout' || event === 'stderr') text.add(pieceSchema.parse(data).data)
      if (event === 'gap') {
        const gap = gapSchema.parse(data)
        if (gap.from >= known.start) text.add(`\n[${shownCount(gap.to - gap.from)} bytes were lost here]\n`)
      }
      if (id !== undefined) position = Number(id)
      if (event === 'exit') return { position, exit: execSummarySchema.parse(data) }
    }
  } catch (error) {
    if (!hasLeft) throw error
    return { position, exit: undefined }
  } finally {
    signal.removeEventListener('abort', leave)
    for (const forget of forgets) forget()
  }
}
