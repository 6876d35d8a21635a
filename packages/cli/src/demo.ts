import { type Agent, type Delta, DeltaApiError } from '@delta-agents/sdk'
import type { Io } from './io.ts'
import { paint } from './io.ts'
import { attach } from './task-attach.ts'

export interface DemoOptions {
  json: boolean
}

const model = 'recording/fibonacci'
const text = 'Write a function in Python that computes Fibonacci numbers, and test it.'
/** For its computer; the recording itself costs nothing. */
const tokens = 5
/** With less than this its computer may not last for the demo. */
const leastTokens = 1
const name = 'Demo'

/** A recording through the real loop, tools, sandbox and ledger, said so before and after. */
export async function demo(io: Io, delta: Delta, { json }: DemoOptions): Promise<number> {
  const say = (line: string) => void (json || io.stderr.write(`${line}\n`))
  say(`${label(io)} No model is asked: its words were written down before, for ${model}.`)
  say(
    'Everything else is real: the agent, its sandbox, the files, the commands, what they answer and what they cost.\n',
  )
  const agent = await demoAgent(delta)
  const metadata = { demo: 'recording', recording: model }
  const task = await delta.tasks.create({ agent, text, model, metadata, timeLimitMs: 600_000 })
  const code = await attach(io, task, { json })
  say(`\n${label(io)} That was a recording. The files are real: delta agents exec ${agent.id} 'cat fib.py'`)
  say(
    'For a model of your own set ANTHROPIC_API_KEY, GEMINI_API_KEY or OPENAI_BASE_URL, and DELTA_MODEL, where the server starts.',
  )
  say(`Then: delta task create --agent ${name} 'What you want done'`)
  return code
}

/** The one of the last time, where it is still there. */
async function demoAgent(delta: Delta): Promise<Agent> {
  for await (const agent of delta.agents.list({ kind: 'main', pageSize: 500 })) {
    if (agent.name !== name || agent.state === 'archiving') continue
    const { balance } = await agent.refresh()
    if (balance && balance.granted + balance.bought < leastTokens) await agent.giveTokens(tokens, { from: 'reserve' })
    // Somebody let it stand still, or it had no tokens.
    if (agent.state === 'paused') await agent.resume().catch(unlessActive)
    return agent
  }
  return delta.agents.create({ name, config: { tokenBudget: tokens } })
}

function unlessActive(error: unknown): void {
  if (!(error instanceof DeltaApiError && error.status === 409)) throw error
}

function label(io: Io): string {
  return paint(io, io.stderr, 'yellow', '[recording]')
}
