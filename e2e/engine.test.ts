import type { Agent, Delta, Task, TaskInfo } from '@delta-agents/sdk'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { callTool, type PeerReply, type PeerRequest, say } from '../packages/server/src/models/testing/peer.ts'
import { provideAgentSdk } from './agent-sdk.ts'
import { isLongForm, longFormOnly } from './debian.ts'
import { type ModelPlatform, startModelPlatform } from './model.ts'

// The real Claude Agent SDK in a real sandbox; only the model is the scripted peer of the tests.

const engine = 'claude-agent-sdk'

describe('the Claude Agent SDK', () => {
  let on: ModelPlatform
  let delta: Delta
  let agent: Agent

  const bash = (command: string): PeerReply => callTool('Bash', { command, description: 'A test' })

  /** Forgets what a test before left, where it failed in the middle. */
  function script(...replies: PeerReply[]): void {
    const left = [...replies]
    const nothing = { refusal: { status: 400, message: 'Nothing is scripted for this request.' } }
    on.peer.otherwise(() => left.shift() ?? nothing)
  }

  /** Requests since then. */
  function from(count: number): readonly PeerRequest[] {
    return on.peer.requests().slice(count)
  }

  async function isIn(task: Task, state: TaskInfo['state']): Promise<void> {
    await expect.poll(async () => (await task.refresh()).state, { timeout: 60_000 }).toBe(state)
  }

  beforeEach(({ skip }) => skip(!isLongForm, longFormOnly))
  beforeAll(async () => {
    if (!isLongForm) return
    const folder = await provideAgentSdk()
    on = await startModelPlatform(0)
    delta = on.delta
    agent = await delta.agents.create({ name: 'Guest worker', config: { memoryMb: 1_024, tokenBudget: 900 } })
    await agent.files.uploadFolder(folder, '/workspace/node_modules')
  }, 600_000)
  afterAll(() => on?.end())

  test('works in the agent’s sandbox with its own tools, and sees no key of a provider', async () => {
    const count = on.peer.requests().length
    script(
      bash(
        'echo $((6*7)) > out.txt; id -u; cat /proc/[0-9]*/environ 2>/dev/null | tr "\\0" "\\n" | grep -ci anthropic-key',
      ),
      callTool('Read', { file_path: '/workspace/out.txt' }),
      say('It is 42.'),
    )
    const task = await agent.run('What is six times seven?', { engine, tokenBudget: 200 })
    expect(task.info).toMatchObject({ state: 'finished', reason: 'done', step: 3, engine })
    expect(await task.result()).toMatchObject({ text: 'It is 42.' })
    expect(await agent.files.readText('out.txt')).toBe('42\n')
    const { messages, steps } = await task.transcript()
    expect(messages.map(({ role }) => role)).toEqual(['user', 'assistant', 'tool', 'assistant', 'tool', 'assistant'])
    expect(steps.map(({ state }) => state)).toEqual(['done', 'done', 'done', 'done'])
    expect(JSON.stringify(messages)).toContain('1000\\n0')
    const requests = from(count)
    expect(requests).toHaveLength(3)
    expect(requests[0]!.lastText).toContain('What is six times seven?')
    expect(requests[1]!.results[0]!.text).toContain('1000')
    expect(requests.every(({ tools }) => tools.includes('Bash') && !tools.includes('WebSearch'))).toBe(true)
    const used = await delta.ledger.usage({ groupBy: ['task'], taskId: task.id }).all()
    expect(used[0]!.tokens).toBeCloseTo(task.info.usage.tokens, 5)
    expect(task.info.usage.tokens).toBeGreaterThan(0)
  })

  test('gives back the thinking of a model as it came', async () => {
    const count = on.peer.requests().length
    script({ parts: [{ type: 'thinking', text: 'I look first.' }, ...bash('true').parts!] }, say('I looked.'))
    const task = await agent.run('Look', { engine, thinking: 'low' })
    // The peer takes no thinking whose signature is not its own.
    expect(task.info).toMatchObject({ state: 'finished', message: 'It is done' })
    expect(JSON.stringify(from(count)[1]!.body.messages)).toContain('I look first.')
  })

  test('remembers in a chat, and after its server was killed in the middle of a turn', async () => {
    script(say('I keep it in mind.'))
    const task = await delta.tasks.create({ agent, text: 'The word is aubergine', engine, chat: true })
    await isIn(task, 'waiting')
    const count = on.peer.requests().length
    // The SDK refuses to sleep for long.
    script(bash('tail -f /dev/null'))
    await task.message('Wait for a minute')
    await expect.poll(() => from(count).length, { timeout: 60_000 }).toBe(1)
    expect(JSON.stringify(from(count)[0]!.body.messages)).toContain('The word is aubergine')
    await expect.poll(async () => (await task.transcript()).steps.at(-1)!.state).toBe('acting')
    script(say('It was aubergine.'))
    await on.restart('SIGKILL')
    await isIn(task, 'waiting')
    const last = from(count).at(-1)!
    expect(JSON.stringify(last.body.messages)).toContain('The word is aubergine')
    expect(last.lastText).toContain('started anew in the middle of this turn')
    const { steps, messages } = await task.transcript()
    expect(steps.map(({ state }) => state)).toEqual(['done', 'done', 'cut', 'done'])
    expect(JSON.stringify(messages.at(-1))).toContain('It was aubergine.')
    const execs = await agent.commands.list()
    expect(execs.filter(({ state }) => state === 'running')).toEqual([])
    await task.cancel()
  })

  test('stops what it does when it is interrupted, and reads the message', async () => {
    const count = on.peer.requests().length
    script(bash('tail -f /dev/null; echo over'), say('As you like.'))
    const task = await delta.tasks.create({ agent, text: 'Sleep', engine, chat: true })
    await expect.poll(async () => (await task.transcript()).steps.at(-1)!.state, { timeout: 60_000 }).toBe('acting')
    await task.message('Rather not', { interrupt: true })
    await expect.poll(() => from(count).length, { timeout: 60_000 }).toBe(2)
    await isIn(task, 'waiting')
    expect(from(count)[1]!.lastText).toContain('Rather not')
    expect(
      from(count)[1]!
        .results.map(({ text }) => text)
        .join('\n'),
    ).not.toMatch(/\bover\b/)
    await task.cancel()
  })

  test('asks nothing that its task has no tokens for, and goes on when it has', async () => {
    const count = on.peer.requests().length
    script(say('Now I can.'))
    const task = await delta.tasks.create({ agent, text: 'Go', engine, tokenBudget: 1 })
    await isIn(task, 'suspended')
    expect(from(count)).toEqual([])
    await task.giveTokens(100)
    await isIn(task, 'finished')
    expect(from(count)).toHaveLength(1)
  })

  test('says how to install it where it is not there', async () => {
    const other = await delta.agents.create({ name: 'Without it', config: { memoryMb: 256, tokenBudget: 10 } })
    const task = await other.run('Go', { engine })
    expect(task.info).toMatchObject({
      state: 'failed',
      reason: 'engine_failed',
      message: expect.stringContaining('npm install -g @anthropic-ai/claude-agent-sdk@0.3.330'),
    })
    await other.archive()
  })
})
