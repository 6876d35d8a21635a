import type { Migration } from '../../kernel/db/database.ts'

export const webhookMigrations: Migration[] = [
  {
    name: 'webhooks-1',
    up: () => [
      `create table webhooks (
        id text primary key,
        account_id text not null,
        url text not null,
        on_finished integer not null,
        on_failed integer not null,
        on_needs_decision integer not null,
        agent_id text,
        sealed_secret text not null,
        state text not null check (state in ('active', 'paused', 'disabled')),
        reason text,
        asker text not null,
        failures bigint not null,
        failing_since bigint,
        revision bigint not null,
        created_at bigint not null,
        changed_at bigint not null
      )`,
      'create index webhooks_listed on webhooks (account_id, created_at)',
      `create table webhook_deliveries (
        id text primary key,
        webhook_id text not null,
        account_id text not null,
        type text not null check (type in ('task.finished', 'task.failed', 'task.needs_decision', 'webhook.test')),
        task_id text,
        created_at bigint not null,
        state text not null check (state in ('waiting', 'delivered', 'failed', 'canceled')),
        tries bigint not null,
        next_try_at bigint not null,
        lease_until bigint not null,
        body text,
        last_status bigint,
        last_error text,
        ended_at bigint
      )`,
      'create index webhook_deliveries_listed on webhook_deliveries (webhook_id, created_at)',
      `create index webhook_deliveries_due on webhook_deliveries (next_try_at) where state = 'waiting'`,
      `create index webhook_deliveries_waiting on webhook_deliveries (webhook_id) where state = 'waiting'`,
      'create index webhook_deliveries_ended on webhook_deliveries (ended_at)',
    ],
  },
]
