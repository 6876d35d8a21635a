import { createHmac } from 'node:crypto'
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/**
 * A stand-in for a provider: a real HTTP server on the loopback that speaks its streaming format and says what was scripted. It looks at requests as closely as the real one. Nothing here
 * but Node is needed, so tests, figures and examples use it alike, a thousand requests at once.
 */
export interface ScriptedPeer {
  name: 'anthropic' | 'google' | 'openai'
  /** The base URL of its API, as an operator would configure it. */
  url: string
  /** The only key it takes. */
  key: string
  /** One for each request to come, in order. */
  script(...replies: readonly Script[]): void
  /** What is said when all that was scripted is used up. @default a refusal of the request */
  otherwise(reply: Script): void
  /** Those that came, in order; of a great many only the last. */
  requests(): readonly PeerRequest[]
  close(): Promise<void>
}

/** What is said to one request; a function decides when it has come. */
export type Script = PeerReply | ((request: PeerRequest) => PeerReply | Promise<PeerReply>)

export interface PeerReply {
  parts?: readonly PeerPart[]
  /** @default `tool_calls` after a call of a tool, else `end` */
  stop?: 'end' | 'tool_calls' | 'cut' | 'refused'
  /** What is not given is counted. */
  usage?: Partial<PeerUsage>
  /** An answer that is no success, instead of the parts. */
  refusal?: PeerRefusal
  /** An error within the stream, after so many events. */
  broken?: PeerRefusal & { afterEvents: number }
  /** The connection is torn after so many bytes of the answer's body. */
  cutAtByte?: number
  /** Texts and inputs come in pieces of so many characters. @default 24 */
  pieceChars?: number
  /** Pause before each event. @default 0, and then all of it goes out at once */
  pieceMs?: number
  /** Pause before the answer begins. */
  firstMs?: number
  /** The answer's bytes go out so many at a time, wherever that cuts them. */
  chunkBytes?: number
}

export type PeerPart =
  | { type: 'text'; text: string }
  /** `isHidden`: not a word of it is shown, only what proves it. */
  | { type: 'thinking'; text: string; isHidden?: boolean }
  /** A text goes out as it is, valid JSON or not. */
  | { type: 'tool_call'; tool: string; input: string | object; callId?: string }

export interface PeerUsage {
  input: number
  cacheRead: number
  cacheWrite: number
  cacheWriteHour: number
  output: number
}

export interface PeerRefusal {
  status: number
  /** @default the provider's own for that status */
  type?: string
  /** @default says the status */
  message?: string
  headers?: Record<string, string>
}

export interface PeerRequest {
  path: string
  headers: IncomingHttpHeaders
  body: Readonly<Record<string, unknown>>
  bodyBytes: number
  model: string
  system: string
  /** Names of the tools it may call. */
  tools: readonly string[]
  maxOutputTokens: number | undefined
  /** How many times the model has spoken in this conversation: 0 at the first step. */
  replies: number
  /** What people said last, and the results of tools that came with it. */
  lastText: string
  results: readonly { callId: string; text: string }[]
  /** What was answered; undefined before that. */
  status: number | undefined
  /** Whether the connection was closed by the other side before the end. */
  isAborted: boolean
  /** When its head was there, and when the last of the answer left, by `performance.now()`: what the peer itself takes lies between. */
  receivedAt: number
  answeredAt: number | undefined
}

/** What tells one provider's peer from another's. */
export interface Protocol {
  name: ScriptedPeer['name']
  /** Before the path of every request. */
  prefix: string
  isPath(path: string): boolean
  keyOf(headers: IncomingHttpHeaders): string | undefined
  /** What is wrong with it, in the provider's words. */
  fault(body: Readonly<Record<string, unknown>>, path: string): string | undefined
  read(body: Readonly<Record<string, unknown>>, path: string): Omit<PeerRequest, keyof Arrived>
  refusal(refusal: PeerRefusal): object
  invalidKey: PeerRefusal
  /** The answer, event by event, as it goes over the wire. */
  events(reply: SettledReply, request: PeerRequest): string[]
  /** Of an error in the middle of them. */
  brokenEvent(refusal: PeerRefusal): string
  countInput(body: Readonly<Record<string, unknown>>): number
}

type Arrived = Pick<
  PeerRequest,
  'path' | 'headers' | 'body' | 'bodyBytes' | 'status' | 'isAborted' | 'receivedAt' | 'answeredAt'
>

export interface SettledReply {
  parts: readonly (PeerPart & { callId?: string })[]
  stop: NonNullable<PeerReply['stop']>
  usage: PeerUsage
  pieceChars: number
  id: string
}

export interface PeerOptions {
  /** Requests that are kept to be asked for. @default 1,000 */
  kept?: number
  /** @default a key of its own */
  key?: string
}

const bodyBytesMax = 64 * 1024 * 1024

export async function startPeer(protocol: Protocol, options: PeerOptions = {}): Promise<ScriptedPeer> {
  const { kept = 1_000, key = `${protocol.name}-key-of-the-peer-${'x'.repeat(24)}` } = options
  const scripted: Script[] = []
  let otherwise: Script = { refusal: { status: 400, message: 'Nothing is scripted for this request.' } }
  let arrived: PeerRequest[] = []
  /** Those that were cut here, as scripted, and not by who asked. */
  const torn = new WeakSet<ServerResponse>()
  let count = 0

  async function answer(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const receivedAt = performance.now()
    const path = incoming.url ?? '/'
    const turnDown = (refusal: PeerRefusal) => {
      response.writeHead(refusal.status, { 'content-type': 'application/json', ...refusal.headers })
      response.end(JSON.stringify(protocol.refusal(refusal)))
    }
    const bytes = await readBody(incoming)
    if (incoming.method !== 'POST' || !path.startsWith(protocol.prefix)) return turnDown({ status: 404 })
    const inner = path.slice(protocol.prefix.length)
    if (!protocol.isPath(inner)) return turnDown({ status: 404, message: `There is no ${inner}.` })
    if (protocol.keyOf(incoming.headers) !== key) return turnDown(protocol.invalidKey)
    const body = parsed(bytes)
    if (body === undefined) return turnDown({ status: 400, message: 'The body is no JSON object.' })
    const fault = protocol.fault(body, inner)
    if (fault !== undefined) return turnDown({ status: 400, message: fault })

    const request: PeerRequest = {
      ...protocol.read(body, inner),
      path,
      headers: incoming.headers,
      body,
      bodyBytes: bytes.length,
      status: undefined,
      isAborted: false,
      receivedAt,
      answeredAt: undefined,
    }
    arrived.push(request)
    if (arrived.length >= 2 * kept) arrived = arrived.slice(-kept)
    response.once('close', () => {
      request.isAborted = !response.writableFinished && !torn.has(response)
    })
    const script = scripted.shift() ?? otherwise
    const reply = typeof script === 'function' ? await script(request) : script
    if (reply.firstMs !== undefined) await sleep(reply.firstMs)
    if (response.destroyed) return
    request.status = reply.refusal?.status ?? 200
    if (reply.refusal) return turnDown(reply.refusal)
    const events = protocol.events(settled(reply, request, String(++count)), request)
    response.once('finish', () => {
      request.answeredAt ??= performance.now()
    })
    await stream(response, reply, events)
  }

  async function stream(response: ServerResponse, reply: PeerReply, events: string[]): Promise<void> {
    response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' })
    const { broken, cutAtByte, pieceMs = 0, chunkBytes } = reply
    const said = broken ? [...events.slice(0, broken.afterEvents), protocol.brokenEvent(broken)] : events
    if (cutAtByte === undefined && pieceMs === 0 && chunkBytes === undefined) return void response.end(said.join(''))
    let leftBytes = cutAtByte ?? Infinity
    const pieces = chunkBytes === undefined ? said.map((event) => Buffer.from(event)) : cutUp(said, chunkBytes)
    for (const piece of pieces) {
      if (pieceMs > 0) await sleep(pieceMs)
      if (response.destroyed) return
      const part = piece.subarray(0, Math.min(piece.length, leftBytes))
      leftBytes -= part.length
      await new Promise<void>((resolve) => response.write(part, () => resolve()))
      if (leftBytes === 0) {
        torn.add(response)
        return void response.destroy()
      }
    }
    response.end()
  }

  function settled(reply: PeerReply, request: PeerRequest, id: string): SettledReply {
    const { parts = [], stop, usage, pieceChars = 24 } = reply
    const named = parts.map((part, at) => {
      return part.type === 'tool_call' ? { ...part, callId: part.callId ?? `call_${id}_${at}` } : part
    })
    const called = parts.some(({ type }) => type === 'tool_call')
    const counted = { input: protocol.countInput(request.body), cacheRead: 0, cacheWrite: 0, cacheWriteHour: 0 }
    return {
      parts: named,
      stop: stop ?? (called ? 'tool_calls' : 'end'),
      usage: { ...counted, output: countOutput(parts), ...usage },
      pieceChars,
      id,
    }
  }

  const server = createServer((incoming, response) => {
    answer(incoming, response).catch((error: unknown) => {
      // A mistake in a script: its test fails with these words.
      if (!response.headersSent) response.writeHead(400, { 'content-type': 'application/json' })
      response.end(JSON.stringify(protocol.refusal({ status: 400, message: `The script failed: ${String(error)}` })))
    })
  })
  // Its clients keep connections for the next step, however long a tool takes.
  server.keepAliveTimeout = 60_000
  await new Promise<void>((resolve) => server.listen({ port: 0, host: '127.0.0.1', backlog: 2_048 }, resolve))
  const { port } = server.address() as AddressInfo

  return {
    name: protocol.name,
    url: `http://127.0.0.1:${port}${protocol.prefix}`,
    key,
    script: (...replies) => void scripted.push(...replies),
    otherwise(reply) {
      otherwise = reply
    },
    requests: () => arrived.slice(-kept),
    async close() {
      const closed = new Promise((resolve) => server.close(resolve))
      server.closeAllConnections()
      await closed
    },
  }
}

async function readBody(incoming: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size > bodyBytesMax) throw new Error(`the body is larger than ${bodyBytesMax} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

function parsed(bytes: Buffer): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(bytes.toString())
    return isRecord(value) ? value : undefined
  } catch {
    return undefined
  }
}

function cutUp(events: string[], chunkBytes: number): Buffer[] {
  const all = Buffer.from(events.join(''))
  return Array.from({ length: Math.ceil(all.length / chunkBytes) }, (_, at) =>
    all.subarray(at * chunkBytes, (at + 1) * chunkBytes),
  )
}

/** In pieces of so many characters; an empty text is no piece. */
export function piecesOf(text: string, chars: number): string[] {
  const all = [...text]
  return Array.from({ length: Math.ceil(all.length / chars) }, (_, at) =>
    all.slice(at * chars, (at + 1) * chars).join(''),
  )
}

/** The input of a call as it goes out. */
export function inputText(input: string | object): string {
  return typeof input === 'string' ? input : JSON.stringify(input)
}

/** As a tokenizer would: short runs of letters or digits are one, everything else is one for each byte. No token is less than a byte. */
export function countTokens(text: string): number {
  let count = 0
  for (const [piece] of text.matchAll(/ ?[A-Za-z]{1,4}|[0-9]{1,3}|[^]/gu)) {
    count += /^ ?[A-Za-z0-9]/.test(piece) ? 1 : Buffer.byteLength(piece)
  }
  return count
}

function countOutput(parts: readonly PeerPart[]): number {
  return parts.reduce((sum, part) => {
    const text = part.type === 'tool_call' ? part.tool + inputText(part.input) : part.text
    return sum + countTokens(text)
  }, 1)
}

/** What a provider puts at its thinking, so that only it knows it again, unchanged and for the same model. */
export function signatureOf(provider: string, model: string, about: string): string {
  return createHmac('sha256', `signatures of ${provider}`).update(`${model}\0${about}`).digest('base64')
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export function recordsOf(value: unknown): Record<string, unknown>[] {
  return Array.isArray(value) ? value.filter(isRecord) : []
}

export function textOf(value: unknown): string {
  return typeof value === 'string' ? value : ''
}

/** One event of a stream that names its events, and of one that does not. */
export function eventOf(data: object, name?: string): string {
  return `${name === undefined ? '' : `event: ${name}\n`}data: ${JSON.stringify(data)}\n\n`
}

export function say(text: string): PeerReply {
  return { parts: [{ type: 'text', text }] }
}

export function callTool(tool: string, input: string | object): PeerReply {
  return { parts: [{ type: 'tool_call', tool, input }] }
}

export function refuse(status: number, options: Omit<PeerRefusal, 'status'> = {}): PeerReply {
  return { refusal: { status, ...options } }
}
