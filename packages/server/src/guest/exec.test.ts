import { expect, test } from 'vitest'
import { createWriter } from './codec.ts'
import { ops } from './messages.ts'
import { liveBytes } from './testing/memory.ts'
import { connectPeer, exitFields, openedExec } from './testing/peer.ts'
import { refusal } from './testing/settle.ts'
import type { ExecOutput, ExecStream, GuestConnection } from './client.ts'
import type { ExecRequest } from './messages.ts'
import type { Peer } from './testing/peer.ts'

const request: ExecRequest = {
  execId: 'exe_1',
  argv: ['/bin/echo', 'hi'],
  env: { PATH: '/bin' },
  cwd: '/',
  user: 'user',
  timeoutMs: 0,
  keepStdin: false,
}

async function openExec(options: Partial<ExecRequest> = {}) {
  const { guest, peer, hostStream } = await connectPeer()
  const { exec, channel } = await openOn(guest, peer, options)
  return { guest, peer, hostStream, exec, channel }
}

async function openOn(guest: GuestConnection, peer: Peer, options: Partial<ExecRequest> = {}) {
  const opening = guest.exec({ ...request, ...options })
  const { channel } = await peer.expectOpen(ops.exec)
  peer.send('opened', channel, openedExec(42))
  return { exec: await opening, channel }
}

async function collect(exec: ExecStream): Promise<[string, number, string, number?][]> {
  const seen: [string, number, string, number?][] = []
  for await (const { stream, offset, bytes, gap } of exec.output) {
    seen.push(gap === undefined ? [stream, offset, bytes.toString()] : [stream, offset, bytes.toString(), gap])
  }
  return seen
}

/** Lets everything that was sent arrive. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

test('an exec opens, its output arrives in order and its exit follows', async () => {
  const { peer, exec, channel } = await openExec()
  peer.data(channel, 1, 0, 'hi\n')
  peer.data(channel, 2, 3, 'oh\n')
  peer.close(channel, 0, '', exitFields(0, 3, 0, 6))
  expect(exec).toMatchObject({ pid: 42, known: false, start: 0 })
  expect(await collect(exec)).toEqual([
    ['stdout', 0, 'hi\n'],
    ['stderr', 3, 'oh\n'],
  ])
  expect(await exec.exit).toEqual({
    kind: 'exited',
    value: 3,
    timedOut: false,
    oomKilled: false,
    outputBytes: 6,
    durationMs: 5,
  })
})

test('a death by signal at the timeout for memory says all three', async () => {
  const { peer, exec, channel } = await openExec()
  peer.close(channel, 0, '', exitFields(1, 9, 3))
  expect(await exec.exit).toMatchObject({ kind: 'signalled', value: 9, timedOut: true, oomKilled: true })
})

test('an unknown end stays unknown', async () => {
  const { peer, exec, channel } = await openExec()
  peer.close(channel, 0, '', exitFields(2, 0))
  expect((await exec.exit).kind).toBe('unknown')
})

test('a start that fails refuses with the code of the guest', async () => {
  const { guest, peer } = await connectPeer()
  const opening = guest.exec(request)
  peer.close((await peer.expectOpen(ops.exec)).channel, 22, 'It has no execute bit.')
  expect((await refusal(opening, 'not_executable')).message).toBe('It has no execute bit.')
})

test.each<[string, Partial<ExecRequest>]>([
  ['no arguments', { argv: [] }],
  ['an id with a slash', { execId: 'a/b' }],
  ['an empty id', { execId: '' }],
  ['a NUL in an argument', { argv: ['a\0b'] }],
  ['the script argument without a script', { argv: ['sh', '\0script'] }],
  ['a NUL in the environment', { env: { A: 'b\0c' } }],
  ['an = in a variable name', { env: { 'A=B': 'c' } }],
  ['a NUL in the folder', { cwd: '/a\0' }],
])('%s is refused before anything is sent', async (_name, options) => {
  const { guest, peer } = await connectPeer()
  await refusal(guest.exec({ ...request, ...options }), 'invalid')
  await refusal(guest.start({ ...request, ...options }), 'invalid')
  await turn()
  expect(peer.waiting).toEqual([])
})

test('a start in the background answers with the pid', async () => {
  const { guest, peer } = await connectPeer()
  const starting = guest.start(request)
  const { channel, reader } = await peer.expectOpen(ops.exec)
  reader.str('execId')
  expect(reader.u8('flags')).toBe(0)
  peer.close(channel, 0, '', (writer) => {
    exitFields(3, 0)(writer)
    writer.u32(42).u8(1)
  })
  expect(await starting).toEqual({ pid: 42, known: true })
})

test('a jump of the offset is a gap, on attach and later', async () => {
  const { guest, peer } = await connectPeer()
  const attaching = guest.attach('exe_1', { from: 100, stdin: true })
  const { channel, reader } = await peer.expectOpen(ops.attach)
  expect([reader.str('execId'), reader.u64('from'), reader.u8('stdin')]).toEqual(['exe_1', 100n, 1])
  peer.send('opened', channel, openedExec(42, 1, 150))
  peer.data(channel, 1, 150, 'abc')
  peer.data(channel, 1, 153, 'def')
  peer.data(channel, 2, 160, 'x')
  peer.close(channel, 0, '', exitFields(0, 0))
  const exec = await attaching
  expect(exec).toMatchObject({ known: true, start: 150 })
  expect(await collect(exec)).toEqual([
    ['stdout', 150, 'abc', 50],
    ['stdout', 153, 'def'],
    ['stderr', 160, 'x', 4],
  ])
})

test('a known id goes on from where the caller has the output', async () => {
  const { peer, exec, channel } = await openExec({ from: 10 })
  peer.data(channel, 1, 10, 'rest')
  peer.close(channel, 0, '', exitFields(0, 0))
  expect(await collect(exec)).toEqual([['stdout', 10, 'rest']])
})

test('credit is given as output is taken, not as it comes', async () => {
  const { guest, peer, exec, channel } = await openExec()
  const piece = Buffer.alloc(64 * 1024, 1)
  for (let sent = 0; sent < 1024 * 1024; sent += piece.length) peer.data(channel, 1, sent, piece)
  await turn()
  expect(peer.waiting).toEqual([])
  let taken = 0
  while (taken < 512 * 1024) taken += (await exec.output.next()).value!.bytes.length
  const { reader } = await peer.expect('credit')
  expect(reader.u32('bytes')).toBe(taken)
  for (let sent = 0; sent < taken; sent += piece.length) peer.data(channel, 1, 1024 * 1024 + sent, piece)
  await turn()
  expect(peer.waiting).toEqual([])
  expect(guest.error).toBeUndefined()
  peer.data(channel, 1, 1024 * 1024 + taken, 'x')
  await guest.closed
  expect(guest.error?.message).toContain('more DATA than the credit')
})

test('a reader that stands still holds back its own channel only', async () => {
  const { guest, peer, channel } = await openExec()
  for (let sent = 0; sent < 1024 * 1024; sent += 65_536) peer.data(channel, 1, sent, Buffer.alloc(65_536))
  const { exec: fast, channel: fastChannel } = await openOn(guest, peer, { execId: 'exe_2' })
  peer.data(fastChannel, 1, 0, 'quick')
  peer.close(fastChannel, 0, '', exitFields(0, 0))
  expect(await collect(fast)).toEqual([['stdout', 0, 'quick']])
  expect((await fast.exit).value).toBe(0)
})

test('leaving the output early detaches: the buffer is dropped and exit says canceled', async () => {
  const { guest, peer, exec, channel } = await openExec()
  peer.data(channel, 1, 0, 'one')
  peer.data(channel, 1, 3, 'two')
  for await (const { bytes } of exec.output) {
    expect(bytes.toString()).toBe('one')
    break
  }
  expect((await peer.expect('cancel')).channel).toBe(channel)
  await refusal(exec.exit, 'canceled')
  expect(await exec.output.next()).toEqual({ value: undefined, done: true })
  peer.data(channel, 1, 6, 'three')
  peer.close(channel, 18, 'Detached.')
  const { exec: next } = await openOn(guest, peer, { execId: 'exe_2' })
  expect(next.pid).toBe(42)
})

test('detach is heard by a reader that waits', async () => {
  const { exec } = await openExec()
  const reading = exec.output.next()
  exec.detach()
  await refusal(reading, 'canceled')
  await refusal(exec.exit, 'canceled')
  exec.detach()
})

test('two reads at once are refused instead of confused', async () => {
  const { peer, exec, channel } = await openExec()
  const first = exec.output.next()
  await refusal(exec.output.next(), 'invalid')
  peer.data(channel, 1, 0, 'a')
  expect((await first).value?.bytes.toString()).toBe('a')
})

test('output that came before the connection was lost is still delivered', async () => {
  const { peer, exec, channel } = await openExec()
  peer.data(channel, 1, 0, 'last words')
  await turn()
  peer.stream.end()
  await refusal(exec.exit, 'connection_lost')
  expect((await exec.output.next()).value?.bytes.toString()).toBe('last words')
  await refusal(exec.output.next(), 'connection_lost')
})

test('an exec that the guest gives up rejects exit and output with its error', async () => {
  const { peer, exec, channel } = await openExec()
  peer.close(channel, 12, 'The disk is on fire.')
  await refusal(exec.exit, 'io')
  await refusal(exec.output.next(), 'io')
})

test('consume takes all output, waits for slow takers and ends with the exit', async () => {
  const { peer, exec, channel } = await openExec()
  peer.data(channel, 1, 0, 'a')
  peer.data(channel, 2, 1, 'b')
  let release: (() => void) | undefined
  const seen: string[] = []
  const done = exec.consume(({ bytes }) => {
    seen.push(bytes.toString())
    if (seen.length === 2) return new Promise<void>((resolve) => (release = resolve))
    return undefined
  })
  await turn()
  peer.data(channel, 1, 2, 'c')
  peer.close(channel, 0, '', exitFields(0, 1))
  await exec.exit
  expect(seen).toEqual(['a', 'b'])
  release!()
  expect(await done).toMatchObject({ kind: 'exited', value: 1 })
  expect(seen).toEqual(['a', 'b', 'c'])
})

test('a taker that throws, or whose promise rejects, detaches', async () => {
  for (const take of [
    (): void => {
      throw new Error('full')
    },
    (): Promise<void> => Promise.reject(new Error('full')),
  ]) {
    const { guest, peer, exec, channel } = await openExec()
    const done = exec.consume(take)
    peer.data(channel, 1, 0, 'a')
    await expect(done).rejects.toThrow('full')
    expect((await peer.expect('cancel')).channel).toBe(channel)
    expect(guest.error).toBeUndefined()
  }
})

test('a million small chunks of two streams keep their order and cost little', async () => {
  const { peer, exec, channel } = await openExec()
  const before = liveBytes()
  const frames = 1024 * 1024
  for (let at = 0; at < frames; at += 1024) {
    const batch = []
    for (let offset = at; offset < at + 1024; offset++) {
      const writer = createWriter(16).u8(1 + (offset % 2))
      batch.push(
        writer
          .u64(offset)
          .u8(offset % 251)
          .frame(4, channel),
      )
    }
    peer.raw(Buffer.concat(batch))
    await turn()
  }
  expect(liveBytes() - before).toBeLessThan(16 * 1024 * 1024)
  peer.close(channel, 0, '', exitFields(0, 0))
  let expected = 0
  const check = ({ stream, offset, bytes }: ExecOutput): void => {
    if (offset !== expected || bytes.length !== 1 || bytes[0] !== expected % 251)
      throw new Error(`wrong at ${expected}`)
    if (stream !== (expected % 2 === 0 ? 'stdout' : 'stderr')) throw new Error(`wrong stream at ${expected}`)
    expected += 1
  }
  await exec.consume(check)
  expect(expected).toBe(frames)
})

test('small chunks of one stream come out joined, with gaps where they were', async () => {
  const { peer, exec, channel } = await openExec()
  let offset = 0
  for (let count = 0; count < 200; count++) {
    if (count % 50 === 49) offset += 10
    peer.data(channel, 1, offset, 'x'.repeat(100))
    offset += 100
  }
  peer.close(channel, 0, '', exitFields(0, 0))
  await exec.exit
  let expected = 0
  let gaps = 0
  let chunks = 0
  for await (const chunk of exec.output) {
    gaps += chunk.gap ?? 0
    expect(chunk.offset).toBe(expected + (chunk.gap ?? 0))
    expect(chunk.bytes.toString()).toBe('x'.repeat(chunk.bytes.length))
    expected = chunk.offset + chunk.bytes.length
    chunks += 1
  }
  expect([expected, gaps]).toEqual([offset, 40])
  expect(chunks).toBeLessThan(40)
})

test('stdin goes as far as the credit, in pieces, then ends', async () => {
  const { peer, exec, channel } = await openExec({ keepStdin: true })
  const input = Buffer.alloc(1024 * 1024 + 100_000)
  for (let at = 0; at < input.length; at += 1000) input[at] = at % 256
  let written = false
  const writing = exec.writeStdin(input).then(() => (written = true))
  exec.closeStdin()
  const got: Buffer[] = []
  let offset = 0
  const takeUntil = async (end: number): Promise<void> => {
    for (; offset < end; offset = Buffer.concat(got).length) {
      const { reader, payload } = await peer.expect('data')
      expect(reader.u8('stream')).toBe(0)
      expect(reader.count('offset')).toBe(offset)
      got.push(Buffer.from(payload.subarray(9)))
    }
  }
  await takeUntil(1024 * 1024)
  await turn()
  expect(peer.waiting).toEqual([])
  expect(written).toBe(false)
  peer.send('credit', channel, createWriter().u32(1_000_000))
  await takeUntil(input.length)
  await writing
  expect((await peer.expect('end')).channel).toBe(channel)
  expect(Buffer.concat(got).equals(input)).toBe(true)
  await refusal(exec.writeStdin(Buffer.from('more')), 'canceled')
})

test('stdin that waits for credit is refused when the process ends', async () => {
  const { peer, exec, channel } = await openExec({ keepStdin: true })
  const writing = exec.writeStdin(Buffer.alloc(2 * 1024 * 1024))
  peer.close(channel, 0, '', exitFields(0, 0))
  await refusal(writing, 'canceled')
  expect((await exec.exit).value).toBe(0)
})

test('a caller that does not wait for its writes is refused at the bound', async () => {
  const { exec } = await openExec({ keepStdin: true })
  const writes = Array.from({ length: 8 }, () => exec.writeStdin(Buffer.alloc(1024 * 1024)))
  await refusal(writes.at(-1)!, 'limit')
  exec.detach()
  for (const write of writes) await write.catch(() => {})
})

test('signals and sizes are CONTROL frames, and nothing once it is over', async () => {
  const { peer, exec, channel } = await openExec()
  exec.signal(15)
  exec.resize(120, 40)
  const signal = await peer.expect('control')
  expect([signal.reader.u8('kind'), signal.reader.u8('signal')]).toEqual([1, 15])
  const size = await peer.expect('control')
  expect([size.reader.u8('kind'), size.reader.u16('cols'), size.reader.u16('rows')]).toEqual([2, 120, 40])
  peer.close(channel, 0, '', exitFields(0, 0))
  await exec.exit
  exec.signal(9)
  exec.closeStdin()
  await turn()
  expect(peer.waiting).toEqual([])
})

test('execs are listed, signalled by scope and forgotten', async () => {
  const { guest, peer } = await connectPeer()
  const listing = guest.execs()
  peer.close((await peer.expectOpen(ops.execs)).channel, 0, '', (writer) => {
    writer.u32(1).str('exe_1').u32(7).u8(1).u8(9).u8(1).u64(1000).u64(20).u64(30).u64(4)
    writer
      .list(['sh', '-c'], (one, item) => one.str(item))
      .str('/')
      .str('user')
      .str('a tag')
      .u8(1)
  })
  expect(await listing).toEqual([
    {
      execId: 'exe_1',
      pid: 7,
      kind: 'signalled',
      value: 9,
      timedOut: true,
      oomKilled: false,
      startedUnixMs: 1000,
      durationMs: 20,
      outputBytes: 30,
      start: 4,
      argv: ['sh', '-c'],
      cwd: '/',
      user: 'user',
      tag: 'a tag',
      pty: true,
    },
  ])
  const signalling = guest.signal('exe_1', 15, 'session')
  const signal = await peer.expectOpen(ops.signal)
  expect([signal.reader.str('id'), signal.reader.u8('signal'), signal.reader.u8('scope')]).toEqual(['exe_1', 15, 1])
  peer.close(signal.channel, 15, 'No such exec.')
  await refusal(signalling, 'unknown_exec')
  const forgetting = guest.forget('exe_1')
  peer.close((await peer.expectOpen(ops.forget)).channel)
  expect(await forgetting).toBeUndefined()
})

test('a list of execs that claims more than there are ends the connection', async () => {
  const { guest, peer } = await connectPeer()
  const listing = guest.execs()
  peer.close((await peer.expectOpen(ops.execs)).channel, 0, '', (writer) => void writer.u32(0xffff_ffff))
  expect((await refusal(listing, 'protocol_error')).message).toContain('claims 4294967295 items')
})
