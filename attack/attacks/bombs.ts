import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { type Attack, type Canary, type Ground, isStrong, type StrongGround } from '../attack.ts'
import { cpuTicks, descriptorsOf, eventually, read, residentBytes } from '../host.ts'

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
function byCount(name: string, what: string, tries: string): Attack {
  return {
    name,
    promise: 3,
    tries,
    place: (ground) => ({
      args: [],
      async fell() {
        if (!one(ground.tool, what, sharedUid)) return 'an unprivileged user of the host got none'
        if (!one(ground.tool, what)) return "the host's root got none"
        if (!isStrong(ground)) return undefined
        const { stdout } = await ground.neighbour.commands.run([`/usr/local/bin/attack`, what], {
          user: 'root',
          cwd: '/',
        })
        return stdout === '1' ? undefined : 'a neighbour got none'
      },
    }),
    weak: { without: 'a user of its own', way: 'host', uid: sharedUid },
  }
}

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
