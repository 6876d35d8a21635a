import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { type Client, createSandbox, remove } from './client.ts'
import { type Figure, figure } from './figures.ts'
import { residentBytes } from './process-tree.ts'
import type { Bench, Target } from './run.ts'

const megabyte = 1_000_000
const outputBytes = 50 * megabyte
const rounds = 7
/** What is typed comes back through the program, not from the line discipline. */
const echo = 'stty raw -echo; echo up; exec cat'
/** Waits for a key, so that all viewers are there before it begins. */
const pour = `stty raw -echo; echo up; head -c 1 > /dev/null; head -c ${outputBytes} /dev/zero | tr '\\0' x; exec cat`

/** A key and its echo; 50 MB of output and what the server grows by; the same beside a viewer that does not read. */
export async function terminals(bench: Bench): Promise<Figure[]> {
  const target = await bench.platform({ runtime: 'crun' })
  const { id } = await createSandbox(target.client)
  const base = `/v1/sandboxes/${id}/terminals`
  try {
    return [await keystrokes(target.client, base), ...(await floods(target, base))]
  } finally {
    await remove(target.client, id)
  }
}

async function keystrokes(client: Client, base: string): Promise<Figure> {
  const terminal = await openTerminal(client, base, echo)
  const bare = openBarePty()
  await bare.up
  const ours: number[] = []
  const theirs: number[] = []
  for (let round = -100; round < 1000; round++) {
    const mine = await terminal.key()
    const alone = await bare.key()
    if (round < 0) continue
    ours.push(mine)
    theirs.push(alone)
  }
  terminal.close()
  bare.close()
  return figure({
    name: 'terminal, a key and its echo',
    unit: 'ms',
    samples: ours,
    rival: { name: 'the same program under script(1), by pipes', samples: theirs },
    bar: 'p95 ≤ 5 ms',
    holds: ({ p95 }) => p95 <= 5,
  })
}

async function floods({ client, serverPid }: Target, base: string): Promise<Figure[]> {
  const alone: number[] = []
  const beside: number[] = []
  const grown: number[] = []
  for (let round = -1; round < rounds; round++) {
    const before = residentBytes(serverPid())
    let peak = before
    const look = setInterval(() => (peak = Math.max(peak, residentBytes(serverPid()))), 20)
    const quick = await flood(client, base, 0)
    clearInterval(look)
    const shared = await flood(client, base, 1)
    // The first round warms the server up, which costs memory once.
    if (round < 0) continue
    grown.push(Math.max(0, peak - before) / 1024 / 1024)
    alone.push(outputBytes / megabyte / (quick / 1000))
    beside.push(outputBytes / megabyte / (shared / 1000))
  }
  return [
    figure({
      name: 'terminal, what 50 MB of output grow the server by',
      unit: 'MB',
      samples: grown,
      bar: 'p95 ≤ 32 MB',
      holds: ({ p95 }) => p95 <= 32,
    }),
    figure({
      name: 'terminal, 50 MB beside a viewer that does not read',
      unit: 'MB/s',
      samples: beside,
      rival: { name: 'the same viewer alone', samples: alone },
      bar: '≥ 0.8 × alone',
      holds: ({ ratio }) => ratio !== null && ratio >= 0.8,
    }),
  ]
}

/** Milliseconds until one viewer has everything. */
async function flood(client: Client, base: string, stalledViewers: number): Promise<number> {
  const terminal = await openTerminal(client, base, pour)
  const stalled: Socket[] = []
  for (let i = 0; i < stalledViewers; i++) stalled.push(await openStalled(client, terminal.path))
  const startedAt = performance.now()
  await terminal.take(outputBytes)
  const took = performance.now() - startedAt
  for (const socket of stalled) socket.destroy()
  terminal.close()
  await client.call('DELETE', terminal.path)
  return took
}

async function openTerminal(client: Client, base: string, cmd: string) {
  const { id } = await client.call<{ id: string }>('POST', base, { cmd })
  const path = `${base}/${id}`
  const bearer = `delta.bearer.${Buffer.from(client.key).toString('base64url')}`
  const ws = new WebSocket(`ws://${client.hostname}:${client.port}${path}/connect`, ['delta.terminal.v1', bearer])
  ws.binaryType = 'arraybuffer'
  let onBytes: (count: number) => void = () => {}
  const key = Buffer.from('k')
  const take = (bytes: number): Promise<void> =>
    new Promise((done) => {
      let left = bytes
      onBytes = (count) => {
        left -= count
        if (left <= 0) done()
      }
      ws.send(key)
    })
  const up = new Promise<void>((done) => (onBytes = () => done()))
  ws.addEventListener('message', ({ data }) => {
    if (data instanceof ArrayBuffer) onBytes(data.byteLength)
  })
  await up
  return {
    path,
    take,
    async key() {
      const startedAt = performance.now()
      await take(1)
      return performance.now() - startedAt
    },
    close: () => ws.close(),
  }
}

/** Says that it wants to see the terminal, and then reads nothing. */
async function openStalled({ hostname, port, key }: Client, path: string): Promise<Socket> {
  const socket = connect(Number(port), hostname)
  await once(socket, 'connect')
  socket.write(
    `GET ${path}/connect HTTP/1.1\r\nHost: ${hostname}:${port}\r\nAuthorization: Bearer ${key}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n`,
  )
  await once(socket, 'readable')
  return socket
}

function openBarePty() {
  const child = spawn('script', ['-qfc', echo, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] })
  let onData: () => void = () => {}
  const up = new Promise<void>((done) => (onData = done))
  child.stdout.on('data', () => onData())
  return {
    up,
    key(): Promise<number> {
      const startedAt = performance.now()
      return new Promise((done) => {
        onData = () => done(performance.now() - startedAt)
        child.stdin.write('k')
      })
    },
    close: () => child.kill('SIGKILL'),
  }
}
