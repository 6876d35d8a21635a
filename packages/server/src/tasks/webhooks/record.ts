import type { Asker } from '../../approvals/door.ts'

export const webhookEvents = ['task.finished', 'task.failed', 'task.needs_decision'] as const
export type WebhookEvent = (typeof webhookEvents)[number]

export const deliveryTypes = [...webhookEvents, 'webhook.test'] as const
export type DeliveryType = (typeof deliveryTypes)[number]

export const webhookStates = ['active', 'paused', 'disabled'] as const
export type WebhookState = (typeof webhookStates)[number]

/** `failing`: nothing arrived for too long; `gone`: the receiver answered 410. */
export const webhookReasons = ['failing', 'gone', 'asker_gone', 'secret_unreadable'] as const
export type WebhookReason = (typeof webhookReasons)[number]

/** `canceled`: its webhook was disabled or paused before it arrived. */
export const deliveryStates = ['waiting', 'delivered', 'failed', 'canceled'] as const
export type DeliveryState = (typeof deliveryStates)[number]

/** Times are unix milliseconds. */
export interface WebhookRecord {
  id: string
  accountId: string
  url: string
  events: readonly WebhookEvent[]
  /** Only of this agent's tasks. */
  agentId: string | null
  sealedSecret: string
  state: WebhookState
  reason: WebhookReason | null
  /** Whose rights it has: whoever made or changed it last. */
  asker: Asker
  /** Failed tries in a row, and when the first of them was. */
  failures: number
  failingSince: number | null
  revision: number
  createdAt: number
  changedAt: number
}

export interface DeliveryRecord {
  /** Also the `webhook-id`, the same at every try. */
  id: string
  webhookId: string
  accountId: string
  type: DeliveryType
  taskId: string | null
  /** When it happened. */
  createdAt: number
  state: DeliveryState
  tries: number
  nextTryAt: number
  /** What is sent, from the first try until it is over. */
  body: string | null
  lastStatus: number | null
  lastError: string | null
  endedAt: number | null
}
