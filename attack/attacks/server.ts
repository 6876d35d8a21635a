import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { Delta } from '@delta-agents/sdk'
import { startPlatform } from '../../e2e/platform.ts'
import type { Canary, Unshown } from '../attack.ts'
import { serverPid as httpProcessOf } from './bombs.ts'
import { allPids, eventually, read, residentBytes } from '../host.ts'
import { answers, type TakenOver } from '../server-ground.ts'

/** An attack that only the HTTP process could make, on the helper or on what the helper keeps from it. */
export interface ServerAttack {
  name: string
  promise: 1 | 3
  tries: string
  without: string
  /** A program of the battery; without one the attack is `strong` and `weakly`. */
  program?: string
  place?(ground: { dataDir: string; programDir: string; helperPid: number; tool: string; isWeak: boolean }): Canary
  strong?(takenOver: TakenOver): Promise<string | undefined>
  weakly?: Unshown | ((ground: WeakServerGround) => Promise<string | undefined>)
}

/** Where a bound of the helper can be taken away. */
export interface WeakServerGround {
  /** The same helper, with room for so many boxes. */
  takeOver(ranges: number): Promise<TakenOver>
}

const mib = 1024 * 1024
const create = 2

function text(value: string): Buffer {
  const bytes = Buffer.from(value)
  const length = Buffer.alloc(4)
  length.writeUInt32LE(bytes.length)
  return Buffer.concat([length, bytes])
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value >>> 0)
  return bytes
}

function frame(type: number, channel: number, payload: Buffer): string {
  const head = Buffer.alloc(9)
  head.writeUInt32LE(5 + payload.length)
  head[4] = type
  head.writeUInt32LE(channel >>> 0, 5)
  return Buffer.concat([head, payload]).toString('base64')
}

interface Wish {
  boxId: string
  upperId: string
  fresh: number
  template: string
  runtime: string
  limits: [number, number, number, number]
  hostname: string
  volumes: { volumeId: string; path: string; readOnly: number }[]
}

const modest: Wish = {
  boxId: 'box_a1',
  upperId: 'upp_a1',
  fresh: 1,
  template: 'host',
  runtime: '',
  limits: [1000, 64, 64, 32],
  hostname: 'a',
  volumes: [],
}

function wish(change: Partial<Wish>): Buffer {
  const { boxId, upperId, fresh, template, runtime, limits, hostname, volumes } = { ...modest, ...change }
  return Buffer.concat([
    text(boxId),
    text(upperId),
    Buffer.from([fresh]),
    text(template),
    text(runtime),
    ...limits.map(number),
    text(hostname),
    number(volumes.length),
    ...volumes.flatMap(({ volumeId, path, readOnly }) => [text(volumeId), text(path), Buffer.from([readOnly])]),
  ])
}

/** Ids and names that mean something to a file system, a shell, a mount table, JSON or a control group. */
const words = [
  '',
  '.',
  '..',
  '/',
  '../../canary',
  'box_../../canary',
  'box_a/b',
  'box_a\0b',
  'box_a\nb',
  'box_A',
  'box_é',
  'box_a,upperdir=/',
  '-rf',
  '--root=/',
  '$(id)',
  '`id`',
  'a"b',
  '"},"x":{"',
  'box_'.padEnd(200, 'a'),
  'upp_a1/../../..',
  '/etc',
  '%s%n',
]
/** None of them allowed for any limit. */
const numbers = [0, 1, 7, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]

function badFrames(): string[] {
  const frames: string[] = []
  const put = (type: number, payload: Buffer) => frames.push(frame(type, frames.length + 1, payload))
  for (const word of words) {
    for (const field of ['boxId', 'upperId', 'template', 'runtime', 'hostname'] as const)
      if (field !== 'runtime' || word !== '') put(create, wish({ [field]: word }))
    put(create, wish({ volumes: [{ volumeId: word, path: '/mnt', readOnly: 0 }] }))
    put(create, wish({ volumes: [{ volumeId: 'vol_a1', path: word, readOnly: 0 }] }))
    for (const type of [3, 4, 5, 6, 8, 10, 13]) put(type, Buffer.concat([text(word), Buffer.from([0])]))
    // Snapshots, empty uppers, layers, files in a snapshot, volumes.
    for (const type of [14, 18, 20, 21]) {
      put(type, Buffer.concat([text(word), text('snp_a1')]))
      put(type, Buffer.concat([text('snp_none'), text(word)]))
    }
    put(15, Buffer.concat([text(word), text('host'), number(64), Buffer.from([0])]))
    put(15, Buffer.concat([text('upp_a1'), text(word), number(64), Buffer.from([1])]))
    for (const type of [16, 23]) put(type, text(word))
    put(19, Buffer.concat([text(word), ...[64, 0, 64, 0].map(number)]))
    put(22, Buffer.concat([text(word), number(64)]))
  }
  for (const value of numbers)
    for (const at of [0, 1, 2, 3]) {
      const limits: Wish['limits'] = [...modest.limits]
      limits[at] = value
      put(create, wish({ limits }))
    }
  for (const fresh of [2, 255]) put(create, wish({ fresh }))
  // Cut short at every byte, and lengths that claim more than there is.
  const whole = wish({})
  for (let length = 0; length < whole.length; length++) put(create, whole.subarray(0, length))
  for (const type of [0, 13, 14, 50, 99]) put(type, number(0xffff_ffff))
  for (const type of [2, 3, 4, 6, 8, 10]) put(type, Buffer.concat([number(0xffff_fff0), Buffer.alloc(100)]))
  return frames
}

/** One box made and ended again: how many of the two requests were done. */
async function sayGood(order: TakenOver['order']): Promise<number> {
  const heard = () => order<{ answered: number; refused: number }>({ order: 'heard' })
  const before = await heard()
  const both = [frame(create, 1, wish({})), frame(3, 2, Buffer.concat([text(modest.boxId), Buffer.from([0])]))]
  for (const [at, one] of both.entries()) {
    await order({ order: 'say', frames: [one] })
    for (let left = 600; left > 0 && (await heard()).answered <= before.answered + at; left--)
      await eventually(0.05, () => false)
  }
  const after = await heard()
  return after.answered - before.answered - (after.refused - before.refused)
}

const folders = (path: string) => (existsSync(path) ? readdirSync(path) : [])
const guests = (dataDir: string) =>
  allPids().filter(
    (pid) =>
      read(`/proc/${pid}/cmdline`).startsWith('/.delta/guest') &&
      read(`/proc/${pid}/cgroup`).includes(groupOf(dataDir)),
  )

/** The helper's name for its control groups, which its boxes are below. */
function groupOf(dataDir: string): string {
  let hash = 0xcbf29ce484222325n
  for (const byte of Buffer.from(dataDir)) hash = ((hash ^ BigInt(byte)) * 0x100000001b3n) & 0xffffffffffffffffn
  return `delta-${(((hash >> 32n) ^ hash) & 0xffffffffn).toString(16).padStart(8, '0')}`
}

function standIn(tool: string): ChildProcess {
  return spawn(tool, ['host-victim', 'x'], { stdio: 'ignore' })
}

export const serverAttacks: ServerAttack[] = [
  {
    name: 'server-secrets',
    promise: 1,
    tries: "read the API key, the pool, the helper's records and what other programs keep",
    without: 'confinement: as root',
    program: 'file-loot',
    place({ dataDir, programDir, isWeak }) {
      const secrets = ['pool', 'state', 'guest'].map((name) => {
        const secret = `secret-${randomUUID()}`
        mkdirSync(join(dataDir, name), { recursive: true })
        writeFileSync(join(dataDir, name, 'secret'), secret, { mode: 0o644 })
        return { path: join(dataDir, name, 'secret'), secret }
      })
      const keyFile = join(dataDir, 'api-key')
      if (isWeak) writeFileSync(keyFile, `delta_${randomUUID()}`)
      secrets.push({ path: keyFile, secret: readFileSync(keyFile, 'utf8').trim() })
      const others = ['/etc/shadow', '/root', '/home', join(programDir, '../..')]
      return {
        args: [...secrets.map(({ path }) => path), ...others],
        fell: ({ said }) => {
          const taken = secrets.find(({ secret }) => said.includes(secret))
          return taken && `${taken.path} was read`
        },
      }
    },
  },
  {
    name: 'server-writes',
    promise: 1,
    tries: "write its own program, the key, the helper's records and the folder of wires",
    without: 'confinement: as root',
    program: 'file-make',
    place({ dataDir, programDir }) {
      const name = `made-${randomUUID().slice(0, 8)}`
      const places = [
        programDir,
        dataDir,
        ...['state', 'pool', 'wires', 'guest', 'templates'].map((folder) => join(dataDir, folder)),
      ]
      for (const place of places) mkdirSync(place, { recursive: true })
      const program = join(programDir, 'main.mjs')
      const before = existsSync(program) ? readFileSync(program, 'utf8') : ''
      return {
        args: [...places.map((place) => join(place, name)), program],
        fell() {
          const made = places.find((place) => existsSync(join(place, name)))
          if (made !== undefined) return `a file was made in ${made}`
          return existsSync(program) && readFileSync(program, 'utf8') !== before ? 'the program was changed' : undefined
        },
      }
    },
  },
  {
    name: 'server-kills-helper',
    promise: 1,
    tries: 'end the helper',
    without: 'confinement: as root',
    program: 'process-kill',
    place({ helperPid, tool, isWeak }) {
      const child = isWeak ? standIn(tool) : undefined
      const pid = child?.pid ?? helperPid
      const isAlive = () => /^State:\s+[^ZX]/m.test(read(`/proc/${pid}/status`))
      return {
        args: [String(pid)],
        fell: async () => ((await eventually(isWeak ? 2 : 0.2, () => !isAlive())) ? 'it was killed' : undefined),
        end: () => void child?.kill('SIGKILL'),
      }
    },
  },
  {
    name: 'helper-words',
    promise: 1,
    tries: 'make the helper follow a path, a command or a number that it must not: every field of every request',
    without: '',
    async strong({ dataDir, order, helperPid }) {
      const heard = () => order<{ answered: number; refused: number }>({ order: 'heard' })
      const ofGood = await sayGood(order)
      if (ofGood !== 2) return 'nothing: what all requests are made from was refused itself'
      const frames = badFrames()
      const { refused: before } = await heard()
      await order({ order: 'say', frames })
      const refused = async () => (await heard()).refused - before
      for (let left = 400; left > 0 && (await refused()) < frames.length; left--) await eventually(0.05, () => false)
      if ((await refused()) < frames.length) return `only ${await refused()} of ${frames.length} requests were refused`
      if (folders(join(dataDir, 'state/boxes')).length > 0) return 'a box was made'
      if (existsSync(join(dataDir, '../canary')) || existsSync(join(dataDir, 'canary')))
        return 'a folder was made outside'
      if (guests(dataDir).length > 0) return 'a guest runs'
      return residentBytes(helperPid) > 64 * mib ? 'the helper has grown' : undefined
    },
    weakly: { unshown: 'nothing can be told to weaken the helper, and another helper would prove nothing of this one' },
  },
  {
    name: 'helper-flood',
    promise: 3,
    tries: 'have 10,000 sandboxes made at once',
    without: 'a bound: the same helper with uids for four times as many',
    async strong({ dataDir, order, helperPid }) {
      const before = (await order<{ answered: number }>({ order: 'heard' })).answered
      const wanted = 10_000
      const name = (at: number) => at.toString(36)
      const frames = Array.from({ length: wanted }, (_, at) =>
        frame(create, 100_000 + at, wish({ boxId: `box_${name(at)}`, upperId: `upp_${name(at)}` })),
      )
      await order({ order: 'say', frames })
      let most = 0
      for (let left = 1_200; left > 0; left--) {
        most = Math.max(most, residentBytes(helperPid))
        const { answered } = await order<{ answered: number }>({ order: 'heard' })
        if (answered - before >= wanted) break
        await eventually(0.05, () => false)
      }
      const boxes = guests(dataDir).length
      if (boxes > roomForBoxes) return `${boxes} boxes were made`
      if (boxes === 0) return 'nothing: no box was made at all'
      return most > 96 * mib ? `the helper grew to ${Math.round(most / mib)} MiB` : undefined
    },
    async weakly({ takeOver }) {
      const takenOver = await takeOver(4 * roomForBoxes)
      try {
        const wanted = 2 * roomForBoxes
        const before = (await takenOver.order<{ answered: number }>({ order: 'heard' })).answered
        const frames = Array.from({ length: wanted }, (_, at) =>
          frame(create, 1 + at, wish({ boxId: `box_${at}`, upperId: `upp_${at}` })),
        )
        await takenOver.order({ order: 'say', frames })
        for (let left = 600; left > 0; left--) {
          const { answered } = await takenOver.order<{ answered: number }>({ order: 'heard' })
          if (answered - before >= wanted) break
          await eventually(0.05, () => false)
        }
        const boxes = guests(takenOver.dataDir).length
        return boxes > roomForBoxes ? `${boxes} boxes were made` : undefined
      } finally {
        await takenOver.stop()
      }
    },
  },
  {
    name: 'helper-frames',
    promise: 3,
    tries: 'hang or fill the helper with half frames, huge ones and channel 0',
    without: '',
    async strong(takenOver) {
      const { order, helperPid, serverPid } = takenOver
      const huge = Buffer.alloc(9)
      huge.writeUInt32LE(0xffff_fff0)
      huge[4] = create
      for (const bad of [huge.toString('base64'), frame(create, 0, wish({}))]) {
        const before = serverPid()
        await order({ order: 'say', frames: [Buffer.from([9, 0]).toString('base64')] }).catch(() => undefined)
        await order({ order: 'say', frames: [bad] }).catch(() => undefined)
        await eventually(5, () => serverPid() !== before)
        if (!(await answers(takenOver))) return `the helper gave up: ${takenOver.log().slice(-500)}`
      }
      return residentBytes(helperPid) > 96 * mib ? 'the helper has grown' : undefined
    },
    weakly: { unshown: 'nothing can be told to weaken the helper, and another reader would prove nothing of this one' },
  },
  {
    name: 'guest-lies',
    promise: 3,
    tries: 'fill or hang the server from a guest that was taken over: lies about lengths, noise, floods of six kinds',
    without: '',
    async strong({ programDir }) {
      const dataDir = mkdtempSync(join(programDir, '../guest-'))
      chmodSync(dataDir, 0o711)
      const base = Number(process.env['DELTA_UID_BASE'] ?? 1_879_048_192)
      const env = {
        DELTA_GUEST: join(programDir, 'attack'),
        DELTA_POOL_SIZE: '0',
        // Beside the boxes of the platform that is taken over.
        DELTA_UID_BASE: String(base + 64 * 65_536),
        DELTA_UID_COUNT: String(16 * 65_536),
      }
      const platform = await startPlatform({ dataDir, env })
      try {
        const server = httpProcessOf(platform.pid)
        const before = residentBytes(server)
        const delta = new Delta({ url: platform.url, apiKey: platform.key })
        let most = 0
        let slowest = 0
        const over = new AbortController()
        const watch = (async () => {
          while (!over.signal.aborted) {
            const askedAt = performance.now()
            await delta.health()
            slowest = Math.max(slowest, performance.now() - askedAt)
            most = Math.max(most, residentBytes(server) - before)
            await eventually(0.1, () => over.signal.aborted)
          }
        })()
        const talk = async () => {
          const sandbox = await delta.sandboxes.create({ memoryMb: 64, signal: AbortSignal.timeout(8_000) })
          await sandbox.commands.run('true', { timeoutMs: 2_000, signal: AbortSignal.timeout(4_000) })
        }
        const talks = await Promise.allSettled(Array.from({ length: 6 }, talk))
        over.abort()
        await watch
        if (talks.some(({ status }) => status === 'fulfilled'))
          return 'nothing: a command ran, so the guest was the real one'
        if (most > 128 * mib) return `the server grew by ${Math.round(most / mib)} MiB`
        return slowest > 5_000 ? `the server took ${Math.round(slowest)} ms to answer` : undefined
      } finally {
        await platform.stop()
        rmSync(dataDir, { recursive: true, force: true })
      }
    },
    weakly: { unshown: 'nothing can be told to weaken the server, and another reader would prove nothing of this one' },
  },
]

/** Boxes there is room for beside a taken-over process. */
export const roomForBoxes = 4
