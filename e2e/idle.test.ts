import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Sandbox, Workspace } from '@delta-agents/sdk'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { delta, refusal, request, url } from './target.ts'

// A sandbox that nobody used stops with a snapshot, and whatever is asked of it next starts it again, as if nothing had been.

const idleTimeoutMs = 1_000
const uses = ['read', 'write', 'list', 'upload', 'new terminal', 'socket', 'two at once', 'mixed crowd'] as const
type Use = (typeof uses)[number]
const sleepers = new Map<Use, { workspace: Workspace; sandbox: Sandbox; terminalId: string }>()
const folder = mkdtempSync(join(tmpdir(), 'delta-idle-'))
/** A server of WebSockets that says how it was greeted, started by whoever connects: nothing runs in a sandbox that was just woken. */
const socketPort = 3_000

beforeAll(async () => {
  await Promise.all(
    uses.map(async (use) => {
      const workspace = await delta.workspaces.create({ name: `e2e-idle-${use.replaceAll(' ', '-')}` })
      const sandbox = await workspace.start({ idleTimeoutMs, timeoutMs: 1_800_000 })
      await sandbox.files.write('kept', use)
      sleepers.set(use, { workspace, sandbox, terminalId: await leftTerminal(sandbox) })
    }),
  )
  await Promise.all([...sleepers.values()].map(({ sandbox }) => asleep(sandbox)))
})

afterAll(async () => {
  for (const { workspace, sandbox } of sleepers.values()) {
    await sandbox.kill()
    await workspace.remove()
  }
  rmSync(folder, { recursive: true })
})

/** One that nobody looks at any more: with a viewer the sandbox would not be idle. */
async function leftTerminal(sandbox: Sandbox): Promise<string> {
  const terminal = await sandbox.terminal.create()
  await terminal.close()
  return terminal.id
}

const stateOf = async (sandbox: Sandbox) => (await sandbox.refresh()).state
const asleep = (sandbox: Sandbox) =>
  vi.waitUntil(async () => (await stateOf(sandbox)) === 'stopped', { timeout: 60_000, interval: 100 })

/** Stopped because nobody used it, with one snapshot; started as often as is said. */
async function expectWoken(use: Use, starts = 1): Promise<void> {
  const { sandbox, workspace } = sleepers.get(use)!
  const steps = (await sandbox.logs().all()).filter(({ to, reason }) => to === 'starting' || reason === 'idle')
  expect(steps.filter(({ to }) => to === 'starting').map(({ reason }) => reason)).toEqual(
    Array.from({ length: starts }, () => 'auto_resumed'),
  )
  const reasons = (await workspace.snapshots().all()).map(({ info }) => info.reason)
  expect(reasons.length).toBeGreaterThan(0)
  expect(reasons.every((reason) => reason === 'idle')).toBe(true)
  expect(await sandbox.files.readText('kept')).toBe(use)
}

describe('what is asked next starts an idle sandbox', () => {
  test('reading a file', async () => {
    expect(await sleepers.get('read')!.sandbox.files.readText('kept')).toBe('read')
    await expectWoken('read')
  })

  test('writing a file', async () => {
    const { sandbox } = sleepers.get('write')!
    await sandbox.files.write('new', 'written')
    expect(await sandbox.files.readText('new')).toBe('written')
    await expectWoken('write')
  })

  test('listing a folder', async () => {
    const entries = await sleepers.get('list')!.sandbox.files.list('/workspace').all()
    expect(entries.map(({ path }) => path)).toContain('/workspace/kept')
    await expectWoken('list')
  })

  test('uploading a folder', async () => {
    writeFileSync(join(folder, 'sent'), 'x'.repeat(300_000))
    const { sandbox } = sleepers.get('upload')!
    await sandbox.files.uploadFolder(folder, 'up')
    expect((await sandbox.files.stat('up/sent')).size).toBe(300_000)
    await expectWoken('upload')
  })

  test('opening a terminal; one of before has ended, which is said', async () => {
    const { sandbox, terminalId } = sleepers.get('new terminal')!
    const gone = await refusal(sandbox.terminal.connect(terminalId))
    expect([gone.status, gone.code]).toEqual([404, 'exec_not_found'])
    await using terminal = await sandbox.terminal.create()
    await terminal.write('cat kept; exit\n')
    let text = ''
    for await (const bytes of terminal) text += Buffer.from(bytes).toString()
    expect(text).toContain('new terminal')
    await expectWoken('new terminal')
  })

  test('a WebSocket to a port', async () => {
    const { sandbox } = sleepers.get('socket')!
    // What listened has ended with the sandbox: the first answer says so, and the sandbox runs.
    expect(await upgrade(sandbox)).toMatch(/^HTTP\/1\.1 502 [\s\S]*port_not_listening/)
    expect(await stateOf(sandbox)).toBe('running')
    await sandbox.files.write('echo.py', echoServer)
    const running = await sandbox.commands.start('python3 echo.py')
    await expect.poll(() => upgrade(sandbox)).toMatch(/^HTTP\/1\.1 101 [\s\S]*greeted$/)
    await running.kill()
    await expectWoken('socket')
  })

  test('two commands at once, with one start', async () => {
    const { sandbox } = sleepers.get('two at once')!
    const ran = await Promise.all(['one', 'two'].map((word) => sandbox.commands.run(`echo ${word}; cat kept`)))
    expect(ran.map(({ stdout }) => stdout)).toEqual(['one\ntwo at once', 'two\ntwo at once'])
    await expectWoken('two at once')
  })

  test('a command, a file, a folder, a terminal and a port at once, with one start', async () => {
    const { sandbox } = sleepers.get('mixed crowd')!
    const [ran, text, entries, terminal, port] = await Promise.all([
      sandbox.commands.run('echo ran'),
      sandbox.files.readText('kept'),
      sandbox.files.list('.').all(),
      sandbox.terminal.create(),
      request(`/v1/sandboxes/${sandbox.id}/ports/${socketPort}/`),
    ])
    expect([ran.stdout, text, entries.length > 0, port.status]).toEqual(['ran\n', 'mixed crowd', true, 502])
    await terminal.kill()
    await expectWoken('mixed crowd')
  })
})

test('where it cannot start, each caller is told why', async () => {
  const workspace = await delta.workspaces.create({ name: 'e2e-idle-held' })
  const sandbox = await workspace.start({ idleTimeoutMs, timeoutMs: 1_800_000 })
  const terminalId = await leftTerminal(sandbox)
  await asleep(sandbox)
  const holder = await workspace.start({ timeoutMs: 1_800_000 })
  try {
    const refusals = await Promise.all([
      refusal(sandbox.commands.run('true')),
      refusal(sandbox.commands.run('true')),
      refusal(sandbox.files.readText('kept')),
      refusal(sandbox.files.write('kept', 'x')),
      refusal(sandbox.files.list('.').all()),
      refusal(sandbox.files.uploadFolder(folder, 'up')),
      refusal(sandbox.terminal.create()),
      refusal(sandbox.terminal.connect(terminalId)),
    ])
    for (const error of refusals) {
      expect([error.status, error.code], error.message).toEqual([409, 'workspace_in_use'])
      expect(error.message).toContain(holder.id)
    }
    const port = await request(`/v1/sandboxes/${sandbox.id}/ports/${socketPort}/`)
    expect([port.status, await port.json()]).toMatchObject([409, { error: { code: 'workspace_in_use' } }])
    expect(await upgrade(sandbox)).toMatch(/^HTTP\/1\.1 409 [\s\S]*workspace_in_use/)
    expect(await stateOf(sandbox)).toBe('stopped')
  } finally {
    await holder.kill()
  }
  // And when the way is free again, it starts.
  expect((await sandbox.commands.run('echo free')).stdout).toBe('free\n')
  await sandbox.kill()
  await workspace.remove()
})

/** The head of the answer to a WebSocket, and what comes after it at once. */
async function upgrade(sandbox: Sandbox): Promise<string> {
  const { url: address } = await sandbox.ports.open(socketPort)
  const { host, pathname, search } = new URL(address)
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  socket.on('error', () => {})
  socket.write(
    `GET ${pathname}${search} HTTP/1.1\r\nHost: ${host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
      'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
  )
  let seen = ''
  socket.on('data', (chunk: Buffer) => (seen += chunk.toString('latin1')))
  await once(socket, 'close')
  return seen
}

const echoServer = `
import base64, hashlib, socket
with socket.create_server(('127.0.0.1', ${socketPort})) as server:
    while True:
        client, _ = server.accept()
        with client:
            head = client.recv(65536).decode('latin1')
            key = [line.split(': ', 1)[1] for line in head.split('\\r\\n') if line.lower().startswith('sec-websocket-key: ')][0]
            accept = base64.b64encode(hashlib.sha1((key + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').encode()).digest()).decode()
            client.sendall(('HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Accept: %s\\r\\n\\r\\n' % accept).encode())
            client.sendall(b'\\x81\\x07greeted')
`
