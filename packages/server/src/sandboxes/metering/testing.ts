import type { Clock } from '../../kernel/clock.ts'
import type { Database } from '../../kernel/db/database.ts'
import { newId } from '../../kernel/ids.ts'
import { silentLogger } from '../../kernel/log.ts'
import { firstCard, priceOf } from '../../ledger/rate-card.ts'
import { createLedgerReading } from '../../ledger/reading.ts'
import { createLedger } from '../../ledger/service.ts'
import type { MeterLedger } from './ledger.ts'
import type { MeteredLine } from './rules.ts'

/** The real ledger of one account, with what tests see of it and do to it. */
export interface TestLedger extends MeterLedger {
  /** What the reserve has left, holds and has paid, and what the platform bore; micro-tokens. */
  balances(): Promise<{ balance: number; held: number; used: number; absorbed: number }>
  give(amount: number): Promise<void>
  /** Takes all that is left, as another spender would. */
  drain(): Promise<void>
  commits: { holdId: string; lines: MeteredLine[]; estimated: boolean }[]
  openHolds(): Promise<number>
  hours: number | null
  /** Thrown by the next so many calls. */
  failures: Error[]
}

export function testPrice(meter: string, quantity: number): number {
  return priceOf(firstCard, meter, quantity)
}

/** `tokens` are micro-tokens, and bought, so that no month ends them. */
export async function createTestLedger(
  database: Database,
  clock: Clock,
  tokens: number,
  accountId = 'acc_a',
): Promise<TestLedger> {
  const ledger = createLedger({
    database,
    clock,
    log: silentLogger,
    rates: firstCard,
    grant: 0,
    planAtStart: () => 'enterprise',
    incarnation: newId('srv'),
  })
  await ledger.ensure(accountId)
  const reading = createLedgerReading(database)
  const reserve = ledger.reserveOf(accountId)
  const give = async (amount: number) => {
    if (amount > 0) await ledger.grant({ accountId, sort: 'bought', amount, reason: 'test', key: newId('req') })
  }
  await give(tokens)
  let absorbed = 0
  const test: TestLedger = {
    ...ledger,
    sandboxHoursOf: async () => test.hours,
    async hold(wish) {
      fail()
      return ledger.hold(wish)
    },
    async release(holdId, of) {
      fail()
      await ledger.release(holdId, of)
    },
    async commit(holdId, of, lines, options) {
      fail()
      const done = await ledger.commit(holdId, of, lines, options)
      absorbed += done.unpaid ?? 0
      test.commits.push({ holdId, lines, estimated: options.estimated ?? false })
      return done
    },
    async balances() {
      const { granted, bought, held, used } = await ledger.balanceOf(accountId, reserve)
      return { balance: granted + bought, held, used, absorbed }
    },
    give,
    async drain() {
      const { balance } = await test.balances()
      if (balance > 0) await ledger.hold({ accountId, amount: balance, purpose: { kind: 'other' } })
    },
    async openHolds() {
      return (await reading.holds({ accountId }, { state: 'open', limit: 500 })).rows.length
    },
    commits: [],
    hours: null,
    failures: [],
  }
  const fail = (): void => {
    const failure = test.failures.shift()
    if (failure) throw failure
  }
  return test
}
