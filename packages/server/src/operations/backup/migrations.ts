import type { Migration } from '../../kernel/db/database.ts'

export const backupMigrations: Migration[] = [
  {
    name: 'operations-1-restores',
    up: () => [
      // Written together with the rows of the backup: a restore has happened when this says so.
      `create table platform_restores (
        id text primary key,
        backup_at bigint not null,
        restored_at bigint not null,
        state text not null check (state in ('loaded', 'done'))
      )`,
    ],
  },
]
