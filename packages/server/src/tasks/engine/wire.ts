import { z } from 'zod'
import { DeltaError } from '../../kernel/errors.ts'
import { engineLimits } from './limits.ts'

// What the server and the runner in the sandbox say to each other: a line of JSON each, over the stdin and stdout of one exec.

/** The version that was seen to work; another one is refused. */
export const sdkVersion = '0.3.330'
export const sdkPackage = '@anthropic-ai/claude-agent-sdk'

export type PromptBlock =
  | { type: 'text'; text: string }
  | { type: 'image'; source: { type: 'base64'; media_type: string; data: string } }

export type EngineThinking = { type: 'disabled' } | { type: 'enabled'; budgetTokens: number }

export interface Begin {
  type: 'begin'
  package: string
  version: string
  /** For requests to models in this turn, and for nothing else. */
  secret: string
  /** As Anthropic names it. */
  model: string
  prompt: readonly PromptBlock[]
  /** What its system prompt ends with. */
  instructions: string
  thinking: EngineThinking
  disallowedTools: readonly string[]
  /** Gone on with where it is there, else begun. */
  sessionId: string
  /** Of the task that this one is a fork of. */
  forkedSessionId: string | undefined
  pingMs: number
}

export type FromServer =
  | Begin
  | { type: 'ping' }
  | { type: 'interrupt' }
  /** An answer: its head, its bytes, its end. `cut`: the connection breaks. */
  | { type: 'head'; id: number; status: number; headers: Record<string, string> }
  | { type: 'data'; id: number; data: string }
  | { type: 'end'; id: number; cut: boolean }

const id = z.int().min(1).max(1_000_000_000)
const base64 = z
  .string()
  .max(engineLimits.lineBytes)
  .regex(/^[A-Za-z0-9+/]*={0,2}$/)
const text = z.string().max(engineLimits.keptChars)
const name = z.string().max(200)

const saidSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('text'), text }),
  z.strictObject({ type: z.literal('thinking'), text }),
  z.strictObject({ type: z.literal('tool_call'), callId: name, tool: name, input: text }),
])

const fromRunnerSchema = z.discriminatedUnion('type', [
  /** The SDK is not there, or another version of it. */
  z.strictObject({ type: z.literal('missing'), found: z.string().max(64).optional() }),
  z.strictObject({
    type: z.literal('request'),
    id,
    method: z.string().max(16),
    path: z.string().max(2_048),
    headers: z.record(z.string().max(128), z.string().max(8_192)),
    bytes: z.int().min(0),
  }),
  z.strictObject({ type: z.literal('body'), id, data: base64, isLast: z.boolean() }),
  /** Whoever asked has gone. */
  z.strictObject({ type: z.literal('gone'), id }),
  z.strictObject({ type: z.literal('said'), parts: z.array(saidSchema).max(64) }),
  z.strictObject({
    type: z.literal('results'),
    results: z
      .array(
        z.strictObject({ callId: name, text: z.string().max(engineLimits.resultChars + 100), isError: z.boolean() }),
      )
      .max(64),
  }),
  z.strictObject({ type: z.literal('result'), isError: z.boolean(), subtype: z.string().max(64), text }),
  /** It could not go on. */
  z.strictObject({ type: z.literal('failed'), message: z.string().max(4_000) }),
])
export type FromRunner = z.output<typeof fromRunnerSchema>
export type RunnerRequest = FromRunner & { type: 'request' }

/** Cuts what the runner writes into its lines, and takes none that is not what it should be. */
export function createLineReader(onMessage: (message: FromRunner) => Promise<void>) {
  let waiting: Buffer[] = []
  let waitingBytes = 0
  return async (bytes: Buffer): Promise<void> => {
    let from = 0
    for (let end = bytes.indexOf(0x0a); end !== -1; end = bytes.indexOf(0x0a, from)) {
      const line = Buffer.concat([...waiting, bytes.subarray(from, end)])
      from = end + 1
      waiting = []
      waitingBytes = 0
      if (line.length > engineLimits.lineBytes) throw broken('a line is too long')
      await onMessage(messageIn(line.toString()))
    }
    // A copy: who gave the bytes may use their memory again.
    waiting.push(Buffer.from(bytes.subarray(from)))
    waitingBytes += bytes.length - from
    if (waitingBytes > engineLimits.lineBytes) throw broken('a line is too long')
  }
}

function messageIn(line: string): FromRunner {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    throw broken('a line is no JSON')
  }
  const parsed = fromRunnerSchema.safeParse(value)
  if (parsed.success) return parsed.data
  throw broken(`a line is no message of its: ${parsed.error.issues[0]?.path.join('.') ?? ''}`)
}

/** What is in the sandbox has said what the runner never says. */
export function broken(why: string): DeltaError {
  return new DeltaError('guest_protocol_error', `The engine in the sandbox does not keep to its protocol: ${why}`)
}

export function lineOf(message: FromServer): Buffer {
  return Buffer.from(`${JSON.stringify(message)}\n`)
}
