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
  return { delta: new Delta({ url: peer.url, apiKey: 'k', maxRetries: 0 }), requests: peer.requests }
}

const approval = { id: 'apr_a', actionHash: 'a'.repeat(64), state: 'pending' }

test('what is approved is what was read', async () => {
  const { delta, requests } = await start(json(200, approval), json(200, { ...approval, state: 'executed' }))
  expect(await delta.approvals.approve(await delta.approvals.get('apr_a'))).toMatchObject({ state: 'executed' })
  expect(requests.map(({ method, target, body }) => [method, target, body])).toEqual([
    ['GET', '/v1/approvals/apr_a', ''],
    ['POST', '/v1/approvals/apr_a/approve', JSON.stringify({ actionHash: approval.actionHash })],
  ])
})

test('following goes on after what was seen when the connection is lost', async () => {
  const frame = (id: number, state: string) => [{ event: 'approval', id, data: { ...approval, state } }]
  const { delta, requests } = await start(
    events(frame(4, 'pending')),
    failure(503, 'database_unavailable'),
    events(frame(7, 'executed')),
  )
  const seen: unknown[] = []
  for await (const { approval: one, eventId } of delta.approvals.follow()) {
    if (seen.push([eventId, one.state]) === 2) break
  }
  expect(seen).toEqual([
    [4, 'pending'],
    [7, 'executed'],
  ])
  expect(requests.map(({ target }) => target)).toEqual([
    '/v1/approvals/events',
    '/v1/approvals/events?from=4',
    '/v1/approvals/events?from=4',
  ])
})

test('following ends with a refusal that stays one', async () => {
  const { delta } = await start(failure(401, 'unauthorized'))
  await expect(delta.approvals.follow().next()).rejects.toMatchObject({ code: 'unauthorized' })
})
