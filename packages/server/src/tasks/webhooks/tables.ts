import type { DeliveryState, DeliveryType, WebhookEvent, WebhookReason, WebhookState } from './record.ts'

export interface WebhookRow {
  id: string
  account_id: string
  url: string
  on_finished: number
  on_failed: number
  on_needs_decision: number
  agent_id: string | null
  sealed_secret: string
  state: WebhookState
  reason: WebhookReason | null
  asker: string
  failures: number
  failing_since: number | null
  revision: number
  created_at: number
  changed_at: number
}

/** Whether it hears of that. */
export const columnOf = {
  'task.finished': 'on_finished',
  'task.failed': 'on_failed',
  'task.needs_decision': 'on_needs_decision',
} as const satisfies Record<WebhookEvent, keyof WebhookRow>

export interface DeliveryRow {
  id: string
  webhook_id: string
  account_id: string
  type: DeliveryType
  task_id: string | null
  created_at: number
  state: DeliveryState
  tries: number
  next_try_at: number
  lease_until: number
  body: string | null
  last_status: number | null
  last_error: string | null
  ended_at: number | null
}

export interface WebhookTables {
  webhooks: WebhookRow
  webhook_deliveries: DeliveryRow
}
