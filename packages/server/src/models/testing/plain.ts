import { createServer } from 'node:http'
import type { IncomingHttpHeaders, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { ProviderFailure } from '../provider.ts'
import type { Provider, ProviderName, Usage, UsageReader } from '../provider.ts'

// The plainest provider there could be, over real HTTP: so that tests of what is held and paid for do not hang on anybody's format. A request is one JSON object; an answer is
// lines of JSON: `{"usage":…}` what was used so far, `{"text":…}` a piece, `{"end":…}` the end with all that was used.

export interface PlainBody {
  model: string
  text: string
  maxTokens: number
}

export interface Asked {
  body: PlainBody
  headers: IncomingHttpHeaders
  path: string
  /** From 0. */
  index: number
}

/** What a peer does, one after the other: a line, to wait, or to cut the connection. */
export type Act = { line: object } | { raw: string } | { wait: () => Promise<unknown> } | 'cut'
export interface Script {
  status?: number
  headers?: Record<string, string>
  acts: readonly Act[]
  /** Cuts the connection before any header. */
  cutAtOnce?: true
}

export const used = (input: number, output: number, more: Partial<Usage> = {}): Usage => ({
  input,
  cacheRead: 0,
  cacheWrite: 0,
  cacheWriteHour: 0,
  output,
  ...more,
})

/** An answer of `text` that says it used so much. */
export function answering(usage: Usage, text = 'Hello'): Script {
  const { output: _, ...input } = usage
  return { acts: [{ line: { usage: input } }, { line: { text } }, { line: { end: usage } }] }
}

export interface PlainPeer {
  url: string
  asked: Asked[]
  close(): Promise<void>
}

/** `served`: what it says when it is asked which models it has. */
export async function startPlainPeer(
  script: (asked: Asked) => Script | Promise<Script>,
  { served = (): string => '{"data":[]}' } = {},
): Promise<PlainPeer> {
  const asked: Asked[] = []
  const server = createServer((request, response) => {
    if (request.method === 'GET') return void response.end(served())
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const body = JSON.parse(Buffer.concat(chunks).toString()) as PlainBody
      const one = { body, headers: request.headers, path: request.url!, index: asked.length }
      asked.push(one)
      void Promise.resolve(script(one)).then((reply) => act(response, reply))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked,
    async close() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

async function act(response: ServerResponse, { status = 200, headers = {}, acts, cutAtOnce }: Script): Promise<void> {
  if (cutAtOnce) return void response.destroy()
  response.writeHead(status, headers)
  response.flushHeaders()
  for (const one of acts) {
    if (one === 'cut') return void response.destroy()
    if ('wait' in one) await one.wait()
    else response.write('raw' in one ? one.raw : `${JSON.stringify(one.line)}\n`)
  }
  response.end()
}

interface Line {
  usage?: Partial<Usage>
  text?: string
  end?: Usage
}

function linesOf() {
  const decoder = new TextDecoder()
  let rest = ''
  return (bytes: Uint8Array): Line[] => {
    const all = (rest + decoder.decode(bytes, { stream: true })).split('\n')
    rest = all.pop()!
    return all.filter((text) => text !== '').map((text) => JSON.parse(text) as Line)
  }
}

function usageReader(): UsageReader {
  const read = linesOf()
  let reported: Partial<Usage> = {}
  let received = 0
  let ended = false
  return {
    push(bytes) {
      for (const { usage, text = '', end } of read(bytes)) {
        reported = { ...reported, ...usage, ...end }
        received += Buffer.byteLength(text)
        ended ||= end !== undefined
      }
    },
    reported: () => reported,
    receivedBound: () => received,
    ended: () => ended,
  }
}

export function plainProvider(name: ProviderName): Provider {
  return {
    name,
    async *stream({ model, messages, maxOutputTokens }, { endpoint, fetch, signal }) {
      const text = messages.flatMap(({ parts }) => parts.map((part) => ('text' in part ? part.text : ''))).join('\n')
      const body = JSON.stringify({ model, text, maxTokens: maxOutputTokens } satisfies PlainBody)
      const headers = { authorization: `Bearer ${endpoint.apiKey}`, 'x-provider': name }
      const response = await fetch(`${endpoint.baseUrl}/ask`, { method: 'POST', body, headers, signal })
      if (!response.ok) throw await failureOf(response)
      const read = linesOf()
      let whole = ''
      for await (const bytes of response.body!) {
        for (const { text: piece, end } of read(bytes)) {
          if (piece !== undefined) {
            whole += piece
            yield { type: 'delta', of: 'text', text: piece }
          }
          if (!end) continue
          yield { type: 'part', part: { type: 'text', text: whole } }
          yield { type: 'end', stop: 'end', raw: 'end' }
        }
      }
    },
    wire: {
      inputBound: (_body, bodyBytes) => bodyBytes,
      outputLimit: (body) => body['maxTokens'] as number | undefined,
      withOutputLimit: (body, maxTokens) => ({ ...body, maxTokens }),
      usageReader,
    },
  }
}

async function failureOf(response: Response): Promise<ProviderFailure> {
  const { status } = response
  const kind =
    status === 429
      ? 'limited'
      : status >= 500
        ? 'unavailable'
        : [401, 403].includes(status)
          ? 'key'
          : status === 413
            ? 'too_long'
            : 'request'
  const after = response.headers.get('retry-after')
  return new ProviderFailure(kind, await response.text(), {
    status,
    retryAfterMs: after === null ? undefined : Number(after) * 1_000,
  })
}
