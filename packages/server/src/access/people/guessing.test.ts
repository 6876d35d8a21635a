import { expect, test } from 'vitest'
import { testDatabases } from '../../kernel/db/testing.ts'
import { attemptLimits, peopleLimits } from './limits.ts'
import { operatorKey, publicUrl, startPeople, tokenOf } from './testing.ts'

const ada = 'ada@example.com'
const bob = 'bob@example.com'
const minute = 60_000
const operator = { token: operatorKey }
const guesses = (count: number) => Array.from({ length: count }, (_, at) => String(at).padStart(6, '0'))
const from = (address: string) => ({ headers: { 'x-test-address': address } })
const moment = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

testDatabases('guessing', (open) => {
  async function withTotp() {
    const started = await startPeople(open)
    const { join, turnOnTotp, clock, call } = started
    const { accessToken } = await join(ada)
    const { code } = await turnOnTotp(accessToken!, `password of ${ada}`)
    await clock.advance(2 * minute)
    const makeLink = async () =>
      tokenOf(String((await call('POST', '/v1/users/links', { email: ada }, operator)).body['url']))
    const byLink = (token: string, shown: string) => call('POST', '/v1/auth/link', { token, code: shown })
    return { ...started, code, makeLink, byLink }
  }

  test('codes tried at once by a link are counted before they are looked at, and then the link is over', async () => {
    const { makeLink, byLink, code, clock } = await withTotp()
    const token = await makeLink()
    const tried = await Promise.all(guesses(200).map((one) => byLink(token, one)))
    const looked = tried.filter(({ body }) => body.error?.code === 'code_invalid').length
    expect(looked).toBeLessThanOrEqual(peopleLimits.codesOfLink)
    await clock.advance(16 * minute)
    expect((await byLink(token, code())).status).toBe(410)
  })

  test('one after another they go as far', async () => {
    const { makeLink, byLink, code, clock } = await withTotp()
    const token = await makeLink()
    const codes: (string | undefined)[] = []
    for (const one of guesses(8)) {
      codes.push((await byLink(token, one)).body.error?.code)
      await clock.advance(minute)
    }
    expect(codes.filter((one) => one === 'code_invalid')).toHaveLength(peopleLimits.codesOfLink)
    expect(codes.at(-1)).toBe('link_invalid')
    expect((await byLink(token, code())).status).toBe(410)
  })

  test('another link gives no more tries', async () => {
    const { makeLink, byLink } = await withTotp()
    const [first, second] = [await makeLink(), await makeLink()]
    for (const one of guesses(attemptLimits.code.free)) expect((await byLink(first, one)).status).toBe(401)
    const refused = await byLink(second, '123456')
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([429, '1'])
  })

  test('neither does another server: codes are counted in the database', async () => {
    const { database, login } = await withTotp()
    const other = await startPeople(open, { database })
    await other.clock.advance(2 * minute)
    const tried = await Promise.all(
      guesses(60).map((code, at) => (at % 2 === 0 ? login : other.login)(ada, undefined, { code })),
    )
    const looked = tried.filter(({ body }) => body.error?.code === 'code_invalid').length
    expect(looked).toBe(attemptLimits.code.free)
  })

  test('the right code lets in after the pause, and all is forgotten', async () => {
    const { login, code, clock } = await withTotp()
    for (const one of guesses(5)) await login(ada, undefined, { code: one })
    expect((await login(ada, undefined, { code: code() })).status).toBe(429)
    await clock.advance(1_000)
    expect((await login(ada, undefined, { code: code() })).status).toBe(200)
    expect((await login(ada, undefined, { code: '000000' })).status).toBe(401)
  })

  test('a clock that was set back makes nobody wait', async () => {
    const { login, clock } = await withTotp()
    for (const one of guesses(6)) await login(ada, undefined, { code: one })
    clock.jump(-60 * minute)
    expect((await login(ada, undefined, { code: '000000' })).status).toBe(401)
  })

  test('a stranger who guesses keeps nobody from their own user', async () => {
    const { join, login, clock } = await startPeople(open)
    await join(ada)
    for (let at = 0; at < 12; at++) {
      await login(ada, 'wrong password', {}, '198.51.100.1')
      await clock.advance(minute)
    }
    expect((await login(ada, undefined, {}, '198.51.100.1')).status).toBe(200)
    for (let at = 0; at < 5; at++) await login(ada, 'wrong password', {}, '198.51.100.2')
    expect((await login(ada, undefined, {}, '198.51.100.2')).status).toBe(429)
    expect((await login(ada, undefined, {}, '203.0.113.7')).status).toBe(200)
  })

  test.each(['/v1/auth/password/forgot', '/v1/auth/register'])(
    'a stranger who asks for mails to somebody keeps them from none: %s',
    async (path) => {
      const { call } = await startPeople(open)
      const ask = async (address: string) => (await call('POST', path, { email: ada }, from(address))).status
      for (let at = 0; at < attemptLimits.mailTo.free; at++) expect(await ask('198.51.100.1')).toBe(202)
      expect(await ask('198.51.100.1')).toBe(429)
      expect(await ask('203.0.113.7')).toBe(202)
    },
  )

  test('a mailbox is sent few mails however many ask, and who asks from where its user has been gets theirs', async () => {
    const { join, login, call, mails, logged, clock } = await startPeople(open)
    await join(ada)
    await login(ada, undefined, {}, '203.0.113.7')
    const resets = () => mails.filter(({ to, subject }) => to === ada && subject === 'Choose a new password').length
    const heldBack = () => logged.filter((line) => line.includes('mail_held_back')).length
    const ask = async (address: string, email = ada) => {
      const { status, text } = await call('POST', '/v1/auth/password/forgot', { email }, from(address))
      return [status, text]
    }
    const { free } = attemptLimits.mailToByAll
    const answers = await Promise.all(Array.from({ length: 60 }, (_, at) => ask(`198.51.100.${at}`)))
    while (resets() + heldBack() < 60) await moment(5)
    expect([resets(), heldBack()]).toEqual([free, 60 - free])
    // Nobody learns by it whether there is such a user.
    const unknown = await ask('198.51.100.200', 'nobody@example.com')
    expect(new Set(answers.map((answer) => JSON.stringify(answer)))).toEqual(new Set([JSON.stringify(unknown)]))
    expect(await ask('203.0.113.7')).toEqual(unknown)
    while (resets() < free + 1) await moment(5)
    await ask('192.0.2.1')
    while (heldBack() < 61 - free) await moment(5)
    await clock.advance(minute)
    await ask('192.0.2.2')
    while (resets() < free + 2) await moment(5)
  })

  test('registering in somebody’s name takes no new password from them', async () => {
    const { join, call, mails, logged } = await startPeople(open)
    await join(ada)
    const ask = (path: string, address: string) => call('POST', path, { email: ada }, from(address))
    for (let at = 0; at < 12; at++) await ask('/v1/auth/register', `198.51.100.${at}`)
    while (!logged.some((line) => line.includes('mail_held_back'))) await moment(5)
    await ask('/v1/auth/password/forgot', '192.0.2.1')
    while (!mails.some(({ subject }) => subject === 'Choose a new password')) await moment(5)
  })

  test('guesses from everywhere slow whoever comes from anywhere, and not who comes from where they have been', async () => {
    const { join, login } = await startPeople(open)
    await join(ada)
    expect((await login(ada, undefined, {}, '203.0.113.7')).status).toBe(200)
    const guess = (at: number) => login(ada, 'wrong password', {}, `198.51.${at % 50}.${Math.floor(at / 50)}`)
    let slowed = 0
    for (let at = 0; at < attemptLimits.everywhere.free + 20; at++) if ((await guess(at)).status === 429) slowed += 1
    expect(slowed).toBe(20)
    expect((await login(ada, undefined, {}, '192.0.2.1')).status).toBe(429)
    expect((await login(ada, undefined, {}, '203.0.113.7')).status).toBe(200)
  })

  test('somebody who is logged in shows their password whatever strangers have tried', async () => {
    const { join, login, call } = await startPeople(open)
    const { accessToken } = await join(ada)
    for (let at = 0; at < 7; at++) await login(ada, 'wrong password')
    expect((await login(ada)).status).toBe(429)
    const change = (password: string) =>
      call('POST', '/v1/auth/totp', { password }, { token: accessToken! }).then(({ status }) => status)
    expect(await change(`password of ${ada}`)).toBe(200)
    for (let at = 0; at < 5; at++) expect(await change('wrong password')).toBe(401)
    expect(await change(`password of ${ada}`)).toBe(429)
  })

  test('who sends many log-ins of their own keeps nobody from theirs', async () => {
    let gate: Promise<void> | undefined
    const { join, login, people } = await startPeople(open, {
      async derive(password, salt) {
        await gate
        return Buffer.from(await crypto.subtle.digest('SHA-256', Buffer.concat([salt, password])))
      },
    })
    await join(ada)
    await join(bob)
    let release = () => {}
    gate = new Promise((resolve) => (release = resolve))
    const flood = Array.from({ length: 300 }, () => login(bob))
    while (people.turns.waiting < 256) await moment(5)
    const adas = login(ada)
    await moment(50)
    release()
    gate = undefined
    await Promise.all(flood)
    expect((await adas).status).toBe(200)
  })

  test('a page of another site logs nobody in by cookie, whatever it sends', async () => {
    const { call, join } = await startPeople(open)
    await join(bob)
    const body = JSON.stringify({ email: bob, password: `password of ${bob}`, cookies: true })
    const ask = (headers: Record<string, string>) => call('POST', '/v1/auth/login', body, { headers })
    for (const headers of [
      { 'content-type': 'text/plain', origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' },
      { 'content-type': 'text/plain', origin: publicUrl, 'sec-fetch-site': 'same-origin' },
      { 'x-delta-csrf': '1', origin: 'http://3000-sbx-a.localhost:8000' },
      { 'x-delta-csrf': '1', 'sec-fetch-site': 'same-site' },
      {},
    ] as Record<string, string>[]) {
      const { status, body: said, headers: answered } = await ask(headers)
      expect([headers, status, said.error?.code]).toEqual([headers, 403, 'csrf_refused'])
      expect(answered.get('set-cookie')).toBeNull()
    }
    const own = { 'x-delta-csrf': '1', origin: publicUrl, 'sec-fetch-site': 'same-origin' }
    expect((await ask(own)).headers.getSetCookie()).toHaveLength(2)
  })

  test('a form of another site sends no page’s form', async () => {
    const { api, people } = await startPeople(open)
    const t = tokenOf((await people.firstLink())!.url)
    const send = (headers: Record<string, string>) =>
      api.request('http://127.0.0.1/auth/owner', {
        method: 'POST',
        headers,
        body: new URLSearchParams({ t, email: ada, password: 'a good password' }),
      })
    expect((await send({ origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' })).status).toBe(403)
    expect((await send({ origin: publicUrl, 'sec-fetch-site': 'same-origin' })).status).toBe(200)
  })
})
