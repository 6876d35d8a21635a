import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { Delta } from '../src/index.ts'

export interface SeenRequest {
  method: string
  /** Path with query. */
  target: string
  headers: IncomingMessage['headers']
  body: string
}

export interface Peer {
  url: string
  delta: Delta
  requests: SeenRequest[]
  close(): Promise<void>
}

export type Answer = (request: SeenRequest, response: ServerResponse) => void | Promise<void>

/** A server that speaks the API's format and does exactly what a test scripts, one answer a request; the last one repeats. */
export async function startPeer(...answers: Answer[]): Promise<Peer> {
  const requests: SeenRequest[] = []
  const server = createServer(async (incoming, response) => {
    const parts: Buffer[] = []
    for await (const part of incoming) parts.push(part as Buffer)
    const request = {
      method: incoming.method ?? '',
      target: incoming.url ?? '',
      headers: incoming.headers,
      body: Buffer.concat(parts).toString('latin1'),
    }
    requests.push(request)
    await (answers[Math.min(requests.length, answers.length) - 1] ?? notScripted)(request, response)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  const url = `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`
  return {
    url,
    delta: new Delta({ url, apiKey: 'test-key' }),
    requests,
    async close() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

const notScripted: Answer = (request, response) => {
  response.writeHead(500).end(`no answer was scripted for ${request.method} ${request.target}`)
}

export const json =
  (status: number, body: unknown, headers: Record<string, string> = {}): Answer =>
  (_, response) => {
    response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
  }

export const failure = (status: number, code: string, headers: Record<string, string> = {}): Answer =>
  json(
    status,
    { error: { code, message: `it was ${code}`, remediation: `mend ${code}`, requestId: 'req_1', cause: 'a reason' } },
    headers,
  )

/** Breaks the connection without an answer. */
export const hangUp: Answer = (_, response) => void response.destroy()

/** Events as the server sends them; `cut` breaks the connection after them instead of ending the stream. */
export const events =
  (list: { event: string; data: unknown; id?: number }[], { cut = false }: { cut?: boolean } = {}): Answer =>
  (_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    const text = list
      .map(
        ({ event, data, id }) =>
          `event: ${event}\n${id === undefined ? '' : `id: ${id}\n`}data: ${JSON.stringify(data)}\n\n`,
      )
      .join('')
    if (!cut) return void response.end(`: keepalive\n\n${text}`)
    response.write(text, () => setTimeout(() => response.destroy(), 20))
  }

export const output = (stream: 'stdout' | 'stderr', offset: number, text: string | Buffer) => {
  const bytes = Buffer.from(text)
  return {
    event: stream,
    id: offset + bytes.length,
    data: { data: bytes.toString('base64'), offset, encoding: 'base64' },
  }
}

export const execStart = { event: 'start', data: { id: 'exe_1', pid: 7 } }

export const execInfo = {
  id: 'exe_1',
  pid: 7,
  state: 'exited',
  exitCode: 0,
  signal: null,
  timedOut: false,
  oomKilled: false,
  durationMs: 3,
  outputBytes: 0,
  tag: '',
}

export const execExit = { event: 'exit', data: execInfo }

export const sandboxInfo = {
  id: 'sbx_1',
  state: 'running',
  template: 'host',
  runtime: 'crun',
  metadata: {},
  cpu: 1,
  memoryMb: 512,
  diskMb: 4096,
  processes: 512,
  timeoutMs: 300_000,
  onTimeout: 'kill',
  autoResume: true,
  network: { egress: 'none' },
  createdAt: '2030-01-01T00:00:00.000Z',
  startedAt: '2030-01-01T00:00:00.000Z',
  endAt: '2030-01-01T00:05:00.000Z',
  reason: null,
  isolation: { runtime: 'crun' },
}
