import { describe, expect, test } from 'vitest'
import { testDatabases } from '../../kernel/db/testing.ts'
import { peopleLimits } from './limits.ts'
import { operatorKey, publicUrl, startPeople, tokenOf } from './testing.ts'

const ada = 'ada@example.com'
const bob = 'bob@example.com'
const operator = { token: operatorKey }

testDatabases('people', (open) => {
  describe('registration', () => {
    test('a link confirms the address and chooses the password; then one logs in', async () => {
      const { call, linkTo, login } = await startPeople(open)
      expect((await call('POST', '/v1/auth/register', { email: ada, name: 'Ada' })).body).toEqual({ status: 'sent' })
      expect((await login(ada)).status).toBe(401)
      const verified = await call('POST', '/v1/auth/verify', {
        token: await linkTo(ada, 'verify'),
        password: `password of ${ada}`,
      })
      expect(verified.status).toBe(200)
      const { status, body } = await login(ada)
      expect(status).toBe(200)
      const me = await call('GET', '/v1/users/me', undefined, { token: String(body['accessToken']) })
      expect(me.body).toMatchObject({
        kind: 'user',
        role: 'owner',
        user: { email: ada, name: 'Ada', emailVerifiedAt: '2026-01-15T12:00:00.000Z', totp: false },
        accounts: [{ name: 'ada', role: 'owner' }],
      })
    })

    test('known and unknown addresses are answered alike, at registration and when a password was forgotten', async () => {
      const { call, join, mailTo, mails } = await startPeople(open)
      await join(ada)
      for (const path of ['/v1/auth/register', '/v1/auth/password/forgot']) {
        const known = await call('POST', path, { email: ada })
        const unknown = await call('POST', path, { email: bob })
        expect([known.status, known.text]).toEqual([unknown.status, unknown.text])
        const names = (headers: Headers) => [...headers.keys()].toSorted()
        expect(names(known.headers)).toEqual(names(unknown.headers))
      }
      expect((await mailTo(ada, /registered already/)).text).not.toContain('?t=')
      await mailTo(ada, /new password/)
      await mailTo(bob, /Confirm/)
      expect(mails.filter(({ to }) => to === bob).map(({ subject }) => subject)).toEqual([
        'Confirm your e-mail address',
      ])
    })

    test.each([
      ['used', async () => {}],
      [
        'over',
        async ({ clock }: Awaited<ReturnType<typeof startPeople>>) => clock.jump(peopleLimits.linkMs.verify + 1),
      ],
    ])('a link that is %s does nothing', async (how, before) => {
      const started = await startPeople(open)
      const { call, linkTo } = started
      await call('POST', '/v1/auth/register', { email: ada })
      const wish = { token: await linkTo(ada, 'verify'), password: 'a good password' }
      if (how === 'used') expect((await call('POST', '/v1/auth/verify', wish)).status).toBe(200)
      await before(started)
      const again = await call('POST', '/v1/auth/verify', wish)
      expect([again.status, again.body.error?.code]).toEqual([410, 'link_invalid'])
    })

    test('of two who use a link at once one has it', async () => {
      const { call, linkTo } = await startPeople(open)
      await call('POST', '/v1/auth/register', { email: ada })
      const wish = { token: await linkTo(ada, 'verify'), password: 'a good password' }
      const both = await Promise.all([call('POST', '/v1/auth/verify', wish), call('POST', '/v1/auth/verify', wish)])
      expect(both.map(({ status }) => status).toSorted()).toEqual([200, 410])
    })

    test('a link is good for what it was made for alone', async () => {
      const { call, join, linkTo } = await startPeople(open)
      await join(ada)
      await call('POST', '/v1/auth/password/forgot', { email: ada })
      const token = await linkTo(ada, 'reset')
      const password = 'another good password'
      for (const [path, body] of [
        ['/v1/auth/verify', { token, password }],
        ['/v1/auth/owner', { token, password, email: bob }],
        ['/v1/auth/link', { token }],
        ['/v1/auth/invitation', { token, password }],
      ] as const) {
        expect([path, (await call('POST', path, body)).status]).toEqual([path, 410])
      }
      expect((await call('POST', '/v1/auth/password/reset', { token, password })).status).toBe(204)
    })

    test('where it is closed nobody registers, known or not', async () => {
      const { call } = await startPeople(open, { registration: 'invited' })
      expect((await call('POST', '/v1/auth/register', { email: ada })).body.error?.code).toBe('registration_closed')
    })

    test('the link of the first start makes one owner of the first account', async () => {
      const { call, people, login } = await startPeople(open)
      const older = await people.firstLink()
      const link = await people.firstLink()
      expect(link!.url).toMatch(new RegExp(`^${publicUrl}/auth/owner\\?t=`))
      const wish = { email: ada, password: 'a good password' }
      expect((await call('POST', '/v1/auth/owner', { ...wish, token: tokenOf(older!.url) })).status).toBe(410)
      const made = await call('POST', '/v1/auth/owner', { ...wish, token: tokenOf(link!.url) })
      expect(made.body).toMatchObject({ accountId: 'acc_default' })
      expect((await call('POST', '/v1/auth/owner', { ...wish, email: bob, token: tokenOf(link!.url) })).status).toBe(
        410,
      )
      expect(await people.firstLink()).toBeUndefined()
      expect((await login(ada, 'a good password')).status).toBe(200)
    })
  })

  describe('log-in', () => {
    test('known and unknown users are refused alike, after the same work', async () => {
      const { join, login, derived } = await startPeople(open)
      await join(ada)
      const before = derived()
      const wrong = await login(ada, 'not the password')
      expect(derived() - before).toBe(1)
      const unknown = await login(bob, 'not the password')
      expect(derived() - before).toBe(2)
      const words = ({ status, body: { error } }: typeof wrong) => ({ status, error: { ...error, requestId: '' } })
      expect(words(wrong)).toEqual(words(unknown))
      expect(wrong.body.error?.code).toBe('login_failed')
    })

    test('the case of an address and the way a password is typed make no difference', async () => {
      const { join, login } = await startPeople(open)
      await join('Ada@Example.COM', 'caf\u00e9 ｏｋ password')
      expect((await login('aDA@example.com ', 'cafe\u0301 ok password')).status).toBe(200)
    })

    test('after some wrong passwords each next try waits, longer each time; others do not', async () => {
      const { join, login, clock, derived } = await startPeople(open)
      await join(ada)
      await join(bob)
      for (let i = 0; i < 5; i++) expect((await login(ada, 'wrong password')).status).toBe(401)
      const before = derived()
      const refused = await login(ada)
      expect(refused.status).toBe(429)
      expect(refused.headers.get('retry-after')).toBe('1')
      expect(refused.body.error?.context).toEqual({ limit: 5, windowMs: 900_000, count: 5, retryAfterMs: 1_000 })
      expect(derived()).toBe(before)
      expect((await login(bob)).status).toBe(200)
      await clock.advance(1_000)
      expect((await login(ada, 'wrong password')).status).toBe(401)
      expect((await login(ada)).headers.get('retry-after')).toBe('2')
      await clock.advance(2_000)
      expect((await login(ada)).status).toBe(200)
      expect((await login(ada, 'wrong password')).status).toBe(401)
      expect((await login(ada)).status).toBe(200)
    })

    test('somebody unknown is slowed as somebody known is', async () => {
      const { login } = await startPeople(open)
      for (let i = 0; i < 5; i++) await login(bob, 'wrong password')
      expect((await login(bob, 'wrong password')).status).toBe(429)
    })

    test('guesses sent all at once get no further than those sent one by one', async () => {
      const { join, login, derived } = await startPeople(open)
      await join(ada)
      const before = derived()
      const answers = await Promise.all(Array.from({ length: 50 }, (_, i) => login(ada, `guess number ${i}`)))
      expect(answers.filter(({ status }) => status === 401).length).toBeLessThanOrEqual(6)
      expect(answers.every(({ status }) => status === 401 || status === 429)).toBe(true)
      expect(derived() - before).toBeLessThanOrEqual(6)
    })

    test('one address that tries many users is slowed too', async () => {
      const { login } = await startPeople(open)
      for (let i = 0; i < 30; i++) expect((await login(`user${i}@example.com`, 'wrong password')).status).toBe(401)
      expect((await login('another@example.com', 'wrong password')).status).toBe(429)
    })

    test('200 at once are hashed two at a time, and other requests are answered meanwhile', async () => {
      let [running, most] = [0, 0]
      let open200 = () => {}
      const held = new Promise<void>((resolve) => (open200 = resolve))
      let hold = false
      const { join, login, call, people } = await startPeople(open, {
        async derive(password, salt) {
          most = Math.max(most, ++running)
          if (hold) await held
          running -= 1
          return Buffer.from(await crypto.subtle.digest('SHA-256', Buffer.concat([salt, password])))
        },
      })
      const { accessToken } = await join(ada)
      await join(bob)
      hold = true
      const logins = Array.from({ length: 200 }, (_, at) => login(at % 2 === 0 ? ada : bob))
      while (people.turns.waiting < 198) await new Promise((resolve) => setTimeout(resolve, 5))
      expect((await call('GET', '/v1/users/me', undefined, { token: accessToken! })).status).toBe(200)
      expect([running, people.turns.waiting]).toEqual([2, 198])
      open200()
      expect((await Promise.all(logins)).map(({ status }) => status)).toEqual(Array.from({ length: 200 }, () => 200))
      expect(most).toBe(2)
    })

    test('whoever comes when too many wait is refused at once, and told when to come again', async () => {
      let release = () => {}
      const held = new Promise<void>((resolve) => (release = resolve))
      const { login, people } = await startPeople(open, {
        async derive() {
          await held
          return Buffer.alloc(32)
        },
      })
      const logins = Array.from({ length: 258 }, (_, i) => login(`user${i}@example.com`, 'some password'))
      while (people.turns.waiting < 256) await new Promise((resolve) => setTimeout(resolve, 5))
      const { status, headers, body } = await login(bob, 'some password')
      expect([status, body.error?.code, headers.get('retry-after')]).toEqual([429, 'too_many_requests', '1'])
      release()
      await Promise.all(logins)
    })
  })

  describe('sessions', () => {
    test('each refresh token is good once, and one that comes again ends the session for both', async () => {
      const { join, call, changes } = await startPeople(open)
      const first = await join(ada)
      const refresh = (refreshToken: string | null) => call('POST', '/v1/auth/refresh', { refreshToken })
      const second = (await refresh(first.refreshToken)).body
      const third = (await refresh(String(second['refreshToken']))).body
      const me = () => call('GET', '/v1/users/me', undefined, { token: String(third['accessToken']) })
      expect((await me()).status).toBe(200)
      expect((await refresh(first.refreshToken)).body.error?.code).toBe('session_ended')
      expect((await refresh(String(third['refreshToken']))).status).toBe(401)
      expect((await me()).status).toBe(401)
      expect(changes.map(({ action }) => action)).toContain('session.refreshTokenReused')
    })

    test('of two refreshes at once at most one goes on', async () => {
      const { join, call } = await startPeople(open)
      const { refreshToken } = await join(ada)
      const both = await Promise.all([1, 2].map(() => call('POST', '/v1/auth/refresh', { refreshToken })))
      expect(both.filter(({ status }) => status === 200).length).toBeLessThanOrEqual(1)
      const going = both.find(({ status }) => status === 200)
      if (!going) return
      const token = String(going.body['accessToken'])
      expect((await call('GET', '/v1/users/me', undefined, { token })).status).toBe(401)
    })

    test('a session that nobody refreshes is over, and none lives longer than it may', async () => {
      const { join, call, clock } = await startPeople(open)
      let { refreshToken } = await join(ada)
      for (let days = 0; days < 88; days += 8) {
        clock.jump(8 * 86_400_000)
        const { status, body } = await call('POST', '/v1/auth/refresh', { refreshToken })
        expect(status).toBe(200)
        refreshToken = String(body['refreshToken'])
      }
      clock.jump(3 * 86_400_000)
      expect((await call('POST', '/v1/auth/refresh', { refreshToken })).status).toBe(401)
    })

    test('they are listed, and one that is ended is refused at once, by whatever token', async () => {
      const { join, login, call } = await startPeople(open)
      const { accessToken } = await join(ada)
      const other = (await login(ada)).body
      const token = accessToken!
      const listed = (await call('GET', '/v1/sessions', undefined, { token })).body as unknown as {
        data: { id: string; current: boolean }[]
      }
      expect(listed.data.map(({ current }) => current).toSorted()).toEqual([false, true])
      const id = listed.data.find(({ current }) => !current)!.id
      const otherToken = { token: String(other['accessToken']) }
      expect((await call('GET', '/v1/users/me', undefined, otherToken)).status).toBe(200)
      expect((await call('DELETE', `/v1/sessions/${id}`, undefined, { token })).status).toBe(204)
      expect((await call('GET', '/v1/users/me', undefined, otherToken)).status).toBe(401)
      expect((await call('POST', '/v1/auth/refresh', { refreshToken: other['refreshToken'] })).status).toBe(401)
      expect((await call('DELETE', `/v1/sessions/${id}`, undefined, { token })).status).toBe(404)
    })

    test('nobody ends another’s, and another’s looks like none', async () => {
      const { join, call } = await startPeople(open)
      const first = await join(ada)
      const second = await join(bob)
      const end = (id: string) => call('DELETE', `/v1/sessions/${id}`, undefined, { token: second.accessToken! })
      const [foreign, none] = [await end(first.sessionId), await end('ses_none')]
      const words = ({ status, body: { error } }: typeof none) => ({ status, error: { ...error, requestId: '' } })
      expect(words(foreign)).toEqual(words(none))
      expect((await call('GET', '/v1/users/me', undefined, { token: first.accessToken! })).status).toBe(200)
    })

    test('logging out ends it by either token', async () => {
      const { join, login, call } = await startPeople(open)
      const first = await join(ada)
      expect((await call('POST', '/v1/auth/logout', { refreshToken: first.refreshToken })).status).toBe(204)
      expect((await call('GET', '/v1/users/me', undefined, { token: first.accessToken! })).status).toBe(401)
      const token = String((await login(ada)).body['accessToken'])
      expect((await call('POST', '/v1/auth/logout', {}, { token })).status).toBe(204)
      expect((await call('GET', '/v1/users/me', undefined, { token })).status).toBe(401)
    })

    test('logging out without a session is refused, since nothing ends', async () => {
      const { call } = await startPeople(open)
      const none = await call('POST', '/v1/auth/logout', {})
      expect([none.status, none.body.error?.code]).toEqual([401, 'unauthorized'])
      const key = await call('POST', '/v1/auth/logout', {}, operator)
      expect([key.status, key.body.error?.code]).toEqual([403, 'session_required'])
      expect((await call('GET', '/v1/users/me', undefined, operator)).status).toBe(200)
      // What is over already may be ended again, and a browser loses its cookies in any case.
      expect((await call('POST', '/v1/auth/logout', { refreshToken: 'drt_none' })).status).toBe(204)
      expect(none.headers.getSetCookie()).toHaveLength(2)
    })
  })

  describe('a forgotten password', () => {
    test('is chosen anew by a link, which ends every session and is good once', async () => {
      const { join, login, call, linkTo } = await startPeople(open)
      const { accessToken } = await join(ada)
      await call('POST', '/v1/auth/password/forgot', { email: ada })
      const wish = { token: await linkTo(ada, 'reset'), password: 'the next password' }
      expect((await call('POST', '/v1/auth/password/reset', wish)).status).toBe(204)
      expect((await call('GET', '/v1/users/me', undefined, { token: accessToken! })).status).toBe(401)
      expect((await login(ada)).status).toBe(401)
      expect((await login(ada, 'the next password')).status).toBe(200)
      expect((await call('POST', '/v1/auth/password/reset', { ...wish, password: 'one more password' })).status).toBe(
        410,
      )
    })

    test('few links are sent to one address', async () => {
      const { call } = await startPeople(open)
      for (let i = 0; i < 3; i++)
        expect((await call('POST', '/v1/auth/password/forgot', { email: bob })).status).toBe(202)
      const { status, body } = await call('POST', '/v1/auth/password/forgot', { email: bob })
      expect(status).toBe(429)
      expect(body.error).toMatchObject({
        remediation: expect.stringMatching(/^Wait as long as the Retry-After header/),
      })
    })

    test('changing it needs the present one, and ends the other sessions', async () => {
      const { join, login, call } = await startPeople(open)
      const token = (await join(ada)).accessToken!
      const other = String((await login(ada)).body['accessToken'])
      const change = (password: string) =>
        call('POST', '/v1/auth/password/change', { password, newPassword: 'the next password' }, { token })
      expect((await change('not the password')).status).toBe(401)
      expect((await change(`password of ${ada}`)).status).toBe(204)
      expect((await call('GET', '/v1/users/me', undefined, { token })).status).toBe(200)
      expect((await call('GET', '/v1/users/me', undefined, { token: other })).status).toBe(401)
    })
  })

  describe('the second factor', () => {
    test('is asked for once it is on; each code is good once', async () => {
      const { join, login, turnOnTotp, clock, call } = await startPeople(open)
      const { code } = await turnOnTotp((await join(ada)).accessToken!, `password of ${ada}`)
      expect((await login(ada)).body.error?.code).toBe('second_factor_required')
      expect((await login(ada, 'not the password')).body.error?.code).toBe('login_failed')
      // The one that turned it on is used.
      expect((await login(ada, undefined, { code: code() })).body.error?.code).toBe('code_invalid')
      await clock.advance(30_000)
      const [first, second] = await Promise.all([1, 2].map(() => login(ada, undefined, { code: code() })))
      expect([first!.status, second!.status].toSorted()).toEqual([200, 401])
      expect((await login(ada, undefined, { code: code() })).body.error?.code).toBe('code_invalid')
      const token = String((first!.status === 200 ? first! : second!).body['accessToken'])
      const sessions = (await call('GET', '/v1/sessions', undefined, { token })).body as unknown as {
        data: { current: boolean; secondFactor: boolean }[]
      }
      expect(sessions.data.find(({ current }) => current)!.secondFactor).toBe(true)
    })

    test('a neighbour’s code is taken for clocks that differ, no other', async () => {
      const { join, login, turnOnTotp, clock } = await startPeople(open)
      const { code } = await turnOnTotp((await join(ada)).accessToken!, `password of ${ada}`)
      await clock.advance(300_000)
      expect((await login(ada, undefined, { code: code(-2) })).status).toBe(401)
      expect((await login(ada, undefined, { code: code(2) })).status).toBe(401)
      expect((await login(ada, undefined, { code: code(-1) })).status).toBe(200)
      expect((await login(ada, undefined, { code: code(1) })).status).toBe(200)
      // Later than the last is asked for: what was shown before cannot be shown again.
      expect((await login(ada, undefined, { code: code() })).status).toBe(401)
    })

    test('each recovery code is good once', async () => {
      const { join, login, turnOnTotp, call } = await startPeople(open)
      const { recoveryCodes } = await turnOnTotp((await join(ada)).accessToken!, `password of ${ada}`)
      expect(new Set(recoveryCodes).size).toBe(10)
      const typed = recoveryCodes[3]!.toUpperCase().replace('-', ' ')
      const { status, body } = await login(ada, undefined, { code: typed })
      expect(status).toBe(200)
      expect((await login(ada, undefined, { code: recoveryCodes[3] })).status).toBe(401)
      const me = await call('GET', '/v1/users/me', undefined, { token: String(body['accessToken']) })
      expect(me.body).toMatchObject({ user: { totp: true, recoveryCodesLeft: 9 } })
    })

    test('codes that are guessed are slowed as passwords are', async () => {
      const { join, login, turnOnTotp } = await startPeople(open)
      await turnOnTotp((await join(ada)).accessToken!, `password of ${ada}`)
      for (let i = 0; i < 5; i++) expect((await login(ada, undefined, { code: `00000${i}` })).status).toBe(401)
      expect((await login(ada, undefined, { code: '000009' })).status).toBe(429)
    })

    test('turning it on, off, or asking for new codes needs the password', async () => {
      const { join, login, turnOnTotp, call } = await startPeople(open)
      const token = (await join(ada)).accessToken!
      const wrong = { password: 'not the password' }
      expect((await call('POST', '/v1/auth/totp', wrong, { token })).status).toBe(401)
      const { recoveryCodes } = await turnOnTotp(token, `password of ${ada}`)
      expect((await call('DELETE', '/v1/auth/totp', wrong, { token })).status).toBe(401)
      const right = { password: `password of ${ada}` }
      expect((await call('POST', '/v1/auth/totp', right, { token })).status).toBe(409)
      const fresh = await call('POST', '/v1/auth/totp/recovery-codes', right, { token })
      expect(fresh.body['recoveryCodes']).toHaveLength(10)
      expect((await login(ada, undefined, { code: recoveryCodes[0] })).status).toBe(401)
      expect((await call('DELETE', '/v1/auth/totp', right, { token })).status).toBe(204)
      expect((await login(ada)).status).toBe(200)
    })

    test('a new password by mail does not take it off', async () => {
      const { join, login, turnOnTotp, call, linkTo } = await startPeople(open)
      await turnOnTotp((await join(ada)).accessToken!, `password of ${ada}`)
      await call('POST', '/v1/auth/password/forgot', { email: ada })
      await call('POST', '/v1/auth/password/reset', {
        token: await linkTo(ada, 'reset'),
        password: 'the next password',
      })
      expect((await login(ada, 'the next password')).body.error?.code).toBe('second_factor_required')
    })
  })

  describe('accounts', () => {
    async function withMembers(roles: Record<string, 'owner' | 'admin' | 'member' | 'viewer'>) {
      const started = await startPeople(open)
      const { call, people, linkTo } = started
      const link = await people.firstLink()
      const owner = await call('POST', '/v1/auth/owner', {
        token: tokenOf(link!.url),
        email: 'owner@example.com',
        password: 'owner’s password',
      })
      const tokens: Record<string, string> = { owner: String(owner.body['accessToken']) }
      const ids: Record<string, string> = { owner: String(owner.body['userId']) }
      for (const [name, role] of Object.entries(roles)) {
        const email = `${name}@example.com`
        expect((await call('POST', '/v1/invitations', { email, role }, { token: tokens['owner'] })).status).toBe(201)
        const joined = await call('POST', '/v1/auth/invitation', {
          token: await linkTo(email, 'invitation'),
          password: `password of ${email}`,
        })
        expect(joined.status).toBe(200)
        tokens[name] = String(joined.body['accessToken'])
        ids[name] = String(joined.body['userId'])
      }
      const setRole = (by: string, whom: string, role: string) =>
        call('PATCH', `/v1/account/members/${ids[whom]}`, { role }, { token: tokens[by] })
      const remove = (by: string, whom: string) =>
        call('DELETE', `/v1/account/members/${ids[whom]}`, undefined, { token: tokens[by] })
      const leave = (who: string) => call('POST', '/v1/account/leave', undefined, { token: tokens[who] })
      const me = (who: string) => call('GET', '/v1/users/me', undefined, { token: tokens[who] })
      return { ...started, tokens, ids, setRole, remove, leave, me }
    }

    test('whoever is invited joins with the role they were invited for', async () => {
      const { me, call, tokens } = await withMembers({ viewer: 'viewer' })
      expect((await me('viewer')).body).toMatchObject({ accountId: 'acc_default', role: 'viewer' })
      const members = (await call('GET', '/v1/account/members', undefined, { token: tokens['viewer'] })).body
      expect(members).toMatchObject({
        data: expect.arrayContaining([
          expect.objectContaining({ email: 'owner@example.com', role: 'owner' }),
          expect.objectContaining({ email: 'viewer@example.com', role: 'viewer' }),
        ]),
      })
      expect((await call('GET', '/v1/invitations', undefined, { token: tokens['owner'] })).body).toMatchObject({
        data: [],
      })
      expect((await call('POST', '/v1/invitations', { email: bob }, { token: tokens['viewer'] })).status).toBe(403)
    })

    test('an invitation is answered alike for known and unknown addresses; who is known proves it', async () => {
      const { call, tokens, join, linkTo, login } = await withMembers({})
      await join(ada)
      const invite = (email: string) =>
        call('POST', '/v1/invitations', { email, role: 'admin' }, { token: tokens['owner'] })
      const [known, unknown] = [await invite(ada), await invite(bob)]
      const words = ({ status, body }: typeof known) => ({ status, body: { ...body, id: '', email: '' } })
      expect(words(known)).toEqual(words(unknown))
      const token = await linkTo(ada, 'invitation')
      expect((await call('POST', '/v1/auth/invitation', { token, password: 'not the password' })).status).toBe(401)
      const joined = await call('POST', '/v1/auth/invitation', { token, password: `password of ${ada}` })
      expect(joined.body).toMatchObject({ accountId: 'acc_default' })
      expect((await call('POST', '/v1/auth/invitation', { token, password: `password of ${ada}` })).status).toBe(410)
      const { body } = await login(ada)
      const me = await call('GET', '/v1/users/me', undefined, { token: String(body['accessToken']) })
      expect(me.body['accounts']).toHaveLength(2)
    })

    test('one that was withdrawn, replaced or is for another address opens nothing', async () => {
      const { call, tokens, linkTo, mails } = await withMembers({})
      const invite = async (email: string) => {
        const made = await call('POST', '/v1/invitations', { email }, { token: tokens['owner'] })
        return { id: String(made.body['id']), token: await linkTo(email, 'invitation') }
      }
      const accept = (token: string) => call('POST', '/v1/auth/invitation', { token, password: 'a good password' })
      const first = await invite(ada)
      mails.length = 0
      const second = await invite(ada)
      expect((await accept(first.token)).status).toBe(410)
      expect((await call('DELETE', `/v1/invitations/${second.id}`, undefined, { token: tokens['owner'] })).status).toBe(
        204,
      )
      expect((await accept(second.token)).status).toBe(410)
      expect((await call('DELETE', `/v1/invitations/${second.id}`, undefined, { token: tokens['owner'] })).status).toBe(
        404,
      )
      const third = await invite(bob)
      const joined = await accept(third.token)
      const me = await call('GET', '/v1/users/me', undefined, { token: String(joined.body['accessToken']) })
      // Whatever the link is used with, it is for the address it was sent to.
      expect(me.body).toMatchObject({ user: { email: bob }, role: 'member' })
    })

    test('only owners make and unmake owners', async () => {
      const { setRole, remove, call, tokens } = await withMembers({ admin: 'admin', member: 'member' })
      expect((await setRole('admin', 'member', 'owner')).body.error?.code).toBe('role_not_allowed')
      // Also of the last owner: to be told to make another owner first helps nobody who may not.
      expect((await setRole('admin', 'owner', 'member')).body.error?.code).toBe('role_not_allowed')
      expect((await setRole('owner', 'member', 'owner')).status).toBe(204)
      expect((await setRole('admin', 'owner', 'member')).body.error?.code).toBe('role_not_allowed')
      expect((await remove('admin', 'owner')).body.error?.code).toBe('role_not_allowed')
      const invite = await call('POST', '/v1/invitations', { email: bob, role: 'owner' }, { token: tokens['admin'] })
      expect(invite.body.error?.code).toBe('role_not_allowed')
      expect((await setRole('member', 'owner', 'viewer')).status).toBe(204)
      expect((await setRole('owner', 'member', 'viewer')).status).toBe(403)
    })

    test('the last owner neither leaves nor becomes anything else', async () => {
      const { setRole, leave, me } = await withMembers({ admin: 'admin' })
      expect((await leave('owner')).body.error?.code).toBe('last_owner')
      expect((await setRole('owner', 'owner', 'admin')).body.error?.code).toBe('last_owner')
      expect((await setRole('owner', 'admin', 'owner')).status).toBe(204)
      expect((await leave('owner')).status).toBe(204)
      expect((await me('admin')).body).toMatchObject({ role: 'owner' })
      expect((await leave('admin')).body.error?.code).toBe('last_owner')
    })

    test('of two owners who leave at once one stays', async () => {
      const { leave, call } = await withMembers({ second: 'owner' })
      await Promise.all([leave('owner'), leave('second')])
      const members = (await call('GET', '/v1/account/members', undefined, operator)).body as unknown as {
        data: { role: string }[]
      }
      expect(members.data.map(({ role }) => role)).toEqual(['owner'])
    })

    test('a role that is taken holds with the next request', async () => {
      const { setRole, me, call, tokens } = await withMembers({ admin: 'admin' })
      const invite = () => call('POST', '/v1/invitations', { email: bob }, { token: tokens['admin'] })
      expect((await invite()).status).toBe(201)
      expect((await setRole('owner', 'admin', 'viewer')).status).toBe(204)
      expect((await me('admin')).body).toMatchObject({ role: 'viewer' })
      expect((await invite()).body.error?.code).toBe('forbidden')
    })

    test('whoever is removed is out at once', async () => {
      const { remove, me } = await withMembers({ member: 'member' })
      expect((await me('member')).status).toBe(200)
      expect((await remove('owner', 'member')).status).toBe(204)
      expect((await me('member')).status).toBe(401)
      expect((await remove('owner', 'member')).body.error?.code).toBe('member_not_found')
    })

    test('anybody may leave, and speaks for their other accounts then', async () => {
      const { join, call, linkTo, tokens } = await withMembers({})
      const own = await join(ada)
      await call('POST', '/v1/invitations', { email: ada, role: 'viewer' }, { token: tokens['owner'] })
      const joined = await call('POST', '/v1/auth/invitation', {
        token: await linkTo(ada, 'invitation'),
        password: `password of ${ada}`,
      })
      const token = String(joined.body['accessToken'])
      const switched = await call('POST', '/v1/auth/switch', { accountId: own.accountId }, { token })
      expect(switched.body).toMatchObject({ accountId: own.accountId, refreshToken: null })
      const back = await call('POST', '/v1/auth/switch', { accountId: 'acc_default' }, { token })
      const there = String(back.body['accessToken'])
      expect((await call('GET', '/v1/users/me', undefined, { token: there })).body).toMatchObject({ role: 'viewer' })
      expect((await call('POST', '/v1/account/leave', undefined, { token: there })).status).toBe(204)
      expect((await call('GET', '/v1/users/me', undefined, { token: there })).status).toBe(401)
      const refreshed = await call('POST', '/v1/auth/refresh', { refreshToken: joined.body['refreshToken'] })
      expect(refreshed.body).toMatchObject({ accountId: own.accountId })
      const foreign = await call(
        'POST',
        '/v1/auth/switch',
        { accountId: 'acc_default' },
        { token: String(refreshed.body['accessToken']) },
      )
      expect(foreign.body.error?.code).toBe('account_not_found')
    })

    test('links and kept mails are the operator’s alone', async () => {
      const { call, tokens, join } = await withMembers({ admin: 'admin' })
      const other = await join(ada)
      const wish = { email: 'owner@example.com' }
      for (const token of [tokens['admin'], other.accessToken!]) {
        expect((await call('POST', '/v1/users/links', wish, { token })).status).toBe(403)
        expect((await call('GET', '/v1/mail', undefined, { token })).status).toBe(403)
      }
      for (const token of [tokens['owner'], operatorKey]) {
        const made = await call('POST', '/v1/users/links', wish, { token })
        expect(made.body).toMatchObject({ purpose: 'signin' })
        expect((await call('GET', '/v1/mail', undefined, { token })).status).toBe(200)
      }
      expect((await call('POST', '/v1/users/links', { email: bob }, operator)).body.error?.code).toBe(
        'member_not_found',
      )
    })

    test('a link that the operator hands out is a log-in, once, and asks for the second factor', async () => {
      const { call, join, turnOnTotp, clock } = await startPeople(open)
      const { accessToken } = await join(ada)
      const make = async () =>
        tokenOf(String((await call('POST', '/v1/users/links', { email: ada }, operator)).body['url']))
      const token = await make()
      expect((await call('POST', '/v1/auth/link', { token })).status).toBe(200)
      expect((await call('POST', '/v1/auth/link', { token })).status).toBe(410)
      const { code } = await turnOnTotp(accessToken!, `password of ${ada}`)
      const next = await make()
      expect((await call('POST', '/v1/auth/link', { token: next })).body.error?.code).toBe('second_factor_required')
      await clock.advance(30_000)
      expect((await call('POST', '/v1/auth/link', { token: next, code: code() })).status).toBe(200)
    })

    test('a link is made for whatever somebody is waiting for', async () => {
      const { call, linkTo } = await startPeople(open)
      await call('POST', '/v1/auth/register', { email: ada, name: 'Ada' })
      await linkTo(ada, 'verify')
      const made = await call('POST', '/v1/users/links', { email: ada }, operator)
      expect(made.body).toMatchObject({ purpose: 'verify' })
      const joined = await call('POST', '/v1/auth/verify', {
        token: tokenOf(String(made.body['url'])),
        password: 'a good password',
      })
      expect(joined.status).toBe(200)
      await call('POST', '/v1/invitations', { email: bob }, operator)
      expect((await call('POST', '/v1/users/links', { email: bob }, operator)).body).toMatchObject({
        purpose: 'invitation',
      })
    })
  })

  test('what is over is forgotten', async () => {
    const { join, call, clock, people, database, linkTo } = await startPeople(open)
    await join(ada)
    await call('POST', '/v1/auth/register', { email: bob })
    await linkTo(bob, 'verify')
    clock.jump(200 * 86_400_000)
    await people.start()
    people.stop()
    // The first pass takes the tokens, the next the sessions of which none is left.
    await people.start()
    people.stop()
    const count = async (table: string) =>
      (
        await database
          .of<Record<string, object>>()
          .all(database.of<Record<string, { id: string }>>().sql.selectFrom(table).selectAll().compile())
      ).length
    for (const table of ['login_links', 'invitations', 'refresh_tokens', 'sessions']) {
      expect([table, await count(table)]).toEqual([table, 0])
    }
  })
})
