import type { Migration } from '../../kernel/db/database.ts'

export const tokenRequestMigrations: Migration[] = [
  {
    name: 'token-requests-1',
    up: () => [
      `create table token_requests (
        id text primary key,
        account_id text not null,
        agent_id text not null,
        line text not null,
        tokens bigint not null,
        reason text not null,
        automatic integer not null,
        state text not null check (state in ('pending_main', 'pending_user', 'granting', 'granted', 'refused', 'expired', 'failed', 'unneeded', 'canceled')),
        asker text not null,
        main_id text,
        main_until bigint,
        endorsed_by text,
        source text,
        approval_id text,
        asked_at bigint not null,
        expires_at bigint not null,
        decided_by text,
        decided_at bigint,
        refusal text,
        ended_at bigint,
        failure_code text,
        failure_text text,
        idempotency_key text,
        body_hash text,
        changed bigint not null
      )`,
      // An agent waits for one at a time.
      'create unique index token_requests_open on token_requests (agent_id) where ended_at is null',
      'create unique index token_requests_keys on token_requests (agent_id, idempotency_key)',
      // Numbers of changes are given one after the other: whoever reads up to one has missed none before it.
      'create unique index token_requests_changed on token_requests (account_id, changed)',
      'create index token_requests_listed on token_requests (account_id, asked_at)',
      'create index token_requests_by_agent on token_requests (agent_id, asked_at)',
      'create index token_requests_by_approval on token_requests (approval_id)',
      `create index token_requests_waiting on token_requests (main_id) where state = 'pending_main'`,
      'create index token_requests_due on token_requests (state, expires_at) where ended_at is null',
      'create index token_requests_ended on token_requests (ended_at)',
      // Agents that are out of tokens.
      `create table agent_suspensions (
        agent_id text primary key,
        account_id text not null,
        state text not null check (state in ('low', 'waking')),
        wanted bigint not null,
        had bigint not null,
        at bigint not null
      )`,
    ],
  },
]
