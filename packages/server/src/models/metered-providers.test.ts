import { afterEach, describe, expect, test } from 'vitest'
import { rawQuery } from '../kernel/db/compile.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { systemClock } from '../kernel/clock.ts'
import { providers } from './providers/providers.ts'
import { startPeers } from './testing/peers.ts'
import { accountId, modelTestMigrations, startModels, testCall } from './testing/start.ts'

const peered = ['anthropic', 'google', 'openai'] as const

const unit = (perMillion: number) => ({ unit: 'x', perMillion })
const meters = Object.fromEntries(
  peered.flatMap((provider) => [
    [`model:${provider}/metered:input`, unit(3_000_000)],
    [`model:${provider}/metered:cache_read`, unit(1_000_000)],
    [`model:${provider}/metered:cache_write`, unit(4_000_000)],
    [`model:${provider}/metered:cache_write_hour`, unit(6_000_000)],
    [`model:${provider}/metered:output`, unit(15_000_000)],
  ]),
)

testDatabases('metered calls in every provider’s own format', (open, _openServers, _newPlace, kind) => {
  const ends: (() => unknown)[] = []
  afterEach(async () => {
    for (const end of ends.splice(0).toReversed()) await end()
  })

  async function start(grant?: number) {
    const database = await open(modelTestMigrations)
    const peers = {
      anthropic: await startPeers.anthropic(),
      google: await startPeers.google(),
      openai: await startPeers.openai(),
    }
    for (const name of peered) ends.push(peers[name].close)
    const settings = Object.fromEntries(
      peered.map((name) => [name, { apiKey: peers[name].key, baseUrl: peers[name].url }]),
    )
    const clock = { ...systemClock, sleep: async () => {} }
    const { models, ledger } = startModels(database, '', {
      settings,
      meters,
      clock,
      deps: { providers },
      ...(grant !== undefined && { grant }),
    })
    ends.push(models.stop)
    const holds = () =>
      database.all<{ state: string; granted: number; cost: number; absorbed: number }>(
        rawQuery('select state, granted, cost, absorbed from ledger_holds order by id'),
      )
    return { models, ledger, peers, holds }
  }

  // What is held and booked of each comes to the same rows, so PostgreSQL hears of one.
  describe.for(kind === 'sqlite' ? peered : peered.slice(0, 1))('%s', (name) => {
    const call = () => testCall({ models: [`${name}/metered`], system: 'Be short.', maxOutputTokens: 2_000 })
    const cacheWrite = name === 'anthropic' ? 3 : 0
    const usage = { input: 20, cacheRead: 10, cacheWrite, cacheWriteHour: 0, output: 30 }
    const cost = 20 * 3 + 10 + cacheWrite * 4 + 30 * 15
    const parts = [
      { type: 'text', text: 'It will rain, and then it will not.' },
      { type: 'tool_call', tool: 'look', input: { at: 'sky' } },
    ] as const

    test('costs exactly what was counted at the end', async () => {
      const { models, peers, ledger, holds } = await start()
      peers[name].script({ parts, usage })
      const asked = call()
      expect(await models.call(asked)).toMatchObject({
        usage,
        cost,
        estimated: false,
        lowered: false,
        stop: 'tool_calls',
      })
      expect(await ledger.balanceOf(accountId, `${accountId}:reserve`)).toMatchObject({ used: cost, held: 0 })
      expect(await holds()).toMatchObject([{ state: 'committed', cost, absorbed: 0 }])
    })

    test('asks for less where there are few tokens, and says so', async () => {
      const { models, peers } = await start(30_000)
      peers[name].script({ parts, usage })
      expect(await models.call(call())).toMatchObject({ lowered: true, cost })
      const [{ maxOutputTokens } = { maxOutputTokens: 0 }] = peers[name].requests()
      expect(maxOutputTokens).toBeGreaterThanOrEqual(256)
      expect(maxOutputTokens).toBeLessThan(2_000)
    })

    test('is made again after 429 and 5xx, whose attempts cost nothing', async () => {
      const { models, peers } = await start()
      peers[name].script(
        { refusal: { status: 429, headers: { 'retry-after': '1' } } },
        { refusal: { status: 503 } },
        { parts, usage },
      )
      const asked = call()
      expect(await models.call(asked)).toMatchObject({ cost, estimated: false })
      expect(asked.told.map(({ state }) => state)).toEqual(['sent', 'failed', 'sent', 'failed', 'sent', 'ended'])
    })

    test(
      'cut anywhere costs no more than was held, and is answered by the next attempt',
      { timeout: 120_000 },
      async () => {
        const { models, peers, ledger, holds } = await start()
        let total = 0
        for (let cutAtByte = 0; cutAtByte < 1_400; cutAtByte += 97) {
          let isFirst = true
          peers[name].otherwise(() => {
            const reply = isFirst ? { parts, usage, cutAtByte } : { parts, usage }
            isFirst = false
            return reply
          })
          const asked = call()
          const reply = await models.call(asked)
          const [first] = asked.told.filter(({ state }) => state === 'cut')
          total += reply.cost
          expect(reply.parts).toHaveLength(2)
          // The answer may have been whole before.
          expect(reply.cost).toBe((first?.cost ?? 0) + cost)
          expect(reply.attempts).toHaveLength(first ? 2 : 1)
          if (first) expect(first).toMatchObject({ estimated: true, failure: { kind: 'unavailable' } })
        }
        expect(await ledger.balanceOf(accountId, `${accountId}:reserve`)).toMatchObject({ used: total, held: 0 })
        const all = await holds()
        expect(all.length).toBeGreaterThan(15)
        for (const { state, granted, cost: paid, absorbed } of all) {
          expect([state, absorbed]).toEqual(['committed', 0])
          expect(paid).toBeLessThanOrEqual(granted)
        }
      },
    )
  })
})
