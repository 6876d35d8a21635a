import { z } from '@hono/zod-openapi'

export const volumeLimits = {
  /** Of one account. */
  volumes: 1_000,
  perSandbox: 16,
  nameChars: 63,
  pathChars: 1_024,
  diskMb: { min: 32, max: 1_048_576, default: 4_096 },
} as const

/** Where the box's own parts lie: nothing of a volume can cover them. */
const reservedPaths = ['/proc', '/sys', '/dev', '/.delta']

const nameSchema = z
  .string()
  .regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, 'a volume name is 1 to 63 of a-z 0-9 and inner -')
  .openapi({ example: 'datasets' })

export const createVolumeSchema = z
  .strictObject({
    name: nameSchema.openapi({ description: 'Unique in the account' }),
    diskMb: z
      .int()
      .min(volumeLimits.diskMb.min)
      .max(volumeLimits.diskMb.max)
      .default(volumeLimits.diskMb.default)
      .openapi({ description: 'Most it may hold; no bound where the pool keeps no quota' }),
  })
  .openapi('CreateVolume')
export type CreateVolume = z.output<typeof createVolumeSchema>

export const volumeSchema = z
  .object({
    id: z.string().openapi({ example: 'vol_k3v9x0m2qp7a8b1c4d5e' }),
    name: z.string(),
    diskMb: z.int(),
    createdAt: z.iso.datetime(),
    sandboxIds: z.array(z.string()).openapi({ description: 'Sandboxes that have it, running or not' }),
  })
  .openapi('Volume')
export type Volume = z.output<typeof volumeSchema>

export const volumeListSchema = z.object({ data: z.array(volumeSchema), nextCursor: z.null() }).openapi('VolumeList')

/** The database takes no NUL. */
const referenceSchema = z
  .string()
  .min(1)
  .max(64)
  .refine((text) => !text.includes('\0'), { message: 'must not contain NUL characters' })

export const volumeIdParamSchema = z.object({
  id: referenceSchema.openapi({ param: { name: 'id', in: 'path' }, example: 'vol_k3v9x0m2qp7a8b1c4d5e' }),
})

/** A volume as a sandbox has it. */
export const mountSchema = z
  .strictObject({
    volume: referenceSchema.openapi({ description: 'Id or name of a volume', example: 'datasets' }),
    path: z
      .string()
      .max(volumeLimits.pathChars)
      .refine(isMountPath, {
        message:
          'must be an absolute path without empty, . or .. parts, not / and not below /proc, /sys, /dev or /.delta',
      })
      .openapi({ description: 'Where it is seen inside; made when it is not there', example: '/data' }),
    readOnly: z.boolean().default(false),
  })
  .openapi('VolumeMount')
export type Mount = z.output<typeof mountSchema>

export const mountsSchema = z
  .array(mountSchema)
  .max(volumeLimits.perSandbox)
  .refine((mounts) => !mounts.some((one, at) => mounts.some((other, place) => at !== place && isWithin(one, other))), {
    message: 'no path may be another one or lie below it',
  })
  .openapi({ description: 'Folders shared with other sandboxes of the account' })

export function isMountPath(path: string): boolean {
  if (!path.startsWith('/') || path.includes('\0')) return false
  const parts = path.slice(1).split('/')
  if (parts.some((part) => part === '' || part === '.' || part === '..' || Buffer.byteLength(part) > 255)) return false
  return !reservedPaths.some((reserved) => path === reserved || path.startsWith(`${reserved}/`))
}

function isWithin(one: { path: string }, other: { path: string }): boolean {
  return one.path === other.path || one.path.startsWith(`${other.path}/`)
}
