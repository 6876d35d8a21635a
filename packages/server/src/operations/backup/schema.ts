import { z } from '@hono/zod-openapi'

/** So much of a passphrase that trying all is no way. */
const passphraseSchema = z.string().min(12).max(1_024)

export const backupWishSchema = z
  .strictObject({
    passphrase: passphraseSchema
      .optional()
      .openapi({ description: 'Seals the whole backup; without it nobody opens it again' }),
    secrets: z
      .boolean()
      .default(false)
      .openapi({ description: 'With SECRET_KEY in it: whoever has the backup can then be anybody here' }),
  })
  .openapi('BackupWish')

export const restoreQuerySchema = z.object({
  replace: z
    .enum(['true', 'false'])
    .default('false')
    .transform((text) => text === 'true')
    .openapi({ description: 'Give up all that this platform holds' }),
})

export const passphraseHeaderSchema = z.object({
  'delta-passphrase': z
    .string()
    .regex(/^[A-Za-z0-9_-]{1,6000}$/)
    .optional()
    .openapi({ description: 'What the backup was sealed with, as base64url of its UTF-8' }),
})

export const restoreParamsSchema = z.object({ id: z.string().regex(/^evt_[a-z0-9]{1,40}$/) })

export const stagedRestoreSchema = z
  .object({
    id: z.string(),
    backupAt: z.iso.datetime().openapi({ description: 'The moment to which it goes back' }),
    server: z.string().openapi({ description: 'The version that made it' }),
    rows: z.int().openapi({ description: 'Of all tables' }),
    unsaved: z.int().openapi({ description: 'Snapshots whose files were not in storage then and are not in it' }),
    secretKey: z.enum(['same', 'other']).openapi({
      description:
        'Whether this installation has the SECRET_KEY of the backup: with another one sessions end and second factors can not be read',
    }),
    secrets: z
      .object({ secretKey: z.string(), jwtSecretKey: z.string().optional() })
      .nullable()
      .openapi({ description: 'Where they are in the backup, for whoever sent it' }),
  })
  .openapi('StagedRestore')
export type StagedRestoreView = z.output<typeof stagedRestoreSchema>

export const restoreSchema = z
  .object({
    id: z.string(),
    backupAt: z.iso.datetime(),
    restoredAt: z.iso.datetime(),
    state: z.enum(['loaded', 'done']),
  })
  .openapi('Restore')

export const restoreListSchema = z.object({ data: z.array(restoreSchema), nextCursor: z.null() }).openapi('RestoreList')
