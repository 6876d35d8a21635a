import { z } from '@hono/zod-openapi'
import { askFields } from '../../approvals/schema.ts'
import { idempotencyHeader, pageQuery } from '../../kernel/http/request-shapes.ts'
import { tokensSchema } from '../../ledger/door.ts'
import { requestLimits } from './limits.ts'
import { tokenRequestStates } from './record.ts'

const agentIdSchema = z.string().regex(/^agt_[a-z0-9]{1,40}$/, 'an id such as agt_k3v9x0m2qp7a8b1c4d5e')

export const requestTokensSchema = z
  .strictObject({
    tokens: tokensSchema('Whole tokens').openapi({ example: 50 }),
    reason: askFields.reason.openapi({ example: 'Forty more mails are to be answered' }),
    ttlMs: askFields.ttlMs,
  })
  .openapi('RequestTokens')
export type RequestTokens = z.output<typeof requestTokensSchema>

export const tokenRequestSchema = z
  .object({
    id: z.string().openapi({ example: 'trq_k3v9x0m2qp7a8b1c4d5e' }),
    agentId: z.string().openapi({ description: 'The agent that needs them' }),
    tokens: z.int(),
    reason: z.string().openapi({ description: 'Why, in the words of whoever asks' }),
    automatic: z.boolean().openapi({ description: 'Made by the server when the agent ran out of tokens' }),
    state: z.enum(tokenRequestStates).openapi({
      description:
        '`pending_main`: the main agent decides first; `pending_user`: a person decides; `granting`: decided on and being done; then `granted`, `failed`, `refused`, `expired`, `canceled`, or `unneeded` where the agent has tokens again',
    }),
    askedBy: z.string().openapi({ description: 'The agent, person or key; `platform` for the server itself' }),
    mainAgent: z.string().nullable().openapi({ description: 'The main agent that is asked first' }),
    mainUntil: z.iso.datetime().nullable().openapi({ description: 'From then on a person decides' }),
    endorsedBy: z.string().nullable().openapi({ description: 'The main agent that said yes' }),
    from: z.string().nullable().openapi({
      description: 'Whose tokens they are, as soon as that is known: an agent’s id, or `reserve`',
    }),
    approvalId: z.string().nullable().openapi({ description: 'What a person decides on' }),
    askedAt: z.iso.datetime(),
    expiresAt: z.iso.datetime().openapi({ description: 'Until when somebody must have decided' }),
    decidedBy: z.string().nullable(),
    decidedAt: z.iso.datetime().nullable(),
    refusal: z.string().nullable().openapi({ description: 'Why it was refused' }),
    endedAt: z.iso.datetime().nullable(),
    failure: z
      .object({ code: z.string(), message: z.string() })
      .nullable()
      .openapi({ description: 'Of what was approved and could not be done' }),
  })
  .openapi('TokenRequest')
export type TokenRequestView = z.output<typeof tokenRequestSchema>

export const tokenRequestListSchema = z
  .object({ data: z.array(tokenRequestSchema), nextCursor: z.string().nullable() })
  .openapi('TokenRequestList')

export const tokenRequestListQuerySchema = z.object({
  state: z
    .enum([...tokenRequestStates, 'pending'])
    .optional()
    .openapi({ param: { name: 'state', in: 'query' }, description: '`pending`: whoever decides' }),
  agentId: agentIdSchema.optional().openapi({ param: { name: 'agentId', in: 'query' } }),
  ...pageQuery(requestLimits.listed),
})
export type TokenRequestListQuery = z.output<typeof tokenRequestListQuerySchema>

export const tokenRequestParamsSchema = z.object({
  id: z
    .string()
    .max(64)
    .openapi({ param: { name: 'id', in: 'path' }, example: 'trq_k3v9x0m2qp7a8b1c4d5e' }),
})

export const approveTokensSchema = z
  .strictObject({
    tokens: tokensSchema('As many as you saw; with any other number nothing is approved').openapi({ example: 50 }),
  })
  .openapi('ApproveTokens')

export const refuseTokensSchema = z
  .strictObject({
    reason: askFields.reason.openapi({ description: 'For whoever asked', example: 'The mails can wait for tomorrow' }),
  })
  .openapi('RefuseTokens')

export const tokenRequestKeySchema = idempotencyHeader(
  'Asking again with the same key and body gives the same request, whatever became of it',
)

export const followTokenRequestsQuerySchema = z.object({
  from: z
    .string()
    .regex(/^[0-9]{1,15}$/, 'the id of an event')
    .transform(Number)
    .optional()
    .openapi({ param: { name: 'from', in: 'query' }, type: 'integer', description: 'As `Last-Event-ID`' }),
})
