import { z } from '@hono/zod-openapi'
import { knownCallerOf } from '../access/callers/door.ts'
import type { Api, ApiContext, Feature } from '../kernel/http/api.ts'
import { json } from '../kernel/http/document.ts'
import { eventStream, eventStreamHeaders } from '../kernel/http/event-stream.ts'
import { lastEventId } from '../kernel/http/last-event.ts'
import { createRoute } from '../kernel/http/route.ts'
import { sendStream } from '../kernel/http/stream.ts'
import {
  approvalListQuerySchema,
  approvalListSchema,
  approvalParamsSchema,
  approvalSchema,
  approveSchema,
  followQuerySchema,
  refuseSchema,
} from './schema.ts'
import type { Approvals } from './service.ts'

const tags = ['approvals']
const ofDatabase = ['database_busy', 'database_unavailable', 'database_failed'] as const
const ofDeciding = [
  ...ofDatabase,
  'approval_not_found',
  'approval_decided',
  'approval_expired',
  'approval_own_request',
  'approval_second_factor_required',
] as const
const params = approvalParamsSchema
const body = <Schema>(schema: Schema) => ({ content: { 'application/json': { schema } }, required: true }) as const

const listRoute = createRoute({
  method: 'get',
  path: '/v1/approvals',
  operationId: 'listApprovals',
  needs: 'nothing',
  tags,
  refuses: ofDatabase,
  summary: 'List what waits for a person, or did, newest first',
  description: 'Your own requests and those of your keys, and all that you may decide on. Kept for 90 days.',
  request: { query: approvalListQuerySchema },
  responses: { 200: json('A page of them', approvalListSchema) },
})

const eventsRoute = createRoute({
  method: 'get',
  path: '/v1/approvals/events',
  operationId: 'followApprovals',
  needs: 'nothing',
  tags,
  refuses: [...ofDatabase, 'too_many_requests'],
  summary: 'Follow approvals as they change',
  description:
    'Events named `approval`, each with the approval as it stands. It begins with all that are pending or being done; with `Last-Event-ID`, or `from`, with what changed since, the last change of each.',
  request: { query: followQuerySchema },
  responses: { 200: { description: 'Events', content: { 'text/event-stream': { schema: z.string() } } } },
})

const getRoute = createRoute({
  method: 'get',
  path: '/v1/approvals/{id}',
  operationId: 'getApproval',
  needs: 'nothing',
  tags,
  refuses: [...ofDatabase, 'approval_not_found'],
  summary: 'What exactly will happen, in words and as data',
  request: { params },
  responses: { 200: json('The approval', approvalSchema) },
})

const approveRoute = createRoute({
  method: 'post',
  path: '/v1/approvals/{id}/approve',
  operationId: 'approve',
  needs: 'approve',
  tags,
  refuses: [...ofDeciding, 'approval_action_changed', 'approval_requester_gone'],
  summary: 'Approve it, which does it',
  description:
    'In a session, or with a key that has `approve:<kind>`; never one’s own request. It is done at once and once, against the state at that moment: the answer says `executed`, or `failed` and why.',
  request: { params, body: body(approveSchema) },
  responses: { 200: json('The approval', approvalSchema) },
})

const refuseRoute = createRoute({
  method: 'post',
  path: '/v1/approvals/{id}/refuse',
  operationId: 'refuse',
  needs: 'approve',
  tags,
  refuses: ofDeciding,
  summary: 'Refuse it',
  request: { params, body: body(refuseSchema) },
  responses: { 200: json('The approval', approvalSchema) },
})

const cancelRoute = createRoute({
  method: 'post',
  path: '/v1/approvals/{id}/cancel',
  operationId: 'cancelApproval',
  needs: 'nothing',
  tags,
  refuses: [...ofDatabase, 'approval_not_found', 'approval_decided', 'forbidden'],
  summary: 'Take back what you asked for',
  request: { params },
  responses: { 200: json('The approval', approvalSchema) },
})

export function approvalsFeature({ approvals }: { approvals: Approvals }): Feature {
  return { name: 'approvals', routes: (api) => addApprovalRoutes(api, approvals), stop: () => approvals.stop() }
}

function addApprovalRoutes(api: Api, approvals: Approvals): void {
  const callerOf = (c: ApiContext) => knownCallerOf(c.var.caller)
  api.openapi(listRoute, async (c) => c.json(await approvals.list(c.req.valid('query'), callerOf(c)), 200))
  // Before the route whose `{id}` would take its path.
  api.openapi(eventsRoute, async (c) => {
    const { events, leave } = await approvals.follow(callerOf(c), c.req.valid('query').from ?? lastEventId(c))
    c.set('endless', true)
    // Who asks for the header alone, or has gone, reads none.
    if (c.req.method === 'HEAD' || c.env?.outgoing?.destroyed) leave()
    return sendStream(c, eventStream(events, leave), { headers: eventStreamHeaders })
  })
  api.openapi(getRoute, async (c) => c.json(await approvals.get(c.req.valid('param').id, callerOf(c)), 200))
  api.openapi(approveRoute, async (c) => {
    const { actionHash } = c.req.valid('json')
    return c.json(await approvals.approve(c.req.valid('param').id, actionHash, callerOf(c)), 200)
  })
  api.openapi(refuseRoute, async (c) => {
    const { reason } = c.req.valid('json')
    return c.json(await approvals.refuse(c.req.valid('param').id, reason, callerOf(c)), 200)
  })
  api.openapi(cancelRoute, async (c) => c.json(await approvals.cancel(c.req.valid('param').id, callerOf(c)), 200))
}
