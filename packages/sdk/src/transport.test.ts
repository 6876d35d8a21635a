import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, test, vi } from 'vitest'
import { failure, hangUp, json, type Peer, type Answer, sandboxInfo, startPeer } from '../test/peer.ts'
import * as sdk from './index.ts'

let peer: Peer | undefined
const start = async (...answers: Answer[]) => (peer = await startPeer(...answers))

afterEach(async () => {
  vi.unstubAllEnvs()
  await peer?.close()
  peer = undefined
})

test('a GET is repeated after 503, after the time the server asks for', async () => {
  const { delta, requests } = await start(failure(503, 'database_busy', { 'retry-after': '0' }), json(200, sandboxInfo))
  const sandbox = await delta.sandboxes.get('sbx_1')
  expect(sandbox.info).toEqual(sandboxInfo)
  expect(requests.map(({ method, target }) => `${method} ${target}`)).toEqual(Array(2).fill('GET /v1/sandboxes/sbx_1'))
  expect(requests[0]?.headers.authorization).toBe('Bearer test-key')
})

test('a create whose answer was lost is repeated with the same idempotency key and body', async () => {
  const { delta, requests } = await start(hangUp, failure(409, 'idempotency_in_progress'), json(201, sandboxInfo))
  const sandbox = await delta.sandboxes.create({ metadata: { a: 'b' }, keep: true })
  expect(sandbox.id).toBe('sbx_1')
  expect(requests.length).toBe(3)
  expect(new Set(requests.map(({ headers }) => headers['idempotency-key'])).size).toBe(1)
  expect(requests[0]?.headers['idempotency-key']).toMatch(/^[0-9a-f-]{36}$/)
  expect(new Set(requests.map(({ body }) => body))).toEqual(new Set(['{"metadata":{"a":"b"}}']))
})

test('two creates never share a key', async () => {
  const { delta, requests } = await start(json(201, sandboxInfo))
  await delta.sandboxes.create({ keep: true })
  await delta.sandboxes.create({ keep: true })
  expect(requests[0]?.headers['idempotency-key']).not.toBe(requests[1]?.headers['idempotency-key'])
})

test('what might happen twice is not repeated', async () => {
  const { delta, requests } = await start(json(200, sandboxInfo), hangUp)
  const sandbox = await delta.sandboxes.get('sbx_1')
  await expect(sandbox.files.move('a', 'b')).rejects.toBeInstanceOf(sdk.DeltaConnectionError)
  expect(requests.length).toBe(2)
})

test('a refused connection is repeated for any request, since nothing was sent', async () => {
  const { url } = await start(json(200, sandboxInfo), json(200, { path: '/b' }))
  let refusals = 2
  const flaky: typeof fetch = (target, options) => {
    if (options?.method === 'POST' && refusals-- > 0) {
      return Promise.reject(
        new TypeError('fetch failed', { cause: Object.assign(new Error(), { code: 'ECONNREFUSED' }) }),
      )
    }
    return fetch(target, options)
  }
  const sandbox = await new sdk.Delta({ url, apiKey: 'k', fetch: flaky }).sandboxes.get('sbx_1')
  await expect(sandbox.files.move('a', 'b')).resolves.toEqual({ path: '/b' })
})

test('a server that stays away is an error that names it', async () => {
  const { url, close } = await startPeer()
  await close()
  const error: unknown = await new sdk.Delta({ url, apiKey: 'k', maxRetries: 1 })
    .health()
    .catch((cause: unknown) => cause)
  expect(error).toBeInstanceOf(sdk.DeltaConnectionError)
  expect((error as Error).message).toContain(`${url} cannot be reached`)
  expect((error as Error).message).toContain('ECONNREFUSED')
})

test.each([
  [400, 'invalid_request', sdk.BadRequestError],
  [401, 'unauthorized', sdk.AuthenticationError],
  [403, 'permission_denied', sdk.PermissionError],
  [404, 'sandbox_not_found', sdk.NotFoundError],
  [409, 'sandbox_state_conflict', sdk.ConflictError],
  [412, 'precondition_failed', sdk.PreconditionFailedError],
  [413, 'body_too_large', sdk.TooLargeError],
  [416, 'range_not_satisfiable', sdk.RangeNotSatisfiableError],
  [429, 'too_many_requests', sdk.RateLimitError],
  [500, 'internal', sdk.ServerError],
  [503, 'shutting_down', sdk.UnavailableError],
  [507, 'disk_full', sdk.StorageFullError],
  [418, 'teapot', sdk.DeltaApiError],
])('status %i (%s) is an error of its own class with everything the server said', async (status, code, ErrorClass) => {
  const { url } = await start(failure(status, code, { 'retry-after': '0' }))
  const error: unknown = await new sdk.Delta({ url, apiKey: 'k' }).sandboxes.get('x').catch((cause: unknown) => cause)
  expect(error).toBeInstanceOf(ErrorClass)
  expect((error as Error).name).toBe(ErrorClass.name)
  expect(error).toMatchObject({
    status,
    code,
    message: `it was ${code}`,
    remediation: `mend ${code}`,
    requestId: 'req_1',
    cause: 'a reason',
  })
})

test.each([
  ['an error page of a proxy', 502, '<html>Bad gateway</html>', 'unexpected_answer'],
  ['a page where JSON belongs', 200, '<html>Welcome</html>', 'unexpected_answer'],
])('%s is told apart from an answer of DELTA', async (_, status, body, code) => {
  const { url } = await start((__, response) => void response.writeHead(status).end(body))
  const error: unknown = await new sdk.Delta({ url, apiKey: 'k', maxRetries: 0 })
    .health()
    .catch((cause: unknown) => cause)
  expect(error).toMatchObject({ status, code })
  expect((error as sdk.DeltaApiError).remediation).toContain('DELTA_URL')
})

test('a redirect is reported and the key does not follow it', async () => {
  const { delta, requests } = await start(
    (_, response) => void response.writeHead(302, { location: 'https://elsewhere.example/' }).end(),
  )
  await expect(delta.health()).rejects.toMatchObject({
    code: 'redirected',
    message: expect.stringContaining('elsewhere'),
  })
  expect(requests.length).toBe(1)
})

test('no answer in time is a timeout', async () => {
  const { url } = await start(() => {})
  const delta = new sdk.Delta({ url, apiKey: 'k', timeoutMs: 30, maxRetries: 0 })
  await expect(delta.health()).rejects.toBeInstanceOf(sdk.DeltaTimeoutError)
})

test('an aborted signal rejects with its own reason', async () => {
  const { delta } = await start(() => {})
  const controller = new AbortController()
  const call = delta.sandboxes.create({ signal: controller.signal })
  controller.abort(new Error('changed my mind'))
  await expect(call).rejects.toThrow('changed my mind')
})

test('ids and paths are quoted into the address', async () => {
  const { delta, requests } = await start(json(200, sandboxInfo))
  await delta.sandboxes.get('../x?y#z')
  const sandbox = await delta.sandboxes.get('sbx_1')
  await sandbox.files.stat('/a b/ü&c=d#?\0')
  expect(requests[0]?.target).toBe('/v1/sandboxes/..%2Fx%3Fy%23z')
  expect(new URL(`http://x${requests[2]?.target}`).searchParams.get('path')).toBe('/a b/ü&c=d#?\0')
})

test('the key of a server on this machine is read from its data folder, once it is there', async () => {
  const { url, requests } = await start(json(200, { status: 'ok' }))
  const folder = await mkdtemp(join(tmpdir(), 'delta-sdk-'))
  vi.stubEnv('DELTA_API_KEY', '')
  vi.stubEnv('DELTA_DATA_DIR', folder)
  const delta = new sdk.Delta({ url })
  await expect(delta.health()).rejects.toThrow(join(folder, 'api-key'))
  await writeFile(join(folder, 'api-key'), 'from-file\n')
  await delta.health()
  expect(requests.map(({ headers }) => headers.authorization)).toEqual(['Bearer from-file'])
  await rm(folder, { recursive: true })
})

test('the key in the data folder is never sent to another machine', async () => {
  vi.stubEnv('DELTA_API_KEY', '')
  const sent: unknown[] = []
  const spy: typeof fetch = async (...call) => {
    sent.push(call)
    return new Response('{}')
  }
  await expect(new sdk.Delta({ url: 'https://delta.example', fetch: spy }).health()).rejects.toThrow(
    'set DELTA_API_KEY',
  )
  expect(sent).toEqual([])
})

test.each(['not an address', 'ftp://x', ''])('the address %j is refused with an example', (url) => {
  vi.stubEnv('DELTA_URL', url)
  expect(() => new sdk.Delta({ url })).toThrow('http://127.0.0.1:8000')
})

const page = (ids: string[], nextCursor: string | null) =>
  json(200, { data: ids.map((id) => ({ ...sandboxInfo, id })), nextCursor })

test('lists are read page by page', async () => {
  const { delta, requests } = await start(page(['a', 'b'], 'next'), page(['c'], null))
  const list = delta.sandboxes.list({ state: ['running', 'paused'], metadata: { k: 'v w' }, pageSize: 2 })
  expect((await list.all()).map(({ id }) => id)).toEqual(['a', 'b', 'c'])
  const query = (index: number) => Object.fromEntries(new URL(`http://x${requests[index]?.target}`).searchParams)
  expect(query(0)).toEqual({ 'metadata.k': 'v w', state: 'running,paused', limit: '2' })
  expect(query(1)).toEqual({ ...query(0), cursor: 'next' })
})

test('await using kills what it made, unless it is to be kept', async () => {
  const { delta, requests } = await start((request, response) =>
    request.method === 'DELETE' ? void response.writeHead(204).end() : json(201, sandboxInfo)(request, response),
  )
  {
    await using _ = await delta.sandboxes.create()
  }
  {
    await using made = await delta.sandboxes.create({ keep: true })
    await using found = await delta.sandboxes.get(made.id)
    expect(found.keep).toBe(true)
  }
  expect(requests.map(({ method }) => method)).toEqual(['POST', 'DELETE', 'POST', 'GET'])
})
