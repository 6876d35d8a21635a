import { type Agent, type Delta, DeltaApiError, type Task } from '@delta-agents/sdk'
import type { PeerReply, PeerRequest, ScriptedPeer } from '../packages/server/src/models/testing/peer.ts'
import type { Random } from './workload.ts'

/** Requests of the test itself at once. */
const atOnce = 25
const lookMs = 500
const moreTokens = 60

/** An agent with one task, which it pays for of its own tokens or of a budget that is set aside of them. */
export interface Spender {
  name: string
  agentId: string
  taskId: string
  /** Of its model, until it is done. */
  replies: number
  /** In this one it asks a person. */
  asksIn: number
  /** Whole tokens that it was given, and of these its task. */
  given: number
  budget: number | undefined
  whenOut: 'gets more' | 'is canceled'
  timesOut: number
  /** How many replies stood in the conversation at each question to its model, as they came. */
  questions: number[]
}

export interface SpendersOptions {
  /** Tries again while a server is away. */
  delta: Delta
  peer: ScriptedPeer
  random: Random
  count: number
}

export type Spenders = ReturnType<typeof createSpenders>

/** What the model of a spender says first in each reply. */
export const wordsOf = (name: string, reply: number) => `${name} says ${reply}.`

/** Agents that all work at once, each at its own pace and price; and the person who answers them, gives more tokens or cancels. */
export function createSpenders({ delta, peer, random, count }: SpendersOptions) {
  const all = Array.from({ length: count }, (_, number): Spender => {
    const replies = random.between(4, 10)
    const budget = random.chance(0.5) ? random.between(2, 12) : undefined
    return {
      name: `Spender-${number}`,
      agentId: '',
      taskId: '',
      replies,
      asksIn: random.below(replies * 3),
      given: Math.max(random.between(3, 40), budget ?? 0),
      budget,
      whenOut: random.chance(0.2) ? 'is canceled' : 'gets more',
      timesOut: 0,
      questions: [],
    }
  })
  const byName = new Map(all.map((one) => [one.name, one]))
  let asked = 0

  peer.otherwise((request) => {
    const spender = byName.get(/Spender-\d+/.exec(firstWords(request))?.[0] ?? '')
    if (!spender) return { refusal: { status: 400, message: 'This is no spender’s.' } }
    asked += 1
    spender.questions.push(request.replies)
    return replyOf(spender, request)
  })

  /** As dear as it happens to be, but no provider says more than it was allowed to. */
  function replyOf(
    { name, replies, asksIn }: Spender,
    { replies: reply, maxOutputTokens = 0 }: PeerRequest,
  ): PeerReply {
    const wanted = random.between(100, 1_500)
    const isCut = wanted > maxOutputTokens
    const call =
      reply >= replies - 1
        ? { tool: 'finish', input: { value: { replies: reply } } }
        : reply === asksIn
          ? { tool: 'ask_user', input: { question: `Shall ${name} go on?` } }
          : { tool: 'read_delegate', input: { task: `tsk_none${reply}` } }
    return {
      parts: [
        { type: 'text', text: wordsOf(name, reply) },
        { type: 'tool_call', ...call },
      ],
      usage: { output: Math.min(wanted, maxOutputTokens) },
      ...(isCut && { stop: 'cut' }),
      firstMs: random.below(60),
      ...(random.chance(0.3) && { pieceMs: 3 }),
    }
  }

  async function makeAgents(): Promise<void> {
    await eachOf(all, async (one) => {
      const config = { memoryMb: 128, tokenBudget: one.given }
      one.agentId = (await delta.agents.create({ name: one.name, config, idempotencyKey: one.name })).id
    })
  }

  async function giveTask(one: Spender): Promise<void> {
    const task = await delta.tasks.create({
      agent: one.agentId,
      text: `You are ${one.name}. Go on until you are done.`,
      resultSchema: { type: 'object', properties: { replies: { type: 'integer' } }, required: ['replies'] },
      ...(one.budget !== undefined && { tokenBudget: one.budget }),
      idempotencyKey: `task of ${one.name}`,
    })
    one.taskId = task.id
  }

  /** Of everything that stands still, until nothing does any more. */
  async function tend(): Promise<void> {
    const byTask = new Map(all.map((one) => [one.taskId, one]))
    for (;;) {
      const tasks = await delta.tasks.list({ pageSize: 200 }).all()
      const open = tasks.filter(({ info }) => info.endedAt === null)
      if (tasks.length >= count && open.length === 0) return
      await eachOf(open, async (task) => {
        const spender = byTask.get(task.id)!
        if (task.state === 'waiting') await orOver(task.message('Yes.', { idempotencyKey: `answer ${task.info.step}` }))
        if (task.state === 'suspended') await orOver(outOfTokens(spender, task))
      })
      await new Promise((resolve) => setTimeout(resolve, lookMs))
    }
  }

  async function outOfTokens(one: Spender, task: Task): Promise<unknown> {
    one.timesOut += 1
    if (one.whenOut === 'is canceled') return task.cancel()
    const idempotencyKey = `more ${one.name} ${one.timesOut}`
    const agent: Agent = await delta.agents.get(one.agentId)
    await agent.giveTokens(moreTokens, { from: 'reserve', idempotencyKey })
    one.given += moreTokens
    if (one.budget === undefined) return undefined
    const budget = moreTokens / 2
    await task.giveTokens(budget, { idempotencyKey: `${idempotencyKey}, its task` })
    one.budget += budget
    return undefined
  }

  return {
    all,
    /** Questions that came to the model. */
    asked: () => asked,
    expectedReplies: () => all.reduce((sum, { replies }) => sum + replies, 0),
    makeAgents,
    /** Until every task has ended. */
    async work(): Promise<void> {
      await eachOf(all, giveTask)
      await tend()
    },
    /** What a server that was killed had held is settled: at the next start, or where it might still be alive some time later. */
    async settled(): Promise<boolean> {
      const { purses } = await delta.ledger.get()
      return purses.every(({ held }) => held === 0)
    },
  }
}

function firstWords({ body }: PeerRequest): string {
  const [first] = body['messages'] as readonly unknown[]
  return JSON.stringify(first)
}

/** It has gone on or ended at the same moment. */
async function orOver(work: Promise<unknown>): Promise<void> {
  await work.catch((error: unknown) => {
    const isOver = error instanceof DeltaApiError && ['task_over', 'task_state_conflict'].includes(error.code)
    if (!isOver) throw error
  })
}

async function eachOf<One>(list: readonly One[], work: (one: One) => Promise<void>): Promise<void> {
  const left = [...list]
  const take = async () => {
    for (let one = left.shift(); one !== undefined; one = left.shift()) await work(one)
  }
  await Promise.all(Array.from({ length: atOnce }, take))
}
