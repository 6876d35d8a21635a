import type { Migration } from '../kernel/db/database.ts'

export const approvalMigrations: Migration[] = [
  {
    name: 'approvals-1',
    up: () => [
      `create table approvals (
        id text primary key,
        account_id text not null,
        kind text not null,
        action text not null,
        action_hash text not null,
        state text not null check (state in ('pending', 'approved', 'executed', 'failed', 'refused', 'expired', 'canceled')),
        asked_by text not null,
        asked_user text,
        asked_ties text not null,
        asked_line text not null,
        asked_root text not null,
        reason text not null,
        sandbox_id text,
        asked_at bigint not null,
        expires_at bigint not null,
        decided_by text,
        decided_at bigint,
        refusal text,
        begun_at bigint,
        tries bigint not null,
        lease_until bigint,
        ended_at bigint,
        failure_code text,
        failure_text text,
        changed bigint not null
      )`,
      // Numbers of changes are given one after the other: whoever reads up to one has missed none before it.
      'create unique index approvals_changed on approvals (account_id, changed)',
      'create index approvals_listed on approvals (account_id, asked_at)',
      // Asking for the same twice is asking once.
      `create unique index approvals_pending on approvals (account_id, asked_line, action_hash) where state = 'pending'`,
      `create index approvals_expiry on approvals (expires_at) where state = 'pending'`,
      `create index approvals_lease on approvals (lease_until) where state = 'approved'`,
      'create index approvals_ended on approvals (ended_at)',
    ],
  },
]
