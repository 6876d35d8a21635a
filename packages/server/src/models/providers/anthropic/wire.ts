import type { UsageReader, Usage, Wire } from '../../provider.ts'
import { readEvents, recordOf } from '../event-reader.ts'
import { countIn, isRecord, recordIn, recordsIn, textOf } from '../reading.ts'
import { boundOfImage, bytesOf } from '../input-bound.ts'

/** The smallest budget for thinking that is taken (https://docs.claude.com/en/docs/build-with-claude/extended-thinking). */
const thinkingBudgetMin = 1_024

/**
 * What is added to a request that has tools is 313 to 530 tokens for the models of https://docs.claude.com/en/docs/agents-and-tools/tool-use/overview; what frames each of them is not said, nor what
 * frames a message, which takes more bytes of the body than tokens.
 */
const toolsTokens = 1_000
const toolTokens = 64
const requestTokens = 64

export const anthropicWire: Wire = {
  inputBound(body, bodyBytes) {
    const images = imagesOf(body)
    const tools = recordsIn(body.tools).length
    const overhead = requestTokens + (tools > 0 ? toolsTokens + tools * toolTokens : 0)
    return (
      bodyBytes - bytesOf(images) + overhead + images.reduce((sum, data) => sum + boundOfImage(data, imageTokens), 0)
    )
  },
  outputLimit: (body) => countIn(body.max_tokens),
  withOutputLimit(body, limit) {
    const max_tokens = Math.min(countIn(body.max_tokens) ?? limit, limit)
    const { thinking, ...rest } = body
    const kept = thinkingWithin(thinking, max_tokens)
    return { ...rest, ...(kept === undefined ? {} : { thinking: kept }), max_tokens }
  },
  usageReader: createUsageReader,
}

/** The budget stays below the limit, with room for the answer. */
function thinkingWithin(thinking: unknown, limit: number): unknown {
  if (!isRecord(thinking) || thinking.type !== 'enabled') return thinking
  const budget = countIn(thinking.budget_tokens) ?? thinkingBudgetMin
  if (budget < limit) return thinking
  const lowered = Math.floor(limit / 2)
  return lowered < thinkingBudgetMin ? undefined : { ...thinking, budget_tokens: lowered }
}

/** Where images may stand, and nowhere else: an input of a tool may look like one. */
function imagesOf(body: Readonly<Record<string, unknown>>): string[] {
  const found: string[] = []
  const look = (blocks: unknown) => {
    for (const block of recordsIn(blocks)) {
      const source = recordIn(block.source)
      if (block.type === 'image' && source.type === 'base64') found.push(textOf(source.data))
      if (block.type === 'tool_result') look(block.content)
    }
  }
  for (const message of recordsIn(body.messages)) look(message.content)
  return found
}

/**
 * Pixels / 750, and by patches of 28 pixels for newer models; whatever is larger than 2,576 pixels is made smaller, so that none is more than 4,784
 * (https://docs.claude.com/en/docs/build-with-claude/vision).
 */
function imageTokens(width: number, height: number): number {
  const byPixels = Math.ceil((width * height) / 750)
  const byPatches = Math.ceil(width / 28) * Math.ceil(height / 28)
  return 32 + Math.min(5_000, Math.max(byPixels, byPatches))
}

function createUsageReader(): UsageReader {
  let usage: Partial<Usage> = {}
  let receivedBytes = 0
  let isEnded = false

  const events = readEvents((data) => {
    const event = recordOf(data)
    switch (event?.type) {
      case 'message_start':
        usage = usageIn(recordIn(event.message).usage, usage)
        break
      case 'message_delta':
        usage = usageIn(event.usage, usage)
        break
      case 'message_stop':
        isEnded = true
        break
      case 'content_block_start':
        receivedBytes += contentBytes(recordIn(event.content_block))
        break
      case 'content_block_delta':
        receivedBytes += contentBytes(recordIn(event.delta))
        break
    }
  })

  return {
    push: events.push,
    reported: () => ({ ...usage }),
    receivedBound: () => Math.max(usage.output ?? 0, receivedBytes + events.waiting()),
    ended: () => isEnded,
  }
}

/** Every text in it, also the signature, which holds thinking that is not shown. */
function contentBytes(content: Record<string, unknown>): number {
  const { text, thinking, signature, partial_json, data, name } = content
  return [text, thinking, signature, partial_json, data, name].reduce<number>(
    (sum, each) => sum + Buffer.byteLength(textOf(each)),
    0,
  )
}

/** What comes later replaces what came before: each count is the sum until then. */
function usageIn(said: unknown, before: Partial<Usage>): Partial<Usage> {
  const { input_tokens, output_tokens, cache_read_input_tokens, cache_creation_input_tokens, cache_creation } =
    recordIn(said)
  const written = countIn(cache_creation_input_tokens)
  const hour = countIn(recordIn(cache_creation).ephemeral_1h_input_tokens) ?? (written === undefined ? undefined : 0)
  const counts = {
    input: countIn(input_tokens),
    cacheRead: countIn(cache_read_input_tokens),
    cacheWrite: written === undefined ? undefined : Math.max(0, written - (hour ?? 0)),
    cacheWriteHour: hour,
    output: countIn(output_tokens),
  }
  const known = Object.entries(counts).filter(([, count]) => count !== undefined)
  return { ...before, ...(Object.fromEntries(known) as Partial<Usage>) }
}
