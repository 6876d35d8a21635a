import { afterEach, expect, test } from 'vitest'
import { type Answer, events, failure, json, type Peer, sandboxInfo, startPeer } from '../test/peer.ts'
import type { Sandbox } from './index.ts'

let peer: Peer
async function start(...answers: Answer[]): Promise<Sandbox> {
  peer = await startPeer(json(200, sandboxInfo), ...answers)
  return peer.delta.sandboxes.get('sbx_1')
}
afterEach(() => peer.close())

const entry = { path: '/a', name: 'a', type: 'file', size: 3, mode: 420 }
const query = (index: number) => Object.fromEntries(new URL(`http://x${peer.requests[index]?.target}`).searchParams)

const bytes =
  (
    text: string,
    { etag = '"1"', cutAfter, status = 200 }: { etag?: string; cutAfter?: number; status?: number } = {},
  ): Answer =>
  (_, response) => {
    response.writeHead(status, { etag, 'content-length': text.length })
    if (cutAfter === undefined) return void response.end(text)
    response.write(text.slice(0, cutAfter), () => setTimeout(() => response.destroy(), 20))
  }

test('a file is read whole, and as text', async () => {
  const sandbox = await start(bytes('hello'), bytes(''))
  expect(await sandbox.files.readText('/a')).toBe('hello')
  expect(await sandbox.files.read('/empty')).toEqual(new Uint8Array(0))
})

test('a part of a file is asked for as a range', async () => {
  const sandbox = await start(bytes('lo', { status: 206 }))
  expect(await sandbox.files.readText('/a', { from: 3, length: 2 })).toBe('lo')
  expect(peer.requests[1]?.headers.range).toBe('bytes=3-4')
})

test('a read that breaks goes on where it broke', async () => {
  const sandbox = await start(bytes('hello world', { cutAfter: 5 }), bytes(' world', { status: 206 }))
  expect(await sandbox.files.readText('/a')).toBe('hello world')
  expect(peer.requests.map(({ headers }) => headers.range)).toEqual([undefined, undefined, 'bytes=5-'])
})

test('a read that breaks and finds another file is an error, not a mixture', async () => {
  const sandbox = await start(bytes('hello world', { cutAfter: 5 }), bytes(' World', { status: 206, etag: '"2"' }))
  await expect(sandbox.files.readText('/a')).rejects.toMatchObject({ code: 'precondition_failed', status: 412 })
})

test('a missing file fails before a stream is handed out', async () => {
  const sandbox = await start(failure(404, 'file_not_found'))
  await expect(sandbox.files.readStream('/a')).rejects.toMatchObject({ code: 'file_not_found' })
  expect(await sandbox.files.exists('/a')).toBe(false)
})

test('a stream delivers the bytes and can be left early', async () => {
  const sandbox = await start(bytes('hello world'))
  expect(await new Response(await sandbox.files.readStream('/a')).text()).toBe('hello world')
  const reader = (await sandbox.files.readStream('/a')).getReader()
  expect((await reader.read()).value?.length).toBeGreaterThan(0)
  await reader.cancel()
})

test.each([
  ['text', 'grün'],
  ['bytes', new TextEncoder().encode('grün')],
  ['a Blob', new Blob(['grün'])],
  ['a stream', new Blob(['grün']).stream()],
  [
    'an async iterable',
    (async function* () {
      yield new TextEncoder().encode('grün')
    })(),
  ],
])('%s is written as it is', async (_, content) => {
  const sandbox = await start(json(200, entry))
  await sandbox.files.write('/a b', content, {
    mode: 0o755,
    owner: 'root',
    parents: false,
    overwrite: false,
    ifMatch: '"1"',
  })
  expect(Buffer.from(peer.requests[1]?.body ?? '', 'latin1').toString()).toBe('grün')
  expect(query(1)).toEqual({ path: '/a b', mode: '0755', owner: 'root', parents: 'false', overwrite: 'false' })
  expect(peer.requests[1]?.headers['if-match']).toBe('"1"')
})

test('a stream is never sent a second time', async () => {
  const sandbox = await start(failure(503, 'shutting_down', { 'retry-after': '0' }))
  await expect(sandbox.files.write('/a', new Blob(['x']).stream())).rejects.toMatchObject({ code: 'shutting_down' })
  expect(peer.requests.length).toBe(2)
})

const change = (path: string) => ({ event: 'change', data: { kind: 'create', path, isDirectory: false } })

test('watching begins before watch() resolves and survives a break with a warning', async () => {
  const ready = { event: 'ready', data: {} }
  const sandbox = await start(
    events([ready, change('/a')], { cut: true }),
    json(200, sandboxInfo),
    events([ready, change('/b')], { cut: true }),
  )
  await using watcher = await sandbox.files.watch('/workspace', { recursive: false })
  expect(query(1)).toEqual({ path: '/workspace', recursive: 'false' })
  const kinds: string[] = []
  for await (const event of watcher) {
    kinds.push(event.kind + event.path)
    if (kinds.length === 3) break
  }
  expect(kinds).toEqual(['create/a', 'overflow', 'create/b'])
})

test('a watcher does not wake a sandbox that has stopped', async () => {
  const sandbox = await start(
    events([{ event: 'ready', data: {} }], { cut: true }),
    json(200, { ...sandboxInfo, state: 'stopped', reason: 'timeout' }),
  )
  const watcher = await sandbox.files.watch('/workspace')
  await expect(watcher[Symbol.asyncIterator]().next()).rejects.toMatchObject({ code: 'sandbox_ended' })
  expect(peer.requests).toHaveLength(3)
})

test('closing a watcher ends its loop', async () => {
  const sandbox = await start((_, response) => void response.writeHead(200).write('event: ready\ndata: {}\n\n'))
  const watcher = await sandbox.files.watch('/workspace')
  setTimeout(() => void watcher.close(), 20)
  for await (const event of watcher) expect.unreachable(JSON.stringify(event))
})
