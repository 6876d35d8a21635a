import { createServer } from 'node:http'
import type { IncomingMessage, Server } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { getRequestListener } from '@hono/node-server'
import { DeltaError } from '../errors.ts'
import { newId } from '../ids.ts'
import { limits } from '../limits.ts'
import type { Api } from './api.ts'
import { type Front, refuseRequest, refuseUpgrade, wantsWebSocket } from './front.ts'
import { repeatedFault } from './repeated.ts'

export interface HttpServer {
  port: number
  /** Takes no more connections and closes idle ones; requests under way go on. */
  stopAccepting(): void
  /** Cuts what is left. */
  close(): Promise<void>
}

export interface ListenOptions {
  /** 0: a free one. */
  port: number
  host: string
  /** Asked before the API, in this order. @default none */
  fronts?: readonly Front[]
  /** @default limits.requestHeaderMs */
  requestHeaderMs?: number
}

/** Serves the app on a port, with every wait and size bounded. */
export async function listen(
  api: Api,
  { port, host, fronts = [], requestHeaderMs = limits.requestHeaderMs }: ListenOptions,
): Promise<HttpServer> {
  const options = {
    headersTimeout: requestHeaderMs,
    // How often Node looks for those that are late; by itself after half a minute.
    connectionsCheckingInterval: requestHeaderMs / 4,
    // An upload may take hours; readers of bodies have bounds of their own.
    requestTimeout: 0,
    keepAliveTimeout: limits.keepAliveMs,
    maxHeaderSize: limits.requestHeaderBytes,
    // Node would refuse it without a word of explanation; the listener's answer has one.
    requireHostHeader: false,
    shouldUpgradeCallback: wantsWebSocket,
  }
  const serveApi = getRequestListener(api.fetch, { errorHandler: answerUnreadable, hostname: host })
  const server = createServer(options, (request, response) => {
    const fault = repeatedFault(request, 'host')
    if (fault) refuseRequest(response, fault)
    else if (!fronts.some((front) => front.request?.(request, response))) void serveApi(request, response)
  })
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    const fault = repeatedFault(request, 'host')
    if (fault) refuseUpgrade(socket, fault)
    else if (!fronts.some((front) => front.upgrade?.(request, socket, head)))
      refuseUpgrade(socket, noWebSocket(request))
  })
  server.maxConnections = limits.connections
  server.on('clientError', answerClientError)
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen({ port, host }, () => {
      server.off('error', reject)
      resolve()
    })
  }).catch((cause: NodeJS.ErrnoException) => {
    throw cannotListen(cause, { port, host })
  })
  return httpServer(server)
}

function httpServer(server: Server): HttpServer {
  const closed = new Promise<void>((resolve) => server.once('close', () => resolve()))
  return {
    port: (server.address() as AddressInfo).port,
    stopAccepting() {
      server.close()
      server.closeIdleConnections()
    },
    close() {
      server.close()
      server.closeAllConnections()
      return closed
    },
  }
}

function cannotListen(cause: NodeJS.ErrnoException, { port, host }: { port: number; host: string }): DeltaError {
  const why: Record<string, string> = {
    EADDRINUSE: `PORT ${port} is in use: stop what uses it or set another PORT`,
    EACCES: `PORT ${port} needs privileges: set one above 1023`,
    EADDRNOTAVAIL: `HOST ${host} is not an address of this machine`,
  }
  return new DeltaError(
    'config_invalid',
    why[cause.code ?? ''] ?? `Cannot listen on ${host}:${port}: ${cause.message}`,
    { cause },
  )
}

function noWebSocket({ url = '/' }: IncomingMessage): DeltaError {
  return new DeltaError('not_found', `There is no WebSocket at ${url.split('?')[0]!.slice(0, 200)}`)
}

/** A request so malformed that no route saw it, such as an invalid Host header. */
function answerUnreadable(): Response {
  const error = new DeltaError('invalid_request', 'The request line or its Host header is not valid HTTP')
  return Response.json(error.toBody(newId('req')), { status: 400 })
}

function answerClientError(cause: NodeJS.ErrnoException, socket: Socket): void {
  if (cause.code === 'ECONNRESET' || !socket.writable) return void socket.destroy()
  const [status, error] = clientError(cause)
  const body = JSON.stringify(error.toBody(newId('req')))
  const head = `HTTP/1.1 ${status}\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n`
  socket.end(head + body)
}

function clientError({ code }: NodeJS.ErrnoException): [string, DeltaError] {
  if (code === 'HPE_HEADER_OVERFLOW') {
    const rule = `headers: at most ${limits.requestHeaderBytes} bytes together`
    return [
      '431 Request Header Fields Too Large',
      new DeltaError('invalid_request', 'The headers are too large', { cause: rule }),
    ]
  }
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    return ['408 Request Timeout', new DeltaError('request_timeout', 'The header arrived too slowly')]
  }
  return ['400 Bad Request', new DeltaError('invalid_request', 'The request is not valid HTTP')]
}
