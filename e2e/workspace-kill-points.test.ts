import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Delta, DeltaApiError, type Snapshot, type Workspace } from '@delta-agents/sdk'
import { expect, test } from 'vitest'
import { newDataDir } from './global-setup.ts'
import { leftovers } from './leftovers.ts'
import { ownUids, type Platform, startPlatform } from './platform.ts'
import { entriesOf, httpPid } from './processes.ts'
import { once, persist, type Random, seeded, unknown } from './workload.ts'

// Killed at random points of snapshot, saving, rollback, fork and removal: always the old or the new state, never a third, and nothing is left.

/** The long form is run once for each runtime; what is killed here is the same on all. */
const long = process.env['DELTA_TEST_ALL'] === '1' && process.env['DELTA_RUNTIME'] === undefined
const [platforms, killsEach] = long ? [5, 40] : [1, 20]
const firstSeed = Number(process.env['DELTA_TEST_SEED'] ?? Date.now() % 1_000_000_000)
const eventuallyMs = 60_000
const mostWorkspaces = 4
const mostSnapshots = 8
const uids = ownUids(90)
const statePath = '/workspace/state'

interface KnownSnapshot {
  snapshot: Snapshot
  content: string
}

interface KnownWorkspace {
  workspace: Workspace
  content: string
  snapshots: Map<string, KnownSnapshot>
}

interface World {
  random: Random
  dataDir: string
  platform: Platform
  delta: Delta
  workspaces: Map<string, KnownWorkspace>
  number: number
  httpKills: number
  story: string[]
}

for (const seed of Array.from({ length: platforms }, (_, step) => firstSeed + step)) {
  test(
    `workspaces survive ${killsEach} kills in their old or their new state (DELTA_TEST_SEED=${seed})`,
    { timeout: 900_000 },
    () => live(seed),
  )
}

async function live(seed: number): Promise<void> {
  const dataDir = newDataDir()
  const platform = await startPlatform({ dataDir, env: uids })
  const delta = new Delta({ url: platform.url, apiKey: platform.key, maxRetries: 0 })
  const world: World = {
    random: seeded(seed),
    dataDir,
    platform,
    delta,
    workspaces: new Map(),
    number: 0,
    httpKills: 0,
    story: [],
  }
  try {
    await begin(world)
    for (let kill = 0; kill < killsEach; kill += 1) {
      const [name, work] = chooseWork(world)
      const afterMs = world.random.between(0, 120)
      const crash = chooseCrash(world)
      world.story.push(`${kill + 1}: ${name}, ${crash} after ${afterMs} ms`)
      const done = work()
      done.catch(() => {})
      await sleep(afterMs)
      await crashes[crash](world)
      await done
      await judge(world)
    }
    await end(world)
    rmSync(dataDir, { recursive: true, force: true })
  } catch (cause) {
    await world.platform.stop().catch(() => {})
    const message = cause instanceof Error ? cause.message : String(cause)
    const told = `DELTA_TEST_SEED=${seed}: ${message}\n${world.story.join('\n')}\ndata: ${dataDir}\n${world.platform.log().slice(-20_000)}`
    throw new Error(told, { cause })
  }
}

async function begin(world: World): Promise<void> {
  const workspace = await world.delta.workspaces.create({ retention: { keepLast: 3 } })
  world.workspaces.set(workspace.id, { workspace, content: '', snapshots: new Map() })
}

function chooseWork(world: World): [string, () => Promise<void>] {
  const { random } = world
  const known = random.pick([...world.workspaces.values()])
  const taken = [...known.snapshots.values()]
  const all: [string, () => Promise<void>][] = [
    ['write and stop', () => write(world, known)],
    ['write and stop', () => write(world, known)],
    ['snapshot', () => takeSnapshot(world, known)],
  ]
  if (taken.length > 0) {
    const target = random.pick(taken)
    all.push(['rollback', () => rollback(known, target)])
    if (world.workspaces.size < mostWorkspaces) all.push(['fork', () => fork(world, target)])
    if (taken.length > mostSnapshots) all.push(['forget a snapshot', () => forget(known, target)])
  }
  if (world.workspaces.size > 1) all.push(['remove a workspace', () => removeWorkspace(world, known)])
  return random.pick(all)
}

/** What a command wrote and synced is there; what was given up before the answer is there or not. */
async function write(world: World, known: KnownWorkspace): Promise<void> {
  const content = `${(world.number += 1)}`
  const idempotencyKey = `write-${content}`
  const sandbox = await persist(() => known.workspace.start({ idempotencyKey, timeoutMs: 600_000, ifHeld: 'join' }))
  const answer = await once(() => sandbox.commands.run(`echo ${content} > ${statePath} && sync`))
  if (answer === unknown) {
    const there = (await persist(() => sandbox.commands.run(`cat ${statePath} || true`))).stdout.trim()
    expect([known.content, content, ''], 'what a command that was cut may have left').toContain(there)
    known.content = there
  } else {
    expect(answer).toMatchObject({ exitCode: 0 })
    known.content = content
  }
  await persist(() => sandbox.kill())
}

async function takeSnapshot(world: World, known: KnownWorkspace): Promise<void> {
  const name = `s${(world.number += 1)}`
  const asked = () => known.workspace.snapshot({ name, idempotencyKey: name })
  const answer = await once(asked)
  const snapshot = answer === unknown ? await persist(asked) : answer
  known.snapshots.set(snapshot.id, { snapshot, content: known.content })
}

async function rollback(known: KnownWorkspace, { snapshot, content }: KnownSnapshot): Promise<void> {
  const answer = await once(() => known.workspace.rollback(snapshot))
  if (answer === unknown) await persist(() => known.workspace.rollback(snapshot))
  known.content = content
}

async function fork(world: World, { snapshot, content }: KnownSnapshot): Promise<void> {
  const idempotencyKey = `fork-${(world.number += 1)}`
  const asked = () => snapshot.fork({ idempotencyKey, names: [idempotencyKey] })
  const answer = await once(asked)
  const [workspace] = answer === unknown ? await persist(asked) : answer
  world.workspaces.set(workspace!.id, { workspace: workspace!, content, snapshots: new Map() })
}

async function forget(known: KnownWorkspace, { snapshot }: KnownSnapshot): Promise<void> {
  const gone = () =>
    snapshot.remove().catch((error: unknown) => {
      if (error instanceof DeltaApiError && error.code === 'snapshot_not_found') return
      throw error
    })
  try {
    if ((await once(gone)) === unknown) await persist(gone)
    known.snapshots.delete(snapshot.id)
  } catch (error) {
    // The workspace stands on it.
    if (!(error instanceof DeltaApiError) || error.code !== 'snapshot_in_use') throw error
  }
}

async function removeWorkspace(world: World, { workspace }: KnownWorkspace): Promise<void> {
  const gone = () =>
    workspace.remove().catch((error: unknown) => {
      if (error instanceof DeltaApiError && error.code === 'workspace_not_found') return
      throw error
    })
  if ((await once(gone)) === unknown) await persist(gone)
  world.workspaces.delete(workspace.id)
}

type Crash = 'http' | 'helper' | 'both'

function chooseCrash({ random, httpKills }: World): Crash {
  const how = random.pick(['http', 'helper', 'both'] as const)
  return how === 'http' && httpKills >= 3 ? 'both' : how
}

const crashes: Record<Crash, (world: World) => Promise<void>> = {
  async http(world) {
    world.httpKills += 1
    process.kill(await httpPid(world.platform.pid), 'SIGKILL')
    await healthy(world)
  },
  async helper(world) {
    await world.platform.kill()
    await startAgain(world)
  },
  async both(world) {
    const pid = await httpPid(world.platform.pid)
    await world.platform.kill()
    if (existsSync(`/proc/${pid}`)) process.kill(pid, 'SIGKILL')
    await startAgain(world)
  },
}

async function startAgain(world: World): Promise<void> {
  world.platform = await startPlatform({ dataDir: world.dataDir, port: world.platform.port, env: uids })
  world.httpKills = 0
  await healthy(world)
}

async function healthy({ delta, platform }: World): Promise<void> {
  await httpPid(platform.pid)
  const status = () => delta.health().then((health) => health.status, String)
  await expect.poll(status, { timeout: eventuallyMs, interval: 10 }).toBe('ok')
}

/** What is listed is what is known, each with what it held. */
async function judge(world: World): Promise<void> {
  const listed = await persist(() => world.delta.workspaces.list({ pageSize: 500 }).all())
  expect(listed.map(({ id }) => id).toSorted()).toEqual([...world.workspaces.keys()].toSorted())
  const there = new Set<string>()
  for (const { workspace, snapshots } of world.workspaces.values()) {
    const found = await persist(() => workspace.snapshots({ pageSize: 500 }).all())
    for (const { id } of found) there.add(id)
    for (const { snapshot, content } of snapshots.values()) {
      expect(there.has(snapshot.id), `${snapshot.info.name} of ${workspace.id}`).toBe(true)
      expect(await stateIn(snapshot), `${snapshot.info.name} of ${workspace.id}`).toBe(content)
    }
    // The rest are those of a stop, a rollback or a fork, whose number retention decides.
    const others = found.filter(({ id }) => !snapshots.has(id))
    expect(others.filter(({ info }) => info.name !== null).map(({ info }) => info)).toEqual([])
  }
  const one = world.random.pick([...world.workspaces.values()])
  await persist(async () => {
    const sandbox = await one.workspace.start({ ifHeld: 'join', timeoutMs: 600_000 })
    const { stdout } = await sandbox.commands.run(`cat ${statePath} || true`)
    await sandbox.kill()
    expect(stdout.trim(), `${one.workspace.id} itself`).toBe(one.content)
  })
  await expectNothingElse(world)
}

async function stateIn(snapshot: Snapshot): Promise<string> {
  try {
    return Buffer.from(await persist(() => snapshot.read(statePath)))
      .toString()
      .trim()
  } catch (error) {
    if (error instanceof DeltaApiError && error.status === 404) return ''
    throw error
  }
}

/** Disks and snapshots on the machine are those that are listed. */
async function expectNothingElse(world: World): Promise<void> {
  const { dataDir, delta } = world
  const strangers = async (): Promise<string[]> => {
    const workspaces = await persist(() => delta.workspaces.list({ pageSize: 500 }).all())
    const known = new Set<string>()
    for (const workspace of workspaces) {
      // That of a fork may belong to a workspace that was removed.
      if (workspace.info.headSnapshotId !== null) known.add(workspace.info.headSnapshotId)
      for (const { id } of await persist(() => workspace.snapshots({ pageSize: 500 }).all())) known.add(id)
    }
    const snapshots = entriesOf(join(dataDir, 'pool/snapshots')).filter((id) => !known.has(id))
    const uppers = entriesOf(join(dataDir, 'pool/uppers')).filter((id) => id.startsWith('wup_'))
    const halves = ['pool/new', 'pool/trash'].flatMap((folder) => entriesOf(join(dataDir, folder)))
    return [
      ...snapshots,
      ...halves,
      ...(uppers.length === workspaces.length ? [] : [`${uppers.length} disks of ${workspaces.length}`]),
    ]
  }
  await expect.poll(strangers, { timeout: eventuallyMs, interval: 50 }).toEqual([])
}

/** When everything is removed, nothing is left of it but what the template itself is. */
async function end(world: World): Promise<void> {
  // A copy: each is taken out of it.
  for (const known of Array.from(world.workspaces.values())) {
    for (const { snapshot } of known.snapshots.values()) await persist(() => snapshot.update({ name: null }))
    await removeWorkspace(world, known)
  }
  await expectNothingElse(world)
  await expect
    .poll(() => blobsIn(world.dataDir), { timeout: eventuallyMs, interval: 50, message: 'blobs that nothing needs' })
    .toEqual([])
  await world.platform.stop()
  // Whoever makes a mount namespace on this machine at that moment holds what is mounted a little longer.
  await expect.poll(() => leftovers(world.dataDir), { timeout: eventuallyMs, interval: 50 }).toEqual([])
}

function blobsIn(dataDir: string): string[] {
  const folder = join(dataDir, 'server/blobs/sha256')
  return entriesOf(folder).flatMap((first) => entriesOf(join(folder, first)))
}
