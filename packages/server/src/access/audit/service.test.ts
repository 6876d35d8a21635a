import { describe, expect, test } from 'vitest'
import { type ManualClock, manualClock } from '../../kernel/clock.ts'
import type { Database } from '../../kernel/db/database.ts'
import { rawQuery } from '../../kernel/db/compile.ts'
import { guardWrites, testDatabases } from '../../kernel/db/testing.ts'
import { createLogger, silentLogger } from '../../kernel/log.ts'
import { verifyChain } from '../../../../cli/src/audit-chain.ts'
import { newKeyText } from '../keys/text.ts'
import { hashOf, noHead, type SignedHead } from './chain.ts'
import { type AuditEntry, auditLimits } from './entry.ts'
import type { HeadDocuments } from './heads.ts'
import { auditMigrations } from './migrations.ts'
import { createAudit, type ExportLine } from './service.ts'

const seed = Buffer.alloc(32, 7)
const entry = (action: string, changes: Partial<AuditEntry> = {}): AuditEntry => ({
  accountId: 'acc_a',
  actorId: 'key_a',
  action,
  outcome: 'done',
  ...changes,
})

function memoryDocuments() {
  const texts = new Map<string, string>()
  let away = false
  const documents: HeadDocuments = {
    async putDocument(name, text) {
      if (away) throw new Error('The storage is away')
      texts.set(name, text)
    },
    getDocument: async (name) => texts.get(name) ?? null,
    async *listDocuments(prefix) {
      for (const name of Array.from(texts.keys()).toSorted()) if (name.startsWith(prefix)) yield name
    },
  }
  const heads = () =>
    Array.from(texts.values()).flatMap((text) =>
      text
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as SignedHead),
    )
  return { documents, texts, heads, setAway: (value: boolean) => (away = value) }
}

/** Refuses to write as long as it is told to. */
function stubborn<Schema>(database: Database<Schema>, will: { refuse: boolean }): Database<Schema> {
  return guardWrites(database, async () => {
    if (will.refuse) throw new Error('The database is away')
  })
}

async function all(lines: AsyncIterable<ExportLine>): Promise<ExportLine[]> {
  const found: ExportLine[] = []
  for await (const line of lines) found.push(line)
  return found
}

async function until(condition: () => boolean, clock: ManualClock): Promise<void> {
  for (let turns = 0; !condition(); turns += 1) {
    if (turns > 1_000) throw new Error('It never came true')
    await clock.advance(100)
    await new Promise((done) => setTimeout(done, 1))
  }
}

testDatabases('audit', (open) => {
  async function start({ log = silentLogger } = {}) {
    const database = await open(auditMigrations)
    const store = memoryDocuments()
    const clock = manualClock(1_789_000_000_000)
    const will = { refuse: false }
    const serve = () =>
      createAudit({ database: stubborn(database, will), clock, log, documents: store.documents, seed })
    return { database, clock, will, serve, audit: serve(), ...store }
  }

  /** One of two servers, whose connection breaks after the commit and before its answer. */
  async function startLosing() {
    const database = await open(auditMigrations)
    const { documents } = memoryDocuments()
    const clock = manualClock(1_789_000_000_000)
    const loses = { answers: 0 }
    const losing = <Schema>(real: Database<Schema>): Database<Schema> => ({
      ...real,
      async batch(steps) {
        const result = await real.batch(steps)
        if (loses.answers > 0 && steps.length > 1) {
          loses.answers -= 1
          throw new Error('The connection is gone')
        }
        return result
      },
      of: <Tables>() => losing(real.of<Tables>()),
    })
    const serve = (own: Database) => createAudit({ database: own, clock, log: silentLogger, documents, seed })
    return { clock, loses, audit: serve(losing(database)), other: serve(database) }
  }

  test('an entry whose answer was lost stands there once, also where others have come behind it', async () => {
    const { clock, loses, audit, other } = await startLosing()
    await audit.record(entry('before'))
    loses.answers = 1
    const lost = Promise.all(['one', 'two'].map((action) => audit.record(entry(action))))
    await other.record(entry('of another server'))
    let isDone = false
    void lost.then(() => (isDone = true))
    await until(() => isDone, clock)
    await audit.record(entry('after'))
    const links = (await all(audit.exported('acc_a'))).filter((line) => line.kind === 'entry')
    expect(links.map(({ action }) => action).toSorted()).toEqual(['after', 'before', 'of another server', 'one', 'two'])
  })

  test('entries stand in the order in which they came, each chained to the one before', async () => {
    const { audit } = await start()
    await Promise.all(Array.from({ length: 700 }, (_, index) => audit.record(entry(`act${index}`))))
    const lines = (await all(audit.exported('acc_a'))).filter((line) => line.kind === 'entry')
    expect(lines.map(({ action }) => action)).toEqual(Array.from({ length: 700 }, (_, index) => `act${index}`))
    let previous = ''
    for (const { kind: _, hash, ...link } of lines) {
      expect(hash).toBe(hashOf('acc_a', link, previous))
      previous = hash
    }
    expect(lines.map(({ seq }) => seq)).toEqual(lines.map((_, index) => index + 1))
  })

  test('each account has a chain of its own', async () => {
    const { audit } = await start()
    await Promise.all(['acc_a', 'acc_b', 'acc_a'].map((accountId) => audit.record(entry('act', { accountId }))))
    expect(await audit.head('acc_a')).toMatchObject({ seq: 2 })
    expect(await audit.head('acc_b')).toMatchObject({ seq: 1 })
    expect(await audit.head('acc_c')).toMatchObject(noHead)
  })

  test('after a restore the chain goes on where the backup left it, and what was given up is told and no attack', async () => {
    const { audit, database, clock, serve, ...store } = await start()
    const record = async (server: typeof audit, count: number, name: string) => {
      for (let index = 0; index < count; index += 1) await server.record(entry(`${name}${index}`))
    }
    const verdict = async (server: typeof audit) => {
      const lines = (await all(server.exported('acc_a'))).map((line) => JSON.stringify(line))
      return { lines, ...(await verifyChain(lines)) }
    }
    await record(audit, 5, 'before')
    await audit.stop()
    const heads: string[] = []
    for await (const line of audit.backupHeads()) heads.push(line)
    const rows = await database.all(rawQuery('select * from audit_entries'))
    await clock.advance(5_000)
    const later = serve()
    await record(later, 4, 'later')
    await later.stop()
    expect(await verdict(later)).toMatchObject({ entries: 9, signedSeq: 9, fault: undefined })

    // The database as it was in the backup, beside the storage as it is.
    await database.run(rawQuery('delete from audit_entries where seq > 5'))
    await database.run(
      rawQuery(`update audit_heads set seq = 5, hash = (select hash from audit_entries where seq = 5)`),
    )
    expect(await verdict(serve())).toMatchObject({ fault: { kind: 'cut', seq: 6 } })
    await clock.advance(5_000)
    const restored = serve()
    await restored.continueAfter({ id: 'evt_r', backupAt: 1_789_000_000_000, heads })
    await restored.start()
    const heldElsewhere = store.heads().filter(({ seq }) => seq === 9)
    expect(heldElsewhere).toHaveLength(1)
    const texts = heldElsewhere.map((head) => JSON.stringify(head))
    const { lines } = await verdict(restored)
    expect(await verifyChain(lines, { heads: texts })).toMatchObject({ entries: 6, signedSeq: 6, fault: undefined })
    await record(restored, 6, 'new')
    await clock.advance(5_000)
    await restored.stop()
    const found = await verdict(restored)
    expect(found).toMatchObject({ entries: 12, signedSeq: 12, fault: undefined, restores: [{ seq: 5, givenUpSeq: 9 }] })
    const [told] = (await restored.list('acc_a', { limit: 1, action: 'platform.restored' })).data
    expect(told).toMatchObject({ seq: 6, actor: 'platform', target: 'evt_r', details: { seq: 5, givenUpSeq: 9 } })
    expect(rows).toHaveLength(5)

    // The next who cuts or changes it is found as before; and nobody without the key says that a backup was restored.
    const cut = found.lines.filter((line) => !(line.includes('"kind":"entry"') && /"seq":(9|1[0-2]),/.test(line)))
    expect(await verifyChain(cut)).toMatchObject({ fault: { kind: 'cut', seq: 9 } })
    const forged = found.lines.map((line) => line.replace('"givenUpSeq":9', '"givenUpSeq":5'))
    expect(await verifyChain(forged)).toMatchObject({ fault: { kind: 'forged' } })
    expect((await verifyChain(found.lines, { heads: texts })).fault).toBeUndefined()
  })

  test('in another storage the heads of the backup are there again', async () => {
    const { audit, clock, database } = await start()
    await audit.record(entry('one'))
    await audit.stop()
    const heads: string[] = []
    for await (const line of audit.backupHeads()) heads.push(line)
    const elsewhere = memoryDocuments()
    const server = createAudit({ database, clock, log: silentLogger, documents: elsewhere.documents, seed })
    await clock.advance(60_000)
    await server.continueAfter({ id: 'evt_r', backupAt: 1, heads })
    await server.stop()
    const lines = (await all(server.exported('acc_a'))).map((line) => JSON.stringify(line))
    expect(lines.filter((line) => line.includes('"kind":"head"'))).toHaveLength(2)
    expect(await verifyChain(lines)).toMatchObject({ entries: 2, signedSeq: 2, fault: undefined })
  })

  test('two servers on one database make one chain without a gap', async () => {
    const { audit, serve } = await start()
    const other = serve()
    await Promise.all(
      Array.from({ length: 60 }, async (_, index) => {
        await new Promise((done) => setTimeout(done, index % 7))
        await (index % 2 === 0 ? audit : other).record(entry(`act${index}`))
      }),
    )
    const lines = (await all(audit.exported('acc_a'))).filter((line) => line.kind === 'entry')
    expect(new Set(lines.map(({ action }) => action)).size).toBe(60)
    expect(lines.map(({ seq }) => seq)).toEqual(lines.map((_, index) => index + 1))
  })

  test('what can not be written waits, and is written when it can', async () => {
    const { audit, will, clock } = await start()
    will.refuse = true
    let written = false
    const recorded = audit.record(entry('late')).then(() => (written = true))
    await until(() => clock.now() > 1_789_000_000_000 + auditLimits.lateMs + 500, clock)
    expect(written).toBe(false)
    expect(() => audit.mustWork()).toThrow(expect.objectContaining({ code: 'audit_unavailable' }))
    will.refuse = false
    await until(() => written, clock)
    await recorded
    expect(() => audit.mustWork()).not.toThrow()
    expect(await audit.head('acc_a')).toMatchObject({ seq: 1 })
  })

  test('what can never be written is told to the log', async () => {
    const lines: string[] = []
    const log = createLogger({ level: 'error', write: (line) => void lines.push(line) })
    const { audit, will, clock } = await start({ log })
    will.refuse = true
    let failed: unknown
    const recorded = audit.record(entry('lost')).catch((error: unknown) => (failed = error))
    await until(() => failed !== undefined, clock)
    await recorded
    expect(lines.filter((line) => line.includes('audit_lost')).join()).toContain('"action":"lost"')
  })

  test('an account whose chain is broken stops nobody else, and its entries are told to the log', async () => {
    const lines: string[] = []
    const log = createLogger({ level: 'error', write: (line) => void lines.push(line) })
    const { audit, serve, database, clock } = await start({ log })
    await audit.record(entry('one', { accountId: 'acc_b' }))
    await audit.stop()
    await database.run(rawQuery("delete from audit_heads where account_id = 'acc_b'"))
    const next = serve()
    let failed = 0
    const broken = (action: string) =>
      next.record(entry(action, { accountId: 'acc_b' })).catch(() => void (failed += 1))
    void broken('lost')
    await Promise.all([next.record(entry('two')), next.record(entry('three', { accountId: 'acc_c' }))])
    void broken('lost too')
    const from = clock.now()
    await until(() => clock.now() > from + auditLimits.lateMs + 500, clock)
    await next.record(entry('four'))
    expect(() => next.mustWork('acc_a')).not.toThrow()
    expect(() => next.mustWork('acc_b')).toThrow(expect.objectContaining({ code: 'audit_unavailable' }))
    await until(() => failed === 2, clock)
    expect(next.waiting()).toBe(0)
    expect(() => next.mustWork('acc_b')).not.toThrow()
    expect(lines.filter((line) => line.includes('audit_lost'))).toHaveLength(2)
    expect(await next.head('acc_a')).toMatchObject({ seq: 2 })
    // Mended, it goes on.
    await database.run(rawQuery("delete from audit_entries where account_id = 'acc_b'"))
    await next.record(entry('five', { accountId: 'acc_b' }))
    expect(await next.head('acc_b')).toMatchObject({ seq: 1 })
  })

  test('the list goes from the newest back, a page at a time, and finds what was done to one id', async () => {
    const { audit } = await start()
    for (let index = 1; index <= 5; index += 1) await audit.record(entry(`act${index}`, { target: `id${index % 2}` }))
    const first = await audit.list('acc_a', { limit: 2 })
    expect(first.data.map(({ seq }) => seq)).toEqual([5, 4])
    const second = await audit.list('acc_a', { limit: 4, cursor: first.nextCursor! })
    expect(second).toMatchObject({ data: [{ seq: 3 }, { seq: 2 }, { seq: 1 }], nextCursor: null })
    const found = await audit.list('acc_a', { limit: 9, target: 'id1' })
    expect(found.data.map(({ action }) => action)).toEqual(['act5', 'act3', 'act1'])
    expect((await audit.list('acc_b', { limit: 9 })).data).toEqual([])
    await expect(audit.list('acc_a', { limit: 9, cursor: '0x1' })).rejects.toMatchObject({ code: 'invalid_request' })
  })

  test('a text is kept as both databases can keep it, and no longer than its bound', async () => {
    const { audit } = await start()
    await audit.record(
      entry('act', { target: `a\0b\ud800${'x'.repeat(500)}`, details: { name: 'y'.repeat(500), n: 1 } }),
    )
    const { data } = await audit.list('acc_a', { limit: 1 })
    const [{ target, details, hash, seq, ...link }] = data as [(typeof data)[0]]
    expect(target).toHaveLength(auditLimits.textChars)
    expect(target).toMatch(/^a\uFFFDb\uFFFDx/)
    expect(details!['name']).toHaveLength(auditLimits.textChars)
    expect(hash).toBe(hashOf('acc_a', { ...link, seq, target, details }, ''))
  })

  test('a key where an id belongs is not kept', async () => {
    const { audit } = await start()
    await audit.record(entry('revokeKey', { target: newKeyText(), details: { host: `dln_${'x'.repeat(43)}.example` } }))
    const { data } = await audit.list('acc_a', { limit: 1 })
    expect(data).toMatchObject([{ target: 'dk_[redacted]', details: { host: 'dln_[redacted]' } }])
  })

  describe('signed heads', () => {
    test('are written a minute after the first entry, and after a thousand at once', async () => {
      const { audit, clock, heads } = await start()
      await audit.record(entry('one'))
      await clock.advance(auditLimits.headMs - 100)
      expect(heads()).toEqual([])
      await until(() => heads().length === 1, clock)
      expect(heads()[0]).toMatchObject({ accountId: 'acc_a', seq: 1 })
      await clock.advance(auditLimits.headLeastMs)
      await Promise.all(Array.from({ length: auditLimits.headEntries }, () => audit.record(entry('many'))))
      await until(() => heads().length === 2, clock)
      expect(clock.now()).toBeLessThan(1_789_000_000_000 + 2 * auditLimits.headMs)
      expect(heads()[1]).toMatchObject({ seq: 1 + auditLimits.headEntries })
    })

    test('wait for a storage that is away, and are written at a stop', async () => {
      const { audit, clock, heads, setAway } = await start()
      setAway(true)
      await audit.record(entry('one'))
      await clock.advance(2 * auditLimits.headMs)
      expect(heads()).toEqual([])
      setAway(false)
      await audit.stop()
      expect(heads()).toMatchObject([{ seq: 1 }])
    })

    test('what was not signed before a crash is signed by the next start', async () => {
      const { audit, serve, clock, heads } = await start()
      await audit.record(entry('one'))
      const next = serve()
      await next.start()
      await until(() => heads().length > 0, clock)
      expect(heads()[0]).toMatchObject({ seq: 1 })
      await next.stop()
    })

    test('a start tells of a database that was cut or changed behind them', async () => {
      for (const [statement, told] of [
        ["update audit_heads set seq = 1, hash = 'x'", 'audit_cut'],
        ["update audit_entries set hash = 'x' where seq = 2", 'audit_changed'],
      ] as const) {
        const lines: string[] = []
        const log = createLogger({ level: 'error', write: (line) => void lines.push(line) })
        const { audit, serve, database } = await start({ log })
        await audit.record(entry('one'))
        await audit.record(entry('two'))
        await audit.stop()
        await database.run(rawQuery(statement))
        await serve().start()
        expect(lines.join()).toContain(told)
      }
    })

    test('an export signs its own account alone, and no more often than a head may be signed', async () => {
      const { audit, heads } = await start()
      await audit.record(entry('other', { accountId: 'acc_b' }))
      for (let count = 0; count < 5; count += 1) {
        await audit.record(entry('one'))
        await all(audit.exported('acc_a'))
      }
      expect(heads()).toMatchObject([{ accountId: 'acc_a', seq: 1 }])
    })

    test('an export has each behind the entry it is of', async () => {
      const { audit, clock } = await start()
      await audit.record(entry('one'))
      await all(audit.exported('acc_a'))
      await clock.advance(auditLimits.headLeastMs)
      await audit.record(entry('two'))
      const lines = await all(audit.exported('acc_a'))
      expect(lines.map((line) => [line.kind, 'seq' in line ? line.seq : 0])).toEqual([
        ['header', 0],
        ['entry', 1],
        ['head', 1],
        ['entry', 2],
        ['head', 2],
      ])
    })
  })
})
