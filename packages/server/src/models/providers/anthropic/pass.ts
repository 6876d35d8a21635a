import type { ReplyPart } from '../../conversation.ts'
import type { CountTokens, Pass } from '../../passage.ts'
import { ProviderFailure, type ProviderEvent, type Stop, type StreamOptions } from '../../provider.ts'
import { failureIn, failureOf, withoutKey } from '../failures.ts'
import { countIn, isRecord, recordIn, textOf } from '../reading.ts'
import { recordOf } from '../event-reader.ts'
import { anthropicWire } from './wire.ts'

/** An event is never larger than an answer; one of a provider comes nowhere near this. */
const eventBytesMax = 16 * 1024 * 1024
const countBytesMax = 64 * 1024

/** One request that somebody else has written (https://docs.claude.com/en/api/messages), streamed: its answer goes on event by event, and is read along. */
export const passMessages: Pass = async function* (request, options) {
  const { body, maxOutputTokens } = request
  const limited = anthropicWire.withOutputLimit(body, maxOutputTokens)
  const response = await ask('messages', { ...request, body: { ...limited, stream: true } }, options)
  let isPassed = false
  const message = createMessage()
  for await (const { bytes, data } of eventsIn(response.body!, options)) {
    const event = recordOf(data)
    if (!event) continue
    if (event.type === 'error') throw failureIn(event, { apiKey: options.endpoint.apiKey })
    // Said before it is passed on: from here on nothing is asked again.
    if (!isPassed) yield { type: 'delta', of: 'text', text: '' }
    isPassed = true
    await request.write(bytes, event)
    yield* message.read(event)
    if (message.isOver()) return yield message.end()
  }
  throw new ProviderFailure('unavailable', 'The answer broke off before its end.')
}

export const countTokens: CountTokens = async (request, options) => {
  const response = await ask('messages/count_tokens', request, options)
  let text = ''
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    text += chunk
    if (text.length > countBytesMax) break
  }
  const count = countIn(recordOf(text)?.input_tokens)
  if (count === undefined) throw new ProviderFailure('unavailable', 'Its count could not be read.')
  return count
}

async function ask(
  path: string,
  { model, body, headers }: { model: string; body: object; headers: Readonly<Record<string, string>> },
  { endpoint: { apiKey, baseUrl }, fetch, signal }: StreamOptions,
): Promise<Response> {
  signal.throwIfAborted()
  if (!apiKey) throw new ProviderFailure('key', 'There is no key for anthropic.')
  const own = { 'content-type': 'application/json', 'anthropic-version': '2023-06-01', 'x-api-key': apiKey }
  let response: Response
  try {
    response = await fetch(`${baseUrl}/${path}`, {
      method: 'POST',
      headers: { ...headers, ...own },
      body: JSON.stringify({ ...body, model }),
      signal,
      redirect: 'manual',
    })
  } catch (error) {
    if (signal.aborted) throw signal.reason
    if (!(error instanceof TypeError && error.cause instanceof Error)) throw error
    const words = withoutKey(`No connection to it (${error.cause.message}).`, apiKey)
    throw new ProviderFailure('unavailable', words, { cause: error })
  }
  if (!response.ok) throw await failureOf(response, apiKey)
  if (!response.body) throw new ProviderFailure('unavailable', 'The answer has no body.', { status: response.status })
  return response
}

interface RawEvent {
  bytes: Uint8Array
  data: string
}

/** The stream cut where an event ends, so that each goes on whole. */
async function* eventsIn(body: ReadableStream<Uint8Array>, { signal }: StreamOptions): AsyncGenerator<RawEvent> {
  const reader = body.getReader()
  let waiting = Buffer.alloc(0)
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      // What was looked at before need not be again, but for an end that was cut in two.
      let from = Math.max(0, waiting.length - 3)
      waiting = Buffer.concat([waiting, value])
      for (;;) {
        const end = endOfEvent(waiting, from)
        if (end === undefined) break
        const bytes = waiting.subarray(0, end)
        yield { bytes, data: dataIn(bytes.toString()) }
        waiting = waiting.subarray(end)
        from = 0
      }
      if (waiting.length > eventBytesMax)
        throw new ProviderFailure('unavailable', 'An event of its answer is too long.')
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason
    throw error
  } finally {
    reader.cancel().catch(() => undefined)
  }
}

/** Behind the empty line. */
function endOfEvent(bytes: Buffer, from: number): number | undefined {
  for (let at = bytes.indexOf(0x0a, from); at !== -1; at = bytes.indexOf(0x0a, at + 1)) {
    if (bytes[at + 1] === 0x0a) return at + 2
    if (bytes[at + 1] === 0x0d && bytes[at + 2] === 0x0a) return at + 3
  }
  return undefined
}

function dataIn(event: string): string {
  return event
    .split(/\r?\n/)
    .flatMap((line) => (line.startsWith('data:') ? [line.slice(5).trimStart()] : []))
    .join('\n')
}

const stops: Readonly<Record<string, Stop>> = {
  end_turn: 'end',
  stop_sequence: 'end',
  tool_use: 'tool_calls',
  max_tokens: 'cut',
  model_context_window_exceeded: 'cut',
  refusal: 'refused',
}

/** What the events of one answer come to. */
function createMessage() {
  const open = new Map<number, { type: string; text: string; callId: string; tool: string }>()
  let stopReason = ''
  let model: string | undefined
  let isOver = false

  function partOf({ type, text, callId, tool }: { type: string; text: string; callId: string; tool: string }) {
    const part: ReplyPart | undefined =
      type === 'text'
        ? { type, text }
        : type === 'thinking'
          ? { type, text }
          : type === 'tool_use'
            ? { type: 'tool_call', callId, tool, input: text === '' ? '{}' : text }
            : undefined
    return part && (part.type === 'tool_call' || part.text !== '') ? part : undefined
  }

  return {
    *read(event: Record<string, unknown>): Generator<ProviderEvent> {
      const index = countIn(event.index) ?? -1
      if (event.type === 'message_start') model = textOf(recordIn(event.message).model) || undefined
      else if (event.type === 'content_block_start') {
        const { type, id, name, text, thinking } = recordIn(event.content_block)
        const begun = textOf(text) + textOf(thinking)
        open.set(index, { type: textOf(type), text: begun, callId: textOf(id), tool: textOf(name) })
      } else if (event.type === 'content_block_delta') {
        const { text, thinking, partial_json } = recordIn(event.delta)
        const block = open.get(index)
        const more = textOf(text) + textOf(thinking) + textOf(partial_json)
        if (!block || more === '') return
        block.text += more
        if (block.type === 'text' || block.type === 'thinking') yield { type: 'delta', of: block.type, text: more }
      } else if (event.type === 'content_block_stop') {
        const block = open.get(index)
        open.delete(index)
        const part = block && partOf(block)
        if (part) yield { type: 'part', part }
      } else if (event.type === 'message_delta') {
        const { delta } = event
        if (isRecord(delta)) stopReason = textOf(delta.stop_reason) || stopReason
      } else if (event.type === 'message_stop') isOver = true
    },
    isOver: () => isOver,
    end(): ProviderEvent {
      const stop = stops[stopReason] ?? 'other'
      return { type: 'end', stop, raw: stopReason, ...(model !== undefined && { model }) }
    },
  }
}
