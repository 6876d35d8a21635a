import type { Database } from '../../kernel/db/database.ts'

interface Tables {
  mails: MailRow
}

/** `kept`: for the operator to read; the others are on their way, or were. */
export type MailState = 'kept' | 'waiting' | 'sending' | 'sent' | 'failed'

export interface MailRow {
  id: string
  recipient: string
  /** Whose share of the room it takes. */
  share: string
  subject: string
  /** Null once it is sent or given up: a link in it is nobody else's business. */
  sealed_text: string | null
  state: MailState
  tries: number
  next_at: number
  created_at: number
}

export type MailStore = ReturnType<typeof createMailStore>

export function createMailStore(database: Database) {
  const db = database.of<Tables>()
  const { sql } = db
  const over: MailState[] = ['sent', 'failed']
  /** Those first that somebody still waits for. */
  const newest = (limit: number) =>
    sql
      .selectFrom('mails')
      .select('id')
      .orderBy((one) => one.case().when('state', 'in', over).then(1).else(0).end())
      .orderBy('created_at', 'desc')
      .orderBy('id', 'desc')
      .limit(limit)
  const count = async (): Promise<number> => {
    const query = sql.selectFrom('mails').select(({ fn }) => fn.countAll<number>().as('mails'))
    return Number((await db.first(query.compile()))?.mails ?? 0)
  }
  return {
    /** Beyond `ofShare` the oldest of its share goes, beyond `most` what is settled. False: there is no room. */
    async put(mail: MailRow, { most, ofShare }: { most: number; ofShare: number }): Promise<boolean> {
      if ((await count()) >= most) {
        const settled = sql.deleteFrom('mails').where('state', 'in', over)
        await db.run(settled.where('id', 'not in', newest(most - 1)).compile())
        if ((await count()) >= most) return false
      }
      const own = newest(ofShare - 1).where('share', '=', mail.share)
      const beyond = sql.deleteFrom('mails').where('share', '=', mail.share).where('id', 'not in', own)
      await db.batch([{ query: beyond.compile() }, { query: sql.insertInto('mails').values(mail).compile() }])
      return true
    },

    list: (limit: number) =>
      db.all<MailRow>(
        sql.selectFrom('mails').selectAll().orderBy('created_at', 'desc').orderBy('id', 'desc').limit(limit).compile(),
      ),

    due: (now: number, limit: number) =>
      db.all<MailRow>(
        sql
          .selectFrom('mails')
          .selectAll()
          // One that was being sent by a server that died is due again when its time is over.
          .where('state', 'in', ['waiting', 'sending'])
          .where('next_at', '<=', now)
          .orderBy('next_at')
          .orderBy('id')
          .limit(limit)
          .compile(),
      ),

    /** False: another server has it. */
    async claim({ id, next_at: before }: MailRow, until: number): Promise<boolean> {
      const query = sql.updateTable('mails').set({ state: 'sending', next_at: until }).where('id', '=', id)
      return (await db.run(query.where('next_at', '=', before).compile())).changed === 1
    },

    async settle(
      id: string,
      change: Partial<Pick<MailRow, 'state' | 'sealed_text' | 'tries' | 'next_at'>>,
    ): Promise<void> {
      await db.run(sql.updateTable('mails').set(change).where('id', '=', id).compile())
    },

    /** With the mail their content goes. */
    async forget(before: number): Promise<void> {
      await db.run(sql.deleteFrom('mails').where('created_at', '<', before).compile())
    },
  }
}
