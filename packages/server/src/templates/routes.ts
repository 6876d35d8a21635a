import { createRoute } from '@hono/zod-openapi'
import type { Feature } from '../kernel/http/api.ts'
import { json } from '../kernel/http/document.ts'
import { templateListSchema, templateParamsSchema, templateSchema } from './schema.ts'
import type { Templates } from './service.ts'

const ofDriver = ['driver_failed', 'driver_timed_out', 'driver_unavailable'] as const

const listRoute = createRoute({
  method: 'get',
  path: '/v1/templates',
  operationId: 'listTemplates',
  tags: ['templates'],
  refuses: ofDriver,
  summary: 'What sandboxes can start from',
  responses: { 200: json('All templates', templateListSchema) },
})

const buildRoute = createRoute({
  method: 'post',
  path: '/v1/templates/{name}/build',
  operationId: 'buildTemplate',
  tags: ['templates'],
  refuses: [...ofDriver, 'template_not_found', 'template_build_failed', 'disk_full', 'capacity_exhausted'],
  summary: 'Build a template and wait until it is ready, which may take minutes',
  request: { params: templateParamsSchema },
  responses: { 200: json('It is ready', templateSchema) },
})

export function templatesFeature({ templates }: { templates: Templates }): Feature {
  return {
    name: 'templates',
    routes(api) {
      api.openapi(listRoute, async (c) => c.json({ data: await templates.list(), nextCursor: null }, 200))
      api.openapi(buildRoute, async (c) => c.json(await templates.build(c.req.valid('param').name), 200))
    },
  }
}
