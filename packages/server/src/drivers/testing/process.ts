import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { mkdir, mkdtemp, rename, rm, statfs, symlink } from 'node:fs/promises'
import { connect as connectSocket, createServer, type Socket } from 'node:net'
import { release, tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { DeltaError } from '../../kernel/errors.ts'
import type { BoxSpec, BoxStats, BoxStatus, DeathCause, Driver } from '../driver.ts'
import { createFolderDisks } from './disks.ts'

/**
 * Runs the real guest as an ordinary child process: no isolation, no limits, no other root folder. It exists so that exec, files and the
 * service are tested against a real guest in milliseconds and without root. No configuration of a server selects it.
 */
export interface ProcessDriver extends Driver {
  /** Where a box's disk lies; commands of tests work there. */
  folderOf(upperId: string): string
  /** Processes that belong to boxes, and disks. */
  leftovers(): Promise<string[]>
}

interface ProcessBox {
  spec: BoxSpec
  child: ChildProcess
  socketPath: string
  frozen: boolean
  dead: boolean
  ending: boolean
  exited: Promise<void>
}

const idForm = /^[a-z]{3}_[a-z0-9]{1,40}$/
const diskFolders = ['uppers', 'snapshots', 'volumes']
const hostnameForm = /^[a-z0-9][a-z0-9-]{0,62}$/
const repository = resolve(import.meta.dirname, '../../../../..')

/** The guest as set-up builds it, or as cargo leaves it. */
export function guestBinary(): string {
  const places = ['.build/bin/delta-guest', 'packages/guest/target/release/delta-guest']
  const found = places.map((place) => join(repository, place)).find((place) => existsSync(place))
  if (!found) throw new Error(`There is no guest at ${places.join(' or ')}: run \`npm test\`, which builds it`)
  return found
}

export interface ProcessDriverOptions {
  /** @default the real guest */
  guest?: string
  /** Descriptor 3 is the listening socket. */
  args?: string[]
}

export async function createProcessDriver({
  guest = guestBinary(),
  args = ['serve', '--fd', '3'],
}: ProcessDriverOptions = {}): Promise<ProcessDriver> {
  const folder = await mkdtemp(join(tmpdir(), 'delta-process-'))
  const boxes = new Map<string, ProcessBox>()
  const pids = new Set<number>()
  const listeners = new Set<(boxId: string, cause: DeathCause) => void>()
  const { begin, dropUpper, leftovers, templateOf, upperIds, volumeFolder, ...disks } = createFolderDisks({
    folder,
    userOf: ({ upperId, snapshotId, volumeId }) =>
      Array.from(boxes.values()).find(
        ({ spec }) =>
          spec.upperId === upperId ||
          spec.template === snapshotId ||
          spec.volumes?.some((volume) => volume.volumeId === volumeId),
      )?.spec.boxId,
  })
  const { folderOf } = disks

  /** The guest, what descends from it, and what has lost its parents but still works in the box's folder. */
  const processesOf = ({ child, spec, dead }: ProcessBox): number[] => [
    ...new Set([...(dead ? [] : treeOf(child.pid!)), ...workingIn(folderOf(spec.upperId))]),
  ]

  const boxOf = (boxId: string): ProcessBox => {
    const box = boxes.get(boxId)
    if (!box || box.dead) throw new DeltaError('driver_failed', `There is no box ${boxId}`)
    return box
  }

  const check = (spec: BoxSpec): void => {
    if (!idForm.test(spec.boxId) || !idForm.test(spec.upperId) || !hostnameForm.test(spec.hostname)) {
      throw new DeltaError('invalid_request', 'An id or the host name is not valid')
    }
    if (spec.runtime !== undefined && spec.runtime !== 'none') {
      throw new DeltaError('runtime_not_available', `There is no runtime ${spec.runtime}`)
    }
    if (Math.min(spec.cpuMilli, spec.memoryMb, spec.diskMb, spec.processes) < 1) {
      throw new DeltaError('invalid_request', 'A limit is not valid')
    }
    const beneath = templateOf(spec.upperId)
    if (boxes.has(spec.boxId)) throw new DeltaError('driver_failed', `The box ${spec.boxId} exists`)
    if ((beneath !== undefined) === spec.fresh) {
      throw new DeltaError('driver_failed', `The disk ${spec.upperId} is ${spec.fresh ? 'there already' : 'not there'}`)
    }
    if (uses(boxes, spec.upperId)) throw new DeltaError('driver_failed', `The disk ${spec.upperId} is in use`)
    if (beneath !== undefined && beneath !== spec.template) {
      throw new DeltaError('invalid_request', `The disk ${spec.upperId} was made on ${beneath}`)
    }
  }

  const beginOn = ({ upperId, template }: BoxSpec): Promise<void> =>
    begin(upperId, template).catch((error: unknown) => {
      if (!(error instanceof DeltaError) || error.code !== 'disk_not_found') throw error
      throw new DeltaError('template_not_found', `There is no template ${template}`)
    })

  const bury = (boxId: string, box: ProcessBox): void => {
    box.dead = true
    pids.delete(box.child.pid!)
    if (box.ending) return
    for (const listener of Array.from(listeners)) listener(boxId, 'guest_died')
  }

  const driver: ProcessDriver = {
    name: 'insecure-process',
    ...disks,
    info: async () => ({
      name: 'insecure-process',
      runtime: 'none',
      runtimeVersion: process.version,
      cgroup: 'none',
      pool: 'folder',
      kernel: release(),
      ownKernelRuntimes: [],
      templates: ['host'],
      warnings: ['Nothing is isolated: for tests only'],
    }),

    async create(spec) {
      check(spec)
      const started = performance.now()
      const upper = folderOf(spec.upperId)
      if (spec.fresh) await beginOn(spec)
      const { volumeIds } = await disks.disks()
      for (const { volumeId, path } of spec.volumes ?? []) {
        if (!volumeIds.includes(volumeId)) throw new DeltaError('disk_not_found', `There is no volume ${volumeId}`)
        const place = join(upper, join('/', path))
        await mkdir(dirname(place), { recursive: true })
        await symlink(volumeFolder(volumeId), place)
      }
      const socketPath = join(folder, `${spec.boxId}.sock`)
      const child = await spawnGuest([guest, ...args], socketPath, upper)
      pids.add(child.pid!)
      const exited = new Promise<void>((done) => child.once('exit', () => done()))
      const box: ProcessBox = { spec, child, socketPath, frozen: false, dead: false, ending: false, exited }
      boxes.set(spec.boxId, box)
      void exited.then(() => bury(spec.boxId, box))
      const micros = Math.round((performance.now() - started) * 1_000)
      return { boxId: spec.boxId, pid: child.pid!, timings: [{ phase: 'spawn', micros }] }
    },

    async end(boxId, { keepUpper }) {
      const box = boxes.get(boxId)
      if (!box) return
      box.ending = true
      // Twice: what was started while the first round went on has nobody left to start more.
      for (let round = 0; round < 2; round += 1) kill(processesOf(box))
      await box.exited
      await rm(box.socketPath, { force: true })
      boxes.delete(boxId)
      for (const { path } of box.spec.volumes ?? []) {
        await rm(join(folderOf(box.spec.upperId), join('/', path)), { force: true })
      }
      if (!keepUpper) await dropUpper(box.spec.upperId)
    },

    async freeze(boxId) {
      const box = boxOf(boxId)
      kill(processesOf(box), 'SIGSTOP')
      box.frozen = true
    },

    async thaw(boxId) {
      const box = boxOf(boxId)
      kill(processesOf(box), 'SIGCONT')
      box.frozen = false
    },

    async setLimits(boxId, limits) {
      const box = boxOf(boxId)
      if (Math.min(...Object.values(limits)) < 1) throw new DeltaError('invalid_request', 'A limit is not valid')
      box.spec = { ...box.spec, ...limits }
    },

    async stats(boxId) {
      const box = boxOf(boxId)
      return statsOf(processesOf(box), box.spec)
    },

    async measure(boxIds) {
      const found = boxIds.filter((boxId) => boxes.has(boxId))
      return new Map(found.map((boxId) => [boxId, statsOf(processesOf(boxOf(boxId)), boxOf(boxId).spec)]))
    },

    async list() {
      const statuses = Array.from(boxes.values(), ({ spec, dead, frozen }): BoxStatus => {
        const state = dead ? 'dead' : frozen ? 'frozen' : 'running'
        return { boxId: spec.boxId, upperId: spec.upperId, state, template: spec.template }
      })
      return { boxes: statuses, upperIds: upperIds().filter((upperId) => !uses(boxes, upperId)) }
    },

    async dropUpper(upperId) {
      if (uses(boxes, upperId)) throw new DeltaError('driver_failed', `The disk ${upperId} is in use`)
      await dropUpper(upperId)
    },

    async connect(boxId) {
      const box = boxes.get(boxId)
      if (!box || box.dead) throw new DeltaError('guest_unreachable', `The box ${boxId} has ended`)
      return openSocket(box.socketPath)
    },

    templates: async () => [{ name: 'host', state: 'ready', detail: 'The machine itself' }],
    async buildTemplate(name) {
      if (name !== 'host') throw new DeltaError('template_not_found', `There is no template ${name}`)
    },
    doctor: async () => [
      { name: 'isolation', status: 'fail', found: 'none', meaning: 'This driver is for tests: nothing is isolated' },
    ],
    room: () => ({ state: 'fine' }),
    async usage() {
      const { bsize, blocks, bavail } = await statfs(folder)
      const totalBytes = bsize * blocks
      const backingFreeBytes = bsize * bavail
      return {
        totalBytes,
        usedBytes: totalBytes - backingFreeBytes,
        backingFreeBytes,
        reserveBytes: 0,
        readOnly: false,
      }
    },

    onDeath(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },

    async leftovers() {
      const processes = [...Array.from(pids).flatMap(treeOf), ...workingIn(folder)]
      return [
        ...processes.map((pid) => `process ${pid}`),
        ...readdirSync(folder).filter((name) => !diskFolders.includes(name)),
        ...(await leftovers()),
      ]
    },

    async close() {
      for (const [boxId] of Array.from(boxes)) await driver.end(boxId, { keepUpper: false })
      await rm(folder, { recursive: true, force: true })
    },
  }
  return driver
}

function uses(boxes: ReadonlyMap<string, ProcessBox>, upperId: string): boolean {
  return Array.from(boxes.values()).some(({ spec }) => spec.upperId === upperId)
}

/**
 * The guest inherits the listening socket as descriptor 3. Closing it here would remove its file, which is why it is given its real name in
 * between.
 */
async function spawnGuest([guest, ...args]: string[], socketPath: string, cwd: string): Promise<ChildProcess> {
  const server = createServer()
  const early = `${socketPath}.early`
  await new Promise<void>((done, fail) => server.once('error', fail).listen(early, done))
  const descriptor = (Reflect.get(server, '_handle') as { fd: number }).fd
  const child = spawn(guest!, args, {
    cwd,
    stdio: ['ignore', 'ignore', 'inherit', descriptor],
    env: {},
  })
  try {
    await new Promise<void>((done, fail) => child.once('spawn', done).once('error', fail))
  } finally {
    await rename(early, socketPath)
    await new Promise<void>((done) => server.close(() => done()))
  }
  return child
}

function openSocket(path: string): Promise<Socket> {
  return new Promise((done, fail) => {
    const socket = connectSocket({ path })
    socket.once('error', (cause) =>
      fail(new DeltaError('guest_unreachable', 'The guest does not accept connections', { cause })),
    )
    socket.once('connect', () => done(socket))
  })
}

/** A process and all that descend from it, as long as their parents live. */
function treeOf(root: number): number[] {
  const children = new Map<number, number[]>()
  for (const name of readdirSync('/proc')) {
    const parent = /^[0-9]+$/.test(name) ? parentOf(Number(name)) : undefined
    if (parent !== undefined) children.set(parent, [...(children.get(parent) ?? []), Number(name)])
  }
  if (parentOf(root) === undefined) return []
  const tree = [root]
  for (const pid of tree) tree.push(...(children.get(pid) ?? []))
  return tree
}

function statOf(pid: number): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The name in front may hold anything.
    return text.slice(text.lastIndexOf(')') + 2).split(' ')
  } catch {
    return undefined
  }
}

function parentOf(pid: number): number | undefined {
  const fields = statOf(pid)
  return fields && fields[0] !== 'Z' ? Number(fields[1]) : undefined
}

function workingIn(folder: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^[0-9]+$/.test(name))
    .map(Number)
    .filter((pid) => pid !== process.pid && `${cwdOf(pid)}/`.startsWith(`${folder}/`))
}

function cwdOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/cwd`)
  } catch {
    // It has ended, or belongs to somebody else.
    return undefined
  }
}

function kill(pids: number[], signal: NodeJS.Signals = 'SIGKILL'): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal)
    } catch {
      // It has ended by itself.
    }
  }
}

const ticksPerSecond = 100
const pageBytes = 4_096

function statsOf(tree: number[], spec: BoxSpec): BoxStats {
  let cpuMicros = 0
  let memoryBytes = 0
  for (const pid of tree) {
    const fields = statOf(pid)
    if (!fields) continue
    // utime, stime and those of children it has waited for; then the resident pages.
    const ticks = fields.slice(11, 15).reduce((sum, each) => sum + Number(each), 0)
    cpuMicros += (ticks * 1e6) / ticksPerSecond
    memoryBytes += Number(fields[21]) * pageBytes
  }
  return {
    cpuMicros,
    memoryBytes,
    memoryPeakBytes: memoryBytes,
    memoryLimitBytes: spec.memoryMb * 1024 * 1024,
    oomKills: 0,
    processes: tree.length,
    diskBytes: null,
    diskLimitBytes: spec.diskMb * 1024 * 1024,
  }
}
