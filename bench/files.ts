import { createReadStream, createWriteStream, mkdtempSync, rmSync } from 'node:fs'
import { type IncomingMessage, createServer, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { type Client, createSandbox, remove, timed } from './client.ts'
import { type Figure, figure } from './figures.ts'
import { residentBytes } from './process-tree.ts'
import type { Bench } from './run.ts'

const gibibyte = 1024 ** 3
const megabyte = 1024 * 1024
const rounds = 3

/** 1 GiB up and down through REST, beside a bare Node HTTP server that pipes the same bytes to and from a file on the same pool. */
export async function bigFile(bench: Bench): Promise<Figure[]> {
  const { client, pool, serverPid } = await bench.platform({ runtime: 'crun' })
  const { id } = await createSandbox(client, { diskMb: 8192 })
  const path = `/v1/sandboxes/${id}/files?path=/workspace/big.bin`
  const rival = await openPipe(pool)
  const samples = { up: [] as number[], down: [] as number[], rivalUp: [] as number[], rivalDown: [] as number[] }
  const before = residentBytes(serverPid())
  let most = before
  const watching = setInterval(() => {
    most = Math.max(most, residentBytes(serverPid()))
  }, 50)
  for (let round = 0; round < rounds; round++) {
    samples.up.push(rate(await timed(() => upload(client, path))))
    samples.rivalUp.push(rate(await timed(() => upload(rival.client, '/'))))
    samples.down.push(rate(await timed(() => download(client, path))))
    samples.rivalDown.push(rate(await timed(() => download(rival.client, '/'))))
  }
  clearInterval(watching)
  await rival.close()
  await remove(client, id)
  return [
    figure({
      name: '1 GiB up',
      unit: 'MB/s',
      samples: samples.up,
      rival: { name: 'bare Node HTTP pipe to a file', samples: samples.rivalUp },
      bar: '≥ 0.4 × rival',
      holds: atLeast(0.4),
    }),
    figure({
      name: '1 GiB down',
      unit: 'MB/s',
      samples: samples.down,
      rival: { name: 'bare Node HTTP pipe from a file', samples: samples.rivalDown },
      bar: '≥ 0.4 × rival',
      holds: atLeast(0.4),
    }),
    figure({
      name: '1 GiB up and down, server memory',
      unit: 'MB grown',
      samples: [(most - before) / megabyte],
      bar: '≤ 64 MB',
      holds: ({ p50 }) => p50 <= 64,
    }),
  ]
}

function atLeast(share: number) {
  return ({ ratio }: { ratio: number | null }) => ratio !== null && ratio >= share
}

function rate(ms: number): number {
  return gibibyte / 1e6 / (ms / 1000)
}

type Endpoint = Pick<Client, 'agent' | 'hostname' | 'port' | 'key'>

function upload(client: Endpoint, path: string): Promise<void> {
  const chunk = Buffer.alloc(megabyte, 'delta')
  const body = Readable.from(
    (function* () {
      for (let sent = 0; sent < gibibyte; sent += megabyte) yield chunk
    })(),
    { objectMode: false, highWaterMark: megabyte },
  )
  return new Promise((done, fail) => {
    const { agent, hostname, port, key } = client
    const sent = request(
      {
        agent,
        hostname,
        port,
        path,
        method: 'PUT',
        headers: { authorization: `Bearer ${key}`, 'content-length': gibibyte },
      },
      (answer) => {
        answer.resume()
        answer.on('end', () =>
          answer.statusCode === 200 ? done() : fail(new Error(`upload answered ${answer.statusCode}`)),
        )
      },
    )
    sent.on('error', fail)
    pipeline(body, sent).catch(fail)
  })
}

function download(client: Endpoint, path: string): Promise<void> {
  return new Promise((done, fail) => {
    const { agent, hostname, port, key } = client
    const sent = request(
      { agent, hostname, port, path, method: 'GET', headers: { authorization: `Bearer ${key}` } },
      (answer: IncomingMessage) => {
        let received = 0
        answer.on('data', (chunk: Buffer) => {
          received += chunk.length
        })
        answer.on('end', () =>
          answer.statusCode === 200 && received === gibibyte
            ? done()
            : fail(new Error(`download answered ${answer.statusCode} with ${received} bytes`)),
        )
      },
    )
    sent.on('error', fail)
    sent.end()
  })
}

async function openPipe(pool: string) {
  const folder = mkdtempSync(join(pool, 'bench-pipe-'))
  const file = join(folder, 'big.bin')
  const server = createServer((incoming, answer) => {
    const finish =
      incoming.method === 'PUT'
        ? pipeline(incoming, createWriteStream(file)).then(() => void answer.end())
        : pipeline(createReadStream(file), answer)
    finish.catch((error: unknown) => answer.destroy(error as Error))
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  const { Agent } = await import('node:http')
  const agent = new Agent({ keepAlive: true })
  return {
    client: { agent, hostname: '127.0.0.1', port: String((server.address() as AddressInfo).port), key: 'none' },
    async close() {
      agent.destroy()
      await new Promise((done) => server.close(done))
      rmSync(folder, { recursive: true, force: true })
    },
  }
}
