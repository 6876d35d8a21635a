import { sql as raw } from 'kysely'
import { compiledByShape, compiledOnce } from '../kernel/db/compile.ts'
import type { BatchStep, Database } from '../kernel/db/database.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Place } from '../kernel/http/cursors.ts'
import type { ImagePart, Message, TextPart } from '../models/door.ts'
import { taskLimits } from './limits.ts'
import type {
  CallRecord,
  InboxMessage,
  StepRecord,
  StoredMessage,
  TaskEvent,
  TaskRecord,
  TaskSpec,
  Wish,
} from './record.ts'
import { isOpen, mayBecome, needsDecision } from './states.ts'
import type { TaskEventKind, TaskState } from './schema.ts'

interface TasksTable {
  id: string
  account_id: string
  agent_id: string
  parent_task_id: string | null
  forked_task_id: string | null
  forked_step: number | null
  state: TaskState
  open: number
  reason: string | null
  message: string | null
  waits_for: string
  spec: string
  budget: number | null
  payer_id: string | null
  settled: number
  asker: string
  wish: string | null
  owner: string | null
  turn: number
  step: number
  last_event: number
  last_message: number
  last_inbox: number
  input: number
  cache_read: number
  cache_write: number
  cache_write_hour: number
  output: number
  cost: number
  estimated: number
  untrusted: number
  compacted_to: number
  summary: string | null
  result: string | null
  idempotency_key: string | null
  body_hash: string | null
  created_at: number
  started_at: number | null
  ended_at: number | null
  due_at: number
  version: number
  changed_at: number
}

interface MessagesTable {
  task_id: string
  seq: number
  step: number
  role: Message['role']
  parts: string
  undone: number
  created_at: number
}

interface StepsTable {
  task_id: string
  step: number
  turn: number
  state: StepRecord['state']
  model: string
  attempts: string
  snapshot_id: string | null
  undone: number
  started_at: number
  ended_at: number | null
}

interface CallsTable {
  id: string
  task_id: string
  step: number
  place: number
  call_id: string
  tool: string
  input: string
  state: CallRecord['state']
  approval_id: string | null
  waits_for: string | null
  answer: string | null
  outcome: string | null
  started_at: number | null
  ended_at: number | null
}

interface Tables {
  tasks: TasksTable
  task_messages: MessagesTable
  task_inbox: {
    task_id: string
    seq: number
    parts: string
    sender: string
    answers: string | null
    idempotency_key: string | null
    created_at: number
  }
  task_steps: StepsTable
  task_calls: CallsTable
  task_events: { task_id: string; seq: number; kind: TaskEventKind; data: string; at: number }
  task_owners: { owner: string; seen_at: number }
}

export interface TaskFilter {
  accountId: string
  /** Only those of agents that stand below this one, or of itself. */
  below?: string | undefined
  only?: readonly string[] | undefined
  agentId?: string | undefined
  state?: TaskState | undefined
  limit: number
  before?: Place | undefined
}

/** What one write of a task adds to it, beside the changes of its row. */
export interface Additions {
  messages?: readonly StoredMessage[]
  /** New, or as it is now. */
  step?: StepRecord | undefined
  /** The step before it, which ends with this. */
  earlierStep?: StepRecord | undefined
  newCalls?: readonly CallRecord[]
  calls?: readonly CallRecord[]
  events?: readonly TaskEvent[]
  more?: readonly BatchStep[]
}

export type TaskStore = ReturnType<typeof createTaskStore>

/** Told in the very commit in which it happens. */
export type Happening = 'task.finished' | 'task.failed' | 'task.needs_decision'

/** `stepsFor`: what others write when that happens to a task. */
export function createTaskStore(
  database: Database,
  stepsFor: (happening: Happening, task: TaskRecord) => BatchStep[] = () => [],
) {
  const db = database.of<Tables>()
  const { sql } = db
  // What each step of a task writes and looks up: to make its texts took longer than to write it.
  const compiled = compiledByShape()
  const inboxAfter = compiledOnce((taskId, after) =>
    sql
      .selectFrom('task_inbox')
      .selectAll()
      .where('task_id', '=', taskId)
      .where('seq', '>', after)
      .where('answers', 'is', null)
      .orderBy('seq'),
  )

  function inserted<Table extends keyof Tables>(table: Table, rows: readonly Tables[Table][]): BatchStep {
    const values = rows.flatMap((row) => Object.values(row))
    return { query: compiled(`${table} ${rows.length}`, values, () => sql.insertInto(table).values(rows as never)) }
  }

  function additionsOf(taskId: string, additions: Additions) {
    const { messages = [], step, earlierStep, newCalls = [], calls = [], events = [] } = additions
    const steps: BatchStep[] = []
    for (const some of inParts(messages)) {
      const rows = some.map((one) => messageRow(taskId, one))
      steps.push(inserted('task_messages', rows))
    }
    for (const one of [earlierStep, step]) {
      if (!one) continue
      // Whether it was taken back is said beside it.
      const { state, model, attempts, ended_at, ...fixed } = stepRow(taskId, one)
      const changed = { state, model, attempts, ended_at }
      const row = { ...fixed, ...changed }
      const query = compiled('task_steps', [...Object.values(row), ...Object.values(changed)], () =>
        sql
          .insertInto('task_steps')
          .values(row)
          .onConflict((conflict) => conflict.columns(['task_id', 'step']).doUpdateSet(changed)),
      )
      steps.push({ query })
    }
    for (const some of inParts(newCalls)) {
      const rows = some.map((one) => callRow(taskId, one))
      steps.push(inserted('task_calls', rows))
    }
    for (const call of calls) {
      const {
        id,
        task_id: _,
        step: __,
        place: ___,
        call_id: ____,
        tool: _____,
        input: ______,
        ...changes
      } = callRow(taskId, call)
      const query = compiled('a call', [...Object.values(changes), id], () =>
        sql.updateTable('task_calls').set(changes).where('id', '=', id),
      )
      steps.push({ query })
    }
    for (const some of inParts(events)) {
      const rows = some.map(({ seq, kind, data, at }) => ({
        task_id: taskId,
        seq,
        kind,
        data: JSON.stringify(data),
        at,
      }))
      steps.push(inserted('task_events', rows))
    }
    return steps
  }

  /** The number of what was said with that key. */
  async function inboxOf(taskId: string, key: string): Promise<number | undefined> {
    const query = sql.selectFrom('task_inbox').select('seq').where('task_id', '=', taskId)
    return (await db.first(query.where('idempotency_key', '=', key).compile()))?.seq
  }

  async function lastOfInbox(taskId: string): Promise<number> {
    const query = sql.selectFrom('task_inbox').select('seq').where('task_id', '=', taskId)
    return (await db.first(query.orderBy('seq', 'desc').limit(1).compile()))?.seq ?? 0
  }

  function inboxStep(taskId: string, message: InboxMessage, key: string | undefined): BatchStep {
    const row = {
      task_id: taskId,
      seq: message.seq,
      parts: JSON.stringify(message.parts),
      sender: message.by,
      answers: message.answers ?? null,
      idempotency_key: key ?? null,
      created_at: message.createdAt,
    }
    const query = sql
      .insertInto('task_inbox')
      .values(row)
      .onConflict((conflict) => conflict.doNothing())
    return { query: query.compile(), mustChange: 1 }
  }

  return {
    /** False where the key was used. */
    async insert(
      record: TaskRecord,
      { request, ...additions }: Additions & { request?: { key: string; bodyHash: string } | undefined },
    ): Promise<boolean> {
      const row = {
        ...rowOf(record),
        idempotency_key: request?.key ?? null,
        body_hash: request?.bodyHash ?? null,
      }
      const query = sql
        .insertInto('tasks')
        .values(row)
        .onConflict((conflict) => conflict.doNothing())
      const steps: BatchStep[] = [{ query: query.compile(), mustChange: 1 }]
      return (await db.batch([...steps, ...additionsOf(record.id, additions), ...(additions.more ?? [])])).applied
    },

    /** False when the row is no longer as `before` says; then nothing is written. */
    async update(before: TaskRecord, after: TaskRecord, additions: Additions = {}): Promise<boolean> {
      const { id } = before
      if (before.state !== after.state && !mayBecome(before.state, after.state)) {
        throw new Error(`${id} is ${before.state}, and can not become ${after.state}`)
      }
      const changes = { ...changesOf(before, after), version: before.version + 1 }
      const query = compiled(`a task’s ${Object.keys(changes)}`, [...Object.values(changes), id, before.version], () =>
        sql.updateTable('tasks').set(changes).where('id', '=', id).where('version', '=', before.version),
      )
      const happening = happeningOf(before, after)
      const told = happening === undefined ? [] : stepsFor(happening, after)
      const steps = [{ query, mustChange: 1 }, ...additionsOf(id, additions), ...told]
      return (await db.batch([...steps, ...(additions.more ?? [])])).applied
    },

    async get(id: string): Promise<TaskRecord | undefined> {
      const row = await db.first(sql.selectFrom('tasks').selectAll().where('id', '=', id).compile())
      return row && recordOf(row)
    },

    async savedRequest(accountId: string, key: string): Promise<{ bodyHash: string; taskId: string } | undefined> {
      const query = sql
        .selectFrom('tasks')
        .select(['id', 'body_hash'])
        .where('account_id', '=', accountId)
        .where('idempotency_key', '=', key)
      const row = await db.first(query.compile())
      return row && { bodyHash: row.body_hash ?? '', taskId: row.id }
    },

    async countOpen(accountId: string): Promise<number> {
      const query = sql
        .selectFrom('tasks')
        .select((select) => select.fn.countAll<number>().as('count'))
        .where('account_id', '=', accountId)
        .where('open', '=', literal(1))
      return Number((await db.first(query.compile()))?.count ?? 0)
    },

    /** Newest first. */
    async list({ accountId, below, only, agentId, state, limit, before }: TaskFilter): Promise<TaskRecord[]> {
      if (only?.length === 0) return []
      let query = sql.selectFrom('tasks').selectAll().where('account_id', '=', accountId)
      if (only) query = query.where('agent_id', 'in', only)
      if (agentId !== undefined) query = query.where('agent_id', '=', agentId)
      if (state) query = query.where('state', '=', state)
      if (below !== undefined) {
        const lines = database.of<{ agent_lines: { agent_id: string; above_id: string } }>().sql
        const ids = lines.selectFrom('agent_lines').select('agent_id').where('above_id', '=', below)
        query = query.where('agent_id', 'in', ids as never)
      }
      if (before) {
        query = query.where((where) =>
          where.or([
            where('created_at', '<', before.createdAt),
            where.and([where('created_at', '=', before.createdAt), where('id', '<', before.id)]),
          ]),
        )
      }
      const rows = await db.all(query.orderBy('created_at', 'desc').orderBy('id', 'desc').limit(limit).compile())
      return rows.map(recordOf)
    },

    /** Those that have not ended, of one agent. */
    async openOf(agentId: string): Promise<TaskRecord[]> {
      const query = sql.selectFrom('tasks').selectAll().where('agent_id', '=', agentId).where('open', '=', literal(1))
      return (await db.all(query.compile())).map(recordOf)
    },

    /** The oldest that wait for a server. */
    async queued(limit: number, notOf: readonly string[] = []): Promise<TaskRecord[]> {
      let query = sql.selectFrom('tasks').selectAll().where('state', '=', literal('queued'))
      if (notOf.length > 0) query = query.where('account_id', 'not in', notOf)
      return (await db.all(query.orderBy('created_at').orderBy('id').limit(limit).compile())).map(recordOf)
    },

    /** Worked on by servers that are dead: by all but one, or by those not heard of since `silentSince`. */
    async orphans({ owner, silentSince }: { owner: string; silentSince?: number | undefined }): Promise<TaskRecord[]> {
      let query = sql
        .selectFrom('tasks')
        .selectAll()
        .where('state', '=', literal('working'))
        .where('owner', '<>', owner)
      if (silentSince !== undefined) {
        const living = sql.selectFrom('task_owners').select('owner').where('seen_at', '>', silentSince)
        query = query.where('owner', 'not in', living)
      }
      return (await db.all(query.orderBy('id').limit(taskLimits.swept).compile())).map(recordOf)
    },

    /** Of this server, those of which a person wants something that it may not have heard of. */
    async wished(owner: string): Promise<TaskRecord[]> {
      const query = sql
        .selectFrom('tasks')
        .selectAll()
        .where('state', '=', literal('working'))
        .where('owner', '=', owner)
        .where('wish', 'is not', null)
      return (await db.all(query.limit(taskLimits.swept).compile())).map(recordOf)
    },

    async workedBy(owner: string): Promise<TaskRecord[]> {
      const query = sql
        .selectFrom('tasks')
        .selectAll()
        .where('state', '=', literal('working'))
        .where('owner', '=', owner)
      return (await db.all(query.compile())).map(recordOf)
    },

    /** Those that stand still for something of that id. */
    async waitingFor(id: string): Promise<TaskRecord[]> {
      const query = sql
        .selectFrom('tasks')
        .selectAll()
        .where('state', 'in', ['waiting', 'suspended'])
        // A letter of an id may mean something in a pattern: what is found is looked at again.
        .where('waits_for', 'like', `%"${id}"%`)
      const found = (await db.all(query.compile())).map(recordOf)
      return found.filter(({ waitsFor }) => waitsFor.some((one) => Object.values(one).includes(id)))
    },

    /** One that was never begun. */
    async remove(id: string): Promise<void> {
      await db.batch([
        { query: sql.deleteFrom('tasks').where('id', '=', id).compile() },
        { query: sql.deleteFrom('task_messages').where('task_id', '=', id).compile() },
        { query: sql.deleteFrom('task_inbox').where('task_id', '=', id).compile() },
        { query: sql.deleteFrom('task_calls').where('task_id', '=', id).compile() },
        { query: sql.deleteFrom('task_steps').where('task_id', '=', id).compile() },
        { query: sql.deleteFrom('task_events').where('task_id', '=', id).compile() },
      ])
    },

    /** Those that stand still, after `id`: something they wait for may have come unheard. */
    async resting(state: 'waiting' | 'suspended' | 'paused', id: string): Promise<TaskRecord[]> {
      const query = sql.selectFrom('tasks').selectAll().where('state', '=', state).where('id', '>', id)
      return (await db.all(query.orderBy('id').limit(taskLimits.swept).compile())).map(recordOf)
    },

    /** Ended, and what follows from that is not done. */
    async unsettled(): Promise<TaskRecord[]> {
      const query = sql.selectFrom('tasks').selectAll().where('settled', '=', literal(0)).where('open', '=', literal(0))
      return (await db.all(query.orderBy('id').limit(taskLimits.swept).compile())).map(recordOf)
    },

    async settle(id: string): Promise<void> {
      await db.run(sql.updateTable('tasks').set({ settled: 1 }).where('id', '=', id).compile())
    },

    /** Beside the version, which whoever works on it holds. False where nobody does. */
    async wish(id: string, wish: Wish): Promise<boolean> {
      let query = sql.updateTable('tasks').set({ wish }).where('id', '=', id).where('state', '=', literal('working'))
      // To be canceled outdoes everything, to be paused an interruption.
      const outdone = { cancel: [], pause: ['cancel'], interrupt: ['cancel', 'pause'] }[wish]
      if (outdone.length > 0) {
        query = query.where((where) => where.or([where('wish', 'is', null), where('wish', 'not in', outdone)]))
      }
      return (await db.run(query.compile())).changed === 1
    },

    /** For what is about to be taken up: whoever does finds it there. */
    wishing(id: string, wish: Wish): BatchStep {
      return { query: sql.updateTable('tasks').set({ wish }).where('id', '=', id).compile() }
    },

    /** Nothing is said to it that it has not read: else nothing of the batch is written. */
    noNews({ id, lastInbox }: Pick<TaskRecord, 'id' | 'lastInbox'>): BatchStep {
      const news = sql
        .selectFrom('task_inbox')
        .select('seq')
        .where('task_id', '=', id)
        .where('seq', '>', lastInbox)
        .where('answers', 'is', null)
      const query = sql.updateTable('tasks').set({ id }).where('id', '=', id)
      return { query: query.where((where) => where.not(where.exists(news))).compile(), mustChange: 1 }
    },

    /** It is done, or there is nothing left to do it to. */
    noWish(id: string, wish: Wish): BatchStep {
      const query = sql.updateTable('tasks').set({ wish: null }).where('id', '=', id).where('wish', '=', wish)
      return { query: query.compile() }
    },

    /** Those whose time is over. */
    async due(now: number): Promise<TaskRecord[]> {
      const query = sql.selectFrom('tasks').selectAll().where('open', '=', literal(1)).where('due_at', '<=', now)
      return (await db.all(query.orderBy('due_at').limit(taskLimits.swept).compile())).map(recordOf)
    },

    async below(parentTaskId: string): Promise<TaskRecord[]> {
      const query = sql
        .selectFrom('tasks')
        .selectAll()
        .where('parent_task_id', '=', parentTaskId)
        .where('open', '=', literal(1))
      return (await db.all(query.compile())).map(recordOf)
    },

    /** Those that spend its tokens and have not ended. */
    async paidBy(taskId: string): Promise<TaskRecord[]> {
      const query = sql.selectFrom('tasks').selectAll().where('payer_id', '=', taskId).where('open', '=', literal(1))
      return (await db.all(query.compile())).map(recordOf)
    },

    /** Its number; that of the first where the same key had added one before. */
    async addToInbox(taskId: string, message: Omit<InboxMessage, 'seq'>, key: string | undefined): Promise<number> {
      for (let tries = 1; ; tries += 1) {
        const known = key === undefined ? undefined : await inboxOf(taskId, key)
        if (known !== undefined) return known
        const seq = (await lastOfInbox(taskId)) + 1
        const { query } = inboxStep(taskId, { seq, ...message }, key)
        if ((await db.run(query)).changed === 1) return seq
        if (tries >= taskLimits.clashes)
          throw new DeltaError('database_busy', `Too many messages at once for ${taskId}`)
      }
    },

    inboxOf,
    lastOfInbox,
    inboxStep,

    async inboxAfter(taskId: string, after: number): Promise<InboxMessage[]> {
      return (await db.lookUp(inboxAfter(taskId, after))).map((row) => ({
        seq: row.seq,
        parts: JSON.parse(row.parts) as (TextPart | ImagePart)[],
        by: row.sender,
        createdAt: row.created_at,
      }))
    },

    /** What was said, without what was undone. */
    async messages(taskId: string): Promise<StoredMessage[]> {
      const query = sql
        .selectFrom('task_messages')
        .selectAll()
        .where('task_id', '=', taskId)
        .where('undone', '=', 0)
        .orderBy('seq')
      return (await db.all(query.compile())).map((row) => ({
        seq: row.seq,
        step: row.step,
        message: { role: row.role, parts: JSON.parse(row.parts) } as Message,
        createdAt: row.created_at,
      }))
    },

    undoMessages(taskId: string, { after, upTo }: { after: number; upTo: number }): BatchStep {
      const query = sql.updateTable('task_messages').set({ undone: 1 }).where('task_id', '=', taskId)
      return { query: query.where('seq', '>', after).where('seq', '<=', upTo).compile() }
    },

    undoSteps(taskId: string, afterStep: number): BatchStep {
      const query = sql.updateTable('task_steps').set({ undone: 1 }).where('task_id', '=', taskId)
      return { query: query.where('step', '>', afterStep).compile() }
    },

    async steps(taskId: string): Promise<StepRecord[]> {
      const query = sql.selectFrom('task_steps').selectAll().where('task_id', '=', taskId).orderBy('step')
      return (await db.all(query.compile())).map(stepOf)
    },

    async step(taskId: string, step: number): Promise<StepRecord | undefined> {
      const query = sql.selectFrom('task_steps').selectAll().where('task_id', '=', taskId).where('step', '=', step)
      const row = await db.first(query.compile())
      return row && stepOf(row)
    },

    /** Where the disk was after the step; beside the version, since it is known only a moment later. */
    async setSnapshot(taskId: string, step: number, snapshotId: string): Promise<void> {
      const query = sql.updateTable('task_steps').set({ snapshot_id: snapshotId }).where('task_id', '=', taskId)
      await db.run(query.where('step', '=', step).compile())
    },

    async calls(taskId: string, step?: number): Promise<CallRecord[]> {
      let query = sql.selectFrom('task_calls').selectAll().where('task_id', '=', taskId)
      if (step !== undefined) query = query.where('step', '=', step)
      return (await db.all(query.orderBy('step').orderBy('place').compile())).map(callOf)
    },

    /** The latest that have ended, without those of one step; in their order. */
    async endedCalls(
      taskId: string,
      { but, limit }: { but: number | undefined; limit: number },
    ): Promise<CallRecord[]> {
      let query = sql.selectFrom('task_calls').selectAll().where('task_id', '=', taskId).where('state', '=', 'done')
      if (but !== undefined) query = query.where('step', '<>', but)
      const rows = await db.all(query.orderBy('step', 'desc').orderBy('place', 'desc').limit(limit).compile())
      return rows.map(callOf).toReversed()
    },

    async taskOfApproval(approvalId: string): Promise<string | undefined> {
      const query = sql.selectFrom('task_calls').select('task_id').where('approval_id', '=', approvalId)
      return (await db.first(query.compile()))?.task_id
    },

    async events(taskId: string, { after, limit }: { after: number; limit: number }): Promise<TaskEvent[]> {
      const query = sql
        .selectFrom('task_events')
        .selectAll()
        .where('task_id', '=', taskId)
        .where('seq', '>', after)
        .orderBy('seq')
        .limit(limit)
      return (await db.all(query.compile())).map(({ seq, kind, data, at }) => ({
        seq,
        kind,
        data: JSON.parse(data) as Record<string, unknown>,
        at,
      }))
    },

    async heard(owner: string, now: number): Promise<void> {
      const query = sql
        .insertInto('task_owners')
        .values({ owner, seen_at: now })
        .onConflict((conflict) => conflict.column('owner').doUpdateSet({ seen_at: now }))
      await db.run(query.compile())
    },

    /** It works on nothing any more: others need not wait until it has been silent for long. */
    async left(owner: string): Promise<void> {
      await db.run(sql.deleteFrom('task_owners').where('owner', '=', owner).compile())
    },

    async forgetOwners(before: number): Promise<void> {
      await db.run(sql.deleteFrom('task_owners').where('seen_at', '<', before).compile())
    },
  }
}

function happeningOf(before: TaskRecord, { state, waitsFor }: TaskRecord): Happening | undefined {
  if (state === before.state) return undefined
  if (state === 'finished' || state === 'failed') return `task.${state}`
  return needsDecision(state, waitsFor) ? 'task.needs_decision' : undefined
}

/** In the text of the query: an index of some rows alone serves no query that leaves open which it wants. */
const literal = <Value extends string | number>(value: Value) => raw.lit(value)

/** Rows of one statement: databases take a bounded number of values. */
const rowsAtOnce = 500

function inParts<One>(all: readonly One[]): One[][] {
  return Array.from({ length: Math.ceil(all.length / rowsAtOnce) }, (_, at) =>
    all.slice(at * rowsAtOnce, (at + 1) * rowsAtOnce),
  )
}

/** PostgreSQL keeps no NUL in a text, and a model may write one. */
function withoutNul<Text extends string | null>(text: Text): Text {
  return (text?.includes('\0') ? text.replaceAll('\0', '\uFFFD') : text) as Text
}

/** Made once for all writes of a task, whose other values change and these do not. */
const knownTexts = new WeakMap<object, string>()

function textOnce(value: object): string {
  const known = knownTexts.get(value)
  if (known !== undefined) return known
  const text = JSON.stringify(value)
  knownTexts.set(value, text)
  return text
}

function rowOf(record: TaskRecord): TasksTable {
  const { usage } = record
  return {
    id: record.id,
    account_id: record.accountId,
    agent_id: record.agentId,
    parent_task_id: record.parentTaskId,
    forked_task_id: record.forkedTaskId,
    forked_step: record.forkedStep,
    state: record.state,
    open: Number(isOpen(record.state)),
    reason: record.reason,
    message: withoutNul(record.message),
    waits_for: JSON.stringify(record.waitsFor),
    spec: textOnce(record.spec),
    budget: record.budget,
    payer_id: record.payerId,
    settled: Number(record.isSettled),
    asker: textOnce(record.asker),
    wish: record.wish,
    owner: record.owner,
    turn: record.turn,
    step: record.step,
    last_event: record.lastEvent,
    last_message: record.lastMessage,
    last_inbox: record.lastInbox,
    input: usage.input,
    cache_read: usage.cacheRead,
    cache_write: usage.cacheWrite,
    cache_write_hour: usage.cacheWriteHour,
    output: usage.output,
    cost: record.cost,
    estimated: Number(record.estimated),
    untrusted: Number(record.untrusted),
    compacted_to: record.compactedTo,
    summary: withoutNul(record.summary),
    result: record.result === null ? null : JSON.stringify(record.result),
    idempotency_key: null,
    body_hash: null,
    created_at: record.createdAt,
    started_at: record.startedAt,
    ended_at: record.endedAt,
    due_at: record.dueAt,
    version: record.version,
    changed_at: record.changedAt,
  }
}

/** The columns that differ. `wish` is not among them: whoever wishes does not hold the version. */
function changesOf(before: TaskRecord, after: TaskRecord): Partial<TasksTable> {
  const [old, now] = [rowOf(before), rowOf(after)]
  const changed = Object.entries(now).filter(([name, value]) => old[name as keyof TasksTable] !== value)
  const {
    id: _,
    idempotency_key: __,
    body_hash: ___,
    wish: ____,
    ...changes
  } = Object.fromEntries(changed) as Partial<TasksTable>
  return changes
}

function recordOf(row: TasksTable): TaskRecord {
  return {
    id: row.id,
    accountId: row.account_id,
    agentId: row.agent_id,
    parentTaskId: row.parent_task_id,
    forkedTaskId: row.forked_task_id,
    forkedStep: row.forked_step,
    state: row.state,
    reason: row.reason as TaskRecord['reason'],
    message: row.message,
    waitsFor: JSON.parse(row.waits_for) as TaskRecord['waitsFor'],
    spec: JSON.parse(row.spec) as TaskSpec,
    budget: row.budget,
    payerId: row.payer_id,
    isSettled: row.settled === 1,
    asker: JSON.parse(row.asker) as TaskRecord['asker'],
    wish: row.wish as Wish | null,
    owner: row.owner,
    turn: row.turn,
    step: row.step,
    lastEvent: row.last_event,
    lastMessage: row.last_message,
    lastInbox: row.last_inbox,
    usage: {
      input: row.input,
      cacheRead: row.cache_read,
      cacheWrite: row.cache_write,
      cacheWriteHour: row.cache_write_hour,
      output: row.output,
    },
    cost: row.cost,
    estimated: row.estimated === 1,
    untrusted: row.untrusted === 1,
    compactedTo: row.compacted_to,
    summary: row.summary,
    result: row.result === null ? null : (JSON.parse(row.result) as TaskRecord['result']),
    createdAt: row.created_at,
    startedAt: row.started_at,
    endedAt: row.ended_at,
    dueAt: row.due_at,
    version: row.version,
    changedAt: row.changed_at,
  }
}

function messageRow(taskId: string, { seq, step, message, createdAt }: StoredMessage): MessagesTable {
  const { role, parts } = message
  return { task_id: taskId, seq, step, role, parts: JSON.stringify(parts), undone: 0, created_at: createdAt }
}

function stepRow(taskId: string, one: StepRecord): StepsTable {
  return {
    task_id: taskId,
    step: one.step,
    turn: one.turn,
    state: one.state,
    model: one.model,
    attempts: JSON.stringify(one.attempts),
    snapshot_id: one.snapshotId,
    undone: Number(one.isUndone),
    started_at: one.startedAt,
    ended_at: one.endedAt,
  }
}

function stepOf(row: StepsTable): StepRecord {
  return {
    step: row.step,
    turn: row.turn,
    state: row.state,
    model: row.model,
    attempts: JSON.parse(row.attempts) as StepRecord['attempts'],
    snapshotId: row.snapshot_id,
    isUndone: row.undone === 1,
    startedAt: row.started_at,
    endedAt: row.ended_at,
  }
}

function callRow(taskId: string, one: CallRecord): CallsTable {
  return {
    id: one.id,
    task_id: taskId,
    step: one.step,
    place: one.place,
    call_id: withoutNul(one.callId),
    tool: withoutNul(one.tool),
    input: withoutNul(one.input),
    state: one.state,
    approval_id: one.approvalId,
    waits_for: one.waitsFor === null ? null : JSON.stringify(one.waitsFor),
    answer: withoutNul(one.answer),
    outcome: one.outcome === null ? null : JSON.stringify(one.outcome),
    started_at: one.startedAt,
    ended_at: one.endedAt,
  }
}

function callOf(row: CallsTable): CallRecord {
  return {
    id: row.id,
    step: row.step,
    place: row.place,
    callId: row.call_id,
    tool: row.tool,
    input: row.input,
    state: row.state,
    approvalId: row.approval_id,
    waitsFor: row.waits_for === null ? null : (JSON.parse(row.waits_for) as CallRecord['waitsFor']),
    answer: row.answer,
    outcome: row.outcome === null ? null : (JSON.parse(row.outcome) as CallRecord['outcome']),
    startedAt: row.started_at,
    endedAt: row.ended_at,
  }
}
