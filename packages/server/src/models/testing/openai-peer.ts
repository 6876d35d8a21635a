import { imageSize } from '../providers/image-size.ts'
import {
  countTokens,
  eventOf,
  inputText,
  isRecord,
  piecesOf,
  recordsOf,
  startPeer,
  textOf,
  type PeerOptions,
  type PeerPart,
  type PeerRefusal,
  type PeerRequest,
  type Protocol,
  type ScriptedPeer,
  type SettledReply,
} from './peer.ts'

// The format is that of https://platform.openai.com/docs/api-reference/chat/create and …/chat/streaming, the errors those of https://platform.openai.com/docs/guides/error-codes; thinking comes as
// `reasoning_content`, as https://api-docs.deepseek.com/guides/reasoning_model and vLLM (https://docs.vllm.ai/en/latest/features/reasoning_outputs.html) have it.

export function startOpenaiPeer(options?: PeerOptions): Promise<ScriptedPeer> {
  return startPeer(protocol, options)
}

const errorTypes: Record<number, string> = {
  401: 'authentication_error',
  429: 'rate_limit_error',
}
const finishReasons = { end: 'stop', tool_calls: 'tool_calls', cut: 'length', refused: 'content_filter' }

const protocol: Protocol = {
  name: 'openai',
  prefix: '/v1',
  isPath: (path) => path === '/chat/completions',
  keyOf: ({ authorization }) => /^Bearer (.+)$/.exec(authorization ?? '')?.[1],
  fault: faultOf,
  read: readRequest,
  refusal: errorOf,
  invalidKey: { status: 401, type: 'invalid_api_key', message: 'Incorrect API key provided.' },
  events: eventsOf,
  brokenEvent: (refusal) => eventOf(errorOf(refusal)),
  countInput: countOpenaiInput,
}

function errorOf({ status, type, message }: PeerRefusal): object {
  const words = {
    message: message ?? `Status ${status}`,
    type: type ?? errorTypes[status] ?? (status >= 500 ? 'server_error' : 'invalid_request_error'),
  }
  return { error: { ...words, param: null, code: type ?? null } }
}

// Requests

function faultOf(body: Readonly<Record<string, unknown>>): string | undefined {
  if (textOf(body.model) === '') return 'you must provide a model parameter'
  if (body.stream !== true) return 'This peer only streams.'
  for (const field of ['max_tokens', 'max_completion_tokens']) {
    const limit = body[field]
    if (limit !== undefined && !(Number.isInteger(limit) && Number(limit) >= 1))
      return `Invalid '${field}': integer below minimum value.`
  }
  const effort = body.reasoning_effort
  if (effort !== undefined && !['low', 'medium', 'high'].includes(textOf(effort)))
    return "Invalid value for 'reasoning_effort'."
  return toolsFault(body) ?? messagesFault(recordsOf(body.messages))
}

function functionsIn({ tools }: Readonly<Record<string, unknown>>): Record<string, unknown>[] {
  return recordsOf(tools).map((tool) => (isRecord(tool.function) ? tool.function : {}))
}

function toolsFault(body: Readonly<Record<string, unknown>>): string | undefined {
  for (const [at, { name }] of functionsIn(body).entries()) {
    if (!isName(textOf(name)))
      return `Invalid 'tools[${at}].function.name': string does not match pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.`
  }
  return undefined
}

const isName = (name: string) => /^[a-zA-Z0-9_-]{1,64}$/.test(name)

function messagesFault(messages: Record<string, unknown>[]): string | undefined {
  if (messages.length === 0)
    return "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead."
  let open: string[] = []
  for (const [at, message] of messages.entries()) {
    const where = `messages.[${at}]`
    if (message.role === 'tool') {
      const id = textOf(message.tool_call_id)
      if (!open.includes(id))
        return `Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'. (${where})`
      if (typeof message.content !== 'string') return `Invalid type for '${where}.content': expected a string.`
      open = open.filter((each) => each !== id)
      continue
    }
    if (open.length > 0) return missing(open)
    if (!['system', 'developer', 'user', 'assistant'].includes(textOf(message.role)))
      return `Invalid value: '${String(message.role)}' (${where}.role).`
    const calls = recordsOf(message.tool_calls)
    if (message.content === null && calls.length === 0)
      return `Invalid value for 'content': expected a string, got null. (${where})`
    const fault = [...calls.map(callFault), ...recordsOf(message.content).map(partFault)].find(
      (each) => each !== undefined,
    )
    if (fault !== undefined) return `${where}: ${fault}`
    open = calls.map(({ id }) => textOf(id))
    if (new Set(open).size !== open.length) return `Duplicate value for 'tool_call_id' (${where}).`
  }
  return open.length > 0 ? missing(open) : undefined
}

function missing(ids: string[]): string {
  return `An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The following tool_call_ids did not have response messages: ${ids.join(', ')}`
}

function callFault(call: Record<string, unknown>): string | undefined {
  const { name, arguments: text } = isRecord(call.function) ? call.function : {}
  const id = textOf(call.id)
  if (id === '' || id.length > 40)
    return `Invalid 'tool_calls[].id': string too long. Expected a string with maximum length 40, but got a string with length ${id.length} instead.`
  if (!isName(textOf(name))) return "Invalid 'tool_calls[].function.name': string does not match pattern."
  try {
    // As vLLM and llama.cpp do, whose templates read what is in it.
    return isRecord(JSON.parse(textOf(text))) ? undefined : 'Expecting an object of arguments'
  } catch {
    return 'Unterminated string or invalid JSON in arguments'
  }
}

function partFault(part: Record<string, unknown>): string | undefined {
  if (part.type === 'text') return typeof part.text === 'string' ? undefined : "Missing required parameter: 'text'."
  if (part.type !== 'image_url') return `Invalid value: '${String(part.type)}'.`
  return sizeOf(part) ? undefined : 'You uploaded an unsupported image. Please make sure your image is valid.'
}

function sizeOf({ image_url: image }: Record<string, unknown>) {
  const data = /^data:image\/(?:png|jpeg|gif|webp);base64,(.+)$/.exec(isRecord(image) ? textOf(image.url) : '')?.[1]
  return data === undefined ? undefined : imageSize(Buffer.from(data, 'base64'))
}

function plainText(content: unknown): string {
  if (typeof content === 'string') return content
  return recordsOf(content)
    .map(({ text }) => textOf(text))
    .filter((text) => text !== '')
    .join('\n')
}

function readRequest(body: Readonly<Record<string, unknown>>) {
  const messages = recordsOf(body.messages)
  const last = messages
    .slice(messages.findLastIndex(({ role }) => role === 'assistant') + 1)
    .filter(({ role }) => role !== 'system')
  const limit = body.max_tokens ?? body.max_completion_tokens
  return {
    model: textOf(body.model),
    system: plainText(messages.find(({ role }) => role === 'system')?.content),
    tools: functionsIn(body).map(({ name }) => textOf(name)),
    maxOutputTokens: typeof limit === 'number' ? limit : undefined,
    replies: messages.filter(({ role }) => role === 'assistant').length,
    lastText: last.map(({ content }) => plainText(content)).join('\n'),
    results: last
      .filter(({ role }) => role === 'tool')
      .map(({ tool_call_id, content }) => ({ callId: textOf(tool_call_id), text: plainText(content) })),
  }
}

/** Three tokens frame a message (https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken), and an image is 85 and 170 for each tile (https://platform.openai.com/docs/guides/images-vision). */
export function countOpenaiInput(body: Readonly<Record<string, unknown>>, tokens = countTokens): number {
  let count = 3
  for (const each of functionsIn(body)) count += 16 + tokens(JSON.stringify(each))
  for (const message of recordsOf(body.messages)) {
    count += 3 + tokens(textOf(message.role)) + tokens(textOf(message.reasoning_content))
    count += typeof message.content === 'string' ? tokens(message.content) : 0
    for (const part of recordsOf(message.content)) count += tokens(textOf(part.text)) + imageTokens(part)
    for (const call of recordsOf(message.tool_calls)) {
      const { name, arguments: text } = isRecord(call.function) ? call.function : {}
      count += tokens(textOf(name)) + tokens(textOf(text))
    }
  }
  return count
}

function imageTokens(part: Record<string, unknown>): number {
  const size = sizeOf(part)
  if (!size) return 0
  const within = Math.min(1, 2_048 / Math.max(size.width, size.height))
  const scale = within * Math.min(1, 768 / (Math.min(size.width, size.height) * within))
  return 85 + 170 * Math.ceil((size.width * scale) / 512) * Math.ceil((size.height * scale) / 512)
}

// Replies

function eventsOf(reply: SettledReply, request: PeerRequest): string[] {
  const frame = {
    id: `chatcmpl-${reply.id}`,
    object: 'chat.completion.chunk',
    created: 1_726_000_000,
    model: request.model,
    system_fingerprint: 'fp_44709d6fcb',
  }
  const chunk = (delta: object, finish_reason: string | null = null) => {
    return eventOf({ ...frame, choices: [{ index: 0, delta, logprobs: null, finish_reason }], usage: null })
  }
  const { input, cacheRead, output } = reply.usage
  const hidden = reply.parts.some(({ type }) => type === 'thinking') ? Math.floor(output / 2) : 0
  const usage = {
    prompt_tokens: input + cacheRead,
    completion_tokens: output,
    total_tokens: input + cacheRead + output,
    prompt_tokens_details: { cached_tokens: cacheRead },
    completion_tokens_details: { reasoning_tokens: hidden },
  }
  const isAsked = isRecord(request.body.stream_options) && request.body.stream_options.include_usage === true
  let calls = 0
  return [
    chunk({ role: 'assistant', content: '' }),
    ...reply.parts.flatMap((part) =>
      deltasOf(part, part.type === 'tool_call' ? calls++ : 0, reply.pieceChars).map((delta) => chunk(delta)),
    ),
    chunk({}, finishReasons[reply.stop]),
    ...(isAsked ? [eventOf({ ...frame, choices: [], usage })] : []),
    'data: [DONE]\n\n',
  ]
}

function deltasOf(part: PeerPart & { callId?: string }, index: number, pieceChars: number): object[] {
  if (part.type === 'text') return piecesOf(part.text, pieceChars).map((content) => ({ content }))
  if (part.type === 'thinking') {
    // What is hidden is only counted.
    return part.isHidden ? [] : piecesOf(part.text, pieceChars).map((reasoning_content) => ({ reasoning_content }))
  }
  const begin = { index, id: part.callId, type: 'function', function: { name: part.tool, arguments: '' } }
  const rest = piecesOf(inputText(part.input), pieceChars).map((text) => ({ index, function: { arguments: text } }))
  return [begin, ...rest].map((call) => ({ tool_calls: [call] }))
}
