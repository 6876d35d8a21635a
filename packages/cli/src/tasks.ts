import { readFile } from 'node:fs/promises'
import { basename, extname } from 'node:path'
import type {
  Agent,
  CreateTaskOptions,
  Delta,
  ForkTaskOptions,
  Task,
  TaskFile,
  TaskImage,
  TaskInfo,
  TaskResult,
  TaskState,
  TaskToolMode,
  TaskEngine,
  ThinkingLevel,
} from '@delta-agents/sdk'
import { type Command, Option } from 'commander'
import { findAgent } from './agents.ts'
import { collect } from './egress.ts'
import { CliError, UsageError } from './failure.ts'
import { parseCount, parseDuration, parseNumber, parsePair, table, visible } from './format.ts'
import type { Io } from './io.ts'
import { shownMatches } from './resolve.ts'
import { attach } from './task-attach.ts'
import { needOf, short } from './task-view.ts'

export interface TaskCommandsDeps {
  io: Io
  leaf(usage: string, description: string): Command
  delta(command: Command): Delta
  print(command: Command, value: unknown, text: string): void
  exitWith(code: number): void
}

const states: TaskState[] = ['queued', 'working', 'waiting', 'suspended', 'paused', 'finished', 'failed', 'canceled']
const modes: TaskToolMode[] = ['auto', 'ask', 'off']
const imageTypes: Record<string, TaskImage['mediaType']> = {
  '.png': 'image/png',
  '.jpg': 'image/jpeg',
  '.jpeg': 'image/jpeg',
  '.gif': 'image/gif',
  '.webp': 'image/webp',
}
const inputBytes = 1_000_000

const exitText = `
Exit codes: 0 it has finished (a chat: it has answered), 1 it failed or was canceled, 2 it needs a person and there is no terminal. Ctrl-C leaves it working.`

interface CreateFlags {
  agent?: string
  model?: string
  fallback?: string[]
  thinking?: ThinkingLevel
  engine?: TaskEngine
  instructions?: string
  file?: string[]
  image?: string[]
  budget?: number
  timeLimit?: number
  maxSteps?: number
  schema?: string
  tool?: Record<string, TaskToolMode>
  chat?: boolean
  metadata?: Record<string, string>
  detach?: boolean
  json?: boolean
}

export function addTaskCommands(deps: TaskCommandsDeps): void {
  addGiving(deps)
  addLooking(deps)
  addSpeaking(deps)
  addGoingBack(deps)
}

function addGiving({ io, leaf, delta, print, exitWith }: TaskCommandsDeps): void {
  leaf('create [text...]', 'give an agent a task, and watch it; the text may come from stdin')
    .option('-a, --agent <agent>', 'who does it (default: the only main agent)')
    .option('--model <name>', 'like anthropic/claude-sonnet-5-5 (default: DELTA_MODEL of the server)')
    .option('--fallback <name>', 'asked where the model can not be reached; may be repeated', collect)
    .addOption(new Option('--thinking <level>').choices(['off', 'low', 'medium', 'high']))
    .addOption(new Option('--engine <name>', 'who works on it (default: delta)').choices(['delta', 'claude-agent-sdk']))
    .option('--instructions <text>', 'how it should go about it')
    .option('-f, --file <path[:name]>', 'put on its computer, in /workspace; may be repeated', collect)
    .option('--image <path>', 'shown to the model; may be repeated', collect)
    .option('--budget <tokens>', 'spends no more than these of its agent’s', parseCount)
    .option('--time-limit <duration>', 'waiting included (default: 1d; of a chat 30d)', parseDuration)
    .option('--max-steps <count>', 'default: 200', parseCount)
    .option('--schema <file>', 'a JSON schema that its result has to fit')
    .option(
      '--tool <name=mode>',
      'auto, ask (a person confirms each call) or off; * is every other; repeatable',
      parseMode,
    )
    .option('--chat', 'waits for your next message when it has answered')
    .option('-m, --metadata <name=value>', 'to find it by; may be repeated', parsePair)
    .option('-d, --detach', 'print its id and leave it working')
    .addHelpText('after', exitText)
    .action(async (words: string[], flags: CreateFlags, command: Command) => {
      const text = await textOf(io, words)
      const client = delta(command)
      const agent = await whoDoes(client, flags.agent)
      const task = await client.tasks.create({ agent, text, ...(await createOptions(flags)) })
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

async function textOf(io: Io, words: string[]): Promise<string> {
  if (words.length > 0) return words.join(' ')
  if (io.stdin.isTTY === true || !io.stdinHasData)
    throw new UsageError('There is no text: give it as an argument or on stdin')
  const parts: Uint8Array[] = []
  let bytes = 0
  for await (const part of io.stdin) {
    bytes += part.length
    if (bytes > inputBytes)
      throw new UsageError('The text on stdin is too long: give long texts as a file, with --file')
    parts.push(part)
  }
  const text = Buffer.concat(parts).toString('utf8').trim()
  if (text === '') throw new UsageError('There is no text on stdin')
  return text
}

async function whoDoes(delta: Delta, name: string | undefined): Promise<Agent> {
  if (name !== undefined) return findAgent(delta, name)
  const mains = await delta.agents.list({ kind: 'main', state: 'active', pageSize: 500 }).all()
  const [only, ...others] = mains
  if (only && others.length === 0) return only
  if (!only) {
    throw new CliError('There is no main agent', 'Make one: `delta agents create NAME --tokens 100`.')
  }
  const named = mains.slice(0, shownMatches).map(({ name: one }) => visible(one))
  throw new UsageError(`Say who does it: --agent ${named.join(', or ')}${mains.length > shownMatches ? ', …' : ''}`)
}

async function createOptions(flags: CreateFlags): Promise<Omit<CreateTaskOptions, 'agent' | 'text'>> {
  const files = flags.file && (await Promise.all(flags.file.map(readLocal)))
  const images = flags.image && (await Promise.all(flags.image.map(readImage)))
  return {
    ...(flags.model !== undefined && { model: flags.model }),
    ...(flags.fallback && { fallbackModels: flags.fallback }),
    ...(flags.thinking && { thinking: flags.thinking }),
    ...(flags.engine && { engine: flags.engine }),
    ...(flags.instructions !== undefined && { instructions: flags.instructions }),
    ...(files && { files }),
    ...(images && { images }),
    ...(flags.budget !== undefined && { tokenBudget: flags.budget }),
    ...(flags.timeLimit !== undefined && { timeLimitMs: flags.timeLimit }),
    ...(flags.maxSteps !== undefined && { maxSteps: flags.maxSteps }),
    ...(flags.schema !== undefined && { resultSchema: await readSchema(flags.schema) }),
    ...(flags.tool && { tools: flags.tool }),
    ...(flags.chat && { chat: true }),
    ...(flags.metadata && { metadata: flags.metadata }),
  }
}

/** PATH, or PATH:NAME where it is to have another one there. */
async function readLocal(text: string): Promise<TaskFile> {
  const colon = text.lastIndexOf(':')
  const [path, name] = colon > 0 ? [text.slice(0, colon), text.slice(colon + 1)] : [text, basename(text)]
  return { path: name === '' ? basename(path) : name, content: await readFile(path) }
}

async function readImage(path: string): Promise<TaskImage> {
  const mediaType = imageTypes[extname(path).toLowerCase()]
  if (!mediaType) throw new UsageError(`'${path}' is no image: ${Object.keys(imageTypes).join(', ')}`)
  return { mediaType, data: await readFile(path) }
}

async function readSchema(path: string): Promise<Record<string, unknown>> {
  const text = await readFile(path, 'utf8')
  let schema: unknown
  try {
    schema = JSON.parse(text)
  } catch (error) {
    throw new UsageError(`'${path}' holds no JSON: ${(error as Error).message}`)
  }
  if (typeof schema !== 'object' || schema === null || Array.isArray(schema)) {
    throw new UsageError(`'${path}' holds no JSON schema: that is an object`)
  }
  return schema as Record<string, unknown>
}

function parseMode(text: string, before: Record<string, TaskToolMode> = {}): Record<string, TaskToolMode> {
  const [name = '', mode] = Object.entries(parsePair(text))[0] ?? []
  const known = modes.find((one) => one === mode)
  if (!known) throw new UsageError(`'${text}' is not of the form NAME=MODE, with ${modes.join(', ')}`)
  return { ...before, [name]: known }
}

/** 0 is before the first. */
function parseStep(text: string): number {
  if (!/^[0-9]{1,6}$/.test(text)) throw new UsageError(`'${text}' is no step: a whole number from 0 on`)
  return Number(text)
}

/** By its id, or the beginning of it where only one begins so. */
export async function findTask(delta: Delta, text: string): Promise<Task> {
  if (/^tsk_[a-z0-9]{20}$/.test(text)) return delta.tasks.get(text)
  const prefix = text.startsWith('tsk_') ? text : `tsk_${text}`
  if (!/^tsk_[a-z0-9]+$/.test(prefix)) throw new UsageError(`'${text}' is neither a task's id nor the beginning of one`)
  const found: Task[] = []
  for await (const task of delta.tasks.list({ pageSize: 200 })) if (task.id.startsWith(prefix)) found.push(task)
  const [match, ...others] = found
  if (!match) throw new CliError(`No task has an id that begins with ${prefix}`, 'See them with `delta task list`.')
  if (others.length === 0) return match
  const shown = found.slice(0, shownMatches).map(({ id }) => id)
  const list = shown.join(', ') + (found.length > shownMatches ? ', …' : '')
  throw new CliError(`${found.length} tasks have an id that begins with ${prefix}: ${list}`, 'Write more of the id.')
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
    ['budget', info.tokenBudget === null ? 'its agent’s tokens' : `${info.tokenBudget} tokens of its own`],
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

function resultText({ text, value }: TaskResult): string {
  if (value !== null && value !== undefined) return `${JSON.stringify(value, null, 2)}\n`
  return text === null || text === '' ? '' : `${text.split('\n').map(visible).join('\n')}\n`
}
