import { createServer, request } from 'node:http'
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { systemClock } from '../../../kernel/clock.ts'

export type Fault =
  /** Not asked at all: the proxy answers, as services do. */
  | { kind: 'answer'; status: number; code?: string; headers?: Record<string, string>; body?: string }
  /** The connection ends after so many bytes of the request's body; the server sees nothing of it. */
  | { kind: 'cut request'; afterBytes: number }
  /** The server does it, and the answer never comes. */
  | { kind: 'lose answer' }
  /** The connection ends after so many bytes of the answer's body. */
  | { kind: 'cut answer'; afterBytes: number }
  /** One bit of the answer's body, at that byte, is another. */
  | { kind: 'turn a bit'; at: number }
  | { kind: 'change header'; name: string; value: string }
  /** The answer comes in pieces with pauses. */
  | { kind: 'slow'; pieceBytes: number; pauseMs: number }

export interface Seen {
  method: string
  url: string
  headers: IncomingHttpHeaders
  body: Buffer
}

export interface FaultProxy {
  url: string
  /** What was asked for since the last `plan`. */
  seen: Seen[]
  /** Decides about each request; undefined lets it pass. */
  plan(decide: (request: Seen, number: number) => Fault | undefined): void
  stop(): Promise<void>
}

/** Stands before a real server and passes on what it gets, signature and all, but for what it was told to spoil. */
export async function startFaultProxy(target: string): Promise<FaultProxy> {
  let decide: (request: Seen, number: number) => Fault | undefined = () => undefined
  const seen: Seen[] = []
  const server = createServer((incoming, outgoing) => {
    void serve(incoming, outgoing).catch(() => outgoing.destroy())
  })

  async function serve(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const { method = '', url = '', headers } = incoming
    // The plan may need no body; a cut may come within it.
    const early = decide({ method, url, headers, body: Buffer.alloc(0) }, seen.length)
    const body = await bodyOf(incoming, early?.kind === 'cut request' ? early.afterBytes : Infinity)
    const asked = { method, url, headers, body }
    seen.push(asked)
    if (early?.kind === 'cut request') return void incoming.socket.destroy()
    if (early?.kind === 'answer') return answer(outgoing, early)
    await pass(asked, outgoing, early)
  }

  async function pass(asked: Seen, outgoing: ServerResponse, fault: Fault | undefined): Promise<void> {
    const { method, url, headers, body } = asked
    const found = await new Promise<IncomingMessage>((resolve, reject) => {
      // The Host header stays: it is part of the signature.
      const { expect: _, ...others } = headers
      const passed = request(new URL(url, target), { method, headers: others, agent: false }, resolve)
      passed.on('error', reject)
      passed.end(body)
    })
    if (fault?.kind === 'lose answer') {
      await bodyOf(found, Infinity)
      return void outgoing.destroy()
    }
    const changed = fault?.kind === 'change header' ? { [fault.name]: fault.value } : {}
    outgoing.writeHead(found.statusCode!, { ...found.headers, ...changed })
    let at = 0
    for await (const chunk of found as AsyncIterable<Buffer>) {
      for (const piece of spoiled(chunk, at, fault)) {
        if (!outgoing.write(piece)) await roomIn(outgoing)
        if (fault?.kind === 'slow') await systemClock.sleep(fault.pauseMs)
      }
      at += chunk.length
      if (fault?.kind === 'cut answer' && at >= fault.afterBytes) {
        // What was written goes out first.
        await systemClock.sleep(5)
        found.destroy()
        return void outgoing.destroy()
      }
    }
    outgoing.end()
  }

  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    plan(next) {
      decide = next
      seen.length = 0
    },
    async stop() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

/** Or that nobody reads any more. */
function roomIn(outgoing: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      outgoing.off('drain', done).off('close', done)
      resolve()
    }
    outgoing.on('drain', done).on('close', done)
    if (outgoing.destroyed) done()
  })
}

async function bodyOf(incoming: IncomingMessage, limitBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    chunks.push(chunk)
    bytes += chunk.length
    if (bytes >= limitBytes) break
  }
  return Buffer.concat(chunks)
}

function* spoiled(chunk: Buffer, at: number, fault: Fault | undefined): Iterable<Buffer> {
  if (fault?.kind === 'cut answer') return yield chunk.subarray(0, Math.max(0, fault.afterBytes - at))
  if (fault?.kind === 'turn a bit' && fault.at >= at && fault.at < at + chunk.length) {
    const copy = Buffer.from(chunk)
    copy[fault.at - at]! ^= 1
    return yield copy
  }
  if (fault?.kind !== 'slow') return yield chunk
  for (let from = 0; from < chunk.length; from += fault.pieceBytes) yield chunk.subarray(from, from + fault.pieceBytes)
}

function answer(outgoing: ServerResponse, fault: Extract<Fault, { kind: 'answer' }>): void {
  const { status, code = 'Fault', headers = {} } = fault
  const body =
    fault.body ?? `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>made up</Message></Error>`
  outgoing.writeHead(status, { 'content-type': 'application/xml', ...headers }).end(body)
}
