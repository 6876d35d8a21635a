import { expect, test } from 'vitest'
import type { BatchStep, Database } from '../kernel/db/database.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { callTool, say } from '../models/testing/peers.ts'
import { anna, atRest, checkTask, give, newAgent, newWorld, taskTestMigrations, until } from './testing.ts'

/** The same database, of which `before` hears of each batch before it is written. */
function watched<Schema>(
  database: Database<Schema>,
  before: (steps: readonly BatchStep[]) => Promise<void>,
): Database<Schema> {
  return {
    ...database,
    batch: (steps) => before(steps).then(() => database.batch(steps)),
    of: <Tables>() => watched(database.of<Tables>(), before),
  }
}

const nothing = () => Promise.resolve()

testDatabases('at the very moment that a task', (open) => {
  /** `act` happens once, right before the task's row is written in that state by whoever works on it. */
  async function start(state: string, act: (id: string) => Promise<unknown>) {
    const database: Database = (await open(taskTestMigrations)).of()
    const world = await newWorld(database)
    let left = 1
    let id = ''
    const own = watched(database, async (steps) => {
      const [first] = steps
      const values = first?.query.parameters ?? []
      const isRow = first?.query.sql.startsWith('update "tasks"') && values.includes(state) && values.includes(id)
      if (!isRow || left === 0) return
      left = 0
      await act(id)
    })
    const server = await world.serve({ own })
    const agent = await newAgent(server)
    const begin = async (wish: object = {}) => (id = (await give(server, agent.id, wish)).id)
    return { world, server, agent, begin, wasHit: () => left === 0 }
  }

  test('ends, something is said to it: it reads that first', async () => {
    let tell: (id: string) => Promise<unknown> = nothing
    const { world, server, begin, wasHit } = await start('finished', (id) => tell(id))
    tell = (id) => server.tasks.message(id, { text: 'One more thing', interrupt: false }, anna)
    world.peer.script({ ...say('first'), firstMs: 30 }, say('second'))
    const id = await begin()
    expect(await atRest(world, id)).toMatchObject({ state: 'finished', step: 2, turn: 2, result: { text: 'second' } })
    expect(wasHit()).toBe(true)
    expect(world.peer.requests().at(-1)!.lastText).toContain('One more thing')
    await checkTask(world, id)
  })

  test('comes to rest, it is told something: it goes on', async () => {
    let tell: (id: string) => Promise<unknown> = nothing
    const { world, server, begin } = await start('waiting', (id) => tell(id))
    tell = (id) => server.tasks.message(id, { text: 'One more thing', interrupt: false }, anna)
    world.peer.script({ ...say('first'), firstMs: 30 }, say('second'))
    const id = await begin({ chat: true })
    await until(async () => (await world.record(id)).turn === 2 && (await world.record(id)).state === 'waiting')
    expect(world.peer.requests().at(-1)!.lastText).toContain('One more thing')
    await checkTask(world, id)
  })

  test('comes to rest, somebody pauses it: it is paused', async () => {
    let pause: (id: string) => Promise<unknown> = nothing
    const { world, begin } = await start('waiting', (id) => pause(id))
    // As by another server, whose word this one has not heard yet.
    pause = (id) => world.store.wish(id, 'pause')
    world.peer.script({ ...say('first'), firstMs: 30 })
    const id = await begin({ chat: true })
    await until(async () => (await world.record(id)).state === 'paused')
    expect((await world.record(id)).wish).toBeNull()
    await checkTask(world, id)
  })

  test('comes to rest, somebody cancels it: it is canceled', async () => {
    let cancel: (id: string) => Promise<unknown> = nothing
    const { world, begin } = await start('waiting', (id) => cancel(id))
    cancel = (id) => world.store.wish(id, 'cancel')
    world.peer.script({ ...say('first'), firstMs: 30 })
    const id = await begin({ chat: true })
    expect(await until(async () => (await world.record(id)).state === 'canceled')).toBeUndefined()
    await checkTask(world, id)
  })

  test.each([true, false])('stands still for want of tokens, some come: it goes on; its own: %s', async (isOwn) => {
    let pay: (id: string) => Promise<unknown> = nothing
    const { world, server, agent, begin, wasHit } = await start('suspended', (id) => pay(id))
    const long = callTool('echo', { text: 'x'.repeat(300_000) })
    if (isOwn) pay = (id) => server.tasks.giveTokens(id, 60, anna)
    else {
      const reserve = server.ledger.reserveOf('acc_a')
      const amount = 99_000_000
      await server.ledger.transfer({
        accountId: 'acc_a',
        from: agent.id,
        to: reserve,
        amount,
        reason: 'x',
        key: 'away',
      })
      pay = () => server.agents.giveTokens(agent.id, { tokens: 90 }, anna)
    }
    world.peer.script(long, say('ok'))
    const id = await begin(isOwn ? { tokenBudget: 1 } : {})
    await until(async () => (await world.record(id)).state === 'finished')
    expect(wasHit()).toBe(true)
    await checkTask(world, id)
  })

  test('is taken by another server, the one that had it writes nothing and runs nothing', async () => {
    const { world, begin } = await start('none', async () => undefined)
    let isTaken = false
    world.peer.script(
      async () => {
        const [task] = await world.store.list({ accountId: 'acc_a', limit: 1 })
        isTaken = await world.store.update(task!, { ...task!, state: 'queued', owner: null })
        return callTool('pay', { text: 'lost' })
      },
      callTool('pay', { text: 'kept' }),
      say('ok'),
    )
    const id = await begin()
    expect(await atRest(world, id)).toMatchObject({ state: 'finished' })
    expect(isTaken).toBe(true)
    expect(world.ran.map(({ text }) => text)).toEqual(['kept'])
    await checkTask(world, id)
  })
})
