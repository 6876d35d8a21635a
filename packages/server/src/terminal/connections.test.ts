import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { AccessDoor, AccessEnd } from '../access/door.ts'
import { testCaller } from '../access/testing.ts'
import { DeltaError } from '../kernel/errors.ts'
import { openTestGuest, testUser } from '../sandboxes/execs/testing-guest.ts'
import { terminalLimits } from './schema.ts'
import { startTerminalServer, testKey } from './testing.ts'

let guest: Awaited<ReturnType<typeof openTestGuest>>
let server: Awaited<ReturnType<typeof startTerminalServer>>
let id: string
const held = new Set<(reason: AccessEnd) => void>()
const tokens: Pick<AccessDoor, 'verify' | 'hold'> = {
  verify: (token, { sandboxId, scope }) =>
    token === 'dat_good.token' && scope === 'terminal'
      ? { sandboxId, accountId: 'acc_default', expiresAt: 1, generation: 0 }
      : null,
  hold(_access, onEnd) {
    held.add(onEnd)
    return () => held.delete(onEnd)
  },
}

beforeAll(async () => {
  guest = await openTestGuest()
})
afterAll(() => guest.close())
beforeEach(async () => {
  // Looked at often, so that what is closed for its silence is closed within the test.
  const timing = { pingEveryMs: 50, stalledMs: 500, silentMs: 5_000 }
  server = await startTerminalServer(guest.door, { tokens, timing })
  id = await server.create({ user: testUser, cwd: guest.folder, env: { PS1: '$ ' }, cmd: ['/bin/cat'] })
})
afterEach(async () => {
  await server.send('DELETE', `/${id}`)
  await server.close()
})

const bearer = { authorization: `Bearer ${testKey}` }
const offered = (secret: string) => ['delta.terminal.v1', `delta.bearer.${Buffer.from(secret).toString('base64url')}`]

describe('who may connect', () => {
  test.each([
    ['nobody without credentials', {}, [], 401],
    ['nobody with a wrong key', { headers: { authorization: 'Bearer wrong' } }, [], 401],
    ['nobody with a wrong key among the protocols', {}, offered('wrong'), 401],
    ['nobody with a token for something else', {}, offered('dat_other.token'), 401],
    ['nobody under a name the server does not go by', { headers: { ...bearer, host: 'evil.example' } }, [], 403],
    ['no page of another origin', { headers: { ...bearer, origin: 'http://evil.example' } }, [], 403],
    ['no page without an origin to name', { headers: { ...bearer, origin: 'null' } }, [], 403],
  ])('%s', async (_who, options, protocols, status) => {
    const refused = await server.view(id, '', options, protocols).closed
    expect(refused).toEqual({ code: 0, reason: `Unexpected server response: ${status}` })
  })

  test('a key in the address is refused, and not repeated', async () => {
    const refused = await server.view(id, `?token=${testKey}`, {}).closed
    expect(refused.reason).toBe('Unexpected server response: 401')
  })

  test('a key among the protocols, a token there or in the address, from any page', async () => {
    const headers = { origin: 'http://elsewhere.example' }
    for (const viewer of [
      server.view(id, '', {}, offered(testKey)),
      server.view(id, '', { headers }, offered('dat_good.token')),
      server.view(id, '?token=dat_good.token', { headers }),
    ]) {
      await viewer.notice('ready')
      expect(viewer.ws.protocol).toBe(viewer.ws.url.includes('token=') ? '' : 'delta.terminal.v1')
    }
  })

  test.each(['expired', 'revoked', 'killed'] as const)(
    'a token that is %s ends its connection, and no other',
    async (end) => {
      const [byKey, byToken] = [server.view(id), server.view(id, '?token=dat_good.token', {})]
      await Promise.all([byKey.notice('ready'), byToken.notice('ready')])
      expect(held.size).toBe(1)
      for (const onEnd of held) onEnd(end)
      expect(await byToken.closed).toEqual({ code: 4401, reason: 'unauthorized' })
      expect(byToken.notices.at(-1)).toMatchObject({ type: 'error', status: 401, error: { code: 'unauthorized' } })
      byKey.write('still here\n')
      await byKey.until(/still here/)
      expect(held.size).toBe(0)
    },
  )
})

describe('how often', () => {
  const tooMany = async () => {
    throw new DeltaError('too_many_requests', 'Too many', { context: { retryAfterMs: 1_500 } })
  }

  test('each connection counts as its caller, or by its address where that is nobody', async () => {
    const counted: object[] = []
    const own = await startTerminalServer(guest.door, { tokens, count: async (asked) => void counted.push(asked) })
    for (const viewer of [own.view(id), own.view(id, '?token=dat_good.token', {})]) await viewer.notice('ready')
    await own.view(id, '', { headers: { authorization: 'Bearer wrong' } }).closed
    await own.view(id, '?token=dat_other.token', {}).closed
    const address = '127.0.0.1'
    expect(counted).toEqual([
      { caller: expect.objectContaining({ actorId: testCaller().actorId }), address },
      { caller: undefined, address },
      { caller: undefined, address },
      { caller: undefined, address },
    ])
    await own.close()
  })

  test('whoever opens too many is refused with the time to wait', async () => {
    const own = await startTerminalServer(guest.door, { tokens, count: tooMany })
    for (const [query, options] of [
      ['', { headers: bearer }],
      ['?token=dat_good.token', {}],
    ] as const) {
      const { ws, closed } = own.view(id, query, options)
      const [, answer] = (await once(ws, 'unexpected-response')) as [unknown, IncomingMessage]
      expect([answer.statusCode, answer.headers['retry-after']]).toEqual([429, '2'])
      answer.destroy()
      void closed
    }
    await own.close()
  })
})

describe('what is refused', () => {
  test('a usual request', async () => {
    const answer = await server.send('GET', `/${id}/connect`)
    expect([answer.status, await answer.json()]).toMatchObject([426, { error: { code: 'websocket_required' } }])
  })

  test.each([
    ['a terminal that is not there', 'exe_nothing', '', 4404, 'exec_not_found'],
    ['an offset in the future', '', '?from=999999', 4400, 'invalid_request'],
    ['an offset that is no number', '', '?from=-1', 4400, 'invalid_request'],
    ['more scrollback than there can be', '', '?scrollback=99999999', 4400, 'invalid_request'],
    ['no columns', '', '?cols=0&rows=5', 4400, 'invalid_request'],
  ])('%s', async (_what, other, query, code, error) => {
    const viewer = server.view(other || id, query)
    expect(await viewer.closed).toEqual({ code, reason: error })
    expect(viewer.notices).toMatchObject([{ type: 'error', error: { code: error, remediation: expect.any(String) } }])
  })

  test('an exec without a terminal', async () => {
    const { guest: connection } = await guest.door.open('sbx_test', { accountId: 'acc_default' })
    const request = { argv: ['/bin/cat'], env: {}, cwd: '/', user: testUser, timeoutMs: 0, keepStdin: true }
    await connection.start({ ...request, execId: 'exe_plain' })
    expect(await server.view('exe_plain').closed).toEqual({ code: 4404, reason: 'exec_not_found' })
    expect((await server.send('PATCH', '/exe_plain', { cols: 1, rows: 1 })).status).toBe(404)
    expect((await server.send('DELETE', '/exe_plain')).status).toBe(404)
    await connection.signal('exe_plain', 9, 'process')
  })

  test.each([
    { cols: 0, rows: 24 },
    { cols: 100_000, rows: 24 },
    { cols: 80.5, rows: 24 },
    { cols: '80', rows: 24 },
    { cols: 80 },
  ])('the size %j: the limit is told, and everything stays', async (size) => {
    const viewer = server.view(id)
    await viewer.notice('ready')
    viewer.control({ type: 'resize', ...size })
    const { error } = (await viewer.notice('error')) as { error: { code: string; cause: string } }
    expect(error).toMatchObject({ code: 'invalid_request', cause: expect.stringMatching(/^(cols|rows): /) })
    viewer.write('still here\n')
    await viewer.until(/still here/)
    for (const [method, path] of [
      ['PATCH', `/${id}`],
      ['POST', ''],
    ] as const) {
      expect((await server.send(method, path, { ...size, rows: size.rows ?? 0 })).status, method).toBe(400)
    }
  })

  test.each([
    ['a control frame that is no JSON', 'hello', 1007],
    ['a control frame that is not UTF-8', Buffer.from([0x7b, 0xff, 0x7d]), 1007],
    ['a control frame that is too large', ' '.repeat(terminalLimits.controlFrameBytes + 1), 1007],
    ['an input frame that is too large', Buffer.alloc(terminalLimits.inputFrameBytes + 1), 1009],
  ])('%s ends its connection with an error, and no other', async (_what, data, code) => {
    const [rude, other] = [server.view(id), server.view(id)]
    await Promise.all([rude.notice('ready'), other.notice('ready')])
    rude.ws.send(data, { binary: code === 1009 })
    expect(await rude.closed).toMatchObject({ code })
    expect(rude.notices.at(-1)).toMatchObject({ type: 'error', error: { code: expect.any(String) } })
    other.write('still here\n')
    await other.until(/still here/)
  })

  test('a frame of a length nobody may keep', async () => {
    const viewer = server.view(id)
    await viewer.notice('ready')
    viewer.ws.send(Buffer.alloc(2 * 1024 * 1024))
    expect(await viewer.closed).toMatchObject({ code: 1009 })
  })

  test('typing by who only watches', async () => {
    const viewer = server.view(id, '?readOnly=1')
    expect(await viewer.notice('ready')).toMatchObject({ readOnly: true })
    viewer.write('x')
    expect(await viewer.notice('error')).toMatchObject({ error: { code: 'invalid_request' } })
  })

  test('one viewer too many', async () => {
    const viewers = Array.from({ length: terminalLimits.viewersPerTerminal }, () => server.view(id))
    await Promise.all(viewers.map((viewer) => viewer.notice('ready')))
    expect(await server.view(id).closed).toEqual({ code: 4429, reason: 'too_many_requests' })
  })

  test('one terminal too many', async () => {
    const count = terminalLimits.perSandbox
    const body = { user: testUser, cwd: guest.folder, cmd: ['/bin/cat'] }
    const answers = await Promise.all(Array.from({ length: count + 3 }, () => server.send('POST', '', body)))
    const made = (await Promise.all(answers.map((answer) => answer.json()))) as {
      id: string
      error?: { code: string }
    }[]
    const running = made.filter(({ error }) => !error)
    await Promise.all(running.map((one) => server.send('DELETE', `/${one.id}`)))
    // The one that every test has is among them.
    expect(running.length).toBe(count - 1)
    expect(made.flatMap(({ error }) => error?.code ?? [])).toEqual(Array(4).fill('exec_limit_reached'))
  })
})

test('half a frame and then silence is closed, and the terminal goes on', async () => {
  const socket = connect(server.port, '127.0.0.1')
  await once(socket, 'connect')
  const head = `GET /v1/sandboxes/sbx_test/terminals/${id}/connect HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${testKey}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n`
  socket.write(head)
  const received: Buffer[] = []
  socket.on('data', (chunk: Buffer) => received.push(chunk))
  await once(socket, 'data')
  // A masked binary frame of 100 bytes, of which three come.
  socket.write(Buffer.from([0x82, 0x80 | 100, 1, 2, 3, 4, 0, 0, 0]))
  await once(socket, 'close')
  // Close, 4408.
  expect(Buffer.concat(received).toString('latin1')).toContain('\x11\x38')
  const viewer = server.view(id)
  viewer.write('still here\n')
  await viewer.until(/still here/)
})

test('a viewer that answers pings stays, however silent it is', async () => {
  const viewer = server.view(id)
  await viewer.notice('ready')
  let pings = 0
  // Twice as many as silence would be borne for.
  await new Promise<void>((resolve) => viewer.ws.on('ping', () => ++pings === 20 && resolve()))
  viewer.write('still here\n')
  await viewer.until(/still here/)
})

test('a handshake that is none is refused in words', async () => {
  const socket = connect(server.port, '127.0.0.1')
  await once(socket, 'connect')
  const head = `GET /v1/sandboxes/sbx_test/terminals/${id}/connect HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${testKey}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`
  socket.write(head)
  const [answer] = (await once(socket, 'data')) as [Buffer]
  expect(answer.toString()).toMatch(/^HTTP\/1\.1 400 [^]*invalid_request/)
  socket.destroy()
})

test('a server that stops says so, and takes nobody new', async () => {
  const viewer = server.view(id)
  await viewer.notice('ready')
  await server.connections.stop()
  expect(await viewer.closed).toEqual({ code: 1001, reason: 'the server stops' })
  expect((await server.view(id).closed).reason).toBe('Unexpected server response: 503')
  expect(server.connections.count).toBe(0)
})

test('input that the program does not read is held back, and nothing of it is lost', async () => {
  const slow = await server.create({
    user: testUser,
    cwd: guest.folder,
    cmd: 'stty raw -echo; echo up; sleep 1; head -c 4000000 | md5sum; exec cat > /dev/null',
  })
  const viewer = server.view(slow)
  await viewer.until(/up/)
  const piece = Buffer.alloc(100_000, 'abcdefg')
  for (let i = 0; i < 40; i++) viewer.write(piece)
  await viewer.until(/[0-9a-f]{32}/)
  const { createHash } = await import('node:crypto')
  const hash = createHash('md5')
  for (let i = 0; i < 40; i++) hash.update(piece)
  expect(viewer.text).toContain(hash.digest('hex'))
  await server.send('DELETE', `/${slow}`)
})
