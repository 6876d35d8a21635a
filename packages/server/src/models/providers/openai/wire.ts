import type { Usage, UsageReader, Wire } from '../../provider.ts'
import { readEvents, recordOf } from '../event-reader.ts'
import { boundOfImage, bytesOf } from '../input-bound.ts'
import { countIn, isRecord, recordIn, recordsIn, textOf } from '../reading.ts'

/** The templates of open models begin with a page about themselves, the day and how tools are called; the longest of those that llama.cpp brings (models/templates) is below 1,000 tokens. */
const requestTokens = 256
const toolsTokens = 1_000
const toolTokens = 64

export const openaiWire: Wire = {
  inputBound(body, bodyBytes) {
    const images = imagesOf(body)
    const tools = recordsIn(body.tools).length
    const overhead = requestTokens + (tools > 0 ? toolsTokens + tools * toolTokens : 0)
    const tokens = textOf(body.model).includes('gpt-4o-mini') ? dearImageTokens : imageTokens
    return bodyBytes - bytesOf(images) + overhead + images.reduce((sum, data) => sum + boundOfImage(data, tokens), 0)
  },
  outputLimit: (body) => countIn(body.max_completion_tokens) ?? countIn(body.max_tokens),
  withOutputLimit(body, limit) {
    const field = body.max_completion_tokens === undefined ? 'max_tokens' : 'max_completion_tokens'
    return { ...body, [field]: Math.min(countIn(body[field]) ?? limit, limit) }
  },
  usageReader: createUsageReader,
}

/** Where images may stand, and nowhere else. */
function imagesOf(body: Readonly<Record<string, unknown>>): string[] {
  const parts = recordsIn(body.messages).flatMap((message) => recordsIn(message.content))
  const urls = parts.filter(({ type }) => type === 'image_url').map((part) => textOf(recordIn(part.image_url).url))
  return urls.flatMap((url) => /^data:image\/\w+;base64,([^]*)$/.exec(url)?.[1] ?? [])
}

/**
 * Who answers is not known, so this is more than each of these: 85 and 170 for a tile of 512 pixels, at most 8 of them, or up to 2.46 for a patch of 32 pixels, at most 1,536 of them
 * (https://platform.openai.com/docs/guides/images-vision); a patch of 28 pixels, at most 16,384 (Qwen2-VL); a patch of 16 pixels, at most 4,160 with the ends of lines (Pixtral); 2,880 whatever
 * the size (LLaVA-NeXT).
 */
function imageTokens(width: number, height: number): number {
  const patches = (Math.ceil(width / 16) + 1) * Math.ceil(height / 16)
  return Math.min(20_000, 3_000 + patches)
}

/** 2,833 and 5,667 for each tile. */
function dearImageTokens(width: number, height: number): number {
  const tiles = Math.min(8, Math.ceil(width / 512) * Math.ceil(height / 512))
  return 3_000 + 5_667 * tiles
}

function createUsageReader(): UsageReader {
  let usage: Partial<Usage> = {}
  let receivedBytes = 0
  let isEnded = false

  const events = readEvents((data) => {
    if (data.trim() === '[DONE]') {
      isEnded = true
      return
    }
    const chunk = recordOf(data)
    if (!chunk) return
    if (isRecord(chunk.usage)) usage = usageIn(chunk.usage)
    for (const choice of recordsIn(chunk.choices)) receivedBytes += deltaBytes(recordIn(choice.delta))
  })

  return {
    push: events.push,
    reported: () => ({ ...usage }),
    receivedBound: () => Math.max(usage.output ?? 0, receivedBytes + events.waiting()),
    // Some servers close the connection instead of ending the last line.
    ended: () => isEnded || events.endsWith('data: [DONE]'),
  }
}

function deltaBytes({ content, reasoning_content, reasoning, refusal, tool_calls }: Record<string, unknown>): number {
  const calls = recordsIn(tool_calls).map((call) => JSON.stringify(call.function ?? ''))
  const parts = typeof content === 'string' || !content ? content : JSON.stringify(content)
  return [parts, reasoning_content, reasoning, refusal, ...calls].reduce<number>(
    (sum, each) => sum + Buffer.byteLength(textOf(each)),
    0,
  )
}

/** What was read from the cache is part of the prompt. Some count thinking within the completion and some beside it: the total says which. */
function usageIn(said: Record<string, unknown>): Partial<Usage> {
  const prompt = countIn(said.prompt_tokens)
  const completion = countIn(said.completion_tokens)
  if (prompt === undefined || completion === undefined) return {}
  const cached = Math.min(prompt, countIn(recordIn(said.prompt_tokens_details).cached_tokens) ?? 0)
  const total = countIn(said.total_tokens) ?? 0
  return {
    input: prompt - cached,
    cacheRead: cached,
    cacheWrite: 0,
    cacheWriteHour: 0,
    output: Math.max(completion, total - prompt),
  }
}
