import { type KnownCaller, narrow } from '../access/callers/door.ts'
import type { Asker } from '../approvals/door.ts'
import type { Approvals } from '../approvals/service.ts'
import type { Known } from '../agents/door.ts'
import type { Clock } from '../kernel/clock.ts'
import { DeltaError, type ErrorCode } from '../kernel/errors.ts'
import { isId } from '../kernel/ids.ts'
import type { Logger } from '../kernel/log.ts'
import type { Traces } from '../kernel/traces.ts'
import type { TextPart, ToolResultPart } from '../models/door.ts'
import { actionOf } from './approval.ts'
import { finishName } from './finish.ts'
import { taskLimits } from './limits.ts'
import type { CallOutcome, CallRecord, TaskRecord } from './record.ts'
import { modeOf, shown } from './rules.ts'
import { createPieces, LeftTask, type NewEvent, type Run, type Write } from './run.ts'
import type { TaskWaitsFor } from './schema.ts'
import { traceCall } from './tracing.ts'
import type { TaskStore } from './store.ts'
import { unknownText } from './tools/command.ts'
import { readCall } from './tools/table.ts'
import { failed, type Tool, type ToolContext, type ToolOutcome, type WaitsFor } from './tools/tool.ts'

export interface ActingDeps {
  /** All that a task may use, by name; those of external servers beside ours. */
  toolsOf(run: Run): Promise<ReadonlyMap<string, Tool>>
  store: Pick<TaskStore, 'inboxAfter'>
  findAgent(agentId: string, accountId: string): Promise<Known | undefined>
  approvals: Pick<Approvals, 'askFor' | 'find' | 'withdraw'>
  computer: {
    of(run: Run, caller: KnownCaller): Promise<string>
    /** Undefined where none is there now. */
    present(run: Run): Promise<string | undefined>
    isForeign(run: Run): Promise<boolean>
  }
  /** Before the first call of a turn that may change files, and after each step that did. */
  snapshots: { before(run: Run): Promise<void>; after(run: Run): void }
  write: Write
  traces: Traces
  clock: Clock
  log: Logger
}

export type Acting = ReturnType<typeof createActing>

const oneDayMs = 24 * 3_600_000

/** The tool calls of a reply: confirmed where that is wanted, run as far as they go, and what became of each. */
export function createActing(deps: ActingDeps) {
  const { store, findAgent, toolsOf, approvals, computer, snapshots, write, clock, log } = deps

  /** How they begin: those that a person confirms ask first; those that can run at once are begun with the write of the reply. */
  async function opened(run: Run, wished: readonly CallRecord[]): Promise<{ calls: CallRecord[]; events: NewEvent[] }> {
    const tools = await toolsOf(run)
    const calls = wished.map((call, place) => openedCall(run, call, { place, tools }))
    const refused = calls.filter(({ state }) => state === 'done').map(resultOf)
    return start(run, calls, { group: nextGroup(calls, tools), before: refused })
  }

  function openedCall(
    run: Run,
    call: CallRecord,
    { place, tools }: { place: number; tools: ReadonlyMap<string, Tool> },
  ): CallRecord {
    const refused = (text: string, of = call) => ended(of, failed(text), clock.now())
    if (call.input.length > taskLimits.inputChars) {
      // Nobody reads it, and with each step to come it would be sent again.
      const input = JSON.stringify({ left_out: `${call.input.length} characters` })
      const text = `Arguments have at most ${taskLimits.inputChars} characters: write long texts in parts.`
      return refused(text, { ...call, input })
    }
    if (place >= taskLimits.callsPerReply) {
      return refused(`At most ${taskLimits.callsPerReply} calls in one reply: this one was not made, nor any after it.`)
    }
    if (call.tool === finishName && run.finish) return call
    const read = readCall(tools, call.tool, call.input)
    if (!read.ok) return refused(read.text)
    return modeOf(run.task.spec.tools, read.tool) === 'ask' ? { ...call, state: 'asking' } : call
  }

  function start(
    run: Run,
    calls: readonly CallRecord[],
    { group, before = [] }: { group: readonly CallRecord[]; before?: NewEvent[] },
  ): { calls: CallRecord[]; events: NewEvent[] } {
    const now = clock.now()
    const fresh = new Set(group.filter(({ state }) => state === 'ready').map(({ id }) => id))
    for (const id of fresh) run.fresh.add(id)
    const begun = calls.map((call): CallRecord =>
      fresh.has(call.id) ? { ...call, state: 'started', startedAt: now } : call,
    )
    return { calls: begun, events: [...before, ...begun.filter(({ id }) => fresh.has(id)).map(startOf)] }
  }

  /** Runs all that can be run now. What is left waits for something. */
  async function act(run: Run): Promise<TaskWaitsFor[]> {
    let tools = await toolsNow(run)
    if (!run.control.isInterrupted) await askForConfirmation(run)
    for (;;) {
      const group = run.control.isInterrupted ? leftBehind(run) : nextGroup(run.calls, tools, run.due)
      if (group.length === 0) break
      await runGroup(run, group, tools)
      if (run.blocked || run.control.halted !== undefined) break
      if (run.calls.every(({ state }) => state === 'done')) break
      tools = await toolsNow(run)
    }
    await releaseForRequest(run)
    const isOver = run.calls.every(({ state }) => state === 'done')
    if (isOver && run.calls.some(({ tool, startedAt }) => startedAt !== null && tools.get(tool)?.changesFiles)) {
      snapshots.after(run)
    }
    return run.calls.flatMap(({ state, waitsFor }) => (state !== 'done' && waitsFor ? [waitsFor] : []))
  }

  /** By the rights that the agent has at this moment: they may have been narrowed while the model wrote. */
  async function toolsNow(run: Run): Promise<ReadonlyMap<string, Tool>> {
    run.agent = (await findAgent(run.task.agentId, run.task.accountId)) ?? run.agent
    return toolsOf(run)
  }

  /** Whoever waits for a delegate that itself waits for an answer would wait for ever: the call ends, and what is asked for is read. */
  async function releaseForRequest(run: Run): Promise<void> {
    const open = run.calls.filter(({ state }) => state !== 'done')
    if (open.length === 0 || !open.every(({ state, waitsFor }) => state === 'waiting' && waitsFor?.kind === 'task'))
      return
    const news = await store.inboxAfter(run.task.id, run.task.lastInbox)
    if (!news.some(({ by }) => isId('trq', by))) return
    for (const call of open) {
      if (call.waitsFor?.kind !== 'task') continue
      const { taskId } = call.waitsFor
      const text = `${taskId} has not ended. Somebody below you asks you for something: decide on that first, then wait again with read_delegate {"task": "${taskId}", "wait": true}.`
      carryEnd(run, ended(call, { content: [{ type: 'text', text }], isError: false }, clock.now()))
    }
  }

  /** An interruption ends what has not ended. Programs that ran were ended by their tools. */
  async function giveUp(run: Run): Promise<void> {
    for (const call of run.calls.filter(({ state }) => state !== 'done')) {
      const text =
        call.state === 'started'
          ? 'Interrupted by a person: it may have done a part.'
          : 'Not done: a person interrupted.'
      carryEnd(run, ended(call, failed(text), clock.now()))
      if (call.approvalId === null) continue
      await approvals
        .withdraw(call.approvalId, 'platform')
        .catch((error: unknown) => log.warn('approval_not_withdrawn', { taskId: run.task.id, error }))
    }
  }

  function carryEnd(run: Run, call: CallRecord): void {
    replace(run, call)
    run.carried.calls.push(call)
    run.carried.events.push(resultOf(call))
  }

  async function askForConfirmation(run: Run): Promise<void> {
    for (const call of run.calls.filter(({ state }) => state === 'asking')) {
      if (call.approvalId === null) {
        const reason = `It wants to use ${call.tool}, which the task says a person confirms`
        const wish = { action: actionOf(run.task, call), reason, ttlMs: oneDayMs }
        const by = { accountId: run.task.accountId, asker: askerOf(run) }
        const asking = await approvals.askFor(wish, by).catch((error: unknown) => {
          if (error instanceof DeltaError && error.status < 500) return error
          throw error
        })
        if (asking instanceof DeltaError) {
          const text = `Not done: a person is to confirm it, and could not be asked. ${asking.code}: ${asking.message}`
          carryEnd(run, ended(call, failed(text), clock.now()))
          continue
        }
        const { approval } = asking
        const waitsFor = { kind: 'approval', callId: call.id, approvalId: approval.id } as const
        const asked = { ...call, approvalId: approval.id, waitsFor }
        replace(run, asked)
        await write(run, {}, { calls: [asked] })
      } else {
        const approval = await approvals.find(call.approvalId)
        const state = approval?.state ?? 'expired'
        if (state === 'executed') replace(run, { ...call, state: 'ready', waitsFor: null })
        else if (state !== 'pending' && state !== 'approved') {
          const why = approval?.refusal ? ` Their words: ${approval.refusal}` : ''
          carryEnd(
            run,
            ended(call, failed(`Not done: what a person was asked to confirm is ${state}.${why}`), clock.now()),
          )
        }
      }
    }
  }

  async function runGroup(run: Run, group: readonly CallRecord[], tools: ReadonlyMap<string, Tool>): Promise<void> {
    if (group.some(({ tool }) => tools.get(tool)?.changesFiles)) await snapshots.before(run)
    if (group.some(({ state }) => state === 'ready')) {
      const { calls, events } = start(run, run.calls, { group })
      run.calls = calls
      await write(run, {}, { calls: calls.filter(({ id }) => group.some((one) => one.id === id)), events })
    }
    const ids = new Set(group.map(({ id }) => id))
    for (const id of ids) run.due.delete(id)
    const own = run.calls.filter(({ id }) => ids.has(id))
    const ran = await Promise.all(
      own.map((call) => traceCall(deps.traces, { call, run }, () => runOne(run, call, tools))),
    )
    for (const { call, events } of ran) {
      replace(run, call)
      run.carried.calls.push(call)
      run.carried.events.push(...events)
    }
  }

  async function runOne(
    run: Run,
    call: CallRecord,
    tools: ReadonlyMap<string, Tool>,
  ): Promise<{ call: CallRecord; events: NewEvent[] }> {
    if (call.tool === finishName && run.finish) return finished(run, call)
    const read = readCall(tools, call.tool, call.input)
    if (!read.ok) return over(call, failed(read.text))
    const { tool } = read
    // It was under way when a server died.
    const begun = call.state === 'started' && !run.fresh.has(call.id)
    if (begun && tool.afterCrash === 'unknown') {
      return over(call, failed(unknownText))
    }
    const pieces = createPieces(run, write, clock)
    /** What stood in the way of its computer, and of nothing else that costs. */
    const noComputer = new Set<unknown>()
    let isForeign = false
    let outputChars = 0
    const signal = run.control.begin()
    const caller = callerOf(run)
    const context: ToolContext = {
      agentId: run.task.agentId,
      taskId: run.task.id,
      callId: call.id,
      hasOwnTokens: run.task.budget !== null || run.task.payerId !== null,
      caller,
      begun,
      answer: call.answer ?? undefined,
      waited: call.waitsFor === null ? undefined : (call.waitsFor as WaitsFor),
      signal,
      computer: () =>
        computer.of(run, caller).catch((error: unknown) => {
          noComputer.add(error)
          throw error
        }),
      presentComputer: () => computer.present(run),
      isForeign: async () => (isForeign ||= await computer.isForeign(run)),
      onOutput(stream, text) {
        if (outputChars >= taskLimits.outputChars) return
        outputChars += text.length
        pieces.add('output', { callId: call.id, stream }, text)
      },
      readUntrusted: () => {
        if (!run.task.untrusted) run.carried.changes = { ...run.carried.changes, untrusted: true }
      },
    }
    const outcome = await outcomeOf(run, tool, { input: read.input, context, noComputer }).catch((error: unknown) => {
      pieces.drop()
      throw error
    })
    const left = pieces.end()
    if (outcome.kind === 'blocked') {
      run.blocked = outcome.error
      run.fresh.delete(call.id)
      // What had begun before a crash stays so: whoever comes next has to look how far it came.
      return { call: begun ? call : { ...call, state: 'ready', startedAt: null }, events: left }
    }
    if (outcome.kind === 'waits') {
      const waiting = {
        ...call,
        state: 'waiting' as const,
        waitsFor: { ...outcome.for, callId: call.id } as TaskWaitsFor,
      }
      return { call: waiting, events: left }
    }
    const { call: done, events } = over(call, outcome)
    return { call: done, events: [...left, ...events] }
  }

  /** A stopping server does not wait for it, and a fault of ours is no reason to end the task. */
  async function outcomeOf(
    run: Run,
    tool: Tool,
    { input, context, noComputer }: { input: unknown; context: ToolContext; noComputer: ReadonlySet<unknown> },
  ): Promise<ToolOutcome | { kind: 'blocked'; error: DeltaError }> {
    const { left } = run.control
    let leave = () => {}
    const stopped = new Promise<never>((_, reject) => {
      leave = () => reject(new LeftTask(run.task.id))
    })
    stopped.catch(() => undefined)
    if (left.aborted) leave()
    left.addEventListener('abort', leave, { once: true })
    const late = givenUp(context.signal)
    try {
      return await Promise.race([tool.run(input, context), stopped, late.outcome])
    } catch (error) {
      if (error instanceof LeftTask || (error instanceof DeltaError && error.code.startsWith('database_'))) throw error
      if (error instanceof DeltaError && blocking.has(error.code)) {
        if (noComputer.has(error)) return { kind: 'blocked', error }
        return failed(`Not done. ${error.code}: ${error.message}`)
      }
      log.error('tool_failed', { tool: tool.name, taskId: run.task.id, error })
      const what =
        error instanceof DeltaError
          ? `${error.code}: ${error.message}`
          : 'The tool failed for a reason of the server’s own.'
      return failed(`${what}\nWhether it did anything is not known: check before repeating it.`)
    } finally {
      left.removeEventListener('abort', leave)
      late.forget()
    }
  }

  /** A tool that was told to stop and does not is not waited for: no task is out of everybody's reach. */
  function givenUp(signal: AbortSignal): { outcome: Promise<ToolOutcome>; forget(): void } {
    let disarm = () => {}
    let onAbort = () => {}
    const outcome = new Promise<ToolOutcome>((resolve) => {
      const text = `It did not stop when it was told to. ${unknownText}`
      onAbort = () => {
        disarm = clock.after(taskLimits.lateMs, () => resolve(failed(text)))
      }
    })
    if (signal.aborted) onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    return {
      outcome,
      forget() {
        signal.removeEventListener('abort', onAbort)
        disarm()
      },
    }
  }

  function finished(run: Run, call: CallRecord): { call: CallRecord; events: NewEvent[] } {
    const checked = run.finish!.check(call.input)
    if (!checked.ok) return over(call, failed(checked.fault))
    run.carried.changes = { ...run.carried.changes, result: { text: null, value: checked.value } }
    return over(call, { content: [{ type: 'text', text: 'Done.' }], isError: false })
  }

  function over(call: CallRecord, outcome: CallOutcome): { call: CallRecord; events: NewEvent[] } {
    const done = ended(call, { content: outcome.content, isError: outcome.isError }, clock.now())
    return { call: done, events: [resultOf(done)] }
  }

  return { opened, act, giveUp }
}

/** In the reply's order: calls that may run side by side together, any other alone, and none before those that stand before it have ended. */
function nextGroup(
  calls: readonly CallRecord[],
  tools: ReadonlyMap<string, Tool>,
  due: ReadonlySet<string> = new Set(),
): CallRecord[] {
  const group: CallRecord[] = []
  let isHeld = false
  for (const call of calls) {
    if (call.state === 'done') continue
    const isParallel = tools.get(call.tool)?.isParallel === true
    const canRun = call.state === 'ready' || call.state === 'started' || (call.state === 'waiting' && due.has(call.id))
    if (!canRun) {
      // What waits keeps those behind it waiting, but for those that may run beside it.
      if (!isParallel) break
      isHeld = true
      continue
    }
    if (!isParallel) return group.length > 0 || isHeld ? group : [call]
    group.push(call)
  }
  return group
}

/** Begun by a server that died: also of what is given up somebody has to see to its program. */
function leftBehind({ calls, fresh }: Run): CallRecord[] {
  return calls.filter(({ id, state }) => state === 'started' && !fresh.has(id))
}

function replace(run: Run, call: CallRecord): void {
  run.calls = run.calls.map((one) => (one.id === call.id ? call : one))
}

function ended(call: CallRecord, outcome: CallOutcome, at: number): CallRecord {
  return { ...call, state: 'done', waitsFor: null, outcome, endedAt: at }
}

/** Its computer is not to be had for now: the agent waits, and the call is made when it goes on. */
export const blocking: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'account_owes',
  'agent_paused',
  'agent_suspended',
  'balance_too_low',
])

function startOf({ id, callId, tool, input }: CallRecord): NewEvent {
  return { kind: 'call', data: { id, callId, tool, input: shown(input) } }
}

export function resultOf({ id, callId, tool, outcome }: CallRecord): NewEvent {
  const texts = (outcome?.content ?? []).filter((part): part is TextPart => part.type === 'text')
  const text = shown(texts.map((part) => part.text).join('\n'))
  const images = (outcome?.content.length ?? 0) - texts.length
  return { kind: 'result', data: { id, callId, tool, isError: outcome?.isError ?? false, text, images } }
}

/** What the model is told of a call that has ended. */
export function toolResult({ callId, tool, outcome }: CallRecord): ToolResultPart {
  return { type: 'tool_result', callId, tool, content: outcome?.content ?? [], isError: outcome?.isError ?? true }
}

/** The agent itself, as it is now: what whoever gave the task may has no part in it. */
export function callerOf({ task, agent }: Pick<Run, 'task' | 'agent'>): KnownCaller {
  const { id, accountId, agentId, asker, spec } = task
  const rights = spec.rights === null ? agent.rights : narrow(agent.rights, spec.rights)
  return {
    accountId,
    actorId: agentId,
    principal: { kind: 'agent', accountId, agentId, agentKind: agent.agent.kind, jti: id, rights },
    ties: [...agent.line, ...asker.ties],
    above: agent.line.slice(0, -1),
    since: 0,
  }
}

export function askerOf({
  task,
  agent,
}: {
  task: Pick<TaskRecord, 'agentId' | 'asker'>
  agent: Pick<Known, 'line'>
}): Asker {
  const { asker, agentId } = task
  const line = [asker.root, ...agent.line.slice(0, -1), agentId].join('/')
  return { actorId: agentId, userId: null, ties: [...agent.line, ...asker.ties], line, root: asker.root }
}
