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
