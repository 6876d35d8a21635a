import { afterEach, describe, expect, test } from 'vitest'
import { accessMigrations } from '../access/migrations.ts'
import { openRevocations } from '../access/revocations.ts'
import { right } from '../access/rights.ts'
import { testCaller, testKeyPrincipal } from '../access/testing.ts'
import { createModelDriver } from '../drivers/testing/model.ts'
import { manualClock } from '../kernel/clock.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { DeltaError } from '../kernel/errors.ts'
import { testHashBody } from '../kernel/http/testing-body-hash.ts'
import { newId } from '../kernel/ids.ts'
import { silentLogger } from '../kernel/log.ts'
import { microPerToken, shownTokens } from '../ledger/door.ts'
import { ledgerMigrations } from '../ledger/migrations.ts'
import type { PlanName } from '../ledger/plans.ts'
import { firstCard } from '../ledger/rate-card.ts'
import { createLedgerReading } from '../ledger/reading.ts'
import { createLedger } from '../ledger/service.ts'
import { sandboxMigrations } from '../sandboxes/migrations.ts'
import { createSandboxSchema } from '../sandboxes/schema.ts'
import { createSandboxes } from '../sandboxes/service.ts'
import { silentGuest, testSeal } from '../sandboxes/testing.ts'
import { workspaceMigrations } from '../workspaces/migrations.ts'
import { createWorkspaces } from '../workspaces/service.ts'
import { openTestStorage } from '../workspaces/testing.ts'
import { volumeMigrations } from '../workspaces/volumes/migrations.ts'
import { createDirectory } from './directory.ts'
import { agentMigrations } from './migrations.ts'
import { agentListQuerySchema, createAgentSchema, patchAgentSchema } from './schema.ts'
import { createAgents } from './service.ts'
import { createModelLedger, testAgent } from './testing.ts'

const accountId = 'acc_a'
const minuteMs = 60_001
const person = testCaller(testKeyPrincipal({ accountId }))
const asAgent = (agentId: string, rights: string[] = ['read:*', 'write:*', 'allocate', 'delegate']) =>
  testCaller({ kind: 'agent', accountId, agentId, agentKind: 'bot', jti: 'tok_a', rights: rights.map(right) })
const wishOf = (fields: object) => createAgentSchema.parse({ name: 'an agent', ...fields })
const botBelow = (parentAgent: string, more: object = {}) => wishOf({ parentAgent, task: 'answer', ...more })
const page = agentListQuerySchema.parse({})

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    (made) => `done: ${JSON.stringify(made)}`,
    (error: unknown) => (error instanceof DeltaError ? error.code : String(error)),
  )
}

testDatabases('agents', (open) => {
  const ends: (() => unknown)[] = []
  afterEach(async () => {
    for (const end of ends.splice(0).toReversed()) await end()
  })

  const migrations = [
    accessMigrations,
    volumeMigrations,
    workspaceMigrations,
    sandboxMigrations,
    ledgerMigrations,
    agentMigrations,
  ].flat()

  async function start(money: Parameters<typeof createModelLedger>[0] = {}) {
    const database = (await open(migrations)).of()
    const clock = manualClock(1_789_000_000_000)
    const driver = createModelDriver()
    const shared = { database, driver, hashBody: testHashBody, clock, log: silentLogger }
    const revocations = await openRevocations(shared)
    ends.push(revocations.stop)
    const workspaces = createWorkspaces({ ...shared, ...(await openTestStorage((end) => ends.push(end))) })
    const sandboxes = createSandboxes({ ...shared, seal: testSeal, workspaces, connectGuest: silentGuest })
    await workspaces.start()
    ends.push(workspaces.stop)
    await (
      await sandboxes.start()
    ).reconciled
    ends.push(() => sandboxes.stop('leave'))
    const directory = createDirectory({ database, revocations, clock })
    const model = createModelLedger(money)
    const again = () => {
      const next = createAgents({ ...shared, directory, ledger: model.ledger, revocations, sandboxes, workspaces })
      ends.push(next.stop)
      return next
    }
    const agents = again()
    const main = (more: object = {}) => agents.create(wishOf(more), person)
    return { ...shared, agents, again, directory, revocations, sandboxes, workspaces, model, main }
  }

  /** The same on the ledger itself. */
  async function startReal(plan: PlanName) {
    const parts = await start()
    const { database, clock } = parts
    const own = { rates: firstCard, grant: 1_000 * microPerToken, planAtStart: () => plan, incarnation: newId('srv') }
    const ledger = createLedger({ database, clock, log: silentLogger, ...own })
    const mostAgents = async (of: string) => (await ledger.planOf(of)).agents ?? undefined
    const agents = createAgents({ ...parts, ledger: { ...ledger, mostAgents } })
    ledger.events.on('purse.archived', ({ purseId }) => agents.purseArchived(purseId))
    return { agents, ledger, reading: createLedgerReading(database) }
  }

  describe('making one', () => {
    test('a main agent has its budget from the reserve, a bot from its parent', async () => {
      const { agents, main, model } = await start()
      const top = await main({ tokenBudget: 100 })
      const bot = await agents.create(botBelow(top.id, { tokenBudget: 30, channel: 'email' }), person)
      expect(bot).toMatchObject({ kind: 'bot', parentAgent: top.id, depth: 2, state: 'active', channel: 'email' })
      expect((await agents.get(bot.id, person)).balance).toEqual({ granted: 30, bought: 0, held: 0, used: 0 })
      expect([model.tokensOf(`${accountId}:reserve`), model.tokensOf(top.id)]).toEqual([900, 70])
    })

    test('without enough tokens there is no agent, and no token has moved', async () => {
      const { agents, main, model } = await start({ reserve: 50, mostAgents: 2 })
      const top = await main({ tokenBudget: 20 })
      for (let tries = 0; tries < 3; tries += 1) {
        expect(await codeOf(agents.create(botBelow(top.id, { tokenBudget: 21 }), person))).toBe('plan_limit_reached')
      }
      expect(await codeOf(main({ tokenBudget: 31 }))).toBe('plan_limit_reached')
      expect((await agents.list(person, page)).data.map(({ id }) => id)).toEqual([top.id])
      expect([model.sum(), model.tokensOf(top.id)]).toEqual([50, 20])
      // Those that were not made take no place of the plan's two.
      await agents.create(botBelow(top.id, { tokenBudget: 20 }), person)
    })

    test('the same key and body make one, another body is refused', async () => {
      const { agents, model } = await start()
      const idempotencyKey = 'k'
      const wish = wishOf({ tokenBudget: 10 })
      const made = await Promise.all(
        [1, 2].map(() => agents.create(wish, person, { idempotencyKey }).catch((error: DeltaError) => error.code)),
      )
      const first = await agents.create(wish, person, { idempotencyKey })
      for (const one of made) expect([first, 'idempotency_in_progress']).toContainEqual(one)
      expect(model.tokensOf(first.id)).toBe(10)
      expect(model.tokensOf(`${accountId}:reserve`)).toBe(990)
      expect(await codeOf(agents.create(wishOf({ tokenBudget: 11 }), person, { idempotencyKey }))).toBe(
        'idempotency_conflict',
      )
    })

    test('a key is its actor’s own: the same from another makes another, and shows nothing of the first', async () => {
      const { agents, main } = await start()
      const [one, other] = [await main({ tokenBudget: 10 }), await main({ tokenBudget: 10 })]
      const idempotencyKey = 'k'
      const wish = botBelow(one.id)
      const made = await agents.create(wish, asAgent(one.id), { idempotencyKey })
      expect(await codeOf(agents.create(wish, asAgent(other.id), { idempotencyKey }))).toBe('agent_not_found')
      expect(await codeOf(agents.create(botBelow(other.id), asAgent(other.id), { idempotencyKey }))).toContain('done')
      expect((await agents.create(wish, asAgent(one.id), { idempotencyKey })).id).toBe(made.id)
    })

    test('500 at once keep within the plan', async () => {
      const { agents, main } = await start({ mostAgents: 10 })
      const made = await Promise.allSettled(Array.from({ length: 500 }, () => main()))
      expect(made.filter(({ status }) => status === 'fulfilled')).toHaveLength(10)
      expect((await agents.list(person, page)).data).toHaveLength(10)
      expect(await codeOf(main())).toBe('plan_limit_reached')
      await agents.archive((await agents.list(person, page)).data[0]!.id, person)
      await main()
    })

    test('an agent makes bots below itself alone, from its own tokens', async () => {
      const { agents, main, model } = await start()
      const [top, other] = [await main({ tokenBudget: 10 }), await main()]
      const bot = await agents.create(botBelow(top.id, { tokenBudget: 4 }), asAgent(top.id))
      expect(model.tokensOf(top.id)).toBe(6)
      expect(await codeOf(agents.create(botBelow(other.id), asAgent(top.id)))).toBe('agent_not_found')
      expect(await codeOf(agents.create(botBelow(top.id), asAgent(bot.id)))).toBe('agent_not_found')
      expect(await codeOf(agents.create(wishOf({}), asAgent(top.id)))).toBe('forbidden')
      expect(await codeOf(agents.create(botBelow(top.id, { monthlyTokens: 1 }), asAgent(top.id)))).toBe('forbidden')
      expect(
        await codeOf(
          agents.create(botBelow(top.id, { tokenBudget: 4 }), asAgent(top.id, ['write:agents', 'allocate:3'])),
        ),
      ).toBe('forbidden')
    })

    test('four deep', async () => {
      const { agents, main } = await start()
      let parent = (await main()).id
      for (let depth = 2; depth <= 4; depth += 1) parent = (await agents.create(botBelow(parent), person)).id
      expect(await codeOf(agents.create(botBelow(parent), person))).toBe('agent_too_deep')
    })

    test('nobody is made below somebody else’s, an archived or a missing agent', async () => {
      const { agents, main } = await start()
      const top = await main()
      const stranger = testCaller(testKeyPrincipal({ accountId: 'acc_b' }))
      expect(await codeOf(agents.create(botBelow(top.id), stranger))).toBe('agent_not_found')
      expect(await codeOf(agents.create(botBelow('agt_none'), person))).toBe('agent_not_found')
      await agents.archive(top.id, person)
      expect(await codeOf(agents.create(botBelow(top.id), person))).toBe('agent_archived')
    })

    test('after a crash in between the next start does the rest, once', async () => {
      for (const at of [0, 1, 2, 3]) {
        const { agents, main, model, again, clock } = await start()
        let operations = 0
        // The process ends before or after the first operation, or the second.
        model.onOperation(async () => {
          operations += 1
          if (operations > at) throw new DeltaError('database_unavailable', 'gone')
        })
        expect(await codeOf(main({ tokenBudget: 10 }))).toBe('database_unavailable')
        expect((await agents.list(person, page)).data).toEqual([])
        model.onOperation(undefined)
        clock.jump(minuteMs)
        await again().start()
        const [made] = (await agents.list(person, page)).data
        expect([at, made?.state, model.tokensOf(made!.id), model.sum()]).toEqual([at, 'active', 10, 1_000])
        await again().start()
        expect(model.tokensOf(made!.id)).toBe(10)
      }
    })

    test('what a crash left half-way and the ledger refuses is taken back, and its key is free again', async () => {
      const { agents, model, again, main, clock } = await start({ reserve: 10 })
      const [wish, idempotencyKey] = [wishOf({ tokenBudget: 8 }), 'k']
      let operations = 0
      model.onOperation(async () => {
        operations += 1
        if (operations > 2) throw new DeltaError('database_unavailable', 'gone')
      })
      expect(await codeOf(agents.create(wish, person, { idempotencyKey }))).toBe('database_unavailable')
      model.onOperation(undefined)
      const other = await main({ tokenBudget: 5 })
      clock.jump(minuteMs)
      await again().start()
      expect((await agents.list(person, page)).data.map(({ id }) => id)).toEqual([other.id])
      expect(model.sum()).toBe(10)
      await agents.archive(other.id, person)
      expect((await agents.create(wish, person, { idempotencyKey })).state).toBe('active')
    })
  })

  describe('one whose making failed while the server runs', () => {
    /** Whose budget may have moved, and of which nobody heard. */
    async function leftHalfWay(reserve: number, after: number) {
      const parts = await start({ reserve })
      await (
        await parts.agents.start()
      ).mended
      let operations = 0
      parts.model.onOperation(async () => {
        operations += 1
        if (operations > after) throw new DeltaError('database_unavailable', 'gone')
      })
      expect(await codeOf(parts.main({ tokenBudget: 8 }))).toBe('database_unavailable')
      parts.model.onOperation(undefined)
      const shown = async () => (await parts.agents.list(person, page)).data
      /** Time passes until it is so. */
      const until = async (isSo: () => Promise<boolean> | boolean) =>
        expect.poll(async () => parts.clock.advance(30_000).then(isSo), { timeout: 10_000, interval: 10 }).toBe(true)
      return { ...parts, shown, until }
    }

    test('is made in the background, once', async () => {
      for (const after of [0, 1, 2, 3]) {
        const { model, shown, until } = await leftHalfWay(10, after)
        expect(await shown()).toEqual([])
        await until(async () => (await shown()).length === 1)
        const [made] = await shown()
        expect([made?.state, model.tokensOf(made!.id), model.sum()]).toEqual(['active', 8, 10])
      }
    })

    test('is taken back where the tokens are no longer there, and takes no place of the plan', async () => {
      const { main, model, directory, until } = await leftHalfWay(10, 2)
      await main({ tokenBudget: 5 })
      await until(async () => (await directory.store.inStates(['creating', 'undoing'])).length === 0)
      expect([model.sum(), model.tokensOf(`${accountId}:reserve`)]).toEqual([10, 5])
    })

    test('is tried again as long as the ledger cannot be asked', async () => {
      const { model, shown, until } = await leftHalfWay(10, 0)
      let asked = 0
      model.onOperation(async () => {
        asked += 1
        throw new DeltaError('database_unavailable', 'gone')
      })
      await until(() => asked > 1)
      expect(await shown()).toEqual([])
      model.onOperation(undefined)
      await until(async () => (await shown()).length === 1)
    })

    test('is left alone as long as its making is under way here', async () => {
      const { agents, clock, directory, main, model } = await start()
      await agents.start()
      const begun = Promise.withResolvers<void>()
      const gate = Promise.withResolvers<void>()
      let asked = 0
      model.onOperation(async () => {
        asked += 1
        begun.resolve()
        await gate.promise
      })
      const making = main({ tokenBudget: 8 })
      await begun.promise
      const looked = Promise.withResolvers<void>()
      const { inStates } = directory.store
      directory.store.inStates = async (...args) => inStates(...args).finally(() => setImmediate(looked.resolve))
      clock.jump(minuteMs)
      await clock.advance(30_000)
      await looked.promise
      const askedMeanwhile = asked
      gate.resolve()
      expect(askedMeanwhile).toBe(1)
      expect((await making).state).toBe('active')
    })

    test('has been made where another server finished it meanwhile', async () => {
      const { again, clock, main, model, agents } = await start()
      const begun = Promise.withResolvers<void>()
      const gate = Promise.withResolvers<void>()
      model.onOperation(() => {
        begun.resolve()
        return gate.promise
      })
      const making = main({ tokenBudget: 8 })
      await begun.promise
      model.onOperation(undefined)
      clock.jump(minuteMs)
      await again().start()
      gate.resolve()
      const made = await making
      expect(made.state).toBe('active')
      expect((await agents.list(person, page)).data.map(({ id }) => id)).toEqual([made.id])
      expect(model.sum()).toBe(1_000)
    })
  })

  describe('looking', () => {
    test('an agent sees itself and those below it, in lists and trees', async () => {
      const { agents, main } = await start()
      const top = await main({ name: 'top' })
      const [bot, sibling] = [
        await agents.create(botBelow(top.id, { name: 'bot' }), person),
        await agents.create(botBelow(top.id), person),
      ]
      const own = await agents.create(botBelow(bot.id, { name: 'own' }), person)
      const seen = async (who: string) => (await agents.list(asAgent(who), page)).data.map(({ id }) => id).toSorted()
      expect(await seen(bot.id)).toEqual([bot.id, own.id].toSorted())
      expect(await seen(top.id)).toEqual([top.id, bot.id, sibling.id, own.id].toSorted())
      for (const id of [top.id, sibling.id])
        expect(await codeOf(agents.get(id, asAgent(bot.id)))).toBe('agent_not_found')
      expect(await agents.tree(asAgent(bot.id))).toMatchObject({
        data: [{ name: 'bot', children: [{ name: 'own', children: [] }] }],
        complete: true,
      })
      expect((await agents.tree(person)).data.map(({ name, children }) => [name, children.length])).toEqual([
        ['top', 2],
      ])
    })

    test('pages go on where they ended, by kind, parent and state', async () => {
      const { agents, main, clock } = await start()
      const top = await main()
      for (let made = 0; made < 5; made += 1) {
        await clock.advance(1)
        await agents.create(botBelow(top.id), person)
      }
      const found: string[] = []
      for (let cursor: string | undefined; ;) {
        const { data, nextCursor } = await agents.list(person, { ...page, kind: 'bot', limit: 2, cursor })
        found.push(...data.map(({ id }) => id))
        if (nextCursor === null) break
        cursor = nextCursor
      }
      expect(new Set(found).size).toBe(5)
      await agents.archive(found[0]!, person)
      expect((await agents.list(person, { ...page, parentAgent: top.id })).data).toHaveLength(4)
      expect((await agents.list(person, { ...page, state: 'archived' })).data.map(({ id }) => id)).toEqual([found[0]])
      expect((await agents.list({ ...person, only: [found[1]!] }, page)).data).toHaveLength(1)
    })

    test('a limit to some agents is one of lists', async () => {
      const { agents, main } = await start()
      const [one] = [await main(), await main()]
      expect((await agents.list({ ...person, only: [one.id] }, page)).data.map(({ id }) => id)).toEqual([one.id])
      expect((await agents.tree({ ...person, only: [] })).data).toEqual([])
    })
  })

  describe('rights', () => {
    test('narrowing a parent narrows all below it at once, also where they are remembered', async () => {
      const { agents, main, directory, revocations, database, clock } = await start()
      const top = await main({ rights: ['read:files', 'write:files', 'egress'] })
      const bot = await agents.create(botBelow(top.id, { rights: ['write:files', 'egress:*.example.com'] }), person)
      // What another server remembers, which hears the news and nothing else.
      const elsewhere = createDirectory({ database, revocations, clock })
      const now = async () => {
        const known = await Promise.all([directory, elsewhere].map(({ find }) => find(bot.id, accountId)))
        const [here, there] = known.map((one) => [...one!.rights].toSorted())
        expect(there).toEqual(here)
        return here
      }
      expect(await now()).toEqual(['egress:*.example.com', 'write:files'])
      const heard: string[] = []
      revocations.onRevoked((id) => heard.push(id))
      await agents.patch(top.id, patchAgentSchema.parse({ rights: ['read:files', 'egress:a.example.com'] }), person)
      expect(await now()).toEqual(['egress:a.example.com'])
      // What ends open streams.
      expect(heard).toEqual([top.id])
      await agents.patch(top.id, patchAgentSchema.parse({ rights: ['write:files'] }), person)
      expect(await now()).toEqual(['write:files'])
    })

    test('never wider than the parent’s or whoever asks, and never by itself', async () => {
      const { agents, main } = await start()
      const top = await main({ rights: ['read:files', 'write:agents'] })
      const bot = await agents.create(botBelow(top.id, { rights: ['read:files'] }), person)
      const set = (rights: string[]) => patchAgentSchema.parse({ rights })
      expect(await codeOf(agents.patch(bot.id, set(['write:files']), person))).toBe('forbidden')
      expect(await codeOf(agents.patch(bot.id, set([]), asAgent(bot.id)))).toBe('forbidden')
      expect(await codeOf(agents.patch(top.id, set(['read:files', 'write:files']), asAgent(top.id)))).toBe('forbidden')
      expect(await codeOf(agents.patch(bot.id, set(['read:files']), asAgent(top.id, ['write:agents'])))).toBe(
        'forbidden',
      )
      expect((await agents.patch(bot.id, set([]), asAgent(top.id, ['write:agents']))).rights).toEqual([])
      expect((await agents.patch(bot.id, set(['read:files']), person)).rights).toEqual(['read:files'])
    })

    test('a parent is kept, and a circle is called one', async () => {
      const { agents, main } = await start()
      const [top, other] = [await main(), await main()]
      const bot = await agents.create(botBelow(top.id), person)
      const under = (parentAgent: string) => patchAgentSchema.parse({ parentAgent })
      expect(await codeOf(agents.patch(top.id, under(bot.id), person))).toBe('agent_cycle')
      expect(await codeOf(agents.patch(bot.id, under(bot.id), person))).toBe('agent_cycle')
      expect(await codeOf(agents.patch(bot.id, under(other.id), person))).toBe('agent_parent_fixed')
      expect((await agents.patch(bot.id, under(top.id), person)).parentAgent).toBe(top.id)
    })

    test('a threshold below which nobody is asked is set by who may give that', async () => {
      const { agents, main } = await start()
      const top = await main({ confirmAboveTokens: 5 })
      const bot = await agents.create(botBelow(top.id), person)
      expect(bot.confirmAboveTokens).toBe(10)
      expect((await agents.patch(top.id, { confirmAboveTokens: 0 }, person)).confirmAboveTokens).toBe(0)
      expect(await codeOf(agents.patch(bot.id, { confirmAboveTokens: 5 }, asAgent(top.id)))).toBe('forbidden')
    })
  })

  describe('its computer', () => {
    test('is made when it is first used, once, with what it says and its agent on it', async () => {
      const { agents, main, sandboxes, driver } = await start()
      const top = await main({ memoryMb: 256 })
      expect(driver.boxes.size).toBe(0)
      const ids = await Promise.all(Array.from({ length: 5 }, () => agents.computerOf(top.id, person)))
      expect(new Set(ids).size).toBe(1)
      const sandbox = await sandboxes.get(ids[0]!, person)
      expect(sandbox).toMatchObject({ agentId: top.id, memoryMb: 256, onTimeout: 'stop', autoResume: true })
      expect(sandbox.network).toEqual({ egress: { hosts: [], presets: ['packages'] } })
      expect(await agents.get(top.id, person)).toMatchObject({
        sandboxId: sandbox.id,
        workspaceId: sandbox.workspaceId,
      })
      const listed = await sandboxes.list(person, { agentId: top.id, metadata: {}, limit: 10 })
      expect(listed.data.map(({ id }) => id)).toEqual([sandbox.id])
    })

    test('one that is gone is made again on the same workspace; one that stopped is the same', async () => {
      const { agents, main, sandboxes } = await start()
      const top = await main()
      const first = await agents.computerOf(top.id, person)
      await sandboxes.stopSandbox(first, person)
      expect(await agents.computerOf(top.id, person)).toBe(first)
      await sandboxes.kill(first, person)
      const second = await agents.computerOf(top.id, person)
      expect(second).not.toBe(first)
      expect((await sandboxes.get(second, person)).workspaceId).toBe((await agents.get(top.id, person)).workspaceId)
    })

    test('another sandbox on its workspace is not taken for its own', async () => {
      const { agents, main, sandboxes } = await start()
      const top = await main()
      const own = await agents.computerOf(top.id, person)
      const { workspaceId } = await sandboxes.get(own, person)
      await sandboxes.kill(own, person)
      await sandboxes.create(createSandboxSchema.parse({ workspace: workspaceId }), person)
      expect(await codeOf(agents.computerOf(top.id, person))).toBe('workspace_in_use')
    })

    test('agents see their own sandboxes and those below, not their siblings’', async () => {
      const { agents, main, sandboxes } = await start()
      const top = await main()
      const [bot, sibling] = [
        await agents.create(botBelow(top.id), person),
        await agents.create(botBelow(top.id), person),
      ]
      const [own, others] = [await agents.computerOf(bot.id, person), await agents.computerOf(sibling.id, person)]
      const free = await sandboxes.create(createSandboxSchema.parse({}), person)
      expect(await codeOf(sandboxes.get(others, asAgent(bot.id)))).toBe('sandbox_not_found')
      expect(await codeOf(sandboxes.pause(others, asAgent(bot.id)))).toBe('sandbox_not_found')
      expect(await codeOf(sandboxes.door.open(others, asAgent(bot.id)))).toBe('sandbox_not_found')
      const seen = async (who: string) =>
        (await sandboxes.list(asAgent(who), { metadata: {}, limit: 10 })).data.map(({ id }) => id).toSorted()
      expect(await seen(bot.id)).toEqual([own, free.id].toSorted())
      expect(await seen(top.id)).toEqual([own, others, free.id].toSorted())
    })

    test('a messenger has none; one that is paused, suspended or archived refuses by name', async () => {
      const { agents, main } = await start()
      const top = await main()
      const messenger = await agents.create(wishOf({ kind: 'messenger', parentAgent: top.id, channel: 'sms' }), person)
      expect(await codeOf(agents.computerOf(messenger.id, person))).toBe('agent_has_no_sandbox')
      await agents.pause(top.id, person)
      expect(await codeOf(agents.computerOf(top.id, person))).toBe('agent_paused')
      await agents.resume(top.id, person)
      await agents.suspend(top.id, accountId)
      expect(await codeOf(agents.computerOf(top.id, person))).toBe('agent_suspended')
      expect(await codeOf(agents.resume(top.id, person))).toBe('agent_suspended')
      await agents.wake(top.id, accountId)
      await agents.computerOf(top.id, person)
      await agents.archive(top.id, person)
      expect(await codeOf(agents.computerOf(top.id, person))).toBe('agent_archived')
      expect(await codeOf(agents.computerOf('agt_none', person))).toBe('agent_not_found')
      expect(await codeOf(agents.computerOf(top.id, asAgent(messenger.id)))).toBe('agent_not_found')
    })

    test('stands still with its agent, and goes on with it', async () => {
      const { agents, main, sandboxes } = await start()
      const top = await main()
      const id = await agents.computerOf(top.id, person)
      expect((await agents.pause(top.id, person)).state).toBe('paused')
      expect(await sandboxes.get(id, person)).toMatchObject({ state: 'paused', autoResume: false })
      expect((await agents.pause(top.id, person)).state).toBe('paused')
      // What is out of tokens meanwhile stays paused when there are some again.
      expect((await agents.suspend(top.id, accountId)).state).toBe('paused')
      expect((await agents.wake(top.id, accountId)).state).toBe('paused')
      expect((await agents.resume(top.id, person)).state).toBe('active')
      expect(await sandboxes.get(id, person)).toMatchObject({ state: 'running', autoResume: true })
    })

    test('one that ran when its agent was paused is at rest after the next start', async () => {
      const { agents, main, sandboxes, directory, again } = await start()
      const top = await main()
      const id = await agents.computerOf(top.id, person)
      const before = (await directory.store.get(top.id))!
      await directory.store.update(before, { ...before, state: 'paused' })
      await (
        await again().start()
      ).mended
      expect((await sandboxes.get(id, person)).state).toBe('paused')
    })

    test('reaches what the agent’s rights say, and less as soon as they do', async () => {
      const { agents, main, sandboxes } = await start()
      const top = await main()
      const bot = await agents.create(botBelow(top.id, { rights: ['write:exec', 'egress:pypi.org'] }), person)
      const [ofTop, ofBot] = [await agents.computerOf(top.id, person), await agents.computerOf(bot.id, person)]
      expect(await sandboxes.getNetwork(ofBot, person)).toEqual({ egress: { hosts: ['pypi.org'], presets: [] } })
      await sandboxes.setNetwork(ofTop, { egress: 'all' }, person)
      await agents.patch(top.id, patchAgentSchema.parse({ rights: ['write:exec', 'egress:crates.io'] }), person)
      expect(await sandboxes.getNetwork(ofBot, person)).toEqual({ egress: { hosts: [], presets: [] } })
      expect(await sandboxes.getNetwork(ofTop, person)).toEqual({ egress: 'none' })
    })
  })

  test('what a crash kept from being narrowed the next start narrows, of computers that are not over alone', async () => {
    const { agents, again, main, sandboxes, directory } = await start()
    const top = await main({ rights: ['write:exec', 'egress'] })
    const bot = await agents.create(botBelow(top.id, { rights: ['write:exec', 'egress'] }), person)
    const [ofTop, ofBot] = [await agents.computerOf(top.id, person), await agents.computerOf(bot.id, person)]
    await sandboxes.stopSandbox(ofBot, person)
    const ended = await main({ rights: ['write:exec', 'egress'] })
    await sandboxes.kill(await agents.computerOf(ended.id, person), person)
    const other = await sandboxes.create(createSandboxSchema.parse({ network: { egress: 'all' } }), person)
    const before = (await directory.store.get(top.id))!
    await directory.store.update(before, { ...before, rights: [right('write:exec')], version: 2 })
    directory.changed(top.id)
    const looked: string[] = []
    const { getNetwork } = sandboxes
    sandboxes.getNetwork = async (id, caller) => {
      looked.push(id)
      return getNetwork(id, caller)
    }
    await (
      await again().start()
    ).mended
    const none = { egress: { hosts: [], presets: [] } }
    expect([await getNetwork(ofTop, person), await getNetwork(ofBot, person)]).toEqual([none, none])
    expect(await getNetwork(other.id, person)).toEqual({ egress: 'all' })
    expect(looked.toSorted()).toEqual([ofTop, ofBot].toSorted())
  })

  test('a computer that is made while its agent is narrowed reaches no more than that leaves', async () => {
    const { agents, main, sandboxes } = await start()
    const top = await main({ rights: ['write:exec', 'egress'] })
    const createOrJoin = sandboxes.createOrJoin
    sandboxes.createOrJoin = async (...args) => {
      const made = await createOrJoin(...args)
      await agents.patch(top.id, patchAgentSchema.parse({ rights: ['write:exec'] }), person)
      return made
    }
    const id = await agents.computerOf(top.id, person)
    expect(await sandboxes.getNetwork(id, person)).toEqual({ egress: { hosts: [], presets: [] } })
  })

  describe('archiving', () => {
    test('ends all below it first, stops its computer, and gives its tokens back', async () => {
      const { agents, main, sandboxes, model, driver } = await start()
      const top = await main({ tokenBudget: 100 })
      const bot = await agents.create(botBelow(top.id, { tokenBudget: 40 }), person)
      const own = await agents.create(botBelow(bot.id, { tokenBudget: 10 }), person)
      const id = await agents.computerOf(bot.id, person)
      const order: string[] = []
      agents.events.on('agent.archived', ({ agentId }) => order.push(agentId))
      expect((await agents.archive(bot.id, person)).state).toBe('archived')
      expect(order).toEqual([own.id, bot.id])
      expect((await sandboxes.get(id, person)).state).toBe('killed')
      expect(driver.boxes.size).toBe(0)
      expect([model.tokensOf(top.id), model.tokensOf(bot.id), model.sum()]).toEqual([100, 0, 1_000])
      expect((await agents.archive(bot.id, person)).state).toBe('archived')
      expect(await codeOf(agents.pause(bot.id, person))).toBe('agent_archived')
      expect(await codeOf(agents.patch(bot.id, { name: 'x' }, person))).toBe('agent_archived')
      expect(await codeOf(agents.giveTokens(bot.id, { tokens: 1 }, person))).toBe('agent_archived')
    })

    test('waits for the last hold, with all above it', async () => {
      const { agents, main, model } = await start()
      const top = await main({ tokenBudget: 100 })
      const bot = await agents.create(botBelow(top.id, { tokenBudget: 40 }), person)
      model.holdBack(bot.id, 5)
      expect((await agents.archive(top.id, person)).state).toBe('archiving')
      expect(await codeOf(agents.computerOf(bot.id, person))).toBe('agent_archived')
      model.holdBack(bot.id, 0)
      const ended = new Promise<void>((resolve) => {
        agents.events.on('agent.archived', ({ agentId }) => agentId === top.id && resolve())
      })
      agents.purseArchived(bot.id)
      await ended
      expect((await agents.get(top.id, person)).state).toBe('archived')
      expect(model.tokensOf(`${accountId}:reserve`)).toBe(1_000)
    })

    test('one made while its parent was ended is ended too', async () => {
      const { agents, main, model } = await start()
      const top = await main({ tokenBudget: 100 })
      const gate = Promise.withResolvers<void>()
      const begun = Promise.withResolvers<void>()
      const apply = model.ledger.apply
      model.ledger.apply = async (operation) => {
        if (operation.type === 'transfer') {
          begun.resolve()
          await gate.promise
        }
        return apply(operation)
      }
      const making = codeOf(agents.create(botBelow(top.id, { tokenBudget: 40 }), person))
      await begun.promise
      const ending = agents.archive(top.id, person)
      await ending
      gate.resolve()
      expect(await making).toBe('agent_archived')
      expect((await agents.get(top.id, person)).state).toBe('archived')
      expect(model.tokensOf(`${accountId}:reserve`)).toBe(1_000)
    })

    test('half done by a crash is done by the next start', async () => {
      const { agents, main, directory, again, model } = await start()
      const top = await main({ tokenBudget: 100 })
      const before = (await directory.store.get(top.id))!
      await directory.store.update(before, { ...before, state: 'archiving' })
      await (
        await again().start()
      ).mended
      expect((await agents.get(top.id, person)).state).toBe('archived')
      expect(model.tokensOf(`${accountId}:reserve`)).toBe(1_000)
    })

    test('an agent ends those below it, and not itself or another', async () => {
      const { agents, main } = await start()
      const top = await main()
      const [bot, sibling] = [
        await agents.create(botBelow(top.id), person),
        await agents.create(botBelow(top.id), person),
      ]
      expect(await codeOf(agents.archive(bot.id, asAgent(bot.id)))).toBe('forbidden')
      expect(await codeOf(agents.archive(sibling.id, asAgent(bot.id)))).toBe('agent_not_found')
      expect((await agents.archive(bot.id, asAgent(top.id))).state).toBe('archived')
    })
  })

  describe('tokens', () => {
    test('what is no amount of them is refused by name, and nothing is made of it', async () => {
      const { agents, main, model } = await start()
      const top = await main({ tokenBudget: 5 })
      for (const amount of [-1, -0, 0.5, NaN, Infinity, '5', 2 ** 53 + 1, 2 ** 63, 9_007_199_255, null, true]) {
        for (const field of ['tokenBudget', 'monthlyTokens', 'confirmAboveTokens']) {
          expect([field, amount, await codeOf(main({ [field]: amount }))]).toEqual([field, amount, 'amount_invalid'])
        }
        for (const field of ['monthlyTokens', 'confirmAboveTokens']) {
          const wish = patchAgentSchema.parse({ name: 'changed', [field]: amount })
          expect([field, await codeOf(agents.patch(top.id, wish, person))]).toEqual([field, 'amount_invalid'])
        }
        expect(await codeOf(agents.giveTokens(top.id, { tokens: amount }, person))).toBe('amount_invalid')
      }
      expect(await codeOf(agents.giveTokens(top.id, { tokens: 0 }, person))).toBe('amount_invalid')
      const { data } = await agents.list(person, page)
      expect([data.map(({ name }) => name), model.tokensOf(top.id), model.sum()]).toEqual([['an agent'], 5, 1_000])
    })

    test('in the ledger itself: budgets go down, come back with the archive, and plans bound the number of agents', async () => {
      const { agents, ledger, reading } = await startReal('developer')
      const top = await agents.create(wishOf({ tokenBudget: 100 }), person)
      const bot = await agents.create(botBelow(top.id, { tokenBudget: 40, monthlyTokens: 5 }), person)
      expect(await codeOf(agents.create(botBelow(top.id, { tokenBudget: 61 }), person))).toBe('balance_too_low')
      await agents.create(botBelow(bot.id, { tokenBudget: 40 }), person)
      expect(await codeOf(agents.create(botBelow(bot.id), person))).toBe('plan_limit_reached')
      const left = async () =>
        (await reading.purses({ accountId }, { archived: true })).map(({ kind, granted, state }) => [
          kind,
          state,
          shownTokens(granted),
        ])
      expect((await left()).filter(([, state]) => state === 'open')).toEqual([
        ['reserve', 'open', 900],
        ['agent', 'open', 60],
        ['agent', 'open', 0],
        ['agent', 'open', 40],
      ])
      const held = await ledger.hold({ accountId, payer: top.id, amount: 60_000_000, purpose: { kind: 'model' } })
      expect((await agents.archive(top.id, person)).state).toBe('archiving')
      const ended = new Promise<void>((resolve) => {
        agents.events.on('agent.archived', ({ agentId }) => agentId === top.id && resolve())
      })
      await ledger.release(held.holdId, accountId)
      await ended
      expect((await agents.get(top.id, person)).state).toBe('archived')
      expect((await ledger.balanceOf(accountId, ledger.reserveOf(accountId))).granted).toBe(1_000_000_000)
    })
    test('come from the parent or the reserve, once for each key, and from the reserve by no agent’s word', async () => {
      const { agents, main, model } = await start()
      const top = await main({ tokenBudget: 10 })
      const bot = await agents.create(botBelow(top.id), person)
      for (let asked = 0; asked < 2; asked += 1) {
        await agents.giveTokens(bot.id, { tokens: 3 }, person, { idempotencyKey: 'k' })
      }
      expect([model.tokensOf(top.id), model.tokensOf(bot.id)]).toEqual([7, 3])
      await agents.giveTokens(bot.id, { tokens: 5, from: 'reserve' }, person)
      expect([model.tokensOf(top.id), model.tokensOf(bot.id)]).toEqual([7, 8])
      expect(await codeOf(agents.giveTokens(bot.id, { tokens: 1, from: 'reserve' }, asAgent(top.id)))).toBe('forbidden')
      expect(await codeOf(agents.giveTokens(top.id, { tokens: 1 }, asAgent(top.id)))).toBe('forbidden')
      await agents.giveTokens(bot.id, { tokens: 1 }, asAgent(top.id))
      expect(model.tokensOf(bot.id)).toBe(9)
    })
  })

  test('agents that are remembered are of their own account, and bounded', async () => {
    const { directory, main } = await start()
    const top = await main()
    await directory.find(top.id, accountId)
    expect(await directory.find(top.id, 'acc_b')).toBeUndefined()
    const store = directory.store
    await store.insert(testAgent('agt_half', { accountId, state: 'creating' }), {
      line: ['agt_half'],
      limit: undefined,
    })
    expect(await directory.find('agt_half', accountId)).toBeUndefined()
  })
})
