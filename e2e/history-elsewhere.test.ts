import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Delta, type Snapshot, type Workspace } from '@delta-agents/sdk'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type FaultProxy, startFaultProxy } from '../packages/server/src/storage/s3/testing/fault-proxy.ts'
import { type S3Server, startS3Server } from '../packages/server/src/storage/s3/testing/server.ts'
import { newDataDir } from './global-setup.ts'
import { described, expectSame, python } from './history/files.ts'
import { ociArchive, pythonSystem } from './images.ts'
import { leftovers } from './leftovers.ts'
import { ownUids, type Platform, startPlatform } from './platform.ts'

// A workspace saved on one machine starts on another, which has a data folder of its own and nothing but the bucket and its key.

/** The long form is run once for each runtime; what is stored is the same for all. */
const long = process.env['DELTA_TEST_ALL'] === '1' && process.env['DELTA_RUNTIME'] === undefined
const steps = long ? 3_000 : 200
const seed = Number(process.env['DELTA_TEST_SEED'] ?? Date.now() % 1_000_000_000)
const folders = ['/workspace', '/home/user', '/root', '/opt', '/usr/local', '/var/lib/dpkg', '/usr/bin', '/etc/opt']
/** What changes at random; the others hold what was installed. */
const changed = ['/workspace', '/home/user', '/root', '/opt']
const savedMs = 1_500_000
const key = Buffer.alloc(32, 9).toString('base64')
/** More than one request holds, so that a cut comes in the middle. */
const bigBytes = 28 * 1024 * 1024

let server: S3Server
let proxy: FaultProxy
const folder = mkdtempSync(join(tmpdir(), 'delta-elsewhere-'))
const running = new Set<Platform>()

beforeAll(async () => {
  server = await startS3Server()
  proxy = await startFaultProxy(server.url)
})

afterAll(async () => {
  for (const platform of running) await platform.stop()
  await proxy?.stop()
  await server?.stop()
  rmSync(folder, { recursive: true, force: true })
})

interface Machine {
  platform: Platform
  delta: Delta
}

interface Bucket {
  prefix: string
  encrypted: boolean
}

/** `part`: the uids of two machines are never the same, as files of one mean nothing on another. */
async function machine(part: 0 | 1, bucket: Bucket, dataDir = newDataDir()): Promise<Machine> {
  const { accessKeyId, secretAccessKey, bucket: name } = server.config('')
  const platform = await startPlatform({
    dataDir,
    env: {
      ...ownUids(200, part * 200),
      DELTA_STORAGE: `s3://${name}/${bucket.prefix}`,
      DELTA_S3_ENDPOINT: proxy.url,
      DELTA_S3_ACCESS_KEY_ID: accessKeyId,
      DELTA_S3_SECRET_ACCESS_KEY: secretAccessKey,
      ...(bucket.encrypted && { DELTA_STORAGE_KEY: key }),
    },
  })
  running.add(platform)
  return { platform, delta: new Delta({ url: platform.url, apiKey: platform.key }) }
}

async function gone({ platform }: Machine): Promise<void> {
  await platform.stop()
  running.delete(platform)
  expect(leftovers(platform.dataDir), platform.log()).toEqual([])
  rmSync(platform.dataDir, { recursive: true, force: true })
}

/** Two snapshots: what was installed, and random changes with a large file. Says what the sandbox saw of each. */
async function live(workspace: Workspace) {
  await using sandbox = await workspace.start({ timeoutMs: 3_600_000 })
  await python(sandbox, 'install.py', [])
  const look = async () => {
    // Mounted anew: before, the kernel gives two names of a file that the template had the numbers of two files.
    await sandbox.stop()
    await sandbox.start()
    return described(sandbox, folders)
  }
  const installed = { files: await look(), snapshot: await workspace.snapshot({ name: 'installed' }) }
  await installed.snapshot.saved({ signal: AbortSignal.timeout(savedMs) })
  await python(sandbox, 'change.py', [String(seed), String(steps), ...changed])
  const text = `import os; open('/workspace/big', 'wb').write(os.urandom(${bigBytes}))`
  const { exitCode, stderr } = await sandbox.commands.run(['python3', '-c', text], { user: 'root' })
  expect(exitCode, stderr).toBe(0)
  const files = await look()
  return { installed, files, sandbox }
}

const partOf = (url: string) => Number(new URL(url, 'http://s3').searchParams.get('partNumber') ?? 0)

/** Lets two parts of an upload through, and kills the platform while it waits with the others. */
async function cutUpload({ platform }: Machine, begin: () => Promise<Snapshot>): Promise<Snapshot> {
  proxy.plan(({ method, url }) =>
    method === 'PUT' && partOf(url) > 2 ? { kind: 'answer', status: 503, code: 'SlowDown' } : undefined,
  )
  const snapshot = await begin()
  const refused = () => proxy.seen.filter(({ method, url }) => method === 'PUT' && partOf(url) > 2).length
  // Tried again: the parts before have been acknowledged by then.
  await expect.poll(refused, { timeout: 60_000 }).toBeGreaterThan(3)
  expect(proxy.seen.map(({ url }) => partOf(url))).toEqual(expect.arrayContaining([1, 2]))
  expect((await snapshot.refresh()).save.state).toBe('saving')
  await platform.kill()
  running.delete(platform)
  proxy.plan(() => undefined)
  return snapshot
}

interface Proof {
  bucket: Bucket
  template: string
  /** Makes the template on the first machine. The second one never has it. */
  provide?: (machine: Machine) => Promise<void>
}

async function prove({ bucket, template, provide }: Proof): Promise<void> {
  const what = `${template}, DELTA_TEST_SEED=${seed}`
  let here = await machine(0, bucket)
  await provide?.(here)
  const workspace = await here.delta.workspaces.create({
    name: 'moved',
    template,
    diskMb: 8_192,
    // What was installed is then the change of one snapshot, and random changes that of the next.
    autoSnapshot: false,
    metadata: { a: 'ü' },
  })
  const { installed, files } = await live(workspace)
  const { snapshot: first } = installed
  expect((await first.refresh()).changes?.packages).toMatchObject({
    apt: [{ name: 'hello-delta', from: null, to: '1.2-3' }],
    pip: [{ name: 'delta-test', from: null, to: '0.7' }],
    tools: expect.arrayContaining([{ path: '/usr/local/bin/agent-tool', kind: 'added' }]),
  })

  // It goes on where it was, and what is acknowledged is not sent again.
  const last = await cutUpload(here, () => workspace.snapshot({ name: 'last' }))
  here = await machine(0, bucket, here.platform.dataDir)
  const again = await here.delta.workspaces.snapshot(last.id)
  await again.saved({ signal: AbortSignal.timeout(savedMs) })
  const parts = proxy.seen.filter(({ method }) => method === 'PUT').map(({ url }) => partOf(url))
  expect(parts).toContain(3)
  expect(parts).not.toContain(1)
  expect(await server.uploads(bucket.prefix)).toEqual([])
  const known = await here.delta.workspaces.get('moved')
  await gone(here)

  // Nothing is readable in the bucket with a key, and something without: the search finds what is there.
  const needle = '"metadata":{"a":"ü"}'
  const readable = (await server.objects(bucket.prefix)).filter(({ bytes }) => bytes.includes(needle))
  expect(readable.length > 0).toBe(!bucket.encrypted)

  const dataDir = newDataDir()
  // Without templates: what is below the workspace comes from the bucket as well.
  mkdirSync(join(dataDir, 'templates'))
  const there = await machine(1, bucket, dataDir)
  // Looked for at its start, while it serves already.
  await expect.poll(async () => (await there.delta.workspaces.list().all()).length, { timeout: 60_000 }).toBe(1)
  const [restored, ...others] = await there.delta.workspaces.list().all()
  expect(others).toEqual([])
  expect(restored?.info).toMatchObject({
    id: workspace.id,
    name: 'moved',
    isLocal: false,
    diskMb: known.info.diskMb,
    metadata: { a: 'ü' },
    headSnapshotId: last.id,
  })
  const history = await restored!.snapshots().all()
  expect(history.map(({ id, info }) => [id, info.name])).toEqual(
    expect.arrayContaining([
      [last.id, 'last'],
      [first.id, 'installed'],
    ]),
  )
  {
    await using sandbox = await restored!.start({ timeoutMs: 3_600_000 })
    expectSame(await described(sandbox, folders), files, what)
    // The random changes may have closed /workspace to everybody but root.
    const tools = await sandbox.commands.run('/usr/local/bin/agent-tool; /usr/bin/hello-delta', { user: 'root' })
    expect(tools.stdout).toBe('a tool of the agent\nhello from apt\n')
  }
  const [fork] = await history.find(({ id }) => id === first.id)!.fork()
  {
    await using sandbox = await fork!.start({ timeoutMs: 3_600_000 })
    expectSame(await described(sandbox, folders), installed.files, `${what}, the first snapshot`)
  }
  await gone(there)
}

async function importPython({ delta }: Machine): Promise<void> {
  const archive = ociArchive(folder, pythonSystem(folder), { path: '/usr/local/bin:/usr/bin:/bin' })
  await delta.templates.ready(await delta.templates.import(archive, { name: 'small' }))
}

const title = (text: string) => `${text} (DELTA_TEST_SEED=${seed})`

test(title('a workspace whose upload was killed starts on another machine, encrypted with a key'), () =>
  prove({ bucket: { prefix: `encrypted-${seed}/`, encrypted: true }, template: 'small', provide: importPython }),
)

test(title('a workspace starts on a machine that lacks its template'), async ({ skip }) => {
  skip(!long, 'long form only: npm run test:all')
  await prove({ bucket: { prefix: `plain-${seed}/`, encrypted: false }, template: 'small', provide: importPython })
})
