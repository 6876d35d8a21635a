import { describe, expect, onTestFinished, test } from 'vitest'
import { createModelDriver } from '../../drivers/testing/model.ts'
import type { ConnectOptions, EgressRequest } from '../../guest/client.ts'
import type { AuditEntry } from '../../access/audit/entry.ts'
import { right } from '../../access/rights.ts'
import { testCaller, testKeyPrincipal } from '../../access/testing.ts'
import { approvalMigrations } from '../../approvals/migrations.ts'
import { approvalsFeature } from '../../approvals/routes.ts'
import { createApprovals } from '../../approvals/service.ts'
import { manualClock } from '../../kernel/clock.ts'
import { testDatabases } from '../../kernel/db/testing.ts'
import { type ApiContext, createApi } from '../../kernel/http/api.ts'
import { answerError } from '../../kernel/http/errors.ts'
import { createDocumentCheck } from '../../kernel/http/testing-documented.ts'
import { testHashBody } from '../../kernel/http/testing-body-hash.ts'
import { silentLogger } from '../../kernel/log.ts'
import { createMetrics } from '../../kernel/metrics.ts'
import { sandboxMigrations } from '../migrations.ts'
import { addSandboxRoutes } from '../routes.ts'
import { createSandboxes } from '../service.ts'
import { silentGuest, testSeal } from '../testing.ts'
import { egressApproval } from './requests.ts'
import { addEgressRoutes, egressFeature } from './routes.ts'
import { createEgress } from './service.ts'

type Json = Record<string, unknown>

testDatabases('the network of sandboxes', (open) => {
  async function start() {
    const database = await open([...sandboxMigrations, ...approvalMigrations])
    const driver = createModelDriver()
    const clock = manualClock(1_789_000_000_000)
    const connectOutward = () => () => {}
    const serve = async () => {
      const handlers: ConnectOptions['onEgress'][] = []
      const egress = createEgress({ database, clock, log: silentLogger, connectOutward })
      const sandboxes = createSandboxes({
        hashBody: testHashBody,
        seal: testSeal,
        database,
        driver,
        clock,
        log: silentLogger,
        egress,
        connectGuest: (stream, { onEgress }) => {
          handlers.push(onEgress)
          return silentGuest(stream)
        },
      })
      await (
        await sandboxes.start()
      ).reconciled
      const api = createApi()
      api.use('*', async (c, next) => {
        c.set('requestId', 'req_test')
        const accountId = c.req.header('x-account') ?? 'acc_default'
        const rights = c.req.header('x-rights')?.split(' ').map(right)
        const key = { accountId, keyId: c.req.header('x-key') ?? 'key_test', ...(rights && { rights }) }
        c.set('caller', testCaller(testKeyPrincipal(key)))
        await next()
      })
      addSandboxRoutes(api, sandboxes)
      const audit: AuditEntry[] = []
      const approvals = createApprovals({
        database,
        kinds: [egressApproval(sandboxes)],
        mayStillAsk: () => Promise.resolve(true),
        hasSecondFactor: () => Promise.resolve(false),
        record: (entry) => Promise.resolve(void audit.push(entry)),
        clock,
        log: silentLogger,
      })
      addEgressRoutes(api, { sandboxes, egress, approvals })
      approvalsFeature({ approvals }).routes!(api)
      api.onError((error, c) => answerError(error, c as ApiContext, { log: silentLogger }))
      const isDocumented = createDocumentCheck(api)
      const call = async (method: string, path: string, body?: unknown, headers: Record<string, string> = {}) => {
        const whole = path.startsWith('/v1') ? path : `/v1/sandboxes${path}`
        const answer = await api.request(whole, {
          method,
          headers: { 'content-type': 'application/json', ...headers },
          ...(body !== undefined && { body: JSON.stringify(body) }),
        })
        const text = await answer.text()
        const said = (text === '' ? {} : JSON.parse(text)) as Json
        const { code } = (said['error'] ?? {}) as Json
        isDocumented(method, whole, { status: answer.status, code })
        return { status: answer.status, body: said }
      }
      /** What a program inside hears through the connection made last. */
      const ask = (host: string, port = 443): string => {
        let said = 'taken'
        handlers.at(-1)!({
          host,
          port,
          via: 'connect',
          join: () => {
            throw new Error('nothing connects here')
          },
          refuse: (code, message) => void (said = `${code}: ${message}`),
          onAbandoned: () => {},
        } satisfies EgressRequest)
        return said
      }
      return { egress, sandboxes, approvals, call, ask, handlers }
    }
    return { serve }
  }

  test('is widened by whoever may reach the host themselves, and by nobody else', async () => {
    const { serve } = await start()
    const { call } = await serve()
    const code = async (rights: string, method: string, path: string, body: object) => {
      const answer = await call(method, path, body, { 'x-rights': rights })
      const { error } = answer.body as { error?: { code: string; context?: { right?: string } } }
      return error ? [error.code, error.context?.right] : answer.status
    }
    const list = (...hosts: string[]) => ({ egress: { hosts, presets: [] } })
    const having = (...rights: string[]) => ['write:sandboxes', ...rights].join(' ')
    const { body } = await call('POST', '', { network: list('a.test', '*.b.test') })
    const network = `/${String(body['id'])}/network`
    for (const [rights, wanted, expected] of [
      [having(), list('a.test', 'x.b.test'), 200],
      [having(), { egress: 'all' }, ['forbidden', 'egress:*']],
      [having(), list('a.test', 'c.test'), ['forbidden', 'egress:c.test']],
      [having('egress:c.test'), list('c.test'), 200],
      [having('egress:*.b.test'), list('c.test', '*.b.test'), 200],
      [having('egress:*.b.test'), list('*.test'), ['forbidden', 'egress:*.test']],
      [having('egress:*.test'), list('b.test:*', '[2001:db8::1]:443'), ['forbidden', 'egress:2001:db8::1']],
      [having('egress:c.test'), list('c.test:*'), 200],
      [having('egress'), list('[2001:db8::1]:443', 'under_score.test'), 200],
      [having(), { egress: 'none' }, 200],
      [having('egress:*'), { egress: 'all' }, 200],
      [having(), list('d.test'), 200],
    ] as const) {
      expect([rights, wanted, await code(rights, 'PUT', network, wanted)]).toEqual([rights, wanted, expected])
    }
    const more = { hosts: ['e.test'], presets: ['packages'] }
    expect(await code(having('egress:e.test'), 'POST', `${network}/allow`, more)).toEqual([
      'forbidden',
      expect.stringMatching(/^egress:/),
    ])
    expect(await code(having('egress:e.test'), 'POST', `${network}/allow`, { hosts: ['e.test'] })).toBe(200)
    expect((await call('GET', network)).body).toEqual(list('d.test', 'e.test'))
    expect(await code(having(), 'POST', '', { network: list('f.test') })).toEqual(['forbidden', 'egress:f.test'])
    expect(await code(having('egress:f.test'), 'POST', '', { network: list('f.test') })).toBe(201)
    expect(await code(having(), 'POST', '', {})).toBe(201)
  })

  test('is none unless asked for, is shown, and holds from the first connection', async () => {
    const { serve } = await start()
    const { call, ask } = await serve()
    const { body: plain } = await call('POST', '', {})
    expect(plain['network']).toEqual({ egress: 'none' })
    expect(ask('pypi.org')).toMatch(
      /^permission_denied: Egress to pypi.org:443 is refused by the policy "none" of sbx_/,
    )
    const wish = { egress: { hosts: ['Example.com', 'example.com', 'git.example:22'], presets: ['packages'] } }
    const { body, status } = await call('POST', '', { network: wish })
    expect(status).toBe(201)
    const network = { egress: { hosts: ['example.com', 'git.example:22'], presets: ['packages'] } }
    expect(body['network']).toEqual(network)
    expect((await call('GET', `/${String(body['id'])}/network`)).body).toEqual(network)
    expect([ask('pypi.org'), ask('example.com'), ask('git.example', 22)]).toEqual(['taken', 'taken', 'taken'])
    expect(ask('git.example')).toMatch(/^permission_denied: .*at other ports/)
  })

  test('changes at once, also of a paused and a stopped sandbox, and outlives the server', async () => {
    const { serve } = await start()
    const { call, ask, sandboxes, handlers, egress } = await serve()
    const id = String((await call('POST', '', {})).body['id'])
    expect(await call('PUT', `/${id}/network`, { egress: 'all' })).toEqual({ status: 200, body: { egress: 'all' } })
    expect(ask('pypi.org')).toBe('taken')
    expect(egress.open()).toBe(1)
    await call('POST', `/${id}/pause`)
    await new Promise((resolve) => setImmediate(resolve))
    expect((await call('PUT', `/${id}/network`, { egress: { hosts: ['a.example'] } })).status).toBe(200)
    await call('POST', `/${id}/resume`)
    expect([ask('pypi.org').slice(0, 17), ask('a.example')]).toEqual(['permission_denied', 'taken'])
    await call('POST', `/${id}/stop`)
    const { body } = await call('POST', `/${id}/network/allow`, { hosts: ['b.example'], presets: ['git'] })
    expect(body).toEqual({ egress: { hosts: ['a.example', 'b.example'], presets: ['git'] } })
    await sandboxes.stop('leave')
    expect(handlers.length).toBe(1)

    const again = await serve()
    expect((await again.call('GET', `/${id}`)).body['network']).toEqual(body)
    await again.call('POST', `/${id}/start`)
    expect(again.ask('b.example')).toBe('taken')
    await again.call('DELETE', `/${id}`)
    expect((await again.call('PUT', `/${id}/network`, { egress: 'all' })).status).toBe(409)
    await again.sandboxes.stop('leave')
  })

  test.each<[string, object, string]>([
    ['nothing', {}, 'egress'],
    ['no such word', { egress: 'some' }, 'egress'],
    ['a URL', { egress: { hosts: ['https://a.example'] } }, 'has a scheme'],
    ['a range', { egress: { hosts: ['10.0.0.0/8'] } }, 'is a range of addresses'],
    ['every host', { egress: { hosts: ['*'] } }, 'means every host'],
    ['an empty host', { egress: { hosts: [''] } }, 'hosts'],
    ['257 hosts', { egress: { hosts: Array.from({ length: 257 }, (_, index) => `h${index}.example`) } }, 'hosts'],
    ['no such preset', { egress: { presets: ['everything'] } }, 'presets'],
    ['another field of a list', { egress: { hosts: [], allow: ['a'] } }, 'allow'],
    ['another field', { egress: 'all', ingress: 'all' }, 'ingress'],
  ])('%s is refused with the reason', async (_, body, words) => {
    const { serve } = await start()
    const { call, sandboxes } = await serve()
    const id = String((await call('POST', '', {})).body['id'])
    for (const [method, path, sent] of [
      ['PUT', `/${id}/network`, body],
      ['POST', '', { network: body }],
    ] as const) {
      const answer = await call(method, path, sent)
      expect(answer.status).toBe(400)
      expect(JSON.stringify(answer.body)).toContain(words)
    }
    expect((await call('GET', `/${id}/network`)).body).toEqual({ egress: 'none' })
    await sandboxes.stop('leave')
  })

  test('holds at most 256 hosts, however they come', async () => {
    const { serve } = await start()
    const { call, sandboxes } = await serve()
    const hosts = Array.from({ length: 256 }, (_, index) => `h${index}.example`)
    const id = String((await call('POST', '', { network: { egress: { hosts } } })).body['id'])
    expect((await call('POST', `/${id}/network/allow`, { hosts: ['h1.example'] })).status).toBe(200)
    expect((await call('POST', `/${id}/network/allow`, { hosts: ['more.example'] })).status).toBe(400)
    expect((await call('POST', `/${id}/network/allow`, {})).status).toBe(400)
    await sandboxes.stop('leave')
  })

  test('of another account looks like one that does not exist; its log too', async () => {
    const { serve } = await start()
    const { call, ask, sandboxes } = await serve()
    const id = String((await call('POST', '', {})).body['id'])
    ask('pypi.org')
    const stranger = { 'x-account': 'acc_other' }
    for (const [method, path, body] of [
      ['GET', '/network', undefined],
      ['PUT', '/network', { egress: 'all' }],
      ['POST', '/network/allow', { hosts: ['a.example'] }],
      ['GET', '/egress', undefined],
    ] as const) {
      expect((await call(method, `/${id}${path}`, body, stranger)).status).toBe(404)
      expect((await call(method, `/sbx_${'x'.repeat(20)}${path}`, body)).status).toBe(404)
    }
    const { body } = await call('GET', `/${id}/egress`)
    expect(body).toMatchObject({ data: [{ host: 'pypi.org', outcome: 'refused', reason: 'policy' }], nextCursor: null })
    expect((await call('GET', `/${id}/egress?limit=501`)).status).toBe(400)
    await sandboxes.stop('leave')
  })

  describe('a host that is asked for', () => {
    const path = (id: unknown) => `/${String(id)}/network/requests`
    const wish = { host: 'Fonts.Example.com.', reason: 'The build needs fonts' }
    const other = { 'x-key': 'key_other' }

    async function refusedOne() {
      const { serve } = await start()
      const server = await serve()
      const { id } = (await server.call('POST', '', {})).body
      onTestFinished(() => server.sandboxes.stop('leave'))
      return { ...server, id }
    }

    test('is named by the refusal, waits, and is reached when somebody else has approved it', async () => {
      const { call, ask, id } = await refusedOne()
      expect(ask('fonts.example.com')).toContain('POST /v1/sandboxes/{id}/network/requests')
      const asked = await call('POST', path(id), wish)
      expect(asked).toMatchObject({
        status: 201,
        body: {
          kind: 'egress',
          state: 'pending',
          description: `Programs in the sandbox ${String(id)} may connect to fonts.example.com at ports 80 and 443, from then on, until its network is changed again.`,
          action: { kind: 'egress', sandboxId: id, host: 'fonts.example.com', ports: [80, 443] },
        },
      })
      const again = await call('POST', path(id), wish)
      expect([again.status, again.body['id']]).toEqual([200, asked.body['id']])
      expect(ask('fonts.example.com')).toContain('permission_denied')
      const approve = `/v1/approvals/${String(asked.body['id'])}/approve`
      const { actionHash } = asked.body
      const changed = { actionHash: '0'.repeat(64) }
      expect((await call('POST', approve, { actionHash })).body).toMatchObject({
        error: { code: 'approval_own_request' },
      })
      expect((await call('POST', approve, changed, other)).body).toMatchObject({
        error: { code: 'approval_action_changed' },
      })
      expect((await call('POST', approve, { actionHash }, { 'x-account': 'acc_other' })).status).toBe(404)
      expect((await call('POST', approve, { actionHash }, other)).body).toMatchObject({
        state: 'executed',
        failure: null,
      })
      expect(ask('fonts.example.com')).toBe('taken')
      expect(ask('fonts.example.com', 22)).toContain('permission_denied')
      expect((await call('POST', approve, { actionHash }, other)).body).toMatchObject({
        error: { code: 'approval_decided', context: { state: 'executed' } },
      })
      expect((await call('POST', path(id), wish)).body).toMatchObject({ error: { code: 'egress_allowed_already' } })
    })

    test('is added to what the policy is at that moment', async () => {
      const { call, id } = await refusedOne()
      const { body } = await call('POST', path(id), { ...wish, port: 8443 })
      await call('PUT', `/${String(id)}/network`, { egress: { hosts: ['meanwhile.example'] } })
      await call('POST', `/v1/approvals/${String(body['id'])}/approve`, { actionHash: body['actionHash'] }, other)
      expect((await call('GET', `/${String(id)}/network`)).body).toEqual({
        egress: { hosts: ['meanwhile.example', 'fonts.example.com:8443'], presets: [] },
      })
    })

    test('fails with the reason where the sandbox has ended by then, and can not be asked for one that has', async () => {
      const { call, id } = await refusedOne()
      const { body } = await call('POST', path(id), wish)
      await call('DELETE', `/${String(id)}`)
      const approve = `/v1/approvals/${String(body['id'])}/approve`
      expect((await call('POST', approve, { actionHash: body['actionHash'] }, other)).body).toMatchObject({
        state: 'failed',
        failure: { code: 'sandbox_state_conflict' },
      })
      expect((await call('POST', path(id), wish)).body).toMatchObject({ error: { code: 'sandbox_state_conflict' } })
    })

    test.each([
      { host: '*.example.com' },
      { host: 'example.com:22' },
      { host: 'https://example.com' },
      { host: '*' },
      { host: '' },
      { host: '10.0.0.0/8' },
      { port: 0 },
      { port: 65_536 },
      { reason: '' },
      { reason: 'a\nb' },
      { reason: 'a\u202Eb' },
      { reason: 'x'.repeat(501) },
      { ttlMs: 59_999 },
      { ttlMs: 8 * 86_400_000 },
      { state: 'approved' },
      { kind: 'tokens' },
      { sandboxId: 'sbx_other' },
      { askedBy: 'usr_other' },
    ])('%j is refused', async (change) => {
      const { call, id } = await refusedOne()
      expect((await call('POST', path(id), { ...wish, ...change })).body).toMatchObject({
        error: { code: 'invalid_request' },
      })
    })

    test('of somebody else’s sandbox is as one that never was', async () => {
      const { call, id } = await refusedOne()
      const answer = await call('POST', path(id), wish, { 'x-account': 'acc_other' })
      expect(answer).toMatchObject({ status: 404, body: { error: { code: 'sandbox_not_found' } } })
    })
  })

  test('its connections are counted for Prometheus', async () => {
    const { serve } = await start()
    const { call, ask, sandboxes, egress, approvals } = await serve()
    const metrics = createMetrics()
    egressFeature({ sandboxes, egress, approvals }).metrics!(metrics)
    await call('POST', '', {})
    ask('pypi.org')
    ask('pypi.org')
    const text = metrics.render()
    expect(text).toContain('delta_egress_connections_total{outcome="refused"} 2')
    expect(text).toContain('delta_egress_connections_open 0')
    await sandboxes.stop('leave')
  })
})
