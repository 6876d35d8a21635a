import type { BatchStep, Database } from '../../kernel/db/database.ts'
import { isOver, sandboxStates } from '../states.ts'

export interface PublicPort {
  sandboxId: string
  accountId: string
  port: number
}

interface Tables {
  sandbox_ports: { sandbox_id: string; port: number; account_id: string }
  sandboxes: { id: string; state: string }
}

export function createPortStore(database: Database) {
  const db = database.of<Tables>()
  const sql = db.sql
  return {
    /** Without those of sandboxes that are over: their rows are listed for a day, but nothing answers any more. */
    async all(): Promise<PublicPort[]> {
      const rows = await db.all(
        sql
          .selectFrom('sandbox_ports')
          .innerJoin('sandboxes', 'sandboxes.id', 'sandbox_ports.sandbox_id')
          .where('sandboxes.state', 'not in', sandboxStates.filter(isOver))
          .selectAll('sandbox_ports')
          .compile(),
      )
      return rows.map((row) => ({ sandboxId: row.sandbox_id, accountId: row.account_id, port: row.port }))
    },

    /** Replaces the public ports of a sandbox. */
    async put(sandboxId: string, accountId: string, ports: readonly number[]): Promise<void> {
      const rows = ports.map((port) => ({ sandbox_id: sandboxId, account_id: accountId, port }))
      const steps: BatchStep[] = [
        { query: sql.deleteFrom('sandbox_ports').where('sandbox_id', '=', sandboxId).compile() },
      ]
      if (rows.length > 0) steps.push({ query: sql.insertInto('sandbox_ports').values(rows).compile() })
      await db.batch(steps)
    },
  }
}
