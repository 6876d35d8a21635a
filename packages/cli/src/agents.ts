import type {
  Agent,
  AgentChannel,
  AgentInfo,
  AgentKind,
  AgentNode,
  AgentState,
  CreateAgentOptions,
  Delta,
  UpdateAgentOptions,
} from '@delta-agents/sdk'
import { type Command, Option } from 'commander'
import { CliError, UsageError } from './failure.ts'
import { parseNumber, table, visible } from './format.ts'

export interface AgentCommandsDeps {
  leaf(usage: string, description: string): Command
  delta(command: Command): Delta
  print(command: Command, value: unknown, text: string): void
}

const kinds: AgentKind[] = ['main', 'bot', 'messenger']
const channels: AgentChannel[] = ['email', 'sms', 'voice', 'api']
const states: AgentState[] = ['active', 'paused', 'suspended', 'archiving', 'archived']
/** More matches than this are not worth listing. */
const shownMatches = 5

interface CreateFlags {
  kind?: AgentKind
  parent?: string
  task?: string
  channel?: AgentChannel
  template?: string
  memory?: number
  tokens?: number
  monthly?: number
  confirmAbove?: number
  right?: string[]
}

interface SetFlags {
  name?: string
  task?: string
  memory?: number
  monthly?: number
  confirmAbove?: number
  right?: string[]
  rights: boolean
}

export function addAgentCommands(deps: AgentCommandsDeps): void {
  addLooking(deps)
  addMaking(deps)
  addStanding(deps)
}

function addLooking({ leaf, delta, print }: AgentCommandsDeps): void {
  leaf('list', 'list agents, newest first')
    .alias('ls')
    .addOption(new Option('--state <state>', 'default: all but the archived').choices(states))
    .addOption(new Option('--kind <kind>').choices(kinds))
    .option('--parent <agent>', 'only those right below this one')
    .action(
      async ({ state, kind, parent }: { state?: AgentState; kind?: AgentKind; parent?: string }, command: Command) => {
        const client = delta(command)
        const above = parent === undefined ? undefined : await findAgent(client, parent)
        const filter = {
          ...(state && { state }),
          ...(kind && { kind }),
          ...(above && { parentAgent: above.id }),
          pageSize: 500,
        }
        const found = (await client.agents.list(filter).all()).map(({ info }) => info)
        print(command, found, agentTable(found))
      },
    )

  leaf('tree', 'who stands below whom').action(async (_: unknown, command: Command) => {
    const found = await delta(command).agents.tree()
    print(command, found, treeText(found))
  })

  leaf('show <agent>', 'show one, with its tokens; by id, the beginning of it, or name')
    .alias('get')
    .action(async (text: string, _: unknown, command: Command) => {
      const info = await (await findAgent(delta(command), text)).refresh()
      print(command, info, describeAgent(info))
    })
}

function addMaking({ leaf, delta, print }: AgentCommandsDeps): void {
  leaf('create <name>', 'make an agent')
    .addOption(new Option('--kind <kind>', 'default: bot below a parent, else main').choices(kinds))
    .option('--parent <agent>', 'the agent it stands below')
    .option('--task <text>', 'what it is for; a bot has one')
    .addOption(new Option('--channel <channel>', 'of a bot or messenger').choices(channels))
    .option('-t, --template <name>', 'what its computer begins as (default: host)')
    .option('--memory <MB>', 'of its computer (default: 512)', parseNumber)
    .option('--tokens <tokens>', 'from its parent, or for one at the top from the reserve (default: 0)', parseNumber)
    .option('--monthly <tokens>', 'renewed with each month (default: 0)', parseNumber)
    .option('--confirm-above <tokens>', 'what its bots ask for at once beyond this a person confirms', parseNumber)
    .option('--right <right>', 'what it may (default: what its kind usually needs); may be repeated', collect)
    .action(async (name: string, flags: CreateFlags, command: Command) => {
      const client = delta(command)
      const parent = flags.parent === undefined ? undefined : await findAgent(client, flags.parent)
      const made = await client.agents.create(createOptions(name, flags, parent))
      print(command, made.info, `${made.id}\n`)
    })

  leaf('set <agent>', 'change one; what is not named stays')
    .option('--name <name>', 'another name')
    .option('--task <text>', 'another task')
    .option('--memory <MB>', 'of its next sandbox', parseNumber)
    .option('--monthly <tokens>', 'renewed with each month; 0 ends it', parseNumber)
    .option('--confirm-above <tokens>', 'what its bots ask for at once beyond this a person confirms', parseNumber)
    .option('--right <right>', 'all that it may from now on; may be repeated', collect)
    .option('--no-rights', 'it may nothing')
    .action(async (text: string, flags: SetFlags, command: Command) => {
      const agent = await findAgent(delta(command), text)
      const info = await agent.update(updateOptions(flags))
      print(command, info, describeAgent(info))
    })

  leaf('give <agent> <tokens>', 'give it tokens from its parent, or for one at the top from the reserve')
    .addOption(new Option('--from <whom>').choices(['parent', 'reserve']))
    .option('--key <key>', 'the same again with the same key is done once')
    .action(
      async (
        text: string,
        tokens: string,
        { from, key }: { from?: 'parent' | 'reserve'; key?: string },
        command: Command,
      ) => {
        const agent = await findAgent(delta(command), text)
        const options = { ...(from && { from }), ...(key !== undefined && { idempotencyKey: key }) }
        const info = await agent.giveTokens(parseNumber(tokens), options)
        print(command, info, describeAgent(info))
      },
    )
}

function addStanding({ leaf, delta, print }: AgentCommandsDeps): void {
  const acts: Record<string, [string, (agent: Agent) => Promise<AgentInfo>]> = {
    pause: ['let one stand still, with its computer', (agent) => agent.pause()],
    resume: ['let it go on', (agent) => agent.resume()],
    archive: ['end one with all below it; its tokens go back to its parent or the reserve', (agent) => agent.archive()],
  }
  for (const [name, [description, act]] of Object.entries(acts)) {
    leaf(`${name} <agent>`, description).action(async (text: string, _: unknown, command: Command) => {
      const info = await act(await findAgent(delta(command), text))
      print(command, info, `${info.id} is ${info.state}\n`)
    })
  }
}

function createOptions(name: string, flags: CreateFlags, parent: Agent | undefined): CreateAgentOptions {
  const { kind, task, channel, template, memory, tokens, monthly, confirmAbove, right } = flags
  return {
    name,
    ...(kind && { kind }),
    ...(parent && { parentAgent: parent }),
    ...(task !== undefined && { task }),
    ...(channel && { channel }),
    config: {
      ...(template !== undefined && { template }),
      ...(memory !== undefined && { memoryMb: memory }),
      ...(tokens !== undefined && { tokenBudget: tokens }),
      ...(monthly !== undefined && { monthlyTokens: monthly }),
      ...(confirmAbove !== undefined && { confirmAboveTokens: confirmAbove }),
      ...(right && { rights: right }),
    },
  }
}

function updateOptions(flags: SetFlags): UpdateAgentOptions {
  const { name, task, memory, monthly, confirmAbove, right, rights } = flags
  if (right && !rights) throw new UsageError('--right and --no-rights exclude each other')
  return {
    ...(name !== undefined && { name }),
    ...(task !== undefined && { task }),
    ...(memory !== undefined && { memoryMb: memory }),
    ...(monthly !== undefined && { monthlyTokens: monthly }),
    ...(confirmAbove !== undefined && { confirmAboveTokens: confirmAbove }),
    ...(right && { rights: right }),
    ...(!rights && { rights: [] }),
  }
}

/** By its id, by the only name or beginning of an id that fits among those that are not archived. */
export async function findAgent(delta: Delta, text: string): Promise<Agent> {
  if (/^agt_[a-z0-9]{20}$/.test(text)) return delta.agents.get(text)
  const prefix = text.startsWith('agt_') ? text : `agt_${text}`
  const found: Agent[] = []
  for await (const agent of delta.agents.list({ pageSize: 500 })) {
    if (agent.name === text || agent.id.startsWith(prefix)) found.push(agent)
  }
  const [match, ...others] = found
  if (!match) throw new CliError(`There is no agent ${text}`, 'See them with `delta agents tree`.')
  if (others.length === 0) return match
  const ids = found.map(({ id }) => id)
  const shown = ids.slice(0, shownMatches).join(', ') + (ids.length > shownMatches ? ', …' : '')
  throw new CliError(`${ids.length} agents go by ${text}: ${shown}`, 'Write the id.')
}

function agentTable(agents: readonly AgentInfo[]): string {
  const rows = agents.map(({ id, name, kind, state, channel, parentAgent }) => [
    id,
    visible(name),
    kind,
    state,
    channel ?? '-',
    parentAgent ?? '-',
  ])
  return table(['AGENT', 'NAME', 'KIND', 'STATE', 'CHANNEL', 'BELOW'], rows)
}

function treeText(nodes: readonly AgentNode[], indent = ''): string {
  return nodes
    .map(({ id, name, kind, state, children }) => {
      const line = `${indent}${id}  ${visible(name)}  ${kind}${state === 'active' ? '' : `, ${state}`}\n`
      return line + treeText(children, `${indent}  `)
    })
    .join('')
}

function describeAgent(info: AgentInfo): string {
  const { balance } = info
  const rows: [string, string][] = [
    ['agent', info.id],
    ['name', visible(info.name)],
    ['kind', info.channel === null ? info.kind : `${info.kind}, ${info.channel}`],
    ['state', info.state],
    ['below', info.parentAgent ?? '-'],
    ['task', info.task === null ? '-' : visible(info.task)],
    ['computer', info.sandboxId ?? (info.kind === 'messenger' ? 'none' : 'made when it is first used')],
    ['workspace', info.workspaceId ?? '-'],
    ['template', info.template],
    ['memory', `${info.memoryMb} MB`],
    ['rights', info.effectiveRights.join(' ') || 'none'],
  ]
  if (balance) {
    const { granted, bought, held, used } = balance
    rows.push(['tokens', `${granted + bought} (${bought} of them bought), ${held} held, ${used} used`])
  }
  if (info.monthlyTokens > 0) rows.push(['monthly', `${info.monthlyTokens} tokens`])
  return rows.map(([name, value]) => `${name.padEnd(10)} ${value}\n`).join('')
}

function collect(value: string, before: string[] = []): string[] {
  return [...before, value]
}
