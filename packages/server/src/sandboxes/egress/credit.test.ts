import fc from 'fast-check'
import { afterEach, expect, test } from 'vitest'
import { type ManualClock, manualClock } from '../../kernel/clock.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { silentLogger } from '../../kernel/log.ts'
import type { Database } from '../../kernel/db/database.ts'
import { testDatabases } from '../../kernel/db/testing.ts'
import { ledgerMigrations } from '../../ledger/migrations.ts'
import { createTestLedger, type TestLedger, testPrice } from '../metering/testing.ts'
import { createCredits, creditLimits, type Credits } from './credit.ts'

const price = (bytes: number) => testPrice('egress_bytes', bytes)
const full = price(creditLimits.bytes)
const kib = 1024
const mib = 1024 * kib
const owner = { accountId: 'acc_a' }

testDatabases('egress credit', (open) => {
  const running: Credits[] = []
  afterEach(async () => {
    for (const credits of running.splice(0)) await credits.stop()
  })

  async function start(tokens: number): Promise<{
    database: Database
    ledger: TestLedger
    clock: ManualClock
    credits: Credits
    turns: () => Promise<void>
  }> {
    const database: Database = await open(ledgerMigrations)
    const clock = manualClock(1_789_000_000_000)
    const ledger = await createTestLedger(database, clock, tokens)
    const credits = createCredits({ ledger, clock, log: silentLogger })
    running.push(credits)
    /** Until nothing is under way. */
    const turns = async () => {
      for (let still = 0; still < 20; still = database.counts.waiting === 0 ? still + 1 : 0) {
        await new Promise((resolve) => setImmediate(resolve))
      }
    }
    return { database, ledger, clock, credits, turns }
  }

  test('all connections of a payer run on one credit, another payer on another', async () => {
    const { ledger, credits } = await start(10 * full)
    const [one, two] = [credits.join(owner), credits.join(owner)]
    await Promise.all([one.opened, two.opened])
    expect((await ledger.balances()).held).toBe(full)
    const other = credits.join({ ...owner, payer: 'agt_a' })
    await expect(other.opened).rejects.toMatchObject({ code: 'purse_not_found' })
    expect((await ledger.balances()).held).toBe(full)
    expect(one.take(64 * kib)).toBeUndefined()
    expect(two.take(64 * kib)).toBeUndefined()
  })

  test('the next credit is held when half of one is used, and what was used up is paid', async () => {
    const { ledger, credits, turns } = await start(10 * full)
    const connection = credits.join(owner)
    await connection.opened
    for (let mibs = 0; mibs < 7; mibs += 1) expect(connection.take(mib)).toBeUndefined()
    await turns()
    expect(await ledger.openHolds()).toBe(1)
    expect(connection.take(mib)).toBeUndefined()
    await turns()
    expect(await ledger.openHolds()).toBe(2)
    for (let mibs = 0; mibs < 9; mibs += 1) expect(connection.take(mib)).toBeUndefined()
    await turns()
    expect(ledger.commits.map(({ lines }) => lines)).toEqual([
      [{ meter: 'egress_bytes', quantity: 16 * mib, cost: full }],
    ])
  })

  test('bytes for which nothing is held yet wait, and pass in their order', async () => {
    const { ledger, credits } = await start(10 * full)
    const connection = credits.join(owner)
    const passed: number[] = []
    const takes = [1, 2, 3].map((nr) => connection.take(64 * kib)?.then(() => passed.push(nr)))
    expect(takes).not.toContain(undefined)
    await Promise.all(takes)
    expect(passed).toEqual([1, 2, 3])
    expect((await ledger.balances()).held).toBe(full)
  })

  test('more than one credit waits for as many as it takes', async () => {
    const { credits } = await start(10 * full)
    const connection = credits.join(owner)
    await Promise.all(Array.from({ length: 40 }, () => connection.take(mib)))
    expect(connection.take(mib)).toBeUndefined()
  })

  test('where nobody pays a connection is refused, until there are tokens', async () => {
    const { ledger, clock, credits } = await start(0)
    const connection = credits.join(owner)
    await expect(connection.opened).rejects.toMatchObject({ code: 'balance_too_low' })
    await expect(connection.take(1)).rejects.toMatchObject({ code: 'balance_too_low' })
    await ledger.give(full)
    await clock.advance(creditLimits.refusedMs)
    await credits.join(owner).opened
    expect((await ledger.balances()).held).toBe(full)
  })

  test('the last tokens are used up, and not a byte more passes', async () => {
    const tokens = price(mib)
    const { ledger, credits, turns } = await start(tokens)
    const connection = credits.join(owner)
    await connection.opened
    let passed = 0
    const take = async () => {
      await connection.take(64 * kib)
      passed += 64 * kib
      await turns()
    }
    await expect(
      (async () => {
        for (;;) await take()
      })(),
    ).rejects.toMatchObject({ code: 'balance_too_low' })
    connection.leave()
    await running.pop()!.stop()
    expect(price(passed)).toBeLessThanOrEqual(tokens)
    expect(passed).toBeGreaterThanOrEqual(mib - 64 * kib)
    expect(await ledger.balances()).toMatchObject({
      used: price(passed),
      held: 0,
      absorbed: 0,
    })
  })

  test('what was used is paid soon after the last connection, and the rest given back', async () => {
    const { ledger, clock, credits, turns } = await start(10 * full)
    const connection = credits.join(owner)
    await connection.opened
    void connection.take(mib)
    connection.leave()
    await clock.advance(creditLimits.lingerMs)
    await turns()
    expect(await ledger.balances()).toMatchObject({
      used: price(mib),
      held: 0,
      balance: 10 * full - price(mib),
    })
  })

  test('a connection that is used little is paid for within a minute or so', async () => {
    const { ledger, clock, credits, turns } = await start(10 * full)
    const connection = credits.join(owner)
    await connection.opened
    void connection.take(mib)
    for (let passed = 0; passed < creditLimits.longestMs + 2 * creditLimits.lingerMs; passed += creditLimits.lingerMs) {
      await clock.advance(creditLimits.lingerMs)
      await turns()
    }
    expect(await ledger.balances()).toMatchObject({ used: price(mib), held: full })
  })

  test('a payment that could not be written is made later', async () => {
    const { ledger, clock, credits, turns } = await start(10 * full)
    const connection = credits.join(owner)
    await connection.opened
    void connection.take(mib)
    connection.leave()
    ledger.failures = [new DeltaError('database_busy', 'no')]
    await clock.advance(creditLimits.lingerMs)
    await turns()
    expect((await ledger.balances()).used).toBe(0)
    await clock.advance(creditLimits.retryMs)
    await turns()
    expect(await ledger.balances()).toMatchObject({ used: price(mib), held: 0 })
  })

  test('over any history what passed is paid for, never more than was held, within the rounding of a credit', async () => {
    const database: Database = await open(ledgerMigrations)
    const clock = manualClock(1_789_000_000_000)
    let accounts = 0
    const pieces = fc.array(fc.tuple(fc.integer({ min: 0, max: 3 }), fc.integer({ min: 1, max: 256 * kib })), {
      maxLength: 300,
    })
    await fc.assert(
      fc.asyncProperty(pieces, fc.integer({ min: 0, max: 3 * full }), async (history, tokens) => {
        accounts += 1
        const accountId = `acc_${accounts}`
        const ledger = await createTestLedger(database, clock, tokens, accountId)
        const credits = createCredits({ ledger, clock, log: silentLogger })
        const connections = Array.from({ length: 4 }, () => credits.join({ accountId }))
        let passed = 0
        for (const connection of connections) connection.opened?.catch(() => undefined)
        for (const [index, bytes] of history) {
          const isPaid = await (connections[index]!.take(bytes) ?? Promise.resolve()).then(
            () => true,
            () => false,
          )
          if (isPaid) passed += bytes
        }
        await credits.stop()
        const exact = (passed * 2_000) / 1e6
        const { balance, used, held, absorbed } = await ledger.balances()
        expect({ held, absorbed }).toEqual({ held: 0, absorbed: 0 })
        expect(balance + used).toBe(tokens)
        expect(used).toBeGreaterThanOrEqual(Math.floor(exact))
        expect(used).toBeLessThanOrEqual(Math.ceil(exact) + ledger.commits.length)
      }),
      { seed: 6, numRuns: 30 },
    )
  })
})
