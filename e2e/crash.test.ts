import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { Delta, type Sandbox } from '@delta-agents/sdk'
import { afterEach, expect, test } from 'vitest'
import { newDataDir } from './global-setup.ts'
import { leftovers } from './leftovers.ts'
import { freePort, type Platform, startPlatform } from './platform.ts'
import { refusal } from './target.ts'

let dataDir: string
let platform: Platform
let delta: Delta

async function begin(): Promise<void> {
  dataDir = newDataDir()
  platform = await startPlatform({ dataDir, port: await freePort() })
  delta = new Delta({ url: platform.url, apiKey: platform.key })
}

/** The same folder, the same address: clients find it again. */
async function restart(): Promise<void> {
  platform = await startPlatform({ dataDir, port: platform.port })
}

afterEach(async () => {
  await platform.stop('SIGINT')
  const left = leftovers(dataDir)
  const log = platform.log()
  rmSync(dataDir, { recursive: true, force: true })
  expect(left, log).toEqual([])
})

/** Pid of the process that speaks HTTP, a descendant of the helper. */
function httpPid(): number {
  const family = [platform.pid]
  for (const pid of family) {
    for (const task of readdirSync(`/proc/${pid}/task`)) {
      for (const child of readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8')
        .trim()
        .split(' ')
        .filter(Boolean)
        .map(Number)) {
        if (readFileSync(`/proc/${child}/cmdline`, 'utf8').includes('main.mjs')) return child
        family.push(child)
      }
    }
  }
  throw new Error('There is no HTTP process')
}

/** Whether another HTTP process than that one answers. */
async function serves(formerPid: number): Promise<boolean> {
  try {
    if (httpPid() === formerPid) return false
    return (await fetch(`${platform.url}/health`, { signal: AbortSignal.timeout(2_000) })).ok
  } catch {
    return false
  }
}

const crashes: [string, () => Promise<void>][] = [
  [
    'the HTTP process',
    async () => {
      const gone = httpPid()
      process.kill(gone, 'SIGKILL')
      // The helper starts it again; how long that takes is the machine's business.
      await expect.poll(() => serves(gone), { timeout: 30_000 }).toBe(true)
    },
  ],
  [
    'the helper',
    async () => {
      await platform.kill()
      await restart()
    },
  ],
  [
    'both',
    async () => {
      const pid = httpPid()
      await platform.kill()
      // It may have ended already, having seen its helper go.
      await Promise.resolve(pid)
        .then((gone) => process.kill(gone, 'SIGKILL'))
        .catch(() => {})
      await restart()
    },
  ],
]

/** A command that counts slowly enough to be cut anywhere, with the count as proof that none is lost or doubled. */
const countTo = (last: number) => `for i in $(seq ${last}); do echo $i; sleep 0.02; done; exit 6`
const counted = (last: number) => Array.from({ length: last }, (_, index) => `${index + 1}\n`).join('')

test.each(crashes)('after kill -9 of %s commands go on and their output resumes without a gap', async (_, crash) => {
  await begin()
  const sandbox = await delta.sandboxes.create({ timeoutMs: 600_000, metadata: { survives: 'yes' } })
  await sandbox.files.write('/workspace/kept', 'kept')
  let lines = 0
  let attached: (() => void) | undefined
  const running = new Promise<void>((resolve) => (attached = resolve))
  const run = sandbox.commands.run(countTo(250), {
    onStdout: (text) => {
      lines += text.split('\n').length - 1
      if (lines > 20) attached?.()
    },
  })
  const background = await sandbox.commands.start(countTo(200))
  await running
  await crash()
  expect(await run).toMatchObject({ stdout: counted(250), exitCode: 6, truncated: false })
  expect(await background.wait()).toMatchObject({ stdout: counted(200), exitCode: 6, pid: background.pid })
  expect(await sandbox.files.readText('/workspace/kept')).toBe('kept')
  expect((await sandbox.refresh()).state).toBe('running')
  expect((await delta.sandboxes.list({ metadata: { survives: 'yes' } }).all()).map(({ id }) => id)).toEqual([
    sandbox.id,
  ])
})

test.each(crashes)('after kill -9 of %s stopped and paused sandboxes are what they were', async (_, crash) => {
  await begin()
  const paused = await delta.sandboxes.create({ autoResume: false })
  const stopped = await delta.sandboxes.create({ autoResume: false })
  const killed = await delta.sandboxes.create()
  const handle = await paused.commands.start('sleep 1000')
  await stopped.files.write('/workspace/kept', 'kept')
  await paused.pause()
  await stopped.stop()
  await killed.kill()
  await crash()
  expect(await states([paused, stopped, killed])).toEqual(['paused', 'stopped', 'killed'])
  await paused.resume()
  expect((await paused.commands.list()).find(({ id }) => id === handle.id)).toMatchObject({
    pid: handle.pid,
    state: 'running',
  })
  await stopped.start()
  expect(await stopped.files.readText('/workspace/kept')).toBe('kept')
})

const states = (sandboxes: Sandbox[]) => Promise.all(sandboxes.map(async (sandbox) => (await sandbox.refresh()).state))

test('a timeout that passes while nothing runs is kept at the next start', async () => {
  await begin()
  const killed = await delta.sandboxes.create({ timeoutMs: 1_500 })
  const stopped = await delta.sandboxes.create({ timeoutMs: 1_500, onTimeout: 'stop' })
  const living = await delta.sandboxes.create({ timeoutMs: 600_000 })
  await platform.kill()
  await new Promise((done) => setTimeout(done, 2_000))
  await restart()
  await expect
    .poll(() => states([killed, stopped, living]), { timeout: 20_000 })
    .toEqual(['killed', 'stopped', 'running'])
})

test('a timeout that lies ahead still fires after a crash', async () => {
  await begin()
  const sandbox = await delta.sandboxes.create({ timeoutMs: 6_000 })
  await platform.kill()
  await restart()
  expect((await sandbox.refresh()).state).toBe('running')
  await expect.poll(async () => (await sandbox.refresh()).state, { timeout: 20_000 }).toBe('killed')
})

test('creates and kills that a crash cuts leave nothing half made', async () => {
  await begin()
  const burst = Promise.allSettled(Array.from({ length: 12 }, () => delta.sandboxes.create({ timeoutMs: 600_000 })))
  await new Promise((done) => setTimeout(done, 60))
  await platform.kill()
  await restart()
  await burst
  const settled = ['running', 'killed', 'failed']
  await expect
    .poll(async () => (await delta.sandboxes.list().all()).every(({ state }) => settled.includes(state)), {
      timeout: 30_000,
    })
    .toBe(true)
  const living = await delta.sandboxes.list({ state: 'running' }).all()
  for (const sandbox of living) expect((await sandbox.commands.run('echo works')).stdout).toBe('works\n')
  for (const sandbox of living) await sandbox.kill()
  expect(await delta.sandboxes.list({ state: 'running' }).all()).toEqual([])
})

test('a create repeated after a crash with the same key makes one sandbox', async () => {
  await begin()
  const idempotencyKey = 'repeated-after-a-crash'
  const metadata = { key: idempotencyKey }
  const first = await delta.sandboxes.create({ idempotencyKey, metadata })
  await platform.kill()
  await restart()
  const again = await delta.sandboxes.create({ idempotencyKey, metadata })
  expect(again.id).toBe(first.id)
  expect(await delta.sandboxes.list({ metadata }).all()).toHaveLength(1)
})

test('a box whose guest is killed from outside ends as such, and its disk comes back on start', async ({ skip }) => {
  await begin()
  const sandbox = await delta.sandboxes.create({ timeoutMs: 600_000, metadata: { victim: 'yes' } })
  await sandbox.files.write('/workspace/kept', 'kept')
  skip(sandbox.info.runtime === 'runsc', 'under gVisor the guest is no process of the host')
  const handle = await sandbox.commands.start(['sleep', '77777.123'])
  const guest = parentOf(pidOf('77777.123'))
  process.kill(guest, 'SIGKILL')
  const settled = expect.stringMatching(/^(stopped|killed|failed)$/)
  await expect.poll(async () => (await sandbox.refresh()).state, { timeout: 15_000 }).toEqual(settled)
  expect(sandbox.info.reason).toMatch(/\w/)
  if (sandbox.state === 'stopped') {
    await sandbox.start()
    expect(await sandbox.files.readText('/workspace/kept')).toBe('kept')
  }
  expect(await refusal(sandbox.commands.get(handle.id))).toMatchObject({ status: expect.any(Number) })
})

function pidOf(word: string): number {
  const found = readdirSync('/proc').find((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(word)
    } catch {
      return false
    }
  })
  if (found === undefined) throw new Error(`No process has ${word} among its arguments`)
  return Number(found)
}

const parentOf = (pid: number) => Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])

test('TERM leaves sandboxes for the next start', async () => {
  await begin()
  const sandbox = await delta.sandboxes.create({ timeoutMs: 600_000 })
  const handle = await sandbox.commands.start('sleep 1000')
  await platform.stop('SIGTERM')
  await restart()
  expect((await sandbox.refresh()).state).toBe('running')
  expect((await sandbox.commands.list()).find(({ id }) => id === handle.id)).toMatchObject({
    state: 'running',
    pid: handle.pid,
  })
})

test('INT ends every sandbox and leaves nothing on the machine', async () => {
  await begin()
  await Promise.all(Array.from({ length: 5 }, () => delta.sandboxes.create({ timeoutMs: 600_000 })))
  await platform.stop('SIGINT')
  expect(leftovers(dataDir)).toEqual([])
  await restart()
  expect(
    await delta.sandboxes.list({ state: ['running', 'paused', 'creating', 'starting', 'stopping'] }).all(),
  ).toEqual([])
})

test('after kill -9 of the HTTP process a viewer of a terminal goes on at its byte', async () => {
  await begin()
  const sandbox = await delta.sandboxes.create({ timeoutMs: 600_000 })
  const terminal = await sandbox.terminal.create({ cmd: countTo(250), cols: 70, rows: 20 })
  let output = ''
  let crashed: Promise<void> | undefined
  for await (const bytes of terminal) {
    output += Buffer.from(bytes).toString()
    if (output.includes('\n20\r\n')) crashed ??= crashes[0]![1]()
  }
  await crashed
  expect(output).toBe(counted(250).replaceAll('\n', '\r\n'))
  expect(await terminal.wait()).toMatchObject({ exitCode: 6 })
  // And one that runs when the next server comes takes what is typed.
  const shell = await sandbox.terminal.create({ cmd: ['/bin/cat'] })
  await crashes[0]![1]()
  await shell.write('still here\n')
  for await (const bytes of shell) if (Buffer.from(bytes).toString().includes('still here')) break
  await shell.kill()
})
