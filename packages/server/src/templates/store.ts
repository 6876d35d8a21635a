import type { BatchStep, Database } from '../kernel/db/database.ts'
import type { ImageConfig } from './dockerfile/evaluate.ts'
import { latestTag } from './names.ts'
import type { TemplateReference } from './names.ts'
import type { TemplateSource } from './schema.ts'

export type TemplateState = 'building' | 'ready' | 'failed' | 'canceled' | 'deleting'

/** One version of a template as it is stored. Times are unix milliseconds. */
export interface TemplateRecord {
  id: string
  accountId: string
  name: string
  version: number
  state: TemplateState
  source: TemplateSource
  detail: string
  failure: { code: string; message: string; cause?: string } | null
  digest: string | null
  snapshotId: string | null
  config: ImageConfig | null
  createdAt: number
  endedAt: number | null
}

export interface SavedRequest {
  key: string
  bodyHash: string
}

interface TemplatesTable {
  id: string
  account_id: string
  name: string
  version: number
  state: TemplateState
  source: string
  detail: string
  failure: string | null
  digest: string | null
  snapshot_id: string | null
  config: string | null
  request_key: string | null
  body_hash: string | null
  created_at: number
  ended_at: number | null
}

interface Tables {
  templates: TemplatesTable
  template_tags: { account_id: string; name: string; tag: string; template_id: string }
  template_steps: { account_id: string; step_key: string; snapshot_id: string; template_id: string }
}

export type TemplateStore = ReturnType<typeof createTemplateStore>

export function createTemplateStore(database: Database) {
  const db = database.of<Tables>()
  const sql = db.sql

  function tagSteps({ accountId, name, id }: TemplateRecord, tags: readonly string[]): BatchStep[] {
    return tags.map((tag) => ({
      query: sql
        .insertInto('template_tags')
        .values({ account_id: accountId, name, tag, template_id: id })
        .onConflict((conflict) => conflict.columns(['account_id', 'name', 'tag']).doUpdateSet({ template_id: id }))
        .compile(),
    }))
  }

  async function first(query: {
    compile(): Parameters<typeof db.first<TemplatesTable>>[0]
  }): Promise<TemplateRecord | undefined> {
    const row = await db.first(query.compile())
    return row && toRecord(row)
  }

  const visible = () => sql.selectFrom('templates').selectAll('templates').where('templates.state', '!=', 'deleting')

  return {
    /** False when the version exists, or the key is known: ask again. */
    async insert(record: TemplateRecord, request: SavedRequest | undefined): Promise<boolean> {
      const query = sql
        .insertInto('templates')
        .values({ ...toRow(record), request_key: request?.key ?? null, body_hash: request?.bodyHash ?? null })
        .onConflict((conflict) => conflict.doNothing())
        .compile()
      return (await db.batch([{ query, mustChange: 1 }])).applied
    },

    async byRequest(accountId: string, key: string): Promise<{ record: TemplateRecord; bodyHash: string } | undefined> {
      const row = await db.first(
        sql
          .selectFrom('templates')
          .selectAll()
          .where('account_id', '=', accountId)
          .where('request_key', '=', key)
          .compile(),
      )
      return row && { record: toRecord(row), bodyHash: row.body_hash ?? '' }
    },

    async nextVersion(accountId: string, name: string): Promise<number> {
      const query = sql
        .selectFrom('templates')
        .select((select) => select.fn.max('version').as('version'))
        .where('account_id', '=', accountId)
        .where('name', '=', name)
      return Number((await db.first(query.compile()))?.version ?? 0) + 1
    },

    async count(accountId: string): Promise<number> {
      const query = sql
        .selectFrom('templates')
        .select((select) => select.fn.countAll<number>().as('count'))
        .where('account_id', '=', accountId)
      return Number((await db.first(query.compile()))?.count ?? 0)
    },

    /** Of all there are of the account, newest first. */
    async ids(accountId: string): Promise<string[]> {
      const query = sql
        .selectFrom('templates')
        .select('id')
        .where('account_id', '=', accountId)
        .orderBy('created_at', 'desc')
        .orderBy('id', 'desc')
      return (await db.all(query.compile())).map(({ id }) => id)
    },

    /** The end of a build; a ready one gets its tags in the same step. False when it was deleted meanwhile. */
    async end(record: TemplateRecord, tags: readonly string[]): Promise<boolean> {
      const { id, state, detail, failure, digest, snapshot_id, config, ended_at } = toRow(record)
      const query = sql
        .updateTable('templates')
        .set({ state, detail, failure, digest, snapshot_id, config, ended_at })
        .where('id', '=', id)
        .where('state', '=', 'building')
        .compile()
      const named = state === 'ready' ? tagSteps(record, [...new Set([...tags, latestTag])]) : []
      return (await db.batch([{ query, mustChange: 1 }, ...named])).applied
    },

    async find(accountId: string, reference: TemplateReference): Promise<TemplateRecord | undefined> {
      const own = visible().where('templates.account_id', '=', accountId)
      if (reference.kind === 'id') return first(own.where('templates.id', '=', reference.id))
      const named = own.where('templates.name', '=', reference.name)
      if (reference.kind === 'version') return first(named.where('templates.version', '=', reference.version))
      const tag = reference.kind === 'tag' ? reference.tag : latestTag
      const tagged = await first(
        named
          .innerJoin('template_tags', 'template_tags.template_id', 'templates.id')
          .where('template_tags.tag', '=', tag),
      )
      if (tagged || reference.kind === 'tag') return tagged
      const newest = named.orderBy('templates.version', 'desc').limit(1)
      // Where nothing of this name is ready, the newest says why.
      return (await first(newest.where('templates.state', '=', 'ready'))) ?? first(newest)
    },

    /** Newest first; of each name the newest alone unless a name is given. */
    async list(accountId: string, { name, limit }: { name?: string; limit: number }): Promise<TemplateRecord[]> {
      let query = visible().where('templates.account_id', '=', accountId)
      if (name === undefined) {
        const newest = sql
          .selectFrom('templates as other')
          .select((select) => select.fn.max('other.version').as('version'))
          .whereRef('other.account_id', '=', 'templates.account_id' as never)
          .whereRef('other.name', '=', 'templates.name' as never)
        query = query.where('templates.version', '=', newest)
      } else query = query.where('templates.name', '=', name)
      const rows = await db.all(
        query.orderBy('templates.name').orderBy('templates.version', 'desc').limit(limit).compile(),
      )
      return rows.map(toRecord)
    },

    async inState(state: TemplateState): Promise<TemplateRecord[]> {
      return (await db.all(sql.selectFrom('templates').selectAll().where('state', '=', state).compile())).map(toRecord)
    },

    async tags(accountId: string, templateIds: readonly string[]): Promise<Map<string, string[]>> {
      if (templateIds.length === 0) return new Map()
      const rows = await db.all(
        sql
          .selectFrom('template_tags')
          .select(['template_id', 'tag'])
          .where('account_id', '=', accountId)
          .where('template_id', 'in', templateIds)
          .orderBy('tag')
          .compile(),
      )
      const found = new Map<string, string[]>()
      for (const { template_id, tag } of rows) found.set(template_id, [...(found.get(template_id) ?? []), tag])
      return found
    },

    async setTag(record: TemplateRecord, tag: string): Promise<void> {
      await db.batch(tagSteps(record, [tag]))
    },

    async removeTag(accountId: string, name: string, tag: string): Promise<boolean> {
      const query = sql
        .deleteFrom('template_tags')
        .where('account_id', '=', accountId)
        .where('name', '=', name)
        .where('tag', '=', tag)
      return (await db.run(query.compile())).changed > 0
    },

    /** Invisible from now on. */
    async beginRemoval(id: string): Promise<boolean> {
      const gone = sql
        .updateTable('templates')
        .set({ state: 'deleting' })
        .where('id', '=', id)
        .where('state', '!=', 'deleting')
        .compile()
      const untagged = sql.deleteFrom('template_tags').where('template_id', '=', id).compile()
      const forgotten = sql.deleteFrom('template_steps').where('template_id', '=', id).compile()
      return (await db.batch([{ query: gone, mustChange: 1 }, { query: untagged }, { query: forgotten }])).applied
    },

    async remove(id: string): Promise<void> {
      await db.run(sql.deleteFrom('templates').where('id', '=', id).where('state', '=', 'deleting').compile())
    },

    async step(accountId: string, key: string): Promise<string | undefined> {
      const query = sql
        .selectFrom('template_steps')
        .select('snapshot_id')
        .where('account_id', '=', accountId)
        .where('step_key', '=', key)
      return (await db.first(query.compile()))?.snapshot_id
    },

    async putStep(
      accountId: string,
      key: string,
      { snapshotId, templateId }: { snapshotId: string; templateId: string },
    ): Promise<void> {
      const query = sql
        .insertInto('template_steps')
        .values({ account_id: accountId, step_key: key, snapshot_id: snapshotId, template_id: templateId })
        .onConflict((conflict) =>
          conflict
            .columns(['account_id', 'step_key'])
            .doUpdateSet({ snapshot_id: snapshotId, template_id: templateId }),
        )
      await db.run(query.compile())
    },
  }
}

function toRow(record: TemplateRecord): Omit<TemplatesTable, 'request_key' | 'body_hash'> {
  return {
    id: record.id,
    account_id: record.accountId,
    name: record.name,
    version: record.version,
    state: record.state,
    source: JSON.stringify(record.source),
    detail: record.detail,
    failure: record.failure && JSON.stringify(record.failure),
    digest: record.digest,
    snapshot_id: record.snapshotId,
    config: record.config && JSON.stringify(record.config),
    created_at: record.createdAt,
    ended_at: record.endedAt,
  }
}

function toRecord(row: TemplatesTable): TemplateRecord {
  return {
    id: row.id,
    accountId: row.account_id,
    name: row.name,
    version: row.version,
    state: row.state,
    source: JSON.parse(row.source) as TemplateSource,
    detail: row.detail,
    failure: row.failure === null ? null : (JSON.parse(row.failure) as TemplateRecord['failure']),
    digest: row.digest,
    snapshotId: row.snapshot_id,
    config: row.config === null ? null : (JSON.parse(row.config) as ImageConfig),
    createdAt: Number(row.created_at),
    endedAt: row.ended_at === null ? null : Number(row.ended_at),
  }
}
