import type { Api, Feature } from '../../kernel/http/api.ts'
import { json } from '../../kernel/http/document.ts'
import { createRoute } from '../../kernel/http/route.ts'
import { knownCallerOf } from '../authenticate.ts'
import {
  createKeySchema,
  keyListQuerySchema,
  keyListSchema,
  keyParamsSchema,
  keySchema,
  madeKeySchema,
  rotateKeySchema,
} from './schema.ts'
import type { Keys } from './service.ts'

const tags = ['access']
const ofDatabase = ['database_busy', 'database_unavailable', 'database_failed'] as const
const params = keyParamsSchema

const createKeyRoute = createRoute({
  method: 'post',
  path: '/v1/keys',
  operationId: 'createKey',
  needs: 'write:keys',
  tags,
  refuses: [...ofDatabase, 'key_limit_reached', 'approval_second_factor_required'],
  summary: 'Make an API key',
  description:
    'Never with more than whoever makes it has: neither more rights, nor other sandboxes and agents, nor a later end. `approve:*` is given by people only. A key made with a key ends with it.',
  request: { body: { content: { 'application/json': { schema: createKeySchema } }, required: true } },
  responses: { 201: json('Made; `key` is shown only here', madeKeySchema) },
})

const listKeysRoute = createRoute({
  method: 'get',
  path: '/v1/keys',
  operationId: 'listKeys',
  needs: 'read:keys',
  tags,
  refuses: ofDatabase,
  summary: 'List API keys, newest first',
  description:
    'Owners and admins see all of the account, others those of their own. The key in the data folder is none of them.',
  request: { query: keyListQuerySchema },
  responses: { 200: json('A page of keys', keyListSchema) },
})

const getKeyRoute = createRoute({
  method: 'get',
  path: '/v1/keys/{id}',
  operationId: 'getKey',
  needs: 'read:keys',
  tags,
  refuses: [...ofDatabase, 'key_not_found'],
  summary: 'Look at an API key',
  request: { params },
  responses: { 200: json('The key, without its text', keySchema) },
})

const rotateKeyRoute = createRoute({
  method: 'post',
  path: '/v1/keys/{id}/rotate',
  operationId: 'rotateKey',
  needs: 'write:keys',
  tags,
  refuses: [...ofDatabase, 'key_not_found', 'key_ended', 'approval_second_factor_required'],
  summary: 'Give an API key a new text',
  description:
    'What it may stays as it is. The old text is good for `overlapMs` more, so that programs can be changed one after the other.',
  request: { params, body: { content: { 'application/json': { schema: rotateKeySchema } } } },
  responses: { 200: json('The key; `key` is shown only here', madeKeySchema) },
})

const revokeKeyRoute = createRoute({
  method: 'delete',
  path: '/v1/keys/{id}',
  operationId: 'revokeKey',
  needs: 'write:keys',
  tags,
  refuses: [...ofDatabase, 'key_not_found'],
  summary: 'Revoke an API key, with the keys that were made with it',
  description: 'Within a second everything ends that was opened with it: streams, terminals, requests to ports.',
  request: { params },
  responses: { 204: { description: 'It is good for nothing any more, or was not before' } },
})

export function keysFeature({ keys, stop }: { keys: Keys; stop?: () => Promise<void> }): Feature {
  return { name: 'keys', routes: (api) => addKeyRoutes(api, keys), ...(stop && { stop }) }
}

function addKeyRoutes(api: Api, keys: Keys): void {
  api.openapi(createKeyRoute, async (c) => {
    const made = await keys.create(c.req.valid('json'), knownCallerOf(c.var.caller))
    c.set('made', made.id)
    return c.json(made, 201)
  })
  api.openapi(listKeysRoute, async (c) =>
    c.json(await keys.list(knownCallerOf(c.var.caller), c.req.valid('query')), 200),
  )
  api.openapi(getKeyRoute, async (c) =>
    c.json(await keys.get(c.req.valid('param').id, knownCallerOf(c.var.caller)), 200),
  )
  api.openapi(rotateKeyRoute, async (c) => {
    const { overlapMs } = c.req.valid('json')
    return c.json(await keys.rotate(c.req.valid('param').id, overlapMs, knownCallerOf(c.var.caller)), 200)
  })
  api.openapi(revokeKeyRoute, async (c) => {
    await keys.revoke(c.req.valid('param').id, knownCallerOf(c.var.caller))
    return c.body(null, 204)
  })
}
