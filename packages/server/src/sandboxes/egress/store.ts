import type { EgressTarget } from '../../guest/messages.ts'
import type { BatchStep, Database } from '../../kernel/db/database.ts'
import type { Place } from '../../kernel/http/cursors.ts'
import type { EgressOutcome } from './schema.ts'

/** One connection, or several that were refused, as it is stored. Times are unix milliseconds. */
export interface EgressRecord {
  id: string
  sandboxId: string
  accountId: string
  at: number
  host: string
  port: number
  address: string | null
  via: EgressTarget['via']
  outcome: EgressOutcome
  reason: string
  bytesUp: number
  bytesDown: number
  durationMs: number
  /** Connections this row stands for. */
  count: number
}

interface Tables {
  egress_connections: {
    id: string
    sandbox_id: string
    account_id: string
    at: number
    host: string
    port: number
    address: string | null
    via: EgressTarget['via']
    outcome: EgressOutcome
    reason: string
    bytes_up: number
    bytes_down: number
    duration_ms: number
    count: number
  }
}

/** Rows one clean-up statement removes at most, so that it never holds the database for long. */
const purgeRows = 1_000

export interface EgressFilter {
  sandboxId: string
  accountId: string
  limit: number
  before?: Place | undefined
}

export type EgressStore = ReturnType<typeof createEgressStore>

export function createEgressStore(database: Database) {
  const db = database.of<Tables>()
  const sql = db.sql
  return {
    async insert(records: readonly EgressRecord[]): Promise<void> {
      // One statement for each row: the same text for any number of them, so that it stays prepared.
      const steps = records.map((record): BatchStep => ({
        query: sql
          .insertInto('egress_connections')
          .values(toRow(record))
          .onConflict((on) => on.doNothing())
          .compile(),
      }))
      await db.batch(steps)
    },

    /** Newest first. */
    async list({ sandboxId, accountId, limit, before }: EgressFilter): Promise<EgressRecord[]> {
      let query = sql
        .selectFrom('egress_connections')
        .selectAll()
        .where('sandbox_id', '=', sandboxId)
        .where('account_id', '=', accountId)
      if (before) {
        query = query.where((where) =>
          where.or([
            where('at', '<', before.createdAt),
            where.and([where('at', '=', before.createdAt), where('id', '<', before.id)]),
          ]),
        )
      }
      const rows = await db.all(query.orderBy('at', 'desc').orderBy('id', 'desc').limit(limit).compile())
      return rows.map(toRecord)
    },

    /** Forgets what was before `before`, some of it at a time. Returns how many rows went. */
    async purge(before: number): Promise<number> {
      const old = sql.selectFrom('egress_connections').select('id').where('at', '<', before).limit(purgeRows)
      return (await db.run(sql.deleteFrom('egress_connections').where('id', 'in', old).compile())).changed
    },

    /** Keeps about the newest `most` rows of a sandbox. */
    async trim(sandboxId: string, most: number): Promise<number> {
      const oldest = await db.first(
        sql
          .selectFrom('egress_connections')
          .select('at')
          .where('sandbox_id', '=', sandboxId)
          .orderBy('at', 'desc')
          .orderBy('id', 'desc')
          .offset(most)
          .limit(1)
          .compile(),
      )
      if (!oldest) return 0
      const query = sql
        .deleteFrom('egress_connections')
        .where('sandbox_id', '=', sandboxId)
        .where('at', '<=', Number(oldest.at))
        .compile()
      return (await db.run(query)).changed
    },
  }
}

function toRow(record: EgressRecord): Tables['egress_connections'] {
  return {
    id: record.id,
    sandbox_id: record.sandboxId,
    account_id: record.accountId,
    at: record.at,
    host: record.host,
    port: record.port,
    address: record.address,
    via: record.via,
    outcome: record.outcome,
    reason: record.reason,
    bytes_up: record.bytesUp,
    bytes_down: record.bytesDown,
    duration_ms: record.durationMs,
    count: record.count,
  }
}

function toRecord(row: Tables['egress_connections']): EgressRecord {
  return {
    id: row.id,
    sandboxId: row.sandbox_id,
    accountId: row.account_id,
    at: Number(row.at),
    host: row.host,
    port: row.port,
    address: row.address,
    via: row.via,
    outcome: row.outcome,
    reason: row.reason,
    bytesUp: Number(row.bytes_up),
    bytesDown: Number(row.bytes_down),
    durationMs: Number(row.duration_ms),
    count: row.count,
  }
}
