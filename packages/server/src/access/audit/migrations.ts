import type { Migration } from '../../kernel/db/database.ts'

export const auditMigrations: Migration[] = [
  {
    name: 'audit-1-chain',
    up: () => [
      `create table audit_entries (
        account_id text not null,
        seq bigint not null,
        at bigint not null,
        actor text not null,
        action text not null,
        target text,
        outcome text not null,
        reason text,
        details text,
        request_id text,
        address text,
        hash text not null,
        primary key (account_id, seq)
      )`,
      'create index audit_entries_target on audit_entries (account_id, target, seq)',
      'create index audit_entries_actor on audit_entries (account_id, actor, seq)',
      'create table audit_heads (account_id text primary key, seq bigint not null, hash text not null)',
    ],
  },
]
