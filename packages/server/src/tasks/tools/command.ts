import { Readable } from 'node:stream'
import { z } from 'zod'
import { DeltaError } from '../../kernel/errors.ts'
import type { Clock } from '../../kernel/clock.ts'
import { type ExecSummary, execSummarySchema } from '../../sandboxes/execs/schema.ts'
import type { Execs, LiveExec } from '../../sandboxes/execs/service.ts'
import type { Files } from '../../sandboxes/files/service.ts'
import { createBoundedText, shownCount } from './bounded.ts'
import { callKey } from './call-key.ts'
import { checkComputer, computerFor } from './guard.ts'
import { fromComputer } from './outside.ts'
import { done, failed, type ToolContext, type ToolOutcome } from './tool.ts'

export interface CommandDeps {
  execs: Pick<Execs, 'events' | 'run' | 'runCode' | 'signal' | 'startedWith' | 'stream' | 'streamCode'>
  /** Keeps output that is too long to be told. */
  files: Pick<Files, 'write'>
  clock: Clock
  /** @default workFolder */
  folder?: string | undefined
}

export const commandLimits = {
  timeoutMs: { max: 3_600_000, default: 120_000 },
  /** From SIGINT to SIGKILL. */
  killMs: 5_000,
  /** The guest ends a command at its timeout; after this much more it is given up. */
  marginMs: 12_000,
  /** A command that writes more is ended. */
  outputBytes: 64 * 1024 * 1024,
  /** Of one command, for whoever watches. */
  watchedChars: 1024 * 1024,
} as const

export const unknownText = 'unknown: it may have run, check before repeating'
const notBegun = 'Interrupted before it began: nothing was run.'

/** Where output is kept that is too long to be told; the guest has kept its last 4 MiB. */
export const outputFolder = '/tmp/delta-output'

export interface Begin {
  background: boolean
  timeoutMs: number
  stream(sandboxId: string, key: string): Promise<LiveExec>
  /** Resolves when it has started. */
  start(sandboxId: string, key: string): Promise<{ id: string }>
}

/** Runs something in the agent's computer under the call's own key: started at most once, attached to where it had been started before. */
export async function runCommand(deps: CommandDeps, context: ToolContext, begin: Begin): Promise<ToolOutcome> {
  const key = callKey(context)
  if (context.begun) return reattach(deps, context, { ...begin, key })
  if (context.signal.aborted) return failed(notBegun)
  const sandboxId = await computerFor(context, 'write:exec')
  if (context.signal.aborted) return failed(notBegun)
  // What it may reach now, whatever is changed while it runs.
  await context.isForeign()
  try {
    if (begin.background) return inBackground((await begin.start(sandboxId, key)).id)
    const live = await begin.stream(sandboxId, key)
    return await toTheEnd(deps, context, { sandboxId, live, timeoutMs: begin.timeoutMs })
  } catch (error) {
    return unknownOr(error)
  }
}

async function reattach(
  deps: CommandDeps,
  context: ToolContext,
  { key, background, timeoutMs }: Begin & { key: string },
): Promise<ToolOutcome> {
  const { caller } = context
  const sandboxId = await context.presentComputer()
  if (sandboxId === undefined) return failed(unknownText)
  checkComputer(context, 'write:exec', sandboxId)
  try {
    const known = await deps.execs.startedWith(sandboxId, caller, key)
    if (!known) return failed(unknownText)
    if (background) return inBackground(known.id)
    const live = await deps.execs.events(sandboxId, caller, known.id, { from: 0, encoding: 'utf8' })
    return await toTheEnd(deps, context, { sandboxId, live, timeoutMs })
  } catch (error) {
    return unknownOr(error)
  }
}

/** The outcome where nobody can say any more what became of it; any other error is thrown. */
function unknownOr(error: unknown): ToolOutcome {
  const isLost = error instanceof DeltaError && (error.code === 'sandbox_ended' || error.code === 'exec_not_found')
  if (!isLost) throw error
  return failed(`${unknownText} (${error.message})`)
}

function inBackground(execId: string): ToolOutcome {
  return done(
    `Started in the background as ${execId}. See its output, wait for its end or stop it with read_terminal {"exec": "${execId}"}.`,
  )
}

interface Running {
  sandboxId: string
  live: LiveExec
  timeoutMs: number
}

export const startSchema = z.object({ id: z.string() })
export const pieceSchema = z.object({ data: z.string(), offset: z.number() })
export const gapSchema = z.object({ from: z.number(), to: z.number() })

async function toTheEnd(deps: CommandDeps, context: ToolContext, running: Running): Promise<ToolOutcome> {
  const { clock } = deps
  const { live, timeoutMs } = running
  const text = createBoundedText()
  const watched = createWatched(context)
  let execId = ''
  let why: 'interrupted' | 'flood' | undefined
  let isLate = false
  const forgets: (() => void)[] = []
  const leaveAfter = (durationMs: number): void => {
    const leave = (): void => {
      isLate = true
      live.leave()
    }
    forgets.push(clock.after(durationMs, leave))
  }
  const end = (reason: 'interrupted' | 'flood'): void => {
    if (why !== undefined || execId === '') return
    why = reason
    interrupt(deps, { ...running, context, execId }, forgets)
    leaveAfter(commandLimits.killMs + commandLimits.marginMs)
  }
  const onAbort = (): void => end('interrupted')
  context.signal.addEventListener('abort', onAbort, { once: true })
  leaveAfter(timeoutMs + commandLimits.marginMs)
  try {
    for (;;) {
      const step = await live.events.next()
      if (step.done === true) throw new DeltaError('sandbox_ended', 'The sandbox ended')
      const { event, data } = step.value
      if (event === 'start') {
        execId = startSchema.parse(data).id
        if (context.signal.aborted) end('interrupted')
      } else if (event === 'stdout' || event === 'stderr') {
        const piece = pieceSchema.parse(data)
        text.add(piece.data)
        watched(event, piece.data)
        if (piece.offset > commandLimits.outputBytes) end('flood')
      } else if (event === 'gap') {
        const { from, to } = gapSchema.parse(data)
        text.add(`\n[${shownCount(to - from)} bytes of output were lost here]\n`)
      } else if (event === 'exit') {
        const exit = execSummarySchema.parse(data)
        const saved = text.isCut() ? await saveOutput(deps, context, { ...running, execId }) : undefined
        const told = text.text(restOf(saved))
        return outcomeOf({ exit, why, text: told === '' ? told : await fromComputer(told, context) })
      }
    }
  } catch (error) {
    if (!isLate) throw error
    const shown = await fromComputer(text.text(restOf(undefined)), context)
    return failed(`${shown}\n[${execId} did not end in time and may run on; see read_terminal]`)
  } finally {
    context.signal.removeEventListener('abort', onAbort)
    for (const forget of forgets) forget()
    live.leave()
  }
}

/** SIGINT to all in its session, and SIGKILL to what is left after a while. */
export function interrupt(
  { execs, clock }: Pick<CommandDeps, 'execs' | 'clock'>,
  { sandboxId, execId, context: { caller } }: { sandboxId: string; execId: string; context: ToolContext },
  forgets: (() => void)[],
): void {
  // One that has ended meanwhile takes no signal; one that can not be reached is left behind after a while.
  const send = (signal: string): void =>
    void execs.signal(sandboxId, caller, execId, { signal, scope: 'session' }).catch(() => undefined)
  send('SIGINT')
  forgets.push(clock.after(commandLimits.killMs, () => send('SIGKILL')))
}

/** Hands on no more than somebody could read. */
function createWatched({ onOutput }: ToolContext): ToolContext['onOutput'] {
  let left: number = commandLimits.watchedChars
  return (stream, text) => {
    if (left <= 0) return
    onOutput(stream, text.slice(0, left))
    left -= text.length
    if (left <= 0) onOutput(stream, '\n[more output is not shown live]\n')
  }
}

/** Its path; undefined where it could not be written, which is no reason to fail what has been run. */
async function saveOutput(
  { execs, files }: CommandDeps,
  { caller }: ToolContext,
  { sandboxId, execId }: { sandboxId: string; execId: string },
): Promise<string | undefined> {
  const path = `${outputFolder}/${execId}.txt`
  try {
    const live = await execs.events(sandboxId, caller, execId, { from: 0, encoding: 'utf8' })
    try {
      await files.write({ sandboxId, caller, path }, Readable.from(textsOf(live)), { parents: true, overwrite: true })
    } finally {
      live.leave()
    }
    return path
  } catch (error) {
    if (error instanceof DeltaError) return undefined
    throw error
  }
}

async function* textsOf({ events }: LiveExec): AsyncGenerator<Buffer> {
  for (let step = await events.next(); step.done !== true; step = await events.next()) {
    const { event, data } = step.value
    if (event === 'stdout' || event === 'stderr') yield Buffer.from(pieceSchema.parse(data).data)
    if (event === 'gap') {
      const { from, to } = gapSchema.parse(data)
      yield Buffer.from(`\n[${shownCount(to - from)} bytes of output are not kept]\n`)
    }
    if (event === 'exit') return
  }
}

export function restOf(path: string | undefined): (leftOut: number) => string {
  const where =
    path === undefined
      ? 'send the output of a command to a file to see all of it'
      : `read_file ${path} has the whole output`
  return (leftOut) => `${shownCount(leftOut)} characters left out here; ${where}`
}

function outcomeOf({
  exit,
  why,
  text,
}: {
  exit: ExecSummary
  why: 'interrupted' | 'flood' | undefined
  text: string
}): ToolOutcome {
  const output = text === '' ? '[no output]' : text
  const told = `${output}${output.endsWith('\n') ? '' : '\n'}[${endOf(exit, why)}]`
  return why === undefined && exit.state !== 'unknown' && !exit.timedOut && !exit.oomKilled ? done(told) : failed(told)
}

/** How it ended, in words. */
export function endOf(exit: ExecSummary, why?: 'interrupted' | 'flood'): string {
  const after = `after ${(exit.durationMs / 1_000).toFixed(1)} s`
  const how =
    exit.state === 'unknown'
      ? `${unknownText}${exit.reason === undefined ? '' : ` (${exit.reason})`}`
      : exit.timedOut
        ? `ended at its timeout, ${after}; give a longer timeoutMs, or run it in the background`
        : exit.oomKilled
          ? `ended by the kernel ${after}: the memory of the sandbox was used up`
          : exit.signal === null
            ? `exit code ${exit.exitCode} ${after}`
            : `ended by ${exit.signal} ${after}`
  if (why === 'interrupted') return `interrupted by a person: ${how}`
  if (why === 'flood') {
    return `stopped because it wrote more than ${commandLimits.outputBytes / 1024 / 1024} MiB: send its output to a file; ${how}`
  }
  return how
}
