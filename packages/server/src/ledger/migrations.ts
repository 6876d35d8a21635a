import type { Migration } from '../kernel/db/database.ts'

export const ledgerMigrations: Migration[] = [
  {
    name: 'ledger-1',
    up(kind) {
      // Rows lie in the order of their key, without a second tree beside it.
      const end = kind === 'sqlite' ? ') without rowid' : ')'
      const real = kind === 'sqlite' ? 'real' : 'double precision'
      return [
        `create table ledger_tenants (
          account_id text primary key,
          period text not null,
          plan text not null,
          seq bigint not null,
          purses bigint not null
        ${end}`,
        'create index ledger_tenants_period on ledger_tenants (period)',
        `create table ledger_accounts (
          id text primary key,
          account_id text not null,
          kind text not null check (kind in ('reserve', 'agent', 'task', 'hold', 'grant', 'usage', 'refund', 'absorbed', 'owed')),
          parent_id text,
          state text not null check (state in ('open', 'closing', 'archived')),
          granted bigint not null,
          bought bigint not null,
          held bigint not null,
          used bigint not null,
          monthly bigint not null,
          number bigint not null,
          children bigint not null,
          created_at bigint not null
        ${end}`,
        'create index ledger_accounts_listed on ledger_accounts (account_id, number)',
        `create table ledger_holds (
          id text primary key,
          account_id text not null,
          payer text not null,
          wished bigint not null,
          at_least bigint not null,
          granted bigint not null,
          bought bigint not null,
          period text not null,
          kind text not null,
          agent_id text,
          task_id text,
          sandbox_id text,
          owner text not null,
          sent bigint not null,
          observed bigint,
          state text not null check (state in ('open', 'committed', 'released', 'unknown')),
          cost bigint not null,
          absorbed bigint not null,
          refunded bigint not null,
          digest text,
          made_at bigint not null,
          made_seq bigint not null,
          ended_at bigint,
          ended_seq bigint not null
        ${end}`,
        'create index ledger_holds_listed on ledger_holds (account_id, made_seq)',
        // Few at a time: what is over leaves it.
        `create index ledger_holds_open on ledger_holds (owner, id) where state = 'open'`,
        `create table ledger_transfers (
          account_id text not null,
          seq bigint not null,
          at bigint not null,
          kind text not null,
          debit text not null,
          credit text not null,
          amount bigint not null,
          sort text not null check (sort in ('granted', 'bought')),
          hold_id text,
          reference text,
          reason text,
          primary key (account_id, seq)
        ${end}`,
        `create table ledger_usage (
          account_id text not null,
          hour bigint not null,
          kind text not null,
          agent_id text not null,
          task_id text not null,
          sandbox_id text not null,
          meter text not null,
          quantity ${real} not null,
          cost bigint not null,
          estimated bigint not null,
          primary key (account_id, hour, kind, agent_id, task_id, sandbox_id, meter)
        ${end}`,
        `create table ledger_keys (
          account_id text not null,
          key text not null,
          digest text not null,
          answer text not null,
          at bigint not null,
          primary key (account_id, key)
        ${end}`,
        // Of servers that share the database: who was heard of when.
        `create table ledger_owners (
          owner text primary key,
          seen_at bigint not null
        )`,
      ]
    },
  },
  {
    name: 'ledger-2-below',
    // What is below a purse is looked for with every list that an agent asks for.
    up: () => ['create index ledger_accounts_below on ledger_accounts (parent_id)'],
  },
  {
    name: 'ledger-3-living',
    // Each task leaves a purse that is archived: a month's end and the tree look past them.
    up: () => [`create index ledger_accounts_living on ledger_accounts (account_id, number) where state <> 'archived'`],
  },
]
