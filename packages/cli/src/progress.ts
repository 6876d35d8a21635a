import { showBytes } from './format.ts'
import type { Io } from './io.ts'

export interface Progress {
  add(bytes: number): void
  done(): void
}

const redrawMs = 100

/** One line that is drawn over, on a terminal only. */
export function createProgress(
  io: Io,
  { label, totalBytes }: { label: string; totalBytes?: number | undefined },
): Progress {
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
