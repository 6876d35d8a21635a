import type { Known } from '../agents/door.ts'
import type { Clock } from '../kernel/clock.ts'
import type { BatchStep } from '../kernel/db/database.ts'
import type { DeltaError } from '../kernel/errors.ts'
import type { Span } from '../kernel/traces.ts'
import type { Attempt, Message } from '../models/door.ts'
import type { Control } from './control.ts'
import type { Finish } from './finish.ts'
import type { Hub } from './hub.ts'
import { taskLimits } from './limits.ts'
import type { CallRecord, StepRecord, StoredMessage, TaskEvent, TaskRecord } from './record.ts'
import { noUsage, type Past, plus } from './rules.ts'
import type { TaskEventKind } from './schema.ts'
import type { Additions, TaskStore } from './store.ts'

/** A task while it is worked on: what the database says of it, held by whoever is its owner. */
export interface Run {
  task: TaskRecord
  messages: StoredMessage[]
  step: StepRecord | undefined
  /** Of this step. */
  calls: CallRecord[]
  /** Ids of calls that were begun here: whatever else is `started` was begun by a server that died. */
  fresh: Set<string>
  /** Ids of calls that waited, and look now whether that has come. */
  due: Set<string>
  /** Why a call could not be made for now. */
  blocked: DeltaError | undefined
  /** Of the latest calls of the steps before it. */
  past: Past[]
  agent: Known
  span: Span
  control: Control
  finish: Finish | undefined
  /** `AGENTS.md`, read once a turn. */
  notes: { turn: number; text: string | undefined }
  /** Written with the next change, so that a step's end and the beginning of the next are one commit. */
  carried: Carried
  /** Writes are done one after the other; undefined where none is under way, so that the next is asked for at once. */
  writing: Promise<void> | undefined
  /** It is worked on no more: whatever still runs writes nothing. */
  isOver: boolean
}

/** What a write needs of it. */
export type Writable = Pick<Run, 'task' | 'carried' | 'writing' | 'isOver'>

/** A step as it begins, after the last one. */
export function newStep({ task, carried }: Run, at: number): StepRecord {
  return {
    step: task.step + 1,
    turn: carried.changes.turn ?? task.turn,
    state: 'calling',
    model: task.spec.model,
    attempts: [],
    snapshotId: null,
    isUndone: false,
    startedAt: at,
    endedAt: null,
  }
}

/** Behind all that was said, written with the next change. */
export function carryMessage(
  run: Run,
  message: Message,
  { at, step = run.task.step }: { at: number; step?: number },
): void {
  const seq = (run.carried.changes.lastMessage ?? run.task.lastMessage) + 1
  const stored: StoredMessage = { seq, step, message, createdAt: at }
  run.messages.push(stored)
  run.carried.messages.push(stored)
  run.carried.changes = { ...run.carried.changes, lastMessage: seq }
}

/** What a task has used with these too. */
export function spentWith(
  { usage, cost, estimated }: TaskRecord,
  attempts: readonly Attempt[],
): Pick<TaskRecord, 'usage' | 'cost' | 'estimated'> {
  return {
    usage: attempts.reduce((sum, one) => plus(sum, one.usage ?? noUsage), usage),
    cost: cost + attempts.reduce((sum, one) => sum + (one.cost ?? 0), 0),
    estimated: estimated || attempts.some((one) => one.estimated),
  }
}

export function attemptShown({ model, state, failure, waitMs }: Attempt): Record<string, unknown> {
  return { model, state, ...(failure && { failure }), ...(waitMs !== undefined && { waitMs }) }
}

export interface NewEvent {
  kind: TaskEventKind
  data: Readonly<Record<string, unknown>>
}

export interface Carried {
  changes: Partial<TaskRecord>
  messages: StoredMessage[]
  calls: CallRecord[]
  step: StepRecord | undefined
  events: NewEvent[]
  more: BatchStep[]
}

export function nothingCarried(): Carried {
  return { changes: {}, messages: [], calls: [], step: undefined, events: [], more: [] }
}

/** Another server has taken the task, since this one was silent for so long: nothing more is written here. */
export class LostTask extends Error {
  override readonly name = 'LostTask'
}

/** The server stops: everything stays as it is, for the next one. */
export class LeftTask extends Error {
  override readonly name = 'LeftTask'
}

/** Somebody said something to it at the last moment: it can not end before it has read that. */
export class HasNews extends Error {
  override readonly name = 'HasNews'
}

export interface Written extends Omit<Additions, 'events' | 'messages' | 'earlierStep'> {
  events?: readonly NewEvent[]
  /** Nothing is written, and `HasNews` thrown, where it was told something that it has not read. */
  unlessNews?: boolean
  /** Written in the same breath, so that both are one commit wherever the database makes one of them. Does not reject. */
  beside?: (() => Promise<void>) | undefined
}

export type Write = (run: Writable, changes: Partial<TaskRecord>, written?: Written) => Promise<void>

export interface WritingDeps {
  store: Pick<TaskStore, 'update' | 'noNews' | 'inboxAfter'>
  hub: Pick<Hub, 'told'>
  clock: Clock
  /** Other connections write to the database too. */
  isShared: boolean
  /** After it is on disk. */
  onWritten(before: TaskRecord, after: TaskRecord): void
}

/** Every change of a task that is worked on goes through here: guarded by its version, with its events numbered, told only when it is on disk. */
export function createWriting({ store, hub, clock, isShared, onWritten }: WritingDeps): Write {
  async function writeNow(
    run: Writable,
    changes: Partial<TaskRecord>,
    { events = [], unlessNews = false, beside, ...more }: Written,
  ): Promise<void> {
    const { carried, task: before } = run
    if (run.isOver) throw new LostTask(before.id)
    run.carried = nothingCarried()
    const at = clock.now()
    const numbered: TaskEvent[] = [...carried.events, ...events].map(({ kind, data }, index) => ({
      seq: before.lastEvent + 1 + index,
      kind,
      data,
      at,
    }))
    const after: TaskRecord = {
      ...before,
      ...carried.changes,
      ...changes,
      lastEvent: before.lastEvent + numbered.length,
      changedAt: at,
    }
    const additions: Additions = {
      ...more,
      // The end of one step and the beginning of the next are two rows.
      step: more.step ?? carried.step,
      earlierStep: more.step && carried.step,
      messages: carried.messages,
      calls: [...carried.calls, ...(more.calls ?? [])],
      events: numbered,
      more: [...carried.more, ...(more.more ?? []), ...(unlessNews ? [store.noNews(after)] : [])],
    }
    // Before the reply: of one that is recorded nothing is open. Where one connection writes both are one commit; several would not keep the order.
    const paid = beside?.()
    if (isShared) await paid
    const [applied] = await Promise.all([store.update(before, after, additions), paid])
    if (!applied && unlessNews && (await store.inboxAfter(before.id, after.lastInbox)).length > 0) {
      run.carried = carried
      throw new HasNews(before.id)
    }
    if (!applied) throw new LostTask(before.id)
    run.task = { ...after, version: before.version + 1 }
    hub.told(before.id, numbered)
    onWritten(before, run.task)
  }

  return (run, changes, written = {}) => {
    const write = (): Promise<void> => writeNow(run, changes, written)
    const work = run.writing ? run.writing.then(write) : write()
    const settled = work
      .catch(() => undefined)
      .then(() => {
        if (run.writing === settled) run.writing = undefined
      })
    run.writing = settled
    return work
  }
}

/** Pieces of what a model or a tool writes, for whoever watches: stored a few times a second, however small they come. */
export function createPieces(run: Run, write: Write, clock: Clock) {
  let pieces: { kind: TaskEventKind; key: string; data: Record<string, unknown>; text: string }[] = []
  let chars = 0
  let disarm: (() => void) | undefined
  let failure: unknown
  let isOver = false

  function taken(): NewEvent[] {
    disarm?.()
    disarm = undefined
    const events = pieces.map(({ kind, data, text }) => ({ kind, data: { ...data, text } }))
    pieces = []
    chars = 0
    return events
  }

  function flush(): void {
    const events = taken()
    if (events.length > 0) write(run, {}, { events }).catch((error: unknown) => (failure ??= error))
  }

  return {
    add(kind: TaskEventKind, data: Record<string, unknown>, text: string): void {
      if (isOver) return
      const key = `${kind} ${JSON.stringify(data)}`
      const last = pieces.at(-1)
      if (last?.key === key) last.text += text
      else pieces.push({ kind, key, data, text })
      chars += text.length
      if (chars >= taskLimits.chunkChars) flush()
      else disarm ??= clock.after(taskLimits.chunkMs, flush)
    },
    /** What is left goes with the next write. */
    end(): NewEvent[] {
      isOver = true
      const events = taken()
      if (failure instanceof Error) throw failure
      return events
    },
    /** Of what began anew. */
    drop(): void {
      pieces = []
      chars = 0
    },
  }
}
