import { readFile } from 'node:fs/promises'
import { basename, extname } from 'node:path'
import type {
  Agent,
  Delta,
  TaskEngine,
  TaskFile,
  TaskImage,
  TaskOptions,
  TaskToolMode,
  ThinkingLevel,
} from '@delta-agents/sdk'
import { type Command, Option } from 'commander'
import { findAgent } from './agents.ts'
import { collect } from './egress.ts'
import { CliError, UsageError } from './failure.ts'
import { parseCount, parseDuration, parsePair, visible } from './format.ts'
import type { Io } from './io.ts'
import { shownMatches } from './resolve.ts'

const modes: TaskToolMode[] = ['auto', 'ask', 'off']
const imageTypes: Record<string, TaskImage['mediaType']> = {
  '.png': 'image/png',
  '.jpg': 'image/jpeg',
  '.jpeg': 'image/jpeg',
  '.gif': 'image/gif',
  '.webp': 'image/webp',
}
const inputBytes = 1_000_000

/** What a task is made with, as options give it. */
export interface TaskFlags {
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
}

/** What a task is made with, whether it begins now or at a stated time. */
export function withTaskOptions(command: Command): Command {
  return command
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
}

/** Words, else what comes on stdin. */
export async function textOf(io: Io, words: string[]): Promise<string> {
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

/** Whom the option names, else the only main agent. */
export async function whoDoes(delta: Delta, name: string | undefined): Promise<Agent> {
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

export async function taskOptionsOf(flags: TaskFlags): Promise<TaskOptions> {
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

export async function readImage(path: string): Promise<TaskImage> {
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
