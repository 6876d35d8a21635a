import { request as httpRequest } from 'node:http'
import type { ClientRequest, IncomingMessage } from 'node:http'
import { once } from 'node:events'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { ops } from '../../guest/messages.ts'
import { startTestServer } from './testing-server.ts'
import type { TestServer } from './testing-server.ts'

const servers: TestServer[] = []
afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()))
})

async function start() {
  const server = await startTestServer()
  servers.push(server)
  return server
}

const execsPath = '/v1/sandboxes/sbx_model/execs'

async function json(response: Response) {
  return (await response.json()) as Record<string, unknown> & {
    error?: { code: string; remediation: string; requestId: string }
  }
}

describe('POST execs', () => {
  test('waits for the end: 200; in the background: 202', async () => {
    const { guest, post } = await start()
    guest.onStart = (exec) => {
      exec.say('stdout', 'hi\n')
      exec.exit('exited', 0)
    }
    const waited = await post(execsPath, { cmd: 'echo hi' })
    expect([waited.status, await json(waited)]).toEqual([
      200,
      expect.objectContaining({ exitCode: 0, stdout: 'hi\n', state: 'exited' }),
    ])
    const background = await post(execsPath, { cmd: ['x'], background: true })
    expect([background.status, (await json(background))['state']]).toEqual([202, 'running'])
  })

  test.each([
    ['not json', '{', 'malformed_json'],
    ['NaN', '{"cmd":"x","timeoutMs":NaN}', 'malformed_json'],
    ['a list', '[]', 'invalid_request'],
    ['null', 'null', 'invalid_request'],
    ['a huge number', '{"cmd":"x","timeoutMs":1e999}', 'invalid_request'],
    ['a negative number', '{"cmd":"x","timeoutMs":-5}', 'invalid_request'],
    ['an unknown field', '{"cmd":"x","shell":true}', 'invalid_request'],
  ])('with %s is refused in the one shape', async (_name, body, code) => {
    const { guest, send } = await start()
    const response = await send('POST', execsPath, { body, headers: { 'content-type': 'application/json' } })
    const { error } = await json(response)
    expect([response.status, error?.code]).toEqual([400, code])
    expect(error?.remediation).toBeTruthy()
    expect(error?.requestId).toBe(response.headers.get('x-request-id'))
    expect(guest.counts.execs).toBe(0)
  })

  test('with a body beyond the limit is refused without being read whole', async () => {
    const { post } = await start()
    const response = await post(execsPath, { cmd: 'x', stdin: 'x'.repeat(6 * 1024 * 1024) })
    expect([response.status, (await json(response)).error?.code]).toEqual([413, 'body_too_large'])
  })

  test('takes a command and a stdin of 1 MiB each', async () => {
    const { guest, post } = await start()
    guest.onStart = (exec) => exec.exit('exited', 0)
    const response = await post(execsPath, { cmd: `: ${'x'.repeat(2 ** 20)}`, stdin: 'y'.repeat(2 ** 20) })
    expect(response.status).toBe(200)
    const exec = [...guest.execs.values()][0]!
    expect([exec.script?.length, exec.stdin.length]).toEqual([2 ** 20 + 2, 2 ** 20])
  })

  test('with an endless Idempotency-Key is refused, with a known one joined', async () => {
    const { guest, post } = await start()
    guest.onStart = (exec) => exec.exit('exited', 0)
    expect((await post(execsPath, { cmd: 'x' }, { 'idempotency-key': 'k'.repeat(256) })).status).toBe(400)
    const ids = []
    for (let i = 0; i < 2; i++)
      ids.push((await json(await post(execsPath, { cmd: 'x' }, { 'idempotency-key': 'k' })))['id'])
    expect(ids[0]).toBe(ids[1])
    const conflict = await post(execsPath, { cmd: 'y' }, { 'idempotency-key': 'k' })
    expect([conflict.status, (await json(conflict)).error?.code]).toEqual([409, 'idempotency_conflict'])
  })

  test('of a client that goes away leaves the process alone', async () => {
    const { guest, url, headers } = await start()
    const leaving = new AbortController()
    const response = fetch(url + execsPath, {
      method: 'POST',
      headers,
      body: '{"cmd":"x"}',
      signal: leaving.signal,
    }).catch(() => 'left')
    const exec = await vi.waitFor(() => {
      const found = [...guest.execs.values()][0]
      expect(found?.viewers).toBe(1)
      return found!
    })
    leaving.abort()
    expect(await response).toBe('left')
    await vi.waitFor(() => expect(exec.viewers).toBe(0))
    expect(exec.signals).toEqual([])
  })
})

describe('an event stream', () => {
  test('is asked for by the body or by Accept, and carries ids', async () => {
    const { guest, post } = await start()
    guest.onStart = (exec) => {
      exec.say('stdout', 'é\n')
      exec.exit('exited', 0)
    }
    const first = await post(execsPath, { cmd: 'x', stream: true })
    expect(first.headers.get('content-type')).toContain('text/event-stream')
    const text = await first.text()
    expect(text).toContain('event: stdout\nid: 3\ndata: {"data":"é\\n","offset":0}\n\n')
    expect(text.endsWith('\n\n')).toBe(true)
    const second = await post(execsPath, { cmd: 'x' }, { accept: 'text/event-stream' })
    expect((await second.text()).match(/^event: \w+$/gm)).toEqual(['event: start', 'event: stdout', 'event: exit'])
  })

  test('resumes by Last-Event-ID or from, and refuses what is no offset', async () => {
    const { guest, post, get } = await start()
    const { id } = (await json(await post(execsPath, { cmd: 'x', background: true }))) as { id: string }
    const exec = guest.execs.get(id)!
    exec.say('stdout', 'abcdef')
    exec.exit('exited', 0)
    const events = `${execsPath}/${id}/events`
    expect(await (await get(events, { 'last-event-id': '4' })).text()).toContain('{"data":"ef","offset":4}')
    expect(await (await get(`${events}?from=2`)).text()).toContain('{"data":"cdef","offset":2}')
    expect(await (await get(`${events}?encoding=base64&from=5`)).text()).toContain('{"data":"Zg==","offset":5}')
    for (const wrong of ['?from=-1', '?from=1e3', '?from=99999999999999999999', '?from=x', '?from=7']) {
      expect((await get(events + wrong)).status, wrong).toBe(400)
    }
    expect((await get(events, { 'last-event-id': 'x' })).status).toBe(400)
    expect((await get(`${execsPath}/exe_none/events`)).status).toBe(404)
  })

  test('of a viewer that does not read holds the sandbox back, not memory; when it leaves the process is free', async () => {
    const { guest, url, headers } = await start()
    const request: ClientRequest = httpRequest(url + execsPath, { method: 'POST', headers })
    request.end('{"cmd":"flood","stream":true}')
    const [response] = (await once(request, 'response')) as [IncomingMessage]
    response.pause()
    const exec = [...guest.execs.values()][0]!
    const credits: number[] = []
    guest.onCredit = (bytes) => credits.push(bytes)
    // All the credit there is, twice: what nobody reads is not asked for.
    const said = () => credits.reduce((sum, bytes) => sum + bytes, 1024 * 1024)
    let sent = 0
    for (let round = 0; round < 400; round++) {
      if (sent + 65_536 <= said()) {
        exec.say('stdout', Buffer.alloc(65_536, 'x'))
        sent += 65_536
      }
      await new Promise((resolve) => setImmediate(resolve))
    }
    const stuckAt = sent
    expect(stuckAt).toBeLessThan(400 * 65_536)
    response.destroy()
    await vi.waitFor(() => expect(exec.viewers).toBe(0))
  })
})

describe('an exec that is known', () => {
  test('takes stdin, signals and sizes; what it can not take is refused', async () => {
    const { guest, post, send } = await start()
    const body = { cmd: 'cat', background: true, stdinOpen: true, pty: { cols: 80, rows: 24 } }
    const { id } = (await json(await post(execsPath, body))) as { id: string }
    const exec = guest.execs.get(id)!
    const at = `${execsPath}/${id}`
    expect((await send('POST', `${at}/stdin?close=true`, { body: 'input' })).status).toBe(204)
    await vi.waitFor(() => expect([exec.stdin, exec.stdinEnded]).toEqual(['input', true]))
    expect((await send('POST', `${at}/stdin?close=maybe`, { body: 'input' })).status).toBe(400)
    expect((await post(`${at}/signal`, { signal: 'SIGTERM' })).status).toBe(204)
    expect((await post(`${at}/signal`, { signal: 9, scope: 'session' })).status).toBe(204)
    expect(exec.signals).toEqual([
      { signal: 15, scope: 0 },
      { signal: 9, scope: 1 },
    ])
    for (const wrong of [
      {},
      { signal: 0 },
      { signal: 'nope' },
      { signal: 1.5 },
      { signal: 15, scope: 'all' },
      { signal: null },
    ]) {
      expect((await post(`${at}/signal`, wrong)).status, JSON.stringify(wrong)).toBe(400)
    }
    expect((await post(`${at}/resize`, { cols: 100, rows: 40 })).status).toBe(204)
    await vi.waitFor(() => expect(exec.sizes).toEqual([{ cols: 100, rows: 40 }]))
    for (const wrong of [{ cols: 0, rows: 1 }, { cols: 100_000, rows: 1 }, { cols: 1 }, { cols: '1', rows: 1 }]) {
      expect((await post(`${at}/resize`, wrong)).status, JSON.stringify(wrong)).toBe(400)
    }
    exec.exit('exited', 0)
    expect((await json(await send('POST', `${at}/stdin`, { body: 'late' }))).error?.code).toBe('exec_not_running')
  })

  test('is found in the list and alone; an unknown one is not', async () => {
    const { guest, post, get } = await start()
    const { id } = (await json(await post(execsPath, { cmd: ['x'], background: true }))) as { id: string }
    guest.execs.get(id)!.say('stdout', Buffer.from([255]))
    expect(await json(await get(execsPath))).toMatchObject({ data: [{ id, state: 'running' }], nextCursor: null })
    expect(await json(await get(`${execsPath}/${id}?encoding=base64`))).toMatchObject({ id, stdout: '/w==' })
    expect((await get(`${execsPath}/${id}?encoding=latin1`)).status).toBe(400)
    for (const wrong of ['exe_nope', '..', '%00', 'x'.repeat(5_000), '🦀']) {
      const response = await get(`${execsPath}/${encodeURIComponent(wrong)}`)
      expect([400, 404], wrong).toContain(response.status)
    }
  })
})

test('POST code runs source, streams it, and refuses other languages', async () => {
  const { guest, post } = await start()
  guest.onStart = (exec) => exec.exit('exited', 0)
  const path = '/v1/sandboxes/sbx_model/code'
  expect(await json(await post(path, { language: 'python', source: 'print(1)' }))).toMatchObject({ exitCode: 0 })
  expect(await (await post(path, { language: 'bash', source: 'ls', stream: true })).text()).toContain('event: exit')
  for (const wrong of [
    { language: 'cobol', source: 'x' },
    { language: 'python' },
    { language: 'python', source: '' },
    { source: 'x', language: 1 },
  ]) {
    expect((await post(path, wrong)).status, JSON.stringify(wrong)).toBe(400)
  }
  guest.onAsked = ({ op, peer, channel }) => {
    if (op === ops.exec) peer.close(channel, 1, 'python3: not found in PATH.')
    else if (op === ops.stat)
      peer.close(channel, 0, '', (w) =>
        w.str('/workspace').u8(2).u64(0).u32(493).u32(0).u32(0).str('r').str('r').i64(0n).u64(1).u8(0),
      )
    return true
  }
  expect((await json(await post(path, { language: 'python', source: '1' }))).error?.code).toBe('interpreter_missing')
})
