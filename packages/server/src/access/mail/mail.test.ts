import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { SMTPServer } from 'smtp-server'
import { expect, test } from 'vitest'
import { manualClock } from '../../kernel/clock.ts'
import { testDatabases } from '../../kernel/db/testing.ts'
import type { OpenTestDatabase } from '../../kernel/db/testing.ts'
import { createLogger } from '../../kernel/log.ts'
import { createSecrets } from '../secrets.ts'
import { mailMigrations } from './migrations.ts'
import { mailLimits } from './schema.ts'
import { createMailbox } from './service.ts'
import { createMailStore } from './store.ts'
import type { MailRow, MailState } from './store.ts'
import { openSmtp } from './smtp.ts'
import type { DeliverMail } from './smtp.ts'

const mail = {
  to: 'ada@example.com',
  share: 'acc_a',
  subject: 'Grüße',
  text: 'open https://delta.example.com/auth/verify?t=dln_planted\n',
}

async function start(open: OpenTestDatabase, deliver?: DeliverMail) {
  const clock = manualClock(Date.UTC(2026, 0, 15))
  const logged: string[] = []
  const log = createLogger({ level: 'debug', write: (line) => logged.push(line) })
  const database = await open(mailMigrations)
  const secrets = createSecrets({ secretKey: 'kZ0pXq7T3vYbN5mRw8eHs2aLc9dGf4uJ' })
  const mailbox = createMailbox({ database, clock, log, secrets, deliver })
  const state = async (wanted: string) => {
    for (let i = 0; i < 400; i++) {
      const found = await mailbox.list()
      if (found[0]?.state === wanted) return found
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    throw new Error(`The mail is ${(await mailbox.list())[0]?.state}, not ${wanted}`)
  }
  return { mailbox, clock, logged, state, database }
}

async function smtpPeer() {
  const received: { from: string; to: string[]; data: string }[] = []
  const server = new SMTPServer({
    authOptional: true,
    disabledCommands: ['STARTTLS', 'AUTH'],
    onData(stream, session, callback) {
      let data = ''
      stream.on('data', (chunk: Buffer) => (data += chunk.toString()))
      stream.on('end', () => {
        const { mailFrom, rcptTo } = session.envelope
        received.push({
          from: mailFrom === false ? '' : mailFrom.address,
          to: rcptTo.map(({ address }) => address),
          data,
        })
        callback()
      })
    },
  })
  server.listen(0, '127.0.0.1')
  await once(server.server, 'listening')
  const { port } = server.server.address() as AddressInfo
  return {
    received,
    url: `smtp://127.0.0.1:${port}`,
    close: () => new Promise<void>((resolve) => server.close(resolve)),
  }
}

testDatabases('mail', (open) => {
  test('without a mail server the operator reads it', async () => {
    const { mailbox, state } = await start(open)
    mailbox.accept(mail)
    expect(await state('kept')).toMatchObject([{ to: mail.to, subject: mail.subject, text: mail.text }])
  })

  test('with one it is sent, and then nothing of what it said is kept', async () => {
    const peer = await smtpPeer()
    const deliver = await openSmtp({ url: peer.url, from: 'DELTA <delta@example.com>' })
    const { mailbox, state } = await start(open, deliver)
    mailbox.start()
    mailbox.accept(mail)
    expect(await state('sent')).toMatchObject([{ text: null }])
    mailbox.stop()
    expect(peer.received).toMatchObject([{ from: 'delta@example.com', to: ['ada@example.com'] }])
    expect(peer.received[0]!.data).toMatch(/^From: DELTA <delta@example.com>/m)
    expect(peer.received[0]!.data).toMatch(/^Auto-Submitted: auto-generated/m)
    expect(peer.received[0]!.data.replaceAll('=\r\n', '').replaceAll('=3D', '=')).toContain('auth/verify?t=dln_planted')
    await peer.close()
  })

  test('what looks like more headers or more addresses is one address', async () => {
    const peer = await smtpPeer()
    const deliver = await openSmtp({ url: peer.url, from: 'delta@example.com' })
    await deliver({ ...mail, to: 'ada@example.com, eve@example.com' }).catch(() => undefined)
    await deliver({ ...mail, subject: 'Hello\r\nBcc: eve@example.com' })
    expect(peer.received.flatMap(({ to }) => to)).not.toContain('eve@example.com')
    expect(peer.received.at(-1)!.data).not.toMatch(/^Bcc:/m)
    await peer.close()
  })

  test('a mail server that is away is asked again, and given up after a while; its words are in no log', async () => {
    let tries = 0
    const { mailbox, state, clock, logged } = await start(open, async () => {
      tries += 1
      throw Object.assign(new Error('450 dln_planted'), {
        code: 'EENVELOPE',
        responseCode: 450,
        response: '450 dln_planted',
      })
    })
    mailbox.start()
    mailbox.accept(mail)
    await state('waiting')
    for (let i = 0; i < 1_000 && tries < mailLimits.tries; i++) {
      const before = tries
      const isTriedAgain = () => tries > before
      await clock.advance(mailLimits.longestPauseMs)
      // A clock that runs on while the database works would come to the day on which mails are forgotten.
      for (let waits = 0; waits < 200 && !isTriedAgain(); waits++) {
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
    }
    expect(await state('failed')).toMatchObject([{ text: null }])
    mailbox.stop()
    expect(tries).toBe(mailLimits.tries)
    expect(logged.join('')).toContain('EENVELOPE 450')
    expect(logged.join('')).not.toContain('dln_planted')
  })

  test('who sends many pushes out their own and nobody else’s', async () => {
    const { mailbox, database, state, clock } = await start(open)
    mailbox.accept({ ...mail, to: 'eve@example.com', share: 'acc_b' })
    await state('kept')
    const { sql } = database.of<{ mails: { recipient: string } }>()
    const recipients = async () =>
      (await database.all(sql.selectFrom('mails').select('recipient').compile())).map(({ recipient }) => recipient)
    for (let at = 0; at < mailLimits.keptOfShare + 5; at++) {
      clock.jump(1)
      mailbox.accept({ ...mail, to: `user${at}@example.com` })
      if (at % 50 === 49) await new Promise((resolve) => setTimeout(resolve, 20))
    }
    const last = `user${mailLimits.keptOfShare + 4}@example.com`
    for (let at = 0; at < 400 && !(await recipients()).includes(last); at++) {
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    const kept = await recipients()
    expect(kept).toHaveLength(mailLimits.keptOfShare + 1)
    expect(kept).toContain('eve@example.com')
    expect(kept).not.toContain('user0@example.com')
  })

  test('where all room is taken what was settled goes, and never what somebody waits for', async () => {
    const { database } = await start(open)
    const store = createMailStore(database)
    const row = (id: string, state: MailState, createdAt: number): MailRow => ({
      id,
      recipient: 'ada@example.com',
      share: `acc_${id}`,
      subject: '',
      sealed_text: null,
      state,
      tries: 0,
      next_at: 0,
      created_at: createdAt,
    })
    const room = { most: 3, ofShare: 2 }
    expect(await store.put(row('a', 'waiting', 1), room)).toBe(true)
    expect(await store.put(row('b', 'sent', 2), room)).toBe(true)
    expect(await store.put(row('c', 'kept', 3), room)).toBe(true)
    expect(await store.put(row('d', 'kept', 4), room)).toBe(true)
    expect((await store.list(10)).map(({ id }) => id)).toEqual(['d', 'c', 'a'])
    expect(await store.put(row('e', 'waiting', 5), room)).toBe(false)
  })
})
