import { PassThrough, Readable } from 'node:stream'
import { expect, test } from 'vitest'
import { createWriter } from './codec.ts'
import { ops } from './messages.ts'
import { connectPeer } from './testing/peer.ts'
import { refusal } from './testing/settle.ts'
import type { Writer } from './codec.ts'

interface EntryFields {
  path?: string | Buffer
  type?: number
  size?: number | bigint
  target?: string
}

function writeEntry(writer: Writer, { path = '/a', type = 1, size = 5, target }: EntryFields = {}): Writer {
  writer.bytes(path).u8(type).u64(size).u32(0o644).u32(1000).u32(1000).str('user').str('user').i64(-1n).u64(0x1fn)
  return writer.opt(target, (one, value) => one.str(value))
}
const entryFields =
  (fields?: EntryFields) =>
  (writer: Writer): void =>
    void writeEntry(writer, fields)
const record = (writer: Writer): Buffer => {
  const payload = writer.payload()
  return createWriter().bytes(payload).payload()
}
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
const entry = {
  path: '/a',
  type: 'file',
  size: 5,
  mode: 0o644,
  uid: 1000,
  gid: 1000,
  owner: 'user',
  group: 'user',
  modifiedNanos: -1n,
  inode: 0x1fn,
  target: null,
  etag: '"1f-5-ffffffffffffffff"',
}

test('stat asks and answers', async () => {
  const { guest, peer } = await connectPeer()
  const stat = guest.stat('/a', { follow: false })
  const { channel, reader } = await peer.expectOpen(ops.stat)
  expect([reader.str('path'), reader.u8('follow')]).toEqual(['/a', 0])
  peer.close(channel, 0, '', entryFields())
  expect(await stat).toEqual(entry)
})

test('a path that is no UTF-8 makes the round trip as bytes', async () => {
  const { guest, peer } = await connectPeer()
  const raw = Buffer.from([0x2f, 0xff, 0x61])
  const stat = guest.stat(raw)
  const { channel, reader } = await peer.expectOpen(ops.stat)
  expect(reader.bytes('path')).toEqual(raw)
  peer.close(channel, 0, '', entryFields({ path: raw, type: 3, target: 'x' }))
  expect(await stat).toMatchObject({ path: '/\ufffda', pathBytes: raw, type: 'symlink', target: 'x' })
})

test('a size beyond any number is cut, and the ETag still exact', async () => {
  const { guest, peer } = await connectPeer()
  const stat = guest.stat('/sparse')
  peer.close((await peer.expect('open')).channel, 0, '', entryFields({ size: 2n ** 63n - 1n }))
  expect(await stat).toMatchObject({ size: Number.MAX_SAFE_INTEGER, etag: '"1f-7fffffffffffffff-ffffffffffffffff"' })
})

test.each([
  ['a relative path', 'a', 'invalid'],
  ['an empty path', '', 'invalid'],
  ['a NUL', '/a\0', 'invalid'],
  ['4,097 bytes', `/${'ä'.repeat(2048)}`, 'name_too_long'],
] as const)('%s is refused before anything is sent', async (_name, path, code) => {
  const { guest, peer } = await connectPeer()
  const calls = [guest.stat(path), guest.list(path), guest.read(path), guest.write(path), guest.mkdir(path)]
  const more = [guest.move('/a', path), guest.remove(path), guest.chmod(path, 0), guest.watch(path)]
  await Promise.all([...calls, ...more].map((call) => refusal(call, code)))
  await turn()
  expect(peer.waiting).toEqual([])
})

test('mkdir, move, remove and chmod ask and answer', async () => {
  const { guest, peer } = await connectPeer()
  const made = guest.mkdir('/d', { mode: 0o700, owner: 'root', parents: true })
  const mkdir = await peer.expectOpen(ops.mkdir)
  const { reader } = mkdir
  expect([reader.str(''), reader.u32(''), reader.str(''), reader.u8('')]).toEqual(['/d', 0o700, 'root', 1])
  peer.close(mkdir.channel, 0, '', entryFields({ path: '/d', type: 2 }))
  expect(await made).toMatchObject({ path: '/d', type: 'directory' })

  const moved = guest.move('/a', '/b', { overwrite: true })
  const move = await peer.expectOpen(ops.move)
  expect([move.reader.str(''), move.reader.str(''), move.reader.u8('')]).toEqual(['/a', '/b', 1])
  peer.close(move.channel, 2, 'It exists.')
  await refusal(moved, 'exists')

  const removed = guest.remove('/a', { recursive: true })
  const remove = await peer.expectOpen(ops.remove)
  expect([remove.reader.str(''), remove.reader.u8('')]).toEqual(['/a', 1])
  peer.close(remove.channel, 0, '', (writer) => void writer.u64(12))
  expect(await removed).toBe(12)

  const changed = guest.chmod('/a', 0o4755)
  const chmod = await peer.expectOpen(ops.chmod)
  expect([chmod.reader.str(''), chmod.reader.u32('')]).toEqual(['/a', 0o4755])
  peer.close(chmod.channel, 0, '', entryFields())
  expect(await changed).toEqual(entry)
})

test('metrics, sync and clock ask and answer', async () => {
  const { guest, peer } = await connectPeer()
  const metrics = guest.metrics()
  peer.close((await peer.expectOpen(ops.metrics)).channel, 0, '', (writer) => {
    writer
      .u64(1)
      .u64(2)
      .u64(2n ** 64n - 1n)
      .u32(4)
      .u64(5)
      .u64(6)
      .u32(150)
      .u64(8)
      .u64(9)
  })
  expect(await metrics).toEqual({
    uptimeMs: 1,
    memUsedBytes: 2,
    memTotalBytes: Number.MAX_SAFE_INTEGER,
    processes: 4,
    diskUsedBytes: 5,
    diskTotalBytes: 6,
    load1: 1.5,
    cpuUserMs: 8,
    cpuSystemMs: 9,
  })
  const sync = guest.sync()
  peer.close((await peer.expectOpen(ops.sync)).channel)
  expect(await sync).toBeUndefined()
  const clock = guest.clock(1_700_000_000_000_000_000n)
  const { channel, reader } = await peer.expectOpen(ops.clock)
  expect(reader.u64('unixNanos')).toBe(1_700_000_000_000_000_000n)
  peer.close(channel, 19, "The clock is the host's.")
  await refusal(clock, 'not_supported')
})

test('a page of a listing comes in several frames', async () => {
  const { guest, peer } = await connectPeer()
  const listing = guest.list('/', { depth: 3, after: '/a', limit: 3 })
  const { channel, reader } = await peer.expectOpen(ops.list)
  expect([reader.str(''), reader.u32(''), reader.str(''), reader.u32('')]).toEqual(['/', 3, '/a', 3])
  const first = Buffer.concat(['/b', '/c'].map((path) => record(writeEntry(createWriter(), { path }))))
  peer.data(channel, 3, 0, first)
  peer.data(channel, 3, first.length, record(writeEntry(createWriter(), { path: '/d' })))
  peer.close(channel, 0, '', (writer) => void writer.u8(1))
  const { entries, more } = await listing
  expect(entries.map((one) => one.path)).toEqual(['/b', '/c', '/d'])
  expect(more).toBe(true)
})

test('a long listing gets its credit back', async () => {
  const { guest, peer } = await connectPeer()
  const listing = guest.list('/', { limit: 10_000 })
  const { channel } = await peer.expectOpen(ops.list)
  const one = record(writeEntry(createWriter(), { path: `/${'n'.repeat(200)}` }))
  const batch = Buffer.concat(Array.from({ length: 200 }, () => one))
  let sent = 0
  for (; sent < 1024 * 1024 - batch.length; sent += batch.length) peer.data(channel, 3, sent, batch)
  expect((await peer.expect('credit')).reader.u32('bytes')).toBeGreaterThanOrEqual(512 * 1024)
  peer.close(channel, 0, '', (writer) => void writer.u8(0))
  expect((await listing).entries.length).toBe((sent / batch.length) * 200)
})

test.each<[string, (listed: Buffer) => [number, Buffer][]]>([
  ['more entries than asked for', (one) => [[0, Buffer.concat([one, one, one])]]],
  ['a record cut short', (one) => [[0, one.subarray(0, -1)]]],
  ['a record without its length', () => [[0, Buffer.alloc(3)]]],
  ['records out of order', (one) => [[1, one]]],
  ['an unknown type', () => [[0, record(writeEntry(createWriter(), { type: 9 }))]]],
  ['a path of 5,000 bytes', () => [[0, record(writeEntry(createWriter(), { path: `/${'a'.repeat(5000)}` }))]]],
])('%s in a listing ends the connection', async (_name, make) => {
  const { guest, peer } = await connectPeer()
  const listing = guest.list('/', { limit: 2 })
  const { channel } = await peer.expectOpen(ops.list)
  for (const [offset, bytes] of make(record(writeEntry(createWriter())))) peer.data(channel, 3, offset, bytes)
  await refusal(listing, 'protocol_error')
  expect(guest.error?.code).toBe('protocol_error')
})

test('a page of none or of millions is refused here', async () => {
  const { guest } = await connectPeer()
  for (const limit of [0, -1, 10_001, Number.NaN]) await refusal(guest.list('/', { limit }), 'invalid')
})

async function openRead(options: { from?: number; length?: number; exact?: boolean } = {}, size = 5) {
  const { guest, peer } = await connectPeer()
  const reading = guest.readStream('/a', options)
  const { channel, reader } = await peer.expectOpen(ops.read)
  peer.send('opened', channel, writeEntry(createWriter(), { size }))
  return { guest, peer, channel, reader, ...(await reading) }
}

async function text(stream: Readable): Promise<string> {
  return Buffer.concat(await stream.toArray()).toString()
}

test('a read says what it reads and delivers it', async () => {
  const { guest, peer } = await connectPeer()
  const reading = guest.read('/a', { from: 2, length: 3 })
  const { channel, reader } = await peer.expectOpen(ops.read)
  expect([reader.str(''), reader.u64(''), reader.u64('')]).toEqual(['/a', 2n, 3n])
  peer.send('opened', channel, writeEntry(createWriter()))
  peer.data(channel, 0, 0, 'llo')
  peer.close(channel)
  const { entry: got, body } = await reading
  expect(got).toEqual(entry)
  const chunks = []
  for await (const chunk of body) chunks.push(chunk)
  expect(Buffer.concat(chunks).toString()).toBe('llo')
})

test('a read that is refused says why', async () => {
  const { guest, peer } = await connectPeer()
  const reading = guest.readStream('/a')
  peer.close((await peer.expect('open')).channel, 23, 'It is a pipe.')
  await refusal(reading, 'not_a_file')
})

test('a read that fails on the way fails its stream', async () => {
  const { peer, channel, stream } = await openRead()
  peer.data(channel, 0, 0, 'he')
  peer.close(channel, 12, 'I/O error.')
  await refusal(text(stream), 'io')
})

test('a body canceled early tells the guest', async () => {
  const { guest, peer } = await connectPeer()
  const reading = guest.read('/a')
  const { channel } = await peer.expect('open')
  peer.send('opened', channel, writeEntry(createWriter()))
  const { body } = await reading
  body.cancel()
  expect((await peer.expect('cancel')).channel).toBe(channel)
  expect((await body.next()).done).toBe(true)
})

test('a destroyed read stream tells the guest', async () => {
  const { peer, channel, stream } = await openRead()
  peer.data(channel, 0, 0, 'he')
  stream.destroy()
  expect((await peer.expect('cancel')).channel).toBe(channel)
})

test('a read stream nobody reads holds no more than the window', async () => {
  const { peer, channel, stream } = await openRead({}, 10_000_000)
  for (let sent = 0; sent < 1024 * 1024; sent += 65_536) peer.data(channel, 0, sent, Buffer.alloc(65_536))
  await turn()
  expect(peer.waiting).toEqual([])
  stream.resume()
  expect((await peer.expect('credit')).reader.u32('bytes')).toBeGreaterThanOrEqual(512 * 1024)
  stream.destroy()
})

test('data at another offset, or more than asked for, ends the connection', async () => {
  const jumped = await openRead()
  jumped.peer.data(jumped.channel, 0, 1, 'x')
  await refusal(text(jumped.stream), 'protocol_error')
  const long = await openRead({ length: 3 })
  long.peer.data(long.channel, 0, 0, 'hello')
  await refusal(text(long.stream), 'protocol_error')
})

test('an exact read of a file that grows ends at the size it had', async () => {
  const { guest, peer, channel, stream } = await openRead({ exact: true, from: 1 })
  peer.data(channel, 0, 0, 'ello and more')
  expect(await text(stream)).toBe('ello')
  expect((await peer.expect('cancel')).channel).toBe(channel)
  expect(guest.error).toBeUndefined()
})

test('an exact read of a file that shrinks fails instead of ending short', async () => {
  const { peer, channel, stream } = await openRead({ exact: true })
  peer.data(channel, 0, 0, 'he')
  peer.close(channel)
  await refusal(text(stream), 'io')
})

test('an exact read of a file without a size delivers what comes', async () => {
  const { peer, channel, stream } = await openRead({ exact: true }, 0)
  peer.data(channel, 0, 0, 'MemTotal')
  peer.close(channel)
  expect(await text(stream)).toBe('MemTotal')
})

async function openWrite() {
  const { guest, peer } = await connectPeer()
  const opening = guest.write('/a', { mode: 0o600, modeExplicit: true, owner: 'root', fsync: true, ifMatch: '"x"' })
  const { channel, reader } = await peer.expectOpen(ops.write)
  peer.send('opened', channel)
  return { guest, peer, channel, reader, file: await opening }
}

test('a write sends its bytes and its end, and answers with the entry', async () => {
  const { peer, channel, reader, file } = await openWrite()
  expect([reader.str(''), reader.u32(''), reader.str(''), reader.u8('')]).toEqual(['/a', 0x8000_0180, 'root', 4])
  expect(reader.opt('', (one) => one.str(''))).toBe('"x"')
  expect(file.write(Buffer.from('hel'))).toBeUndefined()
  await file.write(Buffer.from('lo'))
  const ending = file.end()
  for (const piece of ['hel', 'lo']) expect((await peer.expect('data')).payload.subarray(9).toString()).toBe(piece)
  expect((await peer.expect('end')).channel).toBe(channel)
  peer.close(channel, 0, '', entryFields())
  expect(await ending).toEqual(entry)
})

test('a write that succeeds before its end is a lie', async () => {
  const { guest, peer, channel, file } = await openWrite()
  peer.close(channel, 0, '', entryFields())
  await refusal(file.result, 'protocol_error')
  expect(guest.error?.code).toBe('protocol_error')
})

test('a write whose precondition fails says so at once', async () => {
  const { guest, peer } = await connectPeer()
  const opening = guest.write('/a', { ifMatch: '"x"' })
  peer.close((await peer.expect('open')).channel, 17, 'It is another version.')
  await refusal(opening, 'precondition_failed')
})

test('a full disk is heard while a write waits for credit', async () => {
  const { peer, channel, file } = await openWrite()
  const writing = file.write(Buffer.alloc(2 * 1024 * 1024))!
  peer.close(channel, 7, 'The disk is full.')
  await refusal(writing, 'no_space')
  await refusal(file.end(), 'no_space')
})

test('a canceled write tells the guest and fails', async () => {
  const { peer, channel, file } = await openWrite()
  file.cancel()
  expect((await peer.expect('cancel')).channel).toBe(channel)
  await refusal(file.end(), 'canceled')
})

async function openWriteFrom(source: Readable) {
  const { guest, peer } = await connectPeer()
  const writing = guest.writeFrom('/a', source)
  writing.catch(() => {})
  const { channel } = await peer.expectOpen(ops.write)
  peer.send('opened', channel)
  return { guest, peer, channel, writing }
}

test('a stream is piped into a file with back-pressure', async () => {
  let produced = 0
  const total = 3 * 1024 * 1024
  const source = new Readable({
    read() {
      this.push(produced < total ? Buffer.alloc(65_536, (produced += 65_536) / 65_536) : null)
    },
  })
  const { peer, channel, writing } = await openWriteFrom(source)
  let received = 0
  let credit = 1024 * 1024
  let frame = await peer.next()
  while (frame.type === 4) {
    received += frame.payload.length - 9
    if (received === credit) {
      await turn()
      // What was produced beyond the credit waits in the source's and the channel's small buffers.
      expect(produced).toBeLessThanOrEqual(received + 4 * 65_536)
      credit += 1024 * 1024
      peer.send('credit', channel, createWriter().u32(1024 * 1024))
    }
    frame = await peer.next()
  }
  expect(frame.type).toBe(6)
  expect(received).toBe(total)
  peer.close(channel, 0, '', entryFields())
  expect(await writing).toEqual(entry)
})

test('a source that breaks off leaves the old file', async () => {
  for (const breakOff of [
    (source: PassThrough) => source.destroy(new Error('aborted')),
    (source: PassThrough) => source.destroy(),
  ]) {
    const source = new PassThrough()
    source.on('error', () => {})
    const { peer, channel, writing } = await openWriteFrom(source)
    source.write('half')
    await peer.expect('data')
    breakOff(source)
    await refusal(writing, 'canceled')
    expect((await peer.expect('cancel')).channel).toBe(channel)
  }
})

test('a source that broke off before the file was open leaves the old file', async () => {
  const source = new PassThrough()
  source.on('error', () => {})
  source.destroy(new Error('aborted'))
  await new Promise((resolve) => source.on('close', resolve))
  const { peer, channel, writing } = await openWriteFrom(source)
  await refusal(writing, 'canceled')
  expect((await peer.expect('cancel')).channel).toBe(channel)
})

test('a refusal on the way pauses the source and leaves it to its owner', async () => {
  const source = new PassThrough()
  const { peer, channel, writing } = await openWriteFrom(source)
  source.write('some')
  await peer.expect('data')
  peer.close(channel, 7, 'The disk is full.')
  await refusal(writing, 'no_space')
  expect([source.isPaused(), source.destroyed]).toEqual([true, false])
})

test('an aborted write from a stream is canceled', async () => {
  const { guest, peer } = await connectPeer()
  const abort = new AbortController()
  const source = new PassThrough()
  const writing = guest.writeFrom('/a', source, { signal: abort.signal })
  writing.catch(() => {})
  const { channel } = await peer.expectOpen(ops.write)
  peer.send('opened', channel)
  await turn()
  abort.abort()
  await refusal(writing, 'canceled')
  expect((await peer.expect('cancel')).channel).toBe(channel)
})

async function openWatch() {
  const { guest, peer } = await connectPeer()
  const opening = guest.watch('/w', { recursive: true })
  const { channel, reader } = await peer.expectOpen(ops.watch)
  expect([reader.str(''), reader.u8('')]).toEqual(['/w', 1])
  peer.send('opened', channel)
  return { guest, peer, channel, watch: await opening }
}
const event = (kind: number, path: string): Buffer => record(createWriter().u8(kind).str(path).u8(0))

test('watch events arrive in order until canceled', async () => {
  const { peer, channel, watch } = await openWatch()
  const both = Buffer.concat([event(1, '/w/a'), event(4, '/w/b')])
  peer.data(channel, 3, 0, both)
  peer.data(channel, 3, both.length, event(6, '/w'))
  const seen = []
  for await (const { kind, path } of watch.events) {
    seen.push([kind, path])
    if (seen.length === 3) break
  }
  expect(seen).toEqual([
    ['create', '/w/a'],
    ['rename', '/w/b'],
    ['overflow', '/w'],
  ])
  expect((await peer.expect('cancel')).channel).toBe(channel)
})

test('canceling a watch ends a reader that waits', async () => {
  const { peer, channel, watch } = await openWatch()
  const waiting = watch.events.next()
  watch.cancel()
  expect(await waiting).toEqual({ value: undefined, done: true })
  expect((await peer.expect('cancel')).channel).toBe(channel)
})

test('a watch event that is none ends the connection', async () => {
  for (const bad of [event(9, '/w'), event(1, '/w').subarray(0, -1), event(1, `/${'a'.repeat(5000)}`)]) {
    const { guest, peer, channel, watch } = await openWatch()
    peer.data(channel, 3, 0, bad)
    await refusal(watch.events.next(), 'protocol_error')
    expect(guest.error?.code).toBe('protocol_error')
  }
})
