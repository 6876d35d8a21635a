import type { Migration } from '../kernel/db/database.ts'

export const modelMigrations: Migration[] = [
  {
    name: 'models-1-keys',
    up: () => [
      `create table model_keys (
        account_id text not null,
        provider text not null,
        sealed text not null,
        last text not null,
        set_by text not null,
        set_at bigint not null,
        primary key (account_id, provider)
      )`,
    ],
  },
]
