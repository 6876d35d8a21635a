import { expect, test } from 'vitest'
import { createModelDriver } from '../../drivers/testing/model.ts'
import type { ConnectOptions, EgressRequest } from '../../guest/client.ts'
import { manualClock } from '../../kernel/clock.ts'
import { testDatabases } from '../../kernel/db/testing.ts'
import { type ApiContext, createApi } from '../../kernel/http/api.ts'
import { answerError } from '../../kernel/http/errors.ts'
import { createDocumentCheck } from '../../kernel/http/testing-documented.ts'
import { silentLogger } from '../../kernel/log.ts'
import { createMetrics } from '../../kernel/metrics.ts'
import { sandboxMigrations } from '../migrations.ts'
import { addSandboxRoutes } from '../routes.ts'
import { createSandboxes } from '../service.ts'
import { silentGuest } from '../testing.ts'
import { addEgressRoutes, egressFeature } from './routes.ts'
import { createEgress } from './service.ts'

type Json = Record<string, unknown>

testDatabases('the network of sandboxes', (open) => {
  async function start() {
    const database = await open(sandboxMigrations)
    const driver = createModelDriver()
    const clock = manualClock(1_789_000_000_000)
    const connectOutward = () => new Promise<never>(() => {})
    const serve = async () => {
      const handlers: ConnectOptions['onEgress'][] = []
      const egress = createEgress({ database, clock, log: silentLogger, connectOutward })
      const sandboxes = createSandboxes({
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
        c.set('caller', { accountId: c.req.header('x-account') ?? 'acc_default', keyId: 'key_test' })
        await next()
      })
      addSandboxRoutes(api, sandboxes)
      addEgressRoutes(api, { sandboxes, egress })
      api.onError((error, c) => answerError(error, c as ApiContext, silentLogger))
      const isDocumented = createDocumentCheck(api)
      const call = async (method: string, path: string, body?: unknown, headers: Record<string, string> = {}) => {
        const answer = await api.request(`/v1/sandboxes${path}`, {
          method,
          headers: { 'content-type': 'application/json', ...headers },
          ...(body !== undefined && { body: JSON.stringify(body) }),
        })
        const text = await answer.text()
        const said = (text === '' ? {} : JSON.parse(text)) as Json
        const { code } = (said['error'] ?? {}) as Json
        isDocumented(method, `/v1/sandboxes${path}`, { status: answer.status, code })
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
      return { egress, sandboxes, call, ask, handlers }
    }
    return { serve }
  }

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

  test('its connections are counted for Prometheus', async () => {
    const { serve } = await start()
    const { call, ask, sandboxes, egress } = await serve()
    const metrics = createMetrics()
    egressFeature({ sandboxes, egress }).metrics!(metrics)
    await call('POST', '', {})
    ask('pypi.org')
    ask('pypi.org')
    const text = metrics.render()
    expect(text).toContain('delta_egress_connections_total{outcome="refused"} 2')
    expect(text).toContain('delta_egress_connections_open 0')
    await sandboxes.stop('leave')
  })
})
