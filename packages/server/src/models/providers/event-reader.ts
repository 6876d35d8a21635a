import { isRecord } from './reading.ts'

/** An event of a larger size is passed over: none of a provider's comes near it. */
const eventBytesMax = 16 * 1024 * 1024

export interface EventReader {
  push(bytes: Uint8Array): void
  /** Bytes of an event that is not whole yet. */
  waiting(): number
  /** Whether the last line, though it did not end, is just this. */
  endsWith(line: string): boolean
}

/**
 * Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream) out of bytes that may be cut anywhere. It never throws; what is no event, or
 * no JSON object, is passed over.
 */
export function readEvents(onData: (data: string) => void): EventReader {
  /** The line that has begun, in pieces. */
  let line: Buffer[] = []
  let lineBytes = 0
  let data: string[] = []
  let dataBytes = 0
  let isTooLarge = false
  let hasReturn = false

  function endLine(): void {
    const text = isTooLarge ? '' : Buffer.concat(line).toString()
    const isBlank = lineBytes === 0
    line = []
    lineBytes = 0
    if (isBlank) {
      if (data.length > 0 && !isTooLarge) onData(data.join('\n'))
      data = []
      dataBytes = 0
      isTooLarge = false
      return
    }
    const value = /^\uFEFF?data:\s?([^]*)$/.exec(text)?.[1]
    if (value === undefined) return
    data.push(value)
    dataBytes += text.length
  }

  function add(piece: Buffer): void {
    if (piece.length === 0) return
    lineBytes += piece.length
    if (lineBytes + dataBytes > eventBytesMax) {
      isTooLarge = true
      line = []
      data = []
      return
    }
    // A copy: who gave the bytes may use their memory again.
    line.push(Buffer.from(piece))
  }

  return {
    push(bytes) {
      const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      let from = 0
      for (let at = 0; at < view.length; at++) {
        const byte = view[at]
        if (hasReturn) {
          // Whether a return ends the line alone is known with what follows, which may come later.
          hasReturn = false
          endLine()
          if (byte === 0x0a) from = at + 1
        }
        if (byte !== 0x0d && (byte !== 0x0a || from > at)) continue
        add(view.subarray(from, at))
        from = at + 1
        if (byte === 0x0d) hasReturn = true
        else endLine()
      }
      add(view.subarray(from))
    },
    waiting: () => lineBytes + dataBytes,
    endsWith: (wanted) => lineBytes === wanted.length && Buffer.concat(line).toString() === wanted,
  }
}

export function recordOf(data: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(data)
    return isRecord(value) ? value : undefined
  } catch {
    return undefined
  }
}
