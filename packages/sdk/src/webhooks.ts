import { Pages } from './pages.ts'
import type { Transport } from './transport.ts'
import type { DeliveryState, Page, WebhookDelivery, WebhookEvent, WebhookInfo, WebhookWithSecret } from './types.ts'

export interface CreateWebhookOptions {
  /** https, to a public address. */
  url: string
  events: WebhookEvent[]
  /** Only of this agent's tasks. @default of all agents */
  agentId?: string
}

/** What is left out stays. */
export interface UpdateWebhookOptions {
  url?: string
  events?: WebhookEvent[]
  /** False: it rests; true: it goes on, also where it was disabled. */
  enabled?: boolean
}

export interface ListDeliveriesOptions {
  /** @default every state */
  state?: DeliveryState
  /** Deliveries fetched at a time. @default 50, at most 200 */
  pageSize?: number
}

/**
 * Servers of yours that are told when tasks end or need a decision. What they are told is checked with `verifyWebhook`.
 *
 * @example
 * const { id, secret } = await delta.webhooks.create({ url: 'https://example.com/hooks/delta', events: ['task.finished'] })
 */
export class Webhooks {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /** Its `secret` is in this answer alone. `webhook_address_refused`, `webhook_limit_reached`, `agent_not_found`. */
  create(options: CreateWebhookOptions): Promise<WebhookWithSecret> {
    return this.#transport.json<WebhookWithSecret>({ method: 'POST', path: '/v1/webhooks', json: options })
  }

  /** All of them, newest first. */
  async list(): Promise<WebhookInfo[]> {
    return (await this.#transport.json<{ data: WebhookInfo[] }>({ path: '/v1/webhooks' })).data
  }

  /** `webhook_not_found`. */
  get(id: string): Promise<WebhookInfo> {
    return this.#transport.json<WebhookInfo>({ path: pathOf(id) })
  }

  /**
   * From then on it hears of tasks by your rights. `webhook_address_refused`, `webhook_state_conflict`.
   *
   * @example
   * await delta.webhooks.update(id, { enabled: false })
   */
  update(id: string, changes: UpdateWebhookOptions): Promise<WebhookInfo> {
    const request = { method: 'PATCH', path: pathOf(id), json: changes, repeatable: true } as const
    return this.#transport.json<WebhookInfo>(request)
  }

  /** With all its deliveries. `webhook_not_found`. */
  remove(id: string): Promise<void> {
    return this.#transport.done({ method: 'DELETE', path: pathOf(id) })
  }

  /** Sends it a `webhook.test`; how that went is at the delivery. */
  test(id: string): Promise<WebhookDelivery> {
    return this.#transport.json<WebhookDelivery>({ method: 'POST', path: `${pathOf(id)}/test` })
  }

  /**
   * What it was told, or is to be, newest first; kept for 30 days.
   *
   * @example
   * for await (const { id, lastStatus, lastError } of delta.webhooks.deliveries(webhookId, { state: 'failed' })) {
   *   console.log(id, lastStatus, lastError)
   * }
   */
  deliveries(id: string, { state, pageSize }: ListDeliveriesOptions = {}): Pages<WebhookDelivery> {
    return new Pages((cursor) =>
      this.#transport.json<Page<WebhookDelivery>>({
        path: `${pathOf(id)}/deliveries`,
        query: { state, limit: pageSize, cursor },
      }),
    )
  }

  /** `delivery_not_found`. */
  delivery(id: string, deliveryId: string): Promise<WebhookDelivery> {
    return this.#transport.json<WebhookDelivery>({ path: deliveryPathOf(id, deliveryId) })
  }

  /** Once more from its first try, under the same id, with the task as it is then. `delivery_waiting`. */
  redeliver(id: string, deliveryId: string): Promise<WebhookDelivery> {
    const path = `${deliveryPathOf(id, deliveryId)}/redeliver`
    return this.#transport.json<WebhookDelivery>({ method: 'POST', path })
  }
}

const pathOf = (id: string) => `/v1/webhooks/${encodeURIComponent(id)}`
const deliveryPathOf = (id: string, deliveryId: string) => `${pathOf(id)}/deliveries/${encodeURIComponent(deliveryId)}`
