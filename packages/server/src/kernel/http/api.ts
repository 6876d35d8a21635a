import type { HttpBindings } from '@hono/node-server'
import { OpenAPIHono } from '@hono/zod-openapi'
import type { Context, Handler, MiddlewareHandler } from 'hono'
import type { Metrics } from '../metrics.ts'
import { errorResponse } from './document.ts'
import type { Front } from './front.ts'
import { needsText } from './needs.ts'
import type { Needs } from './needs.ts'
import { refusalsOf } from './refusals.ts'
import type { RouteConfig } from './refusals.ts'
import { checkRequest } from './validate.ts'

/** Who sent the request. What they may do is known to `access/`, which extends this; features look at no more than is here. */
export interface Caller {
  accountId: string
  /** The person, key or agent: `usr_…`, `key_…`, `agt_…`. */
  actorId: string
  /** Of what this request lists, only these may be shown. @default all of the account's */
  only?: readonly string[]
}

/** Refuses, or says as whom the request goes on. Must not wait. */
export type Authorize = (c: ApiContext, needs: Needs) => void

export interface ApiEnv {
  /** Node's own request and response; absent under `app.request()` in tests. */
  Bindings: Partial<HttpBindings>
  Variables: {
    requestId: string
    /** Set on everything under /v1 but `public` routes. */
    caller: Caller
    /** Where it comes from, see `createClientAddress`. */
    address?: string
    /** The route's template, such as `/v1/sandboxes/{id}`, for log and metrics. */
    route: string
    /** The `operationId` of the route that was found. */
    operation?: string
    /** Called once when a request was found well formed, before its work begins. */
    onOperation?: (operation: string) => void
    /** The id of what the request made or was about, for whoever looks at it afterwards. */
    made?: string
    /** What else is worth to be known of it, such as a role from before. No secret, no content. */
    told?: Readonly<Record<string, string | number | boolean | null>>
    /** The sandbox that the request is about, where its path names something that has one. @default the path's `{id}` */
    sandboxId?: string
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

/** The same routes, each described and served in another way. */
export function mirrored(
  api: Api,
  change: (route: RouteConfig, handler: Handler<ApiEnv>) => { route: RouteConfig; handler: Handler<ApiEnv> },
): Api {
  const mirror: Api = Object.create(api)
  const openapi = (given: RouteConfig, givenHandler: Handler<ApiEnv>) => {
    const { route, handler } = change(given, givenHandler)
    api.openapi(route, handler)
    return mirror
  }
  mirror.openapi = openapi as unknown as Api['openapi']
  return mirror
}

/**
 * An OpenAPIHono whose `openapi` checks a request in one step of our own. The validators it would install copy every body through a web stream,
 * ignore a JSON body that lacks its content type (as `curl -d` sends it), and cost more than an exec's other HTTP work together.
 */
export function createApi({ authorize }: { authorize?: Authorize } = {}): Api {
  const api: Api = new OpenAPIHono<ApiEnv>({ strict: true })
  const openapi = ({ middleware, hide, refuses, needs, ...route }: RouteConfig, handler: Handler) => {
    // The types say so too, but not of a route that was described by the library's own function.
    if (needs === undefined) throw new Error(`${route.method} ${route.path} does not say what it needs`)
    if (!hide) {
      const responses = {
        ...refusalsOf({ ...route, needs, ...(refuses && { refuses }) }),
        ...route.responses,
        default: errorResponse,
      }
      const description = [route.description, `Needs: \`${needsText(needs)}\`.`].filter(Boolean).join('\n\n')
      api.openAPIRegistry.registerPath({
        ...route,
        description,
        responses,
        'x-needs': needsText(needs),
        ...(needs === 'public' && { security: [] }),
      })
    }
    const before = (middleware === undefined ? [] : [middleware].flat()) as MiddlewareHandler[]
    const path = route.path.replaceAll(/\{(.+?)\}/g, ':$1')
    const may = authorize && ((c: ApiContext) => authorize(c, needs))
    api.on([route.method.toUpperCase()], [path], checkRequest(route, may), ...before, handler)
    return api
  }
  api.openapi = openapi as unknown as Api['openapi']
  return api
}
