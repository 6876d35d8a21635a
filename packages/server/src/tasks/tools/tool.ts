import type { z } from 'zod'
import type { KnownCaller } from '../../access/callers/door.ts'
import type { ImagePart, TextPart } from '../../models/door.ts'
import type { RightName } from '../../kernel/http/needs.ts'

/** What a call came to. What the agent can mend is no exception but a result with `isError`: it says what to change. */
export type ToolOutcome =
  | { kind: 'done'; content: readonly (TextPart | ImagePart)[]; isError: boolean }
  /** Nothing more can be done before that has come; then the call is run again, with the same id. */
  | { kind: 'waits'; for: WaitsFor }

export type WaitsFor =
  | { kind: 'answer'; question: string; options?: readonly string[] }
  | { kind: 'approval'; approvalId: string }
  | { kind: 'tokens'; requestId: string }
  | { kind: 'task'; taskId: string }

export interface ToolContext {
  agentId: string
  taskId: string
  /** Of this call; the same after a crash and when it is run again after it has waited. Fits an `Idempotency-Key`. */
  callId: string
  /** Whether the task has tokens of its own, or is paid by one that has: then it gives out none of its agent's. */
  hasOwnTokens: boolean
  /** The agent as it is now, with what is left of its rights for this task. */
  caller: KnownCaller
  /** It had begun before, in this or in an earlier process, and nobody knows how far it came. */
  begun: boolean
  /** What a person has answered to it. */
  answer: string | undefined
  /** What it last said that it waits for. */
  waited: WaitsFor | undefined
  /** By an interruption, or at the task's end. */
  signal: AbortSignal
  /** The id of the agent's sandbox, which is made or woken by this. */
  computer(): Promise<string>
  /** The same without making or waking one: undefined where it has none now. */
  presentComputer(): Promise<string | undefined>
  /** What whoever watches sees while it runs. */
  onOutput(stream: 'stdout' | 'stderr', text: string): void
  /** Whether its computer may hold, or its programs may say, what neither this task nor its template wrote. Once it was so in a call it stays so. */
  isForeign(): Promise<boolean>
  /** Words that came from outside and are data, not instructions, were brought in. */
  readUntrusted(source: string): void
}

export interface Tool<Input = unknown> {
  name: string
  /** For the model: what it does, when to use it, what it answers. */
  description: string
  input: z.ZodType<Input>
  /** JSON schema for the model, where it says more than `input` does. @default that of `input` */
  inputSchema?: Readonly<Record<string, unknown>>
  /** What the agent must have. */
  needs: readonly RightName[]
  /** Whether a person is asked before each call, unless the task says otherwise. */
  mode: 'auto' | 'ask'
  /** Several of one reply may run at the same time. */
  isParallel: boolean
  /** The disk is snapshotted after a step with such a call. */
  changesFiles: boolean
  /**
   * After a crash in the middle of it. `attach`: looked for by its id, and told as unknown where it is gone; `again`: run again, which has the same effect; `unknown`: the model is told that
   * it may have happened.
   */
  afterCrash: 'attach' | 'again' | 'unknown'
  run(input: Input, context: ToolContext): Promise<ToolOutcome>
}

export function done(text: string): ToolOutcome & { kind: 'done' } {
  return { kind: 'done', content: [{ type: 'text', text }], isError: false }
}

export function failed(text: string): ToolOutcome & { kind: 'done' } {
  return { kind: 'done', content: [{ type: 'text', text }], isError: true }
}
