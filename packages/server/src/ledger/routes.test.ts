import { describe, expect, onTestFinished, test } from 'vitest'
import type { Principal } from '../access/principal.ts'
import { right } from '../access/rights.ts'
import { testCaller, testKeyPrincipal } from '../access/testing.ts'
import { manualClock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { DeltaError } from '../kernel/errors.ts'
import { type ApiContext, createApi } from '../kernel/http/api.ts'
import { answerError } from '../kernel/http/errors.ts'
import { createDocumentCheck } from '../kernel/http/testing-documented.ts'
import { newId } from '../kernel/ids.ts'
import { silentLogger } from '../kernel/log.ts'
import { createLedgerApi } from './api.ts'
import { reserveId } from './book.ts'
import { ledgerMigrations } from './migrations.ts'
import { firstCard } from './rate-card.ts'
import { createLedgerReading } from './reading.ts'
import { readingLimits } from './reading-limits.ts'
import { ledgerFeature } from './routes.ts'
import { createLedger } from './service.ts'

type Json = Record<string, unknown>

const midNovember = Date.UTC(2026, 10, 16, 12)
const token = 1_000_000

const agentOf = (agentId: string, rights = ['read:billing', 'allocate'], accountId = 'acc_a'): Principal => ({
  kind: 'agent',
  accountId,
  agentId,
  agentKind: 'main',
  jti: 'tok_a',
  rights: rights.map(right),
})
const member: Principal = {
  kind: 'user',
  accountId: 'acc_a',
  userId: 'usr_m',
  sessionId: 'ses_m',
  role: 'member',
  secondFactor: false,
}
const owner = testKeyPrincipal({ accountId: 'acc_a' })
const operator = testKeyPrincipal({ accountId: 'acc_default' })
const keyWith = (...rights: string[]): Principal => testKeyPrincipal({ accountId: 'acc_a', rights: rights.map(right) })

testDatabases('the ledger seen from outside', (open, openServers) => {
  function serve(database: Database, clock = manualClock(midNovember)) {
    const ledger = createLedger({
      database,
      clock,
      log: silentLogger,
      rates: firstCard,
      grant: 1_000 * token,
      planAtStart: () => 'free',
      incarnation: newId('srv'),
    })
    const ledgerApi = createLedgerApi({
      ledger,
      reading: createLedgerReading(database),
      clock,
      requireAccount: (id) =>
        ['acc_a', 'acc_b', 'acc_default'].includes(id)
          ? Promise.resolve()
          : Promise.reject(new DeltaError('account_not_found', 'There is no such account')),
    })
    onTestFinished(() => ledgerApi.stop())
    const api = createApi()
    let who: Principal = owner
    api.use('*', async (c, next) => {
      c.set('requestId', 'req_test')
      c.set('caller', testCaller(who))
      await next()
    })
    ledgerFeature({ ledger, ledgerApi }).routes!(api)
    api.onError((error, c) => answerError(error, c as ApiContext, { log: silentLogger }))
    const isDocumented = createDocumentCheck(api)
    const request = async (method: string, path: string, { as = owner, body, key, accept }: Asked = {}) => {
      who = as
      const answer = await api.request(`/v1/ledger${path}`, {
        method,
        headers: {
          'content-type': 'application/json',
          ...(key !== undefined && { 'idempotency-key': key }),
          ...(accept !== undefined && { accept }),
        },
        ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      })
      return { status: answer.status, text: await answer.text(), headers: answer.headers }
    }
    const call = async (method: string, path: string, asked: Asked = {}) => {
      const { status, text } = await request(method, path, asked)
      const body = JSON.parse(text) as Json
      const { code } = (body['error'] ?? {}) as Json
      isDocumented(method, `/v1/ledger${path}`, { status, code })
      return { status, body, code: code as string | undefined }
    }
    const get = async (path: string, as: Principal = owner) => (await call('GET', path, { as })).body
    const purses = async (as: Principal = owner, query = '') =>
      ((await get(query, as))['purses'] as Json[]).map(({ id, depth }) => `${'-'.repeat(depth as number)}${String(id)}`)
    const transfer = (body: object, asked: Asked = {}) =>
      call('POST', '/transfers', { ...asked, body: { reason: 'to test', ...body } })
    return { ledger, ledgerApi, clock, request, call, get, purses, transfer }
  }

  interface Asked {
    as?: Principal
    body?: object | string
    key?: string
    accept?: string
  }

  /** `agt_main` over `agt_bot` and `agt_other`, each with tokens; `agt_sibling` beside; and a ledger of somebody else. */
  async function start() {
    const database = (await open(ledgerMigrations)) as Database
    const world = serve(database)
    const { ledger } = world
    const reserve = reserveId('acc_a')
    for (const [purseId, parentId] of [
      ['agt_main', reserve],
      ['agt_sibling', reserve],
      ['agt_bot', 'agt_main'],
      ['agt_other', 'agt_main'],
    ] as const) {
      await ledger.openPurse({ accountId: 'acc_a', purseId, kind: 'agent', parentId, monthly: 0 })
    }
    await ledger.openPurse({
      accountId: 'acc_b',
      purseId: 'agt_foreign',
      kind: 'agent',
      parentId: reserveId('acc_b'),
      monthly: 0,
    })
    expect((await world.transfer({ tokens: 100, from: 'reserve', to: 'agt_main' })).status).toBe(201)
    expect((await world.transfer({ tokens: 40, from: 'agt_main', to: 'agt_bot' })).status).toBe(201)
    return { database, ...world }
  }

  /** Spends so many micro-tokens. */
  async function spend(ledger: ReturnType<typeof serve>['ledger'], payer: string, cost: number, more: object = {}) {
    const purpose = { kind: 'sandbox', agentId: payer, sandboxId: 'sbx_a', ...more }
    const { holdId } = await ledger.hold({ accountId: 'acc_a', payer, amount: cost, purpose })
    await ledger.commit(holdId, 'acc_a', [{ meter: 'sandbox_cpu_seconds', quantity: 2, cost }])
    return holdId
  }

  describe('balances', () => {
    test('are a tree with the sum of what is shown', async () => {
      const { get, purses } = await start()
      expect(await purses()).toEqual(['reserve', '-agt_main', '--agt_bot', '--agt_other', '-agt_sibling'])
      expect(await get('')).toMatchObject({
        accountId: 'acc_a',
        period: '2026-11',
        endsAt: '2026-12-01T00:00:00.000Z',
        total: { granted: 1_000, bought: 0, held: 0, used: 0 },
        owed: 0,
        whole: true,
        purses: [
          { id: 'reserve', parentId: null, granted: 900 },
          { id: 'agt_main', parentId: 'reserve', granted: 60 },
          { id: 'agt_bot', parentId: 'agt_main', granted: 40 },
          {},
          {},
        ],
      })
    })

    test('are exact to the last of six places', async () => {
      const { ledger, get } = await start()
      await spend(ledger, 'agt_bot', 1)
      expect((await get('?purseId=agt_bot'))['purses']).toMatchObject([{ granted: 39.999999, used: 0.000001 }])
    })

    test('of a part are asked for by its purse, also of what is archived', async () => {
      const { ledger, purses } = await start()
      expect(await purses(owner, '?purseId=agt_main')).toEqual(['agt_main', '-agt_bot', '-agt_other'])
      await ledger.archive({ accountId: 'acc_a', purseId: 'agt_other' })
      expect(await purses(owner, '?purseId=agt_main')).toEqual(['agt_main', '-agt_bot'])
      expect(await purses(owner, '?purseId=agt_main&archived=true')).toEqual(['agt_main', '-agt_bot', '-agt_other'])
    })

    test('of an agent are its own and those below, and all else is as if it were not there', async () => {
      const { call, get, purses } = await start()
      expect(await purses(agentOf('agt_main'))).toEqual(['agt_main', '-agt_bot', '-agt_other'])
      expect(await purses(agentOf('agt_bot'))).toEqual(['agt_bot'])
      expect(await get('', agentOf('agt_bot'))).toMatchObject({ total: { granted: 40 }, owed: null })
      const answers = await Promise.all(
        ['agt_main', 'agt_sibling', 'agt_foreign', 'agt_unused'].map(async (purseId) => {
          const { status, body } = await call('GET', `?purseId=${purseId}`, { as: agentOf('agt_bot') })
          return [status, JSON.stringify(body).replaceAll(purseId, 'ID')]
        }),
      )
      expect(answers[0]![0]).toBe(404)
      expect(new Set(answers.map(String)).size).toBe(1)
      expect(await call('GET', '?purseId=reserve', { as: agentOf('agt_bot') })).toMatchObject({
        code: 'purse_not_found',
      })
      const [foreign, unused] = await Promise.all(
        ['agt_foreign', 'agt_unused'].map((id) => call('GET', `?purseId=${id}`)),
      )
      expect(JSON.stringify(foreign!.body).replace('agt_foreign', 'agt_unused')).toEqual(JSON.stringify(unused!.body))
    })
  })

  describe('the journal', () => {
    test('is listed newest first, page by page, without a gap', async () => {
      const { get, transfer } = await start()
      for (let at = 1; at <= 5; at++) await transfer({ tokens: at, from: 'agt_main', to: 'agt_other' })
      const seen: Json[] = []
      let cursor: unknown = null
      do {
        const page = await get(`/transfers?limit=3${cursor === null ? '' : `&cursor=${String(cursor)}`}`)
        seen.push(...(page['data'] as Json[]))
        cursor = page['nextCursor']
      } while (cursor !== null)
      const last = seen[0]!['seq'] as number
      expect(seen.map(({ seq }) => seq)).toEqual(Array.from({ length: last }, (_, at) => last - at))
      expect(seen[0]).toMatchObject({
        kind: 'transfer',
        from: 'agt_main',
        to: 'agt_other',
        tokens: 5,
        sort: 'granted',
        reason: 'to test',
      })
      expect(seen.at(-1)).toMatchObject({ kind: 'grant', from: 'grant', to: 'reserve', tokens: 1_000 })
    })

    test('of a purse has what happened to it and below it, with what was spent there', async () => {
      const { ledger, get } = await start()
      const holdId = await spend(ledger, 'agt_bot', 3 * token)
      const lines = (page: Json) =>
        (page['data'] as Json[]).map(
          ({ kind, from, to, tokens }) => `${String(kind)} ${String(from)} ${String(to)} ${String(tokens)}`,
        )
      const ofBot = ['commit hold usage 3', 'hold agt_bot hold 3', 'transfer agt_main agt_bot 40']
      expect(lines(await get('/transfers?purseId=agt_bot'))).toEqual(ofBot)
      expect(lines(await get('/transfers', agentOf('agt_bot')))).toEqual(ofBot)
      expect(lines(await get('/transfers?purseId=agt_main'))).toEqual([...ofBot, 'transfer reserve agt_main 100'])
      expect(lines(await get('/transfers?purseId=agt_bot&kind=transfer'))).toEqual([ofBot[2]])
      for (const purseId of ['agt_main', 'agt_sibling', 'agt_foreign', 'agt_unused']) {
        for (const list of ['transfers', 'holds']) {
          const page = await get(`/${list}?purseId=${purseId}`, agentOf('agt_bot'))
          expect(page).toEqual({ data: [], nextCursor: null })
        }
      }
      expect((await get('/holds', agentOf('agt_bot')))['data']).toMatchObject([
        { id: holdId, purseId: 'agt_bot', state: 'committed', tokens: 3, cost: 3, refunded: 0, sandboxId: 'sbx_a' },
      ])
      expect((await get('/holds', agentOf('agt_other')))['data']).toEqual([])
      expect((await get('/holds?state=open'))['data']).toEqual([])
    })

    test('of a purse has what expired while it was held', async () => {
      const { ledger, clock, get } = await start()
      const purpose = { kind: 'sandbox', agentId: 'agt_bot' }
      const { holdId } = await ledger.hold({ accountId: 'acc_a', payer: 'agt_bot', amount: 5 * token, purpose })
      await clock.advance(20 * 86_400_000)
      await ledger.release(holdId, 'acc_a')
      for (const page of [
        await get('/transfers', agentOf('agt_bot')),
        await get('/transfers?purseId=agt_main&limit=1'),
      ])
        expect((page['data'] as Json[])[0]).toMatchObject({
          kind: 'expire',
          from: 'hold',
          to: 'grant',
          tokens: 5,
          holdId,
        })
    })

    test('is not gone through by a cursor that it did not give', async () => {
      const { call } = await start()
      for (const text of ['x', '', '0', '1e3', '-1', '99999999999999999999']) {
        const cursor = Buffer.from(text).toString('base64url')
        for (const list of ['transfers', 'holds', 'usage']) {
          expect(await call('GET', `/${list}?cursor=${cursor}`)).toMatchObject({ code: 'invalid_request' })
        }
      }
    })
  })

  describe('a transfer', () => {
    test('is done once for each key of whoever asks, and answered the same again', async () => {
      const { transfer, purses, get } = await start()
      const wish = { tokens: 7, from: 'agt_main', to: 'agt_other' }
      const first = await transfer(wish, { key: 'k' })
      expect(first).toMatchObject({ status: 201, body: { tokens: 7, repeated: false } })
      const again = await transfer(wish, { key: 'k' })
      expect(again.body).toEqual({ ...first.body, repeated: true })
      expect(await transfer({ ...wish, tokens: 8 }, { key: 'k' })).toMatchObject({ code: 'key_conflict', status: 409 })
      expect(await transfer(wish, { key: 'k', as: member })).toMatchObject({ body: { repeated: false } })
      expect((await get('?purseId=agt_other'))['purses']).toMatchObject([{ granted: 14 }])
      expect(await purses()).toHaveLength(5)
    })

    test('of what is no whole number of tokens is refused by name and moves nothing', async () => {
      const { call, get } = await start()
      const before = await get('')
      const texts = ['0', '-1', '-0', '0.5', '1e400', '"5"', '9007199254740994', '18446744073709551616', '9007199255']
      for (const text of [...texts, 'null', '[1]', '{}']) {
        const body = `{"from":"agt_main","to":"agt_bot","reason":"x","tokens":${text}}`
        expect([text, await call('POST', '/transfers', { body })]).toMatchObject([
          text,
          { status: 400, code: 'amount_invalid' },
        ])
      }
      const body = { from: 'agt_main', to: 'agt_bot', reason: 'x' }
      expect(await call('POST', '/transfers', { body })).toMatchObject({ code: 'invalid_request' })
      expect(await get('')).toEqual(before)
    })

    test('of more than there is, to itself, or to what is archived is refused by name', async () => {
      const { ledger, transfer } = await start()
      const code = async (wish: object) => (await transfer(wish)).code
      expect(await code({ tokens: 61, from: 'agt_main', to: 'agt_bot' })).toBe('balance_too_low')
      expect(await code({ tokens: 1, from: 'agt_main', to: 'agt_main' })).toBe('transfer_to_itself')
      await ledger.archive({ accountId: 'acc_a', purseId: 'agt_other' })
      expect(await code({ tokens: 1, from: 'agt_main', to: 'agt_other' })).toBe('purse_archived')
    })

    test('between own, foreign and unused purses answers identically', async () => {
      const { transfer } = await start()
      for (const as of [owner, member, agentOf('agt_main'), agentOf('agt_bot')]) {
        const ask = async (id: string, side: 'from' | 'to') => {
          const own = 'agt_bot'
          const { status, body } = await transfer({ tokens: 1, from: own, to: own, [side]: id }, { as })
          return [status, JSON.stringify(body).replaceAll(id, 'ID')]
        }
        for (const side of ['from', 'to'] as const) {
          const unused = await ask('agt_unused', side)
          expect(unused[0]).toBe(404)
          expect(await ask('agt_foreign', side)).toEqual(unused)
        }
      }
    })

    test('by an agent is within what it has and what is below it, up to its limit', async () => {
      const { transfer } = await start()
      const code = async (as: Principal, tokens: number, from: string, to: string) => {
        const { status, code: refusal, body } = await transfer({ tokens, from, to }, { as })
        const { context } = (body['error'] ?? {}) as { context?: { right?: string } }
        return refusal === undefined ? status : [refusal, context?.right].filter(Boolean).join(' ')
      }
      const main = agentOf('agt_main', ['allocate:20'])
      expect(await code(main, 20, 'agt_main', 'agt_bot')).toBe(201)
      expect(await code(main, 5, 'agt_bot', 'agt_other')).toBe(201)
      expect(await code(main, 5, 'agt_bot', 'agt_main')).toBe(201)
      expect(await code(main, 21, 'agt_main', 'agt_bot')).toBe('forbidden allocate:21')
      expect(await code(main, 1, 'agt_main', 'agt_sibling')).toBe('purse_not_found')
      expect(await code(main, 1, 'agt_main', 'reserve')).toBe('purse_not_found')
      expect(await code(main, 1, 'reserve', 'agt_main')).toBe('forbidden write:billing')
      expect(await code(agentOf('agt_bot'), 1, 'agt_main', 'agt_bot')).toBe('purse_not_found')
      expect(await code(agentOf('agt_bot'), 1, 'agt_bot', 'agt_main')).toBe('purse_not_found')
    })

    test('from the reserve is a person’s, or a key’s that may handle bills', async () => {
      const { transfer } = await start()
      const wish = { tokens: 5, from: 'reserve', to: 'agt_main' }
      const rightFor = async (as: Principal) => {
        const { status, body } = await transfer(wish, { as })
        const { context } = (body['error'] ?? {}) as { context?: { right?: string } }
        return context?.right ?? status
      }
      expect(await rightFor(member)).toBe(201)
      expect(await rightFor(keyWith('allocate', 'write:billing'))).toBe(201)
      expect(await rightFor(keyWith('allocate:4', 'write:billing'))).toBe('allocate:5')
      expect(await rightFor(keyWith('allocate'))).toBe('write:billing')
      const memberKey = testKeyPrincipal({ accountId: 'acc_a', role: 'member' })
      expect(await rightFor(memberKey)).toBe('write:billing')
      expect((await transfer({ ...wish, from: 'agt_main', to: 'reserve' }, { as: keyWith('allocate') })).status).toBe(
        201,
      )
    })
  })

  describe('the operator', () => {
    test('gives tokens to any account, of either sort, once for each key', async () => {
      const { call, get } = await start()
      const body = { tokens: 500, sort: 'bought', reason: 'Invoice 7', accountId: 'acc_a' }
      expect(await call('POST', '/grants', { as: operator, body, key: 'g' })).toMatchObject({
        status: 201,
        body: { tokens: 500, repeated: false },
      })
      expect(await call('POST', '/grants', { as: operator, body, key: 'g' })).toMatchObject({
        body: { repeated: true },
      })
      expect(await get('')).toMatchObject({ total: { granted: 1_000, bought: 500 } })
      const unknown = { ...body, accountId: 'acc_unknown' }
      expect(await call('POST', '/grants', { as: operator, body: unknown })).toMatchObject({
        code: 'account_not_found',
      })
      expect(await call('POST', '/grants', { as: operator, body: { ...body, sort: 'free' } })).toMatchObject({
        status: 400,
      })
      expect(await call('POST', '/grants', { as: operator, body: { ...body, tokens: 9_007_199_254 } })).toMatchObject({
        code: 'ledger_full',
      })
    })

    test('gives back what was spent, as an entry of its own', async () => {
      const { ledger, call, get } = await start()
      const holdId = await spend(ledger, 'agt_bot', 3 * token)
      const body = { holdId, tokens: 1.25, reason: 'It was cut', accountId: 'acc_a' }
      expect(await call('POST', '/refunds', { as: operator, body })).toMatchObject({
        status: 201,
        body: { tokens: 1.25 },
      })
      expect((await get('?purseId=agt_bot'))['purses']).toMatchObject([{ granted: 38.25, used: 1.75 }])
      expect((await get('/transfers?limit=1'))['data']).toMatchObject([
        { kind: 'refund', from: 'refund', to: 'agt_bot', tokens: 1.25, holdId, reason: 'It was cut' },
      ])
      const more = { ...body, tokens: 1.75 + 0.000001 }
      expect(await call('POST', '/refunds', { as: operator, body: more })).toMatchObject({ code: 'refund_above_cost' })
      expect(await call('POST', '/refunds', { as: operator, body: { ...body, tokens: 0.0000001 } })).toMatchObject({
        code: 'invalid_request',
      })
      const elsewhere = { ...body, accountId: 'acc_b' }
      expect(await call('POST', '/refunds', { as: operator, body: elsewhere })).toMatchObject({
        code: 'hold_not_found',
      })
    })

    test('changes plans', async () => {
      const { call, get } = await start()
      expect(await get('/plan')).toEqual({ plan: 'free', agents: 1, sandboxHours: 10, grantTokens: 1_000 })
      const body = { plan: 'enterprise', accountId: 'acc_a' }
      expect(await call('PUT', '/plan', { as: operator, body })).toMatchObject({ status: 200, body: { agents: null } })
      expect(await get('/plan')).toMatchObject({ plan: 'enterprise', agents: null, sandboxHours: null })
    })
  })

  describe('usage', () => {
    async function used() {
      const world = await start()
      const { ledger, clock } = world
      await spend(ledger, 'agt_bot', 2 * token)
      await spend(ledger, 'agt_main', 1 * token, { sandboxId: 'sbx_b', kind: 'egress' })
      clock.jump(86_400_000)
      await spend(ledger, 'agt_bot', 4 * token)
      return world
    }

    test('is added up by whatever is asked for, page by page', async () => {
      const { get } = await used()
      const rows = async (query: string) => (await get(`/usage?${query}`))['data'] as Json[]
      expect(await rows('')).toMatchObject([{ meter: 'sandbox_cpu_seconds', quantity: 6, tokens: 7, agentId: null }])
      expect(await rows('groupBy=agent')).toMatchObject([
        { agentId: 'agt_bot', tokens: 6, quantity: null, meter: null },
        { agentId: 'agt_main', tokens: 1 },
      ])
      expect((await rows('groupBy=day,agent')).map(({ from, agentId, tokens }) => [from, agentId, tokens])).toEqual([
        ['2026-11-16T00:00:00.000Z', 'agt_bot', 2],
        ['2026-11-16T00:00:00.000Z', 'agt_main', 1],
        ['2026-11-17T00:00:00.000Z', 'agt_bot', 4],
      ])
      expect(await rows('groupBy=hour')).toMatchObject([
        { from: '2026-11-16T12:00:00.000Z' },
        { from: '2026-11-17T12:00:00.000Z' },
      ])
      expect(await rows('groupBy=sandbox&agentId=agt_main')).toMatchObject([{ sandboxId: 'sbx_b', tokens: 1 }])
      expect(await rows('groupBy=kind')).toMatchObject([{ kind: 'egress' }, { kind: 'sandbox' }])
      expect(await rows('from=2026-11-17T00:00:00Z')).toMatchObject([{ tokens: 4 }])
      expect(await rows('from=2026-11-16T00:00:00Z&to=2026-11-17T00:00:00Z')).toMatchObject([{ tokens: 3 }])
      const seen: unknown[] = []
      let cursor: unknown = null
      do {
        const page = await get(`/usage?groupBy=agent,day&limit=1${cursor === null ? '' : `&cursor=${String(cursor)}`}`)
        seen.push(...(page['data'] as Json[]).map(({ tokens }) => tokens))
        cursor = page['nextCursor']
      } while (cursor !== null)
      expect(seen).toEqual([2, 1, 4])
    })

    test('of an agent is its own and that of those below', async () => {
      const { get } = await used()
      const rows = async (as: Principal, query = '') => (await get(`/usage?groupBy=agent${query}`, as))['data']
      expect(await rows(agentOf('agt_bot'))).toMatchObject([{ agentId: 'agt_bot', tokens: 6 }])
      expect(await rows(agentOf('agt_main'))).toMatchObject([{ tokens: 6 }, { tokens: 1 }])
      expect(await rows(agentOf('agt_other'))).toEqual([])
      expect(await rows(agentOf('agt_other'), '&agentId=agt_bot')).toEqual([])
      expect(await rows(agentOf('agt_foreign'))).toEqual([])
    })

    test('as a table has all of it', async () => {
      const { request } = await used()
      const table = await request('GET', '/usage?groupBy=agent,meter&limit=1', { accept: 'text/csv' })
      expect(table.headers.get('content-type')).toContain('text/csv')
      expect(table.text.split('\r\n')).toEqual([
        'from,agent,task,sandbox,kind,meter,quantity,tokens,estimated',
        ',agt_bot,,,,sandbox_cpu_seconds,4,6,0',
        ',agt_main,,,,sandbox_cpu_seconds,2,1,0',
        '',
      ])
      expect((await request('GET', '/usage?groupBy=agent,meter&format=csv')).text).toBe(table.text)
    })

    test('is refused, as a table too, where what is asked for is no such thing', async () => {
      const { call } = await start()
      const cursor = (...parts: unknown[]) => `cursor=${Buffer.from(JSON.stringify(parts)).toString('base64url')}`
      const ofSpan = ['from=yesterday', 'from=2020-01-01T00:00:00Z', 'agentId=x%27', 'groupBy=account', 'groupBy=']
      for (const query of [...ofSpan, 'groupBy=hour,day']) {
        for (const format of ['json', 'csv']) {
          expect(await call('GET', `/usage?${query}&format=${format}`)).toMatchObject({ code: 'invalid_request' })
        }
      }
      for (const query of [
        `groupBy=agent&${cursor('meter', 'x')}`,
        `groupBy=day&${cursor('day', 'x')}`,
        cursor('meter', 'x', 'y'),
      ]) {
        expect(await call('GET', `/usage?${query}`)).toMatchObject({ code: 'invalid_request' })
      }
    })

    test('goes on in a straight line until the period’s end', async () => {
      const { get } = await used()
      // A day passed between the first hour and now: 7 tokens a day, for 13.5 days more.
      expect(await get('/forecast')).toMatchObject({
        period: '2026-11',
        endsAt: '2026-12-01T00:00:00.000Z',
        total: { spent: 7, perDay: 7, expected: 7 + 7 * 13.5, available: 993, short: 0, runsOutAt: null },
        agents: [
          { agentId: 'agt_bot', spent: 6, perDay: 6, available: 34, short: 6 * 13.5 - 34 },
          { agentId: 'agt_main', spent: 1, runsOutAt: null },
        ],
      })
      const ofBot = await get('/forecast', agentOf('agt_bot'))
      expect(ofBot).toMatchObject({ total: { spent: 6, available: 34 }, agents: [{ agentId: 'agt_bot' }] })
      expect((ofBot['agents'] as Json[])[0]!['runsOutAt']).toBe('2026-11-23T04:00:00.000Z')
    })
  })

  test('says what everything costs', async () => {
    const { get } = await start()
    const { data, tokenUsd } = await get('/rates')
    expect(tokenUsd).toBe(0.01)
    expect(data).toContainEqual(expect.objectContaining({ meter: 'sandbox_memory_mb_seconds', perMillion: 0.15625 }))
  })

  describe('who follows', () => {
    interface Seen {
      event: string
      id: string
      data: Json
    }
    const nextOf = async (events: AsyncIterator<unknown>) => (await events.next()).value as Seen

    test('is told the position, then of each entry, and goes on after the last that was seen', async () => {
      const { ledgerApi, transfer } = await start()
      const { events, leave } = await ledgerApi.follow(testCaller(owner))
      const first = await nextOf(events)
      expect(first.event).toBe('position')
      const coming = nextOf(events)
      for (const tokens of [1, 2, 3]) await transfer({ tokens, from: 'agt_main', to: 'agt_bot' })
      const seen = await coming
      expect(seen).toMatchObject({ event: 'transfer', id: String(Number(first.id) + 1), data: { tokens: 1 } })
      leave()
      const again = await ledgerApi.follow(testCaller(owner), Number(seen.id))
      expect(await nextOf(again.events)).toMatchObject({ event: 'position', id: seen.id })
      expect((await nextOf(again.events)).data).toMatchObject({ tokens: 2 })
      expect((await nextOf(again.events)).data).toMatchObject({ tokens: 3 })
      again.leave()
      const beyond = await ledgerApi.follow(testCaller(owner), 1_000_000)
      expect(await nextOf(beyond.events)).toMatchObject({ id: String(Number(seen.id) + 2) })
      const end = beyond.events.next()
      ledgerApi.stop()
      expect(await end).toMatchObject({ done: true })
    })

    test('as an agent is told of its own and those below, and of nothing else', async () => {
      const { ledgerApi, transfer, ledger } = await start()
      const { events, leave } = await ledgerApi.follow(testCaller(agentOf('agt_bot')))
      await nextOf(events)
      await transfer({ tokens: 9, from: 'reserve', to: 'agt_sibling' })
      await ledger.grant({ accountId: 'acc_b', sort: 'bought', amount: 1, reason: 'x', key: 'x' })
      await transfer({ tokens: 1, from: 'agt_main', to: 'agt_bot' })
      expect((await nextOf(events)).data).toMatchObject({ to: 'agt_bot', tokens: 1 })
      leave()
    })

    test('goes on from no number that is none', async () => {
      const { call } = await start()
      for (const from of ['x', '-1', '1.5', '1e3']) {
        expect(await call('GET', `/events?from=${from}`)).toMatchObject({ code: 'invalid_request' })
      }
    })

    test('has as many streams as one may have, and gives the place back', async () => {
      const { ledgerApi } = await start()
      const follow = () => ledgerApi.follow(testCaller(owner))
      const streams = await Promise.all(Array.from({ length: readingLimits.streams.perActor }, follow))
      await expect(follow()).rejects.toMatchObject({ code: 'too_many_requests' })
      streams[0]!.leave()
      streams[0]!.leave()
      await follow()
      await expect(follow()).rejects.toMatchObject({ code: 'too_many_requests' })
      await ledgerApi.follow(testCaller(member))
    })
  })

  test('what another server of the same database writes is seen without being told', async () => {
    const servers = await openServers(2, { migrations: ledgerMigrations, log: silentLogger })
    const clock = manualClock(midNovember)
    const [one, other] = servers.map((database) => serve(database, clock))
    await one!.ledger.ensure('acc_a')
    const { events } = await one!.ledgerApi.follow(testCaller(owner))
    await events.next()
    const coming = events.next()
    await other!.call('POST', '/grants', {
      as: operator,
      body: { tokens: 5, sort: 'bought', reason: 'x', accountId: 'acc_a' },
    })
    await expect.poll(() => clock.sleepers).toBeGreaterThan(0)
    await clock.advance(readingLimits.pollMs)
    expect((await coming).value).toMatchObject({ event: 'transfer', data: { kind: 'grant', tokens: 5 } })
  })
})
