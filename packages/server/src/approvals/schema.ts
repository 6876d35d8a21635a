import { z } from '@hono/zod-openapi'
import { pageQuery } from '../kernel/http/request-shapes.ts'
import { approvalLimits } from './limits.ts'
import { approvalStates } from './record.ts'

/** One line, and nothing that turns the direction of writing: it stands beside what the server says, and is somebody's who wants something. */
const sentence = z
  .string()
  .trim()
  .min(1)
  .max(approvalLimits.reasonChars)
  .regex(/^[^\p{C}\p{Zl}\p{Zp}]*$/u, 'no line ends, control or invisible characters')
  // Letters and symbols by category, and nothing to be seen.
  .regex(/^[^\u{115f}\u{1160}\u{2800}\u{3164}\u{ffa0}]*$/u, 'no invisible characters')
  .normalize('NFC')

/** What everything that asks for an approval takes besides what it asks for. */
export const askFields = {
  reason: sentence.openapi({
    description: 'Why, for the person who decides. Shown as the words of whoever asks',
    example: 'The build fetches its fonts from there',
  }),
  ttlMs: z
    .int()
    .min(approvalLimits.ttlMs.min)
    .max(approvalLimits.ttlMs.max)
    .default(approvalLimits.ttlMs.default)
    .openapi({ description: 'Until when somebody must have decided, from now on' }),
}

export const approvalSchema = z
  .object({
    id: z.string().openapi({ example: 'apr_k3v9x0m2qp7a8b1c4d5e' }),
    kind: z.string().openapi({ description: 'The selector of `approve:<kind>`', example: 'egress' }),
    state: z.enum(approvalStates).openapi({
      description:
        '`pending` → `approved` → `executed` or `failed`; or from `pending` to `refused`, `expired` or `canceled`',
    }),
    description: z.string().openapi({ description: 'What will happen, in the words of the server' }),
    action: z
      .record(z.string(), z.unknown())
      .openapi({ description: 'The same as data: this, exactly, and nothing else is done' }),
    actionHash: z.string().openapi({ description: 'The SHA-256 of `action` as canonical JSON (RFC 8785)' }),
    reason: z.string().openapi({ description: 'Why, in the words of whoever asks' }),
    askedBy: z.string().openapi({ description: 'The person, key or agent', example: 'agt_k3v9x0m2qp7a8b1c4d5e' }),
    askedThrough: z.array(z.string()).openapi({
      description:
        'Of an agent: the person or key that answers for it, then the agents it descends from. Its own id is what the last of these called it',
    }),
    sandboxId: z.string().nullable().openapi({ description: 'The sandbox that it is about' }),
    askedAt: z.iso.datetime(),
    expiresAt: z.iso.datetime().openapi({ description: 'Until when somebody must have decided' }),
    decidedBy: z.string().nullable().openapi({ description: 'Who approved, refused or canceled it' }),
    decidedAt: z.iso.datetime().nullable(),
    refusal: z.string().nullable().openapi({ description: 'Why it was refused' }),
    endedAt: z.iso.datetime().nullable(),
    failure: z
      .object({ code: z.string(), message: z.string() })
      .nullable()
      .openapi({ description: 'Of what was approved and could not be done' }),
  })
  .openapi('Approval')
export type ApprovalView = z.output<typeof approvalSchema>

export const approvalListSchema = z
  .object({ data: z.array(approvalSchema), nextCursor: z.string().nullable() })
  .openapi('ApprovalList')

const filter = (name: string, example: string) =>
  z
    .string()
    .regex(/^[a-z0-9_]{1,64}$/)
    .optional()
    .openapi({ param: { name, in: 'query' }, example })

export const approvalListQuerySchema = z.object({
  ...pageQuery(approvalLimits.listed),
  state: z
    .enum(approvalStates)
    .optional()
    .openapi({ param: { name: 'state', in: 'query' } }),
  kind: filter('kind', 'egress'),
  sandboxId: filter('sandboxId', 'sbx_k3v9x0m2qp7a8b1c4d5e'),
})
export type ApprovalListQuery = z.output<typeof approvalListQuerySchema>

export const approvalParamsSchema = z.object({
  id: z
    .string()
    .max(64)
    .openapi({ param: { name: 'id', in: 'path' }, example: 'apr_k3v9x0m2qp7a8b1c4d5e' }),
})

export const approveSchema = z
  .strictObject({
    actionHash: z
      .string()
      .regex(/^[0-9a-f]{64}$/, 'the `actionHash` of the approval: 64 hexadecimal digits')
      .openapi({ description: 'That of what you looked at; any other is refused' }),
  })
  .openapi('Approve')

export const refuseSchema = z
  .strictObject({
    reason: sentence.openapi({ description: 'For whoever asked', example: 'Use the mirror inside instead' }),
  })
  .openapi('Refuse')

export const followQuerySchema = z.object({
  from: z
    .string()
    .regex(/^[0-9]{1,15}$/, 'the id of an event')
    .transform(Number)
    .optional()
    .openapi({ param: { name: 'from', in: 'query' }, type: 'integer', description: 'As `Last-Event-ID`' }),
})
