import type { Usage, UsageReader, Wire } from '../../provider.ts'
import { readEvents, recordOf } from '../event-reader.ts'
import { boundOfImage, bytesOf } from '../input-bound.ts'
import { countIn, isRecord, recordIn, recordsIn, textOf } from '../reading.ts'

/** Nothing is said about what frames a request or a declaration; the names of their fields alone are more bytes than that. */
const requestTokens = 64
const toolsTokens = 512
const toolTokens = 32

/** What some models take at least as a budget (https://ai.google.dev/gemini-api/docs/thinking#set-budget). */
const thinkingBudgetMin = 512

export const googleWire: Wire = {
  inputBound(body, bodyBytes) {
    const images = imagesOf(body)
    const tools = recordsIn(body.tools).flatMap(({ functionDeclarations }) => recordsIn(functionDeclarations)).length
    const overhead = requestTokens + (tools > 0 ? toolsTokens + tools * toolTokens : 0)
    return (
      bodyBytes - bytesOf(images) + overhead + images.reduce((sum, data) => sum + boundOfImage(data, imageTokens), 0)
    )
  },
  outputLimit: (body) => countIn(recordIn(body.generationConfig).maxOutputTokens),
  withOutputLimit(body, limit) {
    const config = recordIn(body.generationConfig)
    const maxOutputTokens = Math.min(countIn(config.maxOutputTokens) ?? limit, limit)
    const { thinkingConfig } = config
    const thinking =
      thinkingConfig === undefined ? {} : { thinkingConfig: thinkingWithin(thinkingConfig, maxOutputTokens) }
    return { ...body, generationConfig: { ...config, ...thinking, maxOutputTokens } }
  },
  usageReader: createUsageReader,
}

/** Thinking counts against the limit: at least half of it is left for the answer, as far as the model takes so small a budget. */
function thinkingWithin(thinking: unknown, limit: number): unknown {
  const budget = isRecord(thinking) ? countIn(thinking.thinkingBudget) : undefined
  if (!isRecord(thinking) || budget === undefined) return thinking
  return { ...thinking, thinkingBudget: Math.min(budget, Math.max(thinkingBudgetMin, Math.floor(limit / 2))) }
}

/** Where images may stand, and nowhere else: an argument of a call may look like one. */
function imagesOf(body: Readonly<Record<string, unknown>>): string[] {
  const parts = recordsIn(body.contents).flatMap((content) => recordsIn(content.parts))
  const answers = parts.flatMap(({ functionResponse }) => recordsIn(recordIn(functionResponse).parts))
  return [...parts, ...answers].map(({ inlineData }) => textOf(recordIn(inlineData).data)).filter((data) => data !== '')
}

/**
 * 258 for each tile of 256 to 768 pixels (https://ai.google.dev/gemini-api/docs/tokens), or what the highest `media_resolution` of newer models comes to
 * (https://ai.google.dev/gemini-api/docs/media-resolution).
 */
function imageTokens(width: number, height: number): number {
  const unit = Math.min(768, Math.max(256, Math.floor(Math.min(width, height) / 1.5)))
  return 32 + Math.max(2_240, 258 * Math.ceil(width / unit) * Math.ceil(height / unit))
}

function createUsageReader(): UsageReader {
  let usage: Partial<Usage> = {}
  let receivedBytes = 0
  let isEnded = false

  const events = readEvents((data) => {
    const chunk = recordOf(data)
    if (!chunk) return
    if (isRecord(chunk.usageMetadata)) usage = usageIn(chunk.usageMetadata)
    // What it will not answer has no candidates.
    if (textOf(recordIn(chunk.promptFeedback).blockReason) !== '') isEnded = true
    for (const candidate of recordsIn(chunk.candidates)) {
      for (const part of recordsIn(recordIn(candidate.content).parts)) receivedBytes += partBytes(part)
      if (textOf(candidate.finishReason) !== '') isEnded = true
    }
  })

  return {
    push: events.push,
    reported: () => ({ ...usage }),
    receivedBound: () => Math.max(usage.output ?? 0, receivedBytes + events.waiting()),
    ended: () => isEnded,
  }
}

function partBytes({ text, functionCall, thoughtSignature }: Record<string, unknown>): number {
  const call = isRecord(functionCall) ? JSON.stringify(functionCall) : ''
  return [text, thoughtSignature, call].reduce<number>((sum, each) => sum + Buffer.byteLength(textOf(each)), 0)
}

/** The sums until then. What was read from the cache is part of the prompt, and thinking is no part of the candidates. */
function usageIn(said: Record<string, unknown>): Partial<Usage> {
  const prompt = countIn(said.promptTokenCount)
  const tools = countIn(said.toolUsePromptTokenCount) ?? 0
  const cached = countIn(said.cachedContentTokenCount) ?? 0
  const spoken = (countIn(said.candidatesTokenCount) ?? 0) + (countIn(said.thoughtsTokenCount) ?? 0)
  const total = countIn(said.totalTokenCount) ?? 0
  if (prompt === undefined) return { output: spoken }
  return {
    input: Math.max(0, prompt - cached) + tools,
    cacheRead: Math.min(cached, prompt),
    cacheWrite: 0,
    cacheWriteHour: 0,
    output: Math.max(spoken, total - prompt - tools),
  }
}
