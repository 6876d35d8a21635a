import { createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import { createApp } from '../../app.ts'
import { testDatabases } from '../../kernel/db/testing.ts'
import { silentLogger } from '../../kernel/log.ts'
import { createMetrics } from '../../kernel/metrics.ts'
import type { KeyRecord } from '../keys/record.ts'
import { createKeyStore } from '../keys/store.ts'
import { mailFeature } from '../mail/routes.ts'
import { right } from '../rights.ts'
import { testDoor, testKeyPrincipal } from '../testing.ts'
import { createCookies } from './cookies.ts'
import { peopleFeature, requireOperator } from './routes.ts'
import { operatorKey, publicUrl, startPeople, tokenOf } from './testing.ts'
import type { Started } from './testing.ts'

const ada = 'ada@example.com'
const bob = 'bob@example.com'
const minute = 60_000

async function wait({ clock }: Started, minutes: number): Promise<void> {
  for (let at = 0; at < minutes; at += 10) {
    await clock.advance(10 * minute)
    // What was woken asks the database.
    await new Promise((resolve) => setTimeout(resolve, 15))
  }
}

/** Bob is an admin of Ada's account. */
async function adaAndBob(started: Started) {
  const { call, join, linkTo } = started
  const owner = await join(ada)
  const asOwner = { token: owner.accessToken! }
  expect((await call('POST', '/v1/invitations', { email: bob, role: 'admin' }, asOwner)).status).toBe(201)
  const joined = await call('POST', '/v1/auth/invitation', {
    token: await linkTo(bob, 'invitation'),
    password: `password of ${bob}`,
  })
  expect(joined.status).toBe(200)
  return { asOwner, bobs: joined.body as unknown as typeof owner }
}

testDatabases('what a role is worth', (open) => {
  test('a role that was taken stays taken when its news is forgotten after an hour', async () => {
    const started = await startPeople(open)
    const { call } = started
    const { asOwner, bobs } = await adaAndBob(started)
    const body = { email: 'x@example.com', role: 'admin' }
    expect((await call('POST', '/v1/invitations', body, { token: bobs.accessToken! })).status).toBe(201)
    expect((await call('PATCH', `/v1/account/members/${bobs.userId}`, { role: 'viewer' }, asOwner)).status).toBe(204)
    await wait(started, 90)
    const again = await call('POST', '/v1/auth/refresh', { refreshToken: bobs.refreshToken })
    expect(again.status).toBe(200)
    const token = String(again.body['accessToken'])
    const me = await call('GET', '/v1/users/me', undefined, { token })
    expect(me.body['role']).toBe('viewer')
    expect((await call('POST', '/v1/invitations', body, { token })).status).toBe(403)
  })

  test('a key that the key in the data folder made is not the operator', async () => {
    const { people, clock, mailbox, join, database } = await startPeople(open)
    await join(ada)
    // As the reader makes it of a row without a person, which is what that key's keys are.
    const made = testKeyPrincipal({ keyId: 'key_ci', rights: [right('write:*')] })
    const { api } = createApp({
      features: [
        mailFeature({ mailbox, requireOperator }),
        peopleFeature({ people, cookies: createCookies({ publicUrl }), clock }),
      ],
      access: testDoor({ made }),
      log: silentLogger,
      clock,
      metrics: createMetrics(),
      checkDatabase: database.check,
      settings: { version: '0', host: '127.0.0.1', hosts: [], environment: 'production', installation: () => ({}) },
    })
    const headers = { authorization: 'Bearer made', 'content-type': 'application/json' }
    const link = await api.request('http://127.0.0.1/v1/users/links', {
      method: 'POST',
      headers,
      body: JSON.stringify({ email: ada }),
    })
    expect(link.status).toBe(403)
    expect((await api.request('http://127.0.0.1/v1/mail', { headers })).status).toBe(403)
  })

  test('a role and its news are written together or not at all', async () => {
    let broken = false
    const started = await startPeople(open, {
      revocations: (news) => ({
        ...news,
        get count() {
          return news.count
        },
        steps: (ids) => news.steps(ids).map((step) => (broken ? { ...step, mustChange: 2 } : step)),
      }),
    })
    const { call } = started
    const { asOwner, bobs } = await adaAndBob(started)
    const members = () => call('GET', '/v1/account/members', undefined, asOwner)
    const before = (await members()).text
    broken = true
    const path = `/v1/account/members/${bobs.userId}`
    expect((await call('PATCH', path, { role: 'viewer' }, asOwner)).status).toBe(409)
    expect((await members()).text).toBe(before)
    broken = false
    expect((await call('PATCH', path, { role: 'viewer' }, asOwner)).status).toBe(204)
    const invited = await call('POST', '/v1/invitations', { email: 'x@example.com' }, { token: bobs.accessToken! })
    expect(invited.status).toBe(403)
  })

  test('what somebody had invited others to be ends with the role that let them', async () => {
    const started = await startPeople(open)
    const { call, linkTo } = started
    const { asOwner, bobs } = await adaAndBob(started)
    const invite = (email: string, role: string) =>
      call('POST', '/v1/invitations', { email, role }, { token: bobs.accessToken! })
    const accept = async (email: string) => {
      const token = await linkTo(email, 'invitation')
      return (await call('POST', '/v1/auth/invitation', { token, password: `password of ${email}` })).status
    }
    expect((await invite('carol@example.com', 'admin')).status).toBe(201)
    expect((await invite('dan@example.com', 'viewer')).status).toBe(201)
    await call('POST', '/v1/invitations', { email: 'eve@example.com', role: 'admin' }, asOwner)
    const path = `/v1/account/members/${bobs.userId}`
    expect((await call('DELETE', path, undefined, asOwner)).status).toBe(204)
    const left = (await call('GET', '/v1/invitations', undefined, asOwner)).body as unknown as {
      data: { email: string }[]
    }
    expect(left.data.map(({ email }) => email)).toEqual(['eve@example.com'])
    expect([await accept('carol@example.com'), await accept('dan@example.com')]).toEqual([410, 410])
    expect(await accept('eve@example.com')).toBe(200)
  })

  test('an invitation that was written as its sender was removed is good for nothing', async () => {
    const started = await startPeople(open)
    const { call, linkTo, database } = started
    const { asOwner, bobs } = await adaAndBob(started)
    const asBob = { token: bobs.accessToken! }
    const { body } = await call('POST', '/v1/invitations', { email: 'carol@example.com', role: 'admin' }, asBob)
    const token = await linkTo('carol@example.com', 'invitation')
    const { sql } = database.of<{ invitations: { id: string; user_id: string | null } }>()
    const id = String(body['id'])
    await database.run(sql.updateTable('invitations').set({ user_id: null }).where('id', '=', id).compile())
    await call('DELETE', `/v1/account/members/${bobs.userId}`, undefined, asOwner)
    await database.run(sql.updateTable('invitations').set({ user_id: bobs.userId }).where('id', '=', id).compile())
    expect((await call('POST', '/v1/auth/invitation', { token, password: 'a good password' })).status).toBe(410)
  })

  test('the link of the first start is over as soon as there is an owner', async () => {
    const { people, call, linkTo } = await startPeople(open)
    const first = tokenOf((await people.firstLink())!.url)
    await call('POST', '/v1/invitations', { email: ada, role: 'owner' }, { token: operatorKey })
    const token = await linkTo(ada, 'invitation')
    expect((await call('POST', '/v1/auth/invitation', { token, password: 'a good password' })).status).toBe(200)
    const thief = { token: first, email: 'thief@example.com', password: 'another good one' }
    expect((await call('POST', '/v1/auth/owner', thief)).status).toBe(410)
  })

  test('the keys of somebody who was removed end for good, theirs elsewhere do not', async () => {
    const started = await startPeople(open)
    const { call, database, linkTo, people } = started
    const { asOwner, bobs } = await adaAndBob(started)
    const accountId = bobs.accountId
    const store = createKeyStore(database)
    const made = (id: string, where: string) => ({ ...keyOf(id, bobs.userId), accountId: where })
    await store.insert(made('key_here', accountId))
    await store.insert(made('key_elsewhere', 'acc_elsewhere'))
    const ended = async () => (await store.get('key_here'))!.revokedAt !== null
    expect((await call('PATCH', `/v1/account/members/${bobs.userId}`, { role: 'member' }, asOwner)).status).toBe(204)
    expect(await ended()).toBe(false)
    expect((await call('DELETE', `/v1/account/members/${bobs.userId}`, undefined, asOwner)).status).toBe(204)
    expect(await ended()).toBe(true)
    expect((await store.get('key_elsewhere'))!.revokedAt).toBeNull()
    // One that was being made meanwhile ends when they come back.
    await store.insert(made('key_late', accountId))
    await call('POST', '/v1/invitations', { email: bob }, asOwner)
    const token = await linkTo(bob, 'invitation')
    const back = await call('POST', '/v1/auth/invitation', { token, password: `password of ${bob}` })
    expect([back.status, await people.roleOf(accountId, bobs.userId)]).toEqual([200, 'member'])
    expect((await store.get('key_late'))!.revokedAt).not.toBeNull()
  })
})

function keyOf(id: string, userId: string): KeyRecord {
  return {
    id,
    accountId: '',
    userId,
    madeBy: userId,
    ancestors: [],
    name: 'ci',
    hint: 'dk_aaaa',
    hash: createHash('sha256').update(id).digest('hex'),
    previousHash: null,
    previousUntil: null,
    rights: ['read:sandboxes'],
    agents: null,
    sandboxes: null,
    createdAt: 0,
    expiresAt: null,
    rotatedAt: null,
    revokedAt: null,
    lastUsedAt: null,
  }
}
