import { describe, expect, test } from 'vitest'
import type { Database } from '../../kernel/db/database.ts'
import { rawQuery } from '../../kernel/db/compile.ts'
import { testDatabases } from '../../kernel/db/testing.ts'
import { generateKeyPairSync } from 'node:crypto'
import { signSession } from './session-token.ts'
import { operatorKey, publicUrl, startPeople, tokenOf } from './testing.ts'

const ada = 'ada@example.com'
const password = `password of ${ada}`

testDatabases('what is wrong with people’s requests', (open) => {
  describe('tokens', () => {
    test('a token of a session that is none, of a foreign account, or signed by somebody else opens nothing', async () => {
      const { join, call, secrets, clock } = await startPeople(open)
      const own = await join(ada)
      const other = await join('bob@example.com')
      const claims = {
        userId: own.userId,
        sessionId: own.sessionId,
        accountId: own.accountId,
        secondFactor: false,
        id: 'jti_x',
        issuedAt: clock.now(),
        expiresAt: clock.now() + 60_000,
      }
      const me = async (changes: object, key = secrets.signing.privateKey) =>
        (await call('GET', '/v1/users/me', undefined, { token: signSession({ ...claims, ...changes }, key) })).status
      expect(await me({})).toBe(200)
      expect(await me({}, generateKeyPairSync('ed25519').privateKey)).toBe(401)
      expect(await me({ sessionId: 'ses_none' })).toBe(401)
      expect(await me({ accountId: other.accountId })).toBe(401)
      expect(await me({ accountId: 'acc_default' })).toBe(401)
      expect(await me({ expiresAt: clock.now() - 1_000 })).toBe(401)
    })

    test('an expired one is refused, also where it was known', async () => {
      const { join, call, clock } = await startPeople(open)
      const token = (await join(ada)).accessToken!
      expect((await call('GET', '/v1/users/me', undefined, { token })).status).toBe(200)
      clock.jump(10 * 60_000)
      expect((await call('GET', '/v1/users/me', undefined, { token })).status).toBe(401)
    })

    test('a refresh token, a link and a password are no tokens', async () => {
      const { join, call } = await startPeople(open)
      const { refreshToken } = await join(ada)
      for (const token of [refreshToken!, password, `eyJ.${refreshToken}`]) {
        expect((await call('GET', '/v1/users/me', undefined, { token })).status).toBe(401)
      }
    })
  })

  test('no field is taken that a request does not have: no role, no account, no confirmation', async () => {
    const { call } = await startPeople(open)
    for (const [path, body] of [
      ['/v1/auth/register', { email: ada, role: 'owner' }],
      ['/v1/auth/register', { email: ada, emailVerified: true }],
      ['/v1/auth/register', { email: ada, email_verified_at: 1 }],
      ['/v1/auth/register', { email: ada, accountId: 'acc_default' }],
      ['/v1/auth/register', { email: ada, id: 'usr_a' }],
      ['/v1/auth/verify', { token: 'x', password, role: 'owner' }],
      ['/v1/auth/verify', { token: 'x', password, accountId: 'acc_default' }],
      ['/v1/auth/verify', { token: 'x', password, email: ada }],
      ['/v1/auth/invitation', { token: 'x', password, role: 'owner' }],
      ['/v1/auth/invitation', { token: 'x', password, email: 'other@example.com' }],
      ['/v1/auth/login', { email: ada, password, secondFactor: true }],
      ['/v1/auth/register', '{"email":"ada@example.com","__proto__":{"role":"owner"}}'],
    ] as [string, object | string][]) {
      expect([path, body, (await call('POST', path, body)).status]).toEqual([path, body, 400])
    }
  })

  test('a password that could not be typed, is too short or too long is not taken, and nothing of it is said again', async () => {
    const { call, linkTo, derived, logged } = await startPeople(open)
    await call('POST', '/v1/auth/register', { email: ada })
    const token = await linkTo(ada, 'verify')
    const before = derived()
    for (const [what, bad] of [
      ['empty', ''],
      ['short', 'short'],
      ['with NUL', 'a password\0with nul'],
      ['of one letter', 'aaaaaaaaaaaa'],
      ['of a megabyte', 'ab'.repeat(500_000)],
      ['a number', 1234567890],
      ['none', null],
    ] as [string, unknown][]) {
      const { status, text } = await call('POST', '/v1/auth/verify', { token, password: bad })
      expect([what, status, derived()]).toEqual([what, 400, before])
      if (typeof bad === 'string' && bad !== '') expect(text + logged.join('')).not.toContain(bad.slice(0, 20))
    }
  })

  test('ten megabytes are not even read', async () => {
    const { call, derived } = await startPeople(open)
    const { status } = await call('POST', '/v1/auth/login', { email: ada, password: 'a'.repeat(10_000_000) })
    expect([status, derived()]).toEqual([413, 0])
  })

  test('what is no address, or two, or headers, has nothing sent to it', async () => {
    const { call, mails } = await startPeople(open)
    for (const email of [
      'ada@example.com\r\nBcc: eve@example.com',
      'ada@example.com\nSubject: hello',
      'ada@example.com, eve@example.com',
      '"ada@example.com" <eve@example.com>',
      'ada@example.com\0',
      'ada',
      '@example.com',
      `${'a'.repeat(300)}@example.com`,
      '',
    ]) {
      for (const path of ['/v1/auth/register', '/v1/auth/password/forgot']) {
        expect([email, (await call('POST', path, { email })).status]).toEqual([email, 400])
      }
      const invited = await call('POST', '/v1/invitations', { email }, { token: operatorKey })
      expect([email, invited.status]).toEqual([email, 400])
    }
    expect(mails).toEqual([])
  })

  test('a name is one line that shows what it is', async () => {
    const { call } = await startPeople(open)
    for (const name of ['two\nlines', 'a\r\nBcc: eve@example.com', 'bidi \u202e text', '', 'x'.repeat(200)]) {
      expect([name, (await call('POST', '/v1/auth/register', { email: ada, name })).status]).toEqual([name, 400])
    }
  })

  test('links are made of the public address alone, whatever the request says it was sent to', async () => {
    const { call, mailTo } = await startPeople(open)
    const headers = {
      'x-forwarded-host': 'evil.example',
      'x-forwarded-proto': 'https',
      forwarded: 'host=evil.example',
      origin: 'https://evil.example',
      referer: 'https://evil.example/',
    }
    await call('POST', '/v1/auth/register', { email: ada }, { headers })
    const { text } = await mailTo(ada)
    expect(text).toContain(`${publicUrl}/auth/verify?t=`)
    expect(text).not.toContain('evil')
  })

  describe('cookies', () => {
    async function withCookies(url?: string) {
      const started = await startPeople(open, url === undefined ? {} : { url })
      await started.join(ada)
      const answer = await started.call(
        'POST',
        '/v1/auth/login',
        { email: ada, password, cookies: true },
        { headers: { 'x-delta-csrf': '1' } },
      )
      expect(answer.body).toMatchObject({ accessToken: null, refreshToken: null })
      const set = answer.headers.getSetCookie()
      const cookie = set.map((one) => one.split(';')[0]).join('; ')
      return { ...started, set, cookie }
    }

    test('no script reads them, no other site’s page has them sent, no sandbox’s page sets them', async () => {
      const { set } = await withCookies()
      expect(set).toHaveLength(2)
      for (const one of set) expect(one).toMatch(/; HttpOnly; SameSite=Strict; Secure$/)
      expect(set[0]).toMatch(/^__Host-delta_session=eyJ[^;]+; Path=\/; Max-Age=600;/)
      expect(set[1]).toMatch(/^__Secure-delta_refresh=drt_[^;]+; Path=\/v1\/auth;/)
      expect(set.join()).not.toContain('Domain')
      const { set: plain } = await withCookies('http://127.0.0.1:8000')
      expect(plain[0]).toMatch(/^delta_session=[^;]+; Path=\/; Max-Age=600; HttpOnly; SameSite=Strict$/)
    })

    test('reading needs the cookie, changing the header of this server’s own pages too', async () => {
      const { call, cookie, changes } = await withCookies()
      const get = (headers: object) => call('GET', '/v1/users/me', undefined, { headers: { cookie, ...headers } })
      const patch = (headers: object) =>
        call('PATCH', '/v1/users/me', { name: 'Eve' }, { headers: { cookie, ...headers } })
      const own = { 'x-delta-csrf': '1' }
      expect((await get({})).status).toBe(200)
      expect((await patch({})).body.error?.code).toBe('csrf_refused')
      expect((await patch({ 'x-delta-csrf': '0' })).status).toBe(403)
      expect((await patch(own)).status).toBe(200)
      expect((await patch({ ...own, origin: publicUrl, 'sec-fetch-site': 'same-origin' })).status).toBe(200)
      for (const foreign of [
        { origin: 'https://evil.example' },
        { origin: 'null' },
        { origin: 'http://3000-sbx-a.localhost:8000' },
        { 'sec-fetch-site': 'same-site' },
        { 'sec-fetch-site': 'cross-site' },
      ]) {
        expect([foreign, (await patch({ ...own, ...foreign })).status]).toEqual([foreign, 403])
        expect([foreign, (await get(foreign)).status]).toEqual([foreign, 403])
      }
      expect(changes.at(-1)).toMatchObject({
        actorId: expect.stringMatching(/^usr_/),
        action: 'request.refused',
        outcome: 'refused',
        reason: 'csrf_refused',
      })
      expect(changes.filter(({ reason }) => reason === 'csrf_refused')).toHaveLength(12)
    })

    test('two of one name are none', async () => {
      const { call, cookie } = await withCookies()
      const twice = `${cookie}; __Host-delta_session=eyJ.other`
      expect((await call('GET', '/v1/users/me', undefined, { headers: { cookie: twice } })).status).toBe(401)
    })

    test('they are refreshed and cleared as they were set', async () => {
      const { call, cookie } = await withCookies()
      const headers = { cookie, 'x-delta-csrf': '1' }
      expect((await call('POST', '/v1/auth/refresh', {}, { headers: { cookie } })).status).toBe(403)
      const refreshed = await call('POST', '/v1/auth/refresh', {}, { headers })
      expect(refreshed.body).toMatchObject({ accessToken: null })
      const next = refreshed.headers
        .getSetCookie()
        .map((one) => one.split(';')[0])
        .join('; ')
      const out = await call('POST', '/v1/auth/logout', {}, { headers: { ...headers, cookie: next } })
      expect(out.headers.getSetCookie().every((one) => one.includes('Max-Age=0'))).toBe(true)
      expect((await call('GET', '/v1/users/me', undefined, { headers: { cookie: next } })).status).toBe(401)
    })

    test('no page of another origin may read answers with them', async () => {
      const { api, cookie } = await withCookies()
      const answer = await api.request('http://127.0.0.1/v1/users/me', {
        method: 'OPTIONS',
        headers: { cookie, origin: 'https://evil.example', 'access-control-request-method': 'GET' },
      })
      expect([...answer.headers.keys()].filter((name) => name.startsWith('access-control'))).toEqual([])
    })
  })

  test('what was secret is in no log, change, error, figure or column', async () => {
    const started = await startPeople(open)
    const { call, join, login, linkTo, turnOnTotp, clock, people, database, logged, changes, metrics, mailbox } =
      started
    const secrets: string[] = []
    const plant = (secret: string) => {
      secrets.push(secret)
      return secret
    }
    const answers: string[] = []
    const refuse = async (...args: Parameters<typeof call>) => {
      const { status, text } = await call(...args)
      expect(status).toBeGreaterThanOrEqual(400)
      answers.push(text)
    }
    const first = plant('planted first password')
    const tokens = await join(ada, first)
    plant(tokens.accessToken!)
    plant(tokens.refreshToken!)
    const { secret, code, recoveryCodes } = await turnOnTotp(tokens.accessToken!, first)
    plant(secret)
    recoveryCodes.forEach(plant)
    recoveryCodes.forEach((one) => plant(one.replace('-', '')))
    await refuse('POST', '/v1/auth/login', { email: ada, password: plant('planted wrong password') })
    await refuse('POST', '/v1/auth/login', {
      email: ada,
      password: plant('planted\0bad password'),
      role: plant('planted role'),
    })
    await refuse('POST', '/v1/auth/login', { email: ada, password: first, code: plant('987654') })
    await refuse('POST', '/v1/auth/refresh', { refreshToken: plant('drt_plantedplantedplanted') })
    await refuse('POST', '/v1/auth/verify', {
      token: plant('dln_plantedplantedplanted'),
      password: plant('planted second password'),
    })
    await refuse('GET', '/v1/users/me', undefined, { token: plant('eyJplanted.planted.planted') })
    await clock.advance(60_000)
    const again = await login(ada, first, { code: plant(code()) })
    plant(String(again.body['accessToken']))
    plant(String(again.body['refreshToken']))
    await call('POST', '/v1/auth/password/forgot', { email: ada })
    plant(await linkTo(ada, 'reset'))
    await call('POST', '/v1/auth/register', { email: 'bob@example.com' })
    plant(await linkTo('bob@example.com', 'verify'))
    await call('POST', '/v1/invitations', { email: 'eve@example.com' }, { token: operatorKey })
    plant(await linkTo('eve@example.com', 'invitation'))
    plant(tokenOf((await people.firstLink())!.url))
    plant(tokenOf(String((await call('POST', '/v1/users/links', { email: ada }, { token: operatorKey })).body['url'])))
    while ((await mailbox.list()).length < started.mails.length) await new Promise((resolve) => setTimeout(resolve, 5))
    const everywhere = {
      rows: await dump(database),
      logged: logged.join(''),
      changes: JSON.stringify(changes),
      answers: answers.join(''),
      metrics: metrics.render(),
    }
    expect(everywhere.rows.length).toBeGreaterThan(2_000)
    for (const [where, text] of Object.entries(everywhere)) {
      for (const one of secrets) expect([where, one, text.includes(one)]).toEqual([where, one, false])
    }
    // It would be found.
    expect(everywhere.rows).toContain(ada)
  })

  describe('pages', () => {
    test('a link leads to a form without a script, which looking at does not use up', async () => {
      const { api, people } = await startPeople(open)
      const token = tokenOf((await people.firstLink())!.url)
      const look = () => api.request(`http://127.0.0.1/auth/owner?t=${token}`)
      await look()
      const page = await look()
      const html = await page.text()
      expect(page.status).toBe(200)
      expect(html).toMatch(/<input id="email" .*<input id="password"/)
      expect(html).not.toMatch(/<script|javascript:| on\w+=/)
      // Hint and button each on a line of their own.
      expect(html).toMatch(/\nbutton { display: block;[^]*\nsmall { display: block;/)
      const policy = page.headers.get('content-security-policy')!
      expect(policy).toMatch(
        /^default-src 'none'; style-src 'sha256-[^']+'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'$/,
      )
      expect([page.headers.get('referrer-policy'), page.headers.get('cache-control')]).toEqual([
        'same-origin',
        'no-store',
      ])
      const send = (fields: Record<string, string>) =>
        api.request('http://127.0.0.1/auth/owner', {
          method: 'POST',
          body: new URLSearchParams({ t: token, ...fields }),
        })
      const bad = await send({ email: ada, password: 'short' })
      expect([bad.status, await bad.text()]).toEqual([400, expect.stringContaining('role="alert"')])
      const done = await send({ email: ada, password: 'a good password' })
      expect([done.status, await done.text()]).toEqual([200, expect.stringContaining('You are the owner')])
      expect((await send({ email: ada, password: 'a good password' })).status).toBe(410)
      expect((await look()).status).toBe(410)
    })

    test('what comes in is never markup', async () => {
      const { api } = await startPeople(open)
      const page = await api.request(
        `http://127.0.0.1/auth/verify?t=${encodeURIComponent('"><script>alert(1)</script>')}`,
      )
      expect([page.status, (await page.text()).includes('<script>')]).toEqual([410, false])
    })

    test('an invitation’s page names account and role, and the way to a new password', async () => {
      const { api, call, join, linkTo, mailTo } = await startPeople(open)
      await join(ada)
      await call('PATCH', '/v1/account', { name: 'Ops & <b>' }, { token: operatorKey })
      const invited = await call('POST', '/v1/invitations', { email: ada, role: 'admin' }, { token: operatorKey })
      const t = await linkTo(ada, 'invitation')
      const look = () => api.request(`http://127.0.0.1/auth/invitation?t=${t}`)
      const shown = await (await look()).text()
      expect(shown).toContain('invited to the account “Ops &#38; &#60;b&#62;” as admin')
      expect(shown).toContain('<a href="/auth/forgot">')
      const send = (path: string, fields: Record<string, string>) =>
        api.request(`http://127.0.0.1${path}`, { method: 'POST', body: new URLSearchParams(fields) })
      const wrong = await send('/auth/invitation', { t, password: 'not the password' })
      const said = await wrong.text()
      expect([wrong.status, said]).toEqual([401, expect.stringContaining(`That is not the password of ${ada}.`)])
      expect(said).not.toContain('E-mail and password')
      expect(await (await api.request('http://127.0.0.1/auth/forgot')).text()).toContain('name="email"')
      const answers = await Promise.all([ada, 'nobody@example.com'].map((email) => send('/auth/forgot', { email })))
      expect(answers.map(({ status }) => status)).toEqual([202, 202])
      expect(await answers[0]!.text()).toBe(await answers[1]!.text())
      await mailTo(ada, /new password/)
      expect((await send('/auth/forgot', { email: 'no address' })).status).toBe(400)
      const foreign = { origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' }
      const body = new URLSearchParams({ email: ada })
      const forged = await api.request('http://127.0.0.1/auth/forgot', { method: 'POST', headers: foreign, body })
      expect(forged.status).toBe(403)
      await call('DELETE', `/v1/invitations/${String(invited.body['id'])}`, undefined, { token: operatorKey })
      expect((await look()).status).toBe(410)
    })

    test('a person in a browser is refused by a page, a program by JSON', async () => {
      const { api } = await startPeople(open)
      const foreign = { origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' }
      const ask = async (path: string, accept: string, init: RequestInit = {}) => {
        const headers = { accept, ...foreign }
        const answer = await api.request(`http://127.0.0.1${path}`, { ...init, headers })
        return [answer.status, answer.headers.get('content-type'), await answer.text()] as const
      }
      const browser = 'text/html,application/xhtml+xml,*/*;q=0.8'
      for (const [path, status, init] of [
        ['/auth/<img src=x>', 404, {}],
        ['/auth/owner', 403, { method: 'POST', body: new URLSearchParams({ t: 'x' }) }],
        ['/auth/owner', 405, { method: 'PUT' }],
      ] as const) {
        const [shown, type, html] = await ask(path, browser, init)
        expect([path, shown, type]).toEqual([path, status, 'text/html; charset=UTF-8'])
        expect(html).toMatch(/<h1>[^]*Request req_/)
        expect(html).not.toMatch(/<img|X-Delta-CSRF/)
        expect((await ask(path, '*/*', init))[1]).toBe('application/json')
      }
      expect((await ask('/v1/nothing', browser))[1]).toBe('application/json')
    })

    test('each page does what its link is for', async () => {
      const { api, call, linkTo, login, mails } = await startPeople(open)
      const send = async (purpose: string, fields: Record<string, string>) =>
        (await api.request(`http://127.0.0.1/auth/${purpose}`, { method: 'POST', body: new URLSearchParams(fields) }))
          .status
      await call('POST', '/v1/auth/register', { email: ada })
      expect(await send('verify', { t: await linkTo(ada, 'verify'), password: 'the first password' })).toBe(200)
      expect((await login(ada, 'the first password')).status).toBe(200)
      await call('POST', '/v1/auth/password/forgot', { email: ada })
      expect(await send('reset', { t: await linkTo(ada, 'reset'), password: 'the second password' })).toBe(200)
      const link = await call('POST', '/v1/users/links', { email: ada }, { token: operatorKey })
      expect(await send('signin', { t: tokenOf(String(link.body['url'])), password: 'the third password' })).toBe(200)
      mails.length = 0
      await call('POST', '/v1/invitations', { email: ada }, { token: operatorKey })
      const t = await linkTo(ada, 'invitation')
      expect(await send('invitation', { t, password: 'the second password' })).toBe(401)
      expect(await send('invitation', { t, password: 'the third password' })).toBe(200)
    })
  })
})

async function dump(database: Database): Promise<string> {
  const tables = await database.all<{ name: string }>(
    rawQuery(
      database.kind === 'sqlite'
        ? `select name from sqlite_master where type = 'table'`
        : `select tablename as name from pg_tables where schemaname = 'public'`,
    ),
  )
  const rows = await Promise.all(tables.map(({ name }) => database.all(rawQuery(`select * from ${name}`))))
  return JSON.stringify(rows)
}
