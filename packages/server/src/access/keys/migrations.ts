import type { DatabaseKind, Migration } from '../../kernel/db/database.ts'
import { placeDigits } from './text.ts'

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
  {
    name: 'access-4-key-places',
    up: (kind) => [
      // The table itself is in the order of the hashes: a key that is not known is found by one walk of three pages, also among 100,000. An index of its own would make it
      // seven, and with SQLite any commit has all of them read again.
      'alter table api_keys rename to api_keys_before',
      `create table api_keys (
        place ${kind === 'sqlite' ? 'integer' : 'bigint'} primary key,
        id text not null,
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
      `insert into api_keys (place, ${columns}) select ${placeOf(kind)}, ${columns} from api_keys_before`,
      'drop table api_keys_before',
      'create unique index api_keys_id on api_keys (id)',
      // Of the few that were rotated.
      'create unique index api_keys_previous_hash on api_keys (previous_hash) where previous_hash is not null',
      'create index api_keys_account on api_keys (account_id, created_at)',
    ],
  },
]

const columns =
  'id, account_id, user_id, made_by, ancestors, name, hint, hash, previous_hash, previous_until, rights, agents, sandboxes, created_at, expires_at, rotated_at, revoked_at, last_used_at'

/** `keyPlace` of the hash of a row. Of a hexadecimal digit's code, 48 to 57 or 97 to 102, what remains over 39 is nine more than the digit. */
function placeOf(kind: DatabaseKind): string {
  const code = kind === 'sqlite' ? 'unicode' : 'ascii'
  const digits = Array.from({ length: placeDigits }, (_, at) => {
    return `(cast(${code}(substr(hash, ${at + 1}, 1)) as bigint) % 39 - 9) * ${16 ** (placeDigits - 1 - at)}`
  })
  return digits.join(' + ')
}
