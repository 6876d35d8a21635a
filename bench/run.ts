// Measures every figure in one run beside its rival, prints a table, writes bench/results.json and exits non-zero where a bar is missed.
// `npm run bench -- NAME` measures the figures whose name starts so.
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { accessAdded } from './access.ts'
import { manyAgents } from './agents.ts'
import { auditLog } from './audit.ts'
import { type Platform, startPlatform } from '../e2e/platform.ts'
import { type Client, createClient } from './client.ts'
import { crashWithMany } from './crash.ts'
import { createToFirstExec, crowd } from './create.ts'
import { egress } from './egress.ts'
import { execTrueFigure } from './exec.ts'
import { type Figure, table } from './figures.ts'
import { bigFile } from './files.ts'
import { idleSandboxes } from './idle.ts'
import { poolMisses, warmCreate } from './pool.ts'
import { httpProcess } from './process-tree.ts'
import { portRequests } from './ports.ts'
import { idleServer } from './server.ts'
import { ledgerGrowth, ledgerHolds, ledgerOnPostgres } from './ledger.ts'
import { packing, storageMemory } from './storage.ts'
import { tasksAtOnce, tasksCalling, taskSteps, tasksWaiting, tasksWatched } from './tasks.ts'
import { terminals } from './terminal.ts'
import { saving, savingMemory, snapshots } from './workspaces.ts'

/** A running platform as a figure sees it. */
export interface Target {
  client: Client
  dataDir: string
  /** The helper's pid, root of all of the platform's processes. */
  pid: number
  serverPid: () => number
  /** Where uppers lie, for a rival that must write to the same file system. */
  pool: string
  startMs: number
}

export interface Bench {
  templates: string
  /** The helper's program. */
  helper: string
  /** The platform on that runtime; started once and kept, unless `anew`. Without a pool nothing but what is measured makes boxes. */
  platform(options: { runtime: string; anew?: boolean; pool?: boolean; env?: Record<string, string> }): Promise<Target>
}

const root = resolve(import.meta.dirname, '..')
const all: Record<string, (bench: Bench) => Promise<Figure[]>> = {
  server: idleServer,
  access: accessAdded,
  agents: manyAgents,
  audit: auditLog,
  ledger: ledgerHolds,
  'ledger-growth': ledgerGrowth,
  'ledger-postgres': ledgerOnPostgres,
  'tasks-steps': taskSteps,
  'tasks-watched': tasksWatched,
  'tasks-at-once': tasksAtOnce,
  'tasks-calling': tasksCalling,
  'tasks-waiting': tasksWaiting,
  create: createToFirstExec,
  'pool-crun': (bench) => warmCreate(bench, 'crun'),
  'pool-runc': (bench) => warmCreate(bench, 'runc'),
  'pool-misses': (bench) => poolMisses(bench, 'crun'),
  exec: execTrueFigure,
  crowd,
  files: bigFile,
  terminal: terminals,
  egress,
  pack: packing,
  'storage-memory': storageMemory,
  crash100: () => crashWithMany(100),
  ports: portRequests,
  snapshots,
  saving,
  'saving-memory': savingMemory,
  'idle-crun': (bench) => idleSandboxes(bench, 'crun', 500),
  'idle-runc': (bench) => idleSandboxes(bench, 'runc', 500),
  'idle-runsc': (bench) => idleSandboxes(bench, 'runsc', 10),
}

/** `saving` is that one alone; what names none is the start of several. */
const wanted = process.argv.slice(2)
const chosen = new Map<string, (bench: Bench) => Promise<Figure[]>>()
for (const name of wanted.length > 0 ? wanted : ['']) {
  const exact = Object.entries(all).filter(([each]) => each === name)
  const found = exact.length > 0 ? exact : Object.entries(all).filter(([each]) => each.startsWith(name))
  if (found.length === 0) {
    process.stderr.write(`There is no figure '${name}'. There are: ${Object.keys(all).join(', ')}\n`)
    process.exit(2)
  }
  for (const [each, measure] of found) chosen.set(each, measure)
}

const templates = join(root, '.build/templates')
let current: { settings: string; platform: Platform; target: Target } | undefined
const figures: Figure[] = []
try {
  for (const [name, measure] of chosen) {
    process.stderr.write(`measuring ${name}\n`)
    figures.push(...(await measure({ templates, helper: join(root, '.build/bin/delta-helper'), platform })))
  }
} finally {
  await stopCurrent()
}
process.stdout.write(`${table(figures)}\n`)
const results = merge(figures)
writeFileSync(join(root, 'bench/results.json'), `${JSON.stringify(results, null, 2)}\n`)
putIntoReadme(results)
process.exitCode = figures.every(({ holds }) => holds) ? 0 : 1

async function platform(options: Parameters<Bench['platform']>[0]): Promise<Target> {
  const { runtime, anew = false, pool = false, env = {} } = options
  const settings = JSON.stringify({ runtime, pool, env })
  if (current?.settings === settings && !anew) return current.target
  await stopCurrent()
  const dataDir = mkdtempSync(join(root, '.build/bench-'))
  // gVisor's gofer walks to its bundle as nobody.
  chmodSync(dataDir, 0o755)
  const startedAt = performance.now()
  const started = await startPlatform({ dataDir, runtime, env: { ...env, ...(!pool && { DELTA_POOL_SIZE: '0' }) } })
  const target: Target = {
    client: createClient({ url: started.url, key: started.key }),
    dataDir,
    pid: started.pid,
    serverPid: () => httpProcess(started.pid),
    pool: join(dataDir, 'pool'),
    startMs: performance.now() - startedAt,
  }
  current = { settings, platform: started, target }
  return target
}

async function stopCurrent(): Promise<void> {
  if (!current) return
  current.target.client.close()
  await current.platform.stop()
  rmSync(current.target.dataDir, { recursive: true, force: true })
  current = undefined
}

/** The README's table is what was measured, never typed. */
function putIntoReadme(rows: Figure[]): void {
  const path = join(root, 'README.md')
  const text = readFileSync(path, 'utf8')
  const next = text.replace(
    /(<!-- figures -->\n)[\s\S]*?(<!-- end of figures -->)/,
    (_, open: string, close: string) => `${open}${table(rows)}\n${close}`,
  )
  if (next !== text) writeFileSync(path, next)
}

/** A run of one figure replaces that figure's rows and keeps the others. */
function merge(fresh: Figure[]): Figure[] {
  if (wanted.length === 0) return fresh
  let kept: Figure[] = []
  try {
    kept = JSON.parse(readFileSync(join(root, 'bench/results.json'), 'utf8')) as Figure[]
  } catch {
    // The first run has nothing to keep.
  }
  return [...kept.filter(({ name }) => !fresh.some((row) => row.name === name)), ...fresh]
}
