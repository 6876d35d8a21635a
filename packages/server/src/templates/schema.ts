import { z } from '@hono/zod-openapi'
import { idempotencyHeader } from '../kernel/http/request-shapes.ts'
import { setNetworkSchema } from '../sandboxes/egress/schema.ts'
import { dockerfileLimits } from './dockerfile/parse.ts'
import { isReservedName, namePattern, tagPattern } from './names.ts'
import { registryOf } from './registry/reference.ts'

export const templateLimits = {
  /** Versions of all names of one account. */
  versions: 2_000,
  tags: 16,
  buildArgs: 100,
  buildArgChars: 8_192,
  cpu: { min: 0.1, max: 64, default: 2 },
  memoryMb: { min: 128, max: 262_144, default: 2_048 },
  stepTimeoutMs: { min: 1_000, max: 3_600_000, default: 1_800_000 },
  timeoutMs: { min: 1_000, max: 6 * 3_600_000, default: 2 * 3_600_000 },
  archiveBytes: 64 * 1024 ** 3,
} as const

const nameMessage = 'a template name is 1 to 64 of a-z 0-9 . _ -'
const nameSchema = z
  .string()
  .regex(new RegExp(`^${namePattern}$`), nameMessage)
  .refine((name) => !isReservedName(name), { message: 'is a name that has another meaning' })
const tagSchema = z.string().regex(new RegExp(`^${tagPattern}$`), 'a tag is 1 to 64 letters, digits, . _ -')
const tagsSchema = z.array(tagSchema).max(templateLimits.tags).default([]).openapi({
  description: 'Names of the new version beside its number and `latest`; each moves here from the version that has it',
})

const authSchema = z
  .strictObject({
    registry: z
      .string()
      .min(1)
      .max(255)
      .refine((host) => registryOf(host) !== undefined, { message: 'is no host of a registry' })
      .optional()
      .openapi({
        description:
          'The only registry that is told, as references name it. Where left out, that of the image; of a Dockerfile, that of its first FROM of a registry',
        example: 'ghcr.io',
      }),
    username: z
      .string()
      .min(1)
      .max(1_024)
      .regex(/^[^:\p{Cc}]*$/u, 'has no colon or control characters'),
    password: z.string().min(1).max(65_536),
  })
  .openapi({ description: 'For this pull alone: one registry and its token service are told, and it is not stored' })

export type Auth = z.output<typeof authSchema>

const argsSchema = z
  .record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,255}$/), z.string().max(templateLimits.buildArgChars))
  .refine((args) => Object.keys(args).length <= templateLimits.buildArgs, {
    message: `at most ${templateLimits.buildArgs}`,
  })
  .default({})
  .openapi({ description: 'Values of ARG. They are no secrets: cached steps and the log hold them' })

function number({ min, max, default: fallback }: { min: number; max: number; default: number }) {
  return z.number().min(min).max(max).default(fallback)
}

const buildFields = {
  target: z.string().min(1).max(128).optional().openapi({ description: 'The stage to build; the last where left out' }),
  args: argsSchema,
  noCache: z.boolean().default(false).openapi({ description: 'Do every step anew' }),
  network: setNetworkSchema
    .default({ egress: { hosts: [], presets: ['packages'] } })
    .openapi({ description: 'What RUN may reach; registries of packages where left out' }),
  cpu: number(templateLimits.cpu),
  memoryMb: z
    .int()
    .min(templateLimits.memoryMb.min)
    .max(templateLimits.memoryMb.max)
    .default(templateLimits.memoryMb.default),
  stepTimeoutMs: number(templateLimits.stepTimeoutMs).openapi({ description: 'Of one RUN' }),
  timeoutMs: number(templateLimits.timeoutMs).openapi({ description: 'Of all of it' }),
}

const fromImageSchema = z.strictObject({
  image: z
    .string()
    .min(1)
    .max(512)
    .openapi({ description: 'A reference such as `docker.io/library/python:3.12`', example: 'python:3.12-slim' }),
  auth: authSchema.optional(),
})
const fromSnapshotSchema = z.strictObject({
  snapshot: z.string().regex(/^snp_[a-z0-9]{1,40}$/, 'a snapshot id begins with snp_'),
})
const fromDockerfileSchema = z.strictObject({
  dockerfile: z
    .string()
    .min(1)
    .max(dockerfileLimits.bytes)
    .openapi({ description: 'Its text; COPY needs files, which POST /v1/templates/builds takes' }),
  auth: authSchema.optional().openapi({
    description: 'For what its FROM and COPY --from take of one registry; name it where the Dockerfile is not your own',
  }),
  ...buildFields,
})

export const createTemplateSchema = z
  .strictObject({
    name: nameSchema,
    tags: tagsSchema,
    from: z.union([fromImageSchema, fromSnapshotSchema, fromDockerfileSchema]),
  })
  .openapi('CreateTemplate')
export type CreateTemplate = z.output<typeof createTemplateSchema>
export type TemplateFrom = CreateTemplate['from']
export type FromDockerfile = z.output<typeof fromDockerfileSchema>
export type BuildSettings = Pick<FromDockerfile, 'network' | 'cpu' | 'memoryMb' | 'stepTimeoutMs'>

const listParam = (name: string, description: string) =>
  z
    .union([z.string(), z.array(z.string())])
    .optional()
    .transform((value) => (value === undefined ? [] : [value].flat()))
    .pipe(z.array(tagSchema).max(templateLimits.tags))
    .openapi({ param: { name, in: 'query' }, type: 'array', items: { type: 'string' }, description })

const nameQuery = nameSchema.openapi({ param: { name: 'name', in: 'query' } })
const tagQuery = listParam('tag', 'Tags of the new version; several by several `tag`')

export const importQuerySchema = z.object({ name: nameQuery, tag: tagQuery })

/** What goes with files, which are the body. */
export const buildQuerySchema = z.object({
  name: nameQuery,
  tag: tagQuery,
  dockerfile: z
    .string()
    .min(1)
    .max(4_096)
    .default('Dockerfile')
    .openapi({ param: { name: 'dockerfile', in: 'query' }, description: 'Where it lies among the files' }),
  options: z
    .string()
    .max(256 * 1024)
    .default('{}')
    .openapi({
      param: { name: 'options', in: 'query' },
      description:
        'JSON with target, args, noCache, network, cpu, memoryMb, stepTimeoutMs, timeoutMs as in CreateTemplate',
    }),
})
export const buildOptionsSchema = fromDockerfileSchema.omit({ dockerfile: true, auth: true })

/** Not in the address, which everything on the way writes down. */
export const registryAuthHeaderSchema = z.object({
  'registry-auth': z
    .string()
    .max(16 * 1024)
    .regex(/^[A-Za-z0-9_-]*$/, 'is no base64url without padding')
    .transform((text, context) => {
      const auth = authSchema.safeParse(jsonOf(Buffer.from(text, 'base64url').toString('utf8')))
      if (auth.success) return auth.data
      context.addIssue({ code: 'custom', message: 'is no base64url of an `auth` as in CreateTemplate, in JSON' })
      return z.NEVER
    })
    .optional()
    .openapi({
      param: { name: 'registry-auth', in: 'header' },
      type: 'string',
      description: '`auth` as in CreateTemplate, as base64url of its JSON',
    }),
})

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

export const templateStates = ['ready', 'missing', 'building', 'failed', 'canceled'] as const

const configSchema = z.object({
  env: z.record(z.string(), z.string()),
  user: z
    .string()
    .openapi({ description: 'Empty: root. Commands run as `user` unless another one than root is named here' }),
  workdir: z.string(),
  cmd: z.array(z.string()).nullable(),
  entrypoint: z.array(z.string()).nullable(),
  labels: z.record(z.string(), z.string()),
  exposedPorts: z.array(z.string()),
})

const sourceSchema = z
  .object({
    kind: z.enum(['machine', 'image', 'archive', 'snapshot', 'dockerfile']),
    reference: z.string().optional().openapi({ description: 'The image or snapshot it was made of' }),
  })
  .openapi({ description: '`machine`: built by the server itself' })
export type TemplateSource = z.output<typeof sourceSchema>

export const templateSchema = z
  .object({
    name: z.string().openapi({ example: 'host' }),
    state: z.enum(templateStates).openapi({
      description: 'Sandboxes start from a ready one; a missing one is made when it is first used, or by POST …/build',
    }),
    detail: z.string().openapi({ description: 'What it holds and lacks, or why it failed' }),
    id: z.string().nullable().openapi({
      description: 'Null for those of the machine and for those not made yet',
      example: 'tpl_k3v9x0m2qp7a8b1c4d5e',
    }),
    version: z.int().nullable(),
    tags: z.array(z.string()),
    source: sourceSchema,
    digest: z.string().nullable().openapi({ description: 'Of the image it was made of' }),
    snapshotId: z.string().nullable(),
    config: configSchema.nullable(),
    createdAt: z.iso.datetime().nullable(),
    endedAt: z.iso.datetime().nullable().openapi({ description: 'When it was ready, or failed' }),
  })
  .openapi('Template')
export type Template = z.output<typeof templateSchema>

export const templateListSchema = z
  .object({ data: z.array(templateSchema), nextCursor: z.null() })
  .openapi('TemplateList')

export const templateParamsSchema = z.object({
  name: z
    .string()
    .regex(/^[a-z0-9][a-z0-9._-]{0,63}$/, nameMessage)
    .openapi({ param: { name: 'name', in: 'path' }, example: 'debian' }),
})

export const templateRefParamsSchema = z.object({
  template: z
    .string()
    .max(160)
    .openapi({
      param: { name: 'template', in: 'path' },
      description: 'An id, a name, `name:tag` or `name@version`',
      example: 'tools:stable',
    }),
})

export const tagParamsSchema = z.object({
  name: nameSchema.openapi({ param: { name: 'name', in: 'path' } }),
  tag: tagSchema.openapi({ param: { name: 'tag', in: 'path' } }),
})
export const setTagSchema = z.strictObject({ version: z.int().min(1).max(999_999_999) }).openapi('SetTag')

export const logQuerySchema = z.object({
  from: z
    .string()
    .regex(/^[0-9]{1,9}$/, 'from is a whole number')
    .transform(Number)
    .default(0)
    .openapi({
      param: { name: 'from', in: 'query' },
      type: 'integer',
      minimum: 0,
      description: 'Lines after this number',
    }),
})

export const idempotencyHeaderSchema = idempotencyHeader(
  'Asking again with the same key and wish gives the first answer instead of a second version',
)
