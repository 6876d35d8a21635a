import type { Readable } from 'node:stream'
import { createBrotliDecompress, createUnzip } from 'node:zlib'
import { type WebAnswer, WebError } from '../../kernel/http/request-once.ts'

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
