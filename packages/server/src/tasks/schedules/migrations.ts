import type { Migration } from '../../kernel/db/database.ts'

export const scheduleMigrations: Migration[] = [
  {
    name: 'schedules-1',
    up: () => [
      `create table schedules (
        id text primary key,
        account_id text not null,
        agent_id text not null,
        title text not null,
        sealed_task text not null,
        cron text,
        time_zone text not null,
        at bigint,
        missed text not null check (missed in ('skip', 'once', 'all')),
        overlap text not null check (overlap in ('skip', 'queue')),
        state text not null check (state in ('active', 'paused', 'disabled', 'done')),
        reason text,
        next_at bigint,
        asker text not null,
        revision bigint not null,
        lease_until bigint not null,
        created_at bigint not null,
        changed_at bigint not null
      )`,
      'create index schedules_listed on schedules (account_id, created_at)',
      'create index schedules_by_agent on schedules (agent_id)',
      `create index schedules_due on schedules (next_at) where state = 'active'`,
      `create table schedule_runs (
        id text primary key,
        key text not null unique,
        schedule_id text not null,
        due_at bigint not null,
        manual integer not null,
        state text not null check (state in ('waiting', 'started', 'skipped', 'failed')),
        reason text,
        task_id text,
        open integer not null,
        failure_code text,
        failure_text text,
        tries bigint not null,
        retry_at bigint not null,
        started_at bigint
      )`,
      'create index schedule_runs_listed on schedule_runs (schedule_id, due_at)',
      `create index schedule_runs_waiting on schedule_runs (retry_at) where state = 'waiting'`,
      'create index schedule_runs_open on schedule_runs (schedule_id) where open = 1',
      'create index schedule_runs_old on schedule_runs (due_at)',
    ],
  },
  {
    name: 'schedules-2',
    up: () => ['alter table schedules add column rights text'],
  },
]
