import type { Span } from '../kernel/traces.ts'
import type { Message, ReplyPart, ToolDescription } from './conversation.ts'
import type { Passage } from './passage.ts'
import type { FailureKind, ProviderEvent, Stop, ThinkingLevel, Usage } from './provider.ts'

/** One question to a model: what the loop of a task asks `models.service` for. */
export interface ModelCall {
  accountId: string
  /** The purse that pays: the task's, or the agent's. */
  payer: string
  agentId: string
  taskId: string
  /** `anthropic/claude-…`, in the order in which they are tried; a later one only before any output came, and only where it is no dearer than `maxPrice` says. */
  models: readonly string[]
  /** Tokens for a million output tokens: no dearer model than that. @default any */
  maxPrice?: number | undefined
  system: string
  messages: readonly Message[]
  tools: readonly ToolDescription[]
  /** @default what the model allows, at most 32,000; 8,000 where nobody knows it */
  maxOutputTokens?: number | undefined
  thinking?: ThinkingLevel | undefined
  /** Asked instead, by one of the models that speak its format: `system`, `messages` and `tools` are then empty. */
  passage?: Passage | undefined
  /** Ends it: what had come is charged as cut. */
  signal: AbortSignal
  /** What has to be on disk before the first request leaves: written in one breath with its hold. Called once at most; what it rejects with is what the call rejects with. */
  begin?(): Promise<void>
  /** Whoever asks calls the reply's `pay`, in one breath with what they write of it. @default false, it is paid for by then */
  paysLater?: boolean | undefined
  /** As it comes, and again from the beginning when `onAttempt` was called again. */
  onEvent(event: Exclude<ProviderEvent, { type: 'end' }>): void
  /** Before each HTTP request leaves and after it is over: for the row of the step. Must not throw. */
  onAttempt?(attempt: Attempt): void
  /** What it is a part of, for traces. */
  span?: Span | undefined
}

/** One HTTP request to a provider, with its own hold. */
export interface Attempt {
  /** Of its own for each. A model that costs nothing has no hold of that name. */
  holdId: string
  model: string
  state: 'sent' | 'ended' | 'cut' | 'failed'
  /** Of one that failed. */
  failure?: { kind: FailureKind; status?: number | undefined; message: string }
  /** How long is waited before the next. */
  waitMs?: number
  usage?: Usage
  /** Micro-tokens. */
  cost?: number
  /** Not what the provider said at the end, but a bound of it. */
  estimated?: boolean
}

export interface ModelReply {
  model: string
  parts: readonly ReplyPart[]
  stop: Stop
  usage: Usage
  /** Micro-tokens, of all attempts together. */
  cost: number
  estimated: boolean
  /** The balance allowed for less output than was asked for: a `cut` reply is then out of tokens, and its last tool call must not run. */
  lowered: boolean
  attempts: readonly Attempt[]
  /** The model that the provider says has answered, such as a dated one of a name without a date. */
  answeredBy?: string
  /** Writes down what the last attempt used, once. Does not reject. */
  pay(): Promise<void>
}

/**
 * Rejects with a `DeltaError`: `balance_too_low` (nothing was sent), `account_owes`, `model_key_missing`, `model_key_refused`, `model_not_found`, `model_not_priced`, `model_too_dear`, `model_too_long`
 * (the conversation), `model_refused` (the request), `model_unavailable` (all tries and fall-backs failed; `context.retryAfterMs`), `canceled` (by the signal).
 */
export type CallModel = (call: ModelCall) => Promise<ModelReply>
