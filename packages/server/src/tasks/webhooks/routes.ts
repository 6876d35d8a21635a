import { knownCallerOf } from '../../access/callers/door.ts'
import type { ErrorCode } from '../../kernel/errors.ts'
import type { Api, ApiContext, Feature } from '../../kernel/http/api.ts'
import { answerMade, json } from '../../kernel/http/document.ts'
import { createRoute } from '../../kernel/http/route.ts'
import {
  createWebhookSchema,
  deliveryListQuerySchema,
  deliveryListSchema,
  deliveryParamsSchema,
  deliverySchema,
  updateWebhookSchema,
  webhookListSchema,
  webhookParamsSchema,
  webhookSchema,
  webhookWithSecretSchema,
} from './schema.ts'
import type { Webhooks } from './service.ts'

const tags = ['webhooks']
const ofDatabase: readonly ErrorCode[] = ['database_busy', 'database_unavailable', 'database_failed']
const ofKnown: readonly ErrorCode[] = [...ofDatabase, 'webhook_not_found']
const params = webhookParamsSchema
const body = <Schema>(schema: Schema) => ({ content: { 'application/json': { schema } }, required: true }) as const
const rights = 'By a person or a key with `write:tasks`, for all agents where the webhook is for all.'

const createWebhookRoute = createRoute({
  method: 'post',
  path: '/v1/webhooks',
  operationId: 'createWebhook',
  needs: 'nothing',
  tags,
  refuses: [...ofDatabase, 'forbidden', 'agent_not_found', 'webhook_address_refused', 'webhook_limit_reached'],
  summary: 'Have a server of yours told when tasks end or need a decision',
  description: `Signed as Standard Webhooks, tried again for about three days. The secret is shown this once. ${rights}`,
  request: { body: body(createWebhookSchema) },
  responses: { 201: json('The webhook, with its secret', webhookWithSecretSchema) },
})

const listWebhooksRoute = createRoute({
  method: 'get',
  path: '/v1/webhooks',
  operationId: 'listWebhooks',
  needs: 'nothing',
  tags,
  refuses: ofDatabase,
  summary: 'List webhooks, newest first',
  description: 'With `read:tasks`; agents see none.',
  responses: { 200: json('All of them', webhookListSchema) },
})

const getWebhookRoute = createRoute({
  method: 'get',
  path: '/v1/webhooks/{id}',
  operationId: 'getWebhook',
  needs: 'nothing',
  tags,
  refuses: ofKnown,
  summary: 'Look at a webhook',
  request: { params },
  responses: { 200: json('The webhook', webhookSchema) },
})

const updateWebhookRoute = createRoute({
  method: 'patch',
  path: '/v1/webhooks/{id}',
  operationId: 'updateWebhook',
  needs: 'nothing',
  tags,
  refuses: [...ofKnown, 'forbidden', 'webhook_address_refused', 'webhook_state_conflict'],
  summary: 'Change a webhook, let it rest or go on',
  description: `From then on it hears of tasks by your rights. One that rests hears nothing, and what waited is canceled. ${rights}`,
  request: { params, body: body(updateWebhookSchema) },
  responses: { 200: json('The webhook', webhookSchema) },
})

const deleteWebhookRoute = createRoute({
  method: 'delete',
  path: '/v1/webhooks/{id}',
  operationId: 'deleteWebhook',
  needs: 'nothing',
  tags,
  refuses: [...ofKnown, 'forbidden'],
  summary: 'Remove a webhook with all its deliveries',
  description: rights,
  request: { params },
  responses: { 204: { description: 'Removed' } },
})

const testWebhookRoute = createRoute({
  method: 'post',
  path: '/v1/webhooks/{id}/test',
  operationId: 'testWebhook',
  needs: 'nothing',
  tags,
  refuses: [...ofKnown, 'forbidden'],
  summary: 'Send a webhook something to try it',
  description: `A \`webhook.test\`, sent and tried again as all else; how it went is at the delivery. ${rights}`,
  request: { params },
  responses: { 201: json('The delivery', deliverySchema) },
})

const listDeliveriesRoute = createRoute({
  method: 'get',
  path: '/v1/webhooks/{id}/deliveries',
  operationId: 'listWebhookDeliveries',
  needs: 'nothing',
  tags,
  refuses: ofKnown,
  summary: 'List what a webhook was told, or is to be, newest first',
  description: 'Kept for 30 days.',
  request: { params, query: deliveryListQuerySchema },
  responses: { 200: json('A page of them', deliveryListSchema) },
})

const getDeliveryRoute = createRoute({
  method: 'get',
  path: '/v1/webhooks/{id}/deliveries/{deliveryId}',
  operationId: 'getWebhookDelivery',
  needs: 'nothing',
  tags,
  refuses: [...ofKnown, 'delivery_not_found'],
  summary: 'Look at a delivery',
  request: { params: deliveryParamsSchema },
  responses: { 200: json('The delivery', deliverySchema) },
})

const redeliverRoute = createRoute({
  method: 'post',
  path: '/v1/webhooks/{id}/deliveries/{deliveryId}/redeliver',
  operationId: 'redeliverWebhook',
  needs: 'nothing',
  tags,
  refuses: [...ofKnown, 'forbidden', 'delivery_not_found', 'delivery_waiting'],
  summary: 'Send a delivery once more, from its first try',
  description: `Under the same \`webhook-id\`, with the task as it is then. ${rights}`,
  request: { params: deliveryParamsSchema },
  responses: { 200: json('The delivery', deliverySchema) },
})

export function webhooksFeature({ webhooks }: { webhooks: Webhooks }): Feature {
  return {
    name: 'webhooks',
    routes: (api) => addWebhookRoutes(api, webhooks),
    stop: () => webhooks.stop(),
  }
}

function addWebhookRoutes(api: Api, webhooks: Webhooks): void {
  const callerOf = (c: ApiContext) => knownCallerOf(c.var.caller)
  api.openapi(createWebhookRoute, async (c) =>
    answerMade(c, await webhooks.create(c.req.valid('json'), callerOf(c)), 201),
  )
  api.openapi(listWebhooksRoute, async (c) => c.json(await webhooks.list(callerOf(c)), 200))
  api.openapi(getWebhookRoute, async (c) => c.json(await webhooks.get(c.req.valid('param').id, callerOf(c)), 200))
  api.openapi(updateWebhookRoute, async (c) => {
    const { id } = c.req.valid('param')
    return c.json(await webhooks.update(id, c.req.valid('json'), callerOf(c)), 200)
  })
  api.openapi(deleteWebhookRoute, async (c) => {
    await webhooks.remove(c.req.valid('param').id, callerOf(c))
    return c.body(null, 204)
  })
  api.openapi(testWebhookRoute, async (c) =>
    answerMade(c, await webhooks.test(c.req.valid('param').id, callerOf(c)), 201),
  )
  api.openapi(listDeliveriesRoute, async (c) => {
    const { id } = c.req.valid('param')
    return c.json(await webhooks.listDeliveries(id, c.req.valid('query'), callerOf(c)), 200)
  })
  api.openapi(getDeliveryRoute, async (c) => {
    const { id, deliveryId } = c.req.valid('param')
    return c.json(await webhooks.getDelivery(id, deliveryId, callerOf(c)), 200)
  })
  api.openapi(redeliverRoute, async (c) => {
    const { id, deliveryId } = c.req.valid('param')
    return c.json(await webhooks.deliver(id, deliveryId, callerOf(c)), 200)
  })
}
