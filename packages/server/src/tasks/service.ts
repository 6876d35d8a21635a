import type { KnownCaller } from '../access/callers/door.ts'
import { decide, type Right } from '../access/callers/door.ts'
import { type Known, mayKnow, mayWork, refusalOf } from '../agents/door.ts'
import type { Agents } from '../agents/service.ts'
import { askerOf, type Asker } from '../approvals/door.ts'
import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import { createEvents, type Events } from '../kernel/events.ts'
import { hashOfBody } from '../kernel/http/body-hash.ts'
import { pageOf, readCursor } from '../kernel/http/cursors.ts'
import type { RightName } from '../kernel/http/needs.ts'
import { isId, newId } from '../kernel/ids.ts'
import type { Logger } from '../kernel/log.ts'
import type { Metrics } from '../kernel/metrics.ts'
import { parseTokens, shownTokens } from '../ledger/door.ts'
import type { Message, UserPart } from '../models/door.ts'
import type { Attachments } from './attachments.ts'
import type { Budgets } from './budget.ts'
import { noStep, snapshotOf, type TaskComputer } from './computer.ts'
import { type Control, createControl } from './control.ts'
import type { TaskEvents } from './events.ts'
import { createFinish } from './finish.ts'
import { createTaskFollowing } from './following.ts'
import type { Hub } from './hub.ts'
import { taskLimits } from './limits.ts'
import type { Loop } from './loop.ts'
import type { StoredMessage, TaskEvent, TaskRecord, TaskSpec } from './record.ts'
import { noUsage, waitsForAgent } from './rules.ts'
import type { CreateTask, ForkTask, TaskListQuery, TaskMessage, TaskResult, TaskView, UndoTask } from './schema.ts'
import { isOpen, mayBecome, needsDecision } from './states.ts'
import type { Additions, TaskStore } from './store.ts'
import { markdownOf, resultView, type Transcript, transcriptOf, viewOf } from './views.ts'

export interface TasksDeps {
  store: TaskStore
  loop: Loop
  hub: Hub
  agents: Pick<Agents, 'create'>
  findAgent(agentId: string, accountId: string): Promise<Known | undefined>
  /** `<provider>/<name>` of what it asks for, or of the default; throws why it can not be used. */
  resolveModel(model: string | undefined, accountId: string): Promise<{ model: string }>
  /** Names of the tools there are. */
  toolNames: ReadonlySet<string>
  budgets: Budgets
  computer: TaskComputer
  attachments: Attachments
  /** Headers of external servers are secrets. */
  seal: { seal(text: string, place: string): string; open(sealed: string, place: string): string | undefined }
  /** What a task waits for has come, or can not come any more. */
  hasCome(task: TaskRecord): Promise<boolean>
  withdrawApproval(approvalId: string): Promise<void>
  /** A task of the agent has given its tokens back: an agent that is being archived waits for that. */
  onSettled(agentId: string): void
  /** The life of this process, `srv_…`. */
  owner: string
  /** Other servers may work on tasks of the same database. */
  isShared: boolean
  clock: Clock
  log: Logger
}

export type Tasks = ReturnType<typeof createTasks>

/** On whose word a task is made, where that is not the caller of a request. */
export interface TaskMaker {
  accountId: string
  asker: Asker
  parentTaskId?: string | undefined
  /** At most these, of what its agent has. @default all of it */
  rights?: readonly Right[] | undefined
}

const hour = 3_600_000

/** Tasks: given, watched, spoken to, ended; and which of them are worked on here. */
export function createTasks(deps: TasksDeps) {
  const { store, loop, hub, findAgent, resolveModel, budgets, computer, attachments, owner, isShared, clock, log } =
    deps
  const events: Events<TaskEvents> = createEvents({ log })
  const following = createTaskFollowing({ store, hub, clock })
  const working = new Map<string, { control: Control; done: Promise<void> }>()
  const stopping = new AbortController()
  const counts = { begun: 0, finished: 0, failed: 0, canceled: 0 }
  let pumping: Promise<void> | undefined
  let pumpAgain = false
  let loops: Promise<void>[] = []

  // ── who may ──

  function isSeen(
    { principal }: Pick<KnownCaller, 'principal'>,
    agentId: string,
    known: Pick<Known, 'line'> | undefined,
  ): boolean {
    const only = principal.kind === 'user' ? undefined : principal.agents
    if (only && !only.includes(agentId)) return false
    return known ? mayKnow(principal, known) : principal.kind !== 'agent'
  }

  /** What they may not even look at looks as if it were not there; what they may look at and not do is refused by its right. */
  function admit(
    caller: KnownCaller,
    right: RightName,
    agentId: string,
    known: Pick<Known, 'line'> | undefined,
  ): boolean {
    if (!isSeen(caller, agentId, known)) return false
    const about = (one: RightName) => decide(caller.principal, { right: one, resource: 'agent', id: agentId })
    if (about(right).allowed) return true
    if (right !== 'read:tasks' && !about('read:tasks').allowed) return false
    throw new DeltaError('forbidden', `That needs the right ${right}`, { context: { right } })
  }

  async function recordFor(id: string, caller: KnownCaller, right: RightName = 'write:tasks'): Promise<TaskRecord> {
    const found = isId('tsk', id) ? await store.get(id) : undefined
    if (!found || found.accountId !== caller.accountId) throw notFound(id)
    if (!admit(caller, right, found.agentId, await findAgent(found.agentId, found.accountId))) throw notFound(id)
    return found
  }

  async function agentFor(agentId: string, caller: KnownCaller): Promise<Known> {
    const known = isId('agt', agentId) ? await findAgent(agentId, caller.accountId) : undefined
    if (!known || !admit(caller, 'write:tasks', agentId, known)) throw noAgent(agentId)
    return known
  }

  // ── making ──

  async function create(
    wish: CreateTask,
    caller: KnownCaller,
    { idempotencyKey }: { idempotencyKey?: string | undefined } = {},
  ): Promise<TaskView> {
    await agentFor(wish.agent, caller)
    const key = idempotencyKey === undefined ? undefined : `${caller.actorId} ${idempotencyKey}`
    return createBy(wish, { accountId: caller.accountId, asker: lastingAsker(caller) }, key)
  }

  /** By a schedule, or by a task that delegates: exactly one for each key. */
  async function createBy(wish: CreateTask, maker: TaskMaker, key: string | undefined): Promise<TaskView> {
    const { accountId } = maker
    const request = key === undefined ? undefined : { key, bodyHash: hashOfBody(wish) }
    const earlier = request && (await madeBefore(accountId, request))
    if (earlier) return earlier
    const known = await findAgent(wish.agent, accountId)
    if (!known) throw noAgent(wish.agent)
    refuse(mayWork(known.agent, { computer: true }))
    if ((await store.countOpen(accountId)) >= taskLimits.openPerAccount) {
      throw new DeltaError(
        'task_limit_reached',
        `The account has ${taskLimits.openPerAccount} tasks that have not ended`,
        {
          context: { limit: taskLimits.openPerAccount },
        },
      )
    }
    const id = newId('tsk')
    const spec = { ...(await specOf(id, wish, accountId)), rights: maker.rights ?? null }
    const images = await Promise.all((wish.images ?? []).map((image, at) => attachments.saveImage(image, at)))
    const parts: UserPart[] = [{ type: 'text', text: wish.text }, ...images]
    const budget = wish.tokenBudget === undefined ? null : parseTokens(wish.tokenBudget, { field: 'tokenBudget' })
    const now = clock.now()
    const begins = working.size < taskLimits.working && !stopping.signal.aborted
    const task: TaskRecord = {
      ...emptyTask(now),
      id,
      accountId,
      agentId: wish.agent,
      parentTaskId: maker.parentTaskId ?? null,
      state: begins ? 'working' : 'queued',
      owner: begins ? owner : null,
      startedAt: begins ? now : null,
      spec,
      budget,
      isSettled: budget === null,
      asker: maker.asker,
      dueAt: now + spec.timeLimitMs,
    }
    const message: StoredMessage = { seq: 1, step: 0, message: { role: 'user', parts }, createdAt: now }
    const told = { seq: 1, kind: 'message', data: { by: maker.asker.actorId, parts }, at: now } as const
    if (
      !(await store.insert(task, { request, messages: [message], step: stepZero(spec.model, now), events: [told] }))
    ) {
      const other = request && (await madeBefore(accountId, request))
      if (other) return other
      throw new DeltaError('idempotency_in_progress', 'The first request with this key is still being worked on')
    }
    if (budget !== null) await openBudget(task)
    onWritten(undefined, task)
    if (begins) begin(task)
    return viewOf(task)
  }

  /** What the ledger refuses will not be: the task never was. */
  async function openBudget(task: TaskRecord): Promise<void> {
    try {
      await budgets.open(task)
    } catch (error) {
      if (error instanceof DeltaError && error.status < 500) {
        await budgets.close(task)
        await store.remove(task.id)
      } else pump()
      throw error
    }
  }

  async function madeBefore(accountId: string, { key, bodyHash }: { key: string; bodyHash: string }) {
    const saved = await store.savedRequest(accountId, key)
    if (!saved) return undefined
    if (saved.bodyHash !== bodyHash) {
      throw new DeltaError('idempotency_conflict', 'This Idempotency-Key was used with another body')
    }
    const task = await store.get(saved.taskId)
    return task && viewOf(task)
  }

  async function specOf(id: string, wish: CreateTask, accountId: string): Promise<Omit<TaskSpec, 'rights'>> {
    const { model } = await resolveModel(wish.model, accountId)
    const fallbackModels: string[] = []
    for (const one of wish.fallbackModels ?? []) fallbackModels.push((await resolveModel(one, accountId)).model)
    if (wish.resultSchema) checkSchema(wish.resultSchema)
    for (const name of Object.keys(wish.tools ?? {})) {
      if (name === '*' || name.startsWith('mcp__') || deps.toolNames.has(name)) continue
      throw invalid(`body.tools.${name}`, `is no tool; there are ${[...deps.toolNames].join(', ')}`)
    }
    const files: { path: string; digest: string; size: number }[] = []
    for (const { path, content, encoding } of wish.files ?? []) {
      const bytes = Buffer.from(content, encoding)
      files.push({ path, digest: await attachments.save(bytes), size: bytes.length })
    }
    const servers = wish.mcpServers ?? []
    return {
      text: wish.text,
      model,
      fallbackModels,
      maxPrice: wish.maxPrice ?? null,
      thinking: wish.thinking,
      instructions: wish.instructions ?? null,
      timeLimitMs: wish.timeLimitMs ?? (wish.chat ? taskLimits.timeLimitMs.max : taskLimits.timeLimitMs.default),
      maxSteps: wish.maxSteps,
      tools: wish.tools ?? {},
      mcpServers: servers.length === 0 ? null : deps.seal.seal(JSON.stringify(servers), mcpPlace(id)),
      resultSchema: wish.resultSchema ?? null,
      chat: wish.chat,
      metadata: wish.metadata ?? {},
      files,
    }
  }

  // ── working ──

  function begin(task: TaskRecord): void {
    const control = createControl()
    counts.begun += 1
    const dueMs = task.dueAt - clock.now()
    const disarm = clock.after(Math.min(dueMs, 24 * hour), () => dueMs <= 24 * hour && control.halt('time'))
    const done = loop
      .work(task, control)
      .then(() => afterWork(task.id))
      .catch((error: unknown) => log.error('task_not_rested', { taskId: task.id, error }))
      .finally(() => {
        disarm()
        working.delete(task.id)
        hub.left(task.id)
        pump()
      })
    working.set(task.id, { control, done })
  }

  /** What came while it was put to rest was not heard. */
  async function afterWork(id: string): Promise<void> {
    const task = await store.get(id)
    if (!task || task.state === 'working' || task.state === 'queued') return
    if (!isOpen(task.state)) return afterEnd(task)
    if (task.wish === 'cancel') return void (await endNow(task, 'canceled', 'canceled_by_user', 'It was canceled'))
    if (task.state === 'waiting' && (await hasCome(task))) await requeue(task)
  }

  async function hasCome(task: TaskRecord): Promise<boolean> {
    if (task.waitsFor.some(({ kind }) => kind === 'message') && (await hasNews(task))) return true
    return deps.hasCome(task)
  }

  async function hasNews({ id, lastInbox }: TaskRecord): Promise<boolean> {
    return (await store.inboxAfter(id, lastInbox)).length > 0
  }

  /** Purse, requests and what it delegated end with it. May be repeated. */
  async function afterEnd(task: TaskRecord): Promise<void> {
    computer.snapshots.forget(task.id)
    if (!task.isSettled && (await budgets.close(task))) await store.settle(task.id)
    for (const { approvalId, state } of await store.calls(task.id, task.step)) {
      if (approvalId !== null && state !== 'done') await deps.withdrawApproval(approvalId)
    }
    if (task.state !== 'finished') {
      for (const child of await store.below(task.id)) await cancelBy(child, 'canceled_by_user', `${task.id} has ended`)
    }
    if (task.parentTaskId !== null) await wakeById(task.parentTaskId)
  }

  /** Takes what is queued, as long as there is room. */
  function pump(): void {
    if (stopping.signal.aborted) return
    pumpAgain = true
    pumping ??= (async () => {
      while (pumpAgain && !stopping.signal.aborted) {
        pumpAgain = false
        await takeQueued()
      }
    })()
      .catch((error: unknown) => log.warn('tasks_not_taken', { error }))
      .finally(() => {
        pumping = undefined
      })
  }

  async function takeQueued(): Promise<void> {
    for (;;) {
      const room = taskLimits.working - working.size
      if (room <= 0) return
      const found = (await store.queued(Math.min(room, taskLimits.swept))).filter(({ id }) => !working.has(id))
      if (found.length === 0) return
      await Promise.all(
        found.map(async (task) => {
          const taken = await move(task, { state: 'working', owner, startedAt: task.startedAt ?? clock.now() })
          if (taken) begin(taken)
        }),
      )
    }
  }

  /** A change of a task that nobody works on. Undefined where something else came between. */
  async function move(
    task: TaskRecord,
    changes: Partial<TaskRecord>,
    additions: Additions = {},
  ): Promise<TaskRecord | undefined> {
    const to = changes.state ?? task.state
    const now = clock.now()
    const state: TaskEvent | undefined =
      to === task.state
        ? undefined
        : {
            seq: task.lastEvent + 1,
            kind: 'state',
            data: { state: to, message: changes.message ?? null, waitsFor: changes.waitsFor ?? [] },
            at: now,
          }
    const all = [...(state ? [state] : []), ...(additions.events ?? [])].map((one, at) => ({
      ...one,
      seq: task.lastEvent + 1 + at,
    }))
    const after = { ...task, ...changes, lastEvent: task.lastEvent + all.length, changedAt: now }
    if (!(await store.update(task, after, { ...additions, events: all }))) return undefined
    hub.told(task.id, all)
    if (!working.has(task.id)) hub.left(task.id)
    const written = { ...after, version: task.version + 1 }
    onWritten(task, written)
    return written
  }

  function onWritten(
    before: TaskRecord | undefined,
    { id, accountId, agentId, state, reason, waitsFor }: TaskRecord,
  ): void {
    if (before?.state === state) return
    if (state === 'finished' || state === 'failed' || state === 'canceled') counts[state] += 1
    const named = { accountId, agentId, taskId: id }
    events.emit('task.changed', { ...named, state, reason })
    if (needsDecision(state, waitsFor)) events.emit('task.needs_decision', named)
  }

  async function requeue(task: TaskRecord, additions: Additions = {}): Promise<void> {
    if (!mayBecome(task.state, 'queued')) return
    if (await move(task, { state: 'queued', owner: null, message: null, waitsFor: [] }, additions)) pump()
  }

  async function wakeById(id: string): Promise<void> {
    const task = await store.get(id)
    if (task?.state === 'waiting') await requeue(task)
  }

  async function endNow(
    task: TaskRecord,
    state: 'canceled' | 'failed',
    reason: NonNullable<TaskRecord['reason']>,
    message: string,
  ): Promise<TaskRecord | undefined> {
    const end = { seq: 0, kind: 'end', data: { state, reason, message }, at: clock.now() } as const
    const over = { state, reason, message, waitsFor: [], owner: null, endedAt: clock.now() }
    const ended = await move(task, over, { events: [end] })
    if (ended) await afterEnd(ended)
    return ended
  }

  /** Again where something else came between; a task that is worked on here ends as soon as it lets go. */
  async function cancelBy(
    { id }: TaskRecord,
    reason: 'canceled_by_user' | 'agent_archived',
    message: string,
  ): Promise<TaskRecord> {
    for (let tries = 1; ; tries += 1) {
      const task = await store.get(id)
      if (!task) throw notFound(id)
      if (!isOpen(task.state)) return task
      if (task.state !== 'working') {
        const ended = await endNow(task, 'canceled', reason, message)
        if (ended) return ended
      } else if (await store.wish(id, 'cancel')) {
        const here = working.get(id)
        here?.control.halt(reason === 'agent_archived' ? 'archived' : 'cancel')
        if (!here) return (await store.get(id)) ?? task
        await Promise.race([here.done, clock.sleep(taskLimits.haltMs)])
        return (await store.get(id)) ?? task
      }
      if (tries >= taskLimits.clashes) throw conflict(task, 'it changes all the time')
    }
  }

  // ── speaking to it ──

  async function say(
    id: string,
    wish: TaskMessage,
    caller: KnownCaller,
    { idempotencyKey }: { idempotencyKey?: string | undefined } = {},
  ): Promise<TaskView> {
    const task = await recordFor(id, caller)
    if (!isOpen(task.state)) throw isEnded(task)
    const images = await Promise.all((wish.images ?? []).map((image, at) => attachments.saveImage(image, at)))
    const parts: UserPart[] = [{ type: 'text', text: wish.text }, ...images]
    if (task.state === 'waiting' && images.length === 0 && (await answered(task, wish.text, caller))) {
      return viewOf((await store.get(id)) ?? task)
    }
    const key = idempotencyKey === undefined ? undefined : `${caller.actorId} ${idempotencyKey}`
    await store.addToInbox(id, { parts, by: caller.actorId, createdAt: clock.now() }, key)
    const now = (await store.get(id)) ?? task
    if (now.state === 'waiting' && now.waitsFor.some(({ kind }) => kind === 'message')) await requeue(now)
    if (now.state === 'working' && wish.interrupt) await wishFor(now, 'interrupt')
    return viewOf((await store.get(id)) ?? now)
  }

  /** A message to a task that asked something is the answer. */
  async function answered(task: TaskRecord, text: string, caller: KnownCaller): Promise<boolean> {
    const asked = task.waitsFor.find((one) => one.kind === 'answer')
    if (!asked) return false
    const found = (await store.calls(task.id, task.step)).find((call) => call.id === asked.callId)
    if (found?.state !== 'waiting') return false
    const data = { by: caller.actorId, parts: [{ type: 'text', text }], answers: asked.callId }
    const event = { seq: 0, kind: 'message', data, at: clock.now() } as const
    const waitsFor = task.waitsFor.filter((one) => one !== asked)
    const moved = await move(
      task,
      { state: 'queued', message: null, waitsFor },
      { calls: [{ ...found, answer: text }], events: [event] },
    )
    if (moved) pump()
    return moved !== undefined
  }

  async function wishFor(task: TaskRecord, wish: 'pause' | 'interrupt'): Promise<void> {
    if (!(await store.wish(task.id, wish))) return
    const control = working.get(task.id)?.control
    if (wish === 'pause') control?.pause()
    else control?.interrupt()
  }

  async function interrupt(id: string, caller: KnownCaller): Promise<TaskView> {
    const task = await recordFor(id, caller)
    if (!isOpen(task.state)) throw isEnded(task)
    if (task.state === 'working') await wishFor(task, 'interrupt')
    return viewOf((await store.get(id)) ?? task)
  }

  async function pause(id: string, caller: KnownCaller): Promise<TaskView> {
    await recordFor(id, caller)
    return again(id, async (task) => {
      if (!isOpen(task.state)) throw isEnded(task)
      if (task.state === 'paused') return task
      if (task.state !== 'working') return move(task, { state: 'paused', message: 'A person paused it' })
      await wishFor(task, 'pause')
      return (await store.get(id)) ?? task
    })
  }

  async function resume(id: string, caller: KnownCaller): Promise<TaskView> {
    await recordFor(id, caller)
    return again(id, async (task) => {
      if (!isOpen(task.state)) throw isEnded(task)
      if (task.state !== 'paused' && task.state !== 'suspended')
        throw conflict(task, 'only what is paused or suspended is resumed')
      const waits = task.waitsFor.length > 0 && task.waitsFor.every(({ kind }) => kind === 'message')
      if (waits && !(await hasNews(task))) return move(task, { state: 'queued', message: null })
      return move(task, { state: 'queued', message: null, waitsFor: [] })
    })
  }

  async function again(id: string, change: (task: TaskRecord) => Promise<TaskRecord | undefined>): Promise<TaskView> {
    for (let tries = 1; ; tries += 1) {
      const task = await store.get(id)
      if (!task) throw notFound(id)
      const after = await change(task)
      if (after) {
        if (after.state === 'queued') pump()
        return viewOf(after)
      }
      if (tries >= taskLimits.clashes) throw conflict(task, 'it changes all the time')
    }
  }

  async function cancel(id: string, caller: KnownCaller): Promise<TaskView> {
    const task = await recordFor(id, caller)
    return viewOf(await cancelBy(task, 'canceled_by_user', 'It was canceled'))
  }

  async function giveTokens(
    id: string,
    wished: unknown,
    caller: KnownCaller,
    { idempotencyKey = newId('req') }: { idempotencyKey?: string | undefined } = {},
  ): Promise<TaskView> {
    const amount = parseTokens(wished, { field: 'tokens' })
    const task = await recordFor(id, caller, 'allocate')
    if (!isOpen(task.state)) throw isEnded(task)
    if (task.budget === null) throw conflict(task, 'it has no budget of its own, and spends its agent’s tokens')
    await budgets.give(task, amount, `given ${caller.actorId} ${idempotencyKey}`)
    if (task.state === 'suspended') await requeue(task)
    return viewOf((await store.get(id)) ?? task)
  }

  // ── going back ──

  async function undo(id: string, { step }: UndoTask, caller: KnownCaller): Promise<TaskView> {
    const task = await recordFor(id, caller)
    if (task.state === 'working' || task.state === 'queued') throw conflict(task, 'pause or cancel it first')
    await computer.settledOf(id)
    const [steps, messages] = await Promise.all([store.steps(id), store.messages(id)])
    const target = step ?? (steps.find(({ turn }) => turn === task.turn)?.step ?? 1) - 1
    if (target > task.step || !steps.some((one) => one.step === target)) throw noStep(id, target)
    const snapshotId = snapshotOf(steps, target)
    if (snapshotId !== undefined) await computer.rollBack(task, snapshotId)
    const event = {
      seq: 0,
      kind: 'undone',
      data: { toStep: target, snapshotId: snapshotId ?? null },
      at: clock.now(),
    } as const
    if (!isOpen(task.state)) {
      const moved = await move(task, {}, { events: [event] })
      return viewOf(moved ?? task)
    }
    const kept = messages.findLast((one) => one.step <= target)?.seq ?? 0
    const isTold = task.compactedTo <= kept
    const changes = {
      state: 'waiting' as const,
      message: null,
      waitsFor: [{ kind: 'message' as const }],
      ...(isTold ? {} : { compactedTo: 0, summary: null }),
      result: null,
    }
    const last = steps.at(-1)!
    const cut = last.state === 'acting' || last.state === 'calling' ? { step: { ...last, state: 'cut' as const } } : {}
    const moved = await move(task, changes, { ...cut, events: [event], more: [store.undoMessages(id, kept)] })
    if (!moved) throw conflict(task, 'it was changed at the same moment')
    return viewOf(moved)
  }

  /** A task that goes on from there by itself, with a computer that is a copy of what it was then. */
  async function fork(
    id: string,
    { step, text, agent, tokenBudget: wished }: ForkTask,
    caller: KnownCaller,
    { idempotencyKey = newId('req') }: { idempotencyKey?: string | undefined } = {},
  ): Promise<TaskView> {
    const source = await recordFor(id, caller)
    const key = `fork ${id} ${caller.actorId} ${idempotencyKey}`
    const wish = { step, text, agent, tokenBudget: wished }
    const request = { key, bodyHash: hashOfBody(wish) }
    const earlier = await madeBefore(source.accountId, request)
    if (earlier) return earlier
    await computer.settledOf(id)
    const [steps, messages] = await Promise.all([store.steps(id), store.messages(id)])
    const ended = steps.filter(({ state }) => state === 'done' || state === 'cut')
    const target = step ?? ended.at(-1)?.step ?? 0
    if (!ended.some((one) => one.step === target)) throw noStep(id, target)
    const kept = messages.filter((one) => one.step <= target)
    const last = kept.at(-1)
    if (text === undefined && last?.message.role === 'assistant' && !source.spec.chat) {
      throw invalid('body.text', 'the agent had ended its turn there: say what it is to do now')
    }
    const isNow = step === undefined && !isOpen(source.state)
    const snapshotId = snapshotOf(steps, target) ?? (isNow ? await computer.snapshotNow(source) : undefined)
    // A new agent has nothing but these, for its computer too; of one that is there they are set aside.
    const tokens = wished === undefined ? null : parseTokens(wished, { field: 'tokenBudget' })
    const agentId = agent ?? (await agentCopy(source, { snapshotId, tokens, caller, key }))
    if (agent !== undefined) refuse(mayWork((await agentFor(agent, caller)).agent, { computer: true }))
    const now = clock.now()
    const newTaskId = newId('tsk')
    const waits = text === undefined && last?.message.role === 'assistant'
    const told: StoredMessage[] =
      text === undefined
        ? []
        : [
            {
              seq: (last?.seq ?? 0) + 1,
              step: 1,
              message: { role: 'user', parts: [{ type: 'text', text }] } satisfies Message,
              createdAt: now,
            },
          ]
    const isTold = source.summary !== null && source.compactedTo <= (last?.seq ?? 0)
    const { mcpServers } = source.spec
    const budget = agent === undefined ? null : tokens
    const opened = mcpServers === null ? undefined : deps.seal.open(mcpServers, mcpPlace(id))
    const task: TaskRecord = {
      ...emptyTask(now),
      id: newTaskId,
      accountId: source.accountId,
      agentId,
      forkedTaskId: id,
      forkedStep: target,
      state: waits ? 'waiting' : 'queued',
      waitsFor: waits ? [{ kind: 'message' }] : [],
      spec: {
        ...source.spec,
        files: [],
        mcpServers: opened === undefined ? null : deps.seal.seal(opened, mcpPlace(newTaskId)),
      },
      budget,
      isSettled: budget === null,
      asker: lastingAsker(caller),
      untrusted: source.untrusted,
      compactedTo: isTold ? source.compactedTo : 0,
      summary: isTold ? source.summary : null,
      lastMessage: told.at(-1)?.seq ?? last?.seq ?? 0,
      dueAt: now + source.spec.timeLimitMs,
    }
    const all = [...kept.map((one) => ({ ...one, step: 0 })), ...told]
    const event = {
      seq: 1,
      kind: 'state',
      data: { state: task.state, forkedFrom: { taskId: id, step: target } },
      at: now,
    } as const
    const additions = { messages: all, step: stepZero(task.spec.model, now), events: [event] }
    if (!(await store.insert(task, { request, ...additions }))) {
      const other = await madeBefore(source.accountId, request)
      if (other) return other
      throw new DeltaError('idempotency_in_progress', 'The first request with this key is still being worked on')
    }
    if (budget !== null) await openBudget(task)
    onWritten(undefined, task)
    pump()
    return viewOf(task)
  }

  async function agentCopy(
    source: TaskRecord,
    {
      snapshotId,
      tokens,
      caller,
      key,
    }: { snapshotId: string | undefined; tokens: number | null; caller: KnownCaller; key: string },
  ): Promise<string> {
    const verdict = decide(caller.principal, { right: 'write:agents' })
    if (!verdict.allowed) {
      throw new DeltaError('forbidden', 'A fork is a new agent: name one that takes it over, or have the right', {
        context: { right: 'write:agents' },
      })
    }
    const known = await agentFor(source.agentId, caller)
    const { name, kind, parentId, task, channel, template, memoryMb, rights } = known.agent
    const made = await deps.agents.create(
      {
        name: `${name.slice(0, 92)} (fork)`,
        kind,
        ...(parentId !== null && { parentAgent: parentId }),
        ...(task !== null && { task }),
        ...(channel !== null && { channel }),
        template,
        memoryMb,
        ...(tokens !== null && { tokenBudget: shownTokens(tokens) }),
        rights: [...rights],
      },
      caller,
      { idempotencyKey: key.slice(0, 200) },
    )
    if (snapshotId !== undefined) {
      await computer.forkFor(made.id, snapshotId, source.accountId).catch((error: unknown) => {
        if (!(error instanceof DeltaError && error.code === 'workspace_name_taken')) throw error
      })
    }
    return made.id
  }

  // ── looking ──

  async function list(
    query: TaskListQuery,
    caller: KnownCaller,
  ): Promise<{ data: TaskView[]; nextCursor: string | null }> {
    const { limit, cursor, agentId, state } = query
    const before = readCursor(cursor, ['tsk'])
    const { principal, accountId } = caller
    const seeing = decide(principal, { right: 'read:tasks', resource: 'agent' })
    if (!seeing.allowed)
      throw new DeltaError('forbidden', 'That needs the right read:tasks', { context: { right: 'read:tasks' } })
    const only = principal.kind === 'user' ? undefined : principal.agents
    const below = principal.kind === 'agent' ? principal.agentId : undefined
    const found = await store.list({ accountId, only, below, agentId, state, before, limit: limit + 1 })
    const { items, nextCursor } = pageOf(found, limit)
    return { data: items.map(viewOf), nextCursor }
  }

  async function result(id: string, caller: KnownCaller): Promise<TaskResult> {
    const task = await recordFor(id, caller, 'read:tasks')
    return resultView(task, await store.calls(id))
  }

  async function transcript(id: string, caller: KnownCaller): Promise<{ json: Transcript; markdown: () => string }> {
    const task = await recordFor(id, caller, 'read:tasks')
    const [messages, steps] = await Promise.all([store.messages(id), store.steps(id)])
    return { json: transcriptOf(task, { messages, steps }), markdown: () => markdownOf(task, messages) }
  }

  // ── news from elsewhere ──

  function inBackground(work: Promise<unknown>, what: string): void {
    void work.catch((error: unknown) => log.warn('task_news_late', { what, error }))
  }

  async function settled(taskId: string): Promise<void> {
    await store.settle(taskId)
    const task = await store.get(taskId)
    if (task) deps.onSettled(task.agentId)
  }

  async function agentWoke(agentId: string): Promise<void> {
    for (const task of await store.openOf(agentId)) if (waitsForAgent(task)) await requeue(task)
  }

  async function agentEnds(agentId: string): Promise<void> {
    for (const task of await store.openOf(agentId)) await cancelBy(task, 'agent_archived', 'Its agent was archived')
  }

  async function approvalChanged(approvalId: string): Promise<void> {
    const found = await store.callOfApproval(approvalId)
    const waiting = found ? [found.taskId] : (await store.waitingFor(approvalId)).map(({ id }) => id)
    for (const id of waiting) {
      const task = await store.get(id)
      if (task?.state === 'waiting' && (await deps.hasCome(task))) await requeue(task)
    }
  }

  async function tokensDecided(requestId: string): Promise<void> {
    for (const task of await store.waitingFor(requestId)) if (await deps.hasCome(task)) await requeue(task)
  }

  // ── what nobody asks for ──

  async function sweep(): Promise<void> {
    const now = clock.now()
    if (isShared) {
      await store.heard(owner, now)
      await store.forgetOwners(now - 10 * taskLimits.ownerDeadMs)
    }
    await adopt(isShared ? now - taskLimits.ownerDeadMs : undefined)
    for (const task of await store.workedBy(owner)) {
      if (!working.has(task.id)) await move(task, { state: 'queued', owner: null })
    }
    for (const { id, wish } of await store.wished(owner)) {
      const control = working.get(id)?.control
      if (wish === 'cancel') control?.halt('cancel')
      else if (wish === 'pause') control?.pause()
      else control?.interrupt()
    }
    for (const task of await store.due(now)) {
      const here = working.get(task.id)
      if (here) here.control.halt('time')
      else if (task.state !== 'working') await endNow(task, 'failed', 'time_limit', 'Its time was over')
    }
    for (const task of await store.unsettled()) await afterEnd(task)
    pump()
  }

  async function adopt(silentSince: number | undefined): Promise<void> {
    for (const task of await store.orphans({ owner, silentSince })) await move(task, { state: 'queued', owner: null })
  }

  /** What came while no server ran. */
  async function mend(): Promise<void> {
    for (const state of ['waiting', 'suspended'] as const) {
      for (let after = ''; !stopping.signal.aborted;) {
        const page = await store.resting(state, after)
        for (const task of page) if (await hasCome(task)) await requeue(task)
        after = page.at(-1)?.id ?? ''
        if (page.length < taskLimits.swept) break
      }
    }
  }

  async function keepUp(): Promise<void> {
    while (!stopping.signal.aborted) {
      await clock.sleep(isShared ? taskLimits.sweepMs : taskLimits.sweepAloneMs, stopping.signal).catch(() => undefined)
      if (stopping.signal.aborted) return
      await sweep().catch((error: unknown) => log.warn('tasks_not_swept', { error }))
    }
  }

  return {
    create,
    createBy,
    message: say,
    interrupt,
    pause,
    resume,
    cancel,
    giveTokens,
    undo,
    fork,
    list,
    result,
    transcript,
    get: async (id: string, caller: KnownCaller): Promise<TaskView> =>
      viewOf(await recordFor(id, caller, 'read:tasks')),
    async follow(id: string, caller: KnownCaller, from?: number) {
      await recordFor(id, caller, 'read:tasks')
      return following.follow(id, caller, from)
    },
    /** For features beside it, which have asked by themselves whether they may. */
    async view(id: string, accountId: string): Promise<TaskView | undefined> {
      const task = await store.get(id)
      return task?.accountId === accountId ? viewOf(task) : undefined
    },
    events,
    onWritten,
    agentWoke: (agentId: string) => inBackground(agentWoke(agentId), agentId),
    agentEnds: (agentId: string) => inBackground(agentEnds(agentId), agentId),
    approvalChanged: (approvalId: string) => inBackground(approvalChanged(approvalId), approvalId),
    tokensDecided: (requestId: string) => inBackground(tokensDecided(requestId), requestId),
    /** Its balance is its agent's again. */
    purseArchived: (taskId: string) => inBackground(settled(taskId), taskId),

    async start(): Promise<void> {
      await sweep()
      loops = [keepUp(), mend().catch((error: unknown) => log.warn('tasks_not_mended', { error }))]
    },

    /** What is worked on stays as it is: programs in sandboxes run on, and the next server goes on from the step. */
    async stop(): Promise<void> {
      stopping.abort()
      following.stop()
      for (const { control } of working.values()) control.halt('stop')
      await Promise.race([
        Promise.all([...Array.from(working.values(), ({ done }) => done), computer.settled()]),
        clock.sleep(taskLimits.stopMs),
      ])
      await Promise.all([...loops, pumping])
      hub.stop()
    },

    metrics(metrics: Metrics): void {
      metrics.gauge('delta_tasks_working', 'Tasks that this server works on', () => working.size)
      metrics.counterFrom('delta_tasks_begun_total', 'Tasks taken up by this server', () => counts.begun)
      for (const state of ['finished', 'failed', 'canceled'] as const) {
        metrics.counterFrom(`delta_tasks_${state}_total`, `Tasks ${state}`, () => counts[state])
      }
    },
  }
}

function emptyTask(now: number): Omit<TaskRecord, 'id' | 'accountId' | 'agentId' | 'spec' | 'asker'> {
  return {
    parentTaskId: null,
    forkedTaskId: null,
    forkedStep: null,
    state: 'queued',
    reason: null,
    message: null,
    waitsFor: [],
    budget: null,
    isSettled: true,
    wish: null,
    owner: null,
    turn: 1,
    step: 0,
    lastEvent: 1,
    lastMessage: 1,
    lastInbox: 0,
    usage: noUsage,
    cost: 0,
    estimated: false,
    untrusted: false,
    compactedTo: 0,
    summary: null,
    result: null,
    createdAt: now,
    startedAt: null,
    endedAt: null,
    dueAt: now,
    version: 1,
    changedAt: now,
  }
}

/** What the disk was before the first step is kept here. */
function stepZero(model: string, now: number) {
  return {
    step: 0,
    turn: 0,
    state: 'done',
    model,
    attempts: [],
    snapshotId: null,
    startedAt: now,
    endedAt: now,
  } as const
}

/** A task outlives the session or token that it was given with; the person and the key stand behind it. */
function lastingAsker(caller: KnownCaller): Asker {
  const asker = askerOf(caller)
  return { ...asker, ties: asker.ties.filter((id) => !isId('ses', id) && !isId('tok', id)) }
}

export function mcpPlace(taskId: string): string {
  return `mcp servers of ${taskId}`
}

function checkSchema(schema: Readonly<Record<string, unknown>>): void {
  try {
    createFinish(schema)
  } catch (error) {
    throw invalid(
      'body.resultSchema',
      `is no JSON schema that can be checked: ${(error as Error).message.slice(0, 300)}`,
    )
  }
}

function invalid(field: string, rule: string): DeltaError {
  return new DeltaError('invalid_request', `The request is not valid at ${field}`, { cause: `${field}: ${rule}` })
}

function refuse(verdict: ReturnType<typeof mayWork>): void {
  if (!verdict.ok) throw refusalOf(verdict)
}

function notFound(id: string): DeltaError {
  return new DeltaError('task_not_found', `There is no task ${id.slice(0, 64)}`)
}

function noAgent(id: string): DeltaError {
  return new DeltaError('agent_not_found', `There is no agent ${id.slice(0, 64)}`)
}

function isEnded({ id, state }: TaskRecord): DeltaError {
  return new DeltaError('task_over', `${id} is ${state}`, { context: { taskId: id, state } })
}

function conflict({ id, state }: TaskRecord, why: string): DeltaError {
  return new DeltaError('task_state_conflict', `${id} is ${state}: ${why}`, { context: { taskId: id, state } })
}
