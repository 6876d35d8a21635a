// The helper's tests on a kernel of Debian's with nothing but cgroup v2, in a machine that QEMU emulates: most development machines and CI
// runners have v1 or hybrid. Prints what the tests print and ends with their code; bounded by `limitMs`.
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { tmpdir } from 'node:os'
import { packCpio } from './cpio.ts'
import { createRoot, modulesFor, onPath } from './root.ts'

const repository = resolve(import.meta.dirname, '../..')
const limitMs = 300_000
const memoryMb = 3_072
const cache = join(repository, '.build/vm')
/** What they assert of cgroups; the rest does not depend on their version. */
const tests =
  process.argv.slice(2).length > 0
    ? process.argv.slice(2)
    : [
        'a_box_answers_on_its_wire_and_ends_without_a_trace_on_every_runtime',
        'limits_hold_and_a_frozen_box_stands_still_on_every_runtime',
        'all_boxes_together_leave_the_machine_numbers_and_memory',
        'a_box_whose_guest_dies_is_news_and_can_still_be_ended',
        'after_a_kill_boxes_are_adopted_with_their_processes_and_their_state',
      ]
const exitMark = 'delta-vm ends with '

/** Of Debian's package, unpacked and not installed. */
function kernel(): { image: string; modules: string } {
  mkdirSync(cache, { recursive: true })
  if (!existsSync(join(cache, 'boot'))) {
    const depends = execFileSync('apt-cache', ['depends', 'linux-image-cloud-amd64'], { encoding: 'utf8' })
    const [, name] = /Depends: (linux-image-\S+)/.exec(depends) ?? []
    if (!name) throw new Error('apt knows no linux-image-cloud-amd64: apt-get update')
    execFileSync('apt-get', ['download', name], { cwd: cache, stdio: ['ignore', 'ignore', 'pipe'] })
    const [archive] = readdirSync(cache).filter((file) => file.endsWith('.deb'))
    execFileSync('dpkg-deb', ['-x', archive!, '.'], { cwd: cache })
    rmSync(join(cache, archive!))
  }
  const [image] = readdirSync(join(cache, 'boot')).filter((file) => file.startsWith('vmlinuz-'))
  const [version] = readdirSync(join(cache, 'lib/modules'))
  return { image: join(cache, 'boot', image!), modules: join(cache, 'lib/modules', version!, 'kernel') }
}

/** Builds the helper's test program; where it and the programs it starts lie is compiled into it. */
function testPrograms(): string[] {
  const said = execFileSync(
    'cargo',
    ['test', '--locked', '--offline', '--no-run', '--release', '--test', 'helper', '--message-format=json'],
    {
      cwd: join(repository, 'packages/guest'),
      encoding: 'utf8',
      maxBuffer: 64 << 20,
      stdio: ['ignore', 'pipe', 'ignore'],
    },
  )
  const built = said
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as { executable?: string | null; target?: { name: string; kind: string[] } })
    .filter(({ executable }) => executable)
  const test = built.find(({ target }) => target?.kind.includes('test'))
  if (!test) throw new Error('cargo built no test program')
  return [
    test.executable!,
    ...built.filter(({ target }) => target?.kind.includes('bin')).map(({ executable }) => executable!),
  ]
}

function initialRoot(modules: string): Buffer {
  const root = createRoot()
  for (const path of ['/proc', '/sys', '/dev', '/tmp', '/run', '/root', '/etc', '/var/tmp', '/workspace'])
    root.folder(path)
  const [test, ...programs] = testPrograms()
  for (const path of [test!, ...programs]) root.program(path)
  for (const name of [...shellPrograms, 'switch_root', 'crun', 'runc', 'mkfs.btrfs', 'mkfs.ext4'])
    root.program(onPath(name))
  root.link('/usr/bin/sh', 'dash')
  root.file('/etc/passwd', 'root:x:0:0:root:/root:/bin/sh\n', 0o644)
  root.file('/etc/group', 'root:x:0:\n', 0o644)
  const loaded = modulesFor(['loop', 'overlay', 'btrfs'], modules).map((path, index) => {
    const place = `/modules/${index}.ko`
    root.file(place, readFileSync(path), 0o644)
    return place
  })
  root.file('/second', second(test!))
  const mounted = new Set(['proc', 'sys', 'dev', 'modules'])
  const names = new Set(root.entries().map(({ path }) => path.split('/')[1]!))
  root.file('/init', init(loaded, Array.from(names.difference(mounted))))
  return packCpio([{ path: '/dev', kind: 'folder' }, { path: '/dev/console', kind: 'console' }, ...root.entries()])
}

const shellPrograms = [
  'dash',
  'bash',
  'perl',
  'mount',
  'umount',
  'cat',
  'ls',
  'head',
  'tail',
  'sleep',
  'true',
  'false',
  'id',
  'ps',
  'seq',
  'dd',
  'mkdir',
  'rm',
  'touch',
  'env',
  'test',
  'stat',
  'yes',
  'uname',
  'df',
  'ln',
  'mknod',
  'wc',
  'sort',
  'grep',
  'tr',
  'sync',
  'kill',
  'nproc',
  'echo',
  'chmod',
  'cp',
  'mv',
  'truncate',
  'hostname',
].filter((name) => existsSync(join('/usr/bin', name)))

/** The number of `finit_module`: the kernel's own loader is not in every Debian. */
const finitModule = 313

/**
 * The first root cannot be pivoted away from, as a runtime does, and this kernel's tmpfs knows no idmapped mounts: all of it moves to an ext4 in
 * memory, of which only what is written takes any.
 */
function init(modules: string[], names: string[]): string {
  return [
    '#!/bin/sh',
    'export PATH=/usr/sbin:/usr/bin',
    'mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev',
    `for module in ${modules.join(' ')}; do perl -e '$none = ""; open(F, "<", $ARGV[0]) or die; syscall(${finitModule}, fileno(F), $none, 0) == 0 or warn "$ARGV[0]: $!\\n"' $module; done`,
    'mkdir /next /disk; mount -t tmpfs -o size=8g none /disk',
    'truncate -s 7g /disk/image; mkfs.ext4 -q -m 0 -E lazy_itable_init=1,nodiscard /disk/image; mount -o loop /disk/image /next',
    `cp -a ${names.map((name) => `/${name}`).join(' ')} /next/`,
    'mkdir -p /next/proc /next/sys /next/dev /next/run /next/var/tmp',
    'exec switch_root /next /second',
    '',
  ].join('\n')
}

function second(test: string): string {
  return [
    '#!/bin/sh',
    'export PATH=/usr/sbin:/usr/bin RUST_BACKTRACE=0 TMPDIR=/var/tmp HOME=/root',
    'mkdir -p /dev/pts /dev/shm; mount -t devpts none /dev/pts; mount -t tmpfs none /dev/shm',
    'mount -t cgroup2 none /sys/fs/cgroup',
    'echo "kernel $(uname -r), cgroup controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"',
    `${test} --test-threads=1 --nocapture --exact ${tests.join(' ')} </dev/null 2>&1`,
    `echo "${exitMark}$?"`,
    'sync; echo o > /proc/sysrq-trigger; sleep 10',
    '',
  ].join('\n')
}

async function boot(image: string, initrd: string): Promise<number> {
  const child = spawn(
    onPath('qemu-system-x86_64'),
    // prettier-ignore
    ['-M', 'q35', '-accel', 'tcg,thread=multi', '-cpu', 'EPYC,+svm', '-smp', '2', '-m', String(memoryMb), '-nographic', '-no-reboot', '-nic', 'none',
      '-kernel', image, '-initrd', initrd, '-append', 'console=ttyS0 quiet panic=-1 cgroup_no_v1=all random.trust_cpu=on'],
    { stdio: ['ignore', 'pipe', 'ignore'] },
  )
  let said = ''
  child.stdout.on('data', (chunk: Buffer) => {
    process.stdout.write(chunk)
    said = (said + chunk.toString()).slice(-200_000)
  })
  const timer = setTimeout(() => child.kill('SIGKILL'), limitMs)
  await new Promise((done) => child.once('close', done))
  clearTimeout(timer)
  const [, code] = new RegExp(`${exitMark}(\\d+)`).exec(said) ?? []
  const [, passed = '0'] = /test result: \w+\. (\d+) passed/.exec(said) ?? []
  if (code === undefined) process.stdout.write(`\nThe machine did not come to its end within ${limitMs / 1000} s\n`)
  // A name that no test has would pass without having run.
  return code === '0' && Number(passed) >= tests.length ? 0 : 1
}

const folder = mkdtempSync(join(tmpdir(), 'delta-vm-'))
try {
  const { image, modules } = kernel()
  const initrd = join(folder, 'initrd')
  writeFileSync(initrd, initialRoot(modules))
  process.exitCode = await boot(image, initrd)
} finally {
  rmSync(folder, { recursive: true, force: true })
}
