import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { promisify } from 'node:util'
import type { Delta, Setting } from '@delta-agents/sdk'
import { CliError } from './failure.ts'
import { visible } from './format.ts'
import { type Io, paint } from './io.ts'

const run = promisify(execFile)
const printer = resolve(import.meta.dirname, '../../../scripts/config.mjs')
const printMs = 30_000

export interface FoundConfig {
  settings: Setting[]
  /** What would keep a server from starting. */
  faults: string[]
  /** Variables that nobody reads. */
  unknown: { name: string; nearest: string }[]
}

/** Of the server; without one, what the checkout says of this folder's environment. */
export async function configOf(delta: Delta | undefined, env: NodeJS.ProcessEnv): Promise<FoundConfig> {
  if (delta) return { settings: await delta.config(), faults: [], unknown: [] }
  if (!existsSync(printer)) {
    throw new CliError(
      "DELTA's sources are not here",
      "Run it in a checkout of DELTA: 'npm run delta -- config --offline'.",
    )
  }
  try {
    const { stdout } = await run(process.execPath, [printer], { timeout: printMs, env })
    return JSON.parse(stdout) as FoundConfig
  } catch (cause) {
    const lines = (cause as { stderr?: string }).stderr?.trim().split('\n') ?? []
    // One line is what is wrong with the file; more are a fault of the printer's.
    if (lines.length === 1 && lines[0]) throw new CliError(lines[0], 'Correct the file .env of this folder.')
    throw new CliError('The settings could not be read', "Run 'npm start' in this folder: it says why.", { cause })
  }
}

export function showConfig(io: Io, { settings, faults, unknown }: FoundConfig): void {
  const width = Math.max(0, ...settings.map(({ name }) => name.length))
  let group: string | undefined
  for (const setting of settings) {
    if (group !== setting.group) io.stdout.write(`${group === undefined ? '' : '\n'}${visible(setting.group)}\n`)
    group = setting.group
    const note = noteOf(setting)
    const shownNote = note === '' ? '' : `  ${paint(io, io.stdout, 'dim', visible(note))}`
    io.stdout.write(`  ${visible(setting.name).padEnd(width)}  ${visible(valueOf(setting))}${shownNote}\n`)
  }
  for (const fault of faults) io.stderr.write(`wrong: ${visible(fault)}\n`)
  for (const { name, nearest } of unknown) {
    io.stderr.write(`nobody reads ${visible(name)}: is ${visible(nearest)} meant?\n`)
  }
}

function valueOf({ secret, isSet, value }: Setting): string {
  if (secret) return isSet ? 'set' : 'not set'
  return value ?? 'not set'
}

function noteOf({ isSet, value, unit, default: fallback }: Setting): string {
  const shown = value !== null && unit !== null ? unit : ''
  if (isSet || fallback === null) return shown
  return [shown, value === null ? `(${fallback})` : '(default)'].filter(Boolean).join(' ')
}
