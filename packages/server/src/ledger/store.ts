import type { CompiledQuery } from 'kysely'
import { rawQuery } from '../kernel/db/compile.ts'
import type { Database } from '../kernel/db/database.ts'
import type { SqlValue } from '../kernel/db/worker-messages.ts'
import type { Account, HoldRow, Tenant } from './book.ts'
import { ledgerLimits } from './limits.ts'
import { tenants, wholeAccount } from './tables.ts'

export type LedgerStore = ReturnType<typeof createLedgerStore>

/** What is read beside the program, and the few rows that it does not write. */
export function createLedgerStore(database: Database) {
  const places = database.kind === 'sqlite' ? () => '?' : (index: number) => `$${index}`
  /** Each `?` is a parameter, in order. */
  const ask = <Row>(text: string, parameters: SqlValue[]): CompiledQuery<Row> => {
    let index = 0
    return rawQuery(
      text.replaceAll('?', () => places(++index)),
      parameters,
    ) as CompiledQuery<Row>
  }
  const now =
    database.kind === 'sqlite'
      ? `cast(unixepoch('subsec') * 1000 as integer)`
      : 'cast(extract(epoch from clock_timestamp()) * 1000 as bigint)'

  return {
    async tenant(accountId: string): Promise<Tenant | undefined> {
      return database.first(
        ask<Tenant>(`select ${tenants.selected} from ledger_tenants where account_id = ?`, [accountId]),
      )
    },

    async behind(period: string): Promise<string[]> {
      const query = ask<{ id: string }>(
        `select account_id as id from ledger_tenants where period < ? order by period limit ${ledgerLimits.swept}`,
        [period],
      )
      return (await database.all(query)).map(({ id }) => id)
    },

    async setPlan(accountId: string, plan: string): Promise<boolean> {
      const query = ask('update ledger_tenants set plan = ? where account_id = ?', [plan, accountId])
      return (await database.run(query)).changed === 1
    },

    async account(accountId: string, id: string): Promise<Account | undefined> {
      const text = `select ${wholeAccount} from ledger_accounts_whole where id = ? and account_id = ?`
      return database.first(ask<Account>(text, [id, accountId]))
    },

    async wasDone(accountId: string, key: string): Promise<boolean> {
      const query = ask<{ one: number }>('select 1 as one from ledger_keys where account_id = ? and key = ?', [
        accountId,
        key,
      ])
      return (await database.first(query)) !== undefined
    },

    /** Holds that are open count with what they will be settled at, as their owner is dead. */
    async spentSince(accountId: string, taskId: string, since: number): Promise<number> {
      const whole = '(granted + bought)'
      const settled = `case when coalesce(observed, ${whole}) < ${whole} then observed else ${whole} end`
      const query = ask<{ cost: number | string | null }>(
        `select sum(case when state = 'open' then sent * ${settled} else cost end) as cost from (select * from ledger_holds where account_id = ? order by made_seq desc limit ${ledgerLimits.lookedBack}) as latest where task_id = ? and kind = 'model' and made_at >= ?`,
        [accountId, taskId, since],
      )
      return Number((await database.first(query))?.cost ?? 0)
    },

    /** Rows that are not archived; no more than `most` are counted. */
    async living(accountId: string, most: number): Promise<number> {
      const query = ask<{ count: number }>(
        `select count(*) as count from (select 1 as one from ledger_accounts where account_id = ? and state <> 'archived' limit ?) as living`,
        [accountId, most],
      )
      return Number((await database.first(query))!.count)
    },

    async heard(owner: string): Promise<void> {
      const text = `insert into ledger_owners (owner, seen_at) values (?, ${now}) on conflict (owner) do update set seen_at = excluded.seen_at`
      await database.run(ask(text, [owner]))
    },

    /** Open holds of owners that are dead: of all but one, or of those not heard of for so long. */
    async orphans({
      owner,
      silentMs,
    }: {
      owner: string
      silentMs?: number
    }): Promise<Pick<HoldRow, 'id' | 'accountId'>[]> {
      const text = `select id, account_id as "accountId" from ledger_holds where state = 'open' and owner <> ?${
        silentMs === undefined
          ? ''
          : ` and not exists (select 1 from ledger_owners o where o.owner = ledger_holds.owner and o.seen_at > ${now} - ${silentMs})`
      } order by owner, id limit ${ledgerLimits.swept}`
      return database.all(ask(text, [owner]))
    },

    /** Those that are long dead and have nothing open. */
    async forgetOwners(silentMs: number): Promise<void> {
      await database.run(
        ask(
          `delete from ledger_owners where seen_at < ${now} - ${silentMs} and not exists (select 1 from ledger_holds h where h.owner = ledger_owners.owner and h.state = 'open')`,
          [],
        ),
      )
    },
  }
}
