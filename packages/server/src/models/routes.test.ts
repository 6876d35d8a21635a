import { afterEach, expect, test } from 'vitest'
import { testDoor, testKeyPrincipal } from '../access/testing.ts'
import { right, rightsOfRole } from '../access/rights.ts'
import type { Principal, Role } from '../access/principal.ts'
import { createApp } from '../app.ts'
import { systemClock } from '../kernel/clock.ts'
import { rawQuery } from '../kernel/db/compile.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { silentLogger } from '../kernel/log.ts'
import { createMetrics } from '../kernel/metrics.ts'
import { modelsFeature } from './routes.ts'
import { answering, startPlainPeer, used } from './testing/plain.ts'
import type { Asked, PlainPeer, Script } from './testing/plain.ts'
import { modelTestMigrations, startModels, testCall } from './testing/start.ts'
import type { TestModelsOptions } from './testing/start.ts'

const ofRole = (role: Role, accountId = 'acc_a') =>
  testKeyPrincipal({ accountId, keyId: `key_${role}`, role, rights: rightsOfRole(role) })
const callers = {
  owner: ofRole('owner'),
  admin: ofRole('admin'),
  member: ofRole('member'),
  viewer: ofRole('viewer'),
  other: ofRole('owner', 'acc_b'),
  reader: testKeyPrincipal({ accountId: 'acc_a', rights: [right('read:*')] }),
  agent: {
    kind: 'agent',
    accountId: 'acc_a',
    agentId: 'agt_a',
    agentKind: 'main',
    jti: 'jti_a',
    rights: [right('read:agents')],
  },
} as const satisfies Record<string, Principal>

testDatabases('models over HTTP', (open) => {
  const peers: PlainPeer[] = []
  afterEach(async () => {
    for (const peer of peers.splice(0)) await peer.close()
  })

  async function start(options: TestModelsOptions = {}, { served = '{"data":[]}' } = {}) {
    const database = await open(modelTestMigrations)
    const script = (_asked: Asked): Script => answering(used(10, 1))
    const [operators, providers] = [
      await startPlainPeer(script, { served: () => served }),
      await startPlainPeer(script),
    ]
    peers.push(operators, providers)
    const publicBaseUrls = { anthropic: providers.url, google: providers.url }
    const { models, ledger } = startModels(database, operators.url, {
      ...options,
      deps: { publicBaseUrls, ...options.deps },
    })
    const { api } = createApp({
      features: [modelsFeature({ models })],
      access: testDoor(callers),
      log: silentLogger,
      clock: systemClock,
      metrics: createMetrics(),
      checkDatabase: database.check,
      settings: { version: '0', host: '127.0.0.1', hosts: [], environment: 'production', installation: () => ({}) },
    })
    const send = async (as: keyof typeof callers, method: string, path: string, body?: object) => {
      const headers = { authorization: `Bearer ${as}`, 'content-type': 'application/json' }
      const init = { method, headers, ...(body && { body: JSON.stringify(body) }) }
      const response = await api.request(`http://127.0.0.1/v1${path}`, init)
      const text = await response.text()
      return { status: response.status, body: (text === '' ? undefined : JSON.parse(text)) as unknown }
    }
    return { database, send, models, ledger, operators, providers }
  }

  const apiKey = 'sk-account-1234'

  test('a key of one’s own is used from the next call on, and goes to the provider alone', async () => {
    const { send, models, operators, providers, ledger } = await start()
    await models.call(testCall())
    expect([operators.asked.length, providers.asked.length]).toEqual([1, 0])
    const set = await send('admin', 'PUT', '/model-keys/anthropic', { apiKey })
    expect(set).toMatchObject({ status: 200, body: { provider: 'anthropic', last: '1234', setBy: 'key_admin' } })
    expect(JSON.stringify(set)).not.toContain(apiKey)
    const reply = await models.call(testCall())
    expect([operators.asked.length, providers.asked.length]).toEqual([1, 1])
    expect(providers.asked[0]!.headers.authorization).toBe(`Bearer ${apiKey}`)
    // Metered, at nothing; also with an empty purse.
    expect(reply).toMatchObject({ cost: 0, usage: { input: 10, output: 1 } })
    expect(await ledger.balanceOf('acc_a', 'acc_a:reserve')).toMatchObject({ used: 45 })
    // Of another account nothing has changed.
    await models.call(testCall({ accountId: 'acc_b', payer: 'acc_b:reserve' }))
    expect([operators.asked.length, providers.asked.length]).toEqual([2, 1])
    expect((await send('admin', 'DELETE', '/model-keys/anthropic')).status).toBe(204)
    await models.call(testCall())
    expect([operators.asked.length, providers.asked.length]).toEqual([3, 1])
    expect(await send('admin', 'DELETE', '/model-keys/anthropic')).toMatchObject({
      status: 404,
      body: { error: { code: 'model_key_not_found' } },
    })
  })

  test('with a rate of its own a call with one’s own key costs that', async () => {
    const unit = { unit: 'x', perMillion: 1_000_000 }
    const meters = { 'model:anthropic/*:own_key_input': unit, 'model:anthropic/*:own_key_output': unit }
    const { send, models } = await start({ meters })
    await send('owner', 'PUT', '/model-keys/anthropic', { apiKey })
    // A model that has no price otherwise.
    expect(await models.call(testCall({ models: ['anthropic/anything'] }))).toMatchObject({ cost: 11 })
  })

  test('owners and admins set keys, members see that there are some, and nobody else', async () => {
    const { send } = await start()
    for (const as of ['member', 'viewer', 'reader', 'agent'] as const) {
      expect([as, (await send(as, 'PUT', '/model-keys/google', { apiKey })).status]).toEqual([as, 403])
      expect([as, (await send(as, 'DELETE', '/model-keys/google')).status]).toEqual([as, 403])
    }
    await send('owner', 'PUT', '/model-keys/google', { apiKey })
    await send('admin', 'PUT', '/model-keys/google', { apiKey: `${apiKey}5` })
    const listed = await send('member', 'GET', '/model-keys')
    expect(listed).toMatchObject({
      status: 200,
      body: { data: [{ provider: 'google', last: '2345', setBy: 'key_admin' }] },
    })
    for (const as of ['viewer', 'agent'] as const) expect((await send(as, 'GET', '/model-keys')).status).toBe(403)
    expect((await send('other', 'GET', '/model-keys')).body).toEqual({ data: [] })
  })

  test.each([
    ['no key', 'anthropic', {}],
    ['a short one', 'anthropic', { apiKey: 'short' }],
    ['one with a line break', 'anthropic', { apiKey: 'sk-account-1\nx: y' }],
    ['a server of one’s own', 'anthropic', { apiKey, baseUrl: 'http://10.0.0.1' }],
    ['a key for the operator’s own server', 'openai', { apiKey }],
  ])('%s is refused', async (_what, provider, body) => {
    const { send } = await start()
    expect((await send('owner', 'PUT', `/model-keys/${provider}`, body)).status).toBe(400)
    expect((await send('owner', 'GET', '/model-keys')).body).toEqual({ data: [] })
  })

  test('a key that can not be opened any more is refused by name, and not passed over', async () => {
    const { database, send, models, operators } = await start()
    await send('owner', 'PUT', '/model-keys/anthropic', { apiKey })
    await database.run(rawQuery(`update model_keys set account_id = 'acc_b'`))
    const call = testCall({ accountId: 'acc_b', payer: 'acc_b:reserve' })
    await expect(models.call(call)).rejects.toMatchObject({ code: 'model_key_unreadable', status: 409 })
    expect(operators.asked).toEqual([])
    const { data } = (await send('other', 'GET', '/models')).body as {
      data: { provider: string; reason: { code: string } | null }[]
    }
    expect(data.find(({ provider }) => provider === 'anthropic')?.reason?.code).toBe('model_key_unreadable')
  })

  interface Listed {
    data: {
      id: string
      usable: boolean
      reason: { code: string; message: string; remediation: string } | null
      prices: { input: number } | null
      ownKey: boolean
    }[]
    providers: { provider: string; usable: boolean; reason: { code: string } | null }[]
    default: string | null
  }
  const unset = { apiKey: undefined, baseUrl: undefined }

  test('models are listed with their prices, and why some can not be used', async () => {
    const served = JSON.stringify({ data: [{ id: 'llama3.2' }, { id: 'Qwen/Qwen3-8B' }, { id: 'no name' }, { id: 7 }] })
    const settings = { google: unset, defaultModel: 'anthropic/claude-sonnet-5-5', localModels: ['llama3.2'] }
    const { send } = await start({ settings }, { served })
    const { data, providers, default: byDefault } = (await send('viewer', 'GET', '/models')).body as Listed
    const of = (id: string) => data.find((model) => model.id === id)
    expect(of('anthropic/claude-sonnet-5-5')).toMatchObject({
      usable: true,
      reason: null,
      prices: { input: 200, cacheRead: 10, cacheWrite: 250, cacheWriteHour: 400, output: 1_000 },
      longPrices: [],
      contextTokens: 1_000_000,
      maxOutputTokens: 128_000,
    })
    expect(of('anthropic/claude-haiku-5-5')).toMatchObject({ longPrices: [{ overTokens: 100_000, input: 50 }] })
    expect(of('google/gemini-2.5-pro')).toMatchObject({ usable: false, reason: { code: 'model_key_missing' } })
    expect(of('google/gemini-2.5-pro')!.reason!.message).toContain('GEMINI_API_KEY')
    expect(of('openai/llama3.2')).toMatchObject({ usable: true, prices: { input: 0 }, contextTokens: null })
    expect(of('openai/Qwen/Qwen3-8B')).toMatchObject({ usable: false, reason: { code: 'model_not_priced' } })
    expect(data.filter(({ id }) => id.startsWith('openai/'))).toHaveLength(2)
    expect(providers).toMatchObject([
      { provider: 'anthropic', usable: true },
      { provider: 'google', usable: false, reason: { code: 'model_key_missing' } },
      { provider: 'openai', usable: true },
    ])
    expect(byDefault).toBe('anthropic/claude-sonnet-5-5')
    await send('owner', 'PUT', '/model-keys/google', { apiKey })
    const after = (await send('agent', 'GET', '/models')).body as Listed
    expect(after.data.find(({ id }) => id === 'google/gemini-2.5-pro')).toMatchObject({
      usable: true,
      ownKey: true,
      prices: { input: 0 },
    })
  })

  test.each([
    ['nothing that could be read', 'no JSON'],
    ['more than is read', `{"data":[],"x":"${'x'.repeat(1_100_000)}"}`],
  ])('a local server that says %s hides no other model', async (_what, served) => {
    const { send } = await start({}, { served })
    const { data } = (await send('owner', 'GET', '/models')).body as Listed
    expect(data.length).toBeGreaterThan(10)
    expect(data.every(({ id }) => !id.startsWith('openai/'))).toBe(true)
  })

  test('without any key every model says which variable to set', async () => {
    const { send, models } = await start({ settings: { anthropic: unset, google: unset, openai: unset } })
    const { data } = (await send('owner', 'GET', '/models')).body as Listed
    expect(data.every(({ usable }) => !usable)).toBe(true)
    for (const [model, variable] of [
      ['anthropic/plain', 'ANTHROPIC_API_KEY'],
      ['google/plain', 'GEMINI_API_KEY'],
      ['openai/plain', 'OPENAI_BASE_URL'],
    ] as const) {
      await expect(models.call(testCall({ models: [model] }))).rejects.toMatchObject({
        code: 'model_key_missing',
        message: expect.stringContaining(variable),
        context: { variable },
        remediation: expect.stringContaining('delta demo'),
      })
    }
  })

  test('a model is resolved to what a task needs to know of it', async () => {
    const { models } = await start({ settings: { defaultModel: 'anthropic/plain' } })
    expect(await models.resolve(undefined, 'acc_a')).toMatchObject({
      model: 'anthropic/plain',
      name: 'plain',
      price: 15,
      ownKey: false,
    })
    expect(await models.resolve('google/gemini-2.5-pro', 'acc_a')).toMatchObject({
      maxOutputTokens: 65_536,
      price: 1_500,
    })
    for (const wrong of ['plain', 'other/plain', 'anthropic/', 'anthropic/../x y', '__proto__/x'])
      await expect(models.resolve(wrong, 'acc_a')).rejects.toMatchObject({ code: 'model_not_found' })
    const { models: without } = await start()
    await expect(without.resolve(undefined, 'acc_a')).rejects.toMatchObject({
      code: 'model_not_found',
      message: expect.stringContaining('DELTA_MODEL'),
    })
  })
})
