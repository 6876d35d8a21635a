import { Readable } from 'node:stream'
import { createBrotliDecompress, createUnzip } from 'node:zlib'
import { type Connect, requestOnce, type WebAnswer, WebError } from '../../kernel/http/request-once.ts'

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
