import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { z } from '@hono/zod-openapi'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { createDefaultKeyReader } from './access/api-key.ts'
import { createCallerDoor } from './access/authenticate.ts'
import { createRateLimits } from './access/limits/rate-limits.ts'
import type { RateSettings } from './access/limits/rate-limits.ts'
import { createApp } from './app.ts'
import type { AppSettings } from './app.ts'
import { systemClock } from './kernel/clock.ts'
import { DeltaError, errorTable } from './kernel/errors.ts'
import type { Feature } from './kernel/http/api.ts'
import { nodeBody } from './kernel/http/body.ts'
import { createRoute } from './kernel/http/route.ts'
import { listen } from './kernel/http/server.ts'
import type { HttpServer } from './kernel/http/server.ts'
import { sendStream } from './kernel/http/stream.ts'
import { limits } from './kernel/limits.ts'
import { createLogger } from './kernel/log.ts'
import { createMetrics } from './kernel/metrics.ts'

const key = 'delta_test'
const sha256 = createHash('sha256').update(key).digest('hex')

const json = { 200: { description: 'Done' } } as const
const thingRoute = createRoute({
  method: 'post',
  path: '/v1/things/{id}',
  operationId: 'makeThing',
  needs: 'write:sandboxes',
  request: {
    params: z.object({ id: z.string().regex(/^[a-z]+$/, 'letters only') }),
    query: z.object({ limit: z.coerce.number().int().max(500).default(50) }),
    body: {
      content: {
        'application/json': {
          schema: z.strictObject({
            timeoutMs: z.number().int().positive().default(7),
            tags: z.array(z.string()).default([]),
            labels: z.record(z.string().regex(/^[a-z]+$/, 'a label is letters'), z.string()).optional(),
            mode: z.union([z.string(), z.int()]).optional(),
          }),
        },
      },
    },
  },
  responses: json,
})
const readThing = createRoute({ method: 'get', path: '/v1/things/{id}', needs: 'read:sandboxes', responses: json })
const uploadRoute = createRoute({ method: 'put', path: '/v1/bytes', needs: 'read:sandboxes', responses: json })
const downloadRoute = createRoute({ method: 'get', path: '/v1/bytes', needs: 'read:sandboxes', responses: json })
const brokenRoute = createRoute({ method: 'get', path: '/v1/broken', needs: 'read:sandboxes', responses: json })
const streamRoute = createRoute({ method: 'get', path: '/v1/stream', needs: 'read:sandboxes', responses: json })

/** A feature with one route of each kind. */
function sampleFeature(seen: { returned: number }): Feature {
  return {
    name: 'things',
    health: () => ({ count: 3 }),
    routes(api) {
      api.openapi(thingRoute, (c) =>
        c.json({ ...c.req.valid('param'), ...c.req.valid('query'), ...c.req.valid('json') }, 200),
      )
      api.openapi(readThing, (c) => c.json({ id: c.req.param('id'), caller: c.var.caller }, 200))
      api.openapi(uploadRoute, async (c) => {
        let bytes = 0
        for await (const chunk of nodeBody(c)) bytes += (chunk as Buffer).length
        return c.json({ bytes }, 200)
      })
      api.openapi(downloadRoute, (c) => {
        const size = Number(c.req.query('size'))
        return sendStream(c, zeros(size), { headers: { 'Content-Length': String(size), 'Content-Type': 'text/html' } })
      })
      api.openapi(brokenRoute, () => {
        throw new Error('secret path /srv/private')
      })
      api.openapi(streamRoute, (c) => {
        const failing = c.req.query('fail') === 'true'
        return sendStream(c, ticks({ failing, seen }), { headers: { 'Content-Type': 'text/event-stream' } })
      })
    },
  }
}

async function* zeros(size: number) {
  const chunk = Buffer.alloc(64 * 1024)
  for (let left = size; left > 0; left -= chunk.length) yield left < chunk.length ? chunk.subarray(0, left) : chunk
}

async function* ticks({ failing, seen }: { failing: boolean; seen: { returned: number } }) {
  try {
    for (let i = 0; ; i++) {
      yield `data: ${i}\n\n`
      if (failing && i === 3) throw new Error('broke in the middle')
      await systemClock.sleep(1)
    }
  } finally {
    seen.returned += 1
  }
}

function startApp(more: Partial<AppSettings> & { checkDatabase?: () => Promise<void>; rates?: RateSettings } = {}) {
  const lines: string[] = []
  const seen = { returned: 0 }
  const { checkDatabase = () => Promise.resolve(), rates, ...settings } = more
  const app = createApp({
    features: [sampleFeature(seen)],
    access: createCallerDoor({
      readers: [createDefaultKeyReader({ sha256 })],
      revocations: { isRevoked: () => false, onRevoked: () => {} },
      clock: systemClock,
    }),
    log: createLogger({ level: 'debug', write: (line) => lines.push(line) }),
    clock: systemClock,
    metrics: createMetrics(),
    checkDatabase,
    ...(rates && { rateLimits: createRateLimits({ settings: rates }) }),
    settings: {
      version: '9.9.9',
      host: '127.0.0.1',
      hosts: [],
      environment: 'production',
      installation: () => ({ runtime: 'crun' }),
      ...settings,
    },
  })
  const call = (path: string, init: RequestInit & { anonymous?: boolean } = {}) =>
    Promise.resolve(
      app.api.request(path, {
        ...init,
        headers: {
          ...(!init.anonymous && { authorization: `Bearer ${key}` }),
          ...(init.headers as Record<string, string>),
        },
      }),
    )
  const errorOf = async (path: string, init?: RequestInit & { anonymous?: boolean }) => {
    const answer = await call(path, init)
    const { error } = (await answer.json()) as { error: Record<string, unknown> & { code: keyof typeof errorTable } }
    expect(answer.status).toBe(errorTable[error.code].status)
    expect(error['remediation']).toBe(errorTable[error.code].remediation)
    expect(error['requestId']).toBe(answer.headers.get('x-request-id'))
    return error
  }
  return { app, call, errorOf, lines, seen }
}

const post = (body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}) => ({
  method: 'POST',
  body,
  headers,
})

describe('who may', () => {
  test('without a key, /v1 and /metrics are closed whether or not the path exists', async () => {
    const { errorOf } = startApp()
    for (const path of ['/v1/things/a', '/v1/nothing', '/v1', '/metrics']) {
      const { message } = await errorOf(path, { anonymous: true })
      expect(message).toBe('The request has no API key')
    }
  })

  test('a wrong key is refused and never logged', async () => {
    const { errorOf, lines } = startApp()
    expect(await errorOf('/v1/things/a', { headers: { authorization: 'Bearer wrong-hunter2' } })).toMatchObject({
      code: 'unauthorized',
    })
    expect(lines.join()).not.toContain('hunter2')
  })

  test('a refusal asks for a bearer key', async () => {
    const { call } = startApp()
    expect((await call('/v1/things/a', { anonymous: true })).headers.get('www-authenticate')).toBe('Bearer')
  })

  test('/health and /openapi.json are open', async () => {
    const { call } = startApp()
    for (const path of ['/health', '/openapi.json']) expect((await call(path, { anonymous: true })).status).toBe(200)
  })

  test('the caller reaches the handler', async () => {
    const { call } = startApp()
    expect(await (await call('/v1/things/a')).json()).toMatchObject({
      id: 'a',
      caller: { accountId: 'acc_default', actorId: 'key_default' },
    })
  })

  test.each([
    'http://localhost/health',
    'http://127.0.0.1:8000/health',
    'http://[::1]:8000/health',
    'http://3000-sbx1.localhost/health',
  ])('%s goes by a name of the server', async (url) => {
    const { call } = startApp()
    expect((await call(url)).status).toBe(200)
  })

  test.each([
    'http://evil.example/health',
    'http://localhost.evil.example/health',
    'http://10.0.0.1/health',
    'http://evillocalhost/health',
  ])('%s does not', async (url) => {
    const { errorOf } = startApp()
    expect((await errorOf(url)).code).toBe('host_not_allowed')
  })

  test('the operator can add names, with a wildcard too', async () => {
    const { call } = startApp({ hosts: ['delta.example', '*.boxes.example'] })
    expect((await call('http://delta.example/health')).status).toBe(200)
    expect((await call('http://a.boxes.example/health')).status).toBe(200)
    expect((await call('http://boxes.example/health')).status).toBe(403)
  })
})

describe('requests are checked', () => {
  test('what is valid arrives with its defaults', async () => {
    const { call } = startApp()
    const answer = await call('/v1/things/abc?limit=5', post('{"timeoutMs":9}', { 'content-type': 'application/json' }))
    expect(await answer.json()).toEqual({ id: 'abc', limit: 5, timeoutMs: 9, tags: [] })
  })

  test('a body is JSON whatever its content type says, and an empty one is an empty object', async () => {
    const { call } = startApp()
    const form = post('{"timeoutMs":9}', { 'content-type': 'application/x-www-form-urlencoded' })
    expect(await (await call('/v1/things/a', form)).json()).toMatchObject({ timeoutMs: 9 })
    expect(await (await call('/v1/things/a', { method: 'POST' })).json()).toMatchObject({ timeoutMs: 7 })
  })

  test.each([
    ['a wrong type', '{"timeoutMs":"9"}', 'body.timeoutMs: Invalid input: expected number, received string'],
    ['a negative number', '{"timeoutMs":-1}', 'body.timeoutMs: Too small: expected number to be >0'],
    ['a huge number', '{"timeoutMs":1e400}', 'body.timeoutMs'],
    ['a fraction', '{"timeoutMs":1.5}', 'body.timeoutMs: Invalid input: expected int, received number'],
    ['an unknown field', '{"timeoutMS":1}', 'Unrecognized key: "timeoutMS"'],
    ['a wrong item', '{"tags":["a",1]}', 'body.tags.1: Invalid input: expected string, received number'],
    ['a key that breaks its rule', '{"labels":{"A1":"x"}}', 'body.labels.A1: a label is letters'],
    ['none of several types', '{"mode":true}', 'expected string, received boolean; or Invalid input: expected number'],
    ['an array', '[]', 'body: Invalid input: expected object, received array'],
    ['null', 'null', 'body: Invalid input: expected object, received null'],
  ])('%s is refused by field and rule', async (_what, body, cause) => {
    const { errorOf } = startApp()
    const error = await errorOf('/v1/things/a', post(body))
    expect(error.code).toBe('invalid_request')
    expect(error['cause']).toContain(cause)
  })

  test('path and query are checked too', async () => {
    const { errorOf } = startApp()
    expect(await errorOf('/v1/things/A1', post('{}'))).toMatchObject({ cause: 'path.id: letters only' })
    expect(await errorOf('/v1/things/a?limit=9999', post('{}'))).toMatchObject({
      cause: expect.stringContaining('query.limit'),
    })
    expect(await errorOf('/v1/things/a?limit=NaN', post('{}'))).toMatchObject({ code: 'invalid_request' })
  })

  test('many faults name the first few', async () => {
    const { errorOf } = startApp()
    const error = await errorOf('/v1/things/a', post(JSON.stringify({ tags: Array.from({ length: 100 }, () => 1) })))
    expect(error['cause']).toContain('and 95 more')
    expect(String(error['cause']).length).toBeLessThan(1_000)
  })

  test.each([
    ['half an object', '{"timeoutMs":'],
    ['NaN', '{"timeoutMs":NaN}'],
    ['a comment', '{} // no'],
    ['plain text', 'timeoutMs=1'],
    ['bytes that are not UTF-8', new Uint8Array([123, 34, 0xff, 34, 58, 49, 125])],
  ])('%s is malformed JSON', async (_what, body) => {
    const { errorOf } = startApp()
    expect((await errorOf('/v1/things/a', post(body))).code).toBe('malformed_json')
  })

  test('deep nesting is refused like any other wrong body', async () => {
    const { errorOf } = startApp()
    const deep = 'x'.replace('x', '['.repeat(500_000) + ']'.repeat(500_000))
    expect(['malformed_json', 'invalid_request']).toContain((await errorOf('/v1/things/a', post(deep))).code)
  })

  test('a prototype can not be slipped in', async () => {
    const { errorOf } = startApp()
    expect((await errorOf('/v1/things/a', post('{"__proto__":{"timeoutMs":1}}'))).code).toBe('invalid_request')
  })

  test('a body beyond the limit is refused, with the limit', async () => {
    const { errorOf } = startApp()
    const error = await errorOf('/v1/things/a', post(`{"tags":["${'x'.repeat(limits.jsonBodyBytes)}"]}`))
    expect(error).toMatchObject({ code: 'body_too_large', context: { limitBytes: limits.jsonBodyBytes } })
  })
})

describe('answers', () => {
  test('a bug is `internal`: logged whole, nothing leaks', async () => {
    const { errorOf, lines } = startApp()
    const error = await errorOf('/v1/broken')
    expect(error.code).toBe('internal')
    expect(JSON.stringify(error)).not.toContain('private')
    expect(lines.join()).toContain('secret path /srv/private')
    expect(lines.join()).toContain(String(error['requestId']))
  })

  test('an unknown path and a wrong method are told apart', async () => {
    const { errorOf, call } = startApp()
    expect((await errorOf('/v1/nothing')).code).toBe('not_found')
    expect((await errorOf('/nothing')).code).toBe('not_found')
    expect(await errorOf('/v1/things/a', { method: 'DELETE' })).toMatchObject({
      code: 'method_not_allowed',
      context: { allow: ['POST', 'GET'] },
    })
    expect((await call('/v1/things/a', { method: 'DELETE' })).headers.get('allow')).toBe('POST,GET')
  })

  test('every answer has a request id; a good one of the caller is kept', async () => {
    const { call } = startApp()
    expect((await call('/health')).headers.get('x-request-id')).toMatch(/^req_[a-z0-9]{20}$/)
    const named = (id: string) => call('/health', { headers: { 'x-request-id': id } })
    expect((await named('trace-1.a')).headers.get('x-request-id')).toBe('trace-1.a')
    expect((await named('x'.repeat(65))).headers.get('x-request-id')).toMatch(/^req_/)
    expect((await named('a"b')).headers.get('x-request-id')).toMatch(/^req_/)
  })

  test('answers are neither sniffed nor cached', async () => {
    const { headers } = await startApp().call('/v1/things/a')
    expect([headers.get('x-content-type-options'), headers.get('cache-control')]).toEqual(['nosniff', 'no-store'])
  })

  test('each request is one line in the log, without its query', async () => {
    const { call, lines } = startApp()
    await call('/v1/things/a?token=hunter2')
    const line = JSON.parse(lines.at(-1)!) as Record<string, unknown>
    expect(line).toMatchObject({
      event: 'request',
      method: 'GET',
      path: '/v1/things/a',
      status: 200,
      durationMs: expect.any(Number),
    })
    expect(lines.join()).not.toContain('hunter2')
  })

  test.each([
    { path: '/v1/things/a', level: 'debug', status: 200 },
    { path: '/v1/nothing', level: 'info', status: 404 },
    { path: '/v1/broken', level: 'error', status: 500 },
  ])('a request answered with $status is logged at $level', async ({ path, level, status }) => {
    const { call, lines } = startApp()
    await call(path)
    expect(JSON.parse(lines.at(-1)!)).toMatchObject({ event: 'request', level, status })
  })

  test('CORS is closed in production and open in development, before the key', async () => {
    const closed = await startApp().call('/v1/things/a', { headers: { origin: 'http://evil.example' } })
    expect(closed.headers.get('access-control-allow-origin')).toBeNull()
    const open = await startApp({ environment: 'development' }).call('/v1/things/a', {
      method: 'OPTIONS',
      anonymous: true,
    })
    expect([open.status, open.headers.get('access-control-allow-origin')]).toEqual([204, '*'])
  })

  test('a stopping server refuses new requests and says when to come again', async () => {
    const { app, errorOf, call } = startApp()
    app.drain()
    expect((await errorOf('/v1/things/a')).code).toBe('shutting_down')
    expect((await call('/v1/things/a')).headers.get('retry-after')).toBe('1')
  })
})

describe('operations', () => {
  test('/health tells version, database, installation and features', async () => {
    const { call } = startApp()
    expect(await (await call('/health')).json()).toMatchObject({
      status: 'ok',
      version: '9.9.9',
      database: 'ok',
      runtime: 'crun',
      things: { count: 3 },
    })
  })

  test.each([
    ['fails', () => Promise.reject(new Error('no disk'))],
    ['does not answer', () => new Promise<void>(() => {})],
  ])('/health is 503 when the database %s', async (_how, checkDatabase) => {
    const { call } = startApp({ checkDatabase })
    const answer = await call('/health')
    expect(answer.status).toBe(503)
    expect(await answer.json()).toMatchObject({ status: 'failing', database: 'failing' })
  })

  test('/metrics counts requests by route, not by path', async () => {
    const { call } = startApp()
    await call('/v1/things/a')
    await call('/v1/things/b')
    await call('/v1/nothing')
    const text = await (await call('/metrics')).text()
    expect(text).toContain('delta_http_request_seconds_count{method="GET",route="/v1/things/{id}",status="200"} 2')
    expect(text).toContain('delta_http_request_seconds_count{method="GET",route="other",status="404"} 1')
  })

  test('/openapi.json is 3.1 and states security, errors and the server', async () => {
    const document = (await (await startApp().call('http://localhost:8123/openapi.json')).json()) as Record<
      string,
      never
    >
    expect(document).toMatchObject({
      openapi: '3.1.0',
      info: { title: 'DELTA', version: '9.9.9' },
      servers: [{ url: 'http://localhost:8123' }],
      security: [{ apiKey: [] }],
      components: {
        securitySchemes: { apiKey: { type: 'http', scheme: 'bearer' } },
        schemas: { Error: { type: 'object' } },
      },
      paths: {
        '/v1/things/{id}': {
          post: { operationId: 'makeThing', responses: { default: { description: expect.any(String) } } },
        },
        '/health': { get: { operationId: 'getHealth', security: [] } },
        '/metrics': { get: { operationId: 'getMetrics' } },
      },
    })
  })
})

describe('over a real connection', () => {
  const servers: HttpServer[] = []
  afterEach(async () => {
    for (const server of servers.splice(0)) await server.close()
  })

  async function startServer() {
    const started = startApp()
    const server = await listen(started.app.api, { port: 0, host: '127.0.0.1' })
    servers.push(server)
    const fetchIt = (path: string, init: RequestInit = {}) =>
      fetch(`http://127.0.0.1:${server.port}${path}`, {
        ...init,
        headers: { authorization: `Bearer ${key}`, ...init.headers },
      })
    /** Sends bytes as they are; resolves with all that comes back until the server closes. */
    const raw = async (text: string) => {
      const socket = connect(server.port, '127.0.0.1')
      let answer = ''
      socket.on('data', (chunk) => (answer += chunk.toString()))
      socket.write(text)
      await once(socket, 'close')
      return answer
    }
    return { ...started, server, fetchIt, raw }
  }

  test('bodies of any size stream in and out', async () => {
    const { fetchIt } = await startServer()
    const size = 20_000_001
    const up = await fetchIt('/v1/bytes', { method: 'PUT', body: Buffer.alloc(size) })
    expect(await up.json()).toEqual({ bytes: size })
    const down = await fetchIt(`/v1/bytes?size=${size}`)
    expect((await down.arrayBuffer()).byteLength).toBe(size)
  })

  test('what is streamed out can not act as a page', async () => {
    const { fetchIt } = await startServer()
    const { headers } = await fetchIt('/v1/bytes?size=10')
    expect(headers.get('content-security-policy')).toContain('sandbox')
    expect(headers.get('x-content-type-options')).toBe('nosniff')
    expect(headers.get('x-request-id')).toMatch(/^req_/)
  })

  test('HEAD has the headers and no body', async () => {
    const { fetchIt } = await startServer()
    const answer = await fetchIt('/v1/bytes?size=1000', { method: 'HEAD' })
    expect([answer.status, answer.headers.get('content-length')]).toEqual([200, '1000'])
  })

  test('when the reader leaves, the stream is told', async () => {
    const { fetchIt, seen, app } = await startServer()
    const controller = new AbortController()
    const answer = await fetchIt('/v1/stream', { signal: controller.signal })
    await answer.body!.getReader().read()
    expect(app.pending()).toBe(0)
    controller.abort()
    while (seen.returned === 0) await systemClock.sleep(5)
  })

  test('a stream that fails in the middle cuts the connection instead of ending as if it were whole', async () => {
    const { fetchIt, lines } = await startServer()
    const answer = await fetchIt('/v1/stream?fail=true')
    await expect(answer.text()).rejects.toThrow()
    while (!lines.join().includes('broke in the middle')) await systemClock.sleep(5)
  })

  const bodyHead = `POST /v1/things/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${key}\r\n`

  test('a body that claims to be beyond the limit is refused before it was sent', async () => {
    const { raw } = await startServer()
    expect(await raw(`${bodyHead}Content-Length: 99999999999\r\n\r\n{`)).toMatch(/^HTTP\/1\.1 413 /)
  })

  test('whoever sends a body beyond the limit whole can read why it is refused', async () => {
    const { fetchIt } = await startServer()
    const body = Buffer.alloc(limits.jsonBodyBytes * 4, 'x')
    for (let i = 0; i < 8; i++) {
      const answer = await fetchIt('/v1/things/a', { method: 'POST', body })
      expect(((await answer.json()) as { error: { code: string } }).error.code).toBe('body_too_large')
    }
  })

  test('a streamed body that stops is given up after a minute', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    try {
      const { raw } = await startServer()
      const head = `PUT /v1/bytes HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${key}\r\n`
      const answer = raw(`${head}Content-Length: 20\r\nConnection: close\r\n\r\nbytes`)
      while (vi.getTimerCount() === 0) await systemClock.sleep(5)
      vi.advanceTimersByTime(limits.bodyIdleMs)
      expect(await answer).toMatch(/^HTTP\/1\.1 408 /)
      expect(await answer).toContain('request_timeout')
    } finally {
      vi.useRealTimers()
    }
  })

  test('a body without end is refused, and its sender cut off', async () => {
    const { server } = await startServer()
    const socket = connect(server.port, '127.0.0.1')
    let answer = ''
    socket.on('data', (chunk) => (answer += chunk.toString())).on('error', () => {})
    socket.write(`${bodyHead}Transfer-Encoding: chunked\r\n\r\n`)
    const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
    const chunk = Buffer.concat([Buffer.from('100000\r\n'), Buffer.alloc(1 << 20), Buffer.from('\r\n')])
    while (!socket.destroyed) {
      if (socket.write(chunk)) await systemClock.sleep(0)
      else await Promise.race([once(socket, 'drain').catch(() => {}), closed])
    }
    expect(answer).toMatch(/^HTTP\/1\.1 413 /)
  })

  const smuggled = `GET /v1/smuggled HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${key}\r\n\r\n`
  const chunked = `0\r\n\r\n${smuggled}`
  test.each([
    ['a length and chunks', `Content-Length: ${chunked.length}\r\nTransfer-Encoding: chunked\r\n\r\n${chunked}`],
    ['chunks and a length', `Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n${chunked}`],
    ['two lengths', `Content-Length: 0\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`],
    ['a list of lengths', `Content-Length: 0, 0\r\n\r\n${smuggled}`],
    ['a length with a sign', `Content-Length: +0\r\n\r\n${smuggled}`],
    ['a length in hexadecimal', `Content-Length: 0x0\r\n\r\n${smuggled}`],
    ['a length below nothing', `Content-Length: -1\r\n\r\n${smuggled}`],
    ['a length beyond any number', `Content-Length: 18446744073709551616\r\n\r\n${smuggled}`],
    ['a space before the colon', `Content-Length : 0\r\n\r\n${smuggled}`],
    ['a header that goes on in the next line', `X-A: b\r\n Content-Length: 0\r\n\r\n${smuggled}`],
    ['chunks after something else', `Transfer-Encoding: chunked, identity\r\n\r\n${chunked}`],
    ['chunks twice', `Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n${chunked}`],
    ['something like chunks', `Transfer-Encoding: xchunked\r\n\r\n${chunked}`],
    ['chunks behind a control character', `Transfer-Encoding: \x0bchunked\r\n\r\n${chunked}`],
    ['lines that end with a line feed alone', `Content-Length: 0\nX-A: b\n\n${smuggled}`],
    ['a carriage return in a value', `X-A: b\rContent-Length: 0\r\n\r\n${smuggled}`],
    ['a NUL in a value', `X-A: b\0\r\nContent-Length: 0\r\n\r\n${smuggled}`],
    ['a size of a chunk with a sign', `Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n${smuggled}`],
    ['a chunk that is longer than it says', `Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n${chunked}`],
  ])(
    '%s, which two readers could take for different requests, is refused, and nothing behind it is served',
    async (_what, rest) => {
      const { raw, lines, fetchIt } = await startServer()
      const answer = await raw(`${bodyHead}${rest}`)
      expect(answer).toMatch(/^HTTP\/1\.1 400 /)
      expect(answer).toContain('"remediation":')
      expect(answer.match(/HTTP\/1\.1 /g)).toHaveLength(1)
      expect(lines.join()).not.toContain('smuggled')
      expect((await fetchIt('/health')).status).toBe(200)
    },
  )

  test.each([
    { 'x-http-method-override': 'POST', 'x-method-override': 'POST', 'x-http-method': 'POST' },
    { 'x-original-url': '/v1/broken', 'x-rewrite-url': '/v1/broken', 'x-forwarded-prefix': '/v1/broken' },
    { 'x-forwarded-host': 'evil.example', forwarded: 'host=evil.example;for=10.0.0.1', 'x-forwarded-for': '10.0.0.1' },
    { 'x-authorization': `Bearer ${key}`, 'x-api-key': key, 'x-delta-caller': 'acc_other', 'x-forwarded-user': 'root' },
  ])('no header says what request this is or who sends it: %o', async (headers) => {
    const { fetchIt } = await startServer()
    expect(await (await fetchIt('/v1/things/a', { headers })).json()).toMatchObject({
      id: 'a',
      caller: { actorId: 'key_default' },
    })
    const anonymous = await fetchIt('/v1/things/a', { headers: { ...headers, authorization: '' } })
    expect(anonymous.status).toBe(401)
  })

  test('two Host headers are refused, whichever of them is the server’s', async () => {
    const { raw } = await startServer()
    for (const [first, second] of [
      ['localhost', 'evil.example'],
      ['evil.example', 'localhost'],
      ['localhost', 'localhost'],
    ]) {
      const head = `GET /health HTTP/1.1\r\nHost: ${first}\r\nHost: ${second}\r\nConnection: close\r\n\r\n`
      expect([first, second, await raw(head)]).toEqual([first, second, expect.stringMatching(/^HTTP\/1\.1 400 /)])
      const upgrade = head.replace('Connection: close', 'Connection: Upgrade\r\nUpgrade: websocket')
      expect(await raw(upgrade)).toMatch(/^HTTP\/1\.1 400 /)
    }
  })

  test('a header that comes drop by drop is given up, and others are served meanwhile', async () => {
    const { app, fetchIt } = await startServer()
    const server = await listen(app.api, { port: 0, host: '127.0.0.1', requestHeaderMs: 400 })
    servers.push(server)
    const socket = connect(server.port, '127.0.0.1')
    let answer = ''
    socket.on('data', (chunk) => (answer += chunk.toString())).on('error', () => {})
    socket.write('GET /health HTTP/1.1\r\nHost: localhost\r\nX: ')
    const drops = setInterval(() => socket.write('x'), 50)
    expect((await fetchIt('/health')).status).toBe(200)
    await once(socket, 'close')
    clearInterval(drops)
    expect(answer).toMatch(/^HTTP\/1\.1 408 /)
    expect(answer).toContain('request_timeout')
  })

  test.each([
    ['no HTTP at all', 'hello\r\n\r\n', '400'],
    ['a Host that is none', `GET /health HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n`, '400'],
    ['no Host', 'GET /health HTTP/1.1\r\nConnection: close\r\n\r\n', '400'],
    ['another Host', 'GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n', '403'],
    [
      'headers without end',
      `GET /health HTTP/1.1\r\nHost: localhost\r\nX: ${'x'.repeat(limits.requestHeaderBytes)}\r\n\r\n`,
      '431',
    ],
  ])('%s is answered, and the server goes on', async (_what, text, status) => {
    const { raw, fetchIt } = await startServer()
    const answer = await raw(text)
    expect(answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `))
    expect(answer).toContain('"remediation":')
    expect((await fetchIt('/health')).status).toBe(200)
  })

  test('a client that leaves in the middle of its body harms nobody', async () => {
    const { server, fetchIt, lines } = await startServer()
    const socket = connect(server.port, '127.0.0.1')
    socket.write(
      `POST /v1/things/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${key}\r\nContent-Length: 100\r\n\r\n{"time`,
    )
    await once(socket, 'connect')
    await systemClock.sleep(50)
    socket.destroy()
    while (!lines.join().includes('"status":499')) await systemClock.sleep(5)
    expect((await fetchIt('/health')).status).toBe(200)
  })

  test('a port in use is said in words', async () => {
    const { app, server } = await startServer()
    const again = listen(app.api, { port: server.port, host: '127.0.0.1' })
    await expect(again).rejects.toThrow(
      new DeltaError('config_invalid', `PORT ${server.port} is in use: stop what uses it or set another PORT`),
    )
  })
})

describe('pages of other origins', () => {
  const own = 'https://app.example.com'
  const headersOf = async (app: ReturnType<typeof startApp>, origin: string, method = 'GET') => {
    const answer = await app.call('/v1/none', { method, headers: { origin } })
    return { status: answer.status, of: (name: string) => answer.headers.get(`access-control-${name}`), answer }
  }

  test('an origin that is listed may, with credentials; any other is told nothing', async () => {
    const app = startApp({ corsOrigins: [own] })
    const listed = await headersOf(app, own)
    expect([listed.of('allow-origin'), listed.of('allow-credentials')]).toEqual([own, 'true'])
    expect(listed.answer.headers.get('vary')).toContain('Origin')
    for (const origin of [
      'https://evil.example',
      'http://app.example.com',
      `${own}.evil.example`,
      `${own}:8443`,
      'null',
      '*',
    ]) {
      const other = await headersOf(app, origin)
      expect([other.of('allow-origin'), other.of('allow-credentials')]).toEqual([null, null])
      expect(other.answer.headers.get('vary')).toContain('Origin')
    }
  })

  test('its browser is told before it asks', async () => {
    const app = startApp({ corsOrigins: [own] })
    expect(await headersOf(app, own, 'OPTIONS')).toMatchObject({ status: 204 })
    expect((await headersOf(app, own, 'OPTIONS')).of('allow-credentials')).toBe('true')
    const other = await headersOf(app, 'https://evil.example', 'OPTIONS')
    expect(other.status).toBe(404)
    expect(other.of('allow-origin')).toBeNull()
  })

  test('any origin at all is never allowed credentials', async () => {
    const app = startApp({ environment: 'development', corsOrigins: [own] })
    const any = await headersOf(app, 'https://other.example')
    expect([any.of('allow-origin'), any.of('allow-credentials')]).toEqual(['*', null])
    expect((await headersOf(app, own)).of('allow-origin')).toBe(own)
  })
})

describe('too many requests', () => {
  const rates = { key: 2, account: 0, address: 1 }
  const statuses = async (count: number, send: () => Promise<Response>) => {
    const answers = await Promise.all(Array.from({ length: count }, send))
    return answers.map(({ status }) => status).toSorted()
  }

  test('one key is refused with when to come back, and the limit, window and count', async () => {
    const { call } = startApp({ rates })
    expect(await statuses(5, () => call('/v1/none'))).toEqual([404, 404, 404, 404, 429])
    const refused = await call('/v1/none')
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
    const { error } = (await refused.json()) as { error: Record<string, unknown> }
    expect(error).toMatchObject({
      code: 'too_many_requests',
      context: { by: 'key', limit: 4, windowMs: 2_000, count: 6, retryAfterMs: expect.any(Number) },
    })
  })

  test('whoever is not known is counted by address, whatever they ask; a key is not counted with them', async () => {
    const { call } = startApp({ rates })
    expect(await statuses(3, () => call('/v1/none', { anonymous: true }))).toEqual([401, 401, 429])
    expect((await call('/anything', { anonymous: true })).status).toBe(429)
    expect((await call('/v1/none')).status).toBe(404)
  })

  test('health and metrics answer while somebody floods the server', async () => {
    const { call } = startApp({ rates })
    await statuses(10, () => call('/v1/none', { anonymous: true }))
    expect(await statuses(10, () => call('/health', { anonymous: true }))).toEqual(Array(10).fill(200))
    expect(await statuses(10, () => call('/metrics', { anonymous: true }))).toEqual(Array(10).fill(401))
    expect(await statuses(10, () => call('/metrics'))).not.toContain(429)
  })
})
