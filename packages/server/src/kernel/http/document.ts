import { z } from '@hono/zod-openapi'
import type { Handler } from 'hono'
import { errorTable } from '../errors.ts'
import type { ErrorCode } from '../errors.ts'
import type { Api, ApiContext, ApiEnv } from './api.ts'

export const errorSchema = z
  .object({
    error: z.object({
      code: z.enum(Object.keys(errorTable) as [ErrorCode, ...ErrorCode[]]).openapi({ description: 'Branch on this' }),
      message: z.string(),
      cause: z.string().optional(),
      remediation: z.string().openapi({ description: 'What to do next' }),
      requestId: z.string(),
      context: z.record(z.string(), z.unknown()).optional(),
    }),
  })
  .openapi('Error')

/** An answer of JSON, as `createRoute` wants it told. */
export function json<Schema>(description: string, schema: Schema) {
  return { description, content: { 'application/json': { schema } } }
}

/** Answers with what a request made, and tells it to whoever looks at the request afterwards. */
export function answerMade<Made extends { id: string | null }, Status extends 201 | 202>(
  c: ApiContext,
  made: Made,
  status: Status,
) {
  if (made.id !== null) c.set('made', made.id)
  return c.json(made, status)
}

/** Every route may answer so. */
export const errorResponse = json('Any refusal or failure', errorSchema)

/** The OpenAPI document, made when it is first asked for. */
export function describeApi(api: Api, version: string): Handler<ApiEnv> {
  api.openAPIRegistry.registerComponent('securitySchemes', 'apiKey', { type: 'http', scheme: 'bearer' })
  let document: object | undefined
  return (c) => {
    c.set('route', '/openapi.json')
    document ??= api.getOpenAPI31Document({
      openapi: '3.1.0',
      info: { title: 'DELTA', version, description: 'Secure computers for LLM agents', license: { name: 'MIT' } },
      security: [{ apiKey: [] }],
    })
    return c.json({ ...document, servers: [{ url: new URL(c.req.url).origin }] })
  }
}
