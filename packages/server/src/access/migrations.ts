import type { Migration } from '../kernel/db/database.ts'

export const accessMigrations: Migration[] = [
  {
    name: 'access-1-tokens',
    up: () => [
      'create table access_secrets (name text primary key, value text not null)',
      'create table access_generations (sandbox_id text primary key, generation bigint not null, revoked_at bigint not null)',
    ],
  },
  {
    name: 'access-2-revocations',
    up: (kind) => [
      `create table access_revocations (${kind === 'sqlite' ? 'number integer primary key autoincrement' : 'number bigint generated always as identity primary key'}, id text not null, server text not null, revoked_at bigint not null)`,
      'create index access_revocations_time on access_revocations (revoked_at)',
    ],
  },
  {
    name: 'access-3-makers',
    up: () => [
      // By which keys, sessions and people tokens of a sandbox were made, as long as one of them may be good.
      'create table access_makers (maker text not null, sandbox_id text not null, until bigint not null, primary key (maker, sandbox_id))',
      'create index access_makers_until on access_makers (until)',
    ],
  },
]
