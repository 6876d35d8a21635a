import type { Migration } from '../../kernel/db/database.ts'

export const portMigrations: Migration[] = [
  {
    name: 'ports-1-public',
    up: () => [
      `create table sandbox_ports (
        sandbox_id text not null references sandboxes (id) on delete cascade,
        port integer not null,
        account_id text not null,
        primary key (sandbox_id, port)
      )`,
    ],
  },
]
