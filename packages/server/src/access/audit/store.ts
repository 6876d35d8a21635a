import type { BatchStep, Database } from '../../kernel/db/database.ts'
import type { ChainHead, Link } from './chain.ts'
import { type AuditDetails, auditLimits, type AuditOutcome } from './entry.ts'

interface Tables {
  audit_entries: {
    account_id: string
    seq: number
    at: number
    actor: string
    action: string
    target: string | null
    outcome: AuditOutcome
    reason: string | null
    details: string | null
    request_id: string | null
    address: string | null
    hash: string
  }
  audit_heads: { account_id: string; seq: number; hash: string }
}

/** What is to follow on `before` in one account's chain. */
export interface Growth {
  accountId: string
  before: ChainHead
  links: readonly Link[]
}

export interface AuditFilter {
  actor?: string | undefined
  action?: string | undefined
  target?: string | undefined
}

export type AuditStore = ReturnType<typeof createAuditStore>

export function createAuditStore(database: Database) {
  const db = database.of<Tables>()
  const sql = db.sql

  function growthSteps({ accountId, before, links }: Growth): BatchStep[] {
    const { seq, hash } = links.at(-1)!
    const head =
      before.seq === 0
        ? sql
            .insertInto('audit_heads')
            .values({ account_id: accountId, seq, hash })
            .onConflict((conflict) => conflict.doNothing())
            .compile()
        : sql
            .updateTable('audit_heads')
            .set({ seq, hash })
            .where('account_id', '=', accountId)
            .where('seq', '=', before.seq)
            .where('hash', '=', before.hash)
            .compile()
    const steps: BatchStep[] = [{ query: head, mustChange: 1 }]
    for (let from = 0; from < links.length; from += auditLimits.rows) {
      const rows = links.slice(from, from + auditLimits.rows).map((link) => rowOf(accountId, link))
      steps.push({ query: sql.insertInto('audit_entries').values(rows).compile(), mustChange: rows.length })
    }
    return steps
  }

  return {
    async head(accountId: string): Promise<ChainHead | undefined> {
      const query = sql.selectFrom('audit_heads').select(['seq', 'hash']).where('account_id', '=', accountId)
      const row = await db.first(query.compile())
      return row && { seq: Number(row.seq), hash: row.hash }
    },

    async heads(limit: number): Promise<(ChainHead & { accountId: string })[]> {
      const rows = await db.all(sql.selectFrom('audit_heads').selectAll().limit(limit).compile())
      return rows.map(({ account_id: accountId, seq, hash }) => ({ accountId, seq: Number(seq), hash }))
    },

    /** All of them or none. False when another server was quicker with one of the chains. */
    async append(growths: readonly Growth[]): Promise<boolean> {
      return (await db.batch(growths.flatMap(growthSteps))).applied
    },

    /** The hashes of the entries in those places. */
    async hashesAt(accountId: string, places: readonly { seq: number }[]): Promise<Set<string>> {
      const hashes = new Set<string>()
      const seqs = Array.from(new Set(places.map(({ seq }) => seq)))
      for (let from = 0; from < seqs.length; from += auditLimits.group) {
        const query = sql
          .selectFrom('audit_entries')
          .select('hash')
          .where('account_id', '=', accountId)
          .where('seq', 'in', seqs.slice(from, from + auditLimits.group))
        for (const { hash } of await db.all(query.compile())) hashes.add(hash)
      }
      return hashes
    },

    /** Whether anything can be written at all. It changes nothing. */
    async canWrite(): Promise<boolean> {
      const query = sql.updateTable('audit_heads').set({ seq: 0 }).where('account_id', '=', '')
      return db.batch([{ query: query.compile() }]).then(
        () => true,
        () => false,
      )
    },

    /** The chain from `after` on, oldest first. */
    async links(accountId: string, { after, limit }: { after: number; limit: number }): Promise<Link[]> {
      const query = sql
        .selectFrom('audit_entries')
        .selectAll()
        .where('account_id', '=', accountId)
        .where('seq', '>', after)
        .orderBy('seq', 'asc')
        .limit(limit)
      return (await db.all(query.compile())).map(linkRecord)
    },

    /** Newest first. */
    async list(
      accountId: string,
      { before, limit, filter }: { before?: number | undefined; limit: number; filter: AuditFilter },
    ): Promise<Link[]> {
      let query = sql.selectFrom('audit_entries').selectAll().where('account_id', '=', accountId)
      if (before !== undefined) query = query.where('seq', '<', before)
      for (const column of ['actor', 'action', 'target'] as const) {
        const wanted = filter[column]
        if (wanted !== undefined) query = query.where(column, '=', wanted)
      }
      return (await db.all(query.orderBy('seq', 'desc').limit(limit).compile())).map(linkRecord)
    },
  }
}

function rowOf(accountId: string, link: Link): Tables['audit_entries'] {
  const { requestId, details, ...same } = link
  return {
    account_id: accountId,
    ...same,
    request_id: requestId,
    details: details && JSON.stringify(details),
  }
}

function linkRecord(row: Tables['audit_entries']): Link {
  const { actor, action, target, outcome, reason, address, hash } = row
  return {
    seq: Number(row.seq),
    at: Number(row.at),
    actor,
    action,
    target,
    outcome,
    reason,
    details: row.details === null ? null : (JSON.parse(row.details) as AuditDetails),
    requestId: row.request_id,
    address,
    hash,
  }
}
