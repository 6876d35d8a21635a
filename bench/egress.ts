import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { promisify } from 'node:util'
import { type Client, createSandbox, remove } from './client.ts'
import { type Figure, figure } from './figures.ts'
import type { Bench } from './run.ts'

const rounds = 5
const streamedBytes = 512 * 1024 * 1024
const trips = 2_000
const connects = 300
const manyConnections = 200

/** Through a sandbox's proxy (CONNECT), and by a plain TCP connection that is redirected, beside the same client and server without a sandbox. */
export async function egress(bench: Bench): Promise<Figure[]> {
  const origin = await startOrigin()
  const env = { DELTA_EGRESS_ALLOW_CIDRS: '127.0.0.1', DELTA_EGRESS_HOSTS: 'origin.test=127.0.0.1' }
  const { client } = await bench.platform({ runtime: 'crun', env })
  const { id } = await createSandbox(client, { cpu: 2, network: { egress: { hosts: ['origin.test:*'] } } })
  const inside = (way: string) => measureInside(client, id, [way, 'origin.test', String(origin.port)])
  const direct = () => measureDirect(['direct', '127.0.0.1', String(origin.port)])
  const samples = { direct: emptySamples(), connect: emptySamples(), tcp: emptySamples() }
  for (let round = 0; round < rounds; round++) {
    add(samples.direct, await direct())
    add(samples.connect, await inside('connect'))
    add(samples.tcp, await inside('direct'))
  }
  await remove(client, id)
  origin.close()
  return [
    ...figuresOf('by CONNECT', samples.connect, samples.direct),
    ...figuresOf('redirected', samples.tcp, samples.direct),
  ]
}

/** Rates in MB/s, times in ms. */
interface Samples {
  down: number[]
  up: number[]
  trip: number[]
  connect: number[]
  /** How many of the connections at once carried what they should, and how long all took. */
  right: number[]
  many: number[]
}

const emptySamples = (): Samples => ({ down: [], up: [], trip: [], connect: [], right: [], many: [] })

function add(to: Samples, more: Samples): void {
  for (const name of Object.keys(to) as (keyof Samples)[]) to[name].push(...more[name])
}

function figuresOf(way: string, ours: Samples, direct: Samples): Figure[] {
  const rival = (name: keyof Samples) => ({ name: 'the same directly on loopback', samples: direct[name] })
  const fastEnough = ({ p50, ratio }: { p50: number; ratio: number | null }) => p50 >= 300 || (ratio ?? 0) >= 0.25
  const near = ({ p50, rivalP50 }: { p50: number; rivalP50: number | null }) => p50 - (rivalP50 ?? 0) <= 1
  const rate = { unit: 'MB/s', bar: '≥ 0.25 × rival or ≥ 300 MB/s', holds: fastEnough }
  const time = { unit: 'ms', bar: 'p50 ≤ rival + 1 ms', holds: near }
  return [
    figure({ name: `egress ${way}, 512 MiB down`, samples: ours.down, rival: rival('down'), ...rate }),
    figure({ name: `egress ${way}, 512 MiB up`, samples: ours.up, rival: rival('up'), ...rate }),
    figure({ name: `egress ${way}, round trip of a byte`, samples: ours.trip, rival: rival('trip'), ...time }),
    figure({ name: `egress ${way}, connect to first byte`, samples: ours.connect, rival: rival('connect'), ...time }),
    figure({
      name: `egress ${way}, ${manyConnections} connections at once`,
      unit: 'ms',
      samples: ours.many,
      rival: rival('many'),
      bar: 'every byte right',
      holds: () => ours.right.every((count) => count === manyConnections),
    }),
  ]
}

async function measureInside(client: Client, id: string, args: string[]): Promise<Samples> {
  const exec = await client.call<{ exitCode: number; stdout: string; stderr: string }>(
    'POST',
    `/v1/sandboxes/${id}/execs`,
    { cmd: ['/usr/bin/python3', '-c', program, ...args], timeoutMs: 300_000 },
  )
  if (exec.exitCode !== 0) throw new Error(`inside, ${args.join(' ')}: ${exec.stderr}`)
  return JSON.parse(exec.stdout) as Samples
}

async function measureDirect(args: string[]): Promise<Samples> {
  const { stdout } = await promisify(execFile)('/usr/bin/python3', ['-c', program, ...args], { maxBuffer: 2 ** 24 })
  return JSON.parse(stdout) as Samples
}

/** `D` answers with the bytes of the streamed measure, `U` takes them and answers with one, `E` echoes. */
async function startOrigin(): Promise<{ port: number; close(): void }> {
  const chunk = Buffer.alloc(1024 * 1024, 'delta')
  const sockets = new Set<Socket>()
  const server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket)).on('error', () => {})
    socket.once('data', (first: Buffer) => {
      const kind = first.toString('latin1', 0, 1)
      const rest = first.subarray(1)
      if (kind === 'D') return stream(socket, chunk)
      if (kind === 'U') {
        let left = streamedBytes - rest.length
        socket.on('data', (bytes: Buffer) => {
          left -= bytes.length
          if (left === 0) socket.end('.')
        })
        return
      }
      socket.write(rest.length > 0 ? rest : '.')
      socket.on('data', (bytes: Buffer) => socket.write(bytes))
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    close() {
      for (const socket of sockets) socket.destroy()
      server.close()
    },
  }
}

function stream(socket: Socket, chunk: Buffer): void {
  let left = streamedBytes / chunk.length
  const fill = (): void => {
    while (left > 0) {
      left -= 1
      if (!socket.write(chunk)) break
    }
    if (left === 0) socket.end()
  }
  socket.on('drain', fill)
  fill()
}

/** The one client, run inside and outside. Standard Python, so that any sandbox can run it. */
const program = `
import json, socket, sys, threading, time
way, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
size, trips, connects, many = ${streamedBytes}, ${trips}, ${connects}, ${manyConnections}
now = time.perf_counter

def dial(timeout=60):
    if way == "direct":
        s = socket.create_connection((host, port), timeout)
    else:
        s = socket.create_connection(("127.0.0.1", 3129), timeout)
        s.sendall(b"CONNECT %s:%d HTTP/1.1\\r\\nHost: %s:%d\\r\\n\\r\\n" % (host.encode(), port, host.encode(), port))
        head = b""
        while b"\\r\\n\\r\\n" not in head:
            got = s.recv(4096)
            if not got: raise Exception("closed: %r" % head)
            head += got
        if b" 200 " not in head.split(b"\\r\\n")[0]: raise Exception(head)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s

def exactly(s, count):
    buffer = bytearray(1 << 20); view = memoryview(buffer)
    while count > 0:
        got = s.recv_into(view)
        if got == 0: raise Exception("%d bytes are missing" % count)
        count -= got

def down():
    s = dial(); began = now(); s.sendall(b"D"); exactly(s, size); took = now() - began; s.close()
    return size / 1e6 / took

def up():
    s = dial(); chunk = b"x" * (1 << 20); began = now(); s.sendall(b"U")
    for _ in range(size >> 20): s.sendall(chunk)
    exactly(s, 1); took = now() - began; s.close()
    return size / 1e6 / took

def trip_times():
    s = dial(); s.sendall(b"E"); s.recv(1); times = []
    for _ in range(trips):
        began = now(); s.sendall(b"x"); s.recv(1); times.append((now() - began) * 1000)
    s.close()
    return times

def connect_times():
    times = []
    for _ in range(connects):
        began = now(); s = dial(); s.sendall(b"E"); s.recv(1); times.append((now() - began) * 1000); s.close()
        # Below the rate at which a sandbox may open connections for long.
        time.sleep(0.02)
    return times

def at_once():
    right = []
    gate = threading.Barrier(many)
    def one(index):
        try:
            text = b"E" + b"%06d" % index * 2000
            gate.wait()
            s = dial(); s.sendall(text); got = b""
            while len(got) < len(text) - 1:
                more = s.recv(65536)
                if not more: break
                got += more
            if got == text[1:]: right.append(index)
            s.close()
        except Exception as error:
            print(error, file=sys.stderr)
    threads = [threading.Thread(target=one, args=(index,)) for index in range(many)]
    began = now()
    for t in threads: t.start()
    for t in threads: t.join()
    return len(right), (now() - began) * 1000

result = {"down": [down()], "up": [up()], "trip": trip_times(), "connect": connect_times()}
time.sleep(3)
right, took = at_once()
result["right"], result["many"] = [right], [took]
print(json.dumps(result))
`
