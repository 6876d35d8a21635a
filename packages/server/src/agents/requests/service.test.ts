import { describe, expect, onTestFinished, test } from 'vitest'
import type { AuditEntry } from '../../access/audit/entry.ts'
import type { AgentPrincipal, UserPrincipal } from '../../access/principal.ts'
import type { KnownCaller } from '../../access/door.ts'
import { right } from '../../access/rights.ts'
import { testCaller, testKeyPrincipal } from '../../access/testing.ts'
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
import { type Life, mortal } from '../../workspaces/testing.ts'
import { agentMigrations } from '../migrations.ts'
import { microPerToken } from '../../ledger/door.ts'
import { type AgentRecord, createAgentStore } from '../store.ts'
import { testAgent } from '../testing.ts'
import { tokensApproval } from './approval.ts'
import { requestLimits } from './limits.ts'
import { tokenRequestMigrations } from './migrations.ts'
import { tokenRequestStates } from './record.ts'
import { isPending, maySee, stateOf } from './rules.ts'
import { approveTokensSchema, requestTokensSchema, tokenRequestListQuerySchema } from './schema.ts'
import { createTokenRequests, type RequestLedger } from './service.ts'
import { createTokenRequestStore } from './store.ts'

const accountId = 'acc_a'
const reserve = 1_000
const asAgent = (agentId: string, changes: Partial<AgentPrincipal> = {}): KnownCaller => ({
  ...testCaller({
    kind: 'agent',
    accountId,
    agentId,
    agentKind: 'bot',
    jti: `tok_${agentId.slice(4)}`,
    rights: [right('allocate'), right('request'), right('read:agents')],
    ...changes,
  }),
  ties: [`tok_${agentId.slice(4)}`, 'key_a', 'usr_anna'],
})
const person = (userId: string, changes: Partial<UserPrincipal> = {}) =>
  testCaller({
    kind: 'user',
    accountId,
    userId,
    sessionId: `ses_${userId}`,
    role: 'member',
    secondFactor: false,
    ...changes,
  })
const anna = person('usr_anna')
const bert = person('usr_bert')
const stranger = person('usr_s', { accountId: 'acc_b', role: 'owner' })
const bot = asAgent('agt_bot')
const main = asAgent('agt_main', { agentKind: 'main' })
const sibling = asAgent('agt_sibling')
const page = tokenRequestListQuerySchema.parse({})
const wish = (tokens = 50, more: object = {}) => requestTokensSchema.parse({ tokens, reason: 'It is needed', ...more })

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    (done) => `done: ${JSON.stringify(done)}`,
    (error: unknown) => (error instanceof DeltaError ? error.code : String(error)),
  )
}

const migrations = [approvalMigrations, ledgerMigrations, agentMigrations, tokenRequestMigrations].flat()

/** A killed server: nothing it awaited ever comes. */
const never = () => new Promise<never>(() => {})

testDatabases('token requests', (open) => {
  async function start() {
    const database = (await open(migrations)).of()
    const clock = manualClock(1_789_000_000_000)
    const audit: AuditEntry[] = []
    const agents = createAgentStore(database)
    const money = {
      database: database as Database,
      clock,
      log: silentLogger,
      rates: firstCard,
      grant: reserve * microPerToken,
      planAtStart: () => 'enterprise' as const,
      incarnation: 'srv_a',
    }
    const ledger = createLedger(money)
    await ledger.ensure(accountId)
    const add = async (id: string, tokens: number, changes: Partial<AgentRecord> = {}) => {
      const parent = changes.parentId ?? null
      const line = parent === null ? [id] : [...(await agents.line(parent)).map((one) => one.id), id]
      const rights = [right('allocate'), right('request'), right('read:agents')]
      const record = testAgent(id, { accountId, rights, confirmAbove: 10 * microPerToken, ...changes })
      await agents.insert(record, { line, limit: undefined })
      const parentId = parent ?? ledger.reserveOf(accountId)
      await ledger.openPurse({ accountId, purseId: id, kind: 'agent', parentId, monthly: 0 })
      if (tokens === 0) return
      const amount = tokens * microPerToken
      await ledger.transfer({
        accountId,
        from: ledger.reserveOf(accountId),
        to: id,
        amount,
        reason: 'x',
        key: `k ${id}`,
      })
    }
    await add('agt_main', 100)
    await add('agt_bot', 0, { parentId: 'agt_main', kind: 'bot' })
    await add('agt_sibling', 0, { parentId: 'agt_main', kind: 'bot' })

    /** One server; `through` is what it has of the database and the ledger. */
    const serve = (through: { database?: Database; ledger?: RequestLedger } = {}) => {
      const deps = { database: database as Database, ledger, ...through }
      const record = (entry: AuditEntry) => Promise.resolve(void audit.push(entry))
      const shared = { record, hashBody: testHashBody, clock, log: silentLogger }
      const approvals = createApprovals({
        ...shared,
        database: deps.database,
        kinds: [tokensApproval((action, approved) => requests.grant(action, approved))],
        hasSecondFactor: () => Promise.resolve(false),
        mayStillAsk: () => Promise.resolve(true),
      })
      const requests = createTokenRequests({ ...shared, ...deps, agents: createAgentStore(deps.database), approvals })
      approvals.events.on('approval.changed', ({ approvalId }) => void requests.approvalChanged(approvalId))
      return { approvals, requests }
    }
    const server = serve()
    const tokensOf = async (id: string) => {
      const { granted, bought } = await ledger.balanceOf(accountId, id === 'reserve' ? ledger.reserveOf(accountId) : id)
      return (granted + bought) / microPerToken
    }
    /** Of reserve, main and bot. */
    const balances = async () => [await tokensOf('reserve'), await tokensOf('agt_main'), await tokensOf('agt_bot')]
    const set = async (id: string, changes: Partial<AgentRecord>) => {
      const before = (await agents.get(id))!
      expect(await agents.update(before, { ...before, ...changes })).toBe(true)
    }
    const ask = async (tokens = 50, caller = bot, more: object = {}) =>
      (await server.requests.ask(bot.actorId, wish(tokens, more), caller)).request
    /** The approval that a person decides on. */
    const approvalOf = async (id: string) => {
      const { approvalId } = await server.requests.get(id, bert)
      return server.approvals.get(approvalId!, bert)
    }
    return {
      database: database as Database,
      clock,
      audit,
      agents,
      ledger,
      serve,
      ...server,
      tokensOf,
      balances,
      set,
      ask,
      approvalOf,
      add,
    }
  }

  describe('asking', () => {
    test('goes to the main agent first, and moves nothing', async () => {
      const { ask, balances, requests } = await start()
      const request = await ask()
      expect(request).toMatchObject({
        agentId: 'agt_bot',
        tokens: 50,
        state: 'pending_main',
        mainAgent: 'agt_main',
        askedBy: 'agt_bot',
        from: null,
        automatic: false,
      })
      expect(Date.parse(request.mainUntil!) - Date.parse(request.askedAt)).toBe(300_000)
      expect(await balances()).toEqual([900, 100, 0])
      for (const caller of [bot, main, bert, person('usr_v', { role: 'viewer' })]) {
        expect(await requests.get(request.id, caller)).toEqual(request)
        expect((await requests.list(page, caller)).data).toEqual([request])
      }
      for (const caller of [sibling, stranger, asAgent('agt_bot', { accountId: 'acc_b' })]) {
        expect(await codeOf(requests.get(request.id, caller))).toBe('token_request_not_found')
        expect((await requests.list(page, caller)).data).toEqual([])
      }
    })

    test('of a main agent at the top goes to a person at once, for tokens of the reserve', async () => {
      const { requests, approvals } = await start()
      const { request } = await requests.ask('agt_main', wish(7), main)
      expect(request).toMatchObject({ state: 'pending_user', from: 'reserve', mainAgent: null })
      const approval = await approvals.get(request.approvalId!, bert)
      expect(approval).toMatchObject({
        kind: 'tokens',
        state: 'pending',
        askedBy: 'agt_main',
        description: 'The agent agt_main gets 7 tokens of the account’s reserve, to spend as it does its own.',
        action: { kind: 'tokens', agentId: 'agt_main', fromPurse: 'acc_a:reserve', tokens: 7, requestId: request.id },
        expiresAt: request.expiresAt,
      })
    })

    test('one at a time: the same again is the same, another is refused and names it', async () => {
      const { requests, ask } = await start()
      const asked = await Promise.all([1, 2, 3, 4].map(() => requests.ask('agt_bot', wish(), bot)))
      expect(new Set(asked.map(({ request }) => request.id)).size).toBe(1)
      expect(asked.filter(({ made }) => made)).toHaveLength(1)
      const { id } = asked[0]!.request
      await expect(ask(51)).rejects.toMatchObject({ code: 'token_request_pending', context: { requestId: id } })
      await expect(ask(50, anna)).rejects.toMatchObject({ code: 'token_request_pending' })
      await requests.refuse(id, 'no', main)
      expect((await ask(51)).id).not.toBe(id)
    })

    test('the same key is the same request whatever became of it, and another body is refused', async () => {
      const { requests } = await start()
      const withKey = (tokens: number) => requests.ask('agt_bot', wish(tokens), bot, { idempotencyKey: 'k' })
      const [first] = await Promise.all([withKey(5), withKey(5)])
      await requests.refuse(first.request.id, 'no', main)
      const again = await withKey(5)
      expect([again.request.id, again.request.state, again.made]).toEqual([first.request.id, 'refused', false])
      expect(await codeOf(withKey(6))).toBe('idempotency_conflict')
    })

    test('for itself alone, by who may change it, and for nobody who has ended', async () => {
      const { requests, set } = await start()
      const code = (id: string, caller: KnownCaller) => codeOf(requests.ask(id, wish(), caller))
      expect(await code('agt_bot', main)).toBe('forbidden')
      expect(await code('agt_bot', sibling)).toBe('agent_not_found')
      expect(await code('agt_main', bot)).toBe('agent_not_found')
      expect(await code('agt_none', anna)).toBe('agent_not_found')
      expect(await code('agt_bot', stranger)).toBe('agent_not_found')
      expect(await code('agt_bot', person('usr_v', { role: 'viewer' }))).toBe('forbidden')
      expect(await code('agt_bot', anna)).toMatch(/^done/)
      await set('agt_sibling', { state: 'archived' })
      expect(await code('agt_sibling', sibling)).toBe('agent_archived')
    })

    test('for what is no number of tokens is refused by name, as is a yes to it, and nothing is asked', async () => {
      const { requests, ask, balances } = await start()
      const texts = ['0', '-1', '-0', '1.5', '1e400', '"5"', '9007199254740993', '18446744073709551616', '9007199255']
      for (const text of [...texts, JSON.stringify(Number.NaN), 'true', '[1]', '{}']) {
        const asked = requestTokensSchema.parse(JSON.parse(`{"reason":"x","tokens":${text}}`))
        expect([text, await codeOf(requests.ask('agt_bot', asked, bot))]).toEqual([text, 'amount_invalid'])
      }
      expect(requestTokensSchema.safeParse({ reason: 'x' }).success).toBe(false)
      expect((await requests.list(page, main)).data).toEqual([])
      const { id } = await ask(5)
      for (const text of texts) {
        const { tokens } = approveTokensSchema.parse(JSON.parse(`{"tokens":${text}}`))
        for (const caller of [main, bert])
          expect([text, await codeOf(requests.approve(id, tokens, caller))]).toEqual([text, 'amount_invalid'])
      }
      expect(approveTokensSchema.safeParse({}).success).toBe(false)
      expect([(await requests.get(id, bot)).state, await balances()]).toEqual(['pending_main', [900, 100, 0]])
    })

    test('has a limit for a day', async () => {
      const { requests, ask, clock, database } = await start()
      const store = createTokenRequestStore(database)
      const { id } = await ask()
      await requests.cancel(id, bot)
      const over = (await store.get(id))!
      const others = Array.from({ length: requestLimits.asked.perAgent - 1 }, (_, at) => ({ ...over, id: `trq_${at}` }))
      for (const one of others) await store.insert(one)
      expect(await codeOf(ask())).toBe('token_request_limit_reached')
      clock.jump(requestLimits.asked.windowMs)
      expect(await codeOf(ask())).toMatch(/^done/)
    })
  })

  describe('deciding', () => {
    test('main’s yes is enough up to its threshold, from its own balance, once', async () => {
      const { requests, ask, balances, audit } = await start()
      const { id } = await ask(10)
      const decided = await Promise.allSettled([1, 2, 3].map(() => requests.approve(id, 10, main)))
      expect(decided.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
      expect(await requests.get(id, bot)).toMatchObject({ state: 'granted', from: 'agt_main', decidedBy: 'agt_main' })
      expect(await balances()).toEqual([900, 90, 10])
      expect(await codeOf(requests.approve(id, 10, main))).toBe('token_request_decided')
      expect(await codeOf(requests.approve(id, 10, bert))).toBe('token_request_decided')
      expect(await balances()).toEqual([900, 90, 10])
      expect(audit.map(({ action, actorId }) => [action, actorId])).toEqual([
        ['token_request.asked', 'agt_bot'],
        ['token_request.granting', 'agt_main'],
        ['token_request.granted', 'agt_main'],
      ])
    })

    test('bot asks, main says yes, the person confirms, and the balance has moved', async () => {
      const { requests, approvals, ask, approvalOf, balances } = await start()
      const { id } = await ask(50)
      expect(await requests.approve(id, 50, main)).toMatchObject({
        state: 'pending_user',
        endorsedBy: 'agt_main',
        from: 'agt_main',
      })
      expect(await balances()).toEqual([900, 100, 0])
      const approval = await approvalOf(id)
      expect(approval.description).toContain('50 tokens of the agent agt_main')
      expect(await approvals.approve(approval.id, approval.actionHash, anna)).toMatchObject({ state: 'executed' })
      expect(await requests.get(id, bot)).toMatchObject({ state: 'granted', decidedBy: 'usr_anna' })
      expect(await balances()).toEqual([900, 50, 50])
      expect(await codeOf(approvals.approve(approval.id, approval.actionHash, anna))).toBe('approval_decided')
      expect(await codeOf(requests.approve(id, 50, anna))).toBe('token_request_decided')
      expect(await balances()).toEqual([900, 50, 50])
    })

    test('what main does not have comes from the reserve', async () => {
      const { requests, ask, balances } = await start()
      const { id } = await ask(101)
      expect(await requests.approve(id, 101, main)).toMatchObject({ state: 'pending_user', from: 'reserve' })
      expect(await requests.approve(id, 101, anna)).toMatchObject({ state: 'granted' })
      expect(await balances()).toEqual([799, 100, 101])
    })

    test('a person may decide in place of main: then from the reserve', async () => {
      const { requests, ask, balances } = await start()
      const { id } = await ask(5)
      expect(await requests.approve(id, 5, bert)).toMatchObject({
        state: 'granted',
        from: 'reserve',
        decidedBy: 'usr_bert',
      })
      expect(await balances()).toEqual([895, 100, 5])
    })

    test('of ten people at once one decides', async () => {
      const { requests, ask, balances } = await start()
      const { id } = await ask(30)
      const people = Array.from({ length: 10 }, (_, at) => person(`usr_${at}`))
      await Promise.allSettled(
        people.map((one, at) => (at % 2 ? requests.approve(id, 30, one) : requests.refuse(id, 'no', one))),
      )
      const { state } = await requests.get(id, bot)
      expect(['granted', 'refused']).toContain(state)
      expect(await balances()).toEqual(state === 'granted' ? [870, 100, 30] : [900, 100, 0])
    })

    test('main’s no is seen by the bot, with its reason', async () => {
      const { requests, ask, balances } = await start()
      const { id } = await ask()
      await requests.refuse(id, 'Tomorrow', main)
      expect(await requests.get(id, bot)).toMatchObject({
        state: 'refused',
        refusal: 'Tomorrow',
        decidedBy: 'agt_main',
      })
      expect(await balances()).toEqual([900, 100, 0])
    })

    test('a person’s no, here or among the approvals', async () => {
      const { requests, approvals, ask, approvalOf } = await start()
      const first = await ask()
      await requests.approve(first.id, 50, main)
      await requests.refuse(first.id, 'Not today', bert)
      expect(await requests.get(first.id, bot)).toMatchObject({ state: 'refused', refusal: 'Not today' })
      expect(await approvalOf(first.id)).toMatchObject({ state: 'refused' })
      const second = await ask()
      await requests.approve(second.id, 50, main)
      await approvals.refuse((await approvalOf(second.id)).id, 'Nor tomorrow', bert)
      await requests.sweep()
      expect(await requests.get(second.id, bot)).toMatchObject({ state: 'refused', refusal: 'Nor tomorrow' })
    })

    test('nobody decides on their own, and a sibling on nothing', async () => {
      const { requests, ask, balances } = await start()
      const { id } = await ask()
      for (const caller of [bot, asAgent('agt_bot', { agentKind: 'main' })]) {
        expect(await codeOf(requests.approve(id, 50, caller))).toBe('approval_own_request')
      }
      expect(await codeOf(requests.approve(id, 50, asAgent('agt_sibling', { agentKind: 'main' })))).toBe(
        'token_request_not_found',
      )
      expect(await codeOf(requests.approve(id, 50, asAgent('agt_main', { rights: [] })))).toBe('forbidden')
      expect(await codeOf(requests.approve(id, 50, person('usr_v', { role: 'viewer' })))).toBe('forbidden')
      const key = testCaller(testKeyPrincipal({ accountId, keyId: 'key_a', userId: 'usr_anna' }))
      expect(await codeOf(requests.approve(id, 50, key))).toBe('approval_own_request')
      await requests.cancel(id, bot)
      const own = await ask(50, anna)
      expect(await codeOf(requests.approve(own.id, 50, anna))).toBe('approval_own_request')
      expect(await requests.get(own.id, anna)).toMatchObject({ state: 'pending_main' })
      expect(await balances()).toEqual([900, 100, 0])
    })

    test('another amount than was asked for is nobody’s yes', async () => {
      const { requests, approvals, ask, database, balances } = await start()
      const { id } = await ask(5)
      for (const caller of [main, bert])
        expect(await codeOf(requests.approve(id, 6, caller))).toBe('token_request_changed')
      await requests.approve(id, 5, asAgent('agt_main', { rights: [right('allocate:4')] }))
      const { approvalId } = await requests.get(id, bot)
      // Somebody at the database makes more of it.
      const db = database.of<{ token_requests: { id: string; tokens: number } }>()
      await db.run(db.sql.updateTable('token_requests').set({ tokens: 500 }).where('id', '=', id).compile())
      expect(await codeOf(requests.approve(id, 5, bert))).toBe('token_request_changed')
      expect(await codeOf(requests.approve(id, 500, bert))).toBe('approval_action_changed')
      // Nor is it by the hash of what the person was shown.
      const approval = await approvals.get(approvalId!, bert)
      const after = await approvals.approve(approval.id, approval.actionHash, bert)
      expect(after).toMatchObject({ state: 'failed', failure: { code: 'approval_action_changed' } })
      expect(await balances()).toEqual([900, 100, 0])
    })

    test('the balance of that moment decides: gone in between it fails by name, and nothing has moved', async () => {
      const { requests, ask, ledger, balances } = await start()
      const { id } = await ask(50)
      await requests.approve(id, 50, main)
      const away = {
        accountId,
        from: 'agt_main',
        to: 'agt_sibling',
        amount: 60 * microPerToken,
        reason: 'x',
        key: 'away',
      }
      await ledger.transfer(away)
      expect(await requests.approve(id, 50, bert)).toMatchObject({
        state: 'failed',
        failure: { code: 'balance_too_low' },
      })
      expect(await balances()).toEqual([900, 40, 0])
      expect(await codeOf(requests.approve(id, 50, bert))).toBe('token_request_decided')
      expect((await ask(50)).state).toBe('pending_main')
    })

    test('main spends its last while its yes is on its way: a person is asked for the reserve’s', async () => {
      const { serve, ask, ledger, balances } = await start()
      const { id } = await ask(10)
      const away = {
        accountId,
        from: 'agt_main',
        to: 'agt_sibling',
        amount: 95 * microPerToken,
        reason: 'x',
        key: 'away',
      }
      const { requests } = serve({
        ledger: {
          ...ledger,
          transfer: async (one) => {
            await ledger.transfer(away)
            return ledger.transfer(one)
          },
        },
      })
      expect(await requests.approve(id, 10, main)).toMatchObject({
        state: 'pending_user',
        from: 'reserve',
        decidedBy: null,
      })
      expect(await balances()).toEqual([900, 5, 0])
      expect(await requests.approve(id, 10, bert)).toMatchObject({ state: 'granted' })
      expect(await balances()).toEqual([890, 5, 10])
    })

    test('an agent that is archived in between gets nothing', async () => {
      const { requests, approvals, ask, approvalOf, set, balances } = await start()
      const { id } = await ask()
      await requests.approve(id, 50, main)
      await set('agt_bot', { state: 'archiving' })
      const approval = await approvalOf(id)
      const after = await approvals.approve(approval.id, approval.actionHash, bert)
      expect(after).toMatchObject({ state: 'failed', failure: { code: 'agent_archived' } })
      expect(await requests.get(id, bert)).toMatchObject({ state: 'failed', failure: { code: 'agent_archived' } })
      expect(await balances()).toEqual([900, 100, 0])
    })

    test('one that ends takes its request and what a person was asked with it', async () => {
      const { requests, ask, approvalOf } = await start()
      const { id } = await ask()
      await requests.approve(id, 50, main)
      await requests.agentEnded('agt_bot')
      expect(await requests.get(id, bert)).toMatchObject({ state: 'canceled', decidedBy: null })
      expect(await approvalOf(id)).toMatchObject({ state: 'canceled' })
    })

    test('taking back is for whoever asked', async () => {
      const { requests, approvals, ask, approvalOf } = await start()
      const { id } = await ask()
      await requests.approve(id, 50, main)
      expect(await codeOf(requests.cancel(id, main))).toBe('forbidden')
      expect(await codeOf(requests.cancel(id, sibling))).toBe('token_request_not_found')
      expect(await requests.cancel(id, bot)).toMatchObject({ state: 'canceled' })
      const approval = await approvalOf(id)
      expect(approval.state).toBe('canceled')
      expect(await codeOf(approvals.approve(approval.id, approval.actionHash, bert))).toBe('approval_decided')
    })
  })

  describe('waiting has an end', () => {
    test('without a word of main in five minutes a person decides', async () => {
      const { requests, ask, clock, approvalOf } = await start()
      const { id } = await ask()
      clock.jump(requestLimits.mainMs - 1)
      await requests.sweep()
      expect(await requests.get(id, bot)).toMatchObject({ state: 'pending_main' })
      clock.jump(1)
      await requests.sweep()
      expect(await requests.get(id, bot)).toMatchObject({ state: 'pending_user', from: 'reserve' })
      expect(await approvalOf(id)).toMatchObject({ state: 'pending', kind: 'tokens' })
      expect(await codeOf(requests.approve(id, 50, main))).toBe('token_request_decided')
    })

    test('main and bot that wait for each other both come to a person', async () => {
      const { requests, ask, clock, approvals } = await start()
      const [ofBot, ofMain] = [await ask(), (await requests.ask('agt_main', wish(5), main)).request]
      expect(ofMain.state).toBe('pending_user')
      clock.jump(requestLimits.mainMs)
      await requests.sweep()
      const { data } = await approvals.list({ limit: 10, state: 'pending' }, bert)
      expect(data.map(({ action }) => action['requestId']).toSorted()).toEqual([ofBot.id, ofMain.id].toSorted())
    })

    test('a main agent that stands still keeps nobody waiting', async () => {
      const { requests, ask, set } = await start()
      const { id } = await ask()
      await set('agt_main', { state: 'paused' })
      await requests.mainHalted('agt_main')
      expect(await requests.get(id, bot)).toMatchObject({ state: 'pending_user' })
      await requests.cancel(id, bot)
      expect(await ask()).toMatchObject({ state: 'pending_user', mainAgent: null })
    })

    test('of servers that look at once one asks the person', async () => {
      const { serve, requests, ask, clock, approvals } = await start()
      const { id } = await ask()
      clock.jump(requestLimits.mainMs)
      await Promise.all([requests.sweep(), serve().requests.sweep(), serve().requests.sweep()])
      expect((await approvals.list({ limit: 10 }, bert)).data).toHaveLength(1)
      expect(await requests.get(id, bot)).toMatchObject({ state: 'pending_user' })
    })

    test('it expires, with what a person was asked, and makes room', async () => {
      const { requests, approvals, ask, approvalOf, clock, balances } = await start()
      const first = await ask(50, bot, { ttlMs: 600_000 })
      await requests.approve(first.id, 50, main)
      clock.jump(600_000)
      expect(await requests.get(first.id, bot)).toMatchObject({ state: 'expired' })
      expect(await codeOf(requests.approve(first.id, 50, bert))).toBe('token_request_expired')
      const approval = await approvalOf(first.id)
      expect(await codeOf(approvals.approve(approval.id, approval.actionHash, bert))).toBe('approval_expired')
      const second = await ask(50, bot, { ttlMs: 600_000 })
      expect(second.id).not.toBe(first.id)
      clock.jump(600_000)
      await requests.sweep()
      expect((await requests.list({ ...page, state: 'expired' }, bot)).data).toHaveLength(2)
      expect(await balances()).toEqual([900, 100, 0])
    })
  })

  describe('a kill in between', () => {
    /** Ends the server at each of its writes in turn, goes on with another one, and says what the balances came to. */
    async function killedAtEach(
      act: (at: { requests: ReturnType<typeof createTokenRequests>; id: string }) => Promise<unknown>,
    ) {
      const outcomes: { state: string; moved: number; wasTold: boolean }[] = []
      const world = await start()
      for (let writes = 0; ; writes += 1) {
        const [, , before] = await world.balances()
        const { id } = await world.ask(1)
        const life: Life = { writes }
        const dying = world.serve({ database: mortal(world.database, life) })
        const wasTold = await act({ requests: dying.requests, id }).then(
          () => true,
          () => false,
        )
        // The next server: what was approved is gone on with, then what was asked for.
        const next = world.serve()
        onTestFinished(next.approvals.stop)
        world.clock.jump(120_000)
        await next.requests.sweep()
        await next.approvals.start()
        await world.clock.advance(20_000)
        for (let looks = 0; looks < 50; looks += 1) await new Promise((resolve) => setImmediate(resolve))
        await next.requests.sweep()
        await next.approvals.stop()
        const { state } = await next.requests.get(id, bot)
        const [, , moved] = await world.balances()
        outcomes.push({ state, moved: moved! - before!, wasTold })
        if (state.startsWith('pending')) await next.requests.cancel(id, bot)
        if (wasTold) return outcomes
        if (writes > 60) throw new Error('It never came to an end')
      }
    }

    test('main’s yes moves the tokens once, or not at all', async () => {
      const outcomes = await killedAtEach(({ requests, id }) => requests.approve(id, 1, main))
      for (const { state, moved } of outcomes)
        expect([state, moved]).toEqual(state === 'granted' ? ['granted', 1] : ['pending_main', 0])
      expect(outcomes.filter(({ state }) => state === 'granted').length).toBeGreaterThan(1)
    })

    test('a person’s yes too', async () => {
      const outcomes = await killedAtEach(({ requests, id }) => requests.approve(id, 1, bert))
      for (const { state, moved } of outcomes)
        expect([state, moved]).toEqual(
          state === 'granted'
            ? ['granted', 1]
            : ['pending_user', 0].includes(state)
              ? ['pending_user', 0]
              : ['pending_main', 0],
        )
      expect(outcomes.filter(({ state }) => state === 'granted').length).toBeGreaterThan(1)
    })

    test('right after the tokens moved, before anything says so', async () => {
      const { serve, ask, ledger, balances, clock } = await start()
      const { id } = await ask(10)
      const dying = serve({
        ledger: {
          ...ledger,
          async transfer(one) {
            await ledger.transfer(one)
            return never()
          },
        },
      })
      void dying.requests.approve(id, 10, main)
      for (let looks = 0; looks < 200; looks += 1) await new Promise((resolve) => setTimeout(resolve, 1))
      expect(await balances()).toEqual([900, 90, 10])
      const { requests } = serve()
      expect(await requests.get(id, bot)).toMatchObject({ state: 'granting' })
      clock.jump(requestLimits.grantingMs)
      await requests.sweep()
      expect(await requests.get(id, bot)).toMatchObject({ state: 'granted' })
      expect(await balances()).toEqual([900, 90, 10])
    })

    test('before a person was asked: the next server asks, once', async () => {
      const { serve, database, ask, approvals, requests } = await start()
      const { id } = await ask()
      for (let writes = 1; writes < 4; writes += 1) {
        const dying = serve({ database: mortal(database, { writes }) })
        await dying.requests.approve(id, 50, main).catch(() => undefined)
      }
      await requests.sweep()
      await requests.sweep()
      const { data } = await approvals.list({ limit: 10 }, bert)
      expect(data.map(({ action }) => action['requestId'])).toEqual([id])
      expect(await requests.get(id, bot)).toMatchObject({ state: 'pending_user', approvalId: data[0]!.id })
    })
  })

  test('events tell each change, to those who may see it', async () => {
    const { requests, ask } = await start()
    const { id } = await ask(10)
    const [mine, siblings] = [await requests.follow(bot), await requests.follow(sibling)]
    const read = async (): Promise<[string, string]> => {
      const next = await mine.events.next()
      const { data, event } = next.value as { event: string; data: { state: string } }
      return [event, data.state]
    }
    expect(await read()).toEqual(['token_request', 'pending_main'])
    await requests.approve(id, 10, main)
    expect(await read()).toEqual(['token_request', 'granted'])
    const unseen = siblings.events.next()
    siblings.leave()
    expect(await unseen).toMatchObject({ done: true })
    mine.leave()
  })

  test('lists go by state, agent and page', async () => {
    const { requests, ask, clock } = await start()
    const made: string[] = []
    for (const tokens of [1, 2, 3]) {
      made.unshift((await ask(tokens)).id)
      await requests.refuse(made[0]!, 'no', main)
      clock.jump(1)
    }
    made.unshift((await ask(4)).id)
    const first = await requests.list({ ...page, limit: 3 }, main)
    const second = await requests.list({ ...page, limit: 3, cursor: first.nextCursor! }, main)
    expect([...first.data, ...second.data].map(({ id }) => id)).toEqual(made)
    expect(second.nextCursor).toBeNull()
    expect((await requests.list({ ...page, state: 'pending' }, main)).data.map(({ id }) => id)).toEqual([made[0]])
    expect((await requests.list({ ...page, state: 'refused' }, main)).data).toHaveLength(3)
    expect((await requests.list({ ...page, agentId: 'agt_main' }, main)).data).toEqual([])
  })

  test('every page but the last is full, whoever looks and whatever they look for', async () => {
    const { requests, ask, add, database, clock } = await start()
    const store = createTokenRequestStore(database)
    await add('agt_low', 0, { parentId: 'agt_bot', kind: 'bot' })
    await add('agt_other', 0)
    const lines = [
      ['agt_main'],
      ['agt_main', 'agt_bot'],
      ['agt_main', 'agt_bot', 'agt_low'],
      ['agt_main', 'agt_sibling'],
      ['agt_other'],
    ]
    const { id } = await ask()
    await requests.cancel(id, bot)
    const over = (await store.get(id))!
    for (let at = 0; at < 60; at++) {
      const line = lines[at % lines.length]!
      const state = tokenRequestStates[at % tokenRequestStates.length]!
      const expiresAt = clock.now() + (at % 4 === 0 ? 0 : 1_000)
      // Three at each moment: the ids decide.
      const askedAt = clock.now() - Math.floor(at / 3)
      // Over, for the index: an agent waits for one at a time.
      const endedAt = clock.now()
      const agentId = line.at(-1)!
      await store.insert({ ...over, id: `trq_${100 + at}`, agentId, line, state, askedAt, expiresAt, endedAt })
    }
    const key = (agents?: string[]) => testCaller(testKeyPrincipal({ accountId, ...(agents && { agents }) }))
    const lookers = [anna, main, bot, sibling, asAgent('agt_low'), asAgent('agt_main', { agents: ['agt_low'] })]
    lookers.push(key(), key(['agt_bot', 'agt_other']), key([]), stranger)
    const all = await store.list({ accountId, sight: {}, now: clock.now(), limit: 1_000 })
    expect(all).toHaveLength(61)
    for (const looker of lookers) {
      for (const state of [undefined, 'pending', ...tokenRequestStates] as const) {
        for (const agentId of [undefined, 'agt_bot']) {
          const wanted = all.filter((one) => {
            const now = stateOf(one, clock.now())
            const isAsked = state === undefined || now === state || (state === 'pending' && isPending(now))
            return maySee(looker.principal, one) && isAsked && (agentId === undefined || one.agentId === agentId)
          })
          const pages = []
          for (let cursor: string | undefined; ;) {
            const next = await requests.list({ ...page, limit: 2, state, agentId, cursor }, looker)
            pages.push(next.data.map((one) => one.id))
            if (next.nextCursor === null) break
            cursor = next.nextCursor
          }
          expect(pages.flat()).toEqual(wanted.map((one) => one.id))
          expect(pages.slice(0, -1).every((one) => one.length === 2)).toBe(true)
        }
      }
    }
  })

  test('what is over is forgotten in the end, but for the last change', async () => {
    const { requests, ask, database, clock } = await start()
    const store = createTokenRequestStore(database)
    const [first, second] = [await ask(1), undefined as string | undefined]
    await requests.refuse(first.id, 'no', main)
    const later = await ask(2)
    await requests.refuse(later.id, 'no', main)
    clock.jump(requestLimits.keptMs + 1)
    await store.forget(clock.now() - requestLimits.keptMs)
    expect([second, await store.get(first.id), (await store.get(later.id))?.id]).toEqual([
      undefined,
      undefined,
      later.id,
    ])
  })
})
