import { once } from 'node:events'
import { expect, test, vi } from 'vitest'
import { encodeFrame } from './codec.ts'
import { ops } from './messages.ts'
import { connectPeer } from './testing/peer.ts'
import { refusal } from './testing/settle.ts'
import type { Duplex } from 'node:stream'

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

async function dial() {
  const { guest, peer } = await connectPeer()
  const dialing = guest.dial(8080)
  const { channel, reader } = await peer.expectOpen(ops.dial)
  expect(reader.u16('port')).toBe(8080)
  peer.send('opened', channel)
  return { guest, peer, channel, socket: await dialing }
}

async function text(socket: Duplex): Promise<string> {
  const chunks = []
  for await (const chunk of socket) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString()
}

test('bytes go both ways and each side ends for itself', async () => {
  const { peer, channel, socket } = await dial()
  socket.end('request')
  expect((await peer.expect('data')).payload.subarray(9).toString()).toBe('request')
  expect((await peer.expect('end')).channel).toBe(channel)
  peer.data(channel, 0, 0, 'ans')
  peer.data(channel, 0, 3, 'wer')
  peer.send('end', channel)
  peer.close(channel)
  expect(await text(socket)).toBe('answer')
})

test('the other side may end first and still be written to', async () => {
  const { peer, channel, socket } = await dial()
  peer.data(channel, 0, 0, 'bye')
  peer.send('end', channel)
  socket.resume()
  await once(socket, 'end')
  socket.write('late')
  expect((await peer.expect('data')).payload.subarray(9).toString()).toBe('late')
  socket.end()
  await peer.expect('end')
  peer.close(channel)
  await once(socket, 'close')
})

test.each([
  ['few messages of a round leave in one write', 5, { atOnce: 0, inAll: 1 }],
  ['many messages of a round leave in several, the first at once', 20, { atOnce: 2, inAll: 3 }],
])('%s, each whole', async (_, messages, { atOnce, inAll }) => {
  const { guest, peer, hostStream } = await connectPeer()
  const listener = { data() {}, ended() {}, failed() {} }
  const dials = Array.from({ length: messages }, () => guest.dialChannel(8080, listener))
  for (let each = 0; each < messages; each++) await peer.expectOpen(ops.dial)
  const write = vi.spyOn(hostStream, 'write')
  for (const [at, dialed] of dials.entries()) dialed.send(Buffer.from(`message ${at}`))
  expect(write).toHaveBeenCalledTimes(atOnce)
  await turn()
  expect(write).toHaveBeenCalledTimes(inAll)
  const said: string[] = []
  while (said.length < messages) said.push((await peer.expect('data')).payload.subarray(9).toString())
  expect(said).toEqual(Array.from(dials.keys(), (at) => `message ${at}`))
})

test('a port nobody listens on is refused', async () => {
  const { guest, peer } = await connectPeer()
  const dialing = guest.dial(1)
  peer.close((await peer.expect('open')).channel, 20, 'Nobody listens.')
  await refusal(dialing, 'connection_refused')
})

test('a connection that ends before the caller had a turn is a destroyed socket, not a crash', async () => {
  const { guest, peer } = await connectPeer()
  const dialing = guest.dial(8080)
  const { channel } = await peer.expect('open')
  peer.raw(Buffer.concat([encodeFrame(3, channel), encodeFrame(12, 1)]))
  const socket = await dialing
  expect(socket.destroyed).toBe(true)
  expect(socket.errored).toMatchObject({ code: 'protocol_error' })
})

test('a connection lost on the way destroys the socket with the reason', async () => {
  const { peer, channel, socket } = await dial()
  const failed = once(socket, 'error')
  peer.close(channel, 12, 'Reset.')
  expect(await failed).toMatchObject([{ code: 'io' }])
  const other = await dial()
  const lost = once(other.socket, 'error')
  other.peer.stream.end()
  expect(await lost).toMatchObject([{ code: 'connection_lost' }])
})

test('destroying the socket tells the guest', async () => {
  const { guest, peer, channel, socket } = await dial()
  socket.destroy()
  expect((await peer.expect('cancel')).channel).toBe(channel)
  peer.data(channel, 0, 0, 'late')
  peer.close(channel, 18, 'Canceled.')
  await turn()
  expect(guest.error).toBeUndefined()
})

test('a socket nobody reads gives no credit, and one that writes waits for it', async () => {
  const { peer, channel, socket } = await dial()
  for (let sent = 0; sent < 1024 * 1024; sent += 65_536) peer.data(channel, 0, sent, Buffer.alloc(65_536))
  let written = false
  socket.write(Buffer.alloc(2 * 1024 * 1024), () => (written = true))
  let got = 0
  while (got < 1024 * 1024) got += (await peer.expect('data')).payload.length - 9
  await turn()
  expect(peer.waiting).toEqual([])
  expect(written).toBe(false)
  socket.destroy()
})

test('data out of order on a socket ends the connection', async () => {
  const { guest, peer, channel, socket } = await dial()
  const failed = once(socket, 'error')
  peer.data(channel, 0, 5, 'x')
  expect(await failed).toMatchObject([{ code: 'protocol_error' }])
  expect(guest.error?.code).toBe('protocol_error')
})
