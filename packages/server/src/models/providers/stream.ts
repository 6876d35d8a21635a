import { randomUUID } from 'node:crypto'
import type {
  LanguageModelV4,
  LanguageModelV4CallOptions,
  LanguageModelV4FinishReason,
  LanguageModelV4StreamPart,
  SharedV4ProviderMetadata,
} from '@ai-sdk/provider'
import type { Bound, ReplyPart, TextPart, ThinkingPart } from '../conversation.ts'
import {
  ProviderFailure,
  type Provider,
  type ProviderEvent,
  type ProviderRequest,
  type Stop,
  type StreamOptions,
  type UsageReader,
  type Wire,
} from '../provider.ts'
import { createExchange, type Exchange } from './exchange.ts'
import { failureIn, withoutKey } from './failures.ts'
import { promptOf, toolsOf, type PromptStyle } from './prompt.ts'
import { isRecord, textOf } from './reading.ts'

/** What one provider adds to what all have in common. */
export interface Speaker {
  style(request: ProviderRequest): PromptStyle
  /**
   * Its package is loaded here, so that a server that never asks this provider does not hold it in memory. It is asked once for each model and address, since some packages take long to make
   * one, and never sees a key: that is set where the request leaves.
   */
  open(model: string, baseUrl: string, fetch: typeof globalThis.fetch): Promise<LanguageModelV4>
  /** The header that lets a request in. Undefined where there is no key, and one is needed. */
  header(apiKey: string | undefined): Record<string, string> | undefined
  /** What else the package is told, after the conversation. */
  callOptions(request: ProviderRequest, options: LanguageModelV4CallOptions): LanguageModelV4CallOptions
  /** The body that leaves, made of the one that the package wrote. @default as it is */
  rewrite?(request: ProviderRequest): ((body: Record<string, unknown>) => Record<string, unknown>) | undefined
  /** Of what a package puts at a part, what must come back with it. */
  bound(of: ReplyPart['type'], metadata: Record<string, unknown>): Record<string, unknown> | undefined
  wire: Wire
}

/** A name goes into a path: it may not lead elsewhere. */
const modelName = /^(?!.*\.\.)[\w][\w.:@/+-]{0,199}$/

/** A few models are used at a time; a great many addresses would be a mistake. */
const modelsKept = 64

/** What packages are given as a key. */
export const noKey = 'set-where-it-leaves'

export function createProvider(name: Provider['name'], speaker: Speaker): Provider {
  /** What each call brings along, by the one thing of it that a package hands on to `fetch`. */
  const exchanges = new WeakMap<AbortSignal, Exchange>()
  const models = new Map<string, Promise<LanguageModelV4>>()

  const dispatch: typeof globalThis.fetch = (url, init) => {
    const exchange = init?.signal ? exchanges.get(init.signal) : undefined
    if (!exchange) throw new Error('The package asked outside of a call.')
    return exchange.fetch(url, init)
  }

  function open(model: string, baseUrl: string): Promise<LanguageModelV4> {
    const key = `${model} ${baseUrl}`
    const opened = models.get(key) ?? speaker.open(model, baseUrl, dispatch)
    // The one that was used last is the last to go.
    models.delete(key)
    models.set(key, opened)
    opened.catch(() => models.delete(key))
    for (const oldest of models.keys()) {
      if (models.size <= modelsKept) break
      models.delete(oldest)
    }
    return opened
  }

  async function* stream(request: ProviderRequest, options: StreamOptions): AsyncGenerator<ProviderEvent> {
    const { endpoint, signal } = options
    signal.throwIfAborted()
    if (!modelName.test(request.model)) {
      throw new ProviderFailure('request', 'That is no name of a model.', { status: 404 })
    }
    const header = speaker.header(endpoint.apiKey)
    if (!header) throw new ProviderFailure('key', `There is no key for ${name}.`)
    const style = speaker.style(request)
    const prompt = await promptOf(request, style)
    const tools = request.tools.length > 0 ? { tools: toolsOf(request.tools) } : {}
    const abortSignal = AbortSignal.any([signal])
    const { maxOutputTokens } = request
    const call = speaker.callOptions(request, { prompt, ...tools, maxOutputTokens, abortSignal })
    const reader = speaker.wire.usageReader()
    const exchange = createExchange({ ...options, reader, header, rewrite: speaker.rewrite?.(request) })
    exchanges.set(abortSignal, exchange)
    try {
      const model = await open(request.model, endpoint.baseUrl)
      const { stream: parts } = await model.doStream(call)
      yield* eventsOf(parts, { request, speaker, name, style, reader, exchange, apiKey: endpoint.apiKey })
    } catch (error) {
      throw asFailure(error, { signal, exchange, apiKey: endpoint.apiKey })
    }
  }
  return { name, stream, wire: speaker.wire }
}

interface Reading {
  request: ProviderRequest
  speaker: Speaker
  name: Provider['name']
  style: PromptStyle
  reader: UsageReader
  exchange: Exchange
  apiKey: string | undefined
}

interface OpenPart {
  part: TextPart | ThinkingPart
  metadata: Record<string, unknown>
}

async function* eventsOf(
  parts: ReadableStream<LanguageModelV4StreamPart>,
  reading: Reading,
): AsyncGenerator<ProviderEvent> {
  const { request, speaker, name, style } = reading
  const open = new Map<string, OpenPart>()
  const callIds = new Set(
    request.messages.flatMap((message) => message.parts.map((part) => ('callId' in part ? part.callId : ''))),
  )
  let hasCalls = false
  let finish: LanguageModelV4FinishReason | undefined
  let model: string | undefined

  const metadataOf = (from: SharedV4ProviderMetadata | undefined) => from?.[style.optionsKey] ?? {}
  const boundOf = (of: ReplyPart['type'], metadata: Record<string, unknown>): { bound?: Bound } => {
    const data = speaker.bound(of, metadata)
    return data ? { bound: { provider: name, model: request.model, data } } : {}
  }
  function closed(id: string): ProviderEvent[] {
    const whole = open.get(id)
    open.delete(id)
    if (!whole) return []
    const part = { ...whole.part, ...boundOf(whole.part.type, whole.metadata) }
    return part.text === '' && !part.bound ? [] : [{ type: 'part', part }]
  }

  for await (const piece of untilAskedAgain(parts, reading.exchange)) {
    switch (piece.type) {
      case 'text-start':
      case 'reasoning-start': {
        const part = { type: piece.type === 'text-start' ? ('text' as const) : ('thinking' as const), text: '' }
        open.set(piece.id, { part, metadata: { ...metadataOf(piece.providerMetadata) } })
        break
      }
      case 'text-delta':
      case 'reasoning-delta': {
        const whole = open.get(piece.id)
        if (!whole) break
        whole.part.text += piece.delta
        Object.assign(whole.metadata, metadataOf(piece.providerMetadata))
        if (piece.delta !== '') yield { type: 'delta', of: whole.part.type, text: piece.delta }
        break
      }
      case 'text-end':
      case 'reasoning-end': {
        Object.assign(open.get(piece.id)?.metadata ?? {}, metadataOf(piece.providerMetadata))
        yield* closed(piece.id)
        break
      }
      case 'tool-call': {
        // What the provider runs itself is never asked for here.
        if (piece.providerExecuted) break
        hasCalls = true
        // Some servers count from 0 in every reply, and a result must find its one call.
        const callId = callIds.has(piece.toolCallId) ? `call_${randomUUID().replaceAll('-', '')}` : piece.toolCallId
        callIds.add(callId)
        const bound = boundOf('tool_call', metadataOf(piece.providerMetadata))
        yield { type: 'part', part: { type: 'tool_call', callId, tool: piece.toolName, input: piece.input, ...bound } }
        break
      }
      case 'response-metadata':
        model ??= piece.modelId
        break
      case 'finish':
        finish = piece.finishReason
        break
      case 'error':
        if (!isUnknownEvent(piece.error)) throw streamFailure(piece.error, reading.apiKey)
        break
    }
  }
  // The package may not have read an end that stood in the bytes: what came with it would be missing.
  if (!reading.reader.ended() || !finish || finish.unified === 'interrupted') {
    throw new ProviderFailure('unavailable', 'The answer broke off before its end.')
  }
  for (const id of open.keys()) yield* closed(id)
  yield { type: 'end', stop: stopOf(finish, hasCalls), raw: finish.raw ?? '', ...(model !== undefined && { model }) }
}

/** Gemini ends a long reply in its middle, and its package asks for the rest by itself. A call is one request, so there it is cut. */
async function* untilAskedAgain(
  parts: ReadableStream<LanguageModelV4StreamPart>,
  exchange: Exchange,
): AsyncGenerator<LanguageModelV4StreamPart> {
  try {
    for await (const piece of parts) {
      if (piece.type === 'error' && exchange.isAskedAgain()) return yield continued
      yield piece
    }
  } catch (error) {
    if (!exchange.isAskedAgain()) throw error
    yield continued
  }
}

/** Usage is read from the wire. */
const noCounts = {
  inputTokens: { total: undefined, noCache: undefined, cacheRead: undefined, cacheWrite: undefined },
  outputTokens: { total: undefined, text: undefined, reasoning: undefined },
}

const continued: LanguageModelV4StreamPart = {
  type: 'finish',
  finishReason: { unified: 'length', raw: 'CONTINUATION' },
  usage: noCounts,
}

function stopOf(finish: LanguageModelV4FinishReason | undefined, hasCalls: boolean): Stop {
  switch (finish?.unified) {
    case 'length':
      return 'cut'
    case 'content-filter':
      return 'refused'
    case 'tool-calls':
      return 'tool_calls'
    // Some servers say of a reply with calls that it just ended.
    case 'stop':
      return hasCalls ? 'tool_calls' : 'end'
    default:
      return hasCalls && finish?.unified === undefined ? 'tool_calls' : 'other'
  }
}

/** An event of a kind that the package does not know: providers add such, and say that they are to be passed over. */
const knownEvents = /^(message_|content_block_|error$|ping$)/

function isUnknownEvent(error: unknown): boolean {
  if (!isRecord(error) || error.name !== 'AI_TypeValidationError' || !isRecord(error.value)) return false
  const type = textOf(error.value.type)
  return type !== '' && !knownEvents.test(type)
}

/** The packages say errors within a stream in three ways: as the provider sent them, around `data`, and as an event that they could not read. */
function streamFailure(error: unknown, apiKey: string | undefined): ProviderFailure {
  const outer = isRecord(error) ? error : {}
  const said = outer.data ?? (isRecord(outer.value) && outer.value.error !== undefined ? outer.value : undefined)
  if (said !== undefined) return failureIn(said, { apiKey })
  if (error instanceof Error) {
    return new ProviderFailure('unavailable', withoutKey(`Its answer could not be read: ${error.message}`, apiKey), {
      cause: error,
    })
  }
  return failureIn(error, { apiKey })
}

interface Ending {
  signal: AbortSignal
  exchange: Exchange
  apiKey: string | undefined
}

function asFailure(error: unknown, { signal, exchange, apiKey }: Ending): unknown {
  if (signal.aborted) return signal.reason
  if (error instanceof ProviderFailure) return error
  const rejection = exchange.rejection()
  if (rejection) return rejection.cause
  // Before anything left it can only be a mistake of ours.
  if (!exchange.isAsked()) return error
  // An error as the first event of a stream is thrown by one of the packages as if it were an answer.
  const answer = isRecord(error) ? textOf(error.responseBody) : ''
  if (answer !== '') return streamFailure({ data: parsed(answer) }, apiKey)
  return new ProviderFailure('unavailable', withoutKey(`The answer broke off (${deepestOf(error)}).`, apiKey), {
    cause: error,
  })
}

/** The packages wrap what happened to a connection in words that say nothing. */
function deepestOf(error: unknown): string {
  const chain = [error]
  while (chain.length < 8 && chain.at(-1) instanceof Error) chain.push((chain.at(-1) as Error).cause)
  const deepest = chain.findLast((each) => each instanceof Error)
  return deepest?.message ?? 'it was cut'
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch {
    return text
  }
}
