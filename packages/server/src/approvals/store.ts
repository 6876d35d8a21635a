import { isClash } from '../kernel/db/clash.ts'
import type { Database } from '../kernel/db/database.ts'
import type { Place } from '../kernel/http/cursors.ts'
import { approvalLimits } from './limits.ts'
import type { ApprovalRecord, ApprovalState } from './record.ts'

interface Row {
  id: string
  account_id: string
  kind: string
  action: string
  action_hash: string
  state: ApprovalState
  asked_by: string
  asked_user: string | null
  asked_ties: string
  asked_line: string
  asked_root: string
  reason: string
  sandbox_id: string | null
  asked_at: number
  expires_at: number
  decided_by: string | null
  decided_at: number | null
  refusal: string | null
  begun_at: number | null
  tries: number
  lease_until: number | null
  ended_at: number | null
  failure_code: string | null
  failure_text: string | null
  changed: number
}

/** What of the account somebody may see. */
export interface Sight {
  accountId: string
  /** What they may decide on. */
  kinds: readonly string[]
  /** And of that only what is about these. @default all */
  sandboxes?: readonly string[] | undefined
  line: string
  userId?: string | undefined
}

/** Whose requests are counted: all of the account, of whoever answers for them, or of one who asks. */
export interface Askers {
  accountId: string
  root?: string
  line?: string
}

export interface ApprovalFilter {
  sight: Sight
  state?: ApprovalState | undefined
  kind?: string | undefined
  sandboxId?: string | undefined
  now: number
  limit: number
  before?: Place | undefined
}

type Changes = Partial<Pick<ApprovalRecord, 'decidedBy' | 'decidedAt' | 'refusal' | 'endedAt' | 'leaseUntil'>> &
  Partial<Pick<ApprovalRecord, 'failureCode' | 'failureText'>>

export type ApprovalStore = ReturnType<typeof createApprovalStore>

export function createApprovalStore(database: Database) {
  const db = database.of<{ approvals: Row }>()
  const { sql } = db
  const all = sql.selectFrom('approvals').selectAll()

  const nextChange = (accountId: string) =>
    sql
      .selectFrom('approvals as other')
      .select(({ eb, fn, lit }) => eb(fn.coalesce(fn.max('other.changed'), lit(0)), '+', lit(1)).as('next'))
      .where('other.account_id', '=', accountId)

  const askedBy = ({ accountId, root, line }: Askers) => {
    const query = sql.selectFrom('approvals').where('account_id', '=', accountId)
    if (line !== undefined) return query.where('asked_line', '=', line)
    return root === undefined ? query : query.where('asked_root', '=', root)
  }

  async function count(query: ReturnType<typeof askedBy>): Promise<number> {
    const row = await db.first(query.select(({ fn }) => fn.countAll<number>().as('found')).compile())
    return Number(row?.found ?? 0)
  }

  /** Two changes of an account at once ask for the same number; one of them asks again. */
  async function numbered<Result>(write: () => Promise<Result>): Promise<Result> {
    for (let left: number = approvalLimits.clashes; ; left--) {
      try {
        return await write()
      } catch (error) {
        if (left === 0 || !isClash(error)) throw error
      }
    }
  }

  return {
    /** False where the same is asked for already. */
    async insert(record: Omit<ApprovalRecord, 'changed'>): Promise<boolean> {
      const row = { ...toRow(record), changed: nextChange(record.accountId) }
      return numbered(async () => {
        try {
          await db.run(sql.insertInto('approvals').values(row).compile())
          return true
        } catch (error) {
          if (isClash(error) && (await this.same(record))) return false
          throw error
        }
      })
    },

    async get(id: string): Promise<ApprovalRecord | undefined> {
      const row = await db.first(all.where('id', '=', id).compile())
      return row && toRecord(row)
    },

    /** The pending one of the same asker for the same. */
    async same({ accountId, asker, actionHash }: Pick<ApprovalRecord, 'accountId' | 'asker' | 'actionHash'>) {
      const query = all
        .where('account_id', '=', accountId)
        .where('asked_line', '=', asker.line)
        .where('action_hash', '=', actionHash)
        .where('state', '=', 'pending')
      const row = await db.first(query.compile())
      return row && toRecord(row)
    },

    /** Of those asked with this id among their ties. */
    async pendingWith(tie: string): Promise<ApprovalRecord[]> {
      const query = all.where('state', '=', 'pending').where('asked_ties', 'like', `%"${tie}"%`)
      const rows = await db.all(query.limit(approvalLimits.pending.perRoot).compile())
      // To `like` an underscore is any letter.
      return rows.map(toRecord).filter(({ asker }) => asker.ties.includes(tie))
    },

    countPending(of: Askers, now: number): Promise<number> {
      return count(askedBy(of).where('state', '=', 'pending').where('expires_at', '>', now))
    },

    countAsked(of: Askers, since: number): Promise<number> {
      return count(askedBy(of).where('asked_at', '>', since))
    },

    /** Newest first. */
    async list({ sight, state, kind, sandboxId, now, limit, before }: ApprovalFilter): Promise<ApprovalRecord[]> {
      let query = all.where('account_id', '=', sight.accountId).where((where) => {
        const { kinds, sandboxes } = sight
        const own = [where('asked_line', '=', sight.line)]
        if (sight.userId !== undefined) own.push(where('asked_user', '=', sight.userId))
        if (kinds.length === 0 || sandboxes?.length === 0) return where.or(own)
        const decidable = [where('kind', 'in', [...kinds])]
        if (sandboxes) decidable.push(where('sandbox_id', 'in', [...sandboxes]))
        return where.or([...own, where.and(decidable)])
      })
      if (state === 'pending') query = query.where('state', '=', state).where('expires_at', '>', now)
      else if (state === 'expired') {
        query = query.where((where) =>
          where.or([
            where('state', '=', state),
            where.and([where('state', '=', 'pending'), where('expires_at', '<=', now)]),
          ]),
        )
      } else if (state) query = query.where('state', '=', state)
      if (kind !== undefined) query = query.where('kind', '=', kind)
      if (sandboxId !== undefined) query = query.where('sandbox_id', '=', sandboxId)
      if (before) {
        query = query.where((where) =>
          where.or([
            where('asked_at', '<', before.createdAt),
            where.and([where('asked_at', '=', before.createdAt), where('id', '<', before.id)]),
          ]),
        )
      }
      const rows = await db.all(query.orderBy('asked_at', 'desc').orderBy('id', 'desc').limit(limit).compile())
      return rows.map(toRecord)
    },

    async lastChange(accountId: string): Promise<number> {
      const query = sql
        .selectFrom('approvals')
        .select('changed')
        .where('account_id', '=', accountId)
        .orderBy('changed', 'desc')
        .limit(1)
      return (await db.first(query.compile()))?.changed ?? 0
    },

    /** In the order of their last change. Up to `openUntil` only what is not over. */
    async changedAfter(
      accountId: string,
      { after, openUntil, limit }: { after: number; openUntil: number; limit: number },
    ): Promise<ApprovalRecord[]> {
      const query = all
        .where('account_id', '=', accountId)
        .where('changed', '>', after)
        .where((where) =>
          where.or([where('changed', '>', openUntil), where('state', '=', 'pending'), where('state', '=', 'approved')]),
        )
      return (await db.all(query.orderBy('changed').limit(limit).compile())).map(toRecord)
    },

    /** Only from the state in which it was seen; false where it has another by now. */
    async move(record: ApprovalRecord, to: ApprovalState, changes: Changes): Promise<boolean> {
      const query = sql
        .updateTable('approvals')
        .set({
          state: to,
          changed: nextChange(record.accountId),
          ...(changes.decidedBy !== undefined && { decided_by: changes.decidedBy }),
          ...(changes.decidedAt !== undefined && { decided_at: changes.decidedAt }),
          ...(changes.refusal !== undefined && { refusal: changes.refusal }),
          ...(changes.endedAt !== undefined && { ended_at: changes.endedAt }),
          ...(changes.leaseUntil !== undefined && { lease_until: changes.leaseUntil }),
          ...(changes.failureCode !== undefined && { failure_code: changes.failureCode }),
          ...(changes.failureText !== undefined && { failure_text: changes.failureText }),
        })
        .where('id', '=', record.id)
        .where('state', '=', record.state)
        .where('action_hash', '=', record.actionHash)
      return numbered(async () => (await db.run(query.compile())).changed === 1)
    },

    /** Whoever takes what is approved does it; false where somebody else did. */
    async take(record: ApprovalRecord, { now, leaseUntil }: { now: number; leaseUntil: number }): Promise<boolean> {
      const query = sql
        .updateTable('approvals')
        .set({ begun_at: now, tries: record.tries + 1, lease_until: leaseUntil })
        .where('id', '=', record.id)
        .where('state', '=', 'approved')
        .where('tries', '=', record.tries)
        .where('lease_until', '=', record.leaseUntil)
      return (await db.run(query.compile())).changed === 1
    },

    async due(now: number): Promise<ApprovalRecord[]> {
      const query = all.where('state', '=', 'pending').where('expires_at', '<=', now).orderBy('expires_at')
      return (await db.all(query.limit(approvalLimits.swept).compile())).map(toRecord)
    },

    /** Approved, and whoever was to do it did not in time. */
    async leftBehind(now: number): Promise<ApprovalRecord[]> {
      const query = all.where('state', '=', 'approved').where('lease_until', '<=', now).orderBy('lease_until')
      return (await db.all(query.limit(approvalLimits.swept).compile())).map(toRecord)
    },

    /** Where there can be no other server. */
    async endLeases(now: number): Promise<void> {
      const query = sql.updateTable('approvals').set({ lease_until: now }).where('state', '=', 'approved')
      await db.run(query.compile())
    },

    /** The account's last change stays, so that no number is given twice. */
    async forget(endedBefore: number): Promise<void> {
      const query = sql
        .deleteFrom('approvals')
        .where('ended_at', '<', endedBefore)
        .where(({ exists, selectFrom }) =>
          exists(
            selectFrom('approvals as other')
              .select('other.id')
              .whereRef('other.account_id', '=', 'approvals.account_id')
              .whereRef('other.changed', '>', 'approvals.changed'),
          ),
        )
      await db.run(query.compile())
    },
  }
}

function toRow(record: Omit<ApprovalRecord, 'changed'>): Omit<Row, 'changed'> {
  return {
    id: record.id,
    account_id: record.accountId,
    kind: record.kind,
    action: record.action,
    action_hash: record.actionHash,
    state: record.state,
    asked_by: record.asker.actorId,
    asked_user: record.asker.userId,
    asked_ties: JSON.stringify(record.asker.ties),
    asked_line: record.asker.line,
    asked_root: record.asker.root,
    reason: record.reason,
    sandbox_id: record.sandboxId,
    asked_at: record.askedAt,
    expires_at: record.expiresAt,
    decided_by: record.decidedBy,
    decided_at: record.decidedAt,
    refusal: record.refusal,
    begun_at: record.begunAt,
    tries: record.tries,
    lease_until: record.leaseUntil,
    ended_at: record.endedAt,
    failure_code: record.failureCode,
    failure_text: record.failureText,
  }
}

function toRecord(row: Row): ApprovalRecord {
  return {
    id: row.id,
    accountId: row.account_id,
    kind: row.kind,
    action: row.action,
    actionHash: row.action_hash,
    state: row.state,
    asker: {
      actorId: row.asked_by,
      userId: row.asked_user,
      ties: JSON.parse(row.asked_ties) as string[],
      line: row.asked_line,
      root: row.asked_root,
    },
    reason: row.reason,
    sandboxId: row.sandbox_id,
    askedAt: row.asked_at,
    expiresAt: row.expires_at,
    decidedBy: row.decided_by,
    decidedAt: row.decided_at,
    refusal: row.refusal,
    begunAt: row.begun_at,
    tries: row.tries,
    leaseUntil: row.lease_until,
    endedAt: row.ended_at,
    failureCode: row.failure_code,
    failureText: row.failure_text,
    changed: row.changed,
  }
}
