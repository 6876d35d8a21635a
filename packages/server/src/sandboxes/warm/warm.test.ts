import { afterEach, describe, expect, test } from 'vitest'
import { createFaults, type Faults } from '../../drivers/testing/faults.ts'
import { createModelDriver, type ModelDriver } from '../../drivers/testing/model.ts'
import { type ManualClock, manualClock } from '../../kernel/clock.ts'
import type { Database } from '../../kernel/db/database.ts'
import { testDatabases } from '../../kernel/db/testing.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { testHashBody } from '../../kernel/http/testing-body-hash.ts'
import { silentLogger } from '../../kernel/log.ts'
import { sandboxMigrations } from '../migrations.ts'
import { createSandboxSchema } from '../schema.ts'
import { createSandboxes, type Sandboxes } from '../service.ts'
import { createSandboxStore } from '../store.ts'
import { silentGuest, withFaults, testSeal } from '../testing.ts'
import { oldestMs } from './rules.ts'

const caller = { accountId: 'acc_a' }
const wish = (fields: object = {}) => createSandboxSchema.parse(fields)
const defaults = { cpuMilli: 1_000, memoryMb: 512, diskMb: 4_096, processes: 512 }

interface World {
  database: Database
  driver: ModelDriver
  clock: ManualClock
}

const running: Sandboxes[] = []
/** Who was made to take a guest's connections to the outside, in turn. */
const egressHandlers: { sandboxId: string; policy: () => unknown }[] = []
const onEgress = (handler: unknown) => void egressHandlers.push(handler as (typeof egressHandlers)[number])
const noEgress = { enforce: () => undefined, endAll: () => undefined }
const phases = (sandbox: { timings?: { phase: string }[] | undefined }) => sandbox.timings?.map(({ phase }) => phase)

async function serve(
  { database, driver, clock }: World,
  options: { poolSize?: number; maxSandboxes?: number; faults?: Faults } = {},
) {
  const { faults, poolSize = 3, ...rest } = options
  const sandboxes = createSandboxes({
    hashBody: testHashBody,
    seal: testSeal,
    database: faults ? withFaults(database, faults) : database,
    driver: faults ? faults.wrap(driver, { except: ['onDeath', 'room'] }) : driver,
    clock,
    log: silentLogger,
    connectGuest: (stream) => silentGuest(stream).then((guest) => Object.assign(guest, { onEgress })),
    egress: {
      handlerFor: ({ sandboxId, policy }) => Object.assign(() => undefined, { sandboxId, policy }),
      ...noEgress,
    },
    poolSize,
    ...rest,
  })
  running.push(sandboxes)
  await (
    await sandboxes.start()
  ).reconciled
  return sandboxes
}

/** Lets what was begun go on, without time. */
const settle = async () => {
  for (let turn = 0; turn < 30; turn += 1) await new Promise((resolve) => setImmediate(resolve))
}

async function filled(sandboxes: Sandboxes, clock: ManualClock, ready = 3) {
  await expect
    .poll(
      async () => {
        await clock.advance(20)
        return sandboxes.poolCounts()
      },
      { interval: 1 },
    )
    .toMatchObject({ ready, making: 0 })
}

/** Rows that run have their box and disk; the pool's boxes are all the others. */
async function expectWhole({ database, driver }: World, ready: number) {
  const rows = await createSandboxStore(database, testSeal).list({
    accountId: caller.accountId,
    metadata: {},
    limit: 500,
  })
  const live = rows.filter(({ boxId }) => boxId !== null)
  for (const { state, boxId, upperId } of live) {
    expect({ state, box: driver.boxes.get(boxId!)?.upperId }).toEqual({ state: 'running', box: upperId })
  }
  expect([driver.boxes.size, driver.upperIds.size]).toEqual([live.length + ready, live.length + ready])
}

testDatabases('warm pool', (open) => {
  afterEach(async () => {
    for (const sandboxes of running.splice(0)) await sandboxes.stop('leave')
  })

  async function start(options: Parameters<typeof serve>[1] = {}) {
    const database = await open(sandboxMigrations)
    const world: World = { database, driver: createModelDriver(), clock: manualClock(1_789_000_000_000) }
    const sandboxes = await serve(world, options)
    await sandboxes.warmUp()
    return { ...world, world, sandboxes }
  }

  async function startFilled(options: Parameters<typeof serve>[1] = {}) {
    const context = await start(options)
    await filled(context.sandboxes, context.clock, options.poolSize ?? 3)
    return context
  }

  test('serves a create with one write and makes the next box afterwards', async () => {
    const { sandboxes, driver, clock, database, world } = await startFilled()
    const boxIds = [...driver.boxes.keys()]
    const before = database.counts.operations
    const sandbox = await sandboxes.create(wish(), caller)
    expect(database.counts.operations - before).toBe(1)
    expect(phases(sandbox)).toEqual(['pool', 'row'])
    expect(sandbox).toMatchObject({ state: 'running', reason: 'created', runtime: 'none' })
    expect(boxIds).toContain(`box_${sandbox.id.slice(4)}1`)
    expect(sandboxes.poolCounts()).toMatchObject({ ready: 2 })
    const { timings: _, ...rest } = sandbox
    expect(await sandboxes.get(sandbox.id, caller)).toEqual(rest)
    const { data } = await sandboxes.logs(sandbox.id, caller, { limit: 10 })
    expect(data.map(({ from, to, reason }) => [from, to, reason])).toEqual([
      [null, 'creating', 'requested'],
      ['creating', 'running', 'created'],
    ])
    await filled(sandboxes, clock)
    await expectWhole(world, 3)
  })

  test('gives the box its own limits, variables, labels and time', async () => {
    const { sandboxes, driver, clock } = await startFilled()
    const own = { cpu: 0.25, memoryMb: 64, diskMb: 100, processes: 20 }
    const fields = { ...own, env: { A: 'b' }, metadata: { c: 'd' }, timeoutMs: 5_000, onTimeout: 'stop' }
    const sandbox = await sandboxes.create(wish(fields), caller)
    expect(phases(sandbox)).toEqual(['pool', 'row'])
    const limits = { cpuMilli: 250, memoryMb: 64, diskMb: 100, processes: 20 }
    expect(driver.limitsOf(`box_${sandbox.id.slice(4)}1`)).toEqual(limits)
    expect(sandbox).toMatchObject({ ...own, metadata: { c: 'd' }, endAt: new Date(clock.now() + 5_000).toISOString() })
    const { sandbox: opened } = await sandboxes.door.open(sandbox.id, caller)
    expect(opened).toEqual({ id: sandbox.id, env: { A: 'b' }, template: 'host', memoryMb: 64 })
    await clock.advance(5_000)
    await expect.poll(async () => (await sandboxes.get(sandbox.id, caller)).state).toBe('stopped')
    for (const boxId of driver.boxes.keys()) expect(driver.limitsOf(boxId)).toEqual(defaults)
  })

  test("its programs' connections to the outside are judged by its own policy", async () => {
    egressHandlers.splice(0)
    const { sandboxes } = await startFilled()
    expect(egressHandlers.splice(0)).toEqual([])
    const network = { egress: { hosts: ['example.org'] } }
    const { id } = await sandboxes.create(wish({ network }), caller)
    const [handler, ...more] = egressHandlers.splice(0)
    expect(more).toEqual([])
    expect(handler?.sandboxId).toBe(id)
    expect(handler?.policy()).toMatchObject({ hosts: ['example.org'] })
  })

  test('lives as any other: pause, stop, start, kill', async () => {
    const { sandboxes, clock, world } = await startFilled()
    const { id } = await sandboxes.create(wish(), caller)
    const { guest } = await sandboxes.door.open(id, caller)
    expect((await sandboxes.pause(id, caller)).state).toBe('paused')
    expect((await sandboxes.resume(id, caller)).state).toBe('running')
    expect((await sandboxes.door.open(id, caller)).guest).toBe(guest)
    await sandboxes.stopSandbox(id, caller)
    await guest.closed
    await sandboxes.startSandbox(id, caller)
    await sandboxes.kill(id, caller)
    await filled(sandboxes, clock)
    await expectWhole(world, 3)
  })

  test('is not there unless asked for, and before warmUp', async () => {
    const { driver, clock, sandboxes } = await start({ poolSize: 0 })
    await clock.advance(60_000)
    await settle()
    expect(driver.boxes.size).toBe(0)
    expect(phases(await sandboxes.create(wish(), caller))).toContain('model')
  })

  test('that is empty lets a create make its own box', async () => {
    const { sandboxes, clock, world } = await startFilled()
    const made = await Promise.all(Array.from({ length: 10 }, () => sandboxes.create(wish(), caller)))
    expect(made.filter((each) => phases(each)?.includes('pool'))).toHaveLength(3)
    expect(new Set(made.map(({ id }) => id)).size).toBe(10)
    await filled(sandboxes, clock)
    await expectWhole(world, 3)
  })

  test('keeps some of another kind while it is asked for', async () => {
    const { sandboxes, driver, clock } = await startFilled({ poolSize: 8 })
    expect(phases(await sandboxes.create(wish({ runtime: 'runc' }), caller))).toContain('model')
    await filled(sandboxes, clock, 8)
    expect(phases(await sandboxes.create(wish({ runtime: 'runc' }), caller))).toEqual(['pool', 'row'])
    await expect(sandboxes.create(wish({ template: 'nothere' }), caller)).rejects.toMatchObject({
      code: 'template_not_found',
    })
    await filled(sandboxes, clock, 8)
    expect([...driver.boxes.values()].every(({ template }) => template === 'host')).toBe(true)
    await clock.advance(11 * 60_000)
    await filled(sandboxes, clock, 8)
    expect(phases(await sandboxes.create(wish({ runtime: 'runc' }), caller))).toContain('model')
  })

  test('never hands out a box that died, lost its connection or is old', async () => {
    const { sandboxes, driver, clock, world } = await startFilled()
    const dead = [...driver.boxes.keys()][0]!
    driver.die(dead)
    expect(sandboxes.poolCounts().ready).toBe(2)
    await filled(sandboxes, clock)
    expect(driver.boxes.has(dead)).toBe(false)
    const before = [...driver.boxes.keys()]
    await clock.advance(oldestMs)
    await filled(sandboxes, clock)
    expect([...driver.boxes.keys()].filter((boxId) => before.includes(boxId))).toEqual([])
    await expectWhole(world, 3)
  })

  test('boxes of a template that was built anew are replaced, also those being made, and others are kept', async () => {
    const { sandboxes, driver, clock } = await startFilled()
    const before = new Set(driver.boxes.keys())
    sandboxes.templateBuilt('another')
    await filled(sandboxes, clock)
    expect(new Set(driver.boxes.keys())).toEqual(before)
    // One is being made while the template is built.
    await sandboxes.create(wish(), caller)
    await expect
      .poll(async () => {
        await clock.advance(1)
        return sandboxes.poolCounts().making
      })
      .toBeGreaterThan(0)
    const begun = new Set(driver.boxes.keys())
    sandboxes.templateBuilt('host')
    expect(sandboxes.poolCounts()).toMatchObject({ ready: 0 })
    await settle()
    await filled(sandboxes, clock)
    const sandbox = await sandboxes.create(wish(), caller)
    expect(phases(sandbox)).toEqual(['pool', 'row'])
    expect([...begun]).not.toContain(`box_${sandbox.id.slice(4)}1`)
  })

  test('a box that cannot take its limits is given up, and the next one taken', async () => {
    const { sandboxes, driver, clock, world } = await startFilled()
    const { setLimits } = driver
    const refused: string[] = []
    driver.setLimits = async (boxId, limits) => {
      if (refused.push(boxId) > 1) return setLimits(boxId, limits)
      throw new DeltaError('driver_failed', 'no')
    }
    const sandbox = await sandboxes.create(wish({ memoryMb: 64 }), caller)
    expect(phases(sandbox)).toEqual(['pool', 'row'])
    expect(refused[1]).toBe(`box_${sandbox.id.slice(4)}1`)
    await filled(sandboxes, clock)
    expect(driver.boxes.has(refused[0]!)).toBe(false)
    await expectWhole(world, 3)
  })

  test('a box that dies on its way to the caller becomes a stopped sandbox, not a running one without a box', async () => {
    const { sandboxes, driver, database } = await startFilled()
    const { batch } = database
    database.batch = async (steps) => {
      const result = await batch(steps)
      database.batch = batch
      driver.die([...driver.boxes.keys()][0]!)
      return result
    }
    const { id } = await sandboxes.create(wish(), caller)
    expect(await sandboxes.get(id, caller)).toMatchObject({ state: 'stopped', reason: 'guest_died' })
    await sandboxes.startSandbox(id, caller)
  })

  describe('capacity', () => {
    test('callers are counted, kept boxes are not: they make room', async () => {
      const { sandboxes, driver, clock } = await startFilled({ poolSize: 3, maxSandboxes: 4 })
      const made = []
      for (let count = 0; count < 4; count += 1) {
        made.push(await sandboxes.create(wish(), caller))
        // The last one allowed is served like the others.
        expect(phases(made.at(-1)!)).toEqual(['pool', 'row'])
        if (count < 3) await filled(sandboxes, clock, 3 - count)
      }
      const full = { code: 'capacity_exhausted' }
      await expect(sandboxes.create(wish(), caller)).rejects.toMatchObject(full)
      await clock.advance(1_000)
      await filled(sandboxes, clock, 0)
      expect(driver.boxes.size).toBe(4)
      await sandboxes.kill(made[0]!.id, caller)
      await filled(sandboxes, clock, 1)
      expect(phases(await sandboxes.create(wish(), caller))).toEqual(['pool', 'row'])
    })

    test.each(['capacity_exhausted', 'disk_full'] as const)(
      'a machine that has no more (%s) gets it from the kept boxes',
      async (code) => {
        const { sandboxes, driver, clock, world } = await startFilled({ poolSize: 3 })
        const { create } = driver
        let making = 0
        driver.create = async (spec) => {
          if (driver.boxes.size + making >= 3) throw new DeltaError(code, 'no more')
          making += 1
          return create(spec).finally(() => (making -= 1))
        }
        expect(phases(await sandboxes.create(wish({ runtime: 'runc' }), caller))).toContain('model')
        // They stay away for a while, so that the next caller finds room too.
        await clock.advance(1_000)
        await settle()
        expect(driver.boxes.size).toBe(1)
        await sandboxes.create(wish({ runtime: 'runc' }), caller)
        await clock.advance(60_000)
        await settle()
        await expectWhole(world, sandboxes.poolCounts().ready)
        expect(driver.boxes.size).toBe(3)
      },
    )

    test('on a disk that is nearly full nothing is kept and nothing handed out, until it is fine again', async () => {
      const { sandboxes, driver, clock } = await startFilled()
      driver.setRoom('low')
      const { create } = driver
      driver.create = () => Promise.reject(new DeltaError('disk_full', 'no more'))
      await expect(sandboxes.create(wish(), caller)).rejects.toMatchObject({ code: 'disk_full' })
      await settle()
      expect([driver.boxes.size, driver.upperIds.size]).toEqual([0, 0])
      driver.create = create
      driver.setRoom('fine')
      await clock.advance(60_000)
      await filled(sandboxes, clock)
    })

    test('a start on an existing disk gets it too', async () => {
      const { sandboxes, driver } = await startFilled({ poolSize: 2 })
      const { id } = await sandboxes.create(wish(), caller)
      await sandboxes.stopSandbox(id, caller)
      const { create } = driver
      driver.create = async (spec) => {
        if (driver.boxes.size >= 1) throw new DeltaError('capacity_exhausted', 'no more')
        return create(spec)
      }
      expect((await sandboxes.startSandbox(id, caller)).state).toBe('running')
    })
  })

  test('boxes that cannot be made are tried again, later and later', async () => {
    const { sandboxes, driver, clock } = await start()
    const { create } = driver
    let tries = 0
    driver.create = async () => {
      tries += 1
      throw new DeltaError('driver_failed', 'no')
    }
    for (let second = 0; second < 600; second += 5) {
      await clock.advance(5_000)
      await settle()
    }
    expect(tries).toBeGreaterThan(5)
    expect(tries).toBeLessThan(60)
    driver.create = create
    await clock.advance(60_000)
    await filled(sandboxes, clock)
  })

  describe('an idempotency key', () => {
    const key = { idempotencyKey: 'once' }

    test('takes one box however many ask with it', async () => {
      const { sandboxes, clock, world } = await startFilled()
      const all = await Promise.all(Array.from({ length: 10 }, () => sandboxes.create(wish({ cpu: 2 }), caller, key)))
      expect(new Set(all.map(({ id }) => id)).size).toBe(1)
      expect((await sandboxes.create(wish({ cpu: 2 }), caller, key)).id).toBe(all[0]?.id)
      await expect(sandboxes.create(wish({ cpu: 1 }), caller, key)).rejects.toMatchObject({
        code: 'idempotency_conflict',
      })
      await filled(sandboxes, clock)
      await expectWhole(world, 3)
    })
  })

  describe('a stop', () => {
    test.each(['leave', 'stop-all'] as const)(
      '(%s) ends every kept box and its disk, also one being made',
      async (mode) => {
        const { sandboxes, driver } = await start({ poolSize: 6 })
        while (driver.boxes.size < 2) await settle()
        await sandboxes.stop(mode)
        await settle()
        expect([driver.boxes.size, driver.upperIds.size]).toEqual([0, 0])
      },
    )

    test('waits for a create that the pool serves, and leaves no box without a row', async () => {
      const { sandboxes, world } = await startFilled()
      const made = sandboxes.create(wish(), caller)
      await sandboxes.stop('leave')
      await Promise.allSettled([made])
      await expectWhole(world, 0)
    })

    test('that is announced makes no more boxes', async () => {
      const { sandboxes, driver, clock } = await startFilled()
      sandboxes.rest()
      await sandboxes.create(wish(), caller)
      await clock.advance(60_000)
      await settle()
      expect(driver.boxes.size).toBe(3)
    })
  })

  describe('after a crash', () => {
    test('kept boxes are removed, also where no sandbox was ever asked for', async () => {
      const { driver, world } = await startFilled()
      expect(driver.boxes.size).toBe(3)
      await serve(world)
      expect([driver.boxes.size, driver.upperIds.size]).toEqual([0, 0])
    })

    test('beside the database of somebody else nothing is removed, and nothing is kept ready', async () => {
      const { driver } = await startFilled()
      const other: World = { database: await open(sandboxMigrations), driver, clock: manualClock(1) }
      const strange = await serve(other)
      await strange.warmUp()
      await other.clock.advance(60_000)
      expect(driver.boxes.size).toBe(3)
      await serve(other)
      expect(driver.boxes.size).toBe(3)
    })
  })

  describe('faults', () => {
    for (const when of ['before', 'after'] as const) {
      for (const count of ['one', 'all'] as const) {
        test(`${count} call(s) failing ${when} the work, wherever: no box is lost, none is left`, async () => {
          const database = await open(sandboxMigrations)
          let at = 0
          for (let lived = false; !lived;) {
            at += 1
            await database.run(database.of<{ sandboxes: object }>().sql.deleteFrom('sandboxes').compile())
            await database.run(database.of<{ sandbox_requests: object }>().sql.deleteFrom('sandbox_requests').compile())
            const world: World = { database, driver: createModelDriver(), clock: manualClock(1_789_000_000_000) }
            const faults = createFaults({ at, when, count })
            const sandboxes = await serve(world, { faults }).catch(() => undefined)
            const told: string[] = []
            if (sandboxes) {
              await sandboxes.warmUp().catch(() => undefined)
              for (const fields of [{}, { memoryMb: 64 }, { cpu: 2, metadata: { a: 'b' } }]) {
                await world.clock.advance(3_000)
                await settle()
                const made = await sandboxes
                  .create(wish(fields), caller, { idempotencyKey: JSON.stringify(fields) })
                  .catch(() => undefined)
                if (made) told.push(made.id)
              }
            }
            // The helper finishes what was asked of it before it lets the next server in.
            await settle()
            lived = faults.calls < at
            if (lived) faults.heal()
            // One fault is mended by the same server, a death by the next.
            let judge = sandboxes
            if ((count === 'all' && !lived) || !judge) judge = await serve(world)
            await expect
              .poll(
                async () => {
                  await world.clock.advance(10_000)
                  await settle()
                  return expectWhole(world, judge.poolCounts().ready).then(
                    () => 'whole',
                    (error: Error) => error.message,
                  )
                },
                { timeout: 5_000, interval: 1, message: `call ${at} ${count} ${when}` },
              )
              .toBe('whole')
            for (const id of told) expect((await judge.get(id, caller)).state).toBe('running')
            await judge.stop('leave')
          }
          expect(at).toBeGreaterThan(20)
        }, 120_000)
      }
    }
  })
})
