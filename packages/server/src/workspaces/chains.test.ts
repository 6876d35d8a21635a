import { createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import { systemClock } from '../kernel/clock.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { testHashBody } from '../kernel/http/testing-body-hash.ts'
import { silentLogger } from '../kernel/log.ts'
import type { BlobStore } from '../storage/blobs.ts'
import { openArchive } from './image/import.ts'
import type { IncomingLayer } from './layers.ts'
import { workspaceMigrations } from './migrations.ts'
import { createWorkspaces, type Workspaces } from './service.ts'
import { caller, diskOf, mortal, mortalBlobs, newWorld, wish, type World } from './testing.ts'

const page = { limit: 100 }
const byId = (one: { id: string }, other: { id: string }) => (one.id < other.id ? -1 : 1)

testDatabases('chains of layers', (open) => {
  const opened: Workspaces[] = []

  async function serve(world: World, options: { chainLayers?: number; saveTemplates?: boolean } = {}) {
    const workspaces = createWorkspaces({
      hashBody: testHashBody,
      ...world,
      ...options,
      clock: systemClock,
      log: silentLogger,
    })
    await workspaces.start()
    opened.push(workspaces)
    return workspaces
  }

  const run = (name: string, body: () => Promise<void>) =>
    test(name, { timeout: 600_000 }, async () => {
      try {
        await body()
      } finally {
        for (const workspaces of opened.splice(0)) await workspaces.stop()
      }
    })

  /** Minutes. */
  const long = process.env['DELTA_TEST_ALL'] === '1' ? run : () => undefined

  const newOne = async () => newWorld(await open(workspaceMigrations))

  async function whenSaved(workspaces: Workspaces, snapshotId: string): Promise<void> {
    const state = async () => (await workspaces.getSnapshot(snapshotId, caller)).save
    await expect.poll(state, { timeout: 100_000 }).toMatchObject({ state: 'saved' })
  }

  async function documentOf(blobs: BlobStore, snapshotId: string) {
    const text = await blobs.getDocument(`snapshots/${snapshotId}`)
    return JSON.parse(text ?? 'null') as { parentId: string | null; layers: { snapshotId: string }[] } | null
  }

  async function published({ blobs }: World, id: string, headId: string): Promise<void> {
    const head = async () => /"headId":"([^"]+)"/.exec((await blobs.getDocument(`workspaces/${id}`)) ?? '')?.[1]
    await expect.poll(head, { timeout: 100_000 }).toBe(headId)
  }

  async function layersOfImage(workspaces: Workspaces, world: World, snapshotId: string) {
    const archive = await openArchive(await workspaces.exportImage(snapshotId, caller), world.folder)
    try {
      return { count: archive.layers.length, config: archive.image.config }
    } finally {
      await archive.close()
    }
  }

  async function historyOf(workspaces: Workspaces, id: string) {
    const all: { id: string; parentId: string | null; comment: string }[] = []
    for (let cursor: string | undefined; ;) {
      const { data, nextCursor } = await workspaces.listSnapshots(id, caller, { ...page, cursor })
      all.push(...data.map(({ id: each, parentId, comment }) => ({ id: each, parentId, comment })))
      if (nextCursor === null) return all.toSorted(byId)
      cursor = nextCursor
    }
  }

  /** One named snapshot for each number, in which `/file` is that number, `/n` is there and `/n-1` is not. */
  async function grow(workspaces: Workspaces, world: World, id: string, numbers: readonly number[]) {
    const disk = await diskOf(world, workspaces, id)
    const snapshots: string[] = []
    for (const number of numbers) {
      disk.set('/file', `${number}`)
      disk.set(`/${number}`, '')
      disk.delete(`/${number - 1}`)
      const { id: made } = await workspaces.snapshot(id, { name: `s${number}`, comment: `${number}` }, caller)
      snapshots.push(made)
    }
    return snapshots
  }

  function layerOf(path: string): IncomingLayer {
    const bytes = Buffer.from(`${JSON.stringify([path, ''])}\n`)
    const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}` as const
    return {
      digest,
      diffId: digest,
      mediaType: 'application/vnd.oci.image.layer.v1.tar',
      size: bytes.length,
      async *open(start) {
        yield bytes.subarray(start)
      },
    }
  }

  const count = (length: number, from = 0) => Array.from({ length }, (_, at) => from + at)

  run('a history longer than a chain may be is saved in short chains, and is whole here and elsewhere', async () => {
    const world = await newOne()
    const first = await serve(world, { chainLayers: 4 })
    const { id } = await first.create(wish({ name: 'work' }), caller)
    const snapshots = await grow(first, world, id, count(11))
    await whenSaved(first, snapshots.at(-1)!)
    await published(world, id, snapshots.at(-1)!)
    const lengths: number[] = []
    for (const [at, snapshotId] of snapshots.entries()) {
      const document = await documentOf(world.blobs, snapshotId)
      lengths.push(document!.layers.length)
      expect(document!.parentId).toBe(snapshots[at - 1] ?? null)
    }
    expect(lengths).toEqual([1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3])
    // With the template's.
    expect((await layersOfImage(first, world, snapshots[7]!)).count).toBe(1 + 4)
    expect((await layersOfImage(first, world, snapshots[8]!)).count).toBe(1 + 1)
    const before = await historyOf(first, id)
    const diff = await first.diff(snapshots[2]!, snapshots[9]!, caller, page)
    await first.stop()

    const other: World = { ...(await newOne()), blobs: world.blobs }
    const second = await serve(other, { chainLayers: 4 })
    await expect.poll(async () => (await second.list(caller, page)).data.length, { timeout: 10_000 }).toBe(1)
    expect(await historyOf(second, id)).toEqual(before)
    expect(Object.fromEntries(await diskOf(other, second, id))).toEqual({ '/file': '10', '/10': '' })
    expect(await second.diff(snapshots[2]!, snapshots[9]!, caller, page)).toEqual(diff)
    for (const at of [8, 3, 5]) {
      await second.rollback(id, snapshots[at]!, caller)
      expect(Object.fromEntries(await diskOf(other, second, id))).toEqual({ '/file': `${at}`, [`/${at}`]: '' })
    }
  })

  run('what has room in no chain any more is removed with the snapshots it was of', async () => {
    const world = await newOne()
    const workspaces = await serve(world, { chainLayers: 3 })
    const { id } = await workspaces.create(wish({ name: 'work', retention: { keepLast: 1 } }), caller)
    const disk = await diskOf(world, workspaces, id)
    const made: string[] = []
    for (const number of count(8)) {
      disk.set('/file', `${number}`)
      made.push((await workspaces.snapshot(id, { comment: '' }, caller)).id)
      await whenSaved(workspaces, made.at(-1)!)
    }
    await published(world, id, made[7]!)
    await workspaces.collect()
    // Numbers 6 and 7 are a chain; nothing of the six before is needed.
    const layers: string[] = []
    for await (const { digest } of world.blobs.list()) layers.push(digest)
    expect(layers).toHaveLength(2)
    const left: string[] = []
    for await (const name of world.blobs.listDocuments('snapshots/')) left.push(name)
    expect(left).toEqual([`snapshots/${made[7]!}`])
    expect(await historyOf(workspaces, id)).toEqual([{ id: made[7], parentId: made[6], comment: '' }])
    await workspaces.stop()
    const other: World = { ...(await newOne()), blobs: world.blobs }
    const second = await serve(other, { chainLayers: 3 })
    await expect.poll(async () => (await second.list(caller, page)).data.length, { timeout: 10_000 }).toBe(1)
    expect(Object.fromEntries(await diskOf(other, second, id))).toEqual({ '/file': '7' })
  })

  run('a snapshot that was dropped from the middle of a history leaves its followers in one line', async () => {
    const world = await newOne()
    const workspaces = await serve(world, { chainLayers: 2 })
    const { id } = await workspaces.create(wish({ name: 'work' }), caller)
    const snapshots = await grow(workspaces, world, id, count(5))
    await whenSaved(workspaces, snapshots[4]!)
    // The third begins a chain: nothing needs the second but history.
    await workspaces.removeSnapshot(snapshots[1]!, caller)
    await workspaces.collect()
    const parents = new Map((await historyOf(workspaces, id)).map((each) => [each.id, each.parentId]))
    expect(parents.get(snapshots[2]!)).toBe(snapshots[0])
    const parentInStorage = async () => (await documentOf(world.blobs, snapshots[2]!))?.parentId
    await workspaces.patchSnapshot(snapshots[4]!, { comment: 'kicks' }, caller)
    await expect.poll(parentInStorage, { timeout: 10_000 }).toBe(snapshots[0])
  })

  run('a document of an earlier version, with thousands of layers, is restored', async () => {
    const world = await newOne()
    const links = count(2_500).map((number) => {
      const digest = `sha256:${number.toString(16).padStart(64, '0')}`
      const layer = {
        digest,
        diffId: digest,
        mediaType: 'application/vnd.oci.image.layer.v1.tar+zstd',
        size: 1,
        tarSize: 1,
      }
      return { snapshotId: `snp_${number}`, ...layer }
    })
    const own = { version: 1, accountId: caller.accountId, template: 'scratch', name: null, createdAt: 1 }
    const workspace = { ...own, name: 'old', diskMb: 64, keepLast: 5, autoSnapshot: true, metadata: {} }
    const snapshot = { ...own, identity: 'scratch', templateLayer: null, comment: '', reason: 'stop', image: null }
    await world.blobs.putDocument(
      'workspaces/wsp_old',
      JSON.stringify({ ...workspace, id: 'wsp_old', headId: 'snp_2499' }),
    )
    for (const at of [2_499, 10]) {
      const document = { ...snapshot, id: `snp_${at}`, workspaceId: 'wsp_old', layers: links.slice(0, at + 1) }
      await world.blobs.putDocument(`snapshots/snp_${at}`, JSON.stringify(document))
    }
    const workspaces = await serve(world)
    await expect.poll(async () => (await workspaces.list(caller, page)).data.length, { timeout: 10_000 }).toBe(1)
    expect(await historyOf(workspaces, 'wsp_old')).toEqual([
      { id: 'snp_10', parentId: 'snp_9', comment: '' },
      { id: 'snp_2499', parentId: 'snp_2498', comment: '' },
    ])
    expect(await workspaces.get('old', caller)).toMatchObject({ headSnapshotId: 'snp_2499' })
  })

  run('documents whose histories go round are restored as far as they make sense', async () => {
    const world = await newOne()
    const first = await serve(world, { chainLayers: 2 })
    const { id } = await first.create(wish({ name: 'work' }), caller)
    const snapshots = await grow(first, world, id, count(3))
    await whenSaved(first, snapshots[2]!)
    await published(world, id, snapshots[2]!)
    await first.stop()
    const { blobs } = world
    const put = async (at: number, parentId: string | undefined) => {
      const document = await documentOf(blobs, snapshots[at]!)
      await blobs.putDocument(`snapshots/${snapshots[at]}`, JSON.stringify({ ...document, parentId }))
    }
    await put(0, snapshots[2])
    const other: World = { ...(await newOne()), blobs }
    const second = await serve(other, { chainLayers: 2 })
    await expect.poll(async () => (await second.list(caller, page)).data.length, { timeout: 10_000 }).toBe(1)
    const parents = (await historyOf(second, id)).map(({ parentId }) => parentId)
    expect(parents.filter((parentId) => parentId === null)).toHaveLength(1)
    expect(Object.fromEntries(await diskOf(other, second, id))).toEqual({ '/file': '2', '/2': '' })
  })

  run('a chain that begins anew stands on the image it came with, and tells how a sandbox starts', async () => {
    const config = { Env: ['A=b'] }
    for (const [chainLayers, lengths] of [
      [4, [3, 4, 3, 4, 3]],
      // The image takes more than half of it.
      [3, [3, 1, 2, 3, 1]],
    ] as const) {
      const world = await newOne()
      const workspaces = await serve(world, { chainLayers })
      const layers = ['/one', '/two'].map((path) => layerOf(path))
      const importing = { name: 'image', comment: '', signal: new AbortController().signal, onLayer: () => undefined }
      const bounds = { maxBytes: 1_000_000, maxEntries: 1_000 }
      const made = await workspaces.importLayers({ config, layers }, { ...importing, bounds }, caller)
      const [fork] = await workspaces.fork(made.snapshotId, { names: ['work'] }, caller)
      const snapshots = await grow(workspaces, world, fork!.id, count(5))
      await whenSaved(workspaces, snapshots[4]!)
      const found = []
      for (const snapshotId of snapshots) {
        const image = await layersOfImage(workspaces, world, snapshotId)
        expect(image.config).toMatchObject(config)
        found.push(image.count)
      }
      expect(found).toEqual(lengths)
    }
  })

  run('a document whose writing was cut off anywhere is written after the restart', async () => {
    const world = await newOne()
    const plenty = 1_000_000
    const life = { writes: plenty }
    const dying = { ...world, database: mortal(world.database, life), blobs: mortalBlobs(world.blobs, life) }
    let workspaces = await serve(dying)
    const { id } = await workspaces.create(wish({ name: 'work' }), caller)
    const [snapshotId] = await grow(workspaces, world, id, [1])
    await whenSaved(workspaces, snapshotId!)
    await published(world, id, snapshotId!)
    const inStorage = async () =>
      /"name":"([^"]+)"/.exec((await world.blobs.getDocument(`snapshots/${snapshotId}`))!)?.[1]
    // What is done in the background is over: a write of it would be counted as one of the change's.
    const quiet = async () => {
      const before = life.writes
      await systemClock.sleep(200)
      return life.writes === before
    }
    // The change itself, then what says that its document is being written, the document, and what says that it is.
    for (let writes = 1; writes <= 4; writes += 1) {
      await expect.poll(quiet, { timeout: 10_000 }).toBe(true)
      life.writes = writes
      await workspaces.patchSnapshot(snapshotId!, { name: `name-${writes}` }, caller)
      await expect.poll(() => life.writes, { timeout: 10_000 }).toBeLessThan(writes < 4 ? 0 : 1)
      await workspaces.stop()
      life.writes = plenty
      workspaces = await serve(dying)
      await expect.poll(inStorage, { timeout: 10_000 }).toBe(`name-${writes}`)
    }
    await expect.poll(quiet, { timeout: 10_000 }).toBe(true)
    // What may have a document is removed with it.
    life.writes = 1
    await workspaces.patchSnapshot(snapshotId!, { name: null }, caller)
    await workspaces.stop()
    life.writes = plenty
    workspaces = await serve(dying)
    await workspaces.remove(id, caller)
    await workspaces.collect()
    expect(await world.blobs.getDocument(`snapshots/${snapshotId}`)).toBeNull()
  })

  long(
    'killed at any write or call to storage, what is listed is in storage as it is listed, and nothing else',
    async () => {
      for (let writes = 0, isOver = false; !isOver; writes += 1) {
        const world = await newOne()
        const life = { writes }
        const dying = { ...world, database: mortal(world.database, life), blobs: mortalBlobs(world.blobs, life) }
        const seen = (async () => {
          const first = await serve(dying, { chainLayers: 2 })
          const { id } = await first.create(wish({ name: 'work', retention: { keepLast: 1 } }), caller)
          const disk = await diskOf(dying, first, id)
          const until = async (what: () => Promise<unknown>) => {
            while (!(await what())) {
              if (life.writes < 0) throw new Error('The server was killed')
              await systemClock.sleep(1)
            }
          }
          let last = ''
          for (const text of ['a', 'b', 'c']) {
            disk.set('/file', text)
            last = (await first.snapshot(id, { comment: text }, caller)).id
            await until(async () => (await first.getSnapshot(last, caller)).save.state === 'saved')
          }
          await first.patchSnapshot(last, { name: 'named' }, caller)
          const document = async () => (await world.blobs.getDocument(`snapshots/${last}`)) ?? ''
          await until(async () => (await document()).includes('"named"'))
          await first.collect()
        })()
        isOver = await seen.then(
          () => life.writes >= 0,
          () => false,
        )
        for (const workspaces of opened.splice(0)) await workspaces.stop()

        const again = await serve(world, { chainLayers: 2 })
        const [workspace] = (await again.list(caller, page)).data
        const listed = async () => (workspace ? (await again.listSnapshots(workspace.id, caller, page)).data : [])
        const inStorage = async () => {
          const found: { id: string; name: string | null }[] = []
          for await (const document of world.blobs.listDocuments('snapshots/')) {
            const { id, name } = JSON.parse((await world.blobs.getDocument(document)) ?? '{}') as {
              id: string
              name: string
            }
            found.push({ id, name })
          }
          return found
        }
        await again.collect()
        const expected = (await listed()).map(({ id, name }) => ({ id, name })).toSorted(byId)
        await expect
          .poll(async () => (await inStorage()).toSorted(byId), { timeout: 10_000, message: `killed at ${writes}` })
          .toEqual(expected)
        if (isOver) expect(expected.map(({ name }) => name)).toEqual(['named'])
        await again.stop()
        opened.length = 0
      }
    },
  )
})
