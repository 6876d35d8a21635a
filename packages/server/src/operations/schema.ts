import { z } from '@hono/zod-openapi'

export const findingSchema = z
  .object({
    name: z.string().openapi({ example: 'cgroup' }),
    status: z.enum(['ok', 'warn', 'fail']),
    found: z.string().openapi({ description: 'What the machine has' }),
    meaning: z.string().openapi({ description: 'What that means, and what to do about it' }),
  })
  .openapi('Finding')

export const findingListSchema = z.object({ data: z.array(findingSchema), nextCursor: z.null() }).openapi('FindingList')

export const settingSchema = z
  .object({
    name: z.string().openapi({ example: 'PORT' }),
    group: z.string(),
    form: z.string().openapi({ description: 'What its value is: a number, a URL, a list, …' }),
    unit: z.string().nullable(),
    what: z.string().openapi({ description: 'What it does' }),
    default: z.string().nullable().openapi({ description: 'What holds where it is not set' }),
    secret: z.boolean().openapi({ description: 'Its value is never shown' }),
    isSet: z.boolean(),
    value: z.string().nullable().openapi({ description: 'In force' }),
  })
  .openapi('Setting')

export const settingListSchema = z.object({ data: z.array(settingSchema), nextCursor: z.null() }).openapi('SettingList')
