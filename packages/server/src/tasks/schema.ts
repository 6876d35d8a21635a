import { z } from '@hono/zod-openapi'
import { idempotencyHeader, pageQuery } from '../kernel/http/request-shapes.ts'
import { tokensSchema } from '../ledger/door.ts'
import { imageTypes, thinkingLevels } from '../models/door.ts'
import { engines } from './engine/names.ts'
import { taskLimits } from './limits.ts'
import { mcpServerSchema } from './tools/mcp.ts'

export const taskStates = [
  'queued',
  'working',
  'waiting',
  'suspended',
  'paused',
  'finished',
  'failed',
  'canceled',
] as const
export type TaskState = (typeof taskStates)[number]

export const endReasons = [
  'done',
  'canceled_by_user',
  'agent_archived',
  'time_limit',
  'step_limit',
  'loop_detected',
  'repeated_failures',
  'result_invalid',
  'model_refused',
  'model_failed',
  'conversation_too_long',
  'engine_failed',
  'internal',
] as const
export type EndReason = (typeof endReasons)[number]

const withoutNul = (text: string) => !text.includes('\0')
const nulMessage = { message: 'must not contain NUL characters' }
const textSchema = z.string().min(1).max(taskLimits.textChars).refine(withoutNul, nulMessage)

const agentIdSchema = z
  .string()
  .regex(/^agt_[a-z0-9]{1,40}$/, 'an id such as agt_k3v9x0m2qp7a8b1c4d5e')
  .openapi({ example: 'agt_k3v9x0m2qp7a8b1c4d5e' })

const modelNameSchema = z
  .string()
  .regex(/^[a-z]+\/[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,150}$/, 'a provider and a model, such as anthropic/claude-sonnet-4-5')
  .openapi({ example: 'anthropic/claude-sonnet-4-5' })

const toolNameSchema = z.string().regex(/^[a-zA-Z0-9_*-]{1,128}$/)

const imageSchema = z.strictObject({
  mediaType: z.enum(imageTypes),
  data: z.base64().max(Math.ceil(taskLimits.imageBytes / 3) * 4),
})

const fileSchema = z.strictObject({
  path: z.string().min(1).max(4_096).refine(withoutNul, nulMessage),
  content: z
    .string()
    .max(taskLimits.fileBytes)
    .openapi({ description: 'Its text, or base64 where `encoding` says so' }),
  encoding: z.enum(['utf8', 'base64']).default('utf8'),
})

export const toolModes = ['auto', 'ask', 'off'] as const
export type ToolMode = (typeof toolModes)[number]

export const createTaskSchema = z
  .strictObject({
    agent: agentIdSchema.openapi({ description: 'Who does it' }),
    text: textSchema.openapi({ description: 'What is to be done', example: 'Write a fibonacci function and test it' }),
    images: z.array(imageSchema).max(taskLimits.images).optional(),
    files: z
      .array(fileSchema)
      .max(taskLimits.files)
      .optional()
      .openapi({ description: 'Written to the agent’s computer before its first step' }),
    model: modelNameSchema.optional().openapi({ description: 'Without it: the server’s default, DELTA_MODEL' }),
    fallbackModels: z.array(modelNameSchema).max(taskLimits.fallbackModels).optional().openapi({
      description: 'Asked in this order where the model can not be reached, before anything of its answer came',
    }),
    maxPrice: z
      .number()
      .positive()
      .optional()
      .openapi({ description: 'No fall-back dearer than so many tokens for a million output tokens' }),
    thinking: z.enum(thinkingLevels).default('off'),
    engine: z.enum(engines).default('delta').openapi({
      description:
        'Who works on it: DELTA’s own loop, or the Claude Agent SDK in the agent’s computer, where you have installed it. That one has its own tools and asks models of Anthropic alone',
    }),
    instructions: textSchema.optional().openapi({ description: 'How it should go about it' }),
    tokenBudget: tokensSchema(
      'It spends no more: set aside from the agent’s balance, what is left goes back at its end. Without it: the agent’s balance',
    ).optional(),
    timeLimitMs: z
      .int()
      .min(1_000)
      .max(taskLimits.timeLimitMs.max)
      .optional()
      .openapi({ description: 'It has so long, waiting included. Without it: a day, and a chat 30 days' }),
    maxSteps: z.int().min(1).max(taskLimits.steps.max).default(taskLimits.steps.default),
    tools: z
      .record(toolNameSchema, z.enum(toolModes))
      .optional()
      .openapi({
        description:
          'For each tool: used as the agent likes, each call confirmed by a person, or not there. `*` is every other',
        example: { run_terminal: 'ask', fetch: 'off' },
      }),
    mcpServers: z.array(mcpServerSchema).max(taskLimits.mcpServers).optional().openapi({
      description:
        'Further tools, of external servers that the agent may reach; their headers are kept sealed, and shown to nobody',
    }),
    resultSchema: z
      .record(z.string(), z.unknown())
      .optional()
      .openapi({ description: 'A JSON schema: the task ends with a value that fits it' }),
    chat: z
      .boolean()
      .default(false)
      .openapi({ description: 'Waits for your next message when it has answered, until it is canceled' }),
    metadata: z.record(z.string().max(64), z.string().max(500)).optional(),
  })
  .openapi('CreateTask')
export type CreateTask = z.output<typeof createTaskSchema>

export const waitsForSchema = z
  .discriminatedUnion('kind', [
    z.object({ kind: z.literal('message') }),
    z.object({
      kind: z.literal('answer'),
      callId: z.string(),
      question: z.string(),
      options: z.array(z.string()).optional(),
    }),
    z.object({ kind: z.literal('approval'), callId: z.string(), approvalId: z.string() }),
    z.object({ kind: z.literal('tokens'), callId: z.string().optional(), requestId: z.string().optional() }),
    z.object({ kind: z.literal('task'), callId: z.string(), taskId: z.string() }),
  ])
  .openapi('TaskWaitsFor')
export type TaskWaitsFor = z.output<typeof waitsForSchema>

export const taskUsageSchema = z
  .object({
    input: z.int(),
    cacheRead: z.int(),
    cacheWrite: z.int(),
    output: z.int(),
    tokens: z.number().openapi({ description: 'What its model calls cost, in tokens of the ledger' }),
    estimated: z.boolean(),
  })
  .openapi('TaskUsage')

export const taskSchema = z
  .object({
    id: z.string().openapi({ example: 'tsk_k3v9x0m2qp7a8b1c4d5e' }),
    agentId: z.string(),
    parentTaskId: z.string().nullable().openapi({ description: 'The task that delegated it' }),
    forkedFrom: z.object({ taskId: z.string(), step: z.int() }).nullable(),
    state: z.enum(taskStates),
    reason: z.enum(endReasons).nullable().openapi({ description: 'Why it has ended' }),
    message: z.string().nullable().openapi({ description: 'The reason, or why it stands still, in words' }),
    waitsFor: z.array(waitsForSchema).openapi({ description: 'What has to come before it goes on' }),
    text: z.string(),
    model: z.string(),
    engine: z.enum(engines),
    chat: z.boolean(),
    turn: z.int(),
    step: z.int().openapi({ description: 'Steps begun: one call of the model each, with its tool calls' }),
    maxSteps: z.int(),
    lastEvent: z.int().openapi({ description: 'The number of its latest event' }),
    tokenBudget: z.number().nullable(),
    paidBy: z.string().nullable().openapi({
      description: 'The task that delegated it and has a budget, from which it is paid; null: its agent',
    }),
    usage: taskUsageSchema,
    untrusted: z.boolean().openapi({ description: 'It has read what came from outside' }),
    metadata: z.record(z.string(), z.string()),
    createdBy: z.string(),
    createdAt: z.iso.datetime(),
    startedAt: z.iso.datetime().nullable(),
    endedAt: z.iso.datetime().nullable(),
    timeLimitMs: z.int(),
  })
  .openapi('Task')
export type TaskView = z.output<typeof taskSchema>

export const taskListSchema = z
  .object({ data: z.array(taskSchema), nextCursor: z.string().nullable() })
  .openapi('TaskList')

export const taskListQuerySchema = z.object({
  agentId: agentIdSchema
    .optional()
    .openapi({ param: { name: 'agentId', in: 'query' }, description: 'Only those of this agent' }),
  state: z
    .enum(taskStates)
    .optional()
    .openapi({ param: { name: 'state', in: 'query' } }),
  ...pageQuery(taskLimits.listed),
})
export type TaskListQuery = z.output<typeof taskListQuerySchema>

export const taskParamsSchema = z.object({
  id: z
    .string()
    .max(64)
    .openapi({ param: { name: 'id', in: 'path' }, example: 'tsk_k3v9x0m2qp7a8b1c4d5e' }),
})

export const taskMessageSchema = z
  .strictObject({
    text: textSchema,
    images: z.array(imageSchema).max(taskLimits.images).optional(),
    interrupt: z.boolean().default(false).openapi({
      description: 'What it is just doing is given up; without it your message waits for the end of the step',
    }),
  })
  .openapi('TaskMessage')
export type TaskMessage = z.output<typeof taskMessageSchema>

export const forkTaskSchema = z
  .strictObject({
    step: z.int().min(0).optional().openapi({ description: 'As it was after this step; without it: as it is now' }),
    text: textSchema.optional().openapi({ description: 'What it is told then; without it, it goes on where it stood' }),
    agent: agentIdSchema.optional().openapi({
      description:
        'Who takes it over, on its own computer as that is; without it: a new agent with a copy of the computer as it was then',
    }),
    tokenBudget: tokensSchema(
      'Of the new task, from its agent’s balance. A new agent gets them, from its parent’s balance or the reserve: without them it has none',
    ).optional(),
  })
  .openapi('ForkTask')
export type ForkTask = z.output<typeof forkTaskSchema>

export const undoTaskSchema = z
  .strictObject({
    step: z
      .int()
      .min(0)
      .optional()
      .openapi({ description: 'Back to after this step; without it: to the beginning of the last turn' }),
  })
  .openapi('UndoTask')
export type UndoTask = z.output<typeof undoTaskSchema>

export const giveTaskTokensSchema = z
  .strictObject({ tokens: tokensSchema('Whole tokens, from the agent’s balance') })
  .openapi('GiveTaskTokens')

export const taskResultSchema = z
  .object({
    state: z.enum(taskStates),
    reason: z.enum(endReasons).nullable(),
    text: z.string().nullable().openapi({ description: 'Its last words' }),
    value: z.unknown().openapi({ description: 'What fits `resultSchema`, where there was one' }),
    files: z
      .array(z.object({ path: z.string() }))
      .openapi({ description: 'Files that its tools wrote: read them at GET /v1/agents/{agentId}/files' }),
  })
  .openapi('TaskResult')
export type TaskResult = z.output<typeof taskResultSchema>

export const transcriptQuerySchema = z.object({
  format: z
    .enum(['json', 'markdown'])
    .default('json')
    .openapi({ param: { name: 'format', in: 'query' } }),
})

export const followTaskQuerySchema = z.object({
  from: z
    .string()
    .regex(/^[0-9]{1,15}$/)
    .transform(Number)
    .optional()
    .openapi({
      param: { name: 'from', in: 'query' },
      type: 'integer',
      description: 'After this event, as `Last-Event-ID`; without either: from its beginning',
    }),
})

export const taskIdempotencySchema = idempotencyHeader(
  'Asking again with the same key and body gives the first answer instead of doing it twice',
)

/**
 * What a task's event stream carries; `id` numbers them without gaps. `text` and `thinking` are pieces of what the model is writing; after `attempt` those of the same step begin anew.
 */
export const taskEventKinds = [
  'state',
  'message',
  'step',
  'attempt',
  'text',
  'thinking',
  'reply',
  'call',
  'output',
  'result',
  'compacted',
  'undone',
  'end',
] as const
export type TaskEventKind = (typeof taskEventKinds)[number]
