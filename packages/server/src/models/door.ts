// What features above ask of models, beside what the service does.
export type { Attempt, CallModel, ModelCall, ModelReply } from './call.ts'
export type { Passage } from './passage.ts'
export { imageTypeOf, readImageHeader } from './image-header.ts'
export { imageTypes } from './conversation.ts'
export type {
  ImagePart,
  ImageType,
  Message,
  ReplyPart,
  TextPart,
  ToolCallPart,
  ToolDescription,
  ToolResultPart,
  UserPart,
} from './conversation.ts'
export { thinkingLevels } from './provider.ts'
export type { Stop, ThinkingLevel, Usage } from './provider.ts'
