import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Duplex } from 'node:stream'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { createFrameDecoder, createWriter, encodeFrame } from './guest/codec.ts'
import type { Writer } from './guest/codec.ts'
import { systemClock } from './kernel/clock.ts'
import { bundlePrograms } from './kernel/testing-bundle.ts'

// The process as the helper starts it, with a peer that speaks the helper's protocol for a machine without sandboxes.

const key = 'delta_test'
const shutdownNews = 101
const cleanups: (() => void)[] = []

let bundle: string
beforeAll(async () => {
  bundle = await bundlePrograms({
    main: join(import.meta.dirname, 'main.ts'),
    'db-worker': join(import.meta.dirname, 'kernel/db/sqlite-worker.ts'),
  })
})
afterAll(() => rmSync(bundle, { recursive: true }))
afterEach(() => {
  for (const cleanup of cleanups.splice(0).toReversed()) cleanup()
})

/** Fields of the answers to INFO, LIST, TEMPLATES, DISKS and DOCTOR, after code and message. */
const answers: Record<number, (writer: Writer) => Writer> = {
  1: (writer) => {
    for (const text of ['1', 'crun', '1.8.1', 'hybrid', 'btrfs']) writer.str(text)
    return writer.u32(1).u32(1).u32(0).u32(0).str('6.1').str('/wire')
  },
  7: (writer) => writer.u32(0).u32(0),
  9: (writer) => writer.u32(1).str('host').str('ready').str('has python3'),
  17: (writer) => writer.u32(0).u32(0),
  11: (writer) => writer.u32(1).str('cgroup').str('ok').str('v2').str('limits are enforced'),
}

function answerAsHelper(socket: Duplex): void {
  const decoder = createFrameDecoder({ maxPayload: 65_536 })
  socket.on('error', () => {})
  socket.on('data', (chunk: Buffer) => {
    for (const { type, channel } of decoder.push(chunk)) {
      const writer = createWriter().u16(0).str('')
      socket.write(encodeFrame(type, channel, answers[type]!(writer).payload()))
    }
  })
}

function startMain(env: Record<string, string> = {}) {
  const dataDir = mkdtempSync(join(tmpdir(), 'delta-main-'))
  mkdirSync(join(dataDir, 'wire'))
  const child = spawn(process.execPath, [join(bundle, 'main.mjs')], {
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    env: {
      PORT: '0',
      // This helper makes no boxes.
      DELTA_POOL_SIZE: '0',
      DELTA_DATA_DIR: dataDir,
      DELTA_API_KEY_SHA256: createHash('sha256').update(key).digest('hex'),
      SECRET_KEY: 'kZ0pXq7T3vYbN5mRw8eHs2aLc9dGf4uJ',
      ...env,
    },
  })
  cleanups.push(() => {
    child.kill('SIGKILL')
    rmSync(dataDir, { recursive: true })
  })
  const helper = child.stdio[3] as Duplex
  answerAsHelper(helper)
  const lines: Record<string, unknown>[] = []
  createInterface({ input: child.stdout! }).on('line', (line) =>
    lines.push(JSON.parse(line) as Record<string, unknown>),
  )
  let said = ''
  child.stderr!.on('data', (chunk: Buffer) => (said += chunk.toString()))
  const closed = once(child, 'close')
  const ended = async () => (await closed)[0] as number | null
  const event = async (name: string) => {
    for (;;) {
      const line = lines.find((one) => one['event'] === name)
      if (line) return line
      if (child.exitCode !== null) throw new Error(`main ended with ${child.exitCode}: ${JSON.stringify(lines)}`)
      await systemClock.sleep(10)
    }
  }
  const call = async (path: string) => {
    const { port } = await event('listening')
    return fetch(`http://127.0.0.1:${String(port)}${path}`, { headers: { authorization: `Bearer ${key}` } })
  }
  const tellShutdown = (mode: number) => helper.write(encodeFrame(shutdownNews, 0, createWriter().u8(mode).payload()))
  return { child, helper, lines, ended, event, call, tellShutdown, dataDir, said: () => said }
}

test('it serves, and tells how the machine isolates', async () => {
  const { call, event, dataDir } = startMain()
  const health = (await (await call('/health')).json()) as Record<string, unknown>
  expect(health).toMatchObject({
    status: 'ok',
    database: 'ok',
    driver: { name: 'oci', runtime: 'crun', cgroup: 'hybrid', pool: 'btrfs' },
  })
  expect(await (await call('/v1/templates')).json()).toMatchObject({
    data: expect.arrayContaining([expect.objectContaining({ name: 'host', state: 'ready' })]),
  })
  expect(await (await call('/v1/doctor')).json()).toMatchObject({ data: [{ name: 'cgroup', status: 'ok' }] })
  expect(await (await call('/v1/sandboxes')).json()).toEqual({ data: [], nextCursor: null })
  const metrics = await (await call('/metrics')).text()
  expect(metrics).toMatch(/^delta_database_commits_total [1-9]/m)
  expect(metrics).toMatch(/^process_resident_memory_bytes [1-9]/m)
  const { paths } = (await (await call('/openapi.json')).json()) as { paths: object }
  expect(Object.keys(paths)).toEqual(
    expect.arrayContaining(['/v1/sandboxes', '/v1/templates', '/v1/doctor', '/health']),
  )
  await event('reconciled')
  expect(existsSync(join(dataDir, 'delta.db'))).toBe(true)
})

test.each([
  [1, 'stop-all'],
  [2, 'leave'],
])('the helper says shutdown %i: it stops as `%s` and ends with 0', async (mode, word) => {
  const { call, tellShutdown, ended, event } = startMain()
  await call('/health')
  tellShutdown(mode)
  expect(await event('stopped')).toMatchObject({ mode: word })
  expect(await ended()).toBe(0)
})

test.each(['SIGTERM', 'SIGINT'] as const)('%s alone leaves the sandboxes', async (signal) => {
  const { call, child, ended, event } = startMain()
  await call('/health')
  child.kill(signal)
  expect(await event('stopped')).toMatchObject({ mode: 'leave' })
  expect(await ended()).toBe(0)
})

test('of a signal and the helper, the helper decides', async () => {
  const { call, child, tellShutdown, ended, event } = startMain()
  await call('/health')
  child.kill('SIGINT')
  tellShutdown(1)
  expect(await event('stopped')).toMatchObject({ mode: 'stop-all' })
  expect(await ended()).toBe(0)
})

test('without its helper it ends, so that a new one finds no rival', async () => {
  const { call, helper, ended, lines } = startMain()
  await call('/health')
  helper.destroy()
  expect(await ended()).toBe(1)
  expect(lines.map((line) => line['event'])).toContain('helper_gone')
})

test('it starts again on what it left', async () => {
  const first = startMain()
  await first.call('/health')
  first.child.kill('SIGKILL')
  await first.ended()
  const second = startMain({ DELTA_DATA_DIR: first.dataDir })
  expect((await second.call('/health')).status).toBe(200)
  expect(second.lines.map((line) => line['event'])).not.toContain('migration_applied')
})

test.each([
  [{ PORT: 'http' }, /PORT/],
  [{ SECRET_KEY: '', DATABASE_URL: 'postgres://delta@127.0.0.1:1/delta' }, /SECRET_KEY is missing/],
  [{ DELTA_API_KEY_SHA256: 'short' }, /DELTA_API_KEY_SHA256/],
  [{ DATABASE_URL: 'postgres://delta@127.0.0.1:1/delta' }, /database can not be reached/],
])('%o is refused in words', async (env, message) => {
  const { ended, lines } = startMain(env as Record<string, string>)
  expect(await ended()).toBe(1)
  const failed = lines.find((line) => line['event'] === 'start_failed')
  expect((failed!['error'] as { message: string }).message).toMatch(message)
})

test('a port in use is said in words', async () => {
  const rival = createServer().listen(0, '127.0.0.1')
  cleanups.push(() => rival.close())
  await once(rival, 'listening')
  const { port } = rival.address() as AddressInfo
  const { ended, lines } = startMain({ PORT: String(port) })
  expect(await ended()).toBe(1)
  expect(JSON.stringify(lines)).toContain(`PORT ${port} is in use`)
})

test('until there is an owner, a start prints the link for one, which is in no log', async () => {
  const first = startMain({ DELTA_PUBLIC_URL: 'http://delta.example' })
  await first.event('reconciled')
  const token = /http:\/\/delta\.example\/auth\/owner\?t=(dln_[\w-]{43})$/m.exec(first.said())![1]!
  expect(JSON.stringify(first.lines)).not.toContain(token)
  const { port } = await first.event('listening')
  const body = JSON.stringify({ token, email: 'ada@example.com', password: 'a good password' })
  const made = await fetch(`http://127.0.0.1:${String(port)}/v1/auth/owner`, { method: 'POST', body })
  expect(made.status).toBe(200)
  first.child.kill('SIGTERM')
  await first.ended()
  const second = startMain({ DELTA_DATA_DIR: first.dataDir })
  await second.event('reconciled')
  expect(second.said()).not.toContain('/auth/owner')
  // The same secret: what was begun before goes on.
  const { accessToken } = (await made.json()) as { accessToken: string }
  const again = await second.event('listening')
  const me = await fetch(`http://127.0.0.1:${String(again['port'])}/v1/users/me`, {
    headers: { authorization: `Bearer ${accessToken}` },
  })
  expect(await me.json()).toMatchObject({ kind: 'user', accountId: 'acc_default', role: 'owner' })
})
