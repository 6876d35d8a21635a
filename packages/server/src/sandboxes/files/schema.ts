import { z } from '@hono/zod-openapi'

export const listLimits = { depth: { max: 256, default: 1 }, limit: { max: 10_000, default: 1_000 } } as const

export const entryTypes = ['file', 'directory', 'symlink', 'other'] as const

export const entrySchema = z
  .object({
    path: z
      .string()
      .openapi({ description: 'Absolute; bytes that are not UTF-8 are shown as U+FFFD', example: '/workspace/a.bin' }),
    name: z.string(),
    type: z.enum(entryTypes),
    size: z.number(),
    mode: z.int().openapi({ description: 'Permission bits as a number', example: 420 }),
    permissions: z.string().openapi({ example: 'rw-r--r--' }),
    owner: z.string(),
    group: z.string(),
    uid: z.int(),
    gid: z.int(),
    modifiedAt: z.iso.datetime(),
    symlinkTarget: z.string().nullable(),
    etag: z.string().openapi({ description: 'For If-Match and If-None-Match' }),
  })
  .openapi('Entry')
export type FileEntry = z.output<typeof entrySchema>

export const entryListSchema = z
  .object({ data: z.array(entrySchema), nextCursor: z.string().nullable() })
  .openapi('EntryList')

const pathField = z
  .string()
  .openapi({ description: 'Absolute, or relative to /workspace; `~` is not expanded', example: '/workspace/a.bin' })
const modeField = z
  .union([z.string(), z.int()])
  .openapi({ description: 'Octal digits as a text, or a number', example: '0755' })
const flag = (fallback: 'true' | 'false') => z.enum(['true', 'false']).default(fallback)

/** Read from the address itself, where it may be bytes that are no text. */
const pathQuery = pathField.optional().openapi({ param: { name: 'path', in: 'query', required: true } })

export const pathQuerySchema = z.object({ path: pathQuery })
export const writeQuerySchema = z.object({
  path: pathQuery,
  mode: z
    .string()
    .optional()
    .openapi({ description: 'Octal digits. A new file has 0644, an existing one keeps its mode', example: '0644' }),
  owner: z
    .string()
    .max(64)
    .optional()
    .openapi({ description: 'Of a new file: a user name or `uid:gid`; `user` by default' }),
  parents: flag('true').openapi({ description: 'Make missing folders' }),
  overwrite: flag('true'),
})
export const removeQuerySchema = z.object({ path: pathQuery, recursive: flag('false') })
export const statQuerySchema = z.object({
  path: pathQuery,
  follow: flag('true').openapi({ description: 'Describe what a symbolic link points to instead of the link' }),
})
export const watchQuerySchema = z.object({ path: pathQuery, recursive: flag('true') })
export const listQuerySchema = z.object({
  path: pathQuery,
  depth: whole('depth', listLimits.depth).openapi({ description: '1 is the folder’s own entries' }),
  limit: whole('limit', listLimits.limit),
  cursor: z.string().max(6_000).optional().openapi({ description: 'The `nextCursor` of the page before' }),
})

export const chmodBodySchema = z.strictObject({ mode: modeField }).openapi('ChangeMode')
export const directoryBodySchema = z
  .strictObject({
    path: pathField,
    mode: modeField.optional(),
    owner: z.string().max(64).optional(),
    parents: z.boolean().default(true).openapi({ description: 'Make missing folders, and accept one that is there' }),
  })
  .openapi('MakeDirectory')
export const moveBodySchema = z
  .strictObject({ from: pathField, to: pathField, overwrite: z.boolean().default(false) })
  .openapi('Move')

function whole(name: string, { max, default: fallback }: { max: number; default: number }) {
  return z
    .string()
    .regex(/^[0-9]{1,9}$/, `${name} is a whole number`)
    .transform(Number)
    .pipe(z.int().min(1).max(max))
    .default(fallback)
    .openapi({ type: 'integer', minimum: 1, maximum: max, default: fallback })
}
