import type { ServerEvent } from './sse.ts'
import type { TaskInfo, TaskState, TaskWaitsFor } from './types.ts'

/** A part of what a model said. */
export type TaskReplyPart =
  | { type: 'text'; text: string }
  | { type: 'thinking'; text: string }
  | { type: 'tool_call'; callId: string; tool: string; input: string }

/** A part of what a person said. */
export type TaskMessagePart =
  | { type: 'text'; text: string }
  | { type: 'image'; digest: string; mediaType: string; width: number; height: number }

interface TaskNews {
  state: { state: TaskState; message?: string | null; waitsFor?: TaskWaitsFor[] }
  /** `answers`: the call that had asked. */
  message: { by: string; parts: TaskMessagePart[]; answers?: string }
  step: { step: number; turn: number }
  /** The model is asked once more for the same step: pieces of it begin again. */
  attempt: { model: string; state: string; failure?: { kind: string; message: string }; waitMs?: number }
  /** A piece of what the model is writing; `step` where several are asked side by side. */
  text: { text: string; step?: number }
  thinking: { text: string; step?: number }
  /** All that it has written, `text` among it. */
  reply: {
    model: string
    parts: TaskReplyPart[]
    stop: string
    usage: { input: number; cacheRead: number; cacheWrite: number; cacheWriteHour: number; output: number }
    /** What it cost. */
    tokens: number
    estimated: boolean
  }
  /** A tool begins. `input` is JSON as the model wrote it, of a long one its beginning. */
  call: { id: string; callId: string; tool: string; input: string }
  /** What a program writes while it runs. */
  output: { callId: string; stream: 'stdout' | 'stderr'; text: string }
  /** What the model is told of a call; of a long text its beginning. */
  result: { id: string; callId: string; tool: string; isError: boolean; text: string; images: number }
  compacted: { messages: number }
  undone: { toStep: number; snapshotId: string | null }
  end: { state: TaskState; reason: NonNullable<TaskInfo['reason']>; message: string }
}

/** Told apart by `kind`. Ids number the events of a task without gaps. */
export type TaskEvent = {
  [Kind in keyof TaskNews]: { id: number; kind: Kind; at: string; data: TaskNews[Kind] }
}[keyof TaskNews]

/** What a newer server says beside these is passed on as it is. */
export function taskEventOf({ event, data, id }: ServerEvent): TaskEvent {
  const { at, ...rest } = JSON.parse(data) as { at: string }
  return { id: Number(id), kind: event, at, data: rest } as TaskEvent
}

/** It stands still until a person, or a main agent, has said or decided something. */
export function needsSomeone({ state, waitsFor = [] }: TaskNews['state']): boolean {
  if (state === 'suspended' || state === 'paused') return true
  return state === 'waiting' && waitsFor.some(({ kind }) => kind !== 'task')
}
