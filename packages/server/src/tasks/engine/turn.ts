import { randomBytes } from 'node:crypto'
import { type Known, mayWork } from '../../agents/door.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { newOrderedId } from '../../kernel/ids.ts'
import type { Attempt, Message, ModelCall, ModelReply, Passage, UserPart } from '../../models/door.ts'
import { isCode } from '../budget.ts'
import { callerOf } from '../calls.ts'
import type { StepRecord } from '../record.ts'
import { shown } from '../rules.ts'
import {
  attemptShown,
  carryMessage,
  createPieces,
  LeftTask,
  LostTask,
  type NewEvent,
  newStep,
  type Run,
  spentWith,
  type Write,
} from '../run.ts'
import type { EndReason } from '../schema.ts'
import { checkComputer, lacks, missingRight } from '../tools/guard.ts'
import { createEndpoint } from './endpoint.ts'
import { engineLimits } from './limits.ts'
import { disallowedTools, howToInstall, saidSince, sessionIdOf, thinkingOf } from './rules.ts'
import { openSession, type SessionDeps, type SessionEnd } from './session.ts'
import { type Begin, type FromRunner, type PromptBlock, sdkPackage, sdkVersion } from './wire.ts'

export interface EngineDeps extends SessionDeps {
  callModel(call: ModelCall): Promise<ModelReply>
  countTokens(wish: {
    accountId: string
    model: string
    body: Passage['body']
    headers: Passage['headers']
    signal: AbortSignal
  }): Promise<number>
  findAgent(agentId: string, accountId: string): Promise<Known | undefined>
  payerOf(task: Run['task']): string
  /** Of the agent; it is made or woken by this. */
  computerOf(run: Run): Promise<string>
  snapshots: { before(run: Run): Promise<void>; after(run: Run): void }
  readBlob(digest: string): Promise<Uint8Array>
  write: Write
}

export type TurnEnd =
  /** What follows says the boundary, as after any step. */
  { kind: 'over' } | { kind: 'short'; wanted: number } | { kind: 'failed'; reason: EndReason; message: string }

export type Engine = ReturnType<typeof createEngine>

/**
 * A turn of a task that another engine works on, in the agent's own sandbox. Each of its requests to a model is a step: a row before it is held, paid when it is over, `acting` until the
 * next one comes. A turn that breaks off is begun anew in the engine's own session, which lies on the agent's disk.
 */
export function createEngine(deps: EngineDeps) {
  async function turn(run: Run, instructions: string): Promise<TurnEnd> {
    const caller = callerOf(run)
    const missing = missingRight({ needs: ['write:exec'] }, caller)
    if (missing !== undefined) return { kind: 'failed', reason: 'engine_failed', message: lacks(missing) }
    // What it was told belongs to this turn, also where that asks no model.
    await deps.write(run, {})
    await deps.snapshots.before(run)
    const sandboxId = await deps.computerOf(run)
    checkComputer({ caller }, 'write:exec', sandboxId)
    const begin = await beginOf(run, instructions)
    const work = createWork(deps, run, begin)
    const wish = { sandboxId, caller, tag: `engine of ${run.task.id}`, begin, ...work.parts }
    let session
    try {
      session = await openSession(deps, wish)
    } catch (error) {
      if (!isCode(error, ['exec_start_failed'])) throw error
      const message = `${howToInstall(undefined)} There is not even Node.`
      return { kind: 'failed', reason: 'engine_failed', message }
    }
    return work.toTheEnd(session)
  }

  async function beginOf({ task, messages }: Run, instructions: string): Promise<Begin> {
    return {
      type: 'begin',
      package: sdkPackage,
      version: sdkVersion,
      secret: randomBytes(32).toString('base64url'),
      model: nameOf(task.spec.model),
      prompt: await Promise.all(saidSince(messages).map(blockOf)),
      instructions,
      thinking: thinkingOf(task.spec),
      disallowedTools: disallowedTools(task.spec),
      sessionId: sessionIdOf(task.id),
      forkedSessionId: task.forkedTaskId === null ? undefined : sessionIdOf(task.forkedTaskId),
      pingMs: engineLimits.pingMs,
    }
  }

  async function blockOf(part: UserPart): Promise<PromptBlock> {
    if (part.type === 'text') return { type: 'text', text: part.text }
    const data = Buffer.from(await deps.readBlob(part.digest)).toString('base64')
    return { type: 'image', source: { type: 'base64', media_type: part.mediaType, data } }
  }

  return { turn }
}

type Session = Awaited<ReturnType<typeof openSession>>

/** What is known of one turn while it runs. */
function createWork(deps: EngineDeps, run: Run, begin: Begin) {
  const { clock, write } = deps
  const { control } = run
  const calls = new Map<string, { id: string; tool: string }>()
  let outcome: TurnEnd | undefined
  let lastFault: unknown
  let broken: unknown
  let refusals = 0
  let session: Session | undefined
  /** Requests come side by side; what is written of them is reckoned from the row as it is then. */
  let writing: Promise<unknown> = Promise.resolve()

  function inTurn<Result>(work: () => Promise<Result>): Promise<Result> {
    const done = writing.then(work)
    writing = done.catch((error: unknown) => {
      broken ??= error
      session?.kill()
    })
    return done
  }

  function stop(end: TurnEnd): void {
    outcome ??= end
    session?.interrupt()
  }

  // ── steps ──

  /** Undefined where it may take no more of them, however many asked at once. */
  async function beginStep(): Promise<StepRecord | undefined> {
    if (run.task.step >= run.task.spec.maxSteps) return undefined
    const step = newStep(run, clock.now())
    // It asks again: what the one before it had called for is done.
    if (run.step?.state === 'acting') run.carried.step = { ...run.step, state: 'done', endedAt: clock.now() }
    await write(
      run,
      { step: step.step },
      { step, events: [{ kind: 'step', data: { step: step.step, turn: step.turn } }] },
    )
    run.step = step
    return step
  }

  async function endStep(
    step: StepRecord,
    { attempts, reply, events }: { attempts: readonly Attempt[]; reply?: ModelReply; events: readonly NewEvent[] },
  ): Promise<void> {
    const isLast = run.step?.step === step.step
    const state = reply ? (isLast ? 'acting' : 'done') : 'cut'
    const ended: StepRecord = {
      ...step,
      model: reply?.model ?? step.model,
      attempts,
      state,
      endedAt: state === 'acting' ? null : clock.now(),
    }
    if (isLast) run.step = ended
    await write(run, spentWith(run.task, attempts), {
      step: ended,
      events: [...events, ...(reply ? [replyOf(step, reply)] : [])],
    })
  }

  // ── its requests ──

  function onRefused(): void {
    refusals += 1
    if (refusals > engineLimits.refusals) session?.kill()
  }

  async function admit(): Promise<string | undefined> {
    const { task } = run
    if (outcome || broken) return 'The turn is at its end'
    if (control.halted !== undefined || control.isInterrupted) return 'The turn was interrupted'
    if (control.isToPause) {
      carry(note('You were paused in the middle of this turn: look how far you came, and go on.'))
      stop({ kind: 'over' })
      return 'The task is paused'
    }
    if (task.step >= task.spec.maxSteps) {
      return noMoreSteps()
    }
    const known = await deps.findAgent(task.agentId, task.accountId)
    if (!known || !mayWork(known.agent, { computer: false }).ok) {
      carry(note('Your agent was stopped in the middle of this turn: look how far you came, and go on.'))
      stop({ kind: 'over' })
      return 'The agent may not work now'
    }
    return undefined
  }

  function noMoreSteps(): string {
    const { maxSteps } = run.task.spec
    stop({ kind: 'failed', reason: 'step_limit', message: `It has taken ${maxSteps} steps` })
    return `The task has taken its ${maxSteps} steps`
  }

  async function ask(
    passage: Passage,
    { maxOutputTokens, signal }: { maxOutputTokens: number; signal: AbortSignal },
  ): Promise<ModelReply> {
    const { task } = run
    const step = await inTurn(beginStep)
    if (!step) throw new DeltaError('canceled', noMoreSteps())
    const pieces = createPieces(run, write, clock)
    const attempts = new Map<string, Attempt>()
    const events: NewEvent[] = []
    try {
      const reply = await deps.callModel({
        accountId: task.accountId,
        payer: deps.payerOf(task),
        agentId: task.agentId,
        taskId: task.id,
        models: [task.spec.model],
        system: '',
        messages: [],
        tools: [],
        passage,
        maxOutputTokens,
        signal: AbortSignal.any([signal, control.begin(), control.left]),
        onEvent(event) {
          if (event.type === 'delta' && event.text !== '') pieces.add(event.of, { step: step.step }, event.text)
        },
        span: run.span,
        onAttempt(attempt) {
          attempts.set(attempt.holdId, attempt)
          if (attempt.state === 'sent' ? attempts.size > 1 : attempt.state !== 'ended') {
            events.push({ kind: 'attempt', data: { step: step.step, ...attemptShown(attempt) } })
          }
        },
      })
      // What is left of the pieces is said by the reply, which holds all of it.
      pieces.end()
      // What the engine got over is no reason any more.
      lastFault = undefined
      await inTurn(() => endStep(step, { attempts: reply.attempts, reply, events }))
      return reply
    } catch (error) {
      events.push(...endOf(pieces))
      if (broken === undefined) await inTurn(() => endStep(step, { attempts: [...attempts.values()], events }))
      throw error
    }
  }

  function onFault(error: unknown): void {
    lastFault = error
    if (isCode(error, ['balance_too_low', 'account_owes'])) {
      const wanted = Number((error as DeltaError).context?.['wanted'] ?? 0) * 1_000_000
      short(wanted)
    } else if (!(error instanceof DeltaError) || (error.status >= 500 && !error.code.startsWith('model_'))) {
      broken ??= error
      session?.kill()
    }
  }

  function short(wanted: number): void {
    if (!outcome) carry(note('Your tokens were at an end in the middle of this turn. Now there are more: go on.'))
    stop({ kind: 'short', wanted })
  }

  // ── what is said ──

  const carry = (message: Message): void => carryMessage(run, message, { at: clock.now() })

  async function onSaid(message: FromRunner & { type: 'said' | 'results' }): Promise<void> {
    // Behind what was being written, so that it stands after the step whose reply it is.
    await inTurn(async () => {
      if (message.type === 'results') return carryResults(message.results)
      const parts = message.parts.filter((part) => part.type === 'tool_call' || part.text !== '')
      if (parts.length === 0) return
      carry({ role: 'assistant', parts })
      const events = parts.flatMap((part): NewEvent[] => {
        if (part.type !== 'tool_call') return []
        const { callId, tool, input } = part
        const id = newOrderedId('tcl', clock.now())
        if (calls.size < engineLimits.blocks) calls.set(callId, { id, tool })
        return [{ kind: 'call', data: { id, callId, tool, input: shown(input) } }]
      })
      if (events.length > 0) await write(run, {}, { events })
    })
  }

  /** Written with the next step. */
  function carryResults(results: (FromRunner & { type: 'results' })['results']): void {
    const known = results.flatMap((result) => {
      const call = calls.get(result.callId)
      // Told once.
      calls.delete(result.callId)
      return call ? [{ ...result, ...call }] : []
    })
    if (known.length === 0) return
    const parts = known.map(({ callId, tool, text, isError }) => {
      const content = [{ type: 'text' as const, text }]
      return { type: 'tool_result' as const, callId, tool, content, isError }
    })
    carry({ role: 'tool', parts })
    run.carried.events.push(
      ...known.map(({ id, callId, tool, text, isError }): NewEvent => {
        return { kind: 'result', data: { id, callId, tool, isError, text: shown(text), images: 0 } }
      }),
    )
  }

  // ── its end ──

  async function toTheEnd(opened: Session): Promise<TurnEnd> {
    session = opened
    const activity = control.begin()
    const onAbort = () => opened.interrupt()
    const onLeft = () => opened.leave()
    if (activity.aborted) onAbort()
    if (control.left.aborted) onLeft()
    activity.addEventListener('abort', onAbort, { once: true })
    control.left.addEventListener('abort', onLeft, { once: true })
    let end: SessionEnd
    try {
      end = await opened.over()
    } finally {
      activity.removeEventListener('abort', onAbort)
      control.left.removeEventListener('abort', onLeft)
      await writing
    }
    if (broken !== undefined) throw broken
    if (control.left.aborted) throw new LeftTask(run.task.id)
    deps.snapshots.after(run)
    const isDone =
      !outcome && end.kind === 'result' && !end.isError && control.halted === undefined && !control.isInterrupted
    if (isDone) carryLastWord(end as SessionEnd & { kind: 'result' })
    await closeStep(isDone ? 'done' : 'cut')
    if (isDone || control.halted !== undefined || control.isInterrupted) return { kind: 'over' }
    return outcome ?? failed(end)
  }

  /** A step that is open says to whoever takes over that a turn broke off. */
  async function closeStep(state: 'done' | 'cut'): Promise<void> {
    if (run.step?.state === 'acting') await write(run, {}, { step: { ...run.step, state, endedAt: clock.now() } })
    run.step = undefined
  }

  /** The last word of a turn is the agent's. */
  function carryLastWord({ text }: SessionEnd & { kind: 'result' }): void {
    if (run.messages.at(-1)?.message.role === 'assistant') return
    carry({ role: 'assistant', parts: [{ type: 'text', text: text || '(nothing)' }] })
  }

  function failed(end: SessionEnd): TurnEnd {
    if (end.kind === 'missing') return { kind: 'failed', reason: 'engine_failed', message: howToInstall(end.found) }
    if (lastFault instanceof DeltaError && lastFault.code.startsWith('model_')) {
      const reasons: Readonly<Record<string, EndReason>> = {
        model_refused: 'model_refused',
        model_too_long: 'conversation_too_long',
      }
      const reason = reasons[lastFault.code] ?? 'model_failed'
      return { kind: 'failed', reason, message: `${lastFault.code}: ${lastFault.message}` }
    }
    const message = end.kind === 'failed' ? end.message : end.text || 'The engine ended with an error'
    return { kind: 'failed', reason: 'engine_failed', message: message.slice(0, 2_000) }
  }

  const endpoint = createEndpoint({
    secret: begin.secret,
    model: begin.model,
    admit,
    ask,
    count: ({ body, headers }, signal) =>
      deps.countTokens({ accountId: run.task.accountId, model: run.task.spec.model, body, headers, signal }),
    onRefused,
    onShort: () => short(0),
    onFault,
  })

  return { parts: { endpoint, onSaid }, toTheEnd }
}

function nameOf(model: string): string {
  return model.slice(model.indexOf('/') + 1)
}

function note(text: string): Message {
  return { role: 'user', parts: [{ type: 'text', text: `[DELTA] ${text}` }] }
}

/** Where a piece could not be written, that is known by now. */
function endOf(pieces: ReturnType<typeof createPieces>): NewEvent[] {
  try {
    return pieces.end()
  } catch (error) {
    if (error instanceof LostTask) return []
    throw error
  }
}

function replyOf({ step }: StepRecord, { model, parts, stop, usage, cost, estimated }: ModelReply): NewEvent {
  return { kind: 'reply', data: { step, model, parts, stop, usage, tokens: cost / 1_000_000, estimated } }
}
