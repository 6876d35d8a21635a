import type { Migration } from '../../kernel/db/database.ts'

export const volumeMigrations: Migration[] = [
  {
    name: 'volumes-1-tables',
    up: () => [
      `create table volumes (
        id text primary key,
        account_id text not null,
        name text not null,
        disk_mb integer not null,
        state text not null,
        idempotency_key text,
        body_hash text,
        created_at bigint not null,
        unique (account_id, name),
        unique (account_id, idempotency_key)
      )`,
      `create table volume_uses (
        volume_id text not null references volumes (id),
        sandbox_id text not null,
        primary key (volume_id, sandbox_id)
      )`,
      'create index volume_uses_by_sandbox on volume_uses (sandbox_id)',
    ],
  },
]
