import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { DeltaError } from '../errors.ts'
import { newId } from '../ids.ts'
import { retryAfterOf } from './errors.ts'

/**
 * Serves requests on the API's port that the API's router never sees: WebSockets, and what sandboxes themselves serve. Fronts are asked in
 * order, each must look at the Host header and the credentials itself, and none may throw. What a front has taken is its own: its errors go
 * out by `refuseRequest` and `refuseUpgrade`, its sockets end in its feature's `stop`.
 */
export interface Front {
  /** True: the request is taken and will be answered. Called before anything of its body is read. */
  request?(request: IncomingMessage, response: ServerResponse): boolean
  /**
   * True: the connection is taken; it is a plain stream from now on. Only called for `Upgrade: websocket`; any other is served as a usual
   * request, as HTTP allows.
   */
  upgrade?(request: IncomingMessage, socket: Duplex, head: Buffer): boolean
}

/** The one shape of an error, for who stands outside the router. */
export function refuseRequest(response: ServerResponse, error: DeltaError): void {
  if (response.headersSent) return void response.destroy()
  const requestId = String(response.getHeader('X-Request-Id') ?? newId('req'))
  const body = JSON.stringify(error.toBody(requestId))
  const retryAfter = retryAfterOf(error)
  response.writeHead(error.status, {
    'Content-Type': 'application/json',
    'Content-Length': Buffer.byteLength(body),
    'Cache-Control': 'no-store',
    'X-Content-Type-Options': 'nosniff',
    'X-Request-Id': requestId,
    ...(error.code === 'unauthorized' && { 'WWW-Authenticate': 'Bearer' }),
    ...(retryAfter !== undefined && { 'Retry-After': retryAfter }),
  })
  response.end(body)
}

/** A refusal instead of `101 Switching Protocols`. */
export function refuseUpgrade(socket: Duplex, error: DeltaError): void {
  if (!socket.writable) return void socket.destroy()
  const body = JSON.stringify(error.toBody(newId('req')))
  const retryAfter = retryAfterOf(error)
  const wait = retryAfter === undefined ? '' : `Retry-After: ${retryAfter}\r\n`
  socket.on('error', () => {})
  socket.end(
    `HTTP/1.1 ${error.status} ${error.code}\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n${wait}Connection: close\r\n\r\n${body}`,
    () => socket.destroy(),
  )
}

export function wantsWebSocket(request: IncomingMessage): boolean {
  return request.headers.upgrade?.toLowerCase() === 'websocket'
}
