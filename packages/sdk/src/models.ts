import type { Transport } from './transport.ts'
import type { ModelKeyInfo, ModelKeyProvider, ModelList } from './types.ts'

/** Models that tasks can use, and the account's own keys of their providers. */
export class Models {
  readonly keys: ModelKeys
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
    this.keys = new ModelKeys(transport)
  }

  /**
   * With what they cost, and of those that can not be used now, why.
   *
   * @example
   * const { data } = await delta.models.list()
   * for (const { id, usable, reason } of data) console.log(id, usable ? 'can be used' : reason?.remediation)
   */
  list(): Promise<ModelList> {
    return this.#transport.json<ModelList>({ path: '/v1/models' })
  }
}

/** Keys with which the account pays a provider itself. */
export class ModelKeys {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /** Each by its last characters. */
  async list(): Promise<ModelKeyInfo[]> {
    return (await this.#transport.json<{ data: ModelKeyInfo[] }>({ path: '/v1/model-keys' })).data
  }

  /**
   * From the next call on it is used in place of the operator's. It is sealed at rest and never shown again.
   *
   * @example
   * await delta.models.keys.set('anthropic', process.env.ANTHROPIC_API_KEY!)
   */
  set(provider: ModelKeyProvider, apiKey: string): Promise<ModelKeyInfo> {
    const request = { method: 'PUT', path: pathOf(provider), json: { apiKey }, repeatable: true } as const
    return this.#transport.json<ModelKeyInfo>(request)
  }

  /** `model_key_not_found`. */
  remove(provider: ModelKeyProvider): Promise<void> {
    return this.#transport.done({ method: 'DELETE', path: pathOf(provider) })
  }
}

const pathOf = (provider: string) => `/v1/model-keys/${encodeURIComponent(provider)}`
