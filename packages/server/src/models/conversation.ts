/** What is said between people, a model and its tools, as it is stored: in no provider's own format, so that a task may go on with another one. */

/** What only the model of this provider understands, such as the signature of its thinking: sent back to it unchanged, and left out for every other. */
export interface Bound {
  provider: string
  model: string
  data: Readonly<Record<string, unknown>>
}

export const imageTypes = ['image/png', 'image/jpeg', 'image/gif', 'image/webp'] as const
export type ImageType = (typeof imageTypes)[number]

export interface TextPart {
  type: 'text'
  text: string
  bound?: Bound
}

/** Its bytes are a blob of this digest. */
export interface ImagePart {
  type: 'image'
  /** `sha256:…` */
  digest: string
  mediaType: ImageType
  /** Pixels, by its header. */
  width: number
  height: number
}

export interface ThinkingPart {
  type: 'thinking'
  /** Empty where the provider shows none of it. */
  text: string
  bound?: Bound
}

export interface ToolCallPart {
  type: 'tool_call'
  /** The provider's own id of it, or one that was made for it; unique within a conversation. */
  callId: string
  tool: string
  /** JSON as the model wrote it, valid or not. */
  input: string
  bound?: Bound
}

export interface ToolResultPart {
  type: 'tool_result'
  callId: string
  tool: string
  content: readonly (TextPart | ImagePart)[]
  isError: boolean
}

export type UserPart = TextPart | ImagePart
export type ReplyPart = TextPart | ThinkingPart | ToolCallPart

export type Message =
  | { role: 'user'; parts: readonly UserPart[] }
  | { role: 'assistant'; parts: readonly ReplyPart[] }
  | { role: 'tool'; parts: readonly ToolResultPart[] }

/** A tool as the model is told of it. */
export interface ToolDescription {
  name: string
  description: string
  /** JSON schema of an object. */
  inputSchema: Readonly<Record<string, unknown>>
}
