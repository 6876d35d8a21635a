import { describe, expect, test } from 'vitest'
import { createBox } from '../access/secrets.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { sandboxMigrations } from './migrations.ts'
import { moved } from './records.ts'
import { createSandboxStore, type SandboxRecord } from './store.ts'
import { testId, testRecord, testSeal } from './testing.ts'

testDatabases('the store of sandboxes', (open) => {
  async function start() {
    const database = await open(sandboxMigrations)
    return createSandboxStore(database, testSeal)
  }

  async function startWithTen() {
    const store = await start()
    for (let index = 0; index < 10; index += 1) {
      const record = testRecord(testId(index), {
        // Three share each time, so that pages are cut inside of equal times.
        createdAt: 1_000 + Math.floor(index / 3),
        state: index % 2 === 0 ? 'running' : 'stopped',
        metadata: { kind: index < 6 ? 'a' : 'b', number: `${index}`, "it's": '"x"' },
      })
      await store.insert(record)
    }
    await store.insert(testRecord(testId(99), { accountId: 'acc_b', metadata: { kind: 'a' } }))
    return store
  }

  test('a record comes back as it went in', async () => {
    const store = await start()
    const record = testRecord(testId(1), {
      metadata: { 'a "quoted" key': 'välue', b: '' },
      env: { PATH: '/bin', EMPTY: '' },
      autoResume: false,
      failure: { code: 'disk_full', message: 'No room' },
      endAt: 1_789_000_000_123,
    })
    expect(await store.insert(record)).toBe(true)
    expect(await store.get(record.id)).toEqual(record)
    expect(await store.get(testId(2))).toBeUndefined()
  })

  describe('variables', () => {
    const env = { DBPW: 'planted' }
    const [one, other] = [testRecord(testId(1), { env }), testRecord(testId(2), { env })]
    type Columns = { sandboxes: { id: string; env: string } }

    async function startSealed() {
      const opened = await open(sandboxMigrations)
      const database = opened.of<Columns>()
      const store = createSandboxStore(opened, testSeal)
      for (const record of [one, other, testRecord(testId(3))]) await store.insert(record)
      const write = (id: string, text: string) =>
        database.run(database.sql.updateTable('sandboxes').set({ env: text }).where('id', '=', id).compile())
      const stored = async () =>
        (await database.all(database.sql.selectFrom('sandboxes').select('env').orderBy('id').compile())).map(
          (row) => row.env,
        )
      return { opened, store, write, stored }
    }

    test('are sealed in the row, and still so after a transition and a change', async () => {
      const { store, stored } = await startSealed()
      const first = await stored()
      expect(first.join()).not.toMatch(/planted|DBPW/)
      expect(first[0]).not.toBe(first[1])
      const running = moved(one, { to: 'running', reason: 'created' }, 2_000)
      await store.move(one, running)
      await store.patch(running, { ...running, timeoutMs: 7 })
      expect(await stored()).toEqual(first)
      expect((await store.get(one.id))?.env).toEqual(env)
    })

    test('are read of their own sandbox alone', async () => {
      const { store, write, stored } = await startSealed()
      await write(one.id, (await stored())[1]!)
      expect((await store.get(one.id))?.env).toBeNull()
      expect((await store.get(other.id))?.env).toEqual(env)
    })

    test('under a SECRET_KEY that is lost can not be read, and stay as they are; where there are none, nothing is missed', async () => {
      const { opened, stored } = await startSealed()
      const before = await stored()
      const later = createSandboxStore(opened, createBox(Buffer.alloc(32, 1)))
      expect(await later.sealPlain()).toBe(0)
      const record = (await later.get(one.id))!
      expect(record.env).toBeNull()
      const running = moved(record, { to: 'running', reason: 'created' }, 2_000)
      expect(await later.move(record, running)).toBe(true)
      expect(await stored()).toEqual(before)
      expect((await later.list({ accountId: 'acc_a', metadata: {}, limit: 10 })).map((each) => each.env)).toEqual([
        {},
        null,
        null,
      ])
    })

    test('of an earlier version are read in clear, and sealed once', async () => {
      const { store, write, stored } = await startSealed()
      const many = Array.from({ length: 450 }, (_, index) => testRecord(testId(100 + index)))
      for (const record of [one, ...many]) {
        if (record !== one) await store.insert(record)
        await write(record.id, JSON.stringify({ DBPW: `planted ${record.id}` }))
      }
      expect((await store.get(one.id))?.env).toEqual({ DBPW: `planted ${one.id}` })
      expect(await store.sealPlain()).toBe(451)
      expect((await stored()).join()).not.toMatch(/planted|DBPW/)
      for (const { id } of [one, many.at(-1)!]) expect((await store.get(id))?.env).toEqual({ DBPW: `planted ${id}` })
      expect(await store.sealPlain()).toBe(0)
    })
  })

  test('a transition changes the row and is logged, both or neither', async () => {
    const store = await start()
    const record = testRecord(testId(1))
    await store.insert(record)
    const running = moved(record, { to: 'running', reason: 'created' }, 2_000)
    expect(await store.move(record, running)).toBe(true)
    expect(await store.get(record.id)).toEqual(running)

    // The row has moved on: the same transition again changes nothing and logs nothing.
    expect(await store.move(record, moved(record, { to: 'failed', reason: 'create_failed' }, 3_000))).toBe(false)
    expect(await store.get(record.id)).toEqual(running)
    expect(await store.transitions(record.id, 0, 100)).toEqual([
      { sequence: 1, at: 1_000, from: null, to: 'creating', reason: 'requested', detail: null },
      { sequence: 2, at: 2_000, from: 'creating', to: 'running', reason: 'created', detail: null },
    ])
  })

  test('of two transitions at once exactly one happens', async () => {
    const store = await start()
    const record = testRecord(testId(1), { state: 'running' })
    await store.insert(record)
    const ways: SandboxRecord[] = [
      moved(record, { to: 'paused', reason: 'pause_requested' }, 2_000),
      moved(record, { to: 'stopping', reason: 'stop_requested' }, 2_000),
      moved(record, { to: 'killed', reason: 'kill_requested' }, 2_000),
    ]
    const applied = await Promise.all(ways.map((after) => store.move(record, after)))
    expect(applied.filter(Boolean)).toHaveLength(1)
    expect((await store.get(record.id))?.state).toBe(ways[applied.indexOf(true)]?.state)
    expect(await store.transitions(record.id, 0, 100)).toHaveLength(2)
  })

  test('an idempotency key admits one sandbox, per account', async () => {
    const store = await start()
    const request = { key: 'k', bodyHash: 'h' }
    expect(await store.insert(testRecord(testId(1)), request)).toBe(true)
    expect(await store.insert(testRecord(testId(2)), request)).toBe(false)
    expect(await store.get(testId(2))).toBeUndefined()
    expect(await store.insert(testRecord(testId(3), { accountId: 'acc_b' }), request)).toBe(true)
    expect(await store.savedRequest('acc_a', 'k')).toEqual({ bodyHash: 'h', sandboxId: testId(1) })
    expect(await store.savedRequest('acc_b', 'k')).toEqual({ bodyHash: 'h', sandboxId: testId(3) })
    expect(await store.savedRequest('acc_a', 'other')).toBeUndefined()
  })

  test('an idempotency key passes from a failed sandbox to one other', async () => {
    const store = await start()
    const request = { key: 'k', bodyHash: 'h' }
    await store.insert(testRecord(testId(1)), request)
    const claim = { ...request, insteadOf: testId(1) }
    const both = await Promise.all([2, 3].map((number) => store.insert(testRecord(testId(number)), claim)))
    expect(both.toSorted()).toEqual([false, true])
    const taken = both[0] ? testId(2) : testId(3)
    expect(await store.savedRequest('acc_a', 'k')).toEqual({ bodyHash: 'h', sandboxId: taken })
    expect(await store.insert(testRecord(testId(4), { accountId: 'acc_b' }), claim)).toBe(false)
  })

  describe('listing', () => {
    test('pages join to the whole list without gap or double, whatever their size', async () => {
      const store = await startWithTen()
      const whole = await store.list({ accountId: 'acc_a', metadata: {}, limit: 100 })
      expect(whole).toHaveLength(10)
      expect(whole[0]?.id).toBe(testId(9))
      for (const limit of [1, 2, 3, 7]) {
        const seen: string[] = []
        let before: { createdAt: number; id: string } | undefined
        for (;;) {
          const page = await store.list({ accountId: 'acc_a', metadata: {}, limit, before })
          seen.push(...page.map(({ id }) => id))
          if (page.length < limit) break
          before = page.at(-1)
        }
        expect(seen).toEqual(whole.map(({ id }) => id))
      }
    })

    test('filters hold for every page, also where most rows do not match', async () => {
      const store = await startWithTen()
      const filter = { accountId: 'acc_a', metadata: { kind: 'a' }, states: ['running'] as const, limit: 2 }
      const first = await store.list(filter)
      expect(first.map(({ id }) => id)).toEqual([testId(4), testId(2)])
      const second = await store.list({ ...filter, before: first.at(-1) })
      expect(second.map(({ id }) => id)).toEqual([testId(0)])
    })

    test('several labels must all fit; quotes in them are only text', async () => {
      const store = await startWithTen()
      const of = (metadata: Record<string, string>) => store.list({ accountId: 'acc_a', metadata, limit: 100 })
      expect(await of({ kind: 'a', number: '3' })).toHaveLength(1)
      expect(await of({ kind: 'b', number: '3' })).toHaveLength(0)
      expect(await of({ "it's": '"x"' })).toHaveLength(10)
      expect(await of({ "kind' or '1'='1": 'a' })).toHaveLength(0)
    })

    test('new labels replace the old ones', async () => {
      const store = await startWithTen()
      const before = (await store.get(testId(3)))!
      expect(await store.patch(before, { ...before, metadata: { fresh: 'yes' }, timeoutMs: 7 })).toBe(true)
      expect(await store.list({ accountId: 'acc_a', metadata: { number: '3' }, limit: 10 })).toEqual([])
      const [found] = await store.list({ accountId: 'acc_a', metadata: { fresh: 'yes' }, limit: 10 })
      expect(found).toEqual({ ...before, metadata: { fresh: 'yes' }, timeoutMs: 7 })
    })
  })

  test('unfinished ones are those that may have a box or a disk, of every account', async () => {
    const store = await start()
    await store.insert(testRecord(testId(1), { state: 'running' }))
    await store.insert(testRecord(testId(2), { state: 'stopped', accountId: 'acc_b' }))
    await store.insert(testRecord(testId(3), { state: 'killed' }))
    await store.insert(testRecord(testId(4), { state: 'failed' }))
    expect((await store.unfinished()).map(({ id }) => id).toSorted()).toEqual([testId(1), testId(2)])
  })

  test('purging forgets old ends with all that hangs on them, and nothing else', async () => {
    const store = await start()
    await store.insert(testRecord(testId(1), { state: 'killed', changedAt: 10, metadata: { a: 'b' } }), {
      key: 'old',
      bodyHash: 'h',
    })
    await store.insert(testRecord(testId(2), { state: 'killed', changedAt: 5_000 }))
    await store.insert(testRecord(testId(3), { state: 'stopped', changedAt: 10 }))
    await store.insert(testRecord(testId(4), { createdAt: 9_000 }), { key: 'young', bodyHash: 'h' })
    expect(await store.purge(4_000)).toBe(2)
    expect(await store.get(testId(1))).toBeUndefined()
    expect(await store.transitions(testId(1), 0, 10)).toEqual([])
    expect(await store.get(testId(2))).toBeDefined()
    expect(await store.get(testId(3))).toBeDefined()
    expect(await store.savedRequest('acc_a', 'old')).toBeUndefined()
    expect(await store.savedRequest('acc_a', 'young')).toBeDefined()
  })
})
