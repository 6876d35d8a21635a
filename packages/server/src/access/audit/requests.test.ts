import { z } from '@hono/zod-openapi'
import { hash } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { createApp } from '../../app.ts'
import { systemClock } from '../../kernel/clock.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { Feature } from '../../kernel/http/api.ts'
import { createRoute } from '../../kernel/http/route.ts'
import { silentLogger } from '../../kernel/log.ts'
import { createMetrics } from '../../kernel/metrics.ts'
import { createCallerDoor } from '../authenticate.ts'
import { createDefaultKeyReader } from '../api-key.ts'
import type { KnownCaller } from '../door.ts'
import type { AuditEntry } from './entry.ts'
import { auditRefusals, auditRequests } from './requests.ts'

const done = { 200: { description: 'Done' } } as const
const params = z.object({ id: z.string().regex(/^[a-z_]+$/, 'letters only') })
const changeRoute = createRoute({
  method: 'post',
  path: '/v1/things/{id}',
  operationId: 'changeThing',
  needs: 'nothing',
  request: { params },
  responses: done,
})
const makeRoute = createRoute({
  method: 'post',
  path: '/v1/things',
  operationId: 'makeThing',
  needs: 'nothing',
  responses: done,
})
const readRoute = createRoute({
  method: 'get',
  path: '/v1/things/{id}',
  operationId: 'getThing',
  needs: 'nothing',
  request: { params },
  responses: done,
})
const execRoute = createRoute({
  method: 'post',
  path: '/v1/execs',
  operationId: 'createExec',
  needs: 'nothing',
  responses: done,
})
const stdinRoute = createRoute({
  method: 'post',
  path: '/v1/stdin',
  operationId: 'writeStdin',
  needs: 'nothing',
  responses: done,
})

const hiddenRoute = createRoute({
  method: 'get',
  path: '/v1/hidden',
  operationId: 'listHidden',
  needs: 'read:audit',
  responses: done,
})
const hiddenThingRoute = createRoute({
  method: 'get',
  path: '/v1/hidden/{id}',
  operationId: 'getHidden',
  needs: 'read:audit',
  request: { params },
  responses: done,
})

const agent: KnownCaller = {
  accountId: 'acc_default',
  actorId: 'agt_a',
  principal: {
    kind: 'agent',
    accountId: 'acc_default',
    agentId: 'agt_a',
    agentKind: 'main',
    jti: 'tok_a',
    rights: [],
  },
  ties: ['tok_a'],
  parents: ['key_root', 'tok_b'],
  above: ['agt_main', 'agt_b'],
  since: 0,
}

function things(work: { before?: () => Promise<void> | void }): Feature {
  return {
    name: 'things',
    routes(api) {
      api.openapi(changeRoute, async (c) => {
        await work.before?.()
        return c.json({ secret: 'planted' }, 200)
      })
      api.openapi(makeRoute, async (c) => {
        c.set('made', 'thg_1')
        c.set('told', { role: 'admin' })
        return c.json({}, 200)
      })
      api.openapi(readRoute, (c) => c.json({}, 200))
      api.openapi(execRoute, async (c) => {
        await work.before?.()
        return c.json({}, 200)
      })
      api.openapi(stdinRoute, async (c) => {
        await work.before?.()
        return c.json({}, 200)
      })
      api.openapi(hiddenRoute, (c) => c.json({}, 200))
      api.openapi(hiddenThingRoute, (c) => c.json({}, 200))
    },
  }
}

function startApp(work: { before?: () => Promise<void> | void; works?: boolean } = {}) {
  const entries: AuditEntry[] = []
  const audit = {
    async record(entry: AuditEntry) {
      entries.push(entry)
    },
    mustWork() {
      if (work.works === false) throw new DeltaError('audit_unavailable', 'It is away')
    },
  }
  const { api } = createApp({
    features: [things(work)],
    access: createCallerDoor({
      readers: [
        { fits: (token) => token === 'agent', read: () => agent },
        createDefaultKeyReader({ sha256: hash('sha256', 'k') }),
      ],
      revocations: { isRevoked: () => false, onRevoked: () => {} },
      clock: systemClock,
    }),
    watchRequests: auditRequests(audit),
    watchRefusals: auditRefusals(audit),
    log: silentLogger,
    clock: systemClock,
    metrics: createMetrics(),
    checkDatabase: async () => {},
    settings: { version: '0', host: '127.0.0.1', hosts: [], environment: 'production', installation: () => ({}) },
  })
  const send = (method: string, path: string, headers: Record<string, string> = { authorization: 'Bearer k' }) =>
    api.request(path.startsWith('/') ? `http://127.0.0.1${path}` : path, { method, headers })
  return { send, entries }
}

describe('requests in the audit log', () => {
  test('a change is an entry with its caller, its operation and what it was done to, and nothing of its content', async () => {
    const { send, entries } = startApp()
    await send('POST', '/v1/things/sbx_abc')
    await send('POST', '/v1/things')
    expect(entries).toMatchObject([
      { accountId: 'acc_default', actorId: 'key_default', action: 'changeThing', target: 'sbx_abc', outcome: 'done' },
      { action: 'makeThing', target: 'thg_1', outcome: 'done', details: { role: 'admin' } },
    ])
    expect(entries[0]!.requestId).toMatch(/^req_/)
    expect(JSON.stringify(entries)).not.toContain('planted')
  })

  test('a text that is no id is not kept, whether or not it is refused, nor if only looking at it is', async () => {
    const { send, entries } = startApp()
    expect((await send('POST', '/v1/things/hunter')).status).toBe(200)
    expect((await send('POST', '/v1/things/My-Passw0rd%20x')).status).toBe(400)
    expect((await send('GET', '/v1/hidden/hunter', { authorization: 'Bearer agent' })).status).toBe(403)
    expect(entries.map(({ target }) => target)).toEqual(['(not an id)', '(not an id)', '(not an id)'])
    expect(JSON.stringify(entries)).not.toMatch(/hunter|Passw0rd/)
  })

  test('what an agent did leads back to its token, to the agents that made it and to the key or session at the root', async () => {
    const { send, entries } = startApp()
    await send('POST', '/v1/things/abc', { authorization: 'Bearer agent' })
    const details = { token: 'tok_a', root: 'key_root', above: 'agt_main agt_b' }
    expect(entries).toMatchObject([{ actorId: 'agt_a', details }])
  })

  test('what only looks, what nobody known sent and what is part of another act leave no entry', async () => {
    const { send, entries } = startApp()
    await send('GET', '/v1/things/abc')
    await send('HEAD', '/v1/things/abc')
    expect((await send('POST', '/v1/things/abc', {})).status).toBe(401)
    await send('POST', '/v1/stdin')
    expect((await send('POST', '/v1/nothing')).status).toBe(404)
    expect(entries).toEqual([])
  })

  test('a refusal is an entry with its code, and so is a fault', async () => {
    const { send, entries } = startApp({
      before: () => {
        throw new DeltaError('sandbox_not_found', 'There is none')
      },
    })
    expect((await send('POST', '/v1/things/abc')).status).toBe(404)
    expect((await send('POST', '/v1/things/12')).status).toBe(400)
    const broken = startApp({
      before: () => {
        throw new TypeError('a bug')
      },
    })
    expect((await broken.send('POST', '/v1/things/abc')).status).toBe(500)
    expect([...entries, ...broken.entries].map(({ outcome, reason }) => [outcome, reason])).toEqual([
      ['refused', 'sandbox_not_found'],
      ['refused', 'invalid_request'],
      ['failed', 'internal'],
    ])
  })

  test('a look is an entry where the right to it is missing', async () => {
    const { send, entries } = startApp()
    expect((await send('GET', '/v1/hidden', { authorization: 'Bearer agent' })).status).toBe(403)
    expect((await send('GET', '/v1/things/12', { authorization: 'Bearer agent' })).status).toBe(400)
    expect((await send('GET', '/v1/hidden')).status).toBe(200)
    expect(entries).toMatchObject([{ actorId: 'agt_a', action: 'listHidden', outcome: 'refused', reason: 'forbidden' }])
  })

  test('a good key sent to a name that the server does not go by is an entry of its account; a bad one and none are not', async () => {
    const { send, entries } = startApp()
    for (const path of ['/v1/things/abc', '/v1/nothing'] as const) {
      expect(
        (await send('POST', `http://evil.example${path}`, { authorization: 'Bearer k', origin: 'o' })).status,
      ).toBe(403)
      expect((await send('GET', `http://evil.example${path}`, { authorization: 'Bearer agent' })).status).toBe(403)
      expect((await send('POST', `http://evil.example${path}`, { authorization: 'Bearer x' })).status).toBe(403)
      expect((await send('POST', `http://evil.example${path}`, {})).status).toBe(403)
    }
    expect(entries).toHaveLength(4)
    expect(entries).toMatchObject([
      {
        accountId: 'acc_default',
        actorId: 'key_default',
        action: 'request.refused',
        outcome: 'refused',
        reason: 'host_not_allowed',
        details: { method: 'POST', origin: 'o' },
      },
      { actorId: 'agt_a', details: { token: 'tok_a', root: 'key_root', method: 'GET', origin: null } },
      {},
      {},
    ])
  })

  test('bytes typed into something are an entry where they are refused', async () => {
    const { send, entries } = startApp({
      before: () => {
        throw new DeltaError('sandbox_not_running', 'It is stopped')
      },
    })
    await send('POST', '/v1/stdin')
    expect(entries).toMatchObject([{ action: 'writeStdin', outcome: 'refused', reason: 'sandbox_not_running' }])
  })

  test('a command is written down before it runs, and its refusal after', async () => {
    let seen: AuditEntry[] = []
    const { send, entries } = startApp({
      before: () => {
        seen = [...entries]
        throw new DeltaError('sandbox_not_running', 'It is stopped')
      },
    })
    await send('POST', '/v1/execs')
    expect(seen).toMatchObject([{ action: 'createExec', outcome: 'begun' }])
    expect(entries.map(({ outcome }) => outcome)).toEqual(['begun', 'refused'])
  })

  test('while the log can not be written nothing is changed', async () => {
    let worked = false
    const { send } = startApp({ works: false, before: () => void (worked = true) })
    expect((await send('POST', '/v1/things/abc')).status).toBe(503)
    expect(worked).toBe(false)
    expect((await send('GET', '/v1/things/abc')).status).toBe(200)
  })
})
