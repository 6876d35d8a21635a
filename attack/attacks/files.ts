import { execFileSync, spawnSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { type Attack, type Canary, type Ground, isStrong } from '../attack.ts'
import { read } from '../host.ts'
import { takeAway } from '../weak-box.ts'

const tampered = 'written by the attack'

/** A file that only root of the host may read, and what its loss looks like. */
function secretFile(ground: Ground, { mode = 0o600 } = {}): { path: string; secret: string; fell: Canary['fell'] } {
  const secret = `secret-${randomUUID()}`
  const path = join(ground.folder, 'secret')
  writeFileSync(path, secret, { mode })
  chmodSync(path, mode)
  return {
    path,
    secret,
    fell: ({ said }) => {
      if (said.includes(secret)) return 'the secret file was read'
      return readFileSync(path, 'utf8') === secret ? undefined : 'the secret file was changed'
    },
  }
}

/** A setting of the host's kernel, put back afterwards. */
function settings(paths: { path: string; value: string }[]): Canary {
  const before = paths.filter(({ path }) => existsSync(path)).map((one) => ({ ...one, was: read(one.path) }))
  const changed = () => before.filter(({ path, was }) => read(path) !== was)
  return {
    args: before.flatMap(({ path, value }) => [path, value]),
    fell: () => (changed().length === 0 ? undefined : `${changed()[0]?.path} was changed`),
    end: () => changed().forEach(({ path, was }) => writeFileSync(path, was)),
  }
}

const limiter = { path: '/proc/sys/kernel/printk_ratelimit_burst', value: '11' }
/** Harmless where nothing merges pages, which is so unless someone turned it on. */
const sysfsSettings = [
  '/sys/kernel/mm/ksm/sleep_millisecs',
  '/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs',
]

export const fileAttacks: Attack[] = [
  {
    name: 'file-direct',
    promise: 1,
    tries: 'read and write a file of the host by its path',
    place(ground) {
      const { path, fell } = secretFile(ground)
      return { args: [path, tampered], fell }
    },
    weak: {
      without: 'a root of its own, a user namespace',
      edit(config, { folder }) {
        takeAway.userNamespace(config)
        takeAway.show(config, folder)
      },
    },
  },
  {
    name: 'file-proc-root',
    promise: 1,
    tries: 'reach the host through the root or folder of a process in sight',
    place(ground) {
      const { path, fell } = secretFile(ground)
      return { args: [path], fell }
    },
    weak: {
      without: 'pid and user namespaces',
      edit(config) {
        takeAway.namespace(config, 'pid')
        takeAway.userNamespace(config)
        takeAway.capabilityBounds(config)
      },
    },
  },
  {
    name: 'file-descriptor',
    promise: 1,
    tries: 'climb out of a folder left open in some process',
    place(ground) {
      const { path, fell } = secretFile(ground, { mode: 0o644 })
      chmodSync(ground.folder, 0o755)
      return { args: [path], fell }
    },
    weak: { without: 'closed descriptors', leak: '/' },
  },
  {
    name: 'file-handle',
    promise: 1,
    tries: 'open a file of the host by its handle (open_by_handle_at)',
    place(ground) {
      const { path, fell } = secretFile(ground)
      return { args: [execFileSync(ground.tool, ['host-handle', path], { encoding: 'utf8' })], fell }
    },
    weak: {
      without: 'user namespace, seccomp',
      edit(config) {
        takeAway.userNamespace(config)
        takeAway.seccomp(config)
        takeAway.capabilityBounds(config)
      },
    },
  },
  {
    name: 'file-chroot',
    promise: 1,
    tries: 'leave the root folder by a second chroot',
    place(ground) {
      const { path, fell } = secretFile(ground)
      return { args: [path], fell }
    },
    weak: { without: 'a mount namespace: chroot alone', way: 'chroot' },
  },
  {
    name: 'file-device',
    promise: 1,
    tries: 'read a disk of the host by a device node made inside',
    place(ground) {
      const secret = `secret-${randomUUID()}`
      const file = join(ground.folder, 'disk')
      writeFileSync(file, secret)
      truncateSync(file, 1 << 20)
      const device = execFileSync('losetup', ['--find', '--show', file], { encoding: 'utf8' }).trim()
      const { rdev } = statSync(device)
      // As glibc's makedev: 12 bits of major above 8 of minor, the rest further up.
      const major = (rdev >> 8) & 0xfff
      const minor = (rdev & 0xff) | ((rdev >> 12) & 0xfff00)
      return {
        args: [String(major), String(minor)],
        fell: ({ said }) => (said.includes(secret) ? `${device} was read` : undefined),
        end: () => void execFileSync('losetup', ['--detach', device]),
      }
    },
    weak: {
      without: 'user namespace, device rules',
      edit(config) {
        takeAway.userNamespace(config)
        takeAway.capabilityBounds(config)
        takeAway.deviceRules(config)
      },
    },
  },
  {
    name: 'file-template',
    promise: 1,
    tries: 'change a file of the template for others, by writing, links and truncation',
    place(ground) {
      const inside = ground.isWeak ? '/usr/shared' : '/usr/bin/env'
      const outside = ground.isWeak ? join(ground.weakRoot, inside) : inside
      if (ground.isWeak) {
        writeFileSync(outside, 'as it was')
        chmodSync(outside, 0o666)
      }
      const before = readFileSync(outside)
      return {
        args: [inside, tampered],
        fell: () => (readFileSync(outside).equals(before) ? undefined : `${outside} was changed`),
      }
    },
    weak: { without: 'an overlay: the folder itself' },
  },
  {
    name: 'file-setuid',
    promise: 1,
    tries: 'leave a set-uid root program on the disk for an accomplice on the host',
    place(ground) {
      const name = `accomplice-${randomUUID().slice(0, 8)}`
      const inside = `/usr/${name}`
      return {
        args: [inside],
        fell() {
          const below = isStrong(ground) ? ground.platform.dataDir : ground.weakRoot
          const found = execFileSync('find', [below, '-name', name], { encoding: 'utf8' })
            .trim()
            .split('\n')
            .filter(Boolean)
          const roots = found.filter((path) =>
            spawnSync(path, ['host-uid'], { uid: 65_534, gid: 65_534, encoding: 'utf8' }).stdout?.startsWith('0 '),
          )
          if (!ground.isWeak && ground.runtime !== 'runsc' && found.length === 0)
            return 'nothing: the program was not found where it was left'
          return roots.length > 0 ? `nobody became root by ${roots[0]}` : undefined
        },
      }
    },
    weak: { without: 'user namespace, a closed pool', edit: takeAway.userNamespace },
  },
  {
    name: 'file-program',
    promise: 1,
    tries: "change a program of the host's through /proc/PID/exe",
    place(ground) {
      const inside = ground.isWeak ? join(ground.weakRoot, 'attack') : undefined
      const programs =
        inside === undefined ? [process.execPath, '/usr/bin/env', ground.tool, ...guests(ground)] : [inside]
      const look = (path: string) => {
        const { mode, uid, mtimeMs, size } = statSync(path)
        return `${mode} ${uid} ${mtimeMs} ${size}`
      }
      const before = programs.map(look)
      return { args: [], fell: () => programs.find((path, at) => look(path) !== before[at]) }
    },
    weak: { without: 'an overlay, a user namespace', edit: takeAway.userNamespace },
  },
  {
    name: 'proc-sys',
    program: 'write-files',
    promise: 1,
    tries: "write settings of the host's kernel, core_pattern among them",
    place: (ground) => {
      const dangerous = ground.isWeak ? [] : [{ path: '/proc/sys/kernel/core_pattern', value: '/tmp/core.%p' }]
      const { args, ...rest } = settings([limiter, ...dangerous])
      return { args, ...rest }
    },
    weak: {
      without: 'user namespace, read-only /proc/sys',
      edit(config) {
        takeAway.userNamespace(config)
        takeAway.hiddenPaths(config)
      },
    },
  },
  {
    name: 'sysfs',
    program: 'write-files',
    promise: 1,
    tries: "write the kernel's settings in /sys",
    missing: () =>
      sysfsSettings.some((path) => existsSync(path)) ? undefined : 'this kernel has no harmless setting to try',
    place: () =>
      settings(
        sysfsSettings
          .filter((path) => existsSync(path))
          .map((path) => ({ path, value: String(Number(read(path)) + 1) })),
      ),
    weak: {
      without: 'user namespace, the hidden /sys',
      edit(config) {
        takeAway.userNamespace(config)
        config.mounts = config.mounts.filter(({ destination }) => !destination.startsWith('/sys'))
        config.mounts.push({ destination: '/sys', type: 'bind', source: '/sys', options: ['rbind', 'rw'] })
      },
    },
  },
  {
    name: 'kernel-log',
    promise: 1,
    tries: "read the host's kernel log",
    place() {
      const secret = `delta-attack-${randomUUID()}`
      const log = openSync('/dev/kmsg', 'w')
      writeFileSync(log, `${secret}\n`)
      closeSync(log)
      return { args: [], fell: ({ said }) => (said.includes(secret) ? 'the log was read' : undefined) }
    },
    weak: {
      without: 'user namespace, seccomp',
      edit(config) {
        takeAway.userNamespace(config)
        takeAway.seccomp(config)
        takeAway.capabilityBounds(config)
      },
    },
  },
  {
    name: 'files-race',
    promise: 1,
    tries: 'lead the files API to the host by a name that is by turns a file and a link',
    without: 'resolution inside: a server that reads below /proc/PID/root',
    async strong(ground) {
      const { path, secret } = secretFile(ground, { mode: 0o644 })
      const race = await ground.sandbox.commands.start(
        ['/usr/local/bin/attack', 'file-race', '2', '/workspace/raced', path],
        { user: 'root' },
      )
      // A round in which everything was refused, as by a path that never was, tried nothing.
      let rounds = 0
      for (const end = performance.now() + 1_500; performance.now() < end;) {
        const [text, entry, packed] = await Promise.all([
          ground.sandbox.files.readText('/workspace/raced').catch(() => ''),
          ground.sandbox.files.stat('/workspace/raced').catch(() => undefined),
          archive(ground, '/workspace'),
          ground.sandbox.files.write('/workspace/raced', 'mine\n').catch(() => undefined),
        ])
        if (text !== '' && entry !== undefined) rounds++
        if (text.includes(secret)) return 'a download read the secret file'
        if (packed.includes(secret)) return 'an archive held the secret file'
        if (entry?.path.startsWith(ground.folder)) return 'a listing named a path of the host'
      }
      await race.kill().catch(() => {})
      if (rounds === 0) return 'nothing: no request came through'
      return readFileSync(path, 'utf8') === secret ? undefined : 'an upload changed the secret file'
    },
    async weakly(ground) {
      const { path, secret } = secretFile(ground, { mode: 0o644 })
      mkdirSync(join(ground.weakRoot, 'workspace'), { recursive: true })
      const raced = join(ground.weakRoot, 'workspace/raced')
      const race = (await import('node:child_process')).spawn(ground.tool, ['file-race', '2', raced, path], {
        stdio: 'ignore',
      })
      try {
        for (const end = performance.now() + 2_000; performance.now() < end;) {
          await new Promise((done) => setTimeout(done, 1))
          if (read(raced).includes(secret)) return 'a download read the secret file'
        }
        return undefined
      } finally {
        race.kill('SIGKILL')
        rmSync(raced, { force: true })
      }
    },
  },
]

/** What of an archive came; it is cut where a file changed while it was packed, which is what the race does. */
async function archive(
  { platform, sandbox }: { platform: { url: string; key: string }; sandbox: { id: string } },
  path: string,
): Promise<string> {
  let came = ''
  try {
    const answer = await fetch(`${platform.url}/v1/sandboxes/${sandbox.id}/archive?path=${encodeURIComponent(path)}`, {
      headers: { authorization: `Bearer ${platform.key}` },
    })
    for await (const chunk of answer.body ?? []) came += Buffer.from(chunk).toString('latin1')
  } catch {
    return came
  }
  return came
}

function guests(ground: Ground): string[] {
  if (!isStrong(ground)) return []
  return execFileSync('find', [join(ground.platform.dataDir, 'guest'), '-type', 'f'], { encoding: 'utf8' })
    .trim()
    .split('\n')
    .filter(Boolean)
}
