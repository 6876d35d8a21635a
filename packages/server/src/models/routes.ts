import { knownCallerOf } from '../access/callers/door.ts'
import type { Api, ApiContext, Feature } from '../kernel/http/api.ts'
import { json } from '../kernel/http/document.ts'
import { createRoute } from '../kernel/http/route.ts'
import {
  modelKeyListSchema,
  modelKeyParamsSchema,
  modelKeySchema,
  modelListSchema,
  setModelKeySchema,
} from './schema.ts'
import type { Models } from './service.ts'
import { modelKeyView } from './views.ts'

const tags = ['models']
const ofDatabase = ['database_busy', 'database_unavailable', 'database_failed'] as const

const listRoute = createRoute({
  method: 'get',
  path: '/v1/models',
  operationId: 'listModels',
  needs: 'nothing',
  tags,
  refuses: ofDatabase,
  summary: 'List models',
  description:
    'Those with a price, those that the OpenAI-compatible server says it has, and the default one; with what they cost, and of those that can not be used now, why.',
  responses: { 200: json('All of them', modelListSchema) },
})

const listKeysRoute = createRoute({
  method: 'get',
  path: '/v1/model-keys',
  operationId: 'listModelKeys',
  needs: 'read:keys',
  tags,
  refuses: ofDatabase,
  summary: 'List the account’s own keys of providers of models',
  responses: { 200: json('Each by its last characters', modelKeyListSchema) },
})

const setKeyRoute = createRoute({
  method: 'put',
  path: '/v1/model-keys/{provider}',
  operationId: 'setModelKey',
  needs: 'write:billing',
  tags,
  refuses: ofDatabase,
  summary: 'Use the account’s own key of a provider of models',
  description:
    'From the next call on, in place of the operator’s. It goes to the provider itself and nowhere else. The account pays its provider; of its tokens go what the rate card says for calls with own keys, by default nothing.',
  request: {
    params: modelKeyParamsSchema,
    body: { content: { 'application/json': { schema: setModelKeySchema } }, required: true },
  },
  responses: { 200: json('It is used', modelKeySchema) },
})

const removeKeyRoute = createRoute({
  method: 'delete',
  path: '/v1/model-keys/{provider}',
  operationId: 'removeModelKey',
  needs: 'write:billing',
  tags,
  refuses: [...ofDatabase, 'model_key_not_found'],
  summary: 'Forget the account’s own key of a provider of models',
  description: 'From the next call on the operator’s is used, where there is one.',
  request: { params: modelKeyParamsSchema },
  responses: { 204: { description: 'It is forgotten' } },
})

export function modelsFeature({ models }: { models: Models }): Feature {
  return {
    name: 'models',
    routes: (api) => addModelRoutes(api, models),
    metrics: models.metrics,
    stop: models.stop,
  }
}

function addModelRoutes(api: Api, { list, keys }: Models): void {
  const callerOf = (c: ApiContext) => knownCallerOf(c.var.caller)
  api.openapi(listRoute, async (c) => c.json(await list(callerOf(c).accountId), 200))
  api.openapi(listKeysRoute, async (c) => {
    const data = (await keys.list(callerOf(c).accountId)).map(modelKeyView)
    return c.json({ data }, 200)
  })
  api.openapi(setKeyRoute, async (c) => {
    const { provider } = c.req.valid('param')
    const { accountId, actorId } = callerOf(c)
    return c.json(modelKeyView(await keys.set(provider, c.req.valid('json').apiKey, { accountId, actorId })), 200)
  })
  api.openapi(removeKeyRoute, async (c) => {
    await keys.remove(c.req.valid('param').provider, callerOf(c).accountId)
    return c.body(null, 204)
  })
}
