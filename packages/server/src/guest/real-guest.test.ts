import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { chmod, readFile, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { PassThrough, Readable } from 'node:stream'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startRealGuest } from './testing/real-guest.ts'
import { refusal } from './testing/settle.ts'
import type { AddressInfo } from 'node:net'
import type { ExecExit, ExecRequest, ExecStream, GuestConnection } from './client.ts'
import type { RealGuest } from './testing/real-guest.ts'

let real: RealGuest
let guest: GuestConnection
let folder: string
let execs = 0

beforeAll(async () => {
  real = await startRealGuest()
  folder = real.folder
  guest = await real.connect()
})

afterAll(async () => {
  guest?.close()
  await real?.stop()
})

function command(argv: readonly string[], options: Partial<ExecRequest> = {}): ExecRequest {
  const env = { PATH: '/usr/local/bin:/usr/bin:/bin', HOME: '/root' }
  return { execId: `exe_${++execs}`, argv, env, cwd: folder, user: 'root', timeoutMs: 0, keepStdin: false, ...options }
}

const shell = (script: string, options: Partial<ExecRequest> = {}): ExecRequest =>
  command(['/bin/sh', '-c', script], options)

async function collect(exec: ExecStream): Promise<{ stdout: string; stderr: string; exit: ExecExit }> {
  const text = { stdout: '', stderr: '' }
  const exit = await exec.consume(({ stream, bytes }) => void (text[stream] += bytes.toString()))
  return { ...text, exit }
}

const run = async (request: ExecRequest): ReturnType<typeof collect> => collect(await guest.exec(request))

test('a command runs, and its streams and exit code come back', async () => {
  const { stdout, stderr, exit } = await run(shell('echo out; echo err >&2; exit 3'))
  expect({ stdout, stderr }).toEqual({ stdout: 'out\n', stderr: 'err\n' })
  expect(exit).toMatchObject({ kind: 'exited', value: 3, timedOut: false, outputBytes: 8 })
})

test('arguments, environment and folder arrive as they were given', async () => {
  const request = command(['/usr/bin/env', '-0'], { env: { A: 'b=c', LONG: 'ä\n'.repeat(1000) } })
  expect((await run(request)).stdout).toBe(`A=b=c\0LONG=${'ä\n'.repeat(1000)}\0`)
  expect((await run(command(['pwd'], { cwd: '/usr' }))).stdout).toBe('/usr\n')
  expect((await run(command(['printf', '%s.', 'a b', '', '"$x"']))).stdout).toBe('a b.."$x".')
})

test('what cannot start says why', async () => {
  await writeFile(join(folder, 'plain'), 'text')
  await refusal(guest.exec(command(['/no/such/file'])), 'not_found')
  await refusal(guest.exec(command([join(folder, 'plain')])), 'permission_denied')
  await chmod(join(folder, 'plain'), 0o755)
  await refusal(guest.exec(command([join(folder, 'plain')])), 'not_executable')
  await refusal(guest.exec(command(['true'], { user: 'nobody-of-this-name' })), 'unknown_user')
  await refusal(guest.exec(command(['true'], { cwd: '/no/such/folder' })), 'not_found')
  await refusal(guest.exec(command(['true'], { cwd: '/etc/passwd' })), 'not_a_directory')
})

test('stdin given with the command, and written to it, is read to its end', async () => {
  expect((await run(command(['cat'], { stdin: Buffer.from('given') }))).stdout).toBe('given')
  expect((await run(command(['cat']))).stdout).toBe('')
  const input = randomBytes(3 * 1024 * 1024)
  const exec = await guest.exec(command(['sha256sum'], { keepStdin: true }))
  for (let at = 0; at < input.length; at += 200_000) await exec.writeStdin(input.subarray(at, at + 200_000))
  exec.closeStdin()
  expect((await collect(exec)).stdout).toContain(createHash('sha256').update(input).digest('hex'))
})

test('a signal is a death by signal, and a timeout says so', async () => {
  const sleeping = await guest.exec(command(['sleep', '100']))
  sleeping.signal(9)
  expect(await sleeping.exit).toMatchObject({ kind: 'signalled', value: 9, timedOut: false })
  const { exit } = await run(command(['sleep', '100'], { timeoutMs: 50 }))
  expect(exit).toMatchObject({ kind: 'signalled', value: 15, timedOut: true })
})

test('a terminal has a size that can change', async () => {
  const exec = await guest.exec(
    shell('stty size; read line; stty size', { pty: { cols: 80, rows: 24 }, keepStdin: true }),
  )
  const first = await exec.output.next()
  expect(first.value?.bytes.toString()).toContain('24 80')
  exec.resize(120, 40)
  await exec.writeStdin(Buffer.from('\n'))
  let rest = ''
  for await (const { bytes } of exec.output) rest += bytes.toString()
  expect(rest).toContain('40 120')
})

test('a gigabyte of output passes at flat memory', { timeout: 120_000 }, async () => {
  const exec = await guest.exec(command(['head', '-c', '1G', '/dev/zero']))
  let bytes = 0
  let most = 0
  const before = process.memoryUsage().rss
  const exit = await exec.consume((chunk) => {
    bytes += chunk.bytes.length
    if (bytes % (16 * 1024 * 1024) < 65_536) most = Math.max(most, process.memoryUsage().rss)
  })
  expect(bytes).toBe(2 ** 30)
  expect(exit).toMatchObject({ kind: 'exited', value: 0, outputBytes: 2 ** 30 })
  expect(most - before).toBeLessThan(192 * 1024 * 1024)
})

test('a reader that stands still delays no other exec', async () => {
  const flood = await guest.exec(command(['yes']))
  await flood.output.next()
  for (let count = 0; count < 50; count++) expect((await run(command(['true']))).exit.value).toBe(0)
  await guest.signal(`exe_${execs - 50}`, 9, 'process')
  flood.detach()
  await refusal(flood.exit, 'canceled')
})

test('after a lost connection output goes on where it was', async () => {
  const request = shell('i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); sleep 0.005; done')
  const first = await real.connect()
  const exec = await first.exec(request)
  let seen = ''
  for await (const { bytes } of exec.output) {
    seen += bytes.toString()
    if (seen.length > 300) break
  }
  first.close()
  const second = await real.connect()
  expect(second.bootId).toBe(guest.bootId)
  const again = await second.attach(request.execId, { from: seen.length })
  expect(again.known).toBe(true)
  const { stdout, exit } = await collect(again)
  expect(seen + stdout).toBe(Array.from({ length: 200 }, (_, index) => `line ${index}\n`).join(''))
  expect(exit.value).toBe(0)
  const repeated = await second.exec({ ...request, from: 0 })
  expect(repeated.known).toBe(true)
  expect((await collect(repeated)).stdout).toBe(seen + stdout)
  second.close()
})

test('what was overwritten while nobody read is a gap', async () => {
  const { execId } = shell('')
  await guest.start(shell('head -c 6000000 /dev/zero; echo end', { execId }))
  let info
  do info = (await guest.execs()).find((one) => one.execId === execId)
  while (info?.kind === 'running')
  const exec = await guest.attach(execId, { from: 0 })
  let gap = 0
  let bytes = 0
  await exec.consume((chunk) => {
    gap += chunk.gap ?? 0
    bytes += chunk.bytes.length
  })
  expect(gap).toBe(exec.start)
  expect(gap).toBeGreaterThan(1_000_000)
  expect(gap + bytes).toBe(6_000_004)
})

test('a background exec is listed, signalled, kept and forgotten', async () => {
  const request = command(['sleep', '100'], { tag: 'a tag' })
  const { pid, known } = await guest.start(request)
  expect(pid).toBeGreaterThan(0)
  expect(known).toBe(false)
  expect(await guest.start(request)).toEqual({ pid, known: true })
  expect((await guest.execs()).find((one) => one.execId === request.execId)).toMatchObject({
    pid,
    kind: 'running',
    argv: ['sleep', '100'],
    tag: 'a tag',
    user: 'root',
  })
  await refusal(guest.forget(request.execId), 'busy')
  const exec = await guest.attach(request.execId)
  await guest.signal(request.execId, 15, 'session')
  expect(await exec.exit).toMatchObject({ kind: 'signalled', value: 15 })
  await guest.forget(request.execId)
  await refusal(guest.attach(request.execId), 'unknown_exec')
})

test('100 MB go into a file and come back', { timeout: 120_000 }, async () => {
  const path = join(folder, 'large')
  const piece = randomBytes(100_000)
  const pieces = 1000
  const sent = createHash('sha256')
  let made = 0
  const source = new Readable({
    read() {
      if (made++ === pieces) return void this.push(null)
      sent.update(piece)
      this.push(piece)
    },
  })
  const entry = await guest.writeFrom(path, source, { mode: 0o600, owner: 'root' })
  expect(entry).toMatchObject({ path, type: 'file', size: 100_000_000, mode: 0o600, owner: 'root' })
  const { entry: read, stream } = await guest.readStream(path, { exact: true })
  expect(read.etag).toBe(entry.etag)
  const received = createHash('sha256')
  for await (const chunk of stream) received.update(chunk as Buffer)
  expect(received.digest('hex')).toBe(sent.digest('hex'))
})

test('a part of a file can be read', async () => {
  const path = join(folder, 'digits')
  await writeFile(path, '0123456789')
  const { entry, body } = await guest.read(path, { from: 3, length: 4 })
  expect(entry.size).toBe(10)
  const chunks = []
  for await (const chunk of body) chunks.push(chunk)
  expect(Buffer.concat(chunks).toString()).toBe('3456')
})

test('a write that is given up leaves the old file and no rest', async () => {
  const path = join(folder, 'kept')
  await writeFile(path, 'old')
  const source = new PassThrough()
  const writing = guest.writeFrom(path, source)
  source.write('new')
  await new Promise(setImmediate)
  source.destroy()
  await refusal(writing, 'canceled')
  const { entries } = await guest.list(folder)
  expect(entries.map((entry) => entry.path).filter((name) => name.includes('kept'))).toEqual([path])
  expect(await readFile(path, 'utf8')).toBe('old')
})

test('preconditions of a write hold', async () => {
  const path = join(folder, 'versioned')
  const write = async (text: string, options: object): Promise<string> => {
    const file = await guest.write(path, { owner: 'root', ...options })
    await file.write(Buffer.from(text))
    return (await file.end()).etag
  }
  const first = await write('one', { mustNotExist: true })
  await refusal(write('two', { mustNotExist: true }), 'exists')
  await write('two', { ifMatch: first })
  await refusal(write('three', { ifMatch: first }), 'precondition_failed')
  expect(await readFile(path, 'utf8')).toBe('two')
})

test('folders are made, listed in pages, moved and removed', async () => {
  const top = join(folder, 'tree')
  await guest.mkdir(join(top, 'a/b'), { parents: true, owner: 'root' })
  await refusal(guest.mkdir(top), 'exists')
  for (const name of ['a/one', 'a/b/two', 'three']) await writeFile(join(top, name), name)
  const all = await guest.list(top, { depth: 10 })
  const paths = all.entries.map((entry) => entry.path.slice(top.length + 1))
  expect(paths).toEqual(['a', 'a/b', 'a/b/two', 'a/one', 'three'])
  expect(all.more).toBe(false)
  const page = await guest.list(top, { depth: 10, limit: 2 })
  expect(page.more).toBe(true)
  const rest = await guest.list(top, { depth: 10, after: page.entries.at(-1)!.path })
  expect([...page.entries, ...rest.entries].map((entry) => entry.path)).toEqual(all.entries.map((entry) => entry.path))
  expect((await guest.move(join(top, 'three'), join(top, 'four'))).path).toBe(join(top, 'four'))
  await refusal(guest.move(join(top, 'four'), join(top, 'a/one')), 'exists')
  expect((await guest.chmod(join(top, 'four'), 0o751)).mode).toBe(0o751)
  expect((await stat(join(top, 'four'))).mode & 0o7777).toBe(0o751)
  await refusal(guest.remove(top), 'not_empty')
  await guest.remove(top, { recursive: true })
  await refusal(guest.stat(top), 'not_found')
})

test('a name that is no UTF-8 can be listed, read and removed', async () => {
  const name = Buffer.concat([Buffer.from(`${folder}/`), Buffer.from([0xff, 0xfe])])
  const file = await guest.write(name, { owner: 'root' })
  await file.write(Buffer.from('x'))
  expect((await file.end()).pathBytes).toEqual(name)
  const listed = (await guest.list(folder)).entries.find((entry) => entry.pathBytes)
  expect(listed?.pathBytes).toEqual(name)
  expect(await guest.remove(name)).toBe(1)
})

test('changes in a watched folder are told', async () => {
  const watched = join(folder, 'watched')
  await guest.mkdir(watched, { owner: 'root' })
  const { events, cancel } = await guest.watch(watched, { recursive: true })
  await guest.mkdir(join(watched, 'sub'), { owner: 'root' })
  await writeFile(join(watched, 'new'), 'text')
  const seen = new Set<string>()
  for await (const { kind, path } of events) {
    seen.add(`${kind} ${path}`)
    if (seen.has(`create ${join(watched, 'new')}`) && seen.has(`create ${join(watched, 'sub')}`)) break
  }
  cancel()
})

test('a port inside is reached, and one without a listener refused', async () => {
  const server = createServer((socket) => socket.pipe(socket))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const socket = await guest.dial(port)
  const input = randomBytes(2_000_000)
  socket.end(input)
  const chunks: Buffer[] = []
  for await (const chunk of socket) chunks.push(chunk as Buffer)
  expect(Buffer.concat(chunks).equals(input)).toBe(true)
  server.close()
  await once(server, 'close')
  await refusal(guest.dial(port), 'connection_refused')
})

test('metrics, sync and ping answer', async () => {
  const metrics = await guest.metrics()
  expect(metrics.memTotalBytes).toBeGreaterThan(2 ** 20)
  expect(metrics.processes).toBeGreaterThan(0)
  await guest.sync()
  expect(await guest.ping(5_000)).toBeLessThan(5_000)
  await refusal(guest.clock(0n), 'not_supported')
})

test('hundreds of execs at once all answer', async () => {
  const outcomes = await Promise.all(
    Array.from({ length: 300 }, (_, index) => run(shell(`echo ${index}; exit ${index % 7}`))),
  )
  outcomes.forEach(({ stdout, exit }, index) => {
    expect([stdout, exit.value]).toEqual([`${index}\n`, index % 7])
  })
})
