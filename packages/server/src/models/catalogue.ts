export interface KnownModel {
  contextTokens: number
  maxOutputTokens: number
}

const million = 1_000_000

/** By their providers' own pages of models, November 2026. What is not here can be used too; then nobody knows its limits. */
// oxfmt-ignore
const known: Readonly<Record<string, KnownModel>> = {
  'anthropic/claude-fable-5-1': { contextTokens: million, maxOutputTokens: 128_000 },
  'anthropic/claude-opus-5-5': { contextTokens: million, maxOutputTokens: 128_000 },
  'anthropic/claude-opus-5': { contextTokens: million, maxOutputTokens: 128_000 },
  'anthropic/claude-sonnet-5-5': { contextTokens: million, maxOutputTokens: 128_000 },
  'anthropic/claude-sonnet-5': { contextTokens: million, maxOutputTokens: 128_000 },
  'anthropic/claude-haiku-5-5': { contextTokens: million, maxOutputTokens: 128_000 },
  'anthropic/claude-sonnet-4-5': { contextTokens: 200_000, maxOutputTokens: 64_000 },
  'anthropic/claude-haiku-4-5': { contextTokens: 200_000, maxOutputTokens: 64_000 },
  'google/gemini-3.8-flash': { contextTokens: 1_048_576, maxOutputTokens: 65_536 },
  'google/gemini-3.5-flash': { contextTokens: 1_048_576, maxOutputTokens: 65_536 },
  'google/gemini-3.5-flash-lite': { contextTokens: 1_048_576, maxOutputTokens: 65_536 },
  'google/gemini-3.1-pro-preview': { contextTokens: 1_048_576, maxOutputTokens: 65_536 },
  'google/gemini-2.5-pro': { contextTokens: 1_048_576, maxOutputTokens: 65_536 },
  'google/gemini-2.5-flash': { contextTokens: 1_048_576, maxOutputTokens: 65_536 },
  'google/gemini-2.5-flash-lite': { contextTokens: 1_048_576, maxOutputTokens: 65_536 },
}

/** Also of its dated versions, such as `…-20251001`. */
export function knownModel(model: string): KnownModel | undefined {
  const name = model.replace(/-20[0-9]{6}$/, '')
  return Object.hasOwn(known, name) ? known[name] : undefined
}
