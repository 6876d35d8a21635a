import { canceled, ignore } from './call.ts'
import { createWriter } from './codec.ts'
import { createInbox, iterate } from './inbox.ts'
import { violation } from './channel.ts'
import { readExit, readOpenedExec } from './messages.ts'
import type { Reader, Writer } from './codec.ts'
import type { Channel } from './channel.ts'
import type { Link } from './link.ts'
import type { ExecExit } from './messages.ts'

const stdoutStream = 1
const stderrStream = 2
const controls = { signal: 1, resize: 2, closeStdin: 3 }

export interface ExecOutput {
  stream: 'stdout' | 'stderr'
  /** Counts both streams together. `offset + bytes.length` is where to go on after a lost connection. */
  offset: number
  bytes: Buffer
  /** Bytes lost right before this, because they were overwritten before anyone read them. */
  gap?: number
}

/** A process seen through one channel. Whoever wants it to run on must take the output: 1 MiB unread holds the process back. */
export interface ExecStream {
  readonly pid: number
  /** True: the id existed; nothing was started. */
  readonly known: boolean
  /** Oldest output offset kept when this was opened. */
  readonly start: number
  /** For one reader. Leaving it before its end detaches. */
  readonly output: AsyncIterableIterator<ExecOutput>
  /** Settles when the channel ends, before the last output is taken. Rejects when it ended otherwise than by the process's end. */
  readonly exit: Promise<ExecExit>
  /**
   * Takes the output without an iterator's promises: `onOutput` is called with each chunk, and not again before the promise it may return
   * has settled. Resolves with the exit when all output was taken. Instead of `output`, not beside it.
   */
  consume(onOutput: (chunk: ExecOutput) => void | Promise<void>): Promise<ExecExit>
  /** Resolves when it may be called again. */
  writeStdin(chunk: Buffer): Promise<void>
  closeStdin(): void
  signal(signal: number): void
  resize(cols: number, rows: number): void
  /** The process lives on; what is buffered here is dropped, and `exit` rejects with `canceled`. */
  detach(): void
}

/** Opens EXEC or ATTACH. `from` is the offset the caller has the output up to. */
export function openExec(link: Link, open: Writer, from: number, signal?: AbortSignal): Promise<ExecStream> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(canceled())
    let expected = from
    const exit = Promise.withResolvers<ExecExit>()
    // A caller that reads only the output must not be ended by an exit it did not ask for.
    exit.promise.catch(ignore)
    const inbox = createInbox((bytes) => link.consumed(channel, bytes))
    const onAbort = (): void => link.cancel(channel)

    const channel = link.open(open, {
      streams: [stdoutStream, stderrStream],
      opened(reader) {
        resolve(createExecStream({ link, channel, inbox, exit: exit.promise, ...readOpenedExec(reader) }))
      },
      data(stream, offset, bytes) {
        if (offset < expected) throw violation(`output goes back from ${expected} to ${offset}`)
        inbox.push({ stream, offset, bytes, gap: offset - expected })
        expected = offset + bytes.length
      },
      closed(reader) {
        signal?.removeEventListener('abort', onAbort)
        exit.resolve(readFinalExit(reader))
        inbox.close()
      },
      failed(error) {
        signal?.removeEventListener('abort', onAbort)
        reject(error)
        exit.reject(error)
        inbox.close(error)
      },
    })
    signal?.addEventListener('abort', onAbort, { once: true })
  })
}

function readFinalExit(reader: Reader): ExecExit {
  const exit = readExit(reader)
  if (exit.kind === 'running') throw violation('an attached exec ends as running')
  return { ...exit, kind: exit.kind }
}

interface Opened {
  link: Link
  channel: Channel
  inbox: ReturnType<typeof createInbox>
  exit: Promise<ExecExit>
  pid: number
  known: boolean
  start: number
}

function createExecStream({ link, channel, inbox, exit, pid, known, start }: Opened): ExecStream {
  const detach = (): void => {
    inbox.drop()
    link.cancel(channel)
  }
  const control = (kind: number, ...values: [(writer: Writer) => void] | []): void => {
    const writer = createWriter(8).u8(kind)
    for (const write of values) write(writer)
    link.control(channel, writer)
  }

  return {
    pid,
    known,
    start,
    exit,
    output: iterate(inbox, asOutput, detach),
    consume(onOutput) {
      return new Promise((resolve, reject) => {
        const stop = (reason: unknown): void => {
          detach()
          reject(reason)
        }
        const pump = (): void => {
          try {
            for (let chunk = inbox.take(); chunk; chunk = inbox.take()) {
              const busy = onOutput(asOutput(chunk))
              if (busy) {
                busy.then(pump, stop)
                return
              }
            }
          } catch (reason) {
            return stop(reason)
          }
          if (!inbox.closed) inbox.whenReady(pump)
          else if (inbox.error) reject(inbox.error)
          else resolve(exit)
        }
        pump()
      })
    },
    async writeStdin(chunk) {
      await link.send(channel, chunk)
    },
    closeStdin() {
      link.sendEnd(channel)
    },
    signal(signal) {
      control(controls.signal, (writer) => writer.u8(signal))
    },
    resize(cols, rows) {
      control(controls.resize, (writer) => writer.u16(cols).u16(rows))
    },
    detach,
  }
}

function asOutput({
  stream,
  offset,
  bytes,
  gap,
}: {
  stream: number
  offset: number
  bytes: Buffer
  gap: number
}): ExecOutput {
  const name = stream === stdoutStream ? 'stdout' : 'stderr'
  return gap > 0 ? { stream: name, offset, bytes, gap } : { stream: name, offset, bytes }
}
