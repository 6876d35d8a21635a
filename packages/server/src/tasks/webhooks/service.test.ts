import { execFileSync } from 'node:child_process'
import { createHmac, randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { AuditEntry } from '../../access/audit/entry.ts'
import type { KnownCaller } from '../../access/door.ts'
import { right, rightsOfRole } from '../../access/rights.ts'
import { createBox } from '../../access/secrets.ts'
import { testCaller, testKeyPrincipal } from '../../access/testing.ts'
import { manualClock } from '../../kernel/clock.ts'
import type { BatchStep, Database } from '../../kernel/db/database.ts'
import { rawQuery } from '../../kernel/db/compile.ts'
import { guardWrites, testDatabases } from '../../kernel/db/testing.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { silentLogger } from '../../kernel/log.ts'
import type { TaskView } from '../schema.ts'
import { webhookLimits } from './limits.ts'
import { webhookMigrations } from './migrations.ts'
import type { WebhookEvent } from './record.ts'
import { pauseAfter, signedHeaders } from './rules.ts'
import { createWebhookSchema, deliveryListQuerySchema, updateWebhookSchema } from './schema.ts'
import { createDeliverySteps, createWebhooks, type WebhooksDeps } from './service.ts'
import { type Receiver, startReceiver, testNetwork } from './testing.ts'

const accountId = 'acc_a'
const begin = Date.parse('2026-11-23T09:30:00Z')
const day = 86_400_000
const anna = testCaller({
  kind: 'user',
  accountId,
  userId: 'usr_anna',
  sessionId: 'ses_a',
  role: 'member',
  secondFactor: false,
})
const bert = testCaller({
  kind: 'user',
  accountId,
  userId: 'usr_bert',
  sessionId: 'ses_b',
  role: 'owner',
  secondFactor: false,
})
const viewer = testCaller({
  kind: 'user',
  accountId,
  userId: 'usr_v',
  sessionId: 'ses_v',
  role: 'viewer',
  secondFactor: false,
})
const stranger = testCaller({
  kind: 'user',
  accountId: 'acc_b',
  userId: 'usr_s',
  sessionId: 'ses_s',
  role: 'owner',
  secondFactor: false,
})
const keyFor = (agents: string[]) =>
  testCaller(
    testKeyPrincipal({
      accountId,
      keyId: 'key_k',
      userId: 'usr_anna',
      role: 'member',
      agents,
      rights: rightsOfRole('member'),
    }),
  )
const agent = testCaller({
  kind: 'agent',
  accountId,
  agentId: 'agt_a',
  agentKind: 'main',
  jti: 'tok_a',
  rights: ['read:tasks', 'write:tasks'].map(right),
})
const page = deliveryListQuerySchema.parse({})
const wish = (url: string, more: object = {}) =>
  createWebhookSchema.parse({ url, events: ['task.finished', 'task.failed', 'task.needs_decision'], ...more })

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    (done) => `done: ${JSON.stringify(done)}`,
    (error: unknown) => (error instanceof DeltaError ? error.code : String(error)),
  )
}

const until = async (isTrue: () => boolean) => {
  while (!isTrue()) await new Promise((resolve) => setTimeout(resolve, 1))
}

function taskView(id: string): TaskView {
  return {
    id,
    agentId: 'agt_a',
    parentTaskId: null,
    forkedFrom: null,
    state: 'finished',
    reason: 'done',
    message: null,
    lastEvent: 1,
    waitsFor: [],
    text: 'Read the news — naïve ✓',
    model: 'anthropic/claude-sonnet-4-5',
    engine: 'delta',
    chat: false,
    turn: 1,
    step: 1,
    maxSteps: 200,
    tokenBudget: null,
    paidBy: null,
    usage: { input: 1, cacheRead: 0, cacheWrite: 0, output: 1, tokens: 1, estimated: false },
    untrusted: false,
    metadata: {},
    createdBy: 'usr_anna',
    createdAt: new Date(begin).toISOString(),
    startedAt: null,
    endedAt: null,
    timeLimitMs: 1_000,
  }
}

test('what is signed is what Standard Webhooks says', () => {
  // The example of github.com/standard-webhooks/standard-webhooks and its libraries.
  const signed = signedHeaders(
    {
      id: 'msg_p5jXN8AQM9LWM0D4loKWxJek',
      body: '{"test": 2432232314}',
      secret: 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
    },
    1_614_265_330_000,
  )
  expect(signed).toEqual({
    'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
    'webhook-timestamp': '1614265330',
    'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
  })
})

test('the pauses grow, are about three days in all, and have an end', () => {
  const pauses = webhookLimits.pausesMs.map((_, at) => pauseAfter(at + 1, { chance: 0 })!)
  expect(pauses).toEqual(pauses.toSorted((a, b) => a - b))
  const sum = pauses.reduce((all, one) => all + one, 0)
  expect(sum).toBeGreaterThan(2.8 * day)
  expect(sum * (1 + webhookLimits.jitter)).toBeLessThan(3.4 * day)
  expect(pauseAfter(webhookLimits.pausesMs.length + 1, { chance: 1 })).toBeUndefined()
  expect(pauseAfter(1, { chance: 1 })).toBe(5_500)
  expect(pauseAfter(1, { chance: 1, retryAfterMs: 60_000 })).toBe(60_000)
  expect(pauseAfter(1, { chance: 1, retryAfterMs: 1e12 })).toBe(webhookLimits.longestPauseMs)
})

testDatabases('webhooks', (open) => {
  async function start({ names = {}, ca }: { names?: Record<string, () => string[]>; ca?: string } = {}) {
    const database: Database = (await open(webhookMigrations)).of()
    const clock = manualClock(begin)
    const audit: AuditEntry[] = []
    const world = { mayStill: true, views: 0, isTaskGone: false }
    const { network, tried } = testNetwork(clock, { names, ...(ca !== undefined && { ca }) })
    const serve = (through: Partial<WebhooksDeps> = {}) =>
      createWebhooks({
        database,
        network,
        box: createBox(Buffer.alloc(32, 7)),
        findAgent: (id, account) =>
          account === accountId && ['agt_a', 'agt_b'].includes(id)
            ? { id, kind: 'bot', state: 'active', mayAct: true, isAtRest: false, line: [id], rights: [] }
            : undefined,
        async taskView(_, id) {
          world.views += 1
          return world.isTaskGone ? undefined : taskView(id)
        },
        mayStill: async () => world.mayStill,
        record: async (entry) => void audit.push(entry),
        clock,
        log: silentLogger,
        ...through,
      })
    const webhooks = serve()
    const stepsOf = createDeliverySteps(database)
    const happens = async (type: WebhookEvent = 'task.finished', more: object = {}, others: BatchStep[] = []) =>
      database.batch([
        ...stepsOf({ type, accountId, agentId: 'agt_a', taskId: 'tsk_a', at: clock.now(), ...more }),
        ...others,
      ])
    const go = async (server = webhooks) => {
      await server.look()
      await server.settled()
    }
    const deliveries = async (id: string) => (await webhooks.listDeliveries(id, page, bert)).data
    const receiver = async (tls?: { key: string; cert: string }): Promise<Receiver> => {
      const one = await startReceiver(tls)
      onTestFinished(() => one.close())
      return one
    }
    return { database, clock, audit, world, tried, network, serve, webhooks, happens, go, deliveries, receiver }
  }

  /** One receiver with its webhook. */
  async function started() {
    const all = await start()
    const peer = await all.receiver()
    const { id, secret } = await all.webhooks.create(wish(peer.url), anna)
    return { ...all, peer, id, secret }
  }

  describe('what happened', () => {
    test('is told once, signed, with the task as it is', async () => {
      const { happens, go, peer, id, secret, deliveries, clock } = await started()
      expect(await happens()).toMatchObject({ applied: true })
      clock.jump(2_000)
      await go()
      await go()
      expect(peer.received).toHaveLength(1)
      const { headers, body, path } = peer.received[0]!
      expect(path).toBe('/hook?key=k')
      expect(JSON.parse(body)).toEqual({
        type: 'task.finished',
        timestamp: new Date(begin).toISOString(),
        data: taskView('tsk_a'),
      })
      expect(headers['webhook-timestamp']).toBe(String((begin + 2_000) / 1_000))
      const key = Buffer.from(secret.replace('whsec_', ''), 'base64')
      expect(key).toHaveLength(32)
      const mac = createHmac('sha256', key)
        .update(`${headers['webhook-id'] as string}.${headers['webhook-timestamp'] as string}.${body}`)
        .digest('base64')
      expect(headers['webhook-signature']).toBe(`v1,${mac}`)
      expect(await deliveries(id)).toMatchObject([
        { id: headers['webhook-id'], state: 'delivered', tries: 1, lastStatus: 200, taskId: 'tsk_a', nextTryAt: null },
      ])
    })

    test('is told if and only if its batch was', async () => {
      const { happens, go, peer, id, deliveries } = await started()
      const never: BatchStep = { query: rawQuery("update webhooks set url = url where id = 'none'"), mustChange: 1 }
      expect(await happens('task.finished', {}, [never])).toMatchObject({ applied: false })
      await go()
      expect([peer.received, await deliveries(id)]).toEqual([[], []])
    })

    test('is told to those that asked for it, each under an id of its own', async () => {
      const { webhooks, happens, go, receiver, deliveries } = await start()
      const peer = await receiver()
      const make = (path: string, more: object, caller = anna) =>
        webhooks.create(wish(`http://127.0.0.1:${peer.port}/${path}`, more), caller)
      await make('all', {})
      await make('agent', { agentId: 'agt_a' })
      await make('other-agent', { agentId: 'agt_b' })
      await make('failed', { events: ['task.failed'] })
      await make('stranger', {}, stranger)
      const { id } = await make('paused', {})
      await webhooks.update(id, updateWebhookSchema.parse({ enabled: false }), anna)
      await happens()
      await go()
      expect(peer.received.map(({ path }) => path).toSorted()).toEqual(['/agent', '/all'])
      expect(new Set(peer.received.map(({ headers }) => headers['webhook-id'])).size).toBe(2)
      await happens('task.failed')
      await go()
      expect(peer.received.map(({ path }) => path).toSorted()).toEqual(['/agent', '/agent', '/all', '/all', '/failed'])
      await happens('task.needs_decision', { agentId: 'agt_b' })
      await go()
      expect(
        peer.received
          .slice(5)
          .map(({ path }) => path)
          .toSorted(),
      ).toEqual(['/all', '/other-agent'])
      expect(await deliveries(id)).toEqual([])
    })

    test('of a task that is gone has nothing to tell', async () => {
      const { happens, go, peer, id, deliveries, world } = await started()
      world.isTaskGone = true
      await happens()
      await go()
      expect(peer.received).toEqual([])
      expect(await deliveries(id)).toMatchObject([{ state: 'failed', tries: 0, lastError: 'The task is gone' }])
    })
  })

  describe('what does not arrive', () => {
    test.each([500, 404, 301, 302, 307])(
      'is tried again after an answer of %i, and no redirect is followed',
      async (status) => {
        const { happens, go, peer, id, deliveries, clock, world } = await started()
        const elsewhere = `http://127.0.0.1:${peer.port}/elsewhere`
        peer.answers.push({ status, headers: { location: elsewhere } })
        await happens()
        await go()
        expect(await deliveries(id)).toMatchObject([{ state: 'waiting', tries: 1, lastStatus: status }])
        await go()
        expect(peer.received).toHaveLength(1)
        clock.jump(6_000)
        await go()
        expect(peer.received.map(({ path }) => path)).toEqual(['/hook?key=k', '/hook?key=k'])
        const [first, second] = peer.received
        expect([second!.headers['webhook-id'], second!.body]).toEqual([first!.headers['webhook-id'], first!.body])
        expect(second!.headers['webhook-timestamp']).not.toBe(first!.headers['webhook-timestamp'])
        expect(await deliveries(id)).toMatchObject([{ state: 'delivered', tries: 2 }])
        expect(world.views).toBe(1)
      },
    )

    test('waits as long as the receiver asks', async () => {
      const { happens, go, peer, id, deliveries } = await started()
      peer.answers.push({ status: 429, headers: { 'retry-after': '3600' } })
      await happens()
      await go()
      const [delivery] = await deliveries(id)
      expect(Date.parse(delivery!.nextTryAt!) - begin).toBe(3_600_000)
    })

    test('because nobody answers is given up in time', async () => {
      const { happens, webhooks, peer, id, deliveries, clock } = await started()
      peer.answers.push('never')
      await happens()
      await webhooks.look()
      await until(() => peer.received.length === 1)
      await clock.advance(webhookLimits.timeoutMs)
      await webhooks.settled()
      expect(await deliveries(id)).toMatchObject([
        { state: 'waiting', tries: 1, lastStatus: null, lastError: 'It did not answer within 10 s' },
      ])
    })

    test('because nobody listens is tried again, and an answer without end is not read', async () => {
      const { happens, go, peer, id, deliveries, clock } = await started()
      peer.answers.push('endless')
      await happens()
      await go()
      expect(await deliveries(id)).toMatchObject([{ state: 'delivered' }])
      peer.close()
      await happens()
      await go()
      expect((await deliveries(id)).find(({ state }) => state === 'waiting')).toMatchObject({
        tries: 1,
        lastStatus: null,
      })
      clock.jump(1)
    })

    test('is given up after the last try, and can be sent once more', async () => {
      const { happens, go, peer, id, deliveries, clock, webhooks } = await started()
      const tries = webhookLimits.pausesMs.length + 1
      peer.answers.push(...Array.from({ length: tries }, () => 503))
      await happens()
      for (let i = 0; i < tries + 2; i++) {
        await go()
        clock.jump(day)
      }
      expect(peer.received).toHaveLength(tries)
      const [failed] = await deliveries(id)
      expect(failed).toMatchObject({ state: 'failed', tries, lastError: 'It answered 503' })
      expect(await webhooks.deliver(id, failed!.id, anna)).toMatchObject({ state: 'waiting', tries: 0 })
      expect(await codeOf(webhooks.deliver(id, failed!.id, anna))).toBe('delivery_waiting')
      await go()
      expect(await deliveries(id)).toMatchObject([{ id: failed!.id, state: 'delivered', tries: 1 }])
      expect(await webhooks.get(id, anna)).toMatchObject({ failures: 0, failingSince: null })
    })

    test('too often for too long disables the webhook; an outage with many events does not', async () => {
      const { happens, go, peer, id, clock, webhooks, audit, deliveries } = await started()
      const { tries } = webhookLimits.failing
      peer.answers.push(...Array.from({ length: 200 }, () => 500))
      for (let i = 0; i < tries + 5; i++) await happens()
      for (let i = 0; i < tries; i++) await go()
      expect(await webhooks.get(id, anna)).toMatchObject({ state: 'active', failures: tries + 5 })
      clock.jump(day)
      await go()
      expect(await webhooks.get(id, anna)).toMatchObject({ state: 'disabled', reason: 'failing' })
      expect(new Set((await deliveries(id)).map(({ state }) => state))).toEqual(new Set(['canceled']))
      expect(audit).toMatchObject([{ action: 'webhook.disabled', target: id, reason: 'failing' }])
      await happens()
      expect(await deliveries(id)).toHaveLength(tries + 5)
      const anew = await webhooks.update(id, updateWebhookSchema.parse({ enabled: true }), bert)
      expect(anew).toMatchObject({ state: 'active', reason: null, failures: 0, createdBy: 'usr_bert' })
    })

    test('because the receiver is gone for good disables it at once', async () => {
      const { happens, go, peer, id, webhooks } = await started()
      peer.answers.push(410)
      await happens()
      await go()
      expect(await webhooks.get(id, anna)).toMatchObject({ state: 'disabled', reason: 'gone' })
    })
  })

  test.each([
    ['asker_gone', { mayStill: false }, {}],
    ['secret_unreadable', {}, { box: createBox(randomBytes(32)) }],
  ] as const)('a webhook is disabled and nothing is sent: %s', async (reason, changes, through) => {
    const { happens, go, peer, id, webhooks, world, serve, deliveries } = await started()
    Object.assign(world, changes)
    await happens()
    await go(serve(through))
    expect(peer.received).toEqual([])
    expect(await webhooks.get(id, bert)).toMatchObject({ state: 'disabled', reason })
    expect(await deliveries(id)).toMatchObject([{ state: 'canceled' }])
  })

  describe('private addresses', () => {
    test.each([
      '10.0.0.1',
      '169.254.169.254',
      '192.168.1.1',
      '127.0.0.2',
      '100.100.100.200',
      '[::1]',
      '[fd00:ec2::254]',
    ])('%s is refused when it is named, and no packet leaves', async (host) => {
      const { webhooks, tried } = await start({ names: { 'inner.example': () => ['10.1.2.3'] } })
      for (const url of [`https://${host}/`, `http://${host}/`, 'https://inner.example/', 'http://inner.example/']) {
        expect(await codeOf(webhooks.create(wish(url), anna))).toBe('webhook_address_refused')
      }
      expect(tried).toEqual([])
    })

    test('to which a name leads later are refused at each try, and no packet leaves', async () => {
      let address = ['93.184.216.34']
      const { webhooks, tried, happens, go, clock, deliveries } = await start({
        names: { 'rebind.example': () => address },
      })
      const { id } = await webhooks.create(wish('https://rebind.example/'), anna)
      address = ['169.254.169.254']
      await clock.advance(10_000)
      await happens()
      await go()
      expect(tried).toEqual([])
      const [delivery] = await deliveries(id)
      expect(delivery).toMatchObject({ state: 'waiting', tries: 1, lastStatus: null })
      expect(delivery!.lastError).toContain('not public')
      expect(delivery!.lastError).not.toContain('169.254')
    })

    test('without TLS only what the operator lists is reached, also where its name leads elsewhere later', async () => {
      let address = ['93.184.216.34']
      const { webhooks, tried, happens, go, clock, deliveries, receiver } = await start({
        names: { 'plain.example': () => address },
      })
      const peer = await receiver()
      const url = `http://plain.example:${peer.port}/`
      expect(await codeOf(webhooks.create(wish(url), anna))).toBe('webhook_address_refused')
      expect(await codeOf(webhooks.create(wish('http://unknown.example/'), anna))).toBe('webhook_address_refused')
      address = ['127.0.0.1']
      await clock.advance(10_000)
      const { id } = await webhooks.create(wish(url), anna)
      await happens()
      await go()
      expect(peer.received).toHaveLength(1)
      address = ['93.184.216.34']
      await clock.advance(10_000)
      await happens()
      await go()
      expect(tried).toEqual([`127.0.0.1:${peer.port}`])
      expect((await deliveries(id)).filter(({ state }) => state === 'waiting')).toHaveLength(1)
    })

    test('nor does a change lead to one', async () => {
      const { webhooks, id, tried } = await started()
      const change = updateWebhookSchema.parse({ url: 'https://10.0.0.1/' })
      expect(await codeOf(webhooks.update(id, change, anna))).toBe('webhook_address_refused')
      expect(tried).toEqual([])
    })
  })

  describe('servers', () => {
    test('of which one dies in the middle of sending lose nothing: it is sent again under the same id', async () => {
      for (let killedAt = 1; killedAt <= 2; killedAt++) {
        const { database, happens, go, peer, id, serve, deliveries, clock } = await started()
        await happens()
        let writes = 0
        const dying = guardWrites(database, () =>
          ++writes >= killedAt ? new Promise<void>(() => {}) : Promise.resolve(),
        )
        await serve({ database: dying }).look()
        if (killedAt === 2) await until(() => peer.received.length === 1)
        await until(() => writes === killedAt)
        clock.jump(webhookLimits.leaseMs + 1)
        await go()
        expect(peer.received).toHaveLength(killedAt)
        expect(new Set(peer.received.map(({ headers }) => headers['webhook-id'])).size).toBe(1)
        expect(await deliveries(id)).toMatchObject([{ state: 'delivered', tries: killedAt }])
      }
    })

    test('that look at once send each once', async () => {
      const { happens, go, peer, serve, webhooks } = await started()
      for (let i = 0; i < 20; i++) await happens('task.finished', { taskId: `tsk_${i}` })
      const servers = [webhooks, serve(), serve()]
      for (let i = 0; i < 10; i++) await Promise.all(servers.map((one) => go(one)))
      const ids = peer.received.map(({ headers }) => headers['webhook-id'])
      expect([ids.length, new Set(ids).size]).toEqual([20, 20])
    })

    test('that stop give back what they were sending', async () => {
      const { happens, peer, id, webhooks, serve, go, deliveries } = await started()
      peer.answers.push('never')
      await happens()
      webhooks.start()
      await until(() => peer.received.length === 1)
      await webhooks.stop()
      expect(await deliveries(id)).toMatchObject([{ state: 'waiting', tries: 0 }])
      await go(serve())
      expect(await deliveries(id)).toMatchObject([{ state: 'delivered', tries: 1 }])
    })

    test('send at once when woken, and to a slow receiver only a few at a time', async () => {
      const { happens, peer, id, webhooks, receiver, deliveries } = await started()
      const quick = await receiver()
      await webhooks.create(wish(quick.url), anna)
      peer.answers.push(...Array.from({ length: 30 }, () => 'never' as const))
      webhooks.start()
      for (let i = 0; i < 10; i++) await happens('task.finished', { taskId: `tsk_${i}` })
      webhooks.wake()
      await until(() => quick.received.length === 10)
      expect(peer.received.length).toBeLessThanOrEqual(webhookLimits.perWebhook)
      await webhooks.stop()
      expect(await deliveries(id)).toHaveLength(10)
    })
  })

  describe('who may', () => {
    test('is a person or key with write:tasks, for no more agents than theirs; no agent', async () => {
      const { webhooks, receiver } = await start()
      const { url } = await receiver()
      const create = (caller: KnownCaller, more: object = {}) => codeOf(webhooks.create(wish(url, more), caller))
      const own = { agentId: 'agt_a' }
      expect(await create(anna)).toMatch(/^done/)
      expect(await create(keyFor(['agt_a']), own)).toMatch(/^done/)
      for (const [caller, more] of [
        [viewer, {}],
        [agent, own],
        [keyFor(['agt_a']), {}],
        [keyFor(['agt_b']), own],
      ] as const) {
        expect(await create(caller, more)).toBe('forbidden')
      }
      expect(await create(anna, { agentId: 'agt_none' })).toBe('agent_not_found')
      expect(await create(stranger, own)).toBe('agent_not_found')
    })

    test('others see nothing of it, and who only reads sees no more of its address than the host', async () => {
      const { webhooks, id, happens, go, deliveries, peer } = await started()
      await happens()
      await go()
      const [delivery] = await deliveries(id)
      for (const caller of [stranger, agent, keyFor(['agt_a'])]) {
        expect(await codeOf(webhooks.get(id, caller))).toBe('webhook_not_found')
        expect(await codeOf(webhooks.listDeliveries(id, page, caller))).toBe('webhook_not_found')
        expect(await codeOf(webhooks.getDelivery(id, delivery!.id, caller))).toBe('webhook_not_found')
        expect(await codeOf(webhooks.test(id, caller))).toBe('webhook_not_found')
        expect(await codeOf(webhooks.remove(id, caller))).toBe('webhook_not_found')
        expect((await webhooks.list(caller)).data).toEqual([])
      }
      expect((await webhooks.list(viewer)).data).toMatchObject([{ url: `http://127.0.0.1:${peer.port}/…` }])
      for (const act of [
        () => webhooks.test(id, viewer),
        () => webhooks.remove(id, viewer),
        () => webhooks.update(id, {}, viewer),
        () => webhooks.deliver(id, delivery!.id, viewer),
      ]) {
        expect(await codeOf(act())).toBe('forbidden')
      }
      expect((await webhooks.get(id, anna)).url).toBe(peer.url)
      const other = await webhooks.create(wish(peer.url), anna)
      expect(await codeOf(webhooks.getDelivery(other.id, delivery!.id, anna))).toBe('delivery_not_found')
    })

    test('the secret is shown once and lies sealed', async () => {
      const { webhooks, id, secret, database } = await started()
      expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/)
      expect(JSON.stringify([await webhooks.get(id, anna), await webhooks.list(anna)])).not.toContain('whsec')
      expect(JSON.stringify(await database.all(rawQuery('select * from webhooks')))).not.toContain(secret.slice(6))
    })
  })

  test('a test is sent as all else, also while it rests', async () => {
    const { webhooks, id, peer, go, deliveries } = await started()
    await webhooks.update(id, updateWebhookSchema.parse({ enabled: false }), anna)
    expect(await webhooks.test(id, anna)).toMatchObject({ type: 'webhook.test', state: 'waiting' })
    await go()
    expect(JSON.parse(peer.received[0]!.body)).toEqual({
      type: 'webhook.test',
      timestamp: new Date(begin).toISOString(),
      data: { webhookId: id },
    })
    expect(await deliveries(id)).toMatchObject([{ state: 'delivered' }])
  })

  test('removed, it is gone with what waited', async () => {
    const { webhooks, id, peer, go, happens, database } = await started()
    await happens()
    await webhooks.remove(id, anna)
    await go()
    expect(peer.received).toEqual([])
    expect(await database.all(rawQuery('select * from webhook_deliveries'))).toEqual([])
  })

  test('what is wrong with a wish is refused, and there are only so many', async () => {
    const { webhooks, receiver } = await start()
    for (const url of [
      'ftp://a.example/',
      'a.example',
      'https://u:p@a.example/',
      'https://a.example/#x',
      `https://a.example/${'x'.repeat(2_000)}`,
    ]) {
      expect([url, createWebhookSchema.safeParse({ url, events: ['task.finished'] }).success]).toEqual([url, false])
    }
    for (const events of [[], ['task.begun'], ['task.failed', 'task.failed']]) {
      expect(createWebhookSchema.safeParse({ url: 'https://a.example/', events }).success).toBe(false)
    }
    const { url } = await receiver()
    for (let i = 0; i < webhookLimits.perAccount; i++) await webhooks.create(wish(url), anna)
    expect(await codeOf(webhooks.create(wish(url), anna))).toBe('webhook_limit_reached')
  })

  test('of one webhook no more wait than the limit', async () => {
    const { database, happens, id } = await started()
    for (let from = 0; from < webhookLimits.waiting; from += 1_000) {
      const rows = Array.from({ length: 1_000 }, (_, at) => ({
        query: rawQuery(
          `insert into webhook_deliveries (id, webhook_id, account_id, type, created_at, state, tries, next_try_at, lease_until)
           values ('dlv_${from + at}', '${id}', 'acc_a', 'task.finished', 0, 'waiting', 0, 0, 0)`,
        ),
      }))
      await database.batch(rows)
    }
    await happens()
    const [row] = await database.all<{ found: number }>(rawQuery('select count(*) as found from webhook_deliveries'))
    expect(Number(row!.found)).toBe(webhookLimits.waiting)
  })
})

function hasOpenssl(): boolean {
  try {
    execFileSync('openssl', ['version'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

/** A certificate for one name, which nobody but a test trusts. */
function certificateFor(name: string): { key: string; cert: string } {
  const folder = mkdtempSync(join(tmpdir(), 'delta-cert-'))
  const [keyFile, certFile] = [join(folder, 'key'), join(folder, 'cert')]
  try {
    const subject = ['-subj', `/CN=${name}`, '-addext', `subjectAltName=DNS:${name}`]
    const made = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2']
    execFileSync('openssl', ['req', '-x509', ...made, ...subject, '-keyout', keyFile, '-out', certFile], {
      stdio: 'ignore',
    })
    return { key: readFileSync(keyFile, 'utf8'), cert: readFileSync(certFile, 'utf8') }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

testDatabases('webhooks over TLS', (open) => {
  // Without openssl there is nothing on the machine that makes a certificate.
  test.skipIf(!hasOpenssl())('are sent to who has the name’s certificate, and to nobody else', async () => {
    const database: Database = (await open(webhookMigrations)).of()
    const clock = manualClock(begin)
    const own = certificateFor('hooks.example')
    const peer = await startReceiver(own)
    onTestFinished(() => peer.close())
    const names = { 'hooks.example': () => ['127.0.0.1'], 'other.example': () => ['127.0.0.1'] }
    const serve = (ca?: string) =>
      createWebhooks({
        database,
        network: testNetwork(clock, { names, ...(ca !== undefined && { ca }) }).network,
        box: createBox(Buffer.alloc(32, 7)),
        findAgent: () => undefined,
        taskView: async (_, id) => taskView(id),
        mayStill: async () => true,
        record: async () => {},
        clock,
        log: silentLogger,
      })
    const send = async (server: ReturnType<typeof serve>, host: string) => {
      const { id } = await server.create(wish(`https://${host}:${peer.port}/`), anna)
      await server.test(id, anna)
      await server.look()
      await server.settled()
      const [one] = (await server.listDeliveries(id, page, anna)).data
      return [one!.state, one!.lastError]
    }
    expect(await send(serve(own.cert), 'hooks.example')).toEqual(['delivered', null])
    expect(peer.received).toHaveLength(1)
    expect(await send(serve(own.cert), 'other.example')).toEqual(['waiting', expect.stringContaining('altnames')])
    expect(await send(serve(), 'hooks.example')).toEqual(['waiting', expect.stringContaining('self-signed')])
    expect(peer.received).toHaveLength(1)
  })
})
