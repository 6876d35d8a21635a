import { randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import type { AuditEntry } from '../../access/audit/entry.ts'
import type { KnownCaller } from '../../access/door.ts'
import { right, rightsOfRole } from '../../access/rights.ts'
import { createBox } from '../../access/secrets.ts'
import { testCaller, testKeyPrincipal } from '../../access/testing.ts'
import { manualClock } from '../../kernel/clock.ts'
import type { Database } from '../../kernel/db/database.ts'
import { guardWrites, testDatabases } from '../../kernel/db/testing.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { silentLogger } from '../../kernel/log.ts'
import type { TaskState } from '../schema.ts'
import { scheduleLimits } from './limits.ts'
import { scheduleMigrations } from './migrations.ts'
import type { ScheduledWork } from './runner.ts'
import {
  createScheduleSchema,
  scheduleListQuerySchema,
  scheduleRunListQuerySchema,
  updateScheduleSchema,
} from './schema.ts'
import { createSchedules, type SchedulesDeps } from './service.ts'

const accountId = 'acc_a'
const hour = 3_600_000
const day = 24 * hour
// Monday, 2026-11-23.
const begin = Date.parse('2026-11-23T09:30:00Z')
const anna = testCaller({
  kind: 'user',
  accountId,
  userId: 'usr_anna',
  sessionId: 'ses_a',
  role: 'member',
  secondFactor: false,
})
const bert = testCaller({
  kind: 'user',
  accountId,
  userId: 'usr_bert',
  sessionId: 'ses_b',
  role: 'owner',
  secondFactor: false,
})
const viewer = testCaller({
  kind: 'user',
  accountId,
  userId: 'usr_v',
  sessionId: 'ses_v',
  role: 'viewer',
  secondFactor: false,
})
const stranger = testCaller({
  kind: 'user',
  accountId: 'acc_b',
  userId: 'usr_s',
  sessionId: 'ses_s',
  role: 'owner',
  secondFactor: false,
})
const keyFor = (agents: string[], rights = rightsOfRole('member')) =>
  testCaller(testKeyPrincipal({ accountId, keyId: 'key_k', userId: 'usr_anna', role: 'member', agents, rights }))
const asAgent = (agentId: string, rights = ['read:tasks', 'write:tasks']): KnownCaller => ({
  ...testCaller({
    kind: 'agent',
    accountId,
    agentId,
    agentKind: 'bot',
    jti: `tok_${agentId.slice(4)}`,
    rights: rights.map(right),
  }),
  ties: [`tok_${agentId.slice(4)}`, 'key_a', 'usr_anna'],
})
const box = createBox(randomBytes(32))
const page = scheduleListQuerySchema.parse({})
const runsPage = scheduleRunListQuerySchema.parse({})
const wish = (more: object = {}) =>
  createScheduleSchema.parse({
    agent: 'agt_a',
    task: { text: 'Read the news' },
    ...(!('at' in more) && { cron: '0 * * * *' }),
    ...more,
  })

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    (done) => `done: ${JSON.stringify(done)}`,
    (error: unknown) => (error instanceof DeltaError ? error.code : String(error)),
  )
}

const settled = async () => {
  for (let i = 0; i < 100; i++) await new Promise((resolve) => setTimeout(resolve, 1))
}

const until = async (isTrue: () => boolean) => {
  while (!isTrue()) await new Promise((resolve) => setTimeout(resolve, 1))
}

testDatabases('schedules', (open) => {
  async function start() {
    const database: Database = (await open(scheduleMigrations)).of()
    const clock = manualClock(begin)
    const audit: AuditEntry[] = []
    /** What the task feature has: one task for each key. */
    const tasks = new Map<string, ScheduledWork & { id: string; state: TaskState }>()
    const world = {
      agentState: 'active',
      agentRights: ['read:tasks', 'write:tasks'],
      mayStill: true,
      asked: 0,
      refuse: undefined as unknown,
    }
    const createTask: SchedulesDeps['createTask'] = async (work, key) => {
      world.asked += 1
      if (world.refuse) throw world.refuse
      const known = tasks.get(key) ?? { ...work, id: `tsk_${tasks.size}`, state: 'working' as const }
      tasks.set(key, known)
      return { id: known.id }
    }
    const serve = (through: Partial<SchedulesDeps> = {}) =>
      createSchedules({
        database,
        box,
        createTask,
        taskState: async (_, id) => [...tasks.values()].find((one) => one.id === id)?.state,
        findAgent: (id, account) =>
          account === accountId && ['agt_a', 'agt_b'].includes(id)
            ? {
                id,
                kind: 'bot',
                state: world.agentState,
                mayAct: true,
                isAtRest: false,
                line: [id],
                rights: world.agentRights.map(right),
              }
            : undefined,
        mayStill: async () => world.mayStill,
        record: async (entry) => void audit.push(entry),
        clock,
        log: silentLogger,
        ...through,
      })
    const schedules = serve()
    const runs = async (id: string) => (await schedules.listRuns(id, runsPage, bert)).data.toReversed()
    /** As `10:00 started`. */
    const shown = async (id: string) =>
      (await runs(id)).map(({ dueAt, state, reason }) => [dueAt.slice(11, 16), state, reason].filter(Boolean).join(' '))
    const goTo = async (text: string, server = schedules) => {
      clock.jump(Date.parse(`2026-11-${text}Z`) - clock.now())
      await server.look()
    }
    const end = () => {
      for (const one of tasks.values()) one.state = 'finished'
    }
    return { database, clock, audit, tasks, world, serve, schedules, runs, shown, goTo, end, createTask }
  }

  describe('runs', () => {
    test('have no more rights than the token of an agent that made or changed the schedule last', async () => {
      const { schedules, tasks, goTo, end } = await start()
      const narrow = ['read:tasks', 'write:tasks', 'read:files']
      const { id } = await schedules.create(wish(), asAgent('agt_a', narrow))
      const rightsAt = async (time: string) => {
        end()
        await goTo(time)
        return [...tasks.values()].at(-1)!.rights
      }
      expect(await rightsAt('23T10:00:00')).toEqual(narrow.map(right))
      await schedules.update(id, { overlap: 'queue' }, asAgent('agt_a'))
      expect(await rightsAt('23T11:00:00')).toEqual(['read:tasks', 'write:tasks'].map(right))
      await schedules.pause(id, anna)
      await schedules.resume(id, anna)
      expect(await rightsAt('23T12:00:00')).toBeNull()
      expect(tasks.size).toBe(3)
    })

    test('come at their times, once each, with the task and the rights of who made it', async () => {
      const { schedules, tasks, shown, goTo, end, audit } = await start()
      const made = await schedules.create(wish({ task: { text: 'Read the news', maxSteps: 3 } }), anna)
      expect(made).toMatchObject({ state: 'active', nextAt: '2026-11-23T10:00:00.000Z', createdBy: 'usr_anna' })
      await goTo('23T09:59:59.999')
      expect(tasks.size).toBe(0)
      await goTo('23T10:00:00')
      await schedules.look()
      end()
      await goTo('23T11:00:01')
      expect([...tasks.keys()]).toEqual([`${made.id}:2026-11-23T10:00:00.000Z`, `${made.id}:2026-11-23T11:00:00.000Z`])
      const [first] = tasks.values()
      expect(first).toMatchObject({
        wish: { agent: 'agt_a', text: 'Read the news', maxSteps: 3 },
        by: { accountId, actorId: 'usr_anna', ties: ['usr_anna'] },
      })
      expect(await shown(made.id)).toEqual(['10:00 started', '11:00 started'])
      expect((await schedules.get(made.id, anna)).nextAt).toBe('2026-11-23T12:00:00.000Z')
      expect(audit.map(({ action, actorId }) => [action, actorId])).toEqual([
        ['schedule.ran', 'usr_anna'],
        ['schedule.ran', 'usr_anna'],
      ])
    })

    test('of one for a time it is one, and then it is done', async () => {
      const { schedules, shown, goTo, tasks } = await start()
      const { id } = await schedules.create(wish({ at: '2026-11-23T12:00:00+01:00' }), anna)
      await goTo('23T11:00:00')
      await goTo('24T11:00:00')
      expect(await shown(id)).toEqual(['11:00 started'])
      expect(tasks.size).toBe(1)
      expect(await schedules.get(id, anna)).toMatchObject({ state: 'done', nextAt: null })
      const later = updateScheduleSchema.parse({ at: '2026-11-25T00:00:00Z' })
      expect(await schedules.update(id, later, anna)).toMatchObject({
        state: 'active',
        at: later.at!.replace('Z', '.000Z'),
      })
    })

    test('of many servers that look at once are made once', async () => {
      const { serve, schedules, tasks, goTo, shown, clock, world } = await start()
      const ids = []
      for (let i = 0; i < 12; i++) ids.push((await schedules.create(wish(), anna)).id)
      clock.jump(hour / 2)
      await Promise.all([serve(), serve(), serve(), schedules].map((one) => one.look()))
      await goTo('23T10:01:00')
      expect(tasks.size).toBe(12)
      expect(world.asked).toBe(12)
      for (const id of ids) expect(await shown(id)).toEqual(['10:00 started'])
    })

    test('survive a server that is killed at any write: none is lost, none is made twice', async () => {
      for (let killedAt = 1; killedAt <= 6; killedAt++) {
        const { database, serve, schedules, tasks, shown, clock, goTo } = await start()
        const { id } = await schedules.create(wish(), anna)
        let writes = 0
        // Nothing it awaited ever comes.
        const dying = guardWrites(database, () =>
          ++writes >= killedAt ? new Promise<void>(() => {}) : Promise.resolve(),
        )
        clock.jump(hour / 2)
        let isOver = false
        void serve({ database: dying })
          .look()
          .then(() => (isOver = true))
        // However slow the machine is: it has come to the write that kills it, or to its end.
        const hasCome = () => isOver || writes >= killedAt
        while (!hasCome()) await settled()
        await settled()
        clock.jump(scheduleLimits.leaseMs + 1)
        await schedules.look()
        expect([killedAt, await shown(id), tasks.size]).toEqual([killedAt, ['10:00 started'], 1])
        await goTo('23T10:04:00')
        expect(tasks.size).toBe(1)
      }
    })

    test('also where the task was made and nobody heard of it', async () => {
      const { serve, schedules, tasks, shown, clock, createTask } = await start()
      const { id } = await schedules.create(wish(), anna)
      clock.jump(hour / 2)
      void serve({
        createTask: async (...asked) => {
          await createTask(...asked)
          return new Promise<never>(() => {})
        },
      }).look()
      await until(() => tasks.size === 1)
      await settled()
      expect([tasks.size, await shown(id)]).toEqual([1, ['10:00 waiting']])
      clock.jump(scheduleLimits.leaseMs + 1)
      await schedules.look()
      expect([tasks.size, await shown(id)]).toEqual([1, ['10:00 started']])
    })

    test('after a clock that stepped back are none twice', async () => {
      const { schedules, tasks, goTo, end } = await start()
      const { id } = await schedules.create(wish(), anna)
      await goTo('23T10:00:00')
      end()
      await goTo('23T08:00:00')
      await goTo('23T09:00:00')
      expect(tasks.size).toBe(1)
      // Even where somebody lets it begin anew from there.
      await schedules.pause(id, anna)
      await schedules.resume(id, anna)
      await goTo('23T10:00:00')
      expect(tasks.size).toBe(1)
      await goTo('23T11:00:00')
      expect(tasks.size).toBe(2)
    })
  })

  describe('missed runs', () => {
    test.each([
      ['skip', ['12:00 skipped missed']],
      ['once', ['12:00 started']],
      ['all', ['10:00 started', '11:00 waiting', '12:00 waiting']],
    ] as const)('after hours without a server: %s', async (missed, expected) => {
      const { schedules, shown, goTo } = await start()
      const { id } = await schedules.create(wish({ missed, overlap: 'queue' }), anna)
      await goTo('23T12:30:00')
      expect(await shown(id)).toEqual(expected)
      expect((await schedules.get(id, anna)).nextAt).toBe('2026-11-23T13:00:00.000Z')
    })

    test('while it rested were not missed', async () => {
      const { schedules, shown, goTo } = await start()
      const { id } = await schedules.create(wish({ missed: 'all' }), anna)
      await schedules.pause(id, anna)
      await goTo('23T12:30:00')
      expect(await schedules.resume(id, anna)).toMatchObject({ nextAt: '2026-11-23T13:00:00.000Z' })
      expect(await shown(id)).toEqual([])
    })
  })

  describe('where the task before goes on', () => {
    test('a run is left out', async () => {
      const { schedules, shown, goTo, end } = await start()
      const { id } = await schedules.create(wish(), anna)
      await goTo('23T10:00:00')
      await goTo('23T11:00:00')
      end()
      await goTo('23T12:00:00')
      expect(await shown(id)).toEqual(['10:00 started', '11:00 skipped overlap', '12:00 started'])
    })

    test('or waits for its end, of which there is news, and their order is kept', async () => {
      const { schedules, shown, goTo, tasks } = await start()
      const { id } = await schedules.create(wish({ overlap: 'queue' }), anna)
      await goTo('23T10:00:00')
      await goTo('23T11:00:00')
      await goTo('23T12:00:00')
      expect(await shown(id)).toEqual(['10:00 started', '11:00 waiting', '12:00 waiting'])
      const [first] = tasks.values()
      first!.state = 'failed'
      schedules.taskChanged({ taskId: first!.id, state: 'failed' })
      await settled()
      await schedules.look()
      expect(await shown(id)).toEqual(['10:00 started', '11:00 started', '12:00 waiting'])
    })

    test('without news it is looked at each minute', async () => {
      const { schedules, shown, goTo, end } = await start()
      const { id } = await schedules.create(wish({ overlap: 'queue' }), anna)
      await goTo('23T10:00:00')
      await goTo('23T11:00:00')
      end()
      await goTo('23T11:00:59')
      expect(await shown(id)).toEqual(['10:00 started', '11:00 waiting'])
      await goTo('23T11:01:00')
      expect(await shown(id)).toEqual(['10:00 started', '11:00 started'])
    })

    test('no more wait than the limit', async () => {
      const { schedules, runs, goTo, clock } = await start()
      const { id } = await schedules.create(wish({ cron: '* * * * *', overlap: 'queue', missed: 'all' }), anna)
      await goTo('23T09:31:00')
      clock.jump(scheduleLimits.madeUp * 60_000)
      await schedules.look()
      clock.jump(2 * 60_000)
      await schedules.look()
      const { data } = await schedules.listRuns(id, { limit: 200 }, anna)
      const count = (state: string) => data.filter((one) => one.state === state).length
      expect([count('started'), count('waiting'), count('skipped')]).toEqual([1, scheduleLimits.queued, 2])
      expect((await runs(id)).at(-1)).toMatchObject({ reason: 'queue_full' })
    })
  })

  describe('a run whose task can not be made', () => {
    test('fails with the refusal, and the next one is tried', async () => {
      const { schedules, runs, goTo, world } = await start()
      const { id } = await schedules.create(wish(), anna)
      world.refuse = new DeltaError('balance_too_low', 'There is nothing left')
      await goTo('23T10:00:00')
      expect(await runs(id)).toMatchObject([{ state: 'failed', failure: { code: 'balance_too_low' } }])
      world.refuse = undefined
      await goTo('23T11:00:00')
      expect(await runs(id)).toMatchObject([{ state: 'failed' }, { state: 'started' }])
    })

    test('is tried again where nothing speaks against it, and not for ever', async () => {
      const { schedules, runs, goTo, world, clock } = await start()
      const { id } = await schedules.create(wish({ at: '2026-11-23T10:00:00Z' }), anna)
      world.refuse = new Error('secret detail')
      await goTo('23T10:00:00')
      await schedules.look()
      expect(world.asked).toBe(1)
      expect(await runs(id)).toMatchObject([{ state: 'waiting', failure: { code: 'internal' } }])
      expect(JSON.stringify(await runs(id))).not.toContain('secret')
      for (let i = 0; i < 20; i++) {
        clock.jump(scheduleLimits.pauseMs.longest)
        await schedules.look()
      }
      expect(world.asked).toBe(scheduleLimits.tries)
      expect(await runs(id)).toMatchObject([{ state: 'failed' }])
    })
  })

  describe('standing', () => {
    test.each([
      ['asker_gone', { mayStill: false }],
      ['agent_archived', { agentState: 'archived' }],
      ['agent_archived', { agentState: 'archiving' }],
    ] as const)('gone, it is disabled: %s', async (reason, changes) => {
      const { schedules, world, goTo, tasks, shown, audit } = await start()
      const { id } = await schedules.create(wish(), anna)
      Object.assign(world, changes)
      await goTo('23T10:00:00')
      expect(await schedules.get(id, bert)).toMatchObject({ state: 'disabled', reason, nextAt: null })
      expect(await shown(id)).toEqual(['10:00 skipped disabled'])
      expect(tasks.size).toBe(0)
      expect(audit).toMatchObject([{ action: 'schedule.disabled', target: id, reason, actorId: 'platform' }])
      expect(await codeOf(schedules.runNow(id, bert))).toBe('schedule_state_conflict')
      // Who lets it go on answers for it.
      Object.assign(world, { mayStill: true, agentState: 'active' })
      expect(await schedules.resume(id, bert)).toMatchObject({ state: 'active', reason: null, createdBy: 'usr_bert' })
      await goTo('23T11:00:00')
      expect([...tasks.values()].map(({ by }) => by.actorId)).toEqual(['usr_bert'])
    })

    test('of an agent whose own right was taken is gone too', async () => {
      const { schedules, world, goTo } = await start()
      const { id } = await schedules.create(wish(), asAgent('agt_a'))
      world.agentRights = ['read:tasks']
      await goTo('23T10:00:00')
      expect(await schedules.get(id, bert)).toMatchObject({ state: 'disabled', reason: 'asker_gone' })
    })

    test('news of an archived agent end its schedules, paused ones too', async () => {
      const { schedules } = await start()
      const [one, paused] = [
        await schedules.create(wish(), anna),
        await schedules.create(wish({ enabled: false }), anna),
      ]
      const other = await schedules.create(wish({ agent: 'agt_b' }), anna)
      schedules.agentArchived('agt_a')
      await settled()
      expect((await schedules.get(one.id, anna)).reason).toBe('agent_archived')
      expect((await schedules.get(paused.id, anna)).reason).toBe('agent_archived')
      expect((await schedules.get(other.id, anna)).state).toBe('active')
    })

    test('with another SECRET_KEY it says so and keeps its row', async () => {
      const { schedules, serve, goTo } = await start()
      const { id } = await schedules.create(wish(), anna)
      const other = serve({ box: createBox(randomBytes(32)) })
      await goTo('23T10:00:00', other)
      expect(await other.get(id, anna)).toMatchObject({ state: 'disabled', reason: 'task_unreadable', task: null })
    })
  })

  describe('who may', () => {
    test('is whoever has write:tasks for the agent; an agent for itself alone', async () => {
      const { schedules } = await start()
      const create = (caller: KnownCaller, agent = 'agt_a') => codeOf(schedules.create(wish({ agent }), caller))
      for (const caller of [anna, keyFor(['agt_a']), asAgent('agt_a')]) expect(await create(caller)).toMatch(/^done/)
      for (const caller of [
        viewer,
        keyFor(['agt_b']),
        keyFor(['agt_a'], [right('read:tasks')]),
        asAgent('agt_b'),
        asAgent('agt_a', ['read:tasks']),
      ]) {
        expect(await create(caller)).toBe('forbidden')
      }
      expect(await create(anna, 'agt_none')).toBe('agent_not_found')
      expect(await create(stranger)).toBe('agent_not_found')
    })

    test('others see nothing of it, and change nothing', async () => {
      const { schedules } = await start()
      const { id } = await schedules.create(wish(), anna)
      const patch = updateScheduleSchema.parse({ missed: 'skip' })
      const acts = (caller: KnownCaller) => [
        () => schedules.update(id, patch, caller),
        () => schedules.pause(id, caller),
        () => schedules.resume(id, caller),
        () => schedules.runNow(id, caller),
        () => schedules.remove(id, caller),
      ]
      for (const caller of [stranger, keyFor(['agt_b']), asAgent('agt_b'), asAgent('agt_a', [])]) {
        expect(await codeOf(schedules.get(id, caller))).toBe('schedule_not_found')
        expect(await codeOf(schedules.listRuns(id, runsPage, caller))).toBe('schedule_not_found')
        expect((await schedules.list(page, caller)).data).toEqual([])
        for (const act of acts(caller)) expect(await codeOf(act())).toBe('schedule_not_found')
      }
      for (const act of acts(viewer)) expect(await codeOf(act())).toBe('forbidden')
      for (const caller of [viewer, keyFor(['agt_a']), asAgent('agt_a')]) {
        expect((await schedules.list(page, caller)).data).toHaveLength(1)
      }
    })

    test('headers of MCP servers are shown to nobody and are sealed at rest', async () => {
      const { schedules, database, tasks, goTo } = await start()
      const mcpServers = [{ name: 'a', url: 'https://mcp.example/', headers: { Authorization: 'Bearer hush-hush' } }]
      const made = await schedules.create(wish({ task: { text: 'x', mcpServers } }), anna)
      expect(made.task).toMatchObject({ mcpServers: [{ name: 'a', url: 'https://mcp.example/' }] })
      expect(JSON.stringify([made, await schedules.get(made.id, anna)])).not.toContain('hush')
      const db = database.of<{ schedules: { sealed_task: string } }>()
      expect(JSON.stringify(await db.all(db.sql.selectFrom('schedules').selectAll().compile()))).not.toContain('hush')
      await goTo('23T10:00:00')
      expect([...tasks.values()][0]!.wish.mcpServers).toEqual(mcpServers)
    })
  })

  test('a run now is one beside the others, once for its key, also while one goes on and while it rests', async () => {
    const { schedules, tasks, shown, goTo } = await start()
    const { id } = await schedules.create(wish(), anna)
    await goTo('23T10:00:00')
    const first = await schedules.runNow(id, anna, { idempotencyKey: 'k' })
    expect(first).toMatchObject({ state: 'started', manual: true, taskId: 'tsk_1' })
    expect(await schedules.runNow(id, anna, { idempotencyKey: 'k' })).toEqual(first)
    await schedules.pause(id, anna)
    expect(await schedules.runNow(id, anna)).toMatchObject({ state: 'started' })
    expect(tasks.size).toBe(3)
    expect(await shown(id)).toEqual(['10:00 started', '10:00 started', '10:00 started'])
  })

  test('a change makes whoever makes it answer for it, and its times begin anew', async () => {
    const { schedules, goTo, tasks } = await start()
    const { id } = await schedules.create(wish(), anna)
    const change = (more: object) => schedules.update(id, updateScheduleSchema.parse(more), bert)
    expect(await change({ cron: '15 14 * * *', timeZone: 'Asia/Kolkata' })).toMatchObject({
      nextAt: '2026-11-24T08:45:00.000Z',
      createdBy: 'usr_bert',
    })
    expect(await change({ task: { text: 'Other' }, missed: 'skip' })).toMatchObject({
      title: 'Other',
      missed: 'skip',
      nextAt: '2026-11-24T08:45:00.000Z',
    })
    expect(await change({ at: '2026-11-23T12:00:00Z' })).toMatchObject({
      cron: null,
      nextAt: '2026-11-23T12:00:00.000Z',
    })
    await goTo('23T12:00:00')
    expect([...tasks.values()]).toMatchObject([{ wish: { text: 'Other' }, by: { actorId: 'usr_bert' } }])
    expect(await codeOf(change({ at: '2026-11-20T12:00:00Z' }))).toBe('schedule_never_runs')
    expect(await codeOf(change({ cron: '0 0 30 2 *' }))).toBe('schedule_never_runs')
  })

  test('a pause leaves out what waits', async () => {
    const { schedules, shown, goTo, end } = await start()
    const { id } = await schedules.create(wish({ overlap: 'queue' }), anna)
    await goTo('23T10:00:00')
    await goTo('23T11:00:00')
    await schedules.pause(id, anna)
    end()
    await goTo('23T12:00:00')
    expect(await shown(id)).toEqual(['10:00 started', '11:00 skipped paused'])
  })

  test('removed, it is gone with its runs', async () => {
    const { schedules, goTo, database, tasks } = await start()
    const { id } = await schedules.create(wish(), anna)
    await goTo('23T10:00:00')
    await schedules.remove(id, anna)
    expect(await codeOf(schedules.get(id, anna))).toBe('schedule_not_found')
    await goTo('23T11:00:00')
    expect(tasks.size).toBe(1)
    const db = database.of<{ schedule_runs: { id: string } }>()
    expect(await db.all(db.sql.selectFrom('schedule_runs').selectAll().compile())).toEqual([])
  })

  test('what is wrong with a wish is refused before anything is written', async () => {
    const { schedules } = await start()
    for (const more of [
      { cron: undefined },
      { cron: '* * * * * *' },
      { at: '2027-01-01T00:00:00Z', cron: '* * * * *' },
      { at: 'tomorrow' },
      { timeZone: 'Europe/Atlantis' },
      { missed: 'never' },
      { task: { text: 'x', agent: 'agt_b' } },
    ]) {
      expect([
        more,
        createScheduleSchema.safeParse({ agent: 'agt_a', task: { text: 'x' }, cron: '* * * * *', ...more }).success,
      ]).toEqual([more, false])
    }
    const large = { text: 'x', files: [{ path: 'a', content: 'x'.repeat(scheduleLimits.taskBytes) }] }
    expect(await codeOf(schedules.create(wish({ task: large }), anna))).toBe('body_too_large')
    expect(await codeOf(schedules.create(wish({ task: { text: 'x', tokenBudget: 1.5 } }), anna))).toBe('amount_invalid')
    expect(await codeOf(schedules.create(wish({ at: '2026-01-01T00:00:00Z' }), anna))).toBe('schedule_never_runs')
    expect((await schedules.list(page, anna)).data).toEqual([])
  })

  test('ten thousand that wait are one timer and a few small questions a minute', async () => {
    const { schedules, database, clock, tasks } = await start()
    const { id } = await schedules.create(wish({ cron: '0 12 * * *' }), anna)
    const db = database.of<{ schedules: Record<string, string | number | null> }>()
    const row = (await db.first(db.sql.selectFrom('schedules').selectAll().where('id', '=', id).compile()))!
    for (let from = 0; from < 10_000; from += 500) {
      const rows = Array.from({ length: 500 }, (_, at) => ({ ...row, id: `sch_${from + at}` }))
      await db.run(db.sql.insertInto('schedules').values(rows).compile())
    }
    const before = database.counts.operations
    schedules.start()
    const minutes = 10
    for (let passed = 0; passed < minutes; passed++) {
      await until(() => clock.sleepers === 1)
      await clock.advance(60_000)
    }
    await until(() => clock.sleepers === 1)
    expect(database.counts.operations - before).toBeLessThan((minutes + 1) * 8)
    await schedules.stop()
    expect(tasks.size).toBe(0)
  })

  test('more than one look takes that come due at once all run', async () => {
    const { schedules, tasks, goTo } = await start()
    const count = 2 * scheduleLimits.looked + 1
    for (let i = 0; i < count; i++) await schedules.create(wish(), anna)
    await goTo('23T10:00:00')
    expect(tasks.size).toBe(count)
  })

  test('its own timer runs it in time, however far ahead it was set', async () => {
    const { schedules, clock, tasks } = await start()
    await schedules.create(wish({ at: new Date(begin + 40 * day).toISOString() }), anna)
    schedules.start()
    await until(() => clock.sleepers === 1)
    clock.jump(40 * day - 30_000)
    // The look of every minute finds that the clock has jumped.
    await clock.advance(60_000)
    await until(() => tasks.size === 1)
    await schedules.stop()
  })
})
