import { once } from 'node:events'
import { duplexPair } from 'node:stream'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { connectGuest } from './client.ts'
import type { Backlog, Bridge, EgressRequest } from './client.ts'
import { createReader, createWriter, frameTypes } from './codec.ts'
import { ops } from './messages.ts'
import { connectPeer, createPeer } from './testing/peer.ts'

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
const kib = 1024
const code = { ok: 0, permissionDenied: 6, io: 12, limit: 14, notSupported: 19, timedOut: 21 }

const cleanUp: (() => void)[] = []
afterEach(() => {
  for (const each of cleanUp.splice(0).toReversed()) each()
})

async function openEgress() {
  const { guest, peer } = await connectPeer()
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

async function joined({
  idleMs = 60_000,
  mostBytes = 8 * 1024 * kib,
  all,
}: { idleMs?: number; mostBytes?: number; all?: NonNullable<Backlog['all']> } = {}) {
  const { guest, peer, request } = await openEgress()
  const { near, far } = await socketPair()
  const backlog: Backlog = { bytes: 0, mostBytes, ...(all && { all }) }
  const bridge: Bridge = request.join(near, { idleMs, backlog })
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
  return { guest, peer, near, far, bridge, backlog, next }
}

async function text(socket: Socket): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of socket) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString()
}

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
  const bridge = request.join(near, { idleMs: 60_000, backlog: { bytes: 0, mostBytes: 1 } })
  far.end('answer')
  expect(await text(far)).toBe('')
  expect(await bridge.ended).toBe('closed')
  expect(bridge.bytes()).toEqual({ up: 0, down: 6 })
})

test('every byte arrives in order through sides that hold each other back', async () => {
  const { peer, far, bridge, backlog } = await joined()
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
  expect(backlog.bytes).toBe(0)
})

/** Sends what the credit allows until the host ends it. Returns the most that was held meanwhile, and the most that was not counted. */
async function flood({ peer, far, near, bridge, backlog }: Awaited<ReturnType<typeof joined>>) {
  far.pause()
  let at = 0
  let credit = 1024 * kib
  let most = 0
  let uncounted = 0
  const state = { ended: false }
  void bridge.ended.then(() => (state.ended = true))
  while (!state.ended && at < 64 * 1024 * kib) {
    if (credit >= 64 * kib) {
      peer.data(2, 0, at, Buffer.alloc(64 * kib))
      at += 64 * kib
      credit -= 64 * kib
    }
    await turn()
    most = Math.max(most, backlog.bytes)
    if (!near.destroyed) uncounted = Math.max(uncounted, near.writableLength - backlog.bytes)
    const frame = peer.waiting[0]
    if (frame?.type !== frameTypes.credit) continue
    credit += createReader((await peer.next()).payload).u32('credit')
  }
  return { most, uncounted }
}

test('a far side that does not read costs no more than the window, then the connection that fills the backlog is cut', async () => {
  const wire = await joined({ mostBytes: 256 * kib })
  const { most, uncounted } = await flood(wire)
  expect(most).toBeLessThanOrEqual(384 * kib)
  // What was written and the kernel did not take is memory too.
  expect(uncounted).toBe(0)
  expect(await wire.bridge.ended).toBe('backlog')
  expect(await wire.next()).toEqual([code.limit, expect.stringContaining('do not read')])
  expect(wire.backlog.bytes).toBe(0)
})

test('while all sandboxes together hold too much, each may hold its share', async () => {
  const all = { bytes: 0, mostBytes: 1_024 * kib, shareBytes: 256 * kib }
  const others = 2_048 * kib
  all.bytes = others
  const wire = await joined({ all })
  expect((await flood(wire)).most).toBeLessThanOrEqual(384 * kib)
  expect(await wire.bridge.ended).toBe('backlog')
  expect([wire.backlog.bytes, all.bytes]).toEqual([0, others])
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
  expect(() => late.request.join(near, { idleMs: 1, backlog: { bytes: 0, mostBytes: 1 } })).toThrow(
    'given this connection up',
  )
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
