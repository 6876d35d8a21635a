import { afterEach, describe, expect, test } from 'vitest'
import { createFaults, type FaultPlan } from '../drivers/testing/faults.ts'
import { createModelDriver, type ModelDriver } from '../drivers/testing/model.ts'
import { type ManualClock, manualClock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { testHashBody } from '../kernel/http/testing-body-hash.ts'
import { silentLogger } from '../kernel/log.ts'
import { DeltaError } from '../kernel/errors.ts'
import { workspaceMigrations } from '../workspaces/migrations.ts'
import { createWorkspaceSchema } from '../workspaces/schema.ts'
import { openTestStorage } from '../workspaces/testing.ts'
import { createWorkspaces, type ResolveTemplate, type Workspaces } from '../workspaces/service.ts'
import { volumeMigrations } from '../workspaces/volumes/migrations.ts'
import { sandboxMigrations } from './migrations.ts'
import { createSandboxSchema, type Sandbox } from './schema.ts'
import { createSandboxes, type Sandboxes } from './service.ts'
import { silentGuest, withFaults, testSeal } from './testing.ts'

const caller = { accountId: 'acc_a' }
const page = { limit: 100 }
const ends: (() => Promise<void>)[] = []
const running: { sandboxes: Sandboxes; workspaces: Workspaces }[] = []

interface World extends Awaited<ReturnType<typeof openTestStorage>> {
  database: Database
  driver: ModelDriver
  clock: ManualClock
}

async function serve(world: World, plan?: FaultPlan, resolveTemplate?: ResolveTemplate) {
  const faults = createFaults()
  const database = withFaults(world.database, faults)
  const parts = { database, driver: faults.wrap(world.driver, { except: ['onDeath', 'room', 'contents'] }) }
  const { clock } = world
  const { blobs, folder } = world
  const workspaces = createWorkspaces({
    hashBody: testHashBody,
    ...parts,
    clock,
    log: silentLogger,
    blobs,
    folder,
    settle: (sandboxId) => sandboxes.settleFiles(sandboxId),
    ...(resolveTemplate && { resolveTemplate }),
  })
  const synced: string[] = []
  const connectGuest: typeof silentGuest = async (stream) => {
    const guest = await silentGuest(stream)
    return Object.assign(guest, { sync: async () => void synced.push('synced') })
  }
  const sandboxes = createSandboxes({
    hashBody: testHashBody,
    seal: testSeal,
    ...parts,
    clock,
    log: silentLogger,
    workspaces,
    connectGuest,
  })
  await workspaces.start()
  const { reconciled } = await sandboxes.start()
  await reconciled
  if (plan) faults.cut(plan)
  running.push({ sandboxes, workspaces })
  return { sandboxes, workspaces, synced }
}

testDatabases('sandboxes on workspaces', (open) => {
  afterEach(async () => {
    for (const { sandboxes, workspaces } of running.splice(0)) {
      await sandboxes.stop('leave')
      await workspaces.stop()
    }
    for (const end of ends.splice(0)) await end()
  })

  async function newWorld(): Promise<World> {
    const database = await open([...volumeMigrations, ...workspaceMigrations, ...sandboxMigrations])
    const storage = await openTestStorage((end) => ends.push(end))
    return { database, driver: createModelDriver(), clock: manualClock(1_789_000_000_000), ...storage }
  }

  async function start() {
    const world = await newWorld()
    const served = await serve(world)
    const workspace = await served.workspaces.create(createWorkspaceSchema.parse({ name: 'work' }), caller)
    const on = (more: object = {}) => createSandboxSchema.parse({ workspace: 'work', ...more })
    const filesOf = (): Map<string, string> => {
      const [box] = [...world.driver.boxes.values()]
      return world.driver.contents(box!.upperId)!
    }
    const history = async (workspaces = served.workspaces) =>
      (await workspaces.listSnapshots('work', caller, page)).data.map(({ reason }) => reason)
    return { world, ...world, ...served, workspace, on, filesOf, history }
  }

  test('what one sandbox wrote is there in the next', async () => {
    const { sandboxes, workspaces, workspace, on, filesOf, history } = await start()
    const first = await sandboxes.create(on(), caller)
    expect(first).toMatchObject({ workspaceId: workspace.id, template: 'host', state: 'running' })
    filesOf().set('/file', 'kept')
    await sandboxes.kill(first.id, caller)
    expect((await workspaces.get('work', caller)).heldBy).toBeNull()
    const second = await sandboxes.create(on(), caller)
    expect(filesOf().get('/file')).toBe('kept')
    expect((await workspaces.get('work', caller)).heldBy).toBe(second.id)
    expect(await history()).toEqual(['stop'])
  })

  test('a stopped sandbox lets the workspace go and takes it again when it starts', async () => {
    const { sandboxes, workspaces, on, filesOf, history } = await start()
    const { id } = await sandboxes.create(on(), caller)
    filesOf().set('/file', 'one')
    expect((await sandboxes.stopSandbox(id, caller)).state).toBe('stopped')
    expect(await history()).toEqual(['stop'])
    const other = await sandboxes.create(on(), caller)
    await expect(sandboxes.startSandbox(id, caller)).rejects.toMatchObject({
      code: 'workspace_in_use',
      context: { sandboxId: other.id },
    })
    expect((await sandboxes.get(id, caller)).state).toBe('stopped')
    await sandboxes.kill(other.id, caller)
    expect((await sandboxes.startSandbox(id, caller)).state).toBe('running')
    expect(filesOf().get('/file')).toBe('one')
    expect((await workspaces.get('work', caller)).heldBy).toBe(id)
  })

  test('of many creates at once one gets the workspace, the others are refused or join it', async () => {
    const { sandboxes, driver, on } = await start()
    const refused = await Promise.allSettled(Array.from({ length: 10 }, () => sandboxes.create(on(), caller)))
    const [one] = refused.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
    expect(refused.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    for (const result of refused) {
      if (result.status === 'rejected') {
        expect(result.reason).toMatchObject({ code: 'workspace_in_use', context: { sandboxId: one!.id } })
      }
    }
    const joins = await Promise.all(
      Array.from({ length: 10 }, () => sandboxes.createOrJoin(on({ ifHeld: 'join' }), caller)),
    )
    expect(new Set(joins.map(({ sandbox }) => sandbox.id))).toEqual(new Set([one!.id]))
    expect(joins.every(({ joined }) => joined)).toBe(true)
    expect(driver.boxes.size).toBe(1)
  })

  test('a sandbox goes back to a snapshot and runs on', async () => {
    const { sandboxes, workspaces, on, filesOf, history } = await start()
    const { id } = await sandboxes.create(on(), caller)
    filesOf().set('/file', 'good')
    const good = await workspaces.snapshot('work', { comment: '' }, caller)
    filesOf().set('/file', 'bad')
    const back = await sandboxes.rollback(id, good.id, caller)
    expect(back).toMatchObject({ id, state: 'running' })
    expect(filesOf().get('/file')).toBe('good')
    expect((await history()).toSorted()).toEqual(['manual', 'stop'])
    expect((await workspaces.get('work', caller)).heldBy).toBe(id)
  })

  test('a kernel of its own writes out what it holds before a snapshot of the running sandbox', async () => {
    const { sandboxes, workspaces, on, synced } = await start()
    const shared = await sandboxes.create(on(), caller)
    await workspaces.snapshot('work', { comment: '' }, caller)
    await sandboxes.kill(shared.id, caller)
    expect(synced).toEqual([])
    const { id } = await sandboxes.create(on({ runtime: 'runsc' }), caller)
    await workspaces.snapshot('work', { comment: '' }, caller)
    expect(synced).toEqual(['synced'])
    await sandboxes.pause(id, caller)
    await workspaces.snapshot('work', { comment: '' }, caller)
    expect(synced).toEqual(['synced'])
  })

  test('a sandbox without a workspace cannot go back', async () => {
    const { sandboxes } = await start()
    const { id } = await sandboxes.create(createSandboxSchema.parse({}), caller)
    await expect(sandboxes.rollback(id, 'snp_1', caller)).rejects.toMatchObject({ code: 'sandbox_state_conflict' })
  })

  test('a box that dies by itself leaves its files and lets the workspace go', async () => {
    const { sandboxes, workspaces, driver, on, filesOf, history } = await start()
    const { id } = await sandboxes.create(on(), caller)
    filesOf().set('/file', 'kept')
    driver.die([...driver.boxes.keys()][0]!)
    await expect.poll(async () => (await sandboxes.get(id, caller)).state).toBe('stopped')
    expect((await workspaces.get('work', caller)).heldBy).toBeNull()
    expect(await history()).toEqual(['stop'])
    await sandboxes.create(on(), caller)
    expect(filesOf().get('/file')).toBe('kept')
  })

  test('a sandbox that cannot be made lets the workspace go', async () => {
    const { sandboxes, workspaces, on } = await start()
    const volumes = [{ volume: 'none', path: '/mnt' }]
    await expect(sandboxes.create(on({ volumes }), caller)).rejects.toMatchObject({ code: 'not_supported' })
    expect((await workspaces.get('work', caller)).heldBy).toBeNull()
    await sandboxes.create(on(), caller)
  })

  describe('from a template of the account', () => {
    const origin = { name: 'tools@1', env: { APP: 'tools', PATH: '/tools/bin' }, cwd: '/app', user: 'app' }

    /** As the templates do it: `tools` is a snapshot of one account, `host` is the driver's own affair. */
    async function withTemplate() {
      const world = await newWorld()
      let snapshotId = ''
      const { sandboxes, workspaces } = await serve(world, undefined, (name, { accountId }) => {
        if (name === 'host') return Promise.resolve(undefined)
        if (name === snapshotId && accountId === caller.accountId) {
          return Promise.resolve({ template: name, name, env: {} })
        }
        if (name === 'tools' && accountId === caller.accountId) {
          return Promise.resolve({ ...origin, template: snapshotId })
        }
        return Promise.reject(new DeltaError('template_not_found', `There is no template ${name}`))
      })
      const make = (wish: object, who = caller) => workspaces.create(createWorkspaceSchema.parse(wish), who)
      const source = await make({ name: 'source' })
      const { upperId } = await workspaces.acquire(caller.accountId, source.id, 'sbx_1')
      world.driver.contents(upperId)!.set('/tool', 'built')
      await workspaces.release(source.id, 'sbx_1')
      ;({ id: snapshotId } = await workspaces.snapshot(source.id, { comment: '' }, caller))
      const contents = (): Map<string, string> => {
        const [box] = [...world.driver.boxes.values()]
        return world.driver.contents(box!.upperId)!
      }
      return { world, sandboxes, workspaces, make, snapshotId, contents }
    }

    test('a sandbox on it has its files, variables, folder and user, after a fork and another start too', async () => {
      const { sandboxes, workspaces, make, contents } = await withTemplate()
      expect(await make({ name: 'work', template: 'tools' })).toMatchObject({ template: 'tools@1' })
      const started = await sandboxes.create(
        createSandboxSchema.parse({ workspace: 'work', env: { APP: 'own' } }),
        caller,
      )
      expect(started.template).toBe('tools@1')
      expect(contents().get('/tool')).toBe('built')
      const { sandbox } = await sandboxes.door.open(started.id, caller)
      expect(sandbox).toMatchObject({ env: { APP: 'own', PATH: '/tools/bin' }, cwd: '/app', user: 'app' })
      await sandboxes.stopSandbox(started.id, caller)
      await sandboxes.startSandbox(started.id, caller)
      expect((await sandboxes.door.open(started.id, caller)).sandbox).toMatchObject({ cwd: '/app', user: 'app' })
      await sandboxes.kill(started.id, caller)
      await workspaces.forkWorkspace('work', { names: ['fork'] }, caller)
      const onFork = await sandboxes.create(createSandboxSchema.parse({ workspace: 'fork' }), caller)
      expect((await sandboxes.door.open(onFork.id, caller)).sandbox).toMatchObject({ env: origin.env, cwd: '/app' })
    })

    test('its first snapshot stands on the template, so that only what is new is packed', async () => {
      const { workspaces, make, snapshotId } = await withTemplate()
      const { id } = await make({ name: 'work', template: 'tools' })
      expect(await workspaces.snapshot(id, { comment: '' }, caller)).toMatchObject({ parentId: snapshotId })
    })

    test('a snapshot is a template as well, and leads to what its workspace was made of', async () => {
      const { workspaces, make, snapshotId } = await withTemplate()
      expect(await make({ template: snapshotId })).toMatchObject({ template: 'host', headSnapshotId: snapshotId })
      const { id } = await make({ name: 'work', template: 'tools' })
      const taken = await workspaces.snapshot(id, { comment: '' }, caller)
      expect(await workspaces.fork(taken.id, {}, caller)).toMatchObject([{ template: 'tools@1' }])
    })

    test('a wrong name, and one of somebody else, are refused before a disk is made', async () => {
      const { world, workspaces, make, snapshotId } = await withTemplate()
      const before = (await world.driver.list()).upperIds.length
      const refused = { code: 'template_not_found' }
      await expect(make({ template: 'nothing' })).rejects.toMatchObject(refused)
      await expect(make({ template: 'scratch' })).rejects.toMatchObject(refused)
      await expect(make({ template: 'tools' }, { accountId: 'acc_b' })).rejects.toMatchObject(refused)
      await expect(make({ template: snapshotId }, { accountId: 'acc_b' })).rejects.toMatchObject(refused)
      expect((await world.driver.list()).upperIds).toHaveLength(before)
      expect((await workspaces.list(caller, page)).data).toHaveLength(1)
    })
  })

  test('an unknown workspace, and one of somebody else, look the same', async () => {
    const { sandboxes, workspace, on } = await start()
    const missing = { code: 'workspace_not_found' }
    await expect(sandboxes.create(on({ workspace: 'nothing' }), caller)).rejects.toMatchObject(missing)
    const stranger = { accountId: 'acc_b' }
    await expect(sandboxes.create(on({ workspace: workspace.id }), stranger)).rejects.toMatchObject(missing)
  })

  describe('idle', () => {
    test('nothing is asked of it: it stops with a snapshot, and the next use starts it again', async () => {
      const { sandboxes, clock, on, filesOf, history } = await start()
      const { id } = await sandboxes.create(on({ idleTimeoutMs: 60_000, timeoutMs: 3_600_000 }), caller)
      filesOf().set('/file', 'kept')
      await clock.advance(40_000)
      await sandboxes.door.open(id, caller)
      await clock.advance(40_000)
      expect((await sandboxes.get(id, caller)).state).toBe('running')
      await clock.advance(30_000)
      await expect.poll(async () => (await sandboxes.get(id, caller)).state).toBe('stopped')
      expect(await sandboxes.get(id, caller)).toMatchObject({ reason: 'idle', idleTimeoutMs: 60_000 })
      expect(await history()).toEqual(['idle'])
      await sandboxes.door.open(id, caller)
      expect((await sandboxes.get(id, caller)).state).toBe('running')
      expect(filesOf().get('/file')).toBe('kept')
    })

    test('what is at work does not idle out, and does when its work has ended', async () => {
      const { sandboxes, clock, on } = await start()
      const { id } = await sandboxes.create(on({ idleTimeoutMs: 60_000, timeoutMs: 3_600_000 }), caller)
      const { guest } = await sandboxes.door.open(id, caller)
      Object.assign(guest, { channels: 1 })
      for (let minutes = 0; minutes < 5; minutes += 1) {
        await clock.advance(60_000)
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
      expect((await sandboxes.get(id, caller)).state).toBe('running')
      Object.assign(guest, { channels: 0 })
      const state = async () => {
        await clock.advance(30_000)
        return (await sandboxes.get(id, caller)).state
      }
      await expect.poll(state).toBe('stopped')
    })

    test('its idle time can be taken away', async () => {
      const { sandboxes, clock, on } = await start()
      const { id } = await sandboxes.create(on({ idleTimeoutMs: 60_000, timeoutMs: 3_600_000 }), caller)
      expect(await sandboxes.patch(id, { idleTimeoutMs: null }, caller)).toMatchObject({ idleTimeoutMs: null })
      await clock.advance(600_000)
      expect((await sandboxes.get(id, caller)).state).toBe('running')
    })
  })

  test('a restart adopts the running sandbox with its workspace', async () => {
    const { world, sandboxes, workspaces, on, filesOf } = await start()
    const { id } = await sandboxes.create(on(), caller)
    filesOf().set('/file', 'kept')
    await sandboxes.stop('leave')
    await workspaces.stop()
    const next = await serve(world)
    expect((await next.sandboxes.get(id, caller)).state).toBe('running')
    expect((await next.workspaces.get('work', caller)).heldBy).toBe(id)
    expect(filesOf().get('/file')).toBe('kept')
  })

  test('after a restart of the machine the workspace is free and its files are there', async () => {
    const { world, sandboxes, workspaces, on, filesOf, driver } = await start()
    await sandboxes.create(on(), caller)
    filesOf().set('/file', 'kept')
    await sandboxes.stop('leave')
    await workspaces.stop()
    driver.loseBoxes()
    const next = await serve(world)
    expect((await next.workspaces.get('work', caller)).heldBy).toBeNull()
    await next.sandboxes.create(on(), caller)
    expect(filesOf().get('/file')).toBe('kept')
  })

  describe('cut at any call', () => {
    type Act = (served: { sandboxes: Sandboxes; workspaces: Workspaces }, sandbox: Sandbox) => Promise<unknown>
    const acts: Record<string, Act> = {
      stop: ({ sandboxes }, { id }) => sandboxes.stopSandbox(id, caller),
      kill: ({ sandboxes }, { id }) => sandboxes.kill(id, caller),
      rollback: async ({ sandboxes, workspaces }, { id }) => {
        const { data } = await workspaces.listSnapshots('work', caller, page)
        await sandboxes.rollback(id, data.at(-1)!.id, caller)
      },
      'stop and start': async ({ sandboxes }, { id }) => {
        await sandboxes.stopSandbox(id, caller)
        await sandboxes.startSandbox(id, caller)
      },
      'snapshot and fork': async ({ workspaces }) => {
        const snapshot = await workspaces.snapshot('work', { comment: 'cut' }, caller)
        await workspaces.fork(snapshot.id, { count: 3 }, caller)
      },
    }
    const points = Array.from({ length: 14 }, (_, index) => index + 1)

    test.each(Object.entries(acts))('%s leaves the old or the new state and nothing else', async (name, act) => {
      for (const at of points) {
        const { world, sandboxes, workspaces, on, filesOf, driver } = await start()
        const sandbox = await sandboxes.create(on(), caller)
        filesOf().set('/file', 'old')
        await workspaces.snapshot('work', { comment: '' }, caller)
        filesOf().set('/file', 'new')
        await sandboxes.stop('leave')
        await workspaces.stop()

        const cut = await serve(world, { at, when: 'after', count: 'all' })
        await act(cut, sandbox).catch(() => undefined)
        const next = await serve(world)
        const what = `${name}, call ${at}`
        const { heldBy } = await next.workspaces.get('work', caller)
        const { state } = await next.sandboxes.get(sandbox.id, caller)
        expect([what, state === 'running' || state === 'paused']).toEqual([what, heldBy !== null])
        if (heldBy === null) await next.sandboxes.create(on(), caller)
        expect([what, ['old', 'new'].includes(filesOf().get('/file') ?? '')]).toEqual([what, true])
        if (name !== 'rollback') expect([what, filesOf().get('/file')]).toEqual([what, 'new'])
        // Nothing in the pool that no row knows.
        const rows = (await next.workspaces.list(caller, page)).data
        expect([what, driver.upperIds.size]).toEqual([what, rows.length])
        const { data } = await next.workspaces.listSnapshots('work', caller, page)
        const { snapshots } = await driver.disks()
        expect([what, snapshots.map(({ snapshotId }) => snapshotId).toSorted()]).toEqual([
          what,
          data.map(({ id }) => id).toSorted(),
        ])
        for (const each of running.splice(0)) {
          await each.sandboxes.stop('leave')
          await each.workspaces.stop()
        }
      }
    })
  })
})
