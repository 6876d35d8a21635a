import { once } from 'node:events'
import { Agent, request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http'
import { connect, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { afterEach, expect, test } from 'vitest'
import { manualClock } from '../../kernel/clock.ts'
import { testDatabases } from '../../kernel/db/testing.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { apiKey, type Inside, sandboxId, startInside, startPorts, startRawInside } from './testing.ts'

interface Answer {
  status: number
  headers: IncomingMessage['headers']
  body: string
}

interface Sending extends RequestOptions {
  body?: string | Buffer
}

function send(port: number, host: string, { body, ...options }: Sending = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers = { host, ...(options.headers as Record<string, string>) }
    const sent = httpRequest({ host: '127.0.0.1', port, agent: false, ...options, headers })
    sent.on('error', reject)
    sent.on('response', (answer) => {
      const { statusCode: status = 0, headers: got } = answer
      text(answer).then((whole) => resolve({ status, headers: got, body: whole }), reject)
    })
    sent.end(body)
  })
}

const codeOf = ({ body }: Answer) => (JSON.parse(body) as { error: { code: string } }).error.code

testDatabases('requests through ports', (open) => {
  const opened: { close(): Promise<void> }[] = []
  afterEach(async () => {
    for (const one of opened.splice(0).toReversed()) await one.close()
  })
  async function start(options?: Parameters<typeof startPorts>[1]) {
    const platform = await startPorts(open, options)
    opened.push(platform)
    return platform
  }
  async function inside(...parameters: Parameters<typeof startInside>) {
    const server = await startInside(...parameters)
    opened.push(server)
    return server
  }
  async function rawInside(onConnection: (socket: Socket) => void): Promise<Inside> {
    const server = await startRawInside(onConnection)
    opened.push(server)
    return server
  }
  /** The platform, a server inside that behaves, and requests to it with a token. */
  async function startWith(...parameters: Parameters<typeof startInside>) {
    const platform = await start()
    const server = await inside(...parameters)
    const host = platform.hostOf(server.port)
    const token = platform.token(server.port)
    const get = (path: string, options: Sending = {}) =>
      send(platform.port, host, { path, ...options, headers: { 'x-delta-access-token': token, ...options.headers } })
    return { platform, server, host, token, get }
  }
  /** Answers every connection with these bytes as soon as it is asked, and ends it where `close` says so. */
  async function startLying(said: string, { close = false } = {}) {
    const platform = await start()
    const { port } = await rawInside((socket) =>
      socket.once('data', () => (close ? socket.end(said, 'latin1') : socket.write(said, 'latin1'))),
    )
    const headers = { 'x-delta-access-token': platform.token(port) }
    return { platform, port, ask: (path = '/') => send(platform.port, platform.hostOf(port), { path, headers }) }
  }
  async function rawClient(port: number, ...lines: string[]): Promise<Socket> {
    const socket = connect(port, '127.0.0.1')
    socket.on('error', () => {})
    opened.push({ close: async () => void socket.destroy() })
    await once(socket, 'connect')
    socket.write([...lines, '', ''].join('\r\n'))
    return socket
  }

  test('a request reaches the server inside with its method, path, headers and body, and so comes the answer back', async () => {
    const { get, host, token } = await startWith(async (request, response) => {
      const { method, url, headers } = request
      response.writeHead(
        201,
        'Made',
        [
          ['X-Two', 'a'],
          ['X-Two', 'b'],
          ['Set-Cookie', 'c=d'],
        ].flat(),
      )
      response.end(JSON.stringify({ method, url, headers, body: await text(request) }))
    })
    const headers = { authorization: 'Basic abc', cookie: `a=b; delta_token=${token}`, 'x-mine': 'x' }
    const answer = await get('/a//b?c=%20', { method: 'PUT', headers, body: 'hello' })
    expect(answer).toMatchObject({ status: 201, headers: { 'x-two': 'a, b', 'set-cookie': ['c=d'] } })
    const seen = JSON.parse(answer.body) as { headers: object }
    expect(seen).toMatchObject({ method: 'PUT', url: '/a//b?c=%20', body: 'hello' })
    expect(seen.headers).toEqual({
      host,
      authorization: 'Basic abc',
      cookie: 'a=b',
      'x-mine': 'x',
      'content-length': '5',
      'x-forwarded-for': '127.0.0.1',
      'x-forwarded-host': host,
      'x-forwarded-proto': 'http',
    })
  })

  test('large bodies pass both ways, with a length and in chunks', async () => {
    const { get } = await startWith((request, response) => {
      if (request.headers['content-length']) response.setHeader('Content-Length', request.headers['content-length'])
      request.pipe(response)
    })
    const body = 'x'.repeat(5_000_000)
    expect((await get('/', { method: 'POST', body })).body.length).toBe(body.length)
    const chunked = await get('/', { method: 'POST', body, headers: { 'transfer-encoding': 'chunked' } })
    expect([chunked.body.length, chunked.headers['transfer-encoding']]).toEqual([body.length, 'chunked'])
  })

  test('HEAD, 204, 304, events as they come, and an answer before the body has been sent', async () => {
    const { get, platform, host, token } = await startWith((request, response) => {
      if (request.url === '/none') return response.writeHead(204).end()
      if (request.url === '/same') return response.writeHead(304, { ETag: '"a"', 'Content-Length': 7 }).end()
      if (request.url === '/early') return response.writeHead(413).end('too much')
      if (request.url !== '/events') return response.writeHead(200, { 'Content-Length': 7 }).end('content')
      response.writeHead(200, { 'Content-Type': 'text/event-stream' })
      response.write('data: 1\n\n')
    })
    expect(await get('/', { method: 'HEAD' })).toMatchObject({
      status: 200,
      headers: { 'content-length': '7' },
      body: '',
    })
    expect(await get('/none')).toMatchObject({ status: 204, body: '' })
    expect(await get('/same')).toMatchObject({ status: 304, headers: { etag: '"a"' }, body: '' })
    expect(await get('/early', { method: 'POST', body: 'x'.repeat(3_000_000) })).toMatchObject({
      status: 413,
      body: 'too much',
    })
    const events = await rawClient(
      platform.port,
      'GET /events HTTP/1.1',
      `Host: ${host}`,
      `X-Delta-Access-Token: ${token}`,
    )
    let seen = ''
    while (!seen.includes('data: 1')) seen += String((await once(events, 'data'))[0])
    expect(seen).toContain('text/event-stream')
  })

  test('whoever has no token is refused in the same words as for a sandbox that never was', async () => {
    const { platform, server, host } = await startWith((_, response) => response.end('secret'))
    const other = platform.token(server.port + 1)
    const tries: [string, string, Sending?][] = [
      ['no token', host],
      ['no such sandbox', platform.hostOf(server.port, 'sbx_bbbbbbbbbbbbbbbbbbbb')],
      ['another port’s token', host, { headers: { 'x-delta-access-token': other } }],
      ['a wrong token', host, { path: '/?delta_token=dat_x.y' }],
      ['a wrong cookie', host, { headers: { cookie: 'delta_token=x' } }],
      ['a wrong key', host, { headers: { authorization: 'Bearer wrong' } }],
      [
        'a preflight',
        host,
        { method: 'OPTIONS', headers: { origin: 'http://a', 'access-control-request-method': 'PUT' } },
      ],
      ['no such port', `99999-${sandboxId.replace('_', '-')}.localhost`],
    ]
    const seen = []
    for (const [, name, options] of tries) {
      const { status, body } = await send(platform.port, name, options)
      seen.push(`${status} ${body.replace(/req_\w+/, 'req')}`)
    }
    expect(seen[0]).toContain('port_forbidden')
    expect(new Set(seen).size).toBe(1)
  })

  test('each request on a kept-alive connection is checked for itself', async () => {
    const { platform, host, token } = await startWith((_, response) => response.end('secret'))
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    opened.push({ close: async () => agent.destroy() })
    const headers = { 'x-delta-access-token': token }
    expect(await send(platform.port, host, { agent, headers })).toMatchObject({ status: 200 })
    const elsewhere = platform.hostOf(1, 'sbx_bbbbbbbbbbbbbbbbbbbb')
    expect(await send(platform.port, elsewhere, { agent, headers })).toMatchObject({ status: 403 })
    expect(await send(platform.port, host, { agent })).toMatchObject({ status: 403 })
    expect(await send(platform.port, host, { agent, headers })).toMatchObject({ status: 200 })
  })

  test('each connection counts once, as whoever opened it, and every request that is refused by its address', async () => {
    const counted: object[] = []
    const platform = await start({ count: async (asked) => void counted.push(asked) })
    const { port } = await inside((_, response) => response.end('ok'))
    const host = platform.hostOf(port)
    const connection = () => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 })
      opened.push({ close: async () => agent.destroy() })
      return async (headers: Record<string, string> = {}) =>
        (await send(platform.port, host, { agent, headers })).status
    }
    const address = '127.0.0.1'
    const own = connection()
    const key = { authorization: `Bearer ${apiKey}` }
    expect([await own(key), await own(key), await own()]).toEqual([200, 200, 403])
    const visitor = connection()
    const token = { 'x-delta-access-token': platform.token(port) }
    expect([await visitor(), await visitor(), await visitor(token), await visitor(token)]).toEqual([403, 403, 200, 200])
    await platform.setPublic([port])
    const anybody = connection()
    expect([await anybody(), await anybody(key)]).toEqual([200, 200])
    const nobody = { caller: undefined, address }
    expect(counted).toEqual([
      { caller: expect.objectContaining({ accountId: 'acc_a', actorId: 'key_a' }), address },
      nobody,
      nobody,
      nobody,
      { caller: { accountId: 'acc_a', actorId: sandboxId }, address },
      nobody,
    ])
  })

  test('whoever opens too many is told for how long, and nothing goes in', async () => {
    const platform = await start({
      count: async () => {
        throw new DeltaError('too_many_requests', 'Too many', { context: { retryAfterMs: 1_500 } })
      },
    })
    let asked = 0
    const { port } = await inside((_, response) => {
      asked += 1
      response.end()
    })
    const host = platform.hostOf(port)
    const headers = { authorization: `Bearer ${apiKey}` }
    const answer = await send(platform.port, host, { headers })
    expect([answer.status, answer.headers['retry-after'], codeOf(answer)]).toEqual([429, '2', 'too_many_requests'])
    const client = await rawClient(platform.port, 'GET / HTTP/1.1', `Host: ${host}`, ...wsKey)
    expect(await text(client)).toMatch(/^HTTP\/1\.1 429 [^]*\r\nRetry-After: 2\r\n[^]*too_many_requests/)
    expect(asked).toBe(0)
  })

  test('the API key opens a port and does not go in', async () => {
    const { platform, host, server } = await startWith((request, response) =>
      response.end(JSON.stringify(request.headers)),
    )
    const headers = { authorization: `Bearer ${apiKey}` }
    const path = `/v1/sandboxes/${sandboxId}/ports/${server.port}/`
    for (const answer of [
      await send(platform.port, host, { headers }),
      await send(platform.port, 'localhost', { path, headers }),
    ]) {
      expect(answer.status).toBe(200)
      expect(answer.body).not.toContain(apiKey)
    }
  })

  test('an access token where the key may stand opens the port and never goes in', async () => {
    const { platform, server, host, token } = await startWith((request, response) =>
      response.end(request.headers.authorization ?? 'none'),
    )
    const headers = { authorization: `Bearer ${token}` }
    expect(await send(platform.port, host, { headers })).toMatchObject({ status: 200, body: 'none' })
    await platform.setPublic([server.port])
    const other = { authorization: `Bearer ${platform.token(server.port + 1)}` }
    expect(await send(platform.port, host, { headers: other })).toMatchObject({ status: 200, body: 'none' })
  })

  test.each(['revoked', 'public no longer'])(
    'what was granted is asked again once a sandbox has woken: %s',
    async (what) => {
      let asked = 0
      const { platform, server, host, token } = await startWith((_, response) => {
        asked += 1
        response.end('secret')
      })
      if (what !== 'revoked') await platform.setPublic([server.port])
      const woken = Promise.withResolvers<void>()
      platform.waking.done = woken.promise
      const headers = what === 'revoked' ? { 'x-delta-access-token': token } : {}
      const answer = send(platform.port, host, { headers })
      await expect.poll(() => platform.counts().open).toBe(1)
      if (what === 'revoked') await platform.tokens.revoke(sandboxId)
      else await platform.setPublic([])
      woken.resolve()
      expect(await answer).toMatchObject({ status: 403 })
      expect([asked, platform.counts().open]).toEqual([0, 0])
    },
  )

  test('a page opened with a token moves on to an address without it, kept in a cookie', async () => {
    const { platform, host, token } = await startWith((request, response) =>
      response.end(`${request.url} ${request.headers.cookie ?? ''}`),
    )
    const page = { accept: 'text/html' }
    const moved = await send(platform.port, host, { path: `//evil?a=b&delta_token=${token}`, headers: page })
    expect(moved).toMatchObject({
      status: 302,
      headers: { location: `http://${host}//evil?a=b`, 'cache-control': 'no-store' },
    })
    const [cookie] = moved.headers['set-cookie'] ?? []
    expect(cookie).toMatch(/; Path=\/; Max-Age=(5\d|60); HttpOnly; SameSite=Lax$/)
    const own = { ...page, cookie: `x=y; ${cookie!.split(';')[0]}` }
    expect(await send(platform.port, host, { headers: own })).toMatchObject({ status: 200, body: '/ x=y' })
    // A program that asks once is answered at once.
    expect(await send(platform.port, host, { path: `/a?delta_token=${token}` })).toMatchObject({
      status: 200,
      body: '/a ',
    })
  })

  test('the cookie counts for pages of the same sandbox alone', async () => {
    const { platform, host, token } = await startWith((_, response) => response.end('secret'))
    const status = async (origin: string) =>
      (await send(platform.port, host, { method: 'POST', headers: { cookie: `delta_token=${token}`, origin } })).status
    expect(await status(`http://${host}`)).toBe(200)
    expect(await status(`http://${platform.hostOf(9)}`)).toBe(200)
    expect(await status(`http://${platform.hostOf(9, 'sbx_bbbbbbbbbbbbbbbbbbbb')}`)).toBe(403)
    expect(await status('http://localhost:8000')).toBe(403)
    expect(await status('null')).toBe(403)
  })

  test('by path an answer sets nothing at the API’s origin; a missing slash is added', async () => {
    const { platform, server } = await startWith((request, response) => {
      response.setHeader('Set-Cookie', 'a=b')
      response.end(`${request.url} ${request.headers.host} ${request.headers['x-forwarded-prefix']}`)
    })
    const prefix = `/v1/sandboxes/${sandboxId}/ports/${server.port}`
    const headers = { 'x-delta-access-token': platform.token(server.port) }
    const answer = await send(platform.port, 'localhost', { path: `${prefix}/a?b`, headers })
    expect(answer).toMatchObject({ status: 200, body: `/a?b localhost:${server.port} ${prefix}` })
    expect(answer.headers['set-cookie']).toBeUndefined()
    expect(answer.headers['content-security-policy']).toMatch(/^sandbox /)
    expect(await send(platform.port, 'localhost', { path: `${prefix}?b`, headers })).toMatchObject({
      status: 308,
      headers: { location: `${prefix}/?b` },
    })
    expect(await send(platform.port, 'localhost', { path: `${prefix}/a` })).toMatchObject({ status: 401 })
    // Under a wrong name it is the API’s to refuse.
    expect((await send(platform.port, 'evil.example', { path: `${prefix}/a`, headers })).status).toBe(404)
  })

  test('a public port needs no token until it is public no longer, which ends what came that way', async () => {
    const { platform, server, host } = await startWith((request, response) => {
      if (request.url === '/') return response.end('open')
      response.writeHead(200)
      response.write('first')
    })
    const put = (ports: number[]) =>
      send(platform.port, 'localhost', {
        method: 'PUT',
        path: `/v1/sandboxes/${sandboxId}/ports`,
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ public: ports }),
      })
    const { status, body } = await put([server.port])
    expect(status).toBe(200)
    expect(JSON.parse(body)).toMatchObject({
      urlTemplate: `http://{port}-sbx-aaaaaaaaaaaaaaaaaaaa.localhost:${platform.port}/`,
    })
    const listed = (JSON.parse(body) as { data: object[] }).data
    expect(listed).toContainEqual({ port: server.port, url: `http://${host}/`, public: true, listening: true })
    expect(await send(platform.port, host)).toMatchObject({ status: 200, body: 'open' })
    // By path the origin is the API's: it takes a token or the key all the same.
    expect(
      (await send(platform.port, 'localhost', { path: `/v1/sandboxes/${sandboxId}/ports/${server.port}/` })).status,
    ).toBe(401)
    const stream = await rawClient(platform.port, 'GET /stream HTTP/1.1', `Host: ${host}`)
    await once(stream, 'data')
    const ended = once(stream, 'close')
    await put([])
    await ended
    expect(await send(platform.port, host)).toMatchObject({ status: 403 })
  })

  test.each(['expires', 'is revoked', 'is of a sandbox that is killed'])(
    'an open answer ends when its token %s',
    async (how) => {
      const { platform, server, host } = await startWith((_, response) => {
        response.writeHead(200)
        response.write('first')
      })
      const token = platform.token(server.port, how === 'expires' ? 1_000 : 60_000)
      const stream = await rawClient(platform.port, 'GET / HTTP/1.1', `Host: ${host}`, `X-Delta-Access-Token: ${token}`)
      await once(stream, 'data')
      const ended = once(stream, 'close')
      if (how === 'is revoked') await platform.tokens.revoke(sandboxId)
      if (how === 'is of a sandbox that is killed') platform.tokens.forget(sandboxId)
      await ended
    },
  )

  test('a port nobody listens on says so', async () => {
    const platform = await start()
    const { port, close } = await startInside(() => {})
    await close()
    const headers = { 'x-delta-access-token': platform.token(port) }
    const answer = await send(platform.port, platform.hostOf(port), { headers })
    expect([answer.status, codeOf(answer)]).toEqual([502, 'port_not_listening'])
  })

  test('a sandbox that may not be woken says so to who may know it', async () => {
    const { platform, get } = await startWith((_, response) => response.end())
    platform.refusedBecause.error = new DeltaError('sandbox_not_running', 'It is stopped')
    const answer = await get('/')
    expect([answer.status, codeOf(answer)]).toEqual([409, 'sandbox_not_running'])
  })

  const ok = 'HTTP/1.1 200 OK\r\n'
  test.each([
    ['no HTTP', 'hello\r\n\r\n', false],
    ['two lengths', `${ok}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab`, false],
    ['a split answer', `${ok}X: a\rSet-Cookie: b=c\r\nContent-Length: 0\r\n\r\n`, false],
    ['a flood of headers', `${ok}${'A: b\r\n'.repeat(9_000)}`, false],
    ['an unasked switch of protocols', 'HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n', false],
    ['the end of the connection', '', true],
  ])('a server inside that answers with %s is a bad answer', async (_, said, close) => {
    const { ask } = await startLying(said, { close })
    const answer = await ask()
    expect([answer.status, codeOf(answer)]).toEqual([502, 'port_bad_answer'])
  })

  test.each([
    ['a bad chunk', `${ok}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n`, false],
    ['its end in the middle', `${ok}Content-Length: 10\r\n\r\nhello`, true],
  ])('an answer that goes wrong with %s is refused or cut, never made whole', async (_, said, close) => {
    const { ask } = await startLying(said, { close })
    expect([502, 'cut']).toContain(
      await ask().then(
        ({ status }) => status,
        () => 'cut',
      ),
    )
  })

  test('a second answer nobody asked for reaches nobody', async () => {
    const platform = await start()
    let connections = 0
    const { port } = await rawInside((socket) => {
      connections += 1
      socket.on('data', () => socket.write(`${ok}Content-Length: 1\r\n\r\na${ok}Content-Length: 4\r\n\r\nevil`))
    })
    const headers = { 'x-delta-access-token': platform.token(port) }
    for (let round = 0; round < 3; round++) {
      const answer = await send(platform.port, platform.hostOf(port), { headers }).catch(() => undefined)
      expect(answer?.body ?? '').not.toContain('evil')
    }
    expect(connections).toBe(3)
  })

  test('a kept connection that its server gave up is no error for a request that may be repeated', async () => {
    const platform = await start()
    let asked = 0
    const { port } = await rawInside((socket) => {
      let first = true
      socket.on('data', () => {
        asked += 1
        if (!first) return socket.destroy()
        first = false
        socket.write(`${ok}Content-Length: 2\r\n\r\nok`)
      })
    })
    const host = platform.hostOf(port)
    const headers = { 'x-delta-access-token': platform.token(port) }
    for (let round = 0; round < 3; round++)
      expect(await send(platform.port, host, { headers })).toMatchObject({ body: 'ok' })
    expect(asked).toBeGreaterThan(3)
    // One that may have done something is not repeated.
    const posted = await send(platform.port, host, { method: 'POST', headers, body: 'x' })
    expect([200, 502]).toContain(posted.status)
    expect(asked).toBeLessThan(8)
  })

  test('requests follow each other on one connection inside', async () => {
    let connections = 0
    const { server, get } = await startWith((_, response) => response.end('ok'))
    server.server.on('connection', () => (connections += 1))
    for (let round = 0; round < 5; round++) expect((await get('/')).status).toBe(200)
    expect(connections).toBe(1)
  })

  test('a client that stops reading holds its own server back', async () => {
    let written = 0
    const { platform, host, token } = await startWith((_, response) => {
      response.writeHead(200)
      const chunk = Buffer.alloc(65_536)
      const fill = (): void => {
        while (response.write(chunk)) written += chunk.length
        written += chunk.length
        response.once('drain', fill)
      }
      fill()
    })
    const stalled = await rawClient(platform.port, 'GET / HTTP/1.1', `Host: ${host}`, `X-Delta-Access-Token: ${token}`)
    stalled.pause()
    const settled = async (): Promise<number> => {
      for (let before = -1; before !== written;) {
        before = written
        await new Promise((resolve) => setTimeout(resolve, 300))
      }
      return written
    }
    const stopped = await settled()
    expect(stopped).toBeGreaterThan(100_000)
    expect(stopped).toBeLessThan(32 * 1024 * 1024)
    stalled.resume()
    let more = 0
    for await (const chunk of stalled) if ((more += (chunk as Buffer).length) > stopped + 1_000_000) break
    expect(written).toBeGreaterThan(stopped)
  })

  test('one more request than may be under way is refused', async () => {
    const { platform, host, token, get } = await startWith((request, response) => {
      if (request.url === '/') response.end('ok')
    })
    const waiting = []
    for (let count = 0; count < 256; count++) {
      waiting.push(
        await rawClient(platform.port, 'GET /wait HTTP/1.1', `Host: ${host}`, `X-Delta-Access-Token: ${token}`),
      )
    }
    await expect.poll(() => platform.counts().open, { timeout: 20_000 }).toBe(256)
    const answer = await get('/')
    expect([answer.status, codeOf(answer)]).toEqual([429, 'port_limit_reached'])
    for (const socket of waiting) socket.destroy()
    await expect.poll(async () => (await get('/')).status, { timeout: 20_000 }).toBe(200)
  })

  const wsKey = ['Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Key: x', 'Sec-WebSocket-Version: 13']
  const echo: Parameters<typeof startInside>[0] = (_, response) => response.writeHead(400).end('no page')
  async function startEcho() {
    const started = await startWith(echo)
    started.server.server.on('upgrade', (request, socket) => {
      if (request.url === '/refused') return socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno')
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nX-Url: ${request.url}\r\n\r\n`,
      )
      socket.pipe(socket)
    })
    return started
  }

  test('a WebSocket passes both ways as it comes, frames whole or not, and ends with either side', async () => {
    const { platform, host, token } = await startEcho()
    const socket = await rawClient(platform.port, `GET /a?delta_token=${token} HTTP/1.1`, `Host: ${host}`, ...wsKey)
    const head = String((await once(socket, 'data'))[0])
    expect(head).toMatch(
      /^HTTP\/1\.1 101 Switching Protocols\r\nX-Url: \/a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n$/,
    )
    socket.write(Buffer.from([0x81, 0x85, 1]))
    expect((await once(socket, 'data'))[0]).toEqual(Buffer.from([0x81, 0x85, 1]))
    const large = Buffer.alloc(3_000_000, 7)
    let got = 0
    socket.on('data', (chunk: Buffer) => (got += chunk.length))
    socket.write(large)
    await expect.poll(() => got, { timeout: 20_000 }).toBe(large.length)
    const ended = once(socket, 'close')
    socket.end()
    await ended
  })

  test('a WebSocket without a token, to nobody, or that the server refuses, is answered', async () => {
    const { platform, host, token } = await startEcho()
    const ask = async (path: string, name = host) => {
      const socket = await rawClient(platform.port, `GET ${path} HTTP/1.1`, `Host: ${name}`, ...wsKey)
      return text(socket)
    }
    expect(await ask('/')).toMatch(/^HTTP\/1\.1 403 [^]*port_forbidden/)
    expect(await ask('/', platform.hostOf(1, 'sbx_bbbbbbbbbbbbbbbbbbbb'))).toMatch(/^HTTP\/1\.1 403 [^]*port_forbidden/)
    expect(await ask(`/refused?delta_token=${token}`)).toMatch(/^HTTP\/1\.1 403 Forbidden\r\n[^]*no$/)
    expect(await ask(`/?delta_token=${platform.token(1)}`, platform.hostOf(1))).toMatch(
      /^HTTP\/1\.1 502 [^]*port_not_listening/,
    )
  })

  test.each(['expires', 'is revoked'])('an open WebSocket ends when its token %s', async (how) => {
    const { platform, server, host } = await startEcho()
    const token = platform.token(server.port, how === 'expires' ? 1_000 : 60_000)
    const socket = await rawClient(platform.port, `GET /?delta_token=${token} HTTP/1.1`, `Host: ${host}`, ...wsKey)
    await once(socket, 'data')
    const ended = once(socket, 'close')
    if (how === 'is revoked') await platform.tokens.revoke(sandboxId)
    await ended
  })

  /** Time passes when told to; whoever waits looks at it twice a second. */
  async function startWaiting(onConnection: (socket: Socket) => void) {
    const clock = manualClock(1_000)
    const platform = await start({ clock })
    const { port } = await rawInside(onConnection)
    const ask = (line: string, ...headers: string[]) =>
      rawClient(platform.port, line, `Host: ${platform.hostOf(port)}`, `Authorization: Bearer ${apiKey}`, ...headers)
    const underWay = () => expect.poll(() => platform.counts().open, { timeout: 20_000 }).toBe(1)
    return { clock, platform, ask, underWay }
  }

  test('a server inside that answers nothing is given up after two minutes', async () => {
    const { clock, platform, ask, underWay } = await startWaiting(() => {})
    const socket = await ask('GET / HTTP/1.1')
    await underWay()
    await clock.advance(119_000)
    expect(platform.counts().open).toBe(1)
    const said = once(socket, 'data')
    await clock.advance(2_000)
    expect(String((await said)[0])).toMatch(/^HTTP\/1\.1 504 [^]*port_timed_out/)
    expect(platform.counts().open).toBe(0)
  })

  test('a client that stops in the middle of its body is given up', async () => {
    const { clock, platform, ask, underWay } = await startWaiting((socket) => socket.resume())
    const socket = await ask('POST / HTTP/1.1', 'Content-Length: 10')
    await underWay()
    const said = once(socket, 'data')
    await clock.advance(121_000)
    expect(String((await said)[0])).toMatch(/^HTTP\/1\.1 408 [^]*request_timeout/)
    expect(platform.counts().open).toBe(0)
  })

  test('an answer in which nothing moves any more ends, and so does a WebSocket with half a frame', async () => {
    const begin = `${ok}Content-Length: 10\r\n\r\nhello`
    const stalled = await startWaiting((socket) => socket.once('data', () => socket.write(begin)))
    const first = await stalled.ask('GET / HTTP/1.1')
    await once(first, 'data')
    const firstEnd = once(first, 'close')
    await stalled.clock.advance(601_000)
    await firstEnd
    const upgrade = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'
    const silent = await startWaiting((socket) => socket.once('data', () => socket.write(upgrade)))
    const second = await silent.ask('GET / HTTP/1.1', ...wsKey)
    await once(second, 'data')
    second.write(Buffer.from([0x81]))
    const secondEnd = once(second, 'close')
    await silent.clock.advance(601_000)
    await secondEnd
    expect([stalled.platform.counts().open, silent.platform.counts().open]).toEqual([0, 0])
  })

  test('a client that takes nothing for two minutes is cut off', async () => {
    const large = Buffer.alloc(16 * 1024 * 1024)
    const begin = `${ok}Content-Length: ${large.length}\r\n\r\n`
    const { clock, platform, ask, underWay } = await startWaiting((socket) =>
      socket.once('data', () => {
        socket.write(begin)
        socket.write(large)
      }),
    )
    const socket = await ask('GET / HTTP/1.1')
    socket.pause()
    await underWay()
    // The window has grown, and is full.
    await expect.poll(() => platform.guest.held.bytes, { timeout: 20_000 }).toBeGreaterThanOrEqual(256 * 1024)
    // What the kernel still takes for the client moves, and puts the end off; never so often that silence of ten minutes would end it.
    for (let tries = 0; tries < 4 && platform.counts().open > 0; tries += 1) {
      await clock.advance(121_000)
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    expect(platform.counts().open).toBe(0)
    await expect.poll(() => platform.guest.held.bytes, { timeout: 20_000 }).toBe(0)
  })

  test('a lost sandbox ends what is open and answers what waits', async () => {
    const { platform, host, token } = await startWith((request, response) => {
      if (request.url === '/stream') response.writeHead(200).write('first')
    })
    const stream = await rawClient(
      platform.port,
      'GET /stream HTTP/1.1',
      `Host: ${host}`,
      `X-Delta-Access-Token: ${token}`,
    )
    await once(stream, 'data')
    const waits = send(platform.port, host, { path: '/wait', headers: { 'x-delta-access-token': token } })
    await expect.poll(() => platform.counts().open, { timeout: 20_000 }).toBe(2)
    const ended = once(stream, 'close')
    platform.guest.close()
    await ended
    expect(codeOf(await waits)).toBe('guest_unreachable')
    expect(platform.counts().open).toBe(0)
  })
})
