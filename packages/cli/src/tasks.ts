import type { Delta, ForkTaskOptions, Task, TaskInfo, TaskResult, TaskState } from '@delta-agents/sdk'
import { type Command, Option } from 'commander'
import { findAgent } from './agents.ts'
import { collect } from './egress.ts'
import { UsageError } from './failure.ts'
import { parseCount, parseNumber, table, visible } from './format.ts'
import type { Io } from './io.ts'
import { findByBeginning } from './resolve.ts'
import { attach } from './task-attach.ts'
import { readImage, type TaskFlags, taskOptionsOf, textOf, whoDoes, withTaskOptions } from './task-options.ts'
import { needOf, short } from './task-view.ts'

export interface TaskCommandsDeps {
  io: Io
  leaf(usage: string, description: string): Command
  delta(command: Command): Delta
  print(command: Command, value: unknown, text: string): void
  exitWith(code: number): void
}

const states: TaskState[] = ['queued', 'working', 'waiting', 'suspended', 'paused', 'finished', 'failed', 'canceled']

interface CreateFlags extends TaskFlags {
  detach?: boolean
  json?: boolean
}

const exitText = `
Exit codes: 0 it has finished (a chat: it has answered), 1 it failed or was canceled, 2 it needs a person and there is no terminal. Ctrl-C leaves it working.`

export function addTaskCommands(deps: TaskCommandsDeps): void {
  addGiving(deps)
  addLooking(deps)
  addSpeaking(deps)
  addGoingBack(deps)
}

function addGiving({ io, leaf, delta, print, exitWith }: TaskCommandsDeps): void {
  withTaskOptions(leaf('create [text...]', 'give an agent a task, and watch it; the text may come from stdin'))
    .option('-d, --detach', 'print its id and leave it working')
    .addHelpText('after', exitText)
    .action(async (words: string[], flags: CreateFlags, command: Command) => {
      const text = await textOf(io, words)
      const client = delta(command)
      const agent = await whoDoes(client, flags.agent)
      const task = await client.tasks.create({ agent, text, ...(await taskOptionsOf(flags)) })
      if (flags.detach) return print(command, task.info, `${task.id}\n`)
      exitWith(await attach(io, task, { json: flags.json === true }))
    })

  leaf('attach <task>', 'watch it from its beginning; answer what it asks')
    .option('--from <event>', 'after this event', parseNumber)
    .addHelpText('after', exitText)
    .action(async (id: string, { from, json = false }: { from?: number; json?: boolean }, command: Command) => {
      const task = await findTask(delta(command), id)
      exitWith(await attach(io, task, { json, ...(from !== undefined && { from }) }))
    })
}

function addLooking({ leaf, delta, print, io }: TaskCommandsDeps): void {
  leaf('list', 'list tasks, newest first')
    .alias('ls')
    .addOption(new Option('--state <state>', 'only in this state').choices(states))
    .option('-a, --agent <agent>', 'only of this agent')
    .option('-n, --limit <count>', 'how many (default: 50)', parseCount, 50)
    .action(async ({ state, agent, limit }: { state?: TaskState; agent?: string; limit: number }, command: Command) => {
      const client = delta(command)
      const of = agent === undefined ? undefined : await findAgent(client, agent)
      const found: TaskInfo[] = []
      const filter = { ...(state && { state }), ...(of && { agentId: of.id }), pageSize: Math.min(limit, 200) }
      for await (const { info } of client.tasks.list(filter)) if (found.push(info) >= limit) break
      print(command, found, taskTable(found))
    })

  leaf('show <task>', 'show one, and what it waits for; by id or the beginning of it')
    .alias('get')
    .action(async (id: string, _: unknown, command: Command) => {
      const info = await (await findTask(delta(command), id)).refresh()
      print(command, info, describeTask(info))
    })

  leaf('result <task>', 'its last words or its value, and the files it wrote').action(
    async (id: string, _: unknown, command: Command) => {
      const task = await findTask(delta(command), id)
      const result = await task.result()
      print(command, result, resultText(result))
      const { files, state } = result
      if (command.opts<{ json?: boolean }>().json) return
      if (!task.isOver) io.stderr.write(`It is ${state}: this is as far as it is.\n`)
      if (files.length > 0) io.stderr.write(`Files: ${files.map(({ path }) => visible(path)).join(', ')}\n`)
    },
  )

  leaf('transcript <task>', 'all that was said and done, as Markdown').action(
    async (id: string, _: unknown, command: Command) => {
      const task = await findTask(delta(command), id)
      const asJson = command.opts<{ json?: boolean }>().json === true
      if (asJson) return print(command, await task.transcript(), '')
      const text = await task.transcript({ format: 'markdown' })
      print(command, undefined, `${text.split('\n').map(visible).join('\n').trimEnd()}\n`)
    },
  )
}

function addSpeaking({ io, leaf, delta, print, exitWith }: TaskCommandsDeps): void {
  leaf('message <task> [text...]', 'tell it something; to a task that asked it is the answer')
    .option('-i, --interrupt', 'what it is just doing is given up')
    .option('--image <path>', 'may be repeated', collect)
    .option('--attach', 'watch what comes of it')
    .action(
      async (
        id: string,
        words: string[],
        flags: { interrupt?: boolean; image?: string[]; attach?: boolean; json?: boolean },
        command: Command,
      ) => {
        const text = await textOf(io, words)
        const task = await findTask(delta(command), id)
        const from = task.info.lastEvent
        const images = flags.image && (await Promise.all(flags.image.map(readImage)))
        await task.message(text, { ...(images && { images }), ...(flags.interrupt && { interrupt: true }) })
        if (flags.attach) return exitWith(await attach(io, task, { json: flags.json === true, from }))
        print(command, task.info, `${task.id} is ${task.state}\n`)
      },
    )

  const acts: Record<string, [string, (task: Task) => Promise<TaskInfo>]> = {
    interrupt: ['what it is doing is given up; it waits for your message', (task) => task.interrupt()],
    pause: ['let it rest at the end of its step', (task) => task.pause()],
    resume: ['let one go on that is paused or suspended', (task) => task.resume()],
    cancel: ['end it, with what it delegated', (task) => task.cancel()],
  }
  for (const [name, [description, act]] of Object.entries(acts)) {
    leaf(`${name} <task>`, description).action(async (id: string, _: unknown, command: Command) => {
      const info = await act(await findTask(delta(command), id))
      print(command, info, `${info.id} is ${info.state}${toCome(name, info.state)}\n`)
    })
  }

  leaf('give <task> <tokens>', 'more of its agent’s tokens for one with a budget; it goes on').action(
    async (id: string, tokens: string, _: unknown, command: Command) => {
      const info = await (await findTask(delta(command), id)).giveTokens(parseCount(tokens))
      print(command, info, `${info.id} is ${info.state}, with ${parseCount(tokens)} tokens more\n`)
    },
  )
}

function addGoingBack({ io, leaf, delta, print, exitWith }: TaskCommandsDeps): void {
  leaf('fork <task> [text...]', 'go on from a step of it in another task, on a copy of the computer as it was')
    .option('-s, --step <n>', 'as it was after this step (default: as it is now)', parseStep)
    .option('-a, --agent <agent>', 'who takes it over, on its own computer (default: a new agent)')
    .option('--budget <tokens>', 'of the new task; a new agent gets them, and has none without', parseCount)
    .option('--attach', 'watch the new one')
    .action(
      async (
        id: string,
        words: string[],
        flags: { step?: number; agent?: string; budget?: number; attach?: boolean; json?: boolean },
        command: Command,
      ) => {
        const client = delta(command)
        const task = await findTask(client, id)
        const options: ForkTaskOptions = {
          ...(words.length > 0 && { text: words.join(' ') }),
          ...(flags.step !== undefined && { step: flags.step }),
          ...(flags.agent !== undefined && { agent: await findAgent(client, flags.agent) }),
          ...(flags.budget !== undefined && { tokenBudget: flags.budget }),
        }
        const made = await task.fork(options)
        if (flags.attach) return exitWith(await attach(io, made, { json: flags.json === true }))
        print(command, made.info, `${made.id}\n`)
      },
    )

  leaf('undo <task>', 'its files are as they were, and what was said since is forgotten')
    .option('-s, --step <n>', 'back to after this step (default: the beginning of its last turn)', parseStep)
    .action(async (id: string, { step }: { step?: number }, command: Command) => {
      const task = await findTask(delta(command), id)
      const info = await task.undo(step === undefined ? {} : { step })
      print(command, info, `${info.id} is ${info.state}${task.isOver ? '; its files are as they were' : ''}\n`)
    })
}

/** What is asked for happens at the end of a step. */
function toCome(name: string, state: TaskState): string {
  if (state !== 'working') return ''
  if (name === 'pause') return ', and rests at the end of its step'
  return name === 'interrupt' ? ', and gives up what it is doing' : ''
}

/** 0 is before the first. */
function parseStep(text: string): number {
  if (!/^[0-9]{1,6}$/.test(text)) throw new UsageError(`'${text}' is no step: a whole number from 0 on`)
  return Number(text)
}

/** By its id, or the beginning of it where only one begins so. */
export async function findTask(delta: Delta, text: string): Promise<Task> {
  if (/^tsk_[a-z0-9]{20}$/.test(text)) return delta.tasks.get(text)
  return findByBeginning(text, { prefix: 'tsk_', noun: 'task', all: delta.tasks.list({ pageSize: 200 }) })
}

function taskTable(tasks: readonly TaskInfo[]): string {
  const rows = tasks.map(({ id, state, agentId, step, usage, createdAt, text }) => [
    id,
    state,
    agentId,
    String(step),
    String(usage.tokens),
    createdAt,
    short(text, 60),
  ])
  return table(['TASK', 'STATE', 'AGENT', 'STEPS', 'TOKENS', 'CREATED', 'TEXT'], rows)
}

function describeTask(info: TaskInfo): string {
  const { usage } = info
  const counts = `${usage.input} input, ${usage.cacheRead} from and ${usage.cacheWrite} into the cache, ${usage.output} output`
  const rows: [string, string][] = [
    ['task', info.id],
    ['state', info.reason === null ? info.state : `${info.state}, ${info.reason}`],
    ['agent', info.agentId],
    ['model', visible(info.model)],
    ['text', short(info.text, 1_000)],
    ['steps', `${info.step} of at most ${info.maxSteps}, in turn ${info.turn}`],
    ['tokens', `${usage.estimated ? 'about ' : ''}${usage.tokens} for the model: ${counts}`],
    ['budget', budgetOf(info)],
    ['created', `${info.createdAt} by ${visible(info.createdBy)}`],
  ]
  if (info.engine !== 'delta') rows.push(['engine', visible(info.engine)])
  if (info.parentTaskId !== null) rows.push(['part of', info.parentTaskId])
  if (info.forkedFrom) rows.push(['fork of', `${info.forkedFrom.taskId}, after step ${info.forkedFrom.step}`])
  if (info.endedAt !== null) rows.push(['ended', info.endedAt])
  if (info.message !== null) rows.push(['message', visible(info.message)])
  for (const [name, value] of Object.entries(info.metadata)) rows.push(['metadata', visible(`${name}=${value}`)])
  if (info.untrusted) rows.push(['untrusted', 'it has read what came from outside'])
  const need = info.endedAt === null ? needOf(info) : ''
  return rows.map(([name, value]) => `${name.padEnd(10)} ${value}\n`).join('') + (need === '' ? '' : `\n${need}\n`)
}

function budgetOf({ tokenBudget, paidBy }: TaskInfo): string {
  if (tokenBudget !== null) return `${tokenBudget} tokens of its own`
  return paidBy === null ? 'its agent’s tokens' : `that of ${paidBy}`
}

function resultText({ text, value }: TaskResult): string {
  if (value !== null && value !== undefined) return `${JSON.stringify(value, null, 2)}\n`
  return text === null || text === '' ? '' : `${text.split('\n').map(visible).join('\n')}\n`
}
