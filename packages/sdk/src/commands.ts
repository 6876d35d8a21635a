import { CommandHandle, collectOutput, type CommandResult, type OutputCallbacks } from './command-handle.ts'
import { DeltaApiError } from './errors.ts'
import { execEvents, openEvents } from './exec-stream.ts'
import type { Transport } from './transport.ts'
import type { ExecInfo, ExecResult, Page } from './types.ts'

export type StdinSource = string | Uint8Array | ReadableStream<Uint8Array> | AsyncIterable<Uint8Array | string>

export interface ExecOptions {
  /** Name or uid inside the sandbox. @default "user" */
  user?: string
  /** @default "/workspace" */
  cwd?: string
  /** Added to the sandbox's own environment. */
  env?: Record<string, string>
  /** At its end the command's whole session gets TERM, 2 s later KILL. @default 60,000; none in the background */
  timeoutMs?: number
  /** Free text, returned by `list`. */
  tag?: string
  /** Gives the command a terminal of this size; stderr then arrives as stdout. */
  pty?: { cols: number; rows: number }
  /** Requests with the same key start the command once. @default a random one */
  idempotencyKey?: string
}

export interface RunOptions extends ExecOptions, OutputCallbacks {
  stdin?: StdinSource
  /** Keep stdin open for the handle that `onStart` gets. @default false */
  stdinOpen?: boolean
  /** `base64` makes the result's stdout and stderr exact for binary output. @default "utf8" */
  encoding?: 'utf8' | 'base64'
  background?: false
  /** Called with a handle as soon as the command runs, to signal it or feed its stdin meanwhile. */
  onStart?: (handle: CommandHandle) => void
  /** Aborting kills the command and rejects with the signal's reason. */
  signal?: AbortSignal
}

export interface StartOptions extends ExecOptions {
  /** Written first; with `stdinOpen` more may follow. */
  stdin?: string
  /** Keep stdin open for `sendStdin`; costs nothing, but a command that reads to the end waits. @default false */
  stdinOpen?: boolean
  signal?: AbortSignal
}

export type Language = 'python' | 'javascript' | 'bash'

export interface RunCodeOptions extends RunOptions {
  language: Language
}

/** Above this the command may outlast what fetch implementations wait for an answer's header, so its output is streamed. */
const longestPlainWaitMs = 200_000
const defaultExecTimeoutMs = 60_000
/** Text longer than this goes as a stream of its own instead of inside the request. */
const inlineStdinChars = 1024 * 1024

/** Commands of one sandbox. */
export class Commands {
  readonly #transport: Transport
  readonly #base: string

  /** `base`: the path of the sandbox, or of the agent whose computer it is. */
  constructor(transport: Transport, base: string) {
    this.#transport = transport
    this.#base = base
  }

  /**
   * Runs a command to its end. A text is run by `/bin/bash -l -c`, an array as it is. A non-zero exit is a result, not an exception.
   *
   * @example
   * const { stdout } = await sandbox.commands.run('ls -la', { onStdout: (text) => process.stdout.write(text) })
   */
  run(cmd: string | string[], options?: RunOptions): Promise<CommandResult>
  run(cmd: string | string[], options: StartOptions & { background: true }): Promise<CommandHandle>
  run(
    cmd: string | string[],
    options: RunOptions | (StartOptions & { background: true }) = {},
  ): Promise<CommandResult | CommandHandle> {
    return options.background === true ? this.start(cmd, options) : this.#run('execs', { cmd }, options)
  }

  /** Runs source code with the language's interpreter. */
  runCode(source: string, { language, ...options }: RunCodeOptions): Promise<CommandResult> {
    return this.#run('code', { language, source }, options)
  }

  /**
   * Starts a command and returns at once. It outlives this process; `connect` finds it again.
   *
   * @example
   * const server = await sandbox.commands.start('python3 -m http.server 8080')
   * await server.kill()
   */
  async start(cmd: string | string[], options: StartOptions = {}): Promise<CommandHandle> {
    const { idempotencyKey = newKey(), signal, ...fields } = options
    const exec = await this.#transport.json<ExecInfo>({
      method: 'POST',
      path: `${this.#base}/execs`,
      json: { timeoutMs: 0, ...fields, cmd, background: true },
      idempotencyKey,
      signal,
    })
    return new CommandHandle(this.#transport, this.#base, exec)
  }

  /** A handle on a command that runs, or ran within the last hour. */
  async connect(execId: string): Promise<CommandHandle> {
    return new CommandHandle(this.#transport, this.#base, await this.get(execId))
  }

  /** The command with the output kept of it. */
  get(execId: string): Promise<ExecResult> {
    return this.#transport.json<ExecResult>({ path: `${this.#base}/execs/${encodeURIComponent(execId)}` })
  }

  async list(): Promise<ExecInfo[]> {
    const page = await this.#transport.json<Page<ExecInfo>>({ path: `${this.#base}/execs` })
    return page.data
  }

  #run(path: 'execs' | 'code', what: Record<string, unknown>, options: RunOptions): Promise<CommandResult> {
    const { stdin, onStart, onStdout, onStderr, signal, idempotencyKey = newKey(), background: _, ...fields } = options
    const inline = stdin === undefined || (typeof stdin === 'string' && stdin.length <= inlineStdinChars)
    const call: ExecCall = {
      path: `${this.#base}/${path}`,
      fields: { ...fields, ...what, ...(inline && stdin !== undefined ? { stdin } : {}) },
      idempotencyKey,
    }
    const waitMs = options.timeoutMs ?? defaultExecTimeoutMs
    const plain = inline && !onStart && !onStdout && !onStderr && !signal && waitMs > 0 && waitMs <= longestPlainWaitMs
    if (plain) return this.#runPlain(call, waitMs)
    if (!inline) call.fields = { ...call.fields, stdinOpen: true }
    return this.#runStreaming(call, { ...options, stdin: inline ? undefined : stdin })
  }

  async #runPlain(call: ExecCall, waitMs: number): Promise<CommandResult> {
    const exec = await this.#transport.json<ExecResult>({
      method: 'POST',
      path: call.path,
      json: call.fields,
      idempotencyKey: call.idempotencyKey,
      timeoutMs: waitMs + 60_000,
    })
    return { ...exec, ok: exec.exitCode === 0 }
  }

  #runStreaming(
    call: ExecCall,
    {
      onStart: onStarted,
      onStdout,
      onStderr,
      signal,
      stdin,
    }: Omit<RunOptions, 'stdin'> & { stdin: StdinSource | undefined },
  ): Promise<CommandResult> {
    const inner = new AbortController()
    const { encoding = 'utf8', ...fields } = call.fields
    let handle: CommandHandle | undefined
    let stdinFailure: { cause: unknown } | undefined

    const giveUp = async (reason: unknown) => {
      await handle?.kill().catch(() => {})
      inner.abort(reason)
    }
    const onStart = (id: string, pid: number) => {
      handle = new CommandHandle(this.#transport, this.#base, { id, pid })
      // The caller gave up before the command's id was known.
      if (signal?.aborted) return void giveUp(signal.reason)
      onStarted?.(handle)
      if (stdin === undefined) return
      feedStdin(handle, stdin, inner.signal).catch((cause: unknown) => {
        stdinFailure = { cause }
        void giveUp(cause)
      })
    }
    const events = execEvents({
      open: () =>
        this.#transport.send({
          method: 'POST',
          path: call.path,
          json: { ...fields, encoding: 'base64', stream: true },
          headers: { accept: 'text/event-stream' },
          idempotencyKey: call.idempotencyKey,
          signal: inner.signal,
        }),
      reopen: (execId, from) => openEvents(this.#transport, this.#base, { execId, from, signal: inner.signal }),
      signal: inner.signal,
      isGivenUp: () => signal?.aborted === true,
    })
    // Before the command has an id there is nothing to kill: then onStart does it.
    const onAbort = () => void (handle !== undefined && giveUp(signal?.reason))
    signal?.addEventListener('abort', onAbort, { once: true })
    const result = collectOutput(events, {
      onStart,
      onStdout,
      onStderr,
      encoding: encoding === 'base64' ? 'base64' : 'utf8',
    })
      .catch(async (cause: unknown) => {
        // A callback that throws ends the command too: nobody would read what it says.
        if (!inner.signal.aborted) await giveUp(cause)
        throw stdinFailure?.cause ?? cause
      })
      .finally(() => {
        signal?.removeEventListener('abort', onAbort)
        // Ends what still feeds stdin to a command that is over.
        inner.abort()
      })
    return signal === undefined ? result : untilAborted(result, signal)
  }
}

interface ExecCall {
  path: string
  fields: Record<string, unknown>
  idempotencyKey: string
}

export const newKey = (): string => globalThis.crypto.randomUUID()

/** Rejects as soon as the signal aborts; the promise is left to finish its cleaning up. */
function untilAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason)
    if (signal.aborted) onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}

async function feedStdin(handle: CommandHandle, source: StdinSource, signal: AbortSignal): Promise<void> {
  try {
    if (typeof source === 'string' || source instanceof Uint8Array) {
      await handle.sendStdin(source, { close: true })
      return
    }
    for await (const chunk of source as AsyncIterable<Uint8Array | string>) {
      if (signal.aborted) return
      await handle.sendStdin(chunk)
    }
    await handle.closeStdin()
  } catch (cause) {
    // A command need not read all of its input, and may be over before it came.
    const unread = ['exec_stdin_closed', 'exec_not_running']
    if (cause instanceof DeltaApiError && unread.includes(cause.code)) return
    if (!signal.aborted) throw cause
  }
}
