import type { PromptStyle } from '../prompt.ts'
import { createProvider } from '../stream.ts'
import { openaiWire } from './wire.ts'

const style: PromptStyle = {
  provider: 'openai',
  optionsKey: 'openai',
  takesImagesInResults: false,
  // Servers want the thinking of the turn that goes on, and refuse or charge that of earlier ones (https://api-docs.deepseek.com/guides/thinking_mode).
  forgetsThinkingOfTurns: true,
  callId: /^[\x21-\x7e]{1,40}$/,
}

/** Any server that speaks the format of OpenAI's chat completions: Ollama, vLLM, llama.cpp, and OpenAI itself. A key is sent where there is one. */
export const openai = createProvider('openai', {
  style: () => style,
  async open(model, baseUrl, fetch) {
    const { createOpenAICompatible } = await import('@ai-sdk/openai-compatible')
    return createOpenAICompatible({
      name: 'openai',
      baseURL: baseUrl,
      fetch,
      includeUsage: true,
      ...(isOpenai(baseUrl) ? { transformRequestBody: withNewerLimit } : {}),
    }).languageModel(model)
  },
  header: (apiKey) => (apiKey ? { authorization: `Bearer ${apiKey}` } : {}),
  // Where there is nothing to say, nothing is said: many a server refuses a field that its model does not know.
  callOptions: ({ thinking }, options) => (thinking === 'off' ? options : { ...options, reasoning: thinking }),
  bound: (of, { thoughtSignature }) => {
    if (typeof thoughtSignature === 'string') return { thoughtSignature }
    return of === 'thinking' ? {} : undefined
  },
  wire: openaiWire,
})

function isOpenai(baseUrl: string): boolean {
  return URL.canParse(baseUrl) && new URL(baseUrl).hostname === 'api.openai.com'
}

/** OpenAI's newer models refuse `max_tokens`, and all of its models take the other (https://platform.openai.com/docs/api-reference/chat/create). */
function withNewerLimit({ max_tokens, ...body }: Record<string, unknown>): Record<string, unknown> {
  return { ...body, max_completion_tokens: max_tokens }
}
