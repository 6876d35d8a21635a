import { expect, test } from 'vitest'
import { rawQuery } from '../kernel/db/compile.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { ledgerMigrations } from './migrations.ts'
import type { Answer, Operation } from './operations.ts'
import { ledgerProgramUrl } from './program-url.ts'
import { memoryLedger, randomOperation, seeded } from './testing.ts'

testDatabases('the program', (open) => {
  test.each([1, 2, 3, 4])(
    'decides groups of any size as their operations would be one after the other (seed %d)',
    async (seed) => {
      const random = seeded(seed * 7_919)
      const database = await open(ledgerMigrations)
      const call = database.program<Operation, Answer>(ledgerProgramUrl)
      const alone = memoryLedger()
      const opened = (accountId: string): Operation => ({
        type: 'open_account',
        accountId,
        at: 0,
        grantTokens: 500,
        period: '2026-10',
        plan: 'free',
      })
      let number = 0
      const seen = new Set<string>()
      for (let group = 0; group < 60; group++) {
        const size = 1 + random.below(30)
        const operations =
          group === 0
            ? [opened('acc_a'), opened('acc_b')]
            : Array.from({ length: size }, () => randomOperation(random, ++number))
        const answers = await Promise.all(operations.map(call))
        const expected = operations.map((operation) => alone.decide(operation))
        expect(answers).toEqual(expected)
        for (const answer of answers) seen.add(answer.ok ? 'ok' : answer.reason)
      }
      // A history in which nearly everything is refused would show nothing.
      expect([...seen]).toEqual(expect.arrayContaining(['ok', 'balance_too_low', 'hold_over', 'purse_archived']))
      const rows = await database.all<{ id: string; granted: number; bought: number; held: number; used: number }>(
        rawQuery('select id, granted, bought, held, used from ledger_accounts_whole order by id'),
      )
      const inMemory = [...alone.book.all()].flatMap((row) => (row ? [row] : []))
      expect(rows).toEqual(
        inMemory
          .map(({ id, granted, bought, held, used }) => ({ id, granted, bought, held, used }))
          .toSorted((a, b) => (a.id < b.id ? -1 : 1)),
      )
      expect(rows.reduce((sum, { granted, bought }) => sum + granted + bought, 0)).toBe(0)
      // What moved is what the journal says, and each position is there once.
      const moved = new Map<string, number>()
      const journal = await database.all<{
        debit: string
        credit: string
        amount: number
        seq: number
        account_id: string
      }>(rawQuery('select account_id, seq, debit, credit, amount from ledger_transfers order by account_id, seq'))
      for (const { debit, credit, amount } of journal) {
        moved.set(debit, (moved.get(debit) ?? 0) - amount)
        moved.set(credit, (moved.get(credit) ?? 0) + amount)
      }
      for (const { id, granted, bought } of rows) expect(moved.get(id) ?? 0, id).toBe(granted + bought)
      for (const accountId of ['acc_a', 'acc_b']) {
        const own = journal.filter(({ account_id: of }) => of === accountId).map(({ seq }) => seq)
        expect(own).toEqual(own.map((_, index) => index + 1))
      }
      // What was used is what holds and charges have cost, whoever bore it.
      const cost = async (text: string) => (await database.first<{ cost: number }>(rawQuery(text)))!.cost
      expect(await cost('select coalesce(sum(cost), 0) as cost from ledger_usage')).toBe(
        (await cost('select coalesce(sum(cost + absorbed), 0) as cost from ledger_holds')) +
          (await cost(`select coalesce(sum(amount), 0) as cost from ledger_transfers where kind in ('charge', 'owe')`)),
      )
    },
  )
})
