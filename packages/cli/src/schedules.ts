import type {
  Delta,
  ScheduleInfo,
  SchedulePolicies,
  ScheduleRunInfo,
  ScheduleState,
  ScheduleTimes,
  ScheduleWithTask,
} from '@delta-agents/sdk'
import { type Command, Option } from 'commander'
import { findAgent } from './agents.ts'
import { exitCodes, UsageError } from './failure.ts'
import { parseCount, table, visible } from './format.ts'
import type { Io } from './io.ts'
import { findByBeginning } from './resolve.ts'
import { type TaskFlags, taskOptionsOf, textOf, whoDoes, withTaskOptions } from './task-options.ts'
import { short } from './task-view.ts'

export interface ScheduleCommandsDeps {
  io: Io
  leaf(usage: string, description: string): Command
  delta(command: Command): Delta
  print(command: Command, value: unknown, text: string): void
  exitWith(code: number): void
}

const states: ScheduleState[] = ['active', 'paused', 'disabled', 'done']

interface TimeFlags {
  cron?: string
  timeZone?: string
  at?: Date
  missed?: NonNullable<SchedulePolicies['missed']>
  overlap?: NonNullable<SchedulePolicies['overlap']>
}

interface CreateFlags extends TaskFlags, TimeFlags {
  paused?: boolean
}

export function addScheduleCommands(deps: ScheduleCommandsDeps): void {
  addMaking(deps)
  addLooking(deps)
  addChanging(deps)
}

function addMaking({ io, leaf, delta, print }: ScheduleCommandsDeps): void {
  const create = leaf('create [text...]', 'give an agent a task at stated times; the text may come from stdin')
  withTimeOptions(withTaskOptions(create))
    .option('--paused', 'it begins paused')
    .action(async (words: string[], flags: CreateFlags, command: Command) => {
      if ((flags.cron === undefined) === (flags.at === undefined)) {
        throw new UsageError("Say when: either --cron '30 7 * * MON-FRI' or --at 2027-01-31T09:00")
      }
      const text = await textOf(io, words)
      const client = delta(command)
      const agent = await whoDoes(client, flags.agent)
      const task = { text, ...(await taskOptionsOf(flags)) }
      const times = timesOf(flags)
      const made = await client.schedules.create({ agent, task, ...times, ...(flags.paused && { enabled: false }) })
      print(command, made, `${made.id}\n`)
      if (!command.opts<{ json?: boolean }>().json) io.stderr.write(`${whenOf(made)}.\n`)
    })
}

function addLooking({ leaf, delta, print }: ScheduleCommandsDeps): void {
  leaf('list', 'list schedules, newest first')
    .alias('ls')
    .addOption(new Option('--state <state>', 'only in this state').choices(states))
    .option('-a, --agent <agent>', 'only of this agent')
    .option('-n, --limit <count>', 'how many (default: 50)', parseCount, 50)
    .action(
      async ({ state, agent, limit }: { state?: ScheduleState; agent?: string; limit: number }, command: Command) => {
        const client = delta(command)
        const of = agent === undefined ? undefined : await findAgent(client, agent)
        const filter = { ...(state && { state }), ...(of && { agentId: of.id }), pageSize: Math.min(limit, 200) }
        const found = await firstOf(client.schedules.list(filter), limit)
        print(command, found, scheduleTable(found))
      },
    )

  leaf('show <schedule>', 'show one, and its task; by id or the beginning of it')
    .alias('get')
    .action(async (text: string, _: unknown, command: Command) => {
      const client = delta(command)
      const info = await client.schedules.get(await idOf(client, text))
      print(command, info, describeSchedule(info))
    })

  leaf('runs <schedule>', 'what became of its times, newest first')
    .option('-n, --limit <count>', 'how many (default: 50)', parseCount, 50)
    .action(async (text: string, { limit }: { limit: number }, command: Command) => {
      const client = delta(command)
      const id = await idOf(client, text)
      const found = await firstOf(client.schedules.runs(id, { pageSize: Math.min(limit, 200) }), limit)
      print(command, found, runTable(found))
    })
}

function addChanging({ leaf, delta, print, exitWith }: ScheduleCommandsDeps): void {
  withTimeOptions(leaf('set <schedule>', 'change its times; what is left out stays')).action(
    async (text: string, flags: TimeFlags, command: Command) => {
      const changes = timesOf(flags)
      if (Object.keys(changes).length === 0) {
        throw new UsageError('Say what to change: --cron, --at, --time-zone, --missed or --overlap')
      }
      const client = delta(command)
      const info = await client.schedules.update(await idOf(client, text), changes)
      print(command, info, `${info.id}: ${whenOf(info)}\n`)
    },
  )

  const acts: Record<'pause' | 'resume', string> = {
    pause: 'no more runs; those that wait are left out',
    resume: 'goes on from its next time, also where the server had disabled it',
  }
  for (const act of ['pause', 'resume'] as const) {
    leaf(`${act} <schedule>`, acts[act]).action(async (text: string, _: unknown, command: Command) => {
      const client = delta(command)
      const info = await client.schedules[act](await idOf(client, text))
      print(command, info, `${info.id}: ${whenOf(info)}\n`)
    })
  }

  leaf('run <schedule>', 'run it now, beside its times').action(async (text: string, _: unknown, command: Command) => {
    const client = delta(command)
    const run = await client.schedules.run(await idOf(client, text))
    print(command, run, `${run.taskId ?? `${run.state}: ${whyOf(run)}`}\n`)
    if (run.state === 'failed') exitWith(exitCodes.failed)
  })

  leaf('delete <schedule>', 'remove it with the list of its runs; tasks that it made go on')
    .aliases(['remove', 'rm'])
    .action(async (text: string, _: unknown, command: Command) => {
      const client = delta(command)
      const id = await idOf(client, text)
      await client.schedules.remove(id)
      print(command, { id, removed: true }, `${id} removed\n`)
    })
}

function withTimeOptions(command: Command): Command {
  return command
    .option('--cron <expression>', "minute, hour, day of month, month, day of week: '30 7 * * MON-FRI', or @daily")
    .option('--time-zone <name>', 'in which --cron is meant, like Europe/Berlin (default: UTC)')
    .option('--at <time>', 'once, like 2027-01-31T09:00 in this machine’s time, or with +01:00', parseTime)
    .addOption(
      new Option('--missed <what>', 'of times at which no server ran (default: once for all)').choices([
        'skip',
        'once',
        'all',
      ]),
    )
    .addOption(
      new Option('--overlap <what>', 'while the task before goes on (default: skip)').choices(['skip', 'queue']),
    )
}

function timesOf({ cron, timeZone, at, missed, overlap }: TimeFlags): ScheduleTimes & SchedulePolicies {
  return {
    ...(cron !== undefined && { cron }),
    ...(timeZone !== undefined && { timeZone }),
    ...(at && { at }),
    ...(missed && { missed }),
    ...(overlap && { overlap }),
  }
}

function parseTime(text: string): Date {
  const at = new Date(text)
  const [, date] = /^(\d{4}-\d{2}-\d{2})T/.exec(text) ?? []
  const midnight = new Date(`${date}T00:00Z`)
  // A whole day would be midnight in UTC, which nobody expects, and the 31st of February the 3rd of March.
  const isDay = !Number.isNaN(midnight.getTime()) && midnight.toISOString().startsWith(`${date}T`)
  if (!isDay || Number.isNaN(at.getTime())) {
    throw new UsageError(`'${text}' is no time like 2027-01-31T09:00 or 2027-01-31T09:00+01:00`)
  }
  return at
}

async function idOf(delta: Delta, text: string): Promise<string> {
  if (/^sch_[a-z0-9]{20}$/.test(text)) return text
  const all = delta.schedules.list({ pageSize: 200 })
  return (await findByBeginning(text, { prefix: 'sch_', noun: 'schedule', all })).id
}

async function firstOf<Item>(items: AsyncIterable<Item>, limit: number): Promise<Item[]> {
  const found: Item[] = []
  for await (const item of items) if (found.push(item) >= limit) break
  return found
}

function scheduleTable(schedules: readonly ScheduleInfo[]): string {
  const rows = schedules.map((info) => [
    info.id,
    stateOf(info),
    info.agentId,
    timesText(info),
    info.nextAt ?? '-',
    short(info.title, 60),
  ])
  return table(['SCHEDULE', 'STATE', 'AGENT', 'TIMES', 'NEXT', 'TEXT'], rows)
}

function runTable(runs: readonly ScheduleRunInfo[]): string {
  const rows = runs.map((run) => [
    run.dueAt,
    run.manual ? 'asked for' : 'due',
    run.state,
    run.taskId ?? '-',
    whyOf(run),
  ])
  return table(['TIME', 'WHY', 'STATE', 'TASK', 'REASON'], rows)
}

function describeSchedule(info: ScheduleWithTask): string {
  const { text, ...settings } = info.task ?? {}
  const rows: [string, string][] = [
    ['schedule', info.id],
    ['state', stateOf(info)],
    ['agent', info.agentId],
    ['times', timesText(info)],
    ['next', info.nextAt ?? '-'],
    ['missed', info.missed],
    ['overlap', info.overlap],
    ['text', info.task ? short(typeof text === 'string' ? text : '', 1_000) : 'it can not be read'],
    ['created', `${info.createdAt} by ${visible(info.createdBy)}`],
  ]
  for (const [name, value] of Object.entries(settings)) rows.push(['task', short(`${name} ${JSON.stringify(value)}`)])
  return rows.map(([name, value]) => `${name.padEnd(10)} ${value}\n`).join('')
}

function timesText({ cron, at, timeZone }: ScheduleInfo): string {
  return visible(cron === null ? (at ?? '-') : `${cron} ${timeZone}`)
}

function stateOf({ state, reason }: ScheduleInfo): string {
  return reason === null ? state : `${state}, ${reason}`
}

function whenOf(info: ScheduleInfo): string {
  return info.nextAt === null ? `it is ${stateOf(info)}` : `it runs next at ${info.nextAt}`
}

function whyOf({ reason, failure }: ScheduleRunInfo): string {
  return failure ? visible(`${failure.code}: ${failure.message}`) : (reason ?? '')
}
