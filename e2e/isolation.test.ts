import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { release, tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Sandbox } from '@delta-agents/sdk'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { delta, key } from './target.ts'

let sandbox: Sandbox
beforeAll(async () => {
  sandbox = await delta.sandboxes.create({ timeoutMs: 1_800_000 })
})
afterAll(() => sandbox.kill())
const asRoot = { user: 'root' } as const
const output = async (cmd: string, options = {}) => (await sandbox.commands.run(cmd, options)).stdout.trim()

/** Host processes with this word among their arguments, and the uid each runs as. */
function hostProcesses(word: string): { pid: number; uid: number }[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        if (!readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(word)) return []
        const uid = /^Uid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
        return [{ pid: Number(pid), uid: Number(uid) }]
      } catch {
        // It ended while it was looked at.
        return []
      }
    })
}

/** Under gVisor what runs inside is no process of the host's. */
const isGvisor = () => sandbox.info.runtime === 'runsc'

const seconds = () => `${40_000 + Math.floor(Math.random() * 50_000)}.${Math.floor(Math.random() * 1e6)}`
const uidOf = (word: string) => hostProcesses(word).at(-1)?.uid ?? 0

test('root and user inside are unprivileged uids outside, distinct per sandbox', async ({ skip }) => {
  skip(isGvisor(), 'under gVisor what runs inside is no process of the host')
  await using other = await delta.sandboxes.create()
  const words = { root: seconds(), user: seconds(), other: seconds() }
  const handles = [
    await sandbox.commands.start(['sleep', words.root], asRoot),
    await sandbox.commands.start(['sleep', words.user]),
    await other.commands.start(['sleep', words.other], asRoot),
  ]
  const [rootUid, userUid, otherUid] = [uidOf(words.root), uidOf(words.user), uidOf(words.other)]
  expect(await output('id -u', asRoot)).toBe('0')
  expect(rootUid).toBeGreaterThan(65_535)
  expect(userUid).toBe(rootUid + 1000)
  expect(Math.abs(otherUid - rootUid)).toBeGreaterThanOrEqual(65_536)
  await Promise.all(handles.map((handle) => handle.kill()))
})

test('no process of the host or of another sandbox is visible', async () => {
  const word = `canary-${randomUUID()}`
  const canary = spawn(process.execPath, ['-e', 'setTimeout(() => {}, 60000)', word], { stdio: 'ignore' })
  await using other = await delta.sandboxes.create()
  await other.commands.start(['/bin/bash', '-c', 'sleep 600; true', word])
  await expect.poll(() => hostProcesses(word).length).toBeGreaterThanOrEqual(isGvisor() ? 1 : 2)
  const seen = await output('cat /proc/[0-9]*/cmdline | tr "\\0" " "; echo; ls /proc | grep -c "^[0-9]"', asRoot)
  expect(seen).not.toContain(word)
  expect(Number(seen.split('\n').at(-1))).toBeLessThan(12)
  canary.kill()
})

test('no file of the host is there but what the template shows', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'delta-canary-'))
  const secret = randomUUID()
  writeFileSync(join(folder, 'secret'), secret)
  expect(
    await output(
      `cat ${folder}/secret 2>&1; find /etc /home /mnt /opt /root /run /srv /tmp /var /workspace -xdev -name secret -newermt "-1 hour" 2>/dev/null | head`,
      asRoot,
    ),
  ).not.toContain(secret)
  for (const path of ['/root/.ssh', '/etc/shadow', '/etc/ssh/ssh_host_ed25519_key', '/var/lib/dpkg/info', '/home']) {
    const inside = await output(`ls -la ${path} 2>&1; cat ${path} 2>/dev/null`, asRoot)
    if (path === '/etc/shadow') expect(inside).not.toMatch(/\$[0-9a-z]+\$/)
    if (path === '/root/.ssh') expect(inside).not.toMatch(/authorized_keys|id_|known_hosts|total/)
    if (path.endsWith('_key')) expect(inside).not.toContain('PRIVATE KEY')
  }
  rmSync(folder, { recursive: true })
})

test('no secret of the server is in any environment or file inside', async () => {
  const found = await output(
    `cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; grep -rl '${key.slice(0, 12)}' /etc /home /workspace /run /tmp /dev/shm 2>/dev/null`,
    asRoot,
  )
  expect(found).not.toContain(key)
  expect(found).not.toMatch(/DELTA_API_KEY|DATABASE_URL/)
})

test('neither the disks of the host nor the files behind them are named inside', async () => {
  const loops = readdirSync('/sys/block').map((name) => {
    try {
      return readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8').trim()
    } catch {
      // No loop device, or none that is in use.
      return ''
    }
  })
  const seen = await output(
    'find /sys /proc/fs /proc/bus 2>/dev/null; cat /sys/block/*/loop/backing_file /proc/partitions /proc/diskstats /proc/swaps /proc/mounts 2>/dev/null',
    asRoot,
  )
  for (const file of loops.filter(Boolean)) expect(seen).not.toContain(file)
  if (!isGvisor()) for (const name of readdirSync('/sys/block')) expect(seen.split(/[\s/]/)).not.toContain(name)
  const parameters = readFileSync('/proc/cmdline', 'utf8').trim()
  if (parameters) expect(await output('cat /proc/cmdline', asRoot)).not.toContain(parameters)
})

test('programs still see how many processors there are', async () => {
  expect(Number(await output('nproc'))).toBeGreaterThan(0)
  if (!isGvisor()) expect(await output('cat /sys/devices/system/cpu/online')).toMatch(/^[\d,-]+$/)
})

test('events of asynchronous I/O, which the machine counts as one, are not to be had', async () => {
  if (isGvisor() || !(await sandbox.commands.run('command -v python3')).ok) return
  const script = `import ctypes; c = ctypes.CDLL(None, use_errno=True); x = ctypes.c_ulong(0); print(c.syscall(${process.arch === 'arm64' ? 0 : 206}, 64, ctypes.byref(x)), ctypes.get_errno())`
  const before = readFileSync('/proc/sys/fs/aio-nr', 'utf8')
  expect(await output(`python3 -c '${script}'; sleep 0.2`, asRoot)).toBe('-1 38')
  expect(Number(readFileSync('/proc/sys/fs/aio-nr', 'utf8'))).toBeLessThanOrEqual(Number(before) + 64)
})

test('there is no network but loopback', async () => {
  const listener = createServer().listen(0, '0.0.0.0')
  await new Promise((done) => listener.once('listening', done))
  let connections = 0
  listener.on('connection', () => connections++)
  const address = listener.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  expect(await output("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '")).toBe('lo')
  const dial = (host: string) => output(`exec 3<>/dev/tcp/${host}/${port} && echo connected`, asRoot)
  expect(await dial('127.0.0.1')).toBe('')
  expect(await dial('localhost')).toBe('')
  listener.close()
  expect(connections).toBe(0)
})

test('loopback works inside and is not shared between sandboxes', async () => {
  await using other = await delta.sandboxes.create()
  if (!(await sandbox.commands.run('command -v python3')).ok)
    return expect((await sandbox.commands.run('cat /proc/net/dev')).stdout).toContain('lo:')
  await sandbox.commands.start('cd /tmp; echo mine > page; python3 -m http.server 8123')
  const fetchPage = `python3 -c "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8123/page', timeout=3).read())"`
  await expect.poll(() => output(fetchPage), { timeout: 15_000 }).toContain('mine')
  expect((await other.commands.run(fetchPage)).stdout).not.toContain('mine')
})

test('two sandboxes share nothing', async () => {
  await using other = await delta.sandboxes.create()
  for (const path of [
    '/workspace/mark',
    '/tmp/mark',
    '/dev/shm/mark',
    '/home/user/mark',
    '/var/tmp/mark',
    '/etc/mark',
    '/run/mark',
  ]) {
    await sandbox.commands.run(`echo mine > ${path}`, asRoot)
    expect(await other.files.exists(path), path).toBe(false)
  }
  const name = await output('hostname')
  expect((await other.commands.run('hostname')).stdout.trim()).not.toBe(name)
})

test.each([
  ['mounting', 'mount -t tmpfs none /mnt'],
  ['mounting proc anew', 'mount -t proc proc /mnt'],
  ['making a device', 'mknod /workspace/disk b 8 0 && head -c1 /workspace/disk'],
  ['reading kernel memory', 'head -c1 /dev/mem'],
  ['writing to sysfs', 'echo 1 > /sys/kernel/uevent_seqnum'],
  ['writing a sysctl', 'echo 1 > /proc/sys/kernel/panic'],
  ['sysrq', 'echo b > /proc/sysrq-trigger'],
  ['setting the clock', 'date -s "2001-01-01"'],
  ['a new mount namespace', 'unshare -m true'],
  ['chroot out', 'nsenter -t 1 -m true'],
  ['loading a module', 'modprobe dummy'],
  ['raising its own limits', 'echo max > /sys/fs/cgroup/pids.max'],
  ['another host name', 'hostname owned'],
])('%s is refused to root inside', async (_, cmd) => {
  const result = await sandbox.commands.run(cmd, asRoot)
  expect(result.exitCode, `${result.stdout}${result.stderr}`).not.toBe(0)
})

test.each([
  ['the kernel log', 'dmesg'],
  ['a new user namespace', 'unshare -U true'],
])('%s is refused to root inside, unless it is that of a kernel of the sandbox’s own', async (_, cmd) => {
  const result = await sandbox.commands.run(cmd, asRoot)
  if (isGvisor()) return expect(result.stdout).not.toContain(release())
  expect(result.exitCode, `${result.stdout}${result.stderr}`).not.toBe(0)
})

test('/usr of the template cannot be changed for others', async () => {
  await sandbox.commands.run('echo pwned > /usr/bin/delta-canary; echo pwned >> /etc/profile', asRoot)
  await using other = await delta.sandboxes.create()
  expect(await other.files.exists('/usr/bin/delta-canary')).toBe(false)
  expect((await other.commands.run('grep -c pwned /etc/profile')).stdout.trim()).toBe('0')
  expect(() => readFileSync('/usr/bin/delta-canary')).toThrow('ENOENT')
})

test('the guest cannot be killed or traced from inside', async () => {
  await sandbox.commands.run('kill -9 1; kill -STOP 1; kill -SEGV 1', asRoot)
  await sandbox.commands.run('kill -9 1; kill -9 -1')
  expect(await output('echo alive')).toBe('alive')
  const traced = await sandbox.commands.run(
    'head -c 1 /proc/1/mem; echo 0 > /proc/1/oom_score_adj; cat /proc/1/environ',
    asRoot,
  )
  expect(traced.stdout).not.toContain('DELTA')
  expect(sandbox.info.state).toBe('running')
})

test('kill -9 -1 by root ends every process but the guest, and the sandbox goes on', async () => {
  await using victim = await delta.sandboxes.create()
  const sleeper = await victim.commands.start('sleep 1000')
  await victim.commands.run('kill -9 -1', { ...asRoot, timeoutMs: 5_000 })
  expect(await sleeper.wait()).toMatchObject({ signal: 'SIGKILL' })
  expect((await victim.commands.run('echo alive')).stdout).toBe('alive\n')
})
