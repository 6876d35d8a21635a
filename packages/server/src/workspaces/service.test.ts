import { describe, expect, test } from 'vitest'
import { testDatabases } from '../kernel/db/testing.ts'
import { workspaceMigrations } from './migrations.ts'
import { caller, diskOf, mortal, newWorld, serve, wish } from './testing.ts'

const other = { accountId: 'acc_b' }
const page = { limit: 100 }

testDatabases('workspaces', (open) => {
  async function start() {
    const world = await newWorld(await open(workspaceMigrations))
    const workspaces = await serve(world)
    return { world, workspaces, ...world }
  }

  /** A workspace with a history: one snapshot for each text that `/file` had. */
  async function startWithHistory(texts: readonly string[]) {
    const started = await start()
    const { workspaces, world, clock } = started
    const { id } = await workspaces.create(wish({ name: 'work' }), caller)
    const disk = await diskOf(world, workspaces, id)
    const snapshots: string[] = []
    for (const text of texts) {
      disk.set('/file', text)
      snapshots.push((await workspaces.snapshot(id, { comment: text }, caller)).id)
      await clock.advance(1_000)
    }
    return { ...started, id, snapshots }
  }

  test('a workspace is found by id and by name, and listed newest first', async () => {
    const { workspaces, clock } = await start()
    const first = await workspaces.create(wish({ name: 'one', metadata: { k: 'v' } }), caller)
    await clock.advance(1)
    const second = await workspaces.create(wish(), caller)
    expect(first).toMatchObject({ name: 'one', template: 'host', heldBy: null, headSnapshotId: null, isLocal: true })
    expect(second.name).toBe(second.id)
    expect(await workspaces.get('one', caller)).toEqual(first)
    expect(await workspaces.get(first.id, caller)).toEqual(first)
    const newest = await workspaces.list(caller, { limit: 1 })
    expect(newest.data).toEqual([second])
    expect((await workspaces.list(caller, { limit: 1, cursor: newest.nextCursor! })).data).toEqual([first])
  })

  test('another account sees nothing and can do nothing', async () => {
    const { workspaces, id, snapshots } = await startWithHistory(['a'])
    const [snapshotId] = snapshots as [string]
    const noWorkspace = { code: 'workspace_not_found', message: `There is no workspace ${id}` }
    const noSnapshot = { code: 'snapshot_not_found', message: `There is no snapshot ${snapshotId}` }
    await expect(workspaces.get(id, other)).rejects.toMatchObject(noWorkspace)
    await expect(workspaces.patch(id, {}, other)).rejects.toMatchObject(noWorkspace)
    await expect(workspaces.remove(id, other)).rejects.toMatchObject(noWorkspace)
    await expect(workspaces.acquire('acc_b', id, 'sbx_1')).rejects.toMatchObject(noWorkspace)
    await expect(workspaces.snapshot(id, { comment: '' }, other)).rejects.toMatchObject(noWorkspace)
    await expect(workspaces.rollback(id, snapshotId, other)).rejects.toMatchObject(noWorkspace)
    await expect(workspaces.getSnapshot(snapshotId, other)).rejects.toMatchObject(noSnapshot)
    await expect(workspaces.fork(snapshotId, {}, other)).rejects.toMatchObject(noSnapshot)
    await expect(workspaces.removeSnapshot(snapshotId, other)).rejects.toMatchObject(noSnapshot)
    await expect(workspaces.get('work', other)).rejects.toMatchObject({ code: 'workspace_not_found' })
    expect((await workspaces.list(other, page)).data).toEqual([])
  })

  test('a name is taken once in an account, and free again after a rename and a removal', async () => {
    const { workspaces } = await start()
    const { id } = await workspaces.create(wish({ name: 'one' }), caller)
    await expect(workspaces.create(wish({ name: 'one' }), caller)).rejects.toMatchObject({
      code: 'workspace_name_taken',
      context: { workspaceId: id },
    })
    await workspaces.create(wish({ name: 'one' }), other)
    await workspaces.patch(id, { name: 'two' }, caller)
    const second = await workspaces.create(wish({ name: 'one' }), caller)
    await workspaces.remove(second.id, caller)
    await expect(workspaces.get('one', caller)).rejects.toMatchObject({ code: 'workspace_not_found' })
    await workspaces.create(wish({ name: 'one' }), caller)
  })

  test('of a refused creation nothing is left in the pool', async () => {
    const { workspaces, driver } = await start()
    await workspaces.create(wish({ name: 'one' }), caller)
    const results = await Promise.allSettled(
      Array.from({ length: 4 }, () => workspaces.create(wish({ name: 'two' }), caller)),
    )
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    for (const result of results) {
      if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'workspace_name_taken' })
    }
    expect(driver.upperIds.size).toBe(2)
  })

  test('the same key and body make one workspace, another body is refused', async () => {
    const { workspaces, driver } = await start()
    const once = await workspaces.create(wish({ name: 'one' }), caller, { idempotencyKey: 'k' })
    expect(await workspaces.create(wish({ name: 'one' }), caller, { idempotencyKey: 'k' })).toEqual(once)
    await expect(workspaces.create(wish({ name: 'two' }), caller, { idempotencyKey: 'k' })).rejects.toMatchObject({
      code: 'idempotency_conflict',
    })
    expect(driver.upperIds.size).toBe(1)
  })

  describe('one writer', () => {
    test('of many starts at once one wins, and the others are told who', async () => {
      const { workspaces } = await start()
      const { id } = await workspaces.create(wish(), caller)
      const results = await Promise.allSettled(
        Array.from({ length: 20 }, (_, index) => workspaces.acquire(caller.accountId, id, `sbx_${index}`)),
      )
      const won = results.findIndex(({ status }) => status === 'fulfilled')
      expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
      for (const result of results) {
        if (result.status === 'rejected') {
          expect(result.reason).toMatchObject({ code: 'workspace_in_use', context: { sandboxId: `sbx_${won}` } })
        }
      }
      expect((await workspaces.get(id, caller)).heldBy).toBe(`sbx_${won}`)
    })

    test('only its holder can let it go, as often as it likes', async () => {
      const { workspaces } = await start()
      const { id } = await workspaces.create(wish(), caller)
      await workspaces.acquire(caller.accountId, id, 'sbx_1')
      await workspaces.release(id, 'sbx_2')
      await expect(workspaces.acquire(caller.accountId, id, 'sbx_2')).rejects.toMatchObject({
        code: 'workspace_in_use',
      })
      await workspaces.release(id, 'sbx_1')
      await workspaces.release(id, 'sbx_1')
      await workspaces.acquire(caller.accountId, id, 'sbx_2')
      await workspaces.release(id, 'sbx_1')
      expect((await workspaces.get(id, caller)).heldBy).toBe('sbx_2')
    })

    test('while it is held it is neither rolled back nor removed', async () => {
      const { workspaces, id, snapshots } = await startWithHistory(['a', 'b'])
      await workspaces.acquire(caller.accountId, id, 'sbx_1')
      const held = { code: 'workspace_in_use', context: { sandboxId: 'sbx_1' } }
      await expect(workspaces.rollback(id, snapshots[0]!, caller)).rejects.toMatchObject(held)
      await expect(workspaces.remove(id, caller)).rejects.toMatchObject(held)
      expect((await workspaces.get(id, caller)).headSnapshotId).toBe(snapshots[1])
    })

    test('letting go takes a snapshot of what changed, and none where nothing did', async () => {
      const { workspaces, id, driver } = await startWithHistory(['a'])
      const { upperId } = await workspaces.acquire(caller.accountId, id, 'sbx_1')
      await workspaces.release(id, 'sbx_1', { snapshot: 'stop' })
      expect((await workspaces.listSnapshots(id, caller, page)).data).toHaveLength(1)
      await workspaces.acquire(caller.accountId, id, 'sbx_1')
      driver.contents(upperId)!.set('/new', 'text')
      await workspaces.release(id, 'sbx_1', { snapshot: 'idle' })
      const { data } = await workspaces.listSnapshots(id, caller, page)
      expect(data.map(({ reason }) => reason).toSorted()).toEqual(['idle', 'manual'])
      expect((await driver.disks()).snapshots).toHaveLength(2)
    })

    test('with autoSnapshot off none is taken, and the files stay all the same', async () => {
      const { workspaces, driver } = await start()
      const { id } = await workspaces.create(wish({ autoSnapshot: false }), caller)
      const { upperId } = await workspaces.acquire(caller.accountId, id, 'sbx_1')
      driver.contents(upperId)!.set('/new', 'text')
      await workspaces.release(id, 'sbx_1', { snapshot: 'stop' })
      expect((await workspaces.listSnapshots(id, caller, page)).data).toEqual([])
      const again = await workspaces.acquire(caller.accountId, id, 'sbx_2')
      expect(driver.contents(again.upperId)!.get('/new')).toBe('text')
    })
  })

  describe('history', () => {
    test('a snapshot follows the one before it and is the head', async () => {
      const { workspaces, id, snapshots } = await startWithHistory(['a', 'b'])
      const { data } = await workspaces.listSnapshots(id, caller, page)
      expect(data.map(({ id: each, parentId, comment }) => [each, parentId, comment])).toEqual([
        [snapshots[1], snapshots[0], 'b'],
        [snapshots[0], null, 'a'],
      ])
      expect((await workspaces.get(id, caller)).headSnapshotId).toBe(snapshots[1])
    })

    test('going back brings the files back, and what had changed is kept as a snapshot', async () => {
      const { workspaces, world, id, snapshots, driver } = await startWithHistory(['a', 'b'])
      const disk = await diskOf(world, workspaces, id)
      disk.set('/file', 'not in any snapshot')
      const back = await workspaces.rollback(id, snapshots[0]!, caller)
      expect(back.headSnapshotId).toBe(snapshots[0])
      expect((await diskOf(world, workspaces, id)).get('/file')).toBe('a')
      const [kept] = (await workspaces.listSnapshots(id, caller, page)).data
      expect(kept).toMatchObject({ reason: 'rollback', parentId: snapshots[1] })
      expect(driver.contents(kept!.id)!.get('/file')).toBe('not in any snapshot')
      expect(driver.upperIds.size).toBe(1)
    })

    test('what was forked can go back to where it came from, and to no stranger', async () => {
      const { workspaces, world, snapshots } = await startWithHistory(['a', 'b'])
      const [made] = await workspaces.fork(snapshots[1]!, {}, caller)
      await workspaces.rollback(made!.id, snapshots[0]!, caller)
      expect((await diskOf(world, workspaces, made!.id)).get('/file')).toBe('a')
      const stranger = await workspaces.create(wish(), caller)
      await expect(workspaces.rollback(stranger.id, snapshots[0]!, caller)).rejects.toMatchObject({
        code: 'snapshot_not_found',
        cause: expect.stringContaining('fork'),
      })
    })

    test('forks are as the snapshot was, and go their own ways', async () => {
      const { workspaces, world, snapshots } = await startWithHistory(['a', 'b'])
      const made = await workspaces.fork(snapshots[0]!, { names: ['x', 'y', 'z'] }, caller)
      expect(made.map(({ name }) => name)).toEqual(['x', 'y', 'z'])
      ;(await diskOf(world, workspaces, made[0]!.id)).set('/file', 'changed')
      expect((await diskOf(world, workspaces, made[1]!.id)).get('/file')).toBe('a')
      expect((await diskOf(world, workspaces, 'work')).get('/file')).toBe('b')
    })

    test('a fork of a workspace takes what no snapshot has yet', async () => {
      const { workspaces, world, id } = await startWithHistory(['a'])
      ;(await diskOf(world, workspaces, id)).set('/file', 'newer')
      const [made] = await workspaces.forkWorkspace(id, {}, caller, { idempotencyKey: 'k' })
      expect((await diskOf(world, workspaces, made!.id)).get('/file')).toBe('newer')
      expect(await workspaces.forkWorkspace(id, {}, caller, { idempotencyKey: 'k' })).toEqual([made])
    })

    test('one of several names that is taken makes none of them', async () => {
      const { workspaces, snapshots, driver } = await startWithHistory(['a'])
      await expect(workspaces.fork(snapshots[0]!, { names: ['x', 'work'] }, caller)).rejects.toMatchObject({
        code: 'workspace_name_taken',
      })
      await expect(workspaces.get('x', caller)).rejects.toMatchObject({ code: 'workspace_not_found' })
      expect(driver.upperIds.size).toBe(1)
    })

    test('a name is given to one snapshot of a workspace', async () => {
      const { workspaces, id, snapshots } = await startWithHistory(['a', 'b'])
      expect(await workspaces.patchSnapshot(snapshots[0]!, { name: 'good' }, caller)).toMatchObject({ name: 'good' })
      await expect(workspaces.snapshot(id, { name: 'good', comment: '' }, caller)).rejects.toMatchObject({
        code: 'snapshot_name_taken',
        context: { snapshotId: snapshots[0] },
      })
      await workspaces.patchSnapshot(snapshots[0]!, { name: null }, caller)
      await workspaces.patchSnapshot(snapshots[1]!, { name: 'good' }, caller)
    })

    test('the snapshot a workspace stands on is not removed', async () => {
      const { workspaces, id, snapshots } = await startWithHistory(['a', 'b'])
      await expect(workspaces.removeSnapshot(snapshots[1]!, caller)).rejects.toMatchObject({
        code: 'snapshot_in_use',
        cause: `${id} stands on it`,
      })
      await workspaces.removeSnapshot(snapshots[0]!, caller)
      await expect(workspaces.getSnapshot(snapshots[0]!, caller)).rejects.toMatchObject({ code: 'snapshot_not_found' })
    })
  })

  describe('after a restart', () => {
    test('everything is there, and what no row knows is gone', async () => {
      const { workspaces, world, id, snapshots, driver } = await startWithHistory(['a', 'b'])
      await workspaces.stop()
      await driver.makeUpper({ upperId: 'wup_stray', from: 'host', diskMb: 100 })
      await driver.snapshot('wup_stray', 'snp_stray')
      const next = await serve(world)
      expect([...driver.upperIds]).toHaveLength(1)
      expect((await driver.disks()).snapshots.map(({ snapshotId }) => snapshotId).toSorted()).toEqual(
        snapshots.toSorted(),
      )
      expect((await diskOf(world, next, id)).get('/file')).toBe('b')
    })

    test('a disk that is gone is made again from the head', async () => {
      const { workspaces, world, id, driver } = await startWithHistory(['a', 'b'])
      await workspaces.stop()
      for (const upperId of driver.upperIds) driver.loseUpper(upperId)
      const next = await serve(world)
      expect((await next.get(id, caller)).isLocal).toBe(false)
      expect((await diskOf(world, next, id)).get('/file')).toBe('b')
    })

    test('a snapshot asked for again under its key is the one taken before, wherever the server died', async () => {
      let answered = false
      for (let writes = 0; !answered; writes += 1) {
        const { workspaces, world, id } = await startWithHistory(['a'])
        await workspaces.stop()
        const life = { writes: Infinity }
        const dying = await serve({ ...world, database: mortal(world.database, life) })
        const wanted = { name: 'kept', comment: '' }
        const ask = (server: typeof dying) => server.snapshot(id, wanted, caller, { idempotencyKey: 'k' })
        life.writes = writes
        answered = await ask(dying).then(
          () => true,
          () => false,
        )
        life.writes = 0
        await dying.stop()
        const next = await serve(world)
        const { id: snapshotId } = await ask(next)
        const { data } = await next.listSnapshots(id, caller, page)
        expect(data.map((snapshot) => snapshot.name)).toEqual(['kept', null])
        expect(data[0]!.id).toBe(snapshotId)
      }
    })

    test('an empty database removes nothing of another one', async () => {
      const { workspaces, driver } = await startWithHistory(['a'])
      await workspaces.stop()
      await serve({ ...(await newWorld(await open(workspaceMigrations))), driver })
      expect(driver.upperIds.size).toBe(1)
      expect((await driver.disks()).snapshots).toHaveLength(1)
    })
  })
})
