import type { BatchStep, Database } from '../../kernel/db/database.ts'

/** `making`: the row is there before the folder; `deleting`: the folder goes before the row. So no folder is ever without a row. */
export type VolumeState = 'making' | 'ready' | 'deleting'

export interface VolumeRecord {
  id: string
  accountId: string
  name: string
  diskMb: number
  state: VolumeState
  createdAt: number
}

export interface VolumeRequest {
  key: string
  bodyHash: string
}

interface Tables {
  volumes: {
    id: string
    account_id: string
    name: string
    disk_mb: number
    state: VolumeState
    idempotency_key: string | null
    body_hash: string | null
    created_at: number
  }
  volume_uses: { volume_id: string; sandbox_id: string }
}

export type VolumeStore = ReturnType<typeof createVolumeStore>

export function createVolumeStore(database: Database) {
  const db = database.of<Tables>()
  const sql = db.sql
  const all = sql.selectFrom('volumes').select(['id', 'account_id', 'name', 'disk_mb', 'state', 'created_at'])

  return {
    /** Throws database_constraint (unique) where the name or the key is taken. */
    async insert(record: VolumeRecord, request?: VolumeRequest): Promise<void> {
      const row = {
        id: record.id,
        account_id: record.accountId,
        name: record.name,
        disk_mb: record.diskMb,
        state: record.state,
        idempotency_key: request?.key ?? null,
        body_hash: request?.bodyHash ?? null,
        created_at: record.createdAt,
      }
      await db.run(sql.insertInto('volumes').values(row).compile())
    },

    async markReady(id: string): Promise<boolean> {
      const query = sql.updateTable('volumes').set({ state: 'ready' }).where('id', '=', id)
      return (await db.run(query.compile())).changed === 1
    },

    /** False where it is used, or not ready. From then on no sandbox can take it. */
    async markDeleting(id: string): Promise<boolean> {
      const query = sql
        .updateTable('volumes')
        .set({ state: 'deleting' })
        .where('id', '=', id)
        .where('state', '=', 'ready')
        .where((where) =>
          where.not(
            where.exists(
              where.selectFrom('volume_uses').select('sandbox_id').whereRef('volume_id', '=', 'volumes.id').limit(1),
            ),
          ),
        )
      return (await db.run(query.compile())).changed === 1
    },

    async remove(id: string): Promise<void> {
      await db.run(sql.deleteFrom('volumes').where('id', '=', id).where('state', '!=', 'ready').compile())
    },

    async list(accountId: string): Promise<VolumeRecord[]> {
      const query = all
        .where('account_id', '=', accountId)
        .where('state', '=', 'ready')
        .orderBy('created_at')
        .orderBy('id')
      return (await db.all(query.compile())).map(toRecord)
    },

    async count(accountId: string): Promise<number> {
      const query = sql
        .selectFrom('volumes')
        .select((select) => select.fn.countAll<number>().as('count'))
        .where('account_id', '=', accountId)
      return Number((await db.first(query.compile()))?.count ?? 0)
    },

    /** By id or name. */
    async find(accountId: string, idOrName: string): Promise<VolumeRecord | undefined> {
      const query = all
        .where('account_id', '=', accountId)
        .where((where) => where.or([where('id', '=', idOrName), where('name', '=', idOrName)]))
      const row = await db.first(query.compile())
      return row && toRecord(row)
    },

    async byRequest(accountId: string, key: string): Promise<{ record: VolumeRecord; bodyHash: string } | undefined> {
      const query = sql
        .selectFrom('volumes')
        .selectAll()
        .where('account_id', '=', accountId)
        .where('idempotency_key', '=', key)
      const row = await db.first(query.compile())
      return row && { record: toRecord(row), bodyHash: row.body_hash ?? '' }
    },

    /** What a crash cut short. */
    async unfinished(): Promise<VolumeRecord[]> {
      return (await db.all(all.where('state', '!=', 'ready').compile())).map(toRecord)
    },

    /** All of them or none: false where one is not ready any more. */
    async use(sandboxId: string, volumeIds: readonly string[]): Promise<boolean> {
      const steps = volumeIds.map((id): BatchStep => ({
        query: sql
          .insertInto('volume_uses')
          .columns(['volume_id', 'sandbox_id'])
          .expression(
            sql
              .selectFrom('volumes')
              .select((select) => ['id as volume_id', select.val(sandboxId).as('sandbox_id')])
              .where('id', '=', id)
              .where('state', '=', 'ready'),
          )
          .compile(),
        mustChange: 1,
      }))
      return (await db.batch(steps)).applied
    },

    async release(sandboxId: string): Promise<void> {
      await db.run(sql.deleteFrom('volume_uses').where('sandbox_id', '=', sandboxId).compile())
    },

    async users(): Promise<string[]> {
      const rows = await db.all(sql.selectFrom('volume_uses').select('sandbox_id').distinct().compile())
      return rows.map((row) => row.sandbox_id)
    },

    /** Sandboxes by volume. */
    async usesOf(volumeIds: readonly string[]): Promise<Map<string, string[]>> {
      const found = new Map<string, string[]>(volumeIds.map((id) => [id, []]))
      if (volumeIds.length === 0) return found
      const query = sql.selectFrom('volume_uses').selectAll().where('volume_id', 'in', volumeIds).orderBy('sandbox_id')
      for (const row of await db.all(query.compile())) found.get(row.volume_id)?.push(row.sandbox_id)
      return found
    },
  }
}

function toRecord(row: Omit<Tables['volumes'], 'idempotency_key' | 'body_hash'>): VolumeRecord {
  return {
    id: row.id,
    accountId: row.account_id,
    name: row.name,
    diskMb: row.disk_mb,
    state: row.state,
    createdAt: Number(row.created_at),
  }
}
