import { createHash } from 'node:crypto'
import { imageSize } from '../providers/image-size.ts'
import {
  countTokens,
  eventOf,
  inputText,
  isRecord,
  piecesOf,
  recordsOf,
  signatureOf,
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

// The format is that of https://docs.claude.com/en/api/messages and https://docs.claude.com/en/docs/build-with-claude/streaming, the errors those of
// https://docs.claude.com/en/api/errors, what is asked of thinking that of https://docs.claude.com/en/docs/build-with-claude/extended-thinking.

export function startAnthropicPeer(options?: PeerOptions): Promise<ScriptedPeer> {
  return startPeer(protocol, options)
}

const errorTypes: Record<number, string> = {
  400: 'invalid_request_error',
  401: 'authentication_error',
  402: 'billing_error',
  403: 'permission_error',
  404: 'not_found_error',
  413: 'request_too_large',
  429: 'rate_limit_error',
  500: 'api_error',
  504: 'timeout_error',
  529: 'overloaded_error',
}

const stopReasons = { end: 'end_turn', tool_calls: 'tool_use', cut: 'max_tokens', refused: 'refusal' }

const protocol: Protocol = {
  name: 'anthropic',
  prefix: '/v1',
  isPath: (path) => path === '/messages',
  keyOf: (headers) => (headers['anthropic-version'] === '2023-06-01' ? single(headers['x-api-key']) : undefined),
  fault: faultOf,
  read: readRequest,
  refusal: errorOf,
  invalidKey: { status: 401, message: 'invalid x-api-key' },
  events: eventsOf,
  brokenEvent: (refusal) => eventOf(errorOf(refusal), 'error'),
  countInput: countAnthropicInput,
}

function single(header: string | string[] | undefined): string | undefined {
  return typeof header === 'string' ? header : undefined
}

function errorOf({ status, type, message }: PeerRefusal): object {
  const error = { type: type ?? errorTypes[status] ?? 'api_error', message: message ?? `Status ${status}` }
  return { type: 'error', error, request_id: 'req_011CSHoEeqs5C35K2UUqR7Fy' }
}

// Requests

const topFields = new Set(
  'model messages max_tokens system tools tool_choice thinking output_config context_management stream temperature top_k top_p stop_sequences metadata service_tier container mcp_servers'.split(
    ' ',
  ),
)
const imageTypes = new Set(['image/png', 'image/jpeg', 'image/gif', 'image/webp'])

function faultOf(body: Readonly<Record<string, unknown>>): string | undefined {
  const extra = Object.keys(body).find((field) => !topFields.has(field))
  if (extra !== undefined) return `${extra}: Extra inputs are not permitted`
  if (textOf(body.model) === '') return 'model: Field required'
  if (body.stream !== true) return 'stream: this peer only streams'
  const limit = body.max_tokens
  if (limit === undefined) return 'max_tokens: Field required'
  if (!Number.isInteger(limit) || Number(limit) < 1) return 'max_tokens: Input should be greater than or equal to 1'
  return thinkingFault(body) ?? toolsFault(body) ?? messagesFault(body) ?? marksFault(body)
}

function thinkingFault({ thinking, max_tokens }: Readonly<Record<string, unknown>>): string | undefined {
  if (!isRecord(thinking) || thinking.type !== 'enabled') return undefined
  const budget = Number(thinking.budget_tokens)
  if (!(budget >= 1_024)) return 'thinking.enabled.budget_tokens: Input should be greater than or equal to 1024'
  if (budget >= Number(max_tokens)) {
    return '`max_tokens` must be greater than `thinking.budget_tokens`. Please consult our documentation'
  }
  return undefined
}

function toolsFault({ tools }: Readonly<Record<string, unknown>>): string | undefined {
  const names = new Set<string>()
  for (const [at, tool] of recordsOf(tools).entries()) {
    const name = textOf(tool.name)
    if (!/^[a-zA-Z0-9_-]{1,128}$/.test(name)) {
      return `tools.${at}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'`
    }
    if (names.has(name)) return 'tools: Tool names must be unique.'
    names.add(name)
    if (!isRecord(tool.input_schema) || tool.input_schema.type !== 'object') {
      return `tools.${at}.custom.input_schema.type: Field required`
    }
  }
  return undefined
}

function messagesFault(body: Readonly<Record<string, unknown>>): string | undefined {
  const messages = recordsOf(body.messages)
  if (messages.length === 0) return 'messages: at least one message is required'
  if (messages[0]!.role !== 'user') return 'messages: first message must use the "user" role'
  const used = new Set<string>()
  let open: string[] = []
  for (const [at, message] of messages.entries()) {
    const blocks = blocksOf(message.content)
    const where = `messages.${at}`
    if (message.role !== 'user' && message.role !== 'assistant')
      return `${where}.role: Input should be 'user' or 'assistant'`
    if (at > 0 && messages[at - 1]!.role === message.role)
      return 'messages: roles must alternate between "user" and "assistant"'
    if (blocks.length === 0) return `${where}: all messages must have non-empty content`
    const answered = blocks.filter(({ type }) => type === 'tool_result').map((block) => textOf(block.tool_use_id))
    const missing = open.filter((id) => !answered.includes(id))
    if (missing.length > 0) {
      return `${where}: \`tool_use\` ids were found without \`tool_result\` blocks immediately after: ${missing.join(', ')}. Each \`tool_use\` block must have a corresponding \`tool_result\` block in the next message.`
    }
    const unknown = answered.find((id) => !open.includes(id))
    if (unknown !== undefined) {
      return `${where}: unexpected \`tool_use_id\` found in \`tool_result\` blocks: ${unknown}. Each \`tool_result\` block must have a corresponding \`tool_use\` block in the previous message.`
    }
    if (answered.length > 0 && blocks.slice(0, answered.length).some(({ type }) => type !== 'tool_result')) {
      return `${where}: \`tool_result\` blocks must come first in the content`
    }
    open = []
    for (const [index, block] of blocks.entries()) {
      const fault = blockFault(block, textOf(body.model))
      if (fault !== undefined) return `${where}.content.${index}.${fault}`
      if (block.type !== 'tool_use') continue
      const id = textOf(block.id)
      if (used.has(id)) return `${where}: \`tool_use\` ids must be unique`
      used.add(id)
      open.push(id)
    }
  }
  if (open.length > 0)
    return `messages: \`tool_use\` ids were found without \`tool_result\` blocks immediately after: ${open.join(', ')}`
  return firstOfThinking(body, messages)
}

/** While tools are used, the reply that called them has to begin with its thinking, where thinking has a budget. */
function firstOfThinking(
  body: Readonly<Record<string, unknown>>,
  messages: Record<string, unknown>[],
): string | undefined {
  const isBudgeted = isRecord(body.thinking) && body.thinking.type === 'enabled'
  const isInTurn = blocksOf(messages.at(-1)?.content)[0]?.type === 'tool_result'
  const first = blocksOf(messages.at(-2)?.content)[0]?.type
  if (!isBudgeted || !isInTurn || first === 'thinking' || first === 'redacted_thinking') return undefined
  return `messages.${messages.length - 2}.content.0.type: Expected \`thinking\` or \`redacted_thinking\`, but found \`${String(first)}\`. When \`thinking\` is enabled, a final \`assistant\` message must start with a thinking block`
}

function blockFault(block: Record<string, unknown>, model: string): string | undefined {
  switch (block.type) {
    case 'text':
      return textOf(block.text).trim() === '' ? 'text: text content blocks must contain non-whitespace text' : undefined
    case 'image':
      return imageFault(block)
    case 'tool_use':
      if (!/^[a-zA-Z0-9_-]+$/.test(textOf(block.id)))
        return "tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
      if (!/^[a-zA-Z0-9_-]{1,200}$/.test(textOf(block.name))) {
        return "tool_use.name: String should match pattern '^[a-zA-Z0-9_-]{1,200}$'"
      }
      return isRecord(block.input) ? undefined : 'tool_use.input: Input should be a valid dictionary'
    case 'tool_result':
      return recordsOf(block.content)
        .map((inner) => blockFault(inner, model))
        .find((fault) => fault !== undefined)
    case 'thinking':
      return block.signature === signatureOf('anthropic', model, textOf(block.thinking))
        ? undefined
        : 'thinking.signature: Invalid `signature` in `thinking` block'
    case 'redacted_thinking':
      return hiddenIsKnown(textOf(block.data), model) ? undefined : 'redacted_thinking.data: Invalid `data`'
    default:
      return `type: Input tag '${String(block.type)}' found using 'type' does not match any of the expected tags`
  }
}

function imageFault({ source }: Record<string, unknown>): string | undefined {
  if (!isRecord(source) || source.type !== 'base64') return 'image.source: Field required'
  if (!imageTypes.has(textOf(source.media_type))) return 'image.source.base64.media_type: Input should be an image'
  const size = imageSize(Buffer.from(textOf(source.data), 'base64'))
  if (!size) return 'image.source.base64.data: Could not process image'
  return Math.max(size.width, size.height) > 8_000
    ? 'image.source.base64.data: At least one of the image dimensions exceed max allowed size: 8000 pixels'
    : undefined
}

function marksFault(body: Readonly<Record<string, unknown>>): string | undefined {
  const places = [...recordsOf(body.tools), ...blocksOf(body.system)]
  for (const message of recordsOf(body.messages)) places.push(...blocksOf(message.content))
  const marks = places.filter(({ cache_control }) => cache_control !== undefined && cache_control !== null)
  if (marks.length > 4) return `A maximum of 4 blocks with cache_control may be provided. Found ${marks.length}.`
  const wrong = marks.some(({ type }) => type === 'thinking' || type === 'redacted_thinking')
  return wrong ? 'cache_control: cannot be set on thinking blocks' : undefined
}

function blocksOf(content: unknown): Record<string, unknown>[] {
  return typeof content === 'string' ? [{ type: 'text', text: content }] : recordsOf(content)
}

function plainText(content: unknown): string {
  return blocksOf(content)
    .map((block) => (block.type === 'tool_result' ? plainText(block.content) : textOf(block.text)))
    .filter((text) => text !== '')
    .join('\n')
}

function readRequest(body: Readonly<Record<string, unknown>>) {
  const messages = recordsOf(body.messages)
  const last = messages.findLast(({ role }) => role === 'user')
  return {
    model: textOf(body.model),
    system: plainText(body.system),
    tools: recordsOf(body.tools).map(({ name }) => textOf(name)),
    maxOutputTokens: Number(body.max_tokens),
    replies: messages.filter(({ role }) => role === 'assistant').length,
    lastText: plainText(last?.content),
    results: blocksOf(last?.content)
      .filter(({ type }) => type === 'tool_result')
      .map((block) => ({ callId: textOf(block.tool_use_id), text: plainText(block.content) })),
  }
}

/** The system prompt about tools is 346 tokens (https://docs.claude.com/en/docs/agents-and-tools/tool-use/overview), an image its pixels / 750 (…/build-with-claude/vision). */
export function countAnthropicInput(body: Readonly<Record<string, unknown>>, tokens = countTokens): number {
  const tools = recordsOf(body.tools)
  let count = tokens(plainText(body.system)) + (tools.length > 0 ? 346 : 0)
  for (const { name, description, input_schema } of tools) {
    count += tokens(JSON.stringify({ name, description, input_schema }))
  }
  const block = (each: Record<string, unknown>): number => {
    if (each.type === 'tool_result')
      return tokens(textOf(each.tool_use_id)) + blocksOf(each.content).reduce((sum, inner) => sum + block(inner), 0)
    if (each.type === 'tool_use') return tokens(textOf(each.name) + JSON.stringify(each.input))
    if (each.type === 'thinking') return tokens(textOf(each.thinking))
    if (each.type !== 'image') return tokens(textOf(each.text))
    const size = imageSize(Buffer.from(textOf(isRecord(each.source) && each.source.data), 'base64'))
    return size ? Math.ceil(Math.min(1_600, (size.width * size.height) / 750)) : 0
  }
  for (const message of recordsOf(body.messages)) {
    count += 4 + blocksOf(message.content).reduce((sum, each) => sum + block(each), 0)
  }
  return count
}

// Replies

function eventsOf(reply: SettledReply, request: PeerRequest): string[] {
  const { input, cacheRead, cacheWrite, cacheWriteHour, output } = reply.usage
  const usage = {
    input_tokens: input,
    cache_creation_input_tokens: cacheWrite + cacheWriteHour,
    cache_read_input_tokens: cacheRead,
    cache_creation: { ephemeral_5m_input_tokens: cacheWrite, ephemeral_1h_input_tokens: cacheWriteHour },
    output_tokens: 1,
    service_tier: 'standard',
  }
  const message = { id: `msg_${reply.id}`, type: 'message', role: 'assistant', model: request.model, content: [] }
  const start = { ...message, stop_reason: null, stop_sequence: null, usage }
  return [
    eventOf({ type: 'message_start', message: start }, 'message_start'),
    ...reply.parts.flatMap((part, index) => blockEvents(part, index, reply, request.model)),
    eventOf(
      {
        type: 'message_delta',
        delta: { stop_reason: stopReasons[reply.stop], stop_sequence: null },
        usage: { output_tokens: output },
      },
      'message_delta',
    ),
    eventOf({ type: 'message_stop' }, 'message_stop'),
  ]
}

function blockEvents(
  part: PeerPart & { callId?: string },
  index: number,
  reply: SettledReply,
  model: string,
): string[] {
  const begin = (content_block: object) =>
    eventOf({ type: 'content_block_start', index, content_block }, 'content_block_start')
  const delta = (piece: object) => eventOf({ type: 'content_block_delta', index, delta: piece }, 'content_block_delta')
  const end = eventOf({ type: 'content_block_stop', index }, 'content_block_stop')
  const ping = index === 0 ? [eventOf({ type: 'ping' }, 'ping')] : []
  if (part.type === 'text') {
    const deltas = piecesOf(part.text, reply.pieceChars).map((text) => delta({ type: 'text_delta', text }))
    return [begin({ type: 'text', text: '' }), ...ping, ...deltas, end]
  }
  if (part.type === 'tool_call') {
    const pieces = ['', ...piecesOf(inputText(part.input), reply.pieceChars)]
    const deltas = pieces.map((partial_json) => delta({ type: 'input_json_delta', partial_json }))
    return [begin({ type: 'tool_use', id: part.callId, name: part.tool, input: {} }), ...ping, ...deltas, end]
  }
  if (part.isHidden) return [begin({ type: 'redacted_thinking', data: hiddenData(part.text, model) }), ...ping, end]
  const signature = signatureOf('anthropic', model, part.text)
  return [
    begin({ type: 'thinking', thinking: '', signature: '' }),
    ...ping,
    ...piecesOf(part.text, reply.pieceChars).map((thinking) => delta({ type: 'thinking_delta', thinking })),
    delta({ type: 'signature_delta', signature }),
    end,
  ]
}

function hiddenData(text: string, model: string): string {
  const about = createHash('sha256').update(text).digest('hex')
  return `${about}.${signatureOf('anthropic', model, about)}`
}

function hiddenIsKnown(data: string, model: string): boolean {
  const [about = '', signature] = data.split('.')
  return signature === signatureOf('anthropic', model, about)
}
