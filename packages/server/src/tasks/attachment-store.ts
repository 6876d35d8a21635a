import type { Database } from '../kernel/db/database.ts'
import type { Digest } from '../storage/blobs.ts'

interface Tables {
  attachments: {
    digest: string
    uses: number
    ours: number
    state: 'kept' | 'removing'
    changed_at: number
  }
  attachment_uses: { use_id: string; digest: string; account_id: string; bytes: number }
}

export interface Use {
  /** The task, message or call that brought it. */
  useId: string
  accountId: string
  digest: Digest
  bytes: number
}

export type AttachmentStore = ReturnType<typeof createAttachmentStore>

/**
 * Who uses which blob: one row for each use, and beside them one for each digest that counts them. A use is counted before its blob is stored, and a blob is removed only under a row that says
 * so and that nobody can count a use on: so none is removed that somebody relies on, on however many servers.
 */
export function createAttachmentStore(database: Database) {
  const db = database.of<Tables>()
  const { sql } = db

  return {
    /** False where it is just being removed. Counted once, however often. */
    async use({ useId, accountId, digest, bytes }: Use, now: number): Promise<boolean> {
      const added = sql
        .insertInto('attachment_uses')
        .values({ use_id: useId, digest, account_id: accountId, bytes })
        .onConflict((conflict) => conflict.doNothing())
      const counted = sql
        .insertInto('attachments')
        .values({ digest, uses: 1, ours: 0, state: 'kept', changed_at: now })
        .onConflict((conflict) =>
          conflict
            .column('digest')
            .doUpdateSet((set) => ({ uses: set('attachments.uses', '+', 1), changed_at: now }))
            .where('attachments.state', '=', 'kept'),
        )
      const { applied, failedStep } = await db.batch([
        { query: added.compile(), mustChange: 1 },
        { query: counted.compile(), mustChange: 1 },
      ])
      return applied || failedStep === 0
    },

    /** Its blob was stored for an attachment, and belongs to nothing else. */
    async isOurs(digest: Digest): Promise<void> {
      await db.run(sql.updateTable('attachments').set({ ours: 1 }).where('digest', '=', digest).compile())
    },

    async usedBy(useId: string): Promise<Digest[]> {
      const query = sql.selectFrom('attachment_uses').select('digest').where('use_id', '=', useId)
      return (await db.all(query.compile())).map(({ digest }) => digest as Digest)
    },

    async release(useId: string, digest: Digest): Promise<void> {
      const gone = sql.deleteFrom('attachment_uses').where('use_id', '=', useId).where('digest', '=', digest)
      const counted = sql
        .updateTable('attachments')
        .set((set) => ({ uses: set('uses', '-', 1) }))
        .where('digest', '=', digest)
      await db.batch([
        { query: gone.compile(), mustChange: 1 },
        { query: counted.compile(), mustChange: 1 },
      ])
    },

    /** True where nobody uses it and nobody can begin to: whoever asked removes its blob, then says `removed`. */
    async removing(digest: Digest, now: number): Promise<boolean> {
      const query = sql
        .updateTable('attachments')
        .set({ state: 'removing', changed_at: now })
        .where('digest', '=', digest)
        .where('uses', '=', 0)
        .where('ours', '=', 1)
        .where('state', '=', 'kept')
      return (await db.run(query.compile())).changed === 1
    },

    async removed(digest: Digest): Promise<void> {
      await db.run(sql.deleteFrom('attachments').where('digest', '=', digest).where('state', '=', 'removing').compile())
    },

    /** Of a server that died while it removed it: whether its blob is there is found when it is stored again. */
    async takeBack(digest: Digest, before: number): Promise<void> {
      const query = sql
        .updateTable('attachments')
        .set({ state: 'kept' })
        .where('digest', '=', digest)
        .where('state', '=', 'removing')
        .where('changed_at', '<', before)
      await db.run(query.compile())
    },

    async accounts(): Promise<string[]> {
      const rows = await db.all(sql.selectFrom('attachment_uses').select('account_id').distinct().compile())
      return rows.map((row) => row.account_id)
    },

    /** Each blob once, however often the account uses it. */
    async bytesOf(accountId: string): Promise<number> {
      const query = sql
        .selectFrom((from) =>
          from
            .selectFrom('attachment_uses')
            .select(['digest', 'bytes'])
            .distinct()
            .where('account_id', '=', accountId)
            .as('kept'),
        )
        .select(({ fn }) => fn.sum<number | string | null>('kept.bytes').as('bytes'))
      return Number((await db.first(query.compile()))?.bytes ?? 0)
    },
  }
}
