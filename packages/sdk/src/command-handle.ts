import { execEvents, openEvents, type ExecEvent } from './exec-stream.ts'
import { createOutputKeeper, type OutputChunk } from './output.ts'
import type { Transport } from './transport.ts'
import type { ExecInfo, ExecResult } from './types.ts'

export interface CommandResult extends ExecResult {
  /** True when the command ended by itself with exit code 0. */
  ok: boolean
}

export interface OutputCallbacks {
  /** Called in order; a returned promise is waited for, which holds the command back when it writes faster. */
  onStdout?: ((text: string, chunk: OutputChunk) => void | Promise<void>) | undefined
  onStderr?: ((text: string, chunk: OutputChunk) => void | Promise<void>) | undefined
}

/**
 * A command that was started, here or elsewhere. Nothing is read until you iterate it or `wait`; until then the server keeps the
 * last 4 MiB of its output.
 *
 * @example
 * const build = await sandbox.commands.start('make')
 * for await (const { stream, text } of build) console.log(stream, text)
 * const { exitCode } = await build.wait()
 */
export class CommandHandle implements AsyncIterable<OutputChunk> {
  readonly id: string
  readonly pid: number
  readonly #transport: Transport
  readonly #base: string
  readonly #collector = createCollector('utf8')
  #offset = 0
  #reading = false
  #result: CommandResult | undefined
  readonly #waiters: { resolve: (result: CommandResult) => void; reject: (cause: unknown) => void }[] = []

  constructor(transport: Transport, base: string, exec: Pick<ExecInfo, 'id' | 'pid'>) {
    this.#transport = transport
    this.#base = base
    this.id = exec.id
    this.pid = exec.pid
  }

  /** The command's result when it has ended, with what was read of its output. */
  wait(callbacks: OutputCallbacks = {}): Promise<CommandResult> {
    if (this.#result !== undefined) return Promise.resolve(this.#result)
    const ended = new Promise<CommandResult>((resolve, reject) => this.#waiters.push({ resolve, reject }))
    if (!this.#reading) void this.#drain(callbacks)
    return ended
  }

  /** The output from where the last reader of this handle left off. One reader at a time. */
  async *[Symbol.asyncIterator](): AsyncGenerator<OutputChunk, void> {
    if (this.#result !== undefined) return
    if (this.#reading)
      throw new TypeError('The output of this command is being read already; connect() gives another handle')
    yield* this.#read()
  }

  /** Ends the whole session of the command at once. */
  kill(): Promise<void> {
    return this.signal('SIGKILL', { scope: 'session' })
  }

  /** `session` reaches everything the command started; `process` only the command itself. @default "process" */
  signal(signal: string | number, { scope = 'process' }: { scope?: 'process' | 'session' } = {}): Promise<void> {
    return this.#post('signal', { json: { signal, scope }, repeatable: signal === 'SIGKILL' || signal === 9 })
  }

  /** Writes to stdin, which must have been opened with `stdinOpen`. Wait for each before the next. */
  sendStdin(data: string | Uint8Array, { close = false }: { close?: boolean } = {}): Promise<void> {
    return this.#post('stdin', {
      body: data,
      headers: { 'content-type': 'application/octet-stream' },
      ...(close ? { query: { close } } : {}),
      // A slow reader inside holds the request back for as long as it likes.
      timeoutMs: 0,
    })
  }

  /** The command reads the end of its input. */
  closeStdin(): Promise<void> {
    return this.#post('stdin', { query: { close: true }, body: '', repeatable: true })
  }

  resize(cols: number, rows: number): Promise<void> {
    return this.#post('resize', { json: { cols, rows }, repeatable: true })
  }

  #post(action: string, request: Omit<Parameters<Transport['done']>[0], 'path' | 'method'>): Promise<void> {
    const path = `${this.#base}/execs/${encodeURIComponent(this.id)}/${action}`
    return this.#transport.done({ method: 'POST', path, ...request })
  }

  async #drain(callbacks: OutputCallbacks): Promise<void> {
    try {
      for await (const chunk of this.#read()) {
        await callBack(callbacks, chunk).catch((cause: unknown) => {
          this.#fail(cause)
          throw cause
        })
      }
    } catch {
      // Those who wait have been told.
    }
  }

  async *#read(): AsyncGenerator<OutputChunk, void> {
    const closing = new AbortController()
    this.#reading = true
    try {
      const reopen = (execId: string, from: number) =>
        openEvents(this.#transport, this.#base, { execId, from, signal: closing.signal })
      const open = () => reopen(this.id, this.#offset)
      for await (const event of execEvents({
        open,
        reopen,
        execId: this.id,
        from: this.#offset,
        signal: closing.signal,
      })) {
        if (event.kind === 'exit') return this.#end(this.#collector.result(event.exec))
        if (event.kind !== 'output') continue
        this.#offset = event.offset + event.bytes.length
        this.#collector.take(event)
        yield event
      }
    } catch (cause) {
      this.#fail(cause)
      throw cause
    } finally {
      this.#reading = false
      closing.abort()
      // Whoever waits relied on this reader, which has left before the end: reading goes on for them.
      if (this.#waiters.length > 0) void this.#drain({})
    }
  }

  #fail(cause: unknown): void {
    for (const waiter of this.#waiters.splice(0)) waiter.reject(cause)
  }

  #end(result: CommandResult): void {
    this.#result = result
    for (const waiter of this.#waiters.splice(0)) waiter.resolve(result)
  }
}

interface Collector {
  take(chunk: OutputChunk): void
  result(exec: ExecInfo): CommandResult
}

export function createCollector(encoding: 'utf8' | 'base64'): Collector {
  const kept = { stdout: createOutputKeeper(), stderr: createOutputKeeper() }
  const lost = { stdout: 0, stderr: 0 }
  return {
    take(chunk) {
      kept[chunk.stream].push(chunk.bytes)
      lost[chunk.stream] += chunk.lostBytes
    },
    result(exec) {
      const truncatedBytes = {
        stdout: lost.stdout + kept.stdout.bytesCut(),
        stderr: lost.stderr + kept.stderr.bytesCut(),
      }
      const truncated = truncatedBytes.stdout + truncatedBytes.stderr > 0
      const stdout = kept.stdout.text(encoding)
      const stderr = kept.stderr.text(encoding)
      return { ...exec, stdout, stderr, truncated, truncatedBytes, encoding, ok: exec.exitCode === 0 }
    },
  }
}

export async function collectOutput(
  events: AsyncIterable<ExecEvent>,
  options: OutputCallbacks & { onStart: (id: string, pid: number) => void; encoding: 'utf8' | 'base64' },
): Promise<CommandResult> {
  const collector = createCollector(options.encoding)
  let started = false
  for await (const event of events) {
    if (event.kind === 'exit') return collector.result(event.exec)
    if (event.kind === 'start') {
      if (!started) options.onStart(event.id, event.pid)
      started = true
      continue
    }
    collector.take(event)
    await callBack(options, event)
  }
  throw new TypeError('The event stream ended without an exit')
}

async function callBack(callbacks: OutputCallbacks, chunk: OutputChunk): Promise<void> {
  const callback = chunk.stream === 'stdout' ? callbacks.onStdout : callbacks.onStderr
  await callback?.(chunk.text, chunk)
}
