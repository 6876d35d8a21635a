import type { Io } from './io.ts'
import { runCli } from './program.ts'

export interface Ran {
  exitCode: number
  stdout: string
  stderr: string
}

export interface RunSettings {
  stdin?: string[]
  interrupt?: (send: () => void) => void
  tty?: boolean
}

/** Runs one command line, with a process that a test has made up. */
export async function run(args: string[], { stdin, interrupt, tty = false }: RunSettings = {}): Promise<Ran> {
  const written = { stdout: [] as Buffer[], stderr: [] as Buffer[] }
  const stream = (name: 'stdout' | 'stderr') => ({
    isTTY: tty,
    write: (data: string | Uint8Array) => written[name].push(Buffer.from(data)) > 0,
    once: () => {},
  })
  const io: Io = {
    env: { NO_COLOR: '1' },
    stdin: Object.assign(
      (async function* () {
        for (const part of stdin ?? []) yield Buffer.from(part)
      })(),
      { isTTY: tty },
    ),
    stdinHasData: stdin !== undefined,
    stdout: stream('stdout'),
    stderr: stream('stderr'),
    onSignal(signal, listener) {
      if (signal === 'SIGINT') interrupt?.(listener)
      return () => {}
    },
    setRaw() {},
    onResize: () => () => {},
    onClosedOutput() {},
  }
  const exitCode = await runCli(args, io)
  return {
    exitCode,
    stdout: Buffer.concat(written.stdout).toString(),
    stderr: Buffer.concat(written.stderr).toString(),
  }
}
