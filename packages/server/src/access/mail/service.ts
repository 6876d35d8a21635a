import type { Clock } from '../../kernel/clock.ts'
import type { Database } from '../../kernel/db/database.ts'
import { newId } from '../../kernel/ids.ts'
import type { Logger } from '../../kernel/log.ts'
import { createBox } from '../secrets.ts'
import type { Secrets } from '../secrets.ts'
import type { Mail } from './events.ts'
import type { KeptMail } from './schema.ts'
import { mailLimits } from './schema.ts'
import type { DeliverMail } from './smtp.ts'
import { createMailStore } from './store.ts'
import type { MailRow } from './store.ts'

export interface MailboxDeps {
  database: Database
  clock: Clock
  log: Logger
  secrets: Pick<Secrets, 'deriveKey'>
  /** Without it mails are kept for the operator to read. */
  deliver?: DeliverMail | undefined
}

export interface Mailbox {
  /** It is written down, then sent; a mail server that is away is asked again, for a day. */
  accept(mail: Mail): void
  /** The newest first. */
  list(): Promise<KeptMail[]>
  start(): void
  stop(): void
}

export function createMailbox({ database, clock, log, secrets, deliver }: MailboxDeps): Mailbox {
  const store = createMailStore(database)
  const box = createBox(secrets.deriveKey('mail'))
  const stopped = new AbortController()
  let waiting = 0
  let wake = new AbortController()

  async function keep(mail: Mail): Promise<void> {
    const id = newId('mal')
    const now = clock.now()
    const row: MailRow = {
      id,
      recipient: mail.to,
      share: mail.share,
      subject: mail.subject,
      sealed_text: box.seal(mail.text, `mail ${id}`),
      state: deliver ? 'waiting' : 'kept',
      tries: 0,
      next_at: now,
      created_at: now,
    }
    const { kept: most, keptOfShare: ofShare } = mailLimits
    if (await store.put(row, { most, ofShare })) wake.abort()
    else log.warn('mail_dropped', { kept: most })
  }

  async function send(row: MailRow): Promise<void> {
    if (!(await store.claim(row, clock.now() + mailLimits.sendingMs))) return
    const text = row.sealed_text === null ? undefined : box.open(row.sealed_text, `mail ${row.id}`)
    const tries = Number(row.tries) + 1
    try {
      if (text === undefined) throw new Error('It was kept under another SECRET_KEY')
      await deliver!({ to: row.recipient, share: row.share, subject: row.subject, text })
      await store.settle(row.id, { state: 'sent', sealed_text: null, tries })
    } catch (error) {
      const isLast = tries >= mailLimits.tries || text === undefined
      // What the mail server says may repeat the mail: only its code is logged.
      log.warn('mail_not_sent', { mailId: row.id, tries, givenUp: isLast, reason: codeOf(error) })
      const next = clock.now() + Math.min(mailLimits.longestPauseMs, mailLimits.firstPauseMs * 2 ** (tries - 1))
      await store.settle(
        row.id,
        isLast ? { state: 'failed', sealed_text: null, tries } : { state: 'waiting', tries, next_at: next },
      )
    }
  }

  async function sendDue(): Promise<void> {
    await store.forget(clock.now() - mailLimits.keptMs)
    if (!deliver) return
    for (const row of await store.due(clock.now(), mailLimits.atOnce)) {
      if (stopped.signal.aborted) return
      await send(row)
    }
  }

  async function run(): Promise<void> {
    while (!stopped.signal.aborted) {
      wake = new AbortController()
      // A database that is away is asked again the next time.
      await sendDue().catch((error: unknown) => log.warn('mails_not_looked_at', { error }))
      await clock.sleep(mailLimits.lookMs, AbortSignal.any([stopped.signal, wake.signal])).catch(() => undefined)
    }
  }

  return {
    accept(mail) {
      if (waiting >= mailLimits.waiting) return log.warn('mail_dropped', { waiting })
      waiting += 1
      keep(mail)
        .catch((error: unknown) => log.error('mail_not_kept', { error }))
        .finally(() => (waiting -= 1))
    },
    async list() {
      const rows = await store.list(mailLimits.listed)
      return rows.map((row) => ({
        id: row.id,
        to: row.recipient,
        subject: row.subject,
        text: (row.sealed_text !== null && box.open(row.sealed_text, `mail ${row.id}`)) || null,
        state: row.state,
        createdAt: new Date(Number(row.created_at)).toISOString(),
      }))
    },
    start: () => void run(),
    stop: () => stopped.abort(),
  }
}

function codeOf(error: unknown): string {
  const { code, responseCode } = error as { code?: unknown; responseCode?: unknown }
  return (
    [code, responseCode].filter((part) => typeof part === 'string' || typeof part === 'number').join(' ') || 'unknown'
  )
}
