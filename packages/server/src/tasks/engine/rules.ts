import { createHash } from 'node:crypto'
import type { UserPart } from '../../models/door.ts'
import type { StoredMessage, TaskSpec } from '../record.ts'
import type { CreateTask } from '../schema.ts'
import { type EngineThinking, sdkPackage, sdkVersion } from './wire.ts'

export interface Unfit {
  field: string
  rule: string
}

/** What a task by another engine can not have, for now or for good. */
export function unfit(wish: CreateTask, model: string): Unfit | undefined {
  if (wish.engine === 'delta') return undefined
  const why = (field: string, rule: string): Unfit => ({ field: `body.${field}`, rule })
  if (!model.startsWith('anthropic/')) return why('model', `is ${model}: this engine asks models of Anthropic alone`)
  if (wish.fallbackModels?.length) return why('fallbackModels', 'is nothing that this engine knows')
  if (wish.mcpServers?.length) return why('mcpServers', 'is nothing that this engine is given')
  if (wish.resultSchema) return why('resultSchema', 'is nothing that this engine is asked for')
  for (const [name, mode] of Object.entries(wish.tools ?? {})) {
    if (name === '*') return why('tools.*', 'this engine has tools of its own: name those that it is not to have')
    if (mode === 'ask') return why(`tools.${name}`, 'this engine asks nobody: auto or off')
  }
  return undefined
}

/** The same for a task in all its turns and lives. */
export function sessionIdOf(taskId: string): string {
  const bytes = createHash('sha256').update(`session of ${taskId}`).digest().subarray(0, 16)
  // What makes it a UUID of version 4.
  bytes[6] = (bytes[6]! & 0x0f) | 0x40
  bytes[8] = (bytes[8]! & 0x3f) | 0x80
  const hex = bytes.toString('hex')
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-')
}

/** What people have said since the engine last said something. */
export function saidSince(messages: readonly StoredMessage[]): UserPart[] {
  const last = messages.findLastIndex(({ message }) => message.role !== 'user')
  return messages.slice(last + 1).flatMap(({ message }) => (message.role === 'user' ? message.parts : []))
}

const budgets = { low: 4_000, medium: 10_000, high: 24_000 } as const

export function thinkingOf({ thinking }: Pick<TaskSpec, 'thinking'>): EngineThinking {
  return thinking === 'off' ? { type: 'disabled' } : { type: 'enabled', budgetTokens: budgets[thinking] }
}

/** Tools that Anthropic runs have a price of their own, which nobody has held. */
const neverAllowed = ['WebSearch']

export function disallowedTools({ tools }: Pick<TaskSpec, 'tools'>): string[] {
  const off = Object.entries(tools).filter(([, mode]) => mode === 'off')
  return [...neverAllowed, ...off.map(([name]) => name)]
}

export function howToInstall(found: string | undefined): string {
  const what = found === undefined ? 'is not installed in the agent’s computer' : `is there as ${found}`
  return `The Claude Agent SDK ${what}. This engine needs ${sdkVersion}: run \`npm install -g ${sdkPackage}@${sdkVersion}\` there, or start the agent from a template that has it.`
}
