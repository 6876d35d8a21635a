import { backoffMs, sleep } from './backoff.ts'
import { DeltaError } from './errors.ts'
import { isPassing } from './exec-stream.ts'
import { readEvents, type ServerEvent } from './sse.ts'
import type { TemplateInfo } from './types.ts'

export interface TemplateLogLine {
  /** From 1, without a gap: `from` goes on after it. */
  sequence: number
  /** Unix milliseconds. */
  at: number
  kind: 'step' | 'stdout' | 'stderr' | 'note'
  text: string
}

export interface TemplateLogOptions {
  /** Opens the stream at the lines after this number. */
  open: (from: number) => Promise<Response>
  from?: number
  signal?: AbortSignal
  reconnectMs?: number
}

/** The server sends a comment every 15 s; four missed ones mean the connection is dead. */
const idleTimeoutMs = 60_000

/** Lines in their order, none twice and none left out, over lost connections; returns how it ended. */
export async function* readTemplateLog({
  open,
  from = 0,
  signal,
  reconnectMs = 60_000,
}: TemplateLogOptions): AsyncGenerator<TemplateLogLine, TemplateInfo> {
  let last = from
  let failedSince: number | undefined
  let attempt = 0
  for (;;) {
    let failure: unknown
    try {
      const response = await open(last)
      if (response.body === null) throw new DeltaError('The server sent no event stream')
      for await (const event of readEvents(response.body, { idleTimeoutMs })) {
        failedSince = undefined
        attempt = 0
        if (event.event === 'end') return fieldsOf(event) as TemplateInfo
        if (event.event !== 'line') continue
        const line = fieldsOf(event) as TemplateLogLine
        if (!Number.isSafeInteger(line.sequence)) throw new DeltaError(`Event line has no number: ${event.data}`)
        // What was seen before the connection broke.
        if (line.sequence <= last) continue
        last = line.sequence
        yield line
      }
      failure = new DeltaError('The log ended before the template did')
    } catch (cause) {
      failure = cause
    }
    if (signal?.aborted) throw signal.reason
    failedSince ??= performance.now()
    if (!isPassing(failure) || performance.now() - failedSince > reconnectMs) throw failure
    await sleep(backoffMs(attempt++), signal)
  }
}

function fieldsOf({ event, data }: ServerEvent): object {
  try {
    const fields: unknown = JSON.parse(data)
    if (typeof fields === 'object' && fields !== null) return fields
  } catch {
    // Reported below with the event's name.
  }
  throw new DeltaError(`The server's event stream is malformed: event ${event}`)
}
