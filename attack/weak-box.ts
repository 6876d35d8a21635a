import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  closeSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import type { Attempt, Ground, RuntimeName, Weakness } from './attack.ts'
import { descendants, diskUsage, eventually, namespacesOf, read } from './host.ts'

/** The part of an OCI configuration that the battery changes. */
export interface OciConfig {
  process: { args: string[]; user: { uid: number; gid: number }; capabilities: Record<string, string[]> }
  root: { path: string }
  mounts: { destination: string; type: string; source: string; options: string[] }[]
  annotations?: Record<string, string>
  linux: {
    seccomp?: unknown
    resources?: { devices: { allow: boolean; access: string }[] }
    namespaces: { type: string; path?: string }[]
    uidMappings?: unknown
    gidMappings?: unknown
    maskedPaths: string[]
    readonlyPaths: string[]
  }
}

const endMs = 20_000
const folders = ['proc', 'dev', 'sys', 'run', 'tmp', 'etc', 'usr', 'mnt', 'workspace']
/** By their numbers, from 0. */
const capabilityNames =
  'CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG'.split(
    ' ',
  )

/** Those that this machine lets its root have; nobody can give more than he has. */
function allCapabilities(): string[] {
  const mine = BigInt(`0x${/^CapBnd:\s+(\S+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0'}`)
  return capabilityNames.filter((_, bit) => ((mine >> BigInt(bit)) & 1n) === 1n).map((name) => `CAP_${name}`)
}

/** Root of a weak box: the program and empty folders. */
export function makeWeakRoot(root: string, tool: string): void {
  for (const name of folders) mkdirSync(join(root, name), { recursive: true })
  chmodSync(root, 0o755)
  chmodSync(join(root, 'tmp'), 0o777)
  copyFileSync(tool, join(root, 'attack'))
  chmodSync(join(root, 'attack'), 0o755)
}

export const takeAway = {
  seccomp(config: OciConfig): void {
    delete config.linux.seccomp
    delete config.annotations
  },
  /** Root inside is then root outside, with the capabilities it had. */
  userNamespace(config: OciConfig): void {
    config.linux.namespaces = config.linux.namespaces.filter(({ type }) => type !== 'user')
    delete config.linux.uidMappings
    delete config.linux.gidMappings
  },
  namespace(config: OciConfig, kind: 'pid' | 'network' | 'ipc' | 'uts'): void {
    config.linux.namespaces = config.linux.namespaces.filter(({ type }) => type !== kind)
  },
  capabilityBounds(config: OciConfig): void {
    for (const set of ['bounding', 'effective', 'permitted']) config.process.capabilities[set] = allCapabilities()
  },
  hiddenPaths(config: OciConfig): void {
    config.linux.maskedPaths = []
    config.linux.readonlyPaths = []
  },
  deviceRules(config: OciConfig): void {
    config.linux.resources = { devices: [{ allow: true, access: 'rwm' }] }
  },
  show(config: OciConfig, source: string, destination = source): void {
    config.mounts.push({ destination, type: 'bind', source, options: ['rbind', 'rw'] })
  },
}

/** The configuration that the helper would give this runtime, as data. */
function helperConfig(helper: string, runtime: RuntimeName): OciConfig {
  const text = execFileSync(helper, ['config'], { env: { ...process.env, DELTA_RUNTIME: runtime }, encoding: 'utf8' })
  return JSON.parse(text) as OciConfig
}

interface Running {
  child: ChildProcess
  pid: () => Promise<number>
  end: () => Promise<void>
}

/** Runs a program of the battery where its defence is missing, and gives it to `look` while it holds what it got. */
export async function attemptWeakly(
  { ground, weak, helper, args }: { ground: Ground; weak: Weakness; helper: string; args: string[] },
  look: (attempt: Attempt) => Promise<string | undefined>,
): Promise<string | undefined> {
  const running =
    weak.way === 'host' || weak.way === 'chroot' ? startBare(ground, weak, args) : startBox(ground, weak, helper, args)
  try {
    const said = await untilDone(running.child)
    const pid = await running.pid()
    const attempt: Attempt = {
      said,
      pids: () => descendants(pid),
      namespaces: namespacesOf(pid),
      path: (inside) => (weak.way === 'host' ? inside : join(ground.weakRoot, inside)),
      diskBytes: async () => diskUsage(ground.weakRoot),
    }
    return await look(attempt)
  } finally {
    await running.end()
  }
}

function startBare(ground: Ground, weak: Weakness, args: string[]): Running {
  const program = weak.way === 'chroot' ? ['chroot', ground.weakRoot, '/attack', ...args] : [ground.tool, ...args]
  const words = [...(weak.within?.(ground) ?? []), ...program]
  const leak = weak.leak === undefined ? undefined : openSync(weak.leak, 'r')
  const child = spawn(words[0]!, words.slice(1), {
    stdio: ['pipe', 'pipe', 'pipe', ...(leak === undefined ? [] : [leak])],
    ...(weak.uid === undefined ? {} : { uid: weak.uid, gid: weak.uid }),
  })
  if (leak !== undefined) closeSync(leak)
  return { child, pid: async () => child.pid ?? 0, end: () => ended(child, () => child.kill('SIGKILL')) }
}

function startBox(ground: Ground, weak: Weakness, helper: string, args: string[]): Running {
  // gVisor's boxes are shown to be needed by the same program under the host's own kernel.
  const runtime = ground.runtime === 'runsc' ? (existsSync('/usr/bin/crun') ? 'crun' : 'runc') : ground.runtime
  const id = `delta-attack-${process.pid}-${Math.random().toString(36).slice(2, 10)}`
  const bundle = join(ground.folder, 'bundle')
  const state = join(ground.folder, 'state')
  const pidFile = join(ground.folder, 'pid')
  mkdirSync(bundle, { recursive: true })
  const config = helperConfig(helper, runtime)
  config.root.path = ground.weakRoot
  config.process.args = ['/attack', ...args]
  weak.edit?.(config, ground)
  writeFileSync(join(bundle, 'config.json'), JSON.stringify(config))
  const leak = weak.leak === undefined ? undefined : openSync(weak.leak, 'r')
  const options = ['--root', state, ...(runtime === 'crun' ? ['--cgroup-manager=disabled'] : [])]
  const run = [
    'run',
    '--bundle',
    bundle,
    '--pid-file',
    pidFile,
    ...(leak === undefined ? [] : ['--preserve-fds', '1']),
    id,
  ]
  // crun of Debian 12 refuses hosts that also have an empty v2 hierarchy; the helper hides it in the same way.
  const script = 'umount -l /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
  const child = spawn('unshare', ['-m', 'sh', '-c', script, 'sh', runtime, ...options, ...run], {
    stdio: ['pipe', 'pipe', 'pipe', ...(leak === undefined ? [] : [leak])],
  })
  if (leak !== undefined) closeSync(leak)
  // The program may be done before its runtime has written who it is.
  const pid = async () => {
    await eventually(endMs / 1000, () => read(pidFile) !== '')
    return Number(read(pidFile))
  }
  const end = async () => {
    const kill = () => {
      if (read(pidFile) !== '') quietly(() => process.kill(Number(read(pidFile)), 'SIGKILL'))
      else child.kill('SIGKILL')
    }
    await ended(child, kill)
    quietly(() =>
      execFileSync('unshare', ['-m', 'sh', '-c', script, 'sh', runtime, ...options, 'delete', '--force', id], {
        stdio: 'ignore',
      }),
    )
    rmSync(bundle, { recursive: true, force: true })
  }
  return { child, pid, end }
}

/** Ends by itself when stdin ends; killed where it does not. */
export async function ended(child: ChildProcess, kill: () => void): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    const exit = new Promise((done) => child.once('exit', done))
    kill()
    const timer = setTimeout(() => child.kill('SIGKILL'), endMs)
    await exit
    clearTimeout(timer)
  }
  child.stdout?.destroy()
  child.stderr?.destroy()
}

/** What it said before "done"; an end without it is the battery's own failure. */
export function untilDone(child: ChildProcess): Promise<string> {
  return new Promise((done, fail) => {
    let said = ''
    let complaint = ''
    const timer = setTimeout(() => fail(new Error(`it did not say that it is done: ${complaint}`)), endMs)
    child.stderr?.on('data', (chunk: Buffer) => (complaint = (complaint + chunk.toString('latin1')).slice(-2_000)))
    child.stdout?.on('data', (chunk: Buffer) => {
      said = (said + chunk.toString('latin1')).slice(-8_000_000)
      if (!said.endsWith('\ndone\n')) return
      clearTimeout(timer)
      done(said)
    })
    child.on('error', fail)
    child.on('exit', (code, signal) => {
      clearTimeout(timer)
      fail(new Error(`it ended with ${code ?? signal} before it was done: ${complaint}`))
    })
  })
}

function quietly(act: () => unknown): void {
  try {
    act()
  } catch {
    // It is gone already.
  }
}
