import { z } from '@hono/zod-openapi'
import { knownCallerOf } from '../access/callers/door.ts'
import type { ErrorCode } from '../kernel/errors.ts'
import type { Api, ApiContext } from '../kernel/http/api.ts'
import { answerMade, json } from '../kernel/http/document.ts'
import { eventStream, eventStreamHeaders } from '../kernel/http/event-stream.ts'
import { lastEventId } from '../kernel/http/last-event.ts'
import { createRoute } from '../kernel/http/route.ts'
import { sendStream } from '../kernel/http/stream.ts'
import {
  createTaskSchema,
  followTaskQuerySchema,
  forkTaskSchema,
  giveTaskTokensSchema,
  taskIdempotencySchema,
  taskListQuerySchema,
  taskListSchema,
  taskMessageSchema,
  taskParamsSchema,
  taskResultSchema,
  taskSchema,
  transcriptQuerySchema,
  undoTaskSchema,
} from './schema.ts'
import type { Tasks } from './service.ts'

const tags = ['tasks']
const params = taskParamsSchema
const headers = taskIdempotencySchema
const ofDatabase: readonly ErrorCode[] = ['database_busy', 'database_unavailable', 'database_failed']
const ofKnown: readonly ErrorCode[] = [...ofDatabase, 'task_not_found']
const ofChange: readonly ErrorCode[] = [...ofKnown, 'task_over', 'task_state_conflict']
const ofKeys: readonly ErrorCode[] = ['idempotency_conflict', 'idempotency_in_progress']
const ofTokens: readonly ErrorCode[] = [
  'amount_invalid',
  'balance_too_low',
  'account_owes',
  'purse_archived',
  'key_conflict',
  'ledger_full',
  'purse_limit_reached',
]
const ofAgent: readonly ErrorCode[] = [
  'agent_not_found',
  'agent_archived',
  'agent_paused',
  'agent_suspended',
  'agent_has_no_sandbox',
]
// Of a key that is limited to some agents only the service knows whether the task is one of theirs.
const read = 'nothing'
const write = 'nothing'
const body = <Schema>(schema: Schema) => ({ content: { 'application/json': { schema } }, required: true }) as const

const createRouteOf = createRoute({
  method: 'post',
  path: '/v1/tasks',
  operationId: 'createTask',
  needs: write,
  tags,
  refuses: [
    ...ofDatabase,
    ...ofKeys,
    ...ofTokens,
    ...ofAgent,
    'task_limit_reached',
    'model_key_missing',
    'model_key_unreadable',
    'model_not_found',
    'model_not_priced',
    'disk_full',
  ],
  summary: 'Give an agent a task',
  description:
    'It begins at once, or as soon as there is room. The agent works with its own rights and pays with its own tokens, or with `tokenBudget`, which is set aside of them. Watch it with GET /v1/tasks/{id}/events.',
  request: { headers, body: body(createTaskSchema) },
  responses: { 201: json('Given', taskSchema) },
})

const listRoute = createRoute({
  method: 'get',
  path: '/v1/tasks',
  operationId: 'listTasks',
  needs: read,
  tags,
  refuses: ofDatabase,
  summary: 'List tasks, newest first',
  description: 'Agents see their own and those of agents below them.',
  request: { query: taskListQuerySchema },
  responses: { 200: json('A page of tasks', taskListSchema) },
})

const getRoute = createRoute({
  method: 'get',
  path: '/v1/tasks/{id}',
  operationId: 'getTask',
  needs: read,
  tags,
  refuses: ofKnown,
  summary: 'Look at a task',
  request: { params },
  responses: { 200: json('The task', taskSchema) },
})

const eventsRoute = createRoute({
  method: 'get',
  path: '/v1/tasks/{id}/events',
  operationId: 'followTask',
  needs: read,
  tags,
  refuses: [...ofKnown, 'too_many_requests'],
  summary: 'Watch a task',
  description:
    'Server-sent events from its beginning, or after `Last-Event-ID` or `from`; numbered without gaps. `state`, `message`, `step`, `attempt` (of the same step anew: pieces begin again), `text` and `thinking` (pieces of what the model writes), `reply` (all of it), `call`, `output`, `result`, `compacted`, `undone`, and at last `end`, after which the stream ends. Leaving stops nothing.',
  request: { params, query: followTaskQuerySchema },
  responses: { 200: { description: 'Events', content: { 'text/event-stream': { schema: z.string() } } } },
})

const messageRoute = createRoute({
  method: 'post',
  path: '/v1/tasks/{id}/messages',
  operationId: 'sendTaskMessage',
  needs: write,
  tags,
  refuses: [...ofChange, ...ofKeys, 'disk_full'],
  summary: 'Say something to a task',
  description:
    'It reads it at the end of its step; with `interrupt` what it is doing is given up first: the model’s call, which is paid as far as it came, and programs, by SIGINT, five seconds later SIGKILL. To a task that asked a question it is the answer.',
  request: { params, headers, body: body(taskMessageSchema) },
  responses: { 202: json('The task', taskSchema) },
})

const act = (name: string, summary: string, description: string) =>
  ({
    method: 'post',
    path: `/v1/tasks/{id}/${name}`,
    operationId: `${name}Task`,
    needs: write,
    tags,
    refuses: ofChange,
    summary,
    description,
    request: { params },
    responses: { 200: json('The task', taskSchema) },
  }) as const

const interruptRoute = createRoute({
  ...act('interrupt', 'Interrupt a task', 'What it is doing is given up, and it waits for your message.'),
  path: '/v1/tasks/{id}/interrupt',
})
const pauseRoute = createRoute({
  ...act('pause', 'Pause a task', 'At the end of its step.'),
  path: '/v1/tasks/{id}/pause',
})
const resumeRoute = createRoute({
  ...act('resume', 'Let a paused or suspended task go on', 'From where it stood.'),
  path: '/v1/tasks/{id}/resume',
})
const cancelRoute = createRoute({
  ...act(
    'cancel',
    'Cancel a task',
    'At once; what it delegated is canceled too. What is left of its own tokens goes back to its agent.',
  ),
  path: '/v1/tasks/{id}/cancel',
})

const tokensRoute = createRoute({
  method: 'post',
  path: '/v1/tasks/{id}/tokens',
  operationId: 'giveTaskTokens',
  needs: 'nothing',
  tags,
  refuses: [...ofChange, ...ofTokens],
  summary: 'Give a task more tokens of its own',
  description: 'Of its agent’s balance. A suspended one goes on.',
  request: { params, headers, body: body(giveTaskTokensSchema) },
  responses: { 200: json('The task', taskSchema) },
})

const ofDisk: readonly ErrorCode[] = [
  'snapshot_not_found',
  'sandbox_state_conflict',
  'sandbox_start_failed',
  'capacity_exhausted',
  'disk_full',
  'driver_failed',
  'driver_timed_out',
  'driver_unavailable',
]

const undoRoute = createRoute({
  method: 'post',
  path: '/v1/tasks/{id}/undo',
  operationId: 'undoTask',
  needs: write,
  tags,
  refuses: [...ofChange, ...ofDisk],
  summary: 'Take back what a task did',
  description:
    'Its agent’s disk is as it was then, and one that has not ended forgets what was said since and waits for your message. What was spent stays spent, and what left the computer has left it.',
  request: { params, body: body(undoTaskSchema) },
  responses: { 200: json('The task', taskSchema) },
})

const forkRoute = createRoute({
  method: 'post',
  path: '/v1/tasks/{id}/fork',
  operationId: 'forkTask',
  needs: write,
  tags,
  refuses: [...ofChange, ...ofKeys, ...ofTokens, ...ofAgent, ...ofDisk, 'plan_limit_reached', 'agent_too_deep'],
  summary: 'Go on from a step in another task',
  description:
    'By a new agent, whose computer is a copy of what it was then, or by the one you name, on its own. The first task is not touched.',
  request: { params, headers, body: body(forkTaskSchema) },
  responses: { 201: json('The new task', taskSchema) },
})

const resultRoute = createRoute({
  method: 'get',
  path: '/v1/tasks/{id}/result',
  operationId: 'getTaskResult',
  needs: read,
  tags,
  refuses: ofKnown,
  summary: 'What a task came to',
  request: { params },
  responses: { 200: json('The result; of a task that has not ended, as far as it is', taskResultSchema) },
})

const transcriptRoute = createRoute({
  method: 'get',
  path: '/v1/tasks/{id}/transcript',
  operationId: 'getTaskTranscript',
  needs: read,
  tags,
  refuses: ofKnown,
  summary: 'All that was said and done',
  request: { params, query: transcriptQuerySchema },
  responses: {
    200: {
      description: 'The transcript',
      content: {
        'application/json': { schema: z.record(z.string(), z.unknown()).openapi('TaskTranscript') },
        'text/markdown': { schema: z.string() },
      },
    },
  },
})

export function tasksRoutes(api: Api, tasks: Tasks): void {
  const callerOf = (c: ApiContext) => knownCallerOf(c.var.caller)
  api.openapi(createRouteOf, async (c) => {
    const idempotencyKey = c.req.valid('header')['idempotency-key']
    return answerMade(c, await tasks.create(c.req.valid('json'), callerOf(c), { idempotencyKey }), 201)
  })
  api.openapi(listRoute, async (c) => c.json(await tasks.list(c.req.valid('query'), callerOf(c)), 200))
  api.openapi(getRoute, async (c) => c.json(await tasks.get(c.req.valid('param').id, callerOf(c)), 200))
  api.openapi(eventsRoute, async (c) => {
    const from = c.req.valid('query').from ?? lastEventId(c)
    const { events, leave } = await tasks.follow(c.req.valid('param').id, callerOf(c), from)
    c.set('endless', true)
    // Who asks for the header alone, or has gone, reads none.
    if (c.req.method === 'HEAD' || c.env?.outgoing?.destroyed) leave()
    return sendStream(c, eventStream(events, leave), { headers: eventStreamHeaders })
  })
  api.openapi(messageRoute, async (c) => {
    const idempotencyKey = c.req.valid('header')['idempotency-key']
    return c.json(
      await tasks.message(c.req.valid('param').id, c.req.valid('json'), callerOf(c), { idempotencyKey }),
      202,
    )
  })
  api.openapi(interruptRoute, async (c) => c.json(await tasks.interrupt(c.req.valid('param').id, callerOf(c)), 200))
  api.openapi(pauseRoute, async (c) => c.json(await tasks.pause(c.req.valid('param').id, callerOf(c)), 200))
  api.openapi(resumeRoute, async (c) => c.json(await tasks.resume(c.req.valid('param').id, callerOf(c)), 200))
  api.openapi(cancelRoute, async (c) => c.json(await tasks.cancel(c.req.valid('param').id, callerOf(c)), 200))
  api.openapi(tokensRoute, async (c) => {
    const idempotencyKey = c.req.valid('header')['idempotency-key']
    const { tokens } = c.req.valid('json')
    return c.json(await tasks.giveTokens(c.req.valid('param').id, tokens, callerOf(c), { idempotencyKey }), 200)
  })
  api.openapi(undoRoute, async (c) =>
    c.json(await tasks.undo(c.req.valid('param').id, c.req.valid('json'), callerOf(c)), 200),
  )
  api.openapi(forkRoute, async (c) => {
    const idempotencyKey = c.req.valid('header')['idempotency-key']
    return answerMade(
      c,
      await tasks.fork(c.req.valid('param').id, c.req.valid('json'), callerOf(c), { idempotencyKey }),
      201,
    )
  })
  api.openapi(resultRoute, async (c) => c.json(await tasks.result(c.req.valid('param').id, callerOf(c)), 200))
  api.openapi(transcriptRoute, async (c) => {
    const { json: whole, markdown } = await tasks.transcript(c.req.valid('param').id, callerOf(c))
    if (c.req.valid('query').format === 'json') return c.json({ ...whole }, 200)
    return c.text(markdown(), 200, { 'content-type': 'text/markdown; charset=utf-8' })
  })
}
