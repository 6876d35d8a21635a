import { request as httpRequest } from 'node:http'
import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { connect as tlsConnect } from 'node:tls'
import { DeltaError } from '../../kernel/errors.ts'

/** Connects to a host that was judged; throws an error whose message may be shown. */
export type ConnectTo = (target: { host: string; port: number }, signal: AbortSignal) => Promise<Socket>

export interface Answer {
  status: number
  header(name: string): string | undefined
  /** Ends with an error when the connection is cut. Must be read to its end or destroyed. */
  body: IncomingMessage
}

export interface Fetched {
  url: URL
  headers: Record<string, string>
  signal: AbortSignal
  /** Extra authorities, for tests. */
  ca?: string | undefined
}

/** Neither side may be silent for longer. */
const idleMs = 60_000
const headerBytes = 32 * 1024

/** One GET on a connection of its own: what a redirect leads to is judged like everything else. */
export async function fetchOnce(connectTo: ConnectTo, { url, headers, signal, ca }: Fetched): Promise<Answer> {
  const isTls = url.protocol === 'https:'
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1')
  const port = Number(url.port || (isTls ? 443 : 80))
  const socket = await connectTo({ host, port }, signal)
  try {
    const stream = isTls ? await secured(socket, { host, ca, signal }) : socket
    return await exchange(stream, { url, headers, signal })
  } catch (cause) {
    socket.destroy()
    throw cause
  }
}

function secured(
  socket: Socket,
  { host, ca, signal }: { host: string; ca: string | undefined; signal: AbortSignal },
): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const servername = /^[0-9.]+$|:/.test(host) ? '' : host
    const secure = tlsConnect({ socket, host, servername, ALPNProtocols: ['http/1.1'], ...(ca && { ca }) })
    const onAbort = (): void => void secure.destroy(signal.reason as Error)
    signal.addEventListener('abort', onAbort, { once: true })
    secure.setTimeout(idleMs, () => secure.destroy(new Error('no answer in time')))
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

function exchange(socket: Socket, { url, headers, signal }: Omit<Fetched, 'ca'>): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({
      createConnection: () => socket,
      path: url.pathname + url.search,
      headers: { Host: url.host, 'User-Agent': 'delta', Connection: 'close', ...headers },
      maxHeaderSize: headerBytes,
      signal,
    })
    request.setTimeout(idleMs, () => request.destroy(new Error('no answer in time')))
    request.on('error', reject)
    request.once('response', (body) => {
      // Whoever gave up reading has closed it; the error is then nobody's.
      body.on('error', () => {})
      const header = (name: string) => {
        const value = body.headers[name]
        return Array.isArray(value) ? value.join(', ') : value
      }
      resolve({ status: body.statusCode ?? 0, header, body })
    })
    request.end()
  })
}

/** All of a body that may not be longer. */
export async function readAll({ body }: Answer, limitBytes: number, tooLong: () => DeltaError): Promise<Buffer> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of body as AsyncIterable<Buffer>) {
    length += chunk.length
    if (length > limitBytes) {
      body.destroy()
      throw tooLong()
    }
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}
