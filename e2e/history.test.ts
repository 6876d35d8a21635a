import { chownSync, cpSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { Delta, type Sandbox, type Snapshot, type Workspace } from '@delta-agents/sdk'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { newDataDir } from './global-setup.ts'
import { described, expectSame, python } from './history/files.ts'
import { ownUids, type Platform, startPlatform } from './platform.ts'

// What a workspace must never lose: every path, byte, owner, mode, time, link and attribute, over a random history, after snapshot, saving,
// and a start on another machine from storage alone.

/** The long form is run once for each runtime; what is stored is the same for all. */
const long = process.env['DELTA_TEST_ALL'] === '1' && process.env['DELTA_RUNTIME'] === undefined
const steps = long ? 10_000 : 1_000
const snapshotsTaken = long ? 10 : 4
const firstSeed = Number(process.env['DELTA_TEST_SEED'] ?? Date.now() % 1_000_000_000)
/** Folders the template has nothing in, and some it has: what is removed there leaves a mark in the layer. */
const folders = ['/workspace', '/home/user', '/root', '/usr/local/share', '/usr/share/doc/bash', '/etc/skel']
const uids = [ownUids(200), ownUids(200, 200)] as const
const stepMs = 600_000
const seedOf = `DELTA_TEST_SEED=${firstSeed}`

let here: Platform
let there: Platform
const dataDirs: string[] = []

beforeAll(async () => {
  dataDirs.push(newDataDir())
  // The fourth snapshot begins a chain of layers anew.
  here = await startPlatform({ dataDir: dataDirs[0]!, env: { ...uids[0], DELTA_LAYERS_MAX: '3' } })
})

afterAll(async () => {
  for (const platform of [here, there]) await platform?.stop()
  for (const dataDir of dataDirs) rmSync(dataDir, { recursive: true, force: true })
})

const client = ({ url, key }: Platform) => new Delta({ url, apiKey: key })

async function inFork(snapshot: Snapshot, look: (sandbox: Sandbox) => Promise<void>): Promise<void> {
  const [fork] = await snapshot.fork()
  await fork!.update({ autoSnapshot: false })
  {
    await using sandbox = await fork!.start()
    await look(sandbox)
  }
  await fork!.remove()
}

test(
  `a random history of ${steps} steps comes back whole, here and on another machine (${seedOf})`,
  { timeout: 1_800_000 },
  async () => {
    const workspace = await client(here).workspaces.create({ name: 'history', diskMb: 8_192 })
    const taken: { snapshot: Snapshot; files: Map<string, string> }[] = []
    for (let round = 0; round < snapshotsTaken; round += 1) {
      const sandbox = await workspace.start({ timeoutMs: 3_600_000 })
      const args = [String(firstSeed + round), String(Math.ceil(steps / snapshotsTaken)), ...folders]
      await python(sandbox, 'change.py', args)
      // Mounted anew: before, the kernel gives two names of a file that the template had the numbers of two files.
      await sandbox.stop()
      await sandbox.start()
      const files = await described(sandbox, folders)
      // Every other one of a running sandbox, the others after its stop.
      if (round % 2 === 0) {
        const snapshot = await workspace.snapshot({ name: `round-${round}` })
        await sandbox.kill()
        taken.push({ snapshot, files })
      } else {
        await sandbox.kill()
        taken.push({ snapshot: await workspace.snapshot({ name: `round-${round}` }), files })
      }
    }
    for (const { snapshot, files } of taken) {
      await inFork(snapshot, async (sandbox) =>
        expectSame(await described(sandbox, folders), files, `fork of ${snapshot.info.name}, ${seedOf}`),
      )
    }

    for (const { snapshot } of taken) await snapshot.saved({ signal: AbortSignal.timeout(stepMs) })
    await elsewhere()
    await client(there).workspaces.restore()
    const restored = await client(there).workspaces.get('history')
    expect(restored.id).toBe(workspace.id)
    const snapshots = new Map((await restored.snapshots().all()).map((one) => [one.info.name, one]))
    await expectHead(restored, taken.at(-1)!.files)
    for (const { snapshot, files } of taken.slice(0, -1)) {
      const same = snapshots.get(snapshot.info.name)
      expect(same?.id, `${snapshot.info.name} on the other machine`).toBe(snapshot.id)
      await inFork(same!, async (sandbox) =>
        expectSame(await described(sandbox, folders), files, `${snapshot.info.name} on the other machine, ${seedOf}`),
      )
    }
    const parents = (all: Snapshot[]) => new Map(all.map(({ id, info }) => [id, info.parentId]))
    const found = parents(await restored.snapshots().all())
    for (const [id, parentId] of parents(await workspace.snapshots().all())) expect(found.get(id), id).toBe(parentId)
    // More snapshots than a chain has layers: some began one anew, those of a stop among them.
    for (const layers of chainLengths(here.dataDir, taken)) expect(layers).toBeLessThanOrEqual(3)
    expect(taken.length).toBeGreaterThan(3)
  },
)

/** Of how many layers each is made up, as its document in storage says. */
function chainLengths(dataDir: string, taken: readonly { snapshot: Snapshot }[]): number[] {
  return taken.map(({ snapshot: { id } }) => {
    const document = readFileSync(join(dataDir, 'server/blobs/documents', `snapshots%2F${id}`), 'utf8')
    return (JSON.parse(document) as { layers: unknown[] }).layers.length
  })
}

async function expectHead(workspace: Workspace, files: Map<string, string>): Promise<void> {
  await using sandbox = await workspace.start()
  expectSame(await described(sandbox, folders), files, `the workspace on the other machine, ${seedOf}`)
}

/** A platform with an empty data folder and nothing of the first but its blobs. */
async function elsewhere(): Promise<void> {
  const dataDir = newDataDir()
  dataDirs.push(dataDir)
  const blobs = join(dataDir, 'server/blobs')
  cpSync(join(here.dataDir, 'server/blobs'), blobs, { recursive: true })
  // They belong to the process that speaks HTTP, the first uid of the platform's range.
  const uid = Number(uids[1].DELTA_UID_BASE)
  for (const path of [
    blobs,
    ...readdirSync(blobs, { recursive: true, encoding: 'utf8' }).map((name) => join(blobs, name)),
  ]) {
    chownSync(path, uid, uid)
  }
  there = await startPlatform({ dataDir, env: uids[1] })
}
