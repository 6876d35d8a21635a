import type { Sandbox, Terminal } from '@delta-agents/sdk'
import { createDetachKeys, type DetachKeys } from './detach-keys.ts'
import { exitCodeOf } from './exec.ts'
import { UsageError } from './failure.ts'
import { type Io, write } from './io.ts'

export interface ShellSettings {
  /** Nothing: a login shell. */
  command: string[]
  user?: string
  cwd?: string
  env?: Record<string, string>
  /** A terminal that runs already. */
  attach?: string
  readOnly?: boolean
  detachKeys: Uint8Array | undefined
}

export interface ShellEnd {
  exitCode: number
  /** The terminal was left running. */
  detached: boolean
}

/** What of a sandbox it takes. */
export type ShellSandbox = Pick<Sandbox, 'id' | 'terminal'>

/** After the first of the keys the second must follow within this, or the first goes to the program. */
const heldMs = 250
/** Leaves what a program may have set up on this terminal and, cut off from it, did not take back. */
const resetModes = '\x1b[?1049l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?1l\x1b>\x1b[?25h\x1b[0m\r\n'

function nounOf({ id }: ShellSandbox): string {
  return id.startsWith('agt_') ? 'agents' : 'sandbox'
}

export function requireTerminal(io: Io): void {
  if (io.stdin.isTTY === true && io.stdout.isTTY === true) return
  const which = io.stdin.isTTY === true ? 'output' : 'input'
  throw new UsageError(`The standard ${which} is no terminal: for scripts there is 'delta sandbox exec'`)
}

/** This terminal becomes one in the sandbox, until that ends or the detach keys are pressed. */
export async function shell(io: Io, sandbox: ShellSandbox, settings: ShellSettings): Promise<ShellEnd> {
  requireTerminal(io)
  const terminal = await open(io, sandbox, settings)
  const stops: (() => void)[] = []
  let detached = false
  let over = false
  const leave = (): void => {
    detached = true
    terminal.close()
  }
  const hangUp = (): void => {
    if (over || detached) return
    // Without a server nobody can be told to end it.
    if (settings.attach === undefined) terminal.kill().catch(() => terminal.close())
    else leave()
  }
  try {
    io.setRaw(true)
    stops.push(() => io.setRaw(false))
    stops.push(io.onResize(() => resize(io, terminal)))
    stops.push(io.onSignal('SIGTERM', hangUp), io.onSignal('SIGHUP', hangUp))
    stops.push(terminal.onGap(() => redraw(io, terminal)))
    if (settings.attach !== undefined && settings.readOnly !== true) redraw(io, terminal)
    passInput(io, terminal, createDetachKeys(settings.detachKeys), leave).then(hangUp, hangUp)
    for await (const bytes of terminal) await write(io.stdout, bytes)
    if (detached) return { exitCode: 0, detached }
    return { exitCode: exitCodeOf(await terminal.wait()), detached }
  } catch (error) {
    await write(io.stdout, resetModes)
    throw error
  } finally {
    over = true
    for (const stop of stops.toReversed()) stop()
    terminal.close()
    if (detached) {
      await write(io.stdout, resetModes)
      io.stderr.write(
        `Left running. To come back: delta ${nounOf(sandbox)} shell --attach ${terminal.id} ${sandbox.id}\n`,
      )
    }
  }
}

function open(io: Io, sandbox: ShellSandbox, settings: ShellSettings): Promise<Terminal> {
  const { attach, command, readOnly, user, cwd, env } = settings
  if (attach !== undefined) return sandbox.terminal.connect(attach, { readOnly: readOnly ?? false })
  const term = io.env['TERM']
  return sandbox.terminal.create({
    ...sizeOf(io),
    ...(command.length > 0 && { cmd: command.length === 1 ? command[0]! : command }),
    ...(user !== undefined && { user }),
    ...(cwd !== undefined && { cwd }),
    env: { ...(term !== undefined && { TERM: term }), ...env },
  })
}

async function passInput(io: Io, terminal: Terminal, keys: DetachKeys, leave: () => void): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined
  const send = (bytes: Uint8Array): Promise<void> =>
    // That it has ended is told by its output's end.
    bytes.length === 0 ? Promise.resolve() : terminal.write(bytes).catch(() => {})
  for await (const chunk of io.stdin) {
    clearTimeout(timer)
    const { send: bytes, pressed } = keys.feed(chunk)
    await send(bytes)
    if (pressed) return leave()
    timer = setTimeout(() => void send(keys.flush()), heldMs)
  }
  clearTimeout(timer)
}

function sizeOf({ stdout }: Io): { cols: number; rows: number } {
  const within = (value: number | undefined, usual: number) => Math.min(1_000, Math.max(1, value || usual))
  return { cols: within(stdout.columns, 80), rows: within(stdout.rows, 24) }
}

function resize(io: Io, terminal: Terminal): void {
  const { cols, rows } = sizeOf(io)
  terminal.resize(cols, rows)
}

/** The same size again is no news to a program: only another one makes it draw anew. */
function redraw(io: Io, terminal: Terminal): void {
  const { cols, rows } = sizeOf(io)
  terminal.resize(cols, rows > 1 ? rows - 1 : rows + 1)
  terminal.resize(cols, rows)
}
