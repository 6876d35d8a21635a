import type { Entry, Sandbox, SandboxInfo, SandboxMetrics, Transition } from '@delta-agents/sdk'
import { describePolicy } from './egress.ts'
import { showBytes, showDuration, table } from './format.ts'

export function describeSandbox(info: SandboxInfo, nowMs: number): string {
  const rows: [string, string][] = [
    ['id', info.id],
    ['state', info.reason ? `${info.state} (${info.reason})` : info.state],
    ['template', info.template],
    ['runtime', info.runtime],
    ['limits', `${info.cpu} CPU, ${info.memoryMb} MB memory, ${info.diskMb} MB disk, ${info.processes} processes`],
    ['egress', describePolicy(info.network).trim().replaceAll('\n', ', ')],
    ['created', info.createdAt],
    ['ends', endOf(info, nowMs)],
    ...Object.entries(info.metadata).map(([name, value]): [string, string] => [`metadata ${name}`, value]),
    ...Object.entries(info.isolation ?? {}).map(([name, value]): [string, string] => [
      `isolation ${name}`,
      String(value),
    ]),
  ]
  return rows.map(([name, value]) => `${name.padEnd(20)} ${value}\n`).join('')
}

function endOf({ endAt, onTimeout }: SandboxInfo, nowMs: number): string {
  if (endAt === null) return '-'
  return `${onTimeout} in ${showDuration(Math.max(0, Date.parse(endAt) - nowMs))}`
}

export function sandboxTable(sandboxes: Sandbox[], nowMs: number): string {
  const rows = sandboxes.map(({ info }) => [
    info.id,
    info.state,
    info.template,
    info.runtime,
    showDuration(nowMs - Date.parse(info.createdAt)),
    endOf(info, nowMs),
    Object.entries(info.metadata)
      .map(([name, value]) => `${name}=${value}`)
      .join(' '),
  ])
  return table(['ID', 'STATE', 'TEMPLATE', 'RUNTIME', 'AGE', 'ENDS', 'METADATA'], rows)
}

export function describeMetrics(metrics: SandboxMetrics): string {
  const {
    cpuMs,
    memoryBytes,
    memoryPeakBytes,
    memoryLimitBytes,
    processes,
    diskBytes,
    diskLimitBytes,
    oomKills,
    uptimeMs,
  } = metrics
  const disk =
    diskBytes === null ? 'not counted by this pool' : `${showBytes(diskBytes)} of ${showBytes(diskLimitBytes)}`
  const memory = `${showBytes(memoryBytes)} of ${showBytes(memoryLimitBytes)}, at most ${showBytes(memoryPeakBytes)} so far`
  const rows = [
    ['cpu', `${(cpuMs / 1000).toFixed(2)} s`],
    ['memory', memory],
    ['disk', disk],
    ['processes', String(processes)],
    ['killed for memory', String(oomKills)],
    ['up', showDuration(uptimeMs)],
  ]
  return rows.map(([name, value]) => `${(name ?? '').padEnd(20)} ${value}\n`).join('')
}

export function transitionTable(transitions: Transition[]): string {
  const rows = transitions.map(({ at, from, to, reason }) => [at, from ?? '-', to, reason ?? ''])
  return table(['AT', 'FROM', 'TO', 'REASON'], rows)
}

export function entryTable(entries: Entry[]): string {
  const letter = { file: '-', directory: 'd', symlink: 'l', other: '?' }
  const rows = entries.map((entry) => [
    letter[entry.type] + entry.permissions,
    `${entry.owner}:${entry.group}`,
    entry.type === 'file' ? showBytes(entry.size) : '',
    entry.modifiedAt,
    entry.symlinkTarget === null ? entry.path : `${entry.path} -> ${entry.symlinkTarget}`,
  ])
  return table(['MODE', 'OWNER', 'SIZE', 'MODIFIED', 'PATH'], rows)
}
