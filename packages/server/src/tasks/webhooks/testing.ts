import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { Clock } from '../../kernel/clock.ts'
import { createAddressGuard } from '../../sandboxes/egress/addresses.ts'
import { connectPlainly } from '../../sandboxes/egress/connect.ts'
import { createJudgedNetwork } from '../../sandboxes/egress/judged-network.ts'
import { createNames } from '../../sandboxes/egress/names.ts'
import type { Network } from './post.ts'

export interface Received {
  path: string
  headers: IncomingHttpHeaders
  body: string
}

export interface Receiver {
  url: string
  port: number
  received: Received[]
  /** Of the next answers; a number alone is a status, `never` no answer at all. */
  answers: (number | 'never' | 'endless' | { status: number; headers: Record<string, string> })[]
  close(): void
}

/** A real server on loopback. */
export async function startReceiver(tls?: { key: string; cert: string }): Promise<Receiver> {
  const received: Received[] = []
  const answers: Receiver['answers'] = []
  const server: Server = tls ? createTlsServer(tls) : createServer()
  server.on('request', (request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('error', () => {})
    request.on('end', () => {
      received.push({ path: request.url!, headers: request.headers, body: Buffer.concat(chunks).toString() })
      const answer = answers.shift() ?? 200
      if (answer === 'never') return
      if (answer === 'endless') {
        response.writeHead(200)
        const more = () => void (response.destroyed || (response.write('x'.repeat(65_536)), setImmediate(more)))
        return more()
      }
      const { status, headers } = typeof answer === 'number' ? { status: answer, headers: {} } : answer
      response.writeHead(status, headers).end('an answer that nobody reads')
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    url: `${tls ? 'https' : 'http'}://127.0.0.1:${port}/hook?key=k`,
    port,
    received,
    answers,
    close() {
      server.closeAllConnections()
      server.close()
    },
  }
}

/** As the server makes it, with names of a test's own; loopback is what the operator lists. `tried` are the connections that were begun. */
export function testNetwork(
  clock: Clock,
  { names = {}, ca }: { names?: Record<string, () => string[]>; ca?: string } = {},
): { network: Network; tried: string[] } {
  const tried: string[] = []
  const resolver = createNames({
    lookup: async (host) => {
      const found = names[host]?.()
      if (!found) throw Object.assign(new Error(host), { code: 'ENOTFOUND' })
      return found.map((address) => ({ address, family: 4 }))
    },
    hosts: new Map(),
    monotonic: clock.monotonic,
  })
  const guard = createAddressGuard({
    allowCidrs: [{ address: '127.0.0.1', prefix: 32, family: 4 }],
    ownAddresses: () => [],
  })
  const judged = createJudgedNetwork('webhooks', {
    names: resolver,
    guard,
    connect(address, port) {
      tried.push(`${address.address}:${port}`)
      return connectPlainly(address, port)
    },
    clock,
  })
  const network: Network = { ...judged, ...(ca !== undefined && { ca }) }
  return { network, tried }
}
