import { z } from '@hono/zod-openapi'
import { pageQuery } from '../../kernel/http/request-shapes.ts'
import { isRight, rightNames } from '../rights.ts'

const minute = 60_000
const day = 24 * 60 * minute

export const keyLimits = {
  /** Keys of one account that are not revoked. A bound against running away, not a plan’s: lookups cost the same with any number. */
  perAccount: 100_000,
  nameChars: 100,
  rights: 64,
  rightChars: 300,
  /** Sandboxes or agents that a key is limited to. */
  scope: 100,
  ttlMs: { min: minute, max: 10 * 365 * day },
  overlapMs: { min: 0, max: 7 * day, default: day },
  listed: { max: 100, default: 50 },
} as const

/** No control characters, and none that turn the direction of writing: a name is shown in tables beside others. */
const nameSchema = z
  .string()
  .trim()
  .min(1)
  .max(keyLimits.nameChars)
  .regex(/^[^\p{C}\p{Zl}\p{Zp}]*$/u, 'no control or invisible characters')
  .normalize('NFC')
  .openapi({ example: 'CI of the website' })

export const rightSchema = z
  .string()
  .max(keyLimits.rightChars)
  .refine(isRight, {
    message: 'is no right: docs/access.md lists them, such as read:sandboxes, write:exec, egress:*.example.com',
  })
  .openapi({ example: 'read:sandboxes' })

/** What an agent may have of its own. */
export const rightsSchema = z
  .array(rightSchema)
  .max(keyLimits.rights)
  .transform((rights) => rights.filter(isRight))

const idOf = (prefix: string, example: string) =>
  z
    .string()
    .regex(new RegExp(`^${prefix}_[a-z0-9]{1,40}$`), `an id such as ${example}`)
    .openapi({ example })

export const scopeFields = {
  agents: z
    .array(idOf('agt', 'agt_k3v9x0m2qp7a8b1c4d5e'))
    .max(keyLimits.scope)
    .optional()
    .openapi({ description: 'Limited to these agents. Without it: all' }),
  sandboxes: z
    .array(idOf('sbx', 'sbx_k3v9x0m2qp7a8b1c4d5e'))
    .max(keyLimits.scope)
    .optional()
    .openapi({ description: 'Limited to these sandboxes, and to nothing that is no sandbox. Without it: all' }),
}

export const createKeySchema = z
  .strictObject({
    name: nameSchema,
    rights: z
      .array(rightSchema)
      .min(1)
      .max(keyLimits.rights)
      .openapi({
        description: `What it may: \`verb:resource[:selector]\`, never more than whoever makes it. ${rightNames.join(', ')}; \`read:*\`, \`write:*\``,
      }),
    ...scopeFields,
    expiresAt: z.iso
      .datetime({ offset: true })
      .optional()
      .openapi({ description: 'Until when. Without it and `ttlMs`: until it is revoked' }),
    ttlMs: z
      .int()
      .min(keyLimits.ttlMs.min)
      .max(keyLimits.ttlMs.max)
      .optional()
      .openapi({ description: 'The same, from now on' }),
  })
  .refine(({ expiresAt, ttlMs }) => expiresAt === undefined || ttlMs === undefined, {
    message: 'expiresAt or ttlMs, not both',
    path: ['ttlMs'],
  })
  .openapi('CreateKey')
export type CreateKey = z.output<typeof createKeySchema>

export const rotateKeySchema = z
  .strictObject({
    overlapMs: z
      .int()
      .min(keyLimits.overlapMs.min)
      .max(keyLimits.overlapMs.max)
      .default(keyLimits.overlapMs.default)
      .openapi({ description: 'How long the old text goes on to be good. 0: it ends at once, with what it opened' }),
  })
  .openapi('RotateKey')

export const keySchema = z
  .object({
    id: z.string().openapi({ example: 'key_k3v9x0m2qp7a8b1c4d5e' }),
    name: z.string(),
    hint: z.string().openapi({ description: 'The first characters of its text, to know it again', example: 'dk_4Fz8' }),
    state: z.enum(['active', 'expired', 'revoked']),
    rights: z.array(z.string()),
    agents: z.array(z.string()).nullable(),
    sandboxes: z.array(z.string()).nullable(),
    madeBy: z.string().openapi({ description: 'The person or key that made it' }),
    userId: z.string().nullable().openapi({ description: 'The person whose role bounds it; null for the operator' }),
    createdAt: z.iso.datetime(),
    expiresAt: z.iso.datetime().nullable(),
    rotatedAt: z.iso.datetime().nullable(),
    previousGoodUntil: z.iso
      .datetime()
      .nullable()
      .openapi({ description: 'Until when the text from before the last rotation is good' }),
    revokedAt: z.iso.datetime().nullable(),
    lastUsedAt: z.iso.datetime().nullable().openapi({ description: 'To the minute' }),
  })
  .openapi('Key')
export type KeyView = z.output<typeof keySchema>

export const madeKeySchema = keySchema
  .extend({ key: z.string().openapi({ description: 'Shown only here; only its SHA-256 is kept' }) })
  .openapi('MadeKey')

export const keyListSchema = z
  .object({ data: z.array(keySchema), nextCursor: z.string().nullable() })
  .openapi('KeyList')

export const keyListQuerySchema = z.object({
  ...pageQuery(keyLimits.listed),
  state: z
    .enum(['active', 'all'])
    .default('active')
    .openapi({ param: { name: 'state', in: 'query' } }),
})

export const keyParamsSchema = z.object({
  id: z
    .string()
    .max(64)
    .openapi({ param: { name: 'id', in: 'path' }, example: 'key_k3v9x0m2qp7a8b1c4d5e' }),
})
