import { randomInt } from 'node:crypto'
import type { Clock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { DeltaError } from '../kernel/errors.ts'
import { createKeptFetch } from '../kernel/http/kept-fetch.ts'
import type { Logger } from '../kernel/log.ts'
import type { Metrics } from '../kernel/metrics.ts'
import type { Traces } from '../kernel/traces.ts'
import { shownTokens } from '../ledger/door.ts'
import type { Ledger } from '../ledger/service.ts'
import type { CallModel } from './call.ts'
import { createModelCalls, errorOf } from './calls.ts'
import type { CallCounts, Usable } from './calls.ts'
import { knownModel } from './catalogue.ts'
import { modelLimits } from './limits.ts'
import { createEndpoints } from './endpoints.ts'
import type { KnownEndpoint, ModelKeys, Seal } from './endpoints.ts'
import type { Passage } from './passage.ts'
import { dearestOutput, readModelPrices } from './prices.ts'
import type { ModelRates } from './prices.ts'
import { ProviderFailure, providerNames } from './provider.ts'
import type { Provider, ProviderName } from './provider.ts'
import { parseModel } from './names.ts'
import type { ModelName, ModelSettings, OwnKeyProvider } from './names.ts'
import { createServedModels } from './served.ts'
import { traceCalls } from './tracing.ts'
import { createModelKeyStore } from './store.ts'
import { modelView, providerView } from './views.ts'
import type { ModelListView, ModelView, ProviderView } from './schema.ts'

export type { ModelSettings } from './names.ts'

export interface ModelsDeps {
  database: Database
  ledger: Pick<Ledger, 'ensure' | 'hold' | 'sent' | 'commit' | 'charge' | 'price' | 'bound' | 'rates'>
  clock: Clock
  log: Logger
  /** For keys of accounts. */
  seal: Seal
  providers: Readonly<Partial<Record<ProviderName, Provider>>>
  settings: ModelSettings
  /** The bytes of an image of a conversation. */
  image: (digest: string, accountId: string) => Promise<Uint8Array>
  /** @default one that keeps its connections */
  fetch?: typeof globalThis.fetch
  /** Where keys of accounts go, whatever the operator's base URLs are. @default the providers' own */
  publicBaseUrls?: Readonly<Record<OwnKeyProvider, string>>
  /** From 0 to below 1. @default anything */
  random?: () => number
  /** @default none */
  traces?: Traces
}

export interface CountWish extends Pick<Passage, 'body' | 'headers'> {
  accountId: string
  /** `<provider>/<name>` */
  model: string
  signal: AbortSignal
}

/** A model that can be used now. */
export interface ResolvedModel extends ModelName {
  /** `<provider>/<name>` */
  model: string
  /** With a key of the account, which pays its provider itself. */
  ownKey: boolean
  /** Where it is known. */
  contextTokens: number | undefined
  maxOutputTokens: number | undefined
  /** Tokens for a million output tokens, at the dearest. */
  price: number
}

export interface Models {
  call: CallModel
  /** How many tokens the request of another program would come to, as its provider counts them. */
  countTokens(wish: CountWish): Promise<number>
  /** What a task would use. Without a name: the default one. Throws why it can not be used. */
  resolve(model: string | undefined, accountId: string): Promise<ResolvedModel>
  /** All that the server knows of, with why some can not be used now. */
  list(accountId: string): Promise<ModelListView>
  keys: ModelKeys
  counts(): CallCounts
  metrics(metrics: Metrics): void
  /** What is under way ends by its own signals; what was not written yet is tried once more. */
  stop(): Promise<void>
}

const publicBaseUrls = {
  anthropic: 'https://api.anthropic.com/v1',
  google: 'https://generativelanguage.googleapis.com/v1beta',
} as const satisfies Record<OwnKeyProvider, string>

const anyRandom = () => randomInt(2 ** 32) / 2 ** 32

/** The door to models: which there are, with whose key, and the metered call. */
export function createModels(deps: ModelsDeps): Models {
  const { ledger, clock, seal, providers, settings, random = anyRandom } = deps
  const kept = createKeptFetch()
  const { fetch = kept.fetch } = deps
  const store = createModelKeyStore(deps.database)
  const prices = readModelPrices(ledger.rates.meters)
  const endpoints = createEndpoints({
    store,
    seal,
    clock,
    settings,
    publicBaseUrls: deps.publicBaseUrls ?? publicBaseUrls,
  })
  const served = createServedModels({ fetch, clock })

  function ratesOf({ provider, name }: ModelName, isOwn: boolean): ModelRates {
    const model = `${provider}/${name}`
    const isFree = provider === 'recording' || (provider === 'openai' && isLocal(settings.localModels, name))
    const rates = prices.of({ model, ownKey: isOwn, isFree })
    if (rates) return rates
    throw new DeltaError('model_not_priced', `The rate card ${ledger.rates.version} has no price for ${model}`, {
      context: { model, meters: [`model:${model}:input`, `model:${model}:output`] },
    })
  }

  function parsed(model: string): ModelName & { by: Provider } {
    const found = parseModel(model)
    const by = found && providers[found.provider]
    if (!by || by.models?.includes(found.name) === false) {
      throw new DeltaError('model_not_found', 'This names no model', { context: { model } })
    }
    return { ...found, by }
  }

  async function usable(model: string, accountId: string): Promise<Usable & { isOwn: boolean }> {
    const { provider, name, by } = parsed(model)
    const { endpoint, isOwn } = await endpoints.of(provider, accountId)
    const rates = ratesOf({ provider, name }, isOwn)
    const keyName = isOwn ? accountId : 'operator'
    return { model, name, by, endpoint, isOwn, keyName, rates, maxOutputTokens: knownModel(model)?.maxOutputTokens }
  }

  const calls = createModelCalls({
    ledger,
    isShared: deps.database.kind === 'postgres',
    clock,
    log: deps.log,
    usable,
    image: deps.image,
    fetch,
    random,
  })

  /** Names beside those that the card has. */
  async function otherNames(openai: KnownEndpoint | DeltaError): Promise<string[]> {
    const told = openai instanceof DeltaError ? [] : ((await served.of(openai.endpoint)) ?? [])
    const local = openai instanceof DeltaError ? [] : settings.localModels.filter((name) => name !== '*')
    const built = Object.values(providers).flatMap(({ name, models = [] }) => models.map((one) => `${name}/${one}`))
    return [...[...told, ...local].map((name) => `openai/${name}`), ...built]
  }

  return {
    call: deps.traces ? traceCalls(calls.call, deps.traces) : calls.call,
    async countTokens({ accountId, model, body, headers, signal }) {
      const used = await usable(model, accountId)
      const { name, by, endpoint } = used
      if (!by.countTokens) throw new DeltaError('model_not_found', `Models of ${by.name} count nothing beforehand`)
      const inTime = AbortSignal.any([signal, AbortSignal.timeout(modelLimits.countMs)])
      try {
        return await by.countTokens({ model: name, body, headers }, { endpoint, fetch, signal: inTime })
      } catch (error) {
        if (error instanceof ProviderFailure) throw errorOf(used, error)
        if (signal.aborted) throw new DeltaError('canceled', 'The call was given up', { cause: error })
        throw errorOf(used, new ProviderFailure('unavailable', 'It did not answer', { cause: error }))
      }
    },
    async resolve(wanted = settings.defaultModel, accountId) {
      if (wanted === undefined) {
        const context = { variable: 'DELTA_MODEL' }
        throw new DeltaError('model_not_found', 'No model is named, and DELTA_MODEL is not set', { context })
      }
      const { provider } = parsed(wanted)
      const { model, name, isOwn, rates } = await usable(wanted, accountId)
      const { contextTokens, maxOutputTokens } = knownModel(model) ?? {}
      const price = shownTokens(dearestOutput(rates))
      return { model, provider, name, ownKey: isOwn, contextTokens, maxOutputTokens, price }
    },
    async list(accountId) {
      const found = new Map<ProviderName, KnownEndpoint | DeltaError>()
      for (const name of providerNames)
        if (providers[name]) found.set(name, await unlessRefused(endpoints.of(name, accountId)))
      const { defaultModel } = settings
      const names = new Set([
        ...(defaultModel === undefined ? [] : [defaultModel]),
        ...prices.named,
        ...(await otherNames(found.get('openai') ?? new DeltaError('model_key_missing', 'not there'))),
      ])
      const data = [...names].flatMap((model): ModelView[] => {
        const name = parseModel(model)
        const endpoint = name && found.get(name.provider)
        if (!endpoint) return []
        const isOwn = !(endpoint instanceof DeltaError) && endpoint.isOwn
        const rates = refusedOr(() => ratesOf(name, isOwn))
        return [modelView({ model, ...name, endpoint, rates, known: knownModel(model) })]
      })
      const all = [...found].map(([provider, endpoint]): ProviderView => providerView(provider, endpoint))
      return { data, providers: all, default: defaultModel ?? null }
    },
    keys: endpoints.keys,
    counts: calls.counts,
    metrics(metrics) {
      const { attempts } = calls.counts()
      const outcomes = { ended: 'were answered to the end', cut: 'were cut', failed: 'failed' } as const
      for (const [state, what] of Object.entries(outcomes))
        metrics.counterFrom(
          `delta_model_requests_${state}_total`,
          `Requests to providers of models that ${what}`,
          () => attempts[state as keyof typeof outcomes],
        )
      metrics.gauge('delta_model_calls_active', 'Calls of models under way', () => calls.counts().active)
      metrics.gauge('delta_model_breakers_open', 'Models left alone after failures', () => calls.counts().openBreakers)
      metrics.gauge('delta_model_calls_unsettled', 'Calls that wait to be paid for', () => calls.counts().unsettled)
    },
    async stop() {
      await calls.stop()
      kept.close()
    },
  }
}

function isLocal(names: readonly string[], name: string): boolean {
  return names.some((one) => one === '*' || one === name)
}

async function unlessRefused<Result>(work: Promise<Result>): Promise<Result | DeltaError> {
  try {
    return await work
  } catch (error) {
    if (error instanceof DeltaError && error.status < 500) return error
    throw error
  }
}

function refusedOr<Result>(work: () => Result): Result | DeltaError {
  try {
    return work()
  } catch (error) {
    if (error instanceof DeltaError) return error
    throw error
  }
}
