import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Duplex } from 'node:stream'
import { silentLogger } from '../../kernel/log.ts'
import type { OpenedDriver } from '../conformance.ts'
import type { Driver } from '../driver.ts'
import { createOciDriver, type OciDriver } from './oci.ts'

const repository = resolve(import.meta.dirname, '../../../../..')
/** Apart from the range of a server that may run on the same machine. */
const testUidBase = 1_950_000_000
const uidCount = 65_536 * 300
const stopMs = 30_000
const endAllTries = 400
const endAllPauseMs = 500

export interface TestHelper extends OpenedDriver {
  driver: OciDriver
  dataDir: string
  crash(): Promise<Driver>
}

/** The helper as set-up builds it, or as cargo leaves it. */
export function helperBinary(): string {
  const places = ['.build/bin/delta-helper', 'packages/guest/target/release/delta-helper']
  const found = places.map((place) => join(repository, place)).find((place) => existsSync(place))
  if (!found) throw new Error(`There is no helper at ${places.join(' or ')}: run \`npm test\`, which builds it`)
  return found
}

/** A real helper of its own, on a data folder of its own, that leaves nothing when it is closed but the template, for the next run. */
export async function openHelper({
  runtime,
  dataDir = join(repository, '.build/oci-tests'),
  uidBase = testUidBase,
}: {
  runtime: string
  dataDir?: string
  /** Of its own for each helper that runs at the same time: what is left of a box is told by its uid. */
  uidBase?: number
}): Promise<TestHelper> {
  if (process.getuid!() !== 0) {
    throw new Error(
      'The OCI driver is tested with real sandboxes, which needs root (mounts, cgroups, uid maps): run the tests as root',
    )
  }
  await clear(dataDir)
  const env = {
    PATH: process.env['PATH'],
    DELTA_DATA_DIR: dataDir,
    DELTA_RUNTIME: runtime,
    DELTA_UID_BASE: `${uidBase}`,
    DELTA_UID_COUNT: `${uidCount}`,
  }
  run(['template', 'build', 'host'], env)
  const known = new Set<string>()
  let { child, driver } = start(env)
  const before = { mounts: mountsOf(dataDir), loops: loopsOf(dataDir) }
  await driver.info()
  before.mounts = mountsOf(dataDir)
  before.loops = loopsOf(dataDir)

  const watched = (): OciDriver => {
    const { create, makeUpper, snapshot, makeVolume } = driver
    return Object.assign(driver, {
      makeUpper: (spec: Parameters<typeof makeUpper>[0]) => {
        known.add(spec.upperId)
        return makeUpper(spec)
      },
      snapshot: (upperId: string, snapshotId: string) => {
        known.add(snapshotId)
        return snapshot(upperId, snapshotId)
      },
      makeVolume: (spec: Parameters<typeof makeVolume>[0]) => {
        known.add(spec.volumeId)
        return makeVolume(spec)
      },
      create: (spec: Parameters<typeof create>[0]) => {
        known.add(spec.boxId).add(spec.upperId)
        return create(spec)
      },
    })
  }

  const helper: TestHelper = {
    driver: watched(),
    dataDir,
    async leftovers() {
      return [
        ...processesOfBoxes(uidBase, known),
        ...mountsOf(dataDir).filter((mount) => !before.mounts.includes(mount)),
        ...loopsOf(dataDir).filter((loop) => !before.loops.includes(loop)),
        ...threadMounts(child.pid!, known),
        ...namesBelow('/sys/fs/cgroup', known, 6),
        ...namesBelow(dataDir, known, 5),
      ]
    },
    async crash() {
      child.kill('SIGKILL')
      await driver.closed
      ;({ child, driver } = start(env))
      await driver.info()
      return watched()
    },
    async close() {
      const exited = new Promise<void>((done) => (child.exitCode === null ? child.once('exit', () => done()) : done()))
      child.kill('SIGINT')
      const late = setTimeout(() => child.kill('SIGKILL'), stopMs)
      await exited
      clearTimeout(late)
      await driver.close()
      await endAll(env)
      const left = [...mountsOf(dataDir), ...loopsOf(dataDir), ...processesOfBoxes(uidBase, known)]
      if (left.length > 0) throw new Error(`The helper left:\n${left.join('\n')}`)
      await clear(dataDir)
    },
  }
  return helper
}

function start(env: Record<string, string | undefined>): { child: ChildProcess; driver: OciDriver } {
  const stdio = ['ignore', 'inherit', 'inherit', 'pipe'] as const
  const child = spawn(helperBinary(), ['helper-only', '--fd', '3'], { env, stdio: [...stdio] })
  const wireDir = join(env['DELTA_DATA_DIR']!, 'wires')
  return { child, driver: createOciDriver({ helper: child.stdio[3] as Duplex, wireDir, log: silentLogger }) }
}

function run(words: string[], env: Record<string, string | undefined>): void {
  const { status, stderr, error } = spawnSync(helperBinary(), words, { env, encoding: 'utf8' })
  if (status !== 0) throw new Error(`delta-helper ${words.join(' ')} failed: ${stderr}`, { cause: error })
}

/** What a run that was cut short left is ended and removed; a template takes long to make and is kept. */
async function clear(dataDir: string): Promise<void> {
  mkdirSync(dataDir, { recursive: true })
  const left = readdirSync(dataDir).filter((name) => name !== 'templates')
  if (left.length > 0) await endAll({ PATH: process.env['PATH'], DELTA_DATA_DIR: dataDir })
  for (const name of readdirSync(dataDir)) if (name !== 'templates') rmSync(join(dataDir, name), { recursive: true })
}

/**
 * Where the machine's mounts are private, a mount namespace that anything else made meanwhile (another helper, a template build)
 * holds a copy of the pool's mount and with it the loop device, until it ends.
 */
async function endAll(env: Record<string, string | undefined>): Promise<void> {
  for (let tried = 1; ; tried += 1) {
    try {
      return run(['end-all'], env)
    } catch (error) {
      if (tried === endAllTries) throw error
      await new Promise((done) => setTimeout(done, endAllPauseMs))
    }
  }
}

function lines(path: string): string[] {
  try {
    return readFileSync(path, 'utf8').split('\n')
  } catch {
    // It has ended meanwhile.
    return []
  }
}

function names(path: string): string[] {
  try {
    return readdirSync(path)
  } catch {
    return []
  }
}

/** Everything with a uid that belongs to boxes (the first range is the HTTP process's), or that was started with a box's name. */
function processesOfBoxes(uidBase: number, known: ReadonlySet<string>): string[] {
  return names('/proc')
    .filter((name) => /^[0-9]+$/.test(name))
    .flatMap((pid) => {
      const uid = Number(
        lines(`/proc/${pid}/status`)
          .find((line) => line.startsWith('Uid:'))
          ?.split('\t')[1] ?? 0,
      )
      const isOfBox =
        (uid >= uidBase && uid < uidBase + uidCount) || mentions(lines(`/proc/${pid}/cmdline`).join(' '), known)
      return isOfBox ? [`process ${pid} ${lines(`/proc/${pid}/comm`)[0]}`] : []
    })
}

function mountsOf(dataDir: string): string[] {
  // Without the numbers in front, which differ each time.
  return lines('/proc/self/mountinfo')
    .filter((line) => line.includes(dataDir))
    .map((line) => `mount ${line.split(' ').slice(3).join(' ')}`)
}

/** Threads of the helper may live in mount namespaces of their own. */
function threadMounts(pid: number, known: ReadonlySet<string>): string[] {
  return names(`/proc/${pid}/task`).flatMap((thread) =>
    lines(`/proc/${pid}/task/${thread}/mountinfo`)
      .filter((line) => mentions(line, known))
      .map((line) => `mount in thread ${thread}: ${line}`),
  )
}

function loopsOf(dataDir: string): string[] {
  return names('/sys/block')
    .filter((name) => name.startsWith('loop'))
    .flatMap((name) => {
      const [file = ''] = lines(`/sys/block/${name}/loop/backing_file`)
      return file.includes(dataDir) ? [`${name} on ${file}`] : []
    })
}

function namesBelow(folder: string, known: ReadonlySet<string>, depth: number): string[] {
  return readFolders(folder).flatMap(({ name, isFolder }) => {
    const path = join(folder, name)
    if (mentions(name, known)) return [path]
    return isFolder && depth > 1 ? namesBelow(path, known, depth - 1) : []
  })
}

function readFolders(folder: string): { name: string; isFolder: boolean }[] {
  try {
    return readdirSync(folder, { withFileTypes: true }).map((entry) => ({
      name: entry.name,
      isFolder: entry.isDirectory(),
    }))
  } catch {
    return []
  }
}

function mentions(text: string, known: ReadonlySet<string>): boolean {
  const ids = text.match(/(?:box|upp|snp|vol)_[a-z0-9]+/g) ?? []
  return ids.some((id) => known.has(id))
}
