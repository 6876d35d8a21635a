import type { Right } from '../access/callers/door.ts'
import type { Asker } from '../approvals/door.ts'
import type { Attempt, ImagePart, Message, TextPart, ThinkingLevel, Usage } from '../models/door.ts'
import type { EngineName } from './engine/names.ts'
import type { EndReason, TaskEventKind, TaskState, TaskWaitsFor, ToolMode } from './schema.ts'

/** What was asked for, as it stays. */
export interface TaskSpec {
  text: string
  /** Who works on it; of tasks from before there was more than one, nothing is said. */
  engine?: EngineName
  model: string
  fallbackModels: readonly string[]
  maxPrice: number | null
  thinking: ThinkingLevel
  instructions: string | null
  timeLimitMs: number
  /** No more than these of what its agent may; null: all of it. */
  rights: readonly Right[] | null
  /** To be written before its first step; their bytes are blobs. */
  files: readonly { path: string; digest: string; size: number }[]
  maxSteps: number
  tools: Readonly<Record<string, ToolMode>>
  /** Sealed: their headers are secrets. */
  mcpServers: string | null
  resultSchema: Readonly<Record<string, unknown>> | null
  chat: boolean
  metadata: Readonly<Record<string, string>>
}

/** What a person wants of a task that is being worked on; whoever works on it does it. */
export type Wish = 'pause' | 'cancel' | 'interrupt'

export interface TaskRecord {
  id: string
  accountId: string
  agentId: string
  parentTaskId: string | null
  forkedTaskId: string | null
  forkedStep: number | null
  state: TaskState
  reason: EndReason | null
  /** In words. */
  message: string | null
  waitsFor: readonly TaskWaitsFor[]
  spec: TaskSpec
  /** Micro-tokens of its own; null: it spends its agent's. */
  budget: number | null
  /** The task above it whose budget it spends: from that come its own tokens, and without any it is paid from that. */
  payerId: string | null
  /** What follows its end is done: its own purse is archived, what it asked for is withdrawn, whoever waited for it knows. */
  isSettled: boolean
  asker: Asker
  wish: Wish | null
  /** Which server works on it. */
  owner: string | null
  turn: number
  /** The last that was begun. */
  step: number
  /** Numbers given so far. */
  lastEvent: number
  lastMessage: number
  lastInbox: number
  usage: Usage
  /** Micro-tokens. */
  cost: number
  estimated: boolean
  untrusted: boolean
  /** Messages up to there are told by `summary`. */
  compactedTo: number
  summary: string | null
  result: { text: string | null; value?: unknown } | null
  createdAt: number
  startedAt: number | null
  endedAt: number | null
  /** It has until then. */
  dueAt: number
  version: number
  changedAt: number
}

export interface StoredMessage {
  seq: number
  step: number
  message: Message
  createdAt: number
}

/** From a person, or from another task, not yet read by the agent. */
export interface InboxMessage {
  seq: number
  parts: readonly (TextPart | ImagePart)[]
  by: string
  /** The call whose question it answers: read by that, and by nobody else. */
  answers?: string | undefined
  createdAt: number
}

/** One model call and the tool calls of its reply. `calling`: the reply has not come; `acting`: its calls are under way; `cut`: it was given up. */
export type StepState = 'calling' | 'acting' | 'done' | 'cut'

export interface StepRecord {
  step: number
  turn: number
  state: StepState
  model: string
  attempts: readonly Attempt[]
  snapshotId: string | null
  /** What was done in it was taken back. */
  isUndone: boolean
  startedAt: number
  endedAt: number | null
}

/** `asking`: a person is to confirm it; `ready`: it may start; `started`: it runs, or did when a server died; `waiting`: it has run and waits for something. */
export type CallState = 'asking' | 'ready' | 'started' | 'waiting' | 'done'

export interface CallOutcome {
  content: readonly (TextPart | ImagePart)[]
  isError: boolean
}

export interface CallRecord {
  id: string
  step: number
  place: number
  /** As the model named it. */
  callId: string
  tool: string
  input: string
  state: CallState
  approvalId: string | null
  waitsFor: TaskWaitsFor | null
  answer: string | null
  outcome: CallOutcome | null
  startedAt: number | null
  endedAt: number | null
}

export interface TaskEvent {
  seq: number
  kind: TaskEventKind
  data: Readonly<Record<string, unknown>>
  at: number
}
