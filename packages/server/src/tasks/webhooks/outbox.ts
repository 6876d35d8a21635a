import { sql as raw } from 'kysely'
import type { BatchStep, Database } from '../../kernel/db/database.ts'
import { newId } from '../../kernel/ids.ts'
import { webhookLimits } from './limits.ts'
import type { WebhookEvent } from './record.ts'
import { columnOf, type WebhookTables } from './tables.ts'

export interface TaskHappening {
  type: WebhookEvent
  accountId: string
  agentId: string
  taskId: string
  /** Unix milliseconds. */
  at: number
}

/** Steps for the very batch in which a task ends or comes to wait: then a webhook hears of it if and only if it happened. */
export type DeliverySteps = (happening: TaskHappening) => BatchStep[]

/** Of the database alone, so that whoever keeps tasks can have it before there are webhooks to be served. */
export function createDeliverySteps(database: Database): DeliverySteps {
  const { sql } = database.of<WebhookTables>()
  const most = raw.lit(webhookLimits.waiting)
  return ({ type, accountId, agentId, taskId, at }) => {
    const now = raw.lit(at)
    // One id for each webhook that hears of it: the beginning is this happening's, the end the webhook's own.
    const id = raw<string>`${newId('dlv')} || substr(webhooks.id, 5)`
    const rows = sql
      .selectFrom('webhooks')
      .select([
        id.as('id'),
        'webhooks.id as webhook_id',
        'webhooks.account_id',
        raw<WebhookEvent>`${raw.lit(type)}`.as('type'),
        raw<string>`${taskId}`.as('task_id'),
        raw<number>`${now}`.as('created_at'),
        raw<'waiting'>`'waiting'`.as('state'),
        raw<number>`0`.as('tries'),
        raw<number>`${now}`.as('next_try_at'),
        raw<number>`0`.as('lease_until'),
      ])
      .where('webhooks.account_id', '=', accountId)
      .where('webhooks.state', '=', 'active')
      .where(`webhooks.${columnOf[type]}`, '=', 1)
      .where((where) => where.or([where('webhooks.agent_id', 'is', null), where('webhooks.agent_id', '=', agentId)]))
      .where(
        raw<boolean>`(select count(*) from (select 1 as one from webhook_deliveries as other
          where other.webhook_id = webhooks.id and other.state = 'waiting' limit ${most}) as waiting) < ${most}`,
      )
    const columns = [
      'id',
      'webhook_id',
      'account_id',
      'type',
      'task_id',
      'created_at',
      'state',
      'tries',
      'next_try_at',
      'lease_until',
    ] as const
    return [{ query: sql.insertInto('webhook_deliveries').columns(columns).expression(rows).compile() }]
  }
}
