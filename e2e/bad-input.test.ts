import { connect } from 'node:net'
import type { Sandbox } from '@delta-agents/sdk'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { delta, key, refusal, request, url } from './target.ts'

let sandbox: Sandbox
beforeAll(async () => {
  sandbox = await delta.sandboxes.create({ timeoutMs: 1_800_000 })
  await sandbox.commands.run('ln -s b a; ln -s a b')
})
afterAll(async () => {
  // Whatever was sent: the sandbox and the server still work.
  expect((await sandbox.commands.run('echo fine')).stdout).toBe('fine\n')
  await sandbox.kill()
})

const post = (path: string, body: string, headers: Record<string, string> = {}) =>
  request(path, { method: 'POST', body, headers: { 'content-type': 'application/json', ...headers } })

async function expectError(answer: Response, status: number, code: string): Promise<void> {
  const text = await answer.text()
  const body = JSON.parse(text) as { error: Record<string, string> }
  expect([answer.status, body.error['code']], text).toEqual([status, code])
  expect(body.error['message']).toMatch(/\w/)
  expect(body.error['remediation']).toMatch(/\w/)
  expect(body.error['requestId']).toBe(answer.headers.get('x-request-id'))
  // No stack, no path of the server.
  expect(text).not.toMatch(/node_modules|\.m?[jt]s:\d|\n +at /)
}

test.each([
  ['no key', {}],
  ['a wrong key', { authorization: 'Bearer wrong' }],
  ['an empty key', { authorization: 'Bearer ' }],
  ['another scheme', { authorization: 'Basic abc' }],
])('%s is refused everywhere under /v1', async (_, headers) => {
  for (const path of ['/v1/sandboxes', '/v1/sandboxes/sbx_none', '/v1/nothing', '/v1/doctor', '/metrics']) {
    const answer = await fetch(`${url}${path}`, { headers: headers as Record<string, string> })
    await expectError(answer, 401, 'unauthorized')
  }
})

test('health and the description of the API are open', async () => {
  const health = await fetch(`${url}/health`)
  expect([health.status, await health.json()]).toEqual([
    200,
    expect.objectContaining({ status: 'ok', version: expect.any(String) }),
  ])
  const document = (await (await fetch(`${url}/openapi.json`)).json()) as { openapi: string; paths: object }
  expect(document.openapi).toMatch(/^3\.1/)
  expect(Object.keys(document.paths)).toEqual(
    expect.arrayContaining([
      '/v1/sandboxes',
      '/v1/sandboxes/{id}/execs',
      '/v1/sandboxes/{id}/files',
      '/v1/sandboxes/{id}/watch',
    ]),
  )
})

test.each([
  ['sbx_00000000000000000000'],
  ['sbx_'],
  ['nonsense'],
  ['..'],
  ['%2e%2e%2fetc'],
  ['a%00b'],
  ['x'.repeat(5000)],
  ['%'],
])('the unknown id %s is not found or malformed, for every act', async (id) => {
  for (const [method, path] of [
    ['GET', ''],
    ['PATCH', ''],
    ['POST', '/pause'],
    ['POST', '/execs'],
    ['GET', '/execs'],
    ['GET', '/files?path=/etc/passwd'],
    ['GET', '/metrics'],
  ] as const) {
    const body = method === 'GET' ? {} : { body: '{"cmd":"true"}', headers: { 'content-type': 'application/json' } }
    const answer = await request(`/v1/sandboxes/${id}${path}`, { method, ...body })
    expect([400, 404, 405, 414, 431], `${method} ${path}`).toContain(answer.status)
    await answer.body?.cancel()
  }
})

test('an exec of another sandbox is not found', async () => {
  await using other = await delta.sandboxes.create()
  const { id } = await other.commands.run('true')
  expect(await refusal(sandbox.commands.get(id))).toMatchObject({ status: 404, code: 'exec_not_found' })
  expect((await refusal(sandbox.commands.get('exe_none'))).code).toBe('exec_not_found')
})

test.each([
  ['{', 'malformed_json'],
  ['{"timeoutMs": NaN}', 'malformed_json'],
  ['{"timeoutMs": Infinity}', 'malformed_json'],
  ['{"a":1,}', 'malformed_json'],
  ['[]', 'invalid_request'],
  ['null', 'invalid_request'],
  ['"text"', 'invalid_request'],
  ['42', 'invalid_request'],
  ['{"timeoutMs":"60"}', 'invalid_request'],
  ['{"timeoutMs":-1}', 'invalid_request'],
  ['{"timeoutMs":0}', 'invalid_request'],
  ['{"timeoutMs":1.5}', 'invalid_request'],
  ['{"timeoutMs":1e300}', 'invalid_request'],
  ['{"timeoutMs":9007199254740993}', 'invalid_request'],
  ['{"timeoutMs":86400001}', 'invalid_request'],
  ['{"memoryMb":-5}', 'invalid_request'],
  ['{"memoryMb":1e12}', 'invalid_request'],
  ['{"cpu":0}', 'invalid_request'],
  ['{"processes":1e9}', 'invalid_request'],
  ['{"onTimeout":"explode"}', 'invalid_request'],
  ['{"metadata":{"a":1}}', 'invalid_request'],
  ['{"metadata":[]}', 'invalid_request'],
  [`{"metadata":{"${'k'.repeat(5000)}":"v"}}`, 'invalid_request'],
  [`{"metadata":{"k":"${'v'.repeat(5000)}"}}`, 'invalid_request'],
  ['{"env":{"A=B":"x"}}', 'invalid_request'],
  ['{"env":{"A":"x\\u0000y"}}', 'invalid_request'],
  ['{"template":"../../etc"}', 'invalid_request'],
  ['{"unknownField":1}', 'invalid_request'],
  ['{"__proto__":{"timeoutMs":1},"constructor":1}', 'invalid_request'],
])('creating a sandbox with %s is refused', async (body, code) => {
  await expectError(await post('/v1/sandboxes', body), 400, code)
})

test('a template that does not exist is not found', async () => {
  await expectError(await post('/v1/sandboxes', '{"template":"no-such-template"}'), 404, 'template_not_found')
})

test.each([
  ['{}', 'invalid_request'],
  ['{"cmd":1}', 'invalid_request'],
  ['{"cmd":[]}', 'invalid_request'],
  ['{"cmd":["a",1]}', 'invalid_request'],
  ['{"cmd":["a\\u0000b"]}', 'invalid_request'],
  ['{"cmd":"true","timeoutMs":-1}', 'invalid_request'],
  ['{"cmd":"true","timeoutMs":1e15}', 'invalid_request'],
  ['{"cmd":"true","env":{"A":1}}', 'invalid_request'],
  ['{"cmd":"true","env":{"A=B":"1"}}', 'invalid_request'],
  ['{"cmd":"true","user":"a b"}', 'invalid_request'],
  ['{"cmd":"true","user":"../root"}', 'invalid_request'],
  ['{"cmd":"true","cwd":"a\\u0000b"}', 'invalid_request'],
  ['{"cmd":"true","encoding":"latin1"}', 'invalid_request'],
  ['{"cmd":"true","pty":{"cols":0,"rows":1}}', 'invalid_request'],
  ['{"cmd":"true","pty":{"cols":100000,"rows":1}}', 'invalid_request'],
  ['{"cmd":"true","stdin":5}', 'invalid_request'],
])('an exec of %s is refused', async (body, code) => {
  await expectError(await post(`/v1/sandboxes/${sandbox.id}/execs`, body), 400, code)
})

test.each([['{"language":"cobol","source":"x"}'], ['{"language":"bash"}'], ['{"language":"bash","source":5}']])(
  'code %s is refused',
  async (body) => {
    await expectError(await post(`/v1/sandboxes/${sandbox.id}/code`, body), 400, 'invalid_request')
  },
)

test.each([['SIGNOTHING'], [0], [-1], [65], [1.5], [null]])('the signal %s is refused', async (signal) => {
  const handle = await sandbox.commands.start('sleep 30')
  const answer = await post(`/v1/sandboxes/${sandbox.id}/execs/${handle.id}/signal`, JSON.stringify({ signal }))
  await expectError(answer, 400, 'invalid_request')
  await handle.kill()
})

test.each([
  ['path=', 400, 'path_invalid'],
  ['', 400, 'path_invalid'],
  ['path=/a%00b', 400, 'path_invalid'],
  [`path=/${'n'.repeat(5000)}`, 400, 'name_too_long'],
  [`path=/workspace/${'n'.repeat(256)}`, 400, 'name_too_long'],
  ['path=/workspace/a', 400, 'symlink_loop'],
  ['path=/workspace/a/b/c', 400, 'symlink_loop'],
  ['path=/workspace/no', 404, 'file_not_found'],
  ['path=/workspace/../workspace/no', 404, 'file_not_found'],
  ['path=../../../../etc/delta-none', 404, 'file_not_found'],
])('reading the file of %s is refused', async (query, status, code) => {
  await expectError(await request(`/v1/sandboxes/${sandbox.id}/files?${query}`), status, code)
})

test('.. ends at the root of the sandbox', async () => {
  const { stdout } = await sandbox.commands.run('cat /etc/hostname')
  expect(await sandbox.files.readText('../../../../../../etc/hostname')).toBe(stdout)
})

test.each([['depth=0'], ['depth=-1'], ['depth=x'], ['depth=1e3'], ['limit=0'], ['limit=100001'], ['limit=NaN']])(
  'listing with %s is refused',
  async (query) => {
    await expectError(await request(`/v1/sandboxes/${sandbox.id}/entries?path=/&${query}`), 400, 'invalid_request')
  },
)

test.each([
  ['limit=0'],
  ['limit=501'],
  ['limit=abc'],
  ['state=dancing'],
  ['state='],
  ['cursor=%FF'],
  ['cursor=garbage'],
])('listing sandboxes with %s is refused', async (query) => {
  await expectError(await request(`/v1/sandboxes?${query}`), 400, 'invalid_request')
})

test.each([['bytes=5-2'], ['bytes=a-b'], ['lines=1-2'], ['bytes=99999999999999999999-']])(
  'the range %s is ignored or refused, never wrong',
  async (range) => {
    await sandbox.files.write('/workspace/r', '0123456789')
    const answer = await request(`/v1/sandboxes/${sandbox.id}/files?path=r`, { headers: { range } })
    expect([200, 400, 416]).toContain(answer.status)
    if (answer.status === 200) expect(await answer.text()).toBe('0123456789')
    else await answer.body?.cancel()
  },
)

test('a body beyond the limit is refused', async () => {
  for (const path of ['/v1/sandboxes', `/v1/sandboxes/${sandbox.id}/execs`]) {
    const head = `POST ${path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${key}\r\nContent-Type: application/json\r\n`
    const answer = await raw(`${head}Content-Length: ${16 * 1024 * 1024}\r\n\r\n{`)
    expect(answer).toMatch(/^HTTP\/1\.1 413 /)
    expect(answer).toContain('body_too_large')
  }
})

test('deep nesting is refused without harm', async () => {
  const deep = `{"metadata":${'['.repeat(100_000)}${']'.repeat(100_000)}}`
  const answer = await post('/v1/sandboxes', deep)
  expect([400, 413]).toContain(answer.status)
  await answer.body?.cancel()
})

test('an idempotency key too long is refused', async () => {
  await expectError(await post('/v1/sandboxes', '{}', { 'idempotency-key': 'k'.repeat(5000) }), 400, 'invalid_request')
})

test('unknown paths and methods are told apart', async () => {
  await expectError(await request('/v1/nothing'), 404, 'not_found')
  await expectError(await request('/v1/sandboxes', { method: 'DELETE' }), 405, 'method_not_allowed')
})

test('a host name the server does not go by is refused, against DNS rebinding', async () => {
  const answer = await raw(
    `GET /v1/sandboxes HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer ${key}\r\nConnection: close\r\n\r\n`,
  )
  expect(answer).toMatch(/^HTTP\/1\.1 403 /)
  expect(answer).toContain('host_not_allowed')
})

test.each([
  ['noise', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc'],
  ['a request line of 100 kB', `GET /${'x'.repeat(100_000)} HTTP/1.1\r\nHost: localhost\r\n\r\n`],
  ['headers of 100 kB', `GET / HTTP/1.1\r\nHost: localhost\r\nX: ${'x'.repeat(100_000)}\r\n\r\n`],
  [
    'two lengths',
    'POST /v1/sandboxes HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello',
  ],
  [
    'a length and chunks',
    'POST /v1/sandboxes HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
  ],
  ['a negative length', 'POST /v1/sandboxes HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n'],
])('%s on the socket ends with an error, and the server goes on', async (_, text) => {
  expect(await raw(text)).toMatch(/^(HTTP\/1\.1 4\d\d |$)/)
  expect((await fetch(`${url}/health`)).status).toBe(200)
})

test('a client that sends its body drop by drop is given up, others are served meanwhile', async () => {
  const { hostname, port } = new URL(url)
  const socket = connect(Number(port), hostname)
  let answer = ''
  const closed = new Promise<void>((done) => socket.once('close', () => done()))
  socket.on('data', (chunk) => (answer += chunk.toString()))
  socket.on('error', () => {})
  socket.write(`POST /v1/sandboxes HTTP/1.1\r\nHost: ${hostname}:${port}\r\nAuthorization: Bearer ${key}\r\n`)
  socket.write('Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{')
  const drops = setInterval(() => socket.write(' '), 1_000)
  expect((await sandbox.commands.run('echo served')).stdout).toBe('served\n')
  await closed
  clearInterval(drops)
  expect(answer).toMatch(/^(HTTP\/1\.1 408 |$)/)
})

/** Sends bytes as they are and returns all that comes back. */
function raw(text: string): Promise<string> {
  const { hostname, port } = new URL(url)
  return new Promise((done) => {
    let answer = ''
    const socket = connect(Number(port), hostname, () => socket.write(Buffer.from(text, 'latin1')))
    // A server that waits for more of a broken request is told that there is none.
    const timer = setTimeout(() => socket.end(), 3_000)
    socket.on('data', (chunk) => (answer += chunk.toString('latin1')))
    socket.on('error', () => {})
    socket.on('close', () => {
      clearTimeout(timer)
      done(answer)
    })
  })
}
