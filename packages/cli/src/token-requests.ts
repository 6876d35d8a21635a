import type { Delta, ListTokenRequestsOptions, TokenRequestInfo } from '@delta-agents/sdk'
import { type Command, Option } from 'commander'
import { table, visible } from './format.ts'

export interface TokenRequestCommandsDeps {
  leaf(usage: string, description: string): Command
  delta(command: Command): Delta
  print(command: Command, value: unknown, text: string): void
}

type Asked = NonNullable<ListTokenRequestsOptions['state']>

const states: Asked[] = [
  'pending',
  'pending_main',
  'pending_user',
  'granting',
  'granted',
  'refused',
  'expired',
  'failed',
  'unneeded',
  'canceled',
]

export function addTokenRequestCommands({ leaf, delta, print }: TokenRequestCommandsDeps): void {
  leaf('requests', 'tokens that agents ask for, newest first; decide with `delta approve`')
    .addOption(new Option('--state <state>', 'in this state').choices(states).default('pending'))
    .option('--all', 'in every state')
    .option('--agent <id>', 'only of this agent')
    .action(async ({ state, all, agent }: { state: Asked; all?: boolean; agent?: string }, command: Command) => {
      const filter = { ...(!all && { state }), ...(agent !== undefined && { agentId: agent }) }
      const found: TokenRequestInfo[] = []
      for await (const { info } of delta(command).tokenRequests.list(filter)) found.push(info)
      const rows = found.map((one) => [one.id, one.state, one.agentId, String(one.tokens), visible(one.reason)])
      print(command, found, table(['REQUEST', 'STATE', 'AGENT', 'TOKENS', 'WHY'], rows))
    })
}

export function isRequest(id: string): boolean {
  return id.startsWith('trq_')
}

/** Exactly what a yes does. */
export function willHappen({ agentId, tokens, from, state }: TokenRequestInfo): string {
  const amount = tokens === 1 ? 'a token' : `${tokens} tokens`
  // A person who decides in place of the main agent gives what is the account's.
  const source = from ?? (state === 'pending_main' ? 'reserve' : null)
  const whose = source === null ? '' : source === 'reserve' ? ' of the account’s reserve' : ` of the agent ${source}`
  return `The agent ${agentId} gets ${amount}${whose}, to spend as it does its own.`
}

export function describedRequest(request: TokenRequestInfo): string {
  const { failure, decidedBy, decidedAt, refusal, mainAgent, mainUntil, endorsedBy, approvalId } = request
  const rows: (readonly [string, string])[] = [
    ['id', request.id],
    ['state', request.state],
    ['what', willHappen(request)],
    ['tokens', String(request.tokens)],
    ['asked by', visible(request.askedBy)],
    ['their reason', visible(request.reason)],
    ['until', request.expiresAt],
  ]
  if (request.state === 'pending_main') rows.push(['decides first', `${mainAgent}, until ${mainUntil}`])
  if (endorsedBy !== null) rows.push(['main says yes', endorsedBy])
  if (approvalId !== null) rows.push(['approval', approvalId])
  if (decidedBy !== null) rows.push(['decided by', `${decidedBy}, ${decidedAt}`])
  if (refusal !== null) rows.push(['refused because', visible(refusal)])
  if (failure !== null) rows.push(['failed', visible(`${failure.code}: ${failure.message}`)])
  return rows.map(([label, value]) => `${label.padEnd(20)} ${value}\n`).join('')
}
