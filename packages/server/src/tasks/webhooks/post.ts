import { request as httpRequest } from 'node:http'
import type { Socket } from 'node:net'
import { connect as tlsConnect } from 'node:tls'
import { webhookLimits } from './limits.ts'

/** Connects to a host whose address was judged; throws an error whose message may be shown. */
export type ConnectTo = (target: { host: string; port: number }, signal: AbortSignal) => Promise<Socket>

export interface Network {
  /** To public addresses, and those that the operator lists. */
  connect: ConnectTo
  /** To those that the operator lists alone. */
  connectListed: ConnectTo
  /** Where a name leads, without a packet to it. `unknown`: nobody could say now. */
  judge(host: string): Promise<'public' | 'listed' | 'refused' | 'unknown'>
  /** Extra authorities, for tests. */
  ca?: string | undefined
}

export interface Posted {
  status: number
  retryAfter: string | undefined
}

export function hostOf(url: URL): string {
  return url.hostname.replace(/^\[(.*)\]$/, '$1')
}

/** One POST on a connection of its own, of whose answer only the head is read. Nothing is followed. */
export async function post(
  { connect, connectListed, ca }: Network,
  { url, headers, body, signal }: { url: URL; headers: Record<string, string>; body: string; signal: AbortSignal },
): Promise<Posted> {
  const isTls = url.protocol === 'https:'
  const host = hostOf(url)
  const port = Number(url.port || (isTls ? 443 : 80))
  // What is not encrypted stays where the operator says.
  const socket = await (isTls ? connect : connectListed)({ host, port }, signal)
  try {
    const stream = isTls ? await secured(socket, { host, ca, signal }) : socket
    return await exchange(stream, { url, headers, body, signal })
  } finally {
    socket.destroy()
  }
}

function secured(
  socket: Socket,
  { host, ca, signal }: { host: string; ca: string | undefined; signal: AbortSignal },
): Promise<Socket> {
  return new Promise((resolve, reject) => {
    // A literal address is no name; the certificate must have it all the same.
    const servername = /^[0-9.]+$|:/.test(host) ? '' : host
    const secure = tlsConnect({ socket, host, servername, ALPNProtocols: ['http/1.1'], ...(ca && { ca }) })
    const onAbort = (): void => void secure.destroy(signal.reason as Error)
    if (signal.aborted) onAbort()
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

function exchange(
  socket: Socket,
  { url, headers, body, signal }: { url: URL; headers: Record<string, string>; body: string; signal: AbortSignal },
): Promise<Posted> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({
      createConnection: () => socket,
      method: 'POST',
      path: url.pathname + url.search,
      headers: {
        Host: url.host,
        'User-Agent': 'delta-webhooks',
        'Content-Type': 'application/json',
        'Content-Length': String(Buffer.byteLength(body)),
        Connection: 'close',
        ...headers,
      },
      maxHeaderSize: webhookLimits.headBytes,
      signal,
    })
    // Stays too.
    request.on('error', reject)
    // Of these Node tells neither as an answer nor as an error. After an answer they say nothing.
    request.once('upgrade', (_answer, upgraded) => {
      upgraded.destroy()
      reject(new Error('It answered with another protocol (101)'))
    })
    request.once('close', () => reject(new Error('The connection was closed before it answered')))
    request.once('response', (answer) => {
      answer.on('error', () => {})
      resolve({ status: answer.statusCode ?? 0, retryAfter: answer.headers['retry-after'] })
      answer.destroy()
    })
    request.end(body)
  })
}
