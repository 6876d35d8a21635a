// Runs every check, goes on after a failure, and ends with one line: `N passed, N failed`.
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { liveLine } from './live-providers.ts'
import { startPostgres } from './postgres.ts'
import { skipLines, skipsIn } from './skips.ts'
import type { Skip } from './skips.ts'

interface Outcome {
  name: string
  passed: number
  failed: number
  /** What failed and the first line of why, said again at the end: what was printed above may be cut. */
  failures: string[]
  /** Failed first and passed when run once more: counted as passed, and said at the end. */
  flaky: string[]
  /** Counted apart: neither passed nor failed. */
  skipped: Skip[]
  seconds: number
}

const root = resolve(import.meta.dirname, '..')
const all = process.argv.includes('--all')
const checkOnly = process.argv.includes('--check')
const reports = mkdtempSync(join(tmpdir(), 'delta-tests-'))
/** Where tests that make hundreds of small databases need not wait for a disk: none of them cuts the power. */
const inMemory = hasRoom('/dev/shm') ? mkdtempSync('/dev/shm/delta-tests-') : undefined
const bin = (name: string) => join(root, 'node_modules/.bin', name)
/** The tests beside the code that make real boxes. */
const boxTests = 'packages/server/src/drivers/oci'
/** The database itself and the features that all others ask. */
const baseTests = ['kernel/db', 'access/keys', 'access/audit', 'approvals', 'sandboxes/store.test.ts'].map(
  (path) => `packages/server/src/${path}`,
)
/** End-to-end tests that make no sandbox: what they show on one runtime they show on all. */
const withoutSandboxes = ['e2e/ledger.test.ts', 'e2e/limits.test.ts', 'e2e/task-kill-points.test.ts']
/** More tests than this that fail together are no accident. */
const mostFlaky = 3
const outcomes: Outcome[] = []
const children = new Set<ChildProcess>()

process.on('exit', () => {
  for (const child of children) child.kill()
  for (const folder of [reports, inMemory]) if (folder) rmSync(folder, { recursive: true, force: true })
})
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
if (all) await longForm()
else await shortForm()
report()

async function shortForm() {
  await check('types', bin('tsc'), ['--noEmit', '-p', '.'])
  await check('lint', bin('oxlint'), ['--deny-warnings'])
  await check('format', bin('oxfmt'), ['--check', 'packages', 'e2e', 'bench', 'scripts', 'examples', 'attack'])
  await check('generated types', process.execPath, ['scripts/generate-sdk-types.mjs', '--check'])
  if (checkOnly) return
  // Unit tests make no boxes, so they share neither uid ranges nor cgroups with the helper's tests, which wait more than they work.
  await Promise.all([
    cargoTests('guest and helper', [], inMemory ? { DELTA_TEST_MEMORY_DIR: inMemory } : {}).then(() =>
      vitest('conformance', ['--config', 'vitest.config.ts'], [boxTests]),
    ),
    vitest('unit', ['--config', 'vitest.config.ts', '--exclude', `${boxTests}/**`], [], temporary()).then(() =>
      storesOnPostgres('what all stores stand on, on PostgreSQL', baseTests, temporary()),
    ),
  ])
  await endToEnd('end to end', {}, { own: 2 })
  await attack('attacks', [])
}

async function longForm() {
  const long = { DELTA_TEST_ALL: '1' }
  // These wait for a package mirror and for boxes, those for a database.
  await Promise.all([
    cargoTests('the template debian', ['--test', 'templates', '--', '--ignored'], long)
      // Once, before lanes below would do it side by side.
      .then(() =>
        check('debian is there', join(root, '.build/bin/delta-helper'), ['template', 'build', 'debian'], {
          DELTA_DATA_DIR: join(root, '.build'),
        }),
      )
      .then(() =>
        vitest('conformance, other runtimes', ['--config', 'vitest.config.ts'], [`${boxTests}/oci.test.ts`], long),
      ),
    storesOnPostgres('stores on PostgreSQL', databaseTests(), { ...long, ...temporary() }),
  ])
  for (const runtime of ['runc', 'runsc']) {
    // gVisor has a kernel to start for each sandbox: more at a time would take no less.
    const own = runtime === 'runsc' ? 1 : 2
    await endToEnd(`end to end on ${runtime}`, { DELTA_RUNTIME: runtime }, { own, except: withoutSandboxes })
  }
  await attack('attacks, other runtimes and slow ones', ['--runtime', 'all', '--long', '--rest'])
  // Each waits most of the time, for what was killed or for the network; what is emulated asks for little more than one processor.
  const lane = (at: number, name: string, ...files: string[]) =>
    vitest(name, ['--config', 'e2e/vitest.config.ts'], files, { ...long, ...uidsOf(at) })
  await Promise.all([
    lane(0, 'kill points', 'e2e/kill-points'),
    lane(1, 'kill points of workspaces, history', 'workspace-kill-points', 'e2e/history'),
    lane(2, 'debian', 'debian')
      .then(() => lane(2, 'the Claude Agent SDK', 'e2e/engine'))
      .then(() => lane(2, 'kill points of tasks', 'e2e/task-kill-points'))
      .then(() => check('cgroup v2, emulated', process.execPath, ['e2e/vm/cgroup-v2.ts'])),
  ])
}

/** Those on SQLite, and what needs no database, are run with all others. */
async function storesOnPostgres(name: string, files: string[], env: NodeJS.ProcessEnv = {}) {
  const postgres = await startPostgres(inMemory ? { within: '/dev/shm' } : {})
  try {
    await vitest(name, ['--config', 'vitest.config.ts', '-t', '\\(postgres\\)'], files, {
      ...env,
      DELTA_TEST_POSTGRES_URL: postgres.url,
    })
  } finally {
    postgres.stop()
  }
}

/**
 * Several files at a time, since most of the time is waiting: one that measures the common platform, one that uses it and measures nothing,
 * and one or two that start their own, whichever are next. Each has uids of its own.
 */
async function endToEnd(
  name: string,
  env: NodeJS.ProcessEnv,
  { own, except = [] }: { own: 1 | 2; except?: readonly string[] },
) {
  const files = { measured: [] as string[], clients: [] as string[], 'own platform': [] as string[] }
  for (const file of readdirSync(join(root, 'e2e')).toSorted()) {
    const path = join('e2e', file)
    if (!file.endsWith('.test.ts') || except.includes(path)) continue
    const text = readFileSync(join(root, path), 'utf8')
    if (/startPlatform\(|serve\.mjs/.test(text)) files['own platform'].push(path)
    else files[text.includes('serverMemoryBytes(') ? 'measured' : 'clients'].push(path)
  }
  // Those that measure are done long before those that start their own, of which their lane takes some over.
  const share = own === 1 ? 3 : 6
  const late = files['own platform'].filter((_, index) => index % share === 0)
  const early = files['own platform'].filter((path) => !late.includes(path))
  const lane = async (at: number, what: string, paths: string[], workers: 1 | 2 = 1) => {
    // Without a name vitest would run every file.
    if (paths.length === 0) return
    const uids = Array.from({ length: workers }, (_, worker) => uidsOf(at + worker))
    const flags = workers > 1 ? ['--fileParallelism', `--maxWorkers=${workers}`] : []
    await vitest(`${name}, ${what}`, ['--config', 'e2e/vitest.config.ts', ...flags], paths, {
      ...env,
      ...uids[0],
      DELTA_TEST_UIDS_BY_WORKER: JSON.stringify(uids),
    })
  }
  await Promise.all([
    lane(0, 'measured', files.measured).then(() => lane(0, 'own platform, later', late)),
    lane(1, 'clients', files.clients),
    lane(2, 'own platform', early, own),
  ])
}

/** An eighth of the uids that there are for the common platform of tests that run side by side, and one for those they start beside it. */
function uidsOf(part: number): NodeJS.ProcessEnv {
  const range = 65_536
  const first = Number(process.env['DELTA_UID_BASE'] ?? 1_879_048_192)
  const count = Math.floor(Number(process.env['DELTA_UID_COUNT'] ?? 268_435_456) / range / 8) * range
  return {
    DELTA_UID_BASE: String(first + part * count),
    DELTA_UID_COUNT: String(count),
    DELTA_TEST_OWN_UID_BASE: String(first + (4 + part) * count),
  }
}

function hasRoom(folder: string): boolean {
  const leastBytes = 4 * 1024 ** 3
  if (!existsSync(folder)) return false
  const { bavail, bsize } = statfsSync(folder)
  return bavail * bsize >= leastBytes
}

function temporary(): NodeJS.ProcessEnv {
  return inMemory ? { TMPDIR: inMemory } : {}
}

/** The tests that run on each database there is, but for those that `npm test` runs on each: the others gain nothing by a second one. */
function databaseTests(): string[] {
  const sources = 'packages/server/src'
  return readdirSync(join(root, sources), { recursive: true, encoding: 'utf8' })
    .map((file) => join(sources, file))
    .filter((file) => file.endsWith('.test.ts') && !baseTests.some((path) => file.startsWith(path)))
    .filter((file) => readFileSync(join(root, file), 'utf8').includes('testDatabases'))
}

async function check(name: string, program: string, args: string[], env: NodeJS.ProcessEnv = {}) {
  const startedAt = performance.now()
  const { status, output } = await run(program, args, { env })
  if (status !== 0) process.stdout.write(output)
  const failed = status === 0 ? 0 : 1
  record({
    name,
    passed: 1 - failed,
    failed,
    failures: failed === 0 ? [] : [lastLine(output)],
    flaky: [],
    skipped: [],
    seconds: secondsSince(startedAt),
  })
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
  const failures = failed === 0 ? [] : (output.match(/^.*\bFAIL.*$/gm) ?? [lastLine(output)])
  record({ name, passed: found.passed, failed, failures, flaky: [], skipped: [], seconds: secondsSince(startedAt) })
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
  record({
    name,
    passed: sum(1),
    failed: status !== 0 && failed === 0 ? 1 : failed,
    failures: status === 0 ? [] : [...output.matchAll(/^test (.+) \.\.\. FAILED$/gm)].map(([, test]) => test ?? ''),
    flaky: [],
    skipped: skipsIn(output),
    seconds: secondsSince(startedAt),
  })
}

/**
 * Without `files` all that the configuration names. Where a few tests failed, their files are run once more: of thousands that wait for processes, disks and sockets on a
 * shared machine one may meet a pause that its author did not think of. Such a test passes, and its first failure is said at the end, to be mended.
 */
async function vitest(name: string, flags: string[], files: string[], env: NodeJS.ProcessEnv = {}) {
  const startedAt = performance.now()
  const first = await runVitest([...flags, ...files], env)
  const few = first.failed.length > 0 && first.failed.length <= mostFlaky && first.failed.length === first.failures
  const again = few ? await runVitest([...flags, ...new Set(first.failed.map(({ file }) => file))], env) : undefined
  const isFlaky = again?.status === 0 && again.passed > 0
  const told = first.failed.map(({ text }) => text)
  record({
    name,
    passed: first.passed + (isFlaky ? first.failed.length : 0),
    failed: isFlaky ? 0 : first.failures,
    failures: isFlaky ? [] : told,
    flaky: isFlaky ? told : [],
    // What a filter by name leaves out was not asked for.
    skipped: flags.includes('-t') ? [] : skipsIn(first.output),
    seconds: secondsSince(startedAt),
  })
}

async function runVitest(args: string[], env: NodeJS.ProcessEnv) {
  const file = join(reports, `${randomUUID()}.json`)
  const { status, output } = await run(
    bin('vitest'),
    ['run', ...args, '--reporter=verbose', '--reporter=json', `--outputFile.json=${file}`],
    { env: { ...env, NO_COLOR: '1' } },
  )
  const counts = existsSync(file)
    ? (JSON.parse(readFileSync(file, 'utf8')) as {
        numPassedTests: number
        numFailedTests: number
        testResults: {
          name: string
          assertionResults: { status: string; fullName: string; failureMessages: string[] }[]
        }[]
      })
    : { numPassedTests: 0, numFailedTests: 0, testResults: [] }
  // A file that does not load and an error outside a test have no failed test to count, but are failures.
  const failures = Math.max(counts.numFailedTests, status === 0 ? 0 : 1)
  if (failures > 0) process.stdout.write(output.slice(-20_000))
  const failed = counts.testResults.flatMap(({ name: path, assertionResults }) =>
    assertionResults
      .filter((one) => one.status === 'failed')
      .map(({ fullName, failureMessages }) => ({
        file: path,
        text: `${fullName}: ${failureMessages[0]?.split('\n', 1)[0]}`,
      })),
  )
  return { status, output, passed: counts.numPassedTests, failures, failed }
}

function run(
  program: string,
  args: string[],
  { cwd = root, env = {} }: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
) {
  return new Promise<{ status: number; output: string }>((done) => {
    const child = spawn(program, args, {
      cwd,
      // Hundreds of short processes of Node load the same code.
      env: { ...process.env, NODE_COMPILE_CACHE: join(root, '.build/compile-cache'), ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    children.add(child)
    child.once('exit', () => children.delete(child))
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

function record(outcome: Outcome) {
  outcomes.push(outcome)
  const mark = outcome.failed === 0 ? 'ok  ' : 'FAIL'
  process.stdout.write(
    `${mark} ${outcome.name.padEnd(28)} ${outcome.passed} passed, ${outcome.failed} failed${skippedText(outcome.skipped.length)}  ${outcome.seconds.toFixed(1)} s\n`,
  )
  for (const line of skipLines(outcome.skipped)) process.stdout.write(`     ${line}\n`)
}

function skippedText(count: number) {
  return count === 0 ? '' : `, ${count} skipped`
}

/** What a tool says of itself at its end. */
function lastLine(output: string): string {
  return output.trimEnd().split('\n').at(-1) ?? ''
}

function secondsSince(startedAt: number) {
  return (performance.now() - startedAt) / 1000
}

function report() {
  const passed = outcomes.reduce((sum, outcome) => sum + outcome.passed, 0)
  const failed = outcomes.reduce((sum, outcome) => sum + outcome.failed, 0)
  const skipped = outcomes.reduce((sum, outcome) => sum + outcome.skipped.length, 0)
  mkdirSync(join(root, '.build'), { recursive: true })
  writeFileSync(
    join(root, '.build', all ? 'tests-all.json' : 'tests.json'),
    JSON.stringify({ passed, failed, skipped, outcomes }, null, 2),
  )
  if (skipped > 0) process.stdout.write(`${skipped} skipped, for the reasons above\n`)
  const flaky = outcomes.flatMap(({ name, flaky: those }) => those.map((text) => `${name}: ${text}`))
  for (const text of flaky) process.stdout.write(`flaky, passed when run again: ${text.slice(0, 400)}\n`)
  for (const { name, failures } of outcomes) {
    for (const failure of failures.slice(0, 20)) process.stdout.write(`failed: ${name}: ${failure.slice(0, 400)}\n`)
  }
  if (!checkOnly) process.stdout.write(`${liveLine(process.env)}\n`)
  process.stdout.write(`${passed} passed, ${failed} failed\n`)
  // A run that executed nothing proves nothing.
  process.exitCode = failed === 0 && passed > 0 ? 0 : 1
}
