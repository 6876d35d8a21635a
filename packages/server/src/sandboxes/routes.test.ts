import { describe, expect, test } from 'vitest'
import { createModelDriver } from '../drivers/testing/model.ts'
import { manualClock } from '../kernel/clock.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { type ApiContext, createApi } from '../kernel/http/api.ts'
import { answerError } from '../kernel/http/errors.ts'
import { createDocumentCheck } from '../kernel/http/testing-documented.ts'
import { testHashBody } from '../kernel/http/testing-body-hash.ts'
import { silentLogger } from '../kernel/log.ts'
import { createMetrics } from '../kernel/metrics.ts'
import { sandboxMigrations } from './migrations.ts'
import { addSandboxRoutes, sandboxesFeature } from './routes.ts'
import { createSandboxes } from './service.ts'
import { silentGuest, testSeal } from './testing.ts'

type Json = Record<string, unknown>

testDatabases('the routes of sandboxes', (open) => {
  async function start() {
    const database = await open(sandboxMigrations)
    const driver = createModelDriver()
    const clock = manualClock(1_789_000_000_000)
    const sandboxes = createSandboxes({
      hashBody: testHashBody,
      seal: testSeal,
      database,
      driver,
      clock,
      log: silentLogger,
      connectGuest: silentGuest,
    })
    await sandboxes.start()
    const api = createApi()
    api.use('*', async (c, next) => {
      c.set('requestId', 'req_test')
      c.set('caller', { accountId: c.req.header('x-account') ?? 'acc_default', actorId: 'key_test' })
      await next()
    })
    addSandboxRoutes(api, sandboxes)
    api.onError((error, c) => answerError(error, c as ApiContext, { log: silentLogger }))
    const isDocumented = createDocumentCheck(api)
    const call = async (method: string, path: string, body?: unknown, headers: Record<string, string> = {}) => {
      const text = typeof body === 'string' ? body : JSON.stringify(body)
      const answer = await api.request(`/v1/sandboxes${path}`, {
        method,
        headers: { 'content-type': 'application/json', ...headers },
        ...(body !== undefined && { body: text }),
      })
      const bytes = await answer.text()
      const answered = (bytes === '' ? {} : JSON.parse(bytes)) as Json
      const { code } = (answered['error'] ?? {}) as Json
      isDocumented(method, `/v1/sandboxes${path}`, { status: answer.status, code })
      return { status: answer.status, body: answered }
    }
    return { api, call, driver, sandboxes }
  }

  test('what happens to sandboxes is counted for Prometheus', async () => {
    const { call, sandboxes } = await start()
    const metrics = createMetrics()
    sandboxesFeature(sandboxes).metrics?.(metrics)
    const { body } = await call('POST', '', {})
    await call('POST', '', {})
    await call('DELETE', `/${body['id'] as string}`)
    const text = metrics.render()
    expect(text).toContain('delta_sandboxes{state="running"} 1\n')
    expect(text).toContain('delta_sandbox_changes_total{to="running",reason="created"} 2\n')
    expect(text).toContain('delta_sandbox_changes_total{to="killed",reason="kill_requested"} 1\n')
  })

  test('create, look, list, pause, resume, stop, start, kill', async () => {
    const { call } = await start()
    const created = await call('POST', '', { template: 'host', timeoutMs: 600_000, metadata: { k: 'v' } })
    expect(created.status).toBe(201)
    expect(created.body).toMatchObject({
      state: 'running',
      template: 'host',
      metadata: { k: 'v' },
      cpu: 1,
      memoryMb: 512,
    })
    expect(created.body['id']).toMatch(/^sbx_[a-z0-9]{20}$/)
    expect(created.body).not.toHaveProperty('env')
    const path = `/${created.body['id'] as string}`
    expect((await call('GET', path)).body['state']).toBe('running')
    expect(((await call('GET', '?metadata.k=v&state=running,paused')).body['data'] as Json[]).length).toBe(1)
    expect((await call('GET', '?metadata.k=other')).body).toEqual({ data: [], nextCursor: null })
    for (const [action, state] of [
      ['pause', 'paused'],
      ['pause', 'paused'],
      ['resume', 'running'],
      ['stop', 'stopped'],
      ['start', 'running'],
    ] as const) {
      const answer = await call('POST', `${path}/${action}`)
      expect([answer.status, answer.body['state']]).toEqual([200, state])
    }
    expect((await call('GET', `${path}/metrics`)).status).toBe(200)
    expect((await call('DELETE', path)).status).toBe(204)
    expect((await call('DELETE', path)).status).toBe(204)
    expect((await call('GET', path)).body['state']).toBe('killed')
    const logs = await call('GET', `${path}/logs`)
    expect((logs.body['data'] as Json[]).at(-1)).toMatchObject({
      kind: 'transition',
      to: 'killed',
      reason: 'kill_requested',
    })
  })

  test('an empty body makes a sandbox with every default', async () => {
    const { call } = await start()
    const { status, body } = await call('POST', '')
    expect(status).toBe(201)
    expect(body).toMatchObject({
      template: 'host',
      timeoutMs: 300_000,
      onTimeout: 'kill',
      autoResume: true,
      metadata: {},
      cpu: 1,
      memoryMb: 512,
      diskMb: 4_096,
      processes: 512,
    })
  })

  describe('what is refused', () => {
    const bad: [string, unknown][] = [
      ['an unknown field', { tempalte: 'host' }],
      ['a wrong type', { memoryMb: '512' }],
      ['a broken number', { memoryMb: 0.5 }],
      ['a negative number', { cpu: -1 }],
      ['a huge number', { diskMb: 1e300 }],
      ['a time limit of nothing', { timeoutMs: 0 }],
      ['more than a day', { timeoutMs: 86_400_001 }],
      ['an unknown end', { onTimeout: 'explode' }],
      ['an unknown runtime', { runtime: 'docker' }],
      ['a template that is a path', { template: '../../etc' }],
      ['a template of 5,000 characters', { template: 'a'.repeat(5_000) }],
      ['a variable name that is none', { env: { 'A=B': '1' } }],
      ['a variable with NUL', { env: { A: 'x\0y' } }],
      ['more environment than fits', { env: { A: 'x'.repeat(70_000) } }],
      ['too many labels', { metadata: Object.fromEntries(Array.from({ length: 65 }, (_, n) => [`k${n}`, 'v'])) }],
      ['a label that is no text', { metadata: { a: 1 } }],
      ['a NUL in the name of a workspace', { workspace: 'a\0b' }],
      ['a NUL in the name of a volume', { volumes: [{ volume: 'a\0b', path: '/data' }] }],
      ['a list', []],
      ['null', null],
    ]
    test.each(bad)('%s: 400, and nothing is made', async (_what, body) => {
      const { call, driver } = await start()
      const answer = await call('POST', '', body)
      expect(answer.status).toBe(400)
      expect(answer.body['error']).toMatchObject({ code: 'invalid_request', requestId: 'req_test' })
      expect((answer.body['error'] as Json)['remediation']).not.toBe('')
      expect(driver.boxes.size).toBe(0)
      expect((await call('GET', '')).body['data']).toEqual([])
    })

    test.each(['{', '{"cpu":NaN}', '{"cpu":1e999}', 'x'])('the body %s', async (body) => {
      const { call } = await start()
      expect((await call('POST', '', body)).status).toBe(400)
    })

    test.each([
      '?limit=0',
      '?limit=501',
      '?limit=-1',
      '?limit=1.5',
      '?limit=abc',
      '?limit=',
      '?state=nothing',
      '?state=',
      '?cursor=x',
    ])('the list %s', async (query) => {
      const { call } = await start()
      const answer = await call('GET', query)
      expect([answer.status, (answer.body['error'] as Json)['code']]).toEqual([400, 'invalid_request'])
    })

    test.each([
      'sbx_nothere',
      'nonsense',
      'sbx_',
      `sbx_${'a'.repeat(60)}`,
      'exe_k3v9x0m2qp7a8b1c4d5e',
      '%00',
      "sbx_'--",
    ])('the id %s', async (id) => {
      const { call } = await start()
      for (const [method, path] of [
        ['GET', ''],
        ['DELETE', ''],
        ['PATCH', ''],
        ['POST', '/pause'],
        ['POST', '/start'],
        ['GET', '/metrics'],
        ['GET', '/logs'],
      ] as const) {
        const answer = await call(method, `/${id}${path}`, method === 'PATCH' ? {} : undefined)
        expect([answer.status, (answer.body['error'] as Json)['code']]).toEqual([404, 'sandbox_not_found'])
      }
    })

    test('an impossible action: 409 with the state', async () => {
      const { call } = await start()
      const { body } = await call('POST', '')
      const path = `/${body['id'] as string}`
      await call('DELETE', path)
      const answer = await call('POST', `${path}/resume`)
      expect(answer.status).toBe(409)
      expect(answer.body['error']).toMatchObject({ code: 'sandbox_state_conflict', context: { state: 'killed' } })
      expect((await call('PATCH', path, { timeoutMs: 5 })).status).toBe(409)
    })

    test('a template that is not there: 404 with its own code', async () => {
      const { call } = await start()
      const answer = await call('POST', '', { template: 'nothere' })
      expect([answer.status, (answer.body['error'] as Json)['code']]).toEqual([404, 'template_not_found'])
    })
  })

  test('a patch changes what it names and nothing else', async () => {
    const { call } = await start()
    const { body: made } = await call('POST', '', { metadata: { a: '1' }, onTimeout: 'stop' })
    const path = `/${made['id'] as string}`
    const { body } = await call('PATCH', path, { timeoutMs: 7_000, metadata: { b: '2' }, autoResume: false })
    expect(body).toMatchObject({ timeoutMs: 7_000, metadata: { b: '2' }, autoResume: false, onTimeout: 'stop' })
    expect(body['endAt']).toBe(new Date(1_789_000_007_000).toISOString())
    expect((await call('PATCH', path, {})).body).toEqual(body)
    expect((await call('PATCH', path, { state: 'killed' })).status).toBe(400)
  })

  test('an Idempotency-Key gives one sandbox; with another body 409', async () => {
    const { call, driver } = await start()
    const key = { 'idempotency-key': 'k1' }
    const first = await call('POST', '', { cpu: 2 }, key)
    const again = await call('POST', '', { cpu: 2 }, key)
    expect([again.status, again.body['id']]).toEqual([201, first.body['id']])
    const other = await call('POST', '', { cpu: 1 }, key)
    expect([other.status, (other.body['error'] as Json)['code']]).toEqual([409, 'idempotency_conflict'])
    expect(driver.boxes.size).toBe(1)
    expect((await call('POST', '', {}, { 'idempotency-key': 'x'.repeat(300) })).status).toBe(400)
  })

  test('another account gets the same answer as for what does not exist', async () => {
    const { call } = await start()
    const { body } = await call('POST', '')
    const id = body['id'] as string
    const other = { 'x-account': 'acc_other' }
    const foreign = await call('GET', `/${id}`, undefined, other)
    const missing = await call('GET', '/sbx_k3v9x0m2qp7a8b1c4d5e', undefined, other)
    expect(foreign.status).toBe(missing.status)
    expect(blank(foreign.body)).toEqual(blank(missing.body))
    expect((await call('GET', '', undefined, other)).body['data']).toEqual([])
  })

  test('the description names every route with its answers', async () => {
    const { api } = await start()
    const document = api.getOpenAPI31Document({ openapi: '3.1.0', info: { title: 'test', version: '0' } })
    const operations = Object.values(document.paths ?? {}).flatMap((path) => Object.values(path as object) as Json[])
    expect(operations.map(({ operationId }) => operationId).toSorted()).toEqual([
      'createSandbox',
      'getSandbox',
      'getSandboxLogs',
      'getSandboxMetrics',
      'killSandbox',
      'listSandboxes',
      'patchSandbox',
      'pauseSandbox',
      'resumeSandbox',
      'rollbackSandbox',
      'startSandbox',
      'stopSandbox',
    ])
  })
})

/** An answer without what necessarily differs. */
function blank(answer: Json): Json {
  return JSON.parse(JSON.stringify(answer).replaceAll(/sbx_[a-z0-9]+/g, 'ID')) as Json
}
