import type { KnownCaller } from '../access/callers/door.ts'
import { decide, narrow, type Right } from '../access/callers/door.ts'
import { isOver, type Known, mayChange, mayKnow, mayWork, refusalOf } from '../agents/door.ts'
import type { Agents } from '../agents/service.ts'
import { askerOf, type Asker } from '../approvals/door.ts'
import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import { createEvents, type Events } from '../kernel/events.ts'
import type { HashBody } from '../kernel/http/body-hash.ts'
import { pageOf, readCursor } from '../kernel/http/cursors.ts'
import type { RightName } from '../kernel/http/needs.ts'
import { isId, newId } from '../kernel/ids.ts'
import type { Logger } from '../kernel/log.ts'
import type { Metrics } from '../kernel/metrics.ts'
import { parseTokens, shownTokens } from '../ledger/door.ts'
import type { ImagePart, Message, ToolCallPart, UserPart } from '../models/door.ts'
import { attach, type Attached, type Attachments } from './attachments.ts'
import type { Budgets } from './budget.ts'
import { noStep, snapshotOf, type TaskComputer } from './computer.ts'
import { type Control, createControl } from './control.ts'
import { unfit } from './engine/rules.ts'
import type { TaskEvents } from './events.ts'
import { createFinish } from './finish.ts'
import { createTaskFollowing } from './following.ts'
import type { Hub } from './hub.ts'
import { taskLimits } from './limits.ts'
import type { Loop } from './loop.ts'
import type { StoredMessage, TaskEvent, TaskRecord, TaskSpec } from './record.ts'
import { handedOn, isShortItself, noUsage, unanswered } from './rules.ts'
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
  /** A request that no main agent hears of is a person's to decide. */
  passOver(requestId: string): Promise<void>
  /** What was opened for the work on it, such as connections to its servers: nothing is kept of what stands still. */
  letGo(taskId: string): void
  /** A task of the agent has given its tokens back: an agent that is being archived waits for that. */
  onSettled(agentId: string): void
  /** The life of this process, `srv_…`. */
  owner: string
  /** Other servers may work on tasks of the same database. */
  isShared: boolean
  hashBody: HashBody
  clock: Clock
  log: Logger
}

export type Tasks = ReturnType<typeof createTasks>

/** Of a main agent, by one below it. */
export interface AskedFor {
  agentId: string
  belowId: string
  /** `trq_…` */
  requestId: string
  /** What the main agent is told. */
  text: string
}

/** On whose word a task is made, where that is not the caller of a request. */
export interface TaskMaker {
  accountId: string
  asker: Asker
  parentTaskId?: string | undefined
  /** The task whose budget it spends. @default none: its agent's tokens */
  payerId?: string | null | undefined
  /** At most these, of what its agent has. @default all of it */
  rights?: readonly Right[] | null
}

const hour = 3_600_000

/** Tasks: given, watched, spoken to, ended; and which of them are worked on here. */
export function createTasks(deps: TasksDeps) {
  const { store, loop, hub, findAgent, resolveModel, budgets, computer, attachments, owner, isShared } = deps
  const { hashBody, clock, log } = deps
  const events: Events<TaskEvents> = createEvents({ log })
  const following = createTaskFollowing({ store, hub, clock })
  const working = new Map<string, { control: Control; accountId: string; agentId: string; done: Promise<void> }>()
  /** Of this server by their rows, and about to be worked on. */
  const claimed = new Set<string>()
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

  /** Said before anything is looked up, so that it says nothing of what there is. */
  function refuseLacking({ principal }: KnownCaller, right: RightName, selector?: string): void {
    const verdict = decide(principal, { right, ...(selector !== undefined && { selector }) })
    if (verdict.allowed || verdict.reason !== 'lacks_right') return
    const named = selector === undefined ? right : `${right}:${selector}`
    throw new DeltaError('forbidden', `That needs the right ${named}`, { context: { right: named } })
  }

  /** What they may not look at looks as if it were not there. */
  function admits(
    caller: KnownCaller,
    right: RightName,
    agentId: string,
    known: Pick<Known, 'line'> | undefined,
  ): boolean {
    return isSeen(caller, agentId, known) && decide(caller.principal, { right, resource: 'agent', id: agentId }).allowed
  }

  async function recordFor(
    id: string,
    caller: KnownCaller,
    right: RightName = 'write:tasks',
    selector?: string,
  ): Promise<TaskRecord> {
    refuseLacking(caller, right, selector)
    const found = isId('tsk', id) ? await store.get(id) : undefined
    if (!found || found.accountId !== caller.accountId) throw notFound(id)
    const known = await findAgent(found.agentId, found.accountId)
    // To give is not to look: also of that it is asked whether they may know of it.
    if (!admits(caller, 'read:tasks', found.agentId, known)) throw notFound(id)
    if (right === 'write:tasks' && !admits(caller, right, found.agentId, known)) throw notFound(id)
    return found
  }

  async function agentFor(agentId: string, caller: KnownCaller): Promise<Known> {
    refuseLacking(caller, 'write:tasks')
    const known = isId('agt', agentId) ? await findAgent(agentId, caller.accountId) : undefined
    if (!known || !admits(caller, 'write:tasks', agentId, known)) throw noAgent(agentId)
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
    const maker = { accountId: caller.accountId, asker: lastingAsker(caller), rights: handedOn(caller) }
    return createBy(wish, maker, key)
  }

  /** By a schedule, or by a task that delegates: exactly one for each key. */
  async function createBy(wish: CreateTask, maker: TaskMaker, key: string | undefined): Promise<TaskView> {
    const { accountId } = maker
    const request = key === undefined ? undefined : { key, bodyHash: hashBody(wish) }
    const earlier = request && (await madeBefore(accountId, request))
    if (earlier) return earlier
    const known = await findAgent(wish.agent, accountId)
    if (!known) throw noAgent(wish.agent)
    refuse(mayWork(known.agent, { computer: true }))
    await refuseMany(accountId)
    const id = newId('tsk')
    const budget = wish.tokenBudget === undefined ? null : parseTokens(wish.tokenBudget, { field: 'tokenBudget' })
    const attached = attach(wish.images, wish.files)
    const spec = { ...(await specOf(id, wish, { accountId, attached })), rights: maker.rights ?? null }
    const parts: UserPart[] = [{ type: 'text', text: wish.text }, ...attached.images]
    // Before the task: one whose files were never stored could not be begun.
    await attachments.keep({ useId: id, accountId }, attached)
    const now = clock.now()
    const begins = working.size < taskLimits.working && !crowded().includes(accountId) && !stopping.signal.aborted
    const task: TaskRecord = {
      ...emptyTask(now),
      id,
      accountId,
      agentId: wish.agent,
      parentTaskId: maker.parentTaskId ?? null,
      payerId: maker.payerId ?? null,
      state: begins ? 'working' : 'queued',
      owner: begins ? owner : null,
      startedAt: begins ? now : null,
      spec,
      budget,
      asker: maker.asker,
      dueAt: now + spec.timeLimitMs,
    }
    const first: StoredMessage = { seq: 1, step: 0, message: { role: 'user', parts }, createdAt: now }
    const told = { seq: 1, kind: 'message', data: { by: maker.asker.actorId, parts }, at: now } as const
    if (begins) claimed.add(id)
    try {
      if (
        !(await store.insert(task, { request, messages: [first], step: stepZero(spec.model, now), events: [told] }))
      ) {
        await attachments.release(id)
        const other = request && (await madeBefore(accountId, request))
        if (other) return other
        throw new DeltaError('idempotency_in_progress', 'The first request with this key is still being worked on')
      }
      if (budget !== null) await openBudget(task)
      onWritten(undefined, task)
      if (begins) begin(task)
    } finally {
      claimed.delete(id)
    }
    return viewOf(task)
  }

  async function refuseMany(accountId: string): Promise<void> {
    if ((await store.countOpen(accountId)) >= taskLimits.openPerAccount) {
      throw new DeltaError(
        'task_limit_reached',
        `The account has ${taskLimits.openPerAccount} tasks that have not ended`,
        {
          context: { limit: taskLimits.openPerAccount },
        },
      )
    }
  }

  /** What the ledger refuses will not be: the task never was. */
  async function openBudget(task: TaskRecord): Promise<void> {
    try {
      await budgets.open(task)
    } catch (error) {
      if (error instanceof DeltaError && error.status < 500) {
        await budgets.close(task)
        await store.remove(task.id)
        await attachments.release(task.id)
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

  async function specOf(
    id: string,
    wish: CreateTask,
    { accountId, attached: { files } }: { accountId: string; attached: Attached },
  ): Promise<Omit<TaskSpec, 'rights'>> {
    const { model } = await resolveModel(wish.model, accountId)
    const fault = unfit(wish, model)
    if (fault) throw invalid(fault.field, fault.rule)
    const fallbackModels: string[] = []
    for (const one of wish.fallbackModels ?? []) fallbackModels.push((await resolveModel(one, accountId)).model)
    if (wish.resultSchema) checkSchema(wish.resultSchema)
    for (const name of Object.keys(wish.tools ?? {})) {
      if (wish.engine !== 'delta' || name === '*' || name.startsWith('mcp__') || deps.toolNames.has(name)) continue
      throw invalid(`body.tools.${name}`, `is no tool; there are ${[...deps.toolNames].join(', ')}`)
    }
    const servers = wish.mcpServers ?? []
    return {
      text: wish.text,
      engine: wish.engine,
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
    // What was wanted of it while nobody worked on it.
    if (stopping.signal.aborted) control.halt('stop')
    else if (task.wish === 'cancel') control.halt('cancel')
    else if (task.wish === 'pause') control.pause()
    else if (task.wish === 'interrupt') control.interrupt()
    counts.begun += 1
    const dueMs = task.dueAt - clock.now()
    const disarm = clock.after(Math.min(dueMs, 24 * hour), () => dueMs <= 24 * hour && control.halt('time'))
    const done = loop
      .work(task, control)
      .then(() => afterWork(task.id, control))
      .catch((error: unknown) => log.error('task_not_rested', { taskId: task.id, error }))
      .finally(() => {
        disarm()
        working.delete(task.id)
        hub.left(task.id)
        deps.letGo(task.id)
        computer.snapshots.rests(task.id)
        pump()
      })
    working.set(task.id, { control, accountId: task.accountId, agentId: task.agentId, done })
  }

  /** What came while it was put to rest was not heard. */
  async function afterWork(id: string, { hasMore }: Control): Promise<void> {
    const task = await store.get(id)
    if (!task || task.state === 'working' || task.state === 'queued') return
    if (!isOpen(task.state)) return afterEnd(task)
    if (task.wish === 'cancel') return void (await endNow(task, 'canceled', 'canceled_by_user', 'It was canceled'))
    if (task.wish === 'pause') return void (await pauseNow(task))
    if (task.state === 'suspended' ? hasMore : await hasCome(task)) await requeue(task)
  }

  function pauseNow(task: TaskRecord): Promise<TaskRecord | undefined> {
    const more = [store.noWish(task.id, 'pause')]
    if (task.state === 'paused') return Promise.resolve(task)
    return move(task, { state: 'paused', message: 'A person paused it' }, { more })
  }

  async function hasCome(task: TaskRecord): Promise<boolean> {
    if (task.state === 'waiting') {
      const news = await store.inboxAfter(task.id, task.lastInbox)
      if (news.length > 0 && task.waitsFor.some(({ kind }) => kind === 'message')) return true
      // What somebody below asks for is heard also by whoever waits for them.
      if (news.some(({ by }) => isId('trq', by)) && task.waitsFor.every(({ kind }) => kind === 'task')) return true
    }
    return deps.hasCome(task)
  }

  /** Purse, requests and what it delegated end with it. May be repeated, and is until all of it is done. */
  async function afterEnd(task: TaskRecord): Promise<void> {
    for (const { approvalId, state } of await store.calls(task.id, task.step)) {
      if (approvalId !== null && state !== 'done') await deps.withdrawApproval(approvalId)
    }
    if (task.state !== 'finished') {
      for (const child of await store.below(task.id)) await cancelBy(child, 'canceled_by_user', `${task.id} has ended`)
    }
    const parent = task.parentTaskId === null ? undefined : await store.get(task.parentTaskId)
    const isAwaited = parent?.waitsFor.some((one) => one.kind === 'task' && one.taskId === task.id)
    if (parent?.state === 'waiting' && isAwaited) await requeue(parent)
    if (!task.isSettled && (await closeBudget(task))) await store.settle(task.id)
    const payer = task.payerId === null ? undefined : await store.get(task.payerId)
    if (payer && !payer.isSettled && !isOpen(payer.state) && (await closeBudget(payer))) await store.settle(payer.id)
  }

  /** Not while something that it delegated spends its tokens. */
  async function closeBudget(task: TaskRecord): Promise<boolean> {
    if (task.budget !== null && (await store.paidBy(task.id)).length > 0) return false
    return budgets.close(task)
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

  const isHere = (id: string) => working.has(id) || claimed.has(id)

  /** Accounts that have their share of the places by now: those of others are not behind theirs. */
  function crowded(): string[] {
    const shares = new Map<string, number>()
    for (const { accountId } of working.values()) shares.set(accountId, (shares.get(accountId) ?? 0) + 1)
    return [...shares].filter(([, share]) => share >= taskLimits.workingPerAccount).map(([accountId]) => accountId)
  }

  async function takeQueued(): Promise<void> {
    for (;;) {
      const room = taskLimits.working - working.size
      if (room <= 0) return
      const found = (await store.queued(Math.min(room, taskLimits.swept), crowded())).filter(({ id }) => !isHere(id))
      if (found.length === 0) return
      await Promise.all(
        found.map(async (task) => {
          claimed.add(task.id)
          try {
            const taken = await move(task, { state: 'working', owner, startedAt: task.startedAt ?? clock.now() })
            if (taken) begin(taken)
          } finally {
            claimed.delete(task.id)
          }
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

  /** False where something else came between: then whoever did that has seen to it. */
  async function requeue(task: TaskRecord, additions: Additions = {}): Promise<boolean> {
    if (!mayBecome(task.state, 'queued')) return false
    const moved = await move(task, { state: 'queued', owner: null, message: null, waitsFor: [] }, additions)
    if (moved) pump()
    return moved !== undefined
  }

  async function endNow(
    task: TaskRecord,
    state: 'canceled' | 'failed',
    reason: NonNullable<TaskRecord['reason']>,
    why: string,
  ): Promise<TaskRecord | undefined> {
    const end = { seq: 0, kind: 'end', data: { state, reason, message: why }, at: clock.now() } as const
    const changes = { state, reason, message: why, waitsFor: [], owner: null, endedAt: clock.now() }
    const ended = await move(task, changes, { events: [end] })
    if (ended) await afterEnd(ended)
    return ended
  }

  /** Again where something else came between; a task that is worked on here ends as soon as it lets go. */
  async function cancelBy(
    { id }: TaskRecord,
    reason: 'canceled_by_user' | 'agent_archived',
    why: string,
  ): Promise<TaskRecord> {
    for (let tries = 1; ; tries += 1) {
      const task = await store.get(id)
      if (!task) throw notFound(id)
      if (!isOpen(task.state)) return task
      if (task.state !== 'working') {
        const ended = await endNow(task, 'canceled', reason, why)
        if (ended) return ended
      } else if (await store.wish(id, 'cancel')) {
        const here = working.get(id)
        here?.control.halt(reason === 'agent_archived' ? 'archived' : 'cancel')
        if (!here) return (await store.get(id)) ?? task
        await doneOr(here.done, taskLimits.haltMs)
        return (await store.get(id)) ?? task
      }
      if (tries >= taskLimits.clashes) throw conflict(task, 'it changes all the time')
    }
  }

  async function doneOr(done: Promise<unknown>, ms: number): Promise<void> {
    const waiting = new AbortController()
    const late = clock.sleep(ms, waiting.signal).catch(() => undefined)
    await Promise.race([done, late])
    waiting.abort()
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
    const attached = attach(wish.images)
    const key = idempotencyKey === undefined ? undefined : `${caller.actorId} ${idempotencyKey}`
    if (key !== undefined && (await store.inboxOf(id, key)) !== undefined) return viewOf((await store.get(id)) ?? task)
    await refuseUnread(task)
    const useId = newId('req')
    await attachments.keep({ useId, accountId: task.accountId }, attached)
    try {
      await hand(task, { text: wish.text, images: attached.images }, { caller, key })
    } catch (error) {
      // A failure of the server may come after it was told.
      if (error instanceof DeltaError && error.status < 500) await attachments.release(useId)
      throw error
    }
    if (wish.interrupt) await interruptNow(id)
    return viewOf((await store.get(id)) ?? task)
  }

  async function hand(
    task: TaskRecord,
    { text, images }: { text: string; images: readonly ImagePart[] },
    { caller, key }: { caller: KnownCaller; key: string | undefined },
  ): Promise<void> {
    const { id } = task
    if (await answered(task, text, { caller, key })) {
      if (images.length > 0) await tell(id, { parts: images, by: caller.actorId }, undefined)
      return
    }
    const parts: UserPart[] = [{ type: 'text', text }, ...images]
    const seq = await tell(id, { parts, by: caller.actorId }, key)
    const now = await store.get(id)
    // It has ended meanwhile, and nobody will read that.
    if (now && !isOpen(now.state) && now.lastInbox < seq) throw isEnded(now)
  }

  async function tell(
    id: string,
    { parts, by }: { parts: readonly UserPart[]; by: string },
    key: string | undefined,
  ): Promise<number> {
    const task = await store.get(id)
    if (task) await refuseUnread(task)
    const seq = await store.addToInbox(id, { parts, by, createdAt: clock.now() }, key)
    const now = await store.get(id)
    if (now?.state === 'waiting' && (await hasCome(now))) await requeue(now)
    return seq
  }

  async function refuseUnread(task: TaskRecord): Promise<void> {
    if ((await store.lastOfInbox(task.id)) - task.lastInbox < taskLimits.inbox) return
    throw conflict(task, `it has not read the last ${taskLimits.inbox} messages`)
  }

  /** A message to a task that asked something is the answer. */
  async function answered(
    { id }: TaskRecord,
    text: string,
    { caller, key }: { caller: KnownCaller; key: string | undefined },
  ): Promise<boolean> {
    for (let tries = 1; ; tries += 1) {
      const task = await store.get(id)
      const asked = task?.waitsFor.find((one) => one.kind === 'answer')
      if (!task || !asked || (task.state !== 'waiting' && task.state !== 'paused')) return false
      const found = (await store.calls(id, task.step)).find((call) => call.id === asked.callId)
      if (found?.state !== 'waiting') return false
      const parts: UserPart[] = [{ type: 'text', text }]
      const data = { by: caller.actorId, parts, answers: asked.callId }
      const event = { seq: 0, kind: 'message', data, at: clock.now() } as const
      const waitsFor = task.waitsFor.filter((one) => one !== asked)
      // Who is paused reads it when it goes on.
      const goesOn = task.state === 'waiting' ? { state: 'queued' as const, message: null } : {}
      const kept = {
        seq: (await store.lastOfInbox(id)) + 1,
        parts,
        by: caller.actorId,
        answers: asked.callId,
        createdAt: clock.now(),
      }
      const more = [store.inboxStep(id, kept, key)]
      const additions = { calls: [{ ...found, answer: text }], events: [event], more }
      if (await move(task, { ...goesOn, waitsFor }, additions)) {
        pump()
        return true
      }
      if (tries >= taskLimits.clashes) throw conflict(task, 'it changes all the time')
    }
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
    await interruptNow(id)
    return viewOf((await store.get(id)) ?? task)
  }

  /** One that waits with a call gives that up. */
  async function interruptNow(id: string): Promise<void> {
    for (let tries = 1; ; tries += 1) {
      const task = await store.get(id)
      if (task?.state === 'working') return wishFor(task, 'interrupt')
      if (task?.state !== 'waiting' || task.waitsFor.every(({ kind }) => kind === 'message')) return
      if (await requeue(task, { more: [store.wishing(id, 'interrupt')] })) return
      if (tries >= taskLimits.clashes) throw conflict(task, 'it changes all the time')
    }
  }

  async function pause(id: string, caller: KnownCaller): Promise<TaskView> {
    await recordFor(id, caller)
    return again(id, async (task) => {
      if (!isOpen(task.state)) throw isEnded(task)
      if (task.state === 'paused') return task
      if (task.state !== 'working') return pauseNow(task)
      await wishFor(task, 'pause')
      const now = await store.get(id)
      // It came to rest at the same moment: as that it is paused too.
      return now && isOpen(now.state) && now.state !== 'working' && now.state !== 'paused' ? pauseNow(now) : now
    })
  }

  async function resume(id: string, caller: KnownCaller): Promise<TaskView> {
    await recordFor(id, caller)
    return again(id, async (task) => {
      if (!isOpen(task.state)) throw isEnded(task)
      if (task.state !== 'paused' && task.state !== 'suspended')
        throw conflict(task, 'only what is paused or suspended is resumed')
      const waits = task.waitsFor.length > 0 && task.waitsFor.every(({ kind }) => kind === 'message')
      const news = waits ? await store.inboxAfter(id, task.lastInbox) : []
      if (waits && news.length === 0) return move(task, { state: 'waiting', message: null })
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
    const task = await recordFor(id, caller, 'allocate', String(shownTokens(amount)))
    const known = await findAgent(task.agentId, task.accountId)
    // What an agent may spend on a task is not its own to say.
    if (known) refuse(mayChange(caller.principal, { id: task.agentId, line: known.line }))
    const key = `given ${caller.actorId} ${idempotencyKey}`
    if (!isOpen(task.state)) {
      // Whoever did not hear the answer asks again, and it may have come to its end with these very tokens.
      if (await budgets.wasGiven(task, key)) return viewOf(task)
      throw isEnded(task)
    }
    // What it spends is that of the task above it.
    if (task.budget === null && task.payerId !== null) {
      await giveTokens(task.payerId, wished, caller, { idempotencyKey })
      return viewOf((await store.get(id)) ?? task)
    }
    if (task.budget === null) throw conflict(task, 'it has no budget of its own, and spends its agent’s tokens')
    await budgets.give(task, amount, key)
    await tokensCame(id)
    return viewOf((await store.get(id)) ?? task)
  }

  /** Also one that is about to stand still for want of them looks once more. */
  async function tokensCame(id: string): Promise<void> {
    working.get(id)?.control.tokensCame()
    const task = await store.get(id)
    if (task?.state === 'suspended' && isShortItself(task)) await requeue(task)
    for (const paid of await store.paidBy(id)) {
      working.get(paid.id)?.control.tokensCame()
      if (paid.budget === null && paid.state === 'suspended' && isShortItself(paid)) await requeue(paid)
    }
  }

  // ── going back ──

  async function undo(id: string, { step }: UndoTask, caller: KnownCaller): Promise<TaskView> {
    const seen = await recordFor(id, caller)
    if (seen.state === 'working' || seen.state === 'queued') throw conflict(seen, 'pause or cancel it first')
    const others = await store.openOf(seen.agentId)
    if (others.some((one) => one.id !== id && one.state === 'working')) {
      throw conflict(seen, 'another task of its agent works on the same disk: pause or cancel that first')
    }
    await computer.settledOf(id)
    const [all, messages] = await Promise.all([store.steps(id), store.messages(id)])
    const steps = all.filter(({ isUndone }) => !isUndone)
    const target = step ?? (steps.find(({ turn }) => turn === seen.turn)?.step ?? (steps.at(-1)?.step ?? 0) + 1) - 1
    if (!steps.some((one) => one.step === target)) throw noStep(id, target)
    // Held before its disk changes: a message would let it go on meanwhile.
    const task = isOpen(seen.state) && seen.state !== 'paused' ? await move(seen, { state: 'paused' }) : seen
    if (!task) throw conflict(seen, 'it was changed at the same moment')
    const snapshotId = snapshotOf(steps, target)
    if (snapshotId !== undefined) await computer.rollBack(task, snapshotId)
    const event = {
      seq: 0,
      kind: 'undone',
      data: { toStep: target, snapshotId: snapshotId ?? null },
      at: clock.now(),
    } as const
    if (!isOpen(task.state)) {
      const moved = await move(task, {}, { events: [event], more: [store.undoSteps(id, target)] })
      return viewOf(moved ?? task)
    }
    const open = (await store.calls(id, task.step)).filter(({ state }) => state !== 'done')
    const kept = messages.filter((one) => one.step <= target)
    const last = kept.at(-1)?.seq ?? 0
    const lastMessage = task.lastMessage + 1
    const closing = await closed(id, kept)
    const isTold = task.compactedTo <= last
    const changes = {
      state: 'waiting' as const,
      message: null,
      waitsFor: [{ kind: 'message' as const }],
      ...(isTold ? {} : { compactedTo: 0, summary: null }),
      ...(closing && { lastMessage }),
      result: null,
    }
    const now = all.at(-1)!
    const cut =
      now.state === 'acting' || now.state === 'calling'
        ? { step: { ...now, state: 'cut' as const, endedAt: clock.now() } }
        : {}
    const told = closing ? [{ seq: lastMessage, step: target, message: closing, createdAt: clock.now() }] : []
    // What is taken back first is what there was before this.
    const undone = [store.undoMessages(id, { after: last, upTo: task.lastMessage }), store.undoSteps(id, target)]
    const moved = await move(task, changes, { ...cut, messages: told, events: [event], more: undone })
    if (!moved) throw conflict(task, 'it was changed at the same moment')
    for (const { approvalId } of open) if (approvalId !== null) await deps.withdrawApproval(approvalId)
    return viewOf(moved)
  }

  /** What the model is told of calls that had no end where a conversation was cut; undefined where there are none. */
  async function closed(taskId: string, kept: readonly StoredMessage[]): Promise<Message | undefined> {
    const open = unanswered(kept)
    if (open.length === 0) return undefined
    const calls = await store.calls(taskId, kept.at(-1)!.step)
    const resultOf = ({ callId, tool }: ToolCallPart) => {
      const outcome = calls.find((call) => call.callId === callId)?.outcome
      const text = 'Given up before it had ended: it may have done a part, check before repeating.'
      const { content, isError } = outcome ?? { content: [{ type: 'text' as const, text }], isError: true }
      return { type: 'tool_result' as const, callId, tool, content, isError }
    }
    return { role: 'tool', parts: open.map(resultOf) }
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
    const request = { key, bodyHash: hashBody(wish) }
    const earlier = await madeBefore(source.accountId, request)
    if (earlier) return earlier
    await refuseMany(source.accountId)
    await computer.settledOf(id)
    const [all, messages] = await Promise.all([store.steps(id), store.messages(id)])
    const steps = all.filter(({ isUndone }) => !isUndone)
    const ended = steps.filter(({ state }) => state === 'done' || state === 'cut')
    const target = step ?? ended.at(-1)?.step ?? 0
    if (!ended.some((one) => one.step === target)) throw noStep(id, target)
    const said = messages.filter((one) => one.step <= target)
    const closing = await closed(id, said)
    const seq = (said.at(-1)?.seq ?? 0) + 1
    const kept = closing ? [...said, { seq, step: target, message: closing, createdAt: clock.now() }] : said
    const last = kept.at(-1)
    if (text === undefined && last?.message.role === 'assistant' && !source.spec.chat) {
      throw invalid('body.text', 'the agent had ended its turn there: say what it is to do now')
    }
    const isNow = step === undefined && !isOpen(source.state)
    const snapshotId = snapshotOf(steps, target) ?? (isNow ? await computer.snapshotNow(source) : undefined)
    const agentId = agent ?? (await agentCopy(source, { snapshotId, caller, key, tokenBudget: wished }))
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
    // A new agent has nothing but these, for its computer too; of one that is there they are set aside.
    const budget = agent === undefined || wished === undefined ? null : parseTokens(wished, { field: 'tokenBudget' })
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
        rights: narrowed(source.spec.rights, handedOn(caller)),
        files: [],
        mcpServers: opened === undefined ? null : deps.seal.seal(opened, mcpPlace(newTaskId)),
      },
      budget,
      asker: lastingAsker(caller),
      untrusted: source.untrusted,
      compactedTo: isTold ? source.compactedTo : 0,
      summary: isTold ? source.summary : null,
      lastMessage: told.at(-1)?.seq ?? last?.seq ?? 0,
      dueAt: now + source.spec.timeLimitMs,
    }
    const words = [...kept.map((one) => ({ ...one, step: 0 })), ...told]
    const event = {
      seq: 1,
      kind: 'state',
      data: { state: task.state, forkedFrom: { taskId: id, step: target } },
      at: now,
    } as const
    const additions = { messages: words, step: stepZero(task.spec.model, now), events: [event] }
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
      caller,
      key,
      tokenBudget,
    }: { snapshotId: string | undefined; caller: KnownCaller; key: string; tokenBudget: ForkTask['tokenBudget'] },
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
        rights: [...rights],
        // What its task is to have it must have first.
        ...(tokenBudget !== undefined && { tokenBudget }),
      },
      caller,
      { idempotencyKey: `fork ${hashBody({ key })}` },
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
    const { only } = seeing
    const below = principal.kind === 'agent' ? principal.agentId : undefined
    const found = await store.list({ accountId, only, below, agentId, state, before, limit: limit + 1 })
    const { items, nextCursor } = pageOf(found, limit)
    return { data: items.map(viewOf), nextCursor }
  }

  async function result(id: string, caller: KnownCaller): Promise<TaskResult> {
    const task = await recordFor(id, caller, 'read:tasks')
    const said = isOpen(task.state) ? await store.messages(id) : []
    return resultView(task, { calls: await store.calls(id), said })
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
    for (const one of working.values()) if (one.agentId === agentId) one.control.tokensCame()
    for (const task of await store.openOf(agentId)) {
      if (task.state === 'suspended' && !isShortItself(task)) await requeue(task)
    }
  }

  /** What its agent has now, or it itself. */
  async function purseFilled(purseId: string): Promise<void> {
    if (isId('tsk', purseId)) return tokensCame(purseId)
    for (const one of working.values()) if (one.agentId === purseId) one.control.tokensCame()
    for (const task of await store.openOf(purseId)) {
      if (task.state !== 'suspended' || isShortItself(task)) continue
      if ((await findAgent(purseId, task.accountId))?.agent.state === 'active') await requeue(task)
    }
  }

  async function agentEnds(agentId: string): Promise<void> {
    await Promise.all((await store.openOf(agentId)).map(endWithAgent))
  }

  async function endWithAgent(task: TaskRecord): Promise<void> {
    await cancelBy(task, 'agent_archived', 'Its agent was archived').catch((error: unknown) =>
      log.warn('task_not_ended_with_agent', { taskId: task.id, error }),
    )
  }

  async function approvalChanged(approvalId: string): Promise<void> {
    const found = await store.taskOfApproval(approvalId)
    const waiting = found !== undefined ? [found] : (await store.waitingFor(approvalId)).map(({ id }) => id)
    for (const id of waiting) await look(id)
  }

  async function tokensDecided(requestId: string): Promise<void> {
    for (const { id } of await store.waitingFor(requestId)) await look(id)
  }

  /** Whether it can go on by now. */
  async function look(id: string): Promise<void> {
    const task = await store.get(id)
    if (!task || (task.state !== 'waiting' && task.state !== 'suspended') || !(await hasCome(task))) return
    await requeue(task)
  }

  /** Somebody below an agent asks it for something: the task that is concerned with that reads it before its next step. */
  async function askedFor({ agentId, belowId, requestId, text }: AskedFor): Promise<void> {
    const asking = await store.openOf(belowId)
    const parents = asking.flatMap(({ parentTaskId }) => (parentTaskId === null ? [] : [parentTaskId]))
    const isListening = ({ state }: TaskRecord) => state === 'working' || state === 'queued' || state === 'waiting'
    const open = (await store.openOf(agentId)).filter(isListening).toSorted((a, b) => b.changedAt - a.changedAt)
    const task = open.find(({ id }) => parents.includes(id)) ?? open[0]
    // One that is led by a program of yours decides by its own token; where the loop leads them nobody would.
    if (!task && asking.length > 0) return deps.passOver(requestId)
    if (task) await tell(task.id, { parts: [{ type: 'text', text }], by: requestId }, `request ${requestId}`)
  }

  // ── what nobody asks for ──

  async function sweep(): Promise<void> {
    const now = clock.now()
    await beat()
    if (isShared) await store.forgetOwners(now - 10 * taskLimits.ownerDeadMs)
    await adopt(isShared ? now - taskLimits.ownerDeadMs : undefined)
    for (const task of await store.workedBy(owner)) {
      if (!isHere(task.id)) await move(task, { state: 'queued', owner: null })
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
    for (const task of await store.unsettled()) {
      await afterEnd(task).catch((error: unknown) => log.warn('task_not_settled', { taskId: task.id, error }))
    }
    pump()
  }

  /** That this server lives: said by itself, so that others do not take its tasks while it looks after many. */
  async function beat(): Promise<void> {
    if (isShared) await store.heard(owner, clock.now())
  }

  async function adopt(silentSince: number | undefined): Promise<void> {
    for (let last = -1; last !== 0;) {
      const found = await store.orphans({ owner, silentSince })
      let adopted = 0
      for (const task of found) if (await move(task, { state: 'queued', owner: null })) adopted += 1
      last = found.length < taskLimits.swept ? 0 : adopted
    }
  }

  /** What came while no server ran, or was lost with one. */
  async function mend(): Promise<void> {
    for (const state of ['waiting', 'suspended', 'paused'] as const) {
      for (let after = ''; !stopping.signal.aborted;) {
        const page = await store.resting(state, after)
        for (const task of page) {
          await mendOne(task).catch((error: unknown) => log.warn('task_not_mended', { taskId: task.id, error }))
        }
        after = page.at(-1)?.id ?? ''
        if (page.length < taskLimits.swept) break
      }
    }
  }

  async function mendOne(task: TaskRecord): Promise<void> {
    const known = await findAgent(task.agentId, task.accountId)
    if (!known || isOver(known.agent.state)) return endWithAgent(task)
    if (task.wish === 'cancel') return void (await endNow(task, 'canceled', 'canceled_by_user', 'It was canceled'))
    if (task.state !== 'paused' && (await hasCome(task))) await requeue(task)
  }

  async function every(ms: number, work: () => Promise<void>, what: string): Promise<void> {
    while (!stopping.signal.aborted) {
      await clock.sleep(ms, stopping.signal).catch(() => undefined)
      if (stopping.signal.aborted) return
      await work().catch((error: unknown) => log.warn('tasks_not_looked_after', { what, error }))
    }
  }

  async function mendAlways(): Promise<void> {
    await mend().catch((error: unknown) => log.warn('tasks_not_looked_after', { what: 'mend', error }))
    await every(taskLimits.mendMs, mend, 'mend')
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
      const { state } = await recordFor(id, caller, 'read:tasks')
      return following.follow(id, caller, { from, isOver: !isOpen(state) })
    },
    /** For features beside it, which have asked by themselves whether they may. */
    async view(id: string, accountId: string): Promise<TaskView | undefined> {
      const task = await store.get(id)
      return task?.accountId === accountId ? viewOf(task) : undefined
    },
    events,
    onWritten,
    /** An agent, or a task of its own, has more than before. */
    purseFilled: (purseId: string) => inBackground(purseFilled(purseId), purseId),
    askedFor: (asked: AskedFor) => inBackground(askedFor(asked), asked.requestId),
    agentWoke: (agentId: string) => inBackground(agentWoke(agentId), agentId),
    agentEnds: (agentId: string) => inBackground(agentEnds(agentId), agentId),
    approvalChanged: (approvalId: string) => inBackground(approvalChanged(approvalId), approvalId),
    tokensDecided: (requestId: string) => inBackground(tokensDecided(requestId), requestId),
    /** Its balance is its agent's again. */
    purseArchived: (taskId: string) => inBackground(settled(taskId), taskId),

    async start(): Promise<void> {
      await sweep()
      const ms = isShared ? taskLimits.sweepMs : taskLimits.sweepAloneMs
      loops = [every(ms, sweep, 'sweep'), mendAlways()]
      if (isShared) loops.push(every(ms, beat, 'beat'))
    },

    /** What is worked on stays as it is: programs in sandboxes run on, and the next server goes on from the step. */
    async stop(): Promise<void> {
      stopping.abort()
      following.stop()
      for (const { control } of working.values()) control.halt('stop')
      await doneOr(Promise.all([...loops, pumping]), taskLimits.stopMs)
      // Whoever rests keeps its disk as it is.
      const letGo = Promise.all(Array.from(working.values(), ({ done }) => done)).then(computer.settled)
      await doneOr(letGo, taskLimits.stopMs)
      hub.stop()
      // Others may go on at once.
      if (isShared && working.size === 0) await store.left(owner).catch(() => undefined)
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
    payerId: null,
    isSettled: false,
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
    isUndone: false,
    startedAt: now,
    endedAt: now,
  } as const
}

/** A task outlives the session or token that it was given with; the person and the key stand behind it. */
function lastingAsker(caller: KnownCaller): Asker {
  const asker = askerOf(caller)
  return { ...asker, ties: asker.ties.filter((id) => !isId('ses', id) && !isId('tok', id)) }
}

function narrowed(own: readonly Right[] | null, wanted: readonly Right[] | null): readonly Right[] | null {
  if (own === null) return wanted
  return wanted ? narrow(own, wanted) : own
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
