import type { Migration } from '../../kernel/db/database.ts'

export const mailMigrations: Migration[] = [
  {
    name: 'mail-1',
    up: () => [
      `create table mails (
        id text primary key,
        recipient text not null,
        subject text not null,
        sealed_text text,
        state text not null check (state in ('kept', 'waiting', 'sending', 'sent', 'failed')),
        tries bigint not null,
        next_at bigint not null,
        created_at bigint not null
      )`,
      'create index mails_next on mails (state, next_at)',
    ],
  },
  {
    name: 'mail-2-shares',
    up: () => [
      `alter table mails add column share text not null default 'registration'`,
      'create index mails_share on mails (share, created_at)',
    ],
  },
]
