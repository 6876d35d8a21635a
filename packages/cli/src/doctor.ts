import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { promisify } from 'node:util'
import { type Delta, DeltaConfigError, DeltaConnectionError, type Finding } from '@delta-agents/sdk'
import { CliError } from './failure.ts'
import { visible } from './format.ts'
import { type Io, paint } from './io.ts'

const run = promisify(execFile)
const localCheckMs = 60_000
const outputBytes = 4 * 1024 * 1024

export interface Diagnosis {
  /** Who looked: the server, or this program by the helper's own check. */
  checkedBy: string
  findings: Finding[]
}

/** Asks the server; where none answers, this machine is checked by the helper itself. */
export async function diagnose(delta: Delta): Promise<Diagnosis> {
  try {
    return { checkedBy: `the server at ${delta.url}`, findings: await delta.doctor() }
  } catch (cause) {
    if (!(cause instanceof DeltaConnectionError) && !(cause instanceof DeltaConfigError)) throw cause
    const helper = findHelper()
    if (helper === undefined) throw cause
    return { checkedBy: `${helper} on this machine, because ${cause.message}`, findings: await askHelper(helper) }
  }
}

function findHelper(): string | undefined {
  const places = [resolve(import.meta.dirname, '../../../.build/bin/delta-helper'), resolve('.build/bin/delta-helper')]
  return places.find((path) => existsSync(path))
}

async function askHelper(helper: string): Promise<Finding[]> {
  // It exits non-zero where something fails and has still said what.
  const { stdout, stderr } = await run(helper, ['doctor', '--json'], {
    timeout: localCheckMs,
    maxBuffer: outputBytes,
  }).catch((cause: { stdout?: string; stderr?: string; message: string }) => ({
    stdout: cause.stdout ?? '',
    stderr: cause.stderr || cause.message,
  }))
  try {
    const answer = JSON.parse(stdout) as Finding[] | { data: Finding[] }
    return Array.isArray(answer) ? answer : answer.data
  } catch (cause) {
    const advice = 'Run it yourself to see more; most of what it checks needs root: sudo delta doctor.'
    throw new CliError(`${helper} could not check this machine: ${stderr.trim() || 'it said nothing'}`, advice, {
      cause,
    })
  }
}

const marks = { ok: ['green', 'ok  '], warn: ['yellow', 'warn'], fail: ['red', 'FAIL'] } as const

export function showDiagnosis(io: Io, { checkedBy, findings }: Diagnosis): void {
  io.stdout.write(`Checked by ${visible(checkedBy)}\n\n`)
  const width = Math.max(0, ...findings.map(({ name }) => name.length))
  for (const { name, status, found, meaning } of findings) {
    const [style, mark] = marks[status] ?? marks.fail
    io.stdout.write(`${paint(io, io.stdout, style, mark)}  ${visible(name).padEnd(width)}  ${visible(found)}\n`)
    if (status !== 'ok' && meaning !== '')
      io.stdout.write(`      ${' '.repeat(width)}  ${paint(io, io.stdout, 'dim', visible(meaning))}\n`)
  }
  const count = (wanted: Finding['status']) => findings.filter(({ status }) => status === wanted).length
  io.stdout.write(`\n${count('ok')} ok, ${count('warn')} warnings, ${count('fail')} failures\n`)
}
