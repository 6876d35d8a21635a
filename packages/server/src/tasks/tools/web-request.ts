import { request as httpRequest } from 'node:http'
import type { ClientRequest, IncomingHttpHeaders, IncomingMessage } from 'node:http'
import { Readable, type Duplex } from 'node:stream'
import { connect as tlsConnect } from 'node:tls'
import { createBrotliDecompress, createUnzip } from 'node:zlib'

/** Why a request failed, in words that may be shown. */
export class WebError extends Error {
  override readonly name = 'WebError'
}

/** Connects to a host that was judged. What it rejects with has a message that may be shown. */
export type Connect = (target: { host: string; port: number }, signal: AbortSignal) => Promise<Duplex>

export interface WebRequest {
  url: URL
  method: string
  headers: Readonly<Record<string, string>>
  body?: Buffer | undefined
  signal: AbortSignal
  /** Extra authorities, for tests. */
  ca?: string | undefined
}

export interface WebAnswer {
  status: number
  statusText: string
  headers: IncomingHttpHeaders
  /** Ends with an error when the connection is cut. Must be read to its end or destroyed. */
  body: IncomingMessage
}

const headerBytes = 32 * 1024

/** One request on a connection of its own: what a redirect leads to is judged like everything else. How long it may last says the signal, also of the body. */
export async function requestOnce(connect: Connect, wish: WebRequest): Promise<WebAnswer> {
  const { url, signal } = wish
  const { host, port, isTls } = targetOf(url)
  const raw = await connect({ host, port }, signal)
  try {
    const stream = isTls ? await secured(raw, { ...wish, host }) : raw
    return await exchange(stream, wish)
  } catch (cause) {
    raw.destroy()
    throw cause
  }
}

export function targetOf(url: URL): { host: string; port: number; isTls: boolean } {
  const isTls = url.protocol === 'https:'
  return { host: url.hostname.replace(/^\[(.*)\]$/, '$1'), port: Number(url.port || (isTls ? 443 : 80)), isTls }
}

function secured(socket: Duplex, { host, ca, signal }: WebRequest & { host: string }): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    const servername = /^[0-9.]+$|:/.test(host) ? '' : host
    const secure = tlsConnect({ socket, host, servername, ALPNProtocols: ['http/1.1'], ...(ca && { ca }) })
    const onAbort = (): void => void secure.destroy(signal.reason as Error)
    signal.addEventListener('abort', onAbort, { once: true })
    secure.once('secureConnect', () => {
      signal.removeEventListener('abort', onAbort)
      resolve(secure)
    })
    // Stays: an error event that nobody hears would end the server.
    secure.on('error', (cause) => {
      signal.removeEventListener('abort', onAbort)
      reject(cause)
    })
  })
}

function exchange(socket: Duplex, { url, method, headers, body, signal }: WebRequest): Promise<WebAnswer> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({
      createConnection: () => socket,
      method,
      path: url.pathname + url.search,
      headers: {
        Host: url.host,
        'User-Agent': 'delta',
        Connection: 'close',
        ...headers,
        ...(body && { 'Content-Length': String(body.length) }),
      },
      maxHeaderSize: headerBytes,
      signal,
    })
    request.on('error', reject)
    neverAnswered(request, reject)
    // It comes paused, with what was read of it put back; from here on somebody listens.
    request.once('socket', () => socket.resume())
    request.once('response', (answer) => {
      // Whoever gave up reading has closed it; the error is then nobody's.
      answer.on('error', () => {})
      const { statusCode = 0, statusMessage = '' } = answer
      resolve({ status: statusCode, statusText: statusMessage, headers: answer.headers, body: answer })
    })
    request.end(body)
  })
}

/** Of an answer that changes the protocol, and of a connection that closes without one, Node tells neither as an answer nor as an error. After an answer it says nothing. */
function neverAnswered(request: ClientRequest, reject: (why: Error) => void): void {
  request.once('upgrade', (_answer, upgraded) => {
    upgraded.destroy()
    reject(new WebError('it answered with another protocol (101)'))
  })
  request.once('close', () => reject(new WebError('the connection was closed before it answered')))
}

export interface ReadBody {
  bytes: Buffer
  /** There was more, which was not read. */
  isCut: boolean
}

/** The beginning of a body, as it was before it was compressed. */
export async function readBody({ body, headers }: WebAnswer, mostBytes: number): Promise<ReadBody> {
  const source = decoded(body, headers['content-encoding'])
  const chunks: Buffer[] = []
  let length = 0
  try {
    for await (const chunk of source as AsyncIterable<Buffer>) {
      chunks.push(chunk.subarray(0, mostBytes - length))
      length += chunk.length
      if (length > mostBytes) break
    }
  } finally {
    body.destroy()
    source.destroy()
  }
  return { bytes: Buffer.concat(chunks), isCut: length > mostBytes }
}

function decoded(body: Readable, encoding: string | undefined): Readable {
  const how = encoding?.trim().toLowerCase()
  if (how === undefined || how === '' || how === 'identity') return body
  const unpack =
    how === 'br' ? createBrotliDecompress() : how === 'gzip' || how === 'deflate' ? createUnzip() : undefined
  if (!unpack) throw new WebError(`the answer is compressed as ${how.slice(0, 40)}, which is not understood`)
  body.on('error', (error) => unpack.destroy(error))
  return body.pipe(unpack)
}

/** What a library asks for in place of the global `fetch`: by connections that were judged, without following where an answer leads. */
export function fetchBy(connect: Connect, { ca }: { ca?: string | undefined } = {}): typeof globalThis.fetch {
  return async (asked, init = {}) => {
    const url = new URL(asked instanceof Request ? asked.url : asked)
    const headers = Object.fromEntries(new Headers(init.headers))
    const body = typeof init.body === 'string' ? Buffer.from(init.body) : undefined
    if (init.body !== undefined && init.body !== null && !body) throw new TypeError('only texts are sent')
    const signal = init.signal ?? new AbortController().signal
    const answer = await requestOnce(connect, { url, method: init.method ?? 'GET', headers, body, signal, ca })
    const shown = new Headers()
    for (const [name, value] of Object.entries(answer.headers)) {
      if (value !== undefined) shown.set(name, Array.isArray(value) ? value.join(', ') : value)
    }
    const { status, statusText } = answer
    const hasBody = status !== 204 && status !== 205 && status !== 304
    if (!hasBody) answer.body.destroy()
    const stream = hasBody ? (Readable.toWeb(answer.body) as ReadableStream<Uint8Array>) : null
    return new Response(stream, { status, statusText: statusText.replaceAll(/[^\x20-\x7e]/g, '?'), headers: shown })
  }
}
