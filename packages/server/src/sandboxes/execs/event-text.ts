import { incompleteTail } from './output.ts'
import type { OutputEncoding } from './output.ts'

export type OutputStream = 'stdout' | 'stderr'

export interface OutputPiece {
  stream: OutputStream
  data: string
  /** Where the piece's first byte lies in the exec's output. */
  offset: number
  /** Where to resume so that nothing is lost; absent while an older character of the other stream is not whole yet. */
  resumeAt?: number
}

export interface OutputTexts {
  push(stream: OutputStream, offset: number, bytes: Buffer): OutputPiece | undefined
  /** What is left of characters that will not be completed. */
  flush(): OutputPiece[]
}

interface Held {
  bytes: Buffer
  offset: number
}

/**
 * Turns numbered chunks into texts. A character that is cut by the end of a chunk waits for its rest, per stream, since the streams
 * interleave; a resume position is only stated when everything before it was handed on.
 */
export function createOutputTexts(encoding: OutputEncoding): OutputTexts {
  if (encoding === 'base64') {
    return {
      push: (stream, offset, bytes) => ({
        stream,
        data: bytes.toString('base64'),
        offset,
        resumeAt: offset + bytes.length,
      }),
      flush: () => [],
    }
  }

  const held: Record<OutputStream, Held | undefined> = { stdout: undefined, stderr: undefined }

  return {
    push(stream, offset, bytes) {
      const before = held[stream]
      held[stream] = undefined
      const whole = before === undefined ? bytes : Buffer.concat([before.bytes, bytes])
      const start = before === undefined ? offset : before.offset
      const cut = incompleteTail(whole)
      if (cut > 0) {
        // What waits may span two chunks with others between; its oldest byte is where it counts from.
        const from = cut > bytes.length ? start : offset + bytes.length - cut
        // A copy, so that three bytes do not keep a whole received block alive.
        held[stream] = { bytes: Buffer.from(whole.subarray(whole.length - cut)), offset: from }
      }
      if (cut === whole.length) return undefined
      const data = whole.toString('utf8', 0, whole.length - cut)
      const other = held[stream === 'stdout' ? 'stderr' : 'stdout']
      if (other !== undefined) return { stream, data, offset: start }
      return { stream, data, offset: start, resumeAt: offset + bytes.length - cut }
    },
    flush() {
      const pieces: OutputPiece[] = []
      for (const stream of ['stdout', 'stderr'] as const) {
        const rest = held[stream]
        if (rest === undefined) continue
        held[stream] = undefined
        pieces.push({ stream, data: rest.bytes.toString('utf8'), offset: rest.offset })
      }
      return pieces
    },
  }
}
