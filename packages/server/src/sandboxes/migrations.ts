import type { Migration } from '../kernel/db/database.ts'

export const sandboxMigrations: Migration[] = [
  {
    name: 'sandboxes-1-tables',
    up: () => [
      `create table sandboxes (
        id text primary key,
        account_id text not null,
        state text not null,
        reason text not null,
        detail text,
        failure text,
        template text not null,
        runtime text not null,
        cpu_milli integer not null,
        memory_mb integer not null,
        disk_mb integer not null,
        processes integer not null,
        timeout_ms bigint not null,
        on_timeout text not null,
        auto_resume integer not null,
        metadata text not null,
        env text not null,
        upper_id text not null,
        box_id text,
        starts integer not null,
        version integer not null,
        created_at bigint not null,
        started_at bigint,
        end_at bigint,
        changed_at bigint not null
      )`,
      'create index sandboxes_by_account on sandboxes (account_id, created_at, id)',
      'create index sandboxes_by_state on sandboxes (state, changed_at)',
      `create table sandbox_metadata (
        sandbox_id text not null references sandboxes (id) on delete cascade,
        name text not null,
        value text not null,
        primary key (sandbox_id, name)
      )`,
      'create index sandbox_metadata_by_value on sandbox_metadata (name, value, sandbox_id)',
      `create table sandbox_transitions (
        sandbox_id text not null references sandboxes (id) on delete cascade,
        sequence integer not null,
        at bigint not null,
        from_state text,
        to_state text not null,
        reason text not null,
        detail text,
        primary key (sandbox_id, sequence)
      )`,
      `create table sandbox_requests (
        account_id text not null,
        idempotency_key text not null,
        body_hash text not null,
        sandbox_id text not null,
        created_at bigint not null,
        primary key (account_id, idempotency_key)
      )`,
      'create index sandbox_requests_by_age on sandbox_requests (created_at)',
    ],
  },
  { name: 'sandboxes-2-user-namespace', up: () => ['alter table sandboxes add column user_namespace text'] },
  {
    name: 'sandboxes-3-egress',
    up: () => [
      `alter table sandboxes add column network text not null default '{"egress":"none"}'`,
      // Without a reference to its sandbox, which it outlives: what code did is asked about later.
      `create table egress_connections (
        id text primary key,
        sandbox_id text not null,
        account_id text not null,
        at bigint not null,
        host text not null,
        port integer not null,
        address text,
        via text not null,
        outcome text not null,
        reason text not null,
        bytes_up bigint not null,
        bytes_down bigint not null,
        duration_ms bigint not null,
        count integer not null
      )`,
      'create index egress_connections_by_sandbox on egress_connections (sandbox_id, at, id)',
      'create index egress_connections_by_age on egress_connections (at)',
    ],
  },
  {
    name: 'sandboxes-workspaces-1',
    up: () => [
      'alter table sandboxes add column workspace_id text',
      'alter table sandboxes add column idle_timeout_ms bigint',
    ],
  },
  {
    name: 'sandboxes-warm-pool-1',
    up: () => ['create table sandbox_pool (one integer primary key check (one = 1), since bigint not null)'],
  },
  { name: 'sandboxes-4-volumes', up: () => [`alter table sandboxes add column volumes text not null default '[]'`] },
  { name: 'sandboxes-5-origin', up: () => ['alter table sandboxes add column origin text'] },
  {
    name: 'sandboxes-6-agents',
    up: () => [
      'alter table sandboxes add column agent_id text',
      `alter table sandboxes add column agent_line text not null default ''`,
      'create index sandboxes_by_agent on sandboxes (agent_id, created_at, id)',
    ],
  },
  {
    name: 'sandboxes-7-metering',
    up: () => [
      // Without references: a hold is paid whatever has become of the sandbox.
      `create table sandbox_windows (
        hold_id text primary key,
        sandbox_id text not null,
        account_id text not null,
        box_id text not null,
        held bigint not null,
        with_cpu integer not null,
        since bigint not null,
        cpu_micros bigint not null,
        memory_bytes bigint not null
      )`,
      `create table sandbox_hours (
        account_id text not null,
        period text not null,
        running_ms bigint not null,
        primary key (account_id, period)
      )`,
    ],
  },
]
