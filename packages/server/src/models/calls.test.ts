import { afterEach, describe, expect, test, vi } from 'vitest'
import { systemClock } from '../kernel/clock.ts'
import { rawQuery } from '../kernel/db/compile.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Ledger } from '../ledger/service.ts'
import { createLedgerReading } from '../ledger/reading.ts'
import { accountId, modelTestMigrations, startModels, testCall } from './testing/start.ts'
import type { TestModelsOptions } from './testing/start.ts'
import { answering, startPlainPeer, used } from './testing/plain.ts'
import type { Asked, PlainPeer, Script } from './testing/plain.ts'

const reserve = `${accountId}:reserve`
const cents = 10_000_000

testDatabases('model calls', (open) => {
  const peers: PlainPeer[] = []
  const ends: (() => unknown)[] = []
  afterEach(async () => {
    for (const end of ends.splice(0)) await end()
    for (const peer of peers.splice(0)) await peer.close()
  })

  async function start(script: (asked: Asked) => Script | Promise<Script>, options: TestModelsOptions = {}) {
    const database = await open(modelTestMigrations)
    const peer = await startPlainPeer(script)
    peers.push(peer)
    const { ledger, models, begin } = startModels(database, peer.url, options)
    ends.push(models.stop)
    const balance = () => ledger.balanceOf(accountId, reserve)
    const usage = async () => {
      const groups = ['meter'] as const
      const rows = await createLedgerReading(database).usage({ accountId }, { groups, from: 0, to: 1e15, limit: 50 })
      return Object.fromEntries(
        rows.map(({ place, quantity, cost, estimated }) => [String(place[0]), { quantity, cost, estimated }]),
      )
    }
    const sum = async () => {
      const query = rawQuery('select sum(granted + bought) as sum from ledger_balances')
      return Number((await database.first<{ sum: number }>(query))!.sum)
    }
    const holds = async () =>
      database.all<{
        id: string
        state: string
        wished: number
        cost: number
        absorbed: number
        sent: number
        observed: number | null
      }>(rawQuery('select id, state, wished, cost, absorbed, sent, observed from ledger_holds order by id'))
    return { database, peer, ledger, models, begin, balance, usage, sum, holds }
  }

  test('what has to be on disk before is asked for with the hold, once; where it is refused nothing leaves and nothing is held', async () => {
    const { models, balance, peer } = await start(({ index }) =>
      index === 0 ? { status: 529, acts: [] } : answering(used(10, 5)),
    )
    let begun = 0
    const begin = async (): Promise<void> => void (begun += 1)
    await models.call(testCall({ begin }))
    expect(begun).toBe(1)
    expect(peer.asked).toHaveLength(2)
    const before = await balance()
    const refused = new Error('Somebody else has it')
    await expect(models.call(testCall({ begin: () => Promise.reject(refused) }))).rejects.toBe(refused)
    expect(peer.asked).toHaveLength(2)
    await vi.waitFor(async () => expect(await balance()).toMatchObject({ held: 0, used: before!.used }))
  })

  test('is paid for later by whoever says so, once', async () => {
    const { models, balance } = await start(() => answering(used(10, 5)))
    const reply = await models.call(testCall({ paysLater: true }))
    expect(await balance()).toMatchObject({ used: 0 })
    await Promise.all([reply.pay(), reply.pay()])
    expect(await balance()).toMatchObject({ held: 0, used: reply.cost })
  })

  test('an answer costs what its provider says it used, each kind at its own price', async () => {
    const usage = used(10, 5, { cacheRead: 100, cacheWrite: 20, cacheWriteHour: 7 })
    const { models, balance, usage: booked, sum, holds } = await start(() => answering(usage))
    const call = testCall()
    const reply = await models.call(call)
    const cost = 10 * 3 + 100 * 1 + 20 * 4 + 7 * 6 + 5 * 15
    expect(reply).toMatchObject({
      model: 'anthropic/plain',
      stop: 'end',
      usage,
      cost,
      estimated: false,
      lowered: false,
    })
    expect(reply.parts).toEqual([{ type: 'text', text: 'Hello' }])
    expect(call.heard).toEqual(['Hello'])
    expect(call.told.map(({ state }) => state)).toEqual(['sent', 'ended'])
    expect(await balance()).toMatchObject({ granted: cents - cost, held: 0, used: cost })
    expect(await booked()).toEqual({
      'model:anthropic/plain:input': { quantity: 10, cost: 30, estimated: 0 },
      'model:anthropic/plain:cache_read': { quantity: 100, cost: 100, estimated: 0 },
      'model:anthropic/plain:cache_write': { quantity: 20, cost: 80, estimated: 0 },
      'model:anthropic/plain:cache_write_hour': { quantity: 7, cost: 42, estimated: 0 },
      'model:anthropic/plain:output': { quantity: 5, cost: 75, estimated: 0 },
    })
    expect(await holds()).toMatchObject([{ id: call.told[0]!.holdId, state: 'committed', sent: 1 }])
    expect(await sum()).toBe(0)
  })

  /** Time passes at once, and it is written down how much. */
  function sleeping() {
    const slept: number[] = []
    const sleep = async (ms: number, signal?: AbortSignal) => {
      signal?.throwIfAborted()
      slept.push(ms)
    }
    return { slept, clock: { ...systemClock, sleep } }
  }

  const bodyBytes = (maxTokens = 1_000) => Buffer.byteLength(JSON.stringify({ model: 'plain', text: 'Hi', maxTokens }))
  const failing = (status: number, headers: Record<string, string> = {}): Script => ({
    status,
    headers,
    acts: [{ raw: 'overloaded' }],
  })
  const failsOnce = (first: Script) => (asked: Asked) => (asked.index === 0 ? first : answering(used(1, 1)))
  const codeOf = (call: Promise<unknown>) =>
    call.then(
      () => 'none',
      (error: unknown) => (error instanceof DeltaError ? error.code : error),
    )

  test('while it is under way all that it can come to is held, and was before it left', async () => {
    let heldThen = 0
    const { models, ledger, holds } = await start(async () => {
      heldThen = (await ledger.balanceOf(accountId, reserve)).held
      return answering(used(1, 1))
    })
    await models.call(testCall())
    const [hold] = await holds()
    expect(heldThen).toBe(hold!.wished)
    const body = Buffer.byteLength(JSON.stringify({ model: 'plain', text: 'Hi', maxTokens: 1_000 }))
    expect(heldThen).toBe(body * 3 + 3 + 1_000 * 15)
  })

  test('holding it and noting that it leaves are one commit', async () => {
    const seen: number[] = []
    const { models, database } = await start(() => {
      seen.push(database.counts.commits)
      return answering(used(1, 1))
    })
    // The first one opens the account.
    await models.call(testCall())
    const before = database.counts.commits
    await models.call(testCall())
    // PostgreSQL may have begun with the first when the second comes.
    const most = database.kind === 'sqlite' ? 1 : 2
    expect(seen[1]! - before).toBeLessThanOrEqual(most)
    expect(database.counts.commits - before).toBeLessThanOrEqual(most + 1)
  })

  describe('an attempt that failed', () => {
    test.each([
      ['429', failing(429), 'limited'],
      ['503', failing(503), 'unavailable'],
      ['a connection cut before an answer', { acts: [], cutAtOnce: true } as Script, 'unavailable'],
    ])('%s is told, waited for and made again with a hold of its own', async (_what, first, kind) => {
      const { slept, clock } = sleeping()
      const { models, holds, peer } = await start(failsOnce(first), { clock, deps: { random: () => 0.5 } })
      const call = testCall()
      const reply = await models.call(call)
      expect(call.told.map(({ state }) => state)).toEqual([
        'sent',
        kind === 'limited' || first.status ? 'failed' : 'cut',
        'sent',
        'ended',
      ])
      expect(call.told[1]).toMatchObject({ failure: { kind }, waitMs: 250 })
      expect(slept).toEqual([250])
      expect(peer.asked).toHaveLength(2)
      expect(reply.attempts).toHaveLength(2)
      const ids = new Set(call.told.map(({ holdId }) => holdId))
      expect(new Set((await holds()).map(({ id }) => id))).toEqual(ids)
      expect((await holds()).every(({ state }) => state === 'committed')).toBe(true)
    })

    test('with an answer that is no success costs nothing', async () => {
      const { clock } = sleeping()
      const { models, balance } = await start(() => failing(500), { clock })
      const call = testCall()
      await expect(models.call(call)).rejects.toMatchObject({
        code: 'model_unavailable',
        message: expect.stringContaining('overloaded'),
        context: { model: 'anthropic/plain', status: 500 },
      })
      expect(call.told.filter(({ state }) => state === 'failed')).toHaveLength(4)
      expect(await balance()).toMatchObject({ granted: cents, held: 0, used: 0 })
    })

    test('is made again when the provider said, and a little later', async () => {
      const { slept, clock } = sleeping()
      const { models } = await start(failsOnce(failing(429, { 'retry-after': '7' })), {
        clock,
        deps: { random: () => 0.5 },
      })
      await models.call(testCall())
      expect(slept).toEqual([7_250])
    })

    test('is not waited for where the provider asks for too long a pause', async () => {
      const { slept, clock } = sleeping()
      const { models, peer } = await start(() => failing(429, { 'retry-after': '3600' }), { clock })
      await expect(models.call(testCall())).rejects.toMatchObject({
        code: 'model_unavailable',
        context: { retryAfterMs: 3_600_000 },
      })
      expect([slept, peer.asked.length]).toEqual([[], 1])
    })

    test.each([
      [401, 'model_key_refused'],
      [400, 'model_refused'],
      [404, 'model_not_found'],
      [413, 'model_too_long'],
    ])('with %d is not made again', async (status, code) => {
      const { models, peer, balance } = await start(() => failing(status))
      expect(await codeOf(models.call(testCall()))).toBe(code)
      expect(peer.asked).toHaveLength(1)
      expect(await balance()).toMatchObject({ granted: cents, held: 0 })
    })

    test('shows the provider’s words without the key', async () => {
      const { models } = await start(() => ({ status: 401, acts: [{ raw: 'Wrong key sk-operator-key given' }] }))
      await expect(models.call(testCall())).rejects.toMatchObject({
        message: 'anthropic/plain: Wrong key [redacted] given',
      })
    })

    test('because nobody listens costs nothing', async () => {
      const { clock } = sleeping()
      const { models, peer, balance } = await start(() => failing(500), { clock })
      await peer.close()
      const call = testCall()
      expect(await codeOf(models.call(call))).toBe('model_unavailable')
      expect(call.told.filter(({ state }) => state === 'failed')).toHaveLength(4)
      expect(await balance()).toMatchObject({ granted: cents, held: 0 })
    })

    test('keeps nobody waiting who gives up', async () => {
      const { models, peer } = await start(() => failing(429, { 'retry-after': '50' }))
      const given = new AbortController()
      const call = testCall({ signal: given.signal })
      const calling = codeOf(models.call(call))
      await expect.poll(() => call.told.at(-1)).toMatchObject({ waitMs: 50_000 })
      given.abort()
      expect(await calling).toBe('canceled')
      expect(peer.asked).toHaveLength(1)
    })
  })

  describe('an answer that is cut', () => {
    const inputOf = used(40, 0, { cacheRead: 10 })
    const { output: _, ...input } = inputOf
    const text = 'A piece of text'

    test.each([
      ['before its header', { acts: [], cutAtOnce: true } as Script, bodyBytes() * 3],
      ['after its header', { acts: ['cut'] } as Script, bodyBytes() * 3],
      [
        'after what its input is',
        { acts: [{ line: { usage: input } }, { wait: aMoment }, 'cut'] } as Script,
        40 * 3 + 10,
      ],
      [
        'in its text',
        { acts: [{ line: { usage: input } }, { line: { text } }, { wait: aMoment }, 'cut'] } as Script,
        40 * 3 + 10 + text.length * 15,
      ],
      [
        'without saying that it ends',
        { acts: [{ line: { usage: input } }, { line: { text } }] } as Script,
        40 * 3 + 10 + text.length * 15,
      ],
    ])('%s costs what was said and the bound of what was not, as an estimate', async (_where, first, cost) => {
      const { models, usage, balance, sum } = await start(failsOnce(first))
      const call = testCall()
      const reply = await models.call(call)
      expect(call.told[1]).toMatchObject({ state: 'cut', cost, estimated: true })
      expect(reply).toMatchObject({ cost: cost + 18, estimated: true })
      const booked = Object.values(await usage())
      expect(booked.reduce((total, { estimated }) => total + estimated, 0)).toBe(cost)
      expect(await balance()).toMatchObject({ used: cost + 18, held: 0 })
      expect(await sum()).toBe(0)
    })

    test('after it had begun is asked for once more, from the beginning', async () => {
      const cut: Script = { acts: [{ line: { usage: input } }, { line: { text } }, { wait: aMoment }, 'cut'] }
      const { models, peer } = await start(() => cut)
      const call = testCall()
      expect(await codeOf(models.call(call))).toBe('model_unavailable')
      expect(peer.asked).toHaveLength(2)
      expect(call.heard).toEqual([text, text])
      expect(call.told.map(({ state }) => state)).toEqual(['sent', 'cut', 'sent', 'cut'])
    })

    test('never costs more than was held, whatever came', async () => {
      const long = 'x'.repeat(5_000)
      const cut: Script = { acts: [{ line: { usage: input } }, { line: { text: long } }, { wait: aMoment }, 'cut'] }
      const { models, holds } = await start(failsOnce(cut))
      await models.call(testCall({ maxOutputTokens: 300 }))
      const [first] = await holds()
      expect(first).toMatchObject({ cost: 40 * 3 + 10 + 300 * 15, absorbed: 0 })
    })
  })

  describe('a call that is given up', () => {
    test('in its text is charged as cut, and answers `canceled`', async () => {
      const given = new AbortController()
      const acts = [{ line: { usage: { input: 4 } } }, { line: { text: 'four' } }, { wait: forEver }]
      const { models, balance, holds } = await start(() => ({ acts }))
      const call = testCall({ signal: given.signal, onEvent: () => given.abort() })
      expect(await codeOf(models.call(call))).toBe('canceled')
      expect(call.told.at(-1)).toMatchObject({ state: 'cut', estimated: true, cost: 4 * 3 + 4 * 15 })
      expect(await balance()).toMatchObject({ used: 72, held: 0 })
      expect(await holds()).toMatchObject([{ state: 'committed' }])
    })

    test('while its input is read costs its input', async () => {
      const given = new AbortController()
      const { models, balance } = await start(() => {
        given.abort()
        return { acts: [{ wait: forEver }] }
      })
      expect(await codeOf(models.call(testCall({ signal: given.signal })))).toBe('canceled')
      expect(await balance()).toMatchObject({ used: bodyBytes() * 3, held: 0 })
    })

    test('before it left costs nothing', async () => {
      const { models, peer, holds } = await start(() => answering(used(1, 1)))
      expect(await codeOf(models.call(testCall({ signal: AbortSignal.abort() })))).toBe('canceled')
      expect([peer.asked.length, await holds()]).toEqual([0, []])
    })

    test('while it is held for never leaves', async () => {
      const given = new AbortController()
      const wrapLedger = (ledger: Ledger): Ledger => ({
        ...ledger,
        hold: (wish) => ledger.hold(wish).finally(() => given.abort()),
      })
      const { models, peer, balance } = await start(() => answering(used(1, 1)), { wrapLedger })
      expect(await codeOf(models.call(testCall({ signal: given.signal })))).toBe('canceled')
      expect(peer.asked).toEqual([])
      expect(await balance()).toMatchObject({ granted: cents, held: 0 })
    })

    test('by a listener that throws is paid for, and fails with what it threw', async () => {
      const fault = new Error('no more')
      const { models, balance } = await start(() => answering(used(3, 2)))
      const onEvent = () => {
        throw fault
      }
      await expect(models.call(testCall({ onEvent }))).rejects.toMatchObject({ cause: fault })
      expect((await balance()).held).toBe(0)
      expect((await balance()).used).toBeGreaterThan(0)
    })
  })

  describe('with few tokens left', () => {
    const least = bodyBytes() * 3 + 3 + 256 * 15

    test('less output is asked for, and the reply says so', async () => {
      const { models, peer } = await start(() => answering(used(1, 1)), { grant: least + 10 * 15 })
      const reply = await models.call(testCall())
      expect(reply.lowered).toBe(true)
      expect(peer.asked[0]!.body.maxTokens).toBe(266)
    })

    test('down to 256, and not below', async () => {
      const { models, peer } = await start(() => answering(used(0, 0)), { grant: least })
      await models.call(testCall())
      expect(peer.asked[0]!.body.maxTokens).toBe(256)
    })

    test('one micro-token less is `balance_too_low`, and nothing is sent', async () => {
      const { models, peer, ledger, holds } = await start(() => answering(used(1, 1)), { grant: least - 1 })
      const low: unknown[] = []
      ledger.events.on('purse.low', (event) => low.push(event))
      const call = testCall()
      expect(await codeOf(models.call(call))).toBe('balance_too_low')
      expect([peer.asked.length, call.told, await holds()]).toEqual([0, [], []])
      expect(low).toMatchObject([{ accountId, purseId: reserve, available: least - 1 }])
    })

    test('whoever asks for little output gets it as long as there is enough for that', async () => {
      const { models, peer } = await start(() => answering(used(0, 0)), { grant: bodyBytes(20) * 3 + 3 + 20 * 15 })
      expect(await models.call(testCall({ maxOutputTokens: 20 }))).toMatchObject({ lowered: false })
      expect(peer.asked[0]!.body.maxTokens).toBe(20)
    })

    test('another model is not asked, since it is the tokens that lack', async () => {
      const { models, peer } = await start(() => answering(used(1, 1)), { grant: 1 })
      const call = testCall({ models: ['anthropic/plain', 'google/plain'] })
      expect(await codeOf(models.call(call))).toBe('balance_too_low')
      expect(peer.asked).toEqual([])
    })
  })

  test('100 calls at once from a small budget spend no more than there is', async () => {
    const grant = 400_000
    const answers = (asked: Asked) =>
      answering(used(asked.body.text.length, 1 + ((asked.index * 37) % asked.body.maxTokens)))
    const { models, balance, sum, peer } = await start(answers, { grant })
    const calls = Array.from({ length: 100 }, () => models.call(testCall()))
    const results = await Promise.allSettled(calls)
    const costs = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value.cost] : []))
    const refused = results.flatMap((result) =>
      result.status === 'rejected' ? [(result.reason as DeltaError).code] : [],
    )
    expect(new Set(refused)).toEqual(new Set(['balance_too_low']))
    expect(costs.length).toBeGreaterThan(10)
    expect(peer.asked).toHaveLength(costs.length)
    const spent = costs.reduce((total, cost) => total + cost, 0)
    expect(await balance()).toMatchObject({ granted: grant - spent, used: spent, held: 0 })
    expect(await sum()).toBe(0)
  })

  describe('another model', () => {
    const both = { models: ['anthropic/plain', 'google/plain'] }
    const isFirst = ({ headers }: Asked) => headers['x-provider'] === 'anthropic'
    const firstFails = (first: Script) => (asked: Asked) => (isFirst(asked) ? first : answering(used(1, 1)))

    test('is asked when the first can not answer, and held for at its own price', async () => {
      const { clock } = sleeping()
      const { models, holds } = await start(firstFails(failing(503)), { clock })
      const call = testCall(both)
      const reply = await models.call(call)
      expect(reply).toMatchObject({ model: 'google/plain', cost: 2 + 10 })
      expect((await holds()).at(-1)).toMatchObject({ wished: bodyBytes() * 2 + 3 + 1_000 * 10 })
    })

    test('is asked when the first has no key or no price', async () => {
      const { models } = await start(() => answering(used(1, 1)), {
        settings: { anthropic: { apiKey: undefined, baseUrl: undefined } },
      })
      expect(await models.call(testCall(both))).toMatchObject({ model: 'google/plain' })
      const unpriced = ['google/unknown', 'google/plain']
      expect(await models.call(testCall({ models: unpriced }))).toMatchObject({ model: 'google/plain' })
    })

    test('is not asked after output had come', async () => {
      const cut: Script = { acts: [{ line: { text: 'some' } }, { wait: aMoment }, 'cut'] }
      const { models, peer } = await start(firstFails(cut))
      expect(await codeOf(models.call(testCall(both)))).toBe('model_unavailable')
      expect(peer.asked.every(isFirst)).toBe(true)
    })

    test('is not asked what the first refused', async () => {
      const { models, peer } = await start(firstFails(failing(400)))
      expect(await codeOf(models.call(testCall(both)))).toBe('model_refused')
      expect(peer.asked).toHaveLength(1)
    })

    test('is not asked where it is dearer than allowed', async () => {
      const { clock } = sleeping()
      const { models } = await start(() => failing(503), { clock })
      expect(await codeOf(models.call(testCall({ ...both, maxPrice: 9 })))).toBe('model_too_dear')
      const call = testCall({ models: ['google/plain', 'anthropic/plain'], maxPrice: 10 })
      expect(await codeOf(models.call(call))).toBe('model_too_dear')
      expect(call.told.every(({ model }) => model === 'google/plain')).toBe(true)
    })
  })

  describe('a provider that fails again and again', () => {
    test('is left alone for a while, then asked once, then again by all', async () => {
      let nowMs = 0
      const waits: number[] = []
      const sleep = async (ms: number) => {
        waits.push(ms)
        nowMs += ms
      }
      const clock = { ...systemClock, monotonic: () => nowMs, sleep }
      let isDown = true
      const { models, peer } = await start(() => (isDown ? failing(503) : answering(used(1, 1))), { clock })
      expect(await codeOf(models.call(testCall()))).toBe('model_unavailable')
      expect([peer.asked.length, waits.includes(15_000)]).toEqual([4, false])
      // The fifth failure opens it: each further try waits until it is half open.
      expect(await codeOf(models.call(testCall()))).toBe('model_unavailable')
      expect([peer.asked.length, waits.filter((ms) => ms === 15_000).length]).toEqual([8, 3])
      expect(models.counts().openBreakers).toBe(1)
      isDown = false
      expect(await models.call(testCall())).toMatchObject({ model: 'anthropic/plain' })
      expect(models.counts().openBreakers).toBe(0)
    })

    test('sends callers to another model at once', async () => {
      const { clock } = sleeping()
      const isFirst = ({ headers }: Asked) => headers['x-provider'] === 'anthropic'
      const { models, peer } = await start((asked) => (isFirst(asked) ? failing(503) : answering(used(1, 1))), {
        clock,
      })
      const both = { models: ['anthropic/plain', 'google/plain'] }
      for (let count = 0; count < 3; count++) await models.call(testCall(both))
      const toFirst = peer.asked.filter(isFirst).length
      expect(toFirst).toBe(5)
      await models.call(testCall(both))
      expect(peer.asked.filter(isFirst)).toHaveLength(toFirst)
    })
  })

  describe('what it costs', () => {
    test('without a price a model is not called', async () => {
      const { models, peer } = await start(() => answering(used(1, 1)))
      await expect(models.call(testCall({ models: ['google/none'] }))).rejects.toMatchObject({
        code: 'model_not_priced',
        context: { meters: ['model:google/none:input', 'model:google/none:output'] },
      })
      expect(peer.asked).toEqual([])
    })

    test('on the operator’s own server it is metered at nothing, also with nothing left', async () => {
      const { models, usage, holds, balance } = await start(() => answering(used(11, 7)), { grant: 0 })
      const call = testCall({ models: ['openai/Some/Model:7b'] })
      expect(await models.call(call)).toMatchObject({ cost: 0, lowered: false, usage: { input: 11, output: 7 } })
      expect(call.told.map(({ state }) => state)).toEqual(['sent', 'ended'])
      expect(await usage()).toEqual({
        'model:openai/Some/Model:7b:input': { quantity: 11, cost: 0, estimated: 0 },
        'model:openai/Some/Model:7b:output': { quantity: 7, cost: 0, estimated: 0 },
      })
      expect(await holds()).toEqual([])
      expect(await balance()).toMatchObject({ used: 0 })
    })

    test('on that server nothing is free that was not said to be', async () => {
      const { models } = await start(() => answering(used(1, 1)), { settings: { localModels: ['small'] } })
      expect(await codeOf(models.call(testCall({ models: ['openai/big'] })))).toBe('model_not_priced')
      expect(await models.call(testCall({ models: ['openai/small'] }))).toMatchObject({ cost: 0 })
    })

    describe('in a long tier', () => {
      const meters = {
        'model:google/long:input': { unit: 'x', perMillion: 1_000_000 },
        'model:google/long:output': { unit: 'x', perMillion: 10_000_000 },
        'model:google/long:input_over_50': { unit: 'x', perMillion: 2_000_000 },
        'model:google/long:output_over_50': { unit: 'x', perMillion: 20_000_000 },
      }

      test('is that tier’s from one token above it on', async () => {
        const { models, usage } = await start(({ index }) => answering(used(50 + index, 1)), { meters })
        const call = () => models.call(testCall({ models: ['google/long'] }))
        expect(await call()).toMatchObject({ cost: 50 + 10 })
        expect(await call()).toMatchObject({ cost: 51 * 2 + 20 })
        expect(Object.keys(await usage())).toContain('model:google/long:output_over_50')
      })

      test('is held for from one byte above it on', async () => {
        const { models, holds } = await start(() => answering(used(1, 1)), { meters })
        const sizeOf = (text: string) => Buffer.byteLength(JSON.stringify({ model: 'long', text, maxTokens: 1_000 }))
        for (const bytes of [50, 51]) {
          const text = 'x'.repeat(bytes - sizeOf(''))
          await models.call(
            testCall({ models: ['google/long'], messages: [{ role: 'user', parts: [{ type: 'text', text }] }] }),
          )
        }
        // Each byte may be a token, three kinds of input may be rounded up, and 1,000 tokens of output come to 10,000 or 20,000.
        expect((await holds()).map(({ wished }) => wished)).toEqual([50 + 3 + 10_000, 51 * 2 + 3 + 20_000])
      })
    })

    test('beyond its hold is borne by the platform, and the next hold is higher', async () => {
      const { models, holds, balance } = await start(({ index }) => answering(used(1, index === 0 ? 3_000 : 1)))
      await models.call(testCall())
      const [first] = await holds()
      expect(first).toMatchObject({ cost: first!.wished, absorbed: 3 + 45_000 - first!.wished })
      expect(await balance()).toMatchObject({ used: first!.wished })
      await models.call(testCall())
      const [, second] = await holds()
      expect(second!.wished).toBeGreaterThan(first!.wished * 2)
    })

    test('is an estimate where the answer says nothing of it', async () => {
      const acts = [{ line: { text: 'abc' } }, { line: { end: {} } }]
      const { models } = await start(() => ({ acts }))
      expect(await models.call(testCall())).toMatchObject({ cost: bodyBytes() * 3 + 3 * 15, estimated: true })
    })

    test('is booked when the database is back', async () => {
      let away = 5
      const wrapLedger = (ledger: Ledger): Ledger => ({
        ...ledger,
        async commit(...args) {
          away -= 1
          if (away >= 0) throw new DeltaError('database_unavailable', 'away')
          return ledger.commit(...args)
        },
      })
      const { models, balance } = await start(() => answering(used(1, 1)), { wrapLedger, clock: sleeping().clock })
      expect(await models.call(testCall())).toMatchObject({ cost: 18 })
      await expect.poll(balance).toMatchObject({ used: 18, held: 0 })
      expect(models.counts().unsettled).toBe(0)
    })

    test('is nothing where it was not known whether it is held, and nothing was sent', async () => {
      const wrapLedger = (ledger: Ledger): Ledger => ({
        ...ledger,
        async hold(wish) {
          await ledger.hold(wish)
          throw new DeltaError('database_unavailable', 'The connection broke before the answer')
        },
      })
      const { models, peer, balance, holds } = await start(() => answering(used(1, 1)), { wrapLedger })
      expect(await codeOf(models.call(testCall()))).toBe('database_unavailable')
      await expect.poll(balance).toMatchObject({ granted: cents, held: 0 })
      expect(await holds()).toMatchObject([{ state: 'committed', cost: 0 }])
      expect(peer.asked).toEqual([])
    })
  })

  test('of a process that died it is settled at what had come, with what may have come since, else whole', async () => {
    let nowMs = 0
    const clock = { ...systemClock, monotonic: () => nowMs }
    const started = Promise.withResolvers<void>()
    const acts = [
      { line: { usage: { input: 5 } } },
      { line: { text: 'ab' } },
      { wait: () => started.promise },
      { line: { text: 'cd' } },
      { wait: forEver },
    ]
    const { models, begin, holds, balance } = await start(
      ({ index }) => (index === 0 ? { acts } : { acts: [{ wait: forEver }] }),
      { clock },
    )
    const given = new AbortController()
    const watched = testCall({ signal: given.signal, maxOutputTokens: 20_000 })
    const silent = testCall({ signal: given.signal })
    const first = codeOf(models.call(watched))
    await expect.poll(() => watched.heard).toEqual(['ab'])
    nowMs = 5_000
    started.resolve()
    await expect.poll(() => watched.heard).toEqual(['ab', 'cd'])
    const second = codeOf(models.call(silent))
    await expect.poll(() => silent.told).toHaveLength(1)
    await expect.poll(async () => (await holds())[0]!.observed).toBe(5 * 3 + 10_004 * 15)
    // Another life of the server finds them.
    const next = begin()
    await next.start()
    ends.push(next.stop)
    const [observed, whole] = await holds()
    expect(observed).toMatchObject({ state: 'unknown', cost: 5 * 3 + 10_004 * 15 })
    expect(whole).toMatchObject({ state: 'unknown', cost: whole!.wished })
    expect(await balance()).toMatchObject({ held: 0, used: observed!.cost + whole!.cost })
    given.abort()
    expect([await first, await second]).toEqual(['canceled', 'canceled'])
  })

  test('an answer without an end is given up when nothing comes any more', async () => {
    let wake: (() => void)[] = []
    const clock = {
      ...systemClock,
      sleep: async () => {},
      after: (_ms: number, then: () => void) => {
        wake.push(then)
        return () => {
          wake = wake.filter((one) => one !== then)
        }
      },
    }
    let nowMs = 0
    Object.assign(clock, { monotonic: () => nowMs })
    const { models } = await start(
      ({ index }) =>
        index === 0 ? { acts: [{ line: { usage: { input: 2 } } }, { wait: forEver }] } : answering(used(1, 1)),
      { clock },
    )
    const call = testCall()
    const calling = models.call(call)
    await expect.poll(() => call.told.length).toBe(1)
    const stalled = setInterval(() => {
      // Of the first request alone: however slow the machine is, the second one is answered.
      if (call.told.length > 1) return clearInterval(stalled)
      nowMs += 400_000
      for (const then of wake.splice(0)) then()
    }, 20)
    ends.push(() => clearInterval(stalled))
    await calling
    expect(call.told[1]).toMatchObject({
      failure: { kind: 'unavailable', message: expect.stringContaining('nothing for') },
    })
  })
})

/** What was written before a cut has arrived by then. */
function aMoment(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 30))
}

function forEver(): Promise<never> {
  return new Promise(() => {})
}
