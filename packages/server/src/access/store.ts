import { sql as text } from 'kysely'
import type { BatchStep, Database } from '../kernel/db/database.ts'

interface Tables {
  access_secrets: { name: string; value: string }
  access_makers: { maker: string; sandbox_id: string; until: number }
  access_generations: { sandbox_id: string; generation: number; revoked_at: number }
}

/** Tokens of a sandbox made before the generation are over. */
export interface Revocation {
  generation: number
  revokedAt: number
}

export function createAccessStore(database: Database) {
  const db = database.of<Tables>()
  const sql = db.sql
  return {
    /** The secret of that name; `fresh` becomes it where there was none. Of two who come at once, both get the same. */
    async secret(name: string, fresh: string): Promise<string> {
      const insert = sql.insertInto('access_secrets').values({ name, value: fresh })
      await db.run(insert.onConflict((conflict) => conflict.doNothing()).compile())
      const row = await db.first(sql.selectFrom('access_secrets').selectAll().where('name', '=', name).compile())
      return row!.value
    },

    async replaceSecret(name: string, value: string): Promise<void> {
      await db.run(sql.updateTable('access_secrets').set({ value }).where('name', '=', name).compile())
    },

    async generations(): Promise<Map<string, Revocation>> {
      const rows = await db.all(sql.selectFrom('access_generations').selectAll().compile())
      return new Map(
        rows.map((row) => [row.sandbox_id, { generation: Number(row.generation), revokedAt: Number(row.revoked_at) }]),
      )
    },

    /** With its news. Of two servers that revoke at once the higher holds. */
    async putGeneration(
      { sandboxId, generation, now }: { sandboxId: string; generation: number; now: number },
      news: BatchStep[],
    ): Promise<void> {
      const higher =
        db.kind === 'sqlite'
          ? text<number>`max(access_generations.generation, excluded.generation)`
          : text<number>`greatest(access_generations.generation, excluded.generation)`
      const query = sql
        .insertInto('access_generations')
        .values({ sandbox_id: sandboxId, generation, revoked_at: now })
        .onConflict((conflict) => conflict.column('sandbox_id').doUpdateSet({ generation: higher, revoked_at: now }))
        .compile()
      await db.batch([{ query }, ...news])
    },

    async putMakers(makers: readonly string[], sandboxId: string, until: number): Promise<void> {
      const later =
        db.kind === 'sqlite'
          ? text<number>`max(access_makers.until, excluded.until)`
          : text<number>`greatest(access_makers.until, excluded.until)`
      const query = sql
        .insertInto('access_makers')
        .values(makers.map((maker) => ({ maker, sandbox_id: sandboxId, until })))
        .onConflict((conflict) => conflict.columns(['maker', 'sandbox_id']).doUpdateSet({ until: later }))
      await db.run(query.compile())
    },

    /** Of the sandboxes that tokens were made for: by whom. */
    async makers(maker?: string): Promise<{ maker: string; sandboxId: string }[]> {
      let query = sql.selectFrom('access_makers').select(['maker', 'sandbox_id'])
      if (maker !== undefined) query = query.where('maker', '=', maker)
      return (await db.all(query.compile())).map((row) => ({ maker: row.maker, sandboxId: row.sandbox_id }))
    },

    async removeMaker(maker: string): Promise<void> {
      await db.run(sql.deleteFrom('access_makers').where('maker', '=', maker).compile())
    },

    async purgeMakers(before: number): Promise<void> {
      await db.run(sql.deleteFrom('access_makers').where('until', '<', before).compile())
    },

    /** Forgets revocations from before `before`. */
    async purgeGenerations(before: number): Promise<void> {
      await db.run(sql.deleteFrom('access_generations').where('revoked_at', '<', before).compile())
    },
  }
}
