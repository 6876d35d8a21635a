import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Endpoint, ProviderName } from './provider.ts'
import { lastOf, takesOwnKeys, variables } from './names.ts'
import type { AskedProvider, ModelSettings, OwnKeyProvider } from './names.ts'
import type { ModelKeyRecord, ModelKeyStore } from './store.ts'

/** See `Box`. */
export interface Seal {
  seal(text: string, place: string): string
  open(sealed: string, place: string): string | undefined
}

export interface EndpointsDeps {
  store: ModelKeyStore
  seal: Seal
  clock: Clock
  settings: ModelSettings
  publicBaseUrls: Readonly<Record<OwnKeyProvider, string>>
}

/** Where a provider is asked, and with whose key. */
export interface KnownEndpoint {
  endpoint: Endpoint
  isOwn: boolean
}

export interface ModelKeys {
  list(accountId: string): Promise<ModelKeyRecord[]>
  set(provider: OwnKeyProvider, apiKey: string, by: { accountId: string; actorId: string }): Promise<ModelKeyRecord>
  remove(provider: OwnKeyProvider, accountId: string): Promise<void>
}

export interface Endpoints {
  /** Throws why there is none. */
  of(provider: ProviderName, accountId: string): Promise<KnownEndpoint>
  keys: ModelKeys
}

/** Keys of the operator, from the environment, and of accounts, sealed at rest. Nothing else in the server sees them. */
export function createEndpoints({ store, seal, clock, settings, publicBaseUrls }: EndpointsDeps): Endpoints {
  async function ownKey(provider: OwnKeyProvider, accountId: string): Promise<string | undefined> {
    const record = await store.find(accountId, provider)
    if (!record) return undefined
    const apiKey = seal.open(record.sealed, placeOf(accountId, provider))
    if (apiKey !== undefined) return apiKey
    throw new DeltaError('model_key_unreadable', `The account’s key of ${provider} can not be read`, {
      context: { provider },
    })
  }

  function operators(provider: AskedProvider): KnownEndpoint {
    const { apiKey, baseUrl = takesOwnKeys(provider) ? publicBaseUrls[provider] : undefined } = settings[provider]
    const isSet = provider === 'openai' || apiKey !== undefined
    if (isSet && baseUrl !== undefined) return { endpoint: { apiKey, baseUrl }, isOwn: false }
    const variable = variables[provider]
    throw new DeltaError('model_key_missing', `Models of ${provider} can not be used: ${variable} is not set`, {
      context: { provider, variable },
    })
  }

  return {
    async of(provider, accountId) {
      if (provider === 'recording') return { endpoint: { apiKey: undefined, baseUrl: '' }, isOwn: false }
      if (!takesOwnKeys(provider)) return operators(provider)
      // The account's own comes first, since it pays for that itself. It goes to the provider and nowhere else, whatever the operator uses.
      const apiKey = await ownKey(provider, accountId)
      if (apiKey === undefined) return operators(provider)
      return { endpoint: { apiKey, baseUrl: publicBaseUrls[provider] }, isOwn: true }
    },
    keys: {
      list: store.list,
      async set(provider, apiKey, { accountId, actorId }) {
        const sealed = seal.seal(apiKey, placeOf(accountId, provider))
        const record = { provider, sealed, last: lastOf(apiKey), setBy: actorId, setAt: clock.now() }
        await store.put(accountId, record)
        return record
      },
      async remove(provider, accountId) {
        if (await store.remove(accountId, provider)) return
        throw new DeltaError('model_key_not_found', `The account has no key of its own for ${provider}`, {
          context: { provider },
        })
      },
    },
  }
}

function placeOf(accountId: string, provider: OwnKeyProvider): string {
  return `${accountId}/${provider}`
}
