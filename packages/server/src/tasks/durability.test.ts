import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { DeltaError } from '../kernel/errors.ts'
import { silentLogger } from '../kernel/log.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { microPerToken } from '../ledger/door.ts'
import { callTool, say, type PeerReply, type PeerRequest } from '../models/testing/peers.ts'
import { taskLimits } from './limits.ts'
import { createTaskSchema } from './schema.ts'
import {
  accountId,
  anna,
  atRest,
  bert,
  checkTask,
  give,
  newAgent,
  newWorld,
  type Server,
  taskTestMigrations,
  until,
  type World,
} from './testing.ts'

const grant = 1_000

/** Every token is somewhere, and none is held any more. */
async function checkTokens(server: Server, purses: readonly string[]): Promise<void> {
  let sum = 0
  for (const purse of [server.ledger.reserveOf(accountId), ...purses]) {
    const { granted, bought, held, used } = await server.ledger.balanceOf(accountId, purse)
    expect({ purse, held }).toEqual({ purse, held: 0 })
    sum += granted + bought + used
  }
  expect(sum).toBe(grant * microPerToken)
}

const both = (...all: [string, string][]): PeerReply => ({
  parts: all.map(([tool, text]) => ({ type: 'tool_call', tool, input: { text } })),
})

/** Says the same in every life: what it says hangs on how often it has spoken. */
const course = [
  both(['echo', 'a'], ['echo', 'b'], ['pay', 'rent']),
  both(['attach', 'x']),
  both(['pay', 'tax'], ['echo', 'c']),
  say('ok'),
]
const follow = ({ replies }: PeerRequest): PeerReply => course[Math.min(replies, course.length - 1)]!

testDatabases('a server that is killed', (open, openServers) => {
  test('at each of its writes: another goes on, nothing is asked or paid twice, no token is lost', async () => {
    let writes = 0
    for (let isDead = true; isDead; writes += 1) {
      const world = await newWorld((await open(taskTestMigrations)).of(), { grant })
      world.peer.otherwise(follow)
      const life = { writes: Infinity, isDead: false }
      const first = await world.serve({ life })
      const agent = await newAgent(first)
      const wish = createTaskSchema.parse({ agent: agent.id, text: 'Do it', tokenBudget: 50 })
      const key = { idempotencyKey: 'k' }
      life.writes = writes
      let made: string | undefined
      void first.tasks.create(wish, anna, key).then(({ id }) => (made = id))
      await until(
        async () => life.isDead || (made !== undefined && (await world.record(made)).isSettled),
        'it dies or is done',
      )
      isDead = life.isDead
      if (!isDead) first.kill()
      const known = made === undefined ? [] : await world.store.messages(made)
      const recorded = known.filter(({ message }) => message.role === 'assistant').length
      const asked = world.peer.requests().length

      const second = await world.serve()
      const { id } = await second.tasks.create(wish, anna, key)
      const task = await atRest(world, id)
      expect({ writes, state: task.state, message: task.message }).toEqual({
        writes,
        state: 'finished',
        message: 'It is done',
      })
      await checkTask(world, id)
      // A recorded reply is never asked for again.
      expect(
        world.peer
          .requests()
          .slice(asked)
          .filter(({ replies }) => replies < recorded),
      ).toEqual([])
      for (let replies = 0; replies < course.length; replies += 1) {
        expect(world.peer.requests().filter((one) => one.replies === replies).length).toBeLessThanOrEqual(2)
      }
      for (const text of ['rent', 'tax']) {
        expect(world.ran.filter((one) => one.tool === 'pay' && one.text === text).length).toBeLessThanOrEqual(1)
      }
      // Whatever was begun is looked for, and not begun anew.
      const attached = world.ran.filter(({ tool }) => tool === 'attach')
      // Where the server died in the very moment of that write even the first time is such a look.
      expect(attached.slice(1).every(({ begun }) => begun)).toBe(true)
      const calls = await world.calls(id)
      const unpaid = calls.filter(({ tool, outcome }) => tool === 'pay' && outcome?.isError)
      for (const { outcome } of unpaid) expect(JSON.stringify(outcome)).toContain('it may have run')
      await checkTokens(second, [agent.id, id])
      // What was cut is among what it says it has cost.
      const { cost } = await world.record(id)
      expect(await second.ledger.balanceOf(accountId, id)).toMatchObject({ granted: 0, bought: 0, used: cost })
      await second.stop()
    }
    // All of it was cut somewhere.
    expect(writes).toBeGreaterThan(20)
  }, 400_000)

  test('while a delegate works: whoever waits for it hears of its end', async () => {
    const world = await newWorld((await open(taskTestMigrations)).of())
    const first = await world.serve()
    const agent = await newAgent(first)
    const bot = { bot: { name: 'Bot', task: 'Helps', tokenBudget: 10 }, task: 'Help me' }
    world.peer.script(callTool('delegate', bot), callTool('slow', { text: 'x' }))
    const { id } = await give(first, agent.id)
    await until(() => world.ran.length === 1)
    expect(await atRest(world, id)).toMatchObject({ state: 'waiting', waitsFor: [{ kind: 'task' }] })
    first.kill()
    world.gateOf('x').open()
    world.peer.script(say('I helped.'), say('ok'))
    const second = await world.serve()
    await until(async () => (await world.record(id)).state === 'finished')
    expect(world.peer.requests().at(-1)!.results[0]!.text).toContain('I helped.')
    expect(second.life.isDead).toBe(false)
    await checkTask(world, id)
  })

  test('one at which servers die is not tried for ever', async () => {
    const world = await newWorld((await open(taskTestMigrations)).of())
    const keeper = await world.serve()
    const agent = await newAgent(keeper)
    keeper.kill()
    let id = ''
    for (let death = 0; death < taskLimits.lostSteps; death += 1) {
      const server = await world.serve()
      const asked = world.peer.requests().length
      world.peer.script(async () => {
        server.kill()
        return say('nobody hears this')
      })
      if (death === 0) id = (await give(server, agent.id)).id
      await until(() => world.peer.requests().length > asked && server.life.isDead)
    }
    await world.serve()
    expect(await atRest(world, id)).toMatchObject({ state: 'failed', reason: 'internal' })
    expect(world.peer.requests()).toHaveLength(taskLimits.lostSteps)
    await checkTask(world, id)
  })

  test('a server that stops lets go of everything, and what it knew is written', async () => {
    const world = await newWorld((await open(taskTestMigrations)).of())
    const first = await world.serve()
    const agent = await newAgent(first)
    world.peer.script({ ...say('word '.repeat(400)), pieceMs: 20 })
    const { id } = await give(first, agent.id)
    await until(async () => (await world.events(id)).some(({ kind }) => kind === 'text'))
    await first.stop()
    expect((await world.store.steps(id)).at(-1)).toMatchObject({
      state: 'cut',
      attempts: [{ state: 'cut', estimated: true }],
    })
    world.peer.script(say('ok'))
    const second = await world.serve()
    expect(await atRest(world, id)).toMatchObject({ state: 'finished', step: 2, estimated: true })
    expect((await second.ledger.balanceOf(accountId, agent.id)).held).toBe(0)
    await checkTask(world, id)
  })

  describe('whatever people do and whenever a server dies', () => {
    const acts = [
      'message',
      'interrupting',
      'interrupt',
      'pause',
      'resume',
      'cancel',
      'crash',
      'give',
      'approve',
      'refuse',
      'time',
    ] as const
    type Act = (typeof acts)[number]

    async function perform(act: Act, world: World, server: Server, id: string): Promise<Server> {
      const { tasks, approvals } = server
      const pending = async () =>
        (await world.calls(id)).findLast(({ state, approvalId }) => state !== 'done' && approvalId !== null)?.approvalId
      switch (act) {
        case 'message':
          await tasks.message(id, { text: 'Also this', interrupt: false }, anna)
          return server
        case 'interrupting':
          await tasks.message(id, { text: 'Stop, rather this', interrupt: true }, anna)
          return server
        case 'give':
          await tasks.giveTokens(id, 1, anna)
          return server
        case 'crash':
          server.kill()
          return world.serve()
        case 'approve':
        case 'refuse': {
          const approvalId = await pending()
          if (!approvalId) return server
          if (act === 'refuse') await approvals.refuse(approvalId, 'No', bert)
          else await approvals.approve(approvalId, (await approvals.get(approvalId, bert)).actionHash, bert)
          return server
        }
        case 'time':
          await new Promise((resolve) => setTimeout(resolve, 20))
          return server
        default:
          await tasks[act](id, anna)
          return server
      }
    }

    /** As `perform`; what comes too late, also since the server has just done it, is refused by name. */
    const attempt = (act: Act, world: World, server: Server, id: string): Promise<Server> =>
      perform(act, world, server, id).catch((error: DeltaError) => {
        expect([
          'task_over',
          'task_state_conflict',
          'approval_decided',
          'approval_not_found',
          'token_request_pending',
        ]).toContain(error.code)
        return server
      })

    test('a task ends exactly once, and is never stuck', async () => {
      const plan = fc.array(fc.constantFrom(...acts), { minLength: 1, maxLength: 8 })
      const replies = fc.array(fc.constantFrom('echo', 'pay', 'asked', 'ask_user', 'slow', 'say'), {
        minLength: 1,
        maxLength: 5,
      })
      await fc.assert(
        fc.asyncProperty(plan, replies, fc.boolean(), async (acting, said, chat) => {
          const world = await newWorld((await open(taskTestMigrations)).of(), { grant })
          const replyOf = (kind: string | undefined, at: number): PeerReply => {
            if (kind === 'ask_user') return callTool('ask_user', { question: `Which, ${at}?` })
            if (kind === 'asked') return callTool('attach', { text: String(at) })
            return kind === undefined || kind === 'say' ? say(`So far ${at}`) : callTool(kind, { text: String(at) })
          }
          world.peer.otherwise(({ replies: at }) => ({ ...replyOf(said[at], at), firstMs: at % 3 }))
          let server = await world.serve()
          const agent = await newAgent(server)
          const { id } = await give(server, agent.id, { chat, tokenBudget: 5, tools: { attach: 'ask' } })
          for (const act of acting) server = await attempt(act, world, server, id)
          for (const at of Array.from({ length: 20 }, (_, one) => one)) world.gateOf(String(at)).open()
          // A person sees to whatever it waits for, and it comes to an end.
          for (let tries = 0; tries < 25; tries += 1) {
            const { state, waitsFor } = await atRest(world, id)
            if (!['waiting', 'suspended', 'paused'].includes(state)) break
            const kinds = waitsFor.map(({ kind }) => kind)
            if (state !== 'waiting') await perform('resume', world, server, id)
            else if (kinds.includes('approval')) await attempt('approve', world, server, id)
            else if (kinds.includes('answer') || tries < 2) await perform('message', world, server, id)
            else await perform('cancel', world, server, id)
            await new Promise((resolve) => setTimeout(resolve, 20))
          }
          const task = await atRest(world, id)
          expect(['finished', 'failed', 'canceled']).toContain(task.state)
          expect(task.reason).not.toBe('internal')
          await checkTask(world, id)
          for (const text of new Set(world.ran.map((one) => `${one.tool} ${one.callId}`))) {
            const times = world.ran.filter((one) => `${one.tool} ${one.callId}` === text)
            if (times[0]!.tool === 'pay') expect(times).toHaveLength(1)
            if (times[0]!.tool === 'attach') expect(times.slice(1).every(({ begun }) => begun)).toBe(true)
          }
          await checkTokens(server, [agent.id, id])
          await server.stop()
        }),
        { numRuns: Number(process.env['DELTA_TEST_RUNS'] ?? 15), endOnFailure: true },
      )
    }, 300_000)
  })

  test('two servers on one database never work on one task at once', async ({ skip }) => {
    const [one, other] = await openServers(2, { migrations: taskTestMigrations, log: silentLogger })
    if (one!.kind === 'sqlite') return skip('SQLite is one process’s alone')
    const world = await newWorld(one!)
    const [first, second] = [await world.serve(), await world.serve({ own: other! })]
    const agent = await newAgent(first)
    world.peer.otherwise(({ replies }) => (replies < 4 ? callTool('pay', { text: String(replies) }) : say('ok')))
    const made = await Promise.all(Array.from({ length: 40 }, (_, at) => give(at % 2 === 0 ? first : second, agent.id)))
    for (const { id } of made) {
      expect(await atRest(world, id)).toMatchObject({ state: 'finished', step: 5 })
      await checkTask(world, id)
    }
    expect(world.ran).toHaveLength(160)
    expect(new Set(world.ran.map(({ callId }) => callId)).size).toBe(160)
  }, 120_000)
})
