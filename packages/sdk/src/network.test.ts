import { afterEach, expect, test } from 'vitest'
import { json, type Peer, sandboxInfo, startPeer } from '../test/peer.ts'
import { Delta } from './delta.ts'

let peer: Peer | undefined
afterEach(async () => {
  await peer?.close()
  peer = undefined
})

async function start(...answers: Parameters<typeof startPeer>) {
  peer = await startPeer(json(200, sandboxInfo), ...answers)
  const delta = new Delta({ url: peer.url, apiKey: 'k' })
  return { sandbox: await delta.sandboxes.get('sbx_1'), requests: peer.requests }
}

test('a policy is set whole or added to, and the handle knows it from then on', async () => {
  const list = { egress: { hosts: ['a.example'], presets: ['git'] } }
  const { sandbox, requests } = await start(
    json(200, { egress: 'all' }),
    json(200, list),
    json(200, list),
    json(200, list),
  )
  expect(await sandbox.network.set('all')).toEqual({ egress: 'all' })
  expect(sandbox.info.network).toEqual({ egress: 'all' })
  await sandbox.network.allow('a.example')
  await sandbox.network.allow(['a.example', 'b.example'])
  await sandbox.network.allow({ presets: ['git'] })
  expect(sandbox.info.network).toEqual(list)
  expect(requests.slice(1).map(({ method, target, body }) => [method, target, JSON.parse(body)])).toEqual([
    ['PUT', '/v1/sandboxes/sbx_1/network', { egress: 'all' }],
    ['POST', '/v1/sandboxes/sbx_1/network/allow', { hosts: ['a.example'] }],
    ['POST', '/v1/sandboxes/sbx_1/network/allow', { hosts: ['a.example', 'b.example'] }],
    ['POST', '/v1/sandboxes/sbx_1/network/allow', { presets: ['git'] }],
  ])
})

test('connections are read page by page', async () => {
  const { sandbox, requests } = await start(
    json(200, { data: [{ host: 'a' }], nextCursor: 'n' }),
    json(200, { data: [{ host: 'b' }], nextCursor: null }),
  )
  const all = await sandbox.network.connections({ pageSize: 1 }).all()
  expect(all.map(({ host }) => host)).toEqual(['a', 'b'])
  expect(requests.slice(1).map(({ target }) => target)).toEqual([
    '/v1/sandboxes/sbx_1/egress?limit=1',
    '/v1/sandboxes/sbx_1/egress?cursor=n&limit=1',
  ])
})
