import { z } from '@hono/zod-openapi'

export const templateSchema = z
  .object({
    name: z.string().openapi({ example: 'host' }),
    state: z
      .enum(['ready', 'missing', 'building', 'failed'])
      .openapi({ description: 'Sandboxes start from a ready one' }),
    detail: z.string().openapi({ description: 'What it holds and lacks, or why it failed' }),
  })
  .openapi('Template')

export const templateListSchema = z
  .object({ data: z.array(templateSchema), nextCursor: z.null() })
  .openapi('TemplateList')

export const templateParamsSchema = z.object({
  name: z
    .string()
    .regex(/^[a-z0-9][a-z0-9._-]{0,63}$/, 'a template name is 1 to 64 of a-z 0-9 . _ -')
    .openapi({ param: { name: 'name', in: 'path' }, example: 'debian' }),
})

export type Template = z.infer<typeof templateSchema>
