import { modelLimits } from './limits.ts'
import { providerNames } from './provider.ts'
import type { ProviderName } from './provider.ts'

export interface ModelName {
  provider: ProviderName
  /** As the provider knows it; it may have slashes of its own. */
  name: string
}

const shape = new RegExp(`^[A-Za-z0-9][A-Za-z0-9_.:/@+-]{0,${modelLimits.nameChars - 1}}$`)

/** `anthropic/claude-…`; undefined for what names no model. */
export function parseModel(text: string): ModelName | undefined {
  const slash = text.indexOf('/')
  const provider = providerNames.find((one) => one === text.slice(0, slash))
  const name = text.slice(slash + 1)
  return provider !== undefined && isModelName(name) ? { provider, name } : undefined
}

/** As a provider may call one of its models. */
export function isModelName(text: string): boolean {
  return shape.test(text)
}

interface KeyAndPlace {
  apiKey: string | undefined
  baseUrl: string | undefined
}

/** What the operator has set; see `ModelsConfig`. */
export interface ModelSettings {
  anthropic: KeyAndPlace
  google: KeyAndPlace
  openai: KeyAndPlace
  defaultModel: string | undefined
  localModels: readonly string[]
}

/** What an account may set a key of its own for. With the others it would be the operator's server that learns it. */
export const ownKeyProviders = ['anthropic', 'google'] as const satisfies readonly ProviderName[]
export type OwnKeyProvider = (typeof ownKeyProviders)[number]

export function takesOwnKeys(provider: ProviderName): provider is OwnKeyProvider {
  return ownKeyProviders.some((one) => one === provider)
}

/** Enough to tell one's keys apart. */
export function lastOf(apiKey: string): string {
  return apiKey.slice(-4)
}

/** Those that are somewhere else, with an address and keys. A recording is in the server itself. */
export type AskedProvider = Exclude<ProviderName, 'recording'>

/** The variable that lets a provider be used. */
export const variables = {
  anthropic: 'ANTHROPIC_API_KEY',
  google: 'GEMINI_API_KEY',
  openai: 'OPENAI_BASE_URL',
} as const satisfies Record<AskedProvider, string>
