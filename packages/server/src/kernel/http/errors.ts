import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import { DeltaError } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { Api, ApiContext } from './api.ts'

const retryAfterSeconds = '1'

/** The only place where errors become answers. What is not a DeltaError is a bug: it is logged whole, and nothing of it leaks. */
export function answerError(
  thrown: Error,
  c: ApiContext,
  { log, refusalPage }: { log: Logger; refusalPage?: (c: ApiContext, error: DeltaError) => Response | undefined },
): Response {
  const requestId = c.get('requestId')
  const error =
    thrown instanceof DeltaError ? thrown : new DeltaError('internal', 'The server failed to answer', { cause: thrown })
  if (error.code === 'internal') log.error('internal_error', { requestId, path: c.req.path, error: thrown })
  else if (error.status >= 500) log.warn('request_failed', { requestId, path: c.req.path, error })
  const { outgoing } = c.env ?? {}
  if (outgoing?.headersSent) {
    // Part of an answer is out; cutting the connection is the only honest end left.
    outgoing.destroy()
    return RESPONSE_ALREADY_SENT
  }
  setHeaders(c, error)
  const page = refusalPage?.(c, error)
  if (page) return page
  return c.json(error.toBody(requestId), error.status as ContentfulStatusCode)
}

function setHeaders(c: ApiContext, error: DeltaError): void {
  const { code, context } = error
  const retryAfter = retryAfterOf(error)
  if (code === 'unauthorized') c.header('WWW-Authenticate', 'Bearer')
  if (code === 'method_not_allowed') c.header('Allow', String(context?.['allow']))
  if (retryAfter !== undefined) c.header('Retry-After', retryAfter)
  // Not after `body_too_large`: a client that is still sending reads the answer only if the connection outlives it. What comes is thrown
  // away, up to a bound of the HTTP library's.
  if (code === 'request_timeout' || code === 'shutting_down') c.header('Connection', 'close')
}

/** In seconds, for a refusal that passes. */
export function retryAfterOf({ status, context }: DeltaError): string | undefined {
  if (status !== 429 && status !== 503) return undefined
  const waitMs = context?.['retryAfterMs']
  return typeof waitMs === 'number' ? String(Math.max(1, Math.ceil(waitMs / 1000))) : retryAfterSeconds
}

/** Tells a wrong path from a wrong method. */
export function answerNotFound(c: ApiContext, api: Api): never {
  const { path, method } = c.req
  const allow = methodsOf(api, path)
  if (allow.length > 0 && !allow.includes(method)) {
    throw new DeltaError('method_not_allowed', `${method} is not possible on ${path}`, { context: { allow } })
  }
  throw new DeltaError('not_found', `There is no ${method} ${path}`)
}

function methodsOf(api: Api, path: string): string[] {
  const methods = new Set<string>()
  for (const route of api.routes) {
    if (route.method !== 'ALL' && patternOf(route.path).test(path)) methods.add(route.method)
  }
  return [...methods]
}

function patternOf(template: string): RegExp {
  const parts = template.split('/').map((part) => (part.startsWith(':') ? '[^/]+' : escapeRegExp(part)))
  return new RegExp(`^${parts.join('/')}$`)
}

function escapeRegExp(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&')
}
