import { z } from '@hono/zod-openapi'
import type { MiddlewareHandler } from 'hono'
import type { CallerDoor, KnownCaller } from './access/door.ts'
import type { RateLimits } from './access/limits/rate-limits.ts'
import type { Clock } from './kernel/clock.ts'
import { DeltaError } from './kernel/errors.ts'
import { createApi } from './kernel/http/api.ts'
import type { Api, ApiContext, ApiEnv, Authorize, Caller, Feature } from './kernel/http/api.ts'
import { authorizationOf } from './kernel/http/authorization.ts'
import { describeApi, errorResponse } from './kernel/http/document.ts'
import { answerError, answerNotFound } from './kernel/http/errors.ts'
import { createClientAddress } from './kernel/http/client-address.ts'
import type { ClientAddress } from './kernel/http/client-address.ts'
import { createHostCheck } from './kernel/http/host-check.ts'
import { newId } from './kernel/ids.ts'
import { limits } from './kernel/limits.ts'
import type { Logger } from './kernel/log.ts'
import type { Metrics } from './kernel/metrics.ts'

export interface AppDeps {
  features: readonly Feature[]
  access: CallerDoor
  /** What a cookie stands for, where there is no Authorization header. @default no cookies */
  cookieAuthorization?: (c: ApiContext) => CookieAuthorization | undefined
  /** What a person in a browser is shown of an error; undefined: the same as a program. @default nobody is */
  refusalPage?: (c: ApiContext, error: DeltaError) => Response | undefined
  /** Hears of a request with somebody's key or session that was refused before it had a route. @default nobody */
  watchRefusals?: (c: ApiContext, caller: KnownCaller, error: DeltaError) => Promise<void>
  /** Refuses who sends too much. @default nobody */
  rateLimits?: Pick<RateLimits, 'count'>
  /** @default the other end of the connection */
  clientAddress?: ClientAddress
  log: Logger
  clock: Clock
  metrics: Metrics
  /** Sees every request under /v1, and the forms that links lead to, from before its work to before its answer leaves. */
  watchRequests?: MiddlewareHandler<ApiEnv>
  /** What /health asks: resolves when the database answers. */
  checkDatabase: () => Promise<void>
  settings: AppSettings
}

export interface CookieAuthorization {
  authorization: string
  /** Another page had it sent. */
  refusal: DeltaError | undefined
}

export interface AppSettings {
  version: string
  host: string
  /** Further host names, see `Config.hosts`. */
  hosts: readonly string[]
  environment: 'development' | 'production'
  /** Whose pages may call the API, also with cookies. @default none */
  corsOrigins?: readonly string[]
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
  const { features, metrics, access } = deps
  const authorize = createAuthorize(access)
  const api = createApi({ authorize })
  const activity = createActivity(deps)
  api.use('*', activity.middleware)
  api.use('*', createGuard(deps))
  if (deps.watchRequests) for (const path of ['/v1/*', '/auth/*']) api.use(path, deps.watchRequests)
  addHealth(api, deps, activity)
  addMetrics(api, metrics, authorize)
  api.get('/openapi.json', describeApi(api, deps.settings.version))
  for (const feature of features) {
    feature.routes?.(api)
    feature.metrics?.(metrics)
  }
  api.onError((error, c) => answerError(error, c as ApiContext, deps))
  api.notFound((c) => {
    if (needsCaller(c.req.path)) knownCaller(c as ApiContext)
    return answerNotFound(c as ApiContext, api)
  })
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

/** Lets pass by the name the server is addressed by, and finds out who calls. What they may is asked where the route is known. */
function createGuard({
  settings,
  access,
  cookieAuthorization,
  watchRefusals,
  rateLimits,
  clientAddress = createClientAddress([]),
}: AppDeps): MiddlewareHandler<ApiEnv> {
  const goesBy = createHostCheck(settings)

  /** It is written down for whose key or session it was. It counts by address: they should not lose their requests to a page that sends in their name. */
  async function refuse(c: ApiContext, authorization: string | undefined, error: DeltaError): Promise<never> {
    if (authorization !== undefined && watchRefusals && needsCaller(c.req.path)) {
      await rateLimits?.count({ caller: undefined, address: c.get('address') })
      const caller = await access.authenticate({ authorization })
      if (caller) await watchRefusals(c, caller, error)
    }
    throw error
  }

  return async (c, next) => {
    const host = hostOf(c)
    if (host === undefined) {
      throw new DeltaError('invalid_request', 'The request has no Host header', { cause: 'header.Host: is missing' })
    }
    const { incoming } = c.env ?? {}
    const address = clientAddress(incoming)
    if (address !== undefined) c.set('address', address)
    if (!goesBy(host)) {
      const error = new DeltaError('host_not_allowed', 'The server does not go by the name in the Host header')
      return refuse(c, c.req.header('authorization'), error)
    }
    const allowed = corsOf(c.req.header('origin'), settings)
    // What is answered differs by origin, for whatever keeps answers on the way.
    if (settings.corsOrigins?.length) setHeader(c, 'Vary', 'Origin')
    if (allowed) {
      addCors(c, allowed)
      if (c.req.method === 'OPTIONS') return c.body(null, 204)
    }
    const isCounted = rateLimits !== undefined && !uncounted.has(c.req.path)
    if (!needsCaller(c.req.path)) {
      if (isCounted) await rateLimits.count({ caller: undefined, address })
      return next()
    }
    const header = incoming ? authorizationOf(incoming) : c.req.header('authorization')
    const byCookie = header === undefined ? cookieAuthorization?.(c) : undefined
    const authorization = header ?? byCookie?.authorization
    if (byCookie?.refusal) return refuse(c, authorization, byCookie.refusal)
    const found = access.authenticate({ authorization })
    const caller = found instanceof Promise ? await found : found
    if (isCounted) await rateLimits.count({ caller: caller ?? undefined, address })
    if (!caller) return next()
    c.set('caller', caller)
    endWith(caller, c, access)
    return next()
  }
}

/**
 * A request under way ends with what let it in, whatever it waits for: a body, a command's end, events. A moment is left for the answer to whoever
 * has just ended their own session.
 */
function endWith(caller: Caller, c: ApiContext, access: CallerDoor): void {
  const { outgoing } = c.env ?? {}
  if (!outgoing) return
  let grace: NodeJS.Timeout | undefined
  const letGo = access.hold(caller, () => {
    // An answer that is about to be sent, such as to whoever revokes the key they came with, still may be.
    if (outgoing.headersSent) outgoing.destroy()
    else grace = setTimeout(() => outgoing.destroy(), limits.endedGraceMs)
  })
  outgoing.once('close', () => {
    clearTimeout(grace)
    letGo()
  })
}

function createAuthorize(access: CallerDoor): Authorize {
  return (c, needs) => {
    if (needs === 'public') return
    c.set('caller', access.admit(knownCaller(c), needs, c.req.param('id')))
  }
}

/** What watches the server must see it also while somebody floods it; of these no answer costs anything. */
const uncounted = new Set(['/health', '/metrics', '/openapi.json'])

function hostOf(c: ApiContext): string | undefined {
  return c.env?.incoming ? c.req.header('host') : new URL(c.req.url).host
}

function needsCaller(path: string): boolean {
  return path.startsWith('/v1/') || path === '/v1' || path === '/metrics'
}

function knownCaller(c: ApiContext): Caller {
  const caller = c.get('caller') as Caller | undefined
  if (caller) return caller
  const given = c.req.header('authorization') !== undefined
  throw new DeltaError('unauthorized', given ? 'The API key or token is not valid' : 'The request has no API key')
}

interface Cors {
  origin: string
  credentials: boolean
}

/** With credentials for an origin that is listed, and never for any origin at all. */
function corsOf(origin: string | undefined, { corsOrigins, environment }: AppSettings): Cors | undefined {
  if (origin !== undefined && corsOrigins?.includes(origin)) return { origin, credentials: true }
  return environment === 'development' ? { origin: '*', credentials: false } : undefined
}

function addCors(c: ApiContext, { origin, credentials }: Cors): void {
  setHeader(c, 'Access-Control-Allow-Origin', origin)
  if (credentials) setHeader(c, 'Access-Control-Allow-Credentials', 'true')
  setHeader(c, 'Access-Control-Expose-Headers', 'X-Request-Id, ETag, Content-Range, Retry-After')
  if (c.req.method !== 'OPTIONS') return
  setHeader(c, 'Access-Control-Allow-Methods', 'GET, HEAD, POST, PUT, PATCH, DELETE')
  setHeader(c, 'Access-Control-Allow-Headers', c.req.header('access-control-request-headers') ?? '*')
}

function addMetrics(api: Api, metrics: Metrics, authorize: Authorize): void {
  const needs = 'read:operations'
  api.openAPIRegistry.registerPath({
    method: 'get',
    path: '/metrics',
    operationId: 'getMetrics',
    'x-needs': needs,
    tags: ['operations'],
    summary: 'Figures of the server for Prometheus',
    responses: {
      200: { description: 'Text format 0.0.4', content: { 'text/plain': { schema: z.string() } } },
      default: errorResponse,
    },
  })
  api.get('/metrics', (c) => {
    c.set('route', '/metrics')
    authorize(c, needs)
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
