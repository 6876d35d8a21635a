import { expect, test } from 'vitest'
import { testDatabases } from '../../kernel/db/testing.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { peopleLimits } from './limits.ts'
import { operatorKey, startPeople } from './testing.ts'

const ada = 'ada@example.com'
const bob = 'bob@example.com'
const carol = 'carol@example.com'
const operator = { token: operatorKey }
const dayMs = 86_400_000

testDatabases('bounds of people', (open) => {
  test('an account sends few invitations to one address, and so many a day', async () => {
    const { call, join, login, clock } = await startPeople(open)
    let token = (await join(ada)).accessToken!
    const invite = (email: string) => call('POST', '/v1/invitations', { email }, { token })
    const { ofAccount, toAddress } = peopleLimits.invitationsADay
    for (let at = 0; at < toAddress; at++) expect((await invite(bob)).status).toBe(201)
    const refused = await invite(bob)
    expect([refused.status, refused.body.error?.context]).toEqual([
      429,
      { limit: toAddress, windowMs: dayMs, count: toAddress, retryAfterMs: dayMs / 2 },
    ])
    for (let at = toAddress; at < ofAccount; at++) expect((await invite(`user${at}@example.com`)).status).toBe(201)
    expect((await invite(carol)).body.error?.context).toMatchObject({ limit: ofAccount })
    // What was refused counts nowhere: neither for the address nor for the account.
    clock.jump(dayMs / 2)
    token = String((await login(ada)).body['accessToken'])
    expect((await invite(carol)).status).toBe(201)
    expect((await invite(bob)).status).toBe(201)
  })

  test('nor does one address get them from many accounts', async () => {
    const { call, join } = await startPeople(open)
    const answers: number[] = []
    for (let at = 0; answers.length < peopleLimits.invitationsADay.toAddressByAll + 2; at++) {
      const { accessToken } = await join(`user${at}@example.com`)
      for (let times = 0; times < peopleLimits.invitationsADay.toAddress; times++) {
        answers.push((await call('POST', '/v1/invitations', { email: bob }, { token: accessToken! })).status)
      }
    }
    expect(answers.filter((status) => status === 201)).toHaveLength(peopleLimits.invitationsADay.toAddressByAll)
    expect(answers.at(-1)).toBe(429)
  })

  test('of invitations sent at once no more go through', async () => {
    const { call, join, mails } = await startPeople(open)
    const { accessToken } = await join(ada)
    mails.length = 0
    const answers = await Promise.all(
      Array.from({ length: 12 }, () => call('POST', '/v1/invitations', { email: bob }, { token: accessToken! })),
    )
    const { toAddress } = peopleLimits.invitationsADay
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(toAddress)
    expect(mails).toHaveLength(toAddress)
  })

  test('a sweep takes away all that is over', async () => {
    const { people, join, database } = await startPeople(open)
    const { userId, accountId } = await join(ada)
    const { sql } = database.of<{ sessions: Record<string, string | number | null> }>()
    for (let from = 0; from < 1_500; from += 50) {
      const rows = Array.from({ length: 50 }, (_, at) => ({
        id: `ses_x${from + at}`,
        user_id: userId,
        account_id: accountId,
        second_factor: 0,
        client: '',
        address: '',
        created_at: 0,
        used_at: 0,
        expires_at: 1,
        ended_at: null,
      }))
      await database.run(sql.insertInto('sessions').values(rows).compile())
    }
    await people.start()
    people.stop()
    const left = await database.all(sql.selectFrom('sessions').select('expires_at').compile())
    expect(left).toHaveLength(1)
  })

  test('a second factor that no key opens any more is said to be so, and the operator takes it off', async () => {
    const before = await startPeople(open)
    const { accessToken } = await before.join(ada)
    await before.turnOnTotp(accessToken!, `password of ${ada}`)
    const after = await startPeople(open, { secret: 'another secret key of 32 bytes!!', database: before.database })
    const { login, call, mailTo, changes } = after
    expect((await login(ada, 'not the password', { code: '123456' })).body.error?.code).toBe('login_failed')
    expect((await login(ada, undefined, { code: '123456' })).body.error?.code).toBe('second_factor_unreadable')
    const reset = (email: string, token: string) =>
      call('POST', '/v1/users/totp/reset', { email }, { token }).then(({ status, body }) => body.error?.code ?? status)
    expect(await reset(bob, operatorKey)).toBe('member_not_found')
    expect(await reset(ada, operatorKey)).toBe(204)
    expect(await reset(ada, operatorKey)).toBe('totp_state_conflict')
    const { status, body } = await login(ada)
    expect(status).toBe(200)
    expect((await mailTo(ada)).subject).toBe('Your second factor was taken off')
    // In the log of Ada's own account; the operator's request is an entry of theirs.
    expect(changes.filter(({ action }) => action === 'resetSecondFactor')).toMatchObject([
      { accountId: body['accountId'], actorId: 'key_default', target: body['userId'] },
    ])
    expect(await reset(ada, String(body['accessToken']))).toBe('forbidden')
  })

  test('a log-in whose password is changed at that moment opens nothing', async () => {
    let atSession: (() => Promise<void>) | undefined
    const started = await startPeople(open, {
      async beforeWrite() {
        const meanwhile = atSession
        atSession = undefined
        await meanwhile?.()
      },
    })
    const { join, login, call, linkTo } = started
    await join(ada)
    await call('POST', '/v1/auth/password/forgot', { email: ada })
    const token = await linkTo(ada, 'reset')
    await started.mailsKept()
    atSession = async () => {
      const wish = { token, password: 'the next password' }
      expect((await call('POST', '/v1/auth/password/reset', wish)).status).toBe(204)
    }
    expect((await login(ada)).status).toBe(401)
    expect((await login(ada, 'the next password')).status).toBe(200)
  })

  test('a session that begins while the others are ended is ended with them at once', async () => {
    let atNews: (() => Promise<void>) | undefined
    const started = await startPeople(open, {
      async beforeWrite() {
        const meanwhile = atNews
        atNews = undefined
        await meanwhile?.()
      },
    })
    const { join, login, call } = started
    const { accessToken } = await join(ada)
    await login(ada)
    let late = ''
    await started.mailsKept()
    atNews = async () => {
      late = String((await login(ada)).body['accessToken'])
      expect((await call('GET', '/v1/users/me', undefined, { token: late })).status).toBe(200)
    }
    expect((await call('DELETE', '/v1/sessions', undefined, { token: accessToken! })).status).toBe(204)
    expect(late).not.toBe('')
    expect((await call('GET', '/v1/users/me', undefined, { token: late })).status).toBe(401)
    expect((await call('GET', '/v1/users/me', undefined, { token: accessToken! })).status).toBe(200)
  })

  test('pages change nothing while the audit log can not be written', async () => {
    let away = false
    const started = await startPeople(open, {
      async watchRequests(c, next) {
        if (away && c.req.method === 'POST') throw new DeltaError('audit_unavailable', 'away')
        return next()
      },
    })
    const { api, join, call, linkTo, login } = started
    await join(ada)
    await call('POST', '/v1/auth/password/forgot', { email: ada })
    const t = await linkTo(ada, 'reset')
    away = true
    const send = () =>
      api.request('http://127.0.0.1/auth/reset', {
        method: 'POST',
        body: new URLSearchParams({ t, password: 'a wholly new one' }),
      })
    expect((await send()).status).toBe(503)
    away = false
    expect((await login(ada)).status).toBe(200)
    expect((await send()).status).toBe(200)
  })

  test('nobody comes in, or takes a new password, while their account’s own log can not be written', async () => {
    let away = ''
    const { join, login, call, linkTo } = await startPeople(open, {
      mustRecord(accountId) {
        if (accountId === away) throw new DeltaError('audit_unavailable', 'away')
      },
    })
    const { accountId } = await join(ada)
    await join(bob)
    await call('POST', '/v1/auth/password/forgot', { email: ada })
    const wish = { token: await linkTo(ada, 'reset'), password: 'the next password' }
    away = accountId
    expect((await login(ada)).status).toBe(503)
    expect((await call('POST', '/v1/auth/password/reset', wish)).status).toBe(503)
    expect((await login(bob)).status).toBe(200)
    away = ''
    expect((await login(ada)).status).toBe(200)
    expect((await call('POST', '/v1/auth/password/reset', wish)).status).toBe(204)
  })

  test('a link by which the operator is somebody else names whom', async () => {
    const { call, join, told } = await startPeople(open)
    const { userId } = await join(ada)
    await call('POST', '/v1/users/links', { email: ada }, operator)
    expect(told.at(-1)).toEqual({ made: userId, told: { purpose: 'signin' } })
  })
})
