import { DeltaError } from './errors.ts'

export interface ServerEvent {
  event: string
  data: string
  id: string | undefined
}

/** Longest single event accepted, so that a broken peer cannot fill memory. */
const maxEventChars = 16 * 1024 * 1024

/** Parses the text/event-stream format as WHATWG defines it, from text cut anywhere. */
export function createEventParser(): { push(text: string): ServerEvent[] } {
  let pending = ''
  let event = ''
  let data: string[] = []
  let dataChars = 0
  let id: string | undefined

  function takeLine(line: string, out: ServerEvent[]): void {
    if (line === '') {
      if (data.length > 0) out.push({ event: event || 'message', data: data.join('\n'), id })
      event = ''
      data = []
      dataChars = 0
      return
    }
    const colon = line.indexOf(':')
    if (colon === 0) return
    const field = colon === -1 ? line : line.slice(0, colon)
    const value = colon === -1 ? '' : line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1)
    if (field === 'data') {
      data.push(value)
      dataChars += value.length
      if (dataChars > maxEventChars) throw tooLong()
    } else if (field === 'event') event = value
    else if (field === 'id' && !value.includes('\0')) id = value
  }

  function push(text: string): ServerEvent[] {
    const out: ServerEvent[] = []
    // Only the new text is searched: one long line in many pieces must not cost a scan of the whole each time.
    let searchFrom = Math.max(0, pending.length - 1)
    pending += text
    let lineStart = 0
    const lineEnd = /\r\n|\n|\r/g
    for (;;) {
      lineEnd.lastIndex = searchFrom
      const match = lineEnd.exec(pending)
      // A lone CR at the very end may be half of CRLF: it waits for what follows.
      if (match === null || (match[0] === '\r' && match.index === pending.length - 1)) break
      takeLine(pending.slice(lineStart, match.index), out)
      lineStart = match.index + match[0].length
      searchFrom = lineStart
    }
    pending = pending.slice(lineStart)
    if (pending.length > maxEventChars) throw tooLong()
    return out
  }

  return { push }
}

const tooLong = () => new DeltaError(`The server sent an event longer than ${maxEventChars} characters`)

/**
 * Reads events until the stream ends. Silence longer than `idleTimeoutMs` counts as a broken connection: the server sends a
 * comment every 15 s.
 */
export async function* readEvents(
  body: ReadableStream<Uint8Array>,
  { idleTimeoutMs }: { idleTimeoutMs: number },
): AsyncGenerator<ServerEvent, void> {
  const reader = body.getReader()
  const decoder = new TextDecoder()
  const parser = createEventParser()
  let timer: ReturnType<typeof setTimeout> | undefined
  let idle = false
  try {
    for (;;) {
      timer = setTimeout(() => {
        idle = true
        reader.cancel().catch(() => {})
      }, idleTimeoutMs)
      const { done, value } = await reader.read()
      clearTimeout(timer)
      if (idle) throw new DeltaError(`The event stream was silent for ${idleTimeoutMs} ms`)
      if (done) return
      yield* parser.push(decoder.decode(value, { stream: true }))
    }
  } finally {
    clearTimeout(timer)
    // Cancelling an errored stream rejects; there is nothing left to close then.
    await reader.cancel().catch(() => {})
  }
}
