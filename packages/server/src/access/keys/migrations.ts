import type { Migration } from '../../kernel/db/database.ts'

export const keyMigrations: Migration[] = [
  {
    name: 'access-3-keys',
    up: () => [
      `create table api_keys (
        id text primary key,
        account_id text not null,
        user_id text,
        made_by text not null,
        ancestors text not null,
        name text not null,
        hint text not null,
        hash text not null,
        previous_hash text,
        previous_until bigint,
        rights text not null,
        agents text,
        sandboxes text,
        created_at bigint not null,
        expires_at bigint,
        rotated_at bigint,
        revoked_at bigint,
        last_used_at bigint
      )`,
      'create unique index api_keys_hash on api_keys (hash)',
      'create unique index api_keys_previous_hash on api_keys (previous_hash)',
      'create index api_keys_account on api_keys (account_id, created_at)',
    ],
  },
]
