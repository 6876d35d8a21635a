import { Readable } from 'node:stream'
import { type Connect, requestOnce, WebError } from './request-once.ts'

/** What a library asks for in place of the global `fetch`: by connections that were judged, without following where an answer leads. */
export function fetchBy(connect: Connect, { ca }: { ca?: string | undefined } = {}): typeof globalThis.fetch {
  return async (asked, init = {}) => {
    if (asked instanceof Request) throw new TypeError('a Request is not taken: what is in it is asked for by itself')
    const url = new URL(asked)
    const headers = Object.fromEntries(new Headers(init.headers))
    const body = typeof init.body === 'string' ? Buffer.from(init.body) : undefined
    if (init.body !== undefined && init.body !== null && !body) throw new TypeError('only texts are sent')
    const signal = init.signal ?? new AbortController().signal
    const answer = await requestOnce(connect, { url, method: init.method ?? 'GET', headers, body, signal, ca })
    // Of which no `Response` can be made.
    if (answer.status < 200 || answer.status > 599) {
      answer.body.destroy()
      throw new WebError(`it answered with the status ${answer.status}`)
    }
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
