import { mayWork, type Known } from '../agents/door.ts'
import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import { newOrderedId } from '../kernel/ids.ts'
import type { Logger } from '../kernel/log.ts'
import type { Traces } from '../kernel/traces.ts'
import type { Attempt, CallModel, Message, ModelReply, ToolDescription, UserPart } from '../models/door.ts'
import { type Budgets, isCode } from './budget.ts'
import { type Acting, resultOf, toolResult } from './calls.ts'
import type { Control, Halt } from './control.ts'
import { createFinish, finishName } from './finish.ts'
import { taskLimits } from './limits.ts'
import { summaryRequest, systemPrompt } from './prompt.ts'
import type { CallRecord, StepRecord, StoredMessage, TaskRecord } from './record.ts'
import {
  compactTo,
  conversationOf,
  goesInCircles,
  noUsage,
  pastCalls,
  plus,
  readReply,
  shortened,
  sizeOf,
  textOf,
} from './rules.ts'
import { createPieces, LeftTask, LostTask, type NewEvent, nothingCarried, type Run, type Write } from './run.ts'
import type { EndReason, TaskState, TaskWaitsFor } from './schema.ts'
import type { TaskStore } from './store.ts'
import { endRun, traceRun } from './tracing.ts'

export interface LoopDeps {
  store: TaskStore
  callModel: CallModel
  acting: Acting
  /** Of all tools that it may use, and those of external servers. */
  describeTools(run: Run): Promise<ToolDescription[]>
  budgets: Budgets
  findAgent(agentId: string, accountId: string): Promise<Known | undefined>
  computer: {
    /** `AGENTS.md`, where the agent has a computer by now. */
    notesOf(run: Run): Promise<string | undefined>
    putFiles(run: Run): Promise<void>
  }
  write: Write
  /** A person is to give tokens to a task whose own are used up; the id of the request. */
  askForTokens(run: Run, wanted: number): Promise<string | undefined>
  traces: Traces
  clock: Clock
  log: Logger
}

export type Loop = ReturnType<typeof createLoop>

/** Where the work on a task stops for now. */
interface Rest {
  state: Extract<TaskState, 'waiting' | 'suspended' | 'paused' | 'queued'>
  message: string | null
  waitsFor?: readonly TaskWaitsFor[]
}

interface End {
  state: Extract<TaskState, 'finished' | 'failed' | 'canceled'>
  reason: EndReason
  message: string
}

type Next = 'go on' | Rest | End

const haltEnds: Record<Exclude<Halt, 'stop'>, End> = {
  cancel: { state: 'canceled', reason: 'canceled_by_user', message: 'It was canceled' },
  archived: { state: 'canceled', reason: 'agent_archived', message: 'Its agent was archived' },
  time: { state: 'failed', reason: 'time_limit', message: 'Its time was over' },
}

/**
 * The loop of one task: ask the model, run what it calls, tell it what came of that, until it rests. Each step is a row before it acts. A step costs four commits: its beginning, with the
 * end of the step before; the hold of its call; the call's commit; the reply with the calls that are begun. Calls that can not run side by side cost one more for each further group.
 */
export function createLoop(deps: LoopDeps) {
  const { store, callModel, acting, describeTools, budgets, findAgent, computer, write, askForTokens, clock, log } =
    deps

  /** Works on a task that this server has taken, until it rests or has ended. Never rejects. */
  async function work(task: TaskRecord, control: Control): Promise<void> {
    let run: Run | undefined
    try {
      run = await load(task, control)
      await rest(run, await steps(run))
    } catch (error) {
      await onFailure(run ?? task, error)
    }
    if (run) endRun(run)
  }

  async function load(task: TaskRecord, control: Control): Promise<Run> {
    const agent = await findAgent(task.agentId, task.accountId)
    if (!agent) throw new DeltaError('agent_not_found', `There is no agent ${task.agentId}`)
    const [messages, step, calls] = await Promise.all([
      store.messages(task.id),
      store.step(task.id, task.step),
      store.calls(task.id),
    ])
    const { resultSchema } = task.spec
    const isOver = step === undefined || step.state === 'done' || step.state === 'cut'
    const own = calls.filter((call) => call.step === task.step)
    return {
      task,
      messages,
      step: isOver ? undefined : step,
      calls: isOver ? [] : own,
      fresh: new Set(),
      // What they waited for may have come: they look for themselves.
      due: new Set(own.filter(({ state }) => state === 'waiting').map(({ id }) => id)),
      blocked: undefined,
      span: traceRun(deps.traces, task, agent),
      past: calls.filter((call) => call.state === 'done' && (isOver || call.step !== task.step)).slice(-pastCalls),
      agent,
      control,
      finish: resultSchema === null ? undefined : createFinish(resultSchema),
      notes: { turn: -1, text: undefined },
      carried: nothingCarried(),
      writing: Promise.resolve(),
    }
  }

  async function steps(run: Run): Promise<Rest | End> {
    if (run.task.step === 0) await prepare(run)
    for (;;) {
      const next = await advance(run)
      if (next !== 'go on') return next
    }
  }

  /** Both may be repeated. */
  async function prepare(run: Run): Promise<void> {
    await budgets.open(run.task)
    if (run.task.spec.files.length > 0) await computer.putFiles(run)
  }

  async function advance(run: Run): Promise<Next> {
    // The server that asked the model died before the answer was on disk: it was charged, and is asked again.
    if (run.step?.state === 'calling') endStep(run, 'cut')
    if (run.step?.state === 'acting') {
      const waitsFor = await acting.act(run)
      const { halted } = run.control
      if (halted === 'stop') throw new LeftTask(run.task.id)
      if (halted !== undefined) return haltEnds[halted]
      if (run.control.isInterrupted) giveUpCalls(run)
      if (run.blocked) return { state: 'suspended', message: run.blocked.message }
      if (run.calls.some(({ state }) => state !== 'done')) {
        if (run.control.isToPause) return { state: 'paused', message: 'A person paused it', waitsFor }
        return { state: 'waiting', message: null, waitsFor }
      }
      endActing(run)
      const given = run.carried.changes.result
      if (given) return { state: 'finished', reason: 'done', message: 'It is done' }
    }
    return (await boundary(run)) ?? ask(run)
  }

  /** An interruption ends what has not ended. Programs that ran were ended by their tools. */
  function giveUpCalls(run: Run): void {
    const now = clock.now()
    run.calls = run.calls.map((call) => {
      if (call.state === 'done') return call
      const text =
        call.state === 'started'
          ? 'Interrupted by a person: it may have done a part.'
          : 'Not done: a person interrupted.'
      const over = { ...call, state: 'done', waitsFor: null, endedAt: now } as const
      const given: CallRecord = { ...over, outcome: { content: [{ type: 'text', text }], isError: true } }
      run.carried.calls.push(given)
      run.carried.events.push(resultOf(given))
      return given
    })
  }

  function endActing(run: Run): void {
    carryMessage(run, { role: 'tool', parts: run.calls.map(toolResult) })
    run.past = [...run.past, ...run.calls].slice(-pastCalls)
    endStep(run, 'done')
  }

  function endStep(run: Run, state: 'done' | 'cut'): void {
    run.carried.step = { ...run.step!, state, endedAt: clock.now() }
    run.step = undefined
    run.calls = []
  }

  function carryMessage(run: Run, message: Message, step = run.task.step): void {
    const last = run.carried.changes.lastMessage ?? run.task.lastMessage
    const stored: StoredMessage = { seq: last + 1, step, message, createdAt: clock.now() }
    run.messages.push(stored)
    run.carried.messages.push(stored)
    run.carried.changes = { ...run.carried.changes, lastMessage: stored.seq }
  }

  /** Between two steps: what has come from outside, and whether it may go on. */
  async function boundary(run: Run): Promise<Rest | End | undefined> {
    const { task, control } = run
    if (control.halted === 'stop') throw new LeftTask(task.id)
    if (control.halted !== undefined) return haltEnds[control.halted]
    if (clock.now() >= task.dueAt) return haltEnds.time
    const [agent, inbox] = await Promise.all([
      findAgent(task.agentId, task.accountId),
      store.inboxAfter(task.id, task.lastInbox),
    ])
    if (!agent) return haltEnds.archived
    run.agent = agent
    const verdict = mayWork(agent.agent, { computer: false })
    if (!verdict.ok) {
      if (verdict.code === 'agent_archived') return haltEnds.archived
      return { state: 'suspended', message: verdict.message }
    }
    const wasInterrupted = control.isInterrupted
    control.goOn()
    if (control.isToPause) return { state: 'paused', message: 'A person paused it' }
    if (inbox.length > 0) {
      // Of the step that reads them: what goes back to the one before has not heard them.
      for (const { parts } of inbox) carryMessage(run, { role: 'user', parts }, task.step + 1)
      run.carried.changes = { ...run.carried.changes, lastInbox: inbox.at(-1)!.seq, turn: task.turn + 1 }
      run.carried.events.push(...inbox.map(({ parts, by }) => ({ kind: 'message' as const, data: { by, parts } })))
    } else {
      if (wasInterrupted)
        return { state: 'waiting', message: 'A person interrupted it', waitsFor: [{ kind: 'message' }] }
      const last = run.messages.at(-1)?.message
      if (last?.role === 'assistant') return turnEnd(run, last)
    }
    if (task.step >= task.spec.maxSteps) {
      return { state: 'failed', reason: 'step_limit', message: `It has taken ${task.spec.maxSteps} steps` }
    }
    const circle = goesInCircles(run.past)
    if (circle === 'loop_detected') {
      return {
        state: 'failed',
        reason: circle,
        message: 'It made the same calls with the same results again and again',
      }
    }
    if (circle) {
      return { state: 'failed', reason: circle, message: `Its last ${taskLimits.failures} calls all failed` }
    }
    return undefined
  }

  /** The model has said its last word of the turn. */
  function turnEnd(run: Run, last: Message & { role: 'assistant' }): Rest | End | undefined {
    const { spec } = run.task
    const text = textOf(last.parts)
    if (run.finish && run.task.result === null) {
      const tries = run.messages.filter(({ message }) => isNudge(message)).length
      if (tries >= taskLimits.resultTries) {
        return { state: 'failed', reason: 'result_invalid', message: 'It gave no value that fits the schema' }
      }
      carryMessage(run, { role: 'user', parts: [nudge] })
      return undefined
    }
    if (spec.chat) {
      return { state: 'waiting', message: null, waitsFor: [{ kind: 'message' }] }
    }
    run.carried.changes = { ...run.carried.changes, result: { ...run.task.result, text } }
    return { state: 'finished', reason: 'done', message: 'It is done' }
  }

  /** One step. */
  async function ask(run: Run): Promise<Next> {
    if (sizeOf(conversationOf(run.task, run.messages)) > taskLimits.compactBytes) await compact(run)
    if (run.notes.turn !== run.task.turn) {
      run.notes = { turn: run.task.turn, text: await computer.notesOf(run) }
    }
    const tools = await describeTools(run)
    await beginStep(run)
    const outcome = await callFor(run, {
      system: systemOf(run, tools),
      messages: conversationOf(run.task, run.messages),
      tools,
    })
    if (outcome.kind !== 'reply') return outcome.next
    const { reply } = outcome
    if (reply.stop === 'refused') {
      await recordReply(run, reply, [])
      return { state: 'failed', reason: 'model_refused', message: textOf(reply.parts) || 'The model refused to answer' }
    }
    const read = readReply(reply.parts, reply.stop)
    const isOut = read.isCut && reply.lowered
    const calls = isOut ? [] : read.calls
    await recordReply(run, { ...reply, parts: isOut ? withoutCalls(read.parts) : read.parts }, calls)
    if (isOut) {
      carryMessage(run, {
        role: 'user',
        parts: [note('Your tokens were at an end, and your reply was cut. Now there are more: go on.')],
      })
      return outOfTokens(run, reply.cost)
    }
    if (read.isCut && calls.length === 0) {
      carryMessage(run, {
        role: 'user',
        parts: [note('Your reply was cut, since it was too long. Go on from there, in smaller parts.')],
      })
    }
    return 'go on'
  }

  function systemOf(run: Run, tools: readonly ToolDescription[]): string {
    const { agent } = run.agent
    const hasComputer = agent.kind !== 'messenger' && tools.some(({ name }) => name !== finishName)
    return systemPrompt({ agent, spec: run.task.spec, notes: run.notes.text, hasComputer })
  }

  async function beginStep(run: Run): Promise<void> {
    const { task } = run
    const turn = run.carried.changes.turn ?? task.turn
    const step: StepRecord = {
      step: task.step + 1,
      turn,
      state: 'calling',
      model: task.spec.model,
      attempts: [],
      snapshotId: null,
      startedAt: clock.now(),
      endedAt: null,
    }
    await write(run, { step: step.step }, { step, events: [{ kind: 'step', data: { step: step.step, turn } }] })
    run.step = step
  }

  type Asked = { kind: 'reply'; reply: ModelReply } | { kind: 'ended'; next: Next }

  interface Question {
    system: string
    messages: readonly Message[]
    tools: readonly ToolDescription[]
  }

  /** The model's answer, watched while it comes. */
  async function callFor(run: Run, question: Question): Promise<Asked> {
    const { task, control } = run
    const pieces = createPieces(run, write, clock)
    const attempts = new Map<string, Attempt>()
    try {
      const reply = await callModel({
        accountId: task.accountId,
        payer: budgets.payerOf(task),
        agentId: task.agentId,
        taskId: task.id,
        models: [task.spec.model, ...task.spec.fallbackModels],
        maxPrice: task.spec.maxPrice ?? undefined,
        ...question,
        thinking: task.spec.thinking,
        signal: AbortSignal.any([control.begin(), control.left]),
        onEvent(event) {
          if (event.type === 'delta') pieces.add(event.of, {}, event.text)
        },
        span: run.span,
        onAttempt(attempt) {
          if (attempts.size > 0 && !attempts.has(attempt.holdId)) pieces.drop()
          attempts.set(attempt.holdId, attempt)
          if (attempt.state === 'sent' ? attempts.size > 1 : attempt.state !== 'ended') {
            run.carried.events.push({ kind: 'attempt', data: attemptShown(attempt) })
          }
        },
      })
      // What is left of the pieces is said by the reply, which holds all of it.
      pieces.end()
      return { kind: 'reply', reply }
    } catch (error) {
      pieces.end()
      if (error instanceof LostTask) throw error
      if (control.halted === 'stop') throw new LeftTask(task.id)
      charge(run, [...attempts.values()])
      endStep(run, 'cut')
      return { kind: 'ended', next: await afterFailure(run, error) }
    }
  }

  /** Of a call that came to no reply. */
  function charge(run: Run, attempts: readonly Attempt[]): void {
    run.step = { ...run.step!, attempts }
    const { usage, cost } = run.task
    run.carried.changes = {
      ...run.carried.changes,
      usage: attempts.reduce((sum, one) => plus(sum, one.usage ?? noUsage), usage),
      cost: cost + attempts.reduce((sum, one) => sum + (one.cost ?? 0), 0),
      estimated: run.task.estimated || attempts.some(({ estimated }) => estimated),
    }
  }

  async function afterFailure(run: Run, error: unknown): Promise<Next> {
    const { control } = run
    if (control.halted !== undefined && control.halted !== 'stop') return haltEnds[control.halted]
    if (control.isInterrupted) return 'go on'
    if (isCode(error, ['balance_too_low', 'account_owes'])) {
      const { context } = error as DeltaError
      return outOfTokens(run, Number(context?.['wanted'] ?? 0) * 1_000_000)
    }
    if (isCode(error, ['model_too_long'])) {
      if (await compact(run)) return 'go on'
      return { state: 'failed', reason: 'conversation_too_long', message: (error as DeltaError).message }
    }
    if (error instanceof DeltaError && error.code.startsWith('model_')) {
      const reason = error.code === 'model_refused' ? 'model_refused' : 'model_failed'
      return { state: 'failed', reason, message: `${error.code}: ${error.message}` }
    }
    throw error
  }

  async function outOfTokens(run: Run, wanted: number): Promise<Rest> {
    const message = run.task.budget === null ? 'Its agent is out of tokens' : 'Its own tokens are used up'
    const requestId = await askForTokens(run, wanted)
    const waitsFor = [{ kind: 'tokens' as const, ...(requestId !== undefined && { requestId }) }]
    return { state: 'suspended', message, waitsFor }
  }

  /** The reply, with what is begun of it: from this write on the call is never repeated. */
  async function recordReply(
    run: Run,
    reply: ModelReply,
    wished: readonly { callId: string; tool: string; input: string }[],
  ) {
    const { task } = run
    const now = clock.now()
    const taken = new Set(run.messages.flatMap(({ message }) => (message.role === 'assistant' ? callIds(message) : [])))
    const { calls, events: begun } = await acting.opened(
      run,
      wished.map(({ callId, tool, input }, place): CallRecord => ({
        id: newOrderedId('tcl', now),
        step: task.step,
        place,
        callId: taken.has(callId) ? `${callId}_${task.step}_${place}` : callId,
        tool,
        input,
        state: 'ready',
        approvalId: null,
        waitsFor: null,
        answer: null,
        outcome: null,
        startedAt: null,
        endedAt: null,
      })),
    )
    const renamed = new Map(wished.map(({ callId }, place) => [callId, calls[place]!.callId]))
    const parts = reply.parts.map((part) =>
      part.type === 'tool_call' ? { ...part, callId: renamed.get(part.callId) ?? part.callId } : part,
    )
    if (parts.length > 0) carryMessage(run, { role: 'assistant', parts })
    else carryMessage(run, { role: 'assistant', parts: [{ type: 'text', text: '(nothing)' }] })
    const answered = { ...run.step!, model: reply.model, attempts: reply.attempts }
    const step: StepRecord =
      calls.length > 0 ? { ...answered, state: 'acting' } : { ...answered, state: 'done', endedAt: clock.now() }
    const changes = {
      usage: plus(task.usage, reply.usage),
      cost: task.cost + reply.cost,
      estimated: task.estimated || reply.estimated,
    }
    const shown = { model: reply.model, parts: parts.map(partShown), stop: reply.stop, usage: reply.usage }
    const tokens = reply.cost / 1_000_000
    const events: NewEvent[] = [{ kind: 'reply', data: { ...shown, tokens, estimated: reply.estimated } }]
    await write(run, changes, { step, newCalls: calls, events: [...events, ...begun] })
    run.step = calls.length > 0 ? step : undefined
    run.calls = calls
  }

  /** What was said becomes a summary by the model itself, which pays like any call; the words stay in the transcript. False where there is nothing to shorten. */
  async function compact(run: Run): Promise<boolean> {
    const upTo = compactTo(run.messages, run.task)
    if (upTo === undefined) return false
    const told = run.messages.filter(({ seq }) => seq <= upTo)
    await beginStep(run)
    const last: Message = { role: 'user', parts: [{ type: 'text', text: summaryRequest }] }
    const messages = [...shortened(conversationOf(run.task, told)), last]
    const outcome = await callFor(run, { system: systemOf(run, []), messages, tools: [] })
    if (outcome.kind !== 'reply') {
      if (outcome.next === 'go on') return false
      throw new Resting(outcome.next)
    }
    const { reply } = outcome
    charge(run, reply.attempts)
    const summary = textOf(reply.parts)
    run.carried.step = {
      ...run.step!,
      model: reply.model,
      attempts: reply.attempts,
      state: 'done',
      endedAt: clock.now(),
    }
    run.step = undefined
    await write(
      run,
      { compactedTo: upTo, summary },
      { events: [{ kind: 'compacted', data: { messages: told.length } }] },
    )
    return true
  }

  /** From here on the task is nobody's, until something comes, or for ever. */
  async function rest(run: Run, next: Rest | End): Promise<void> {
    if ('reason' in next) return end(run, next)
    const { state, message, waitsFor = [] } = next
    const events: NewEvent[] = [{ kind: 'state', data: { state, message, waitsFor } }]
    const more = [store.noWish(run.task.id, 'pause'), store.noWish(run.task.id, 'interrupt')]
    await write(run, { state, message, waitsFor, owner: null }, { events, more })
  }

  async function end(run: Run, { state, reason, message }: End): Promise<void> {
    if (run.step) endStep(run, 'cut')
    const last = run.messages.findLast((one) => one.message.role === 'assistant')?.message
    const text = last?.role === 'assistant' ? textOf(last.parts) : null
    const given = run.carried.changes.result ?? run.task.result
    const result = { ...given, text: given?.text ?? text }
    const events: NewEvent[] = [
      { kind: 'state', data: { state, message, waitsFor: [] } },
      { kind: 'end', data: { state, reason, message } },
    ]
    const over = { state, reason, message, waitsFor: [], owner: null, endedAt: clock.now(), result }
    await write(run, over, { events })
  }

  async function onFailure(of: Run | TaskRecord, error: unknown): Promise<void> {
    const task = 'task' in of ? of.task : of
    if (error instanceof LostTask || error instanceof LeftTask) return
    try {
      if (error instanceof Resting && 'task' in of) return await rest(of, error.next)
      const isKnown = error instanceof DeltaError && error.status < 500
      if (!isKnown) log.error('task_failed', { taskId: task.id, error })
      // What the database could not take is left as it stands: whoever looks next goes on from there.
      if (error instanceof DeltaError && error.code.startsWith('database_')) return
      const message = isKnown ? `${error.code}: ${error.message}` : 'The server made a mistake, which is in its log'
      const failed: End = { state: 'failed', reason: 'internal', message }
      if ('task' in of) await end(of, failed)
      else {
        const over = { ...task, state: failed.state, reason: failed.reason, message, owner: null, endedAt: clock.now() }
        await store.update(task, over)
      }
    } catch (cause) {
      if (!(cause instanceof LostTask)) log.error('task_not_ended', { taskId: task.id, error: cause })
    }
  }

  return { work }
}

/** A step inside another one came to a rest. */
class Resting extends Error {
  override readonly name = 'Resting'
  readonly next: Rest | End

  constructor(next: Rest | End) {
    super('resting')
    this.next = next
  }
}

function note(text: string): UserPart {
  return { type: 'text', text: `[DELTA] ${text}` }
}

const nudge = note('The task is not over before you have called `finish` with its value.')

function isNudge(message: Message): boolean {
  return (
    message.role === 'user' &&
    message.parts.some((part) => part.type === 'text' && part.text === (nudge as { text: string }).text)
  )
}

function withoutCalls(parts: ModelReply['parts']): ModelReply['parts'] {
  return parts.filter(({ type }) => type !== 'tool_call')
}

function callIds(message: Message & { role: 'assistant' }): string[] {
  return message.parts.flatMap((part) => (part.type === 'tool_call' ? [part.callId] : []))
}

/** For viewers: signatures are nobody's business but the provider's. */
function partShown(part: ModelReply['parts'][number]): Record<string, unknown> {
  const { bound: _, ...shown } = part
  return shown
}

function attemptShown({ model, state, failure, waitMs }: Attempt): Record<string, unknown> {
  return { model, state, ...(failure && { failure }), ...(waitMs !== undefined && { waitMs }) }
}
