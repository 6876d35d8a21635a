import type { LanguageModelV4CallOptions, LanguageModelV4Prompt } from '@ai-sdk/provider'
import type { Provider, ProviderRequest, ThinkingLevel } from '../../provider.ts'
import type { PromptStyle } from '../prompt.ts'
import { isRecord, recordsIn } from '../reading.ts'
import { createProvider, noKey } from '../stream.ts'
import { countTokens, passMessages } from './pass.ts'
import { anthropicWire } from './wire.ts'

const style: PromptStyle = {
  provider: 'anthropic',
  optionsKey: 'anthropic',
  takesImagesInResults: true,
  forgetsThinkingOfTurns: false,
  callId: /^[A-Za-z0-9_-]{1,64}$/,
}

/** Of what may be said at all, how much may be thought, with models that take a number. */
const budgetShares: Record<Exclude<ThinkingLevel, 'off'>, number> = { low: 0.1, medium: 0.3, high: 0.6 }

const mark = { anthropic: { cacheControl: { type: 'ephemeral' } } }

const spoken = createProvider('anthropic', {
  style: () => style,
  async open(model, baseUrl, fetch) {
    const { createAnthropic } = await import('@ai-sdk/anthropic')
    return createAnthropic({ apiKey: noKey, baseURL: baseUrl, fetch }).languageModel(model)
  },
  header: (apiKey) => (apiKey ? { 'x-api-key': apiKey } : undefined),
  callOptions: (request, options) => ({
    ...options,
    ...marked(options),
    reasoning: request.thinking === 'off' ? 'none' : request.thinking,
    // Inputs of tools come whole and valid, rather than earlier: nobody watches them.
    providerOptions: { anthropic: { toolStreaming: false } },
  }),
  rewrite: (request) => (request.thinking === 'off' ? undefined : (body) => withBudget(body, request)),
  bound: (of, { signature, redactedData }) => {
    if (of !== 'thinking') return undefined
    if (typeof signature === 'string') return { signature }
    return typeof redactedData === 'string' ? { redactedData } : undefined
  },
  wire: anthropicWire,
})

export const anthropic: Provider = { ...spoken, pass: passMessages, countTokens }

/**
 * Prompt caching (https://docs.claude.com/en/docs/build-with-claude/prompt-caching): four marks may be set. At the tools and at the system prompt, which change seldom, and at the last two messages of
 * the user, so that each step finds what the one before it wrote.
 */
function marked({ prompt, tools }: LanguageModelV4CallOptions): Pick<LanguageModelV4CallOptions, 'prompt' | 'tools'> {
  const ends = userEnds(prompt).slice(-2)
  const isMarked = (at: number) => prompt[at]!.role === 'system' || ends.includes(at)
  return {
    prompt: prompt.map((message, at) => (isMarked(at) ? { ...message, providerOptions: mark } : message)),
    ...(tools
      ? { tools: tools.map((tool, at) => (at === tools.length - 1 ? { ...tool, providerOptions: mark } : tool)) }
      : {}),
  }
}

/** Where a run of messages that are not the model's ends: it is one message of the user there. */
function userEnds(prompt: LanguageModelV4Prompt): number[] {
  const isUser = (at: number) => prompt[at]?.role === 'user' || prompt[at]?.role === 'tool'
  return prompt.flatMap((_, at) => (isUser(at) && !isUser(at + 1) ? [at] : []))
}

/** The package adds its own budget to the limit; here all that is thought counts against it. */
function withBudget(
  body: Record<string, unknown>,
  { thinking: level, maxOutputTokens }: ProviderRequest,
): Record<string, unknown> {
  const { thinking } = body
  const limited = anthropicWire.withOutputLimit(body, maxOutputTokens)
  if (level === 'off' || !isRecord(thinking) || thinking.type !== 'enabled') return limited
  const { thinking: _, ...without } = limited
  if (!beginsWithThinking(body)) return without
  const budget = Math.max(1_024, Math.floor(Number(limited.max_tokens) * budgetShares[level]))
  return anthropicWire.withOutputLimit(
    { ...without, thinking: { ...thinking, budget_tokens: budget } },
    maxOutputTokens,
  )
}

/**
 * While tools are used, thinking with a budget is only taken where the reply that called them begins with its own. Another model's has been dropped, so such a turn is ended without.
 */
function beginsWithThinking({ messages }: Record<string, unknown>): boolean {
  const [reply, last] = recordsIn(messages).slice(-2)
  if (recordsIn(last?.content)[0]?.type !== 'tool_result') return true
  const first = recordsIn(reply?.content)[0]?.type
  return first === 'thinking' || first === 'redacted_thinking'
}
