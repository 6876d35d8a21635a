import { z } from '@hono/zod-openapi'
import { knownCallerOf } from '../../access/callers/door.ts'
import { approvalSchema } from '../../approvals/schema.ts'
import type { Approvals } from '../../approvals/service.ts'
import type { Api, Feature } from '../../kernel/http/api.ts'
import { answerMade, json } from '../../kernel/http/document.ts'
import { createRoute } from '../../kernel/http/route.ts'
import { ofKnown } from '../refusal-codes.ts'
import { pageQuery } from '../../kernel/http/request-shapes.ts'
import { sandboxIdParamSchema } from '../schema.ts'
import type { Sandboxes } from '../service.ts'
import { checkReachOf } from './reach.ts'
import { askForHost } from './requests.ts'
import {
  allowSchema,
  egressListSchema,
  egressPageLimit,
  networkSchema,
  requestEgressSchema,
  setNetworkSchema,
} from './schema.ts'
import type { Egress } from './service.ts'

const tags = ['network']
const params = sandboxIdParamSchema
const networkAnswer = {
  200: json('The network', networkSchema),
}

const ofSetting = [...ofKnown, 'sandbox_state_conflict', 'too_many_requests'] as const

const getRoute = createRoute({
  method: 'get',
  path: '/v1/sandboxes/{id}/network',
  operationId: 'getNetwork',
  needs: { right: 'read:sandboxes', resource: 'sandbox' },
  tags,
  summary: 'What a sandbox may connect to',
  request: { params },
  responses: networkAnswer,
  refuses: ofKnown,
})

const setRoute = createRoute({
  method: 'put',
  path: '/v1/sandboxes/{id}/network',
  operationId: 'setNetwork',
  needs: { right: 'write:sandboxes', resource: 'sandbox' },
  tags,
  summary: 'Change what a sandbox may connect to',
  description: 'At once: open connections that the new policy refuses are cut. Also on paused and stopped sandboxes.',
  request: { params, body: { required: true, content: { 'application/json': { schema: setNetworkSchema } } } },
  responses: networkAnswer,
  refuses: ofSetting,
})

const allowRoute = createRoute({
  method: 'post',
  path: '/v1/sandboxes/{id}/network/allow',
  operationId: 'allowEgress',
  needs: { right: 'write:sandboxes', resource: 'sandbox' },
  tags,
  summary: 'Let a sandbox connect to more hosts',
  description: 'Adds to what it may connect to already.',
  request: { params, body: { required: true, content: { 'application/json': { schema: allowSchema } } } },
  responses: networkAnswer,
  refuses: ofSetting,
})

const requestRoute = createRoute({
  method: 'post',
  path: '/v1/sandboxes/{id}/network/requests',
  operationId: 'requestEgress',
  needs: { right: 'request', resource: 'sandbox' },
  tags,
  summary: 'Ask a person to let a sandbox connect to a host',
  description:
    'Whoever may approve it decides; then the host is added to what the sandbox may connect to. Asking for the same again, while nobody has decided, answers with what waits already.',
  request: { params, body: { required: true, content: { 'application/json': { schema: requestEgressSchema } } } },
  responses: {
    201: json('It waits for a person', approvalSchema),
    200: json('You have asked for it already', approvalSchema),
  },
  refuses: [...ofKnown, 'sandbox_state_conflict', 'egress_allowed_already', 'approval_limit_reached'],
})

const listRoute = createRoute({
  method: 'get',
  path: '/v1/sandboxes/{id}/egress',
  operationId: 'listEgress',
  needs: { right: 'read:sandboxes', resource: 'sandbox' },
  tags,
  summary: 'Connections of a sandbox to the outside that have ended, newest first',
  description: 'Kept for seven days, about 10,000 for each sandbox; refused ones too.',
  request: { params, query: z.object(pageQuery(egressPageLimit)) },
  responses: { 200: json('A page of them', egressListSchema) },
  refuses: ofKnown,
})

interface EgressRouteDeps {
  sandboxes: Pick<Sandboxes, 'get' | 'getNetwork' | 'setNetwork' | 'allowEgress'>
  egress: Egress
  approvals: Pick<Approvals, 'ask'>
}

export function addEgressRoutes(api: Api, { sandboxes, egress, approvals }: EgressRouteDeps): void {
  api.openapi(getRoute, async (c) => c.json(await sandboxes.getNetwork(c.req.valid('param').id, c.var.caller), 200))
  api.openapi(setRoute, async (c) =>
    c.json(
      await sandboxes.setNetwork(
        c.req.valid('param').id,
        c.req.valid('json'),
        c.var.caller,
        checkReachOf(c.var.caller),
      ),
      200,
    ),
  )
  api.openapi(allowRoute, async (c) =>
    c.json(
      await sandboxes.allowEgress(
        c.req.valid('param').id,
        c.req.valid('json'),
        c.var.caller,
        checkReachOf(c.var.caller),
      ),
      200,
    ),
  )
  api.openapi(requestRoute, async (c) => {
    const caller = knownCallerOf(c.var.caller)
    const deps = { sandboxes, approvals }
    const { approval, made } = await askForHost(c.req.valid('param').id, c.req.valid('json'), caller, deps)
    return made ? answerMade(c, approval, 201) : c.json(approval, 200)
  })
  api.openapi(listRoute, async (c) => {
    const { id } = c.req.valid('param')
    const page = await egress.list(id, c.var.caller.accountId, c.req.valid('query'))
    // The log outlives its sandbox. Where there is nothing, the sandbox must at least exist.
    if (page.data.length === 0) await sandboxes.get(id, c.var.caller)
    return c.json(page, 200)
  })
}

export function egressFeature(deps: EgressRouteDeps): Feature {
  const { egress } = deps
  return {
    name: 'egress',
    routes: (api) => addEgressRoutes(api, deps),
    metrics(metrics) {
      const ends = metrics.counter(
        'delta_egress_connections_total',
        'Connections to the outside that ended, by outcome',
      )
      const bytes = metrics.counter(
        'delta_egress_bytes_total',
        'Bytes of connections that ended, by outcome and direction',
      )
      egress.events.on('egress.ended', ({ outcome, bytesUp, bytesDown }) => {
        ends.add({ outcome })
        if (bytesUp > 0) bytes.add({ outcome, direction: 'up' }, bytesUp)
        if (bytesDown > 0) bytes.add({ outcome, direction: 'down' }, bytesDown)
      })
      metrics.gauge('delta_egress_connections_open', 'Connections to the outside that are open', egress.open)
      metrics.counterFrom('delta_egress_rows_lost_total', 'Log rows the database did not take in time', egress.lostRows)
    },
    health: () => ({ open: egress.open() }),
    stop: egress.stop,
  }
}
