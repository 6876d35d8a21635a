import type { Account, Balances, HoldRow, KeyRow, Tenant, TransferRow, UsageRow } from './book.ts'
import { type Columns, selectedOf, tableOf } from './rows.ts'

// The ledger's tables as its program reads and writes them; `migrations.ts` makes them.

export const tenants = tableOf<Tenant>(
  'ledger_tenants',
  { accountId: 'text', period: 'text', plan: 'text', seq: 'bigint', purses: 'bigint' },
  // The plan is changed beside the program.
  { key: 'accountId', changing: ['period', 'seq', 'purses'] },
)

const accountColumns: Columns<Omit<Account, keyof Balances>> = {
  id: 'text',
  accountId: 'text',
  kind: 'text',
  parentId: 'text',
  state: 'text',
  monthly: 'bigint',
  number: 'bigint',
  children: 'bigint',
  createdAt: 'bigint',
  place: 'bigint',
}
export const accounts = tableOf('ledger_accounts', accountColumns, {
  key: 'id',
  changing: ['state', 'monthly', 'children'],
})

const balanceColumns: Columns<Balances> = { granted: 'bigint', bought: 'bigint', held: 'bigint', used: 'bigint' }
export const balances = tableOf<Balances & Pick<Account, 'place'>>(
  'ledger_balances',
  { place: 'bigint', ...balanceColumns },
  { key: 'place', changing: ['granted', 'bought', 'held', 'used'] },
)

/** Of the view `ledger_accounts_whole`: an account with its balances. */
export const wholeAccount = selectedOf({ ...accountColumns, ...balanceColumns })

export const holds = tableOf<HoldRow>(
  'ledger_holds',
  {
    id: 'text',
    accountId: 'text',
    payer: 'text',
    wished: 'bigint',
    atLeast: 'bigint',
    granted: 'bigint',
    bought: 'bigint',
    period: 'text',
    kind: 'text',
    agentId: 'text',
    taskId: 'text',
    sandboxId: 'text',
    owner: 'text',
    sent: 'bigint',
    observed: 'bigint',
    state: 'text',
    cost: 'bigint',
    absorbed: 'bigint',
    refunded: 'bigint',
    digest: 'text',
    madeAt: 'bigint',
    madeSeq: 'bigint',
    endedAt: 'bigint',
    endedSeq: 'bigint',
  },
  {
    key: 'id',
    changing: ['sent', 'observed', 'state', 'cost', 'absorbed', 'refunded', 'digest', 'endedAt', 'endedSeq'],
  },
)

export const transfers = tableOf<TransferRow>(
  'ledger_transfers',
  {
    accountId: 'text',
    seq: 'bigint',
    at: 'bigint',
    kind: 'text',
    debit: 'text',
    credit: 'text',
    amount: 'bigint',
    sort: 'text',
    holdId: 'text',
    reference: 'text',
    reason: 'text',
  },
  { key: 'seq', changing: [] },
)

export const usage = tableOf<UsageRow>(
  'ledger_usage',
  {
    accountId: 'text',
    hour: 'bigint',
    kind: 'text',
    agentId: 'text',
    taskId: 'text',
    sandboxId: 'text',
    meter: 'text',
    quantity: 'double precision',
    cost: 'bigint',
    estimated: 'bigint',
  },
  {
    key: 'meter',
    changing: [],
    after: ` on conflict (account_id, hour, kind, agent_id, task_id, sandbox_id, meter) do update set quantity = ledger_usage.quantity + excluded.quantity,
      cost = ledger_usage.cost + excluded.cost, estimated = ledger_usage.estimated + excluded.estimated`,
  },
)

export const keys = tableOf<KeyRow>(
  'ledger_keys',
  { accountId: 'text', key: 'text', digest: 'text', answer: 'text', at: 'bigint' },
  { key: 'key', changing: [] },
)
