import { z } from '@hono/zod-openapi'
import { pageQuery } from '../../kernel/http/request-shapes.ts'
import { createTaskSchema } from '../schema.ts'
import { webhookLimits } from './limits.ts'
import { deliveryStates, deliveryTypes, webhookEvents, webhookReasons, webhookStates } from './record.ts'

const urlSchema = z
  .string()
  .max(webhookLimits.urlChars)
  .superRefine((url, context) => {
    const fault = urlFault(url)
    if (fault !== undefined) context.addIssue({ code: 'custom', message: fault })
  })
  .openapi({
    description: 'Where it is told: https; http only to addresses that the operator lists',
    example: 'https://example.com/hooks/delta',
  })

const eventsSchema = z
  .array(z.enum(webhookEvents))
  .min(1)
  .max(webhookEvents.length)
  .refine((events) => new Set(events).size === events.length, { message: 'each at most once' })
  .openapi({ example: ['task.finished', 'task.failed'] })

export const createWebhookSchema = z
  .strictObject({
    url: urlSchema,
    events: eventsSchema,
    agentId: createTaskSchema.shape.agent.optional().openapi({ description: 'Only of this agent’s tasks' }),
  })
  .openapi('CreateWebhook')
export type CreateWebhook = z.output<typeof createWebhookSchema>

export const updateWebhookSchema = z
  .strictObject({
    url: urlSchema.optional(),
    events: eventsSchema.optional(),
    enabled: z
      .boolean()
      .optional()
      .openapi({ description: 'False: it rests; true: it goes on, also when it was disabled' }),
  })
  .openapi('UpdateWebhook')
export type UpdateWebhook = z.output<typeof updateWebhookSchema>

export const webhookSchema = z
  .object({
    id: z.string().openapi({ example: 'whk_k3v9x0m2qp7a8b1c4d5e' }),
    url: z.string().openapi({ description: 'Only its host for who may not change it' }),
    events: z.array(z.enum(webhookEvents)),
    agentId: z.string().nullable(),
    state: z.enum(webhookStates),
    reason: z.enum(webhookReasons).nullable().openapi({ description: 'Why the server disabled it' }),
    failures: z.int().openapi({ description: 'Failed tries in a row' }),
    failingSince: z.iso.datetime().nullable(),
    createdBy: z.string().openapi({ description: 'Who made it or changed it last: by their rights it hears of tasks' }),
    createdAt: z.iso.datetime(),
    changedAt: z.iso.datetime(),
  })
  .openapi('Webhook')
export type WebhookView = z.output<typeof webhookSchema>

export const webhookWithSecretSchema = webhookSchema
  .extend({
    secret: z.string().openapi({ description: 'What it is signed with; never shown again', example: 'whsec_…' }),
  })
  .openapi('WebhookWithSecret')
export type WebhookWithSecret = z.output<typeof webhookWithSecretSchema>

export const webhookListSchema = z.object({ data: z.array(webhookSchema) }).openapi('WebhookList')

export const webhookParamsSchema = z.object({
  id: z
    .string()
    .max(64)
    .openapi({ param: { name: 'id', in: 'path' }, example: 'whk_k3v9x0m2qp7a8b1c4d5e' }),
})

export const deliveryParamsSchema = webhookParamsSchema.extend({
  deliveryId: z
    .string()
    .max(64)
    .openapi({ param: { name: 'deliveryId', in: 'path' }, example: 'dlv_k3v9x0m2qp7a8b1c4d5e' }),
})

export const deliverySchema = z
  .object({
    id: z.string().openapi({ description: 'Also the header `webhook-id`, the same at every try' }),
    webhookId: z.string(),
    type: z.enum(deliveryTypes),
    taskId: z.string().nullable(),
    state: z.enum(deliveryStates).openapi({
      description:
        '`failed`: given up after the last try; `canceled`: the webhook was paused or disabled before it arrived',
    }),
    tries: z.int(),
    nextTryAt: z.iso.datetime().nullable(),
    lastStatus: z.int().nullable().openapi({ description: 'Of the last answer' }),
    lastError: z.string().nullable(),
    createdAt: z.iso.datetime().openapi({ description: 'When it happened' }),
    endedAt: z.iso.datetime().nullable(),
  })
  .openapi('WebhookDelivery')
export type DeliveryView = z.output<typeof deliverySchema>

export const deliveryListSchema = z
  .object({ data: z.array(deliverySchema), nextCursor: z.string().nullable() })
  .openapi('WebhookDeliveryList')

export const deliveryListQuerySchema = z.object({
  state: z
    .enum(deliveryStates)
    .optional()
    .openapi({ param: { name: 'state', in: 'query' } }),
  ...pageQuery(webhookLimits.listed),
})
export type DeliveryListQuery = z.output<typeof deliveryListQuerySchema>

/** Undefined where nothing is wrong with how it is written. */
function urlFault(text: string): string | undefined {
  const url = URL.parse(text)
  if (!url || !/^https?:$/.test(url.protocol)) return 'must be an https address'
  if (url.username !== '' || url.password !== '') return 'must not hold a user name or a password'
  if (url.hash !== '') return 'must not hold a fragment'
  return undefined
}
