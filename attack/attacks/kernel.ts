import { execFileSync, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { release } from 'node:os'
import { join } from 'node:path'
import { type Attack, type Attempt, isStrong, type RuntimeName } from '../attack.ts'
import { descriptorsOf, mountsOf, namespacesOf, read, retry } from '../host.ts'
import { type OciConfig, takeAway } from '../weak-box.ts'

/** All of the host's kernel: no filter, the host's root, every capability. */
function allOfTheKernel(config: OciConfig): void {
  takeAway.seccomp(config)
  takeAway.userNamespace(config)
  takeAway.capabilityBounds(config)
}

/** Held by a descriptor whose link says what it is. */
function byDescriptor(name: string, kind: string, tries: string): Attack {
  return {
    name,
    promise: 2,
    tries,
    place: () => ({
      args: [],
      fell: ({ pids }) =>
        pids()
          .flatMap(descriptorsOf)
          .some((link) => link.includes(kind))
          ? `it holds ${kind}`
          : undefined,
    }),
    weak: { without: 'seccomp, user namespace', edit: allOfTheKernel },
  }
}

const flags = {
  mount: '20000',
  cgroup: '2000000',
  uts: '4000000',
  ipc: '8000000',
  user: '10000000',
  pid: '20000000',
  network: '40000000',
  time: '80',
}

function byNamespace([name, flag]: [string, string]): Attack {
  return {
    name: `namespace-${name}`,
    program: 'namespace',
    promise: 2,
    tries: `make a ${name} namespace by clone, clone3 and unshare`,
    place: () => ({
      args: [flag],
      fell({ pids, namespaces }) {
        const fresh = [...namespacesOf(...pids())].filter((link) => !namespaces.has(link))
        return fresh.length === 0 ? undefined : `there is a new ${fresh[0]}`
      },
    }),
    weak: { without: 'seccomp, user namespace', edit: allOfTheKernel },
  }
}

/** A file of the box that only what was tried could have made. */
function byFile(
  name: string,
  tries: string,
  { missing, content, mayEnd }: { missing?: () => string | undefined; content?: string; mayEnd?: boolean } = {},
): Attack {
  return {
    name,
    promise: 2,
    tries,
    ...(missing && { missing }),
    ...(mayEnd && { mayEnd }),
    place() {
      const made = `/tmp/${name}-${randomUUID().slice(0, 8)}`
      return {
        args: [made],
        fell: ({ path }) =>
          existsSync(path(made)) && (content === undefined || read(path(made)).includes(content))
            ? `${made} is there`
            : undefined,
      }
    },
    weak: { without: 'seccomp, user namespace', edit: allOfTheKernel },
  }
}

function x32Missing(): string | undefined {
  return read('/boot/config').includes('CONFIG_X86_X32_ABI=y') || tryX32() ? undefined : 'this kernel has no x32 calls'
}

/** Whether the host's own kernel serves them. */
function tryX32(): boolean {
  return kernelOptions().includes('CONFIG_X86_X32_ABI=y')
}

function kernelOptions(): string {
  try {
    return execFileSync('zcat', ['/proc/config.gz'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
      maxBuffer: 16 << 20,
    })
  } catch {
    return ''
  }
}

const onX86 = () => (process.arch === 'x64' ? undefined : 'only x86 has a second set of calls')

/** AF_UNIX; AF_INET and AF_INET6 for TCP, UDP and ping; routing netlink. */
function isUsual([family, kind, protocol]: number[]): boolean {
  if (family === 1) return true
  if (family === 16) return protocol === 0
  return (family === 2 || family === 10) && (kind === 1 || kind === 2) && [0, 6, 17, 1, 58].includes(protocol ?? -1)
}

/** One that does nothing until it is asked to, where the host has it as it is. */
function hostModule(): string | undefined {
  const path = `/lib/modules/${release()}/kernel/drivers/net/dummy.ko`
  return existsSync(path) ? path : undefined
}

const loadedKernels = ['/sys/kernel/kexec_loaded', '/sys/kernel/kexec_crash_loaded']

const keysOf = (uids: (uid: number) => boolean) =>
  read('/proc/key-users')
    .split('\n')
    .map((line) => /^\s*(\d+):\s+\d+\s+\d+\/\d+\s+(\d+)\//.exec(line))
    .filter((match) => match !== null && uids(Number(match[1])))
    .reduce((sum, match) => sum + Number(match?.[2]), 0)

/** Control groups of the box, or the one that the weak box is shown. */
function limitFiles(ground: { runtime: RuntimeName; isWeak: boolean }, boxGroup: string): string[] {
  const found = execFileSync('find', ['/sys/fs/cgroup', '-type', 'd', '-path', `*${boxGroup}`], { encoding: 'utf8' })
    .trim()
    .split('\n')
    .filter(Boolean)
  return found
    .flatMap((folder) =>
      ['pids.max', 'notify_on_release', 'memory.limit_in_bytes', 'memory.max', 'cpu.max', 'cgroup.freeze'].map((name) =>
        join(folder, name),
      ),
    )
    .filter((path) => existsSync(path))
}

export const kernelAttacks: Attack[] = [
  byDescriptor('bpf', 'bpf-map', 'make a map for programs in the kernel'),
  byDescriptor('io-uring', '[io_uring]', 'make a ring of system calls'),
  byDescriptor('userfaultfd', '[userfaultfd]', 'handle page faults'),
  byDescriptor('perf', '[perf_event]', 'count what the processor does'),
  byDescriptor('fanotify', '[fanotify]', 'watch whole file systems'),
  byDescriptor('mount-api', '[fscontext]', 'open a file system by the new mount calls'),
  ...Object.entries(flags).map(byNamespace),
  {
    name: 'mount',
    promise: 2,
    tries: 'mount a file system, by the old and the new calls',
    place: () => {
      const name = `mounted-${randomUUID().slice(0, 8)}`
      const seen = ({ pids }: Attempt) =>
        pids()
          .flatMap(mountsOf)
          .some((line) => line.split(' ')[4]?.endsWith(name))
      return { args: [`/tmp/${name}`], fell: (attempt) => (seen(attempt) ? `${name} is mounted` : undefined) }
    },
    weak: { without: 'seccomp, user namespace', edit: allOfTheKernel },
  },
  {
    name: 'unmask',
    promise: 2,
    tries: 'take off what hides and protects parts of /proc',
    place: () => ({
      args: ['/proc/sys', '/proc/keys', '/proc/timer_list', '/proc/sysrq-trigger'],
      fell({ pids }) {
        // gVisor's processes on the host have mounts of their own, none of them a /proc.
        const tables = pids()
          .map(mountsOf)
          .filter((lines) => lines.some((line) => line.split(' ')[4] === '/proc'))
        return tables.some((lines) => !lines.some((line) => line.split(' ')[4] === '/proc/sys'))
          ? '/proc/sys is open'
          : undefined
      },
    }),
    weak: { without: 'seccomp, user namespace', edit: allOfTheKernel },
  },
  {
    name: 'keys',
    promise: 2,
    tries: "put keys into the kernel's key rings",
    missing: () => (existsSync('/proc/key-users') ? undefined : 'this kernel has no key rings'),
    place: ({ isWeak }) => {
      const mine = (uid: number) => (isWeak ? uid === 0 : uid >= 65_536)
      const before = keysOf(mine)
      return {
        args: [],
        fell: () => (keysOf(mine) > before + 5 ? `${keysOf(mine) - before} keys were made` : undefined),
      }
    },
    weak: { without: 'seccomp, user namespace', edit: allOfTheKernel },
  },
  byFile('abi-32', 'call the kernel by its 32-bit numbers (int 0x80)', { missing: onX86, mayEnd: true }),
  byFile('abi-x32', 'call the kernel by its x32 numbers', { missing: () => onX86() ?? x32Missing() }),
  byFile('terminal-injection', 'type into a terminal (TIOCSTI), also by a request whose high half is set', {
    content: 'hi',
  }),
  {
    name: 'aio',
    promise: 3,
    tries: 'take the events of Linux AIO, which the machine counts as one',
    place: () => {
      const now = () => Number(read('/proc/sys/fs/aio-nr'))
      const before = now()
      return { args: [], fell: () => (now() >= before + 4096 ? `${now() - before} events are taken` : undefined) }
    },
    weak: { without: 'seccomp', edit: takeAway.seccomp },
  },
  {
    name: 'kexec',
    promise: 2,
    tries: 'load a kernel to start in place of this one, or when it crashes',
    missing: () => (existsSync(loadedKernels[0]!) ? undefined : 'this kernel cannot start another'),
    place() {
      const before = loadedKernels.map(read)
      return {
        args: [],
        fell: () =>
          loadedKernels.some((path, at) => read(path) !== before[at]) ? 'another kernel is loaded' : undefined,
      }
    },
    weak: { unshown: 'what is loaded is what the next restart begins, if the battery dies before it is taken out' },
  },
  {
    name: 'modules',
    promise: 2,
    tries: "load a module into the kernel, of the host's own, by both calls",
    missing: () => (existsSync('/proc/modules') ? undefined : 'this kernel takes no modules'),
    async place(ground) {
      const loaded = () =>
        read('/proc/modules')
          .split('\n')
          .map((text) => text.split(' ')[0])
      const before = new Set(loaded())
      const module = '/tmp/module.ko'
      const own = hostModule()
      if (isStrong(ground) && own !== undefined) await ground.sandbox.files.write(module, readFileSync(own))
      return {
        args: [module, '/proc/self/exe'],
        fell() {
          const fresh = loaded().find((name) => !before.has(name))
          return fresh && `${fresh} is loaded`
        },
      }
    },
    weak: { unshown: 'a module that is loaded can do anything, and some cannot be unloaded' },
  },
  {
    name: 'sockets',
    promise: 2,
    tries: 'open a socket of every family and kind: raw, packet, vsock, exotic ones',
    place: ({ tool }) => ({
      args: [],
      fell({ pids }) {
        const lines = execFileSync(tool, ['host-sockets', ...pids().map(String)], { encoding: 'utf8' })
          .trim()
          .split('\n')
          .filter(Boolean)
        const odd = lines.find((line) => !isUsual(line.split(' ').map(Number)))
        return odd === undefined ? undefined : `it holds a socket of family, kind and protocol ${odd}`
      },
    }),
    weak: { without: 'seccomp, user namespace', edit: allOfTheKernel },
  },
  {
    name: 'shared-memory',
    promise: 1,
    tries: "attach the host's shared memory by its key",
    async place({ tool }) {
      const secret = `secret-${randomUUID()}`
      const key = String(1_000_000 + Math.floor(Math.random() * 1_000_000_000))
      const child = spawn(tool, ['host-shared', key, secret], { stdio: ['pipe', 'pipe', 'ignore'] })
      await once(child.stdout, 'data')
      return {
        args: [key],
        fell: ({ said }) => (said.includes(secret) ? 'the segment was read' : undefined),
        async end() {
          const exit = once(child, 'exit')
          child.stdin.end()
          await exit
        },
      }
    },
    weak: { without: 'an ipc namespace', edit: (config) => takeAway.namespace(config, 'ipc') },
  },
  {
    name: 'cgroup',
    promise: 3,
    tries: 'raise its own limits by writing to control groups, seen or mounted anew (release_agent)',
    place(ground) {
      const weakGroup = `/delta-attack-${randomUUID().slice(0, 8)}`
      const hierarchy =
        ['/sys/fs/cgroup/pids', '/sys/fs/cgroup'].find((path) => readdirSync(path).includes('cgroup.procs')) ??
        '/sys/fs/cgroup'
      const folder = join(hierarchy, weakGroup)
      if (ground.isWeak) {
        mkdirSync(folder)
        for (const [name, value] of [
          ['pids.max', '50'],
          ['cgroup.freeze', '0'],
        ] as const)
          if (existsSync(join(folder, name))) writeFileSync(join(folder, name), value)
        writeFileSync(join(ground.folder, 'group'), folder)
      }
      const group = isStrong(ground) ? `/box_${ground.sandbox.id.slice(4)}*` : weakGroup
      const files = limitFiles(ground, group)
      const before = files.map(read)
      return {
        args: [
          'pids.max',
          'max',
          'notify_on_release',
          '1',
          'release_agent',
          '/bin/true',
          'memory.limit_in_bytes',
          '-1',
          'memory.max',
          'max',
          'cgroup.freeze',
          '1',
        ],
        fell() {
          if (files.length === 0)
            return ground.runtime === 'runsc' ? undefined : 'nothing: no control group of the box was found'
          const changed = files.find((path, at) => read(path) !== before[at])
          if (changed?.endsWith('cgroup.freeze')) writeFileSync(changed, '0')
          return changed && `${changed} was changed`
        },
        end: () => ground.isWeak && retry(() => rmdirSync(folder)),
      }
    },
    weak: {
      without: 'the hidden cgroup file system, user namespace',
      edit(config, { folder }) {
        takeAway.userNamespace(config)
        config.mounts = config.mounts.filter(({ destination }) => !destination.startsWith('/sys'))
        config.mounts.push({
          destination: '/tmp/cg',
          type: 'bind',
          source: read(join(folder, 'group')),
          options: ['bind', 'rw'],
        })
      },
    },
  },
]
