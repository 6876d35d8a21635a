import { constants } from 'node:os'
import { type CommandHandle, type CommandResult, DeltaApiError, type RunOptions, type Sandbox } from '@delta-agents/sdk'
import { exitCodes } from './failure.ts'
import { type Io, write } from './io.ts'

export interface ExecSettings {
  user?: string
  cwd?: string
  env?: Record<string, string>
  timeoutMs?: number
  tag?: string
  detach: boolean
  json: boolean
}

/** What of a sandbox, or of an agent with its computer, it takes. */
export type ExecSandbox = Pick<Sandbox, 'commands'>

export interface ExecCall {
  /** One word is a line for the shell; several are a program and its arguments. */
  command: string[]
  /** Even one word is a program. */
  asIs: boolean
  settings: ExecSettings
}

/** The server's longest: a person at a terminal ends a command with Ctrl-C. */
export const longestTimeoutMs = 3_600_000

/** Runs a command as if it were local: its output, its input when piped, its exit code, Ctrl-C. */
export async function exec(io: Io, sandbox: ExecSandbox, call: ExecCall): Promise<number> {
  const { detach, json, timeoutMs, ...rest } = call.settings
  const cmd = call.asIs || call.command.length > 1 ? call.command : (call.command[0] ?? '')
  if (detach) return start(io, sandbox, { cmd, options: { ...rest, timeoutMs: timeoutMs ?? 0 }, json })
  const options = { ...rest, timeoutMs: timeoutMs ?? longestTimeoutMs }
  const result = await runAttached(io, sandbox, { cmd, options, json })
  if (json) io.stdout.write(`${JSON.stringify(result)}\n`)
  else tellEnd(io, result)
  return exitCodeOf(result)
}

async function start(
  io: Io,
  sandbox: ExecSandbox,
  { cmd, options, json }: { cmd: string | string[]; options: RunOptions; json: boolean },
): Promise<number> {
  const { stdin: _, background: __, ...startOptions } = options
  const { id, pid } = await sandbox.commands.start(cmd, startOptions)
  io.stdout.write(json ? `${JSON.stringify({ id, pid })}\n` : `${id}\n`)
  return 0
}

async function runAttached(
  io: Io,
  sandbox: ExecSandbox,
  { cmd, options, json }: { cmd: string | string[]; options: RunOptions; json: boolean },
): Promise<CommandResult> {
  const closed = new AbortController()
  io.onClosedOutput(() => closed.abort(new ClosedOutput()))
  let handle: CommandHandle | undefined
  const stopListening = passSignals(io, () => handle)
  const live: RunOptions = json
    ? {}
    : {
        onStdout: (_, { bytes }) => write(io.stdout, bytes),
        onStderr: (_, { bytes }) => write(io.stderr, bytes),
      }
  try {
    return await sandbox.commands.run(cmd, {
      ...options,
      ...live,
      ...(io.stdinHasData ? { stdin: io.stdin } : {}),
      signal: closed.signal,
      onStart: (started) => {
        handle = started
      },
    })
  } finally {
    stopListening()
  }
}

/** Nobody reads the output any more; the command was killed, as a local one would be by SIGPIPE. */
export class ClosedOutput extends Error {
  override name = 'ClosedOutput'
}

/** The first Ctrl-C interrupts everything the command started, the second kills it. */
function passSignals(io: Io, current: () => CommandHandle | undefined): () => void {
  let interrupts = 0
  const send = (signal: string) => {
    current()
      ?.signal(signal, { scope: 'session' })
      .catch((cause: unknown) => {
        if (cause instanceof DeltaApiError && cause.code === 'exec_not_running') return
        io.stderr.write(`\n${signal} could not be sent: ${cause instanceof Error ? cause.message : String(cause)}\n`)
      })
  }
  const stops = [
    io.onSignal('SIGINT', () => send(++interrupts > 1 ? 'SIGKILL' : 'SIGINT')),
    io.onSignal('SIGTERM', () => send('SIGTERM')),
  ]
  return () => stops.forEach((stop) => stop())
}

function tellEnd(io: Io, result: CommandResult): void {
  const note = (text: string) => io.stderr.write(`delta: ${text}\n`)
  if (result.timedOut) note('the command reached its timeout and was ended; --timeout allows more, at most 1h')
  else if (result.oomKilled)
    note('the command was killed because the sandbox has no more memory; create one with more --memory')
  else if (result.state === 'unknown') note('how the command ended is unknown: its sandbox or guest is gone')
}

export function exitCodeOf(result: Pick<CommandResult, 'timedOut' | 'exitCode' | 'signal'>): number {
  if (result.timedOut) return exitCodes.timedOut
  if (result.exitCode !== null) return result.exitCode
  const number = (constants.signals as Record<string, number>)[result.signal ?? '']
  return number === undefined ? exitCodes.execFailed : exitCodes.signalBase + number
}
