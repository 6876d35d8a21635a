import { DeltaError } from '../kernel/errors.ts'
import { shownTokens } from '../ledger/door.ts'
import type { KnownModel } from './catalogue.ts'
import type { KnownEndpoint } from './endpoints.ts'
import type { ModelRates } from './prices.ts'
import type { ProviderName } from './provider.ts'
import type { ModelName } from './names.ts'
import type { ModelKeyView, ModelView, ProviderView } from './schema.ts'
import type { ModelKeyRecord } from './store.ts'

export interface Seen extends ModelName {
  model: string
  endpoint: KnownEndpoint | DeltaError
  rates: ModelRates | DeltaError
  known: KnownModel | undefined
}

export function modelView({ model, provider, name, endpoint, rates, known }: Seen): ModelView {
  const refusal = [endpoint, rates].find((one) => one instanceof DeltaError)
  const [base, ...long] = rates instanceof DeltaError ? [] : rates
  return {
    id: model,
    provider,
    name,
    usable: !refusal,
    reason: refusal ? reasonOf(refusal) : null,
    ownKey: !(endpoint instanceof DeltaError) && endpoint.isOwn,
    prices: base ? pricesOf(base.rates) : null,
    longPrices: long.map((tier) => ({ overTokens: tier.over, ...pricesOf(tier.rates) })),
    contextTokens: known?.contextTokens ?? null,
    maxOutputTokens: known?.maxOutputTokens ?? null,
  }
}

export function providerView(provider: ProviderName, endpoint: KnownEndpoint | DeltaError): ProviderView {
  if (endpoint instanceof DeltaError) return { provider, usable: false, reason: reasonOf(endpoint), ownKey: false }
  return { provider, usable: true, reason: null, ownKey: endpoint.isOwn }
}

export function modelKeyView({ provider, last, setBy, setAt }: ModelKeyRecord): ModelKeyView {
  return { provider, last, setBy, setAt: new Date(setAt).toISOString() }
}

function reasonOf({ code, message, remediation }: DeltaError) {
  return { code, message, remediation }
}

function pricesOf({ input, cache_read, cache_write, cache_write_hour, output }: ModelRates[0]['rates']) {
  return {
    input: shownTokens(input.perMillion),
    cacheRead: shownTokens(cache_read.perMillion),
    cacheWrite: shownTokens(cache_write.perMillion),
    cacheWriteHour: shownTokens(cache_write_hour.perMillion),
    output: shownTokens(output.perMillion),
  }
}
