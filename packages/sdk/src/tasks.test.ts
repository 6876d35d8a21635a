import { afterEach, expect, test } from 'vitest'
import { type Answer, events, failure, json, type Peer, startPeer } from '../test/peer.ts'
import { Delta } from './delta.ts'
import type { TaskEvent } from './task-events.ts'
import type { TaskInfo } from './types.ts'

let peer: Peer | undefined
afterEach(async () => {
  await peer?.close()
  peer = undefined
})

async function start(...answers: Answer[]) {
  peer = await startPeer(...answers)
  const { url, requests } = peer
  const asked = () => requests.map(({ method, target }) => `${method} ${target.replace('/v1/tasks', '')}`)
  return { delta: new Delta({ url, apiKey: 'k', maxRetries: 0 }), requests, asked }
}

const task = (changes: Partial<TaskInfo> = {}) => ({
  id: 'tsk_a',
  agentId: 'agt_a',
  state: 'working',
  waitsFor: [],
  lastEvent: 1,
  endedAt: null,
  ...changes,
})
const at = '2030-01-01T00:00:00.000Z'
const event = (id: number, kind: string, data: object = {}) => ({ event: kind, id, data: { ...data, at } })
const question = { kind: 'answer' as const, callId: 'tcl_a', question: 'Which one?' }
const asks = { state: 'waiting' as const, waitsFor: [question] }
const over = { state: 'finished' as const, endedAt: at }
const end = event(9, 'end', { state: 'finished', reason: 'done', message: 'It is done' })

test('a task is created once, with bytes as base64', async () => {
  const { delta, requests } = await start(json(201, task()))
  const png = { mediaType: 'image/png' as const, data: Uint8Array.of(0, 255) }
  const files = [
    { path: 'a.txt', content: 'text' },
    { path: 'b.bin', content: Uint8Array.of(1, 2) },
  ]
  const made = await delta.tasks.create({ agent: { id: 'agt_a' }, text: 'Do it', images: [png], files, chat: true })
  expect([made.id, made.agentId, made.isOver]).toEqual(['tsk_a', 'agt_a', false])
  expect(requests[0]!.headers['idempotency-key']).toMatch(/^[0-9a-f-]{36}$/)
  expect(JSON.parse(requests[0]!.body)).toEqual({
    agent: 'agt_a',
    text: 'Do it',
    chat: true,
    images: [{ mediaType: 'image/png', data: 'AP8=' }],
    files: [
      { path: 'a.txt', content: 'text' },
      { path: 'b.bin', content: 'AQI=', encoding: 'base64' },
    ],
  })
})

test('events go on after the last one when the connection is lost, and end with the task', async () => {
  const { delta, asked } = await start(
    json(200, task()),
    events([event(1, 'message'), event(2, 'text', { text: 'Hel' })], { cut: true }),
    failure(503, 'database_unavailable'),
    events([event(3, 'text', { text: 'lo' }), end, event(10, 'undone')]),
  )
  const seen: TaskEvent[] = []
  for await (const one of (await delta.tasks.get('tsk_a')).events()) seen.push(one)
  expect(seen.map(({ id, kind }) => [id, kind])).toEqual([
    [1, 'message'],
    [2, 'text'],
    [3, 'text'],
    [9, 'end'],
  ])
  expect(seen[1]).toEqual({ id: 2, kind: 'text', at, data: { text: 'Hel' } })
  expect(asked().slice(1)).toEqual(['GET /tsk_a/events', 'GET /tsk_a/events?from=2', 'GET /tsk_a/events?from=2'])
})

test('of a task that has ended, events after the last one are none', async () => {
  const { delta, asked } = await start(json(200, task({ ...over, lastEvent: 10 })))
  const found = await delta.tasks.get('tsk_a')
  for await (const one of found.events({ from: 10 })) expect.unreachable(String(one.id))
  expect(asked()).toEqual(['GET /tsk_a', 'GET /tsk_a'])
})

test('waiting ends where it asks, not at a question that was answered', async () => {
  const { delta, requests } = await start(
    json(200, task()),
    json(200, task({ lastEvent: 5 })),
    events([
      event(2, 'state', asks),
      event(3, 'state', { state: 'working' }),
      event(4, 'state', { state: 'waiting', waitsFor: [{ kind: 'task', callId: 'tcl_b', taskId: 'tsk_b' }] }),
      event(6, 'state', asks),
    ]),
    // After the first question, then after the second.
    json(200, task({ ...asks, lastEvent: 6 })),
    json(200, task({ ...asks, lastEvent: 6 })),
  )
  const seen: number[] = []
  const found = await delta.tasks.get('tsk_a')
  const info = await found.wait({ onEvent: ({ id }) => seen.push(id) })
  expect(info.waitsFor).toEqual([question])
  expect(seen).toEqual([2, 3, 4, 6])
  expect(requests).toHaveLength(5)
})

test('waiting for what has ended, or asks already, asks once', async () => {
  const { delta, asked } = await start(json(200, task()), json(200, task(over)), json(200, task(asks)))
  const found = await delta.tasks.get('tsk_a')
  expect((await found.wait()).state).toBe('finished')
  expect((await found.wait()).state).toBe('waiting')
  expect(asked()).toEqual(['GET /tsk_a', 'GET /tsk_a', 'GET /tsk_a'])
})

test('whoever stops waiting gets his own reason, and nothing is canceled', async () => {
  const { delta, asked } = await start(json(200, task()), json(200, task()), (_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(': here\n\n')
  })
  const found = await delta.tasks.get('tsk_a')
  const leave = new AbortController()
  const waiting = found.wait({ signal: leave.signal })
  await expect.poll(asked).toHaveLength(3)
  leave.abort(new Error('enough'))
  await expect(waiting).rejects.toThrow('enough')
  expect(asked()[2]).toBe('GET /tsk_a/events?from=1')
})

test('an agent runs a task until it has ended', async () => {
  const agent = { id: 'agt_a', name: 'Worker', state: 'active' }
  const { delta, asked, requests } = await start(
    json(200, agent),
    json(201, task()),
    json(200, task()),
    events([end]),
    json(200, task(over)),
  )
  const ran = await (await delta.agents.get('agt_a')).run('Do it', { tokenBudget: 5 })
  expect(ran.isOver).toBe(true)
  expect(JSON.parse(requests[1]!.body)).toEqual({ agent: 'agt_a', text: 'Do it', tokenBudget: 5 })
  expect(asked().slice(1)).toEqual(['POST ', 'GET /tsk_a', 'GET /tsk_a/events?from=1', 'GET /tsk_a'])
})

test('what is said to it goes where the API says', async () => {
  const { delta, requests, asked } = await start(json(200, task()))
  const found = await delta.tasks.get('tsk_a')
  await found.message('Go on', { interrupt: true })
  await found.interrupt()
  await found.pause()
  await found.resume()
  await found.cancel()
  await found.giveTokens(5)
  await found.undo({ step: 2 })
  await found.undo()
  await found.fork({ step: 1, text: 'Else', agent: { id: 'agt_b' } })
  expect(asked().slice(1)).toEqual([
    'POST /tsk_a/messages',
    'POST /tsk_a/interrupt',
    'POST /tsk_a/pause',
    'POST /tsk_a/resume',
    'POST /tsk_a/cancel',
    'POST /tsk_a/tokens',
    'POST /tsk_a/undo',
    'POST /tsk_a/undo',
    'POST /tsk_a/fork',
  ])
  const bodies = requests.slice(1).map(({ body }) => (body === '' ? undefined : (JSON.parse(body) as object)))
  expect(bodies).toEqual([
    { text: 'Go on', interrupt: true },
    undefined,
    undefined,
    undefined,
    undefined,
    { tokens: 5 },
    { step: 2 },
    {},
    { step: 1, text: 'Else', agent: 'agt_b' },
  ])
})

test('keys of models are set by provider', async () => {
  const { delta, requests } = await start(json(200, { data: [], provider: 'google' }))
  await delta.models.list()
  await delta.models.keys.set('google', 'a-key-of-mine')
  await delta.models.keys.list()
  expect(requests.map(({ method, target, body }) => [method, target, body])).toEqual([
    ['GET', '/v1/models', ''],
    ['PUT', '/v1/model-keys/google', '{"apiKey":"a-key-of-mine"}'],
    ['GET', '/v1/model-keys', ''],
  ])
})
