import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect as connectSocket } from 'node:net'
import { join } from 'node:path'
import type { Terminal } from '@delta-agents/sdk'
import { expect, test } from 'vitest'
import { delta, key, refusal, request, serverMemoryBytes, url } from './target.ts'

const mib = 1024 * 1024

/** As a browser would: no header of its own, the key among the protocols. */
function connect(path: string): WebSocket {
  const bearer = `delta.bearer.${Buffer.from(key).toString('base64url')}`
  const socket = new WebSocket(`${url.replace('http', 'ws')}${path}`, ['delta.terminal.v1', bearer])
  socket.binaryType = 'arraybuffer'
  return socket
}

test('a WebSocket types into a terminal and reads what it says', async () => {
  await using sandbox = await delta.sandboxes.create()
  const base = `/v1/sandboxes/${sandbox.id}/terminals`
  const headers = { 'content-type': 'application/json' }
  const answer = await request(base, { method: 'POST', headers, body: JSON.stringify({ cols: 100, rows: 30 }) })
  expect(answer.status).toBe(201)
  const { id } = (await answer.json()) as { id: string }
  const socket = connect(`${base}/${id}/connect`)
  let text = ''
  const notices: Record<string, unknown>[] = []
  socket.addEventListener('open', () => socket.send(Buffer.from('stty size; whoami; exit 5\n')))
  socket.addEventListener('message', (event) => {
    const data = event.data as string | ArrayBuffer
    if (typeof data === 'string') notices.push(JSON.parse(data) as Record<string, unknown>)
    else text += Buffer.from(data).toString()
  })
  const { code } = await new Promise<CloseEvent>((resolve) => socket.addEventListener('close', resolve))
  expect([code, socket.protocol]).toEqual([1000, 'delta.terminal.v1'])
  expect(text).toMatch(/30 100\r\nuser\r\n/)
  expect(notices.at(-1)).toMatchObject({ type: 'exit', exitCode: 5 })
})

/** Takes output until it fits. */
async function until(terminal: Terminal, pattern: RegExp): Promise<string> {
  let text = ''
  for await (const bytes of terminal) {
    text += Buffer.from(bytes).toString()
    if (pattern.test(text)) return text
  }
  throw new Error(`it ended before ${String(pattern)}: ${text.slice(-300)}`)
}

test('two people at one terminal see the same, and the last size wins', async () => {
  await using sandbox = await delta.sandboxes.create()
  const one = await sandbox.terminal.create({ cols: 90, rows: 25 })
  const other = await sandbox.terminal.connect(one.id)
  expect(other.size).toEqual({ cols: 90, rows: 25 })
  const heard = new Promise((done) => one.onResize(done))
  other.resize(111, 33)
  await other.write('stty size; echo $0\n')
  expect(await heard).toEqual({ cols: 111, rows: 33 })
  await Promise.all([until(one, /33 111\r\n/), until(other, /33 111\r\n/)])
  await one.write('exit 4\n')
  expect((await Promise.all([one.wait(), other.wait()])).map(({ exitCode }) => exitCode)).toEqual([4, 4])
})

test('who comes late sees what was, and who comes back goes on where it left', async () => {
  await using sandbox = await delta.sandboxes.create()
  const first = await sandbox.terminal.create({
    cmd: 'for i in $(seq 500); do echo line $i; done; read x; echo got $x; read x',
  })
  const before = await until(first, /line 500\r\n/)
  const { offset } = first
  first.close()
  const second = await sandbox.terminal.connect(first.id, { from: offset - 5 })
  await second.write('it\n')
  expect(await until(second, /got it\r\n/)).toBe(`${before.slice(-5)}it\r\ngot it\r\n`)
  const late = await sandbox.terminal.connect(first.id)
  expect(await until(late, /got it\r\n/)).toBe(`${before}it\r\ngot it\r\n`)
  await late.kill()
  expect(await late.wait()).toMatchObject({ exitCode: null, signal: 'SIGHUP' })
})

test('50 MB pass without growing the server, also beside a viewer that does not read', async () => {
  await using sandbox = await delta.sandboxes.create()
  const bytes = 50_000_000
  const cmd = `stty raw -echo; printf ready; read -n 1 x; head -c ${bytes} /dev/zero | tr '\\0' x; exec cat`
  const terminal = await sandbox.terminal.create({ cmd })
  // What is typed before that would be echoed.
  await until(terminal, /ready/)
  const stalled = connectSocket(Number(new URL(url).port), '127.0.0.1')
  await once(stalled, 'connect')
  const path = `/v1/sandboxes/${sandbox.id}/terminals/${terminal.id}/connect`
  stalled.write(
    `GET ${path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${key}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n`,
  )
  // From here on nobody reads it.
  await once(stalled, 'readable')
  const before = await serverMemoryBytes()
  let peak = before
  let got = 0
  let missed = 0
  let looked = 0
  // The kernel's buffers may take the stalled one so far that, until they are full, this one is the slower of the two.
  terminal.onGap((gap) => (missed += gap.bytes))
  await terminal.write('g')
  for await (const piece of terminal) {
    got += piece.length
    if (got + missed >= bytes) break
    if (got - looked < 5 * mib) continue
    looked = got
    peak = Math.max(peak, await serverMemoryBytes())
  }
  expect(got + missed).toBe(bytes)
  expect(missed).toBeLessThan(bytes / 4)
  expect(peak - before).toBeLessThan(48 * mib)
  stalled.destroy()
  terminal.close()
})

test('with nobody watching it runs on', async () => {
  await using sandbox = await delta.sandboxes.create()
  const terminal = await sandbox.terminal.create({ cmd: 'sleep 0.3; seq 1000000; touch done; read x' })
  terminal.close()
  await expect.poll(() => sandbox.files.exists('done'), { timeout: 30_000 }).toBe(true)
  const late = await sandbox.terminal.connect(terminal.id, { from: 0 })
  const missed = new Promise<{ bytes: number }>((done) => late.onGap(done))
  expect(await until(late, /1000000\r\n/)).toMatch(/1000000\r\n$/)
  // More than the 4 MiB that the sandbox keeps.
  expect((await missed).bytes).toBeGreaterThan(1_000_000)
  await late.kill()
})

test('a terminal ends with its sandbox, and says that nobody knows how', async () => {
  const sandbox = await delta.sandboxes.create()
  const terminal = await sandbox.terminal.create()
  await until(terminal, /\$ /)
  await sandbox.kill()
  expect(await terminal.wait()).toMatchObject({ state: 'unknown', exitCode: null, signal: null })
  expect(await refusal(sandbox.terminal.create())).toMatchObject({ status: 409, code: 'sandbox_not_running' })
})

test('an access token opens the terminals of its sandbox until it is revoked', async () => {
  await using sandbox = await delta.sandboxes.create()
  await using other = await delta.sandboxes.create()
  const { id } = await sandbox.terminal.create()
  const { token } = await sandbox.accessTokens.create(['terminal'])
  const { token: forPorts } = await sandbox.accessTokens.create(['port:*'])
  const path = (sandboxId: string) => `/v1/sandboxes/${sandboxId}/terminals/${id}/connect`
  for (const [where, what] of [
    [sandbox.id, forPorts],
    [other.id, token],
  ] as const) {
    const refused = new WebSocket(`${url.replace('http', 'ws')}${path(where)}?token=${what}`)
    expect((await new Promise<CloseEvent>((done) => refused.addEventListener('close', done))).code).toBe(1006)
  }
  const terminal = await sandbox.terminal.connect(id, { token })
  await terminal.write('echo $((6 * 7))\n')
  await until(terminal, /42\r\n/)
  await sandbox.accessTokens.revoke()
  await expect(terminal.wait()).rejects.toMatchObject({ status: 401, code: 'unauthorized' })
})

test('delta sandbox shell makes a sandbox, passes on the exit code and leaves nothing', async () => {
  const before = (await delta.sandboxes.list({ state: 'running' }).all()).length
  const command = `stty rows 21 cols 77; ${process.execPath} ${join(import.meta.dirname, '../packages/cli/bin/delta.mjs')} sandbox shell`
  // script(1) gives it a terminal of its own.
  const child = spawn('script', ['-qec', command, '/dev/null'], {
    env: { ...process.env, DELTA_URL: url, DELTA_API_KEY: key, TERM: 'xterm' },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  let screen = ''
  const looking = new Set<() => void>()
  child.stdout.on('data', (chunk: Buffer) => {
    screen += chunk.toString()
    for (const look of looking) look()
  })
  const sees = (pattern: RegExp) =>
    new Promise<void>((done) => {
      const look = () => void (pattern.test(screen) && done())
      looking.add(look)
      look()
    })
  const ended = once(child, 'exit')
  await sees(/\$ /)
  child.stdin.write('stty size; id -un\r')
  await sees(/21 77\r\n[^]*user\r\n/)
  // Nothing between the two makes of a \n what it is not.
  expect(screen).not.toContain('\r\r')
  child.stdin.write('exit 6\r')
  expect(await ended).toEqual([6, null])
  expect((await delta.sandboxes.list({ state: 'running' }).all()).length).toBe(before)
})
