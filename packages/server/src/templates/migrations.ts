import type { Migration } from '../kernel/db/database.ts'

export const templateMigrations: Migration[] = [
  {
    name: 'templates-1-tables',
    up: () => [
      // One row for each version of a name.
      `create table templates (
        id text primary key,
        account_id text not null,
        name text not null,
        version integer not null,
        state text not null,
        source text not null,
        detail text not null,
        failure text,
        digest text,
        snapshot_id text,
        config text,
        request_key text,
        body_hash text,
        created_at bigint not null,
        ended_at bigint
      )`,
      'create unique index templates_by_name on templates (account_id, name, version)',
      'create unique index templates_by_request on templates (account_id, request_key)',
      'create index templates_by_state on templates (state)',
      `create table template_tags (
        account_id text not null,
        name text not null,
        tag text not null,
        template_id text not null references templates (id) on delete cascade,
        primary key (account_id, name, tag)
      )`,
      'create index template_tags_by_template on template_tags (template_id)',
      // Snapshots that steps of builds left, by what decided their content. They belong to the template whose build made them.
      `create table template_steps (
        account_id text not null,
        step_key text not null,
        snapshot_id text not null,
        template_id text not null references templates (id) on delete cascade,
        primary key (account_id, step_key)
      )`,
      'create index template_steps_by_template on template_steps (template_id)',
    ],
  },
]
