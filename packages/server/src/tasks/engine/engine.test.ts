import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { testDatabases } from '../../kernel/db/testing.ts'
import { refuse, say, type PeerReply } from '../../models/testing/peers.ts'
import { openTestComputer } from '../tools/testing.ts'
import {
  accountId,
  anna,
  atRest,
  checkTask,
  give,
  newAgent,
  newWorld,
  type Server,
  taskTestMigrations,
  until,
  type World,
} from '../testing.ts'
import { sdkPackage, sdkVersion } from './wire.ts'

// The runner is the real one, in a real guest that runs as an ordinary process. What it finds as the Claude Agent SDK is a stand-in (testing/sdk.mjs), which lies and hangs when it is told to;
// the real SDK works in e2e/engine.test.ts.

const engine = 'claude-agent-sdk'

testDatabases('a task by another engine', (open) => {
  async function start({ version = sdkVersion }: { version?: string | null } = {}) {
    const computer = await openTestComputer()
    onTestFinished(computer.close)
    if (version !== null) {
      const folder = join(computer.folder, 'node_modules', sdkPackage)
      mkdirSync(folder, { recursive: true })
      writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: sdkPackage, version, type: 'module' }))
      copyFileSync(join(import.meta.dirname, 'testing/sdk.mjs'), join(folder, 'sdk.mjs'))
    }
    const world = await newWorld((await open(taskTestMigrations)).of(), { execs: computer.execs })
    const server = await world.serve()
    const agent = await newAgent(server)
    const doIt = (text: string, wish: object = {}) => give(server, agent.id, { engine, text, ...wish })
    const running = async () => {
      const all = await computer.execs.list('sbx_test', anna)
      return all.filter(({ state }) => state === 'running')
    }
    return { ...world, world, server, agent, computer, doIt, running }
  }

  const texts = async ({ store }: World, id: string): Promise<string> =>
    (await store.messages(id))
      .flatMap(({ message }) => (message.role === 'assistant' ? message.parts : []))
      .map((part) => (part.type === 'text' ? part.text : ''))
      .join('\n')

  /** Until the server works on it and the stand-in waits. */
  async function hangs({ store, peer }: World, id: string, requests: number): Promise<void> {
    await until(() => peer.requests().length === requests, 'it has asked')
    await until(async () => (await store.step(id, requests))?.state === 'acting', 'its step is acting')
  }

  test('asks, acts and ends: each request is a step that is paid for, all of it is told', async () => {
    const { world, doIt, peer, store, events, running } = await start()
    peer.script(
      { ...say('First.'), usage: { input: 100, output: 10 } },
      { ...say('Last.'), usage: { input: 200, output: 20 } },
    )
    const { id, engine: shown } = await doIt('ask use whisper ask')
    expect(shown).toBe(engine)
    const task = await atRest(world, id)
    expect(task).toMatchObject({ state: 'finished', reason: 'done', step: 2, result: { text: 'Last.' } })
    expect(task.usage).toMatchObject({ input: 300, output: 30 })
    expect(task.cost).toBe(300 + 10 * 30)
    const steps = await store.steps(id)
    expect(steps.slice(1).map(({ state, attempts }) => [state, attempts.length])).toEqual([
      ['done', 1],
      ['done', 1],
    ])
    const messages = (await store.messages(id)).map(({ step, message: { role } }) => `${step} ${role}`)
    expect(messages).toEqual(['0 user', '1 assistant', '1 assistant', '1 tool', '2 assistant'])
    const kinds = (await events(id)).map(({ kind }) => kind).filter((kind) => kind !== 'text')
    expect(kinds).toEqual(['message', 'step', 'reply', 'call', 'result', 'step', 'reply', 'state', 'end'])
    expect(await texts(world, id)).not.toContain('Of another agent')
    await checkTask(world, id)
    expect(await running()).toEqual([])
  })

  test('gets a key of its own and no other, its model under every name, and no search by Anthropic', async () => {
    const { world, doIt, peer } = await start()
    const wish = { thinking: 'low', tools: { Bash: 'off', Read: 'auto' }, instructions: 'Be short' }
    const { id } = await doIt('options', wish)
    await atRest(world, id)
    const { env, ...shown } = JSON.parse(await texts(world, id)) as { env: Record<string, string> }
    expect(shown).toEqual({
      model: 'claude-sonnet-4-5',
      thinking: { type: 'enabled', budgetTokens: 4_000 },
      disallowedTools: ['WebSearch', 'Bash'],
      permissionMode: 'bypassPermissions',
      append: true,
    })
    expect(env['ANTHROPIC_BASE_URL']).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/)
    expect(env['ANTHROPIC_AUTH_TOKEN']).toMatch(/^[\w-]{43}$/)
    const models = Object.entries(env).filter(([name]) => name.endsWith('MODEL'))
    expect(models.length).toBeGreaterThanOrEqual(5)
    expect(new Set(models.map(([, model]) => model))).toEqual(new Set(['claude-sonnet-4-5']))
    expect(env).toMatchObject({ CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1', DISABLE_TELEMETRY: '1' })
    expect(JSON.stringify(env)).not.toContain(peer.key)
  })

  test('remembers in its next turn what was said in the one before', async () => {
    const { world, server, doIt, peer } = await start()
    peer.otherwise(say('Well.'))
    const { id } = await doIt('ask', { chat: true })
    expect(await atRest(world, id)).toMatchObject({ state: 'waiting', turn: 1 })
    await server.tasks.message(id, { text: 'remember', interrupt: false }, anna)
    await until(async () => (await texts(world, id)).includes('I was told: ask | remember'), 'it remembers')
    expect(await atRest(world, id)).toMatchObject({ state: 'waiting', turn: 2 })
    await checkTask(world, id)
  })

  test('forked, it remembers too, and goes on in a session of its own', async () => {
    const { world, server, agent, doIt } = await start()
    const { id } = await doIt('one')
    await atRest(world, id)
    const fork = await server.tasks.fork(id, { text: 'remember', agent: agent.id }, anna)
    await atRest(world, fork.id)
    expect(await texts(world, fork.id)).toContain('I was told: one | remember')
  })

  describe('where the SDK is', () => {
    test.each([
      ['not there', null, 'is not installed'],
      ['of another version', '0.2.1', 'is there as 0.2.1'],
    ])('%s, its end says what to do', async (_, version, words) => {
      const { world, doIt, peer } = await start({ version })
      const { id } = await doIt('ask')
      const task = await atRest(world, id)
      expect(task).toMatchObject({ state: 'failed', reason: 'engine_failed' })
      expect(task.message).toContain(words)
      expect(task.message).toContain(`npm install -g ${sdkPackage}@${sdkVersion}`)
      expect(peer.requests()).toEqual([])
    })
  })

  test.each([
    ['another provider’s model', { model: 'google/gemini-2.5-flash' }, 'body.model'],
    ['fall-backs', { fallbackModels: ['anthropic/claude-haiku-4-5'] }, 'body.fallbackModels'],
    ['external servers', { mcpServers: [{ name: 'x', url: 'https://x.test' }] }, 'body.mcpServers'],
    ['a value at its end', { resultSchema: { type: 'number' } }, 'body.resultSchema'],
    ['a person who confirms', { tools: { Bash: 'ask' } }, 'body.tools.Bash'],
    ['all others', { tools: { '*': 'off' } }, 'body.tools.*'],
  ])('is not made with %s', async (_, wish, field) => {
    const { doIt, store } = await start()
    await expect(doIt('ask', wish)).rejects.toMatchObject({
      code: 'invalid_request',
      message: expect.stringContaining(field),
    })
    expect(await store.countOpen(accountId)).toBe(0)
  })

  test('is not made for a messenger, which has no computer', async () => {
    const { server, agent } = await start()
    const wish = { kind: 'messenger', parent: agent.id, channel: 'email', task: 'Say hello', tokenBudget: 1 }
    const messenger = await newAgent(server, wish)
    await expect(give(server, messenger.id, { engine })).rejects.toMatchObject({ code: 'agent_has_no_sandbox' })
  })

  describe('whatever the sandbox says:', () => {
    test.each([
      ['no JSON', 'garble', 'no JSON'],
      ['a line without an end', 'flood', 'too long'],
      ['what is no message', 'strange', 'no message of its'],
      ['a request that is shorter than it said', 'short', 'not as long as it said'],
      ['a request of more pieces than bytes', 'crumbs', 'not as long as it said'],
      ['more than a turn holds', 'prattle', 'more than a turn holds'],
      ['requests, and hears no answer', 'unheard', 'does not hear'],
      ['its end twice', 'twice', 'ends twice'],
      ['nothing any more', 'die', 'exit code 3'],
      ['an error', 'throw', 'It broke'],
    ])('%s ends its task, and the server works on', async (_, word, words) => {
      const { world, doIt, running } = await start()
      const { id } = await doIt(word)
      const task = await atRest(world, id)
      expect(task).toMatchObject({ state: 'failed', reason: 'engine_failed' })
      expect(task.message).toContain(words)
      const next = await doIt('nothing')
      expect(await atRest(world, next.id)).toMatchObject({ state: 'finished' })
      expect(await running()).toEqual([])
    })

    test.each([
      ['a guessed key', 'ask-stranger', '401 authentication_error'],
      ['another model', 'ask-other', '404 not_found_error'],
    ])('with %s nothing is asked', async (_, word, words) => {
      const { world, doIt, peer } = await start()
      const { id } = await doIt(word)
      expect(await atRest(world, id)).toMatchObject({ state: 'failed', step: 0, cost: 0 })
      expect(await texts(world, id)).toContain(words)
      expect(peer.requests()).toEqual([])
    })
  })

  test.each([
    ['refuses', refuse(400, { message: 'No.' }), 'model_refused'],
    ['is not there', refuse(500), 'model_failed'],
    ['takes no more', refuse(400, { message: 'prompt is too long: 9 tokens > 8 maximum' }), 'conversation_too_long'],
  ] as [string, PeerReply, string][])('ends with the words of a model that %s', async (_, reply, reason) => {
    const { world, doIt, peer } = await start()
    peer.otherwise(reply)
    const { id } = await doIt('ask')
    expect(await atRest(world, id)).toMatchObject({ state: 'failed', reason })
    await checkTask(world, id)
  })

  test('takes no more steps than it may', async () => {
    const { world, doIt, peer } = await start()
    peer.otherwise(say('Again.'))
    const { id } = await doIt('ask ask ask', { maxSteps: 2 })
    expect(await atRest(world, id)).toMatchObject({ state: 'failed', reason: 'step_limit', step: 2 })
    expect(peer.requests()).toHaveLength(2)
    await checkTask(world, id)
  })

  test('stands still when its tokens are used up, and goes on when there are more', async () => {
    const { world, server, doIt, peer } = await start()
    peer.otherwise({ ...say('Much.'), usage: { output: 1_000_000 } })
    const { id } = await doIt(`ask ${'ask '.repeat(200)}`, { tokenBudget: 1, maxSteps: 2_000 })
    const task = await atRest(world, id)
    expect(task).toMatchObject({ state: 'suspended', waitsFor: [{ kind: 'tokens' }] })
    expect(task.cost).toBeLessThanOrEqual(1_000_000)
    peer.otherwise(say('Enough.'))
    await server.tasks.giveTokens(id, 5, anna)
    expect(await atRest(world, id)).toMatchObject({ state: 'finished' })
    await checkTask(world, id)
  })

  test('is paused before its next request, and goes on from there', async () => {
    const { world, server, doIt, peer } = await start()
    peer.script({ ...say('One.'), firstMs: 500 })
    const { id } = await doIt('ask ask hang')
    await until(() => peer.requests().length === 1, 'it asks')
    await server.tasks.pause(id, anna)
    expect(await atRest(world, id)).toMatchObject({ state: 'paused', step: 1 })
    await server.tasks.resume(id, anna)
    expect(await atRest(world, id)).toMatchObject({ state: 'finished' })
    expect(peer.requests()).toHaveLength(1)
    await checkTask(world, id)
  })

  test('is interrupted, in the middle of a request and of what it does, and reads what it was told', async () => {
    const { world, server, doIt, peer, running } = await start()
    peer.script({ ...say('x'.repeat(4_000)), pieceMs: 20 }, say('Well.'))
    const { id } = await doIt('ask', { chat: true })
    await until(() => peer.requests().length === 1, 'it asks')
    await server.tasks.message(id, { text: 'ask hang', interrupt: true }, anna)
    await until(() => peer.requests().length === 2, 'it asks again')
    expect(peer.requests()[0]!.isAborted).toBe(true)
    await until(async () => (await world.store.step(id, 2))?.state === 'acting', 'it hangs')
    await server.tasks.interrupt(id, anna)
    expect(await atRest(world, id)).toMatchObject({ state: 'waiting', waitsFor: [{ kind: 'message' }] })
    expect((await world.store.steps(id)).map(({ state }) => state)).toEqual(['done', 'cut', 'cut'])
    expect(await running()).toEqual([])
    await checkTask(world, id)
  })

  test.each(['hang', 'deaf'])('is canceled while it does not stop by itself (%s)', async (word) => {
    const { world, server, doIt, peer, running } = await start()
    peer.otherwise(say('Well.'))
    const { id } = await doIt(`ask ${word}`)
    await hangs(world, id, 1)
    await server.tasks.cancel(id, anna)
    expect(await atRest(world, id)).toMatchObject({ state: 'canceled', reason: 'canceled_by_user' })
    expect(await running()).toEqual([])
    await checkTask(world, id)
  })

  describe('a server that is killed in the middle of a turn', () => {
    async function killed(server: Server): Promise<void> {
      server.kill()
    }

    test('while the engine works: the next one ends what is left of it, and begins the turn anew in its session', async () => {
      const { world, server, doIt, peer, running, events } = await start()
      peer.otherwise({ ...say('Well.'), usage: { input: 100, output: 10 } })
      const { id } = await doIt('ask hang')
      await hangs(world, id, 1)
      const [left] = await running()
      await killed(server)
      await world.serve()
      const task = await atRest(world, id)
      expect(task).toMatchObject({ state: 'finished', step: 1, cost: 200 })
      expect((await world.store.steps(id)).map(({ state }) => state)).toEqual(['done', 'cut'])
      expect((await running()).map((one) => one.id)).not.toContain(left!.id)
      const told = (await world.store.messages(id)).filter(({ message }) => message.role === 'user')
      expect(JSON.stringify(told.at(-1)!.message.parts)).toContain('started anew in the middle of this turn')
      expect((await events(id)).filter(({ kind }) => kind === 'end')).toHaveLength(1)
      await checkTask(world, id)
    })

    test('while a model is asked: what was sent is paid for once, and is among what the task has cost', async () => {
      const { world, server, doIt, peer } = await start()
      peer.script({ ...say('x'.repeat(4_000)), pieceMs: 50 })
      peer.otherwise(say('Well.'))
      const { id } = await doIt('ask', { tokenBudget: 10 })
      await until(() => peer.requests().length === 1, 'it asks')
      await killed(server)
      const next = await world.serve()
      expect(await atRest(world, id)).toMatchObject({ state: 'finished' })
      expect((await world.store.steps(id)).map(({ state }) => state)).toEqual(['done', 'cut'])
      const { held, used } = await next.ledger.balanceOf(accountId, id)
      const { cost, estimated } = await world.record(id)
      expect({ held, used, estimated }).toEqual({ held: 0, used: cost, estimated: true })
      expect(cost).toBeGreaterThan(0)
      await checkTask(world, id)
    })
  })
})
