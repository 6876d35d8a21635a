import { afterEach, describe, expect, test } from 'vitest'
import { manualClock } from '../kernel/clock.ts'
import { rawQuery } from '../kernel/db/compile.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { DeltaError } from '../kernel/errors.ts'
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
        rows.map(({ place, quantity, cost, estimated }) => [place[0], { quantity, cost, estimated }]),
      )
    }
    const sum = async () => {
      const query = rawQuery('select sum(granted + bought) as sum from ledger_accounts')
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
})
