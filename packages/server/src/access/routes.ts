import type { Api, Caller, Feature } from '../kernel/http/api.ts'
import { json } from '../kernel/http/document.ts'
import { createRoute } from '../kernel/http/route.ts'
import type { AccessTokens } from './access-tokens.ts'
import type { KnownCaller } from './door.ts'
import { accessTokenSchema, createAccessTokenSchema, isScope, sandboxIdParamSchema } from './schema.ts'

const path = '/v1/sandboxes/{id}/access-tokens'
const tags = ['access']
const ofSandbox = ['sandbox_not_found', 'database_busy', 'database_unavailable', 'database_failed'] as const
const params = sandboxIdParamSchema

const createTokenRoute = createRoute({
  method: 'post',
  path,
  operationId: 'createAccessToken',
  needs: { right: 'write:exec', resource: 'sandbox' },
  tags,
  refuses: ofSandbox,
  summary: 'Make a token for a sandbox’s ports or terminals',
  description: 'It opens what its scopes say in this one sandbox and nothing else, so it may be given to a browser.',
  request: {
    params,
    body: { content: { 'application/json': { schema: createAccessTokenSchema } }, required: true },
  },
  responses: { 201: json('Made', accessTokenSchema) },
})

const revokeTokensRoute = createRoute({
  method: 'delete',
  path,
  operationId: 'revokeAccessTokens',
  needs: { right: 'write:exec', resource: 'sandbox' },
  tags,
  refuses: ofSandbox,
  summary: 'End all access tokens of a sandbox',
  description: 'Those made so far, and within a second every connection opened with them.',
  request: { params },
  responses: { 204: { description: 'None of them is good any more' } },
})

/** Of somebody who was recognised; there is nobody else but in tests. */
function boundsOf({ ties = [], expiresAt }: Caller & Partial<Pick<KnownCaller, 'ties' | 'expiresAt'>>) {
  return { ties, until: expiresAt }
}

interface AccessFeatureDeps {
  tokens: AccessTokens
  /** Rejects where the caller has no such sandbox. */
  findSandbox(sandboxId: string, caller: Caller): Promise<unknown>
}

export function accessFeature({ tokens, findSandbox }: AccessFeatureDeps): Feature {
  return {
    name: 'access',
    routes: (api) => addAccessRoutes(api, { tokens, findSandbox }),
    stop: async () => tokens.stop(),
  }
}

function addAccessRoutes(api: Api, { tokens, findSandbox }: AccessFeatureDeps): void {
  api.openapi(createTokenRoute, async (c) => {
    const { id } = c.req.valid('param')
    const { scopes: wanted, ttlMs } = c.req.valid('json')
    const scopes = wanted.filter(isScope)
    await findSandbox(id, c.var.caller)
    const { caller } = c.var
    const { ties, until } = boundsOf(caller)
    const { token, expiresAt } = tokens.create({ sandboxId: id, accountId: caller.accountId, scopes, ttlMs, until })
    await tokens.noteMakers(ties, { sandboxId: id, expiresAt })
    return c.json({ token, scopes, expiresAt: new Date(expiresAt).toISOString() }, 201)
  })
  api.openapi(revokeTokensRoute, async (c) => {
    const { id } = c.req.valid('param')
    await findSandbox(id, c.var.caller)
    await tokens.revoke(id)
    return c.body(null, 204)
  })
}
