// npm run attack [-- --runtime crun|runc|runsc|all] [--only NAME] [--long] [--rest] [--json FILE]
// --rest leaves out what a run without options has tried: on the default runtime all but the slow ones, and the HTTP process.
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { Delta } from '@delta-agents/sdk'
import { leftovers } from '../e2e/leftovers.ts'
import { startPlatform } from '../e2e/platform.ts'
import type { RuntimeName } from './attack.ts'
import { attacks, type Column, type Row, runBattery } from './battery.ts'
import { count, line, matrix } from './matrix.ts'
import { runServerBattery, serverNames } from './server-battery.ts'

const root = resolve(import.meta.dirname, '..')
const helper = join(root, '.build/bin/delta-helper')
const runtimes = ['crun', 'runc', 'runsc'] as const

const { values } = parseArgs({
  options: {
    runtime: { type: 'string', default: '' },
    only: { type: 'string', multiple: true },
    long: { type: 'boolean', default: false },
    rest: { type: 'boolean', default: false },
    json: { type: 'string' },
  },
})

if (process.getuid?.() !== 0) {
  process.stderr.write(
    'The battery makes real sandboxes and weak ones beside them, which needs root: run it with sudo.\n',
  )
  process.exit(2)
}

const chosen = attacks.filter(({ name, isLong }) =>
  values.only === undefined ? !isLong || values.long : values.only.some((word) => name.startsWith(word)),
)
const names = [...new Set([...attacks.map(({ name }) => name), ...serverNames])]
if (values.only?.some((word) => !names.some((name) => name.startsWith(word)))) {
  process.stderr.write(`There is no attack ${values.only.join(', ')}. There are: ${names.join(', ')}\n`)
  process.exit(2)
}

const tool = buildTool()
const startedAt = performance.now()
const results = new Map<Column, Row[]>()
let left: string[] = []
const [usual] = wanted('')
for (const column of wanted(values.runtime).filter((name) => !values.rest || name !== 'server'))
  results.set(column, column === 'server' ? await attackServer() : await attackRuntime(column))
report()

function wanted(name: string): readonly Column[] {
  const isInstalled = (runtime: RuntimeName) =>
    ['/usr/bin', '/usr/sbin', '/usr/local/bin', '/bin', '/sbin', '/usr/local/sbin'].some((folder) =>
      existsSync(join(folder, runtime)),
    )
  if (name === 'all') return [...runtimes.filter(isInstalled), 'server']
  if (name === 'server') return [name]
  const found = name === '' ? runtimes.find(isInstalled) : runtimes.find((runtime) => runtime === name)
  if (found !== undefined) return name === '' ? [found, 'server'] : [found]
  process.stderr.write(`--runtime is ${name}: use crun, runc, runsc, server or all\n`)
  process.exit(2)
}

async function attackRuntime(runtime: RuntimeName): Promise<Row[]> {
  process.stdout.write(`\n${runtime}\n`)
  const dataDir = mkdtempSync(join(root, '.build/attack-'))
  chmodSync(dataDir, 0o711)
  // A real disk that strangers may pass into, as the host's own folders: what a box leaves there is within everybody's reach.
  const scratch = mkdtempSync('/var/tmp/delta-attack-')
  chmodSync(scratch, 0o755)
  try {
    const platform = await startPlatform({ dataDir, runtime })
    try {
      const delta = new Delta({ url: platform.url, apiKey: platform.key })
      return await runBattery({
        runtime,
        delta,
        platform,
        tool: toolWithin(scratch),
        helper,
        scratch,
        chosen: values.rest && runtime === usual ? chosen.filter(({ isLong }) => isLong) : chosen,
        onRow: (row) => process.stdout.write(line(row)),
      })
    } finally {
      await platform.stop()
      left = [...left, ...leftovers(dataDir)]
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true })
    rmSync(dataDir, { recursive: true, force: true })
  }
}

async function attackServer(): Promise<Row[]> {
  process.stdout.write('\nthe HTTP process\n')
  const scratch = mkdtempSync('/var/tmp/delta-attack-')
  chmodSync(scratch, 0o755)
  try {
    const isChosen = (name: string) => values.only === undefined || values.only.some((word) => name.startsWith(word))
    const found = await runServerBattery({
      tool: toolWithin(scratch),
      helper,
      scratch,
      isChosen,
      onRow: (row) => process.stdout.write(line(row)),
    })
    left = [...left, ...found.left]
    return found.rows
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

/** One static program, so that it runs in a box without anything else. */
function buildTool(): string {
  const sources = join(root, 'attack/programs')
  const folder = join(root, '.build/attack')
  const program = join(folder, 'attack')
  const files = readdirSync(sources).map((name) => join(sources, name))
  const isCurrent = existsSync(program) && files.every((file) => statSync(file).mtimeMs < statSync(program).mtimeMs)
  if (isCurrent) return program
  mkdirSync(folder, { recursive: true })
  const code = files.filter((file) => file.endsWith('.c'))
  execFileSync('cc', ['-O1', '-Wall', '-static', '-no-pie', '-Wno-unused-result', '-o', program, ...code, '-lrt'], {
    stdio: 'inherit',
  })
  return program
}

/** Beside the scenes, where users without rights and the weak set-ups, some with a /tmp of their own, reach it wherever the project lies. */
function toolWithin(scratch: string): string {
  const path = join(scratch, 'attack')
  copyFileSync(tool, path)
  chmodSync(path, 0o755)
  return path
}

function report(): void {
  const all = [...results.values()].flat()
  const { held, felt, failed, missing, unshown } = count(all)
  process.stdout.write(`\n${matrix(results)}\n`)
  for (const rest of left) process.stdout.write(`left behind: ${rest}\n`)
  process.stdout.write(
    `${held} held, ${felt} of the same shown to do harm without the defence, ${unshown} not to be shown, ${missing} not to be had here, ${failed + left.length} failed; ${Math.round((performance.now() - startedAt) / 1000)} s\n`,
  )
  const passed = held + felt
  if (values.json !== undefined)
    writeFileSync(
      values.json,
      JSON.stringify({ passed, failed: failed + left.length, missing, unshown, rows: all.map(plain) }, null, 2),
    )
  process.exitCode = failed + left.length === 0 && passed > 0 ? 0 : 1
}

function plain({ attack: { name, promise, tries }, strong, weak }: Row) {
  return { name, promise, tries, strong, weak }
}
