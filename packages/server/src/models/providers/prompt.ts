import { createHash } from 'node:crypto'
import type {
  JSONObject,
  LanguageModelV4FunctionTool,
  LanguageModelV4Message,
  LanguageModelV4Prompt,
  LanguageModelV4ToolResultPart,
  SharedV4ProviderOptions,
} from '@ai-sdk/provider'
import type {
  Bound,
  ImagePart,
  Message,
  ReplyPart,
  TextPart,
  ToolDescription,
  ToolResultPart,
  UserPart,
} from '../conversation.ts'
import type { ProviderName, ProviderRequest } from '../provider.ts'
import { isRecord } from './reading.ts'

/** What one provider takes in a conversation. */
export interface PromptStyle {
  provider: ProviderName
  /** Under which its package looks for what is its own. */
  optionsKey: string
  /** Images within the result of a tool. Where it takes none, they come as a message of the user right after. */
  takesImagesInResults: boolean
  /** Thinking goes back only in the turn it belongs to. */
  forgetsThinkingOfTurns: boolean
  /** What an id of a call may be. */
  callId: RegExp
}

const noText = '(no text)'
const invalidInputMax = 8_000

/** The conversation as the packages take it. */
export async function promptOf(request: ProviderRequest, style: PromptStyle): Promise<LanguageModelV4Prompt> {
  const prompt: LanguageModelV4Prompt = []
  if (request.system.trim() !== '') prompt.push({ role: 'system', content: request.system })
  const turn = request.messages.findLastIndex(({ role }) => role === 'user')
  const context: Context = { request, style, images: await imagesOf(request) }
  for (const [at, message] of request.messages.entries()) {
    prompt.push(...messagesOnce(message, context, at > turn))
  }
  return prompt
}

export function toolsOf(tools: readonly ToolDescription[]): LanguageModelV4FunctionTool[] {
  return tools.map(({ name, description, inputSchema }) => ({ type: 'function', name, description, inputSchema }))
}

interface Context {
  request: ProviderRequest
  style: PromptStyle
  images: ReadonlyMap<string, Uint8Array>
}

/** Each is asked for once, however often it stands in the conversation. */
async function imagesOf({ messages, image }: ProviderRequest): Promise<ReadonlyMap<string, Uint8Array>> {
  const digests = new Set(messages.flatMap((message) => imagesIn(message).map(({ digest }) => digest)))
  return new Map(await Promise.all(Array.from(digests, async (digest) => [digest, await image(digest)] as const)))
}

function imagesIn({ parts }: Message): ImagePart[] {
  return parts.flatMap((part) => {
    const inside = part.type === 'tool_result' ? part.content : [part]
    return inside.filter((one) => one.type === 'image')
  })
}

/** What was made of a message, by whom it was made for: it never changes, and is sent again with every step. Those with images are made anew, so that nobody holds their bytes. */
const made = new WeakMap<Message, Map<string, readonly LanguageModelV4Message[]>>()

function messagesOnce(message: Message, context: Context, isTurn: boolean): readonly LanguageModelV4Message[] {
  const { request, style } = context
  const reader = `${style.provider} ${isTurn || !style.forgetsThinkingOfTurns} ${request.model}`
  const known = made.get(message)
  const found = known?.get(reader)
  if (found) return found
  const fresh = messagesOf(message, context, isTurn)
  if (imagesIn(message).length > 0) return fresh
  if (known) known.set(reader, fresh)
  else made.set(message, new Map([[reader, fresh]]))
  return fresh
}

function messagesOf(message: Message, context: Context, isTurn: boolean): LanguageModelV4Message[] {
  switch (message.role) {
    case 'user':
      return [{ role: 'user', content: userContent(message.parts, context) }]
    case 'assistant': {
      const content = message.parts.flatMap((part) => replyPart(part, context, isTurn))
      // One that came to nothing still stands between two messages of the user.
      return [{ role: 'assistant', content: content.length > 0 ? content : [{ type: 'text', text: noText }] }]
    }
    case 'tool':
      return toolMessages(message.parts, context)
  }
}

function userContent(parts: readonly UserPart[], context: Context) {
  const given = parts.filter((part) => part.type === 'image' || part.text.trim() !== '')
  const content = given.map((part) => (part.type === 'image' ? filePart(part, context) : textPart(part.text)))
  return content.length > 0 ? content : [textPart(noText)]
}

const textPart = (text: string) => ({ type: 'text' as const, text })

function filePart({ digest, mediaType }: ImagePart, { images }: Context) {
  return { type: 'file' as const, mediaType, data: { type: 'data' as const, data: images.get(digest)! } }
}

type AssistantContent = Extract<LanguageModelV4Message, { role: 'assistant' }>['content']

function replyPart(part: ReplyPart, { request, style }: Context, isTurn: boolean): AssistantContent {
  const bound = boundOptions(part.bound, request.model, style)
  switch (part.type) {
    case 'text':
      // A blank text is refused by some, and one with a signature is part of what was thought.
      return part.text.trim() === '' && !bound.providerOptions ? [] : [{ ...textPart(part.text), ...bound }]
    case 'thinking': {
      if (!bound.providerOptions || (style.forgetsThinkingOfTurns && !isTurn)) return []
      return [{ type: 'reasoning' as const, text: part.text, ...bound }]
    }
    case 'tool_call': {
      const toolCallId = callIdFor(part.callId, style)
      return [
        {
          type: 'tool-call' as const,
          toolCallId,
          toolName: toolNameFor(part.tool),
          input: inputOf(part.input),
          ...bound,
        },
      ]
    }
  }
}

/** Only for the model it came from: another would refuse the request, or take it for its own words. */
function boundOptions(
  bound: Bound | undefined,
  model: string,
  style: PromptStyle,
): { providerOptions?: SharedV4ProviderOptions } {
  if (bound?.provider !== style.provider || bound.model !== model) return {}
  return { providerOptions: { [style.optionsKey]: bound.data as JSONObject } }
}

/** What a model wrote that is no JSON object comes back to it as one that says so. */
export function inputOf(input: string): Record<string, unknown> {
  if (input.trim() === '') return {}
  try {
    const value: unknown = JSON.parse(input)
    if (isRecord(value)) return value
  } catch {
    // Shown to it below.
  }
  return { not_valid_json: input.slice(0, invalidInputMax) }
}

/** Ids go from one provider to another with the conversation, and not each takes what another makes. */
function callIdFor(callId: string, style: PromptStyle): string {
  if (style.callId.test(callId)) return callId
  return `call_${createHash('sha256').update(callId).digest('hex').slice(0, 24)}`
}

/** A name that a model has made up may be none that a provider takes back. */
function toolNameFor(name: string): string {
  return name.replaceAll(/[^\w-]/g, '_').slice(0, 64) || 'unnamed'
}

function toolMessages(parts: readonly ToolResultPart[], context: Context): LanguageModelV4Message[] {
  const after: LanguageModelV4Message[] = []
  const content: LanguageModelV4ToolResultPart[] = []
  for (const part of parts) {
    const images = part.content.filter(({ type }) => type === 'image')
    // An error has no place for an image beside its mark, with any of them.
    const isInside = images.length > 0 && context.style.takesImagesInResults && !part.isError
    const output = isInside ? mixedOutput(part, context) : textOutput(part, images.length)
    content.push({
      type: 'tool-result',
      toolCallId: callIdFor(part.callId, context.style),
      toolName: toolNameFor(part.tool),
      output,
    })
    if (images.length === 0 || isInside) continue
    const label: TextPart = { type: 'text', text: `From the result of ${part.tool} (${part.callId}):` }
    after.push({ role: 'user', content: userContent([label, ...(images as ImagePart[])], context) })
  }
  return [{ role: 'tool', content }, ...after]
}

function textOutput({ content, isError }: ToolResultPart, images: number): LanguageModelV4ToolResultPart['output'] {
  const texts = content.filter((part) => part.type === 'text').map(({ text }) => text)
  if (images > 0) texts.push(images === 1 ? '(an image, shown below)' : `(${images} images, shown below)`)
  return { type: isError ? 'error-text' : 'text', value: texts.join('\n').trim() === '' ? noText : texts.join('\n') }
}

function mixedOutput({ content }: ToolResultPart, context: Context): LanguageModelV4ToolResultPart['output'] {
  const given = content.filter((part) => part.type === 'image' || part.text.trim() !== '')
  const value = given.map((part) => (part.type === 'image' ? filePart(part, context) : textPart(part.text)))
  return { type: 'content', value }
}
