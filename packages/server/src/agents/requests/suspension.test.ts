import { onTestFinished, expect, test } from 'vitest'
import { right } from '../../access/rights.ts'
import { testCaller } from '../../access/testing.ts'
import { approvalMigrations } from '../../approvals/migrations.ts'
import { createApprovals } from '../../approvals/service.ts'
import { manualClock } from '../../kernel/clock.ts'
import type { Database } from '../../kernel/db/database.ts'
import { testDatabases } from '../../kernel/db/testing.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { testHashBody } from '../../kernel/http/testing-body-hash.ts'
import { silentLogger } from '../../kernel/log.ts'
import { ledgerMigrations } from '../../ledger/migrations.ts'
import { firstCard } from '../../ledger/rate-card.ts'
import { createLedger } from '../../ledger/service.ts'
import { mortal } from '../../workspaces/testing.ts'
import { agentMigrations } from '../migrations.ts'
import { microPerToken } from '../../ledger/door.ts'
import type { AgentState } from '../schema.ts'
import { type AgentRecord, createAgentStore } from '../store.ts'
import { testAgent } from '../testing.ts'
import { tokensApproval } from './approval.ts'
import { tokenRequestMigrations } from './migrations.ts'
import { requestTokensSchema } from './schema.ts'
import { createTokenRequests } from './service.ts'
import { createTokenRequestStore } from './store.ts'
import { createSuspension } from './suspension.ts'

const accountId = 'acc_a'
const bert = testCaller({
  kind: 'user',
  accountId,
  userId: 'usr_b',
  sessionId: 'ses_b',
  role: 'member',
  secondFactor: false,
})
const migrations = [approvalMigrations, ledgerMigrations, agentMigrations, tokenRequestMigrations].flat()
const november = Date.UTC(2026, 10, 23, 12)

testDatabases('agents out of tokens', (open) => {
  async function start() {
    const database = (await open(migrations)).of() as Database
    const clock = manualClock(november)
    const agents = createAgentStore(database)
    const store = createTokenRequestStore(database)
    const ledger = createLedger({
      database,
      clock,
      log: silentLogger,
      rates: firstCard,
      grant: 1_000 * microPerToken,
      planAtStart: () => 'enterprise',
      incarnation: 'srv_a',
    })
    await ledger.ensure(accountId)
    const reserve = ledger.reserveOf(accountId)
    const give = (to: string, tokens: number, key: string) =>
      ledger.transfer({ accountId, from: reserve, to, amount: tokens * microPerToken, reason: 'x', key })
    const add = async (id: string, changes: Partial<AgentRecord> = {}) => {
      const { parentId = null, monthly = 0 } = changes
      const line = parentId === null ? [id] : [parentId, id]
      await agents.insert(testAgent(id, { accountId, rights: [right('allocate')], ...changes }), {
        line,
        limit: undefined,
      })
      await ledger.openPurse({ accountId, purseId: id, kind: 'agent', parentId: parentId ?? reserve, monthly })
    }
    await add('agt_main')
    await add('agt_bot', { parentId: 'agt_main', kind: 'bot' })
    await give('agt_bot', 1, 'first')

    const acts: string[] = []
    const hold = (tokens: number, payer = 'agt_bot') =>
      ledger.hold({ accountId, payer, amount: tokens * microPerToken, purpose: { kind: 'sandbox' } })
    const stateOf = async (id = 'agt_bot') => (await agents.get(id))!.state
    const set = async (id: string, state: AgentState) => {
      const before = (await agents.get(id))!
      await agents.update(before, { ...before, state })
    }
    /** What agents do about it: the row, then the computer. */
    const computer = {
      fault: undefined as string | undefined,
      async suspend(id: string) {
        if ((await stateOf(id)) === 'active') await set(id, 'suspended')
        acts.push(`freeze ${id}`)
        if (computer.fault) throw new DeltaError('driver_failed', computer.fault)
      },
      async wake(id: string) {
        if ((await stateOf(id)) !== 'suspended') return
        if (computer.fault) throw new DeltaError('driver_failed', computer.fault)
        acts.push(`thaw ${id}`)
        await set(id, 'active')
      },
    }
    const serve = (through: Database = database) => {
      const shared = {
        hashBody: testHashBody,
        clock,
        log: silentLogger,
        database: through,
        record: () => Promise.resolve(),
      }
      const approvals = createApprovals({
        ...shared,
        kinds: [tokensApproval((action, approved) => requests.grant(action, approved))],
        hasSecondFactor: () => Promise.resolve(false),
        mayStillAsk: () => Promise.resolve(true),
      })
      const requests = createTokenRequests({ ...shared, agents: createAgentStore(through), approvals, ledger })
      const suspension = createSuspension({
        ...shared,
        agents: { suspend: (id) => computer.suspend(id) as never, wake: (id) => computer.wake(id) as never },
        agentStore: agents,
        ledger,
        requests,
      })
      onTestFinished(suspension.stop)
      return { approvals, requests, suspension }
    }
    const server = serve()
    ledger.events.on('purse.low', server.suspension.low)
    ledger.events.on('purse.filled', server.suspension.filled)
    const refused = async (tokens: number, payer?: string) => {
      await expect(hold(tokens, payer)).rejects.toMatchObject({ code: 'balance_too_low' })
      await server.suspension.settled()
    }
    const filled = async (tokens: number, key: string, to = 'agt_bot') => {
      await give(to, tokens, key)
      await server.suspension.settled()
    }
    const request = async (id = 'agt_bot') => store.openOf(id)
    return {
      database,
      clock,
      agents,
      store,
      ledger,
      acts,
      computer,
      hold,
      stateOf,
      set,
      serve,
      ...server,
      refused,
      filled,
      request,
      add,
      give,
    }
  }

  test('one whose hold is refused stands still, and tokens are asked for it', async () => {
    const { refused, stateOf, acts, request } = await start()
    await refused(3)
    expect(await stateOf()).toBe('suspended')
    expect(acts).toEqual(['freeze agt_bot'])
    expect(await request()).toMatchObject({
      automatic: true,
      tokens: 3,
      state: 'pending_main',
      mainId: 'agt_main',
      reason: 'Out of tokens: 3 were needed at once',
    })
  })

  test('a tenth of what it has each month is asked for beside what was refused', async () => {
    const { add, refused, request } = await start()
    await add('agt_rich', { parentId: 'agt_main', kind: 'bot', monthly: 55 * microPerToken })
    await refused(3, 'agt_rich')
    expect((await request('agt_rich'))!.tokens).toBe(9)
  })

  test('it goes on when tokens come, and what was asked for it is not needed any more', async () => {
    const { refused, filled, stateOf, acts, request, store } = await start()
    await refused(3)
    const asked = (await request())!
    await filled(5, 'more')
    expect(await stateOf()).toBe('active')
    expect(acts).toEqual(['freeze agt_bot', 'thaw agt_bot'])
    expect(await store.get(asked.id)).toMatchObject({ state: 'unneeded' })
    expect(await store.suspension('agt_bot')).toBeUndefined()
  })

  test('the approval of a person wakes it', async () => {
    const { refused, stateOf, request, requests, suspension, store } = await start()
    await refused(3)
    const { id, tokens } = (await request())!
    await requests.approve(id, tokens, bert)
    await suspension.settled()
    expect(await stateOf()).toBe('active')
    expect(await store.get(id)).toMatchObject({ state: 'granted' })
  })

  test('what it asked for itself stands, and no second request is made', async () => {
    const { refused, filled, requests, request } = await start()
    const bot = testCaller({
      kind: 'agent',
      accountId,
      agentId: 'agt_bot',
      agentKind: 'bot',
      jti: 'tok_b',
      rights: [right('request')],
    })
    const wish = requestTokensSchema.parse({ tokens: 40, reason: 'Forty mails' })
    const asked = (await requests.ask('agt_bot', wish, bot)).request
    await refused(3)
    expect((await request())!.id).toBe(asked.id)
    await filled(5, 'more')
    expect(await request()).toMatchObject({ id: asked.id, state: 'pending_main' })
  })

  test('where somebody said no, nobody is asked for it again until a day has passed or it ran out anew', async () => {
    const { refused, filled, requests, request, suspension, clock } = await start()
    await refused(3)
    await requests.refuse((await request())!.id, 'Not today', bert)
    clock.jump(60_000)
    await suspension.mend()
    await refused(3)
    expect(await request()).toBeUndefined()
    clock.jump(24 * 3_600_000)
    await suspension.mend()
    const next = (await request())!
    expect(next).toMatchObject({ automatic: true, tokens: 3 })
    await requests.refuse(next.id, 'Not today either', bert)
    await filled(5, 'more')
    clock.jump(60_000)
    await refused(30)
    expect(await request()).toMatchObject({ automatic: true, tokens: 30 })
  })

  test('many refusals at once are one standstill and one request', async () => {
    const { hold, suspension, acts, requests } = await start()
    await Promise.allSettled(Array.from({ length: 200 }, () => hold(3)))
    await suspension.settled()
    expect(acts).toEqual(['freeze agt_bot'])
    expect((await requests.list({ limit: 10 }, bert)).data).toHaveLength(1)
  })

  test('what was held and comes back does not wake it', async () => {
    const { hold, ledger, refused, suspension, stateOf } = await start()
    const { holdId } = await hold(1)
    await refused(3)
    await ledger.release(holdId, accountId)
    await suspension.mend()
    expect(await stateOf()).toBe('suspended')
  })

  test('of the reserve’s holds nobody stands still', async () => {
    const { ledger, suspension, acts } = await start()
    const wish = { accountId, amount: 5_000 * microPerToken, purpose: { kind: 'storage' } }
    await expect(ledger.hold(wish)).rejects.toMatchObject({ code: 'balance_too_low' })
    await suspension.settled()
    expect(acts).toEqual([])
  })

  test('the new month’s allocation wakes it', async () => {
    const { add, refused, clock, ledger, suspension, stateOf } = await start()
    await add('agt_monthly', { parentId: 'agt_main', kind: 'bot', monthly: 5 * microPerToken })
    await refused(3, 'agt_monthly')
    expect(await stateOf('agt_monthly')).toBe('suspended')
    clock.jump(9 * 24 * 3_600_000)
    await ledger.ensure(accountId)
    await suspension.settled()
    expect(await stateOf('agt_monthly')).toBe('active')
  })

  test('one that a person paused stays so', async () => {
    const { refused, filled, set, stateOf, store } = await start()
    await set('agt_bot', 'paused')
    await refused(3)
    expect(await stateOf()).toBe('paused')
    await filled(5, 'more')
    expect(await stateOf()).toBe('paused')
    expect(await store.suspension('agt_bot')).toBeUndefined()
  })

  test('one that has ended is left alone', async () => {
    const { refused, set, acts, store, request } = await start()
    await set('agt_bot', 'archived')
    await refused(3)
    expect([acts, await store.suspension('agt_bot'), await request()]).toEqual([[], undefined, undefined])
  })

  test('a computer that does not thaw is tried again', async () => {
    const { refused, filled, computer, stateOf, suspension } = await start()
    await refused(3)
    computer.fault = 'no room'
    await filled(5, 'more')
    expect(await stateOf()).toBe('suspended')
    computer.fault = undefined
    await suspension.mend()
    expect(await stateOf()).toBe('active')
  })

  test('one whose computer did not freeze is suspended all the same, and asks', async () => {
    const { refused, computer, stateOf, request } = await start()
    computer.fault = 'the driver is away'
    await refused(3)
    expect(await stateOf()).toBe('suspended')
    expect(await request()).toMatchObject({ automatic: true })
  })

  test('a server that is killed at any write leaves what the next start mends', async () => {
    for (let writes = 0; writes < 8; writes += 1) {
      const world = await start()
      const { database, serve, ledger, hold, stateOf, request, give } = world
      // Only the dying one hears of it.
      await world.suspension.stop()
      const dying = serve(mortal(database, { writes }))
      ledger.events.on('purse.low', dying.suspension.low)
      await expect(hold(3)).rejects.toMatchObject({ code: 'balance_too_low' })
      await dying.suspension.settled()
      const next = serve()
      await next.suspension.mend()
      const wasKnown = writes > 0
      expect([writes, await stateOf()]).toEqual([writes, wasKnown ? 'suspended' : 'active'])
      expect((await request())?.automatic).toBe(wasKnown ? true : undefined)
      await give('agt_bot', 5, 'more')
      await next.suspension.mend()
      expect([writes, await stateOf(), (await request())?.state]).toEqual([writes, 'active', undefined])
    }
  })

  test('a server that is killed while it wakes one leaves none asleep', async () => {
    for (let writes = 0; writes < 5; writes += 1) {
      const { database, serve, refused, suspension, ledger, hold, give, stateOf, store } = await start()
      await refused(3)
      await suspension.stop()
      const dying = serve(mortal(database, { writes }))
      await give('agt_bot', 5, 'more')
      await dying.suspension.mend()
      // What has come is spent before the next server looks.
      if ((await stateOf()) === 'active') {
        const { holdId, amount } = await hold(6)
        await ledger.commit(holdId, accountId, [{ meter: 'x', quantity: 1, cost: amount }])
      }
      const next = serve()
      await next.suspension.mend()
      expect([writes, await stateOf(), await store.suspension('agt_bot')]).toEqual([writes, 'active', undefined])
    }
  })

  test('killed while it wakes, it wakes at the next start, whatever it has spent since', async () => {
    const { store, set, serve, stateOf } = await start()
    await store.putSuspension({
      agentId: 'agt_bot',
      accountId,
      state: 'waking',
      wanted: 9_000_000,
      had: 2_000_000,
      at: 0,
    })
    await set('agt_bot', 'suspended')
    const next = serve()
    await next.suspension.mend()
    expect(await stateOf()).toBe('active')
    expect(await store.suspension('agt_bot')).toBeUndefined()
  })
})
