import { engineLimits } from './limits.ts'

// A request to a model as the engine in the sandbox has made it. What is let through is what the meter knows a bound of: not what Anthropic would fetch, run or keep by itself at a price
// that stands nowhere in the request.

export type ReadRequest =
  | { ok: true; model: string; stream: boolean; body: Record<string, unknown> }
  | { ok: false; status: number; message: string }

const messageFields = [
  'model',
  'messages',
  'system',
  'tools',
  'tool_choice',
  'max_tokens',
  'thinking',
  'context_management',
  'output_config',
  'output_format',
  'stream',
  'temperature',
  'top_p',
  'top_k',
  'stop_sequences',
] as const
/** Taken, and not sent on: it says which machine and which account it was. */
const dropped = new Set(['metadata'])
const countFields = ['model', 'messages', 'system', 'tools', 'tool_choice', 'thinking', 'context_management']

export function readMessages(bytes: Uint8Array): ReadRequest {
  const read = readBody(bytes, messageFields)
  if (!read.ok) return read
  const { max_tokens: most, stream = false } = read.body
  if (!Number.isInteger(most) || Number(most) < 1) return refused('max_tokens: a positive whole number is required')
  if (typeof stream !== 'boolean') return refused('stream: true or false')
  return { ...read, stream }
}

export function readCount(bytes: Uint8Array): ReadRequest {
  const read = readBody(bytes, [...messageFields])
  if (!read.ok) return read
  const known = Object.entries(read.body).filter(([field]) => countFields.includes(field))
  return { ...read, body: Object.fromEntries(known) }
}

function readBody(bytes: Uint8Array, fields: readonly string[]): ReadRequest {
  if (bytes.length > engineLimits.bodyBytes) {
    return refused(`The request is larger than ${engineLimits.bodyBytes} bytes`, 413)
  }
  let value: unknown
  try {
    value = JSON.parse(Buffer.from(bytes).toString())
    // What is nested too deep to be written again is refused before anybody tries.
    JSON.stringify(value)
  } catch {
    return refused('The body is no JSON that can be read')
  }
  if (!isRecord(value)) return refused('The body is no JSON object')
  const foreign = Object.keys(value).find((field) => !fields.includes(field) && !dropped.has(field))
  if (foreign !== undefined) return refused(`${foreign.slice(0, 64)}: DELTA does not pass this on`)
  const { model } = value
  if (typeof model !== 'string' || model === '') return refused('model: Field required')
  const fault =
    messagesFault(value.messages) ?? systemFault(value.system) ?? toolsFault(value.tools) ?? editsFault(value)
  if (fault !== undefined) return refused(fault)
  const body = Object.fromEntries(Object.entries(value).filter(([field]) => !dropped.has(field)))
  return { ok: true, model, stream: false, body }
}

function messagesFault(messages: unknown): string | undefined {
  if (!Array.isArray(messages) || messages.length === 0) return 'messages: at least one message is required'
  if (messages.length > engineLimits.messages) return `messages: at most ${engineLimits.messages}`
  let blocks = 0
  for (const [at, message] of messages.entries()) {
    if (!isRecord(message)) return `messages.${at}: no object`
    const { content } = message
    if (typeof content === 'string') continue
    if (!Array.isArray(content)) return `messages.${at}.content: a text or a list`
    blocks += content.length
    if (blocks > engineLimits.blocks) return `messages: at most ${engineLimits.blocks} blocks`
    for (const [index, block] of content.entries()) {
      const fault = blockFault(block)
      if (fault !== undefined) return `messages.${at}.content.${index}: ${fault}`
    }
  }
  return undefined
}

/** What counts by its bytes, and images by their size. A document or what lies elsewhere may be more than its bytes say. */
function blockFault(block: unknown): string | undefined {
  if (!isRecord(block)) return 'no object'
  switch (block.type) {
    case 'text':
    case 'thinking':
    case 'redacted_thinking':
    case 'tool_use':
    case 'tool_reference':
      return undefined
    case 'image':
      return imageFault(block)
    case 'tool_result':
      return resultFault(block)
    default:
      return `DELTA passes on no block of the type ${String(block.type).slice(0, 64)}`
  }
}

function imageFault({ source }: Record<string, unknown>): string | undefined {
  return isRecord(source) && source.type === 'base64' ? undefined : 'an image comes with its bytes, as base64'
}

function resultFault({ content }: Record<string, unknown>): string | undefined {
  if (content === undefined || typeof content === 'string') return undefined
  if (!Array.isArray(content)) return 'content: a text or a list'
  for (const block of content) {
    if (!isRecord(block)) return 'content: no object'
    if (block.type === 'text' || block.type === 'tool_reference') continue
    if (block.type !== 'image') return `DELTA passes on no result of the type ${String(block.type).slice(0, 64)}`
    const fault = imageFault(block)
    if (fault !== undefined) return fault
  }
  return undefined
}

function systemFault(system: unknown): string | undefined {
  if (system === undefined || typeof system === 'string') return undefined
  const isText = (block: unknown) => isRecord(block) && block.type === 'text'
  return Array.isArray(system) && system.every(isText) ? undefined : 'system: a text, or a list of texts'
}

/** Only tools that the engine runs itself: those that Anthropic runs have a price of their own. */
function toolsFault(tools: unknown): string | undefined {
  if (tools === undefined) return undefined
  if (!Array.isArray(tools) || tools.length > engineLimits.tools)
    return `tools: a list of at most ${engineLimits.tools}`
  for (const [at, tool] of tools.entries()) {
    if (!isRecord(tool)) return `tools.${at}: no object`
    const { type } = tool
    if (type === undefined || type === 'custom') continue
    return `tools.${at}: DELTA passes on no tool of the type ${String(type).slice(0, 64)}, which Anthropic runs at a price of its own`
  }
  return undefined
}

/** Edits that leave something out; a summary that Anthropic writes costs what nobody has held. */
function editsFault({ context_management: management }: Record<string, unknown>): string | undefined {
  if (management === undefined || management === null) return undefined
  const edits = isRecord(management) ? (management.edits ?? []) : undefined
  const isClear = (edit: unknown) => isRecord(edit) && typeof edit.type === 'string' && edit.type.startsWith('clear_')
  return Array.isArray(edits) && edits.every(isClear)
    ? undefined
    : 'context_management: only edits that clear something'
}

/** Betas that change how it is said, not what it costs. */
const knownBetas = [
  'claude-code-',
  'interleaved-thinking-',
  'context-management-',
  'thinking-token-count-',
  'thinking-display-updates-',
  'advanced-tool-use-',
  'tool-search-tool-',
  'fine-grained-tool-streaming-',
  'token-efficient-tools-',
  'prompt-caching-scope-',
  'extended-cache-ttl-',
  'effort-',
  'structured-outputs-',
]

/** What goes on of its headers. */
export function passedHeaders(headers: Readonly<Record<string, string>>): Record<string, string> {
  const wanted = (headers['anthropic-beta'] ?? '').split(',').map((beta) => beta.trim())
  const betas = wanted
    .filter((beta) => /^[a-z0-9-]{1,64}$/.test(beta) && knownBetas.some((known) => beta.startsWith(known)))
    .slice(0, engineLimits.betas)
  return betas.length === 0 ? {} : { 'anthropic-beta': betas.join(',') }
}

function refused(message: string, status = 400): ReadRequest {
  return { ok: false, status, message }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
