import { z } from '@hono/zod-openapi'
import type { Api, Feature } from '../../kernel/http/api.ts'
import { errorResponse, json } from '../../kernel/http/document.ts'
import { createRoute } from '../../kernel/http/route.ts'
import type { Front } from '../../kernel/http/front.ts'
import { refusalsOf } from '../../kernel/http/refusals.ts'
import { ofGuest, ofKnown } from '../refusal-codes.ts'
import type { Gateway } from './gateway.ts'
import { sandboxIdParamSchema } from '../../access/schema.ts'
import { portPathParamSchema, portsSchema, putPortsSchema } from './schema.ts'
import type { PortsService } from './service.ts'

const tags = ['ports']
const path = '/v1/sandboxes/{id}/ports'
const responses = {
  200: json('As they are now', portsSchema),
}

/** A request through a port, beside what opening its sandbox meets. An answer of the server inside may have any status. */
const ofPort = [
  ...ofGuest,
  'request_timeout',
  'port_forbidden',
  'port_limit_reached',
  'port_not_listening',
  'port_bad_answer',
  'port_timed_out',
] as const

const listPortsRoute = createRoute({
  method: 'get',
  path,
  operationId: 'listPorts',
  needs: { right: 'read:sandboxes', resource: 'sandbox' },
  tags,
  summary: 'The ports of a sandbox: their addresses, which are public, and what listens',
  request: { params: sandboxIdParamSchema },
  responses,
  refuses: ofKnown,
})

const putPortsRoute = createRoute({
  method: 'put',
  path,
  operationId: 'putPorts',
  needs: { right: 'write:sandboxes', resource: 'sandbox' },
  tags,
  summary: 'Choose which ports are public',
  description:
    'A public port needs no access token at its own host name. What came in through a port that is public no longer ends.',
  request: {
    params: sandboxIdParamSchema,
    body: { content: { 'application/json': { schema: putPortsSchema } }, required: true },
  },
  responses,
  refuses: [...ofKnown, 'sandbox_state_conflict'],
})

export interface PortsFeatureDeps {
  ports: PortsService
  gateway: Gateway
  front: Front
}

export function portsFeature({ ports, gateway, front }: PortsFeatureDeps): Feature {
  return {
    name: 'ports',
    front,
    routes: (api) => addPortRoutes(api, ports),
    metrics(metrics) {
      metrics.gauge(
        'delta_port_requests_active',
        'Requests and WebSockets under way through ports',
        () => gateway.counts().open,
      )
      metrics.gauge(
        'delta_port_connections_idle',
        'Kept-alive connections to servers inside',
        () => gateway.counts().idle,
      )
      metrics.counterFrom(
        'delta_port_requests_total',
        'Requests and WebSockets let through ports',
        () => gateway.counts().served,
      )
    },
    stop: async () => gateway.stop(),
  }
}

export function addPortRoutes(api: Api, ports: PortsService): void {
  api.openapi(listPortsRoute, async (c) => c.json(await ports.list(c.req.valid('param').id, c.var.caller), 200))
  api.openapi(putPortsRoute, async (c) => {
    const { public: wanted } = c.req.valid('json')
    return c.json(await ports.put(c.req.valid('param').id, wanted, c.var.caller), 200)
  })
  // Served before the router, with any method; described as the one that is used most.
  const request = { params: portPathParamSchema }
  const portPath = `${path}/{port}/{path}`
  const needs = { right: 'write:exec', resource: 'sandbox' } as const
  api.openAPIRegistry.registerPath({
    method: 'get',
    path: portPath,
    operationId: 'requestPort',
    'x-needs': needs.right,
    tags,
    summary: 'A request to a server inside, with any method, or a WebSocket',
    description:
      'Goes to 127.0.0.1 or ::1 of the sandbox with its path, headers and body. The answer is the server’s own, without cookies and with a Content-Security-Policy that gives pages an origin of their own. A port’s own host name, see `url`, has neither limit.',
    request,
    responses: {
      ...refusalsOf({ method: 'get', path: portPath, request, needs, responses: {}, refuses: ofPort }),
      200: { description: 'Whatever the server inside answers', content: { '*/*': { schema: z.unknown() } } },
      default: errorResponse,
    },
  })
}
