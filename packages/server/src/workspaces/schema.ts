import { z } from '@hono/zod-openapi'
import { idempotencyHeader, pageQuery } from '../kernel/http/request-shapes.ts'

/** Bounds of what a caller may ask for. */
export const workspaceLimits = {
  /** Workspaces of one account, those being deleted included. */
  workspaces: 10_000,
  /** Snapshots of one workspace that are listed. */
  snapshots: 2_000,
  diskMb: { min: 32, max: 1_048_576, default: 4_096 },
  keepLast: { min: 1, max: 1_000, default: 20 },
  forks: { min: 1, max: 100, default: 1 },
  commentChars: 1_000,
  metadataEntries: 64,
  metadataKeyChars: 128,
  metadataValueChars: 1_024,
  pathBytes: 4_096,
  listLimit: { max: 500, default: 50 },
  changesLimit: { max: 10_000, default: 1_000 },
  /** Changed paths kept with a snapshot; all of them are asked of the snapshot itself. */
  changesKept: 50,
  /** An imported image. */
  archiveBytes: 64 * 1024 ** 3,
  imageDocumentBytes: 4 * 1024 * 1024,
  /** Layers that make up a snapshot, unless the operator says another number. Of an image of more than 127 Docker runs nothing. */
  chainLayers: 100,
  /** Snapshots that are being read by callers: files, changes and differences. Fewer than the driver reads at once, so that some is left for the server's own. */
  looks: { total: 6, perAccount: 3, waiting: 64 },
  exports: { total: 16, perAccount: 4, waiting: 64 },
  /** A reader may be behind `bytesPerSecond` by so much. */
  reader: { bytesPerSecond: 16 * 1024, patienceMs: 60_000 },
  /** One layer of an imported image, unpacked. */
  layerBytes: 64 * 1024 ** 3,
  layerEntries: 5_000_000,
} as const

export const snapshotReasons = ['manual', 'stop', 'idle', 'rollback', 'fork', 'import', 'build'] as const
export type SnapshotReason = (typeof snapshotReasons)[number]
export const saveStates = ['pending', 'saving', 'saved', 'failed'] as const
export type SaveState = (typeof saveStates)[number]

const nameForm = /^[a-z0-9][a-z0-9._-]{0,63}$/
const nameSchema = z
  .string()
  .regex(nameForm, 'a name is 1 to 64 of a-z 0-9 . _ -, and begins with a letter or digit')
  .refine((name) => !/^(wsp|snp)_/.test(name), { message: 'a name does not look like an id' })

const commentSchema = z
  .string()
  .max(workspaceLimits.commentChars)
  .refine((text) => !text.includes('\0'), { message: 'must not contain NUL characters' })

const metadataSchema = z
  .record(z.string().min(1).max(workspaceLimits.metadataKeyChars), z.string().max(workspaceLimits.metadataValueChars))
  .refine((metadata) => Object.keys(metadata).length <= workspaceLimits.metadataEntries, {
    message: `at most ${workspaceLimits.metadataEntries} entries`,
  })
  .refine(
    (metadata) => Object.entries(metadata).every(([key, value]) => !key.includes('\0') && !value.includes('\0')),
    { message: 'must not contain NUL characters' },
  )
  .openapi({ description: 'Your own labels' })

const retentionSchema = z
  .strictObject({
    keepLast: z.int().min(workspaceLimits.keepLast.min).max(workspaceLimits.keepLast.max).openapi({
      description: 'So many of the newest snapshots without a name are kept; named ones are kept for ever',
    }),
  })
  .openapi('Retention')

const diskSchema = z.int().min(workspaceLimits.diskMb.min).max(workspaceLimits.diskMb.max)

export const createWorkspaceSchema = z
  .strictObject({
    name: nameSchema
      .optional()
      .openapi({ description: 'Of your own choice, unlike every other; the id where left out' }),
    template: z
      .string()
      .regex(
        /^[a-z0-9][a-z0-9._-]{0,63}(:[A-Za-z0-9_][A-Za-z0-9._-]{0,63}|@[1-9][0-9]{0,8})?$/,
        'a template is named by 1 to 64 of a-z 0-9 . _ -, perhaps with :tag or @version, or by its id or that of a snapshot',
      )
      .default('host'),
    diskMb: diskSchema.default(workspaceLimits.diskMb.default).openapi({
      description: 'Beside what a template of yours holds, which is added',
    }),
    retention: retentionSchema.default({ keepLast: workspaceLimits.keepLast.default }),
    autoSnapshot: z
      .boolean()
      .default(true)
      .openapi({ description: 'Whether stopping, idling out and rolling back take a snapshot of what changed' }),
    metadata: metadataSchema.default({}),
  })
  .openapi('CreateWorkspace')
export type CreateWorkspace = z.output<typeof createWorkspaceSchema>

export const patchWorkspaceSchema = z
  .strictObject({
    name: nameSchema.optional(),
    diskMb: diskSchema.optional().openapi({ description: 'Holds from the next start on' }),
    retention: retentionSchema.optional(),
    autoSnapshot: z.boolean().optional(),
    metadata: metadataSchema.optional().openapi({ description: 'Replaces all of it' }),
  })
  .openapi('PatchWorkspace')
export type PatchWorkspace = z.output<typeof patchWorkspaceSchema>

export const workspaceSchema = z
  .object({
    id: z.string().openapi({ example: 'wsp_k3v9x0m2qp7a8b1c4d5e' }),
    name: z.string(),
    template: z.string().openapi({ description: 'What lies below everything that was written' }),
    headSnapshotId: z.string().nullable().openapi({ description: 'The snapshot that the files come from' }),
    heldBy: z.string().nullable().openapi({ description: 'The sandbox that runs on it' }),
    diskMb: z.int(),
    retention: retentionSchema,
    autoSnapshot: z.boolean(),
    metadata: z.record(z.string(), z.string()),
    isLocal: z.boolean().openapi({ description: 'False: the next start fetches it from storage' }),
    createdAt: z.iso.datetime(),
    changedAt: z.iso.datetime(),
  })
  .openapi('Workspace')
export type Workspace = z.output<typeof workspaceSchema>

export const workspaceListSchema = z
  .object({ data: z.array(workspaceSchema), nextCursor: z.string().nullable() })
  .openapi('WorkspaceList')

const changeKinds = ['added', 'changed', 'removed'] as const
const fileChangeSchema = z
  .object({
    kind: z.enum(changeKinds),
    type: z.enum(['file', 'directory', 'symlink', 'other']),
    size: z.number(),
    path: z.string(),
  })
  .openapi('FileChange')

const packageChangeSchema = z.object({ name: z.string(), from: z.string().nullable(), to: z.string().nullable() })
const packagesSchema = z
  .object({
    apt: z.array(packageChangeSchema),
    pip: z.array(packageChangeSchema),
    npm: z.array(packageChangeSchema),
    tools: z.array(z.object({ path: z.string(), kind: z.enum(changeKinds) })),
  })
  .openapi('PackageChanges', { description: '`from` is null for what is new, `to` for what is gone' })
export type PackageChanges = z.output<typeof packagesSchema>

export const changeSummarySchema = z
  .object({
    added: z.int(),
    changed: z.int(),
    removed: z.int(),
    bytes: z.number().openapi({ description: 'Of the files added and changed' }),
    first: z.array(fileChangeSchema).openapi({ description: 'The first of them; the rest at /changes' }),
    packages: packagesSchema,
  })
  .openapi('ChangeSummary')
export type ChangeSummary = z.output<typeof changeSummarySchema>

const savedSchema = z
  .object({
    state: z.enum(saveStates).openapi({ description: '`saved`: it can be restored from storage alone' }),
    savedBytes: z.number().openapi({ description: 'Sent so far, while it is being saved' }),
    error: z.string().nullable().openapi({ description: 'Why the last try failed; another follows' }),
    layer: z
      .object({ digest: z.string(), diffId: z.string(), mediaType: z.string(), size: z.number(), tarSize: z.number() })
      .nullable(),
  })
  .openapi('SaveStatus')

export const snapshotSchema = z
  .object({
    id: z.string().openapi({ example: 'snp_k3v9x0m2qp7a8b1c4d5e' }),
    workspaceId: z.string().nullable(),
    parentId: z.string().nullable(),
    template: z.string(),
    name: z.string().nullable(),
    comment: z.string(),
    reason: z.enum(snapshotReasons),
    bytes: z.number().nullable().openapi({ description: 'What it refers to on disk, shared with others or not' }),
    flushMicros: z.number(),
    frozenMicros: z.number().openapi({ description: 'How long the sandbox stood still' }),
    isLocal: z.boolean(),
    changes: changeSummarySchema.nullable().openapi({ description: 'Against its parent; null until it was looked at' }),
    save: savedSchema,
    createdAt: z.iso.datetime(),
  })
  .openapi('Snapshot')
export type Snapshot = z.output<typeof snapshotSchema>

export const snapshotListSchema = z
  .object({ data: z.array(snapshotSchema), nextCursor: z.string().nullable() })
  .openapi('SnapshotList')

export const createSnapshotSchema = z
  .strictObject({
    name: nameSchema.optional().openapi({ description: 'A snapshot with a name is kept for ever' }),
    comment: commentSchema.default(''),
  })
  .openapi('CreateSnapshot')
export type CreateSnapshot = z.output<typeof createSnapshotSchema>

export const patchSnapshotSchema = z
  .strictObject({ name: nameSchema.nullable().optional(), comment: commentSchema.optional() })
  .openapi('PatchSnapshot')
export type PatchSnapshot = z.output<typeof patchSnapshotSchema>

export const rollbackSchema = z.strictObject({ snapshotId: z.string().min(1).max(64) }).openapi('Rollback')

export const forkSchema = z
  .strictObject({
    count: z.int().min(workspaceLimits.forks.min).max(workspaceLimits.forks.max).optional(),
    names: z
      .array(nameSchema)
      .min(1)
      .max(workspaceLimits.forks.max)
      .refine((names) => new Set(names).size === names.length, { message: 'each name once' })
      .optional(),
  })
  .refine(({ count, names }) => count === undefined || names === undefined || count === names.length, {
    message: 'count and the number of names differ',
    path: ['count'],
  })
  .openapi('Fork')
export type ForkWish = z.output<typeof forkSchema>

export const forkedSchema = z.object({ data: z.array(workspaceSchema) }).openapi('Forked')

export const changesSchema = z
  .object({ data: z.array(fileChangeSchema), nextCursor: z.string().nullable() })
  .openapi('FileChanges')

export const diffSchema = z
  .object({
    added: z.int(),
    changed: z.int(),
    removed: z.int(),
    bytes: z.number(),
    data: z.array(fileChangeSchema),
    nextCursor: z.string().nullable(),
    packages: packagesSchema,
  })
  .openapi('SnapshotDiff')
export type SnapshotDiff = z.output<typeof diffSchema>

/** A cursor among changed files holds a path. */
const cursorChars = 8_192

export const listQuerySchema = z.object(pageQuery(workspaceLimits.listLimit, { cursorChars }))
export const changesQuerySchema = z.object(pageQuery(workspaceLimits.changesLimit, { cursorChars }))

export const fileQuerySchema = z.object({
  path: z
    .string()
    .min(1)
    .max(workspaceLimits.pathBytes)
    .refine(isAbsolute, { message: 'must be an absolute path without . and .. parts and NUL characters' })
    .openapi({ param: { name: 'path', in: 'query' }, description: 'Absolute; symbolic links are not followed' }),
})

function isAbsolute(path: string): boolean {
  return path.startsWith('/') && !path.includes('\0') && !path.split('/').some((part) => part === '.' || part === '..')
}

export const exportQuerySchema = z.object({
  layers: z
    .enum(['tar', 'zstd'])
    .default('tar')
    .openapi({
      param: { name: 'layers', in: 'query' },
      description:
        '`tar`: uncompressed, which every tool reads. `zstd`: as they are stored. An imported image that nothing was added to leaves as it came',
    }),
})

export const importQuerySchema = z.object({
  name: nameSchema.optional().openapi({ param: { name: 'name', in: 'query' } }),
})

export const restoredSchema = z
  .object({
    data: z
      .array(workspaceSchema)
      .openapi({ description: 'Known here from now on; their files come with the first start' }),
    skipped: z.array(z.object({ document: z.string(), reason: z.string() })),
  })
  .openapi('RestoredWorkspaces')

/** A name or an id as a caller writes it; the database takes no NUL. */
const referenceSchema = z
  .string()
  .min(1)
  .max(64)
  .refine((text) => !text.includes('\0'), { message: 'must not contain NUL characters' })
const idParam = (example: string) => referenceSchema.openapi({ param: { name: 'id', in: 'path' }, example })

export const workspaceParamsSchema = z.object({ id: idParam('wsp_k3v9x0m2qp7a8b1c4d5e') })
export const snapshotParamsSchema = z.object({ id: idParam('snp_k3v9x0m2qp7a8b1c4d5e') })
export const diffParamsSchema = z.object({
  id: idParam('snp_k3v9x0m2qp7a8b1c4d5e'),
  other: referenceSchema.openapi({ param: { name: 'other', in: 'path' } }),
})

export const idempotencyHeaderSchema = idempotencyHeader(
  'Asking again with the same key and body gives what the first made instead of a second one',
)

export type { ImageConfig } from './image/schema.ts'
