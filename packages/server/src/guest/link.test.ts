import { once } from 'node:events'
import { type AddressInfo, createServer, Socket } from 'node:net'
import { duplexPair } from 'node:stream'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { connectInPlace } from '../kernel/in-place.ts'
import { connectGuest } from './client.ts'
import { createWriter, encodeFrame, frameTypes, maxOpenPayloadBytes } from './codec.ts'
import { guestOpens, maxGuestChannels, maxHostChannels } from './link.ts'
import { ops } from './messages.ts'
import { connectPeer, createPeer, ended, exitFields, openedExec } from './testing/peer.ts'
import { refusal } from './testing/settle.ts'
import type { GuestConnection } from './client.ts'
import type { Writer } from './codec.ts'
import type { ExecRequest } from './messages.ts'
import type { Peer } from './testing/peer.ts'

const request: ExecRequest = {
  execId: 'exe_1',
  argv: ['true'],
  env: {},
  cwd: '/',
  user: 'user',
  timeoutMs: 0,
  keepStdin: false,
}
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
const number = (value: number): Writer => createWriter().u64(value)

test('both sides say HELLO and the guest is known by its bootId', async () => {
  const { guest } = await connectPeer()
  expect(guest.bootId).toBe('07'.repeat(16))
  expect(guest.features).toBe(0n)
})

test('output that nobody has taken yet stays as it was, though more was read into the same memory', async () => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const stream = connectInPlace({ port: (server.address() as AddressInfo).port, host: '127.0.0.1' })
  const [far] = (await once(server, 'connection')) as [Socket]
  server.close()
  const peer = createPeer(far)
  peer.hello()
  const guest = await connectGuest(stream)
  await peer.expect('hello')
  const opening = guest.exec(request)
  const { channel } = await peer.expectOpen(ops.exec)
  peer.send('opened', channel, openedExec(42))
  const exec = await opening
  const pieces = ['a', 'b', 'c', 'd'].map((letter) => letter.repeat(20_000))
  for (const [index, piece] of pieces.entries()) {
    peer.data(channel, 1, index * 20_000, piece)
    const answer = guest.ping(5_000)
    const { reader } = await peer.expect('ping')
    peer.send('pong', 0, number(reader.count('number')))
    await answer
  }
  peer.close(channel, 0, '', exitFields(0, 0, 0, 80_000))
  let output = ''
  for await (const { bytes } of exec.output) output += bytes.toString()
  expect(output).toBe(pieces.join(''))
  guest.close()
})

test('a guest that says nothing is given up after the time it had', async () => {
  const [hostStream] = duplexPair()
  await refusal(connectGuest(hostStream, { helloTimeoutMs: 20 }), 'timed_out')
  expect(hostStream.destroyed).toBe(true)
})

test('connecting can be canceled, also before it starts', async () => {
  const [first] = duplexPair()
  await refusal(connectGuest(first, { signal: AbortSignal.abort() }), 'canceled')
  const [second] = duplexPair()
  const abort = new AbortController()
  const connecting = connectGuest(second, { signal: abort.signal })
  abort.abort()
  await refusal(connecting, 'canceled')
  expect(second.destroyed).toBe(true)
})

test('a stream that has ended already is a lost connection', async () => {
  const [hostStream] = duplexPair()
  hostStream.destroy()
  await refusal(connectGuest(hostStream), 'connection_lost')
})

const hello = (magic: string, version: number, bootId: Buffer): Writer =>
  createWriter().str(magic).u32(version).bytes(bootId).u64(0).str('')
const badHellos: Record<string, (peer: Peer) => void> = {
  'another magic': (peer) => peer.send('hello', 0, hello('DELTA2', 1, Buffer.alloc(16))),
  'a longer magic': (peer) => peer.send('hello', 0, hello('DELTA1!', 1, Buffer.alloc(16))),
  'another version': (peer) => peer.send('hello', 0, hello('DELTA1', 2, Buffer.alloc(16))),
  'a short bootId': (peer) => peer.send('hello', 0, hello('DELTA1', 1, Buffer.alloc(15))),
  'a channel': (peer) => peer.send('hello', 1, hello('DELTA1', 1, Buffer.alloc(16))),
  'another frame first': (peer) => peer.send('ping', 0, number(1)),
  'an empty payload': (peer) => peer.send('hello', 0),
}

test.each(Object.entries(badHellos))('a HELLO with %s ends the connection', async (_name, say) => {
  const [hostStream, peerStream] = duplexPair()
  const peer = createPeer(peerStream)
  say(peer)
  await refusal(connectGuest(hostStream), 'protocol_error')
  expect(hostStream.destroyed).toBe(true)
})

/** What a hostile guest may try, with channel 1 an exec that was opened, 3 one that was not answered, and 5 a STAT. */
const violations: Record<string, (peer: Peer) => void> = {
  'a second HELLO': (peer) => peer.hello(),
  'a frame type of the host': (peer) => peer.send('control', 1, createWriter().u8(3)),
  'an unknown frame type': (peer) => peer.raw(encodeFrame(12, 1)),
  'a frame without room for its header': (peer) => peer.raw(Buffer.alloc(9)),
  'a frame larger than allowed': (peer) => peer.raw(Buffer.from([0x46, 0, 1, 0, 4])),
  'a channel that never existed': (peer) => peer.data(7, 1, 0, 'x'),
  'a guest channel that never existed': (peer) => peer.data(2, 0, 0, 'x'),
  'CREDIT on the connection': (peer) => peer.send('credit', 0, createWriter().u32(1)),
  'OPEN of an odd channel': (peer) => peer.send('open', 9, createWriter().u8(ops.egress)),
  'OPEN of the connection': (peer) => peer.send('open', 0, createWriter().u8(ops.egress)),
  'OPEN without an op': (peer) => peer.send('open', 2),
  'the same guest channel twice'(peer) {
    for (let times = 0; times < 2; times++) peer.send('open', 2, createWriter().u8(ops.egress).str('h').u16(1).u8(1))
  },
  'a PONG nobody asked for': (peer) => peer.send('pong', 0, number(99)),
  'a PING without its number': (peer) => peer.send('ping', 0),
  'OPENED twice': (peer) => peer.send('opened', 1, openedExec()),
  'OPENED where there is none': (peer) => peer.send('opened', 5),
  'OPENED cut short': (peer) => peer.send('opened', 3, createWriter().u32(1)),
  'DATA before OPENED': (peer) => peer.data(3, 1, 0, 'x'),
  'DATA for a call without any': (peer) => peer.data(5, 0, 0, 'x'),
  'DATA on a stream an exec does not have': (peer) => peer.data(1, 0, 0, 'x'),
  'DATA of records on an exec': (peer) => peer.data(1, 3, 0, 'x'),
  'DATA without its offset': (peer) => peer.send('data', 1, createWriter().u8(1).u32(0)),
  'DATA at an offset no program reaches': (peer) =>
    peer.send(
      'data',
      1,
      createWriter()
        .u8(1)
        .u64(2n ** 63n)
        .u8(0),
    ),
  'output that goes back'(peer) {
    peer.data(1, 1, 100, 'x')
    peer.data(1, 1, 100, 'y')
  },
  'DATA after END'(peer) {
    peer.send('end', 1)
    peer.data(1, 1, 0, 'x')
  },
  'END twice'(peer) {
    peer.send('end', 1)
    peer.send('end', 1)
  },
  'more DATA than the credit'(peer) {
    for (let sent = 0; sent <= 1024 * 1024; sent += 65_536) peer.data(1, 1, sent, Buffer.alloc(65_536))
  },
  'credit beyond any window'(peer) {
    for (let times = 0; times < 2; times++) peer.send('credit', 1, createWriter().u32(0xffff_ffff))
  },
  'CREDIT cut short': (peer) => peer.send('credit', 1, createWriter().u16(1)),
  'CANCEL of a channel of the host': (peer) => peer.send('cancel', 1),
  'CLOSE without a code': (peer) => peer.send('close', 5),
  'CLOSE with success before OPENED': (peer) => peer.close(3, 0, '', exitFields(0, 0)),
  'an exit of an unknown kind': (peer) => peer.close(1, 0, '', exitFields(9, 0)),
  'an attached exec that ends as running': (peer) => peer.close(1, 0, '', exitFields(3, 0)),
  'an exit cut short': (peer) => peer.close(1, 0, '', (writer) => void writer.u8(0)),
  'an entry cut short': (peer) => peer.close(5, 0, '', (writer) => void writer.str('/a')),
  'an entry whose path claims 4 GiB': (peer) => peer.close(5, 0, '', (writer) => void writer.u32(0xffff_ffff).u8(1)),
}

test.each(Object.entries(violations))('%s ends the connection and every call on it', async (_name, say) => {
  const { guest, peer, hostStream } = await connectPeer()
  const opening = guest.exec(request)
  const { channel } = await peer.expect('open')
  peer.send('opened', channel, openedExec())
  const exec = await opening
  const waiting = guest.exec({ ...request, execId: 'exe_2' })
  const stat = guest.stat('/a')
  const pong = guest.ping(60_000)
  await peer.expect('open')
  await peer.expect('open')

  say(peer)
  await Promise.all([exec.exit, waiting, stat, pong].map((call) => refusal(call, 'protocol_error')))
  await guest.closed
  expect(guest.error?.code).toBe('protocol_error')
  expect(hostStream.destroyed).toBe(true)
  await refusal(guest.stat('/b'), 'connection_lost')
})

test('frames for a channel that was closed are ignored', async () => {
  const { guest, peer } = await connectPeer()
  const stat = guest.stat('/a')
  const { channel } = await peer.expect('open')
  peer.close(channel, 1, 'No such file.')
  peer.close(channel, 1, 'No such file.')
  peer.data(channel, 1, 5, 'late')
  peer.send('credit', channel, createWriter().u32(1))
  peer.send('end', channel)
  peer.send('opened', channel)
  expect((await refusal(stat, 'not_found')).message).toBe('No such file.')
  const pinging = guest.ping(60_000)
  peer.send('pong', 0, createWriter().u64((await peer.expect('ping')).reader.u64('number')))
  expect(await pinging).toBeGreaterThanOrEqual(0)
})

test('an error number of a newer guest is an io error with its message', async () => {
  const { guest, peer } = await connectPeer()
  const stat = guest.stat('/a')
  peer.close((await peer.expect('open')).channel, 999, 'Something new.')
  expect((await refusal(stat, 'io')).message).toBe('Something new.')
})

test("a guest's PING is answered with its number", async () => {
  const { peer } = await connectPeer()
  peer.send('ping', 0, createWriter().u64(2n ** 64n - 1n))
  expect((await peer.expect('pong')).reader.u64('number')).toBe(2n ** 64n - 1n)
})

test('a PING without an answer times out and the connection stays', async () => {
  const { guest, peer } = await connectPeer()
  await refusal(guest.ping(10), 'timed_out')
  const { reader } = await peer.expect('ping')
  peer.send('pong', 0, createWriter().u64(reader.u64('number')))
  const stat = guest.stat('/a')
  peer.close((await peer.expect('open')).channel, 6, 'No.')
  await refusal(stat, 'permission_denied')
})

test('a guest that asks without reading the answers is cut off', async () => {
  const [hostStream, peerStream] = duplexPair()
  peerStream.on('error', () => {})
  peerStream.write(hello('DELTA1', 1, Buffer.alloc(16)).frame(1, 0))
  const guest = await connectGuest(hostStream)
  const ping = number(1).frame(9, 0)
  const many = Buffer.concat(Array.from({ length: 4096 }, () => ping))
  while (!guest.error) {
    peerStream.write(many)
    await new Promise(setImmediate)
  }
  expect(guest.error.code).toBe('protocol_error')
  expect(guest.error.message).toContain('does not read')
})

test('a guest that asks for connections to the outside without reading the refusals is cut off', async () => {
  // It takes its time, too.
  let now = 0
  const [hostStream, peerStream] = duplexPair()
  peerStream.on('error', () => {})
  peerStream.write(hello('DELTA1', 1, Buffer.alloc(16)).frame(1, 0))
  const guest = await connectGuest(hostStream, {
    onEgress: ({ refuse }) => refuse('permission_denied', 'x'.repeat(300)),
    monotonic: () => (now += 1_000),
  })
  let channel = 2
  const mostWaiting = 4 * 1024 * 1024
  while (!guest.error && hostStream.writableLength < mostWaiting) {
    const opens = Array.from({ length: 256 }, (_, at) =>
      createWriter()
        .u8(ops.egress)
        .str('a.example')
        .u16(443)
        .u8(1)
        .frame(frameTypes.open, channel + 2 * at),
    )
    channel += 512
    peerStream.write(Buffer.concat(opens))
    await new Promise(setImmediate)
  }
  expect(guest.error?.message).toContain('does not read')
})

test('a guest that does not read makes calls fail, not pile up', async () => {
  const [hostStream, peerStream] = duplexPair()
  peerStream.write(hello('DELTA1', 1, Buffer.alloc(16)).frame(1, 0))
  const guest = await connectGuest(hostStream)
  const outcomes: Promise<unknown>[] = []
  for (let calls = 0; calls < 20; calls++) {
    const exec = guest.exec({ ...request, execId: `exe_${calls}`, stdin: Buffer.alloc(3 * 1024 * 1024) })
    outcomes.push(exec.catch((error: unknown) => error))
  }
  await new Promise(setImmediate)
  expect(hostStream.writableLength).toBeLessThan(40 * 1024 * 1024)
  guest.close()
  const codes = (await Promise.all(outcomes)).map((error) => (error as { code: string }).code)
  expect(codes.filter((code) => code === 'busy').length).toBeGreaterThan(5)
  expect(codes.filter((code) => code === 'connection_lost').length).toBeGreaterThan(5)
})

test('calls beyond the share of channels are refused until some end', async () => {
  const { guest, peer } = await connectPeer()
  const calls = Array.from({ length: maxHostChannels }, (_, index) => guest.stat(`/${index}`))
  await refusal(guest.stat('/more'), 'limit')
  peer.close((await peer.expect('open')).channel, 1, 'No.')
  await refusal(calls[0]!, 'not_found')
  const again = guest.stat('/again')
  guest.close()
  await Promise.all([again, ...calls.slice(1)].map((call) => refusal(call, 'connection_lost')))
})

test('a canceled call counts until the guest has closed it', async () => {
  const { guest, peer } = await connectPeer()
  const abort = new AbortController()
  const calls = Array.from({ length: maxHostChannels }, () => guest.stat('/a', { signal: abort.signal }))
  const refused = calls.map((call) => refusal(call, 'canceled'))
  abort.abort()
  await Promise.all(refused)
  await refusal(guest.stat('/b'), 'limit')
  peer.close(1, 18, 'Canceled.')
  await new Promise(setImmediate)
  void guest.stat('/c').catch(() => {})
  guest.close()
})

test('an OPEN larger than the protocol allows is refused here', async () => {
  const { guest } = await connectPeer()
  await refusal(guest.exec({ ...request, stdin: Buffer.alloc(maxOpenPayloadBytes) }), 'too_large')
})

test('aborting gives a call up at once and tells the guest; what still comes is dropped', async () => {
  const { guest, peer } = await connectPeer()
  const abort = new AbortController()
  const call = guest.list('/', { signal: abort.signal })
  const { channel } = await peer.expect('open')
  abort.abort()
  await refusal(call, 'canceled')
  expect((await peer.expect('cancel')).channel).toBe(channel)
  peer.data(channel, 3, 0, 'whatever')
  peer.close(channel, 18, 'Canceled.')
  await refusal(guest.stat('/a', { signal: abort.signal }), 'canceled')
  const stat = guest.stat('/a')
  peer.close((await peer.expect('open')).channel, 1, 'No.')
  await refusal(stat, 'not_found')
})

test('a canceled channel still may not exceed its credit', async () => {
  const { guest, peer } = await connectPeer()
  const abort = new AbortController()
  const call = guest.list('/', { signal: abort.signal })
  const { channel } = await peer.expect('open')
  abort.abort()
  await refusal(call, 'canceled')
  for (let sent = 0; sent <= 1024 * 1024; sent += 65_536) peer.data(channel, 3, sent, Buffer.alloc(65_536))
  await guest.closed
  expect(guest.error?.code).toBe('protocol_error')
})

test('when the connection ends every call is refused and closed resolves', async () => {
  const { guest, peer } = await connectPeer()
  const opening = guest.exec(request)
  peer.send('opened', (await peer.expect('open')).channel, openedExec())
  const exec = await opening
  const reading = exec.output.next()
  const calls = [guest.exec({ ...request, execId: 'b' }), guest.stat('/a'), guest.list('/a'), guest.read('/a')]
  const more = [guest.write('/a'), guest.watch('/a'), guest.dial(80), guest.ping(60_000), guest.start(request)]
  peer.stream.end()
  await Promise.all([exec.exit, reading, ...calls, ...more].map((call) => refusal(call, 'connection_lost')))
  await guest.closed
  expect(guest.error?.code).toBe('connection_lost')
})

test('an error of the socket is the cause of the lost connection', async () => {
  const { guest, hostStream } = await connectPeer()
  hostStream.destroy(new Error('ECONNRESET'))
  await guest.closed
  expect(guest.error).toMatchObject({ code: 'connection_lost', cause: { message: 'ECONNRESET' } })
})

test('closing here destroys the stream and refuses what is open', async () => {
  const { guest, hostStream } = await connectPeer()
  const stat = guest.stat('/a')
  guest.close()
  await refusal(stat, 'connection_lost')
  await guest.closed
  await ended(hostStream)
  guest.close()
  await refusal(guest.ping(100), 'connection_lost')
})

test('more guest channels than its share end the connection', async () => {
  const { guest, peer } = await connectPeer()
  guest.onEgress(() => {})
  for (let index = 1; index <= maxGuestChannels + 1; index++) {
    peer.send('open', index * 2, createWriter().u8(ops.egress).str('example.org').u16(443).u8(1))
  }
  await guest.closed
  expect(guest.error?.code).toBe('protocol_error')
})

/** Every kind of call at once; settles them all so that a promise left open is a test that does not end. */
function callEverything(guest: GuestConnection): Promise<unknown>[] {
  const exec = guest.exec(request)
  const read = guest.read('/a')
  const drain = async (): Promise<void> => {
    for await (const chunk of (await exec).output) void chunk
  }
  const drainRead = async (): Promise<void> => {
    for await (const chunk of (await read).body) void chunk
  }
  const watch = async (): Promise<void> => {
    for await (const event of (await guest.watch('/a')).events) void event
  }
  const calls = [exec.then((stream) => stream.exit), drain(), drainRead(), watch(), guest.stat('/a'), guest.list('/a')]
  const more = [
    guest.write('/a').then((file) => file.end()),
    guest.dial(80),
    guest.execs(),
    guest.metrics(),
    guest.sync(),
  ]
  return [...calls, ...more].map((call) => call.catch(() => {}))
}

test('whatever frames a guest sends, every call settles and nothing is thrown', async () => {
  const payload = fc.oneof(
    fc.uint8Array({ maxLength: 80 }),
    fc.constantFrom(
      openedExec().payload(),
      createWriter().u16(0).str('').u8(0).u8(0).u8(0).u64(0).u64(0).payload(),
      createWriter().u16(3).str('No.').payload(),
      createWriter().u8(1).u64(0).raw(Buffer.from('out')).payload(),
      createWriter().u8(0).u64(0).raw(Buffer.from('file')).payload(),
      createWriter().u32(1000).payload(),
    ),
  )
  const frames = fc.array(
    fc.record({ type: fc.integer({ min: 2, max: 11 }), channel: fc.integer({ min: 0, max: 24 }), payload }),
    { maxLength: 30 },
  )
  await fc.assert(
    fc.asyncProperty(frames, fc.integer({ min: 1, max: 97 }), async (said, pieceBytes) => {
      const { guest, peer } = await connectPeer()
      guest.onEgress((egress) => {
        egress.join(new Socket({ allowHalfOpen: true }), { idleMs: 60_000 })
      })
      const calls = callEverything(guest)
      const bytes = Buffer.concat(said.map((one) => encodeFrame(one.type, one.channel, one.payload)))
      for (let at = 0; at < bytes.length; at += pieceBytes) peer.raw(bytes.subarray(at, at + pieceBytes))
      peer.stream.end()
      await guest.closed
      await Promise.all(calls)
    }),
    { numRuns: 300 },
  )
})

test('a guest that opens channels and gives them up again without end is cut off, one that takes its time is not', async () => {
  let now = 0
  const { guest, peer } = await connectPeer({ monotonic: () => now })
  let channel = 0
  const openAndCancel = (): void => {
    channel += 2
    peer.send('open', channel, createWriter().u8(ops.egress).str('a.example').u16(443).u8(1))
    peer.send('cancel', channel)
  }
  for (let times = 0; times < guestOpens.burst; times++) openAndCancel()
  for (let seconds = 0; seconds < 3; seconds++) {
    await turn()
    now += 1_000
    for (let times = 0; times < guestOpens.perSecond; times++) openAndCancel()
  }
  await turn()
  expect(guest.error).toBeUndefined()
  openAndCancel()
  await guest.closed
  expect(guest.error?.message).toContain('without end')
})
