import { z } from '@hono/zod-openapi'
import type { MiddlewareHandler } from 'hono'
import type { Authenticate } from './access/api-key.ts'
import type { Clock } from './kernel/clock.ts'
import { DeltaError } from './kernel/errors.ts'
import { createApi } from './kernel/http/api.ts'
import type { Api, ApiContext, ApiEnv, Caller, Feature } from './kernel/http/api.ts'
import { describeApi, errorResponse } from './kernel/http/document.ts'
import { answerError, answerNotFound } from './kernel/http/errors.ts'
import { createHostCheck } from './kernel/http/host-check.ts'
import { newId } from './kernel/ids.ts'
import { limits } from './kernel/limits.ts'
import type { Logger } from './kernel/log.ts'
import type { Metrics } from './kernel/metrics.ts'

export interface AppDeps {
  features: readonly Feature[]
  authenticate: Authenticate
  log: Logger
  clock: Clock
  metrics: Metrics
  /** What /health asks: resolves when the database answers. */
  checkDatabase: () => Promise<void>
  settings: AppSettings
}

export interface AppSettings {
  version: string
  host: string
  /** Further host names, see `Config.hosts`. */
  hosts: readonly string[]
  environment: 'development' | 'production'
  /** Facts of the installation shown in /health, such as the runtime. */
  installation: () => Record<string, unknown>
}

export interface App {
  api: Api
  /** From now on new requests are refused with `shutting_down`. */
  drain(): void
  /** Requests under way that end by themselves; event streams are not among them. */
  pending(): number
}

/** All that is common to requests: identity, refusal, log, metrics, errors and the description of the API. */
export function createApp(deps: AppDeps): App {
  const { features, metrics } = deps
  const api = createApi()
  const activity = createActivity(deps)
  api.use('*', activity.middleware)
  api.use('*', createGuard(deps))
  addHealth(api, deps, activity)
  addMetrics(api, metrics)
  api.get('/openapi.json', describeApi(api, deps.settings.version))
  for (const feature of features) {
    feature.routes?.(api)
    feature.metrics?.(metrics)
  }
  api.onError((error, c) => answerError(error, c as ApiContext, deps.log))
  api.notFound((c) => answerNotFound(c as ApiContext, api))
  return { api, drain: activity.drain, pending: activity.pending }
}

interface Activity {
  middleware: MiddlewareHandler<ApiEnv>
  draining(): boolean
  drain(): void
  pending(): number
}

const durationBuckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]

/** The outermost layer: sees every request's beginning and end. */
function createActivity({ log, clock, metrics }: AppDeps): Activity {
  const active = new Set<ApiContext>()
  let draining = false
  const durations = metrics.histogram(
    'delta_http_request_seconds',
    'Time from header to end of answer',
    durationBuckets,
  )
  metrics.gauge('delta_http_requests_active', 'Requests under way', () => active.size)
  const end = (c: ApiContext, startedMs: number) => {
    active.delete(c)
    const durationMs = clock.monotonic() - startedMs
    const { outgoing } = c.env ?? {}
    const status = outgoing?.headersSent ? outgoing.statusCode : c.res.status
    const route = c.get('route') ?? 'other'
    durations.observe(durationMs / 1000, { method: methodLabel(c.req.method), route, status: String(status) })
    const fields = {
      requestId: c.get('requestId'),
      method: c.req.method,
      path: c.req.path,
      status,
      durationMs: round(durationMs),
    }
    log[levelOf(status)]('request', fields)
  }
  return {
    async middleware(c, next) {
      const startedMs = clock.monotonic()
      c.set('requestId', requestIdOf(c))
      setHeader(c, 'X-Request-Id', c.get('requestId'))
      setHeader(c, 'X-Content-Type-Options', 'nosniff')
      setHeader(c, 'Cache-Control', 'no-store')
      active.add(c)
      try {
        if (draining) throw new DeltaError('shutting_down', 'The server is stopping')
        await next()
      } finally {
        end(c, startedMs)
      }
    },
    draining: () => draining,
    drain: () => {
      draining = true
    },
    pending: () => [...active].filter((c) => !c.get('endless')).length,
  }
}

/** Straight to Node's response where there is one: it also covers bodies that are streamed around Hono, and costs a tenth. */
function setHeader(c: ApiContext, name: string, value: string): void {
  const { outgoing } = c.env ?? {}
  if (outgoing) outgoing.setHeader(name, value)
  else c.header(name, value)
}

/** What went well is no news: an operator's terminal shows sandboxes, refusals and faults. */
function levelOf(status: number): 'debug' | 'info' | 'error' {
  if (status >= 500) return 'error'
  return status >= 400 ? 'info' : 'debug'
}

function requestIdOf(c: ApiContext): string {
  const given = c.req.header('x-request-id')
  const usable = given !== undefined && given.length <= limits.requestIdChars && /^[\w.-]+$/.test(given)
  return usable ? given : newId('req')
}

// A caller may send any word as its method.
const methods = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])
const methodLabel = (method: string) => (methods.has(method) ? method : 'other')

const round = (milliseconds: number) => Math.round(milliseconds * 1000) / 1000

/** Lets pass who may: by the name the server is addressed by, and under /v1 and /metrics by key. */
function createGuard({ settings, authenticate }: AppDeps): MiddlewareHandler<ApiEnv> {
  const goesBy = createHostCheck(settings)
  const isOpen = settings.environment === 'development'
  return async (c, next) => {
    const host = hostOf(c)
    if (host === undefined) {
      throw new DeltaError('invalid_request', 'The request has no Host header', { cause: 'header.Host: is missing' })
    }
    if (!goesBy(host)) throw new DeltaError('host_not_allowed', 'The server does not go by the name in the Host header')
    if (isOpen) {
      addCors(c)
      if (c.req.method === 'OPTIONS') return c.body(null, 204)
    }
    if (needsKey(c.req.path)) {
      const caller = authenticate({ authorization: c.req.header('authorization') })
      c.set('caller', known(caller instanceof Promise ? await caller : caller, c))
    }
    return next()
  }
}

function hostOf(c: ApiContext): string | undefined {
  return c.env?.incoming ? c.req.header('host') : new URL(c.req.url).host
}

function needsKey(path: string): boolean {
  return path.startsWith('/v1/') || path === '/v1' || path === '/metrics'
}

function known(caller: Caller | null, c: ApiContext): Caller {
  if (caller) return caller
  const given = c.req.header('authorization') !== undefined
  throw new DeltaError('unauthorized', given ? 'The API key is not valid' : 'The request has no API key')
}

function addCors(c: ApiContext): void {
  setHeader(c, 'Access-Control-Allow-Origin', '*')
  setHeader(c, 'Access-Control-Expose-Headers', 'X-Request-Id, ETag, Content-Range, Retry-After')
  if (c.req.method !== 'OPTIONS') return
  setHeader(c, 'Access-Control-Allow-Methods', 'GET, HEAD, POST, PUT, PATCH, DELETE')
  setHeader(c, 'Access-Control-Allow-Headers', c.req.header('access-control-request-headers') ?? '*')
}

function addMetrics(api: Api, metrics: Metrics): void {
  api.openAPIRegistry.registerPath({
    method: 'get',
    path: '/metrics',
    operationId: 'getMetrics',
    tags: ['operations'],
    summary: 'Figures of the server for Prometheus',
    responses: {
      200: { description: 'Text format 0.0.4', content: { 'text/plain': { schema: z.string() } } },
      default: errorResponse,
    },
  })
  api.get('/metrics', (c) => {
    c.set('route', '/metrics')
    return c.body(metrics.render(), 200, { 'Content-Type': 'text/plain; version=0.0.4; charset=utf-8' })
  })
}

export const healthSchema = z
  .object({ status: z.enum(['ok', 'stopping', 'failing']), version: z.string(), database: z.enum(['ok', 'failing']) })
  .catchall(z.unknown())
  .openapi('Health')

function addHealth(api: Api, { features, checkDatabase, clock, settings, log }: AppDeps, activity: Activity): void {
  const startedMs = clock.monotonic()
  api.openAPIRegistry.registerPath({
    method: 'get',
    path: '/health',
    operationId: 'getHealth',
    tags: ['operations'],
    summary: 'Whether the server can work',
    security: [],
    responses: {
      200: { description: 'It can', content: { 'application/json': { schema: healthSchema } } },
      503: {
        description: 'It can not, for the reason shown',
        content: { 'application/json': { schema: healthSchema } },
      },
    },
  })
  api.get('/health', async (c) => {
    c.set('route', '/health')
    const database = await databaseState(checkDatabase, log)
    const status = activity.draining() ? 'stopping' : database === 'ok' ? 'ok' : 'failing'
    const body: Record<string, unknown> = {
      status,
      version: settings.version,
      database,
      uptimeMs: Math.round(clock.monotonic() - startedMs),
      ...settings.installation(),
    }
    for (const { name, health } of features) if (health) body[name] = health()
    return c.json(body, status === 'ok' ? 200 : 503)
  })
}

async function databaseState(check: () => Promise<void>, log: Logger): Promise<'ok' | 'failing'> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('no answer in time')), limits.healthCheckMs)
  })
  try {
    await Promise.race([check(), late])
    return 'ok'
  } catch (error) {
    log.warn('health_database_failing', { error })
    return 'failing'
  } finally {
    clearTimeout(timer)
  }
}
