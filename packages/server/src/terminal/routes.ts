import { z } from '@hono/zod-openapi'
import { DeltaError } from '../kernel/errors.ts'
import type { Api, ApiContext, Feature } from '../kernel/http/api.ts'
import { json } from '../kernel/http/document.ts'
import { createRoute } from '../kernel/http/route.ts'
import { idempotencyHeader } from '../kernel/http/request-shapes.ts'
import { ofGuest, sandboxIdParamSchema } from '../sandboxes/schema.ts'
import type { Connections } from './connections.ts'
import {
  connectQuerySchema,
  createTerminalSchema,
  terminalListSchema,
  terminalLimits,
  terminalSchema,
  terminalSizeSchema,
} from './schema.ts'
import type { Terminals } from './service.ts'

const tags = ['terminals']
const ofTerminal = [...ofGuest, 'exec_not_found', 'exec_not_running'] as const
const params = sandboxIdParamSchema.extend({
  terminalId: z
    .string()
    .max(64)
    .openapi({ param: { name: 'terminalId', in: 'path' }, example: 'exe_p2m8c1d0z4q7v9k3x5b6' }),
})
const repeatable = idempotencyHeader('The same key and body answer with the same terminal, as long as the sandbox runs')

const createRouteOf = createRoute({
  method: 'post',
  path: '/v1/sandboxes/{id}/terminals',
  operationId: 'createTerminal',
  needs: { right: 'write:exec', resource: 'sandbox' },
  tags,
  refuses: [
    ...ofGuest,
    'sandbox_env_unreadable',
    'exec_start_failed',
    'exec_limit_reached',
    'user_not_found',
    'idempotency_conflict',
  ],
  summary: 'Open a terminal',
  description: `Starts a login shell, or \`cmd\`, on a terminal and answers at once. It runs until it ends or is deleted, whoever watches. A sandbox has at most ${terminalLimits.perSandbox}.`,
  request: {
    params: sandboxIdParamSchema,
    headers: repeatable,
    body: { required: true, content: { 'application/json': { schema: createTerminalSchema } } },
  },
  responses: { 201: json('It runs', terminalSchema) },
})

const listRoute = createRoute({
  method: 'get',
  path: '/v1/sandboxes/{id}/terminals',
  operationId: 'listTerminals',
  needs: { right: 'read:exec', resource: 'sandbox' },
  tags,
  refuses: ofGuest,
  summary: 'Terminals that run, and those that ended within the hour',
  request: { params: sandboxIdParamSchema },
  responses: { 200: json('Newest first', terminalListSchema) },
})

const resizeRoute = createRoute({
  method: 'patch',
  path: '/v1/sandboxes/{id}/terminals/{terminalId}',
  operationId: 'resizeTerminal',
  needs: { right: 'write:exec', resource: 'sandbox' },
  tags,
  refuses: ofTerminal,
  summary: 'Change the size of a terminal',
  request: { params, body: { required: true, content: { 'application/json': { schema: terminalSizeSchema } } } },
  responses: { 200: json('The terminal', terminalSchema) },
})

const endRoute = createRoute({
  method: 'delete',
  path: '/v1/sandboxes/{id}/terminals/{terminalId}',
  operationId: 'endTerminal',
  needs: { right: 'write:exec', resource: 'sandbox' },
  tags,
  refuses: ofTerminal,
  summary: 'End a terminal',
  description: `Everything in its session gets SIGHUP, and SIGKILL ${terminalLimits.killAfterMs / 1000} s later. One that has ended is no error.`,
  request: { params },
  responses: { 204: { description: 'It has ended' } },
})

const connectRoute = createRoute({
  method: 'get',
  path: '/v1/sandboxes/{id}/terminals/{terminalId}/connect',
  operationId: 'connectTerminal',
  needs: { right: 'read:exec', resource: 'sandbox' },
  tags,
  refuses: [...ofTerminal, 'websocket_required', 'origin_not_allowed'],
  summary: 'Watch a terminal and type into it (WebSocket)',
  description:
    'Binary frames are bytes, both ways. Text frames are JSON: to the server `{"type":"resize","cols","rows"}`, `{"type":"taken","offset"}` (with `ahead`) and `{"type":"ping"}`; from it `ready` (terminalId, pid, offset of the first byte, end of what is replayed, cols, rows, readOnly), `gap` (bytes, offset), `resized` (cols, rows; to the other viewers), `exit` (state, exitCode, signal, timedOut, oomKilled, offset), `error` (the error of the REST API) and `pong`. ' +
    'Close codes: 1000 the terminal ended, 1001 the server stops, 1007 a text frame that is no JSON, 1009 a frame too large, 1011 the server or the sandbox failed, 4401 credentials expired or revoked, 4408 the viewer does not read, otherwise 4000 + the status of the error. ' +
    'The key, or an access token of the scope `terminal`, goes in the Authorization header or as one of the offered protocols: `delta.terminal.v1` and `delta.bearer.<base64url of it>`; a token also as `?token=`.',
  request: { params, query: connectQuerySchema },
  responses: { 101: { description: 'Switching to the WebSocket protocol' } },
})

function addTerminalRoutes(api: Api, terminals: Terminals): void {
  api.openapi(createRouteOf, async (c) => {
    const key = c.req.valid('header')['idempotency-key']
    const { id } = c.req.valid('param')
    return c.json(await terminals.create(id, c.var.caller, c.req.valid('json'), { key }), 201)
  })
  api.openapi(listRoute, async (c) => {
    const data = await terminals.list(c.req.valid('param').id, c.var.caller)
    return c.json({ data, nextCursor: null }, 200)
  })
  api.openapi(resizeRoute, async (c) => {
    const { id, terminalId } = c.req.valid('param')
    return c.json(await terminals.resize(id, c.var.caller, terminalId, c.req.valid('json')), 200)
  })
  api.openapi(endRoute, async (c) => {
    const { id, terminalId } = c.req.valid('param')
    await terminals.end(id, c.var.caller, terminalId)
    return c.body(null, 204)
  })
  // Only who forgot to ask for a WebSocket arrives here.
  api.openapi(connectRoute, (c: ApiContext) => {
    throw new DeltaError('websocket_required', `${c.req.path} is a WebSocket`)
  })
}

export function terminalsFeature(terminals: Terminals, connections: Connections): Feature {
  return {
    name: 'terminals',
    routes: (api) => addTerminalRoutes(api, terminals),
    front: connections.front,
    metrics(metrics) {
      metrics.gauge('delta_terminal_viewers', 'Connections that watch a terminal', () => connections.count)
      metrics.gauge('delta_terminals_watched', 'Terminals somebody watches', () => terminals.counts().watched)
    },
    stop: connections.stop,
  }
}
