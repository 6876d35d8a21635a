import { randomInt } from 'node:crypto'
import type { Box } from '../access/secrets.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Logger } from '../kernel/log.ts'
import type { Metrics } from '../kernel/metrics.ts'
import type { Ledger } from '../ledger/service.ts'
import type { CallModel } from './call.ts'
import { createModelCalls } from './calls.ts'
import type { CallCounts, Usable } from './calls.ts'
import { knownModel } from './catalogue.ts'
import { readModelPrices } from './prices.ts'
import type { ModelRates } from './prices.ts'
import type { Endpoint, Provider, ProviderName } from './provider.ts'
import { lastOf, parseModel, takesOwnKeys, variables } from './rules.ts'
import type { ModelName, OwnKeyProvider } from './rules.ts'
import { createModelKeyStore } from './store.ts'
import type { ModelKeyRecord } from './store.ts'

export interface ModelSettings {
  anthropic: { apiKey: string | undefined; baseUrl: string | undefined }
  google: { apiKey: string | undefined; baseUrl: string | undefined }
  /** Without a base URL there is none. */
  openai: { apiKey: string | undefined; baseUrl: string | undefined }
  /** `<provider>/<name>`, where nobody says another. */
  defaultModel: string | undefined
  /** Of the OpenAI-compatible server, those that cost nothing; `*`: all. */
  localModels: readonly string[]
}

export interface ModelsDeps {
  database: Database
  ledger: Pick<Ledger, 'ensure' | 'hold' | 'sent' | 'commit' | 'charge' | 'price' | 'bound' | 'rates'>
  clock: Clock
  log: Logger
  seal: Box
  providers: Readonly<Record<ProviderName, Provider>>
  settings: ModelSettings
  /** The bytes of an image of a conversation. */
  image: (digest: string, accountId: string) => Promise<Uint8Array>
  /** @default Node's */
  fetch?: typeof globalThis.fetch
  /** Where keys of accounts go, whatever the operator's base URLs are. @default the providers' own */
  publicBaseUrls?: Readonly<Record<OwnKeyProvider, string>>
  /** From 0 to below 1. @default anything */
  random?: () => number
}

/** A model that can be used now. */
export interface ResolvedModel extends ModelName {
  /** `<provider>/<name>` */
  model: string
  ownKey: boolean
  contextTokens: number | undefined
  maxOutputTokens: number | undefined
  /** Tokens for a million output tokens, at the dearest. */
  price: number
}

export interface Models {
  call: CallModel
  /** What a task would use. Without a name: the default one. Throws why it can not be used. */
  resolve(model: string | undefined, accountId: string): Promise<ResolvedModel>
  keys: {
    list(accountId: string): Promise<ModelKeyRecord[]>
    set(provider: OwnKeyProvider, apiKey: string, by: { accountId: string; actorId: string }): Promise<ModelKeyRecord>
    remove(provider: OwnKeyProvider, accountId: string): Promise<void>
  }
  counts(): CallCounts
  metrics(metrics: Metrics): void
  stop(): Promise<void>
}

const publicBaseUrls = {
  anthropic: 'https://api.anthropic.com/v1',
  google: 'https://generativelanguage.googleapis.com/v1beta',
} as const satisfies Record<OwnKeyProvider, string>

const anyRandom = () => randomInt(2 ** 32) / 2 ** 32

/** The door to models: which there are, with whose key, and one metered call. */
export function createModels(deps: ModelsDeps): Models {
  const { ledger, clock, seal, providers, settings } = deps
  const store = createModelKeyStore(deps.database)
  const prices = readModelPrices(ledger.rates.meters)
  const publicUrls = deps.publicBaseUrls ?? publicBaseUrls

  async function ownKey(provider: ProviderName, accountId: string): Promise<string | undefined> {
    if (!takesOwnKeys(provider)) return undefined
    const record = await store.find(accountId, provider)
    if (!record) return undefined
    const apiKey = seal.open(record.sealed, placeOf(accountId, provider))
    if (apiKey !== undefined) return apiKey
    throw new DeltaError('model_key_unreadable', `The account’s key of ${provider} can not be read`, {
      context: { provider },
    })
  }

  /** The account's own key comes first, since the account pays for it itself. */
  async function endpointOf(
    provider: ProviderName,
    accountId: string,
  ): Promise<{ endpoint: Endpoint; isOwn: boolean }> {
    const own = await ownKey(provider, accountId)
    if (own !== undefined && takesOwnKeys(provider))
      return { endpoint: { apiKey: own, baseUrl: publicUrls[provider] }, isOwn: true }
    const { apiKey, baseUrl = takesOwnKeys(provider) ? publicUrls[provider] : undefined } = settings[provider]
    const isSet = provider === 'openai' || apiKey !== undefined
    if (isSet && baseUrl !== undefined) return { endpoint: { apiKey, baseUrl }, isOwn: false }
    const variable = variables[provider]
    throw new DeltaError('model_key_missing', `There is no key for models of ${provider}: ${variable} is not set`, {
      context: { provider, variable },
    })
  }

  function ratesOf({ provider, name }: ModelName, isOwn: boolean): ModelRates {
    const model = `${provider}/${name}`
    const isFree = provider === 'openai' && isLocal(settings.localModels, name)
    const rates = prices.of({ model, ownKey: isOwn, isFree })
    if (rates) return rates
    throw new DeltaError('model_not_priced', `The rate card ${ledger.rates.version} has no price for ${model}`, {
      context: { model, meters: [`model:${model}:input`, `model:${model}:output`] },
    })
  }

  async function usable(model: string, accountId: string): Promise<Usable & ModelName & { isOwn: boolean }> {
    const parsed = parseModel(model)
    if (!parsed) throw new DeltaError('model_not_found', 'This names no model', { context: { model } })
    const { endpoint, isOwn } = await endpointOf(parsed.provider, accountId)
    return {
      ...parsed,
      model,
      isOwn,
      by: providers[parsed.provider],
      endpoint,
      keyName: isOwn ? accountId : 'operator',
      rates: ratesOf(parsed, isOwn),
      maxOutputTokens: knownModel(model)?.maxOutputTokens,
    }
  }

  const calls = createModelCalls({
    ledger,
    clock,
    log: deps.log,
    usable,
    image: deps.image,
    fetch: deps.fetch ?? globalThis.fetch,
    random: deps.random ?? anyRandom,
  })

  return {
    call: calls.call,
    async resolve(wanted = settings.defaultModel, accountId) {
      if (wanted === undefined) {
        const context = { variable: 'DELTA_MODEL' }
        throw new DeltaError('model_not_found', 'No model is named, and DELTA_MODEL is not set', { context })
      }
      const { model, provider, name, isOwn, rates } = await usable(wanted, accountId)
      const { contextTokens, maxOutputTokens } = knownModel(model) ?? {}
      const price = Math.max(...rates.map((tier) => tier.rates.output.perMillion)) / 1_000_000
      return { model, provider, name, ownKey: isOwn, contextTokens, maxOutputTokens, price }
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
    counts: calls.counts,
    metrics(metrics) {
      const { attempts } = calls.counts()
      for (const state of ['ended', 'cut', 'failed'] as const)
        metrics.counterFrom(
          `delta_model_requests_${state}_total`,
          `Requests to providers of models that ${state === 'failed' ? 'failed' : `were ${state}`}`,
          () => attempts[state],
        )
      metrics.gauge('delta_model_calls_active', 'Calls of models under way', () => calls.counts().active)
      metrics.gauge('delta_model_breakers_open', 'Models left alone after failures', () => calls.counts().openBreakers)
      metrics.gauge('delta_model_calls_unsettled', 'Calls that wait to be paid for', () => calls.counts().unsettled)
    },
    stop: calls.stop,
  }
}

function placeOf(accountId: string, provider: OwnKeyProvider): string {
  return `${accountId}/${provider}`
}

function isLocal(names: readonly string[], name: string): boolean {
  return names.some((one) => one === '*' || one === name)
}
