import { createServer } from 'node:http'
import type { IncomingHttpHeaders, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { z } from 'zod'

// What a collector takes: the JSON form of ExportTraceServiceRequest, by opentelemetry-proto 1.10 (trace/v1/trace.proto, common/v1/common.proto). Whatever is not in there is refused, and so
// are ids that are not hexadecimal and times that are numbers.

const scalar = z.union([
  z.strictObject({ stringValue: z.string() }),
  z.strictObject({ intValue: z.string().regex(/^-?[0-9]+$/) }),
  z.strictObject({ doubleValue: z.number() }),
  z.strictObject({ boolValue: z.boolean() }),
])
const anyValue = z.union([scalar, z.strictObject({ arrayValue: z.strictObject({ values: z.array(scalar) }) })])
const attributes = z.array(z.strictObject({ key: z.string().min(1), value: anyValue }))
const nanos = z.string().regex(/^[1-9][0-9]{18}$/)
const spanSchema = z.strictObject({
  traceId: z.string().regex(/^(?!0+$)[0-9a-f]{32}$/),
  spanId: z.string().regex(/^(?!0+$)[0-9a-f]{16}$/),
  parentSpanId: z
    .string()
    .regex(/^(?!0+$)[0-9a-f]{16}$/)
    .optional(),
  name: z.string().min(1),
  kind: z.int().min(1).max(5),
  startTimeUnixNano: nanos,
  endTimeUnixNano: nanos,
  attributes,
  status: z.strictObject({ code: z.int().min(0).max(2).optional(), message: z.string().optional() }),
})
const requestSchema = z.strictObject({
  resourceSpans: z.array(
    z.strictObject({
      resource: z.strictObject({ attributes }),
      scopeSpans: z.array(
        z.strictObject({
          scope: z.strictObject({ name: z.string(), version: z.string() }),
          spans: z.array(spanSchema).min(1),
        }),
      ),
    }),
  ),
})

export interface ReceivedSpan {
  traceId: string
  spanId: string
  parentSpanId: string | undefined
  name: string
  kind: 'internal' | 'client' | 'other'
  durationMs: number
  attributes: Record<string, string | number | string[]>
  isError: boolean
  resource: Record<string, string | number | string[]>
}

export interface OtlpReceiver {
  url: string
  spans(): ReceivedSpan[]
  requests: { path: string; headers: IncomingHttpHeaders; spans: number; text: string }[]
  /** What was no OTLP. */
  faults: string[]
  close(): Promise<void>
}

/** Says what it does with a request, from 0. @default takes it */
export type ReceiverScript = (index: number, response: ServerResponse) => boolean | Promise<boolean>

/** A collector that takes what the specification allows and nothing else. A script that gives true has answered by itself. */
export async function startOtlpReceiver(script: ReceiverScript = () => false): Promise<OtlpReceiver> {
  const requests: OtlpReceiver['requests'] = []
  const taken: ReceivedSpan[] = []
  const faults: string[] = []
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', async () => {
      const text = Buffer.concat(chunks).toString()
      const read = requestSchema.safeParse(JSON.parse(text))
      const spans = read.success ? spansOf(read.data) : []
      const index = requests.length
      requests.push({ path: request.url ?? '', headers: request.headers, spans: spans.length, text })
      if (!read.success) faults.push(z.prettifyError(read.error))
      if (request.method !== 'POST' || request.headers['content-type'] !== 'application/json')
        faults.push('no POST of JSON')
      if (await script(index, response)) return
      if (!read.success) return void response.writeHead(400).end()
      taken.push(...spans)
      response.writeHead(200, { 'content-type': 'application/json' }).end('{"partialSuccess":{}}')
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    spans: () => taken,
    requests,
    faults,
    async close() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

function spansOf({ resourceSpans }: z.output<typeof requestSchema>): ReceivedSpan[] {
  return resourceSpans.flatMap(({ resource, scopeSpans }) =>
    scopeSpans.flatMap(({ spans }) =>
      spans.map((span) => ({
        traceId: span.traceId,
        spanId: span.spanId,
        parentSpanId: span.parentSpanId,
        name: span.name,
        kind: span.kind === 1 ? 'internal' : span.kind === 3 ? 'client' : 'other',
        durationMs: Number(BigInt(span.endTimeUnixNano) - BigInt(span.startTimeUnixNano)) / 1e6,
        attributes: valuesOf(span.attributes),
        isError: span.status.code === 2,
        resource: valuesOf(resource.attributes),
      })),
    ),
  )
}

function valuesOf(list: z.output<typeof attributes>): Record<string, string | number | string[]> {
  return Object.fromEntries(
    list.map(({ key, value }) => [
      key,
      'arrayValue' in value ? value.arrayValue.values.map((one) => String(plain(one))) : plain(value),
    ]),
  )
}

function plain(value: z.output<typeof scalar>): string | number {
  if ('stringValue' in value) return value.stringValue
  if ('intValue' in value) return Number(value.intValue)
  return 'doubleValue' in value ? value.doubleValue : String(value.boolValue)
}
