import type { Provider, ProviderName } from '../provider.ts'
import { anthropic } from './anthropic/anthropic.ts'
import { google } from './google/google.ts'
import { openai } from './openai/openai.ts'
import { recording } from '../recording/recording.ts'

/** Their packages are loaded when the first call is made to each. */
export const providers: Readonly<Record<ProviderName, Provider>> = { anthropic, google, openai, recording }
