import { afterEach, expect, test } from 'vitest'
import {
  type Answer,
  events,
  execExit,
  execInfo,
  execStart,
  failure,
  hangUp,
  json,
  output,
  type Peer,
  sandboxInfo,
  startPeer,
} from '../test/peer.ts'
import type { Sandbox } from './index.ts'

let peer: Peer
async function start(...answers: Answer[]): Promise<Sandbox> {
  peer = await startPeer(json(200, sandboxInfo), ...answers)
  return peer.delta.sandboxes.get('sbx_1')
}
const seen = () =>
  peer.requests.slice(1).map(({ method, target }) => `${method} ${target.replace('/v1/sandboxes/sbx_1', '')}`)
const noContent: Answer = (_, response) => void response.writeHead(204).end()

afterEach(() => peer.close())

test('a plain run is one request', async () => {
  const result = { ...execInfo, exitCode: 3, stdout: 'out', stderr: 'err', truncated: false, encoding: 'utf8' }
  const sandbox = await start(json(200, result))
  const run = await sandbox.commands.run(['a', 'b c'], {
    cwd: '/tmp',
    env: { A: '1' },
    stdin: 'in',
    user: 'root',
    timeoutMs: 9,
  })
  expect(run).toEqual({ ...result, ok: false })
  expect(JSON.parse(peer.requests[1]?.body ?? '')).toEqual({
    cmd: ['a', 'b c'],
    cwd: '/tmp',
    env: { A: '1' },
    stdin: 'in',
    user: 'root',
    timeoutMs: 9,
  })
})

test('a plain run whose answer was lost is asked for again under the same key', async () => {
  const sandbox = await start(hangUp, json(200, { ...execInfo, stdout: 'once' }))
  expect((await sandbox.commands.run('x')).stdout).toBe('once')
  expect(peer.requests[1]?.headers['idempotency-key']).toBeTruthy()
  expect(peer.requests[2]?.headers['idempotency-key']).toBe(peer.requests[1]?.headers['idempotency-key'])
})

test('streamed output is complete and in order when the connection breaks in the middle', async () => {
  const sandbox = await start(
    events([execStart, output('stdout', 0, 'one '), output('stderr', 4, 'oops')], { cut: true }),
    failure(503, 'shutting_down', { 'retry-after': '0' }),
    events([execStart, output('stderr', 4, 'oops'), output('stdout', 8, 'two ')], { cut: true }),
    events([execStart, output('stdout', 12, 'three'), execExit]),
  )
  const parts: string[] = []
  const run = await sandbox.commands.run('x', {
    onStdout: (text) => void parts.push(`1:${text}`),
    onStderr: (text) => void parts.push(`2:${text}`),
  })
  expect(parts).toEqual(['1:one ', '2:oops', '1:two ', '1:three'])
  expect(run).toMatchObject({ ok: true, stdout: 'one two three', stderr: 'oops', truncated: false, exitCode: 0 })
  expect(seen()).toEqual([
    'POST /execs',
    'GET /execs/exe_1/events?from=8&encoding=base64',
    'GET /execs/exe_1/events?from=8&encoding=base64',
    'GET /execs/exe_1/events?from=12&encoding=base64',
  ])
})

test('a stream that broke before the command had an id is asked for again under the same key', async () => {
  const sandbox = await start(events([], { cut: true }), events([execStart, output('stdout', 0, 'hi'), execExit]))
  const run = await sandbox.commands.run('x', { onStdout: () => {} })
  expect(run.stdout).toBe('hi')
  expect(seen()).toEqual(['POST /execs', 'POST /execs'])
  expect(peer.requests[2]?.headers['idempotency-key']).toBe(peer.requests[1]?.headers['idempotency-key'])
})

test('lost output is counted where it was lost', async () => {
  const gap = { event: 'gap', data: { from: 2, to: 10 } }
  const sandbox = await start(events([execStart, output('stdout', 0, 'ab'), gap, output('stdout', 10, 'cd'), execExit]))
  const lost: number[] = []
  const run = await sandbox.commands.run('x', { onStdout: (_, chunk) => void lost.push(chunk.lostBytes) })
  expect(lost).toEqual([0, 8])
  expect(run).toMatchObject({ stdout: 'abcd', truncated: true, truncatedBytes: { stdout: 8, stderr: 0 } })
})

test('a character cut between two chunks is not broken, per stream', async () => {
  const [first, second] = [Buffer.from('ü').subarray(0, 1), Buffer.from('ü').subarray(1)]
  const sandbox = await start(
    events([execStart, output('stdout', 0, first), output('stderr', 1, 'e'), output('stdout', 2, second), execExit]),
  )
  let text = ''
  const run = await sandbox.commands.run('x', { onStdout: (part) => void (text += part) })
  expect([text, run.stdout]).toEqual(['ü', 'ü'])
})

test('binary output is exact in base64', async () => {
  const bytes = Buffer.from([0, 255, 128, 10])
  const sandbox = await start(events([execStart, output('stdout', 0, bytes), execExit]))
  const run = await sandbox.commands.run('x', { onStdout: () => {}, encoding: 'base64' })
  expect(Buffer.from(run.stdout, 'base64')).toEqual(bytes)
  expect(run.encoding).toBe('base64')
})

test('aborting kills the whole session and rejects with the reason', async () => {
  const sandbox = await start((_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(`event: start\ndata: ${JSON.stringify(execStart.data)}\n\n`)
  }, noContent)
  const controller = new AbortController()
  const run = sandbox.commands.run('sleep 100', { signal: controller.signal })
  await expect.poll(() => peer.requests.length).toBe(2)
  await new Promise((done) => setTimeout(done, 50))
  controller.abort(new Error('enough'))
  await expect(run).rejects.toThrow('enough')
  await expect.poll(seen).toContain('POST /execs/exe_1/signal')
  expect(JSON.parse(peer.requests.at(-1)?.body ?? '')).toEqual({ signal: 'SIGKILL', scope: 'session' })
})

test('an abort before the command has an id kills it as soon as it has one', async () => {
  let answer: (() => void) | undefined
  const sandbox = await start((_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders()
    answer = () => void response.write(`event: start\ndata: ${JSON.stringify(execStart.data)}\n\n`)
  }, noContent)
  const controller = new AbortController()
  const run = sandbox.commands.run('x', { signal: controller.signal, onStdout: () => {} })
  const rejected = expect(run).rejects.toThrow('early')
  await expect.poll(() => answer).toBeDefined()
  controller.abort(new Error('early'))
  await rejected
  answer?.()
  await expect.poll(seen).toContain('POST /execs/exe_1/signal')
})

test('a callback that throws ends the command and the run', async () => {
  const sandbox = await start(events([execStart, output('stdout', 0, 'x')], { cut: true }), noContent)
  const run = sandbox.commands.run('x', {
    onStdout: () => {
      throw new Error('mine')
    },
  })
  await expect(run).rejects.toThrow('mine')
  expect(seen()).toEqual(['POST /execs', 'POST /execs/exe_1/signal'])
})

async function* source() {
  yield 'one'
  yield Uint8Array.of(0, 255)
}

test('a stream as stdin is sent piece by piece and then closed', async () => {
  let finish: (() => void) | undefined
  const sandbox = await start((request, response) => {
    expect(JSON.parse(request.body)).toMatchObject({ stdinOpen: true, stream: true })
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(`event: start\ndata: ${JSON.stringify(execStart.data)}\n\n`)
    finish = () => void response.end(`event: exit\ndata: ${JSON.stringify(execInfo)}\n\n`)
  }, noContent)
  const run = sandbox.commands.run('cat', { stdin: source() })
  await expect.poll(() => seen().length).toBe(4)
  finish?.()
  expect((await run).ok).toBe(true)
  expect(peer.requests.slice(2).map(({ target, body }) => [target.split('/').at(-1), body])).toEqual([
    ['stdin', 'one'],
    ['stdin', '\0\xff'],
    ['stdin?close=true', ''],
  ])
})

test('a command that does not read its stdin is no error', async () => {
  const sandbox = await start((request, response) => {
    if (request.target.endsWith('/stdin')) return failure(409, 'exec_not_running')(request, response)
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(`event: start\ndata: ${JSON.stringify(execStart.data)}\n\n`)
    setTimeout(() => response.end(`event: exit\ndata: ${JSON.stringify(execInfo)}\n\n`), 100)
  })
  expect((await sandbox.commands.run('true', { stdin: new Blob(['never read']).stream() })).ok).toBe(true)
})

test('a started command is iterated, waited for, and read on after a break', async () => {
  const sandbox = await start(
    json(202, { ...execInfo, state: 'running', exitCode: null }),
    events([execStart, output('stdout', 0, 'one ')], { cut: true }),
    events([execStart, output('stderr', 4, 'two'), execExit]),
  )
  const handle = await sandbox.commands.start('x', { tag: 't' })
  expect(JSON.parse(peer.requests[1]?.body ?? '')).toEqual({ timeoutMs: 0, tag: 't', cmd: 'x', background: true })
  expect([handle.id, handle.pid]).toEqual(['exe_1', 7])
  const waited = handle.wait().catch((cause: unknown) => cause)
  await expect(handle[Symbol.asyncIterator]().next()).rejects.toThrow('read already')
  expect(await waited).toMatchObject({ ok: true, stdout: 'one ', stderr: 'two' })
  expect(await handle.wait()).toMatchObject({ stdout: 'one ' })
  expect(seen().slice(1)).toEqual([
    'GET /execs/exe_1/events?from=0&encoding=base64',
    'GET /execs/exe_1/events?from=4&encoding=base64',
  ])
})

test('who leaves the loop early can read on, and who waits is not forgotten', async () => {
  const sandbox = await start(
    json(202, { ...execInfo, state: 'running' }),
    events([execStart, output('stdout', 0, 'one '), output('stdout', 4, 'two ')], { cut: true }),
    events([execStart, output('stdout', 4, 'two '), execExit]),
  )
  const handle = await sandbox.commands.run('x', { background: true })
  let waited: Promise<unknown> | undefined
  for await (const { text } of handle) {
    expect(text).toBe('one ')
    waited = handle.wait()
    break
  }
  expect(await waited).toMatchObject({ stdout: 'one two ' })
})

test('an error for good is not asked for again', async () => {
  const sandbox = await start(
    json(202, { ...execInfo, state: 'running' }),
    events([execStart], { cut: true }),
    failure(404, 'sandbox_not_found'),
  )
  const handle = await sandbox.commands.start('x')
  await expect(handle.wait()).rejects.toMatchObject({ code: 'sandbox_not_found' })
  expect(peer.requests.length).toBe(4)
})

test('code is run by its language', async () => {
  const sandbox = await start(json(200, { ...execInfo, stdout: '42\n' }))
  expect((await sandbox.runCode('print(6*7)', { language: 'python' })).stdout).toBe('42\n')
  expect([seen()[0], peer.requests[1]?.body]).toEqual(['POST /code', '{"language":"python","source":"print(6*7)"}'])
})
