import { constants } from 'node:os'
import { needsSomeone, type Task, type TaskEvent, type TaskInfo } from '@delta-agents/sdk'
import { type Ask, createAsk } from './ask.ts'
import { exitCodes, Interrupted } from './failure.ts'
import { visible } from './format.ts'
import { type Io, paint } from './io.ts'
import { createTaskView, needOf, type TaskView } from './task-view.ts'

export interface AttachOptions {
  /** Events as lines of JSON, and nobody is asked anything. */
  json: boolean
  /** Events after this one. @default from its beginning */
  from?: number
}

/** It stands still until a person says something, and nobody is here. */
const needsPerson = 2
const emptyLines = 20

/** Follows a task until it has ended: the exit code says how. Ctrl-C leaves it as it is. */
export async function attach(io: Io, task: Task, { json, from = 0 }: AttachOptions): Promise<number> {
  const leave = new AbortController()
  const detached = new Interrupted(constants.signals.SIGINT)
  const stopListening = io.onSignal('SIGINT', () => leave.abort(detached))
  io.onClosedOutput(() => leave.abort(new Interrupted(constants.signals.SIGPIPE)))
  const view = json ? lineView(io) : createTaskView(io)
  // Both ends: a question that is asked into a file is seen by nobody.
  const isSeen = !json && io.stdin.isTTY === true && io.stdout.isTTY === true
  let ask: Ask | undefined
  /** It stands on the screen already, as it was typed. */
  let answered: string | undefined
  try {
    await task.refresh()
    // Nothing more will come of it.
    if (from >= task.info.lastEvent && !task.isOver) {
      const code = await onRest(task.info)
      if (code !== undefined) return code
    }
    for await (const event of task.events({ from, signal: leave.signal })) {
      if (isAnswer(event, answered)) answered = undefined
      else view.show(event)
      const mayRest = event.kind === 'undone' || (event.kind === 'state' && needsSomeone(event.data))
      if (!mayRest) continue
      const info = await task.refresh()
      // One that is shown again may be long over.
      if (event.id < info.lastEvent) continue
      const code = await onRest(info)
      if (code !== undefined) return code
    }
    view.rest()
    return tellEnd(io, await task.refresh(), json)
  } catch (error) {
    if (!(error instanceof Interrupted)) throw error
    view.rest()
    if (error.signalNumber === constants.signals.SIGINT) {
      io.stderr.write(`\nDetached; the task goes on. Attach again: delta task attach ${task.id}\n`)
    }
    throw error
  } finally {
    stopListening()
  }

  /** What is to be done where it stands still; a number ends it. */
  async function onRest(info: TaskInfo): Promise<number | undefined> {
    if (!needsSomeone(info)) return undefined
    view.rest()
    const mayConfirm = info.waitsFor.some(({ kind }) => kind === 'approval')
    if (mayConfirm) for (const call of view.pending()) io.stderr.write(`It wants to use ${call}\n`)
    const waits = info.waitsFor.find(({ kind }) => kind === 'answer' || kind === 'message')
    const isAnswered = info.chat && info.state === 'waiting' && info.waitsFor.every(({ kind }) => kind === 'message')
    if (!isSeen) {
      if (isAnswered) return 0
      io.stderr.write(json ? '' : `${needOf(info)}\n`)
      return needsPerson
    }
    if (info.state === 'waiting' && waits) {
      const asks = waits.kind === 'answer'
      if (asks) io.stderr.write(`${paint(io, io.stderr, 'yellow', '?')} ${visible(waits.question)}\n`)
      if (asks && waits.options) io.stderr.write(`  ${waits.options.map(visible).join(' / ')}\n`)
      const text = await typed(asks ? 'Your answer: ' : '> ')
      answered = text
      await task.message(text)
    } else io.stderr.write(`${paint(io, io.stderr, 'yellow', '!')} ${needOf(info)}\n`)
    return undefined
  }

  /** An empty line is no answer; of a terminal that has gone come only such. */
  async function typed(question: string): Promise<string> {
    ask ??= createAsk(io)
    for (let tries = 0; tries < emptyLines; tries += 1) {
      const text = (await ask(question)).trim()
      if (text !== '') return text
    }
    throw detached
  }
}

function isAnswer({ kind, data }: TaskEvent, text: string | undefined): boolean {
  if (kind !== 'message' || text === undefined) return false
  const [only, ...others] = data.parts
  return others.length === 0 && only?.type === 'text' && only.text === text
}

/** Each event as one line of JSON. */
function lineView(io: Io): TaskView {
  return {
    show: (event: TaskEvent) => void io.stdout.write(`${JSON.stringify(event)}\n`),
    rest() {},
    pending: () => [],
  }
}

function tellEnd(io: Io, info: TaskInfo, json: boolean): number {
  const code = info.state === 'finished' ? 0 : exitCodes.failed
  if (json) return code
  const { state, step, message, usage } = info
  const steps = `${step} step${step === 1 ? '' : 's'}`
  const cost = `${usage.estimated ? 'about ' : ''}${usage.tokens} token${usage.tokens === 1 ? '' : 's'} for the model`
  const why = code === 0 ? '' : `: ${visible(message ?? info.reason ?? '')}`
  const mark = paint(io, io.stderr, code === 0 ? 'green' : 'red', state)
  io.stderr.write(`\n${mark}${why} (${info.id}, ${steps}, ${cost})\n`)
  return code
}
