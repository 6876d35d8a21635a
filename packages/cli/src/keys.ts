import type { Delta, KeyInfo, MadeKey } from '@delta-agents/sdk'
import type { Command } from 'commander'
import { UsageError } from './failure.ts'
import { parseDuration, table, visible } from './format.ts'

export interface KeyCommandsDeps {
  leaf(usage: string, description: string): Command
  delta(command: Command): Delta
  print(command: Command, value: unknown, text: string): void
}

interface CreateFlags {
  right?: string[]
  agent?: string[]
  sandbox?: string[]
  ttl?: number
}

export function addKeyCommands({ leaf, delta, print }: KeyCommandsDeps): void {
  leaf('create <name>', 'make an API key; its text is shown this once')
    .option('--right <right>', 'what it may, such as read:sandboxes or write:exec; may be repeated', collect)
    .option('--sandbox <id>', 'limit it to this sandbox; may be repeated', collect)
    .option('--agent <id>', 'limit it to this agent; may be repeated', collect)
    .option('--ttl <duration>', 'how long it is good (default: until it is revoked)', parseDuration)
    .action(async (name: string, { right, agent, sandbox, ttl }: CreateFlags, command: Command) => {
      if (!right) throw new UsageError('Say what the key may: --right read:sandboxes --right write:exec …')
      const made = await delta(command).keys.create({
        name,
        rights: right,
        ...(agent && { agents: agent }),
        ...(sandbox && { sandboxes: sandbox }),
        ...(ttl !== undefined && { ttlMs: ttl }),
      })
      print(command, made, textOf(made))
    })

  leaf('list', 'list API keys, newest first')
    .alias('ls')
    .option('--all', 'with those that are revoked or have expired')
    .action(async ({ all }: { all?: boolean }, command: Command) => {
      const keys: KeyInfo[] = []
      for await (const key of delta(command).keys.list({ state: all ? 'all' : 'active' })) keys.push(key)
      const rows = keys.map((key) => [
        key.id,
        visible(key.name),
        key.state,
        key.rights.join(' '),
        key.expiresAt ?? 'never',
        key.lastUsedAt ?? 'never',
      ])
      print(command, keys, table(['KEY', 'NAME', 'STATE', 'RIGHTS', 'EXPIRES', 'LAST USED'], rows))
    })

  leaf('get <key>', 'show one, without its text').action(async (id: string, _: unknown, command: Command) => {
    const key = await delta(command).keys.get(id)
    print(command, key, described(key))
  })

  leaf('rotate <key>', 'give it a new text; the old one goes on for a while')
    .option('--overlap <duration>', 'how long the old text is good (default: 24h; 0s: it ends at once)', parseDuration)
    .action(async (id: string, { overlap }: { overlap?: number }, command: Command) => {
      const made = await delta(command).keys.rotate(id, overlap === undefined ? {} : { overlapMs: overlap })
      print(command, made, textOf(made))
    })

  leaf('revoke <key>', 'end it within a second, with the keys made with it and all that they opened')
    .alias('rm')
    .action(async (id: string, _: unknown, command: Command) => {
      await delta(command).keys.revoke(id)
      print(command, { id, revoked: true }, `${id} revoked\n`)
    })
}

function collect(value: string, before: string[] = []): string[] {
  return [...before, value]
}

/** The text alone on the first line, so that `$(delta keys create … | head -1)` takes it. */
function textOf({ id, key, expiresAt }: MadeKey): string {
  return `${key}\n${id}, good ${expiresAt === null ? 'until it is revoked' : `until ${expiresAt}`}. The text is not shown again.\n`
}

function described(key: KeyInfo): string {
  const rows = [
    ['id', key.id],
    ['name', visible(key.name)],
    ['text', `${key.hint}…`],
    ['state', key.state],
    ['rights', key.rights.join(' ')],
    ['sandboxes', key.sandboxes?.join(' ') ?? 'all'],
    ['agents', key.agents?.join(' ') ?? 'all'],
    ['made by', key.madeBy],
    ['created', key.createdAt],
    ['expires', key.expiresAt ?? 'never'],
    ['old text good', key.previousGoodUntil === null ? 'no' : `until ${key.previousGoodUntil}`],
    ['last used', key.lastUsedAt ?? 'never'],
  ]
  return rows.map(([label, value]) => `${label!.padEnd(20)} ${value}\n`).join('')
}
