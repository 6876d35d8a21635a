import { request as httpRequest } from 'node:http'
import type { ClientRequest, IncomingHttpHeaders, IncomingMessage, RequestOptions } from 'node:http'
import { request as httpsRequest } from 'node:https'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { connect as tlsConnect } from 'node:tls'

/** Why a request failed, in words that may be shown. */
export class WebError extends Error {
  override readonly name = 'WebError'
}

/** Connects to a host that was judged. What it rejects with has a message that may be shown. */
export type Connect = (target: { host: string; port: number }, signal: AbortSignal) => Promise<Duplex>
/** The same, by a socket of this machine. */
export type ConnectSocket = (target: { host: string; port: number }, signal: AbortSignal) => Promise<Socket>

export interface WebRequest {
  url: URL
  method: string
  headers: Readonly<Record<string, string>>
  body?: Buffer | undefined
  /** How long it may last, the answer's body included. */
  signal: AbortSignal
  /** Neither side may be silent for longer; over sockets alone. @default no bound but the signal */
  idleMs?: number | undefined
  /** Of the answer. @default 32 KiB */
  headBytes?: number | undefined
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

const ordinaryHeadBytes = 32 * 1024

/** One request on a connection of its own: what a redirect leads to is judged like everything else. */
export async function requestOnce(connect: Connect, wish: WebRequest): Promise<WebAnswer> {
  const { host, port, isTls } = targetOf(wish.url)
  const raw = await connect({ host, port }, wish.signal)
  try {
    const socket = isTls ? await secured(raw, host, wish) : raw
    const request = exchange({ createConnection: () => socket }, wish)
    // It may come paused, with what was read of it put back; from here on somebody listens.
    request.asked.once('socket', () => socket.resume())
    return await request.answer
  } catch (cause) {
    raw.destroy()
    throw cause
  }
}

export function targetOf(url: URL): { host: string; port: number; isTls: boolean } {
  const isTls = url.protocol === 'https:'
  return { host: url.hostname.replace(/^\[(.*)\]$/, '$1'), port: Number(url.port || (isTls ? 443 : 80)), isTls }
}

function secured(socket: Duplex, host: string, { ca, signal, idleMs }: WebRequest): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    // A literal address is no name; the certificate must have it all the same.
    const servername = /^[0-9.]+$|:/.test(host) ? '' : host
    const secure = tlsConnect({ socket, host, servername, ALPNProtocols: ['http/1.1'], ...(ca && { ca }) })
    const onAbort = (): void => void secure.destroy(signal.reason as Error)
    if (idleMs !== undefined) secure.setTimeout(idleMs, () => secure.destroy(new WebError('no answer in time')))
    secure.once('secureConnect', () => {
      signal.removeEventListener('abort', onAbort)
      resolve(secure)
    })
    secure.once('close', () => {
      signal.removeEventListener('abort', onAbort)
      reject(new WebError('the connection was closed before it was secured'))
    })
    // Stays: an error event that nobody hears would end the server.
    secure.on('error', (cause) => {
      signal.removeEventListener('abort', onAbort)
      reject(cause)
    })
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
  })
}

/** The same on a connection that is kept for the next one, if `by` has an agent. */
export function exchange(
  by: Pick<RequestOptions, 'agent' | 'createConnection'>,
  { url, method, headers, body, signal, idleMs, headBytes = ordinaryHeadBytes }: WebRequest,
): { asked: ClientRequest; answer: Promise<WebAnswer> } {
  const { host, port, isTls } = targetOf(url)
  const ask = by.agent && isTls ? httpsRequest : httpRequest
  const asked = ask({
    ...by,
    host,
    port,
    method,
    path: url.pathname + url.search,
    headers: {
      Host: url.host,
      'User-Agent': 'delta',
      ...(!by.agent && { Connection: 'close' }),
      ...headers,
      ...(body && { 'Content-Length': String(body.length) }),
    },
    maxHeaderSize: headBytes,
    signal,
  })
  const answer = new Promise<WebAnswer>((resolve, reject) => {
    if (idleMs !== undefined) asked.setTimeout(idleMs, () => asked.destroy(new WebError('no answer in time')))
    asked.on('error', reject)
    neverAnswered(asked, reject)
    asked.once('response', (incoming) => {
      // Whoever gave up reading has closed it; the error is then nobody's.
      incoming.on('error', () => {})
      const { statusCode = 0, statusMessage = '' } = incoming
      resolve({ status: statusCode, statusText: statusMessage, headers: incoming.headers, body: incoming })
    })
  })
  asked.end(body)
  return { asked, answer }
}

/** Of an answer that changes the protocol, and of a connection that closes without one, Node tells neither as an answer nor as an error. After an answer it says nothing. */
function neverAnswered(request: ClientRequest, reject: (why: Error) => void): void {
  request.once('upgrade', (_answer, upgraded) => {
    upgraded.destroy()
    reject(new WebError('it answered with another protocol (101)'))
  })
  request.once('close', () => reject(new WebError('the connection was closed before it answered')))
}
