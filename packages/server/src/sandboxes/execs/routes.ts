import { z } from '@hono/zod-openapi'
import { nodeBody } from '../../kernel/http/body.ts'
import { json } from '../../kernel/http/document.ts'
import { createRoute } from '../../kernel/http/route.ts'
import type { Api, ApiContext } from '../../kernel/http/api.ts'
import { sendStream } from '../../kernel/http/stream.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { limits } from '../../kernel/limits.ts'
import { ofGuest } from '../refusal-codes.ts'
import { sandboxIdParamSchema } from '../schema.ts'
import { eventStream, eventStreamHeaders } from '../../kernel/http/event-stream.ts'
import {
  codeBodySchema,
  execBodySchema,
  execEncodings,
  execListSchema,
  execSchema,
  resizeBodySchema,
  signalBodySchema,
} from './schema.ts'
import type { Execs, LiveExec, StartOptions } from './service.ts'

const tags = ['execs']
const ofExec = [...ofGuest, 'exec_not_found'] as const
const ofNewExec = [
  ...ofGuest,
  'sandbox_env_unreadable',
  'exec_start_failed',
  'exec_limit_reached',
  'user_not_found',
  'idempotency_conflict',
] as const
const execParams = sandboxIdParamSchema.extend({
  execId: z
    .string()
    .max(64)
    .openapi({ param: { name: 'execId', in: 'path' }, example: 'exe_p2m8c1d0z4q7v9k3x5b6' }),
})
const encodingQuery = z.enum(execEncodings).default('utf8')

const eventStreamContent = {
  'text/event-stream': {
    schema: z.string().openapi({
      description:
        '`start` {id, pid}; `stdout` and `stderr` {data, offset}; `gap` {from, to}: output that was overwritten before it was read; `exit`: the exec without its output. The id of an event is the offset to resume from; where an event has none, the one before counts.',
    }),
  },
}
const execContent = { 'application/json': { schema: execSchema } }
const execResponses = {
  200: {
    description: 'It has ended; or, if asked for, its events as they come',
    content: { ...execContent, ...eventStreamContent },
  },
  202: { description: 'Started in the background', content: execContent },
}

// Stated here and read by hand: checking them against a schema would copy all headers of the most frequent request.
const idempotencyKey = {
  name: 'Idempotency-Key',
  in: 'header',
  required: false,
  schema: { type: 'string', minLength: 1, maxLength: limits.idempotencyKeyChars },
  description:
    'Makes repeating the request safe: the same key and body answers with the same exec instead of starting another, as long as the sandbox runs',
} as const
const lastEventId = {
  name: 'Last-Event-ID',
  in: 'header',
  required: false,
  schema: { type: 'string', pattern: '^[0-9]+$' },
  description: 'Where to resume, as an alternative to `from`',
} as const

const createRouteOf = createRoute({
  method: 'post',
  path: '/v1/sandboxes/{id}/execs',
  operationId: 'createExec',
  needs: { right: 'write:exec', resource: 'sandbox' },
  tags,
  refuses: ofNewExec,
  summary: 'Run a command',
  description:
    'Waits for its end, unless `background` or a stream is asked for. A client that goes away leaves the process running: find it again by its id. Command and stdin together may have 3 MiB; a longer stdin goes to POST …/stdin or into a file.',
  parameters: [idempotencyKey],
  request: {
    params: sandboxIdParamSchema,
    body: { required: true, content: { 'application/json': { schema: execBodySchema } } },
  },
  responses: execResponses,
})

const codeRoute = createRoute({
  method: 'post',
  path: '/v1/sandboxes/{id}/code',
  operationId: 'runCode',
  needs: { right: 'write:exec', resource: 'sandbox' },
  tags,
  refuses: [...ofNewExec, 'interpreter_missing'],
  summary: 'Run source code',
  description: 'As running a command, with an interpreter of the language; `source` may have 1 MiB.',
  parameters: [idempotencyKey],
  request: {
    params: sandboxIdParamSchema,
    body: { required: true, content: { 'application/json': { schema: codeBodySchema } } },
  },
  responses: execResponses,
})

const listRoute = createRoute({
  method: 'get',
  path: '/v1/sandboxes/{id}/execs',
  operationId: 'listExecs',
  needs: { right: 'read:exec', resource: 'sandbox' },
  tags,
  refuses: ofGuest,
  summary: 'Execs that run, and those that ended within the hour',
  request: { params: sandboxIdParamSchema },
  responses: { 200: json('Newest first', execListSchema) },
})

const getRoute = createRoute({
  method: 'get',
  path: '/v1/sandboxes/{id}/execs/{execId}',
  operationId: 'getExec',
  needs: { right: 'read:exec', resource: 'sandbox' },
  tags,
  refuses: ofExec,
  summary: 'An exec and the output kept of it',
  description:
    'The sandbox keeps the last 4 MiB of each exec; of these the answer holds the first and last 1 MiB of each stream.',
  request: { params: execParams, query: z.object({ encoding: encodingQuery }) },
  responses: { 200: { description: 'The exec', content: execContent } },
})

const eventsRoute = createRoute({
  method: 'get',
  path: '/v1/sandboxes/{id}/execs/{execId}/events',
  operationId: 'streamExec',
  needs: { right: 'read:exec', resource: 'sandbox' },
  tags,
  refuses: ofExec,
  summary: 'Follow an exec from an offset on',
  description:
    'Any number of viewers may follow. A viewer holds the process back when it reads slowly; one that reads nothing is disconnected, and the process goes on.',
  parameters: [lastEventId],
  request: {
    params: execParams,
    query: z.object({
      from: z
        .string()
        .regex(/^[0-9]{1,15}$/, 'from is a whole number')
        .transform(Number)
        .optional()
        .openapi({ type: 'integer', minimum: 0 }),
      encoding: encodingQuery,
    }),
  },
  responses: { 200: { description: 'Its events', content: eventStreamContent } },
})

const stdinRoute = createRoute({
  method: 'post',
  path: '/v1/sandboxes/{id}/execs/{execId}/stdin',
  operationId: 'writeStdin',
  needs: { right: 'write:exec', resource: 'sandbox' },
  tags,
  refuses: [...ofExec, 'exec_not_running', 'exec_stdin_closed'],
  summary: 'Write to the standard input of an exec',
  description: 'The body is handed on as fast as the process takes it. Answers when all of it was.',
  request: {
    params: execParams,
    query: z.object({
      close: z.enum(['true', 'false']).default('false').openapi({ description: 'End the input after this' }),
    }),
    body: { content: { 'application/octet-stream': { schema: z.string().openapi({ format: 'binary' }) } } },
  },
  responses: { 204: { description: 'Written' } },
})

const signalRoute = createRoute({
  method: 'post',
  path: '/v1/sandboxes/{id}/execs/{execId}/signal',
  operationId: 'signalExec',
  needs: { right: 'write:exec', resource: 'sandbox' },
  tags,
  refuses: [...ofExec, 'exec_not_running'],
  summary: 'Send a signal',
  request: {
    params: execParams,
    body: { required: true, content: { 'application/json': { schema: signalBodySchema } } },
  },
  responses: { 204: { description: 'Sent' } },
})

const resizeRoute = createRoute({
  method: 'post',
  path: '/v1/sandboxes/{id}/execs/{execId}/resize',
  operationId: 'resizeExec',
  needs: { right: 'write:exec', resource: 'sandbox' },
  tags,
  refuses: [...ofExec, 'exec_not_running'],
  summary: 'Change the size of an exec’s terminal',
  request: {
    params: execParams,
    body: { required: true, content: { 'application/json': { schema: resizeBodySchema } } },
  },
  responses: { 204: { description: 'Resized' } },
})

export function addExecRoutes(api: Api, execs: Execs): void {
  api.openapi(createRouteOf, async (c) => {
    const body = c.req.valid('json')
    const { id } = c.req.valid('param')
    const key = keyOf(c)
    if (wantsEvents(c, body)) return sendEvents(c, await execs.stream(id, c.get('caller'), body, { key }))
    const exec = await execs.run(id, c.get('caller'), body, startOptions(c, key))
    return c.json(exec, body.background ? 202 : 200)
  })

  api.openapi(codeRoute, async (c) => {
    const body = c.req.valid('json')
    const { id } = c.req.valid('param')
    const key = keyOf(c)
    if (wantsEvents(c, body)) return sendEvents(c, await execs.streamCode(id, c.get('caller'), body, { key }))
    const exec = await execs.runCode(id, c.get('caller'), body, startOptions(c, key))
    return c.json(exec, body.background ? 202 : 200)
  })

  api.openapi(listRoute, async (c) => {
    const data = await execs.list(c.req.valid('param').id, c.get('caller'))
    return c.json({ data, nextCursor: null }, 200)
  })

  api.openapi(getRoute, async (c) => {
    const { id, execId } = c.req.valid('param')
    return c.json(await execs.get(id, c.get('caller'), execId, c.req.valid('query').encoding), 200)
  })

  api.openapi(eventsRoute, async (c) => {
    const { id, execId } = c.req.valid('param')
    const { from, encoding } = c.req.valid('query')
    return sendEvents(c, await execs.events(id, c.get('caller'), execId, { from: from ?? lastEventOf(c), encoding }))
  })

  api.openapi(stdinRoute, async (c) => {
    const { id, execId } = c.req.valid('param')
    const close = c.req.valid('query').close === 'true'
    await execs.writeStdin(id, c.get('caller'), execId, { body: nodeBody(c), close })
    return c.body(null, 204)
  })

  api.openapi(signalRoute, async (c) => {
    const { id, execId } = c.req.valid('param')
    await execs.signal(id, c.get('caller'), execId, c.req.valid('json'))
    return c.body(null, 204)
  })

  api.openapi(resizeRoute, async (c) => {
    const { id, execId } = c.req.valid('param')
    await execs.resize(id, c.get('caller'), execId, c.req.valid('json'))
    return c.body(null, 204)
  })
}

function keyOf(c: ApiContext): string | undefined {
  const key = c.req.header('idempotency-key')
  if (key === undefined || (key.length > 0 && key.length <= limits.idempotencyKeyChars)) return key
  throw new DeltaError('invalid_request', 'The request is not valid at header.Idempotency-Key', {
    cause: `Idempotency-Key: 1 to ${limits.idempotencyKeyChars} characters`,
  })
}

function lastEventOf(c: ApiContext): number {
  const id = c.req.header('last-event-id')
  if (id === undefined || id === '') return 0
  if (/^[0-9]{1,15}$/.test(id)) return Number(id)
  throw new DeltaError('invalid_request', 'The request is not valid at header.Last-Event-ID', {
    cause: 'Last-Event-ID: the id of an event of this exec',
  })
}

function wantsEvents(c: ApiContext, { stream, background }: { stream: boolean; background: boolean }): boolean {
  if (background) return false
  return stream || (c.req.header('accept')?.includes('text/event-stream') ?? false)
}

/** A client that goes away stops the waiting, not the process. A listener costs less than the request's AbortSignal. */
function startOptions(c: ApiContext, key: string | undefined): StartOptions {
  const outgoing = c.env?.outgoing
  if (outgoing === undefined) return { key }
  const whenLeft = (leave: () => void): void => {
    if (outgoing.destroyed) leave()
    else outgoing.once('close', () => outgoing.writableFinished || leave())
  }
  return { key, whenLeft }
}

function sendEvents(c: ApiContext, { events, leave }: LiveExec): Promise<Response> {
  c.set('endless', true)
  // It may have gone while the exec was being opened; nobody will be told of that any more.
  if (c.env?.outgoing?.destroyed) leave()
  return sendStream(c, eventStream(events, leave), { headers: eventStreamHeaders })
}
