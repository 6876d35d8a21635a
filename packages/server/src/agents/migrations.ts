import type { Migration } from '../kernel/db/database.ts'

export const agentMigrations: Migration[] = [
  {
    name: 'agents-1-tables',
    up: () => [
      `create table agents (
        id text primary key,
        account_id text not null,
        name text not null,
        kind text not null,
        parent_id text,
        state text not null,
        ended integer not null,
        task text,
        channel text,
        template text not null,
        memory_mb integer not null,
        rights text not null,
        budget bigint not null,
        monthly bigint not null,
        confirm_above bigint not null,
        workspace_id text,
        sandbox_id text,
        version integer not null,
        created_at bigint not null,
        changed_at bigint not null
      )`,
      'create index agents_by_account on agents (account_id, ended, created_at, id)',
      'create index agents_by_parent on agents (parent_id, ended)',
      'create index agents_by_state on agents (state)',
      // Each agent with itself and with all above it: whoever stands above somebody does so for ever.
      `create table agent_lines (
        agent_id text not null references agents (id) on delete cascade,
        above_id text not null,
        distance integer not null,
        primary key (agent_id, above_id)
      )`,
      'create index agent_lines_by_above on agent_lines (above_id, agent_id)',
      // Agents that are not archived, so that a plan's limit costs the same with ten and with ten thousand.
      'create table agent_counts (account_id text primary key, live integer not null)',
      `create table agent_requests (
        account_id text not null,
        idempotency_key text not null,
        body_hash text not null,
        agent_id text not null,
        created_at bigint not null,
        primary key (account_id, idempotency_key)
      )`,
      'create index agent_requests_by_age on agent_requests (created_at)',
    ],
  },
]
