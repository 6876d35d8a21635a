import { writeSync } from 'node:fs'
import { limits } from './limits.ts'

export interface LogWriter {
  write(line: string): void
  /** Writes what waits, before the process ends. */
  flush(): void
}

/**
 * Gathers the lines of a moment into one write, since a system call per request is a tenth of what a short one costs. A reader that is too slow loses lines, which are counted, instead of
 * holding up the server; one that is gone loses them all.
 */
export function createLogWriter({ descriptor }: { descriptor: number }): LogWriter {
  let waiting = Buffer.alloc(0)
  let lines: string[] = []
  let linesBytes = 0
  let dropped = 0
  let scheduled = false
  const flush = () => {
    if (dropped > 0 && waiting.length < limits.logWaitingBytes / 2) {
      lines.push(`${JSON.stringify({ level: 'warn', event: 'log_lines_dropped', dropped })}\n`)
      dropped = 0
    }
    waiting = Buffer.concat([waiting, Buffer.from(lines.join(''))])
    lines = []
    linesBytes = 0
    waiting = waiting.subarray(writeSome(descriptor, waiting))
  }
  const schedule = () => {
    scheduled = true
    setTimeout(flushLater, limits.logDelayMs)
  }
  const flushLater = () => {
    scheduled = false
    flush()
    if (waiting.length > 0) schedule()
  }
  return {
    write(line) {
      if (waiting.length + linesBytes > limits.logWaitingBytes) {
        dropped += 1
        return
      }
      lines.push(line)
      linesBytes += line.length
      if (!scheduled) schedule()
    },
    flush,
  }
}

function writeSome(descriptor: number, bytes: Buffer): number {
  if (bytes.length === 0) return 0
  try {
    return writeSync(descriptor, bytes)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EAGAIN' ? 0 : bytes.length
  }
}
