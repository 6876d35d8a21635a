import type { Migration } from '../kernel/db/database.ts'

export const accessMigrations: Migration[] = [
  {
    name: 'access-1-tokens',
    up: () => [
      'create table access_secrets (name text primary key, value text not null)',
      'create table access_generations (sandbox_id text primary key, generation bigint not null, revoked_at bigint not null)',
    ],
  },
]
