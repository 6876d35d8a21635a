import type { BatchStep, Database } from '../kernel/db/database.ts'
import type { Place } from '../kernel/http/cursors.ts'
import type { ImageRecord, LayerRecord, Published, SnapshotRecord, SnapshotState, WorkspaceRecord } from './records.ts'
import type { ChangeSummary, SaveState, SnapshotReason } from './schema.ts'
import type { Inventory } from './inventory.ts'
import type { LayerOwner } from './layers.ts'

interface WorkspacesTable {
  id: string
  account_id: string
  name: string
  kind: 'workspace' | 'build'
  template: string
  origin: string | null
  upper_id: string
  head_id: string | null
  disk_mb: number
  holder: string | null
  keep_last: number
  auto_snapshot: number
  metadata: string
  state: 'active' | 'deleting'
  version: number
  created_at: number
  changed_at: number
  published: string | null
}

interface SnapshotsTable {
  id: string
  account_id: string
  workspace_id: string | null
  parent_id: string | null
  layer_parent_id: string | null
  template: string
  name: string | null
  comment: string
  reason: SnapshotReason
  state: SnapshotState
  is_local: number
  bytes: number | null
  flush_micros: number
  frozen_micros: number
  save_state: SaveState
  save_error: string | null
  layer_digest: string | null
  changes: string | null
  inventory: string | null
  image: string | null
  created_at: number
  /** As in `publishedStates`. */
  is_published: number
}

interface LayersTable {
  digest: string
  diff_id: string
  media_type: string
  size: number
  tar_size: number
  state: LayerRecord['state']
  created_at: number
}

interface Tables {
  workspaces: WorkspacesTable
  snapshots: SnapshotsTable
  layers: LayersTable
  template_layers: { template: string; identity: string; layer_digest: string }
  workspace_restores: { scope: string }
  snapshot_pins: { snapshot_id: string; owner: string }
  workspace_requests: {
    account_id: string
    idempotency_key: string
    body_hash: string
    made_ids: string
    created_at: number
  }
}

export interface RequestKey {
  accountId: string
  key: string
  bodyHash: string
}

/** What the retention and garbage rules look at. */
export interface SnapshotNode {
  id: string
  workspaceId: string | null
  parentId: string | null
  layerParentId: string | null
  name: string | null
  state: SnapshotState
  isLocal: boolean
  saveState: SaveState
  published: Published
  createdAt: number
}

/** One link of the layers that make up a snapshot. */
export interface ChainRow {
  id: string
  layerDigest: string | null
  isLocal: boolean
  saveState: SaveState
  reason: SnapshotReason
  /** It is the end of an image that came from elsewhere, or starts like one. */
  hasImage: boolean
}

const publishedStates: readonly Published[] = ['no', 'yes', 'writing']
const stale = publishedStates.indexOf('writing')
/** Longer than any chain is; those of earlier versions had no bound but that of their document. */
const mostLinks = 4_096
/** Rows of one batch. */
const rowsAtOnce = 200

/** Rows one clean-up statement removes at most, so that it never holds the database for long. */
const purgeRows = 1_000

export type WorkspaceStore = ReturnType<typeof createWorkspaceStore>

export function createWorkspaceStore(database: Database) {
  const db = database.of<Tables>()
  const sql = db.sql

  /** A workspace's row, changed where it is still as `before` says. */
  function change(before: WorkspaceRecord, changes: Partial<WorkspacesTable>): BatchStep {
    const query = sql
      .updateTable('workspaces')
      .set({ ...changes, version: before.version + 1 })
      .where('id', '=', before.id)
      .where('version', '=', before.version)
      .compile()
    return { query, mustChange: 1 }
  }

  /** Fails the batch unless the snapshot is one to build on: what is dropped at this moment loses its layer. */
  function mustBeTaken(snapshotId: string): BatchStep {
    const query = sql
      .updateTable('snapshots')
      .set({ state: 'taken' })
      .where('id', '=', snapshotId)
      .where('state', '=', 'taken')
      .compile()
    return { query, mustChange: 1 }
  }

  function remember({ accountId, key, bodyHash }: RequestKey, madeIds: string[], now: number): BatchStep {
    const query = sql
      .insertInto('workspace_requests')
      .values({
        account_id: accountId,
        idempotency_key: key,
        body_hash: bodyHash,
        made_ids: JSON.stringify(madeIds),
        created_at: now,
      })
      .onConflict((conflict) => conflict.doNothing())
      .compile()
    return { query, mustChange: 1 }
  }

  function pins(snapshotId: string) {
    return sql.selectFrom('snapshot_pins').select('owner').where('snapshot_id', '=', snapshotId)
  }

  return {
    /** New workspaces, all or none. False when the key is known already, or the snapshot they come from goes. */
    async insert(
      records: readonly WorkspaceRecord[],
      { request, from }: { request?: RequestKey | undefined; from?: string | null | undefined } = {},
    ): Promise<boolean> {
      const steps: BatchStep[] = []
      if (request)
        steps.push(
          remember(
            request,
            records.map(({ id }) => id),
            records[0]!.createdAt,
          ),
        )
      if (from) steps.push(mustBeTaken(from))
      for (const record of records) {
        steps.push({ query: sql.insertInto('workspaces').values(workspaceRow(record)).compile(), mustChange: 1 })
      }
      return (await db.batch(steps)).applied
    },

    async get(id: string): Promise<WorkspaceRecord | undefined> {
      const row = await db.first(sql.selectFrom('workspaces').selectAll().where('id', '=', id).compile())
      return row && workspaceRecord(row)
    },

    async byName(accountId: string, name: string): Promise<WorkspaceRecord | undefined> {
      const query = sql
        .selectFrom('workspaces')
        .selectAll()
        .where('account_id', '=', accountId)
        .where('name', '=', name)
      const row = await db.first(query.compile())
      return row && workspaceRecord(row)
    },

    /** Newest first. */
    async list(accountId: string, { limit, before }: { limit: number; before?: Place | undefined }) {
      let query = sql
        .selectFrom('workspaces')
        .selectAll()
        .where('account_id', '=', accountId)
        .where('state', '=', 'active')
        .where('kind', '=', 'workspace')
      if (before) {
        query = query.where((where) =>
          where.or([
            where('created_at', '<', before.createdAt),
            where.and([where('created_at', '=', before.createdAt), where('id', '<', before.id)]),
          ]),
        )
      }
      const rows = await db.all(query.orderBy('created_at', 'desc').orderBy('id', 'desc').limit(limit).compile())
      return rows.map(workspaceRecord)
    },

    async all(): Promise<WorkspaceRecord[]> {
      return (await db.all(sql.selectFrom('workspaces').selectAll().compile())).map(workspaceRecord)
    },

    async count(accountId: string): Promise<number> {
      const query = sql
        .selectFrom('workspaces')
        .select((select) => select.fn.countAll<number>().as('count'))
        .where('account_id', '=', accountId)
      return Number((await db.first(query.compile()))?.count ?? 0)
    },

    /** False when the row is no longer as `before` says. */
    async update(before: WorkspaceRecord, after: WorkspaceRecord): Promise<boolean> {
      const { id: _, version: __, published: ___, ...changes } = workspaceRow(after)
      return (await db.batch([change(before, changes)])).applied
    },

    /** One conditional write: of two starts at once, one wins. */
    async acquire(before: WorkspaceRecord, holder: string, now: number): Promise<boolean> {
      const query = sql
        .updateTable('workspaces')
        .set({ holder, version: before.version + 1, changed_at: now })
        .where('id', '=', before.id)
        .where('version', '=', before.version)
        .where('holder', 'is', null)
        .where('state', '=', 'active')
        .compile()
      return (await db.run(query)).changed === 1
    },

    async release(workspaceId: string, holder: string): Promise<void> {
      const query = sql
        .updateTable('workspaces')
        .set((set) => ({ holder: null, version: set('version', '+', 1) }))
        .where('id', '=', workspaceId)
        .where('holder', '=', holder)
        .compile()
      await db.run(query)
    },

    async held(): Promise<{ workspaceId: string; sandboxId: string }[]> {
      const query = sql.selectFrom('workspaces').select(['id', 'holder']).where('holder', 'is not', null)
      return (await db.all(query.compile())).map(({ id, holder }) => ({ workspaceId: id, sandboxId: holder! }))
    },

    /** The row of a workspace that is gone from the pool. */
    async remove(workspaceId: string): Promise<void> {
      await db.run(sql.deleteFrom('workspaces').where('id', '=', workspaceId).where('state', '=', 'deleting').compile())
    },

    /**
     * What was asked for becomes invisible in one step: the workspace and all snapshots of its own. False when somebody holds it or it changed,
     * and when a snapshot of it is pinned. What is pinned of a build's lives on by itself.
     */
    async beginRemoval(before: WorkspaceRecord, now: number): Promise<boolean> {
      const isBuild = before.kind === 'build'
      const own = sql.selectFrom('snapshots').select('id').where('workspace_id', '=', before.id)
      const pinned = sql.selectFrom('snapshot_pins').select('owner').where('snapshot_id', 'in', own)
      const gone = sql
        .updateTable('workspaces')
        // Its name is free again at once.
        .set({ state: 'deleting', name: before.id, head_id: null, version: before.version + 1, changed_at: now })
        .where('id', '=', before.id)
        .where('version', '=', before.version)
        .where('holder', 'is', null)
        .$if(!isBuild, (query) => query.where((where) => where.not(where.exists(pinned))))
        .compile()
      const kept = sql
        .updateTable('snapshots')
        .set({ workspace_id: null, name: null })
        .where('workspace_id', '=', before.id)
        .where('id', 'in', sql.selectFrom('snapshot_pins').select('snapshot_id'))
        .compile()
      // Forks stand on them: they are saved, found and forked as before, until their forks have moved on.
      const stoodOn = sql
        .updateTable('snapshots')
        .set({ workspace_id: null, name: null })
        .where('workspace_id', '=', before.id)
        .where('state', '=', 'taken')
        .where('id', 'in', (query) =>
          query
            .selectFrom('workspaces')
            .select('head_id')
            .where('head_id', 'is not', null)
            .where('workspaces.id', '!=', before.id)
            .$castTo<{ head_id: string }>(),
        )
        .compile()
      const dropped = sql
        .updateTable('snapshots')
        .set({ state: 'dropped', name: null })
        .where('workspace_id', '=', before.id)
        .where('state', '=', 'taken')
        .compile()
      const steps = [{ query: gone, mustChange: 1 }, ...(isBuild ? [{ query: kept }] : []), { query: stoodOn }]
      return (await db.batch([...steps, { query: dropped }])).applied
    },

    async beginSnapshot(record: SnapshotRecord): Promise<void> {
      await db.run(sql.insertInto('snapshots').values(snapshotRow(record)).compile())
    },

    /**
     * The driver has it: from now on it is the workspace's head, and what `request` made. False when the workspace is no longer as `workspace`
     * says, or the key is known already.
     */
    async endSnapshot(
      workspace: WorkspaceRecord,
      record: SnapshotRecord,
      now: number,
      request?: RequestKey,
    ): Promise<boolean> {
      const { id: _, ...changes } = snapshotRow(record)
      const taken = sql
        .updateTable('snapshots')
        .set(changes)
        .where('id', '=', record.id)
        .where('state', '=', 'taking')
        .compile()
      const head = sql
        .updateTable('workspaces')
        .set((set) => ({ head_id: record.id, version: set('version', '+', 1), changed_at: now }))
        .where('id', '=', workspace.id)
        .where('upper_id', '=', workspace.upperId)
        .where('state', '=', 'active')
        .compile()
      const steps: BatchStep[] = [taken, head].map((query) => ({ query, mustChange: 1 }))
      if (request) steps.push(remember(request, [record.id], now))
      return (await db.batch(steps)).applied
    },

    /** Snapshots that come from elsewhere, oldest first, with their layers; those known already stay as they are. */
    async insertSnapshots(records: readonly SnapshotRecord[], owner?: string): Promise<void> {
      const steps: BatchStep[] = records.map((record) => ({
        query: sql
          .insertInto('snapshots')
          .values(snapshotRow(record))
          .onConflict((conflict) =>
            conflict
              .column('id')
              // A link of another's chain, which has a document of its own after all.
              .doUpdateSet((row) => ({
                workspace_id: row.ref('excluded.workspace_id'),
                name: row.ref('excluded.name'),
                comment: row.ref('excluded.comment'),
                reason: row.ref('excluded.reason'),
                state: row.ref('excluded.state'),
                image: row.ref('excluded.image'),
                is_published: row.ref('excluded.is_published'),
              }))
              .where('snapshots.state', '=', 'dropped')
              .where('snapshots.is_published', '=', 0)
              .where('excluded.state' as 'state', '=', 'taken'),
          )
          .compile(),
      }))
      const last = records.at(-1)
      if (owner !== undefined && last) steps.push({ query: pinInsert(last.id, owner) })
      await db.batch(steps)
    },

    /** The new upper and its head, in one step. False when the row changed or somebody holds it. */
    async rollBack(
      before: WorkspaceRecord,
      { upperId, headId, now }: { upperId: string; headId: string; now: number },
    ): Promise<boolean> {
      const query = sql
        .updateTable('workspaces')
        .set({ upper_id: upperId, head_id: headId, version: before.version + 1, changed_at: now })
        .where('id', '=', before.id)
        .where('version', '=', before.version)
        .where('holder', 'is', null)
        .where('state', '=', 'active')
        .compile()
      return (await db.batch([mustBeTaken(headId), { query, mustChange: 1 }])).applied
    },

    async snapshot(id: string): Promise<SnapshotRecord | undefined> {
      const row = await db.first(sql.selectFrom('snapshots').selectAll().where('id', '=', id).compile())
      return row && snapshotRecord(row)
    },

    async snapshotByName(workspaceId: string, name: string): Promise<SnapshotRecord | undefined> {
      const query = sql
        .selectFrom('snapshots')
        .selectAll()
        .where('workspace_id', '=', workspaceId)
        .where('name', '=', name)
      const row = await db.first(query.compile())
      return row && snapshotRecord(row)
    },

    /** The snapshots whose layers make this one up, from the first to itself. */
    async chain(snapshotId: string): Promise<ChainRow[]> {
      const query = sql
        .withRecursive('chain(id, layer_parent_id, above)', (chain) =>
          chain
            .selectFrom('snapshots')
            .select((select) => ['id', 'layer_parent_id', select.lit(0).as('above')])
            .where('id', '=', snapshotId)
            .unionAll((rest) =>
              rest
                .selectFrom('snapshots')
                .innerJoin('chain', 'chain.layer_parent_id', 'snapshots.id')
                .select((select) => [
                  'snapshots.id',
                  'snapshots.layer_parent_id',
                  select('chain.above', '+', 1).as('above'),
                ])
                .where('chain.above', '<', mostLinks),
            ),
        )
        .selectFrom('chain')
        .innerJoin('snapshots', 'snapshots.id', 'chain.id')
        .select(['snapshots.id', 'layer_digest', 'is_local', 'save_state', 'reason', 'image'])
        .orderBy('above', 'desc')
      return (await db.all(query.compile())).map((row) => ({
        id: row.id,
        layerDigest: row.layer_digest,
        isLocal: row.is_local === 1,
        saveState: row.save_state,
        reason: row.reason,
        hasImage: row.image !== null,
      }))
    },

    /** Whether the one came before the other in its history, or is it. */
    async isBefore(snapshotId: string, laterId: string): Promise<boolean> {
      const query = sql
        .withRecursive('history(id, parent_id)', (history) =>
          history
            .selectFrom('snapshots')
            .select(['id', 'parent_id'])
            .where('id', '=', laterId)
            .union((rest) =>
              rest
                .selectFrom('snapshots')
                .innerJoin('history', 'history.parent_id', 'snapshots.id')
                .select(['snapshots.id', 'snapshots.parent_id']),
            ),
        )
        .selectFrom('history')
        .select('id')
        .where('id', '=', snapshotId)
      return (await db.first(query.compile())) !== undefined
    },

    /** Newest first. */
    async snapshots(workspaceId: string, { limit, before }: { limit: number; before?: Place | undefined }) {
      let query = sql
        .selectFrom('snapshots')
        .selectAll()
        .where('workspace_id', '=', workspaceId)
        .where('state', '=', 'taken')
      if (before) {
        query = query.where((where) =>
          where.or([
            where('created_at', '<', before.createdAt),
            where.and([where('created_at', '=', before.createdAt), where('id', '<', before.id)]),
          ]),
        )
      }
      const rows = await db.all(query.orderBy('created_at', 'desc').orderBy('id', 'desc').limit(limit).compile())
      return rows.map(snapshotRecord)
    },

    /** All of them, of which only what decides about their end is read. */
    async nodes(): Promise<SnapshotNode[]> {
      const query = sql
        .selectFrom('snapshots')
        .select([
          'id',
          'workspace_id',
          'parent_id',
          'layer_parent_id',
          'name',
          'state',
          'is_local',
          'save_state',
          'is_published',
          'created_at',
        ])
      return (await db.all(query.compile())).map((row) => ({
        id: row.id,
        workspaceId: row.workspace_id,
        parentId: row.parent_id,
        layerParentId: row.layer_parent_id,
        name: row.name,
        state: row.state,
        isLocal: row.is_local === 1,
        saveState: row.save_state,
        published: publishedStates[row.is_published]!,
        createdAt: row.created_at,
      }))
    },

    async pinned(): Promise<Set<string>> {
      const rows = await db.all(sql.selectFrom('snapshot_pins').select('snapshot_id').compile())
      return new Set(rows.map((row) => row.snapshot_id))
    },

    async pinsOf(snapshotId: string): Promise<string[]> {
      return (await db.all(pins(snapshotId).compile())).map(({ owner }) => owner)
    },

    async pin(snapshotId: string, owner: string): Promise<boolean> {
      return (await db.batch([mustBeTaken(snapshotId), { query: pinInsert(snapshotId, owner) }])).applied
    },

    async unpin(snapshotId: string, owner: string): Promise<void> {
      const query = sql.deleteFrom('snapshot_pins').where('snapshot_id', '=', snapshotId).where('owner', '=', owner)
      await db.run(query.compile())
    },

    /** Workspaces whose files come from it. */
    async headOf(snapshotId: string): Promise<string[]> {
      const query = sql.selectFrom('workspaces').select('id').where('head_id', '=', snapshotId).orderBy('id')
      return (await db.all(query.compile())).map(({ id }) => id)
    },

    async patchSnapshot(
      snapshotId: string,
      changes: { name?: string | null | undefined; comment?: string | undefined },
    ): Promise<boolean> {
      const query = sql
        .updateTable('snapshots')
        .set({
          // What storage says of it is written anew.
          is_published: stale,
          ...(changes.name !== undefined && { name: changes.name }),
          ...(changes.comment !== undefined && { comment: changes.comment }),
        })
        .where('id', '=', snapshotId)
        .where('state', '=', 'taken')
        .compile()
      return (await db.run(query)).changed === 1
    },

    async setChanges(snapshotId: string, changes: ChangeSummary, inventory: Inventory): Promise<void> {
      const query = sql
        .updateTable('snapshots')
        .set({ changes: JSON.stringify(changes), inventory: JSON.stringify(inventory) })
        .where('id', '=', snapshotId)
        .compile()
      await db.run(query)
    },

    async setImage(snapshotId: string, image: ImageRecord): Promise<void> {
      const query = sql
        .updateTable('snapshots')
        .set({ image: JSON.stringify(image), is_published: stale })
        .where('id', '=', snapshotId)
        .compile()
      await db.run(query)
    },

    /** It cannot be started from, forked or seen any more. False where something stands on it as its head or is pinned to it. */
    async drop(snapshotId: string): Promise<boolean> {
      const query = sql
        .updateTable('snapshots')
        .set({ state: 'dropped', name: null })
        .where('id', '=', snapshotId)
        .where('state', '=', 'taken')
        .where((where) => where.not(where.exists(pins(snapshotId))))
        .where((where) =>
          where.not(where.exists(sql.selectFrom('workspaces').select('id').where('head_id', '=', snapshotId))),
        )
        .compile()
      return (await db.run(query)).changed === 1
    },

    async setPublished(snapshotId: string, published: Published): Promise<void> {
      const query = sql
        .updateTable('snapshots')
        .set({ is_published: publishedStates.indexOf(published) })
        .where('id', '=', snapshotId)
      await db.run(query.compile())
    },

    /** The document of it as it was read is durable; where it changed since, another follows. */
    async endPublishing({ id, workspaceId, parentId, name, comment, image }: SnapshotRecord): Promise<void> {
      const same = { workspace_id: workspaceId, parent_id: parentId, name, image: image && JSON.stringify(image) }
      let query = sql
        .updateTable('snapshots')
        .set({ is_published: publishedStates.indexOf('yes') })
        .where('id', '=', id)
        .where('comment', '=', comment)
      for (const [column, value] of Object.entries(same) as [keyof typeof same, string | null][]) {
        query = value === null ? query.where(column, 'is', null) : query.where(column, '=', value)
      }
      await db.run(query.compile())
    },

    /** What storage says of them is written anew: it may be another storage. */
    async publishAgain(): Promise<void> {
      await db.batch([
        {
          query: sql
            .updateTable('workspaces')
            .set({ published: 'writing' })
            .where('published', 'is not', null)
            .compile(),
        },
        { query: sql.updateTable('snapshots').set({ is_published: stale }).where('is_published', '!=', 0).compile() },
      ])
    },

    async setWorkspacePublished(workspaceId: string, published: string | null): Promise<void> {
      await db.run(sql.updateTable('workspaces').set({ published }).where('id', '=', workspaceId).compile())
    },

    /** An imported snapshot becomes the first of a workspace. */
    async adopt(snapshotId: string, workspaceId: string): Promise<void> {
      const set = { workspace_id: workspaceId, is_published: stale }
      const query = sql.updateTable('snapshots').set(set).where('id', '=', snapshotId)
      await db.run(query.where('workspace_id', 'is', null).compile())
    },

    /** It was unpacked: what it unpacks to is now known, whoever said something else before. */
    async noteUnpacked({ digest, diffId }: LayerRecord, tarSize: number): Promise<void> {
      const query = sql.updateTable('layers').set({ diff_id: diffId, tar_size: tarSize }).where('digest', '=', digest)
      await db.run(query.compile())
    },

    /** Whether a snapshot of the account holds it, so that it need not prove again that it has its bytes. */
    async hasLayer(accountId: string, digest: string): Promise<boolean> {
      const query = sql
        .selectFrom('snapshots')
        .innerJoin('layers', 'layers.digest', 'snapshots.layer_digest')
        .select('snapshots.id')
        .where('snapshots.account_id', '=', accountId)
        .where('layers.digest', '=', digest)
        .where('layers.state', '=', 'stored')
        .limit(1)
      return (await db.first(query.compile())) !== undefined
    },

    /** An imported snapshot is whole: it can be started from. */
    async admit(snapshotId: string): Promise<void> {
      const query = sql.updateTable('snapshots').set({ state: 'taken' }).where('id', '=', snapshotId)
      await db.run(query.where('state', '=', 'dropped').compile())
    },

    /** Before the driver drops it, so that nothing relies on it meanwhile; false where something does. */
    async forgetLocal(snapshotId: string): Promise<boolean> {
      const query = sql
        .updateTable('snapshots')
        .set({ is_local: 0 })
        .where('id', '=', snapshotId)
        .where('state', '=', 'dropped')
        .where((where) =>
          where.not(where.exists(sql.selectFrom('workspaces').select('id').where('head_id', '=', snapshotId))),
        )
        .where((where) => where.not(where.exists(pins(snapshotId))))
        .compile()
      return (await db.run(query)).changed === 1
    },

    async noteLocal(snapshotId: string, isLocal: boolean, bytes: number | null = null): Promise<void> {
      const query = sql
        .updateTable('snapshots')
        .set({ is_local: Number(isLocal), ...(bytes !== null && { bytes }) })
        .where('id', '=', snapshotId)
        .compile()
      await db.run(query)
    },

    /** Rows of snapshots that were never taken, or whose layer nothing is made up of any more. What followed it follows what it followed. */
    async removeSnapshot(snapshotId: string): Promise<boolean> {
      const followers = sql
        .updateTable('snapshots')
        .set(({ selectFrom }) => ({
          parent_id: selectFrom('snapshots as gone').select('gone.parent_id').where('gone.id', '=', snapshotId),
          is_published: stale,
        }))
        .where('parent_id', '=', snapshotId)
        .where('save_state', '=', 'saved')
        .compile()
      const query = sql
        .deleteFrom('snapshots')
        .where('id', '=', snapshotId)
        .where('state', 'in', ['taking', 'dropped'])
        .where('is_local', '=', 0)
        .where((where) =>
          where.not(
            where.exists(
              sql
                .selectFrom('snapshots as child')
                .select('child.id')
                .where((child) =>
                  child.or([
                    child('child.parent_id', '=', snapshotId),
                    child('child.layer_parent_id', '=', snapshotId),
                  ]),
                ),
            ),
          ),
        )
        .where((where) =>
          where.not(where.exists(sql.selectFrom('workspaces').select('id').where('head_id', '=', snapshotId))),
        )
        .where((where) => where.not(where.exists(pins(snapshotId))))
        .compile()
      return (await db.batch([{ query: followers }, { query, mustChange: 1 }])).applied
    },

    async takings(): Promise<SnapshotRecord[]> {
      const query = sql.selectFrom('snapshots').selectAll().where('state', '=', 'taking')
      return (await db.all(query.compile())).map(snapshotRecord)
    },

    /** Those that have not been looked at for their changes, oldest first. */
    async unseen(except: readonly string[], limit: number): Promise<SnapshotRecord[]> {
      const query = sql
        .selectFrom('snapshots')
        .selectAll()
        .where('state', '=', 'taken')
        .where('is_local', '=', 1)
        .where('changes', 'is', null)
        .$if(except.length > 0, (select) => select.where('id', 'not in', except))
        .orderBy('created_at')
        .orderBy('id')
        .limit(limit)
      return (await db.all(query.compile())).map(snapshotRecord)
    },

    /** What is to be saved, oldest first, a parent before its children. */
    async unsaved(limit: number, { except = [] }: { except?: readonly string[] } = {}): Promise<SnapshotRecord[]> {
      const query = sql
        .selectFrom('snapshots')
        .selectAll()
        .where('save_state', '!=', 'saved')
        .where('is_local', '=', 1)
        // One that was dropped is not saved any more, unless something follows it.
        .where((where) =>
          where.or([
            where('state', '=', 'taken'),
            where.and([
              where('state', '=', 'dropped'),
              where.exists(
                where
                  .selectFrom('snapshots as children')
                  .select('children.id')
                  .whereRef('children.parent_id', '=', 'snapshots.id'),
              ),
            ]),
          ]),
        )
        // Those that can be saved now: others must not take their places in a round.
        .where((where) =>
          where.or([
            where('parent_id', 'is', null),
            where.exists(
              where
                .selectFrom('snapshots as parents')
                .select('parents.id')
                .whereRef('parents.id', '=', 'snapshots.parent_id')
                .where('parents.save_state', '=', 'saved'),
            ),
          ]),
        )
        .$if(except.length > 0, (all) => all.where('id', 'not in', except))
        .orderBy('created_at')
        .orderBy('id')
        .limit(limit)
      return (await db.all(query.compile())).map(snapshotRecord)
    },

    async setSaving(snapshotId: string, saveState: SaveState, saveError: string | null): Promise<void> {
      const query = sql
        .updateTable('snapshots')
        .set({ save_state: saveState, save_error: saveError })
        .where('id', '=', snapshotId)
        .compile()
      await db.run(query)
    },

    /**
     * Says that this layer is about to be stored and who needs it, in one step, so that from here on no collection takes it. False where it
     * is being removed at this moment. What is known of it stays, unless `isPacked`: what came from elsewhere may be said to be anything.
     */
    async claimLayer(layer: LayerRecord, owner: LayerOwner, { isPacked }: { isPacked: boolean }): Promise<boolean> {
      const known = await this.layer(layer.digest)
      const own: BatchStep = known
        ? {
            query: sql
              .updateTable('layers')
              .set(isPacked ? { diff_id: layer.diffId } : { digest: layer.digest })
              .where('digest', '=', layer.digest)
              .where('state', '!=', 'removing')
              .compile(),
            mustChange: 1,
          }
        : {
            query: sql
              .insertInto('layers')
              .values(layerRow(layer))
              .onConflict((conflict) => conflict.doNothing())
              .compile(),
            mustChange: 1,
          }
      const reference: BatchStep =
        'snapshotId' in owner
          ? {
              query: sql
                .updateTable('snapshots')
                .set({
                  layer_digest: layer.digest,
                  ...(owner.parentId !== undefined && { layer_parent_id: owner.parentId }),
                })
                .where('id', '=', owner.snapshotId)
                .compile(),
              mustChange: 1,
            }
          : {
              query: sql
                .insertInto('template_layers')
                .values({ template: owner.template, identity: owner.identity, layer_digest: layer.digest })
                .onConflict((conflict) =>
                  conflict.columns(['template', 'identity']).doUpdateSet({ layer_digest: layer.digest }),
                )
                .compile(),
            }
      return (await db.batch([own, reference])).applied
    },

    async layer(digest: string): Promise<LayerRecord | undefined> {
      const row = await db.first(sql.selectFrom('layers').selectAll().where('digest', '=', digest).compile())
      return row && layerRecord(row)
    },

    async layers(digests: readonly string[]): Promise<Map<string, LayerRecord>> {
      if (digests.length === 0) return new Map()
      const rows = await db.all(sql.selectFrom('layers').selectAll().where('digest', 'in', digests).compile())
      return new Map(rows.map((row) => [row.digest, layerRecord(row)]))
    },

    /** Those whose bytes are in storage. */
    async storedLayers(): Promise<LayerRecord[]> {
      const query = sql.selectFrom('layers').selectAll().where('state', '=', 'stored').orderBy('digest')
      return (await db.all(query.compile())).map(layerRecord)
    },

    async setStored(digest: string): Promise<void> {
      const query = sql
        .updateTable('layers')
        .set({ state: 'stored' })
        .where('digest', '=', digest)
        .where('state', '=', 'storing')
        .compile()
      await db.run(query)
    },

    /** Layers from elsewhere that storage is known to hold. */
    /** Until `endRestore` nothing is collected, also after a crash. `scope`: an account, or `*`. */
    async beginRestore(scope: string): Promise<void> {
      const insert = sql.insertInto('workspace_restores').values({ scope })
      await db.run(insert.onConflict((conflict) => conflict.doNothing()).compile())
    },

    async endRestore(scope: string): Promise<void> {
      await db.run(sql.deleteFrom('workspace_restores').where('scope', '=', scope).compile())
    },

    /** The scopes of restores that were begun and not ended. */
    async restores(): Promise<string[]> {
      return (await db.all(sql.selectFrom('workspace_restores').selectAll().compile())).map(({ scope }) => scope)
    },

    async insertLayers(records: readonly LayerRecord[]): Promise<void> {
      const steps = records.map((record) => ({
        query: sql
          .insertInto('layers')
          .values(layerRow(record))
          // One that was on its way out is needed again.
          .onConflict((conflict) =>
            conflict.column('digest').doUpdateSet({ state: 'stored' }).where('layers.state', '=', 'removing'),
          )
          .compile(),
      }))
      for (let at = 0; at < steps.length; at += rowsAtOnce) await db.batch(steps.slice(at, at + rowsAtOnce))
    },

    /** Marks layers that nothing refers to. In the same step nobody can begin to refer to them. */
    async markUnused(limit: number): Promise<void> {
      const unused = sql
        .selectFrom('layers')
        .select('layers.digest')
        .where(({ not, exists, selectFrom }) =>
          not(
            exists(
              selectFrom('snapshots').select('snapshots.id').whereRef('snapshots.layer_digest', '=', 'layers.digest'),
            ),
          ),
        )
        .where(({ not, exists, selectFrom }) =>
          not(
            exists(
              selectFrom('template_layers')
                .select('template_layers.template')
                .whereRef('template_layers.layer_digest', '=', 'layers.digest'),
            ),
          ),
        )
        .limit(limit)
      await db.run(sql.updateTable('layers').set({ state: 'removing' }).where('digest', 'in', unused).compile())
    },

    async removing(limit: number): Promise<string[]> {
      const query = sql.selectFrom('layers').select('digest').where('state', '=', 'removing').limit(limit)
      return (await db.all(query.compile())).map(({ digest }) => digest)
    },

    async removeLayer(digest: string): Promise<void> {
      await db.run(sql.deleteFrom('layers').where('digest', '=', digest).where('state', '=', 'removing').compile())
    },

    async templateLayer(template: string, identity: string): Promise<LayerRecord | undefined> {
      const query = sql
        .selectFrom('template_layers')
        .innerJoin('layers', 'layers.digest', 'template_layers.layer_digest')
        .selectAll('layers')
        .where('template', '=', template)
        .where('identity', '=', identity)
        .where('layers.state', '=', 'stored')
      const row = await db.first(query.compile())
      return row && layerRecord(row)
    },

    /** What an earlier request with this key made. */
    async savedRequest(accountId: string, key: string): Promise<{ bodyHash: string; madeIds: string[] } | undefined> {
      const query = sql
        .selectFrom('workspace_requests')
        .select(['body_hash', 'made_ids'])
        .where('account_id', '=', accountId)
        .where('idempotency_key', '=', key)
      const row = await db.first(query.compile())
      return row && { bodyHash: row.body_hash, madeIds: JSON.parse(row.made_ids) as string[] }
    },

    async purgeRequests(before: number): Promise<void> {
      const old = sql
        .selectFrom('workspace_requests')
        .select('idempotency_key')
        .where('created_at', '<', before)
        .limit(purgeRows)
      const query = sql
        .deleteFrom('workspace_requests')
        .where('idempotency_key', 'in', old)
        .where('created_at', '<', before)
      await db.run(query.compile())
    },
  }

  function pinInsert(snapshotId: string, owner: string) {
    return sql
      .insertInto('snapshot_pins')
      .values({ snapshot_id: snapshotId, owner })
      .onConflict((conflict) => conflict.doNothing())
      .compile()
  }
}

function workspaceRow(record: WorkspaceRecord): WorkspacesTable {
  return {
    id: record.id,
    account_id: record.accountId,
    name: record.name,
    kind: record.kind,
    template: record.template,
    origin: record.origin && JSON.stringify(record.origin),
    upper_id: record.upperId,
    head_id: record.headId,
    disk_mb: record.diskMb,
    holder: record.holder,
    keep_last: record.keepLast,
    auto_snapshot: Number(record.autoSnapshot),
    metadata: JSON.stringify(record.metadata),
    state: record.state,
    version: record.version,
    created_at: record.createdAt,
    changed_at: record.changedAt,
    published: record.published,
  }
}

function workspaceRecord(row: WorkspacesTable): WorkspaceRecord {
  return {
    id: row.id,
    accountId: row.account_id,
    name: row.name,
    kind: row.kind,
    template: row.template,
    origin: row.origin === null ? null : (JSON.parse(row.origin) as WorkspaceRecord['origin']),
    upperId: row.upper_id,
    headId: row.head_id,
    diskMb: row.disk_mb,
    holder: row.holder,
    keepLast: row.keep_last,
    autoSnapshot: row.auto_snapshot === 1,
    metadata: JSON.parse(row.metadata) as Record<string, string>,
    state: row.state,
    version: row.version,
    createdAt: row.created_at,
    changedAt: row.changed_at,
    published: row.published,
  }
}

function snapshotRow(record: SnapshotRecord): SnapshotsTable {
  return {
    id: record.id,
    account_id: record.accountId,
    workspace_id: record.workspaceId,
    parent_id: record.parentId,
    layer_parent_id: record.layerParentId,
    template: record.template,
    name: record.name,
    comment: record.comment,
    reason: record.reason,
    state: record.state,
    is_local: Number(record.isLocal),
    bytes: record.bytes,
    flush_micros: record.flushMicros,
    frozen_micros: record.frozenMicros,
    save_state: record.saveState,
    save_error: record.saveError,
    layer_digest: record.layerDigest,
    changes: record.changes && JSON.stringify(record.changes),
    inventory: record.inventory && JSON.stringify(record.inventory),
    image: record.image && JSON.stringify(record.image),
    created_at: record.createdAt,
    is_published: publishedStates.indexOf(record.published),
  }
}

function snapshotRecord(row: SnapshotsTable): SnapshotRecord {
  return {
    id: row.id,
    accountId: row.account_id,
    workspaceId: row.workspace_id,
    parentId: row.parent_id,
    layerParentId: row.layer_parent_id,
    template: row.template,
    name: row.name,
    comment: row.comment,
    reason: row.reason,
    state: row.state,
    isLocal: row.is_local === 1,
    bytes: row.bytes,
    flushMicros: row.flush_micros,
    frozenMicros: row.frozen_micros,
    saveState: row.save_state,
    saveError: row.save_error,
    layerDigest: row.layer_digest,
    changes: row.changes === null ? null : (JSON.parse(row.changes) as ChangeSummary),
    inventory: row.inventory === null ? null : (JSON.parse(row.inventory) as Inventory),
    image: row.image === null ? null : (JSON.parse(row.image) as ImageRecord),
    createdAt: row.created_at,
    published: publishedStates[row.is_published]!,
  }
}

function layerRow(record: LayerRecord): LayersTable {
  return {
    digest: record.digest,
    diff_id: record.diffId,
    media_type: record.mediaType,
    size: record.size,
    tar_size: record.tarSize,
    state: record.state,
    created_at: record.createdAt,
  }
}

function layerRecord(row: LayersTable): LayerRecord {
  return {
    digest: row.digest,
    diffId: row.diff_id,
    mediaType: row.media_type,
    size: row.size,
    tarSize: row.tar_size,
    state: row.state,
    createdAt: row.created_at,
  }
}
