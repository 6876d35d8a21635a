import type { HttpBindings } from '@hono/node-server'
import { OpenAPIHono } from '@hono/zod-openapi'
import type { Context, Handler, MiddlewareHandler } from 'hono'
import type { Metrics } from '../metrics.ts'
import { errorResponse } from './document.ts'
import type { Front } from './front.ts'
import { refusalsOf } from './refusals.ts'
import type { RouteConfig } from './refusals.ts'
import { checkRequest } from './validate.ts'

/** Who sent the request. */
export interface Caller {
  accountId: string
  keyId: string
}

export interface ApiEnv {
  /** Node's own request and response; absent under `app.request()` in tests. */
  Bindings: Partial<HttpBindings>
  Variables: {
    requestId: string
    /** Set on everything under /v1. */
    caller: Caller
    /** The route's template, such as `/v1/sandboxes/{id}`, for log and metrics. */
    route: string
    /** An event stream: it ends when its reader leaves, and a stopping server does not wait for it. */
    endless: boolean
  }
}

export type Api = OpenAPIHono<ApiEnv>
export type ApiContext = Context<ApiEnv>

/** `leave`: sandboxes run on for the next start to adopt. `stop-all`: nothing may be left. */
export type StopMode = 'leave' | 'stop-all'

/** What `app.ts` and `main.ts` know of a feature. */
export interface Feature {
  name: string
  /**
   * Adds routes with `api.openapi(createRoute({…}), handler)`; they are documented, and params, query, headers and a JSON body are
   * checked before the handler runs: use `c.req.valid('json')`. What the route `refuses` besides is named by code. A body with another content type than JSON is left unread: see `nodeBody`.
   */
  routes?(api: Api): void
  /** Requests and WebSockets that this feature serves itself, before the router. */
  front?: Front
  /** Registers gauges that are read when /metrics is asked for. */
  metrics?(metrics: Metrics): void
  /** Shown in /health under the feature's name. Must not wait for anything. */
  health?(): Record<string, unknown>
  /** Ends streams and background work. Bounded by the caller. */
  stop?(mode: StopMode): Promise<void>
}

/**
 * An OpenAPIHono whose `openapi` checks a request in one step of our own. The validators it would install copy every body through a web stream,
 * ignore a JSON body that lacks its content type (as `curl -d` sends it), and cost more than an exec's other HTTP work together.
 */
export function createApi(): Api {
  const api: Api = new OpenAPIHono<ApiEnv>({ strict: true })
  const openapi = ({ middleware, hide, refuses, ...route }: RouteConfig, handler: Handler) => {
    if (!hide) {
      const responses = {
        ...refusalsOf({ ...route, ...(refuses && { refuses }) }),
        ...route.responses,
        default: errorResponse,
      }
      api.openAPIRegistry.registerPath({ ...route, responses })
    }
    const before = (middleware === undefined ? [] : [middleware].flat()) as MiddlewareHandler[]
    const path = route.path.replaceAll(/\{(.+?)\}/g, ':$1')
    api.on([route.method.toUpperCase()], [path], checkRequest(route), ...before, handler)
    return api
  }
  api.openapi = openapi as unknown as Api['openapi']
  return api
}
