import type { Message, ReplyPart, ToolDescription } from './conversation.ts'
import type { CountTokens, Pass } from './passage.ts'

/** Who answers: a provider with its own wire format. Adding one is a folder, a line in the table of providers and its run of the shared conformance suite. */
export const providerNames = ['anthropic', 'google', 'openai', 'recording'] as const
export type ProviderName = (typeof providerNames)[number]

export const thinkingLevels = ['off', 'low', 'medium', 'high'] as const
export type ThinkingLevel = (typeof thinkingLevels)[number]

export interface ProviderRequest {
  /** As the provider names it. */
  model: string
  system: string
  messages: readonly Message[]
  tools: readonly ToolDescription[]
  /** Always said on the wire: without it some providers know no bound. Thinking counts. */
  maxOutputTokens: number
  thinking: ThinkingLevel
  /** The bytes of an image of the conversation. */
  image(digest: string): Promise<Uint8Array>
}

/** Why a reply is at an end. `cut`: its tokens were used up. */
export type Stop = 'end' | 'tool_calls' | 'cut' | 'refused' | 'other'

export type ProviderEvent =
  /** A piece of a text or of thinking as it comes, for whoever watches. */
  | { type: 'delta'; of: 'text' | 'thinking'; text: string }
  /** A part that is whole, in the order of the reply. */
  | { type: 'part'; part: ReplyPart }
  | {
      type: 'end'
      stop: Stop
      /** The provider's own word. */ raw: string
      /** The model that it says has answered. */ model?: string
    }

export interface Endpoint {
  apiKey: string | undefined
  /** Without a slash at its end. */
  baseUrl: string
}

export interface Provider {
  name: ProviderName
  /** All that it has, where these are a few; any other name is refused. @default any */
  models?: readonly string[]
  /**
   * One request by this `fetch`, which is asked exactly once: nothing is tried again here. Rejects with the signal's reason where it is aborted, with what `fetch` rejected with, except that no
   * connection is a `ProviderFailure`, and with one for an answer that is no success, for an error in the stream and for a stream that ends before its end was said. Whoever reads no further
   * closes the connection.
   */
  stream(request: ProviderRequest, options: StreamOptions): AsyncIterable<ProviderEvent>
  /** The same for a request that another program has made, in this provider's own format. @default none is taken */
  pass?: Pass
  countTokens?: CountTokens
  /** Pure readers of what goes over the wire. */
  wire: Wire
}

export interface StreamOptions {
  endpoint: Endpoint
  fetch: typeof globalThis.fetch
  signal: AbortSignal
}

/** Units as the provider counts them; `input` does not include what was read from or written to its cache. */
export interface Usage {
  input: number
  cacheRead: number
  /** Kept for five minutes, or for as long as the provider does. */
  cacheWrite: number
  cacheWriteHour: number
  /** Thinking included. */
  output: number
}

export interface Wire {
  /** More input tokens than this body can come to: its UTF-8 bytes, `bodyBytes` as it is sent, and a fixed number for each tool and image. Images' own bytes count by their size in pixels, not by their text. */
  inputBound(body: Readonly<Record<string, unknown>>, bodyBytes: number): number
  /** Undefined where the body says none. */
  outputLimit(body: Readonly<Record<string, unknown>>): number | undefined
  /** The same with no more output than that; what hangs on it, such as a budget for thinking, is lowered with it or left out. */
  withOutputLimit(body: Readonly<Record<string, unknown>>, limit: number): Record<string, unknown>
  /** A fresh reader of one answer's bytes as they come. */
  usageReader(): UsageReader
}

export interface UsageReader {
  /** The bytes of a successful answer, in pieces of any size. Never throws. */
  push(bytes: Uint8Array): void
  /** What the provider has said so far. */
  reported(): Partial<Usage>
  /** More output than has been received, in tokens: by its bytes. Thinking that a provider shows none of, or a summary, is only in it as far as its signature has come. */
  receivedBound(): number
  /** The stream said that it was over, so that `reported` is exact. A server that speaks OpenAI's format may have said nothing there: then it is empty. */
  ended(): boolean
}

export type FailureKind =
  /** 429, or the provider's word for it. */
  | 'limited'
  /** 5xx, overloaded, a cut or broken stream, no connection. */
  | 'unavailable'
  /** 401 and 403, and whatever else is said of a key or of an account that is out of money: with this key nothing helps. */
  | 'key'
  /** The request itself: asked again it fails again. */
  | 'request'
  /** The conversation is longer than the model takes. */
  | 'too_long'

/** An answer that is no success. `message` is the provider's own words with secrets taken out, at most 2,000 characters. */
export class ProviderFailure extends Error {
  override readonly name = 'ProviderFailure'
  readonly kind: FailureKind
  readonly status: number | undefined
  /** As `Retry-After` says it, in seconds or as a date, or Gemini in the words of its refusal; at most a day. */
  readonly retryAfterMs: number | undefined

  constructor(
    kind: FailureKind,
    message: string,
    options: { status?: number | undefined; retryAfterMs?: number | undefined; cause?: unknown } = {},
  ) {
    super(message.slice(0, 2_000), { cause: options.cause })
    this.kind = kind
    this.status = options.status
    this.retryAfterMs = options.retryAfterMs
  }
}
