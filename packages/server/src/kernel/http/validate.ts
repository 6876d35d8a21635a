import type { createRoute } from '@hono/zod-openapi'
import type { MiddlewareHandler } from 'hono'
import type { ZodType, z } from 'zod'
import { DeltaError } from '../errors.ts'
import { readJson } from './body.ts'
import type { ApiContext, ApiEnv } from './api.ts'

type RouteConfig = Parameters<typeof createRoute>[0]
type Target = 'param' | 'query' | 'header' | 'json'

interface Check {
  target: Target
  schema: ZodType
  read(c: ApiContext): unknown
}

// More would bury the first, which is nearly always the one to mend.
const issuesShown = 5

/** Names the route, asks whether the caller may, checks what `route.request` describes and leaves the outcome for `c.req.valid`. */
export function checkRequest(route: RouteConfig, authorize?: (c: ApiContext) => void): MiddlewareHandler<ApiEnv> {
  const checks = checksOf(route)
  return async (c, next) => {
    c.set('route', route.path)
    if (route.operationId !== undefined) c.set('operation', route.operationId)
    authorize?.(c)
    for (const { target, schema, read } of checks) {
      let value = read(c)
      if (value instanceof Promise) value = await value
      c.req.addValidatedData(target, parse(schema, value, target) as object)
    }
    if (route.operationId !== undefined) c.get('onOperation')?.(route.operationId)
    return next()
  }
}

function checksOf({ request }: RouteConfig): Check[] {
  const checks: Check[] = []
  const add = (target: Target, schema: unknown, read: Check['read']) => {
    if (isSchema(schema)) checks.push({ target, schema, read })
  }
  add('param', request?.params, (c) => c.req.param())
  add('query', request?.query, readQuery)
  add('header', request?.headers, (c) => c.req.header())
  add('json', jsonSchemaOf(request?.body?.content), readJson)
  return checks
}

function jsonSchemaOf(content: object | undefined): unknown {
  const media = (content as Record<string, { schema?: unknown }> | undefined)?.['application/json']
  return media?.schema
}

function isSchema(schema: unknown): schema is ZodType {
  return typeof (schema as ZodType | undefined)?.safeParse === 'function'
}

function readQuery(c: ApiContext): Record<string, string | string[]> {
  const query: Record<string, string | string[]> = {}
  for (const [name, values] of Object.entries(c.req.queries())) query[name] = values.length === 1 ? values[0]! : values
  return query
}

/** Checks a value that came from outside; for the few that no route describes. */
export function parse<Output>(schema: ZodType<Output>, value: unknown, target: Target | 'value'): Output {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  throw invalidRequest(result.error.issues, target)
}

/** Of a union and of a key, the message says only that something is wrong; the rules are in what it was made from. */
function ruleOf(issue: z.core.$ZodIssue): string {
  if (issue.code === 'invalid_key') return issue.issues.map(ruleOf).join('; ')
  if (issue.code !== 'invalid_union' || issue.errors.length === 0) return issue.message
  const branches = issue.errors.map((issues) => issues.map(ruleOf).join(', '))
  return [...new Set(branches)].join('; or ')
}

const wordOf = { param: 'path', query: 'query', header: 'header', json: 'body', value: 'value' } as const

function invalidRequest(issues: z.core.$ZodIssue[], target: Target | 'value'): DeltaError {
  const found = issues.slice(0, issuesShown).map((issue) => ({
    field: [wordOf[target], ...issue.path.map(String)].join('.').slice(0, 200),
    rule: ruleOf(issue).slice(0, 500),
  }))
  const more = issues.length > issuesShown ? `; and ${issues.length - issuesShown} more` : ''
  const fields = found.map(({ field }) => field).join(', ')
  return new DeltaError('invalid_request', `The request is not valid at ${fields}`, {
    cause: found.map(({ field, rule }) => `${field}: ${rule}`).join('; ') + more,
    context: { issues: found },
  })
}
