import type { Migration } from '../kernel/db/database.ts'

export const workspaceMigrations: Migration[] = [
  {
    name: 'workspaces-1-tables',
    up: () => [
      `create table workspaces (
        id text primary key,
        account_id text not null,
        name text not null,
        kind text not null,
        template text not null,
        upper_id text not null,
        head_id text,
        disk_mb integer not null,
        holder text,
        keep_last integer not null,
        auto_snapshot integer not null,
        metadata text not null,
        state text not null,
        version integer not null,
        created_at bigint not null,
        changed_at bigint not null
      )`,
      'create unique index workspaces_by_name on workspaces (account_id, name)',
      'create index workspaces_by_account on workspaces (account_id, created_at, id)',
      'create index workspaces_by_head on workspaces (head_id)',
      'create index workspaces_by_holder on workspaces (holder)',
      // Without a reference to its workspace, which it may outlive: what was forked from it stands on its layer.
      `create table snapshots (
        id text primary key,
        account_id text not null,
        workspace_id text,
        parent_id text references snapshots (id),
        template text not null,
        name text,
        comment text not null,
        reason text not null,
        state text not null,
        is_local integer not null,
        bytes bigint,
        flush_micros bigint not null,
        frozen_micros bigint not null,
        save_state text not null,
        save_error text,
        layer_digest text,
        changes text,
        inventory text,
        image text,
        created_at bigint not null
      )`,
      'create unique index snapshots_by_name on snapshots (workspace_id, name)',
      'create index snapshots_by_workspace on snapshots (workspace_id, created_at, id)',
      'create index snapshots_by_parent on snapshots (parent_id)',
      'create index snapshots_by_layer on snapshots (layer_digest)',
      'create index snapshots_by_save on snapshots (save_state, created_at, id)',
      `create table layers (
        digest text primary key,
        diff_id text not null,
        media_type text not null,
        size bigint not null,
        tar_size bigint not null,
        state text not null,
        created_at bigint not null
      )`,
      // A template's own content as one layer, by what the template was when it was packed.
      `create table template_layers (
        template text not null,
        identity text not null,
        layer_digest text not null,
        primary key (template, identity)
      )`,
      'create index template_layers_by_layer on template_layers (layer_digest)',
      `create table snapshot_pins (
        snapshot_id text not null references snapshots (id),
        owner text not null,
        primary key (snapshot_id, owner)
      )`,
      `create table workspace_requests (
        account_id text not null,
        idempotency_key text not null,
        body_hash text not null,
        made_ids text not null,
        created_at bigint not null,
        primary key (account_id, idempotency_key)
      )`,
      'create index workspace_requests_by_age on workspace_requests (created_at)',
    ],
  },
  {
    name: 'workspaces-2-documents',
    up: () => [
      // What storage says of them: the digest of the document as it was last written, and whether there is one.
      'alter table workspaces add column published text',
      'alter table snapshots add column is_published integer not null default 0',
    ],
  },
  { name: 'workspaces-3-origin', up: () => ['alter table workspaces add column origin text'] },
  {
    name: 'workspaces-4-chains',
    up: () => [
      // What a snapshot's layer is the difference from, which for most is the parent.
      'alter table snapshots add column layer_parent_id text references snapshots (id)',
      'update snapshots set layer_parent_id = parent_id',
      'create index snapshots_by_layer_parent on snapshots (layer_parent_id)',
    ],
  },
  // Of an account, or `*`: what is brought back from storage and not yet whole, so nothing may be taken for unused.
  { name: 'workspaces-5-restores', up: () => ['create table workspace_restores (scope text primary key)'] },
]
