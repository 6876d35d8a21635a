import type { ServerResponse } from 'node:http'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { limits } from '../limits.ts'
import type { ApiContext } from './api.ts'

export type StreamChunk = Uint8Array | string

export interface StreamOptions {
  /** @default 200 */
  status?: number
  headers?: Record<string, string>
}

// What a sandbox holds is served from this origin: nothing in it may run as a page of it.
const untrusted = { 'Content-Security-Policy': "default-src 'none'; sandbox", 'Referrer-Policy': 'no-referrer' }

/**
 * Answers with a body of any length at flat memory, straight through Node's response; under `app.request()` through a web stream. The body
 * is not started for HEAD. When the client goes away its iterator is returned, so an iterator that may wait for long should also watch
 * `c.req.raw.signal`. A client that takes nothing for `limits.responseIdleMs` is cut off.
 */
export async function sendStream(
  c: ApiContext,
  body: AsyncIterable<StreamChunk>,
  { status = 200, headers: own = {} }: StreamOptions = {},
): Promise<Response> {
  const headers = { ...untrusted, ...own }
  const { outgoing } = c.env ?? {}
  if (isEventStream(headers)) c.set('endless', true)
  // Hono turns the answer to HEAD into a new one, which it then could not tell from one that is still to be sent.
  if (c.req.method === 'HEAD') return new Response(null, { status, headers })
  if (!outgoing) return new Response(webStream(body), { status, headers })
  outgoing.writeHead(status, headers)
  await pump(body, outgoing)
  return RESPONSE_ALREADY_SENT
}

function isEventStream(headers: Record<string, string>): boolean {
  const type = headers['Content-Type'] ?? headers['content-type']
  return type?.startsWith('text/event-stream') === true
}

async function pump(body: AsyncIterable<StreamChunk>, outgoing: ServerResponse): Promise<void> {
  // The header alone tells an event stream's reader that it is heard.
  outgoing.flushHeaders()
  const iterator = body[Symbol.asyncIterator]()
  const stopWatching = guardIdle(outgoing)
  const onClose = () => void iterator.return?.()?.catch(() => {})
  outgoing.once('close', onClose)
  try {
    for (;;) {
      const { done, value } = await iterator.next()
      if (done || outgoing.destroyed) break
      if (!outgoing.write(value)) await drained(outgoing)
    }
    outgoing.end()
  } catch (error) {
    // The status is out already: a cut connection is the only way left to say that the body is not whole.
    outgoing.destroy()
    throw error
  } finally {
    stopWatching()
    outgoing.off('close', onClose)
  }
}

function drained(outgoing: ServerResponse): Promise<void> {
  if (outgoing.destroyed) return Promise.resolve()
  return new Promise((resolve) => {
    const settle = () => {
      outgoing.off('drain', settle).off('close', settle)
      resolve()
    }
    outgoing.on('drain', settle).on('close', settle)
  })
}

function guardIdle(outgoing: ServerResponse): () => void {
  let seenBytes = -1
  const timer = setInterval(() => {
    const bytesWritten = outgoing.socket?.bytesWritten ?? 0
    if (outgoing.writableNeedDrain && bytesWritten === seenBytes) outgoing.destroy()
    seenBytes = bytesWritten
  }, limits.responseIdleMs / 2)
  timer.unref()
  return () => clearInterval(timer)
}

function webStream(body: AsyncIterable<StreamChunk>): ReadableStream<Uint8Array> {
  const iterator = body[Symbol.asyncIterator]()
  const encoder = new TextEncoder()
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = await iterator.next()
      if (done) controller.close()
      else controller.enqueue(typeof value === 'string' ? encoder.encode(value) : value)
    },
    async cancel() {
      await iterator.return?.()
    },
  })
}
