import { expect, test } from 'vitest'
import { manualClock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import { newId } from '../kernel/ids.ts'
import { silentLogger } from '../kernel/log.ts'
import { rawQuery } from '../kernel/db/compile.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import type { Database } from '../kernel/db/database.ts'
import { reserveId, sideId } from './book.ts'
import { ledgerMigrations } from './migrations.ts'
import { firstCard } from './rate-card.ts'
import { createLedger } from './service.ts'
import { createLedgerReading } from './reading.ts'
import { createLedgerStore } from './store.ts'

const accountId = 'acc_a'
const november = Date.UTC(2026, 10, 23, 12)

/** As no operation could. */
const setBought = (bought: number, ids: readonly string[]) =>
  rawQuery(
    `update ledger_balances set bought = ${bought} where place in (select place from ledger_accounts where id in (${ids.map((id) => `'${id}'`).join(', ')}))`,
  )

testDatabases('ledger', (open) => {
  const start = async ({ grant = 1_000, startMs = november } = {}) => {
    const database = await open(ledgerMigrations)
    const clock = manualClock(startMs)
    const begin = (incarnation = newId('srv'), on = database as Database) =>
      createLedger({
        database: on,
        clock,
        log: silentLogger,
        rates: firstCard,
        grant,
        planAtStart: () => 'enterprise',
        incarnation,
      })
    const ledger = begin()
    const store = createLedgerStore(database as Database)
    const reading = createLedgerReading(database as Database)
    const sum = async () =>
      (await database.all<{ sum: number }>(rawQuery('select sum(granted + bought) as sum from ledger_balances')))[0]!
        .sum
    const of = (purseId = reserveId(accountId)) => ledger.balanceOf(accountId, purseId)
    const side = async (kind: Parameters<typeof sideId>[1]) => {
      const row = await store.account(accountId, sideId(accountId, kind))
      return row!.granted + row!.bought
    }
    return { database, clock, ledger, begin, store, reading, sum, of, side }
  }
  const purpose = { kind: 'model', agentId: 'agt_1' }
  const used = (cost: number) => [{ meter: 'tokens', quantity: 1, cost }]

  test('a hold keeps tokens from others, a commit spends what it cost and gives the rest back', async () => {
    const { ledger, reading, of, side, sum } = await start()
    const { holdId, amount } = await ledger.hold({ accountId, amount: 300, purpose })
    expect(amount).toBe(300)
    expect(await of()).toMatchObject({ granted: 700, held: 300, used: 0 })
    expect(await ledger.commit(holdId, accountId, used(120))).toMatchObject({ amount: 120 })
    expect(await of()).toMatchObject({ granted: 880, held: 0, used: 120 })
    expect(await side('usage')).toBe(120)
    expect(await sum()).toBe(0)
    const all = { groups: ['agent', 'meter'], from: 0, to: november * 2, limit: 10 } as const
    expect(await reading.usage({ accountId }, all)).toEqual([
      { place: ['agt_1', 'tokens'], quantity: 1, cost: 120, estimated: 0 },
    ])
  })

  test('500 holds at once from one balance share what there is, and no more', async () => {
    const { ledger, of, sum } = await start({ grant: 1_000 })
    const wishes = Array.from({ length: 500 }, () => ledger.hold({ accountId, amount: 3, purpose }))
    const results = await Promise.allSettled(wishes)
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(333)
    const [refused] = results.filter((result) => result.status === 'rejected')
    expect(refused!.reason).toMatchObject({ code: 'balance_too_low', status: 402, context: { available: 0.000001 } })
    expect(await of()).toMatchObject({ granted: 1, held: 999 })
    expect(await sum()).toBe(0)
  })

  test('a new month begins before anything is decided in it', async () => {
    const { ledger, clock, of, sum } = await start({ startMs: Date.UTC(2026, 10, 30, 23, 59) })
    await ledger.grant({ accountId, sort: 'bought', amount: 50, reason: 'paid', key: 'k1' })
    await ledger.openPurse({ accountId, purseId: 'agt_1', kind: 'agent', parentId: reserveId(accountId), monthly: 200 })
    const { holdId } = await ledger.hold({ accountId, amount: 400, purpose })
    await clock.advance(120_000)
    const rolled: unknown[] = []
    ledger.events.on('period.rolled', (event) => rolled.push(event))
    // All of December's grant is there, and of November's nothing.
    await expect(ledger.hold({ accountId, amount: 851, purpose })).rejects.toMatchObject({
      context: { available: 0.00085 },
    })
    expect(rolled).toEqual([{ accountId, period: '2026-12', unrenewed: [] }])
    expect(await of('agt_1')).toMatchObject({ granted: 200 })
    await ledger.commit(holdId, accountId, used(100))
    expect(await of()).toMatchObject({ granted: 800, bought: 50, held: 0 })
    expect(await sum()).toBe(0)
  })

  test('holds of a life that is over are released where nothing was sent, and settled where it was', async () => {
    const { ledger, begin, of, side, sum } = await start()
    const wish = { accountId, amount: 100, purpose }
    const [unsent, whole, observed] = await Promise.all([ledger.hold(wish), ledger.hold(wish), ledger.hold(wish)])
    await ledger.sent(whole.holdId, accountId)
    await ledger.sent(observed.holdId, accountId, 30)
    const next = begin('srv_next')
    await next.start()
    expect(await of()).toMatchObject({ granted: 870, held: 0, used: 130 })
    expect(await side('usage')).toBe(130)
    // What comes late corrects it, and never takes more.
    await next.commit(whole.holdId, accountId, used(40))
    await expect(next.commit(observed.holdId, accountId, used(31))).rejects.toMatchObject({ code: 'commit_above_hold' })
    await expect(next.commit(unsent.holdId, accountId, used(1))).rejects.toMatchObject({ code: 'hold_over' })
    expect(await of()).toMatchObject({ granted: 930, used: 70 })
    expect(await sum()).toBe(0)
    await next.stop()
  })

  test('holds of another server that lives are left to it', async () => {
    const { database, ledger, begin, of } = await start()
    await ledger.start()
    const { holdId } = await ledger.hold({ accountId, amount: 100, purpose })
    const other = begin('srv_other')
    await other.start()
    // With SQLite there is only one at a time: the other one has ended.
    const isShared = database.kind === 'postgres'
    expect(await of()).toMatchObject({ held: isShared ? 100 : 0 })
    if (isShared) {
      await database.run(rawQuery(`update ledger_owners set seen_at = seen_at - 91000 where owner <> 'srv_other'`))
      const third = begin('srv_third')
      await third.start()
      expect(await of()).toMatchObject({ held: 0 })
      await third.stop()
    }
    await expect(ledger.commit(holdId, accountId, used(1))).rejects.toMatchObject({ code: 'hold_over' })
    await other.stop()
    await ledger.stop()
  })

  test('a month that begins while nobody is there is begun by the server itself', async () => {
    const { ledger, clock, begin, store } = await start()
    await ledger.ensure(accountId)
    await clock.advance(20 * 86_400_000)
    const next = begin('srv_next')
    const rolled = new Promise((resolve) => next.events.on('period.rolled', resolve))
    await next.start()
    expect(await rolled).toEqual({ accountId, period: '2026-12', unrenewed: [] })
    expect(await store.tenant(accountId)).toMatchObject({ period: '2026-12' })
    await next.stop()
  })

  test('a month’s end looks past what is archived, however much there has been of it', async () => {
    const { database, ledger, clock, store } = await start({ startMs: Date.UTC(2026, 10, 30, 23, 59) })
    await ledger.openPurse({ accountId, purseId: 'tsk_1', kind: 'task', parentId: reserveId(accountId), monthly: 0 })
    await ledger.archive({ accountId, purseId: 'tsk_1' })
    // Whoever added this up would find the account's rows at fault.
    await database.run(setBought(7, ['tsk_1']))
    await clock.advance(120_000)
    await ledger.ensure(accountId)
    expect(await store.tenant(accountId)).toMatchObject({ period: '2026-12' })
  })

  test('an account whose rows are at fault keeps no other from its month, and no server from its start', async () => {
    const { database, ledger, clock, begin, store, reading } = await start({ startMs: Date.UTC(2026, 10, 30, 23, 59) })
    for (const id of ['acc_a', 'acc_b', 'acc_c']) {
      const { holdId } = await ledger.hold({ accountId: id, amount: 10, purpose })
      await ledger.sent(holdId, id)
    }
    await database.run(setBought(-7, ['acc_b:reserve', 'acc_b:hold']))
    await clock.advance(120_000)
    const next = begin('srv_next')
    await next.start()
    const periods = async () =>
      Promise.all(['acc_a', 'acc_b', 'acc_c'].map(async (id) => (await store.tenant(id))!.period))
    await expect.poll(periods).toEqual(['2026-12', '2026-11', '2026-12'])
    const stillOpen = { state: 'open', limit: 10 } as const
    const left = await Promise.all(['acc_a', 'acc_b', 'acc_c'].map((id) => reading.holds({ accountId: id }, stillOpen)))
    expect(left.map(({ rows }) => rows.length)).toEqual([0, 1, 0])
    await next.stop()
  })

  test('a hold of which a broken connection tells nothing is given back, whether it was made or not', async () => {
    const { database, begin, of, clock } = await start()
    let made: 'answered' | 'made' | 'lost' = 'answered'
    const broken: Database = {
      ...(database as Database),
      program<Operation, Answer>(url: URL) {
        const call = database.program<Operation, Answer>(url)
        return async (operation: Operation) => {
          const answer = made === 'lost' ? undefined : await call(operation)
          if (answer !== undefined && made === 'answered') return answer
          throw new DeltaError('database_unavailable', 'The database can not be reached')
        }
      },
    }
    const ledger = begin('srv_broken', broken)
    await ledger.ensure(accountId)
    for (made of ['made', 'lost'] as const)
      await expect(ledger.hold({ accountId, amount: 100, purpose })).rejects.toMatchObject({
        code: 'database_unavailable',
      })
    // As long as it can not be reached nothing is given up.
    await clock.advance(31_000)
    made = 'answered'
    await clock.advance(31_000)
    await expect.poll(() => of()).toMatchObject({ granted: 1_000, held: 0 })
    await ledger.stop()
  })

  test('an account has at most ten thousand living purses, and a month of all of them begins', async () => {
    const { database, ledger, clock } = await start({ startMs: Date.UTC(2026, 10, 30, 23, 59) })
    await ledger.openPurse({
      accountId,
      purseId: 'agt_0',
      kind: 'agent',
      parentId: ledger.reserveOf(accountId),
      monthly: 1,
    })
    const numbers = `with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < 9999)`
    const made = [
      `insert into ledger_accounts (id, account_id, kind, parent_id, state, monthly, number, children, created_at, place)
       ${numbers} select 'agt_' || n, account_id, kind, parent_id, state, monthly, number + n, 0, created_at, 100 + n
       from ledger_accounts, numbers where id = 'agt_0'`,
      `insert into ledger_balances (place, granted, bought, held, used) select place, 0, 0, 0, 0 from ledger_accounts where place > 100`,
      'update ledger_tenants set purses = 10000',
    ]
    await database.batch(made.map((text) => ({ query: rawQuery(text) })))
    const one = {
      accountId,
      purseId: 'agt_more',
      kind: 'agent',
      parentId: ledger.reserveOf(accountId),
      monthly: 0,
    } as const
    await expect(ledger.openPurse(one)).rejects.toMatchObject({ code: 'purse_limit_reached' })
    await database.run(rawQuery(`update ledger_accounts set state = 'archived' where id = 'agt_7'`))
    await ledger.openPurse(one)
    await clock.advance(120_000)
    await ledger.ensure(accountId)
    expect(await ledger.balanceOf(accountId, 'agt_999')).toMatchObject({ granted: 1 })
  })

  test('an account is opened also while its month is being looked for', async () => {
    const { ledger } = await start()
    const late = ledger.commit('hld_none', accountId, used(1))
    const [commit, hold] = await Promise.allSettled([late, ledger.hold({ accountId, amount: 1, purpose })])
    expect(commit).toMatchObject({ status: 'rejected' })
    expect(hold).toMatchObject({ status: 'fulfilled' })
  })
})
