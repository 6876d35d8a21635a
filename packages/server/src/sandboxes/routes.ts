import { DeltaError } from '../kernel/errors.ts'
import type { Api, ApiContext, Feature } from '../kernel/http/api.ts'
import { answerMade, json } from '../kernel/http/document.ts'
import { createRoute } from '../kernel/http/route.ts'
import {
  createSandboxSchema,
  idempotencyHeaderSchema,
  listQuerySchema,
  logsQuerySchema,
  patchSandboxSchema,
  rollbackSandboxSchema,
  sandboxIdParamSchema,
  sandboxLimits,
  sandboxListSchema,
  sandboxLogsSchema,
  sandboxMetricsSchema,
  sandboxSchema,
} from './schema.ts'
import { checkReachOf } from './egress/reach.ts'
import { database, ofChange, ofKnown, ofStart, unpaid } from './refusal-codes.ts'
import type { Sandboxes } from './service.ts'

const tags = ['sandboxes']
const params = sandboxIdParamSchema

const createRouteOf = createRoute({
  method: 'post',
  path: '/v1/sandboxes',
  operationId: 'createSandbox',
  needs: { right: 'write:sandboxes', resource: 'sandbox' },
  tags,
  refuses: [
    ...ofStart,
    'snapshot_not_found',
    'template_build_failed',
    'idempotency_conflict',
    'idempotency_in_progress',
  ],
  summary: 'Make a sandbox, or join the one that runs on its workspace',
  request: {
    headers: idempotencyHeaderSchema,
    body: { content: { 'application/json': { schema: createSandboxSchema } } },
  },
  responses: {
    200: json('It ran already: the one that holds the workspace', sandboxSchema),
    201: json('It runs', sandboxSchema),
  },
})

const listRoute = createRoute({
  method: 'get',
  path: '/v1/sandboxes',
  operationId: 'listSandboxes',
  needs: { right: 'read:sandboxes', resource: 'sandbox' },
  tags,
  refuses: database,
  summary: 'List sandboxes, newest first',
  description:
    'Filter by labels with `metadata.<key>=<value>`, several of them together. Killed ones are listed for 24 hours.',
  request: { query: listQuerySchema },
  responses: { 200: json('A page of sandboxes', sandboxListSchema) },
})

const getRoute = createRoute({
  method: 'get',
  path: '/v1/sandboxes/{id}',
  operationId: 'getSandbox',
  needs: { right: 'read:sandboxes', resource: 'sandbox' },
  tags,
  refuses: ofKnown,
  summary: 'Look at a sandbox',
  request: { params },
  responses: { 200: json('The sandbox', sandboxSchema) },
})

const patchRoute = createRoute({
  method: 'patch',
  path: '/v1/sandboxes/{id}',
  operationId: 'patchSandbox',
  needs: { right: 'write:sandboxes', resource: 'sandbox' },
  tags,
  refuses: [...ofKnown, 'sandbox_state_conflict', 'too_many_requests'],
  summary: 'Give a sandbox more time, or other labels',
  request: { params, body: { content: { 'application/json': { schema: patchSandboxSchema } }, required: true } },
  responses: { 200: json('The sandbox', sandboxSchema) },
})

const killRoute = createRoute({
  method: 'delete',
  path: '/v1/sandboxes/{id}',
  operationId: 'killSandbox',
  needs: { right: 'write:sandboxes', resource: 'sandbox' },
  tags,
  refuses: ofChange,
  summary: 'Kill a sandbox and remove its disk',
  request: { params },
  responses: { 204: { description: 'Nothing of it is left, or was before' } },
})

const metricsRoute = createRoute({
  method: 'get',
  path: '/v1/sandboxes/{id}/metrics',
  operationId: 'getSandboxMetrics',
  needs: { right: 'read:sandboxes', resource: 'sandbox' },
  tags,
  refuses: ofChange,
  summary: 'What a sandbox uses',
  request: { params },
  responses: { 200: json('Measured now', sandboxMetricsSchema) },
})

const logsRoute = createRoute({
  method: 'get',
  path: '/v1/sandboxes/{id}/logs',
  operationId: 'getSandboxLogs',
  needs: { right: 'read:sandboxes', resource: 'sandbox' },
  tags,
  refuses: ofKnown,
  summary: 'What happened to a sandbox, oldest first',
  request: { params, query: logsQuerySchema },
  responses: { 200: json('A page of transitions', sandboxLogsSchema) },
})

function actionRoute(action: 'pause' | 'resume' | 'stop' | 'start', summary: string) {
  return createRoute({
    method: 'post',
    path: `/v1/sandboxes/{id}/${action}`,
    operationId: `${action}Sandbox`,
    needs: { right: 'write:sandboxes', resource: 'sandbox' },
    tags,
    refuses: action === 'start' ? ofStart : action === 'resume' ? [...ofChange, ...unpaid] : ofChange,
    summary,
    request: { params },
    responses: { 200: json('The sandbox as it is now', sandboxSchema) },
  })
}

const pauseRoute = actionRoute('pause', 'Freeze a sandbox; its memory is kept')
const resumeRoute = actionRoute('resume', 'Let a paused sandbox go on')
const stopRoute = actionRoute('stop', 'End all processes of a sandbox; its disk is kept')
const startRoute = actionRoute('start', 'Start a stopped sandbox on its disk')

const rollbackRoute = createRoute({
  method: 'post',
  path: '/v1/sandboxes/{id}/rollback',
  operationId: 'rollbackSandbox',
  needs: { right: 'write:sandboxes', resource: 'sandbox' },
  tags,
  refuses: [...ofStart, 'snapshot_not_found'],
  summary: 'Stop a sandbox, bring its workspace back to a snapshot, and start it again',
  description: 'What changed since the last snapshot becomes one first, unless the workspace has `autoSnapshot` off.',
  request: { params, body: { content: { 'application/json': { schema: rollbackSandboxSchema } }, required: true } },
  responses: { 200: json('The sandbox as it is now', sandboxSchema) },
})

export function addSandboxRoutes(api: Api, sandboxes: Sandboxes): void {
  api.openapi(createRouteOf, async (c) => {
    const idempotencyKey = c.req.valid('header')['idempotency-key']
    const wish = c.req.valid('json')
    checkReachOf(c.var.caller)(wish.network.egress, 'none')
    const { sandbox, joined } = await sandboxes.createOrJoin(wish, c.var.caller, { idempotencyKey })
    return joined ? c.json(sandbox, 200) : answerMade(c, sandbox, 201)
  })
  api.openapi(listRoute, async (c) => {
    const { state, agentId, limit, cursor } = c.req.valid('query')
    const filter = { states: state, agentId, metadata: metadataOf(c), limit, cursor }
    return c.json(await sandboxes.list(c.var.caller, filter), 200)
  })
  api.openapi(getRoute, async (c) => c.json(await sandboxes.get(c.req.valid('param').id, c.var.caller), 200))
  api.openapi(patchRoute, async (c) =>
    c.json(await sandboxes.patch(c.req.valid('param').id, c.req.valid('json'), c.var.caller), 200),
  )
  api.openapi(killRoute, async (c) => {
    await sandboxes.kill(c.req.valid('param').id, c.var.caller)
    return c.body(null, 204)
  })
  api.openapi(pauseRoute, async (c) => c.json(await sandboxes.pause(c.req.valid('param').id, c.var.caller), 200))
  api.openapi(resumeRoute, async (c) => c.json(await sandboxes.resume(c.req.valid('param').id, c.var.caller), 200))
  api.openapi(stopRoute, async (c) => c.json(await sandboxes.stopSandbox(c.req.valid('param').id, c.var.caller), 200))
  api.openapi(startRoute, async (c) => c.json(await sandboxes.startSandbox(c.req.valid('param').id, c.var.caller), 200))
  api.openapi(rollbackRoute, async (c) => {
    const { snapshotId } = c.req.valid('json')
    return c.json(await sandboxes.rollback(c.req.valid('param').id, snapshotId, c.var.caller), 200)
  })
  api.openapi(metricsRoute, async (c) => c.json(await sandboxes.metrics(c.req.valid('param').id, c.var.caller), 200))
  api.openapi(logsRoute, async (c) =>
    c.json(await sandboxes.logs(c.req.valid('param').id, c.var.caller, c.req.valid('query')), 200),
  )
}

const madeBuckets = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10]

export function sandboxesFeature(sandboxes: Sandboxes): Feature {
  return {
    name: 'sandboxes',
    routes: (api) => addSandboxRoutes(api, sandboxes),
    metrics(metrics) {
      metrics.gauge('delta_sandboxes', 'Sandboxes this server holds a box for or works on, by state', () =>
        Object.entries(sandboxes.counts()).map(([state, value]) => ({ labels: { state }, value })),
      )
      const changes = metrics.counter('delta_sandbox_changes_total', 'Changes of state, by what they led to and why')
      sandboxes.events.on('sandbox.changed', ({ to, reason }) => changes.add({ to, reason }))
      metrics.gauge('delta_warm_boxes', 'Boxes kept ready, and being made for that', () => {
        const { ready, making } = sandboxes.poolCounts()
        return Object.entries({ ready, making }).map(([state, value]) => ({ labels: { state }, value }))
      })
      const asked = metrics.counter('delta_warm_asked_total', 'Creates, by whether a box was ready for them')
      sandboxes.events.on('warm.asked', ({ outcome }) => asked.add({ outcome }))
      const made = metrics.histogram('delta_warm_made_seconds', 'Time to make a box that is kept ready', madeBuckets)
      sandboxes.events.on('warm.made', ({ durationMs, ...kind }) => made.observe(durationMs / 1_000, kind))
      metrics.gauge('delta_sandboxes_waiting', 'Sandboxes waiting for their box to be made', sandboxes.waiting)
    },
    health: () => ({ states: sandboxes.counts(), pool: sandboxes.poolCounts() }),
    stop: sandboxes.stop,
  }
}

/** `metadata.<key>=<value>` for any key, which a fixed schema cannot name. */
function metadataOf(c: ApiContext): Record<string, string> {
  const wanted = Object.entries(c.req.queries()).filter(([name]) => name.startsWith('metadata.'))
  if (wanted.length > sandboxLimits.metadataEntries || wanted.some(([, values]) => values.length !== 1)) {
    throw new DeltaError('invalid_request', 'The request is not valid at query.metadata', {
      cause: `query.metadata: each key once, at most ${sandboxLimits.metadataEntries} of them`,
    })
  }
  return Object.fromEntries(wanted.map(([name, values]) => [name.slice('metadata.'.length), values[0]!]))
}
