import type { Delta, DeliveryState, WebhookDelivery, WebhookEvent, WebhookInfo } from '@delta-agents/sdk'
import { type Command, Option } from 'commander'
import { findAgent } from './agents.ts'
import { UsageError } from './failure.ts'
import { parseCount, table, visible } from './format.ts'
import type { Io } from './io.ts'
import { findByBeginning } from './resolve.ts'

export interface WebhookCommandsDeps {
  io: Io
  leaf(usage: string, description: string): Command
  delta(command: Command): Delta
  print(command: Command, value: unknown, text: string): void
}

const events: WebhookEvent[] = ['task.finished', 'task.failed', 'task.needs_decision']
const deliveryStates: DeliveryState[] = ['waiting', 'delivered', 'failed', 'canceled']

export function addWebhookCommands(deps: WebhookCommandsDeps): void {
  addMaking(deps)
  addLooking(deps)
  addChanging(deps)
}

function addMaking({ io, leaf, delta, print }: WebhookCommandsDeps): void {
  leaf('create <url>', 'have a server of yours told when tasks end or need a decision; its secret is shown this once')
    .option('-e, --event <event>', `${events.join(', ')}; may be repeated (default: all)`, parseEvent)
    .option('-a, --agent <agent>', 'only of this agent’s tasks')
    .action(async (url: string, flags: { event?: WebhookEvent[]; agent?: string }, command: Command) => {
      const client = delta(command)
      const agent = flags.agent === undefined ? undefined : await findAgent(client, flags.agent)
      const wish = { url, events: flags.event ?? events, ...(agent && { agentId: agent.id }) }
      const made = await client.webhooks.create(wish)
      // The secret alone on the first line, so that `$(delta webhook create … | head -1)` takes it.
      print(command, made, `${made.secret}\n${made.id}. The secret is not shown again.\n`)
    })

  leaf('test <webhook>', 'send it something to try it').action(async (text: string, _: unknown, command: Command) => {
    const client = delta(command)
    const id = await idOf(client, text)
    const delivery = await client.webhooks.test(id)
    print(command, delivery, `${delivery.id}\n`)
    if (!command.opts<{ json?: boolean }>().json) {
      io.stderr.write(`How it went: delta webhook deliveries ${id}\n`)
    }
  })
}

function addLooking({ leaf, delta, print }: WebhookCommandsDeps): void {
  leaf('list', 'list webhooks, newest first')
    .alias('ls')
    .action(async (_: unknown, command: Command) => {
      const found = await delta(command).webhooks.list()
      print(command, found, webhookTable(found))
    })

  leaf('show <webhook>', 'show one; by id or the beginning of it')
    .alias('get')
    .action(async (text: string, _: unknown, command: Command) => {
      const client = delta(command)
      const info = await client.webhooks.get(await idOf(client, text))
      print(command, info, describeWebhook(info))
    })

  leaf('deliveries <webhook> [delivery]', 'what it was told, or is to be, newest first; or one of them')
    .addOption(new Option('--state <state>', 'only in this state').choices(deliveryStates))
    .option('-n, --limit <count>', 'how many (default: 50)', parseCount, 50)
    .action(
      async (
        text: string,
        deliveryId: string | undefined,
        { state, limit }: { state?: DeliveryState; limit: number },
        command: Command,
      ) => {
        const client = delta(command)
        const id = await idOf(client, text)
        if (deliveryId !== undefined) {
          const one = await client.webhooks.delivery(id, deliveryId)
          return print(command, one, deliveryTable([one]))
        }
        const found: WebhookDelivery[] = []
        const pages = client.webhooks.deliveries(id, { ...(state && { state }), pageSize: Math.min(limit, 200) })
        for await (const one of pages) if (found.push(one) >= limit) break
        print(command, found, deliveryTable(found))
      },
    )
}

function addChanging({ leaf, delta, print }: WebhookCommandsDeps): void {
  leaf('set <webhook>', 'change where it leads or of what it is told; what is left out stays')
    .option('--to <url>', 'where it is told')
    .option('-e, --event <event>', 'in place of those it has; may be repeated', parseEvent)
    .action(async (text: string, flags: { to?: string; event?: WebhookEvent[] }, command: Command) => {
      if (flags.to === undefined && !flags.event) throw new UsageError('Say what to change: --to or --event')
      const client = delta(command)
      const changes = { ...(flags.to !== undefined && { url: flags.to }), ...(flags.event && { events: flags.event }) }
      const info = await client.webhooks.update(await idOf(client, text), changes)
      print(command, info, describeWebhook(info))
    })

  const acts: [name: string, description: string, enabled: boolean][] = [
    ['pause', 'it is told nothing; what waits is canceled', false],
    ['resume', 'it goes on, also where the server had disabled it', true],
  ]
  for (const [name, description, enabled] of acts) {
    leaf(`${name} <webhook>`, description).action(async (text: string, _: unknown, command: Command) => {
      const client = delta(command)
      const info = await client.webhooks.update(await idOf(client, text), { enabled })
      print(command, info, `${info.id} is ${stateOf(info)}\n`)
    })
  }

  leaf('redeliver <webhook> <delivery>', 'send it once more, with the task as it is now').action(
    async (text: string, deliveryId: string, _: unknown, command: Command) => {
      const client = delta(command)
      const delivery = await client.webhooks.redeliver(await idOf(client, text), deliveryId)
      print(command, delivery, `${delivery.id} is ${delivery.state}\n`)
    },
  )

  leaf('delete <webhook>', 'remove it with all its deliveries')
    .aliases(['remove', 'rm'])
    .action(async (text: string, _: unknown, command: Command) => {
      const client = delta(command)
      const id = await idOf(client, text)
      await client.webhooks.remove(id)
      print(command, { id, removed: true }, `${id} removed\n`)
    })
}

function parseEvent(text: string, before: WebhookEvent[] = []): WebhookEvent[] {
  const known = events.find((one) => one === text)
  if (!known) throw new UsageError(`'${text}' is no event: ${events.join(', ')}`)
  return before.includes(known) ? before : [...before, known]
}

async function idOf(delta: Delta, text: string): Promise<string> {
  if (/^whk_[a-z0-9]{20}$/.test(text)) return text
  return (await findByBeginning(text, { prefix: 'whk_', noun: 'webhook', all: await delta.webhooks.list() })).id
}

function webhookTable(webhooks: readonly WebhookInfo[]): string {
  const rows = webhooks.map((info) => [info.id, stateOf(info), info.url, info.agentId ?? 'all', info.events.join(' ')])
  return table(['WEBHOOK', 'STATE', 'ADDRESS', 'AGENT', 'EVENTS'], rows)
}

function describeWebhook(info: WebhookInfo): string {
  const rows: [string, string][] = [
    ['webhook', info.id],
    ['state', stateOf(info)],
    ['address', visible(info.url)],
    ['events', info.events.join(' ')],
    ['agent', info.agentId ?? 'all'],
    ['created', `${info.createdAt} by ${visible(info.createdBy)}`],
  ]
  if (info.failingSince !== null) rows.push(['failing', `${info.failures} tries since ${info.failingSince}`])
  return rows.map(([name, value]) => `${name.padEnd(10)} ${value}\n`).join('')
}

function deliveryTable(deliveries: readonly WebhookDelivery[]): string {
  const rows = deliveries.map((one) => [
    one.id,
    one.createdAt,
    one.type,
    one.taskId ?? '-',
    one.state,
    String(one.tries),
    one.state === 'waiting' ? (one.nextTryAt ?? '-') : '-',
    [one.lastStatus, one.lastError].filter((part) => part !== null).join(' '),
  ])
  return table(['DELIVERY', 'AT', 'EVENT', 'TASK', 'STATE', 'TRIES', 'NEXT TRY', 'LAST'], rows)
}

function stateOf({ state, reason }: WebhookInfo): string {
  return reason === null ? state : `${state}, ${reason}`
}
