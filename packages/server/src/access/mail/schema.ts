import { z } from '@hono/zod-openapi'

const minute = 60_000
const day = 24 * 60 * minute

export const mailLimits = {
  /** Mails in the database; beyond it those go that were sent or given up, and where there is none of these another is dropped and logged. */
  kept: 10_000,
  /** Of one account, of one user, or of strangers: beyond it their own oldest goes, nobody else’s. */
  keptOfShare: 200,
  /** A mail and what it says are forgotten after this. */
  keptMs: 7 * day,
  listed: 100,
  /** Mails that wait to be written down; one more is dropped and logged. */
  waiting: 1_000,
  /** Mails sent before it is looked again whether to stop. */
  atOnce: 50,
  /** Between two looks at what is due. */
  lookMs: 30_000,
  /** A server that has not sent it by then has died. */
  sendingMs: 2 * minute,
  /** Together with the pauses: a day. */
  tries: 12,
  firstPauseMs: 30_000,
  longestPauseMs: 180 * minute,
} as const

export const keptMailSchema = z
  .object({
    id: z.string(),
    to: z.string(),
    subject: z.string(),
    text: z.string().nullable().openapi({ description: 'Null once it was sent or given up' }),
    state: z.enum(['kept', 'waiting', 'sending', 'sent', 'failed']),
    createdAt: z.iso.datetime(),
  })
  .openapi('Mail')
export type KeptMail = z.output<typeof keptMailSchema>

export const mailListSchema = z.object({ data: z.array(keptMailSchema), nextCursor: z.null() }).openapi('MailList')
