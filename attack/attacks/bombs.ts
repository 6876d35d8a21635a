import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Attack, type Canary, type Ground, isStrong, type ProgramAttack, type StrongGround } from '../attack.ts'
import { takeAway } from '../weak-box.ts'
import { cpuTicks, descriptorsOf, eventually, read, residentBytes, retry } from '../host.ts'

const mib = 1024 * 1024
/** Beside the limit: what the guest needs, and what is counted late. */
const slack = 1.1
const memoryMb = 64
const gvisorMemoryMb = 256

/** An unprivileged uid that no account has: the host's own user whom the weak box shares. */
const sharedUid = 65_533

const one = (tool: string, what: string, uid?: number) =>
  spawnSync(tool, [what], { encoding: 'utf8', ...(uid === undefined ? {} : { uid, gid: uid }) }).stdout === '1'

/** Something that the kernel counts by user: who else still gets one? */
function byCount(name: string, what: string, tries: string, more: Partial<ProgramAttack> = {}): Attack {
  return {
    name,
    promise: 3,
    tries,
    async place(ground) {
      const before = await gotBy(ground, what)
      if (!before.user || !before.root) throw new Error(`${what} is not to be had on this host as it is`)
      return {
        args: [],
        async fell() {
          const now = await gotBy(ground, what)
          if (!now.user) return 'an unprivileged user of the host got none'
          if (!now.root) return "the host's root got none"
          // What a sandbox never gets, nobody can take from it.
          return before.neighbour && !now.neighbour ? 'a neighbour got none' : undefined
        },
      }
    },
    weak: { without: 'a user of its own', way: 'host', uid: sharedUid },
    ...more,
  }
}

/** Who gets one of them at this moment. */
async function gotBy(ground: Ground, what: string): Promise<{ user: boolean; root: boolean; neighbour: boolean }> {
  const neighbour = isStrong(ground)
    ? (await ground.neighbour.commands.run(['/usr/local/bin/attack', what], { user: 'root', cwd: '/' })).stdout === '1'
    : false
  return { user: one(ground.tool, what, sharedUid), root: one(ground.tool, what), neighbour }
}

/** Memory of the kernel that no process has in its own: messages. */
function kernelMemory(args: string[]): ProgramAttack['place'] {
  return () => {
    const used = () =>
      1024 *
      ['SUnreclaim', 'Shmem'].reduce(
        (sum, name) => sum + Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(read('/proc/meminfo'))?.[1] ?? 0),
        0,
      )
    const before = used()
    return {
      args,
      fell() {
        const grown = used() - before
        return grown > memoryMb * mib * slack + 48 * mib
          ? `the kernel holds ${Math.round(grown / mib)} MiB more`
          : undefined
      },
    }
  }
}

/** Beyond what a box can take before it is seen, and far below what these programs take in the end. */
const lockedBytesMost = 96 * mib

/** What the kernel holds for locks of files; where it does not tell them apart, all that it holds. */
function lockedBytes(): number {
  const [, , count, size] = /^file_lock_cache\s+(\d+)\s+(\d+)\s+(\d+)/m.exec(read('/proc/slabinfo')) ?? []
  if (count !== undefined && size !== undefined) return Number(count) * Number(size)
  return 1024 * Number(/^SUnreclaim:\s+(\d+)/m.exec(read('/proc/meminfo'))?.[1] ?? 0)
}

/** Locks of files: 1,200,000 of them take 219 MiB, which the kernel counts for nobody. */
function byLocks(name: string, tries: string, weak: ProgramAttack['weak']): Attack {
  return {
    name,
    promise: 3,
    tries,
    own: { memoryMb },
    place(ground) {
      const before = lockedBytes()
      let most = 0
      const watch = setInterval(() => (most = Math.max(most, lockedBytes() - before)), 10)
      return {
        // Files, locks in each, and processes to hide among.
        args: ['800', '1000', '400'],
        async fell() {
          most = Math.max(most, lockedBytes() - before)
          if (most > lockedBytesMost) return `the kernel held ${Math.round(most / mib)} MiB more for locks`
          const { user, root, neighbour } = await gotBy(ground, 'one-lock')
          if (!user || !root) return 'the host could lock no file'
          return isStrong(ground) && !neighbour ? 'a neighbour could lock no file' : undefined
        },
        end: () => clearInterval(watch),
      }
    },
    weak,
  }
}

/** A control group that attacker and neighbour share, with room for few. */
function sharedGroup(): string {
  const hierarchy = existsSync('/sys/fs/cgroup/pids') ? '/sys/fs/cgroup/pids' : '/sys/fs/cgroup'
  const group = mkdtempSync(join(hierarchy, 'delta-attack-'))
  writeFileSync(join(group, 'pids.max'), '64')
  return group
}

const groupFile = (folder: string) => join(folder, 'group')
const enterGroup = ({ folder }: Ground) => [
  'sh',
  '-c',
  'echo $$ > "$(cat "$0")/cgroup.procs"; exec "$@"',
  groupFile(folder),
]

/** How long a neighbour's command may take whatever happens beside it. */
const neighbourMs = 5_000

const limitBytes = (ground: Ground) => (isGvisor(ground) ? gvisorMemoryMb : memoryMb) * mib

/** Memory of all processes, once with what they share: enough, since the programs share next to nothing. */
function memory(ground: Ground): Canary {
  return {
    args: [isGvisor(ground) ? '600' : '160'],
    async fell({ pids }) {
      const files = pids().flatMap((pid) => heldFiles(pid))
      const held = pids().map(residentBytes)
      // gVisor's processes share what they map, so adding them up says nothing; its control group does. A box that ended holds nothing.
      const used = isGvisor(ground)
        ? await groupBytes(ground)
        : [...held, ...files].reduce((sum, bytes) => sum + bytes, 0)
      return used > limitBytes(ground) * slack + 16 * mib ? `it holds ${Math.round(used / mib)} MiB` : undefined
    },
  }
}

const isGvisor = (ground: Ground): ground is StrongGround => isStrong(ground) && ground.runtime === 'runsc'
const groupBytes = ({ sandbox }: StrongGround) =>
  sandbox.metrics().then(
    ({ memoryBytes }) => memoryBytes,
    () => 0,
  )

/** Memory files are of no process but of whoever holds them open. */
function heldFiles(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
      const { blocks, nlink, isFile } = statOf(`/proc/${pid}/fd/${fd}`)
      return isFile && nlink === 0 ? [blocks * 512] : []
    })
  } catch {
    return []
  }
}

function statOf(path: string): { blocks: number; nlink: number; isFile: boolean } {
  const found = statSync(path, { throwIfNoEntry: false })
  return { blocks: found?.blocks ?? 0, nlink: found?.nlink ?? 1, isFile: found?.isFile() ?? false }
}

export const bombAttacks: Attack[] = [
  byCount('take-inotify', 'one-inotify', 'take all inotify instances that the kernel gives a user'),
  byCount('take-signals', 'one-signal', 'take all queued signals that the kernel gives a user'),
  byCount('take-pipes', 'one-pipe', 'take all pages of pipes that the kernel gives a user'),
  byCount('take-queues', 'one-queue', 'take all bytes of message queues that the kernel gives a user'),
  byCount(
    'take-keys',
    'one-key',
    'take all keys that the kernel gives a user, and have it ask a program of the host for one',
    {
      missing: () => (existsSync('/proc/key-users') ? undefined : 'this kernel has no key rings'),
    },
  ),
  byCount('take-watches', 'one-watch', 'take all that the kernel lets a user watch by epoll', {
    isLong: true,
    own: { memoryMb },
  }),
  byCount('take-ipc', 'one-ipc', "take all of System V's queues, semaphores and segments", {
    place: (ground) => ({
      args: [],
      async fell({ pids }) {
        if (!ground.isWeak) {
          const { root, neighbour } = await gotBy(ground, 'one-ipc')
          return root ? (neighbour ? undefined : 'a neighbour got none') : 'the host got none'
        }
        const shared = `--ipc=/proc/${pids()[0] ?? 0}/ns/ipc`
        const { stdout } = spawnSync('nsenter', [shared, ground.tool, 'one-ipc'], { encoding: 'utf8' })
        return stdout === '0' ? 'who shares its namespace got none' : undefined
      },
    }),
    weak: { without: 'an ipc namespace of its own', way: 'host', within: () => ['unshare', '--ipc'] },
  }),
  byCount('take-processes', 'one-process', 'take all processes that there are', {
    program: 'bomb-forks',
    own: { processes: 64 },
    missing: ({ runtime }) =>
      runtime === 'runsc'
        ? 'a sandbox of gVisor ends with its fork bomb, before it can be asked what it got'
        : undefined,
    place(ground) {
      const group = ground.isWeak ? sharedGroup() : ''
      if (ground.isWeak) writeFileSync(groupFile(ground.folder), group)
      return {
        args: ['200'],
        async fell() {
          if (!ground.isWeak) {
            const { user, root, neighbour } = await gotBy(ground, 'one-process')
            return user && root ? (neighbour ? undefined : 'a neighbour got none') : 'the host got none'
          }
          const [enter, ...words] = [...enterGroup(ground), ground.tool, 'one-process']
          const { stdout } = spawnSync(enter!, words, { encoding: 'utf8' })
          return stdout === '0' ? 'who shares its control group got none' : undefined
        },
        end: () => ground.isWeak && retry(() => rmdirSync(group)),
      }
    },
    weak: { without: 'a control group of its own', way: 'host', within: enterGroup },
  }),
  byLocks('bomb-locks', 'use more memory than its limit, by locks of files, which only the kernel holds', {
    without: 'the watch over locks',
  }),
  byLocks('bomb-orphan-locks', 'hide whose the locks of files are behind processes that are gone, in a crowd', {
    without: 'the watch over locks',
  }),
  byLocks('bomb-lost-locks', 'hide locks of files in files that no process has open', {
    without: 'seccomp, the watch over locks',
    edit: takeAway.seccomp,
  }),
  {
    name: 'bomb-messages',
    promise: 3,
    tries: "use more memory than its limit, by messages in System V's queues",
    own: { memoryMb },
    place: kernelMemory(['240']),
    weak: { without: 'a control group' },
  },
  {
    name: 'take-terminals',
    promise: 3,
    tries: "take the machine's terminals",
    place: ({ isWeak }) => ({
      // Where nothing bounds it the machine's own are at stake: a few more than a sandbox's share say enough.
      args: isWeak ? ['200'] : ['4096'],
      fell({ pids }) {
        const taken = pids()
          .flatMap(descriptorsOf)
          .filter((link) => link.includes('ptmx')).length
        return taken > 150 ? `${taken} are taken` : undefined
      },
    }),
    weak: {
      without: 'a bound on its terminals',
      edit(config) {
        for (const mount of config.mounts) mount.options = mount.options.filter((option) => !option.startsWith('max='))
      },
    },
  },
  {
    name: 'bomb-memory',
    promise: 3,
    tries: 'use more memory than its limit',
    own: { memoryMb },
    place: memory,
    weak: { without: 'a control group' },
  },
  {
    name: 'bomb-shared',
    promise: 3,
    tries: 'use more memory than its limit, in files that live in memory',
    own: { memoryMb },
    place: memory,
    weak: { without: 'a control group' },
  },
  {
    name: 'bomb-forks',
    promise: 3,
    tries: 'start more processes than its limit',
    own: { processes: 64 },
    place: () => ({
      args: ['200'],
      fell: ({ pids }) => (pids().length > 64 * slack ? `${pids().length} processes run` : undefined),
    }),
    weak: { without: 'a control group' },
  },
  {
    name: 'bomb-busy',
    promise: 3,
    tries: 'use more of the processors than its share',
    own: { cpu: 0.2 },
    place: () => ({
      args: ['16'],
      async fell({ pids }) {
        const all = pids()
        const used = () => all.reduce((sum, pid) => sum + cpuTicks(pid), 0)
        const [before, since] = [used(), performance.now()]
        await eventually(1, () => false)
        const share = (used() - before) / ((performance.now() - since) / 10)
        return share > 0.2 * slack + 0.08 ? `it uses ${share.toFixed(2)} of a processor` : undefined
      },
    }),
    weak: { without: 'a control group' },
  },
  {
    name: 'bomb-disk',
    promise: 3,
    tries: 'write more than its disk',
    own: { diskMb: 32 },
    place: ({ isWeak }) => ({
      args: ['80', isWeak ? '/tmp' : '/workspace'],
      fell: async ({ diskBytes }) => {
        const used = await diskBytes()
        return used > 32 * mib * slack ? `it holds ${Math.round(used / mib)} MiB of disk` : undefined
      },
    }),
    weak: { without: "the pool's quota" },
  },
  {
    name: 'bomb-inodes',
    promise: 3,
    tries: 'make more files than its disk has room for',
    isLong: true,
    own: { diskMb: 32 },
    place: (ground) => ({
      args: ['70000', ground.isWeak ? '/tmp' : '/workspace'],
      fell() {
        const below = isStrong(ground) ? join(ground.platform.dataDir, 'pool') : ground.weakRoot
        const made = Number(
          execFileSync('sh', ['-c', 'find "$1" -path "*/many/*" | wc -l', 'sh', below], { encoding: 'utf8' }),
        )
        if (made === 0) return 'nothing: none of the files was found'
        return made > 60_000 ? `there are ${made} files` : undefined
      },
    }),
    weak: { without: "the pool's quota" },
  },
  {
    name: 'bomb-output',
    promise: 3,
    tries: 'fill the memory of whoever listens with output',
    without: 'bounds on what is kept: a server that keeps all',
    async strong({ sandbox, platform }) {
      const server = serverPid(platform.pid)
      const before = residentBytes(server)
      if (server === 0 || before === 0) return 'nothing: the server was not found'
      const output = () =>
        sandbox.commands.run(['/usr/local/bin/attack', 'bomb-output', '256'], { cwd: '/', timeoutMs: 20_000 })
      let most = 0
      const watch = setInterval(() => (most = Math.max(most, residentBytes(server) - before)), 20)
      await Promise.all([output(), output()])
      clearInterval(watch)
      return most > 128 * mib ? `the server grew by ${Math.round(most / mib)} MiB` : undefined
    },
    async weakly({ tool }) {
      const keeper = `const kept = []; const child = require('child_process').spawn(process.argv[1], ['bomb-output', '256'], { stdio: ['pipe', 'pipe', 'ignore'] });
        child.stdout.on('data', (chunk) => { kept.push(chunk); if (String(chunk.subarray(-6)) === '\\ndone\\n') console.log(process.memoryUsage().rss) })`
      const child = spawn(process.execPath, ['-e', keeper, tool], { stdio: ['ignore', 'pipe', 'inherit'] })
      let said = ''
      child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()))
      await eventually(20, () => said !== '')
      child.kill('SIGKILL')
      return Number(said) > 128 * mib ? `the server grew to ${Math.round(Number(said) / mib)} MiB` : undefined
    },
  },
  {
    name: 'neighbour',
    promise: 3,
    tries: 'hold up a neighbour, by processors, memory, processes, disk and output all at once',
    without: 'a share of its own: a neighbour that the host has stopped',
    async strong({ delta, neighbour, runtime, platform, tool }) {
      const server = serverPid(platform.pid)
      const before = residentBytes(server)
      await using attacker = await delta.sandboxes.create({ runtime, memoryMb: 256, processes: 128, diskMb: 64 })
      await attacker.files.write('/usr/local/bin/attack', readFileSync(tool), { mode: 0o755 })
      const bombs = [
        ['bomb-busy', '16'],
        ['bomb-memory', '300'],
        ['bomb-disk', '100', '/workspace'],
        ['bomb-forks', '100'],
        ['bomb-output', '512'],
      ]
      // Some are refused or ended by what the others have taken: so it should be.
      const running = bombs.map((bomb) =>
        attacker.commands
          .run(['/usr/local/bin/attack', ...bomb], { user: 'root', cwd: '/', timeoutMs: 6_000 })
          .catch(() => undefined),
      )
      const slowest = await slowestOf(10, () => neighbour.commands.run(['/bin/true'], { timeoutMs: 20_000 }))
      await Promise.all(running)
      const grown = residentBytes(server) - before
      if (grown > 128 * mib) return `the server grew by ${Math.round(grown / mib)} MiB`
      return slowest > neighbourMs ? `its command took ${Math.round(slowest)} ms` : undefined
    },
    async weakly({ tool }) {
      const stopped = spawn(tool, ['host-victim', 'x'], { stdio: 'ignore' })
      stopped.kill('SIGSTOP')
      // Of two signals that wait the kernel takes the one it likes.
      await eventually(5, () => /^State:\s+T/m.test(read(`/proc/${stopped.pid}/status`)))
      setTimeout(() => stopped.kill('SIGCONT'), neighbourMs + 200)
      const slowest = await slowestOf(1, async () => {
        stopped.kill('SIGTERM')
        await once(stopped, 'exit')
      })
      return slowest > neighbourMs ? `it took ${Math.round(slowest)} ms` : undefined
    },
  },
]

/** The HTTP process: the helper's only child that is no runtime's. */
export function serverPid(helper: number): number {
  const children = read(`/proc/${helper}/task/${helper}/children`).trim().split(' ').map(Number)
  return children.find((pid) => read(`/proc/${pid}/cmdline`).includes('main.mjs')) ?? 0
}

async function slowestOf(times: number, act: () => Promise<unknown>): Promise<number> {
  let slowest = 0
  for (let left = times; left > 0; left--) {
    const startedAt = performance.now()
    await act()
    slowest = Math.max(slowest, performance.now() - startedAt)
    await eventually(0.3, () => false)
  }
  return slowest
}
