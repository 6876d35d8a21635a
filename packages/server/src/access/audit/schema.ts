import { z } from '@hono/zod-openapi'
import { pageQuery } from '../../kernel/http/request-shapes.ts'
import { auditLimits } from './entry.ts'

const text = (description: string) => z.string().nullable().openapi({ description })

export const auditEntrySchema = z
  .object({
    seq: z.int().openapi({ description: 'Its place in the account’s chain, from 1 without a gap' }),
    at: z.iso.datetime(),
    actor: z.string().openapi({ description: '`usr_…`, `key_…`, `agt_…`, or `platform`', example: 'key_default' }),
    action: z.string().openapi({ description: 'The operation by its name in /openapi.json', example: 'createSandbox' }),
    target: text('The id of what it was done to, or the name of a workspace, volume or template by which it was meant'),
    outcome: z.enum(['done', 'begun', 'refused', 'failed']),
    reason: text('The error code of a refusal or failure'),
    details: z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()])).nullable(),
    requestId: text('The request it came with'),
    address: text('Where that came from'),
    hash: z.string().openapi({ description: 'SHA-256 of this entry and the hash of the one before it' }),
  })
  .openapi('AuditEntry')

export const auditListSchema = z
  .object({ data: z.array(auditEntrySchema), nextCursor: z.string().nullable() })
  .openapi('AuditList')

export const auditHeadSchema = z
  .object({
    seq: z.int().openapi({ description: 'Of the last entry; 0 where there is none' }),
    hash: z.string(),
    publicKey: z.string().openapi({ description: 'Ed25519, base64url: what signs heads of this installation' }),
  })
  .openapi('AuditHead')

const filter = (name: string, description: string) =>
  z
    .string()
    .min(1)
    .max(auditLimits.textChars)
    .optional()
    .openapi({ param: { name, in: 'query' }, description })

export const auditQuerySchema = z.object({
  ...pageQuery(auditLimits.page),
  actor: filter('actor', 'Only what this user, key or agent did'),
  action: filter('action', 'Only this operation'),
  target: filter('target', 'Only what was done to this id'),
})
