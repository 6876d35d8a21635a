import type { Api, Feature } from '../../kernel/http/api.ts'
import { json } from '../../kernel/http/document.ts'
import { createRoute } from '../../kernel/http/route.ts'
import { knownCallerOf } from '../authenticate.ts'
import { agentTokenSchema, createAgentTokenSchema, revokeAgentTokenSchema } from './schema.ts'
import type { AgentTokens } from './service.ts'

const tags = ['access']

const createAgentTokenRoute = createRoute({
  method: 'post',
  path: '/v1/agent-tokens',
  operationId: 'createAgentToken',
  needs: 'delegate',
  tags,
  refuses: [
    'database_busy',
    'database_unavailable',
    'database_failed',
    'agent_not_found',
    'agent_paused',
    'agent_archived',
  ],
  summary: 'Make a short-lived token for an agent',
  description:
    'A part of what its maker and the agent have, for at most 15 minutes. It is good no longer than what it was made with, and loses at once what that or the agent loses. An agent with `delegate` makes narrower ones for itself and for those below it, at most four deep.',
  request: { body: { content: { 'application/json': { schema: createAgentTokenSchema } }, required: true } },
  responses: { 201: json('Made; it is shown only here', agentTokenSchema) },
})

const revokeAgentTokenRoute = createRoute({
  method: 'post',
  path: '/v1/agent-tokens/revoke',
  operationId: 'revokeAgentToken',
  needs: 'delegate',
  tags,
  refuses: ['database_busy', 'database_unavailable', 'database_failed'],
  summary: 'End an agent’s token before its time, with those made with it',
  request: { body: { content: { 'application/json': { schema: revokeAgentTokenSchema } }, required: true } },
  responses: { 204: { description: 'It is good for nothing, or never was a token of this account' } },
})

export function agentTokensFeature({ agentTokens }: { agentTokens: AgentTokens }): Feature {
  return { name: 'agent-tokens', routes: (api) => addAgentTokenRoutes(api, agentTokens) }
}

function addAgentTokenRoutes(api: Api, agentTokens: AgentTokens): void {
  api.openapi(createAgentTokenRoute, async (c) => {
    const made = await agentTokens.create(c.req.valid('json'), knownCallerOf(c.var.caller))
    c.set('made', made.id)
    c.set('told', { agentId: made.agentId, agentKind: made.agentKind })
    return c.json(made, 201)
  })
  api.openapi(revokeAgentTokenRoute, async (c) => {
    await agentTokens.revoke(c.req.valid('json').token, knownCallerOf(c.var.caller))
    return c.body(null, 204)
  })
}
