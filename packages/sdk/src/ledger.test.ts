import { afterEach, expect, test } from 'vitest'
import { events, failure, json, type Peer, startPeer } from '../test/peer.ts'
import { Delta } from './delta.ts'

let peer: Peer | undefined
afterEach(async () => {
  await peer?.close()
  peer = undefined
})

async function start(...answers: Parameters<typeof startPeer>) {
  peer = await startPeer(...answers)
  return { delta: new Delta({ url: peer.url, apiKey: 'k', maxRetries: 1 }), requests: peer.requests }
}

const written = { seq: 3, tokens: 5, repeated: false }

test('tokens are moved once, also when the answer to the first try was lost', async () => {
  const { delta, requests } = await start(failure(503, 'database_unavailable'), json(201, written))
  const wish = { tokens: 5, from: 'reserve', to: 'agt_a', reason: 'For the release' }
  expect(await delta.ledger.transfer(wish)).toEqual(written)
  const keys = requests.map(({ headers }) => headers['idempotency-key'])
  expect(keys[0]).toMatch(/.{8}/)
  expect(keys[1]).toBe(keys[0])
  expect(requests.map(({ target, body }) => [target, JSON.parse(body)])).toEqual([
    ['/v1/ledger/transfers', wish],
    ['/v1/ledger/transfers', wish],
  ])
  await delta.ledger.transfer(wish)
  expect(requests[2]!.headers['idempotency-key']).not.toBe(keys[0])
  await delta.ledger.transfer({ ...wish, idempotencyKey: 'mine' })
  expect(requests[3]!.headers['idempotency-key']).toBe('mine')
})

test('grants, refunds and plans go where they belong', async () => {
  const { delta, requests } = await start(json(201, written))
  await delta.ledger.grant({ tokens: 5, sort: 'bought', reason: 'x', accountId: 'acc_a' })
  await delta.ledger.refund({ holdId: 'hld_a', tokens: 0.5, reason: 'x' })
  await delta.ledger.setPlan('pro', { accountId: 'acc_a' })
  await delta.ledger.plan()
  expect(requests.map(({ method, target, body }) => [method, target, body === '' ? null : JSON.parse(body)])).toEqual([
    ['POST', '/v1/ledger/grants', { tokens: 5, sort: 'bought', reason: 'x', accountId: 'acc_a' }],
    ['POST', '/v1/ledger/refunds', { holdId: 'hld_a', tokens: 0.5, reason: 'x' }],
    ['PUT', '/v1/ledger/plan', { plan: 'pro', accountId: 'acc_a' }],
    ['GET', '/v1/ledger/plan', null],
  ])
})

test('usage is asked for in the words of the server, page by page or as a table', async () => {
  const page = (nextCursor: string | null) => json(200, { data: [{ tokens: 1 }], nextCursor })
  const { delta, requests } = await start(page('c'), page(null), (_, response) => void response.end('from,agent\r\n'))
  const from = new Date('2026-11-01T00:00:00Z')
  expect(await delta.ledger.usage({ groupBy: ['agent', 'day'], from, agentId: 'agt_a' }).all()).toHaveLength(2)
  const csv = await new Response(await delta.ledger.usageCsv({ groupBy: ['agent'] })).text()
  expect(csv).toBe('from,agent\r\n')
  const queries = requests.map(({ target }) => Object.fromEntries(new URL(target, 'http://x').searchParams))
  const asked = { groupBy: 'agent,day', from: from.toISOString(), agentId: 'agt_a' }
  expect(queries).toEqual([asked, { ...asked, cursor: 'c' }, { groupBy: 'agent', format: 'csv' }])
})

test('following goes on after the last position, of which no entry was told too', async () => {
  const frame = (seq: number) => ({ event: 'transfer', id: seq, data: { seq } })
  const { delta, requests } = await start(
    events([{ event: 'position', id: 4, data: { seq: 4 } }]),
    failure(503, 'database_unavailable'),
    events([{ event: 'position', id: 4, data: { seq: 4 } }, frame(5)], { cut: true }),
    events([{ event: 'position', id: 5, data: { seq: 5 } }, frame(6)]),
  )
  const seen: number[] = []
  for await (const { seq } of delta.ledger.follow()) if (seen.push(seq) === 2) break
  expect(seen).toEqual([5, 6])
  expect(requests.map(({ target }) => target.replace('/v1/ledger/events', ''))).toEqual([
    '',
    '?from=4',
    '?from=4',
    '?from=5',
  ])
})
