import { expect, test } from 'vitest'
import { z } from 'zod'
import { systemClock } from '../kernel/clock.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { silentLogger } from '../kernel/log.ts'
import { callTool, say } from '../models/testing/peers.ts'
import { createTaskComputer } from './computer.ts'
import { accountId, anna, atRest, give, newAgent, newWorld, taskTestMigrations } from './testing.ts'
import { fromComputer } from './tools/outside.ts'
import { done, type Tool } from './tools/tool.ts'

/** As a command does it, without one. */
const look = {
  name: 'look',
  description: 'Says what its computer says',
  input: z.strictObject({}),
  needs: [],
  mode: 'auto',
  isParallel: false,
  changesFiles: false,
  afterCrash: 'again',
  async run(_, context) {
    await context.computer()
    return done(await fromComputer('its words', context))
  },
} satisfies Tool<object>

testDatabases('what a computer says', (open) => {
  async function start(changes: object = {}) {
    const world = await newWorld((await open(taskTestMigrations)).of(), { tools: [look as Tool] })
    const server = await world.serve()
    const agent = await newAgent(server, changes)
    const looked = async (wish: object = {}) => {
      world.peer.script(callTool('look', {}), say('ok'))
      const { id } = await give(server, agent.id, wish)
      const { untrusted, state } = await atRest(world, id)
      expect(state).toBe('finished')
      const { text } = world.peer.requests().at(-1)!.results[0]!
      return { untrusted, isMarked: text.includes('<data-'), text }
    }
    const egress = async (policy: 'none' | 'all') => {
      const { sandboxId } = await server.agents.get(agent.id, anna)
      await world.sandboxes.setNetwork(sandboxId!, { egress: policy }, { accountId })
    }
    return { world, server, agent, looked, egress }
  }

  test('is data from outside while it may reach the network', async () => {
    const { looked } = await start()
    expect(await looked()).toMatchObject({ untrusted: true, isMarked: true })
  })

  test('is data from outside where its disk is older than the task, whatever it may reach', async () => {
    const { looked, egress } = await start()
    await looked()
    await egress('none')
    expect(await looked()).toMatchObject({ untrusted: true, isMarked: true })
  })

  test('is its own on a new disk without a network', async () => {
    const { looked } = await start({ rights: ['read:*', 'write:*'] })
    expect(await looked()).toEqual({ untrusted: false, isMarked: false, text: 'its words' })
  })

  test('is data from outside where files came with the task', async () => {
    const { world, server, agent } = await start({ rights: ['read:*', 'write:*'] })
    world.peer.script(say('ok'))
    const { id } = await give(server, agent.id)
    const task = await atRest(world, id)
    const nothing = async (): Promise<never> => {
      throw new Error('Nothing else is asked for')
    }
    const computer = createTaskComputer({
      store: world.store,
      agents: { computerOf: nothing },
      findAgent: async () => undefined,
      files: { read: nothing, write: nothing },
      sandboxes: world.sandboxes,
      workspaces: world.workspaces,
      attachments: { read: nothing },
      clock: systemClock,
      log: silentLogger,
    })
    expect(await computer.isForeign({ task })).toBe(false)
    const files = [{ path: 'a.txt', digest: 'sha256:0', size: 1 }]
    expect(await computer.isForeign({ task: { ...task, spec: { ...task.spec, files } } })).toBe(true)
  })
})
