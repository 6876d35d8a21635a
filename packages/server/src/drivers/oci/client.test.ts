import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { type Duplex, duplexPair } from 'node:stream'
import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import {
  createFrameDecoder,
  createReader,
  createWriter,
  encodeFrame,
  type Frame,
  type Writer,
} from '../../guest/codec.ts'
import { silentLogger } from '../../kernel/log.ts'
import type { BoxSpec } from '../driver.ts'
import { createOciDriver } from './oci.ts'

/** The helper's end of the socket, spoken by hand. */
interface Peer {
  stream: Duplex
  /** The next request that arrives. */
  next(): Promise<Frame>
  answer(request: Frame, write?: (writer: Writer) => void): void
  refuse(request: Frame, code: number, message: string): void
  news(type: number, write: (writer: Writer) => void): void
}

const cleanUp: (() => void | Promise<void>)[] = []
afterEach(async () => {
  for (const each of cleanUp.splice(0).toReversed()) await each()
})

function start(wireDir?: string) {
  const folder = wireDir ?? mkdtempSync(join(tmpdir(), 'delta-oci-'))
  if (!wireDir) cleanUp.push(() => rmSync(folder, { recursive: true }))
  const [helper, stream] = duplexPair()
  const driver = createOciDriver({ helper, wireDir: folder, log: silentLogger })
  cleanUp.push(() => driver.close())
  return { driver, peer: createPeer(stream), folder }
}

function createPeer(stream: Duplex): Peer {
  const decoder = createFrameDecoder({ maxPayload: 65_536 })
  const arrived: Frame[] = []
  const waiting: ((frame: Frame) => void)[] = []
  stream.on('error', () => undefined)
  stream.on('data', (chunk: Buffer) => {
    for (const { payload, ...head } of decoder.push(chunk)) {
      const frame = { ...head, payload: Buffer.from(payload) }
      const taker = waiting.shift()
      if (taker) taker(frame)
      else arrived.push(frame)
    }
  })
  const send = (type: number, channel: number, writer: Writer) => stream.write(writer.frame(type, channel))
  return {
    stream,
    next: () => {
      const frame = arrived.shift()
      return frame ? Promise.resolve(frame) : new Promise((resolve) => waiting.push(resolve))
    },
    answer(request, write) {
      const writer = createWriter().u16(0).str('')
      write?.(writer)
      send(request.type, request.channel, writer)
    },
    refuse: (request, code, message) => send(request.type, request.channel, createWriter().u16(code).str(message)),
    news(type, write) {
      const writer = createWriter()
      write(writer)
      send(type, 0, writer)
    },
  }
}

const spec: BoxSpec = {
  boxId: 'box_a',
  upperId: 'upp_a',
  fresh: true,
  template: 'host',
  runtime: 'crun',
  cpuMilli: 500,
  memoryMb: 64,
  diskMb: 32,
  processes: 16,
  hostname: 'sbx-a',
}

function writeBox(writer: Writer, wirePath = 'box_a/wire'): void {
  writer.u32(42).u32(1_879_048_192).str(wirePath)
  writer.list([{ phase: 'overlay', micros: 900 }], (item, { phase, micros }) => item.str(phase).u32(micros))
}

/** Makes a box whose wire lies where `wirePath` says. */
async function withBox({ driver, peer }: ReturnType<typeof start>, wirePath?: string) {
  const made = driver.create(spec)
  peer.answer(await peer.next(), (writer) => writeBox(writer, wirePath))
  return made
}

async function listen(path: string): Promise<{ server: Server; accepted: Promise<Socket> }> {
  mkdirSync(dirname(path), { recursive: true })
  const { promise: accepted, resolve } = Promise.withResolvers<Socket>()
  const server = createServer(resolve)
  // A path beyond what an address holds is reached from its folder.
  const back = process.cwd()
  process.chdir(dirname(path))
  await new Promise<void>((done) => server.listen('wire', done))
  process.chdir(back)
  cleanUp.push(() => void server.close())
  return { server, accepted }
}

/** A stream's chunk, or with no bytes the end of them. */
function piece(bytes = ''): Buffer {
  const length = Buffer.alloc(4)
  length.writeUInt32LE(Buffer.byteLength(bytes))
  return Buffer.concat([length, Buffer.from(bytes)])
}

function tail(code: number, message = '', { entries = 0, bytes = 0 } = {}): Buffer {
  return createWriter().u16(code).str(message).u64(entries).u64(bytes).payload()
}

/** The helper's end of one stream: answers the request with its name and returns the connection that is made. */
async function openStream({ peer, folder }: ReturnType<typeof start>) {
  const request = await peer.next()
  const { accepted } = await listen(join(folder, `stream-${request.channel}`, 'wire'))
  peer.answer(request, (writer) => writer.str(`stream-${request.channel}/wire`))
  const socket = await accepted
  cleanUp.push(() => void socket.destroy())
  return { request, socket }
}

async function collect<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const all: Item[] = []
  for await (const item of items) all.push(item)
  return all
}

async function joined(chunks: AsyncIterable<Uint8Array>): Promise<string> {
  const copies: Buffer[] = []
  for await (const chunk of chunks) copies.push(Buffer.from(chunk))
  return Buffer.concat(copies).toString()
}

describe('the client of the privileged helper', () => {
  test('a create says every field and reads the answer', async () => {
    const { driver, peer } = start()
    const made = driver.create({ ...spec, volumes: [{ volumeId: 'vol_a', path: '/data', readOnly: true }] })
    const request = await peer.next()
    expect(request.type).toBe(2)
    expect(request.channel).toBeGreaterThan(0)
    const reader = createReader(request.payload)
    expect([reader.str('boxId'), reader.str('upperId'), reader.u8('fresh'), reader.str('template')]).toEqual([
      'box_a',
      'upp_a',
      1,
      'host',
    ])
    expect(reader.str('runtime')).toBe('crun')
    expect([reader.u32('cpu'), reader.u32('memory'), reader.u32('disk'), reader.u32('processes')]).toEqual([
      500, 64, 32, 16,
    ])
    expect(reader.str('hostname')).toBe('sbx-a')
    const volumes = reader.list('volumes', 9, (item) => [item.str('volumeId'), item.str('path'), item.u8('readOnly')])
    expect(volumes).toEqual([['vol_a', '/data', 1]])
    expect(reader.remaining).toBe(0)
    peer.answer(request, writeBox)
    expect(await made).toEqual({
      boxId: 'box_a',
      pid: 42,
      uids: { first: 1_879_048_192, count: 65_536 },
      timings: [{ phase: 'overlay', micros: 900 }],
    })
  })

  test('answers find their requests in any order', async () => {
    const { driver, peer } = start()
    const calls = ['box_1', 'box_2', 'box_3'].map((boxId) => driver.stats(boxId))
    const requests = [await peer.next(), await peer.next(), await peer.next()]
    for (const request of requests.toReversed()) {
      const number = Number(createReader(request.payload).str('boxId').slice(4))
      peer.answer(request, (writer) => {
        for (let index = 0; index < 5; index += 1) writer.u64(number)
        writer.u32(number).u64(number).u64(number)
      })
    }
    expect((await Promise.all(calls)).map(({ oomKills }) => oomKills)).toEqual([1, 2, 3])
  })

  test('a disk that nobody counts is null', async () => {
    const { driver, peer } = start()
    const stats = driver.stats('box_a')
    peer.answer(await peer.next(), (writer) => {
      for (let index = 0; index < 5; index += 1) writer.u64(7)
      writer.u32(1).u64(0xffff_ffff_ffff_ffffn).u64(0)
    })
    expect(await stats).toMatchObject({ cpuMicros: 7, diskBytes: null, diskLimitBytes: 0 })
  })

  test.each([
    [7, 'disk_full'],
    [11, 'invalid_request'],
    [14, 'capacity_exhausted'],
    [19, 'runtime_not_available'],
    [21, 'driver_timed_out'],
    [13, 'driver_failed'],
    [999, 'driver_failed'],
  ])('a create refused with %i is %s and tells the reason', async (number, code) => {
    const { driver, peer } = start()
    const made = driver.create(spec)
    peer.refuse(await peer.next(), number, 'Because.')
    if (number === 999) peer.answer(await peer.next(), (writer) => writer.u64(1).u64(1).u64(1).u64(1).u8(0))
    await expect(made).rejects.toMatchObject({ code, cause: 'Because.' })
  })

  test.each([
    { templates: [], code: 'template_not_found' },
    { templates: ['missing'], code: 'template_not_ready' },
    { templates: ['ready'], code: 'driver_failed' },
  ])('what is missing of a create: $code when the template is $templates', async ({ templates, code }) => {
    const { driver, peer } = start()
    const made = driver.create(spec)
    peer.refuse(await peer.next(), 1, 'Not there.')
    const request = await peer.next()
    expect(request.type).toBe(9)
    peer.answer(request, (writer) => writer.list(templates, (item, state) => item.str('host').str(state).str('')))
    await expect(made).rejects.toMatchObject({ code, cause: 'Not there.' })
  })

  test('an error of a pool that turned read-only says so', async () => {
    const { driver, peer } = start()
    const made = driver.create(spec)
    peer.refuse(await peer.next(), 12, 'Read-only file system')
    peer.answer(await peer.next(), (writer) => writer.u64(1).u64(1).u64(1).u64(1).u8(1))
    await expect(made).rejects.toMatchObject({ code: 'pool_read_only' })
  })

  test('a list of a thousand boxes arrives whole', async () => {
    const { driver, peer } = start()
    const list = driver.list()
    const ids = Array.from({ length: 1_000 }, (_, index) => `box_${'x'.repeat(30)}${index}`)
    peer.answer(await peer.next(), (writer) =>
      writer
        .list(ids, (item, boxId) => item.str(boxId).str('upp_a').u8(2).u32(1).str(`${boxId}/wire`).str('host'))
        .list(['upp_free'], (item, upperId) => item.str(upperId)),
    )
    const { boxes, upperIds } = await list
    expect(boxes).toHaveLength(1_000)
    expect(boxes[999]).toEqual({ boxId: ids[999], upperId: 'upp_a', state: 'frozen', template: 'host' })
    expect(upperIds).toEqual(['upp_free'])
  })

  test('news of a death and of the end reach every listener, until it stops listening', async () => {
    const { driver, peer } = start()
    const seen: unknown[] = []
    const stop = driver.onDeath((boxId, cause) => seen.push([boxId, cause]))
    driver.onShutdown((mode) => seen.push(mode))
    peer.news(100, (writer) => writer.str('box_a').u8(1))
    peer.news(100, (writer) => writer.str('box_a').u8(2))
    peer.news(101, (writer) => writer.u8(1))
    peer.news(101, (writer) => writer.u8(2))
    await expect.poll(() => seen).toEqual([['box_a', 'out_of_memory'], ['box_a', 'locks_exceeded'], 'stop', 'leave'])
    stop()
    peer.news(100, (writer) => writer.str('box_b').u8(0))
    const usage = driver.usage()
    peer.answer(await peer.next(), (writer) => writer.u64(1).u64(2).u64(3).u64(4).u8(0))
    await usage
    expect(seen).toHaveLength(4)
  })

  test('news of the room on the disk are known from then on; a state that is not known yet counts as low', async () => {
    const { driver, peer } = start()
    expect(driver.room()).toEqual({ state: 'fine' })
    peer.news(102, (writer) => writer.u8(2).u64(5).u64(7))
    await expect.poll(() => driver.room()).toEqual({ state: 'read_only', freeBytes: 5, reserveBytes: 7 })
    peer.news(102, (writer) => writer.u8(9).u64(5).u64(7))
    await expect.poll(() => driver.room().state).toBe('low')
    peer.news(102, (writer) => writer.u8(0).u64(9).u64(7))
    await expect.poll(() => driver.room().state).toBe('fine')
  })

  test('news of a kind that is not known yet is passed over', async () => {
    const { driver, peer } = start()
    peer.news(177, (writer) => writer.str('later'))
    const dropped = driver.dropUpper('upp_a')
    peer.answer(await peer.next())
    await expect(dropped).resolves.toBeUndefined()
  })

  test('when the helper goes, all that waits is refused, and all that comes', async () => {
    const { driver, peer } = start()
    const waiting = [driver.info(), driver.freeze('box_a'), driver.create(spec)]
    await peer.next()
    peer.stream.end()
    for (const each of waiting) await expect(each).rejects.toMatchObject({ code: 'driver_unavailable' })
    await driver.closed
    await expect(driver.list()).rejects.toMatchObject({ code: 'driver_unavailable' })
  })

  test.each([
    ['an answer to a request that was never made', () => encodeFrame(7, 99, Buffer.from([0, 0, 0, 0, 0, 0]))],
    ['an answer of another type', () => encodeFrame(3, 1, Buffer.from([0, 0, 0, 0, 0, 0]))],
    ['an answer that is cut short', () => encodeFrame(1, 1, Buffer.from([0]))],
    ['a length beyond any answer', () => Buffer.from([0xff, 0xff, 0xff, 0x7f, 1])],
    [
      'a list that claims a billion items',
      () => encodeFrame(1, 1, Buffer.concat([Buffer.alloc(6), Buffer.alloc(64, 0x3f)])),
    ],
  ])('%s ends the connection and all that waits', async (_what, bytes) => {
    const { driver, peer } = start()
    const info = driver.info()
    const other = driver.usage()
    await peer.next()
    peer.stream.write(bytes())
    await expect(info).rejects.toThrow()
    await expect(other).rejects.toMatchObject({ code: 'driver_unavailable' })
    await driver.closed
  })

  test('any bytes at all end in an answer, a refusal or the end of the connection', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), fc.boolean(), async (bytes, asAnswer) => {
        const { driver, peer } = start()
        const list = driver.list().then(
          () => 'answered',
          () => 'refused',
        )
        await peer.next()
        peer.stream.write(asAnswer ? encodeFrame(7, 1, Buffer.concat([Buffer.alloc(6), bytes])) : Buffer.from(bytes))
        peer.stream.end()
        expect(await list).toMatch(/answered|refused/)
        await driver.closed
      }),
      { numRuns: 200 },
    )
  })
})

describe('connecting to a guest', () => {
  test('reaches the socket in the box’s folder', async () => {
    const context = start()
    const { accepted } = await listen(join(context.folder, 'box_a/wire'))
    await withBox(context)
    const socket = await context.driver.connect('box_a')
    socket.write('hello')
    const other = await accepted
    expect(await new Promise((resolve) => other.once('data', (chunk) => resolve(`${chunk}`)))).toBe('hello')
    socket.destroy()
  })

  test('reaches it also where the whole path is longer than an address may be', async () => {
    const base = mkdtempSync(join(tmpdir(), 'delta-oci-'))
    cleanUp.push(() => rmSync(base, { recursive: true }))
    const deep = join(base, 'd'.repeat(60), 'e'.repeat(60))
    mkdirSync(deep, { recursive: true })
    const context = start(deep)
    const { accepted } = await listen(join(deep, 'box_a/wire'))
    await withBox(context)
    const socket = await context.driver.connect('box_a')
    await accepted
    socket.destroy()
  })

  test('waits for a guest that does not listen yet', async () => {
    const context = start()
    await withBox(context)
    const connected = context.driver.connect('box_a')
    await new Promise((resolve) => setTimeout(resolve, 20))
    await listen(join(context.folder, 'box_a/wire'))
    ;(await connected).destroy()
  })

  test('gives up at once when the box dies, or when it is told to', async () => {
    const context = start()
    await withBox(context)
    const waiting = context.driver.connect('box_a')
    context.peer.news(100, (writer) => writer.str('box_a').u8(0))
    await expect(waiting).rejects.toMatchObject({ code: 'guest_unreachable' })

    const aborted = start()
    await withBox(aborted)
    const abort = new AbortController()
    const pending = aborted.driver.connect('box_a', { signal: abort.signal })
    abort.abort(new Error('enough'))
    await expect(pending).rejects.toThrow('enough')
  })

  test('asks the helper where an adopted box listens', async () => {
    const context = start()
    await listen(join(context.folder, 'box_old/wire'))
    const connected = context.driver.connect('box_old')
    const request = await context.peer.next()
    expect(request.type).toBe(7)
    context.peer.answer(request, (writer) =>
      writer
        .list(['box_old'], (item, boxId) => item.str(boxId).str('upp_a').u8(1).u32(1).str('box_old/wire').str('host'))
        .list([], () => undefined),
    )
    ;(await connected).destroy()
  })

  test.each(['/etc/passwd', '../outside/wire', 'box_a/../../wire', 'a\0b'])(
    'a wire at %j outside of the folder is refused',
    async (wirePath) => {
      const context = start()
      await expect(withBox(context, wirePath)).rejects.toMatchObject({ code: 'driver_failed' })
    },
  )
})

describe('streams of the privileged helper', () => {
  test('a layer arrives whole, in whatever pieces its chunks come', async () => {
    const opened = start()
    const read = joined(opened.driver.pack({ source: 'snp_b', parent: 'snp_a' }))
    const { request, socket } = await openStream(opened)
    const reader = createReader(request.payload)
    expect([request.type, reader.str('source'), reader.str('parent')]).toEqual([18, 'snp_b', 'snp_a'])
    for (const byte of Buffer.concat([piece('hel'), piece('lo'), piece(), tail(0)])) {
      socket.write(Buffer.of(byte))
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(await read).toBe('hello')
  })

  test.each([
    [1, 'disk_not_found'],
    [13, 'disk_in_use'],
    [7, 'disk_full'],
  ])('a stream that ends with %i throws %s after what it sent', async (code, expected) => {
    const opened = start()
    const read = joined(opened.driver.pack({ source: 'snp_a' }))
    const { socket } = await openStream(opened)
    socket.end(Buffer.concat([piece('part'), piece(), tail(code, 'Because.')]))
    await expect(read).rejects.toMatchObject({ code: expected, cause: 'Because.' })
  })

  test.each([
    ['in a chunk', Buffer.concat([piece('part').subarray(0, 6)])],
    ['between two', piece('part')],
    ['before its end is told', Buffer.concat([piece('part'), piece(), tail(0).subarray(0, 9)])],
  ])('a stream that is cut %s is no layer', async (_where, bytes) => {
    const opened = start()
    const read = joined(opened.driver.pack({ source: 'snp_a' }))
    const { socket } = await openStream(opened)
    socket.end(bytes)
    await expect(read).rejects.toMatchObject({ code: 'driver_unavailable' })
  })

  test('a chunk that claims too much is refused', async () => {
    const opened = start()
    const read = joined(opened.driver.pack({ source: 'snp_a' }))
    const { socket } = await openStream(opened)
    socket.write(Buffer.from([1, 0, 16, 0]))
    await expect(read).rejects.toMatchObject({ code: 'driver_failed' })
  })

  test('whoever stops reading closes the stream', async () => {
    const opened = start()
    const layer = opened.driver.pack({ source: 'snp_a' })[Symbol.asyncIterator]()
    const first = layer.next()
    const { socket } = await openStream(opened)
    const ended = new Promise<void>((resolve) => socket.once('close', () => resolve()))
    socket.on('error', () => undefined).resume()
    socket.write(piece('one'))
    expect(Buffer.from((await first).value as Uint8Array).toString()).toBe('one')
    await layer.return?.()
    await ended
  })

  test('changes are read across the borders of chunks, and names that are no text too', async () => {
    const opened = start()
    const read = collect(opened.driver.changes({ snapshotId: 'snp_a' }))
    const { socket } = await openStream(opened)
    const record = (kind: number, type: number, size: number, path: Uint8Array) =>
      createWriter().u8(kind).u8(type).u64(size).bytes(path).payload().toString('latin1')
    const bytes = record(1, 1, 7, Buffer.from('/a')) + record(3, 2, 0, Buffer.from([0x2f, 0xff]))
    for (const character of bytes) {
      socket.write(Buffer.concat([Buffer.from([1, 0, 0, 0]), Buffer.from(character, 'latin1')]))
    }
    socket.end(Buffer.concat([piece(), tail(0)]))
    expect(await read).toEqual([
      { kind: 'added', type: 'file', size: 7, path: '/a' },
      { kind: 'removed', type: 'directory', size: 0, path: '/\ufffd' },
    ])
  })

  test('a layer is sent in chunks, and what it held is told', async () => {
    const opened = start()
    const pieces = async function* () {
      yield Buffer.alloc(0)
      yield Buffer.alloc(2_500_000, 'x')
      yield Buffer.from('end')
    }
    const applied = opened.driver.apply({ upperId: 'wup_a', maxBytes: 5, maxEntries: 6 }, pieces())
    const { request, socket } = await openStream(opened)
    const reader = createReader(request.payload)
    expect([reader.str('upper'), reader.count('bytes'), reader.count('entries')]).toEqual(['wup_a', 5, 6])
    const received: Buffer[] = []
    for await (const data of socket.iterator({ destroyOnReturn: false })) {
      received.push(data as Buffer)
      if (Buffer.concat(received).subarray(-4).equals(piece())) break
    }
    let bytes = Buffer.concat(received)
    const lengths: number[] = []
    while (bytes.length > 0) {
      lengths.push(bytes.readUInt32LE())
      bytes = bytes.subarray(4 + lengths.at(-1)!)
    }
    expect(lengths).toEqual([1_048_576, 1_048_576, 402_848, 3, 0])
    socket.end(tail(0, '', { entries: 3, bytes: 9 }))
    expect(await applied).toEqual({ entries: 3, bytes: 9 })
  })

  test('a layer that is refused while it is sent is not sent to its end', async () => {
    const opened = start()
    let stopped = false
    const endless = async function* () {
      try {
        for (;;) yield Buffer.alloc(100_000)
      } finally {
        stopped = true
      }
    }
    const applied = opened.driver.apply({ upperId: 'wup_a', maxBytes: 5, maxEntries: 6 }, endless())
    const { socket } = await openStream(opened)
    socket.once('data', () => socket.pause().write(tail(11, 'The entry x leads out.')))
    await expect(applied).rejects.toMatchObject({ code: 'layer_invalid', cause: 'The entry x leads out.' })
    expect(stopped).toBe(true)
  })

  test('when the source of a layer fails, so does the call, and the helper sees a cut', async () => {
    const opened = start()
    const failing = async function* () {
      yield Buffer.from('one')
      throw new Error('the blob is damaged')
    }
    const applied = opened.driver.apply({ upperId: 'wup_a', maxBytes: 5, maxEntries: 6 }, failing())
    const failed = expect(applied).rejects.toThrow('the blob is damaged')
    const { socket } = await openStream(opened)
    const ended = new Promise<void>((resolve) => socket.once('close', () => resolve()))
    socket.on('error', () => undefined).resume()
    await failed
    await ended
  })

  test('what a name outside of the folder leads to is not connected to', async () => {
    const { driver, peer } = start()
    const read = joined(driver.pack({ source: 'snp_a' }))
    peer.answer(await peer.next(), (writer) => writer.str('../stream-1'))
    await expect(read).rejects.toMatchObject({ code: 'driver_failed' })
  })
})
