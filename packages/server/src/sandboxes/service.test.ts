import { afterEach, describe, expect, test } from 'vitest'
import { createFaults, type FaultPlan, type Faults } from '../drivers/testing/faults.ts'
import { createModelDriver, type ModelDriver } from '../drivers/testing/model.ts'
import { type ManualClock, manualClock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { DeltaError } from '../kernel/errors.ts'
import { testHashBody } from '../kernel/http/testing-body-hash.ts'
import { createLogger, type Logger, silentLogger } from '../kernel/log.ts'
import { sandboxMigrations } from './migrations.ts'
import { type CreateSandbox, createSandboxSchema, type Sandbox } from './schema.ts'
import { createSandboxes, type Sandboxes } from './service.ts'
import { sandboxStates, type SandboxState } from './states.ts'
import { createSandboxStore } from './store.ts'
import { silentGuest, withFaults, testSeal } from './testing.ts'

const caller = { accountId: 'acc_a' }

function wish(fields: object = {}): CreateSandbox {
  return createSandboxSchema.parse(fields)
}

interface World {
  database: Database
  driver: ModelDriver
  clock: ManualClock
}

const running: Sandboxes[] = []

async function serve(
  { database, driver, clock }: World,
  options: { maxSandboxes?: number; faults?: Faults; log?: Logger } = {},
) {
  const { faults, ...rest } = options
  const sandboxes = createSandboxes({
    hashBody: testHashBody,
    seal: testSeal,
    database: faults ? withFaults(database, faults) : database,
    driver: faults ? faults.wrap(driver, { except: ['onDeath', 'room'] }) : driver,
    clock,
    log: silentLogger,
    connectGuest: silentGuest,
    ...rest,
  })
  const { reconciled } = await sandboxes.start()
  running.push(sandboxes)
  return { sandboxes, reconciled }
}

/** The rows, boxes and disks agree, and nothing is half-way. */
async function expectAtRest({ database, driver }: World): Promise<void> {
  const rows = await createSandboxStore(database, testSeal).list({
    accountId: caller.accountId,
    metadata: {},
    limit: 500,
  })
  const boxes = new Map(Array.from(driver.boxes.values(), (box) => [box.upperId, box]))
  const upperIds = new Set(driver.upperIds)
  for (const { id, state, boxId, upperId } of rows) {
    const box = boxes.get(upperId)
    const what = { id, state, box: box?.state, disk: upperIds.has(upperId) }
    if (state === 'running') expect(what).toMatchObject({ box: 'running', disk: true })
    else if (state === 'paused') expect(what).toMatchObject({ box: 'frozen', disk: true })
    else if (state === 'stopped') expect(what).toMatchObject({ box: undefined, disk: true })
    else if (state === 'killed' || state === 'failed') expect(what).toMatchObject({ box: undefined, disk: false })
    else expect(what).toBe('at rest')
    if (box) expect(box.boxId).toBe(boxId)
    boxes.delete(upperId)
    upperIds.delete(upperId)
  }
  expect({ boxes: [...boxes.keys()], upperIds: [...upperIds] }).toEqual({ boxes: [], upperIds: [] })
}

testDatabases('sandboxes', (open) => {
  afterEach(async () => {
    for (const sandboxes of running.splice(0)) await sandboxes.stop('leave')
  })

  async function start(options: { maxSandboxes?: number; log?: Logger } = {}) {
    const database = await open(sandboxMigrations)
    const world: World = { database, driver: createModelDriver(), clock: manualClock(1_789_000_000_000) }
    const { sandboxes } = await serve(world, options)
    return { ...world, world, sandboxes }
  }

  /** Brings a sandbox into a state, with a box and a disk as they belong to it. */
  async function sandboxIn(state: SandboxState, { sandboxes, driver, world }: Awaited<ReturnType<typeof start>>) {
    if (state === 'failed') {
      await expect(sandboxes.create(wish({ template: 'nothere' }), caller)).rejects.toThrow()
      return (await sandboxes.list(caller, { metadata: {}, limit: 1 })).data[0]!
    }
    const sandbox = await sandboxes.create(wish(), caller)
    if (state === 'paused') await sandboxes.pause(sandbox.id, caller)
    if (state === 'stopped') await sandboxes.stopSandbox(sandbox.id, caller)
    if (state === 'killed') await sandboxes.kill(sandbox.id, caller)
    expect((await sandboxes.get(sandbox.id, caller)).state).toBe(state)
    expect(driver.boxes.size).toBe(state === 'running' || state === 'paused' ? 1 : 0)
    await expectAtRest(world)
    return sandbox
  }

  test('a new sandbox runs, tells what it is made of and how long each phase took', async () => {
    const { sandboxes, driver, clock } = await start()
    const fields = { cpu: 0.5, memoryMb: 256, metadata: { task: 'x' }, env: { SECRET: 's' }, timeoutMs: 60_000 }
    const sandbox = await sandboxes.create(wish(fields), caller)
    expect(sandbox).toMatchObject({
      state: 'running',
      reason: 'created',
      runtime: 'none',
      cpu: 0.5,
      memoryMb: 256,
      metadata: { task: 'x' },
      endAt: new Date(clock.now() + 60_000).toISOString(),
    })
    expect(sandbox.timings?.map(({ phase }) => phase)).toEqual(['row', 'queue', 'model', 'guest'])
    expect(JSON.stringify(sandbox)).not.toContain('SECRET')
    expect(driver.boxes.size).toBe(1)
    const { timings: _, ...rest } = sandbox
    expect(await sandboxes.get(sandbox.id, caller)).toEqual(rest)
  })

  describe('an agent', () => {
    const bot = { ...caller, actorId: 'agt_bot', above: ['agt_main'] }
    const code = (work: Promise<unknown>) =>
      work.then(
        () => 'done',
        (error: DeltaError) => error.code,
      )

    test('pays for what it makes, and those above it see it', async () => {
      const { sandboxes } = await start()
      const { id, agentId } = await sandboxes.create(wish(), bot)
      expect(agentId).toBe('agt_bot')
      const of = (actorId: string) => code(sandboxes.get(id, { ...caller, actorId }))
      expect([await of('agt_main'), await of('agt_other'), await of('key_a')]).toEqual([
        'done',
        'sandbox_not_found',
        'done',
      ])
      await sandboxes.stopSandbox(id, bot)
      await sandboxes.startSandbox(id, bot)
    })

    test('looks at what the account pays for and works in it, and neither changes it nor makes it run', async () => {
      const { sandboxes } = await start()
      const { id } = await sandboxes.create(wish(), caller)
      expect((await sandboxes.get(id, bot)).agentId).toBeNull()
      await sandboxes.door.open(id, bot)
      const acts = [
        () => sandboxes.patch(id, wish({ timeoutMs: 9_000_000 }), bot),
        () => sandboxes.pause(id, bot),
        () => sandboxes.stopSandbox(id, bot),
        () => sandboxes.kill(id, bot),
        () => sandboxes.setNetwork(id, { egress: 'all' }, bot),
      ]
      for (const act of acts) expect(await code(act())).toBe('forbidden')
      await sandboxes.stopSandbox(id, caller)
      expect(await code(sandboxes.startSandbox(id, bot))).toBe('forbidden')
      expect(await code(Promise.resolve(sandboxes.door.open(id, bot)))).toBe('sandbox_not_running')
      const named = { ...bot, sandboxes: [id] }
      await sandboxes.door.open(id, named)
      await sandboxes.kill(id, named)
    })
  })

  test('a sandbox says what keeps it apart, and forgets its uids with its box', async () => {
    const { sandboxes, world } = await start()
    const shared = { driver: 'model', runtime: 'none', runtimeVersion: '0', kernel: 'shared', cgroup: 'none' }
    const { id, isolation } = await sandboxes.create(wish(), caller)
    expect(isolation).toEqual({ ...shared, pool: 'none', userNamespace: '1879113728+65536' })
    const { isolation: own } = await sandboxes.create(wish({ runtime: 'runsc' }), caller)
    expect(own).toEqual({
      driver: 'model',
      runtime: 'runsc',
      kernel: 'own',
      cgroup: 'none',
      pool: 'none',
      userNamespace: '1879179264+65536',
    })
    await sandboxes.stop('leave')
    const { sandboxes: next } = await serve(world)
    expect((await next.get(id, caller)).isolation).toEqual(isolation)
    expect((await next.stopSandbox(id, caller)).isolation).not.toHaveProperty('userNamespace')
  })

  test('every transition is a line in the log, with nothing of what the caller put in', async () => {
    const lines: string[] = []
    const { sandboxes } = await start({ log: createLogger({ level: 'info', write: (line) => lines.push(line) }) })
    const { id } = await sandboxes.create(wish({ env: { SECRET: 'hunter2' }, metadata: { task: 'hunter2' } }), caller)
    await sandboxes.kill(id, caller)
    const sandboxId = id
    expect(lines.map((line) => JSON.parse(line) as object)).toMatchObject([
      { level: 'info', event: 'sandbox_changed', sandboxId, from: null, to: 'creating', reason: 'requested' },
      { level: 'info', event: 'sandbox_changed', sandboxId, from: 'creating', to: 'running', reason: 'created' },
      { level: 'info', event: 'sandbox_changed', sandboxId, from: 'running', to: 'killed', reason: 'kill_requested' },
    ])
    expect(lines.join()).not.toContain('hunter2')
  })

  test('what cannot be made is failed, says why, and leaves nothing', async () => {
    const context = await start()
    await expect(context.sandboxes.create(wish({ template: 'nothere' }), caller)).rejects.toMatchObject({
      code: 'template_not_found',
    })
    const [failed] = (await context.sandboxes.list(caller, { metadata: {}, limit: 10 })).data
    expect(failed).toMatchObject({ state: 'failed', reason: 'create_failed', detail: 'There is no template nothere' })
    await expectAtRest(context.world)
  })

  test('another account sees nothing and can do nothing', async () => {
    const { sandboxes } = await start()
    const { id } = await sandboxes.create(wish(), caller)
    const other = { accountId: 'acc_b' }
    const acts: (() => Promise<unknown>)[] = [
      () => sandboxes.get(id, other),
      () => sandboxes.patch(id, {}, other),
      () => sandboxes.pause(id, other),
      () => sandboxes.kill(id, other),
      () => sandboxes.metrics(id, other),
      () => sandboxes.logs(id, other, { limit: 10 }),
      () => sandboxes.door.open(id, other),
    ]
    const missing = { code: 'sandbox_not_found', message: `There is no sandbox ${id}` }
    for (const act of acts) await expect(act()).rejects.toMatchObject(missing)
    expect((await sandboxes.list(other, { metadata: {}, limit: 10 })).data).toEqual([])
    expect((await sandboxes.get(id, caller)).state).toBe('running')
  })

  describe('each action in each state', () => {
    type Action = 'pause' | 'resume' | 'stop' | 'start' | 'kill' | 'open'
    const conflict = 'sandbox_state_conflict'
    const down = 'sandbox_not_running'
    const atRest = ['running', 'paused', 'stopped', 'killed', 'failed'] as const
    const outcomes: Record<Action, Record<(typeof atRest)[number], string>> = {
      pause: { running: 'paused', paused: 'paused', stopped: conflict, killed: conflict, failed: conflict },
      resume: { running: 'running', paused: 'running', stopped: conflict, killed: conflict, failed: conflict },
      stop: { running: 'stopped', paused: 'stopped', stopped: 'stopped', killed: conflict, failed: conflict },
      start: { running: 'running', paused: conflict, stopped: 'running', killed: conflict, failed: conflict },
      kill: { running: 'killed', paused: 'killed', stopped: 'killed', killed: 'killed', failed: 'killed' },
      open: { running: 'running', paused: 'running', stopped: 'running', killed: down, failed: down },
    }
    const cases = Object.entries(outcomes).flatMap(([action, row]) =>
      Object.entries(row).map(([state, outcome]) => ({
        action: action as Action,
        state: state as SandboxState,
        outcome,
      })),
    )

    test.each(cases)('$action of a $state one: $outcome', async ({ action, state, outcome }) => {
      const context = await start()
      const { sandboxes } = context
      const { id } = await sandboxIn(state, context)
      const acts: Record<Action, () => Promise<unknown>> = {
        pause: () => sandboxes.pause(id, caller),
        resume: () => sandboxes.resume(id, caller),
        stop: () => sandboxes.stopSandbox(id, caller),
        start: () => sandboxes.startSandbox(id, caller),
        kill: () => sandboxes.kill(id, caller),
        open: () => sandboxes.door.open(id, caller),
      }
      const known = (sandboxStates as readonly string[]).includes(outcome)
      if (known) await acts[action]()
      else await expect(acts[action]()).rejects.toMatchObject({ code: outcome })
      expect((await sandboxes.get(id, caller)).state).toBe(known ? outcome : state)
      await expectAtRest(context.world)
    })
  })

  test('autoResume: false keeps commands out of a paused or stopped sandbox', async () => {
    const { sandboxes } = await start()
    const { id } = await sandboxes.create(wish({ autoResume: false }), caller)
    await sandboxes.pause(id, caller)
    const refused = { code: 'sandbox_not_running', status: 409 }
    await expect(sandboxes.door.open(id, caller)).rejects.toMatchObject(refused)
    await sandboxes.stopSandbox(id, caller)
    await expect(sandboxes.door.open(id, caller)).rejects.toMatchObject(refused)
    await sandboxes.startSandbox(id, caller)
    await expect(sandboxes.door.open(id, caller)).resolves.toBeDefined()
  })

  test('who must not wake a sandbox gets its connection while it runs, and is refused otherwise', async () => {
    const { sandboxes } = await start()
    const { id } = await sandboxes.create(wish(), caller)
    const { guest } = await sandboxes.door.open(id, caller, { wake: false })
    guest.close()
    await guest.closed
    expect((await sandboxes.door.open(id, caller, { wake: false })).guest).not.toBe(guest)
    for (const rest of [sandboxes.pause, sandboxes.stopSandbox]) {
      const { state } = await rest(id, caller)
      await expect(sandboxes.door.open(id, caller, { wake: false })).rejects.toMatchObject({
        code: 'sandbox_not_running',
      })
      expect((await sandboxes.get(id, caller)).state).toBe(state)
    }
    await sandboxes.door.open(id, caller)
    // In the middle of a stop one waits for its end.
    const { promise, resolve } = Promise.withResolvers<unknown>()
    sandboxes.events.on('sandbox.changed', ({ to }) => {
      if (to === 'stopping') resolve(sandboxes.door.open(id, caller, { wake: false }))
    })
    const stopped = sandboxes.stopSandbox(id, caller)
    await expect(promise).rejects.toMatchObject({ code: 'sandbox_not_running' })
    await stopped
  })

  test('a start keeps the disk and gets a new box', async () => {
    const { sandboxes, driver } = await start()
    const { id } = await sandboxes.create(wish(), caller)
    const [disk] = driver.upperIds
    const [first] = driver.boxes.keys()
    await sandboxes.stopSandbox(id, caller)
    await sandboxes.startSandbox(id, caller)
    expect([...driver.upperIds]).toEqual([disk])
    expect([...driver.boxes.keys()]).not.toEqual([first])
  })

  test('a start that fails leaves the sandbox stopped with its disk, to be tried again', async () => {
    const { sandboxes, driver, world } = await start()
    const { id } = await sandboxes.create(wish(), caller)
    await sandboxes.stopSandbox(id, caller)
    const [disk] = driver.upperIds
    driver.loseUpper(disk!)
    await expect(sandboxes.startSandbox(id, caller)).rejects.toMatchObject({ code: 'driver_failed' })
    expect(await sandboxes.get(id, caller)).toMatchObject({ state: 'stopped', reason: 'start_failed' })
    await driver.makeUpper({ upperId: disk!, from: 'host', diskMb: 4_096 })
    expect((await sandboxes.startSandbox(id, caller)).state).toBe('running')
    await expectAtRest(world)
  })

  describe('at the same time', () => {
    test('a hundred creates all succeed, a few of them at once', async () => {
      const { sandboxes, driver, world } = await start()
      const made = await Promise.all(Array.from({ length: 100 }, () => sandboxes.create(wish(), caller)))
      expect(made.every(({ state }) => state === 'running')).toBe(true)
      expect(driver.boxes.size).toBe(100)
      expect(driver.mostAtOnce).toBeGreaterThan(1)
      expect(driver.mostAtOnce).toBeLessThanOrEqual(4)
      await Promise.all(made.map(({ id }) => sandboxes.kill(id, caller)))
      expect(driver.boxes.size + driver.upperIds.size).toBe(0)
      await expectAtRest(world)
    })

    test('many openings of a stopped sandbox start it once and share one connection', async () => {
      const { sandboxes } = await start()
      const { id } = await sandboxes.create(wish(), caller)
      await sandboxes.stopSandbox(id, caller)
      const doors = await Promise.all(Array.from({ length: 1_000 }, () => sandboxes.door.open(id, caller)))
      expect(new Set(doors.map(({ guest }) => guest)).size).toBe(1)
      const { data } = await sandboxes.logs(id, caller, { limit: 100 })
      expect(data.filter(({ to }) => to === 'starting')).toHaveLength(1)
    })

    test('two starts make one box', async () => {
      const { sandboxes, driver } = await start()
      const { id } = await sandboxes.create(wish(), caller)
      await sandboxes.stopSandbox(id, caller)
      const both = await Promise.all([sandboxes.startSandbox(id, caller), sandboxes.startSandbox(id, caller)])
      expect(both.map(({ state }) => state)).toEqual(['running', 'running'])
      expect(driver.boxes.size).toBe(1)
    })

    test('any mix of actions ends in a state of rest, and each that succeeded told the truth at its time', async () => {
      const { sandboxes, world } = await start()
      const { id } = await sandboxes.create(wish(), caller)
      const acts = [sandboxes.pause, sandboxes.resume, sandboxes.stopSandbox, sandboxes.startSandbox]
      const results = await Promise.allSettled(
        Array.from({ length: 100 }, (_, index) => acts[(index * 7 + (index >> 3)) % acts.length]!(id, caller)),
      )
      for (const result of results) {
        if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'sandbox_state_conflict' })
      }
      await expectAtRest(world)
      await sandboxes.kill(id, caller)
      await expectAtRest(world)
    })

    test('more operations on one sandbox than may wait are refused, and the others done', async () => {
      const { sandboxes } = await start()
      const { id } = await sandboxes.create(wish(), caller)
      const results = await Promise.allSettled(Array.from({ length: 400 }, () => sandboxes.pause(id, caller)))
      const refused = results.filter(({ status }) => status === 'rejected')
      expect(refused.length).toBeGreaterThan(0)
      for (const { reason } of refused as PromiseRejectedResult[])
        expect(reason).toMatchObject({ code: 'too_many_requests' })
      expect((await sandboxes.get(id, caller)).state).toBe('paused')
    })
  })

  describe('the most sandboxes at once', () => {
    test('one more is refused without a trace; a stopped or killed one makes room', async () => {
      const { sandboxes, driver } = await start({ maxSandboxes: 2 })
      const first = await sandboxes.create(wish(), caller)
      const second = await sandboxes.create(wish(), caller)
      const full = { code: 'capacity_exhausted', context: { maxSandboxes: 2 } }
      await expect(sandboxes.create(wish(), caller)).rejects.toMatchObject(full)
      expect((await sandboxes.list(caller, { metadata: {}, limit: 10 })).data).toHaveLength(2)
      await sandboxes.stopSandbox(first.id, caller)
      await sandboxes.create(wish(), caller)
      await expect(sandboxes.startSandbox(first.id, caller)).rejects.toMatchObject(full)
      expect((await sandboxes.get(first.id, caller)).state).toBe('stopped')
      await sandboxes.kill(second.id, caller)
      await sandboxes.startSandbox(first.id, caller)
      expect(driver.boxes.size).toBe(2)
    })

    test('holds against a burst', async () => {
      const { sandboxes, driver } = await start({ maxSandboxes: 5 })
      const results = await Promise.allSettled(Array.from({ length: 20 }, () => sandboxes.create(wish(), caller)))
      expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(5)
      expect(driver.boxes.size).toBe(5)
    })
  })

  describe('an idempotency key', () => {
    const key = { idempotencyKey: 'once' }

    test('gives the first answer again, also to those who ask at the same time', async () => {
      const { sandboxes, driver } = await start()
      const body = wish({ metadata: { a: '1', b: '2' } })
      const all = await Promise.all(Array.from({ length: 10 }, () => sandboxes.create(body, caller, key)))
      expect(new Set(all.map(({ id }) => id)).size).toBe(1)
      expect(all.every(({ state }) => state === 'running')).toBe(true)
      const again = await sandboxes.create(wish({ metadata: { b: '2', a: '1' } }), caller, key)
      expect(again.id).toBe(all[0]?.id)
      expect(driver.boxes.size).toBe(1)
    })

    test('with another body is refused', async () => {
      const { sandboxes, driver } = await start()
      await sandboxes.create(wish(), caller, key)
      await expect(sandboxes.create(wish({ cpu: 2 }), caller, key)).rejects.toMatchObject({
        code: 'idempotency_conflict',
      })
      expect(driver.boxes.size).toBe(1)
    })

    test('of a create that failed tells the same failure and makes nothing', async () => {
      const { sandboxes, driver } = await start()
      const failing = wish({ template: 'nothere' })
      const failure = { code: 'template_not_found', message: 'There is no template nothere' }
      await expect(sandboxes.create(failing, caller, key)).rejects.toMatchObject(failure)
      await expect(sandboxes.create(failing, caller, key)).rejects.toMatchObject(failure)
      expect(driver.boxes.size).toBe(0)
      expect((await sandboxes.list(caller, { metadata: {}, limit: 10 })).data).toHaveLength(1)
    })

    test('of a create that failed on the server side makes one anew, however many ask', async () => {
      const { sandboxes, driver, world } = await start()
      const { create } = driver
      driver.create = () => Promise.reject(new DeltaError('driver_unavailable', 'The helper is away'))
      const broken = Array.from({ length: 5 }, () => sandboxes.create(wish(), caller, key))
      for (const each of await Promise.allSettled(broken)) expect(each.status).toBe('rejected')
      driver.create = create
      const asked = Array.from({ length: 5 }, () => sandboxes.create(wish(), caller, key))
      const made = (await Promise.allSettled(asked)).filter(({ status }) => status === 'fulfilled')
      expect(made.length).toBeGreaterThan(0)
      const again = await sandboxes.create(wish(), caller, key)
      expect(again.state).toBe('running')
      expect(made.map((each) => (each as PromiseFulfilledResult<{ id: string }>).value.id)).toEqual(
        made.map(() => again.id),
      )
      expect(driver.boxes.size).toBe(1)
      await expectAtRest(world)
    })

    test('is known to the next server, and is another one for another account', async () => {
      const { sandboxes, world } = await start()
      const first = await sandboxes.create(wish(), caller, key)
      await sandboxes.stop('leave')
      const next = (await serve(world)).sandboxes
      expect((await next.create(wish(), caller, key)).id).toBe(first.id)
      expect((await next.create(wish(), { accountId: 'acc_b' }, key)).id).not.toBe(first.id)
    })
  })

  describe('the time limit', () => {
    test.each([
      { onTimeout: 'kill', state: 'killed' },
      { onTimeout: 'stop', state: 'stopped' },
      { onTimeout: 'pause', state: 'paused' },
    ])('with $onTimeout leaves it $state', async ({ onTimeout, state }) => {
      const { sandboxes, clock, world } = await start()
      const { id } = await sandboxes.create(wish({ timeoutMs: 1_000, onTimeout }), caller)
      await clock.advance(999)
      expect((await sandboxes.get(id, caller)).state).toBe('running')
      await clock.advance(1)
      await expect.poll(async () => (await sandboxes.get(id, caller)).state).toBe(state)
      const { data } = await sandboxes.logs(id, caller, { limit: 100 })
      expect(data.some(({ reason }) => reason === 'timeout')).toBe(true)
      await expectAtRest(world)
    })

    test('counts from now when it is changed, and again from each return to running', async () => {
      const { sandboxes, clock } = await start()
      const { id } = await sandboxes.create(wish({ timeoutMs: 1_000, onTimeout: 'stop' }), caller)
      await clock.advance(900)
      const patched = await sandboxes.patch(id, { timeoutMs: 5_000 }, caller)
      expect(patched.endAt).toBe(new Date(clock.now() + 5_000).toISOString())
      await clock.advance(4_000)
      expect((await sandboxes.pause(id, caller)).endAt).toBeNull()
      await clock.advance(100_000)
      const resumed = await sandboxes.resume(id, caller)
      expect(resumed).toMatchObject({ state: 'running', endAt: new Date(clock.now() + 5_000).toISOString() })
      await clock.advance(5_000)
      await expect.poll(async () => (await sandboxes.get(id, caller)).state).toBe('stopped')
    })

    test('fires after a restart, at once where it passed meanwhile', async () => {
      const { sandboxes, clock, world } = await start()
      const late = await sandboxes.create(wish({ timeoutMs: 1_000 }), caller)
      const later = await sandboxes.create(wish({ timeoutMs: 10_000 }), caller)
      await sandboxes.stop('leave')
      await clock.advance(5_000)
      const next = (await serve(world)).sandboxes
      await expect.poll(async () => (await next.get(late.id, caller)).state).toBe('killed')
      expect((await next.get(later.id, caller)).state).toBe('running')
      await clock.advance(5_000)
      await expect.poll(async () => (await next.get(later.id, caller)).state).toBe('killed')
      await expectAtRest(world)
    })

    test('is not moved by a wall clock that jumps', async () => {
      const { sandboxes, clock } = await start()
      const { id } = await sandboxes.create(wish({ timeoutMs: 60_000 }), caller)
      clock.jump(3_600_000)
      await clock.advance(59_000)
      expect((await sandboxes.get(id, caller)).state).toBe('running')
      clock.jump(-7_200_000)
      await clock.advance(1_000)
      await expect.poll(async () => (await sandboxes.get(id, caller)).state).toBe('killed')
    })
  })

  describe('a box that dies', () => {
    test.each(['guest_died', 'out_of_memory', 'locks_exceeded'] as const)(
      'leaves a stopped sandbox (%s) whose disk starts again',
      async (reason) => {
        const { sandboxes, driver, world } = await start()
        const { id } = await sandboxes.create(wish(), caller)
        driver.die([...driver.boxes.keys()][0]!, reason)
        await expect.poll(async () => (await sandboxes.get(id, caller)).state).toBe('stopped')
        const { data } = await sandboxes.logs(id, caller, { limit: 100 })
        expect(data.slice(-2)).toMatchObject([
          { to: 'stopping', reason },
          { to: 'stopped', reason },
        ])
        expect((await sandboxes.get(id, caller)).reason).toBe(reason)
        await sandboxes.door.open(id, caller)
        expect((await sandboxes.get(id, caller)).state).toBe('running')
        await expectAtRest(world)
      },
    )

    test('before the news of it arrives, is noticed by whoever opens the door', async () => {
      const { sandboxes, driver, world } = await start()
      const { id } = await sandboxes.create(wish(), caller)
      const { guest } = await sandboxes.door.open(id, caller)
      driver.loseBoxes()
      await guest.closed
      const door = await sandboxes.door.open(id, caller)
      expect(door.guest).not.toBe(guest)
      expect((await sandboxes.logs(id, caller, { limit: 100 })).data.map(({ reason }) => reason)).toEqual([
        'requested',
        'created',
        'box_lost',
        'box_lost',
        'auto_resumed',
        'started',
      ])
      await expectAtRest(world)
    })

    test('a lost connection to a living box is opened again, without a change of state', async () => {
      const { sandboxes } = await start()
      const { id } = await sandboxes.create(wish(), caller)
      const { guest } = await sandboxes.door.open(id, caller)
      guest.close()
      await guest.closed
      const again = await sandboxes.door.open(id, caller)
      expect(again.guest).not.toBe(guest)
      expect((await sandboxes.logs(id, caller, { limit: 100 })).data).toHaveLength(2)
    })
  })

  describe('stopping the server', () => {
    test('with its sandboxes stops each and keeps its disk', async () => {
      const { sandboxes, driver, world } = await start()
      const made = await Promise.all(Array.from({ length: 20 }, () => sandboxes.create(wish(), caller)))
      await sandboxes.pause(made[3]!.id, caller)
      await sandboxes.stop('stop-all')
      expect(driver.boxes.size).toBe(0)
      expect(driver.upperIds.size).toBe(20)
      await expectAtRest(world)
      const next = (await serve(world)).sandboxes
      const { data } = await next.logs(made[3]!.id, caller, { limit: 100 })
      expect(data.at(-2)).toMatchObject({ from: 'paused', to: 'stopping', reason: 'server_stopped' })
      await next.door.open(made[3]!.id, caller)
    })

    test('without them leaves them, and the next server adopts them', async () => {
      const { sandboxes, driver, world } = await start()
      const { id } = await sandboxes.create(wish(), caller)
      await sandboxes.stop('leave')
      expect(driver.boxes.size).toBe(1)
      const next = (await serve(world)).sandboxes
      expect((await next.get(id, caller)).state).toBe('running')
      await next.door.open(id, caller)
      expect((await next.logs(id, caller, { limit: 100 })).data).toHaveLength(2)
    })

    test('refuses what comes meanwhile, and ends creates that still wait without a trace', async () => {
      const { sandboxes, driver, world } = await start()
      const waiting = Promise.allSettled(Array.from({ length: 50 }, () => sandboxes.create(wish(), caller)))
      while (driver.boxes.size < 3) await new Promise((resolve) => setImmediate(resolve))
      await sandboxes.stop('stop-all')
      await expect(sandboxes.create(wish(), caller)).rejects.toMatchObject({ code: 'shutting_down' })
      const refused = (await waiting).filter(({ status }) => status === 'rejected') as PromiseRejectedResult[]
      expect(refused.length).toBeGreaterThan(0)
      for (const { reason } of refused) expect(reason).toMatchObject({ code: 'shutting_down' })
      expect(driver.boxes.size).toBe(0)
      await expectAtRest(world)
    })
  })

  describe('lists and logs', () => {
    test('pages join to the whole, filters hold', async () => {
      const { sandboxes, clock } = await start()
      for (let index = 0; index < 7; index += 1) {
        const { id } = await sandboxes.create(wish({ metadata: { parity: `${index % 2}` } }), caller)
        if (index < 2) await sandboxes.stopSandbox(id, caller)
        await clock.advance(1)
      }
      const seen: Sandbox[] = []
      let cursor: string | undefined
      do {
        const page = await sandboxes.list(caller, { metadata: {}, limit: 3, cursor })
        seen.push(...page.data)
        cursor = page.nextCursor ?? undefined
      } while (cursor)
      expect(seen).toHaveLength(7)
      expect(seen.map(({ createdAt }) => createdAt)).toEqual(
        seen
          .map(({ createdAt }) => createdAt)
          .toSorted()
          .toReversed(),
      )
      const filter = { states: ['running' as const], metadata: { parity: '1' }, limit: 10 }
      expect((await sandboxes.list(caller, filter)).data).toHaveLength(2)
    })

    test('a cursor that is none is refused', async () => {
      const { sandboxes } = await start()
      const { id } = await sandboxes.create(wish(), caller)
      for (const cursor of ['', 'x', '%%%', Buffer.from('1.sbx_').toString('base64url'), 'A'.repeat(150)]) {
        await expect(sandboxes.list(caller, { metadata: {}, limit: 3, cursor })).rejects.toMatchObject({
          code: 'invalid_request',
        })
        await expect(sandboxes.logs(id, caller, { limit: 3, cursor })).rejects.toMatchObject({
          code: 'invalid_request',
        })
      }
    })

    test('the log tells every transition in order, by pages', async () => {
      const { sandboxes } = await start()
      const { id } = await sandboxes.create(wish(), caller)
      await sandboxes.pause(id, caller)
      await sandboxes.kill(id, caller)
      const first = await sandboxes.logs(id, caller, { limit: 3 })
      expect(first.data.map(({ from, to }) => [from, to])).toEqual([
        [null, 'creating'],
        ['creating', 'running'],
        ['running', 'paused'],
      ])
      const second = await sandboxes.logs(id, caller, { limit: 3, cursor: first.nextCursor! })
      expect(second.data.map(({ to, reason }) => [to, reason])).toEqual([['killed', 'kill_requested']])
      expect(second.nextCursor).toBeNull()
    })

    test('killed ones are listed for a day', async () => {
      const { sandboxes, clock } = await start()
      const { id } = await sandboxes.create(wish(), caller)
      await sandboxes.kill(id, caller)
      await clock.advance(23 * 3_600_000)
      expect((await sandboxes.get(id, caller)).state).toBe('killed')
      await clock.advance(2 * 3_600_000)
      await expect
        .poll(async () => {
          await clock.advance(600_000)
          return (await sandboxes.list(caller, { metadata: {}, limit: 10 })).data.length
        })
        .toBe(0)
      await expect(sandboxes.get(id, caller)).rejects.toMatchObject({ code: 'sandbox_not_found' })
    })
  })

  test('metrics of what does not run are refused, not invented', async () => {
    const { sandboxes } = await start()
    const { id } = await sandboxes.create(wish(), caller)
    expect(await sandboxes.metrics(id, caller)).toMatchObject({ cpuMs: 0, diskBytes: null })
    await sandboxes.stopSandbox(id, caller)
    await expect(sandboxes.metrics(id, caller)).rejects.toMatchObject({ code: 'sandbox_not_running' })
  })

  test('every transition is told to who listens, after it is on disk', async () => {
    const { sandboxes, database } = await start()
    const seen: string[] = []
    const store = createSandboxStore(database, testSeal)
    const checks: Promise<void>[] = []
    sandboxes.events.on('sandbox.changed', ({ sandboxId, from, to }) => {
      seen.push(`${from}→${to}`)
      checks.push(store.get(sandboxId).then((row) => expect(row).toBeDefined()))
    })
    const { id } = await sandboxes.create(wish(), caller)
    await sandboxes.stopSandbox(id, caller)
    await Promise.all(checks)
    expect(seen).toEqual(['null→creating', 'creating→running', 'running→stopping', 'stopping→stopped'])
  })

  describe('faults', () => {
    for (const when of ['before', 'after'] as const) {
      test(`one call that fails ${when} doing its work, wherever it is: the server mends it by itself`, async () => {
        const database = await open(sandboxMigrations)
        const calls = await callsOfALife(database)
        for (let at = 1; at <= calls; at += 1) {
          const { world, sandboxes } = await lifeWith(database, { at, when, count: 'one' })
          if (!sandboxes) continue
          await expect
            .poll(
              async () => {
                await world.clock.advance(5_000)
                return expectAtRest(world).then(
                  () => 'at rest',
                  (error: Error) => error.message,
                )
              },
              { timeout: 5_000, interval: 2, message: `call ${at} fails ${when}` },
            )
            .toBe('at rest')
          await sandboxes.stop('leave')
        }
      }, 120_000)

      test(`a server killed ${when} any of its calls: the next one brings all together`, async () => {
        const database = await open(sandboxMigrations)
        const calls = await callsOfALife(database)
        for (let at = 1; at <= calls; at += 1) {
          const { world } = await lifeWith(database, { at, when, count: 'all' })
          const { sandboxes, reconciled } = await serve(world)
          await reconciled
          try {
            await expectAtRest(world)
          } catch (cause) {
            throw new Error(`killed ${when} call ${at}: ${(cause as Error).message}`, { cause })
          }
          // Doing it again changes nothing.
          await sandboxes.stop('leave')
          const before = await rowsOf(world)
          await (
            await serve(world)
          ).reconciled
          expect(await rowsOf(world)).toEqual(before)
        }
      }, 120_000)
    }

    test('what belongs to no row is removed at the start', async () => {
      const { sandboxes, driver, world } = await start()
      const kept = await sandboxes.create(wish(), caller)
      await sandboxes.stop('leave')
      const spec = { template: 'host', cpuMilli: 1, memoryMb: 1, diskMb: 1, processes: 1, hostname: 'x', fresh: true }
      await driver.create({ ...spec, boxId: 'box_stray', upperId: 'upp_stray' })
      ;(driver.upperIds as Set<string>).add('upp_alone')
      const next = await serve(world)
      await next.reconciled
      expect(driver.boxes.size).toBe(1)
      expect(driver.upperIds.size).toBe(1)
      expect((await next.sandboxes.get(kept.id, caller)).state).toBe('running')
    })

    test('what is not compared yet with what is there says so', async () => {
      const { sandboxes, driver, world } = await start()
      const gone = await sandboxes.create(wish(), caller)
      const there = await sandboxes.create(wish(), caller)
      await sandboxes.stop('leave')
      await driver.end(driver.boxes.keys().next().value!, { keepUpper: true })
      const next = await serve(world)
      expect(await next.sandboxes.get(gone.id, caller)).toMatchObject({ state: 'running', unsettled: true })
      expect(await next.sandboxes.get(there.id, caller)).not.toHaveProperty('unsettled')
      await next.reconciled
      const after = await next.sandboxes.get(gone.id, caller)
      expect(after).toMatchObject({ state: 'stopped', reason: 'box_lost' })
      expect(after).not.toHaveProperty('unsettled')
    })

    test('beside an empty database, which is not theirs, nothing is removed', async () => {
      const { sandboxes, driver } = await start()
      await sandboxes.create(wish(), caller)
      const stopped = await sandboxes.create(wish(), caller)
      await sandboxes.stopSandbox(stopped.id, caller)
      await sandboxes.stop('leave')
      const other = await open(sandboxMigrations)
      await (
        await serve({ database: other, driver, clock: manualClock(1) })
      ).reconciled
      expect([driver.boxes.size, driver.upperIds.size]).toEqual([1, 2])
    })

    test('after a restart of the machine everything is stopped, can be started, and lost disks are told', async () => {
      const { sandboxes, driver, world } = await start()
      const one = await sandboxes.create(wish(), caller)
      const two = await sandboxes.create(wish(), caller)
      await sandboxes.stop('leave')
      driver.loseBoxes()
      driver.loseUpper(`upp_${two.id.slice(4)}`)
      const next = await serve(world)
      await next.reconciled
      expect(await next.sandboxes.get(one.id, caller)).toMatchObject({ state: 'stopped' })
      expect(await next.sandboxes.get(two.id, caller)).toMatchObject({ state: 'killed', reason: 'disk_lost' })
      await next.sandboxes.door.open(one.id, caller)
      await expectAtRest(world)
    })
  })
})

/** A life with everything in it, on an empty database. What fails is somebody else's matter here; only where it leads counts. */
async function lifeWith(database: Database, plan?: FaultPlan) {
  await database.run(database.of<{ sandboxes: object }>().sql.deleteFrom('sandboxes').compile())
  const world: World = { database, driver: createModelDriver(), clock: manualClock(1_789_000_000_000) }
  const faults = createFaults(plan)
  let sandboxes: Sandboxes | undefined
  try {
    sandboxes = (await serve(world, { faults })).sandboxes
    await live(sandboxes)
  } catch {
    // The server did not even start.
  }
  return { world, faults, sandboxes }
}

async function live(sandboxes: Sandboxes): Promise<void> {
  const first = await attempt(sandboxes.create(wish({ metadata: { a: 'b' } }), caller))
  if (first) {
    await attempt(sandboxes.pause(first.id, caller))
    await attempt(sandboxes.resume(first.id, caller))
    await attempt(sandboxes.stopSandbox(first.id, caller))
    await attempt(sandboxes.startSandbox(first.id, caller))
    await attempt(sandboxes.kill(first.id, caller))
  }
  const second = await attempt(sandboxes.create(wish(), caller))
  if (second) await attempt(sandboxes.pause(second.id, caller))
}

function attempt<T>(work: Promise<T>): Promise<T | undefined> {
  return work.catch(() => undefined)
}

async function rowsOf({ database }: World) {
  return createSandboxStore(database, testSeal).list({ accountId: caller.accountId, metadata: {}, limit: 500 })
}

async function callsOfALife(database: Database): Promise<number> {
  const { faults } = await lifeWith(database)
  expect(faults.calls).toBeGreaterThan(20)
  return faults.calls
}
