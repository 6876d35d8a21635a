import type { Provider, ProviderName } from '../provider.ts'
import { anthropic } from './anthropic/anthropic.ts'

export const providers: Partial<Record<ProviderName, Provider>> = { anthropic }
