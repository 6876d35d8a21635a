import type { Database } from '../../kernel/db/database.ts'

/** What a hold was begun with, so that after a crash it is paid by what the box has used since. Times are unix milliseconds. */
export interface WindowRecord {
  holdId: string
  sandboxId: string
  accountId: string
  boxId: string
  held: number
  withCpu: boolean
  since: number
  cpuMicros: number
  memoryBytes: number
}

interface Tables {
  sandbox_windows: {
    hold_id: string
    sandbox_id: string
    account_id: string
    box_id: string
    held: number
    with_cpu: number
    since: number
    cpu_micros: number
    memory_bytes: number
  }
  sandbox_hours: { account_id: string; period: string; running_ms: number }
}

/** Rows of one statement. */
const rowsAtOnce = 100

export type MeterStore = ReturnType<typeof createMeterStore>

export function createMeterStore(database: Database) {
  const db = database.of<Tables>()
  const sql = db.sql
  return {
    async put(records: readonly WindowRecord[]): Promise<void> {
      await inParts(records, (part) => db.run(sql.insertInto('sandbox_windows').values(part.map(rowOf)).compile()))
    },

    async drop(holdIds: readonly string[]): Promise<void> {
      await inParts(holdIds, (part) => db.run(sql.deleteFrom('sandbox_windows').where('hold_id', 'in', part).compile()))
    },

    /** Oldest first. */
    async all(): Promise<WindowRecord[]> {
      const rows = await db.all(
        sql.selectFrom('sandbox_windows').selectAll().orderBy('since').orderBy('hold_id').compile(),
      )
      return rows.map((row) => ({
        holdId: row.hold_id,
        sandboxId: row.sandbox_id,
        accountId: row.account_id,
        boxId: row.box_id,
        held: row.held,
        withCpu: row.with_cpu === 1,
        since: row.since,
        cpuMicros: row.cpu_micros,
        memoryBytes: row.memory_bytes,
      }))
    },

    async addRunning(period: string, added: ReadonlyMap<string, number>): Promise<void> {
      const values = Array.from(added, ([account_id, ms]) => ({ account_id, period, running_ms: Math.round(ms) }))
      await inParts(values, (part) =>
        db.run(
          sql
            .insertInto('sandbox_hours')
            .values(part)
            .onConflict((conflict) =>
              conflict.columns(['account_id', 'period']).doUpdateSet((set) => ({
                running_ms: set('sandbox_hours.running_ms', '+', set.ref('excluded.running_ms')),
              })),
            )
            .compile(),
        ),
      )
    },

    async runningMs(accountId: string, period: string): Promise<number> {
      const row = await db.first(
        sql
          .selectFrom('sandbox_hours')
          .select('running_ms')
          .where('account_id', '=', accountId)
          .where('period', '=', period)
          .compile(),
      )
      return row?.running_ms ?? 0
    },
  }
}

function rowOf(record: WindowRecord): Tables['sandbox_windows'] {
  return {
    hold_id: record.holdId,
    sandbox_id: record.sandboxId,
    account_id: record.accountId,
    box_id: record.boxId,
    held: record.held,
    with_cpu: Number(record.withCpu),
    since: record.since,
    cpu_micros: record.cpuMicros,
    memory_bytes: record.memoryBytes,
  }
}

async function inParts<Item>(items: readonly Item[], run: (part: Item[]) => Promise<unknown>): Promise<void> {
  const parts: Promise<unknown>[] = []
  for (let from = 0; from < items.length; from += rowsAtOnce) parts.push(run(items.slice(from, from + rowsAtOnce)))
  await Promise.all(parts)
}
