// Runs every check, goes on after a failure, and ends with one line: `N passed, N failed`.
import { spawn, spawnSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir, userInfo } from 'node:os'
import { join, resolve } from 'node:path'

interface Outcome {
  name: string
  passed: number
  failed: number
  seconds: number
}

const root = resolve(import.meta.dirname, '..')
const all = process.argv.includes('--all')
const checkOnly = process.argv.includes('--check')
const reports = mkdtempSync(join(tmpdir(), 'delta-tests-'))
const bin = (name: string) => join(root, 'node_modules/.bin', name)
/** The tests beside the code that make real boxes. */
const boxTests = 'packages/server/src/drivers/oci'
const outcomes: Outcome[] = []

try {
  if (all) await longForm()
  else await shortForm()
} finally {
  rmSync(reports, { recursive: true, force: true })
}
report()

async function shortForm() {
  await check('types', bin('tsc'), ['--noEmit', '-p', '.'])
  await check('lint', bin('oxlint'), ['--deny-warnings'])
  await check('format', bin('oxfmt'), ['--check', 'packages', 'e2e', 'bench', 'scripts', 'examples', 'attack'])
  await check('generated types', process.execPath, ['scripts/generate-sdk-types.mjs', '--check'])
  if (checkOnly) return
  // Unit tests make no boxes, so they share neither uid ranges nor cgroups with the helper's tests, which wait more than they work.
  await Promise.all([
    cargoTests('guest and helper', []),
    vitest('unit', ['--config', 'vitest.config.ts', '--exclude', `${boxTests}/**`]),
  ])
  await vitest('conformance', ['--config', 'vitest.config.ts', boxTests])
  await vitest('end to end', ['--config', 'e2e/vitest.config.ts'])
  await attack('attacks', [])
}

async function longForm() {
  const long = { DELTA_TEST_ALL: '1' }
  const postgres = await startPostgres()
  try {
    await vitest('stores on PostgreSQL', ['--config', 'vitest.config.ts', ...databaseTests()], {
      ...long,
      DELTA_TEST_POSTGRES_URL: postgres.url,
    })
  } finally {
    postgres.stop()
  }
  await vitest('conformance, every runtime', ['--config', 'vitest.config.ts', 'packages/server/src/drivers'], long)
  await cargoTests('the template debian', ['--test', 'templates', '--', '--ignored'], long)
  for (const runtime of ['runc', 'runsc']) {
    await vitest(`end to end on ${runtime}`, ['--config', 'e2e/vitest.config.ts'], { DELTA_RUNTIME: runtime })
  }
  await attack('attacks, every runtime', ['--runtime', 'all', '--long'])
  await check('cgroup v2, emulated', process.execPath, ['e2e/vm/cgroup-v2.ts'])
  await vitest('kill points and debian', ['--config', 'e2e/vitest.config.ts', 'kill-points', 'debian'], long)
}

/** The tests that run on each database there is: the others gain nothing by a second one. */
function databaseTests(): string[] {
  const sources = join(root, 'packages/server/src')
  return readdirSync(sources, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.test.ts') && readFileSync(join(sources, file), 'utf8').includes('testDatabases'))
    .map((file) => join('packages/server/src', file))
}

async function check(name: string, program: string, args: string[]) {
  const startedAt = performance.now()
  const { status, output } = await run(program, args)
  if (status !== 0) process.stdout.write(output)
  record({ name, passed: status === 0 ? 1 : 0, failed: status === 0 ? 0 : 1, seconds: secondsSince(startedAt) })
}

/** Passed are the attacks a sandbox held against, and those whose harm was shown without the defence. */
async function attack(name: string, args: string[]) {
  const startedAt = performance.now()
  const file = join(reports, `${randomUUID()}.json`)
  const { status, output } = await run(process.execPath, ['attack/run.ts', ...args, '--json', file])
  const found = existsSync(file)
    ? (JSON.parse(readFileSync(file, 'utf8')) as { passed: number; failed: number })
    : { passed: 0, failed: 1 }
  const failed = Math.max(found.failed, status === 0 ? 0 : 1)
  if (failed > 0) process.stdout.write(output.slice(-20_000))
  record({ name, passed: found.passed, failed, seconds: secondsSince(startedAt) })
}

async function cargoTests(name: string, args: string[], env: NodeJS.ProcessEnv = {}) {
  const startedAt = performance.now()
  const { status, output } = await run('cargo', ['test', '--locked', '--offline', '--no-fail-fast', ...args], {
    cwd: join(root, 'packages/guest'),
    env,
  })
  const results = [...output.matchAll(/^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored/gm)]
  const sum = (column: number) => results.reduce((total, match) => total + Number(match[column]), 0)
  const failed = sum(2)
  if (status !== 0) process.stdout.write(output.slice(-20_000))
  // A compiler error or a crash has no failed test to count, but it is one.
  record({ name, passed: sum(1), failed: status !== 0 && failed === 0 ? 1 : failed, seconds: secondsSince(startedAt) })
}

async function vitest(name: string, args: string[], env: NodeJS.ProcessEnv = {}) {
  const startedAt = performance.now()
  const file = join(reports, `${randomUUID()}.json`)
  const { status, output } = await run(
    bin('vitest'),
    ['run', ...args, '--reporter=dot', '--reporter=json', `--outputFile.json=${file}`],
    { env },
  )
  const counts = existsSync(file)
    ? (JSON.parse(readFileSync(file, 'utf8')) as {
        numPassedTests: number
        numFailedTests: number
        numPendingTests: number
      })
    : { numPassedTests: 0, numFailedTests: 0, numPendingTests: 0 }
  const failed = Math.max(counts.numFailedTests, status === 0 ? 0 : 1)
  if (failed > 0) process.stdout.write(output.slice(-20_000))
  else
    for (const line of output.split('\n').filter((text) => text.includes('SKIPPED:'))) process.stdout.write(`${line}\n`)
  record({ name, passed: counts.numPassedTests, failed, seconds: secondsSince(startedAt) })
}

function run(
  program: string,
  args: string[],
  { cwd = root, env = {} }: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
) {
  return new Promise<{ status: number; output: string }>((done) => {
    const child = spawn(program, args, { cwd, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    const keep = (chunk: Buffer) => {
      output = (output + chunk.toString()).slice(-2_000_000)
    }
    child.stdout.on('data', keep)
    child.stderr.on('data', keep)
    child.on('error', (error) => done({ status: 1, output: `${program}: ${error.message}\n` }))
    child.on('close', (code) => done({ status: code ?? 1, output }))
  })
}

/** A private PostgreSQL on a free port with its data in a temporary folder; it refuses to run as root, so it runs as the package's own user. */
async function startPostgres() {
  const version = ['17', '16', '15'].find((number) => existsSync(`/usr/lib/postgresql/${number}/bin/postgres`))
  if (!version) throw new Error('PostgreSQL is not installed: apt-get install -y postgresql')
  const tool = (name: string) => `/usr/lib/postgresql/${version}/bin/${name}`
  const folder = mkdtempSync(join(tmpdir(), 'delta-postgres-'))
  const asPostgres = (program: string, args: string[]) =>
    userInfo().uid === 0
      ? { program: 'setpriv', args: ['--reuid=postgres', '--regid=postgres', '--init-groups', program, ...args] }
      : { program, args }
  must(spawnSync('chown', ['postgres', folder]))
  const init = asPostgres(tool('initdb'), ['-D', join(folder, 'db'), '-U', 'delta', '--auth=trust', '-E', 'UTF8'])
  must(spawnSync(init.program, init.args, { encoding: 'utf8', cwd: folder }))
  const port = 20_000 + Math.floor(Math.random() * 10_000)
  const start = asPostgres(tool('postgres'), [
    '-D',
    join(folder, 'db'),
    '-p',
    String(port),
    '-c',
    'listen_addresses=127.0.0.1',
    '-c',
    `unix_socket_directories=${folder}`,
  ])
  const server = spawn(start.program, start.args, { stdio: 'ignore', cwd: folder })
  const deadline = performance.now() + 20_000
  while (spawnSync(tool('pg_isready'), ['-h', '127.0.0.1', '-p', String(port)]).status !== 0) {
    if (performance.now() > deadline) throw new Error('PostgreSQL did not start within 20 s')
    await new Promise((done) => setTimeout(done, 100))
  }
  return {
    url: `postgres://delta@127.0.0.1:${port}/postgres`,
    stop() {
      server.kill('SIGINT')
      spawnSync('sleep', ['1'])
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

function must(done: { status: number | null; stderr?: unknown }) {
  if (done.status !== 0) throw new Error(String(done.stderr))
}

function record(outcome: Outcome) {
  outcomes.push(outcome)
  const mark = outcome.failed === 0 ? 'ok  ' : 'FAIL'
  process.stdout.write(
    `${mark} ${outcome.name.padEnd(28)} ${outcome.passed} passed, ${outcome.failed} failed  ${outcome.seconds.toFixed(1)} s\n`,
  )
}

function secondsSince(startedAt: number) {
  return (performance.now() - startedAt) / 1000
}

function report() {
  const passed = outcomes.reduce((sum, outcome) => sum + outcome.passed, 0)
  const failed = outcomes.reduce((sum, outcome) => sum + outcome.failed, 0)
  mkdirSync(join(root, '.build'), { recursive: true })
  writeFileSync(
    join(root, '.build', all ? 'tests-all.json' : 'tests.json'),
    JSON.stringify({ passed, failed, outcomes }, null, 2),
  )
  process.stdout.write(`${passed} passed, ${failed} failed\n`)
  // A run that executed nothing proves nothing.
  process.exitCode = failed === 0 && passed > 0 ? 0 : 1
}
