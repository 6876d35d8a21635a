import { showBytes } from './format.ts'
import type { Io } from './io.ts'

export interface Progress {
  add(bytes: number): void
  done(): void
  /** Takes the line away, for what went wrong to be told. */
  fail(): void
}

const redrawMs = 100

export interface ProgressOptions {
  label: string
  totalBytes?: number | undefined
  /** What happens before the first byte, where that may take long. */
  waiting?: string
}

/** One line that is drawn over, on a terminal only. */
export function createProgress(io: Io, { label, totalBytes, waiting }: ProgressOptions): Progress {
  const startedAt = performance.now()
  let bytes = 0
  let drawnAt = 0
  const isTerminal = io.stderr.isTTY === true

  function draw(end: string): void {
    const seconds = (performance.now() - startedAt) / 1000
    const of = totalBytes === undefined ? '' : ` of ${showBytes(totalBytes)} (${percent(bytes, totalBytes)})`
    const rate = seconds > 0.2 ? `, ${showBytes(bytes / seconds)}/s` : ''
    io.stderr.write(`\r\u001b[K${label}: ${showBytes(bytes)}${of}${rate}${end}`)
  }

  if (isTerminal && waiting !== undefined) io.stderr.write(`\r\u001b[K${label}: ${waiting}`)
  return {
    add(count) {
      bytes += count
      if (!isTerminal || performance.now() - drawnAt < redrawMs) return
      drawnAt = performance.now()
      draw('')
    },
    done() {
      if (isTerminal) draw('\n')
    },
    fail() {
      if (isTerminal) io.stderr.write('\r\u001b[K')
    },
  }
}

export interface Status {
  /** Draws the line over; nothing where nobody sees it. */
  show(text: string): void
  /** A line that stays. */
  say(text: string): void
  done(): void
}

/** One line that says how something goes that has no end in sight. */
export function createStatus(io: Io): Status {
  const isTerminal = io.stderr.isTTY === true
  const clear = isTerminal ? '\r\u001b[K' : ''
  return {
    show: (text) => void (isTerminal && io.stderr.write(`${clear}${text}`)),
    say: (text) => void io.stderr.write(`${clear}${text}\n`),
    done: () => void (isTerminal && io.stderr.write(clear)),
  }
}

const percent = (bytes: number, total: number) => (total === 0 ? '100 %' : `${Math.floor((100 * bytes) / total)} %`)

export async function* counted(
  source: AsyncIterable<Uint8Array>,
  progress: Progress,
): AsyncGenerator<Uint8Array, void> {
  for await (const chunk of source) {
    progress.add(chunk.length)
    yield chunk
  }
}
