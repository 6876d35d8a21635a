import { createHash, timingSafeEqual } from 'node:crypto'
import { DeltaError } from '../../kernel/errors.ts'
import type { ModelReply, Passage } from '../../models/door.ts'
import { bodyOf, eventOf, refusal, refusalOf, type Refusal } from './answer.ts'
import { engineLimits } from './limits.ts'
import { passedHeaders, readCount, readMessages, type ReadRequest } from './request.ts'
import { createWhole } from './whole.ts'

export interface EngineRequest {
  method: string
  path: string
  headers: Readonly<Record<string, string>>
  body: Uint8Array
}

/** The way back to whoever asked. Each resolves when there is room for more. */
export interface Answer {
  head(status: number, headers: Record<string, string>): Promise<void>
  data(bytes: Uint8Array): Promise<void>
  end(cut: boolean): Promise<void>
}

export interface EndpointDeps {
  secret: string
  /** What the task may use, as Anthropic names it. */
  model: string
  /** Whether a model may be asked now; else why not. */
  admit(): Promise<string | undefined>
  /** The metered call. */
  ask(passage: Passage, options: { maxOutputTokens: number; signal: AbortSignal }): Promise<ModelReply>
  count(request: Pick<Passage, 'body' | 'headers'>, signal: AbortSignal): Promise<number>
  /** It was answered with a refusal. */
  onRefused(): void
  /** The tokens were at an end in the middle of a reply. */
  onShort(): void
  /** A call came to nothing. */
  onFault(error: unknown): void
}

export type Endpoint = ReturnType<typeof createEndpoint>

const json = { 'content-type': 'application/json' }
// The engine would ask again and again for what this server has asked again by itself.
const final = { ...json, 'x-should-retry': 'false' }

/** Anthropic's messages, for one task during one turn: each request is held, bounded, recorded and passed on with a key that the sandbox never sees. */
export function createEndpoint(deps: EndpointDeps) {
  const secret = digestOf(deps.secret)
  let counts = 0

  async function refuse(answer: Answer, { status, ...rest }: Refusal): Promise<void> {
    deps.onRefused()
    await answer.head(status, status === 429 ? json : final)
    await answer.data(Buffer.from(bodyOf({ status, ...rest })))
    await answer.end(false)
  }

  /** Compared by digests, which are of one length and tell nothing by how long that takes. */
  function isKnown({ headers }: EngineRequest): boolean {
    const given = headers['x-api-key'] ?? /^Bearer (.+)$/i.exec(headers['authorization'] ?? '')?.[1] ?? ''
    return timingSafeEqual(digestOf(given), secret)
  }

  function read(request: EngineRequest): { kind: 'messages' | 'count'; read: ReadRequest } | undefined {
    const path = request.path.split('?', 1)[0]
    if (request.method !== 'POST') return undefined
    if (path === '/v1/messages') return { kind: 'messages', read: readMessages(request.body) }
    if (path === '/v1/messages/count_tokens') return { kind: 'count', read: readCount(request.body) }
    return undefined
  }

  /** Answers one request, whatever it is. Rejects only where the answer can not be written. */
  async function serve(request: EngineRequest, answer: Answer, signal: AbortSignal): Promise<void> {
    if (!isKnown(request)) return refuse(answer, refusal(401, 'This is not the key of a turn that is under way'))
    const asked = read(request)
    if (!asked) return refuse(answer, refusal(404, `There is no ${request.path.slice(0, 200)} here`))
    if (!asked.read.ok) return refuse(answer, refusal(asked.read.status, asked.read.message))
    const { model, body, stream } = asked.read
    if (model !== deps.model) {
      return refuse(answer, refusal(404, `model: ${model.slice(0, 120)} is not the model of this task`))
    }
    let why: string | undefined
    try {
      why = await deps.admit()
    } catch (error) {
      deps.onFault(error)
      return refuse(answer, refusalOf(error))
    }
    if (why !== undefined) return refuse(answer, refusal(403, why))
    const headers = passedHeaders(request.headers)
    if (asked.kind === 'count') return count({ body, headers }, answer, signal)
    return stream ? passOn({ body, headers }, answer, signal) : inOnePiece({ body, headers }, answer, signal)
  }

  async function count(wish: Pick<Passage, 'body' | 'headers'>, answer: Answer, signal: AbortSignal): Promise<void> {
    counts += 1
    if (counts > engineLimits.counts) return refuse(answer, refusal(403, 'Tokens were counted too often in this turn'))
    let tokens: number
    try {
      tokens = await deps.count(wish, signal)
    } catch (error) {
      return refuse(answer, refusalOf(error))
    }
    await answer.head(200, json)
    await answer.data(Buffer.from(JSON.stringify({ input_tokens: tokens })))
    await answer.end(false)
  }

  /**
   * Byte by byte as it comes, but that the end of a block waits for what follows: where the reply was cut because the tokens were at an end, what it was about to call is never whole.
   */
  async function passOn(wish: Pick<Passage, 'body' | 'headers'>, answer: Answer, signal: AbortSignal): Promise<void> {
    let held: Uint8Array[] = []
    let isCut = false
    let isBegun = false
    const flush = async () => {
      for (const bytes of held) await answer.data(bytes)
      held = []
    }
    const write: Passage['write'] = async (bytes, event) => {
      if (!isBegun)
        await answer.head(200, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' })
      isBegun = true
      isCut ||= stopReasonIn(event) === 'max_tokens'
      if (isCut || event['type'] === 'content_block_stop') return void held.push(bytes)
      await flush()
      await answer.data(bytes)
    }
    const { reply, error } = await replyTo({ ...wish, write }, signal)
    if (reply && isCut && reply.lowered) {
      deps.onShort()
      await answer.data(eventOf(refusal(402, 'The tokens of the task are used up, and the reply was cut')))
      return answer.end(false)
    }
    if (reply) {
      await flush()
      return answer.end(false)
    }
    if (!isBegun) return refuse(answer, refusalOf(error))
    await answer.data(eventOf(refusalOf(error)))
    return answer.end(signal.aborted)
  }

  async function inOnePiece(
    wish: Pick<Passage, 'body' | 'headers'>,
    answer: Answer,
    signal: AbortSignal,
  ): Promise<void> {
    const whole = createWhole()
    const write: Passage['write'] = async (_bytes, event) => whole.add(event)
    const { reply, error } = await replyTo({ ...wish, write }, signal)
    if (!reply) return refuse(answer, refusalOf(error))
    if (reply.stop === 'cut' && reply.lowered) {
      deps.onShort()
      return refuse(answer, refusal(402, 'The tokens of the task are used up, and the reply was cut'))
    }
    await answer.head(200, json)
    await answer.data(Buffer.from(whole.text()))
    await answer.end(false)
  }

  async function replyTo(passage: Passage, signal: AbortSignal): Promise<{ reply?: ModelReply; error?: unknown }> {
    try {
      return { reply: await deps.ask(passage, { maxOutputTokens: Number(passage.body['max_tokens']), signal }) }
    } catch (error) {
      if (!(error instanceof DeltaError && error.code === 'canceled')) deps.onFault(error)
      return { error }
    }
  }

  return { serve }
}

function stopReasonIn({ type, delta }: Readonly<Record<string, unknown>>): unknown {
  return type === 'message_delta' && typeof delta === 'object' && delta !== null
    ? (delta as { stop_reason?: unknown }).stop_reason
    : undefined
}

function digestOf(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
