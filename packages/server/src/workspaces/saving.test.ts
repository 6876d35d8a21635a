import { createHash } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { gzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { systemClock } from '../kernel/clock.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { DeltaError } from '../kernel/errors.ts'
import { testHashBody } from '../kernel/http/testing-body-hash.ts'
import { silentLogger } from '../kernel/log.ts'
import type { BlobStore } from '../storage/blobs.ts'
import { tarEnd, tarHeader, tarPadding } from './image/tar.ts'
import { workspaceMigrations } from './migrations.ts'
import { createWorkspaces, type Workspaces } from './service.ts'
import { caller, diskOf, mortal, newWorld, type World, wish } from './testing.ts'

const page = { limit: 100 }

testDatabases('saving', (open) => {
  const opened: Workspaces[] = []

  async function serve(world: World, options: { saveTemplates?: boolean } = {}): Promise<Workspaces> {
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
    test(name, async () => {
      try {
        await body()
      } finally {
        for (const workspaces of opened.splice(0)) await workspaces.stop()
      }
    })

  const newOne = async () => newWorld(await open(workspaceMigrations))

  /** One snapshot for each text that `/file` had, all of them saved. */
  async function history(workspaces: Workspaces, world: World, texts: readonly string[], more: object = {}) {
    const { id } = await workspaces.create(wish({ name: 'work', ...more }), caller)
    const disk = await diskOf(world, workspaces, id)
    const snapshots: string[] = []
    for (const text of texts) {
      disk.set('/file', text)
      disk.set(`/kept-${text}`, text)
      snapshots.push((await workspaces.snapshot(id, { comment: text }, caller)).id)
    }
    for (const snapshotId of snapshots) await saved(workspaces, snapshotId)
    return { id, snapshots, disk }
  }

  async function saved(workspaces: Workspaces, snapshotId: string): Promise<void> {
    const state = async () => (await workspaces.getSnapshot(snapshotId, caller)).save.state
    await expect.poll(state, { timeout: 10_000 }).toBe('saved')
  }

  async function* once(bytes: Buffer) {
    yield bytes
  }

  /** Until storage knows the workspace as it is. */
  async function published({ blobs }: World, id: string, headId: string): Promise<void> {
    const head = async () => /"headId":"([^"]+)"/.exec((await blobs.getDocument(`workspaces/${id}`)) ?? '')?.[1]
    await expect.poll(head, { timeout: 10_000 }).toBe(headId)
  }

  async function digestsIn(blobs: BlobStore): Promise<string[]> {
    const digests: string[] = []
    for await (const { digest } of blobs.list()) digests.push(digest)
    return digests.toSorted()
  }

  async function documentsIn(blobs: BlobStore): Promise<string[]> {
    const names: string[] = []
    for (const prefix of ['workspaces/', 'snapshots/'])
      for await (const name of blobs.listDocuments(prefix)) names.push(name)
    return names.toSorted()
  }

  async function bytesOf(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
    const chunks: Uint8Array[] = []
    for await (const chunk of source) chunks.push(chunk)
    return Buffer.concat(chunks)
  }

  run('a saved workspace starts on a machine that knows nothing of it', async () => {
    const world = await newOne()
    const first = await serve(world)
    const { id, snapshots } = await history(first, world, ['a', 'b', 'c'], { metadata: { k: 'v' } })
    await published(world, id, snapshots[2]!)
    const { name, metadata, diskMb } = await first.get(id, caller)
    await first.stop()

    const { blobs } = world
    const other: World = { ...(await newOne()), blobs }
    const second = await serve(other)
    await expect.poll(async () => (await second.list(caller, page)).data.length, { timeout: 10_000 }).toBe(1)
    expect(await second.get('work', caller)).toMatchObject({ id, name, metadata, diskMb, isLocal: false })
    expect((await second.listSnapshots(id, caller, page)).data.map((each) => each.id).toSorted()).toEqual(
      snapshots.toSorted(),
    )
    const disk = await diskOf(other, second, id)
    expect(Object.fromEntries(disk)).toEqual({ '/file': 'c', '/kept-a': 'a', '/kept-b': 'b', '/kept-c': 'c' })
    await second.rollback(id, snapshots[0]!, caller)
    expect((await diskOf(other, second, id)).get('/file')).toBe('a')
    // And its history goes on there.
    ;(await diskOf(other, second, id)).set('/file', 'd')
    const next = await second.snapshot(id, { comment: '' }, caller)
    await saved(second, next.id)
  })

  run(
    'a server killed while it brings workspaces back is followed by one that ends it, and nothing is lost',
    async () => {
      const world = await newOne()
      const first = await serve(world)
      const { id, snapshots } = await history(first, world, ['a', 'b'])
      await published(world, id, snapshots[1]!)
      await first.stop()
      const before = [await documentsIn(world.blobs), await digestsIn(world.blobs)]
      for (let writes = 0, isDone = false; !isDone; writes += 1) {
        const fresh: World = { ...(await newOne()), blobs: world.blobs }
        const life = { writes }
        const dying = createWorkspaces({
          hashBody: testHashBody,
          ...fresh,
          database: mortal(fresh.database, life),
          clock: systemClock,
          log: silentLogger,
        })
        const listed = async () => (await dying.list(caller, page)).data.length === 1
        await dying.start().catch(() => {})
        await expect.poll(async () => life.writes < 0 || (await listed()), { timeout: 10_000 }).toBe(true)
        isDone = life.writes >= 0
        life.writes = 0
        await dying.stop()
        const next = await serve(fresh)
        await expect.poll(async () => (await next.list(caller, page)).data.length, { timeout: 10_000 }).toBe(1)
        expect((await next.listSnapshots(id, caller, page)).data.map((each) => each.id).toSorted()).toEqual(
          snapshots.toSorted(),
        )
        await next.stop()
        expect([await documentsIn(world.blobs), await digestsIn(world.blobs)]).toEqual(before)
      }
    },
  )

  run('layers that are equal are stored once', async () => {
    const world = await newOne()
    const workspaces = await serve(world)
    const { snapshots } = await history(workspaces, world, ['a'])
    const forks = await workspaces.fork(snapshots[0]!, { count: 2 }, caller)
    const digests = new Set<string>()
    for (const { id } of forks) {
      ;(await diskOf(world, workspaces, id)).set('/same', 'text')
      const { id: snapshotId } = await workspaces.snapshot(id, { comment: '' }, caller)
      await saved(workspaces, snapshotId)
      digests.add((await workspaces.getSnapshot(snapshotId, caller)).save.layer!.digest)
    }
    expect(digests.size).toBe(1)
    expect(await digestsIn(world.blobs)).toHaveLength(2)
  })

  run('an outage delays saving and loses nothing', async () => {
    const world = await newOne()
    let isAway = true
    const blobs: BlobStore = {
      ...world.blobs,
      put: async (blob, options) => {
        if (isAway) throw new DeltaError('storage_unavailable', 'The storage can not be reached')
        return world.blobs.put(blob, options)
      },
    }
    const workspaces = await serve({ ...world, blobs })
    const { id } = await workspaces.create(wish(), caller)
    ;(await diskOf(world, workspaces, id)).set('/file', 'a')
    const snapshot = await workspaces.snapshot(id, { comment: '' }, caller)
    const save = async () => (await workspaces.getSnapshot(snapshot.id, caller)).save
    await expect
      .poll(save, { timeout: 10_000 })
      .toMatchObject({ state: 'failed', error: expect.stringContaining('storage_unavailable') })
    // Local work goes on.
    await workspaces.fork(snapshot.id, {}, caller)
    isAway = false
    await expect.poll(save, { timeout: 10_000 }).toMatchObject({ state: 'saved', error: null })
    expect(await readdir(world.folder)).toEqual([])
  })

  run('a damaged layer is named and nothing is started on it', async () => {
    const world = await newOne()
    const first = await serve(world)
    const { id, snapshots } = await history(first, world, ['a'])
    await published(world, id, snapshots[0]!)
    const { digest } = (await first.getSnapshot(snapshots[0]!, caller)).save.layer!
    await first.stop()
    const blobs: BlobStore = {
      ...world.blobs,
      get: () => {
        throw new DeltaError('blob_damaged', `The blob ${digest} is damaged`, { context: { digest } })
      },
    }
    const other: World = { ...(await newOne()), blobs }
    const second = await serve(other)
    await expect.poll(async () => (await second.list(caller, page)).data.length, { timeout: 10_000 }).toBe(1)
    await expect(second.acquire(caller.accountId, id, 'sbx_1')).rejects.toMatchObject({
      code: 'blob_damaged',
      context: { digest },
    })
    expect((await second.get(id, caller)).heldBy).toBeNull()
    expect(other.driver.upperIds.size).toBe(0)
  })

  describe('what is kept', () => {
    run('the newest and those with a name; what later ones stand on stays until they are gone', async () => {
      const world = await newOne()
      const workspaces = await serve(world)
      const { id, snapshots } = await history(workspaces, world, ['a', 'b', 'c', 'd', 'e'])
      await workspaces.patchSnapshot(snapshots[1]!, { name: 'good' }, caller)
      await workspaces.patch(id, { retention: { keepLast: 2 } }, caller)
      await workspaces.collect()
      const left = (await workspaces.listSnapshots(id, caller, page)).data.map((each) => each.id)
      expect(left.toSorted()).toEqual([snapshots[1], snapshots[3], snapshots[4]].toSorted())
      const { snapshots: folders } = await world.driver.disks()
      expect(folders.map(({ snapshotId }) => snapshotId).toSorted()).toEqual(left.toSorted())
      // Their chain needs every layer.
      expect(await digestsIn(world.blobs)).toHaveLength(5)
      await workspaces.remove(id, caller)
      await workspaces.collect()
      expect(await digestsIn(world.blobs)).toEqual([])
      expect(await documentsIn(world.blobs)).toEqual([])
      expect((await world.driver.disks()).snapshots).toEqual([])
      expect(world.driver.upperIds.size).toBe(0)
    })

    run('a fork of a workspace that is gone can be forked, rolled back and restored from storage alone', async () => {
      const world = await newOne()
      const workspaces = await serve(world)
      const { id, snapshots } = await history(workspaces, world, ['a', 'b'])
      const [fork] = await workspaces.fork(snapshots[1]!, { names: ['fork'] }, caller)
      await workspaces.remove(id, caller)
      await workspaces.collect()
      await workspaces.fork(snapshots[1]!, { names: ['second'] }, caller)
      await workspaces.rollback('fork', snapshots[1]!, caller)
      await published(world, fork!.id, snapshots[1]!)
      await expect.poll(() => documentsIn(world.blobs), { timeout: 10_000 }).toContain(`snapshots/${snapshots[1]}`)
      await workspaces.stop()
      const other: World = { ...(await newOne()), blobs: world.blobs }
      const elsewhere = await serve(other)
      await expect.poll(async () => (await elsewhere.list(caller, page)).data.length, { timeout: 10_000 }).toBe(2)
      const { upperId } = await elsewhere.acquire(caller.accountId, 'fork', 'sbx_1')
      expect(other.driver.contents(upperId)?.get('/file')).toBe('b')
      await elsewhere.release(fork!.id, 'sbx_1')
      for (const name of ['fork', 'second']) await elsewhere.remove(name, caller)
      const left = async () => {
        await elsewhere.collect()
        return [...(await digestsIn(other.blobs)), ...(await documentsIn(other.blobs))]
      }
      await expect.poll(left, { timeout: 10_000 }).toEqual([])
    })

    run('a workspace and its forks come back whole, in whatever order they are found', async () => {
      const world = await newOne()
      const workspaces = await serve(world)
      const { id, snapshots } = await history(workspaces, world, ['a', 'b'])
      await workspaces.patchSnapshot(snapshots[0]!, { name: 'first' }, caller)
      // Of so many with ids of their own some come before it.
      const forks = await workspaces.fork(snapshots[1]!, { count: 6 }, caller)
      for (const fork of forks) {
        ;(await diskOf(world, workspaces, fork.id)).set('/file', fork.id)
        const { id: snapshotId } = await workspaces.snapshot(fork.id, { comment: '' }, caller)
        await saved(workspaces, snapshotId)
        await published(world, fork.id, snapshotId)
      }
      await published(world, id, snapshots[1]!)
      await workspaces.stop()
      const elsewhere = await serve({ ...(await newOne()), blobs: world.blobs })
      await expect.poll(async () => (await elsewhere.list(caller, page)).data.length, { timeout: 10_000 }).toBe(7)
      const there = (await elsewhere.listSnapshots(id, caller, page)).data
      expect(there.map((each) => each.id).toSorted()).toEqual(snapshots.toSorted())
      expect(there.find((each) => each.id === snapshots[0])?.name).toBe('first')
      expect((await elsewhere.get(id, caller)).headSnapshotId).toBe(snapshots[1])
    })

    run('what a fork stands on outlives the workspace it was made of', async () => {
      const world = await newOne()
      const workspaces = await serve(world)
      const { id, snapshots } = await history(workspaces, world, ['a', 'b'])
      const [fork] = await workspaces.fork(snapshots[1]!, {}, caller)
      await workspaces.remove(id, caller)
      await workspaces.collect()
      await workspaces.stop()
      for (const upperId of world.driver.upperIds) world.driver.loseUpper(upperId)
      const next = await serve(world)
      expect((await diskOf(world, next, fork!.id)).get('/file')).toBe('b')
      ;(await diskOf(world, next, fork!.id)).set('/file', 'c')
      const { id: snapshotId } = await next.snapshot(fork!.id, { comment: '' }, caller)
      await saved(next, snapshotId)
      await next.remove(fork!.id, caller)
      await next.collect()
      await next.collect()
      expect(await digestsIn(world.blobs)).toEqual([])
    })

    run('a pinned snapshot keeps its workspace from being removed, and stays', async () => {
      const world = await newOne()
      const workspaces = await serve(world)
      const { id, snapshots } = await history(workspaces, world, ['a', 'b'])
      expect(await workspaces.pin(snapshots[0]!, 'tpl_1')).toBe(true)
      await expect(workspaces.removeSnapshot(snapshots[0]!, caller)).rejects.toMatchObject({ code: 'snapshot_in_use' })
      await expect(workspaces.remove(id, caller)).rejects.toMatchObject({
        code: 'snapshot_in_use',
        cause: 'tpl_1 stands on it',
      })
      await workspaces.unpin(snapshots[0]!, 'tpl_1')
      await workspaces.remove(id, caller)
      expect(await workspaces.pin(snapshots[0]!, 'tpl_1')).toBe(false)
    })

    run('of a build’s workspace the pinned snapshot lives on by itself', async () => {
      const world = await newOne()
      const workspaces = await serve(world)
      const { id } = await workspaces.create(wish({ name: 'build' }), caller, { kind: 'build' })
      ;(await diskOf(world, workspaces, id)).set('/file', 'a')
      const { id: snapshotId } = await workspaces.snapshot(id, { comment: '', reason: 'build' }, caller)
      await workspaces.pin(snapshotId, 'tpl_1')
      await workspaces.remove(id, caller)
      await workspaces.collect()
      const [made] = await workspaces.fork(snapshotId, {}, caller)
      expect((await diskOf(world, workspaces, made!.id)).get('/file')).toBe('a')
      expect((await workspaces.list(caller, page)).data.map((each) => each.id)).toEqual([made!.id])
    })
  })

  describe('images', () => {
    /** The members of a tar, by name. */
    function membersOf(tar: Buffer): Map<string, Buffer> {
      const members = new Map<string, Buffer>()
      for (let at = 0; tar[at] !== 0;) {
        const name = tar.toString('utf8', at, tar.indexOf(0, at))
        const size = Number.parseInt(tar.toString('utf8', at + 124, at + 135), 8)
        members.set(name, tar.subarray(at + 512, at + 512 + size))
        at += 512 + Math.ceil(size / 512) * 512
      }
      return members
    }

    for (const form of ['tar', 'zstd'] as const)
      run(`an export with layers as ${form} comes back with the same digests`, async () => {
        const world = await newOne()
        const workspaces = await serve(world)
        const { snapshots } = await history(workspaces, world, ['a', 'b'])
        const archive = await bytesOf(await workspaces.exportImage(snapshots[1]!, caller, { form }))
        const members = membersOf(archive)
        for (const [name, bytes] of members) {
          const hex = /^blobs\/sha256\/(.*)$/.exec(name)?.[1]
          if (hex) expect(createHash('sha256').update(bytes).digest('hex')).toBe(hex)
        }
        expect([...members.keys()].slice(0, 2)).toEqual(['oci-layout', 'index.json'])

        const other = await newOne()
        const second = await serve(other)
        // In pieces that end nowhere in particular.
        const pieces = (async function* () {
          for (let at = 0; at < archive.length; at += 1_000) yield archive.subarray(at, at + 1_000)
        })()
        const made = await second.importImage(pieces, { name: 'back' }, caller)
        expect(made).toMatchObject({ name: 'back', template: 'scratch' })
        const disk = await diskOf(other, second, made.id)
        expect(Object.fromEntries(disk)).toEqual({ '/file': 'b', '/kept-a': 'a', '/kept-b': 'b' })
        const [snapshot] = (await second.listSnapshots(made.id, caller, page)).data
        const again = membersOf(await bytesOf(await second.exportImage(snapshot!.id, caller)))
        const blobs = (all: Map<string, Buffer>) =>
          [...all.keys()].filter((name) => name.startsWith('blobs/')).toSorted()
        expect(blobs(again)).toEqual(blobs(members))
        // What follows it leaves with the layers that came.
        disk.set('/file', 'c')
        const next = await second.snapshot(made.id, { comment: '' }, caller)
        const longer = membersOf(await bytesOf(await second.exportImage(next.id, caller, { form })))
        expect(blobs(longer)).toHaveLength(6)
        // It is saved as any other, and restored from there.
        await published(other, made.id, next.id)
        await second.collect()
        expect((await second.getSnapshot(snapshot!.id, caller)).save.state).toBe('saved')
      })

    const member = (name: string, text: string) => {
      const bytes = Buffer.from(text)
      return Buffer.concat([tarHeader(name, bytes.length), bytes, tarPadding(bytes.length)])
    }
    const digest = (text: string) => createHash('sha256').update(text).digest('hex')
    const blob = (text: string) => member(`blobs/sha256/${digest(text)}`, text)
    const descriptor = (text: string, mediaType = 'application/x') => ({
      mediaType,
      digest: `sha256:${digest(text)}`,
      size: Buffer.byteLength(text),
    })
    const layerType = 'application/vnd.oci.image.layer.v1.tar'
    function imageOf({ diffId, type = layerType, os = 'linux' }: { diffId?: string; type?: string; os?: string } = {}) {
      const layer = '["/file","a"]\n'
      const rootfs = { type: 'layers', diff_ids: [`sha256:${digest(diffId ?? layer)}`] }
      const config = JSON.stringify({ architecture: 'amd64', os, config: { Env: ['A=b'] }, rootfs })
      const manifest = JSON.stringify({
        schemaVersion: 2,
        config: descriptor(config),
        layers: [descriptor(layer, type)],
      })
      const index = JSON.stringify({ schemaVersion: 2, manifests: [descriptor(manifest)] })
      return { layer, config, manifest, index }
    }
    const archiveOf = (parts: Buffer[]) => Buffer.concat([...parts, tarEnd])
    run('parts may come in any order', async () => {
      const workspaces = await serve(await newOne())
      const { layer, config, manifest, index } = imageOf()
      const parts = [blob(layer), blob(manifest), blob(config), member('index.json', index)]
      const made = await workspaces.importImage(once(archiveOf(parts)), {}, caller)
      expect(made.template).toBe('scratch')
    })

    const good = imageOf()
    const bad: [string, () => Buffer, string][] = [
      ['no tar at all', () => Buffer.from('x'.repeat(2_000)), 'damaged'],
      ['a tar that is cut', () => archiveOf([blob(good.layer)]).subarray(0, 520), 'ends within'],
      ['no index', () => archiveOf([blob(good.layer)]), 'index.json'],
      ['an index that is no JSON', () => archiveOf([member('index.json', '{')]), 'no JSON'],
      ['a blob that is missing', () => archiveOf([member('index.json', good.index)]), 'missing'],
      [
        'a blob with another digest',
        () => archiveOf([member(`blobs/sha256/${digest('x')}`, 'y'), member('index.json', good.index)]),
        'digest',
      ],
      [
        'a layer of an unknown kind',
        () => {
          const { layer, config, manifest, index } = imageOf({ type: 'text/html' })
          return archiveOf([blob(layer), blob(config), blob(manifest), member('index.json', index)])
        },
        'text/html',
      ],
      [
        'an image for another system',
        () => {
          const { layer, config, manifest, index } = imageOf({ os: 'windows' })
          return archiveOf([blob(layer), blob(config), blob(manifest), member('index.json', index)])
        },
        'windows',
      ],
    ]
    for (const [what, archive, cause] of bad) {
      run(`${what} is refused by name and leaves nothing`, async () => {
        const world = await newOne()
        const workspaces = await serve(world)
        await expect(workspaces.importImage(once(archive()), {}, caller)).rejects.toMatchObject({
          code: 'image_invalid',
          cause: expect.stringContaining(cause),
        })
        expect(await readdir(world.folder)).toEqual([])
        expect((await workspaces.list(caller, page)).data).toEqual([])
      })
    }

    run('a layer whose content is not what the configuration says is refused and leaves nothing', async () => {
      const world = await newOne()
      const workspaces = await serve(world)
      const { layer, config, manifest, index } = imageOf({ diffId: 'something else' })
      const archive = archiveOf([blob(layer), blob(config), blob(manifest), member('index.json', index)])
      await expect(workspaces.importImage(once(archive), {}, caller)).rejects.toMatchObject({ code: 'layer_invalid' })
      await workspaces.collect()
      expect(await digestsIn(world.blobs)).toEqual([])
      expect(world.driver.upperIds.size).toBe(0)
      expect((await world.driver.disks()).snapshots).toEqual([])
    })
  })

  describe('an image that a build stands on', () => {
    const digestOf = (bytes: Uint8Array) => `sha256:${createHash('sha256').update(bytes).digest('hex')}` as const

    /** A compressed layer that counts how often its bytes were asked for. */
    function layerOf(path: string, text: string) {
      const tar = Buffer.from(`${JSON.stringify([path, text])}\n`)
      const bytes = gzipSync(tar)
      const asked = { times: 0 }
      const layer = {
        digest: digestOf(bytes),
        diffId: digestOf(tar),
        mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
        size: bytes.length,
        async *open(start: number) {
          asked.times += 1
          yield bytes.subarray(start)
        },
      }
      return { layer, asked, bytes }
    }

    const importing = (name: string) => ({
      name,
      comment: '',
      bounds: { maxBytes: 1_000_000, maxEntries: 1_000 },
      signal: new AbortController().signal,
      onLayer: () => undefined,
    })
    const config = { Env: ['A=b'] }

    run('leaves with the layers it came with, under a snapshot of a workspace on it too', async () => {
      const world = await newOne()
      const workspaces = await serve(world)
      const [one, two] = [layerOf('/one', '1'), layerOf('/two', '2')]
      const image = { config, layers: [one.layer, two.layer] }
      const { workspaceId, snapshotId } = await workspaces.importLayers(image, importing('build'), caller)
      ;(await diskOf(world, workspaces, workspaceId)).set('/added', 'x')
      const built = await workspaces.snapshot(workspaceId, { comment: '', reason: 'build' }, caller)
      await workspaces.pin(built.id, 'tpl_1')
      await workspaces.remove(workspaceId, caller)
      await workspaces.collect()
      const [fork] = await workspaces.fork(built.id, { names: ['fork'] }, caller)
      const disk = await diskOf(world, workspaces, fork!.id)
      expect(Object.fromEntries(disk)).toEqual({ '/one': '1', '/two': '2', '/added': 'x' })
      disk.set('/own', 'y')
      const { id } = await workspaces.snapshot('fork', { comment: '' }, caller)
      await saved(workspaces, id)
      const archive = await bytesOf(await workspaces.exportImage(id, caller, { form: 'tar' }))
      const manifest = /\{"schemaVersion":2,"mediaType":"[^"]*manifest[^\0]*/.exec(archive.toString('latin1'))![0]
      const { layers } = JSON.parse(manifest) as { layers: { digest: string; mediaType: string }[] }
      expect(layers.map(({ digest }) => digest).slice(0, 2)).toEqual([one.layer.digest, two.layer.digest])
      expect(layers.map(({ mediaType }) => mediaType.split('.').at(-1))).toEqual(['tar+gzip', 'tar+gzip', 'tar', 'tar'])
      expect(archive.includes(one.bytes) && archive.includes(two.bytes)).toBe(true)
      expect(archive.toString('latin1')).toContain('"Env":["A=b"]')
      expect(snapshotId).not.toBe(built.id)
    })

    run('does not fetch what the account has already, and gives nobody else a layer by its digest alone', async () => {
      const world = await newOne()
      const workspaces = await serve(world)
      const [base, more] = [layerOf('/base', 'secret'), layerOf('/more', 'm')]
      await workspaces.importLayers({ config, layers: [base.layer] }, importing('first'), caller)
      const known: boolean[] = []
      const onLayer = (_: number, { isHere }: { isHere: boolean }) => void known.push(isHere)
      const both = { config, layers: [base.layer, more.layer] }
      const second = await workspaces.importLayers(both, { ...importing('second'), onLayer }, caller)
      expect([known, base.asked.times, more.asked.times]).toEqual([[true, false], 1, 1])
      expect((await diskOf(world, workspaces, second.workspaceId)).get('/base')).toBe('secret')
      const stranger = { accountId: 'acc_b' }
      const guessed = { ...base.layer, open: () => once(Buffer.alloc(base.layer.size)) }
      await expect(
        workspaces.importLayers({ config, layers: [guessed] }, importing('guess'), stranger),
      ).rejects.toMatchObject({ code: 'image_invalid', cause: expect.stringContaining(base.layer.digest) })
      expect(await readdir(world.folder)).toEqual([])
      await workspaces.importLayers({ config, layers: [base.layer] }, importing('honest'), stranger)
      expect(base.asked.times).toBe(2)
    })

    run('that lies about how a layer is packed spoils it for nobody, and is refused when it is here, too', async () => {
      const world = await newOne()
      const workspaces = await serve(world)
      const { layer } = layerOf('/file', 'a')
      const refused = { code: 'image_invalid', cause: expect.stringContaining('its content is gzip') }
      for (const kind of ['', '+zstd']) {
        const mediaType = `application/vnd.oci.image.layer.v1.tar${kind}`
        const lie = { config, layers: [{ ...layer, mediaType }] }
        await expect(workspaces.importLayers(lie, importing('lie'), caller)).rejects.toMatchObject(refused)
      }
      expect(await readdir(world.folder)).toEqual([])
      const { snapshotId } = await workspaces.importLayers({ config, layers: [layer] }, importing('true'), caller)
      expect((await workspaces.getSnapshot(snapshotId, caller)).save.layer).toMatchObject({ digest: layer.digest })
      const again = { config, layers: [{ ...layer, mediaType: 'application/vnd.oci.image.layer.v1.tar' }] }
      await expect(workspaces.importLayers(again, importing('again'), caller)).rejects.toMatchObject(refused)
    })

    run('for which the disk has no room is refused before it is fetched, and while it comes', async () => {
      const world = await newOne()
      const workspaces = await serve(world)
      const { layer, asked } = layerOf('/file', 'a')
      const huge = { ...layer, size: 2 ** 45 }
      await expect(
        workspaces.importLayers({ config, layers: [huge] }, importing('huge'), caller),
      ).rejects.toMatchObject({ code: 'image_invalid', cause: expect.stringContaining('together') })
      const nearly = { ...layer, size: 2 ** 35 }
      world.driver.setRoom('low')
      await expect(
        workspaces.importLayers({ config, layers: [nearly] }, importing('low'), caller),
      ).rejects.toMatchObject({ code: 'disk_full' })
      expect(asked.times).toBe(0)
      world.driver.setRoom('fine')
      const filling = {
        ...layer,
        async *open() {
          yield Buffer.alloc(100)
          world.driver.setRoom('low')
          yield Buffer.alloc(32 * 1024 * 1024)
        },
        size: 40 * 1024 * 1024,
      }
      await expect(
        workspaces.importLayers({ config, layers: [filling] }, importing('filling'), caller),
      ).rejects.toMatchObject({ code: 'disk_full' })
      await expect(workspaces.importImage(once(Buffer.alloc(2_000)), {}, caller)).rejects.toMatchObject({
        code: 'disk_full',
      })
      expect(await readdir(world.folder)).toEqual([])
    })

    run('that lies about what a layer unpacks to spoils it for nobody', async () => {
      const world = await newOne()
      const workspaces = await serve(world)
      const { layer } = layerOf('/file', 'a')
      const lie = { config, layers: [{ ...layer, diffId: digestOf(Buffer.from('x')) }] }
      const refused = { code: 'layer_invalid' }
      await expect(workspaces.importLayers(lie, importing('lie'), caller)).rejects.toMatchObject(refused)
      const { snapshotId } = await workspaces.importLayers({ config, layers: [layer] }, importing('true'), caller)
      await expect(workspaces.importLayers(lie, importing('lie'), caller)).rejects.toMatchObject(refused)
      expect((await workspaces.getSnapshot(snapshotId, caller)).save.layer).toMatchObject({ diffId: layer.diffId })
    })

    run('is refused when all its layers together are too much, and leaves nothing', async () => {
      const world = await newOne()
      const workspaces = await serve(world)
      const layers = [layerOf('/one', 'x'.repeat(600)).layer, layerOf('/two', 'y'.repeat(600)).layer]
      const bounds = { maxBytes: 1_000, maxEntries: 1_000 }
      await expect(
        workspaces.importLayers({ config, layers }, { ...importing('big'), bounds }, caller),
      ).rejects.toMatchObject({ code: 'layer_too_large' })
      await workspaces.collect()
      expect(await digestsIn(world.blobs)).toEqual([])
      expect((await world.driver.disks()).snapshots).toEqual([])
      expect(await readdir(world.folder)).toEqual([])
    })
  })

  run('what changed is told of each snapshot, and between any two', async () => {
    const world = await newOne()
    const workspaces = await serve(world)
    const { id, snapshots, disk } = await history(workspaces, world, ['a', 'b'])
    const changes = async (snapshotId: string) => (await workspaces.getSnapshot(snapshotId, caller)).changes
    await expect.poll(() => changes(snapshots[1]!)).toMatchObject({ added: 1, changed: 1, removed: 0, bytes: 2 })
    disk.delete('/kept-a')
    disk.set('/usr/local/bin/tool', '#!')
    disk.set('/var/lib/dpkg/status', 'Package: jq\nStatus: install ok installed\nVersion: 1.6-2\n\n')
    disk.set('/usr/lib/python3/dist-packages/requests-2.31.0.dist-info/METADATA', 'Name: requests')
    disk.set('/workspace/node_modules/zod/package.json', '{"version":"4.6.7"}')
    const third = await workspaces.snapshot(id, { comment: '' }, caller)
    const packages = {
      apt: [{ name: 'jq', from: null, to: '1.6-2' }],
      pip: [{ name: 'requests', from: null, to: '2.31.0' }],
      npm: [{ name: 'zod', from: null, to: '4.6.7' }],
      tools: [{ path: '/usr/local/bin/tool', kind: 'added' }],
    }
    await expect.poll(() => changes(third.id), { timeout: 10_000 }).toMatchObject({ added: 4, removed: 1, packages })
    const forth = await workspaces.diff(snapshots[0]!, third.id, caller, { limit: 3 })
    expect(forth).toMatchObject({ added: 5, changed: 1, removed: 1, packages })
    expect(forth.data).toHaveLength(3)
    const rest = await workspaces.diff(snapshots[0]!, third.id, caller, { limit: 10, cursor: forth.nextCursor! })
    expect(rest.data).toHaveLength(4)
    expect(rest.nextCursor).toBeNull()
    const back = await workspaces.diff(third.id, snapshots[0]!, caller, { limit: 10 })
    expect(back).toMatchObject({ added: 1, changed: 1, removed: 5 })
    expect(back.packages.apt).toEqual([{ name: 'jq', from: '1.6-2', to: null }])
    expect((await workspaces.changes(third.id, caller, { limit: 10 })).data).toHaveLength(5)
    const bytes = await bytesOf(await workspaces.readFile(third.id, '/usr/local/bin/tool', caller))
    expect(bytes.toString()).toBe('#!')
  })
})
