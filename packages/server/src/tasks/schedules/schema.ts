import { z } from '@hono/zod-openapi'
import { idempotencyHeader, pageQuery } from '../../kernel/http/request-shapes.ts'
import { createTaskSchema } from '../schema.ts'
import { scheduleLimits } from './limits.ts'
import { disabledReasons, missedPolicies, overlapPolicies, runStates, scheduleStates, skipReasons } from './record.ts'
import { cronFault, isTimeZone } from './times.ts'

export const scheduledTaskSchema = createTaskSchema.omit({ agent: true }).openapi('ScheduledTask')
export type ScheduledTask = z.output<typeof scheduledTaskSchema>

const cronSchema = z
  .string()
  .max(scheduleLimits.cronChars)
  .superRefine((cron, context) => {
    const fault = cronFault(cron)
    if (fault !== undefined) context.addIssue({ code: 'custom', message: fault })
  })
  .openapi({ description: 'Minute, hour, day of month, month, day of week', example: '30 7 * * MON-FRI' })

const timeZoneSchema = z
  .string()
  .max(100)
  .refine(isTimeZone, { message: 'must be a time zone of the IANA, such as Europe/Berlin' })
  .openapi({ description: 'In which `cron` is meant', example: 'Europe/Berlin' })

const atSchema = z.iso
  .datetime({ offset: true })
  .openapi({ description: 'Once, at this time', example: '2027-01-31T09:00:00+01:00' })

const missedSchema = z.enum(missedPolicies).openapi({
  description: `Of times at which no server ran: none of them, one run for all, or each of them, at most the last ${scheduleLimits.madeUp}`,
})
const overlapSchema = z.enum(overlapPolicies).openapi({
  description: 'Where the task of the run before goes on: the run is left out, or waits for its end',
})

export const createScheduleSchema = z
  .strictObject({
    agent: createTaskSchema.shape.agent,
    task: scheduledTaskSchema.openapi({ description: 'What is to be done, as for POST /v1/tasks without `agent`' }),
    cron: cronSchema.optional(),
    timeZone: timeZoneSchema.default('UTC'),
    at: atSchema.optional(),
    missed: missedSchema.default('once'),
    overlap: overlapSchema.default('skip'),
    enabled: z.boolean().default(true).openapi({ description: 'Without it, it begins paused' }),
  })
  .refine(({ cron, at }) => (cron === undefined) !== (at === undefined), {
    message: 'needs either cron or at',
    path: ['cron'],
  })
  .openapi('CreateSchedule')
export type CreateSchedule = z.output<typeof createScheduleSchema>

export const updateScheduleSchema = z
  .strictObject({
    task: scheduledTaskSchema.optional(),
    cron: cronSchema.optional(),
    timeZone: timeZoneSchema.optional(),
    at: atSchema.optional(),
    missed: missedSchema.optional(),
    overlap: overlapSchema.optional(),
  })
  .refine(({ cron, at }) => cron === undefined || at === undefined, {
    message: 'takes the place of at: send one of them',
    path: ['cron'],
  })
  .openapi('UpdateSchedule')
export type UpdateSchedule = z.output<typeof updateScheduleSchema>

export const scheduleSchema = z
  .object({
    id: z.string().openapi({ example: 'sch_k3v9x0m2qp7a8b1c4d5e' }),
    agentId: z.string(),
    title: z.string().openapi({ description: 'The beginning of the task’s text' }),
    cron: z.string().nullable(),
    timeZone: z.string(),
    at: z.iso.datetime().nullable(),
    missed: z.enum(missedPolicies),
    overlap: z.enum(overlapPolicies),
    state: z.enum(scheduleStates).openapi({
      description: '`disabled`: ended by the server, for its `reason`; `done`: its one time has passed',
    }),
    reason: z.enum(disabledReasons).nullable(),
    nextAt: z.iso.datetime().nullable().openapi({ description: 'When it runs next' }),
    createdBy: z.string().openapi({ description: 'Who made it or changed it last: by their rights it runs' }),
    createdAt: z.iso.datetime(),
    changedAt: z.iso.datetime(),
  })
  .openapi('Schedule')
export type ScheduleView = z.output<typeof scheduleSchema>

export const scheduleWithTaskSchema = scheduleSchema
  .extend({
    task: z.record(z.string(), z.unknown()).nullable().openapi({
      description: 'What is to be done; headers of MCP servers are shown to nobody. Null where it can not be read',
    }),
  })
  .openapi('ScheduleWithTask')
export type ScheduleWithTask = z.output<typeof scheduleWithTaskSchema>

export const scheduleListSchema = z
  .object({ data: z.array(scheduleSchema), nextCursor: z.string().nullable() })
  .openapi('ScheduleList')

export const scheduleListQuerySchema = z.object({
  agentId: createTaskSchema.shape.agent.optional().openapi({
    param: { name: 'agentId', in: 'query' },
    description: 'Only those of this agent',
  }),
  state: z
    .enum(scheduleStates)
    .optional()
    .openapi({ param: { name: 'state', in: 'query' } }),
  ...pageQuery(scheduleLimits.listed),
})
export type ScheduleListQuery = z.output<typeof scheduleListQuerySchema>

export const scheduleParamsSchema = z.object({
  id: z
    .string()
    .max(64)
    .openapi({ param: { name: 'id', in: 'path' }, example: 'sch_k3v9x0m2qp7a8b1c4d5e' }),
})

export const scheduleRunSchema = z
  .object({
    id: z.string().openapi({ example: 'scr_k3v9x0m2qp7a8b1c4d5e' }),
    dueAt: z.iso.datetime().openapi({ description: 'Its time' }),
    manual: z.boolean().openapi({ description: 'Somebody asked for it' }),
    state: z.enum(runStates).openapi({
      description:
        '`waiting`: for the task of the run before, or to be tried again; `started`: `taskId` says how it goes',
    }),
    reason: z.enum(skipReasons).nullable().openapi({ description: 'Why it was skipped' }),
    taskId: z.string().nullable(),
    failure: z
      .object({ code: z.string(), message: z.string() })
      .nullable()
      .openapi({ description: 'Why its task could not be made, or not yet' }),
    startedAt: z.iso.datetime().nullable(),
  })
  .openapi('ScheduleRun')
export type ScheduleRunView = z.output<typeof scheduleRunSchema>

export const scheduleRunListSchema = z
  .object({ data: z.array(scheduleRunSchema), nextCursor: z.string().nullable() })
  .openapi('ScheduleRunList')

export const scheduleRunListQuerySchema = z.object({ ...pageQuery(scheduleLimits.listed) })
export type ScheduleRunListQuery = z.output<typeof scheduleRunListQuerySchema>

export const runScheduleKeySchema = idempotencyHeader('Asking again with the same key gives the same run')
