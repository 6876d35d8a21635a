import { isUtf8 } from 'node:buffer'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import type { ReadableStream } from 'node:stream/web'
import { DeltaError } from '../errors.ts'
import { limits } from '../limits.ts'
import type { ApiContext } from './api.ts'
import { refuseRequest } from './front.ts'

/**
 * The body as Node's own stream: web streams cost several times as much per byte. Works under `app.request()` too. The stream is destroyed with
 * `request_timeout` when a client sends nothing for `limits.bodyIdleMs` while somebody waits for it.
 */
export function nodeBody(c: ApiContext): Readable {
  const { incoming, outgoing } = c.env ?? {}
  if (incoming) {
    guardIdle(incoming, outgoing)
    return incoming
  }
  const body = c.req.raw.body as ReadableStream<Uint8Array> | null
  return body ? Readable.fromWeb(body) : Readable.from([])
}

function guardIdle(incoming: IncomingMessage, outgoing: ServerResponse | undefined): void {
  let seenBytes = -1
  const timer = setInterval(() => {
    const { bytesRead } = incoming.socket
    // Data that waits in the stream means that it is the consumer who is slow.
    if (bytesRead === seenBytes && incoming.readableLength === 0) giveUp(incoming, outgoing)
    seenBytes = bytesRead
  }, limits.bodyIdleMs / 2)
  timer.unref()
  incoming.once('close', () => clearInterval(timer))
  incoming.once('end', () => clearInterval(timer))
}

/** With the body the connection ends, so what is wrong is said before. */
function giveUp(incoming: IncomingMessage, outgoing: ServerResponse | undefined): void {
  const error = tooSlow()
  if (outgoing && !outgoing.headersSent) {
    outgoing.setHeader('Connection', 'close')
    refuseRequest(outgoing, error)
  }
  incoming.destroy(error)
}

/** A bounded JSON body, whatever its content type says; an empty one is `{}`. */
export async function readJson(c: ApiContext): Promise<unknown> {
  const bytes = await readBody(c, limits.jsonBodyBytes)
  if (bytes.length === 0) return {}
  if (!isUtf8(bytes)) throw new DeltaError('malformed_json', 'The body is not UTF-8')
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch (cause) {
    throw new DeltaError('malformed_json', 'The body is not valid JSON', { cause: (cause as SyntaxError).message })
  }
}

/** The whole body, at most `limitBytes` of it. */
export async function readBody(c: ApiContext, limitBytes: number): Promise<Buffer> {
  const claimed = Number(c.req.header('content-length') ?? 0)
  if (claimed > limitBytes) throw tooLarge(limitBytes)
  const { incoming } = c.env ?? {}
  if (incoming) return collect(incoming, limitBytes)
  const bytes = Buffer.from(await c.req.arrayBuffer())
  if (bytes.length > limitBytes) throw tooLarge(limitBytes)
  return bytes
}

function collect(incoming: IncomingMessage, limitBytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let length = 0
    const settle = (error?: Error) => {
      clearTimeout(timer)
      incoming.off('data', onData).off('end', settle).off('error', onError).off('close', onClose)
      if (error) reject(error)
      else resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, length))
    }
    const onData = (chunk: Buffer) => {
      chunks.push(chunk)
      length += chunk.length
      if (length > limitBytes) settle(tooLarge(limitBytes))
    }
    const onError = () => settle(new DeltaError('canceled', 'The connection broke before the body was complete'))
    const onClose = onError
    const timer = setTimeout(() => settle(tooSlow()), limits.jsonBodyMs)
    incoming.on('data', onData).on('end', settle).on('error', onError).on('close', onClose)
  })
}

function tooLarge(limitBytes: number): DeltaError {
  return new DeltaError('body_too_large', `The body exceeds ${limitBytes} bytes`, { context: { limitBytes } })
}

function tooSlow(): DeltaError {
  return new DeltaError('request_timeout', 'The body arrived too slowly')
}
