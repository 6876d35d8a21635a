import type { Handler } from 'hono'
import { knownCallerOf } from '../access/callers/door.ts'
import type { ErrorCode } from '../kernel/errors.ts'
import { type Api, type ApiEnv, type Feature, mirrored } from '../kernel/http/api.ts'
import { answerMade, json } from '../kernel/http/document.ts'
import { createRoute } from '../kernel/http/route.ts'
import {
  agentIdempotencySchema,
  agentIdParamSchema,
  agentListQuerySchema,
  agentListSchema,
  agentSchema,
  agentTreeSchema,
  createAgentSchema,
  giveTokensSchema,
  patchAgentSchema,
} from './schema.ts'
import type { Agents } from './service.ts'

const tags = ['agents']
const params = agentIdParamSchema
const database: readonly ErrorCode[] = ['database_busy', 'database_unavailable', 'database_failed']
const ofKnown: readonly ErrorCode[] = [...database, 'agent_not_found']
const ofChange: readonly ErrorCode[] = [...ofKnown, 'agent_archived', 'agent_state_conflict']
/** What standing still and going on do with its computer. */
const ofComputer: readonly ErrorCode[] = [
  ...ofChange,
  'sandbox_state_conflict',
  'sandbox_not_running',
  'driver_failed',
  'driver_timed_out',
  'driver_unavailable',
]
const ofTokens: readonly ErrorCode[] = [
  'idempotency_conflict',
  'amount_invalid',
  'balance_too_low',
  'account_owes',
  'purse_archived',
  'key_conflict',
  'ledger_full',
]
const read = { right: 'read:agents', resource: 'agent' } as const
const write = { right: 'write:agents', resource: 'agent' } as const

const createRouteOf = createRoute({
  method: 'post',
  path: '/v1/agents',
  operationId: 'createAgent',
  needs: write,
  tags,
  refuses: [...ofChange, ...ofTokens, 'idempotency_in_progress', 'agent_too_deep', 'plan_limit_reached'],
  summary: 'Make an agent',
  description:
    'A `main` agent stands at the top or below another main agent; a `bot` has one task and one channel; a `messenger` only sends. With its `tokenBudget` it is made, or not at all: the tokens come from its parent, or for one at the top from the account’s reserve, which takes a person or a key with `allocate` and `write:billing`.',
  request: {
    headers: agentIdempotencySchema,
    body: { content: { 'application/json': { schema: createAgentSchema } }, required: true },
  },
  responses: { 201: json('Made', agentSchema) },
})

const listRoute = createRoute({
  method: 'get',
  path: '/v1/agents',
  operationId: 'listAgents',
  needs: read,
  tags,
  refuses: database,
  summary: 'List agents, newest first',
  request: { query: agentListQuerySchema },
  responses: { 200: json('A page of agents', agentListSchema) },
})

const treeRoute = createRoute({
  method: 'get',
  path: '/v1/agents/tree',
  operationId: 'getAgentTree',
  needs: read,
  tags,
  refuses: database,
  summary: 'Who stands below whom',
  responses: { 200: json('Those at the top, oldest first, each with those below it', agentTreeSchema) },
})

const getRoute = createRoute({
  method: 'get',
  path: '/v1/agents/{id}',
  operationId: 'getAgent',
  needs: read,
  tags,
  refuses: ofKnown,
  summary: 'Look at an agent, with its balance',
  request: { params },
  responses: { 200: json('The agent', agentSchema) },
})

const patchRoute = createRoute({
  method: 'patch',
  path: '/v1/agents/{id}',
  operationId: 'patchAgent',
  needs: write,
  tags,
  refuses: [...ofComputer, 'amount_invalid', 'agent_cycle', 'agent_parent_fixed', 'agent_has_no_sandbox'],
  summary: 'Change an agent',
  description:
    'Rights that it loses it loses with all below it, within a second, open streams included. No agent changes itself.',
  request: { params, body: { content: { 'application/json': { schema: patchAgentSchema } }, required: true } },
  responses: { 200: json('The agent', agentSchema) },
})

const pauseRoute = createRoute({
  method: 'post',
  path: '/v1/agents/{id}/pause',
  operationId: 'pauseAgent',
  needs: write,
  tags,
  refuses: ofComputer,
  summary: 'Let an agent stand still',
  description: 'Its computer is paused, it gets no work, and its tokens let nobody in. Those below it go on.',
  request: { params },
  responses: { 200: json('The agent', agentSchema) },
})

const resumeRoute = createRoute({
  method: 'post',
  path: '/v1/agents/{id}/resume',
  operationId: 'resumeAgent',
  needs: write,
  tags,
  refuses: [...ofComputer, 'agent_suspended', 'sandbox_start_failed', 'capacity_exhausted'],
  summary: 'Let a paused agent go on',
  request: { params },
  responses: { 200: json('The agent', agentSchema) },
})

const archiveText = {
  needs: write,
  tags,
  refuses: ofComputer,
  description:
    'With all below it, the deepest first: no more work, its computer stopped and snapshotted, and its balance back with its parent or the reserve once nothing is held in its name. Until then it is `archiving`.',
  request: { params },
  responses: { 200: json('The agent, archiving or archived', agentSchema) },
}

const archiveRoute = createRoute({
  method: 'post',
  path: '/v1/agents/{id}/archive',
  operationId: 'archiveAgent',
  summary: 'End an agent',
  ...archiveText,
})

const removeRoute = createRoute({
  method: 'delete',
  path: '/v1/agents/{id}',
  operationId: 'removeAgent',
  summary: 'End an agent, as archiving it does',
  ...archiveText,
})

const giveRoute = createRoute({
  method: 'post',
  path: '/v1/agents/{id}/tokens',
  operationId: 'giveAgentTokens',
  needs: { right: 'allocate', resource: 'agent' },
  tags,
  refuses: [...ofChange, ...ofTokens],
  summary: 'Give an agent tokens',
  description:
    'From its parent’s balance, or from the account’s reserve, which takes a person or a key with `allocate` and `write:billing`.',
  request: {
    params,
    headers: agentIdempotencySchema,
    body: { content: { 'application/json': { schema: giveTokensSchema } }, required: true },
  },
  responses: { 200: json('The agent, with its balance', agentSchema) },
})

function addAgentRoutes(api: Api, agents: Agents): void {
  api.openapi(createRouteOf, async (c) => {
    const idempotencyKey = c.req.valid('header')['idempotency-key']
    return answerMade(c, await agents.create(c.req.valid('json'), knownCallerOf(c.var.caller), { idempotencyKey }), 201)
  })
  api.openapi(listRoute, async (c) => c.json(await agents.list(c.var.caller, c.req.valid('query')), 200))
  api.openapi(treeRoute, async (c) => c.json(await agents.tree(c.var.caller), 200))
  api.openapi(getRoute, async (c) => c.json(await agents.get(c.req.valid('param').id, c.var.caller), 200))
  api.openapi(patchRoute, async (c) =>
    c.json(await agents.patch(c.req.valid('param').id, c.req.valid('json'), knownCallerOf(c.var.caller)), 200),
  )
  api.openapi(pauseRoute, async (c) =>
    c.json(await agents.pause(c.req.valid('param').id, knownCallerOf(c.var.caller)), 200),
  )
  api.openapi(resumeRoute, async (c) =>
    c.json(await agents.resume(c.req.valid('param').id, knownCallerOf(c.var.caller)), 200),
  )
  api.openapi(archiveRoute, async (c) =>
    c.json(await agents.archive(c.req.valid('param').id, knownCallerOf(c.var.caller)), 200),
  )
  api.openapi(removeRoute, async (c) =>
    c.json(await agents.archive(c.req.valid('param').id, knownCallerOf(c.var.caller)), 200),
  )
  api.openapi(giveRoute, async (c) => {
    const idempotencyKey = c.req.valid('header')['idempotency-key']
    const { id } = c.req.valid('param')
    return c.json(
      await agents.giveTokens(id, c.req.valid('json'), knownCallerOf(c.var.caller), { idempotencyKey }),
      200,
    )
  })
}

const ofWork: readonly ErrorCode[] = [
  'agent_not_found',
  'agent_archived',
  'agent_paused',
  'agent_suspended',
  'agent_has_no_sandbox',
]

/**
 * What can be done with a sandbox, done with the agent's own: the same routes with `/agents/` in their paths, served by the same handlers once the agent's sandbox is known.
 */
export function computerApi(api: Api, { computerOf }: Pick<Agents, 'computerOf'>): Api {
  const served = (handler: Handler<ApiEnv>): Handler<ApiEnv> => {
    return async (c, next) => {
      const id = await computerOf(c.req.param('id')!, c.var.caller)
      c.set('sandboxId', id)
      c.req.addValidatedData('param', { ...c.req.param(), id })
      return handler(c, next)
    }
  }
  return mirrored(api, (route, handler) => {
    const { needs, refuses = [], operationId = '', path } = route
    const right = typeof needs === 'string' ? needs : needs.right
    if (right === 'public' || right === 'nothing') throw new Error(`${path} needs no right`)
    const mirror = {
      ...route,
      path: path.replace('/v1/sandboxes/', '/v1/agents/'),
      operationId: operationId.replace(/^([a-z]+)/, '$1Agent'),
      needs: { right, resource: 'agent' as const },
      tags,
      summary: `${route.summary}, on an agent’s own computer`,
      refuses: [...refuses, ...ofWork],
    }
    const own = served(handler)
    // The word that people use for it.
    if (operationId === 'createExec') {
      api.openapi({ ...mirror, path: '/v1/agents/{id}/exec', operationId: 'execAgent' }, own)
    }
    return { route: mirror, handler: own }
  })
}

export interface AgentsFeatureDeps {
  agents: Agents
  /** Adds the routes of a sandbox that are also an agent's. */
  computerRoutes(api: Api): void
}

export function agentsFeature({ agents, computerRoutes }: AgentsFeatureDeps): Feature {
  return {
    name: 'agents',
    routes(api) {
      addAgentRoutes(api, agents)
      computerRoutes(computerApi(api, agents))
    },
    stop: agents.stop,
  }
}
