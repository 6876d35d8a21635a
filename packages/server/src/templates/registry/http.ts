import type { IncomingMessage } from 'node:http'
import type { DeltaError } from '../../kernel/errors.ts'
import { type ConnectSocket, requestOnce } from '../../kernel/http/request-once.ts'

export type ConnectTo = ConnectSocket

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

/** One GET on a connection of its own. */
export async function fetchOnce(connectTo: ConnectTo, wish: Fetched): Promise<Answer> {
  const { status, headers, body } = await requestOnce(connectTo, { ...wish, method: 'GET', idleMs })
  const header = (name: string) => {
    const value = headers[name]
    return Array.isArray(value) ? value.join(', ') : value
  }
  return { status, header, body }
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
