import { afterEach, describe, expect, test } from 'vitest'
import { createModelDriver, type ModelDriver } from '../../drivers/testing/model.ts'
import { type ManualClock, manualClock } from '../../kernel/clock.ts'
import type { Database } from '../../kernel/db/database.ts'
import { testDatabases } from '../../kernel/db/testing.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { testHashBody } from '../../kernel/http/testing-body-hash.ts'
import { silentLogger } from '../../kernel/log.ts'
import { ledgerMigrations } from '../../ledger/migrations.ts'
import { sandboxMigrations } from '../migrations.ts'
import { type CreateSandbox, createSandboxSchema } from '../schema.ts'
import { createSandboxes, type Sandboxes } from '../service.ts'
import { silentGuest, testSeal } from '../testing.ts'
import { createTestLedger, type TestLedger } from './testing.ts'

const caller = { accountId: 'acc_a' }
const megabyte = 1024 * 1024
/** 256 MB and one processor: 40 micro-tokens a second for each, and the final snapshot's 30 s of memory. */
const minute = 60 * 80 + 30 * 40
const least = 10 * 80 + 30 * 40

function wish(fields: object = {}): CreateSandbox {
  return createSandboxSchema.parse({ memoryMb: 256, cpu: 1, timeoutMs: 3_600_000, ...fields })
}

interface World {
  database: Database
  driver: ModelDriver
  clock: ManualClock
  ledger: TestLedger
}

const running: Sandboxes[] = []

async function serve({ database, driver, clock, ledger }: World, options: { poolSize?: number } = {}) {
  const sandboxes = createSandboxes({
    hashBody: testHashBody,
    seal: testSeal,
    database,
    driver,
    clock,
    log: silentLogger,
    connectGuest: silentGuest,
    ledger,
    ...options,
  })
  running.push(sandboxes)
  await (
    await sandboxes.start()
  ).reconciled
  return sandboxes
}

/** Until nothing is under way. */
async function quiet({ database }: World): Promise<void> {
  for (let still = 0; still < 20; still = database.counts.waiting === 0 ? still + 1 : 0) {
    await new Promise((resolve) => setImmediate(resolve))
  }
}

/** Time passes, with all that happens in it. */
async function pass(world: World, ms: number): Promise<void> {
  for (let leftMs = ms; leftMs > 0; leftMs -= 5_000) {
    await world.clock.advance(Math.min(leftMs, 5_000))
    await quiet(world)
  }
}

const boxOf = ({ driver }: World) => Array.from(driver.boxes.keys())[0]!

testDatabases('the time of sandboxes', (open) => {
  afterEach(async () => {
    for (const sandboxes of running.splice(0)) await sandboxes.stop('leave')
  })

  async function start(tokens: number, options: { poolSize?: number; hours?: number } = {}) {
    const database: Database = await open([...sandboxMigrations, ...ledgerMigrations])
    const clock = manualClock(1_789_000_000_000)
    const ledger = await createTestLedger(database, clock, tokens)
    ledger.hours = options.hours ?? null
    const world: World = { database, driver: createModelDriver(), clock, ledger }
    return { world, ledger, sandboxes: await serve(world, { poolSize: options.poolSize ?? 0 }) }
  }

  test('a minute is held before the box is made, and nothing is used yet', async () => {
    const { ledger, sandboxes } = await start(100_000)
    await sandboxes.create(wish(), caller)
    expect(await ledger.balances()).toMatchObject({
      held: minute,
      used: 0,
      balance: 100_000 - minute,
    })
  })

  test('what was measured is committed within half a minute, and the next minute held', async () => {
    const { world, ledger, sandboxes } = await start(100_000)
    await sandboxes.create(wish(), caller)
    world.driver.setUse(boxOf(world), { cpuMicros: 20_000_000, memoryBytes: 128 * megabyte })
    await pass(world, 30_000)
    // 20 s of a processor; from nothing to 128 MB is 64 MB in the mean, over 25 s, when it was due soon.
    expect(ledger.commits).toEqual([
      {
        holdId: expect.any(String),
        estimated: false,
        lines: [
          { meter: 'sandbox_memory_mb_seconds', quantity: 64 * 25, cost: 250 },
          { meter: 'sandbox_cpu_seconds', quantity: 20, cost: 800 },
        ],
      },
    ])
    expect(await ledger.balances()).toMatchObject({ used: 1_050, held: minute })
  })

  test('a sandbox that does next to nothing keeps its hold for five minutes, then it is paid', async () => {
    const { world, ledger, sandboxes } = await start(100_000)
    await sandboxes.create(wish(), caller)
    world.driver.setUse(boxOf(world), { cpuMicros: 1_000, memoryBytes: megabyte })
    await pass(world, 290_000)
    expect(ledger.commits).toEqual([])
    await pass(world, 20_000)
    expect(ledger.commits).toHaveLength(1)
    expect((await ledger.balances()).held).toBe(minute)
  })

  test('what nobody can pay is refused before anything is made, and the same request is served when somebody can', async () => {
    const { world, ledger, sandboxes } = await start(least - 1)
    const asked = () => sandboxes.create(wish(), caller, { idempotencyKey: 'one' })
    await expect(asked()).rejects.toMatchObject({ code: 'balance_too_low', status: 402 })
    expect(world.driver.boxes.size).toBe(0)
    expect(await sandboxes.list(caller, { metadata: {}, limit: 10 })).toMatchObject({ data: [] })
    expect((await ledger.balances()).balance).toBe(least - 1)
    await ledger.give(1)
    expect((await asked()).state).toBe('running')
    expect((await ledger.balances()).held).toBe(least)
  })

  test('one for which nothing more can be held is stopped within what is held, keeps its disk, and goes on when there are tokens', async () => {
    const { world, ledger, sandboxes } = await start(minute + 100)
    const { id } = await sandboxes.create(wish(), caller)
    const frozen: string[] = []
    const { freeze } = world.driver
    world.driver.freeze = async (boxId) => void frozen.push(boxId, await freeze(boxId).then(() => ''))
    world.driver.setUse(boxOf(world), { cpuMicros: 30_000_000, memoryBytes: 256 * megabyte })
    await pass(world, 60_000)
    // What is held lasts for a while yet.
    expect((await sandboxes.get(id, caller)).state).toBe('running')
    await pass(world, 60_000)
    expect(await sandboxes.get(id, caller)).toMatchObject({ state: 'stopped', reason: 'out_of_tokens' })
    expect((await ledger.balances()).used).toBeGreaterThan(minute * 0.6)
    expect(frozen).toHaveLength(2)
    expect(world.driver.boxes.size).toBe(0)
    expect(world.driver.upperIds.size).toBe(1)
    expect(await ledger.balances()).toMatchObject({ held: 0, absorbed: 0 })
    const { balance, used } = await ledger.balances()
    expect(balance + used).toBe(minute + 100)

    await ledger.drain()
    const { held: drained } = await ledger.balances()
    await expect(sandboxes.startSandbox(id, caller)).rejects.toMatchObject({ code: 'balance_too_low' })
    await expect(sandboxes.door.open(id, caller)).rejects.toMatchObject({ code: 'balance_too_low' })
    expect((await sandboxes.get(id, caller)).reason).toBe('out_of_tokens')
    await ledger.give(100_000)
    await sandboxes.door.open(id, caller)
    expect((await sandboxes.get(id, caller)).state).toBe('running')
    expect((await ledger.balances()).held).toBe(drained + minute)
  })

  test('a paused one pays for its memory alone, and wakes only where its processor can be held for', async () => {
    const { world, ledger, sandboxes } = await start(100_000)
    const { id } = await sandboxes.create(wish(), caller)
    world.driver.setUse(boxOf(world), { cpuMicros: 0, memoryBytes: 64 * megabyte })
    await sandboxes.pause(id, caller)
    await pass(world, 30_000)
    expect((await ledger.balances()).held).toBe(90 * 40)
    expect(ledger.commits.flatMap(({ lines }) => lines.map(({ meter }) => meter))).toEqual([
      'sandbox_memory_mb_seconds',
    ])
    await ledger.drain()
    const drained = (await ledger.balances()).held - 90 * 40
    await expect(sandboxes.resume(id, caller)).rejects.toMatchObject({ code: 'balance_too_low' })
    expect((await sandboxes.get(id, caller)).state).toBe('paused')
    await ledger.give(100_000)
    await sandboxes.resume(id, caller)
    expect((await ledger.balances()).held).toBe(drained + minute)
  })

  test('one that wakes while it would be looked at is held for once', async () => {
    const { world, ledger, sandboxes } = await start(100_000)
    const { id } = await sandboxes.create(wish(), caller)
    await sandboxes.pause(id, caller)
    await pass(world, 30_000)
    const measure = world.driver.measure.bind(world.driver)
    const gate = Promise.withResolvers<void>()
    const asked = Promise.withResolvers<void>()
    world.driver.measure = async (boxIds) => {
      world.driver.measure = measure
      asked.resolve()
      await gate.promise
      return measure(boxIds)
    }
    const waking = sandboxes.resume(id, caller)
    await asked.promise
    world.driver.setUse(boxOf(world), { cpuMicros: 0, memoryBytes: 200 * megabyte })
    await pass(world, 60_000)
    gate.resolve()
    await waking
    await quiet(world)
    expect(await ledger.openHolds()).toBe(1)
    await sandboxes.kill(id, caller)
    await quiet(world)
    expect(await ledger.openHolds()).toBe(0)
  })

  test('the end of a sandbox pays what it used and gives back the rest', async () => {
    const { world, ledger, sandboxes } = await start(100_000)
    const { id } = await sandboxes.create(wish(), caller)
    world.driver.setUse(boxOf(world), { cpuMicros: 3_000_000, memoryBytes: 0 })
    await sandboxes.kill(id, caller)
    await quiet(world)
    expect(await ledger.balances()).toMatchObject({ used: 120, held: 0 })
    await sandboxes.kill(id, caller)
    expect((await ledger.balances()).used).toBe(120)
  })

  test('one whose box could not be made costs nothing', async () => {
    const { world, ledger, sandboxes } = await start(100_000)
    world.driver.create = () => Promise.reject(new DeltaError('driver_failed', 'no'))
    await expect(sandboxes.create(wish(), caller)).rejects.toMatchObject({ code: 'driver_failed' })
    await quiet(world)
    expect(await ledger.balances()).toMatchObject({
      used: 0,
      held: 0,
      balance: 100_000,
    })
  })

  test('a box that ended with its use unread is paid by an estimate, within its hold', async () => {
    const { world, ledger, sandboxes } = await start(100_000)
    const { id } = await sandboxes.create(wish(), caller)
    await world.clock.advance(2_000)
    world.driver.measure = () => Promise.reject(new DeltaError('driver_failed', 'no'))
    await sandboxes.kill(id, caller)
    await quiet(world)
    expect(ledger.commits.map(({ estimated }) => estimated)).toEqual([true])
    expect(await ledger.balances()).toMatchObject({ used: 2 * 80, held: 0 })
  })

  const unread = {
    'nothing is said of': async () => new Map<string, never>(),
    'the call fails for': () => Promise.reject(new DeltaError('driver_failed', 'no')),
  }
  for (const [how, measure] of Object.entries(unread)) {
    test(`a box that ${how} is paid by an estimate when its hold ends, and by what it used once that is known`, async () => {
      const { world, ledger, sandboxes } = await start(100_000)
      const { id } = await sandboxes.create(wish(), caller)
      const own = world.driver.measure
      world.driver.measure = measure
      await pass(world, 600_000)
      expect((await sandboxes.get(id, caller)).state).toBe('running')
      expect(new Set(ledger.commits.map(({ estimated }) => estimated))).toEqual(new Set([true]))
      expect(await ledger.openHolds()).toBe(1)
      expect((await ledger.balances()).used).toBeGreaterThan(500 * 80)
      world.driver.measure = own
      world.driver.setUse(boxOf(world), { cpuMicros: 600_000_000, memoryBytes: 256 * megabyte })
      await sandboxes.kill(id, caller)
      await quiet(world)
      const lines = ledger.commits.flatMap((commit) => commit.lines)
      const cpu = lines.filter(({ meter }) => meter === 'sandbox_cpu_seconds')
      expect(cpu.reduce((sum, { quantity }) => sum + quantity, 0)).toBe(600)
      const { used, held, absorbed } = await ledger.balances()
      expect({ held, absorbed }).toEqual({ held: 0, absorbed: 0 })
      expect(used).toBeLessThanOrEqual(600 * 80)
    })

    test(`a box that ${how} is stopped within what is held where nothing more can be`, async () => {
      const { world, ledger, sandboxes } = await start(minute + 100)
      const { id } = await sandboxes.create(wish(), caller)
      world.driver.measure = measure
      await pass(world, 120_000)
      expect(await sandboxes.get(id, caller)).toMatchObject({ state: 'stopped', reason: 'out_of_tokens' })
      expect(await ledger.balances()).toMatchObject({ held: 0, absorbed: 0 })
    })
  }

  test('what is read again before its hold ends is paid by what was read alone', async () => {
    const { world, ledger, sandboxes } = await start(100_000)
    const { id } = await sandboxes.create(wish(), caller)
    const own = world.driver.measure
    world.driver.measure = unread['the call fails for']
    await pass(world, 40_000)
    world.driver.measure = own
    world.driver.setUse(boxOf(world), { cpuMicros: 1_000_000, memoryBytes: 0 })
    await sandboxes.kill(id, caller)
    await quiet(world)
    expect(ledger.commits.map(({ estimated }) => estimated)).toEqual([false])
    expect((await ledger.balances()).used).toBe(40)
  })

  test('a server whose first call to measure fails starts, takes what was held, and reads its boxes later', async () => {
    const { world, ledger, sandboxes } = await start(100_000)
    const { id } = await sandboxes.create(wish(), caller)
    await quiet(world)
    await sandboxes.stop('leave')
    running.length = 0
    await world.clock.advance(600_000)
    const own = world.driver.measure
    world.driver.measure = unread['the call fails for']
    const next = await serve(world)
    await quiet(world)
    expect((await next.get(id, caller)).state).toBe('running')
    expect(ledger.commits.map(({ estimated }) => estimated)).toEqual([true])
    const { used } = await ledger.balances()
    expect(used).toBeGreaterThan(0)
    expect(used).toBeLessThanOrEqual(minute)
    expect(await ledger.openHolds()).toBe(1)
    world.driver.measure = own
    await pass(world, 30_000)
    expect((await ledger.balances()).absorbed).toBe(0)
  })

  test('a server that was killed has its holds paid by the next: what was used within them; beyond, nobody pays', async () => {
    const { world, ledger } = await start(100_000)
    const [first] = running
    await first!.create(wish(), caller)
    await first!.create(wish(), caller)
    await quiet(world)
    const [one, other] = Array.from(world.driver.boxes.keys())
    world.driver.setUse(one!, { cpuMicros: 10_000_000, memoryBytes: 0 })
    world.driver.setUse(other!, { cpuMicros: 500_000_000, memoryBytes: 0 })
    // As after kill -9: nothing more is heard of the first.
    await first!.stop('leave')
    running.length = 0
    await world.clock.advance(600_000)
    await serve(world)
    await quiet(world)
    expect((await ledger.balances()).used).toBe(400 + minute)
    expect((await ledger.balances()).absorbed).toBe(500 * 40 - minute)
    expect((await ledger.balances()).held).toBe(2 * minute)
    expect(await ledger.openHolds()).toBe(2)
    await pass(world, 30_000)
    const { balance, used, held } = await ledger.balances()
    expect(balance + used + held).toBe(100_000)
  })

  test('what was held for a box that is gone when the server comes back is given back', async () => {
    const { world, ledger, sandboxes } = await start(100_000)
    await sandboxes.create(wish(), caller)
    await sandboxes.stop('leave')
    running.length = 0
    world.driver.loseBoxes()
    await serve(world)
    await quiet(world)
    expect(await ledger.balances()).toMatchObject({
      used: 0,
      held: 0,
      balance: 100_000,
    })
  })

  test('while the ledger cannot be asked sandboxes run on, and all is paid when it can', async () => {
    const { world, ledger, sandboxes } = await start(100_000)
    const { id } = await sandboxes.create(wish(), caller)
    world.driver.setUse(boxOf(world), { cpuMicros: 25_000_000, memoryBytes: 0 })
    ledger.failures = Array.from({ length: 3 }, () => new DeltaError('database_busy', 'no'))
    await pass(world, 60_000)
    expect((await sandboxes.get(id, caller)).state).toBe('running')
    await sandboxes.kill(id, caller)
    await quiet(world)
    expect(await ledger.balances()).toMatchObject({ used: 1_000, held: 0 })
  })

  test('a payment that could not be written is made later, once', async () => {
    const { world, ledger, sandboxes } = await start(100_000)
    const { id } = await sandboxes.create(wish(), caller)
    world.driver.setUse(boxOf(world), { cpuMicros: 5_000_000, memoryBytes: 0 })
    ledger.failures = [new DeltaError('database_busy', 'no')]
    await sandboxes.kill(id, caller)
    await quiet(world)
    expect((await ledger.balances()).used).toBe(0)
    await pass(world, 10_000)
    expect({ ...(await ledger.balances()), commits: ledger.commits.length }).toMatchObject({
      used: 200,
      held: 0,
      commits: 1,
    })
  })

  test('a box kept ready is paid from when it was taken', async () => {
    const { world, ledger, sandboxes } = await start(100_000, { poolSize: 1 })
    await sandboxes.warmUp()
    await pass(world, 5_000)
    expect(sandboxes.poolCounts().ready).toBe(1)
    world.driver.setUse(boxOf(world), { cpuMicros: 2_000_000, memoryBytes: 0 })
    expect((await ledger.balances()).held).toBe(0)
    const { id, timings } = await sandboxes.create(wish(), caller)
    expect(timings!.map(({ phase }) => phase)).toEqual(['pool', 'row'])
    expect((await ledger.balances()).held).toBe(minute)
    const box = Array.from(world.driver.boxes.keys()).find((boxId) => boxId.includes(id.slice(4)))!
    world.driver.setUse(box, { cpuMicros: 3_000_000, memoryBytes: 0 })
    await sandboxes.kill(id, caller)
    await quiet(world)
    expect((await ledger.balances()).used).toBe(40)
  })

  test('a box kept ready stays ready where nobody can pay for it', async () => {
    const { world, ledger, sandboxes } = await start(0, { poolSize: 1 })
    await sandboxes.warmUp()
    await pass(world, 5_000)
    const ready = boxOf(world)
    await expect(sandboxes.create(createSandboxSchema.parse({}), caller)).rejects.toMatchObject({
      code: 'balance_too_low',
    })
    expect(world.driver.boxes.get(ready)?.state).toBe('running')
    expect(await sandboxes.list(caller, { metadata: {}, limit: 10 })).toMatchObject({ data: [] })
    expect((await ledger.balances()).held).toBe(0)
  })

  describe('the hours of a plan', () => {
    test('end what runs, and are refused from then on until the month is over', async () => {
      const { world, ledger, sandboxes } = await start(10_000_000, { hours: 1 })
      const { id } = await sandboxes.create(wish({ timeoutMs: 86_400_000 }), caller)
      world.driver.setUse(boxOf(world), { cpuMicros: 1, memoryBytes: 0 })
      await world.clock.advance(3_550_000)
      await quiet(world)
      expect((await sandboxes.get(id, caller)).state).toBe('running')
      await pass(world, 400_000)
      expect(await sandboxes.get(id, caller)).toMatchObject({ state: 'stopped', reason: 'plan_limit' })
      await expect(sandboxes.create(wish(), caller)).rejects.toMatchObject({ code: 'plan_limit_reached', status: 402 })
      await expect(sandboxes.startSandbox(id, caller)).rejects.toMatchObject({ code: 'plan_limit_reached' })
      expect((await ledger.balances()).held).toBe(0)
      world.clock.jump(31 * 86_400_000)
      expect((await sandboxes.startSandbox(id, caller)).state).toBe('running')
    })

    test('are counted of one that cannot be measured too', async () => {
      const { world, sandboxes } = await start(10_000_000, { hours: 0.1 })
      const { id } = await sandboxes.create(wish({ timeoutMs: 86_400_000 }), caller)
      world.driver.measure = unread['nothing is said of']
      await pass(world, 300_000)
      expect((await sandboxes.get(id, caller)).state).toBe('running')
      await pass(world, 120_000)
      expect(await sandboxes.get(id, caller)).toMatchObject({ state: 'stopped', reason: 'plan_limit' })
    })
  })
})
