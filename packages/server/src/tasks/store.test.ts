import { describe, expect, test } from 'vitest'
import { testDatabases } from '../kernel/db/testing.ts'
import type { Database } from '../kernel/db/database.ts'
import { taskMigrations } from './migrations.ts'
import type { CallRecord, StepRecord, TaskRecord } from './record.ts'
import { noUsage } from './rules.ts'
import { taskStates } from './schema.ts'
import { isOpen, mayBecome, successors } from './states.ts'
import { createTaskStore } from './store.ts'

function record(changes: Partial<TaskRecord> = {}): TaskRecord {
  return {
    id: 'tsk_a',
    accountId: 'acc_a',
    agentId: 'agt_a',
    parentTaskId: null,
    forkedTaskId: null,
    forkedStep: null,
    state: 'queued',
    reason: null,
    message: null,
    waitsFor: [],
    spec: {
      text: 'Do it',
      model: 'anthropic/m',
      fallbackModels: [],
      maxPrice: null,
      thinking: 'off',
      instructions: null,
      timeLimitMs: 1_000,
      rights: null,
      maxSteps: 5,
      tools: {},
      mcpServers: null,
      resultSchema: null,
      chat: false,
      metadata: {},
      files: [],
    },
    budget: null,
    payerId: null,
    isSettled: false,
    asker: { actorId: 'usr_a', userId: 'usr_a', ties: ['usr_a'], line: 'usr_a', root: 'usr_a' },
    wish: null,
    owner: null,
    turn: 1,
    step: 0,
    lastEvent: 1,
    lastMessage: 1,
    lastInbox: 0,
    usage: noUsage,
    cost: 0,
    estimated: false,
    untrusted: false,
    compactedTo: 0,
    summary: null,
    result: null,
    createdAt: 1_000,
    startedAt: null,
    endedAt: null,
    dueAt: 2_000,
    version: 1,
    changedAt: 1_000,
    ...changes,
  }
}

const step = (number: number, changes: Partial<StepRecord> = {}): StepRecord => ({
  step: number,
  turn: 1,
  state: 'done',
  model: 'anthropic/m',
  attempts: [],
  snapshotId: null,
  isUndone: false,
  startedAt: 1,
  endedAt: null,
  ...changes,
})

const call = (id: string, changes: Partial<CallRecord> = {}): CallRecord => ({
  id,
  step: 1,
  place: 0,
  callId: id,
  tool: 'echo',
  input: '{}',
  state: 'ready',
  approvalId: null,
  waitsFor: null,
  answer: null,
  outcome: null,
  startedAt: null,
  endedAt: null,
  ...changes,
})

test('every state can end, what has ended stays so, and none leads to itself', () => {
  for (const state of taskStates) {
    const reached = new Set([state])
    for (const one of reached) for (const next of successors[one]) reached.add(next)
    expect([...reached].some((one) => !isOpen(one))).toBe(true)
    expect(mayBecome(state, state)).toBe(false)
    if (isOpen(state)) for (const end of ['canceled', 'failed'] as const) expect(mayBecome(state, end)).toBe(true)
  }
  expect(taskStates.filter((state) => !isOpen(state))).toEqual(['finished', 'failed', 'canceled'])
  expect(taskStates.filter((state) => mayBecome(state, 'finished'))).toEqual(['working'])
})

testDatabases('the store of tasks', (open) => {
  const start = async () => createTaskStore(((await open(taskMigrations)) as Database).of())

  test('what is written is read again, whole', async () => {
    const store = await start()
    const full = record({
      state: 'waiting',
      reason: 'done',
      message: 'o’Brien "\\" % _',
      waitsFor: [{ kind: 'answer', callId: 'tcl_a', question: 'x"y' }],
      budget: Number.MAX_SAFE_INTEGER,
      cost: Number.MAX_SAFE_INTEGER,
      isSettled: true,
      result: { text: null, value: { a: [1, null] } },
      usage: { input: 1, cacheRead: 2, cacheWrite: 3, cacheWriteHour: 4, output: 5 },
      summary: 's',
      untrusted: true,
      estimated: true,
      endedAt: 9,
    })
    expect(await store.insert(full, {})).toBe(true)
    expect(await store.get('tsk_a')).toEqual(full)
    const message = {
      seq: 1,
      step: 0,
      message: { role: 'user' as const, parts: [{ type: 'text' as const, text: 'a\0b' }] },
      createdAt: 1,
    }
    const event = { seq: 2, kind: 'text' as const, data: { text: 'x' }, at: 3 }
    const wish = {
      messages: [message],
      step: step(1, { attempts: [{ holdId: 'hld_a', model: 'm', state: 'cut' }] }),
      newCalls: [call('tcl_a', { input: 'a\0b' })],
      events: [event],
    }
    expect(await store.update(full, { ...full, lastEvent: 2 }, wish)).toBe(true)
    expect(await store.messages('tsk_a')).toEqual([message])
    expect(await store.step('tsk_a', 1)).toEqual(wish.step)
    expect(await store.calls('tsk_a')).toEqual([call('tcl_a', { input: 'a\uFFFDb' })])
    expect(await store.events('tsk_a', { after: 1, limit: 9 })).toEqual([event])
    expect(await store.events('tsk_a', { after: 2, limit: 9 })).toEqual([])
  })

  test('of two who change the same version one does, and the other has written nothing', async () => {
    const store = await start()
    const before = record()
    await store.insert(before, {})
    const event = (kind: 'text' | 'thinking') => ({ events: [{ seq: 1, kind, data: {}, at: 1 }] })
    const done = await Promise.all([
      store.update(before, { ...before, state: 'working', owner: 'srv_a' }, event('text')),
      store.update(before, { ...before, state: 'working', owner: 'srv_b' }, event('thinking')),
    ])
    expect(done.toSorted()).toEqual([false, true])
    expect(await store.events('tsk_a', { after: 0, limit: 9 })).toHaveLength(1)
    const owner = (await store.get('tsk_a'))!.owner
    expect((await store.events('tsk_a', { after: 0, limit: 9 }))[0]!.kind).toBe(owner === 'srv_a' ? 'text' : 'thinking')
  })

  test('no way leads back from an end', async () => {
    const store = await start()
    const over = record({ state: 'finished' })
    await store.insert(over, {})
    await expect(store.update(over, { ...over, state: 'working' })).rejects.toThrow('can not become')
  })

  test('a thousand rows at once', async () => {
    const store = await start()
    const before = record()
    const messages = Array.from({ length: 3_000 }, (_, at) => ({
      seq: at + 1,
      step: 0,
      message: { role: 'user' as const, parts: [] },
      createdAt: 1,
    }))
    const events = Array.from({ length: 5_000 }, (_, at) => ({ seq: at + 1, kind: 'text' as const, data: {}, at: 1 }))
    expect(await store.insert(before, { messages, events })).toBe(true)
    const newCalls = Array.from({ length: 3_000 }, (_, at) => call(`tcl_${at}`, { place: at }))
    expect(await store.update(before, before, { newCalls })).toBe(true)
    expect(await store.messages('tsk_a')).toHaveLength(3_000)
    expect(await store.calls('tsk_a', 1)).toHaveLength(3_000)
    expect(await store.events('tsk_a', { after: 0, limit: 10_000 })).toHaveLength(5_000)
  })

  test('a key is of one account and makes one task', async () => {
    const store = await start()
    const request = { key: 'k', bodyHash: 'h' }
    expect(await store.insert(record(), { request, step: step(0) })).toBe(true)
    expect(await store.insert(record({ id: 'tsk_b' }), { request, step: step(0) })).toBe(false)
    expect(await store.steps('tsk_b')).toEqual([])
    expect(await store.insert(record({ id: 'tsk_c', accountId: 'acc_b' }), { request })).toBe(true)
    expect(await store.savedRequest('acc_a', 'k')).toEqual({ bodyHash: 'h', taskId: 'tsk_a' })
    expect(await store.savedRequest('acc_c', 'k')).toBeUndefined()
  })

  describe('wishes', () => {
    test.each([
      ['pause', 'interrupt', 'pause'],
      ['interrupt', 'pause', 'pause'],
      ['cancel', 'pause', 'cancel'],
      ['cancel', 'interrupt', 'cancel'],
      ['pause', 'cancel', 'cancel'],
    ] as const)('%s, then %s: %s', async (first, then, expected) => {
      const store = await start()
      await store.insert(record({ state: 'working', owner: 'srv_a' }), {})
      expect(await store.wish('tsk_a', first)).toBe(true)
      await store.wish('tsk_a', then)
      expect((await store.get('tsk_a'))!.wish).toBe(expected)
      expect((await store.wished('srv_a')).map(({ id }) => id)).toEqual(['tsk_a'])
      expect(await store.wished('srv_b')).toEqual([])
    })

    test('none of what nobody works on, and a change keeps it', async () => {
      const store = await start()
      const before = record()
      await store.insert(before, {})
      expect(await store.wish('tsk_a', 'cancel')).toBe(false)
      await store.update(before, { ...before, state: 'working' })
      await store.wish('tsk_a', 'pause')
      const now = (await store.get('tsk_a'))!
      await store.update(now, { ...now, wish: null, step: 1 })
      expect((await store.get('tsk_a'))!.wish).toBe('pause')
      await store.update(
        { ...now, version: now.version + 1 },
        { ...now, step: 2 },
        { more: [store.noWish('tsk_a', 'interrupt')] },
      )
      expect((await store.get('tsk_a'))!.wish).toBe('pause')
    })
  })

  describe('the inbox', () => {
    const told = (text: string) => ({ parts: [{ type: 'text' as const, text }], by: 'usr_a', createdAt: 1 })

    test('numbers what many say at once, and knows a key again', async () => {
      const store = await start()
      await store.insert(record(), {})
      const seqs = await Promise.all(
        Array.from({ length: 8 }, (_, at) => store.addToInbox('tsk_a', told(String(at)), undefined)),
      )
      expect(seqs.toSorted((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
      expect(await store.addToInbox('tsk_a', told('x'), 'k')).toBe(9)
      expect(await store.addToInbox('tsk_a', told('x'), 'k')).toBe(9)
      expect(await store.addToInbox('tsk_b', told('x'), 'k')).toBe(1)
      expect((await store.inboxAfter('tsk_a', 7)).map(({ seq }) => seq)).toEqual([8, 9])
    })

    test('an answer is no news, and with news nothing is written that must have none', async () => {
      const store = await start()
      const before = record({ state: 'working' })
      await store.insert(before, {})
      const answer = store.inboxStep('tsk_a', { seq: 1, ...told('x'), answers: 'tcl_a' }, 'k')
      expect(await store.update(before, before, { more: [answer] })).toBe(true)
      expect(await store.inboxAfter('tsk_a', 0)).toEqual([])
      const now = (await store.get('tsk_a'))!
      expect(await store.update(now, { ...now, step: 1 }, { more: [store.noNews(now)] })).toBe(true)
      await store.addToInbox('tsk_a', told('y'), undefined)
      const then = (await store.get('tsk_a'))!
      expect(await store.update(then, { ...then, step: 2 }, { more: [store.noNews(then)] })).toBe(false)
      expect((await store.get('tsk_a'))!.step).toBe(1)
      expect(
        await store.update(then, { ...then, step: 2 }, { more: [store.noNews({ id: 'tsk_a', lastInbox: 2 })] }),
      ).toBe(true)
    })
  })

  test('those of servers that are silent are orphans, and no others', async () => {
    const store = await start()
    for (const owner of ['srv_a', 'srv_b', 'srv_c'])
      await store.insert(record({ id: `tsk_${owner.at(-1)}`, state: 'working', owner }), {})
    await store.heard('srv_a', 1_000)
    await store.heard('srv_b', 500)
    const ids = async (owner: string, silentSince?: number) =>
      (await store.orphans({ owner, silentSince })).map(({ id }) => id)
    expect(await ids('srv_a', 700)).toEqual(['tsk_b', 'tsk_c'])
    expect(await ids('srv_x', 700)).toEqual(['tsk_b', 'tsk_c'])
    expect(await ids('srv_a')).toEqual(['tsk_b', 'tsk_c'])
    await store.left('srv_a')
    expect(await ids('srv_x', 700)).toEqual(['tsk_a', 'tsk_b', 'tsk_c'])
  })

  test('what waits for an id is found by all of it alone', async () => {
    const store = await start()
    const waits = (requestId: string) => ({
      state: 'suspended' as const,
      waitsFor: [{ kind: 'tokens' as const, requestId }],
    })
    await store.insert(record({ id: 'tsk_a', ...waits('trq_abc') }), {})
    await store.insert(record({ id: 'tsk_b', ...waits('trq_abcd') }), {})
    await store.insert(
      record({ id: 'tsk_c', state: 'paused', waitsFor: [{ kind: 'tokens', requestId: 'trq_abc' }] }),
      {},
    )
    const quoted = 'is it "trq_abc"?'
    await store.insert(
      record({ id: 'tsk_d', state: 'waiting', waitsFor: [{ kind: 'answer', callId: 'tcl_a', question: quoted }] }),
      {},
    )
    expect((await store.waitingFor('trq_abc')).map(({ id }) => id)).toEqual(['tsk_a'])
    expect((await store.waitingFor('trq%')).map(({ id }) => id)).toEqual([])
  })

  test('the latest calls that ended come in their order', async () => {
    const store = await start()
    await store.insert(record(), {})
    const all = [1, 2, 3].flatMap((at) =>
      [0, 1].map((place) =>
        call(`tcl_${at}${place}`, { step: at, place, state: at === 2 && place === 1 ? 'started' : 'done' }),
      ),
    )
    await store.update(record(), record(), { newCalls: all })
    const ids = async (but: number | undefined, limit: number) =>
      (await store.endedCalls('tsk_a', { but, limit })).map(({ id }) => id)
    expect(await ids(undefined, 9)).toEqual(['tcl_10', 'tcl_11', 'tcl_20', 'tcl_30', 'tcl_31'])
    expect(await ids(3, 2)).toEqual(['tcl_11', 'tcl_20'])
  })

  test('what is removed leaves nothing', async () => {
    const store = await start()
    await store.insert(record(), { step: step(0), events: [{ seq: 1, kind: 'state', data: {}, at: 1 }] })
    await store.addToInbox('tsk_a', { parts: [], by: 'x', createdAt: 1 }, undefined)
    await store.update(record(), record(), { newCalls: [call('tcl_a')] })
    await store.remove('tsk_a')
    expect([
      await store.get('tsk_a'),
      await store.steps('tsk_a'),
      await store.calls('tsk_a'),
      await store.inboxAfter('tsk_a', 0),
    ]).toEqual([undefined, [], [], []])
  })
})
