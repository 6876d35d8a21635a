import { mayWork, type Known } from '../agents/door.ts'
import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import { isId, newOrderedId } from '../kernel/ids.ts'
import type { Logger } from '../kernel/log.ts'
import type { Traces } from '../kernel/traces.ts'
import type {
  Attempt,
  CallModel,
  Message,
  ModelReply,
  ToolCallPart,
  ToolDescription,
  UserPart,
} from '../models/door.ts'
import { type Budgets, isCode } from './budget.ts'
import { type Acting, blocking, toolResult } from './calls.ts'
import type { Control, Halt } from './control.ts'
import type { Engine } from './engine/turn.ts'
import { createFinish, finishName } from './finish.ts'
import { taskLimits } from './limits.ts'
import { summaryRequest, systemPrompt } from './prompt.ts'
import type { CallRecord, StepRecord, TaskRecord } from './record.ts'
import {
  compactTo,
  conversationOf,
  goesInCircles,
  pastCalls,
  pastOf,
  plus,
  readReply,
  shortened,
  sizeOf,
  textOf,
} from './rules.ts'
import {
  attemptShown,
  carryMessage,
  createPieces,
  HasNews,
  LeftTask,
  LostTask,
  type NewEvent,
  newStep,
  nothingCarried,
  type Run,
  spentWith,
  type Writable,
  type Write,
} from './run.ts'
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
    snapshots: { asked(run: Run): void }
  }
  write: Write
  /** A person is to give tokens to a task whose own are used up; the id of the request. */
  askForTokens(run: Run, wanted: number): Promise<string | undefined>
  /** Of tasks that are not worked on here. */
  engine: Engine
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
 * The loop of one task: ask the model, run what it calls, tell it what came of that, until it rests. Each step is a row before it acts. A step waits for the disk twice: for its beginning, with
 * the end of the step before and the hold of its call; and for the reply, with the calls that are begun and what the call came to. Calls that can not run side by side wait once more for each
 * further group.
 */
export function createLoop(deps: LoopDeps) {
  const { store, callModel, acting, describeTools, budgets, findAgent, computer, write, askForTokens, clock, log } =
    deps

  /** Works on a task that this server has taken, until it rests or has ended. Never rejects. */
  async function work(task: TaskRecord, control: Control): Promise<void> {
    let run: Run | undefined
    try {
      run = await load(task, control)
      let isAtRest = false
      while (!isAtRest) isAtRest = await rest(run, await steps(run))
    } catch (error) {
      await onFailure(run ?? emptyRun(task), error, run)
    } finally {
      // Whatever still runs of it, after a write that failed, has nobody to tell.
      control.halt('stop')
      if (run) run.isOver = true
    }
    if (run) endRun(run)
  }

  async function load(task: TaskRecord, control: Control): Promise<Run> {
    const agent = await findAgent(task.agentId, task.accountId)
    if (!agent) throw new DeltaError('agent_not_found', `There is no agent ${task.agentId}`)
    const [messages, step, own, ended] = await Promise.all([
      store.messages(task.id),
      store.step(task.id, task.step),
      store.calls(task.id, task.step),
      store.endedCalls(task.id, { but: task.step, limit: pastCalls }),
    ])
    const { resultSchema } = task.spec
    const isOver = step === undefined || step.state === 'done' || step.state === 'cut'
    return {
      messages,
      step: isOver ? undefined : step,
      calls: isOver ? [] : own,
      fresh: new Set(),
      // What they waited for may have come: they look for themselves.
      due: new Set(own.filter(({ state }) => state === 'waiting').map(({ id }) => id)),
      blocked: undefined,
      span: traceRun(deps.traces, task, agent),
      past: pastOf([...ended, ...(isOver ? own.filter(({ state }) => state === 'done') : [])]).slice(-pastCalls),
      agent,
      control,
      finish: resultSchema === null ? undefined : createFinish(resultSchema),
      notes: { turn: -1, text: undefined },
      ...emptyRun(task),
    }
  }

  async function steps(run: Run): Promise<Rest | End> {
    const refused = run.task.step === 0 ? await prepare(run) : undefined
    if (refused) return refused
    for (;;) {
      const next = await advance(run)
      if (next !== 'go on') return next
    }
  }

  /** Both may be repeated. */
  async function prepare(run: Run): Promise<Rest | End | undefined> {
    const stop = comeToHalt(run)
    if (stop) return stop
    await budgets.open(run.task)
    if (run.task.spec.files.length === 0) return undefined
    try {
      await computer.putFiles(run)
      return undefined
    } catch (error) {
      if (error instanceof DeltaError && blocking.has(error.code)) return { state: 'suspended', message: error.message }
      throw error
    }
  }

  function comeToHalt({ task, control }: Run): End | undefined {
    if (control.halted === 'stop') throw new LeftTask(task.id)
    return control.halted === undefined ? undefined : haltEnds[control.halted]
  }

  async function advance(run: Run): Promise<Next> {
    const isOthers = (run.task.spec.engine ?? 'delta') !== 'delta'
    if (isOthers && (await endOpenSteps(run)) && (await isLostAgain(run))) return lostAgain
    // The server that asked the model died before the answer was on disk: it was charged, and is asked again.
    if (run.step?.state === 'calling') {
      await chargeLost(run, [run.step])
      endStep(run, 'cut')
      if (await isLostAgain(run)) return lostAgain
    }
    if (run.step?.state === 'acting') {
      const waitsFor = await acting.act(run)
      const stop = comeToHalt(run)
      if (stop) return stop
      if (run.control.isInterrupted) {
        await acting.giveUp(run)
        run.blocked = undefined
      }
      if (run.blocked) return { state: 'suspended', message: run.blocked.message }
      if (run.calls.some(({ state }) => state !== 'done')) {
        if (run.control.isToPause) return { state: 'paused', message: 'A person paused it', waitsFor }
        return { state: 'waiting', message: null, waitsFor }
      }
      const isGiven =
        run.finish && run.calls.some(({ tool, outcome }) => tool === finishName && outcome?.isError === false)
      endActing(run)
      if (isGiven) return { state: 'finished', reason: 'done', message: 'It is done' }
    }
    return (await boundary(run)) ?? (isOthers ? turnOf(run) : ask(run))
  }

  /** Of another engine whose turn broke off with its server: it is begun anew. Requests side by side were so many open steps. */
  async function endOpenSteps(run: Run): Promise<boolean> {
    const all = await store.steps(run.task.id)
    const open = all.filter(({ state }) => state === 'calling' || state === 'acting')
    run.step = undefined
    if (open.length === 0) return false
    await chargeLost(run, all)
    say(run, { role: 'user', parts: [brokenOff] })
    for (const step of open) await write(run, {}, { step: { ...step, state: 'cut', endedAt: clock.now() } })
    return true
  }

  /** What was under way when the server died was charged, beside what the steps since then have told. */
  async function chargeLost(run: Run, all: readonly StepRecord[]): Promise<void> {
    const lostSteps = all.filter(({ state }) => state === 'calling')
    if (lostSteps.length === 0) return
    const since = Math.min(...lostSteps.map(({ startedAt }) => startedAt))
    const told = all.filter(({ startedAt }) => startedAt >= since).flatMap(({ attempts }) => attempts)
    const known = told.reduce((sum, { cost = 0 }) => sum + cost, 0)
    const lost = Math.max(0, (await budgets.spentSince(run.task, since)) - known)
    const { cost, estimated } = run.task
    run.carried.changes = { ...run.carried.changes, cost: cost + lost, estimated: estimated || lost > 0 }
  }

  async function turnOf(run: Run): Promise<Next> {
    const turn = run.carried.changes.turn ?? run.task.turn
    if (run.notes.turn !== turn) run.notes = { turn, text: await computer.notesOf(run) }
    try {
      const ended = await deps.engine.turn(run, systemOf(run, [{ name: '', description: '', inputSchema: {} }]))
      if (ended.kind === 'short') return await outOfTokens(run, ended.wanted)
      return ended.kind === 'failed' ? { state: 'failed', reason: ended.reason, message: ended.message } : 'go on'
    } catch (error) {
      if (error instanceof DeltaError && blocking.has(error.code)) return { state: 'suspended', message: error.message }
      throw error
    }
  }

  /** Of a task at which servers die: it would be asked, and paid for, for ever. */
  async function isLostAgain({ task }: Run): Promise<boolean> {
    const last = (await store.steps(task.id)).slice(-taskLimits.lostSteps)
    const isLost = ({ step, state, attempts }: StepRecord) =>
      attempts.length === 0 && (state === 'cut' || step === task.step)
    return last.length === taskLimits.lostSteps && last.every(isLost)
  }

  function endActing(run: Run): void {
    say(run, { role: 'tool', parts: run.calls.map(toolResult) })
    run.past = [...run.past, ...pastOf(run.calls)].slice(-pastCalls)
    endStep(run, 'done')
  }

  function endStep(run: Run, state: 'done' | 'cut'): void {
    run.carried.step = { ...run.step!, state, endedAt: clock.now() }
    run.step = undefined
    run.calls = []
  }

  const say = (run: Run, message: Message, step = run.task.step): void =>
    carryMessage(run, message, { at: clock.now(), step })

  /** Between two steps: what has come from outside, and whether it may go on. */
  async function boundary(run: Run): Promise<Rest | End | undefined> {
    const { task, control } = run
    const stop = comeToHalt(run)
    if (stop) return stop
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
    // Else whoever looks for what is wanted of it would find it again.
    if (wasInterrupted) run.carried.more.push(store.noWish(task.id, 'interrupt'))
    if (control.isToPause) return { state: 'paused', message: 'A person paused it' }
    if (inbox.length > 0) {
      // They belong to the step that reads them: what is taken back with that is taken back with them.
      for (const { parts } of inbox) say(run, { role: 'user', parts }, task.step + 1)
      const turn = inbox.some(({ by }) => !isId('trq', by)) ? task.turn + 1 : task.turn
      run.carried.changes = { ...run.carried.changes, lastInbox: inbox.at(-1)!.seq, turn }
      // Told something new it may do the same once more.
      run.past = []
      run.carried.events.push(...inbox.map(({ parts, by }) => ({ kind: 'message' as const, data: { by, parts } })))
    } else {
      if (wasInterrupted)
        return { state: 'waiting', message: 'A person interrupted it', waitsFor: [{ kind: 'message' }] }
      const last = run.messages.at(-1)?.message
      if (last?.role === 'assistant') return turnEnd(run)
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
  function turnEnd(run: Run): Rest | End | undefined {
    const { spec } = run.task
    if (run.finish && run.task.result === null) {
      const tries = run.messages.filter(({ message }) => isNudge(message)).length
      if (tries >= taskLimits.resultTries) {
        return { state: 'failed', reason: 'result_invalid', message: 'It gave no value that fits the schema' }
      }
      say(run, { role: 'user', parts: [nudge] })
      return undefined
    }
    if (spec.chat) {
      return { state: 'waiting', message: null, waitsFor: [{ kind: 'message' }] }
    }
    return { state: 'finished', reason: 'done', message: 'It is done' }
  }

  /** One step. */
  async function ask(run: Run): Promise<Next> {
    const turn = run.carried.changes.turn ?? run.task.turn
    if (run.notes.turn !== turn) run.notes = { turn, text: await computer.notesOf(run) }
    const tools = await describeTools(run)
    const messages = conversationOf(run.task, run.messages)
    if (sizeOf(messages) > taskLimits.compactBytes) {
      const outcome = await compact(run, tools)
      if (outcome !== 'nothing') return outcome
    }
    const outcome = await callFor(run, { system: systemOf(run, tools), messages, tools })
    if (outcome.kind === 'too_long') {
      const compacted = await compact(run, tools)
      if (compacted !== 'nothing') return compacted
      return { state: 'failed', reason: 'conversation_too_long', message: outcome.message }
    }
    if (outcome.kind !== 'reply') return outcome.next
    try {
      return await takeIn(run, outcome.reply)
    } finally {
      // Also where it could not be recorded.
      await outcome.reply.pay()
    }
  }

  async function takeIn(run: Run, reply: ModelReply): Promise<Next> {
    if (reply.stop === 'refused') {
      await recordReply(run, reply, [])
      return { state: 'failed', reason: 'model_refused', message: textOf(reply.parts) || 'The model refused to answer' }
    }
    const read = readReply(reply.parts, reply.stop)
    const isOut = read.isCut && reply.lowered
    const calls = isOut ? [] : read.calls
    const kept = calls.slice(0, taskLimits.callsKept)
    // Written with the reply: one that was cut is nobody's last word.
    const more = isOut
      ? 'Your tokens were at an end, and your reply was cut. Now there are more: go on.'
      : read.isCut && kept.length === 0
        ? 'Your reply was cut, since it was too long. Go on from there, in smaller parts.'
        : undefined
    await recordReply(
      run,
      { ...reply, parts: isOut ? withoutCalls(read.parts) : withoutOthers(read.parts, kept) },
      kept,
      more,
    )
    return isOut ? outOfTokens(run, reply.cost) : 'go on'
  }

  function systemOf(run: Run, tools: readonly ToolDescription[]): string {
    const { agent } = run.agent
    const hasComputer = agent.kind !== 'messenger' && tools.some(({ name }) => name !== finishName)
    return systemPrompt({ agent, spec: run.task.spec, notes: run.notes.text, hasComputer })
  }

  async function beginStep(run: Run): Promise<void> {
    const step = newStep(run, clock.now())
    await write(
      run,
      { step: step.step },
      { step, events: [{ kind: 'step', data: { step: step.step, turn: step.turn } }] },
    )
    run.step = step
  }

  type Asked =
    | { kind: 'reply'; reply: ModelReply }
    | { kind: 'too_long'; message: string }
    | { kind: 'ended'; next: Next }

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
    let begun: Promise<void> | undefined
    const begin = (): Promise<void> => (begun ??= beginStep(run))
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
        begin,
        paysLater: true,
        onEvent(event) {
          if (event.type === 'delta') pieces.add(event.of, {}, event.text)
        },
        span: run.span,
        onAttempt(attempt) {
          if (attempts.size > 0 && !attempts.has(attempt.holdId)) pieces.drop()
          attempts.set(attempt.holdId, attempt)
          if (attempt.state === 'sent') computer.snapshots.asked(run)
          if (attempt.state === 'sent' ? attempts.size > 1 : attempt.state !== 'ended') {
            run.carried.events.push({ kind: 'attempt', data: attemptShown(attempt) })
          }
        },
      })
      // What is left of the pieces is said by the reply, which holds all of it.
      pieces.end()
      return { kind: 'reply', reply }
    } catch (error) {
      // What was refused before anything was held is a step all the same.
      await begin()
      run.carried.events.push(...pieces.end())
      if (error instanceof LostTask) throw error
      charge(run, [...attempts.values()])
      endStep(run, 'cut')
      // What it has cost is known, and is written; nothing else is done any more.
      if (control.halted === 'stop') throw new LeftTask(task.id)
      if (control.halted === undefined && !control.isInterrupted && isCode(error, ['model_too_long'])) {
        return { kind: 'too_long', message: (error as DeltaError).message }
      }
      return { kind: 'ended', next: await afterFailure(run, error) }
    }
  }

  /** Of a call that came to no reply. */
  function charge(run: Run, attempts: readonly Attempt[]): void {
    run.step = { ...run.step!, attempts }
    run.carried.changes = { ...run.carried.changes, ...spentWith(run.task, attempts) }
  }

  async function afterFailure(run: Run, error: unknown): Promise<Next> {
    const { control } = run
    if (control.halted !== undefined && control.halted !== 'stop') return haltEnds[control.halted]
    if (control.isInterrupted) return 'go on'
    if (isCode(error, ['balance_too_low', 'account_owes'])) {
      const { context } = error as DeltaError
      return outOfTokens(run, Number(context?.['wanted'] ?? 0) * 1_000_000)
    }
    if (error instanceof DeltaError && error.code.startsWith('model_')) {
      const reason = error.code === 'model_refused' ? 'model_refused' : 'model_failed'
      return { state: 'failed', reason, message: `${error.code}: ${error.message}` }
    }
    throw error
  }

  async function outOfTokens(run: Run, wanted: number): Promise<Rest> {
    const { budget, payerId } = run.task
    const out =
      payerId === null ? 'Its agent is out of tokens' : `The budget of ${payerId}, which pays for it, is used up`
    const message = budget === null ? out : 'Its own tokens are used up'
    const requestId = await askForTokens(run, wanted)
    const waitsFor = [{ kind: 'tokens' as const, ...(requestId !== undefined && { requestId }) }]
    return { state: 'suspended', message, waitsFor }
  }

  /** The reply, with what is begun of it: from this write on the call is never repeated. */
  async function recordReply(
    run: Run,
    reply: ModelReply,
    wished: readonly ToolCallPart[],
    more?: string,
  ): Promise<void> {
    const { task } = run
    const now = clock.now()
    const taken = new Set(run.messages.flatMap(({ message }) => (message.role === 'assistant' ? callIds(message) : [])))
    /** Each has a name of its own in the whole conversation, whatever the model calls it. */
    const named = (callId: string, place: number): string => {
      const name = callId === '' || taken.has(callId) ? `${callId || 'call'}_${task.step}_${place}` : callId
      taken.add(name)
      return name
    }
    const { calls, events: begun } = await acting.opened(
      run,
      wished.map(({ callId, tool, input }, place): CallRecord => ({
        id: newOrderedId('tcl', now),
        step: task.step,
        place,
        callId: named(callId, place),
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
    let place = 0
    const parts = reply.parts.map((part) => {
      if (part.type !== 'tool_call') return part
      const { callId, input } = calls[place++]!
      return { ...part, callId, input }
    })
    if (parts.length > 0) say(run, { role: 'assistant', parts })
    else say(run, { role: 'assistant', parts: [{ type: 'text', text: '(nothing)' }] })
    if (more !== undefined) say(run, { role: 'user', parts: [note(more)] })
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
    await write(run, changes, { step, newCalls: calls, events: [...events, ...begun], beside: reply.pay })
    run.step = calls.length > 0 ? step : undefined
    run.calls = calls
  }

  /**
   * What was said becomes a summary by the model itself, which pays like any call; the words stay in the transcript. `nothing` where there is nothing to shorten, or nothing came of it. The
   * tools are described as ever: providers take no conversation with calls of tools that are none.
   */
  async function compact(run: Run, tools: readonly ToolDescription[]): Promise<Next | 'nothing'> {
    const upTo = compactTo(run.messages, run.task)
    if (upTo === undefined) return 'nothing'
    const told = run.messages.filter(({ seq }) => seq <= upTo)
    const last: Message = { role: 'user', parts: [{ type: 'text', text: summaryRequest }] }
    const messages = [...shortened(conversationOf(run.task, told)), last]
    const outcome = await callFor(run, { system: systemOf(run, tools), messages, tools })
    if (outcome.kind === 'too_long')
      return { state: 'failed', reason: 'conversation_too_long', message: outcome.message }
    if (outcome.kind !== 'reply') return outcome.next
    const { reply } = outcome
    await reply.pay()
    charge(run, reply.attempts)
    const summary = textOf(reply.parts)
    run.carried.step = { ...run.step!, model: reply.model, state: 'done', endedAt: clock.now() }
    run.step = undefined
    if (summary === '' || reply.stop === 'refused') return 'nothing'
    await write(
      run,
      { compactedTo: upTo, summary },
      { events: [{ kind: 'compacted', data: { messages: told.length } }] },
    )
    return 'go on'
  }

  /** From here on the task is nobody's, until something comes, or for ever. False where something came at the last moment, so that it goes on. */
  async function rest(run: Run, next: Rest | End): Promise<boolean> {
    if ('reason' in next) return end(run, next)
    const { state, message, waitsFor = [] } = next
    const events: NewEvent[] = [{ kind: 'state', data: { state, message, waitsFor } }]
    const more = [
      store.noWish(run.task.id, 'interrupt'),
      ...(state === 'paused' ? [store.noWish(run.task.id, 'pause')] : []),
    ]
    await write(run, { state, message, waitsFor, owner: null }, { events, more })
    return true
  }

  async function end(run: Run, ending: End): Promise<boolean> {
    if (run.step) endStep(run, 'cut')
    const last = run.messages.findLast((one) => one.message.role === 'assistant')?.message
    const text = last?.role === 'assistant' ? textOf(last.parts) : null
    try {
      await over(run, ending, text)
      return true
    } catch (error) {
      if (error instanceof HasNews) return false
      throw error
    }
  }

  /** Only what is done can be asked to do more. */
  function over(run: Writable, { state, reason, message }: End, text: string | null): Promise<void> {
    const given = run.carried.changes.result ?? run.task.result
    const result = { ...given, text: given?.text ?? text }
    const events: NewEvent[] = [
      { kind: 'state', data: { state, message, waitsFor: [] } },
      { kind: 'end', data: { state, reason, message } },
    ]
    const changes = { state, reason, message, waitsFor: [], owner: null, endedAt: clock.now(), result }
    return write(run, changes, { events, unlessNews: state === 'finished' })
  }

  async function onFailure(of: Writable, error: unknown, run: Run | undefined): Promise<void> {
    const { task } = of
    if (error instanceof LostTask) return
    try {
      // The server stops: what is known by now is written.
      if (error instanceof LeftTask) return run && hasCarried(run) ? await write(run, {}) : undefined
      const isKnown = error instanceof DeltaError && error.status < 500
      if (!isKnown) log.error('task_failed', { taskId: task.id, error })
      // What the database could not take is left as it stands: whoever looks next goes on from there.
      if (error instanceof DeltaError && error.code.startsWith('database_')) return
      const message = isKnown ? `${error.code}: ${error.message}` : 'The server made a mistake, which is in its log'
      const failed: End = { state: 'failed', reason: 'internal', message }
      if (run) await end(run, failed)
      else await over(of, failed, null)
    } catch (cause) {
      if (!(cause instanceof LostTask)) log.error('task_not_ended', { taskId: task.id, error: cause })
    }
  }

  return { work }
}

const lostAgain: End = {
  state: 'failed',
  reason: 'internal',
  message: `The server died in each of its last ${taskLimits.lostSteps} steps`,
}

function emptyRun(task: TaskRecord): Writable {
  return { task, carried: nothingCarried(), writing: undefined, isOver: false }
}

function hasCarried({ carried: { changes, messages, calls, step, events } }: Writable): boolean {
  return step !== undefined || messages.length + calls.length + events.length + Object.keys(changes).length > 0
}

function note(text: string): UserPart {
  return { type: 'text', text: `[DELTA] ${text}` }
}

const brokenOff = note(
  'The server was started anew in the middle of this turn. What was under way may have been done in part: look how far you came, and go on.',
)

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

/** Without the calls beyond those that are kept. */
function withoutOthers(parts: ModelReply['parts'], kept: readonly ToolCallPart[]): ModelReply['parts'] {
  return parts.filter((part) => part.type !== 'tool_call' || kept.includes(part))
}

function callIds(message: Message & { role: 'assistant' }): string[] {
  return message.parts.flatMap((part) => (part.type === 'tool_call' ? [part.callId] : []))
}

/** For viewers: signatures are nobody's business but the provider's. */
function partShown(part: ModelReply['parts'][number]): Record<string, unknown> {
  const { bound: _, ...shown } = part
  return shown
}
