import { shownTokens } from '../ledger/door.ts'
import type { CallRecord, StepRecord, StoredMessage, TaskRecord } from './record.ts'
import type { TaskResult, TaskView } from './schema.ts'
import { textOf } from './rules.ts'

const iso = (at: number | null) => (at === null ? null : new Date(at).toISOString())

export function viewOf(task: TaskRecord): TaskView {
  const { spec, usage } = task
  return {
    id: task.id,
    agentId: task.agentId,
    parentTaskId: task.parentTaskId,
    forkedFrom: task.forkedTaskId === null ? null : { taskId: task.forkedTaskId, step: task.forkedStep ?? 0 },
    state: task.state,
    reason: task.reason,
    message: task.message,
    waitsFor: [...task.waitsFor],
    text: spec.text,
    model: spec.model,
    engine: spec.engine ?? 'delta',
    chat: spec.chat,
    turn: task.turn,
    step: task.step,
    maxSteps: spec.maxSteps,
    lastEvent: task.lastEvent,
    tokenBudget: task.budget === null ? null : shownTokens(task.budget),
    paidBy: task.payerId,
    usage: {
      input: usage.input,
      cacheRead: usage.cacheRead,
      cacheWrite: usage.cacheWrite + usage.cacheWriteHour,
      output: usage.output,
      tokens: shownTokens(task.cost),
      estimated: task.estimated,
    },
    untrusted: task.untrusted,
    metadata: { ...spec.metadata },
    createdBy: task.asker.actorId,
    createdAt: iso(task.createdAt)!,
    startedAt: iso(task.startedAt),
    endedAt: iso(task.endedAt),
    timeLimitMs: spec.timeLimitMs,
  }
}

const writers = new Set(['write_file', 'edit_file'])

/** `said`: of one that goes on, whose last words are its text as far as it is. */
export function resultView(
  task: TaskRecord,
  { calls, said }: { calls: readonly CallRecord[]; said: readonly StoredMessage[] },
): TaskResult {
  const paths = new Set<string>()
  for (const { tool, input, outcome } of calls) {
    if (!writers.has(tool) || !outcome || outcome.isError) continue
    const path = pathIn(input)
    if (path !== undefined) paths.add(path.startsWith('/') ? path : `/workspace/${path}`)
  }
  const { state, reason, result } = task
  const { value = null } = result ?? {}
  return { state, reason, text: result?.text ?? lastWords(said), value, files: [...paths].map((path) => ({ path })) }
}

function lastWords(said: readonly StoredMessage[]): string | null {
  const texts = said.map(({ message }) => (message.role === 'assistant' ? textOf(message.parts) : ''))
  return texts.findLast((text) => text !== '') ?? null
}

function pathIn(input: string): string | undefined {
  try {
    const { path } = JSON.parse(input) as { path?: unknown }
    return typeof path === 'string' ? path : undefined
  } catch {
    return undefined
  }
}

export interface Transcript {
  task: TaskView
  summary: { upToMessage: number; text: string } | null
  messages: { seq: number; step: number; role: string; parts: readonly object[]; createdAt: string }[]
  steps: {
    step: number
    turn: number
    state: string
    model: string
    attempts: readonly object[]
    snapshotId: string | null
    startedAt: string
    endedAt: string | null
  }[]
}

/** All that was said and done. What only a provider understands is left out. */
export function transcriptOf(
  task: TaskRecord,
  { messages, steps }: { messages: readonly StoredMessage[]; steps: readonly StepRecord[] },
): Transcript {
  return {
    task: viewOf(task),
    summary: task.summary === null ? null : { upToMessage: task.compactedTo, text: task.summary },
    messages: messages.map(({ seq, step, message, createdAt }) => ({
      seq,
      step,
      role: message.role,
      parts: message.parts.map((part) => {
        const { bound: _, ...shown } = { bound: undefined, ...part }
        return shown
      }),
      createdAt: iso(createdAt)!,
    })),
    steps: steps.map(({ startedAt, endedAt, ...one }) => ({
      ...one,
      startedAt: iso(startedAt)!,
      endedAt: iso(endedAt),
    })),
  }
}

/** For people. */
export function markdownOf(task: TaskRecord, messages: readonly StoredMessage[]): string {
  const lines = [
    `# ${task.id}`,
    '',
    `Agent ${task.agentId}, ${task.state}${task.reason ? ` (${task.reason})` : ''}.`,
    '',
  ]
  for (const { message, step } of messages) {
    if (message.role === 'user') {
      lines.push(`## Person, before step ${step}`, '')
      for (const part of message.parts) lines.push(part.type === 'text' ? part.text : `[image ${part.digest}]`, '')
    } else if (message.role === 'assistant') {
      lines.push(`## Agent, step ${step}`, '', textOf(message.parts), '')
      for (const part of message.parts) {
        if (part.type === 'tool_call') lines.push(`Calls \`${part.tool}\`:`, '', fenced(part.input, 'json'), '')
      }
    } else {
      for (const { tool, isError, content } of message.parts) {
        const text = content.map((part) => (part.type === 'text' ? part.text : `[image ${part.digest}]`)).join('\n')
        lines.push(`\`${tool}\` ${isError ? 'failed' : 'answered'}:`, '', fenced(text), '')
      }
    }
  }
  return lines.join('\n')
}

/** A fence that is longer than any within. */
function fenced(text: string, language = ''): string {
  const longest = Math.max(2, ...Array.from(text.matchAll(/`+/g), ([run]) => run.length))
  const fence = '`'.repeat(longest + 1)
  return `${fence}${language}\n${text}\n${fence}`
}
