import { afterEach, expect, test } from 'vitest'
import { json, type Peer, startPeer } from '../test/peer.ts'
import { Delta } from './delta.ts'

let peer: Peer
afterEach(() => peer?.close())

const session = (number: number, expiresInMs: number) => ({
  accessToken: `access-${number}`,
  refreshToken: `refresh-${number}`,
  expiresAt: new Date(Date.now() + expiresInMs).toISOString(),
  sessionId: 'ses_a',
  userId: 'usr_a',
  accountId: 'acc_a',
})

test('logging in sends no key', async () => {
  peer = await startPeer(json(200, session(1, 600_000)))
  const { auth } = new Delta({ url: peer.url, apiKey: 'delta_key' })
  expect(await auth.login({ email: 'a@b.example', password: 'password' })).toMatchObject({ accessToken: 'access-1' })
  expect(peer.requests[0]).toMatchObject({ method: 'POST', target: '/v1/auth/login' })
  expect(peer.requests[0]!.headers).not.toHaveProperty('authorization')
})

test('a session that is kept is refreshed once for all who wait, and what came back is told', async () => {
  peer = await startPeer(json(200, session(2, 600_000)), json(200, {}), json(200, {}), json(200, {}))
  const saved: string[] = []
  const { auth } = new Delta({ url: peer.url })
  const apiKey = auth.keep(session(1, 1_000), { onRefresh: ({ refreshToken }) => void saved.push(refreshToken) })
  const delta = new Delta({ url: peer.url, apiKey })
  await Promise.all([delta.auth.me(), delta.auth.me(), delta.auth.me()])
  expect(peer.requests.map(({ target }) => target)).toEqual([
    '/v1/auth/refresh',
    '/v1/users/me',
    '/v1/users/me',
    '/v1/users/me',
  ])
  expect(peer.requests.slice(1).map(({ headers }) => headers['authorization'])).toEqual(
    Array(3).fill('Bearer access-2'),
  )
  expect(saved).toEqual(['refresh-2'])
})

test('a refresh that failed is tried again with the next request, never by itself', async () => {
  peer = await startPeer(
    (_, response) => void response.writeHead(503).end('{}'),
    json(200, session(2, 600_000)),
    json(200, {}),
  )
  const { auth } = new Delta({ url: peer.url })
  const delta = new Delta({ url: peer.url, apiKey: auth.keep(session(1, 1_000)) })
  await expect(delta.auth.me()).rejects.toThrow()
  expect(peer.requests.length).toBe(1)
  await delta.auth.me()
  expect(peer.requests.map(({ target }) => target)).toEqual(['/v1/auth/refresh', '/v1/auth/refresh', '/v1/users/me'])
})
