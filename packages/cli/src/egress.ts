import type { Command } from 'commander'
import type { EgressConnection, EgressPolicy, NetworkInfo, PresetName, Sandbox } from '@delta-agents/sdk'
import { described as describeApproval } from './approvals.ts'
import { UsageError } from './failure.ts'
import { parseNumber, showBytes, showDuration, table } from './format.ts'

/** What these commands need of the program they are part of. */
export interface EgressRun {
  leaf(usage: string, description: string): Command
  sandbox(id: string, command: Command): Promise<Sandbox>
  print(command: Command, value: unknown, text: string): void
}

interface ListFlags {
  preset?: string[]
}

const defaultRows = 50

export const collect = (text: string, before: string[] = []): string[] => [...before, text]

export function addEgressCommands({ leaf, sandbox, print }: EgressRun): void {
  leaf('show <sandbox>', 'what it may connect to').action(async (id: string, _: unknown, command: Command) => {
    const network = await (await sandbox(id, command)).network.get()
    print(command, network, describePolicy(network))
  })

  leaf('set <sandbox> [hosts...]', "replace what it may connect to: 'none', 'all', or hosts")
    .option('-p, --preset <name>', 'packages, git or models; may be repeated', collect)
    .action(async (id: string, hosts: string[], flags: ListFlags, command: Command) => {
      const network = await (await sandbox(id, command)).network.set(policyOf(hosts, flags.preset))
      print(command, network, describePolicy(network))
    })

  leaf('allow <sandbox> [hosts...]', 'let it connect to more: example.com, *.example.com, example.com:22')
    .option('-p, --preset <name>', 'packages, git or models; may be repeated', collect)
    .action(async (id: string, hosts: string[], { preset = [] }: ListFlags, command: Command) => {
      if (hosts.length + preset.length === 0) throw new UsageError('Name hosts, or a preset with --preset')
      const { network } = await sandbox(id, command)
      const now = await network.allow({ hosts, presets: preset as PresetName[] })
      print(command, now, describePolicy(now))
    })

  leaf('request <sandbox> <host> <reason...>', 'ask a person to let it connect to a host')
    .option('--port <port>', 'default: 80 and 443', parseNumber)
    .action(async (id: string, host: string, words: string[], { port }: { port?: number }, command: Command) => {
      const { network } = await sandbox(id, command)
      const asked = await network.request(host, { reason: words.join(' '), ...(port !== undefined && { port }) })
      print(command, asked, describeApproval(asked))
    })

  leaf('log <sandbox>', 'connections that have ended, also refused ones, newest first')
    .option('-n, --lines <count>', `default: ${defaultRows}`, parseNumber)
    .action(async (id: string, { lines = defaultRows }: { lines?: number }, command: Command) => {
      if (!Number.isInteger(lines) || lines < 1) throw new UsageError('--lines is a whole number above 0')
      const { network } = await sandbox(id, command)
      const rows: EgressConnection[] = []
      for await (const row of network.connections({ pageSize: Math.min(lines, 500) })) {
        if (rows.push(row) >= lines) break
      }
      print(command, rows, connectionTable(rows))
    })
}

/** `none` and `all` are words of their own; beside hosts they would contradict them. */
export function policyOf(hosts: string[], presets: string[] = []): EgressPolicy {
  const word = hosts.find((host) => host === 'none' || host === 'all')
  if (word === undefined) {
    if (hosts.length + presets.length > 0) return { hosts, presets: presets as PresetName[] }
    throw new UsageError("Say 'none', 'all', hosts, or a preset with --preset")
  }
  if (hosts.length + presets.length > 1) throw new UsageError(`'${word}' stands alone`)
  return word as 'none' | 'all'
}

export function describePolicy({ egress }: NetworkInfo): string {
  if (typeof egress === 'string') return `${egress}\n`
  const lines = [...egress.presets.map((name) => `preset ${name}`), ...egress.hosts]
  return lines.length === 0 ? 'none\n' : `${lines.join('\n')}\n`
}

function connectionTable(rows: EgressConnection[]): string {
  const cells = rows.map(({ at, host, port, via, outcome, reason, bytesUp, bytesDown, durationMs, count }) => [
    at,
    `${host.includes(':') ? `[${host}]` : host}:${port}`,
    via,
    count > 1 ? `${outcome} (${count} times)` : outcome,
    reason,
    showBytes(bytesUp),
    showBytes(bytesDown),
    durationMs < 1_000 ? `${durationMs} ms` : showDuration(durationMs),
  ])
  return table(['AT', 'TO', 'VIA', 'OUTCOME', 'REASON', 'UP', 'DOWN', 'TOOK'], cells)
}
