import { afterEach, expect, test } from 'vitest'
import { manualClock, systemClock } from './clock.ts'
import type { Clock } from './clock.ts'
import { limits } from './limits.ts'
import { createLogger } from './log.ts'
import { createMetrics } from './metrics.ts'
import { createOtlpTraces } from './otlp.ts'
import { startOtlpReceiver } from './testing-otlp.ts'
import type { ReceiverScript } from './testing-otlp.ts'

const ends: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const end of ends.splice(0)) await end()
})

interface Start {
  script?: ReceiverScript
  clock?: Clock
  headers?: Record<string, string>
  url?: string
}

async function start({ script, clock = systemClock, headers = {}, url }: Start = {}) {
  const receiver = await startOtlpReceiver(script)
  const lines: string[] = []
  const traces = createOtlpTraces({
    url: url ?? `${receiver.url}/v1/traces`,
    headers,
    serviceName: 'delta',
    version: '0.1.0',
    clock,
    log: createLogger({ level: 'info', write: (line) => lines.push(line) }),
  })
  ends.push(receiver.close)
  const metrics = createMetrics()
  traces.metrics(metrics)
  const figure = (name: string) =>
    Number(new RegExp(`^delta_trace_spans_${name} (\\d+)$`, 'm').exec(metrics.render())?.[1])
  const events = () => lines.map((line) => (JSON.parse(line) as { event: string }).event)
  return { receiver, traces, figure, events, lines }
}

/** Retries wait as little as they can. */
const hasty: Clock = { ...systemClock, sleep: () => Promise.resolve() }

test('spans come as OTLP, each within the one it is a part of', async () => {
  const { receiver, traces, figure } = await start({ headers: { 'api-key': 'abc' } })
  const run = traces.span('invoke_agent Ann', { 'gen_ai.agent.id': 'agt_a', left: undefined })
  const chat = traces.span('chat m', { tokens: 12 }, { within: run, kind: 'client' })
  chat.end({ reasons: ['stop'], share: 0.5 })
  chat.end({ reasons: ['again'] })
  traces.span('chat m', {}, { within: run, kind: 'client' }).end({}, '429')
  run.end()
  traces.span('another', {}).end()
  await traces.stop()
  expect(receiver.faults).toEqual([])
  expect(receiver.requests).toMatchObject([{ path: '/v1/traces', headers: { 'api-key': 'abc' }, spans: 4 }])
  const [first, second, whole, other] = receiver.spans()
  expect(whole).toMatchObject({
    name: 'invoke_agent Ann',
    kind: 'internal',
    attributes: { 'gen_ai.agent.id': 'agt_a' },
  })
  expect(whole).toMatchObject({ parentSpanId: undefined, isError: false, resource: { 'service.name': 'delta' } })
  expect(Object.keys(whole!.attributes)).toEqual(['gen_ai.agent.id'])
  const within = { traceId: whole!.traceId, parentSpanId: whole!.spanId, kind: 'client' }
  expect(first).toMatchObject({ ...within, attributes: { tokens: 12, reasons: ['stop'], share: 0.5 }, isError: false })
  expect(second).toMatchObject({ ...within, attributes: { 'error.type': '429' }, isError: true })
  expect(other!.traceId).not.toBe(whole!.traceId)
  expect(new Set(receiver.spans().map(({ spanId }) => spanId)).size).toBe(4)
  expect([figure('sent_total'), figure('dropped_total'), figure('waiting')]).toEqual([4, 0, 0])
})

test('a span lasts as long as it did, also where the wall clock jumps', async () => {
  const clock = manualClock(1_750_000_000_000)
  const { receiver, traces } = await start({ clock })
  const span = traces.span('x', {})
  await clock.advance(1_500)
  clock.jump(-3_600_000)
  span.end()
  await traces.stop()
  expect(receiver.spans()[0]!.durationMs).toBe(1_500)
})

test('what a name brings along is cut', async () => {
  const { receiver, traces } = await start()
  traces.span('n'.repeat(10_000), { tool: '😀'.repeat(10_000) }).end()
  await traces.stop()
  const [span] = receiver.spans()
  expect(span!.name).toHaveLength(limits.traceTextChars)
  expect(String(span!.attributes['tool']).length).toBeLessThanOrEqual(limits.traceTextChars)
})

test('few wait for company, many go at once', async () => {
  const clock = manualClock(1_750_000_000_000)
  const { receiver, traces, figure } = await start({ clock })
  traces.span('one', {}).end()
  await clock.advance(limits.traceDelayMs - 1)
  expect(receiver.requests).toEqual([])
  await clock.advance(1)
  await expect.poll(() => figure('sent_total')).toBe(1)
  for (let count = 0; count < limits.traceBatchSpans; count++) traces.span('many', {}).end()
  await expect.poll(() => figure('sent_total')).toBe(1 + limits.traceBatchSpans)
  expect(receiver.requests.map(({ spans }) => spans)).toEqual([1, limits.traceBatchSpans])
  await traces.stop()
})

test('what finds no room is dropped and counted, and nobody waits for it', async () => {
  let letGo = () => {}
  const held = new Promise<void>((resolve) => (letGo = resolve))
  const { receiver, traces, figure } = await start({ script: () => held.then(() => false) })
  for (let count = 0; count < limits.traceSpans + 100; count++) traces.span('x', {}).end()
  expect([figure('waiting'), figure('dropped_total')]).toEqual([limits.traceSpans, 100])
  letGo()
  await traces.stop()
  expect([figure('sent_total'), figure('dropped_total'), figure('waiting')]).toEqual([limits.traceSpans, 100, 0])
  expect(receiver.requests.every(({ spans }) => spans <= limits.traceBatchSpans)).toBe(true)
})

test.each([429, 502, 503, 504])('after %i the same spans are sent again', async (status) => {
  const script: ReceiverScript = (index, response) => {
    if (index === 0) response.writeHead(status, { 'retry-after': '1' }).end()
    return index === 0
  }
  const { receiver, traces, figure, events } = await start({ script, clock: hasty })
  traces.span('x', {}).end()
  await traces.stop()
  expect(receiver.requests[1]!.text).toBe(receiver.requests[0]!.text)
  expect([figure('sent_total'), figure('dropped_total')]).toEqual([1, 0])
  expect(events()).toEqual(['traces_not_sent', 'traces_sent_again'])
})

test.each([400, 401, 404, 302])('after %i they are not, and the log says so once', async (status) => {
  const script: ReceiverScript = (_, response) => {
    response.writeHead(status, { location: 'http://127.0.0.1:1/' }).end('a secret in an answer')
    return true
  }
  const { receiver, traces, figure, events, lines } = await start({ script, headers: { 'api-key': 'planted' } })
  for (let count = 0; count < 2 * limits.traceBatchSpans; count++) traces.span('x', {}).end()
  await traces.stop()
  expect(receiver.requests).toHaveLength(2)
  expect([figure('sent_total'), figure('dropped_total')]).toEqual([0, 2 * limits.traceBatchSpans])
  expect(events()).toEqual(['traces_not_sent'])
  expect(lines.join()).not.toMatch(/planted|a secret/)
})

test('no answer leads to another address', async () => {
  const elsewhere = await startOtlpReceiver()
  ends.push(elsewhere.close)
  const script: ReceiverScript = (_, response) => {
    response.writeHead(307, { location: elsewhere.url }).end()
    return true
  }
  const { traces, figure } = await start({ script, clock: hasty })
  traces.span('x', {}).end()
  await traces.stop()
  expect(elsewhere.requests).toEqual([])
  expect([figure('sent_total'), figure('dropped_total')]).toEqual([0, 1])
})

test('a receiver that is not there is tried a few times', async () => {
  const { traces, figure, events } = await start({ url: 'http://127.0.0.1:1/v1/traces', clock: hasty })
  traces.span('x', {}).end()
  await traces.stop()
  expect([figure('sent_total'), figure('dropped_total')]).toEqual([0, 1])
  expect(events()).toEqual(['traces_not_sent'])
})

test('what a receiver throws away of them counts as dropped', async () => {
  const script: ReceiverScript = (_, response) => {
    response.writeHead(200).end('{"partialSuccess":{"rejectedSpans":"1","errorMessage":"too old"}}')
    return true
  }
  const { traces, figure } = await start({ script })
  for (const name of ['a', 'b', 'c']) traces.span(name, {}).end()
  await traces.stop()
  expect([figure('sent_total'), figure('dropped_total')]).toEqual([2, 1])
})

test('a receiver that says nothing holds up a stop for its bound and no longer', async () => {
  const clock = manualClock(1_750_000_000_000)
  const { receiver, traces, figure } = await start({ clock, script: () => true })
  traces.span('x', {}).end()
  const stopped = traces.stop()
  await expect.poll(() => receiver.requests.length).toBe(1)
  await clock.advance(limits.traceStopMs)
  await stopped
  expect([figure('sent_total'), figure('dropped_total'), figure('waiting')]).toEqual([0, 1, 0])
  traces.span('late', {}).end()
  expect(figure('dropped_total')).toBe(2)
})
