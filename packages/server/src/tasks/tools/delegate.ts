import { z } from 'zod'
import {
  agentRightsSchema,
  decide,
  inheritable,
  type KnownCaller,
  narrowedFor,
  type Right,
} from '../../access/callers/door.ts'
import { type Agent, createAgentSchema } from '../../agents/schema.ts'
import type { Agents } from '../../agents/service.ts'
import { shownCount } from './bounded.ts'
import { callKey } from './call-key.ts'
import { lacks } from './guard.ts'
import { fenced } from './outside.ts'
import { done, failed, type Tool, type ToolContext, type ToolOutcome } from './tool.ts'

/** What a delegate is given. */
export interface DelegateWish {
  agentId: string
  /** The task that it is a part of. */
  parentTaskId: string
  text: string
  /** At most these, of what its agent has. */
  rights: readonly Right[]
  /** Whole tokens, from the budget of the task that it is a part of, where that has one, else from the purse of its agent. @default it spends those */
  tokenBudget: number | undefined
}

export interface DelegatedTask {
  id: string
  agentId: string
  /** In the words of the API, such as `running`, `waiting`, `finished` or `failed`. */
  state: string
  isOver: boolean
  /** It did what it was given. */
  isDone: boolean
  /** What it answered at its end. */
  result: string | undefined
  /** Why it ended without one, or what it waits for. */
  reason: string | undefined
}

export interface TaskDoor {
  /** Made once for each key of a caller: the same again answers with what was made, as it is now. */
  create(wish: DelegateWish, options: { key: string; caller: KnownCaller }): Promise<DelegatedTask>
  /** Throws where the caller may not know of it. */
  view(taskId: string, caller: KnownCaller): Promise<DelegatedTask>
}

export interface DelegateDeps {
  tasks: TaskDoor
  agents: Pick<Agents, 'create' | 'get'>
}

const rightsField = agentRightsSchema
  .optional()
  .describe(
    'What it may do, such as read:files; only what you may. Without it: what its kind usually needs, or what it has',
  )
const tokensField = z.int().min(1).max(1_000_000_000)

const input = z
  .strictObject({
    agentId: z
      .string()
      .regex(/^agt_[a-z0-9]{1,40}$/, 'an id such as agt_k3v9x0m2qp7a8b1c4d5e')
      .optional()
      .describe('A bot below you that is there already'),
    bot: z
      .strictObject({
        name: z.string().trim().min(1).max(100),
        task: z.string().trim().min(1).max(20_000).describe('What it is for'),
        rights: rightsField,
        tokenBudget: tokensField.describe('Whole tokens, from yours; what is left comes back when it is archived'),
      })
      .optional()
      .describe('A new bot'),
    task: z.string().trim().min(1).max(100_000).describe('All it must know: it sees nothing of your conversation'),
    rights: rightsField.describe('Of this task, if less than the bot has'),
    tokenBudget: tokensField
      .optional()
      .describe('Of this task: from your own budget if you have one, else from what the bot has'),
    background: z.boolean().default(false).describe('Do not wait: see what became of it with read_delegate'),
  })
  .refine(({ agentId, bot }) => (agentId === undefined) !== (bot === undefined), {
    message: 'name either agentId, a bot that is there, or bot, a new one',
  })
type Input = z.output<typeof input>

export function createDelegate({ tasks, agents }: DelegateDeps): Tool<Input> {
  return {
    name: 'delegate',
    description:
      'Hand a part of the task to a bot below you, which has its own computer, fewer rights and a budget of its own, and wait for its result.',
    input,
    needs: ['delegate'],
    mode: 'auto',
    isParallel: true,
    changesFiles: false,
    // Bot and task are made under the key of the call.
    afterCrash: 'again',
    async run(wish, context) {
      const { caller, taskId, waited } = context
      // For what lasted longer than keys of agents are kept.
      if (waited?.kind === 'task') return endOrWait(await tasks.view(waited.taskId, caller), context)
      if (context.hasOwnTokens && wish.bot?.tokenBudget !== undefined) return failed(notItsTokens)
      const key = callKey(context)
      const refusal = wish.bot && missingForNew(caller)
      if (refusal !== undefined) return failed(refusal)
      const agent = wish.bot
        ? await newBot(agents, wish.bot, context, key)
        : await knownBot(agents, wish.agentId!, context)
      if (typeof agent === 'string') return failed(agent)
      const rights = rightsOf(wish, agent, caller)
      if (typeof rights === 'string') return failed(rights)
      const made = { agentId: agent.id, parentTaskId: taskId, text: wish.task, rights, tokenBudget: wish.tokenBudget }
      const task = await tasks.create(made, { key, caller })
      if (wish.background && !task.isOver) {
        return done(
          `${agent.name} (${agent.id}) works on ${task.id}. See it with read_delegate {"task": "${task.id}"}.`,
        )
      }
      return endOrWait(task, context)
    },
  }
}

/** They would come from the agent's purse, past the bound that somebody set for this task. */
export const notItsTokens =
  'Not done: this task has a budget of its own, and may give out no tokens of its agent. Give the work to a bot that is there already, which this task then pays for, do it yourself, or ask a person.'

function endOrWait(task: DelegatedTask, context: ToolContext): ToolOutcome {
  return task.isOver ? endOf(task, context) : { kind: 'waits', for: { kind: 'task', taskId: task.id } }
}

function missingForNew({ principal }: KnownCaller): string | undefined {
  return decide(principal, { right: 'write:agents' }).allowed ? undefined : lacks('write:agents')
}

async function newBot(
  agents: DelegateDeps['agents'],
  { name, task, rights, tokenBudget }: NonNullable<Input['bot']>,
  { agentId, caller }: ToolContext,
  idempotencyKey: string,
): Promise<Agent> {
  const wish = createAgentSchema.parse({
    name,
    kind: 'bot',
    parentAgent: agentId,
    task,
    tokenBudget,
    ...(rights && { rights }),
  })
  return agents.create(wish, caller, { idempotencyKey })
}

/** Or why it is none. An agent knows of those below it alone, so that what it may not name is not found. */
async function knownBot(
  agents: DelegateDeps['agents'],
  id: string,
  { agentId, caller }: ToolContext,
): Promise<Agent | string> {
  if (id === agentId) return 'That is you: delegate to a bot below you.'
  const agent = await agents.get(id, caller)
  if (agent.kind === 'messenger') return `${id} is a messenger, which works on no tasks.`
  return agent.state === 'active' ? agent : `${id} is ${agent.state}: it can take no task now.`
}

/** Never more than this task has, which may be less than its agent. */
function rightsOf({ rights }: Input, { kind }: Agent, { principal }: KnownCaller): readonly Right[] | string {
  const own = inheritable(principal)
  if (!rights) return own
  const narrowed = narrowedFor(own, rights, kind)
  return narrowed.ok ? narrowed.rights : lacks(narrowed.right)
}

export function endOf(task: DelegatedTask, context: ToolContext): ToolOutcome {
  const { id, agentId, state, isDone, result, reason } = task
  const why = reason === undefined ? '' : `: ${reason}`
  const head = `${id} of ${agentId} is ${state}${why}.`
  if (result === undefined) return isDone ? done(head) : failed(head)
  const rest = (leftOut: number): string =>
    `${shownCount(leftOut)} characters left out here; ask the bot to put them into a file`
  // It may have read anything.
  const told = `${head}\n${fenced(result, { source: `the delegate ${agentId}`, context, rest })}`
  return isDone ? done(told) : failed(told)
}
