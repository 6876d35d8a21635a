import { z } from 'zod'
import { imageConfigSchema } from './image/schema.ts'
import type { LayerRecord, SnapshotRecord, WorkspaceRecord } from './records.ts'
import { snapshotReasons } from './schema.ts'

/**
 * What storage holds beside the layers: everything needed to have a workspace again on a machine that knows nothing of it. They come from outside as
 * far as whoever reads them knows, so each field is checked.
 */

const idSchema = (prefix: 'wsp' | 'snp') => z.string().regex(new RegExp(`^${prefix}_[a-z0-9]{1,40}$`))
const digestSchema = z.string().regex(/^sha256:[0-9a-f]{64}$/)
const countSchema = z.int().min(0)

const layerSchema = z.object({
  digest: digestSchema,
  diffId: digestSchema,
  mediaType: z.string().max(256),
  size: countSchema,
  tarSize: countSchema,
})
export type LayerDocument = z.output<typeof layerSchema>

const workspaceDocumentSchema = z.object({
  version: z.literal(1),
  id: idSchema('wsp'),
  accountId: z.string().min(1).max(64),
  name: z.string().min(1).max(64),
  template: z.string().min(1).max(64),
  origin: z
    .object({
      name: z.string().min(1).max(160),
      env: z.record(z.string(), z.string()),
      cwd: z.string().exactOptional(),
      user: z.string().exactOptional(),
    })
    .nullable()
    .default(null),
  diskMb: z.int().min(1),
  keepLast: z.int().min(1),
  autoSnapshot: z.boolean(),
  metadata: z.record(z.string(), z.string()),
  headId: idSchema('snp').nullable(),
  createdAt: countSchema,
})
export type WorkspaceDocument = z.output<typeof workspaceDocumentSchema>

const snapshotDocumentSchema = z.object({
  version: z.literal(1),
  id: idSchema('snp'),
  accountId: z.string().min(1).max(64),
  workspaceId: idSchema('wsp').nullable(),
  /** What it followed in its history. @default what its layer is the difference from */
  parentId: idSchema('snp').nullable().exactOptional(),
  template: z.string().min(1).max(64),
  /** What the template was made of, and itself as a layer where it was saved. */
  identity: z.string().max(256),
  templateLayer: layerSchema.nullable(),
  name: z.string().max(64).nullable(),
  comment: z.string().max(1_000),
  reason: z.enum(snapshotReasons),
  createdAt: countSchema,
  image: z
    .object({ config: imageConfigSchema, configText: z.string().optional(), manifestText: z.string().optional() })
    .nullable(),
  /** From the first, each with the snapshot that it ends. */
  layers: z.array(layerSchema.extend({ snapshotId: idSchema('snp') })).min(1),
})
export type SnapshotDocument = z.output<typeof snapshotDocumentSchema>

export const workspaceFolder = 'workspaces/'
export const snapshotFolder = 'snapshots/'

export function workspaceText(record: WorkspaceRecord, savedHeadId: string | null): string {
  const { id, accountId, name, template, origin, diskMb, keepLast, autoSnapshot, metadata, createdAt } = record
  const document: WorkspaceDocument = {
    version: 1,
    id,
    accountId,
    name,
    template,
    origin,
    diskMb,
    keepLast,
    autoSnapshot,
    metadata,
    headId: savedHeadId,
    createdAt,
  }
  return JSON.stringify(document)
}

export function snapshotText(
  record: SnapshotRecord,
  chain: readonly { snapshotId: string; layer: LayerRecord }[],
  base: { identity: string; layer: LayerRecord | undefined },
): string {
  const { id, accountId, workspaceId, parentId, template, name, comment, reason, createdAt, image } = record
  const document: SnapshotDocument = {
    version: 1,
    id,
    accountId,
    workspaceId,
    parentId,
    template,
    identity: base.identity,
    templateLayer: base.layer ? layerDocument(base.layer) : null,
    name,
    comment,
    reason,
    createdAt,
    image,
    layers: chain.map(({ snapshotId, layer }) => ({ snapshotId, ...layerDocument(layer) })),
  }
  return JSON.stringify(document)
}

function layerDocument({ digest, diffId, mediaType, size, tarSize }: LayerRecord): LayerDocument {
  return { digest, diffId, mediaType, size, tarSize }
}

/** The row of a template that was saved as a layer: the same for every snapshot on it, so that it is one. */
export function baseIdOf(layerDigest: string): string {
  return `snp_${layerDigest.slice('sha256:'.length, 'sha256:'.length + 20)}`
}

export function isBase({ id, layerDigest }: { id: string; layerDigest: string | null }): boolean {
  return layerDigest !== null && id === baseIdOf(layerDigest)
}

/** Undefined where the text is no such document: then the reason is told. */
export function readWorkspace(text: string): WorkspaceDocument | { fault: string } {
  return read(workspaceDocumentSchema, text)
}

export function readSnapshot(text: string): SnapshotDocument | { fault: string } {
  return read(snapshotDocumentSchema, text)
}

function read<Output>(schema: z.ZodType<Output>, text: string): Output | { fault: string } {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return { fault: 'it is no JSON' }
  }
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const [issue] = result.error.issues
  return { fault: `${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'is not valid'}` }
}
