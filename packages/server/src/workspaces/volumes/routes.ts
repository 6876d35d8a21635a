import type { ErrorCode } from '../../kernel/errors.ts'
import type { Api, Feature } from '../../kernel/http/api.ts'
import { answerMade, json } from '../../kernel/http/document.ts'
import { createRoute } from '../../kernel/http/route.ts'
import { idempotencyHeader } from '../../kernel/http/request-shapes.ts'
import { createVolumeSchema, volumeIdParamSchema, volumeListSchema, volumeSchema } from './schema.ts'
import type { Volumes } from './service.ts'

const tags = ['volumes']
const params = volumeIdParamSchema
const ofDatabase: readonly ErrorCode[] = ['database_busy', 'database_unavailable', 'database_failed']
const ofDriver: readonly ErrorCode[] = ['driver_failed', 'driver_timed_out', 'driver_unavailable']

const createVolumeRoute = createRoute({
  method: 'post',
  path: '/v1/volumes',
  operationId: 'createVolume',
  needs: 'write:workspaces',
  tags,
  refuses: [
    ...ofDatabase,
    ...ofDriver,
    'volume_exists',
    'volume_limit_reached',
    'account_owes',
    'disk_full',
    'pool_read_only',
    'not_supported',
    'idempotency_conflict',
    'idempotency_in_progress',
  ],
  summary: 'Make a folder that sandboxes can share',
  request: {
    headers: idempotencyHeader(
      'Asking again with the same key and body gives the first answer instead of a second volume',
    ),
    body: { content: { 'application/json': { schema: createVolumeSchema } }, required: true },
  },
  responses: { 201: json('Ready to be given to sandboxes', volumeSchema) },
})

const listVolumesRoute = createRoute({
  method: 'get',
  path: '/v1/volumes',
  operationId: 'listVolumes',
  needs: 'read:workspaces',
  tags,
  refuses: ofDatabase,
  summary: 'List volumes, oldest first',
  responses: { 200: json('All of them', volumeListSchema) },
})

const getVolumeRoute = createRoute({
  method: 'get',
  path: '/v1/volumes/{id}',
  operationId: 'getVolume',
  needs: 'read:workspaces',
  tags,
  refuses: [...ofDatabase, 'volume_not_found'],
  summary: 'Look at a volume, by id or name',
  request: { params },
  responses: { 200: json('The volume', volumeSchema) },
})

const removeVolumeRoute = createRoute({
  method: 'delete',
  path: '/v1/volumes/{id}',
  operationId: 'removeVolume',
  needs: 'write:workspaces',
  tags,
  refuses: [...ofDatabase, ...ofDriver, 'volume_not_found', 'volume_in_use'],
  summary: 'Remove a volume and all it holds',
  request: { params },
  responses: { 204: { description: 'It is gone' } },
})

export function volumesFeature({ volumes }: { volumes: Volumes }): Feature {
  return { name: 'volumes', routes: (api) => addVolumeRoutes(api, volumes) }
}

function addVolumeRoutes(api: Api, volumes: Volumes): void {
  api.openapi(createVolumeRoute, async (c) => {
    const idempotencyKey = c.req.valid('header')['idempotency-key']
    return answerMade(c, await volumes.create(c.req.valid('json'), c.var.caller, { idempotencyKey }), 201)
  })
  api.openapi(listVolumesRoute, async (c) => c.json({ data: await volumes.list(c.var.caller), nextCursor: null }, 200))
  api.openapi(getVolumeRoute, async (c) => c.json(await volumes.get(c.req.valid('param').id, c.var.caller), 200))
  api.openapi(removeVolumeRoute, async (c) => {
    await volumes.remove(c.req.valid('param').id, c.var.caller)
    return c.body(null, 204)
  })
}
