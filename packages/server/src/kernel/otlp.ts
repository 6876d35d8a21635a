import { randomBytes } from 'node:crypto'
import type { Clock } from './clock.ts'
import { limits } from './limits.ts'
import type { Logger } from './log.ts'
import type { Metrics } from './metrics.ts'
import type { Span, SpanOptions, TraceAttributes, Traces } from './traces.ts'

export interface OtlpOptions {
  /** Where spans are sent to, whole. */
  url: string
  headers: Readonly<Record<string, string>>
  serviceName: string
  version: string
  clock: Clock
  log: Logger
}

export interface OtlpTraces extends Traces {
  metrics(metrics: Metrics): void
  /** Sends what waits, for a moment at most. */
  stop(): Promise<void>
}

interface SpanIds {
  traceId: string
  spanId: string
}

/**
 * Spans as OTLP over HTTP in its JSON form, which every collector takes. They wait in a queue with a bound and are sent together, one request at a time; what finds no room, and what a receiver does not
 * take after a few tries, is dropped and counted. So whoever ends a span never waits and never fails.
 */
export function createOtlpTraces(options: OtlpOptions): OtlpTraces {
  const { url, headers, serviceName, version, clock, log } = options
  const ids = new WeakMap<Span, SpanIds>()
  const counts = { sent: 0, dropped: 0 }
  const stopping = new AbortController()
  let queue: object[] = []
  let sending: Promise<void> | undefined
  let disarm: (() => void) | undefined
  let isTrouble = false

  function span(name: string, attributes: TraceAttributes, { within, kind = 'internal' }: SpanOptions = {}): Span {
    const above = within && ids.get(within)
    const own = { traceId: above?.traceId ?? newHex(16), spanId: newHex(8) }
    const startMs = clock.now()
    const sinceMs = clock.monotonic()
    let isOver = false
    const made: Span = {
      end(more = {}, failure) {
        if (isOver) return
        isOver = true
        const told = { ...attributes, ...more, 'error.type': failure }
        keep({
          ...own,
          ...(above && { parentSpanId: above.spanId }),
          name: cut(name),
          kind: kind === 'client' ? 3 : 1,
          startTimeUnixNano: nanos(startMs),
          // The wall clock may jump meanwhile.
          endTimeUnixNano: nanos(startMs + clock.monotonic() - sinceMs),
          attributes: attributesOf(told),
          status: failure === undefined ? {} : { code: 2 },
        })
      },
    }
    ids.set(made, own)
    return made
  }

  function keep(one: object): void {
    if (queue.length >= limits.traceSpans || stopping.signal.aborted) return void (counts.dropped += 1)
    queue.push(one)
    if (sending) return
    if (queue.length >= limits.traceBatchSpans) send()
    else disarm ??= clock.after(limits.traceDelayMs, send)
  }

  function send(): void {
    disarm?.()
    disarm = undefined
    sending ??= sendAll().finally(() => {
      sending = undefined
      if (queue.length > 0) disarm ??= clock.after(limits.traceDelayMs, send)
    })
  }

  /** What came while the first of them was sent has waited too. */
  async function sendAll(): Promise<void> {
    do {
      const batch = queue.slice(0, limits.traceBatchSpans)
      const taken = await sendBatch(batch)
      queue = queue.slice(batch.length)
      counts.sent += taken
      counts.dropped += batch.length - taken
    } while (queue.length >= limits.traceBatchSpans && !stopping.signal.aborted)
  }

  /** How many of them were taken. */
  async function sendBatch(spans: readonly object[]): Promise<number> {
    const body = JSON.stringify(requestOf(spans, { serviceName, version }))
    for (let tries = 1; ; tries += 1) {
      const answer = await post(body)
      if ('rejected' in answer) {
        if (isTrouble) log.info('traces_sent_again')
        isTrouble = false
        return Math.max(0, spans.length - answer.rejected)
      }
      if (!isTrouble) log.warn('traces_not_sent', { why: answer.why })
      isTrouble = true
      if (!answer.again || tries >= limits.traceTries || stopping.signal.aborted) return 0
      const pauseMs = Math.max(answer.afterMs, 1_000 * 2 ** (tries - 1))
      await clock.sleep(Math.min(pauseMs, limits.tracePauseMs), stopping.signal).catch(() => undefined)
    }
  }

  type Answer = { rejected: number } | { why: string; again: boolean; afterMs: number }

  async function post(body: string): Promise<Answer> {
    const giveUp = new AbortController()
    const cancel = clock.after(limits.traceExportMs, () => giveUp.abort(new Error('The receiver took too long')))
    try {
      const response = await fetch(url, {
        method: 'POST',
        headers: { ...headers, 'content-type': 'application/json' },
        body,
        // A key goes to the address that it was meant for.
        redirect: 'manual',
        signal: AbortSignal.any([giveUp.signal, stopping.signal]),
      })
      const text = await beginningOf(response)
      if (response.ok) return { rejected: rejectedIn(text) }
      const afterMs = Number(response.headers.get('retry-after') ?? 0) * 1_000 || 0
      return { why: `status ${response.status}`, again: mayPass.has(response.status), afterMs }
    } catch (error) {
      return { why: error instanceof Error ? causeOf(error) : 'unknown', again: true, afterMs: 0 }
    } finally {
      cancel()
    }
  }

  return {
    span,
    metrics(metrics) {
      metrics.counterFrom('delta_trace_spans_sent_total', 'Spans that the receiver took', () => counts.sent)
      metrics.counterFrom(
        'delta_trace_spans_dropped_total',
        'Spans that found no room, or that the receiver did not take',
        () => counts.dropped,
      )
      metrics.gauge('delta_trace_spans_waiting', 'Spans that wait to be sent', () => queue.length)
    },
    async stop() {
      const cancel = clock.after(limits.traceStopMs, () => stopping.abort(new Error('The server stops')))
      // A batch may be under way, without what came since.
      while (queue.length > 0 && !stopping.signal.aborted) {
        send()
        await sending
      }
      cancel()
      disarm?.()
      stopping.abort(new Error('The server stops'))
      counts.dropped += queue.length
      queue = []
    },
  }
}

/** As the specification has it: asked again, these may be over. */
const mayPass = new Set([429, 502, 503, 504])

function requestOf(spans: readonly object[], { serviceName, version }: Pick<OtlpOptions, 'serviceName' | 'version'>) {
  const resource = { attributes: attributesOf({ 'service.name': serviceName, 'service.version': version }) }
  return { resourceSpans: [{ resource, scopeSpans: [{ scope: { name: 'delta', version }, spans }] }] }
}

function attributesOf(attributes: TraceAttributes): object[] {
  return Object.entries(attributes).flatMap(([key, value]) =>
    value === undefined ? [] : [{ key, value: valueOf(value) }],
  )
}

function valueOf(value: string | number | readonly string[]): object {
  if (typeof value === 'string') return { stringValue: cut(value) }
  if (typeof value === 'number')
    return Number.isSafeInteger(value) ? { intValue: String(value) } : { doubleValue: value }
  return { arrayValue: { values: value.slice(0, limits.logItems).map(valueOf) } }
}

/** Names of tools come from models and from servers of others. */
function cut(text: string): string {
  return text.length <= limits.traceTextChars ? text : text.slice(0, limits.traceTextChars).toWellFormed()
}

function newHex(bytes: number): string {
  return randomBytes(bytes).toString('hex')
}

/** As text: there are more of them than a number can tell apart. */
function nanos(ms: number): string {
  return `${Math.round(ms * 1_000)}000`
}

/** Of one that was taken nobody needs more than a line; the rest is not waited for. */
async function beginningOf(response: Response): Promise<string> {
  const decoder = new TextDecoder()
  let text = ''
  if (!response.body) return text
  for await (const bytes of response.body) {
    text += decoder.decode(bytes, { stream: true })
    if (text.length > limits.traceAnswerChars) break
  }
  return text
}

/** Of those that came, the receiver may have thrown some away. */
function rejectedIn(text: string): number {
  try {
    const said = JSON.parse(text) as { partialSuccess?: { rejectedSpans?: string | number } } | null
    return Number(said?.partialSuccess?.rejectedSpans ?? 0) || 0
  } catch {
    return 0
  }
}

/** Node says of a connection that failed only that it did. */
function causeOf(error: Error): string {
  return error.cause instanceof Error ? error.cause.message : error.message
}
