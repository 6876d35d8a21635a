import { describe, expect, onTestFinished, test } from 'vitest'
import type { AuditEntry } from '../access/audit/entry.ts'
import type { AgentPrincipal, UserPrincipal } from '../access/principal.ts'
import { right } from '../access/rights.ts'
import { testCaller, testKeyPrincipal } from '../access/testing.ts'
import { manualClock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { type OpenTestDatabase, testDatabases } from '../kernel/db/testing.ts'
import { DeltaError } from '../kernel/errors.ts'
import { silentLogger } from '../kernel/log.ts'
import { type Life, mortal } from '../workspaces/testing.ts'
import type { Action, ApprovalKind } from './kinds.ts'
import { approvalLimits } from './limits.ts'
import { approvalMigrations } from './migrations.ts'
import { canonical, hashOf } from './rules.ts'
import { createApprovals } from './service.ts'

const person = (userId: string, changes: Partial<UserPrincipal> = {}) =>
  testCaller({
    kind: 'user',
    accountId: 'acc_a',
    userId,
    sessionId: `ses_${userId}`,
    role: 'member',
    secondFactor: false,
    ...changes,
  })
const keyOf = (keyId: string, userId: string, rights: string[], accountId = 'acc_a') =>
  testCaller(testKeyPrincipal({ accountId, keyId, userId, role: 'member', rights: rights.map(right) }))
const agentPrincipal: AgentPrincipal = {
  kind: 'agent',
  accountId: 'acc_a',
  agentId: 'agt_a',
  agentKind: 'main',
  jti: 'tok_a',
  rights: [right('request')],
}
const agent = testCaller(agentPrincipal)
const anna = person('usr_anna')
const bert = person('usr_bert')
const stranger = person('usr_stranger', { accountId: 'acc_b', role: 'owner' })

const wish = (what = 'x', more: object = {}) => ({
  action: { kind: 'deed', what },
  reason: 'It is needed',
  ttlMs: approvalLimits.ttlMs.default,
  sandboxId: 'sbx_a',
  ...more,
})

async function refusal(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.then(
    () => undefined,
    (cause: unknown) => cause,
  )
  return error instanceof DeltaError ? error.code : `no refusal: ${String(error)}`
}

/** What was done lies in a table, so that a death can come between it and the row that says so. */
const deeds = [{ name: 'deeds-1', up: () => ['create table deeds (id text primary key, what text not null)'] }]

interface World {
  database: Database
  clock: ReturnType<typeof manualClock>
  /** Each doing that was begun, also one that had no effect any more. */
  begun: string[]
  audit: AuditEntry[]
  secondFactors: Set<string>
  /** Those who may not ask any more. */
  gone: Set<string>
}

async function newWorld(open: OpenTestDatabase): Promise<World> {
  const database = await open([...approvalMigrations, ...deeds])
  return {
    database,
    clock: manualClock(1_789_000_000_000),
    begun: [],
    audit: [],
    secondFactors: new Set(),
    gone: new Set(),
  }
}

type Execute = ApprovalKind['execute']

interface Making {
  afterDeath?: ApprovalKind['afterDeath']
  execute?: (effect: () => Promise<void>, ...asked: Parameters<Execute>) => Promise<void>
}

function serve(world: World, { afterDeath = 'again', execute = (effect) => effect() }: Making = {}) {
  const { database, begun } = world
  const db = database.of<{ deeds: { id: string; what: string } }>()
  const deed: ApprovalKind = {
    kind: 'deed',
    describe: ({ what }) => `Does ${String(what)}.`,
    execute: (action, approved, signal) => {
      begun.push(approved.id)
      const effect = async () => {
        const row = { id: approved.id, what: String(action['what']) }
        await db.run(
          db.sql
            .insertInto('deeds')
            .values(row)
            .onConflict((on) => on.doNothing())
            .compile(),
        )
      }
      return execute(effect, action, approved, signal)
    },
    afterDeath,
  }
  const approvals = createApprovals({
    ...world,
    kinds: [deed, { ...deed, kind: 'other' }],
    hasSecondFactor: (userId) => Promise.resolve(world.secondFactors.has(userId)),
    mayStillAsk: ({ asker }) => Promise.resolve(!world.gone.has(asker.actorId)),
    record: (entry) => Promise.resolve(void world.audit.push(entry)),
    log: silentLogger,
  })
  onTestFinished(approvals.stop)
  return approvals
}

async function done({ database }: World): Promise<string[]> {
  const db = database.of<{ deeds: { id: string; what: string } }>()
  return (await db.all(db.sql.selectFrom('deeds').selectAll().compile())).map(({ what }) => what)
}

testDatabases('approvals', (open) => {
  async function start(making: Making = {}) {
    const world = await newWorld(open)
    return { world, approvals: serve(world, making) }
  }

  describe('asking', () => {
    test('keeps the action, its hash and who asks, and does nothing', async () => {
      const { world, approvals } = await start()
      const { approval, made } = await approvals.ask(wish('a'), agent)
      expect(made).toBe(true)
      expect(approval).toMatchObject({
        kind: 'deed',
        state: 'pending',
        description: 'Does a.',
        action: { kind: 'deed', what: 'a' },
        actionHash: hashOf(canonical({ kind: 'deed', what: 'a' })),
        askedBy: 'agt_a',
        reason: 'It is needed',
        decidedBy: null,
      })
      expect(Date.parse(approval.expiresAt) - Date.parse(approval.askedAt)).toBe(24 * 3_600_000)
      expect(await done(world)).toEqual([])
      expect(await approvals.get(approval.id, bert)).toEqual(approval)
    })

    test('for the same twice is asking once, also at the same moment; for somebody else it is not', async () => {
      const { approvals } = await start()
      const asked = await Promise.all([1, 2, 3].map(() => approvals.ask(wish(), agent)))
      expect(new Set(asked.map(({ approval }) => approval.id)).size).toBe(1)
      expect(asked.filter(({ made }) => made)).toHaveLength(1)
      expect((await approvals.ask(wish(), anna)).made).toBe(true)
      expect((await approvals.ask(wish('y'), agent)).made).toBe(true)
    })

    test('for what nobody decided on in time makes a new one', async () => {
      const { world, approvals } = await start()
      const first = await approvals.ask(wish(), agent)
      world.clock.jump(approvalLimits.ttlMs.default)
      const second = await approvals.ask(wish(), agent)
      expect(second.made).toBe(true)
      expect(second.approval.id).not.toBe(first.approval.id)
      expect((await approvals.get(first.approval.id, bert)).state).toBe('expired')
    })

    test('has a limit for each who asks, which others do not feel, and which decisions free', async () => {
      const { approvals } = await start()
      const asking = Array.from({ length: approvalLimits.pending.perRequester + 5 }, (_, at) =>
        approvals.ask(wish(`${at}`), agent).then(
          ({ approval }) => approval,
          (error: DeltaError) => error.code,
        ),
      )
      const asked = await Promise.all(asking)
      expect(asked.filter((one) => one === 'approval_limit_reached')).toHaveLength(5)
      expect((await approvals.ask(wish('of another'), anna)).made).toBe(true)
      const first = asked[0]
      if (typeof first !== 'object') throw new Error('The first was refused')
      await approvals.refuse(first.id, 'no', bert)
      expect((await approvals.ask(wish('again'), agent)).made).toBe(true)
    })

    test('has a limit for all that one person answers for, whatever their agents are called', async () => {
      const { approvals } = await start()
      const named = (name: string, root: string) => ({
        ...agent,
        actorId: name,
        principal: { ...agentPrincipal, agentId: name },
        ties: ['tok_a', 'key_a', root],
      })
      const { perRoot, perRequester } = approvalLimits.pending
      const asking = Array.from({ length: perRoot + 1 }, (_, at) =>
        refusal(approvals.ask(wish(`${at}`), named(`agt_${Math.floor(at / perRequester)}`, 'usr_anna'))),
      )
      const refused = (await Promise.all(asking)).filter((code) => code === 'approval_limit_reached')
      expect(refused).toHaveLength(1)
      expect((await approvals.ask(wish(), named('agt_0', 'usr_bert'))).made).toBe(true)
      expect(await refusal(approvals.ask(wish('more'), anna))).toBe('no refusal: undefined')
    })

    test('has a limit for a day, which taking back does not free', async () => {
      const { world, approvals } = await start()
      const again = async (at: number) => {
        const { approval } = await approvals.ask(wish(`${at}`), agent)
        await approvals.cancel(approval.id, agent)
      }
      for (let at = 0; at < approvalLimits.asked.perRequester; at++) await again(at)
      expect(await refusal(again(-1))).toBe('approval_limit_reached')
      world.clock.jump(approvalLimits.asked.windowMs)
      expect(await refusal(again(-1))).toBe('no refusal: undefined')
    })

    test('for a kind that is not known is refused', async () => {
      const { approvals } = await start()
      expect(await refusal(approvals.ask(wish('x', { action: { kind: 'unknown' } }), agent))).toBe('not_supported')
    })
  })

  describe('deciding', () => {
    test('approving does it once and says so; a second time is refused', async () => {
      const { world, approvals } = await start()
      const { approval } = await approvals.ask(wish(), agent)
      const after = await approvals.approve(approval.id, approval.actionHash, bert)
      expect(after).toMatchObject({ state: 'executed', decidedBy: 'usr_bert', failure: null })
      expect(await done(world)).toEqual(['x'])
      for (const act of [
        () => approvals.approve(approval.id, approval.actionHash, bert),
        () => approvals.approve(approval.id, approval.actionHash, anna),
        () => approvals.refuse(approval.id, 'no', anna),
        () => approvals.cancel(approval.id, agent),
      ]) {
        expect(await refusal(act())).toBe('approval_decided')
      }
      expect(world.begun).toHaveLength(1)
      expect(world.audit.map(({ action, actorId, outcome }) => [action, actorId, outcome])).toEqual([
        ['approval.approved', 'usr_bert', 'done'],
        ['approval.execute', 'platform', 'begun'],
        ['approval.execute', 'platform', 'done'],
      ])
      expect(world.audit[0]).toMatchObject({ target: approval.id, details: { actionHash: approval.actionHash } })
    })

    test('of many at once one holds', async () => {
      const { world, approvals } = await start()
      const other = serve(world)
      const { approval } = await approvals.ask(wish(), agent)
      const acts = [anna, bert, anna, bert].flatMap((who, at) => {
        const server = at % 2 === 0 ? approvals : other
        return [server.approve(approval.id, approval.actionHash, who), server.refuse(approval.id, 'no', who)]
      })
      const answers = await Promise.allSettled(acts)
      expect(answers.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
      const { state } = await approvals.get(approval.id, bert)
      expect(await done(world)).toHaveLength(state === 'executed' ? 1 : 0)
      expect(world.begun).toHaveLength(state === 'executed' ? 1 : 0)
    })

    test('with another hash than that of the action is refused, and it waits on', async () => {
      const { world, approvals } = await start()
      const { approval } = await approvals.ask(wish(), agent)
      const { approval: other } = await approvals.ask(wish('worse'), agent)
      expect(await refusal(approvals.approve(approval.id, other.actionHash, bert))).toBe('approval_action_changed')
      expect((await approvals.get(approval.id, bert)).state).toBe('pending')
      expect(world.begun).toEqual([])
    })

    test.each(['before', 'after'])(
      'an action that was changed in its row %s it was approved is not done',
      async (when) => {
        const { world, approvals } = await start()
        const { approval } = await approvals.ask(wish(), agent)
        const db = world.database.of<{ approvals: { id: string; action: string } }>()
        const swap = () =>
          db.run(
            db.sql
              .updateTable('approvals')
              .set({ action: canonical({ kind: 'deed', what: 'worse' }) })
              .compile(),
          )
        if (when === 'after') {
          const life = { writes: 1 }
          const dying = serve({ ...world, database: mortal(world.database, life) })
          await expect(dying.approve(approval.id, approval.actionHash, bert)).rejects.toThrow('killed')
          await swap()
          await approvals.start()
          await world.clock.advance(approvalLimits.leaseMs + approvalLimits.sweepMs)
          await expect.poll(async () => (await approvals.get(approval.id, bert)).state).toBe('failed')
        } else {
          await swap()
          await approvals.approve(approval.id, approval.actionHash, bert)
        }
        expect(await approvals.get(approval.id, bert)).toMatchObject({
          state: 'failed',
          failure: { code: 'approval_action_changed' },
        })
        expect(world.begun).toEqual([])
      },
    )

    test('nobody decides on their own, also not as another of theirs', async () => {
      const { approvals } = await start()
      const annasKey = keyOf('key_a', 'usr_anna', ['request', 'approve:*'])
      const { approval: ofKey } = await approvals.ask(wish('by key'), annasKey)
      const { approval: ofAnna } = await approvals.ask(wish('by anna'), anna)
      for (const { id, actionHash } of [ofKey, ofAnna]) {
        for (const who of [anna, annasKey, keyOf('key_b', 'usr_anna', ['approve:*'])]) {
          const code = await refusal(approvals.approve(id, actionHash, who))
          expect(['approval_own_request', 'approval_not_found']).toContain(code)
        }
        expect(await refusal(approvals.approve(id, actionHash, anna))).toBe('approval_own_request')
        expect(await refusal(approvals.refuse(id, 'no', anna))).toBe('approval_own_request')
      }
      expect((await approvals.approve(ofKey.id, ofKey.actionHash, bert)).state).toBe('executed')
    })

    test('agents, keys without the right and viewers decide nothing', async () => {
      const { approvals } = await start()
      const { approval } = await approvals.ask(wish(), agent)
      const { id, actionHash } = approval
      expect(await refusal(approvals.approve(id, actionHash, agent))).toBe('forbidden')
      for (const who of [
        keyOf('key_b', 'usr_bert', ['read:*', 'write:*', 'request', 'approve:other']),
        person('usr_viewer', { role: 'viewer' }),
        stranger,
      ]) {
        expect(await refusal(approvals.approve(id, actionHash, who))).toBe('approval_not_found')
        expect(await refusal(approvals.get(id, who))).toBe('approval_not_found')
      }
      expect((await approvals.get(id, bert)).state).toBe('pending')
    })

    test('whoever has a second factor must have shown it in the session', async () => {
      const { world, approvals } = await start()
      world.secondFactors.add('usr_bert')
      const { approval } = await approvals.ask(wish(), agent)
      const { id, actionHash } = approval
      expect(await refusal(approvals.approve(id, actionHash, bert))).toBe('approval_second_factor_required')
      expect((await approvals.approve(id, actionHash, person('usr_bert', { secondFactor: true }))).state).toBe(
        'executed',
      )
    })

    test('refusing says why and does nothing; taking back is for whoever asked', async () => {
      const { world, approvals } = await start()
      const { approval: first } = await approvals.ask(wish('a'), agent)
      expect(await approvals.refuse(first.id, 'Use the mirror', bert)).toMatchObject({
        state: 'refused',
        refusal: 'Use the mirror',
        decidedBy: 'usr_bert',
      })
      const { approval: second } = await approvals.ask(wish('b'), agent)
      expect(await refusal(approvals.cancel(second.id, bert))).toBe('forbidden')
      expect(await refusal(approvals.cancel(second.id, stranger))).toBe('approval_not_found')
      expect((await approvals.cancel(second.id, agent)).state).toBe('canceled')
      expect((await approvals.cancel(second.id, agent)).state).toBe('canceled')
      expect(await done(world)).toEqual([])
    })

    test('too late is too late, before anybody looked and after', async () => {
      const { world, approvals } = await start()
      const { approval } = await approvals.ask(wish('x', { ttlMs: 60_000 }), agent)
      await world.clock.advance(60_000)
      const late = () => refusal(approvals.approve(approval.id, approval.actionHash, bert))
      expect(await late()).toBe('approval_expired')
      expect((await approvals.get(approval.id, bert)).state).toBe('expired')
      await approvals.start()
      await expect.poll(() => world.audit.map(({ action }) => action)).toEqual(['approval.expired'])
      expect(await late()).toBe('approval_expired')
      expect(world.begun).toEqual([])
    })
  })

  describe('whoever asked', () => {
    test('and may not ask any more gets nothing, and can be refused', async () => {
      const { world, approvals } = await start()
      const { approval } = await approvals.ask(wish(), agent)
      world.gone.add('agt_a')
      const yes = approvals.approve(approval.id, approval.actionHash, bert)
      expect(await refusal(yes)).toBe('approval_requester_gone')
      expect((await approvals.get(approval.id, bert)).state).toBe('pending')
      expect((await approvals.refuse(approval.id, 'You have left', bert)).state).toBe('refused')
      expect(world.begun).toEqual([])
    })

    test('by a token that is revoked has asked for nothing', async () => {
      const { world, approvals } = await start()
      const by = (name: string, ties: string[]) => approvals.ask(wish(name), { ...agent, ties })
      const { approval: direct } = await by('direct', ['tok_a', 'key_a'])
      const { approval: below } = await by('below', ['tok_b', 'key_a', 'tok_a'])
      const { approval: other } = await by('other', ['toka', 'key_a', 'tok_aa'])
      await approvals.tokenRevoked('tok_a')
      const states = [direct, below, other].map(async ({ id }) => (await approvals.get(id, bert)).state)
      expect(await Promise.all(states)).toEqual(['canceled', 'canceled', 'pending'])
      expect(world.audit.map(({ action, actorId }) => [action, actorId])).toEqual([
        ['approval.canceled', 'platform'],
        ['approval.canceled', 'platform'],
      ])
    })
  })

  describe('what can not be done', () => {
    test('is failed with its reason', async () => {
      const { world, approvals } = await start({
        execute: () => Promise.reject(new DeltaError('sandbox_not_found', 'There is no sandbox sbx_a')),
      })
      const { approval } = await approvals.ask(wish(), agent)
      expect(await approvals.approve(approval.id, approval.actionHash, bert)).toMatchObject({
        state: 'failed',
        failure: { code: 'sandbox_not_found', message: 'There is no sandbox sbx_a' },
      })
      expect(world.audit.at(-1)).toMatchObject({ outcome: 'failed', reason: 'sandbox_not_found' })
    })

    test('for a moment is tried again, and not for ever', async () => {
      let failures = 0
      const { world, approvals } = await start({
        execute: (effect) => {
          failures += 1
          return failures < 3 ? Promise.reject(new DeltaError('database_busy', 'busy')) : effect()
        },
      })
      const { approval } = await approvals.ask(wish(), agent)
      expect((await approvals.approve(approval.id, approval.actionHash, bert)).state).toBe('approved')
      await approvals.start()
      const stateNow = async () => {
        await world.clock.advance(approvalLimits.leaseMs)
        return (await approvals.get(approval.id, bert)).state
      }
      await expect.poll(stateNow).toBe('executed')
      expect(await done(world)).toEqual(['x'])
      failures = -100
      const { approval: hopeless } = await approvals.ask(wish('never'), agent)
      await approvals.approve(hopeless.id, hopeless.actionHash, bert)
      const hopelessNow = async () => {
        await world.clock.advance(approvalLimits.leaseMs)
        return (await approvals.get(hopeless.id, bert)).state
      }
      await expect.poll(hopelessNow).toBe('failed')
      expect(world.begun.filter((id) => id === hopeless.id)).toHaveLength(approvalLimits.tries)
    })
  })

  describe('a server that is killed', () => {
    test.each(['again', 'never'] as const)(
      'at any write, where the kind says %s, leaves it done once or failed with its reason',
      async (afterDeath) => {
        const ends = new Set<string>()
        for (let writes = 0; writes < 7; writes++) {
          const world = await newWorld(open)
          const { approval } = await serve(world).ask(wish(), agent)
          const life: Life = { writes }
          const dying = serve({ ...world, database: mortal(world.database, life) }, { afterDeath })
          const answer = await dying.approve(approval.id, approval.actionHash, bert).catch(() => undefined)
          life.writes = 0
          const next = serve(world, { afterDeath })
          await next.start()
          await world.clock.advance(approvalLimits.leaseMs + approvalLimits.sweepMs)
          const after = async () => (await next.get(approval.id, bert)).state
          await expect.poll(after).not.toBe('approved')
          const state = await after()
          ends.add(state)
          const effects = await done(world)
          if (state === 'executed') expect(effects).toEqual(['x'])
          else if (state === 'pending') {
            expect([answer, effects]).toEqual([undefined, []])
            expect((await next.approve(approval.id, approval.actionHash, bert)).state).toBe('executed')
          } else {
            expect(state).toBe('failed')
            expect((await next.get(approval.id, bert)).failure!.code).toMatch(/^(approval_interrupted|internal)$/)
          }
          if (afterDeath === 'never') expect(world.begun.length).toBeLessThanOrEqual(1)
          else expect(state).not.toBe('failed')
          await next.stop()
        }
        expect(ends).toContain('pending')
        expect(ends).toContain('executed')
        expect(ends.has('failed')).toBe(afterDeath === 'never')
      },
    )

    test('another server does not take what one is at', async () => {
      let go = () => {}
      const held = new Promise<void>((resolve) => {
        go = resolve
      })
      const { world, approvals } = await start({ execute: (effect) => held.then(effect) })
      const { approval } = await approvals.ask(wish(), agent)
      const approving = approvals.approve(approval.id, approval.actionHash, bert)
      await expect.poll(() => world.begun.length).toBe(1)
      await approvals.start()
      await world.clock.advance(2 * approvalLimits.sweepMs)
      expect(world.begun).toHaveLength(1)
      go()
      expect((await approving).state).toBe('executed')
    })
  })

  describe('seeing', () => {
    test('lists what one asked and what one may decide on, by pages and filters', async () => {
      const { approvals, world } = await start()
      for (const what of ['a', 'b', 'c']) {
        await approvals.ask(wish(what), agent)
        await world.clock.advance(1)
      }
      await approvals.ask(wish('d', { action: { kind: 'other', what: 'd' }, sandboxId: 'sbx_b' }), anna)
      const what = async (who: typeof anna, query: object = {}) => {
        const page = await approvals.list({ limit: 50, ...query }, who)
        return page.data.map(({ action }) => (action as Action)['what'])
      }
      expect(await what(bert)).toEqual(['d', 'c', 'b', 'a'])
      expect(await what(anna)).toEqual(['d', 'c', 'b', 'a'])
      expect(await what(agent)).toEqual(['c', 'b', 'a'])
      expect(await what(stranger)).toEqual([])
      expect(await what(person('usr_viewer', { role: 'viewer' }))).toEqual([])
      expect(await what(keyOf('key_b', 'usr_bert', ['approve:other']))).toEqual(['d'])
      expect(await what(bert, { kind: 'other' })).toEqual(['d'])
      expect(await what(bert, { sandboxId: 'sbx_b' })).toEqual(['d'])
      expect(await what(bert, { state: 'executed' })).toEqual([])
      const first = await approvals.list({ limit: 3 }, bert)
      expect(await what(bert, { limit: 3, cursor: first.nextCursor })).toEqual(['a'])
      world.clock.jump(approvalLimits.ttlMs.default)
      expect(await what(bert, { state: 'pending' })).toEqual([])
      expect(await what(bert, { state: 'expired' })).toEqual(['d', 'c', 'b', 'a'])
      expect(await refusal(approvals.list({ limit: 3, cursor: 'x' }, bert))).toBe('invalid_request')
    })

    test('a key that is limited to some sandboxes sees what is about them', async () => {
      const { approvals } = await start()
      const { approval } = await approvals.ask(wish('a'), agent)
      await approvals.ask(wish('b', { sandboxId: 'sbx_b' }), agent)
      const limited = testCaller(
        testKeyPrincipal({ accountId: 'acc_a', rights: [right('approve')], sandboxes: ['sbx_a'] }),
      )
      const { data } = await approvals.list({ limit: 50 }, limited)
      expect(data.map(({ id }) => id)).toEqual([approval.id])
    })

    test('follows changes, and goes on after the last that was seen', async () => {
      const { world, approvals } = await start()
      const { approval: old } = await approvals.ask(wish('old'), agent)
      await approvals.refuse(old.id, 'no', bert)
      const { approval } = await approvals.ask(wish('a'), agent)
      const { events, leave } = await approvals.follow(bert)
      const next = async () => {
        const { value } = (await events.next()) as { value: { id: string; data: { id: string; state: string } } }
        return [value.id, value.data.id, value.data.state]
      }
      const [first, ...seen] = await next()
      expect(seen).toEqual([approval.id, 'pending'])
      const coming = next()
      await approvals.approve(approval.id, approval.actionHash, bert)
      expect((await coming)[1]).toBe(approval.id)
      leave()
      const again = await approvals.follow(bert, Number(first))
      const { value } = (await again.events.next()) as { value: { data: object } }
      expect(value.data).toMatchObject({ id: approval.id, state: 'executed' })
      const end = again.events.next()
      await approvals.stop()
      expect(await end).toEqual({ done: true, value: undefined })
      const hidden = await serve(world).follow(stranger)
      const nothing = hidden.events.next()
      hidden.leave()
      expect(await nothing).toEqual({ done: true, value: undefined })
    })

    test('has as many streams as an account may have, and gives the place back', async () => {
      const { approvals } = await start()
      const { perAccount, perGroup } = approvalLimits.streams
      const follow = (who: typeof bert) => approvals.follow(who)
      const streams = await Promise.all(Array.from({ length: perGroup }, () => follow(bert)))
      expect(await refusal(follow(bert))).toBe('too_many_requests')
      streams[0]!.leave()
      streams[0]!.leave()
      await follow(bert)
      expect(await refusal(follow(bert))).toBe('too_many_requests')
      const others = Array.from({ length: perAccount / perGroup - 1 }, (_, at) => person(`usr_${at}`))
      await Promise.all(others.flatMap((who) => Array.from({ length: perGroup }, () => follow(who))))
      expect(await refusal(follow(anna))).toBe('too_many_requests')
    })

    test('no program takes the places of people, whatever it is called', async () => {
      const { approvals } = await start()
      const program = (name: string) => ({
        ...testCaller({ ...agentPrincipal, agentId: name }),
        ties: ['tok_a', 'key_a', 'usr_anna'],
      })
      for (let at = 0; at < approvalLimits.streams.perGroup; at++) await approvals.follow(program(`agt_${at}`))
      expect(await refusal(approvals.follow(program('agt_more')))).toBe('too_many_requests')
      await approvals.follow(anna)
      await approvals.follow(bert)
    })

    test('what is over is forgotten after a while, but for the last change', async () => {
      const { world, approvals } = await start()
      for (const what of ['a', 'b']) {
        const { approval } = await approvals.ask(wish(what), agent)
        await approvals.refuse(approval.id, 'no', bert)
      }
      world.clock.jump(approvalLimits.keptMs + 1)
      await approvals.start()
      await expect.poll(async () => (await approvals.list({ limit: 50 }, bert)).data.length).toBe(1)
    })
  })
})
