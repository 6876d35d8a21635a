import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { duplexPair } from 'node:stream'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import type { BridgeOptions } from './bridge.ts'
import { connectGuest } from './client.ts'
import type { Bridge, ConnectOptions, EgressRequest } from './client.ts'
import { createReader, createWriter, frameTypes } from './codec.ts'
import { createHeldBytes } from '../kernel/held-bytes.ts'
import { ops } from './messages.ts'
import { connectPeer, createPeer } from './testing/peer.ts'

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
const kib = 1024
const code = { ok: 0, permissionDenied: 6, io: 12, limit: 14, notSupported: 19, timedOut: 21 }

const cleanUp: (() => void)[] = []
afterEach(() => {
  for (const each of cleanUp.splice(0).toReversed()) each()
})

type PeerOptions = ConnectOptions & { features?: number }

async function openEgress(options: PeerOptions = {}) {
  const { guest, peer } = await connectPeer(options)
  const asked = Promise.withResolvers<EgressRequest>()
  guest.onEgress(asked.resolve)
  peer.send('open', 2, createWriter().u8(ops.egress).str('example.org').u16(443).u8(1))
  return { guest, peer, request: await asked.promise }
}

/** Both ends of a connection over loopback: the host's, as the bridge gets it, and the far one. */
async function socketPair(): Promise<{ near: Socket; far: Socket }> {
  const server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const near = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true })
  const [[far]] = (await Promise.all([once(server, 'connection'), once(near, 'connect')])) as [[Socket], unknown]
  server.close()
  far.on('error', () => {})
  cleanUp.push(
    () => far.destroy(),
    () => near.destroy(),
  )
  return { near, far }
}

type JoinOptions = PeerOptions & { idleMs?: number; pay?: BridgeOptions['pay'] }

async function joined({ idleMs = 60_000, pay, ...options }: JoinOptions = {}) {
  const { guest, peer, request } = await openEgress(options)
  const { near, far } = await socketPair()
  const bridge: Bridge = request.join(near, { idleMs, pay })
  await peer.expect('opened')
  /** The next frame that is no credit, in words. */
  const next = async (): Promise<string | [number, string]> => {
    for (;;) {
      const { type, payload } = await peer.next()
      if (type === frameTypes.data) return payload.subarray(9).toString()
      if (type === frameTypes.end) return 'END'
      const reader = createReader(payload)
      if (type === frameTypes.close) return [reader.u16('code'), reader.str('message')]
    }
  }
  return { guest, peer, near, far, bridge, next }
}

async function bytesOf(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of socket) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

const text = async (socket: Socket): Promise<string> => (await bytesOf(socket)).toString()

test('without a handler a connection to the outside is refused', async () => {
  const { guest, peer } = await connectPeer()
  peer.send('open', 2, createWriter().u8(ops.egress).str('example.org').u16(443).u8(1))
  const { channel, reader } = await peer.expect('close')
  expect([channel, reader.u16('code')]).toEqual([2, code.notSupported])
  guest.onEgress(() => {})
  guest.onEgress(undefined)
  peer.send('open', 4, createWriter().u8(ops.egress).str('example.org').u16(443).u8(1))
  expect((await peer.expect('close')).channel).toBe(4)
})

test('a handler given with the connection hears what came right after HELLO', async () => {
  const [hostStream, peerStream] = duplexPair()
  const peer = createPeer(peerStream)
  const asked: string[] = []
  const hello = createWriter().str('DELTA1').u32(1).bytes(Buffer.alloc(16, 7)).u64(0).str('').frame(frameTypes.hello, 0)
  const open = createWriter().u8(ops.egress).str('example.org').u16(80).u8(2).frame(frameTypes.open, 2)
  peer.raw(Buffer.concat([hello, open]))
  await connectGuest(hostStream, { onEgress: ({ host, port, via }) => asked.push(`${host}:${port} ${via}`) })
  await peer.expect('hello')
  expect(asked).toEqual(['example.org:80 http'])
})

test('bytes go both ways, each side ends for itself, and then the channel closes', async () => {
  const { peer, far, bridge, next } = await joined()
  peer.data(2, 0, 0, 'GET')
  peer.send('end', 2)
  expect(await text(far)).toBe('GET')
  far.end('200')
  expect([await next(), await next(), await next()]).toEqual(['200', 'END', [code.ok, '']])
  expect(await bridge.ended).toBe('closed')
  expect(bridge.bytes()).toEqual({ up: 3, down: 3 })
})

test('bytes that are not paid yet wait, in both directions, and arrive whole and in order when they are', async () => {
  const asked: { bytes: number; resolve: () => void }[] = []
  const { peer, far, bridge, next } = await joined({
    pay: (bytes) => new Promise((resolve) => asked.push({ bytes, resolve })),
  })
  const got: Buffer[] = []
  far.on('data', (bytes: Buffer) => got.push(bytes))
  peer.data(2, 0, 0, 'question')
  far.end('answer')
  await expect.poll(() => asked.map(({ bytes }) => bytes).toSorted()).toEqual([6, 8])
  peer.data(2, 0, 8, ', again')
  peer.send('end', 2)
  for (let round = 0; round < 20; round += 1) await turn()
  expect([got.length, bridge.bytes()]).toEqual([0, { up: 0, down: 0 }])
  const settle = setInterval(() => asked.splice(0).forEach(({ resolve }) => resolve()), 1)
  cleanUp.push(() => clearInterval(settle))
  expect([await next(), await next(), await next()]).toEqual(['answer', 'END', [code.ok, '']])
  await bridge.ended
  await expect.poll(() => Buffer.concat(got).toString()).toBe('question, again')
  expect(bridge.bytes()).toEqual({ up: 15, down: 6 })
})

test('bytes that nobody pays for never pass', async () => {
  const asked: number[] = []
  const { peer, far, bridge, next } = await joined({
    pay: (bytes) => {
      asked.push(bytes)
      return Promise.reject(new Error('nobody pays'))
    },
  })
  const got: Buffer[] = []
  far.on('data', (bytes: Buffer) => got.push(bytes))
  peer.data(2, 0, 0, 'question')
  far.write('answer')
  await expect.poll(() => asked.length).toBe(2)
  for (let round = 0; round < 20; round += 1) await turn()
  bridge.cut('permission_denied', 'Nobody pays.')
  expect(await next()).toEqual([code.permissionDenied, 'Nobody pays.'])
  expect([got.length, bridge.bytes()]).toEqual([0, { up: 0, down: 0 }])
})

test('the far side may end first and still be written to', async () => {
  const { peer, far, bridge, next } = await joined()
  far.end('bye')
  expect([await next(), await next()]).toEqual(['bye', 'END'])
  peer.data(2, 0, 0, 'late')
  peer.send('end', 2)
  expect(await text(far)).toBe('late')
  expect(await next()).toEqual([code.ok, ''])
  expect(await bridge.ended).toBe('closed')
})

test('a guest that ended before it was answered is joined all the same', async () => {
  const { peer, request } = await openEgress()
  const { near, far } = await socketPair()
  peer.send('end', 2)
  await turn()
  const bridge = request.join(near, { idleMs: 60_000 })
  far.end('answer')
  expect(await text(far)).toBe('')
  expect(await bridge.ended).toBe('closed')
  expect(bridge.bytes()).toEqual({ up: 0, down: 6 })
})

test('every byte arrives in order through sides that hold each other back', async () => {
  const { guest, peer, far, bridge } = await joined()
  const sent = Buffer.alloc(3 * 1024 * kib, 'abcdefghijklmnopqrstuvwxyz0123456789')
  let credit = 1024 * kib
  let at = 0
  let said = false
  const got: Buffer[] = []
  const echoed = (async () => {
    for (;;) {
      while (at < sent.length && credit > 0) {
        const piece = sent.subarray(at, at + Math.min(credit, 1 + ((at * 7) % 40_000)))
        peer.data(2, 0, at, piece)
        at += piece.length
        credit -= piece.length
      }
      if (at === sent.length && !said) peer.send('end', 2)
      said = at === sent.length
      const frame = await peer.next()
      if (frame.type === frameTypes.credit) credit += createReader(frame.payload).u32('credit')
      if (frame.type === frameTypes.end) return
      if (frame.type !== frameTypes.data) continue
      got.push(Buffer.from(frame.payload.subarray(9)))
      peer.send('credit', 2, createWriter().u32(frame.payload.length - 9))
    }
  })()
  far.pipe(far)
  await echoed
  expect(Buffer.concat(got).equals(sent)).toBe(true)
  expect(await bridge.ended).toBe('closed')
  expect(bridge.bytes()).toEqual({ up: sent.length, down: sent.length })
  expect(guest.held.bytes).toBe(0)
})

test('bytes of two connections that wait at once are never mixed, though they use the same memory', async () => {
  const wires = [await joined(), await joined()]
  const sent = wires.map(() => randomBytes(12 * 1024 * kib))
  const sending = wires.map(async ({ peer }, index) => {
    let credit = 1024 * kib
    for (let at = 0; at < sent[index]!.length; at += 32 * kib) {
      while (credit < 32 * kib) {
        const { type, payload } = await peer.next()
        if (type === frameTypes.credit) credit += createReader(payload).u32('credit')
      }
      peer.data(2, 0, at, sent[index]!.subarray(at, at + 32 * kib))
      credit -= 32 * kib
      await turn()
    }
    peer.send('end', 2)
  })
  // Until the kernel takes no more of either.
  for (const { far } of wires) far.pause()
  await expect.poll(() => wires.every(({ near }) => near.writableLength > 0)).toBe(true)
  const got = await Promise.all(wires.map(({ far }) => bytesOf(far)))
  await Promise.all(sending)
  expect(got.map((each, index) => each.equals(sent[index]!))).toEqual([true, true])
})

/** Sends what the credit allows until there is no more. Returns what was sent, and the most that was not counted as held meanwhile. */
async function flood({ guest, peer, near, bridge }: Awaited<ReturnType<typeof joined>>, credit: number) {
  let at = 0
  let uncounted = 0
  let idle = 0
  while (idle < 50 && !near.destroyed) {
    const bytes = Math.min(credit, 64 * kib)
    if (bytes > 0) peer.data(2, 0, at, Buffer.alloc(bytes))
    at += bytes
    credit -= bytes
    await new Promise((resolve) => setTimeout(resolve, 1))
    uncounted = Math.max(uncounted, near.writableLength - guest.held.bytes)
    idle = peer.waiting.length === 0 ? idle + 1 : 0
    while (peer.waiting[0]?.type === frameTypes.credit)
      credit += createReader((await peer.next()).payload).u32('credit')
  }
  return { sent: at, uncounted, up: bridge.bytes().up }
}

test('a far side that does not read costs no more than the window, and the guest waits until it reads', async () => {
  const wire = await joined()
  wire.far.pause()
  const { sent, uncounted } = await flood(wire, 1024 * kib)
  // What was written and the kernel did not take is memory too.
  expect(uncounted).toBe(0)
  expect(wire.guest.held.bytes).toBe(1024 * kib)
  let got = 0
  wire.far.on('data', (bytes: Buffer) => (got += bytes.length)).resume()
  await expect.poll(() => got).toBe(sent)
  wire.bridge.cut('canceled', 'Enough.')
  expect([await wire.bridge.ended, wire.guest.held.bytes]).toEqual(['cut', 0])
})

test('a guest that starts small is sent credit as its bytes are taken, more each time', async () => {
  const wire = await joined({ features: 1 })
  expect(wire.guest.held.bytes).toBe(16 * kib)
  wire.far.resume()
  wire.peer.data(2, 0, 0, Buffer.alloc(16 * kib))
  expect((await wire.peer.expect('credit')).reader.u32('bytes')).toBe(64 * kib)
  expect(wire.guest.held.bytes).toBe(64 * kib)
  wire.peer.data(2, 0, 16 * kib, Buffer.alloc(64 * kib + 1))
  expect(await wire.bridge.ended).toBe('guest')
  expect([wire.guest.error?.code, wire.guest.held.bytes]).toEqual(['protocol_error', 0])
})

test('two hundred and fifty-six uploads that nobody reads wait, none is cut, and all together stay within what a sandbox may hold', async () => {
  const held = createHeldBytes({ bytes: 12 * 1024 * kib, guaranteedBytes: 1024 * kib })
  const { guest, peer } = await connectPeer({ features: 1, held: held.account() })
  const bridges: Bridge[] = []
  const server = createServer((socket) => socket.pause().on('error', () => {})).listen(0, '127.0.0.1')
  cleanUp.push(() => server.close())
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  guest.onEgress((request) => {
    const near = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    cleanUp.push(() => near.destroy())
    near.once('connect', () => bridges.push(request.join(near, { idleMs: 60_000 })))
  })
  for (let index = 1; index <= 256; index++) {
    peer.send('open', 2 * index, createWriter().u8(ops.egress).str('example.org').u16(443).u8(1))
  }
  await expect.poll(() => bridges.length).toBe(256)
  // An honest guest with more to send than there is room for.
  const sent = new Map<number, number>()
  const send = (channel: number, bytes: number): void => {
    const at = sent.get(channel) ?? 0
    sent.set(channel, at + bytes)
    peer.data(channel, 0, at, Buffer.alloc(bytes))
  }
  for (let index = 1; index <= 256; index++) send(2 * index, 16 * kib)
  for (let quiet = 0; quiet < 20; quiet = peer.waiting.length === 0 ? quiet + 1 : 0) {
    await turn()
    while (peer.waiting.length > 0) {
      const { type, channel, payload } = await peer.next()
      if (type === frameTypes.credit) send(channel, Math.min(createReader(payload).u32('credit'), 64 * kib))
    }
    expect(held.bytes).toBeLessThanOrEqual(6 * 1024 * kib)
  }
  expect(bridges.filter(({ bytes }) => bytes().up === 0)).toEqual([])
  expect(await Promise.race([...bridges.map(({ ended }) => ended), turn()])).toBeUndefined()
  guest.close()
  await guest.closed
  expect(held.bytes).toBe(0)
})

test('a connection for which there is no memory is refused, and one that ended makes room', async () => {
  const held = createHeldBytes({ bytes: 32 * kib, guaranteedBytes: 0 })
  const { guest, peer } = await connectPeer({ features: 1, held: held.account() })
  const asked: EgressRequest[] = []
  guest.onEgress((request) => asked.push(request))
  for (const channel of [2, 4])
    peer.send('open', channel, createWriter().u8(ops.egress).str('a.example').u16(443).u8(1))
  await expect.poll(() => asked.length).toBe(2)
  const [first, second] = [await socketPair(), await socketPair()]
  const bridge = asked[0]!.join(first.near, { idleMs: 60_000 })
  expect(() => asked[1]!.join(second.near, { idleMs: 60_000 })).toThrow('holds as much as it may')
  bridge.cut('canceled', 'Enough.')
  asked[1]!.join(second.near, { idleMs: 60_000 }).cut('canceled', 'Enough.')
  expect(held.bytes).toBe(0)
})

test('a guest that does not read holds the far side back', async () => {
  const { far, bridge } = await joined()
  let written = 0
  const fill = (): void => {
    while (far.write(Buffer.alloc(64 * kib))) written += 64 * kib
  }
  far.on('drain', fill)
  fill()
  await expect.poll(() => bridge.bytes().down).toBeGreaterThanOrEqual(1024 * kib)
  await turn()
  expect(bridge.bytes().down).toBeLessThanOrEqual(1024 * kib + 64 * kib)
  expect(written).toBeGreaterThan(0)
})

test('a refused connection says the policy, once', async () => {
  const { peer, request } = await openEgress()
  request.refuse('permission_denied', 'The policy does not list example.org.')
  request.refuse('permission_denied', 'Twice.')
  const { reader } = await peer.expect('close')
  expect([reader.u16('code'), reader.str('message')]).toEqual([
    code.permissionDenied,
    'The policy does not list example.org.',
  ])
  await turn()
  expect(peer.waiting).toEqual([])
})

test('a connection the guest gave up ends the socket, or cannot be joined any more', async () => {
  const { peer, far, bridge } = await joined()
  const closed = once(far, 'end')
  peer.send('cancel', 2)
  expect(await bridge.ended).toBe('guest')
  far.resume()
  await closed

  const late = await openEgress()
  let abandoned = 0
  late.request.onAbandoned(() => (abandoned += 1))
  late.peer.send('cancel', 2)
  await turn()
  expect(abandoned).toBe(1)
  const { near } = await socketPair()
  expect(() => late.request.join(near, { idleMs: 1 })).toThrow('given this connection up')
  late.request.refuse('io', 'Too late.')
})

test('a wire that is lost ends the socket, and what waits for an answer hears it', async () => {
  const { peer, bridge, far } = await joined()
  peer.stream.end()
  expect(await bridge.ended).toBe('guest')
  far.resume()
  await once(far, 'end')
  const late = await openEgress()
  const abandoned = new Promise<void>((resolve) => late.request.onAbandoned(resolve))
  late.peer.stream.end()
  await abandoned
})

test('a far side that breaks off is told to the guest as that', async () => {
  const { far, bridge, next } = await joined()
  far.resetAndDestroy()
  expect(await bridge.ended).toBe('reset')
  expect(await next()).toEqual([code.io, 'The connection broke off (ECONNRESET).'])
})

test('a cut ends both sides at once with the reason', async () => {
  const { far, bridge, next } = await joined()
  far.resume()
  const closed = once(far, 'end')
  bridge.cut('permission_denied', 'The policy changed.')
  bridge.cut('permission_denied', 'Twice.')
  expect(await bridge.ended).toBe('cut')
  expect(await next()).toEqual([code.permissionDenied, 'The policy changed.'])
  await closed
})

test('a connection on which nothing moves is given up', async () => {
  const { bridge, next } = await joined({ idleMs: 20 })
  expect(await bridge.ended).toBe('idle')
  expect(await next()).toEqual([code.timedOut, expect.stringContaining('Nothing moved')])
})

test('data out of order ends the wire', async () => {
  const { guest, peer, bridge } = await joined()
  peer.data(2, 0, 5, 'x')
  expect(await bridge.ended).toBe('guest')
  expect(guest.error?.code).toBe('protocol_error')
})

test('a connection that came in no known way ends the wire', async () => {
  const { guest, peer } = await connectPeer()
  guest.onEgress(() => {})
  peer.send('open', 2, createWriter().u8(ops.egress).str('example.org').u16(443).u8(4))
  await guest.closed
  expect(guest.error?.code).toBe('protocol_error')
})

test('an operation the host does not know is refused', async () => {
  const { guest, peer } = await connectPeer()
  guest.onEgress(() => {})
  peer.send('open', 2, createWriter().u8(99))
  expect((await peer.expect('close')).reader.u16('code')).toBe(code.notSupported)
  peer.send('open', 4, createWriter().u8(ops.egress).u32(0xffff_ffff))
  await guest.closed
  expect(guest.error?.code).toBe('protocol_error')
})
