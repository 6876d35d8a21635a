import { z } from '@hono/zod-openapi'
import { idempotencyHeader, pageQuery } from '../kernel/http/request-shapes.ts'
import { agentRightsSchema } from '../access/callers/door.ts'
import { tokensSchema } from '../ledger/door.ts'
import { sandboxLimits } from '../sandboxes/schema.ts'
import { createWorkspaceSchema } from '../workspaces/schema.ts'

export const agentKinds = ['main', 'bot', 'messenger'] as const
export type AgentKind = (typeof agentKinds)[number]
export const channels = ['email', 'sms', 'voice', 'api'] as const
export type Channel = (typeof channels)[number]
export const agentStates = ['creating', 'undoing', 'active', 'paused', 'suspended', 'archiving', 'archived'] as const
export type AgentState = (typeof agentStates)[number]
/** Those that anybody sees: one that is being made, or whose making is undone, is not there yet. */
export const shownStates = ['active', 'paused', 'suspended', 'archiving', 'archived'] as const satisfies AgentState[]

export const agentLimits = {
  nameChars: 100,
  taskChars: 20_000,
  /** From a main agent down. */
  depth: 4,
  memoryMb: { min: sandboxLimits.memoryMb.min, max: sandboxLimits.memoryMb.max, default: 512 },
  /** Tokens that a main agent gives a bot at once without a person's confirmation, unless it is said otherwise. */
  confirmAboveTokens: 10,
  listed: { max: 500, default: 50 },
  /** Agents of a tree that is shown whole; of a larger one the newest are left out. */
  tree: 1_000,
  /** Its computer stops after so long without use, and starts again with the next. */
  idleTimeoutMs: 300_000,
  /** Of its disk, kept to go back to: the tasks of an agent take one after each step that changed files. */
  snapshots: 100,
  /** How often a change is tried that meets another one. */
  tries: 5,
  /** Agents known without asking the database. */
  known: 10_000,
  requestMs: 24 * 3_600_000,
} as const

const nameSchema = z
  .string()
  .trim()
  .min(1)
  .max(agentLimits.nameChars)
  .regex(/^[^\p{C}\p{Zl}\p{Zp}]*$/u, 'no control or invisible characters')
  .normalize('NFC')
  .openapi({ example: 'Research' })

const taskSchema = z
  .string()
  .min(1)
  .max(agentLimits.taskChars)
  .refine((text) => !text.includes('\0'), { message: 'must not contain NUL characters' })
  .openapi({ description: 'What it is for', example: 'Answer questions about orders' })

const idSchema = z
  .string()
  .regex(/^agt_[a-z0-9]{1,40}$/, 'an id such as agt_k3v9x0m2qp7a8b1c4d5e')
  .openapi({ example: 'agt_k3v9x0m2qp7a8b1c4d5e' })

const templateSchema = createWorkspaceSchema.shape.template.unwrap()

const memorySchema = z.int().min(agentLimits.memoryMb.min).max(agentLimits.memoryMb.max)

const confirmAboveSchema = tokensSchema(
  'What its bots ask for is confirmed by a person where it is more than so many tokens at once; 0: always',
  0,
)

export const createAgentSchema = z
  .strictObject({
    name: nameSchema,
    kind: z.enum(agentKinds).optional().openapi({ description: 'Without it: `bot` below a parent, else `main`' }),
    parentAgent: idSchema.optional().openapi({ description: 'The agent it stands below' }),
    parent: idSchema.optional().openapi({ description: 'The same as `parentAgent`' }),
    task: taskSchema.optional(),
    channel: z
      .enum(channels)
      .optional()
      .openapi({ description: 'The one channel of a bot or messenger; `api`: it speaks to programs alone' }),
    template: templateSchema.optional().openapi({ description: 'What its computer begins as. Without it: `host`' }),
    memoryMb: memorySchema.optional(),
    tokenBudget: tokensSchema(
      'From its parent’s balance, or for a main agent from the account’s reserve',
      0,
    ).optional(),
    monthlyTokens: tokensSchema('Renewed from the reserve with each month', 0).optional(),
    confirmAboveTokens: confirmAboveSchema.optional(),
    rights: agentRightsSchema.optional().openapi({
      description: 'Never wider than the parent’s and its maker’s. Without it: what its kind usually needs',
    }),
  })
  .superRefine((wish, context) => {
    const fault = (field: string, message: string) => context.addIssue({ code: 'custom', path: [field], message })
    const { kind, task, channel } = wish
    if (wish.parent !== undefined && wish.parentAgent !== undefined) {
      fault('parent', 'the same as parentAgent: send one of them')
    }
    const parent = wish.parentAgent ?? wish.parent
    const own = kind ?? (parent === undefined ? 'main' : 'bot')
    if (own === 'main') {
      if (channel !== undefined) fault('channel', 'a main agent has none; its bots have')
      return
    }
    if (parent === undefined) fault('parentAgent', `a ${own} stands below another agent`)
    if (own === 'bot' && task === undefined) fault('task', 'a bot has one task')
    if (own === 'messenger') {
      if (channel === undefined || channel === 'api') fault('channel', 'a messenger has email, sms or voice')
      for (const field of ['template', 'memoryMb'] as const) {
        if (wish[field] !== undefined) fault(field, 'a messenger has neither workspace nor sandbox')
      }
    }
  })
  .openapi('CreateAgent')
export type CreateAgent = z.output<typeof createAgentSchema>

export const patchAgentSchema = z
  .strictObject({
    name: nameSchema.optional(),
    task: taskSchema.optional(),
    rights: agentRightsSchema.optional().openapi({ description: 'Never wider than the parent’s, nor than yours' }),
    memoryMb: memorySchema.optional().openapi({ description: 'Of its next sandbox' }),
    monthlyTokens: tokensSchema('Renewed from the reserve with each month; 0 ends it', 0).optional(),
    confirmAboveTokens: confirmAboveSchema.optional(),
    parentAgent: idSchema.optional().openapi({ description: 'An agent keeps the one it has' }),
  })
  .openapi('PatchAgent')
export type PatchAgent = z.output<typeof patchAgentSchema>

export const giveTokensSchema = z
  .strictObject({
    tokens: tokensSchema('Whole tokens'),
    from: z
      .enum(['parent', 'reserve'])
      .optional()
      .openapi({ description: 'Without it: from its parent, and for an agent without one from the reserve' }),
  })
  .openapi('GiveTokens')
export type GiveTokens = z.output<typeof giveTokensSchema>

const amountSchema = z.number().openapi({ description: 'Tokens, with at most six places' })

export const agentBalanceSchema = z
  .object({
    granted: amountSchema.openapi({ description: 'Tokens that end with the month; spent first' }),
    bought: amountSchema,
    held: amountSchema.openapi({ description: 'Set aside for what runs' }),
    used: amountSchema,
  })
  .openapi('AgentBalance')
export type AgentBalance = z.output<typeof agentBalanceSchema>

export const agentSchema = z
  .object({
    id: idSchema,
    name: z.string(),
    kind: z.enum(agentKinds),
    parentAgent: z.string().nullable(),
    depth: z.int().openapi({ description: '1 for an agent without a parent' }),
    state: z.enum(shownStates),
    task: z.string().nullable(),
    channel: z.enum(channels).nullable(),
    template: z.string(),
    memoryMb: z.int(),
    monthlyTokens: z.number(),
    confirmAboveTokens: z.number(),
    rights: z.array(z.string()).openapi({ description: 'Its own' }),
    effectiveRights: z.array(z.string()).openapi({ description: 'What is left of these after all above it, now' }),
    workspaceId: z.string().nullable().openapi({ description: 'Made when its computer is first used' }),
    sandboxId: z.string().nullable().openapi({ description: 'Its present or last sandbox' }),
    createdAt: z.iso.datetime(),
    balance: agentBalanceSchema.optional().openapi({ description: 'Where one agent is asked for' }),
  })
  .openapi('Agent')
export type Agent = z.output<typeof agentSchema>

export const agentListSchema = z
  .object({ data: z.array(agentSchema), nextCursor: z.string().nullable() })
  .openapi('AgentList')

export interface AgentNode extends Pick<Agent, 'id' | 'name' | 'kind' | 'state' | 'channel' | 'createdAt'> {
  children: AgentNode[]
}

export const agentNodeSchema: z.ZodType<AgentNode> = z
  .object({
    id: z.string(),
    name: z.string(),
    kind: z.enum(agentKinds),
    state: z.enum(shownStates),
    channel: z.enum(channels).nullable(),
    createdAt: z.iso.datetime(),
    children: z.array(z.lazy(() => agentNodeSchema)),
  })
  .openapi('AgentNode')

export const agentTreeSchema = z
  .object({
    data: z.array(agentNodeSchema),
    complete: z.boolean().openapi({ description: `False where there are more than ${agentLimits.tree}` }),
  })
  .openapi('AgentTree')

export const agentListQuerySchema = z.object({
  state: z
    .enum(shownStates)
    .optional()
    .openapi({
      param: { name: 'state', in: 'query' },
      description: 'Without it: all but the archived',
    }),
  kind: z
    .enum(agentKinds)
    .optional()
    .openapi({ param: { name: 'kind', in: 'query' } }),
  parentAgent: idSchema
    .optional()
    .openapi({ param: { name: 'parentAgent', in: 'query' }, description: 'Those right below this one' }),
  ...pageQuery(agentLimits.listed),
})
export type AgentListQuery = z.output<typeof agentListQuerySchema>

export const agentIdParamSchema = z.object({
  id: z
    .string()
    .max(64)
    .openapi({ param: { name: 'id', in: 'path' }, example: 'agt_k3v9x0m2qp7a8b1c4d5e' }),
})

export const agentIdempotencySchema = idempotencyHeader(
  'Asking again with the same key and body gives the first answer instead of doing it twice',
)
