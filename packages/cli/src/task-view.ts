import type { TaskEvent, TaskInfo, TaskMessagePart, TaskWaitsFor } from '@delta-agents/sdk'
import { visible } from './format.ts'
import { type Io, paint } from './io.ts'

/** Lines of what a tool wrote or answered; the rest is in the transcript. */
const shownLines = 12
/** Of a call's arguments, or of one line of output. */
const shownChars = 160

export interface TaskView {
  show(event: TaskEvent): void
  /** Whatever is begun is a whole line from here on. */
  rest(): void
  /** Calls of its last reply that have not begun, each as a line. */
  pending(): string[]
}

/** A task as it goes on, for people: what the model writes, one line for each call, and below it what came of that. */
export function createTaskView(io: Io): TaskView {
  /** Nothing stands on the line yet. */
  let isFresh = true
  /** What of this step's text was shown; the reply says all of it. */
  let said = ''
  /** Lines of output, by call. */
  const lines = new Map<string, number>()
  const pending = new Map<string, string>()
  let rests = ''
  let current = ''

  const out = (text: string) => {
    if (text === '') return
    io.stdout.write(text)
    isFresh = text.endsWith('\n')
  }
  const line = (text: string) => {
    if (!isFresh) out('\n')
    out(`${text}\n`)
  }
  const dim = (text: string) => paint(io, io.stdout, 'dim', text)

  function speak(text: string): void {
    said += text
    out(said === text && !isFresh ? `\n${safe(text)}` : safe(text))
  }

  /** Below its call; of another call than the last one, under its name. */
  function below(callId: string, text: string): void {
    for (const one of text.replace(/\n$/, '').split('\n')) {
      const count = (lines.get(callId) ?? 0) + 1
      lines.set(callId, count)
      if (count <= shownLines) line(dim(`  ${short(one)}`.trimEnd()))
      else if (count === shownLines + 1) line(dim('  …'))
    }
  }

  /** Pieces may end within a line. */
  function output(callId: string, text: string): void {
    if (current !== callId) flush()
    current = callId
    const all = (rests + text).split('\n')
    rests = all.pop() ?? ''
    if (all.length > 0) below(callId, all.join('\n'))
  }

  function flush(): void {
    if (rests !== '') below(current, rests)
    rests = ''
  }

  return {
    rest() {
      flush()
      if (!isFresh) out('\n')
    },

    pending: () => [...pending.values()],

    show(event) {
      if (event.kind !== 'output') flush()
      switch (event.kind) {
        case 'message':
          return line(paint(io, io.stdout, 'bold', `> ${safe(saidIn(event.data.parts)).replaceAll('\n', '\n> ')}`))
        case 'step':
          said = ''
          return
        case 'attempt': {
          said = ''
          const { failure, waitMs } = event.data
          if (!failure) return
          const when = waitMs === undefined ? '' : `; asked again in ${(waitMs / 1_000).toFixed(1)} s`
          return line(dim(`  (${short(failure.message)}${when})`))
        }
        case 'text':
          return speak(event.data.text)
        case 'reply': {
          const whole = event.data.parts.map((part) => (part.type === 'text' ? part.text : '')).join('')
          if (whole.startsWith(said)) speak(whole.slice(said.length))
          said = ''
          if (!isFresh) out('\n')
          pending.clear()
          for (const part of event.data.parts) {
            if (part.type === 'tool_call') pending.set(part.callId, `${visible(part.tool)} ${argumentsOf(part.input)}`)
          }
          return
        }
        case 'call': {
          const { id, callId, tool, input } = event.data
          pending.delete(callId)
          lines.set(id, 0)
          return line(`${paint(io, io.stdout, 'cyan', `→ ${visible(tool)}`)} ${argumentsOf(input)}`)
        }
        case 'output':
          return output(event.data.callId, event.data.text)
        case 'result': {
          const { id, callId, tool, isError, text, images } = event.data
          pending.delete(callId)
          const wasShown = (lines.get(id) ?? 0) > 0
          if (!lines.has(id)) line(`${paint(io, io.stdout, 'cyan', `→ ${visible(tool)}`)}`)
          // Of a program's own output the end alone is new: how it ended.
          const end = wasShown ? endOf(text) : text
          if (wasShown) lines.delete(id)
          below(id, end === '' && images > 0 ? `${images} image${images === 1 ? '' : 's'}` : end)
          if (isError) line(paint(io, io.stdout, 'red', '  failed'))
          lines.delete(id)
          return
        }
        case 'compacted':
          return line(dim(`  (${event.data.messages} messages became a summary)`))
        case 'undone':
          return line(dim(`  (taken back to step ${event.data.toStep})`))
        case 'end':
          return
      }
    },
  }
}

function saidIn(parts: readonly TaskMessagePart[]): string {
  return parts.map((part) => (part.type === 'text' ? part.text : '[image]')).join('\n')
}

/** With its line ends, and nothing else that a terminal obeys. */
function safe(text: string): string {
  return text.replaceAll('\t', '  ').split('\n').map(visible).join('\n')
}

export function short(text: string, chars = shownChars): string {
  const whole = visible(text.replaceAll('\t', '  '))
  return whole.length <= chars ? whole : `${whole.slice(0, chars - 1)}…`
}

/** What matters most of a call, on one line: a command, a path, else all of it. */
function argumentsOf(input: string): string {
  let given: unknown
  try {
    given = JSON.parse(input)
  } catch {
    return short(input)
  }
  if (typeof given !== 'object' || given === null) return short(input)
  const { command, path, question, url, name } = given as Record<string, unknown>
  const first = [command, path, question, url, name].find((one) => typeof one === 'string')
  return short(typeof first === 'string' ? first.replaceAll('\n', ' ') : JSON.stringify(given))
}

/** Its last line. */
function endOf(text: string): string {
  return text.trimEnd().split('\n').at(-1) ?? ''
}

/** What it stands still for, and how to let it go on. */
export function needOf({ id, state, message, waitsFor }: TaskInfo): string {
  if (state === 'paused') return `It is paused. Let it go on: delta task resume ${id}`
  const told = waitsFor.flatMap((one) => waitOf(id, one))
  if (state === 'suspended') {
    const why = `${visible(message ?? 'It is suspended')}.`
    if (told.length > 0) return [why, ...told].join('\n')
    return `${why} See \`delta budget\`; then: delta task resume ${id}`
  }
  return told.join('\n')
}

function waitOf(taskId: string, waits: TaskWaitsFor): string[] {
  switch (waits.kind) {
    case 'answer': {
      const options = waits.options ? ` (${waits.options.map(visible).join(' / ')})` : ''
      return [`It asks: ${visible(waits.question)}${options}`, `Answer: delta task message ${taskId} TEXT`]
    }
    case 'message':
      return [`It waits for your message: delta task message ${taskId} TEXT`]
    case 'approval':
      return [`A person has to confirm a call: delta approve yes ${waits.approvalId}`]
    case 'tokens':
      return [
        waits.requestId === undefined
          ? `It needs tokens: delta task give ${taskId} TOKENS, or delta agents give, and delta task resume ${taskId}`
          : `It asks for tokens: delta approve yes ${waits.requestId}`,
      ]
    case 'task':
      return []
  }
}
