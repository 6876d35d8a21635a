import { setTimeout as sleep } from 'node:timers/promises'
import type { Message, ReplyPart } from '../conversation.ts'
import type { Provider, ProviderRequest, Stop, Usage, UsageReader, Wire } from '../provider.ts'
import { ProviderFailure } from '../provider.ts'
import { fibonacci } from './fibonacci.ts'

// No model: words that were written down before are said again, so that the loop, its tools, the sandbox and the ledger can be seen at work without a provider's key. Everything but the
// words is real. A recording knows what its tools answered when it was made; where one answers otherwise it ends, rather than say what is not so.

export type RecordedPart = { text: string } | { tool: string; input: Readonly<Record<string, unknown>> }

export interface RecordedReply {
  /** What the results of its last calls said. */
  after?: RegExp
  parts: readonly RecordedPart[]
}

export type Recording = readonly RecordedReply[]

const recordings: Readonly<Record<string, Recording>> = { fibonacci }

/** A piece of text as a model would write it. */
const pieceChars = 12
/** Between two pieces. */
const paceMs = 30

/** One line of what goes through `fetch`. */
type Line = { text: string } | { tool: string; input: string } | { stop: Stop; usage: Usage }

export const recording: Provider = {
  name: 'recording',
  models: Object.keys(recordings),

  async *stream(request, { fetch, signal }) {
    const place = spoken(request.messages)
    const reply = replyAt(request, place)
    const { model, system, messages, tools, maxOutputTokens } = request
    const body = JSON.stringify({ model, system, messages, tools, maxOutputTokens })
    // An answer that is its own address: it passes through the meter as any other does, and through no network.
    const lines = linesOf(reply, body)
    const text = lines.map((line) => `${JSON.stringify(line)}\n`).join('')
    const address = `data:application/x-ndjson;base64,${Buffer.from(text).toString('base64')}`
    const response = await fetch(address, { method: 'POST', body, signal })
    for (const [index, line] of readLines(await response.text()).entries()) {
      if ('stop' in line) yield { type: 'end', stop: line.stop, raw: line.stop }
      else if ('text' in line) {
        for (let at = 0; at < line.text.length; at += pieceChars) {
          yield { type: 'delta', of: 'text', text: line.text.slice(at, at + pieceChars) }
          await sleep(paceMs, undefined, { signal })
        }
        yield { type: 'part', part: { type: 'text', text: line.text } }
      } else yield { type: 'part', part: callOf(line, `recorded_${place}_${index}`) }
    }
  },

  wire: wireOf(),
}

/** How many times the model has said something in this conversation. */
function spoken(messages: readonly Message[]): number {
  return messages.filter(({ role }) => role === 'assistant').length
}

function replyAt({ model, messages }: ProviderRequest, place: number): RecordedReply {
  const reply = recordings[model]?.[place]
  if (!reply) throw misfit('The recording is at its end, and answers nothing else')
  const last = messages.at(-1)
  const results = last?.role === 'tool' ? last.parts.flatMap(({ content }) => content) : []
  const told = results.map((part) => (part.type === 'text' ? part.text : '')).join('\n')
  if (!reply.after || reply.after.test(told)) return reply
  throw misfit('A tool answered otherwise than when this was recorded, so that the recording ends here')
}

function misfit(why: string): ProviderFailure {
  return new ProviderFailure('request', `${why}. Name a real model to go on`)
}

function linesOf({ parts }: RecordedReply, body: string): Line[] {
  const said = parts.map((part) =>
    'text' in part ? part : { tool: part.tool, input: JSON.stringify(part.input, null, 1) },
  )
  const calls = parts.some((part) => 'tool' in part)
  const counted = { input: tokensOf(body), output: tokensOf(JSON.stringify(said)) }
  const usage = { cacheRead: 0, cacheWrite: 0, cacheWriteHour: 0, ...counted }
  return [...said, { stop: calls ? 'tool_calls' : 'end', usage }]
}

/** No model counts here: about what one would. */
function tokensOf(text: string): number {
  return Math.ceil(Buffer.byteLength(text) / 4)
}

function callOf({ tool, input }: { tool: string; input: string }, callId: string): ReplyPart {
  return { type: 'tool_call', callId, tool, input }
}

function readLines(text: string): Line[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Line)
}

function wireOf(): Wire {
  return {
    inputBound: (_body, bodyBytes) => bodyBytes,
    outputLimit: ({ maxOutputTokens }) => (typeof maxOutputTokens === 'number' ? maxOutputTokens : undefined),
    withOutputLimit: (body, maxOutputTokens) => ({ ...body, maxOutputTokens }),
    usageReader,
  }
}

function usageReader(): UsageReader {
  const chunks: Uint8Array[] = []
  let usage: Partial<Usage> = {}
  let isOver = false
  return {
    push(bytes) {
      chunks.push(bytes)
      const text = Buffer.concat(chunks).toString()
      if (!text.endsWith('\n')) return
      const last = readLines(text).at(-1)
      if (!last || !('usage' in last)) return
      usage = last.usage
      isOver = true
    },
    reported: () => usage,
    receivedBound: () => chunks.reduce((sum, { byteLength }) => sum + byteLength, 0),
    ended: () => isOver,
  }
}
