import { afterEach, expect, test } from 'vitest'
import { type Answer, failure, json, type Peer, startPeer } from '../test/peer.ts'

let peer: Peer | undefined
afterEach(async () => {
  await peer?.close()
  peer = undefined
})

async function start(...answers: Answer[]) {
  peer = await startPeer(...answers)
  const { delta, requests } = peer
  const asked = () => requests.map(({ method, target }) => `${method} ${target.replace(/^\/v1\//, '')}`)
  const bodies = () => requests.map(({ body }) => (body === '' ? undefined : (JSON.parse(body) as object)))
  return { delta, requests, asked, bodies }
}

const schedule = { id: 'sch_a', state: 'active' }
const gone: Answer = (_, response) => void response.writeHead(204).end()

test('a schedule is made once, with the task as tasks are sent', async () => {
  const { delta, bodies } = await start(json(201, schedule))
  const files = [{ path: 'a.bin', content: Uint8Array.of(1, 2) }]
  const task = { text: 'Tidy up', tokenBudget: 5, files }
  const sent = { text: 'Tidy up', tokenBudget: 5, files: [{ path: 'a.bin', content: 'AQI=', encoding: 'base64' }] }
  await delta.schedules.create({ agent: { id: 'agt_a' }, task, cron: '@daily', timeZone: 'Europe/Berlin' })
  await delta.schedules.create({ agent: 'agt_a', task, at: new Date(0), overlap: 'queue', enabled: false })
  expect(bodies()).toEqual([
    { agent: 'agt_a', task: sent, cron: '@daily', timeZone: 'Europe/Berlin' },
    { agent: 'agt_a', task: sent, at: '1970-01-01T00:00:00.000Z', overlap: 'queue', enabled: false },
  ])
})

test('one that may have been made is not made again', async () => {
  const { delta, requests } = await start(failure(503, 'database_unavailable'), json(201, schedule))
  const made = delta.schedules.create({ agent: 'agt_a', task: { text: 'Tidy up' }, cron: '@daily' })
  await expect(made).rejects.toMatchObject({ code: 'database_unavailable' })
  expect(requests).toHaveLength(1)
})

test('a run asked for twice because the first answer was lost is one run', async () => {
  const { delta, requests } = await start(failure(503, 'database_unavailable'), json(201, { id: 'scr_a' }))
  expect(await delta.schedules.run('sch_a')).toEqual({ id: 'scr_a' })
  const keys = requests.map(({ headers }) => headers['idempotency-key'])
  expect(keys).toHaveLength(2)
  expect(new Set(keys).size).toBe(1)
  await delta.schedules.run('sch_a', { idempotencyKey: 'mine' })
  expect(requests[2]!.headers['idempotency-key']).toBe('mine')
})

test('schedules are changed, rest, go on and are removed by their id', async () => {
  const { delta, asked, bodies } = await start(
    json(200, schedule),
    json(200, schedule),
    json(200, schedule),
    json(200, schedule),
    gone,
  )
  await delta.schedules.get('a/b')
  await delta.schedules.update('sch_a', { at: '2030-01-01T09:00:00+01:00', task: { text: 'Else', chat: true } })
  await delta.schedules.pause('sch_a')
  await delta.schedules.resume('sch_a')
  await delta.schedules.remove('sch_a')
  expect(asked()).toEqual([
    'GET schedules/a%2Fb',
    'PATCH schedules/sch_a',
    'POST schedules/sch_a/pause',
    'POST schedules/sch_a/resume',
    'DELETE schedules/sch_a',
  ])
  expect(bodies()[1]).toEqual({ at: '2030-01-01T09:00:00+01:00', task: { text: 'Else', chat: true } })
})

test('schedules and runs come page by page', async () => {
  const { delta, asked } = await start(
    json(200, { data: [schedule], nextCursor: 'c' }),
    json(200, { data: [schedule], nextCursor: null }),
    json(200, { data: [{ id: 'scr_a' }], nextCursor: null }),
  )
  expect(await delta.schedules.list({ agentId: 'agt_a', state: 'active', pageSize: 1 }).all()).toHaveLength(2)
  expect(await delta.schedules.runs('sch_a', { pageSize: 7 }).all()).toEqual([{ id: 'scr_a' }])
  expect(asked()).toEqual([
    'GET schedules?agentId=agt_a&state=active&limit=1',
    'GET schedules?agentId=agt_a&state=active&limit=1&cursor=c',
    'GET schedules/sch_a/runs?limit=7',
  ])
})

test('webhooks are made, looked at, changed, tried and removed', async () => {
  const webhook = { id: 'whk_a', secret: 'whsec_x' }
  const { delta, asked, bodies } = await start(
    json(201, webhook),
    json(200, { data: [webhook] }),
    json(200, webhook),
    json(200, webhook),
    json(201, { id: 'dlv_a' }),
    json(200, { data: [{ id: 'dlv_a' }], nextCursor: null }),
    json(200, { id: 'dlv_a' }),
    json(200, { id: 'dlv_a' }),
    gone,
  )
  const { webhooks } = delta
  const url = 'https://example.com/hook'
  expect((await webhooks.create({ url, events: ['task.finished'], agentId: 'agt_a' })).secret).toBe('whsec_x')
  expect(await webhooks.list()).toHaveLength(1)
  await webhooks.get('whk_a')
  await webhooks.update('whk_a', { enabled: false })
  expect((await webhooks.test('whk_a')).id).toBe('dlv_a')
  expect(await webhooks.deliveries('whk_a', { state: 'failed', pageSize: 5 }).all()).toHaveLength(1)
  await webhooks.delivery('whk_a', 'dlv_a')
  await webhooks.redeliver('whk_a', 'dlv_a')
  await webhooks.remove('whk_a')
  expect(asked()).toEqual([
    'POST webhooks',
    'GET webhooks',
    'GET webhooks/whk_a',
    'PATCH webhooks/whk_a',
    'POST webhooks/whk_a/test',
    'GET webhooks/whk_a/deliveries?state=failed&limit=5',
    'GET webhooks/whk_a/deliveries/dlv_a',
    'POST webhooks/whk_a/deliveries/dlv_a/redeliver',
    'DELETE webhooks/whk_a',
  ])
  expect([bodies()[0], bodies()[3]]).toEqual([{ url, events: ['task.finished'], agentId: 'agt_a' }, { enabled: false }])
})
