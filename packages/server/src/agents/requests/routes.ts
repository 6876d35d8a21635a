import { z } from '@hono/zod-openapi'
import { knownCallerOf } from '../../access/callers/door.ts'
import type { ErrorCode } from '../../kernel/errors.ts'
import type { Api, ApiContext, Feature } from '../../kernel/http/api.ts'
import { answerMade, json } from '../../kernel/http/document.ts'
import { eventStream, eventStreamHeaders } from '../../kernel/http/event-stream.ts'
import { lastEventId } from '../../kernel/http/last-event.ts'
import { createRoute } from '../../kernel/http/route.ts'
import { sendStream } from '../../kernel/http/stream.ts'
import { agentIdParamSchema } from '../schema.ts'
import {
  approveTokensSchema,
  followTokenRequestsQuerySchema,
  refuseTokensSchema,
  requestTokensSchema,
  tokenRequestKeySchema,
  tokenRequestListQuerySchema,
  tokenRequestListSchema,
  tokenRequestParamsSchema,
  tokenRequestSchema,
} from './schema.ts'
import type { TokenRequests } from './service.ts'
import type { Suspension } from './suspension.ts'

const tags = ['token requests']
const ofDatabase: readonly ErrorCode[] = ['database_busy', 'database_unavailable', 'database_failed']
const ofKnown: readonly ErrorCode[] = [...ofDatabase, 'token_request_not_found']
const ofDeciding: readonly ErrorCode[] = [
  ...ofKnown,
  'forbidden',
  'token_request_decided',
  'token_request_expired',
  'approval_own_request',
  'approval_second_factor_required',
  'approval_decided',
  'approval_limit_reached',
]
const params = tokenRequestParamsSchema
const body = <Schema>(schema: Schema) => ({ content: { 'application/json': { schema } }, required: true }) as const

const askRoute = createRoute({
  method: 'post',
  path: '/v1/agents/{id}/token-requests',
  operationId: 'requestTokens',
  needs: { right: 'request', resource: 'agent' },
  tags,
  refuses: [
    ...ofDatabase,
    'amount_invalid',
    'agent_not_found',
    'agent_archived',
    'token_request_pending',
    'token_request_limit_reached',
    'idempotency_conflict',
  ],
  summary: 'Ask for tokens',
  description:
    'By the agent itself, or for it by who may change it. The nearest main agent above decides first; a person does where there is none, it can not, or it has not within five minutes. An agent waits for one request at a time: the same again is the same.',
  request: { params: agentIdParamSchema, headers: tokenRequestKeySchema, body: body(requestTokensSchema) },
  responses: {
    201: json('The request', tokenRequestSchema),
    200: json('The request, which was made before', tokenRequestSchema),
  },
})

const listRoute = createRoute({
  method: 'get',
  path: '/v1/token-requests',
  operationId: 'listTokenRequests',
  needs: 'nothing',
  tags,
  refuses: ofDatabase,
  summary: 'List requests for tokens, newest first',
  description: 'Agents see their own and those of agents below them. Kept for 90 days.',
  request: { query: tokenRequestListQuerySchema },
  responses: { 200: json('A page of them', tokenRequestListSchema) },
})

const eventsRoute = createRoute({
  method: 'get',
  path: '/v1/token-requests/events',
  operationId: 'followTokenRequests',
  needs: 'nothing',
  tags,
  refuses: [...ofDatabase, 'too_many_requests'],
  summary: 'Follow requests for tokens as they change',
  description:
    'Events named `token_request`, each with the request as it stands. It begins with all that are not over; with `Last-Event-ID`, or `from`, with what changed since, the last change of each.',
  request: { query: followTokenRequestsQuerySchema },
  responses: { 200: { description: 'Events', content: { 'text/event-stream': { schema: z.string() } } } },
})

const getRoute = createRoute({
  method: 'get',
  path: '/v1/token-requests/{id}',
  operationId: 'getTokenRequest',
  needs: 'nothing',
  tags,
  refuses: ofKnown,
  summary: 'Look at a request for tokens',
  request: { params },
  responses: { 200: json('The request', tokenRequestSchema) },
})

const approveRoute = createRoute({
  method: 'post',
  path: '/v1/token-requests/{id}/approve',
  operationId: 'approveTokenRequest',
  needs: 'nothing',
  tags,
  refuses: [
    ...ofDeciding,
    'amount_invalid',
    'token_request_changed',
    'approval_requester_gone',
    'approval_action_changed',
  ],
  summary: 'Say yes to a request for tokens',
  description:
    'A main agent above the one that asks, with the right `allocate`: up to its limits the tokens move at once from its own balance, else a person is asked to confirm. Or a person in a session, or a key with `approve:tokens`, also in place of the main agent: then they move at once, or the answer says `failed` and why. Never one’s own request.',
  request: { params, body: body(approveTokensSchema) },
  responses: { 200: json('The request', tokenRequestSchema) },
})

const refuseRoute = createRoute({
  method: 'post',
  path: '/v1/token-requests/{id}/refuse',
  operationId: 'refuseTokenRequest',
  needs: 'nothing',
  tags,
  refuses: ofDeciding,
  summary: 'Refuse a request for tokens',
  request: { params, body: body(refuseTokensSchema) },
  responses: { 200: json('The request', tokenRequestSchema) },
})

const cancelRoute = createRoute({
  method: 'post',
  path: '/v1/token-requests/{id}/cancel',
  operationId: 'cancelTokenRequest',
  needs: 'nothing',
  tags,
  refuses: [...ofKnown, 'token_request_decided', 'forbidden'],
  summary: 'Take back what you asked for',
  request: { params },
  responses: { 200: json('The request', tokenRequestSchema) },
})

export interface TokenRequestsFeatureDeps {
  tokenRequests: TokenRequests
  suspension: Pick<Suspension, 'stop'>
}

export function tokenRequestsFeature({ tokenRequests, suspension }: TokenRequestsFeatureDeps): Feature {
  return {
    name: 'token-requests',
    routes: (api) => addTokenRequestRoutes(api, tokenRequests),
    async stop() {
      await suspension.stop()
      await tokenRequests.stop()
    },
  }
}

function addTokenRequestRoutes(api: Api, requests: TokenRequests): void {
  const callerOf = (c: ApiContext) => knownCallerOf(c.var.caller)
  api.openapi(askRoute, async (c) => {
    const idempotencyKey = c.req.valid('header')['idempotency-key']
    const wish = c.req.valid('json')
    const { request, made } = await requests.ask(c.req.valid('param').id, wish, callerOf(c), { idempotencyKey })
    return made ? answerMade(c, request, 201) : c.json(request, 200)
  })
  api.openapi(listRoute, async (c) => c.json(await requests.list(c.req.valid('query'), callerOf(c)), 200))
  // Before the route whose `{id}` would take its path.
  api.openapi(eventsRoute, async (c) => {
    const { events, leave } = await requests.follow(callerOf(c), c.req.valid('query').from ?? lastEventId(c))
    c.set('endless', true)
    // Who asks for the header alone, or has gone, reads none.
    if (c.req.method === 'HEAD' || c.env?.outgoing?.destroyed) leave()
    return sendStream(c, eventStream(events, leave), { headers: eventStreamHeaders })
  })
  api.openapi(getRoute, async (c) => c.json(await requests.get(c.req.valid('param').id, callerOf(c)), 200))
  api.openapi(approveRoute, async (c) => {
    const { tokens } = c.req.valid('json')
    return c.json(await requests.approve(c.req.valid('param').id, tokens, callerOf(c)), 200)
  })
  api.openapi(refuseRoute, async (c) => {
    const { reason } = c.req.valid('json')
    return c.json(await requests.refuse(c.req.valid('param').id, reason, callerOf(c)), 200)
  })
  api.openapi(cancelRoute, async (c) => c.json(await requests.cancel(c.req.valid('param').id, callerOf(c)), 200))
}
