import { expect, test } from 'vitest'
import { manualClock } from '../kernel/clock.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { DeltaError } from '../kernel/errors.ts'
import { type ApiContext, createApi } from '../kernel/http/api.ts'
import { answerError } from '../kernel/http/errors.ts'
import { silentLogger } from '../kernel/log.ts'
import { openAccessTokens } from './access-tokens.ts'
import { accessMigrations } from './migrations.ts'
import { accessFeature } from './routes.ts'

const minute = 60_000

testDatabases('the routes of access tokens', (open) => {
  async function start() {
    const clock = manualClock(1_789_000_000_000)
    const callers: { expiresAt?: number } = {}
    const tokens = await openAccessTokens({
      database: await open(accessMigrations),
      clock,
      log: silentLogger,
      callers: { isRevoked: () => false, onRevoked: () => {}, steps: () => [] },
    })
    const api = createApi()
    api.use('*', async (c, next) => {
      c.set('requestId', 'req_test')
      c.set('caller', { accountId: c.req.header('x-account') ?? 'acc_a', actorId: 'key_test', ...callers })
      await next()
    })
    const findSandbox = async (sandboxId: string, { accountId }: { accountId: string }) => {
      if (sandboxId !== 'sbx_a' || accountId !== 'acc_a') throw new DeltaError('sandbox_not_found', 'There is none')
    }
    accessFeature({ tokens, findSandbox }).routes?.(api)
    api.onError((error, c) => answerError(error, c as ApiContext, { log: silentLogger }))
    const call = async (method: string, sandboxId: string, body?: object, account = 'acc_a') => {
      const answer = await api.request(`/v1/sandboxes/${sandboxId}/access-tokens`, {
        method,
        headers: { 'content-type': 'application/json', 'x-account': account },
        ...(body && { body: JSON.stringify(body) }),
      })
      return { status: answer.status, text: await answer.text() }
    }
    return { tokens, call, clock, callers }
  }

  test('a token is made for the caller’s own sandbox and revoked with all others', async () => {
    const { tokens, call, clock } = await start()
    const made = await call('POST', 'sbx_a', { scopes: ['port:3000'], ttlMs: 5_000 })
    expect(made.status).toBe(201)
    const { token, scopes, expiresAt } = JSON.parse(made.text) as { token: string; scopes: string[]; expiresAt: string }
    expect(scopes).toEqual(['port:3000'])
    expect(Date.parse(expiresAt)).toBe(clock.now() + 5_000)
    const wish = { sandboxId: 'sbx_a', scope: 'port:3000' } as const
    expect(tokens.verify(token, wish)).toMatchObject({ accountId: 'acc_a' })
    expect(await call('DELETE', 'sbx_a')).toEqual({ status: 204, text: '' })
    expect(tokens.verify(token, wish)).toBeNull()
  })

  test('a token is good no longer than what it was made with', async () => {
    const { tokens, call, clock, callers } = await start()
    const ends = clock.now() + 5 * minute
    callers.expiresAt = ends
    const made = await call('POST', 'sbx_a', { scopes: ['terminal'], ttlMs: 7 * 24 * 60 * minute })
    const { token, expiresAt } = JSON.parse(made.text) as { token: string; expiresAt: string }
    expect(Date.parse(expiresAt)).toBe(ends)
    const wish = { sandboxId: 'sbx_a', scope: 'terminal' } as const
    expect(tokens.verify(token, wish)).not.toBeNull()
    await clock.advance(5 * minute)
    expect(tokens.verify(token, wish)).toBeNull()
  })

  test.each([
    ['sbx_b', 'acc_a'],
    ['sbx_a', 'acc_b'],
  ])('%s for %s looks as if it were not there', async (sandboxId, account) => {
    const { call } = await start()
    expect((await call('POST', sandboxId, { scopes: ['terminal'] }, account)).status).toBe(404)
    expect((await call('DELETE', sandboxId, undefined, account)).status).toBe(404)
  })

  test('a wrong scope is named', async () => {
    const { call } = await start()
    const { status, text } = await call('POST', 'sbx_a', { scopes: ['port:0'] })
    expect([status, text]).toEqual([400, expect.stringContaining('body.scopes')])
  })
})
