import { z } from 'zod'
import { DeltaError } from '../../kernel/errors.ts'

export type Digest = `sha256:${string}`

/** What an image may be, wherever it comes from. */
export const imageLimits = {
  manifestBytes: 4 * 1024 * 1024,
  configBytes: 4 * 1024 * 1024,
  /** As many as an overlay of Docker's can have. */
  layers: 127,
  platforms: 1_000,
  /** One layer as it is sent. */
  layerBytes: 16 * 1024 ** 3,
  /** All layers of one image, unpacked. */
  unpackedBytes: 64 * 1024 ** 3,
  unpackedEntries: 5_000_000,
  environmentVariables: 1_000,
  environmentBytes: 64 * 1024,
} as const

/** What a registry is asked for; it answers with one of them. */
export const manifestTypes = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
  'application/vnd.docker.distribution.manifest.v2+json',
]
export const layerTypes: readonly string[] = [
  'application/vnd.oci.image.layer.v1.tar',
  'application/vnd.oci.image.layer.v1.tar+gzip',
  'application/vnd.oci.image.layer.v1.tar+zstd',
  'application/vnd.docker.image.rootfs.diff.tar',
  'application/vnd.docker.image.rootfs.diff.tar.gzip',
  'application/vnd.docker.image.rootfs.diff.tar.zstd',
]

const digestSchema = z.templateLiteral(['sha256:', z.string().regex(/^[0-9a-f]{64}$/)], {
  error: 'is no digest: sha256: and 64 hexadecimal digits',
})
const sizeSchema = z.int().min(0).max(Number.MAX_SAFE_INTEGER)

const descriptorSchema = z.object({ mediaType: z.string().max(256), digest: digestSchema, size: sizeSchema })
export type Descriptor = z.output<typeof descriptorSchema>

const manifestSchema = z.object({
  schemaVersion: z.literal(2, { error: 'is not 2: images of the first schema are not supported' }),
  mediaType: z.string().max(256).optional(),
  config: descriptorSchema,
  layers: z.array(descriptorSchema).max(imageLimits.layers, { error: `are more than ${imageLimits.layers}` }),
})
export type Manifest = z.output<typeof manifestSchema>

const platformSchema = z.object({
  os: z.string().max(64),
  architecture: z.string().max(64),
  variant: z.string().max(64).optional(),
})
const indexSchema = z.object({
  schemaVersion: z.literal(2, { error: 'is not 2' }),
  manifests: z.array(descriptorSchema.extend({ platform: platformSchema.optional() })).max(imageLimits.platforms),
})
export type Index = z.output<typeof indexSchema>

const texts = z.array(z.string().max(128 * 1024)).max(4_096)
const imageDocumentSchema = z.object({
  architecture: z.string().max(64).optional(),
  os: z.string().max(64).optional(),
  config: z
    .object({
      User: z.string().max(256).nullish(),
      Env: texts.nullish(),
      Entrypoint: texts.nullish(),
      Cmd: texts.nullish(),
      WorkingDir: z.string().max(4_096).nullish(),
      Labels: z.record(z.string().max(4_096), z.string().max(64 * 1024)).nullish(),
      ExposedPorts: z.record(z.string().max(64), z.unknown()).nullish(),
    })
    .nullish(),
  rootfs: z.object({ type: z.literal('layers'), diff_ids: z.array(digestSchema).max(imageLimits.layers) }),
})
export type ImageDocument = z.output<typeof imageDocumentSchema>

export type ManifestOrIndex = { kind: 'manifest'; manifest: Manifest } | { kind: 'index'; index: Index }

export function readManifest(bytes: Uint8Array): ManifestOrIndex {
  const value = parseJson(bytes, 'manifest')
  const isIndex = typeof value === 'object' && value !== null && 'manifests' in value
  if (isIndex) return { kind: 'index', index: checked(indexSchema, value, 'index') }
  const manifest = checked(manifestSchema, value, 'manifest')
  for (const { mediaType, size, digest } of manifest.layers) {
    if (!layerTypes.includes(mediaType)) {
      throw imageInvalid(`the layer ${digest} is of the kind ${mediaType.slice(0, 120)}, which is not supported`)
    }
    if (size > imageLimits.layerBytes)
      throw imageInvalid(`the layer ${digest} has more than ${imageLimits.layerBytes} bytes`)
  }
  if (manifest.config.size > imageLimits.configBytes) {
    throw imageInvalid(`its configuration has more than ${imageLimits.configBytes} bytes`)
  }
  return { kind: 'manifest', manifest }
}

export function readImageDocument(bytes: Uint8Array, { layers }: Manifest): ImageDocument {
  const document = checked(imageDocumentSchema, parseJson(bytes, 'configuration'), 'configuration')
  const { diff_ids: diffIds } = document.rootfs
  if (diffIds.length !== layers.length) {
    throw imageInvalid(`its manifest has ${layers.length} layers and its configuration ${diffIds.length}`)
  }
  return document
}

/** The manifest of an index for this machine. */
export function pickPlatform({ manifests }: Index, platform: string): Descriptor {
  const [os, architecture] = platform.split('/')
  const fit = manifests.filter((each) => each.platform?.os === os && each.platform?.architecture === architecture)
  // An index of one image may leave the platform out; its configuration is looked at later.
  const found = fit[0] ?? (manifests.length === 1 && !manifests[0]?.platform ? manifests[0] : undefined)
  if (found) return found
  const has = [...new Set(manifests.flatMap(({ platform: of }) => (of ? [`${of.os}/${of.architecture}`] : [])))]
  throw imageInvalid(
    `it is not there for ${platform}, only for ${has.slice(0, 20).join(', ').slice(0, 500) || 'nothing that says so'}`,
  )
}

export function checkPlatform({ os, architecture }: ImageDocument, platform: string): void {
  if (os === undefined || architecture === undefined || `${os}/${architecture}` === platform) return
  throw imageInvalid(`it is for ${os}/${architecture}; this machine is ${platform}`)
}

export function imageInvalid(cause: string): DeltaError {
  return new DeltaError('image_invalid', 'The image can not be used', { cause })
}

function parseJson(bytes: Uint8Array, what: string): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch {
    throw imageInvalid(`its ${what} is not JSON`)
  }
}

function checked<Output>(schema: z.ZodType<Output>, value: unknown, what: string): Output {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const [issue] = result.error.issues
  throw imageInvalid(`its ${what} is not valid: ${issue?.path.join('.')} ${issue?.message}`.slice(0, 500))
}
