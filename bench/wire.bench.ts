// What the host end of the guest wire costs over a unix socket, against a peer that does next to nothing and against the guest.
// `node bench/wire.bench.ts` prints; it judges nothing.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { finished } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import { connectGuest } from '../packages/server/src/guest/client.ts'
import {
  createFrameDecoder,
  createReader,
  createWriter,
  encodeCredit,
  encodeDataHeader,
  encodeFrame,
  frameTypes,
  fromHost,
} from '../packages/server/src/guest/codec.ts'
import { ops } from '../packages/server/src/guest/messages.ts'
import { startRealGuest } from '../packages/server/src/guest/testing/real-guest.ts'
import type { Socket } from 'node:net'
import type { GuestConnection } from '../packages/server/src/guest/client.ts'
import type { Frame, Writer } from '../packages/server/src/guest/codec.ts'

const pieceBytes = 64 * 1024
const entry = (writer: Writer): Writer =>
  writer.str('/f').u8(1).u64(0).u32(0o644).u32(0).u32(0).str('root').str('root').i64(0n).u64(1).u8(0)

/** Answers EXEC at once, READ with zeros, WRITE by forgetting. */
function servePeer(socket: Socket): void {
  const decoder = createFrameDecoder({ maxPayload: fromHost })
  const zeros = Buffer.alloc(pieceBytes)
  const reads = new Map<number, { left: number; offset: number; credit: number }>()
  let congested = false
  socket.write(createWriter().str('DELTA1').u32(1).bytes(Buffer.alloc(16)).u64(0).str('').frame(frameTypes.hello, 0))

  const pump = (channel: number): void => {
    const read = reads.get(channel)
    if (!read) return
    socket.cork()
    while (read.left > 0 && read.credit >= pieceBytes && !congested) {
      socket.write(encodeDataHeader(channel, 0, read.offset, pieceBytes))
      socket.write(zeros)
      read.left -= pieceBytes
      read.offset += pieceBytes
      read.credit -= pieceBytes
      if (socket.writableLength > 512 * 1024) congested = true
    }
    if (read.left === 0) {
      reads.delete(channel)
      socket.write(createWriter().u16(0).str('').frame(frameTypes.close, channel))
    }
    socket.uncork()
    if (!socket.writableNeedDrain) congested = false
  }
  socket.on('drain', () => {
    congested = false
    for (const channel of reads.keys()) pump(channel)
  })

  const onOpen = (channel: number, payload: Buffer): void => {
    const reader = createReader(payload)
    const op = reader.u8('op')
    if (op === ops.exec) {
      const opened = createWriter().u32(7).u8(0).u64(0).frame(frameTypes.opened, channel)
      const close = createWriter().u16(0).str('').u8(0).u8(0).u8(0).u64(0).u64(1).frame(frameTypes.close, channel)
      socket.write(Buffer.concat([opened, close]))
    } else if (op === ops.read) {
      reader.bytes('path')
      reader.u64('from')
      socket.write(entry(createWriter()).frame(frameTypes.opened, channel))
      reads.set(channel, { left: reader.count('length'), offset: 0, credit: 1024 * 1024 })
      pump(channel)
    } else {
      socket.write(encodeFrame(frameTypes.opened, channel))
    }
  }
  const received = new Map<number, number>()
  const onFrame = ({ type, channel, payload }: Frame): void => {
    if (type === frameTypes.ping) socket.write(encodeFrame(frameTypes.pong, 0, payload))
    if (type === frameTypes.open) onOpen(channel, payload)
    if (type === frameTypes.credit) {
      const read = reads.get(channel)
      if (read) read.credit += payload.readUInt32LE(0)
      pump(channel)
    }
    if (type === frameTypes.data) {
      const bytes = (received.get(channel) ?? 0) + payload.length - 9
      received.set(channel, bytes >= 262_144 ? 0 : bytes)
      if (bytes >= 262_144) socket.write(encodeCredit(channel, bytes))
    }
    if (type === frameTypes.end) {
      received.delete(channel)
      socket.write(entry(createWriter().u16(0).str('')).frame(frameTypes.close, channel))
    }
  }
  socket.on('error', () => socket.destroy())
  socket.on('data', (chunk: Buffer) => decoder.push(chunk).forEach(onFrame))
}

async function measure(name: string, amount: number, unit: string, run: () => Promise<void>): Promise<void> {
  const started = performance.now()
  const before = process.cpuUsage()
  await run()
  const wallMs = performance.now() - started
  const { user, system } = process.cpuUsage(before)
  const cpuMs = (user + system) / 1000
  const perSecond = (ms: number): string => ((amount / ms) * 1000).toFixed(unit === 'exec' ? 0 : 2)
  const micros = unit === 'exec' ? `, ${((cpuMs / amount) * 1000).toFixed(1)} µs of host CPU each` : ''
  console.log(`${name.padEnd(34)} ${perSecond(wallMs)} ${unit}/s, ${perSecond(cpuMs)} ${unit}/s of host CPU${micros}`)
}

async function benchExecs(guest: GuestConnection, count: number, atOnce: number): Promise<void> {
  const env = { PATH: '/usr/local/bin:/usr/bin:/bin', HOME: '/home/user', USER: 'user', LANG: 'C.UTF-8' }
  let next = 0
  const worker = async (): Promise<void> => {
    while (next < count) {
      const execId = `exe_${next++}`
      const request = {
        execId,
        argv: ['/bin/true'],
        env,
        cwd: '/workspace',
        user: 'user',
        timeoutMs: 60_000,
        keepStdin: false,
      }
      const exec = await guest.exec(request)
      await exec.consume(() => {})
    }
  }
  await Promise.all(Array.from({ length: atOnce }, worker))
}

async function main(): Promise<void> {
  const path = join(tmpdir(), `wire-bench-${process.pid}.sock`)
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(child.stdout, 'data')
  const socket = connect(path)
  const guest = await connectGuest(socket)
  const gib = 4
  const bytes = gib * 2 ** 30

  await benchExecs(guest, 5_000, 1)
  await measure('exec, one after another', 20_000, 'exec', () => benchExecs(guest, 20_000, 1))
  await measure('exec, 16 at once', 50_000, 'exec', () => benchExecs(guest, 50_000, 16))
  await measure('read, async iterator', gib, 'GiB', async () => {
    const { body } = await guest.read('/f', { length: bytes })
    let seen = 0
    for await (const chunk of body) seen += chunk.length
    if (seen !== bytes) throw new Error(`${seen} bytes came`)
  })
  await measure('read, Node stream', gib, 'GiB', async () => {
    const { stream } = await guest.readStream('/f', { length: bytes })
    let seen = 0
    stream.on('data', (chunk: Buffer) => (seen += chunk.length))
    await finished(stream)
    if (seen !== bytes) throw new Error(`${seen} bytes came`)
  })
  const piece = Buffer.alloc(pieceBytes)
  await measure('write', gib, 'GiB', async () => {
    const file = await guest.write('/f')
    for (let sent = 0; sent < bytes; sent += piece.length) await file.write(piece)
    await file.end()
  })
  await measure('write from a Node stream', gib, 'GiB', async () => {
    let sent = 0
    const source = new Readable({
      highWaterMark: 128 * 1024,
      read() {
        sent += piece.length
        this.push(sent <= bytes ? piece : null)
      },
    })
    await guest.writeFrom('/f', source)
  })
  console.log(`resident ${(process.memoryUsage().rss / 2 ** 20).toFixed(0)} MiB`)
  guest.close()
  child.kill()
  rmSync(path, { force: true })
}

/** The same against the guest itself: what it adds is its own work and the program's. */
async function benchRealGuest(): Promise<void> {
  const real = await startRealGuest()
  const guest = await real.connect()
  const request = { env: { PATH: '/usr/bin:/bin' }, cwd: '/', user: 'root', timeoutMs: 0, keepStdin: false }
  let count = 0
  const run = async (argv: string[]): Promise<void> => {
    const exec = await guest.exec({ ...request, execId: `run_${count++}`, argv })
    await exec.consume(() => {})
  }
  const many = async (total: number): Promise<void> => {
    for (let done = 0; done < total; done++) await run(['/bin/true'])
  }
  await many(200)
  await measure('guest: exec of /bin/true', 2_000, 'exec', () => many(2_000))
  await measure('guest: 2 GiB of output', 2, 'GiB', () => run(['head', '-c', '2G', '/dev/zero']))
  const path = join(real.folder, 'file')
  const piece = Buffer.alloc(pieceBytes)
  await measure('guest: write a file', 1, 'GiB', async () => {
    const file = await guest.write(path, { owner: 'root' })
    for (let sent = 0; sent < 2 ** 30; sent += piece.length) await file.write(piece)
    await file.end()
  })
  await measure('guest: read a file', 1, 'GiB', async () => {
    const { stream } = await guest.readStream(path)
    stream.resume()
    await finished(stream)
  })
  guest.close()
  await real.stop()
}

const peerPath = process.argv[2]
if (peerPath) {
  createServer(servePeer).listen(peerPath, () => console.log('ready'))
} else {
  await main()
  await benchRealGuest()
}
