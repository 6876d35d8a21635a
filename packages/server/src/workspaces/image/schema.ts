import { z } from '@hono/zod-openapi'

/** What OCI documents hold, as far as it is used. Unknown fields are kept out; a document is stored as the text it came in. */

const digestSchema = z.templateLiteral(['sha256:', z.string().regex(/^[0-9a-f]{64}$/)])

const texts = z.array(z.string().max(65_536)).max(1_024)

/** The `config` of an image: how a program of it is started. */
export const imageConfigSchema = z.object({
  User: z.string().max(256).optional(),
  Env: texts.optional(),
  Entrypoint: texts.nullish(),
  Cmd: texts.nullish(),
  WorkingDir: z.string().max(4_096).optional(),
  Labels: z.record(z.string(), z.string().max(65_536)).nullish(),
  ExposedPorts: z.record(z.string(), z.object({})).nullish(),
  Volumes: z.record(z.string(), z.object({})).nullish(),
  StopSignal: z.string().max(64).optional(),
})
export type ImageConfig = z.output<typeof imageConfigSchema>

export const imageSchema = z.object({
  architecture: z.string().max(64),
  os: z.string().max(64),
  config: imageConfigSchema.nullish(),
  rootfs: z.object({ type: z.literal('layers'), diff_ids: z.array(digestSchema).max(128) }),
})
export type Image = z.output<typeof imageSchema>

export const descriptorSchema = z.object({
  mediaType: z.string().max(256),
  digest: digestSchema,
  size: z.int().min(0),
  platform: z.object({ architecture: z.string().max(64), os: z.string().max(64) }).optional(),
  annotations: z.record(z.string(), z.string()).optional(),
})
export type Descriptor = z.output<typeof descriptorSchema>

export const manifestSchema = z.object({
  schemaVersion: z.literal(2),
  mediaType: z.string().max(256).optional(),
  config: descriptorSchema,
  layers: z.array(descriptorSchema).max(128),
})
export type Manifest = z.output<typeof manifestSchema>

export const indexSchema = z.object({
  schemaVersion: z.literal(2),
  mediaType: z.string().max(256).optional(),
  manifests: z.array(descriptorSchema).max(1_024),
})
export type Index = z.output<typeof indexSchema>
