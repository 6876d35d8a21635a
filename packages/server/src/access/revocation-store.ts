import type { Generated } from 'kysely'
import type { BatchStep, Database } from '../kernel/db/database.ts'

interface Tables {
  access_revocations: { number: Generated<number>; id: string; server: string; revoked_at: number }
}

/** `server` tells this process's own news from those of others. */
export function createRevocationStore(database: Database, server: string) {
  const db = database.of<Tables>()
  const sql = db.sql
  return {
    steps(ids: readonly string[], now: number): BatchStep[] {
      return ids.map((id) => ({
        query: sql.insertInto('access_revocations').values({ id, server, revoked_at: now }).compile(),
      }))
    },

    /** What other servers wrote with a higher number. */
    async after(number: number): Promise<{ number: number; id: string }[]> {
      const query = sql
        .selectFrom('access_revocations')
        .select(['number', 'id'])
        .where('number', '>', number)
        .where('server', '!=', server)
        .orderBy('number')
      return db.all(query.compile())
    },

    async newest(): Promise<number> {
      const query = sql.selectFrom('access_revocations').select('number').orderBy('number', 'desc').limit(1)
      return (await db.first(query.compile()))?.number ?? 0
    },

    async all(): Promise<string[]> {
      const rows = await db.all(sql.selectFrom('access_revocations').select('id').orderBy('number').compile())
      return rows.map(({ id }) => id)
    },

    async purge(before: number): Promise<void> {
      await db.run(sql.deleteFrom('access_revocations').where('revoked_at', '<', before).compile())
    },
  }
}
