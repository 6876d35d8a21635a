import type { Database } from '../kernel/db/database.ts'

interface Tables {
  access_secrets: { name: string; value: string }
  access_generations: { sandbox_id: string; generation: number; revoked_at: number }
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

    async generations(): Promise<Map<string, number>> {
      const rows = await db.all(sql.selectFrom('access_generations').selectAll().compile())
      return new Map(rows.map(({ sandbox_id: id, generation }) => [id, Number(generation)]))
    },

    async putGeneration(sandboxId: string, generation: number, now: number): Promise<void> {
      const query = sql
        .insertInto('access_generations')
        .values({ sandbox_id: sandboxId, generation, revoked_at: now })
        .onConflict((conflict) => conflict.column('sandbox_id').doUpdateSet({ generation, revoked_at: now }))
        .compile()
      await db.run(query)
    },

    /** Forgets revocations from before `before`. */
    async purgeGenerations(before: number): Promise<void> {
      await db.run(sql.deleteFrom('access_generations').where('revoked_at', '<', before).compile())
    },
  }
}
