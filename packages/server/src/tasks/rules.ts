import { createHash } from 'node:crypto'
import { inheritable, type KnownCaller, type Right } from '../access/callers/door.ts'
import type { Message, ReplyPart, Stop, TextPart, ToolCallPart, Usage, UserPart } from '../models/door.ts'
import { taskLimits } from './limits.ts'
import type { CallRecord, StoredMessage, TaskRecord } from './record.ts'
import type { EndReason, ToolMode } from './schema.ts'

/** Pure decisions of the loop: what is said to the model, what its reply means, and when it is enough. */

/** Its own word, else that for all others, else the tool's. */
export function modeOf(modes: Readonly<Record<string, ToolMode>>, { name, mode }: { name: string; mode: ToolMode }) {
  const own = Object.hasOwn(modes, name) ? modes[name] : undefined
  return own ?? modes['*'] ?? mode
}

/** What the model is told of what was said: of what was compacted the words of people, and the summary. */
export function conversationOf(
  { compactedTo, summary }: Pick<TaskRecord, 'compactedTo' | 'summary'>,
  messages: readonly StoredMessage[],
): readonly Message[] {
  return withNewestImages(allOf({ compactedTo, summary }, messages))
}

/** Each is sent again with every step, so that a page full of them would fill the server's memory: of older ones the model is told that they are left out. */
function withNewestImages(messages: readonly Message[]): readonly Message[] {
  if (messages.reduce((sum, message) => sum + factsOf(message).images, 0) <= taskLimits.imagesSeen) return messages
  let left: number = taskLimits.imagesSeen
  const seen = <Part extends { type: string }>(part: Part): Part | TextPart => {
    if (part.type !== 'image') return part
    left -= 1
    return left >= 0 ? part : { type: 'text', text: '[DELTA] (an older image, left out)' }
  }
  const newestFirst = <One, Kept>(parts: readonly One[], keep: (one: One) => Kept): Kept[] =>
    parts.toReversed().map(keep).toReversed()
  return newestFirst(messages, (message): Message => {
    if (message.role === 'assistant') return message
    if (message.role === 'user') return { role: 'user', parts: newestFirst(message.parts, seen) }
    return {
      role: 'tool',
      parts: newestFirst(message.parts, (part) => ({ ...part, content: newestFirst(part.content, seen) })),
    }
  })
}

function allOf(
  { compactedTo, summary }: Pick<TaskRecord, 'compactedTo' | 'summary'>,
  messages: readonly StoredMessage[],
): Message[] {
  if (summary === null) return messages.map(({ message }) => message)
  const pinned = messages.flatMap(({ seq, message }) =>
    seq <= compactedTo && message.role === 'user' ? [...message.parts] : [],
  )
  const told: UserPart = { type: 'text', text: `[DELTA] What was done so far, in your own words:\n${summary}` }
  const rest = messages.filter(({ seq }) => seq > compactedTo).map(({ message }) => message)
  return [{ role: 'user', parts: [...pinned, told] }, ...rest]
}

/** UTF-8 bytes that the model reads, about: images count by what they cost, not by what they weigh. */
export function sizeOf(messages: readonly Message[]): number {
  return messages.reduce((sum, message) => sum + factsOf(message).bytes, 0)
}

/** A message never changes, and is sent again with every step: it is looked through once. */
const knownFacts = new WeakMap<Message, { bytes: number; images: number }>()

function factsOf(message: Message): { bytes: number; images: number } {
  const known = knownFacts.get(message)
  if (known) return known
  const facts = { bytes: 0, images: 0 }
  for (const part of message.parts) {
    facts.bytes += part.type === 'image' ? 6_000 : Buffer.byteLength(JSON.stringify(part))
    const inside = part.type === 'tool_result' ? part.content : [part]
    facts.images += inside.filter(({ type }) => type === 'image').length
  }
  knownFacts.set(message, facts)
  return facts
}

/** Messages kept word for word when the others become a summary. */
const keptMessages = 6

/** Up to where a conversation is told by a summary: what follows begins with the model's own words. Undefined where too little would be left. */
export function compactTo(
  messages: readonly StoredMessage[],
  { compactedTo }: Pick<TaskRecord, 'compactedTo'>,
): number | undefined {
  for (let at = Math.max(0, messages.length - keptMessages); at > 0; at -= 1) {
    const [before, first] = [messages[at - 1]!, messages[at]!]
    if (first.message.role === 'assistant') return before.seq > compactedTo ? before.seq : undefined
  }
  return undefined
}

/** Of a result of a tool, in a conversation that is only to be told. */
const shortenedChars = 2_000

/** The same with long results of tools cut, for whoever only has to tell what happened. */
export function shortened(messages: readonly Message[]): Message[] {
  return messages.map((message) => {
    if (message.role !== 'tool') return message
    const parts = message.parts.map((part) => ({
      ...part,
      content: part.content.map((one) =>
        one.type === 'text' && one.text.length > shortenedChars
          ? {
              ...one,
              text: `${one.text.slice(0, shortenedChars)}\n… ${one.text.length - shortenedChars} more characters`,
            }
          : one,
      ),
    }))
    return { role: 'tool', parts }
  })
}

export interface ReadReply {
  /** What is kept of it. */
  parts: readonly ReplyPart[]
  calls: readonly ToolCallPart[]
  /** It stopped because there was no more room: what it was about to call is not known whole. */
  isCut: boolean
}

/** A reply that was cut has said its last call perhaps not to its end: that one is left out. */
export function readReply(parts: readonly ReplyPart[], stop: Stop): ReadReply {
  if (stop !== 'cut') return { parts, calls: parts.filter((part) => part.type === 'tool_call'), isCut: false }
  const last = parts.findLastIndex((part) => part.type === 'tool_call')
  const whole = last === parts.length - 1 ? parts.slice(0, -1) : parts
  return { parts: whole, calls: whole.filter((part) => part.type === 'tool_call'), isCut: true }
}

export function textOf(parts: readonly ReplyPart[]): string {
  return parts
    .flatMap((part) => (part.type === 'text' ? [part.text] : []))
    .join('\n')
    .trim()
}

/** Calls of the last reply that nobody has told the model anything of: providers take no conversation with such. */
export function unanswered(messages: readonly StoredMessage[]): ToolCallPart[] {
  const last = messages.at(-1)?.message
  return last?.role === 'assistant' ? last.parts.filter((part) => part.type === 'tool_call') : []
}

/** Whether it stands still for want of tokens of its own or of the task that pays for it, and not with its agent. */
export function isShortItself({
  budget,
  payerId,
  waitsFor,
}: Pick<TaskRecord, 'budget' | 'payerId' | 'waitsFor'>): boolean {
  return (budget !== null || payerId !== null) && waitsFor.some(({ kind }) => kind === 'tokens')
}

/** What is remembered of a call that has ended, to see whether the next is the same again. */
export interface Past {
  step: number
  /** Of tool, arguments and result. */
  print: string
  isError: boolean
}

export function pastOf(calls: readonly CallRecord[]): Past[] {
  return calls.map(({ step, tool, input, outcome }) => {
    const whole = JSON.stringify([tool, input, outcome?.isError, outcome?.content])
    return { step, print: createHash('sha256').update(whole).digest('base64'), isError: outcome?.isError ?? false }
  })
}

/** Whatever is in one reply is said before the model has seen what came of it: only over some steps is it a habit. */
const habitSteps = 3

/** Whether it is no use to go on: the same call with the same result again and again, or one failure after the other. */
export function goesInCircles(past: readonly Past[]): EndReason | undefined {
  // One, or two or three that take turns.
  for (const length of [1, 2, 3]) {
    const first =
      past.length - 1 - past.toReversed().findIndex(({ print }, at) => print !== past.at(-1 - (at % length))?.print)
    const same = first === past.length ? past : past.slice(first + 1)
    if (same.length >= length * taskLimits.sameCalls && stepsOf(same) >= habitSteps) return 'loop_detected'
  }
  const failing = past.slice(past.findLastIndex(({ isError }) => !isError) + 1)
  return failing.length >= taskLimits.failures && stepsOf(failing) >= habitSteps ? 'repeated_failures' : undefined
}

function stepsOf(past: readonly Past[]): number {
  return new Set(past.map(({ step }) => step)).size
}

/** Calls that `goesInCircles` looks at. */
export const pastCalls = habitSteps * taskLimits.callsPerReply

export function plus(a: Usage, b: Usage): Usage {
  return {
    input: a.input + b.input,
    cacheRead: a.cacheRead + b.cacheRead,
    cacheWrite: a.cacheWrite + b.cacheWrite,
    cacheWriteHour: a.cacheWriteHour + b.cacheWriteHour,
    output: a.output + b.output,
  }
}

export const noUsage: Usage = { input: 0, cacheRead: 0, cacheWrite: 0, cacheWriteHour: 0, output: 0 }

/** What whoever watches is shown of a text that may be long. */
export function shown(text: string, chars = 4_000): string {
  return text.length <= chars ? text : `${text.slice(0, chars)}… (${text.length - chars} more characters)`
}

/** An agent's token, which may be narrower than its agent, gets nobody more than it has. Null, all that the agent may: people and their keys give tasks to agents that may more than a key says; that is what the right to do so is. */
export function handedOn({ principal }: Pick<KnownCaller, 'principal'>): readonly Right[] | null {
  return principal.kind === 'agent' ? inheritable(principal) : null
}
