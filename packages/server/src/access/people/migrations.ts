import type { Migration } from '../../kernel/db/database.ts'

export const peopleMigrations: Migration[] = [
  {
    name: 'people-1',
    up: () => [
      'create table accounts (id text primary key, name text not null, created_at bigint not null)',
      // Whose key lies in the data folder; it was there before there were accounts.
      `insert into accounts (id, name, created_at) values ('acc_default', 'default', 0)`,
      `create table users (
        id text primary key,
        email text not null unique,
        name text not null,
        email_verified_at bigint,
        password_hash text,
        created_at bigint not null
      )`,
      `create table memberships (
        account_id text not null references accounts (id),
        user_id text not null references users (id),
        role text not null check (role in ('owner', 'admin', 'member', 'viewer')),
        created_at bigint not null,
        primary key (account_id, user_id)
      )`,
      'create index memberships_user on memberships (user_id)',
      `create table sessions (
        id text primary key,
        user_id text not null references users (id),
        account_id text not null references accounts (id),
        second_factor bigint not null,
        client text not null,
        address text not null,
        created_at bigint not null,
        used_at bigint not null,
        expires_at bigint not null,
        ended_at bigint
      )`,
      'create index sessions_user on sessions (user_id)',
      'create index sessions_expiry on sessions (expires_at)',
      `create table refresh_tokens (
        hash text primary key,
        session_id text not null references sessions (id),
        created_at bigint not null,
        used_at bigint
      )`,
      'create index refresh_tokens_session on refresh_tokens (session_id)',
      `create table invitations (
        id text primary key,
        account_id text not null references accounts (id),
        email text not null,
        role text not null,
        invited_by text not null,
        created_at bigint not null,
        expires_at bigint not null,
        unique (account_id, email)
      )`,
      `create table login_links (
        hash text primary key,
        purpose text not null,
        email text not null,
        user_id text,
        invitation_id text,
        name text not null,
        created_at bigint not null,
        expires_at bigint not null
      )`,
      'create index login_links_email on login_links (email, purpose)',
      'create index login_links_expiry on login_links (expires_at)',
      `create table totp (
        user_id text primary key references users (id),
        secret text not null,
        confirmed_at bigint,
        last_step bigint not null
      )`,
      `create table recovery_codes (
        user_id text not null references users (id),
        hash text not null,
        primary key (user_id, hash)
      )`,
    ],
  },
  {
    name: 'people-2-bounds',
    up: () => [
      'alter table login_links add column tries bigint not null default 0',
      'alter table totp add column failures bigint not null default 0',
      'alter table totp add column next_at bigint not null default 0',
      'alter table invitations add column user_id text',
      `update invitations set user_id = invited_by where invited_by in (select id from users)`,
      'create table people_counts (name text not null, day bigint not null, count bigint not null, primary key (name, day))',
      // Whose owner came in by another way, before that took the link away.
      `delete from login_links where purpose = 'owner' and exists (select 1 from memberships where account_id = 'acc_default' and role = 'owner')`,
    ],
  },
]
