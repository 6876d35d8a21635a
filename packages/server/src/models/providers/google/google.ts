import type { PromptStyle } from '../prompt.ts'
import { createProvider, noKey } from '../stream.ts'
import { googleWire } from './wire.ts'

const style: PromptStyle = {
  provider: 'google',
  optionsKey: 'google',
  takesImagesInResults: false,
  forgetsThinkingOfTurns: false,
  callId: /^[\x21-\x7e]{1,64}$/,
}

/** From the third generation on (https://ai.google.dev/gemini-api/docs/function-calling#multimodal). */
const takesImagesInResults = /^gemini-([3-9]|\d{2})/

/** They do not know the word. */
const withoutThinking = /^(gemini-(1|2\.0)|gemma|learnlm)/

export const google = createProvider('google', {
  style: ({ model }) => ({ ...style, takesImagesInResults: takesImagesInResults.test(model) }),
  async open(model, baseUrl, fetch) {
    const { createGoogle } = await import('@ai-sdk/google')
    return createGoogle({ apiKey: noKey, baseURL: baseUrl, fetch }).languageModel(model)
  },
  header: (apiKey) => (apiKey ? { 'x-goog-api-key': apiKey } : undefined),
  callOptions: ({ model, thinking }, options) => {
    if (withoutThinking.test(model)) return options
    const reasoning = thinking === 'off' ? 'none' : thinking
    return {
      ...options,
      reasoning,
      providerOptions: { google: { thinkingConfig: { includeThoughts: thinking !== 'off' } } },
    }
  },
  rewrite: ({ thinking, maxOutputTokens }) =>
    thinking === 'off' ? undefined : (body) => googleWire.withOutputLimit(body, maxOutputTokens),
  bound: (_of, { thoughtSignature }) => (typeof thoughtSignature === 'string' ? { thoughtSignature } : undefined),
  wire: googleWire,
})
