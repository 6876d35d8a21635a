export interface LiveProvider {
  name: 'anthropic' | 'google' | 'openai'
  /** What there must be to ask it. */
  variable: string
  /** Names another model to ask. */
  modelVariable: string
  /** Asked where none is named. @default the first that the server says it has */
  model?: string
}

export const liveProviders: readonly LiveProvider[] = [
  {
    name: 'anthropic',
    variable: 'ANTHROPIC_API_KEY',
    modelVariable: 'DELTA_TEST_ANTHROPIC_MODEL',
    model: 'claude-haiku-4-5',
  },
  {
    name: 'google',
    variable: 'GEMINI_API_KEY',
    modelVariable: 'DELTA_TEST_GOOGLE_MODEL',
    model: 'gemini-2.5-flash-lite',
  },
  { name: 'openai', variable: 'OPENAI_BASE_URL', modelVariable: 'DELTA_TEST_OPENAI_MODEL' },
]

/** Undefined where it can be asked. */
export function whyNotLive({ variable, name }: LiveProvider, env: NodeJS.ProcessEnv): string | undefined {
  return env[variable] ? undefined : `not run: no ${name === 'openai' ? 'server' : 'key'} of ${name} (${variable})`
}

/** One line for a run that asks no provider: what `npm run test:live` would do here. */
export function liveLine(env: NodeJS.ProcessEnv): string {
  const missing = liveProviders.filter((one) => whyNotLive(one, env) !== undefined).map(({ variable }) => variable)
  const could =
    missing.length < liveProviders.length ? 'npm run test:live asks those that there are' : 'no provider was asked'
  return missing.length === 0
    ? 'live models: not run here; npm run test:live asks all of them'
    : `live models: not run, ${could}; not set: ${missing.join(', ')}`
}
