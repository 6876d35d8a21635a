import { knownCallerOf } from '../../access/callers/door.ts'
import type { ErrorCode } from '../../kernel/errors.ts'
import type { Api, ApiContext, Feature } from '../../kernel/http/api.ts'
import { answerMade, json } from '../../kernel/http/document.ts'
import { createRoute } from '../../kernel/http/route.ts'
import {
  createScheduleSchema,
  runScheduleKeySchema,
  scheduleListQuerySchema,
  scheduleListSchema,
  scheduleParamsSchema,
  scheduleRunListQuerySchema,
  scheduleRunListSchema,
  scheduleRunSchema,
  scheduleSchema,
  scheduleWithTaskSchema,
  updateScheduleSchema,
} from './schema.ts'
import type { Schedules } from './service.ts'

const tags = ['schedules']
const ofDatabase: readonly ErrorCode[] = ['database_busy', 'database_unavailable', 'database_failed']
const ofKnown: readonly ErrorCode[] = [...ofDatabase, 'schedule_not_found']
const ofChanging: readonly ErrorCode[] = [...ofKnown, 'forbidden', 'schedule_state_conflict']
const params = scheduleParamsSchema
const body = <Schema>(schema: Schema) => ({ content: { 'application/json': { schema } }, required: true }) as const
const rights = 'With `write:tasks` for the agent; an agent for itself alone.'

const createScheduleRoute = createRoute({
  method: 'post',
  path: '/v1/schedules',
  operationId: 'createSchedule',
  needs: 'nothing',
  tags,
  refuses: [
    ...ofDatabase,
    'forbidden',
    'agent_not_found',
    'agent_archived',
    'amount_invalid',
    'schedule_never_runs',
    'schedule_limit_reached',
  ],
  summary: 'Give an agent a task at stated times',
  description: `By \`cron\` in a time zone, or once \`at\` a time. It runs by the rights of who made or changed it last. ${rights}`,
  request: { body: body(createScheduleSchema) },
  responses: { 201: json('The schedule', scheduleWithTaskSchema) },
})

const listSchedulesRoute = createRoute({
  method: 'get',
  path: '/v1/schedules',
  operationId: 'listSchedules',
  needs: 'nothing',
  tags,
  refuses: ofDatabase,
  summary: 'List schedules, newest first',
  description: 'Those of agents whose tasks you may read; an agent sees its own.',
  request: { query: scheduleListQuerySchema },
  responses: { 200: json('A page of them', scheduleListSchema) },
})

const getScheduleRoute = createRoute({
  method: 'get',
  path: '/v1/schedules/{id}',
  operationId: 'getSchedule',
  needs: 'nothing',
  tags,
  refuses: ofKnown,
  summary: 'Look at a schedule and its task',
  request: { params },
  responses: { 200: json('The schedule', scheduleWithTaskSchema) },
})

const updateScheduleRoute = createRoute({
  method: 'patch',
  path: '/v1/schedules/{id}',
  operationId: 'updateSchedule',
  needs: 'nothing',
  tags,
  refuses: [...ofChanging, 'amount_invalid', 'schedule_never_runs'],
  summary: 'Change a schedule',
  description: `What is left out stays. \`cron\` takes the place of \`at\`, and \`at\` of \`cron\`. From then on it runs by your rights. ${rights}`,
  request: { params, body: body(updateScheduleSchema) },
  responses: { 200: json('The schedule', scheduleWithTaskSchema) },
})

const deleteScheduleRoute = createRoute({
  method: 'delete',
  path: '/v1/schedules/{id}',
  operationId: 'deleteSchedule',
  needs: 'nothing',
  tags,
  refuses: [...ofKnown, 'forbidden'],
  summary: 'Remove a schedule and the list of its runs',
  description: `Tasks that it made go on. ${rights}`,
  request: { params },
  responses: { 204: { description: 'Removed' } },
})

const pauseScheduleRoute = createRoute({
  method: 'post',
  path: '/v1/schedules/{id}/pause',
  operationId: 'pauseSchedule',
  needs: 'nothing',
  tags,
  refuses: ofChanging,
  summary: 'Let a schedule rest',
  description: `Runs that wait are left out; tasks that were made go on. ${rights}`,
  request: { params },
  responses: { 200: json('The schedule', scheduleSchema) },
})

const resumeScheduleRoute = createRoute({
  method: 'post',
  path: '/v1/schedules/{id}/resume',
  operationId: 'resumeSchedule',
  needs: 'nothing',
  tags,
  refuses: [...ofChanging, 'schedule_never_runs'],
  summary: 'Let a schedule go on, from its next time',
  description: `One that rests, or was disabled: then it runs by your rights. Times that passed meanwhile were not missed. ${rights}`,
  request: { params },
  responses: { 200: json('The schedule', scheduleSchema) },
})

const runScheduleRoute = createRoute({
  method: 'post',
  path: '/v1/schedules/{id}/run',
  operationId: 'runSchedule',
  needs: 'nothing',
  tags,
  refuses: ofChanging,
  summary: 'Run a schedule now',
  description: `Beside its times, whatever goes on. \`state\` says how it went: \`failed\` where the task could not be made. ${rights}`,
  request: { params, headers: runScheduleKeySchema },
  responses: { 201: json('The run', scheduleRunSchema) },
})

const listScheduleRunsRoute = createRoute({
  method: 'get',
  path: '/v1/schedules/{id}/runs',
  operationId: 'listScheduleRuns',
  needs: 'nothing',
  tags,
  refuses: ofKnown,
  summary: 'List the runs of a schedule, newest first',
  description: 'Kept for 90 days.',
  request: { params, query: scheduleRunListQuerySchema },
  responses: { 200: json('A page of them', scheduleRunListSchema) },
})

export function schedulesFeature({ schedules }: { schedules: Schedules }): Feature {
  return {
    name: 'schedules',
    routes: (api) => addScheduleRoutes(api, schedules),
    stop: () => schedules.stop(),
  }
}

function addScheduleRoutes(api: Api, schedules: Schedules): void {
  const callerOf = (c: ApiContext) => knownCallerOf(c.var.caller)
  api.openapi(createScheduleRoute, async (c) =>
    answerMade(c, await schedules.create(c.req.valid('json'), callerOf(c)), 201),
  )
  api.openapi(listSchedulesRoute, async (c) => c.json(await schedules.list(c.req.valid('query'), callerOf(c)), 200))
  api.openapi(getScheduleRoute, async (c) => c.json(await schedules.get(c.req.valid('param').id, callerOf(c)), 200))
  api.openapi(updateScheduleRoute, async (c) => {
    const { id } = c.req.valid('param')
    return c.json(await schedules.update(id, c.req.valid('json'), callerOf(c)), 200)
  })
  api.openapi(deleteScheduleRoute, async (c) => {
    await schedules.remove(c.req.valid('param').id, callerOf(c))
    return c.body(null, 204)
  })
  api.openapi(pauseScheduleRoute, async (c) => c.json(await schedules.pause(c.req.valid('param').id, callerOf(c)), 200))
  api.openapi(resumeScheduleRoute, async (c) =>
    c.json(await schedules.resume(c.req.valid('param').id, callerOf(c)), 200),
  )
  api.openapi(runScheduleRoute, async (c) => {
    const idempotencyKey = c.req.valid('header')['idempotency-key']
    return answerMade(c, await schedules.runNow(c.req.valid('param').id, callerOf(c), { idempotencyKey }), 201)
  })
  api.openapi(listScheduleRunsRoute, async (c) => {
    const { id } = c.req.valid('param')
    return c.json(await schedules.listRuns(id, c.req.valid('query'), callerOf(c)), 200)
  })
}
