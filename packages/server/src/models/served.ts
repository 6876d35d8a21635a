import type { Clock } from '../kernel/clock.ts'
import { modelLimits } from './limits.ts'
import type { Endpoint } from './provider.ts'
import { isModelName } from './names.ts'

export interface ServedModels {
  /** Names, as the server tells them; undefined: it does not. */
  of(endpoint: Endpoint): Promise<readonly string[] | undefined>
}

/** What an OpenAI-compatible server says it has: `GET /models`, asked no more than twice a minute. */
export function createServedModels({ fetch, clock }: { fetch: typeof globalThis.fetch; clock: Clock }): ServedModels {
  let known: { atMs: number; names: Promise<readonly string[] | undefined> } | undefined
  return {
    of(endpoint) {
      if (known && clock.monotonic() - known.atMs < modelLimits.servedKeptMs) return known.names
      known = { atMs: clock.monotonic(), names: ask(endpoint, fetch).catch(() => undefined) }
      return known.names
    },
  }
}

async function ask({ apiKey, baseUrl }: Endpoint, fetch: typeof globalThis.fetch): Promise<readonly string[]> {
  const headers = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }
  const signal = AbortSignal.timeout(modelLimits.servedMs)
  const response = await fetch(`${baseUrl}/models`, { headers, signal, redirect: 'error' })
  const { data } = JSON.parse(await beginningOf(response)) as { data: { id: unknown }[] }
  const names = data.map(({ id }) => id).filter((id) => typeof id === 'string' && isModelName(id)) as string[]
  return names.slice(0, modelLimits.served)
}

async function beginningOf({ body }: Response): Promise<string> {
  const chunks: Uint8Array[] = []
  let length = 0
  for await (const chunk of body ?? []) {
    length += chunk.byteLength
    if (length > modelLimits.servedBytes) throw new Error('The list of models is too long')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}
