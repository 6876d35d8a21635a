import { z } from '@hono/zod-openapi'
import type { AccessScope } from './door.ts'

const minute = 60_000

export const accessLimits = {
  scopes: 32,
  ttlMs: { min: 1_000, max: 7 * 24 * 60 * minute, default: 60 * minute },
  /** A token with all its scopes stays far below this; more is not looked at. */
  tokenChars: 2_048,
} as const

const scopeSchema = z
  .string()
  .max(10)
  .refine(isScope, { message: 'must be `terminal`, `port:*` or `port:<1 to 65535>`' })
  .openapi({ example: 'port:3000' })

export const createAccessTokenSchema = z
  .strictObject({
    scopes: z
      .array(scopeSchema)
      .min(1)
      .max(accessLimits.scopes)
      .openapi({ description: 'What it opens: `port:3000` one port, `port:*` all, `terminal` terminals' }),
    ttlMs: z
      .int()
      .min(accessLimits.ttlMs.min)
      .max(accessLimits.ttlMs.max)
      .default(accessLimits.ttlMs.default)
      .openapi({ description: 'Milliseconds it is good for' }),
  })
  .openapi('CreateAccessToken')
export type CreateAccessToken = z.output<typeof createAccessTokenSchema>

export const accessTokenSchema = z
  .object({
    token: z.string().openapi({ description: 'Shown only here; whoever holds it has what its scopes say' }),
    scopes: z.array(z.string()),
    expiresAt: z.iso.datetime(),
  })
  .openapi('AccessToken')
export type AccessToken = z.output<typeof accessTokenSchema>

export const sandboxIdParamSchema = z.object({
  id: z
    .string()
    .max(64)
    .openapi({ param: { name: 'id', in: 'path' }, example: 'sbx_k3v9x0m2qp7a8b1c4d5e' }),
})

export function isScope(text: string): text is AccessScope {
  if (text === 'terminal' || text === 'port:*') return true
  const port = /^port:([1-9][0-9]{0,4})$/.exec(text)?.[1]
  return port !== undefined && Number(port) <= 65_535
}
