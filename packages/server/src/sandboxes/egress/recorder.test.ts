import { expect, test } from 'vitest'
import { manualClock } from '../../kernel/clock.ts'
import { testDatabases } from '../../kernel/db/testing.ts'
import { silentLogger } from '../../kernel/log.ts'
import { sandboxMigrations } from '../migrations.ts'
import { createRecorder } from './recorder.ts'
import { createEgressStore, type EgressRecord } from './store.ts'

const week = 7 * 24 * 3_600_000
const owner = { sandboxId: 'sbx_a', accountId: 'acc_a' }

function row(number: number, changes: Partial<EgressRecord> = {}): EgressRecord {
  return {
    ...owner,
    id: `egc_${String(number).padStart(20, '0')}`,
    at: 1_789_000_000_000 + number,
    host: 'a.example',
    port: 443,
    address: '2001:db8::1',
    via: 'tcp',
    outcome: 'allowed',
    reason: 'closed',
    bytesUp: 2 ** 40,
    bytesDown: 0,
    durationMs: 7,
    count: 1,
    ...changes,
  }
}

testDatabases('the log of connections', (open) => {
  async function start() {
    const store = createEgressStore(await open(sandboxMigrations))
    const clock = manualClock(1_789_000_000_000)
    return { store, clock }
  }

  test('rows come back as they went in, newest first', async () => {
    const { store } = await start()
    await store.insert([row(1), row(2, { address: null, outcome: 'refused' }), row(3, { sandboxId: 'sbx_b' })])
    // The same again, after an answer that was lost.
    await store.insert([row(1)])
    expect(await store.list({ ...owner, limit: 10 })).toEqual([row(2, { address: null, outcome: 'refused' }), row(1)])
    expect(await store.list({ ...owner, accountId: 'acc_b', limit: 10 })).toEqual([])
  })

  test('are written together after a moment, in the order they came', async () => {
    const { store, clock } = await start()
    let writes = 0
    const counted = { ...store, insert: (records: readonly EgressRecord[]) => ((writes += 1), store.insert(records)) }
    const recorder = createRecorder({ store: counted, clock, log: silentLogger })
    for (let number = 0; number < 600; number++) recorder.add(row(number))
    expect(writes).toBe(0)
    await clock.advance(200)
    await recorder.flush()
    expect(writes).toBe(2)
    expect((await store.list({ ...owner, limit: 1_000 })).length).toBe(600)
    await recorder.close()
  })

  test('wait for a database that is away, and beyond a bound are lost and counted', async () => {
    const { store, clock } = await start()
    const database = { away: true }
    const recorder = createRecorder({
      store: {
        ...store,
        insert: (records) => (database.away ? Promise.reject(new Error('away')) : store.insert(records)),
      },
      clock,
      log: silentLogger,
    })
    for (let number = 0; number < 20_003; number++) recorder.add(row(number))
    await clock.advance(200)
    expect(recorder.lost()).toBe(3)
    database.away = false
    await recorder.close()
    expect((await store.list({ ...owner, limit: 5 })).map(({ id }) => id)[0]).toBe(row(19_999).id)
    expect(recorder.lost()).toBe(3)
  })

  test('are written by an orderly stop, and counted as lost where that fails', async () => {
    const { store, clock } = await start()
    const recorder = createRecorder({ store, clock, log: silentLogger })
    recorder.add(row(1))
    await recorder.close()
    recorder.add(row(2))
    expect([(await store.list({ ...owner, limit: 5 })).length, recorder.lost()]).toEqual([1, 1])
    const away = { ...store, insert: () => Promise.reject(new Error('away')) }
    const failing = createRecorder({ store: away, clock, log: silentLogger })
    failing.add(row(3))
    await failing.close()
    expect(failing.lost()).toBe(1)
  })

  test('are forgotten after a week, and beyond a number for each sandbox', async () => {
    const { store, clock } = await start()
    const now = clock.now()
    await store.insert([row(1, { at: now - week - 1 }), row(2, { at: now - week + 60_000 })])
    const recorder = createRecorder({ store, clock, log: silentLogger })
    await expect.poll(async () => (await store.list({ ...owner, limit: 5 })).map(({ id }) => id)).toEqual([row(2).id])
    await recorder.close()

    await store.insert(Array.from({ length: 20 }, (_, number) => row(100 + number)))
    await store.insert([row(99, { sandboxId: 'sbx_b' })])
    expect(await store.trim('sbx_a', 5)).toBe(16)
    expect((await store.list({ ...owner, limit: 50 })).map(({ id }) => id)).toEqual(
      [119, 118, 117, 116, 115].map((number) => row(number).id),
    )
    expect(await store.trim('sbx_a', 5)).toBe(0)
    expect((await store.list({ ...owner, sandboxId: 'sbx_b', limit: 5 })).length).toBe(1)
  })
})
