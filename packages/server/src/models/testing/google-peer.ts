import { imageSize } from '../providers/image-size.ts'
import {
  countTokens,
  inputText,
  isRecord,
  piecesOf,
  recordsOf,
  signatureOf,
  startPeer,
  textOf,
  type PeerOptions,
  type PeerRefusal,
  type PeerRequest,
  type Protocol,
  type ScriptedPeer,
  type SettledReply,
} from './peer.ts'

// The format is that of https://ai.google.dev/api/generate-content (with `alt=sse`), what is asked of calls that of https://ai.google.dev/gemini-api/docs/function-calling, what is asked of signatures
// that of https://ai.google.dev/gemini-api/docs/thought-signatures, the errors those of https://ai.google.dev/gemini-api/docs/troubleshooting.

export function startGooglePeer(options?: PeerOptions): Promise<ScriptedPeer> {
  return startPeer(protocol, options)
}

const statuses: Record<number, string> = {
  400: 'INVALID_ARGUMENT',
  403: 'PERMISSION_DENIED',
  404: 'NOT_FOUND',
  429: 'RESOURCE_EXHAUSTED',
  500: 'INTERNAL',
  503: 'UNAVAILABLE',
  504: 'DEADLINE_EXCEEDED',
}

const finishReasons = { end: 'STOP', tool_calls: 'STOP', cut: 'MAX_TOKENS', refused: 'SAFETY' }
const anySignature = 'skip_thought_signature_validator'

const protocol: Protocol = {
  name: 'google',
  prefix: '/v1beta',
  isPath: (path) => modelIn(path) !== undefined,
  keyOf: (headers) => {
    const key = headers['x-goog-api-key']
    return typeof key === 'string' ? key : undefined
  },
  fault: faultOf,
  read: readRequest,
  refusal: errorOf,
  // A wrong key is no 401 here.
  invalidKey: { status: 400, type: 'INVALID_ARGUMENT', message: 'API key not valid. Please pass a valid API key.' },
  events: eventsOf,
  brokenEvent: (refusal) => chunkOf(errorOf(refusal)),
  countInput: countGoogleInput,
}

function modelIn(path: string): string | undefined {
  return /^\/models\/([\w.-]+):streamGenerateContent\?alt=sse$/.exec(path)?.[1]
}

function errorOf({ status, type, message }: PeerRefusal): object {
  const reasons = message?.startsWith('API key not valid') ? [errorInfo('API_KEY_INVALID')] : []
  const words = { message: message ?? `Status ${status}`, status: type ?? statuses[status] ?? 'UNKNOWN' }
  return { error: { code: status, ...words, ...(reasons.length > 0 ? { details: reasons } : {}) } }
}

function errorInfo(reason: string): object {
  return { '@type': 'type.googleapis.com/google.rpc.ErrorInfo', reason, domain: 'googleapis.com' }
}

// Requests

const topFields = new Set(
  'contents tools toolConfig safetySettings systemInstruction generationConfig cachedContent'.split(' '),
)

function faultOf(body: Readonly<Record<string, unknown>>, path: string): string | undefined {
  const extra = Object.keys(body).find((field) => !topFields.has(field))
  if (extra !== undefined) return `Invalid JSON payload received. Unknown name "${extra}": Cannot find field.`
  const config = isRecord(body.generationConfig) ? body.generationConfig : {}
  const limit = config.maxOutputTokens
  if (limit !== undefined && !(Number.isInteger(limit) && Number(limit) >= 1))
    return 'max_output_tokens must be positive.'
  const budget = isRecord(config.thinkingConfig) ? config.thinkingConfig.thinkingBudget : undefined
  if (budget !== undefined && !(Number(budget) >= -1 && Number(budget) <= 32_768)) {
    return 'The thinking budget is invalid. Please choose a value between 0 and 32768.'
  }
  return declarationFault(body) ?? contentsFault(body, modelIn(path) ?? '')
}

function declarationsIn({ tools }: Readonly<Record<string, unknown>>): Record<string, unknown>[] {
  return recordsOf(tools).flatMap(({ functionDeclarations }) => recordsOf(functionDeclarations))
}

function declarationFault(body: Readonly<Record<string, unknown>>): string | undefined {
  const names = declarationsIn(body).map(({ name }) => textOf(name))
  const wrong = names.findIndex((name) => !/^[A-Za-z_][\w.:-]{0,127}$/.test(name))
  if (wrong !== -1) return `Invalid function name at tools[0].function_declarations[${wrong}].`
  return new Set(names).size === names.length ? undefined : 'Duplicate function declaration found.'
}

function contentsFault(body: Readonly<Record<string, unknown>>, model: string): string | undefined {
  const contents = recordsOf(body.contents)
  if (contents.length === 0) return '* GenerateContentRequest.contents: contents is not specified'
  let open = 0
  for (const [at, content] of contents.entries()) {
    const parts = recordsOf(content.parts)
    if (content.role !== 'user' && content.role !== 'model') return 'Please use a valid role: user, model.'
    if (parts.length === 0) return `* GenerateContentRequest.contents[${at}].parts: contents.parts must not be empty.`
    for (const part of parts) {
      const fault = partFault(part, content.role, model)
      if (fault !== undefined) return `contents[${at}]: ${fault}`
    }
    const answers = parts.filter(({ functionResponse }) => functionResponse !== undefined).length
    if (answers !== open) {
      return 'Please ensure that the number of function response parts is equal to the number of function call parts of the function call turn.'
    }
    open = parts.filter(({ functionCall }) => functionCall !== undefined).length
    if (open > 0 && (at === 0 || contents[at - 1]!.role !== 'user')) {
      return 'Please ensure that function call turn comes immediately after a user turn or after a function response turn.'
    }
  }
  if (open > 0) return 'Please ensure that function response turn comes immediately after a function call turn.'
  return model.startsWith('gemini-3') ? missingSignature(contents) : undefined
}

/** In the turn that goes on, the first call of each step has to bring the signature that came with it. */
function missingSignature(contents: Record<string, unknown>[]): string | undefined {
  const isAnswer = (content: Record<string, unknown>) =>
    recordsOf(content.parts).some(({ functionResponse }) => functionResponse !== undefined)
  const turn = contents.findLastIndex((content) => content.role === 'user' && !isAnswer(content))
  for (const [at, content] of contents.entries()) {
    if (at <= turn || content.role !== 'model') continue
    const call = recordsOf(content.parts).find(({ functionCall }) => functionCall !== undefined)
    if (!call || call.thoughtSignature !== undefined) continue
    const name = isRecord(call.functionCall) ? textOf(call.functionCall.name) : ''
    return `Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly. Function call \`default_api:${name}\`, position ${at + 1}.`
  }
  return undefined
}

function partFault(part: Record<string, unknown>, role: 'user' | 'model', model: string): string | undefined {
  const { text, inlineData, functionCall, functionResponse, thoughtSignature } = part
  const given = [text, inlineData, functionCall, functionResponse].filter((each) => each !== undefined)
  if (given.length !== 1) return "oneof field 'data' must have one initialized field"
  if (
    thoughtSignature !== undefined &&
    thoughtSignature !== anySignature &&
    thoughtSignature !== signatureOf('google', model, 'part')
  ) {
    return 'Thought signature is not valid.'
  }
  if (inlineData !== undefined) return imageFault(inlineData)
  if (functionCall !== undefined) {
    if (role !== 'model' || !isRecord(functionCall)) return 'Function calls belong to the model.'
    return functionCall.args === undefined || isRecord(functionCall.args)
      ? undefined
      : 'Invalid value at function_call.args (Map)'
  }
  if (functionResponse === undefined) return undefined
  if (role !== 'user' || !isRecord(functionResponse) || !isRecord(functionResponse.response))
    return 'Invalid value at function_response.response (Map)'
  if (functionResponse.parts !== undefined && !model.startsWith('gemini-3'))
    return 'Multimodal function responses are not supported by this model.'
  return recordsOf(functionResponse.parts)
    .map((inner) => imageFault(inner.inlineData))
    .find((fault) => fault !== undefined)
}

function imageFault(inlineData: unknown): string | undefined {
  const size = sizeOf(inlineData)
  return size
    ? undefined
    : 'Unable to process input image. Please retry or report in https://developers.generativeai.google/guide/troubleshooting'
}

function sizeOf(inlineData: unknown) {
  return isRecord(inlineData) ? imageSize(Buffer.from(textOf(inlineData.data), 'base64')) : undefined
}

function readRequest(body: Readonly<Record<string, unknown>>, path: string) {
  const contents = recordsOf(body.contents)
  const config = isRecord(body.generationConfig) ? body.generationConfig : {}
  const since = contents.findLastIndex(({ role }) => role === 'model')
  const last = contents.slice(since + 1).flatMap(({ parts }) => recordsOf(parts))
  const results = last.flatMap(({ functionResponse: answer }) => {
    return isRecord(answer) ? [{ callId: textOf(answer.id), text: answerText(answer) }] : []
  })
  return {
    model: modelIn(path) ?? '',
    system: recordsOf(isRecord(body.systemInstruction) ? body.systemInstruction.parts : [])
      .map(({ text }) => textOf(text))
      .join('\n'),
    tools: declarationsIn(body).map(({ name }) => textOf(name)),
    maxOutputTokens: typeof config.maxOutputTokens === 'number' ? config.maxOutputTokens : undefined,
    replies: contents.filter(({ role }) => role === 'model').length,
    lastText: last
      .map((part) => (isRecord(part.functionResponse) ? answerText(part.functionResponse) : textOf(part.text)))
      .filter((text) => text !== '')
      .join('\n'),
    results,
  }
}

function answerText({ response }: Record<string, unknown>): string {
  const { content, error } = isRecord(response) ? response : {}
  return textOf(content) || textOf(error)
}

/** An image is 258 tokens for each of its tiles (https://ai.google.dev/gemini-api/docs/tokens). */
export function countGoogleInput(body: Readonly<Record<string, unknown>>, tokens = countTokens): number {
  let count = 0
  const image = (inlineData: unknown) => {
    const size = sizeOf(inlineData)
    if (!size) return 0
    if (size.width <= 384 && size.height <= 384) return 258
    const unit = Math.min(768, Math.max(256, Math.floor(Math.min(size.width, size.height) / 1.5)))
    return 258 * Math.ceil(size.width / unit) * Math.ceil(size.height / unit)
  }
  for (const declaration of declarationsIn(body)) count += 16 + tokens(JSON.stringify(declaration))
  const system = isRecord(body.systemInstruction) ? [body.systemInstruction] : []
  for (const content of [...system, ...recordsOf(body.contents)]) {
    count += 2
    for (const { text, inlineData, functionCall, functionResponse } of recordsOf(content.parts)) {
      count += tokens(textOf(text)) + image(inlineData)
      if (isRecord(functionCall)) count += tokens(textOf(functionCall.name) + JSON.stringify(functionCall.args ?? {}))
      if (!isRecord(functionResponse)) continue
      count += tokens(textOf(functionResponse.name) + JSON.stringify(functionResponse.response))
      count += recordsOf(functionResponse.parts).reduce((sum, inner) => sum + image(inner.inlineData), 0)
    }
  }
  return count
}

// Replies

/** Its lines end with both characters. */
function chunkOf(data: object): string {
  return `data: ${JSON.stringify(data)}\r\n\r\n`
}

function eventsOf(reply: SettledReply, request: PeerRequest): string[] {
  const { model } = request
  const thoughtSignature = signatureOf('google', model, 'part')
  const thoughts = reply.parts.filter(({ type }) => type === 'thinking')
  const calls = reply.parts.filter(({ type }) => type === 'tool_call')
  const isWritten = calls.every((call) => call.type !== 'tool_call' || isObjectText(inputText(call.input)))
  const parts: object[] = []
  let signed = thoughts.length === 0 && !model.startsWith('gemini-3')
  // Gemini signs the first call, and without calls the end of the text.
  for (const [at, part] of reply.parts.entries()) {
    if (part.type === 'thinking') {
      if (part.isHidden) continue
      parts.push(...piecesOf(part.text, reply.pieceChars).map((text) => ({ text, thought: true })))
    } else if (part.type === 'text') {
      const isSigned = !signed && calls.length === 0 && at === reply.parts.findLastIndex(({ type }) => type === 'text')
      const pieces = piecesOf(part.text, reply.pieceChars)
      parts.push(
        ...pieces.map((text, piece) =>
          isSigned && piece === pieces.length - 1 ? { text, thoughtSignature } : { text },
        ),
      )
    } else if (isWritten) {
      const id = model.startsWith('gemini-3') ? { id: part.callId } : {}
      const args: unknown = JSON.parse(inputText(part.input))
      parts.push({ functionCall: { ...id, name: part.tool, args }, ...(signed ? {} : { thoughtSignature }) })
      signed = true
    }
  }
  // A call that is no JSON never comes: the model is said to have failed at it.
  const finishReason = isWritten ? finishReasons[reply.stop] : 'MALFORMED_FUNCTION_CALL'
  const frame = { modelVersion: model, responseId: `r-${reply.id}` }
  const said = parts.length > 0 ? parts : [{ text: '' }]
  return said.map((part, at) => {
    const isLast = at === said.length - 1
    const candidate = { content: { parts: [part], role: 'model' }, ...(isLast ? { finishReason } : {}), index: 0 }
    return chunkOf({
      candidates: [candidate],
      usageMetadata: usageAt(reply, thoughts.length > 0, (at + 1) / said.length),
      ...frame,
    })
  })
}

/** It grows with the reply. */
function usageAt({ usage }: SettledReply, hasThought: boolean, share: number): object {
  const output = Math.floor(usage.output * share)
  const thoughts = hasThought ? Math.floor(output / 2) : 0
  const prompt = usage.input + usage.cacheRead
  return {
    promptTokenCount: prompt,
    candidatesTokenCount: output - thoughts,
    totalTokenCount: prompt + output,
    ...(usage.cacheRead > 0 ? { cachedContentTokenCount: usage.cacheRead } : {}),
    ...(hasThought ? { thoughtsTokenCount: thoughts } : {}),
    promptTokensDetails: [{ modality: 'TEXT', tokenCount: prompt }],
  }
}

function isObjectText(text: string): boolean {
  try {
    return isRecord(JSON.parse(text))
  } catch {
    return false
  }
}
