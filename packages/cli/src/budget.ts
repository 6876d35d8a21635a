import {
  type Delta,
  DeltaApiError,
  type ForecastInfo,
  type HoldInfo,
  type LedgerInfo,
  type PlanInfo,
  type PlanName,
  type PurseInfo,
  type TransferInfo,
  type UsageGroup,
  type UsageInfo,
  type WrittenInfo,
} from '@delta-agents/sdk'
import { type Command, type CommandOptions, Option } from 'commander'
import { UsageError } from './failure.ts'
import { parseCount, parseNumber, table, visible } from './format.ts'
import { type Io, write } from './io.ts'

export interface BudgetCommandsDeps {
  io: Io
  leaf(usage: string, description: string, options?: CommandOptions): Command
  delta(command: Command): Delta
  print(command: Command, value: unknown, text: string): void
}

const groups: UsageGroup[] = ['agent', 'task', 'sandbox', 'kind', 'meter', 'hour', 'day']
const plans: PlanName[] = ['free', 'developer', 'pro', 'enterprise']
const shownRows = 50

interface UsageFlags {
  by: UsageGroup[]
  from?: Date
  to?: Date
  agent?: string
  task?: string
  sandbox?: string
  kind?: string
  meter?: string
  csv?: boolean
}

interface HistoryFlags {
  purse?: string
  kind?: TransferInfo['kind']
  limit: number
}

export function addBudgetCommands({ io, leaf, delta, print }: BudgetCommandsDeps): void {
  leaf('show [purse]', 'who has how many tokens: the reserve, agents and tasks', { isDefault: true })
    .option('--archived', 'also those that are archived')
    .action(async (purseId: string | undefined, { archived }: { archived?: boolean }, command: Command) => {
      const wish = { ...(purseId !== undefined && { purseId }), ...(archived && { archived }) }
      const client = delta(command)
      const found = await client.ledger.get(wish)
      const asJson = command.opts<{ json?: boolean }>().json === true
      print(command, found, describeLedger(found, asJson ? new Map() : await namesOf(client, found)))
    })

  leaf('usage', 'what was used and what it cost, in this month unless you say otherwise')
    .option('--by <groups>', `added up by ${groups.join(', ')}; several with commas`, parseGroups, [
      'meter',
    ] as UsageGroup[])
    .option('--from <time>', 'like 2026-11-01 or 2026-11-01T12:00Z', parseTime)
    .option('--to <time>', 'before this', parseTime)
    .option('--agent <id>', 'only of this agent')
    .option('--task <id>', 'only of this task')
    .option('--sandbox <id>', 'only of this sandbox')
    .option('--kind <kind>', 'only of sandbox, egress, storage, model or message')
    .option('--meter <meter>', 'only by this meter, as `delta budget rates` names it')
    .option('--csv', 'print a table for spreadsheets')
    .action(async (flags: UsageFlags, command: Command) => {
      const { ledger } = delta(command)
      const wish = usageWish(flags)
      if (flags.csv) {
        for await (const chunk of await ledger.usageCsv(wish)) await write(io.stdout, chunk)
        return
      }
      const rows = await ledger.usage({ ...wish, pageSize: 500 }).all()
      print(command, rows, usageTable(flags.by, rows))
    })

  leaf('forecast', 'what will have been spent at the end of the period, if it goes on as it did').action(
    async (_: unknown, command: Command) => {
      const found = await delta(command).ledger.forecast()
      print(command, found, describeForecast(found))
    },
  )

  leaf(
    'transfer <tokens> <from> <to> [reason...]',
    'move tokens; from and to are `reserve` or the id of an agent or task',
  )
    .option('--key <key>', 'the same again with the same key is done once')
    .action(
      async (
        tokens: string,
        from: string,
        to: string,
        words: string[],
        { key }: { key?: string },
        command: Command,
      ) => {
        const wish = { tokens: parseNumber(tokens), from, to, reason: words.join(' ') || 'By hand', ...withKey(key) }
        const made = await delta(command).ledger.transfer(wish)
        print(command, made, describeWritten(made, `moved from ${from} to ${to}`))
      },
    )

  leaf('grant <tokens> [reason...]', 'give tokens to an account, as the operator')
    .option('--bought', 'which do not end with the month')
    .option('--account <id>', 'whose (default: your own)')
    .option('--key <key>', 'the same again with the same key is done once')
    .action(
      async (
        tokens: string,
        words: string[],
        { bought, account, key }: { bought?: boolean; account?: string; key?: string },
        command: Command,
      ) => {
        const made = await delta(command).ledger.grant({
          tokens: parseNumber(tokens),
          sort: bought ? 'bought' : 'granted',
          reason: words.join(' ') || 'By hand',
          ...(account !== undefined && { accountId: account }),
          ...withKey(key),
        })
        print(command, made, describeWritten(made, `given to ${account ?? 'the reserve'}`))
      },
    )

  leaf('refund <hold> <tokens> [reason...]', 'give back what was spent, as the operator')
    .option('--account <id>', 'whose (default: your own)')
    .option('--key <key>', 'the same again with the same key is done once')
    .action(
      async (
        holdId: string,
        tokens: string,
        words: string[],
        { account, key }: { account?: string; key?: string },
        command: Command,
      ) => {
        const made = await delta(command).ledger.refund({
          holdId,
          tokens: parseNumber(tokens),
          reason: words.join(' ') || 'By hand',
          ...(account !== undefined && { accountId: account }),
          ...withKey(key),
        })
        print(command, made, describeWritten(made, `given back of ${holdId}`))
      },
    )

  leaf('history', 'every movement of tokens, newest first')
    .option('--purse <id>', 'only of this purse and those below it')
    .option('--kind <kind>', 'only of this kind, such as transfer or commit')
    .option('--limit <n>', 'entries at most', parseCount, shownRows)
    .action(async ({ purse, kind, limit }: HistoryFlags, command: Command) => {
      const wish = { ...(purse !== undefined && { purseId: purse }), ...(kind !== undefined && { kind }) }
      const rows: TransferInfo[] = []
      for await (const row of delta(command).ledger.transfers({ ...wish, pageSize: Math.min(limit, 500) })) {
        if (rows.push(row) >= limit) break
      }
      print(command, rows, transferTable(rows))
    })

  leaf('holds', 'what is set aside for work, newest first')
    .addOption(
      new Option('--state <state>', 'in this state')
        .choices(['open', 'committed', 'released', 'unknown'])
        .default('open'),
    )
    .option('--all', 'in every state')
    .option('--purse <id>', 'only what this purse and those below it pay')
    .option('--limit <n>', 'holds at most', parseCount, shownRows)
    .action(
      async (
        { state, all, purse, limit }: { state: HoldInfo['state']; all?: boolean; purse?: string; limit: number },
        command: Command,
      ) => {
        const wish = { ...(!all && { state }), ...(purse !== undefined && { purseId: purse }) }
        const rows: HoldInfo[] = []
        for await (const row of delta(command).ledger.holds({ ...wish, pageSize: Math.min(limit, 500) })) {
          if (rows.push(row) >= limit) break
        }
        print(command, rows, holdTable(rows))
      },
    )

  leaf('watch', 'every movement of tokens from now on')
    .option('--from <seq>', 'from after this entry on', parseNumber)
    .action(async ({ from }: { from?: number }, command: Command) => {
      const asJson = command.opts<{ json?: boolean }>().json === true
      for await (const row of delta(command).ledger.follow(from === undefined ? {} : { from })) {
        await write(io.stdout, asJson ? `${JSON.stringify(row)}\n` : transferLine(row))
      }
    })

  leaf('rates', 'what everything costs').action(async (_: unknown, command: Command) => {
    const found = await delta(command).ledger.rates()
    const rows = found.data.map(({ meter, unit, perMillion }) => [meter, unit, String(perMillion)])
    const head = `Rate card ${visible(found.version)}; a token is US$ ${found.tokenUsd}\n\n`
    print(command, found, head + table(['METER', 'UNIT', 'TOKENS FOR 1,000,000'], rows))
  })

  leaf('plan [name]', `show the account's plan, or give it another as the operator: ${plans.join(', ')}`)
    .option('--account <id>', 'with a name: whose (default: your own)')
    .action(async (name: string | undefined, { account }: { account?: string }, command: Command) => {
      const { ledger } = delta(command)
      const found =
        name === undefined
          ? await ledger.plan()
          : await ledger.setPlan(planOf(name), account === undefined ? {} : { accountId: account })
      print(command, found, describePlan(found))
    })
}

const withKey = (key: string | undefined) => (key === undefined ? {} : { idempotencyKey: key })

function planOf(name: string): PlanName {
  const plan = plans.find((one) => one === name)
  if (plan) return plan
  throw new UsageError(`'${name}' is no plan. There are ${plans.join(', ')}`)
}

function parseGroups(text: string): UsageGroup[] {
  return text.split(',').map((name) => {
    const group = groups.find((one) => one === name.trim())
    if (group) return group
    throw new UsageError(`Usage is not added up by '${name}'. There are ${groups.join(', ')}`)
  })
}

function parseTime(text: string): Date {
  const time = new Date(text)
  if (!Number.isNaN(time.getTime())) return time
  throw new UsageError(`'${text}' is no time. Write 2026-11-01 or 2026-11-01T12:00Z`)
}

function usageWish({ by, from, to, agent, task, sandbox, kind, meter }: UsageFlags) {
  return {
    groupBy: by,
    ...(from && { from }),
    ...(to && { to }),
    ...(agent !== undefined && { agentId: agent }),
    ...(task !== undefined && { taskId: task }),
    ...(sandbox !== undefined && { sandboxId: sandbox }),
    ...(kind !== undefined && { kind }),
    ...(meter !== undefined && { meter }),
  }
}

const barWidth = 10

/** What is left of what there was. */
export function bar(left: number, gone: number): string {
  const all = left + gone
  const full = all === 0 ? 0 : Math.max(left > 0 ? 1 : 0, Math.floor((left / all) * barWidth))
  return `[${'#'.repeat(full)}${'.'.repeat(barWidth - full)}]`
}

/** With two places; what is less than that and not nothing is told apart from nothing. */
export function showTokens(tokens: number): string {
  if (tokens !== 0 && Math.abs(tokens) < 0.01) return tokens < 0 ? '>-0.01' : '<0.01'
  return tokens.toLocaleString('en-US', { maximumFractionDigits: 2 })
}

/** Of those agents that may be looked at; of more than a page of them the ids are enough. */
async function namesOf({ agents }: Delta, { purses }: LedgerInfo): Promise<Map<string, string>> {
  if (!purses.some(({ kind }) => kind === 'agent')) return new Map()
  try {
    const { data } = await agents.list({ pageSize: 500 }).page()
    return new Map(data.map(({ id, name }) => [id, name]))
  } catch (error) {
    if (error instanceof DeltaApiError && error.code === 'forbidden') return new Map()
    throw error
  }
}

function describeLedger({ period, endsAt, owed, purses, whole }: LedgerInfo, names: Map<string, string>): string {
  const rows = purses.map((purse) => [
    `${'  '.repeat(purse.depth)}${purse.id}${purse.state === 'open' ? '' : ` (${purse.state})`}`,
    names.get(purse.id) ?? '',
    bar(purse.granted + purse.bought, purse.held + purse.used),
    ...amounts(purse),
    purse.monthlyTokens === 0 ? '' : showTokens(purse.monthlyTokens),
  ])
  const owes =
    owed === null || owed === 0
      ? ''
      : `\n${showTokens(owed)} tokens are owed: nothing new begins until they are paid.\n`
  const more = whole ? '' : '\nThere are more: name a purse to see those below it.\n'
  const heads = ['PURSE', 'NAME', 'LEFT', 'TOKENS', 'GRANTED', 'BOUGHT', 'HELD', 'USED', 'MONTHLY']
  return `Period ${period}; what is granted ends at ${endsAt}\n\n${table(heads, rows)}${owes}${more}`
}

function amounts({ granted, bought, held, used }: PurseInfo): string[] {
  return [granted + bought, granted, bought, held, used].map(showTokens)
}

const columnOf: Record<UsageGroup, { head: string; cell: (row: UsageInfo) => string | null }> = {
  hour: { head: 'HOUR', cell: ({ from }) => from },
  day: { head: 'DAY', cell: ({ from }) => from?.slice(0, 10) ?? null },
  agent: { head: 'AGENT', cell: ({ agentId }) => agentId },
  task: { head: 'TASK', cell: ({ taskId }) => taskId },
  sandbox: { head: 'SANDBOX', cell: ({ sandboxId }) => sandboxId },
  kind: { head: 'KIND', cell: ({ kind }) => kind },
  meter: { head: 'METER', cell: ({ meter }) => meter },
}

function usageTable(by: UsageGroup[], rows: UsageInfo[]): string {
  const columns = by.map((group) => columnOf[group])
  const heads = [
    ...columns.map(({ head }) => head),
    ...(by.includes('meter') ? ['QUANTITY'] : []),
    'TOKENS',
    'ESTIMATED',
  ]
  const cells = rows.map((row) => [
    ...columns.map(({ cell }) => cell(row) ?? '-'),
    ...(by.includes('meter') ? [showTokens(row.quantity ?? 0)] : []),
    showTokens(row.tokens),
    row.estimated === 0 ? '' : showTokens(row.estimated),
  ])
  const total = rows.reduce((sum, { tokens }) => sum + tokens, 0)
  return `${table(heads, cells)}\n${showTokens(total)} tokens\n`
}

type Reckoned = ForecastInfo['total']

function describeForecast({ at, endsAt, total, agents }: ForecastInfo): string {
  const line = (name: string, { spent, perDay, expected, available, short, runsOutAt }: Reckoned) => [
    name,
    ...[spent, perDay, expected, available].map(showTokens),
    short === 0 ? '' : showTokens(short),
    runsOutAt ?? '',
  ]
  const rows = [line('all', total), ...agents.map(({ agentId, ...one }) => line(agentId, one))]
  const heads = ['', 'SPENT', 'A DAY', 'BY THE END', 'LEFT NOW', 'SHORT', 'RUNS OUT']
  return `As of ${at}, until ${endsAt}\n\n${table(heads, rows)}`
}

function transferTable(rows: TransferInfo[]): string {
  const cells = rows.map((row) => [
    String(row.seq),
    row.at,
    row.kind,
    row.from,
    row.to,
    String(row.tokens),
    row.sort,
    row.reason ?? row.holdId ?? '',
  ])
  return table(['NO', 'AT', 'WHAT', 'FROM', 'TO', 'TOKENS', 'SORT', 'WHY'], cells)
}

function transferLine({ seq, at, kind, from, to, tokens, sort, holdId, reason }: TransferInfo): string {
  return `${seq} ${at} ${kind} ${from} -> ${to} ${tokens} ${sort} ${visible(reason ?? holdId ?? '')}`.trimEnd() + '\n'
}

function holdTable(rows: HoldInfo[]): string {
  const cells = rows.map((row) => [
    row.id,
    row.state,
    row.purseId,
    row.kind,
    row.sandboxId ?? row.taskId ?? '',
    String(row.tokens),
    row.cost === null ? '' : String(row.cost),
    row.at,
  ])
  return table(['HOLD', 'STATE', 'PAID BY', 'KIND', 'FOR', 'TOKENS', 'COST', 'AT'], cells)
}

function describeWritten({ seq, tokens, repeated }: WrittenInfo, what: string): string {
  return `${showTokens(tokens)} tokens ${what}${repeated ? ', before already' : ''} (entry ${seq})\n`
}

function describePlan({ plan, agents, sandboxHours, grantTokens }: PlanInfo): string {
  const bound = (value: number | null) => (value === null ? 'no limit' : String(value))
  const rows = [
    ['plan', plan],
    ['agents', bound(agents)],
    ['sandbox hours', bound(sandboxHours)],
    ['granted a month', `${showTokens(grantTokens)} tokens`],
  ]
  return rows.map(([label = '', value = '']) => `${label.padEnd(20)} ${value}\n`).join('')
}
