import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { events, failure, json, type Peer, startPeer } from '../../sdk/test/peer.ts'
import { bar, showTokens } from './budget.ts'
import { run } from './testing.ts'

let peer: Peer | undefined
beforeEach(() => void vi.stubEnv('DELTA_API_KEY', 'delta_test'))
afterEach(async () => {
  vi.unstubAllEnvs()
  await peer?.close()
  peer = undefined
})

async function against(...answers: Parameters<typeof startPeer>) {
  peer = await startPeer(...answers)
  const { url, requests } = peer
  const delta = (...args: string[]) => run(['--url', url, 'budget', ...args])
  const asked = () =>
    requests.map(({ method, target, body }) => [method, target, body === '' ? null : (JSON.parse(body) as object)])
  return { delta, asked, requests }
}

const purse = {
  id: 'reserve',
  kind: 'reserve',
  parentId: null,
  depth: 0,
  state: 'open',
  granted: 900,
  bought: 0,
  held: 0,
  used: 100,
  monthlyTokens: 0,
}
const ledger = {
  accountId: 'acc_a',
  period: '2026-11',
  endsAt: '2026-12-01T00:00:00.000Z',
  total: { granted: 900, bought: 0, held: 0, used: 100 },
  owed: 0,
  purses: [
    purse,
    { ...purse, id: 'agt_a', kind: 'agent', depth: 1, granted: 0.001, used: 59.999, held: 40, monthlyTokens: 100 },
  ],
  whole: true,
}
const written = { seq: 12, tokens: 5, repeated: false }
const entry = {
  seq: 7,
  at: '2026-11-16T12:00:00.000Z',
  kind: 'transfer',
  from: 'reserve',
  to: 'agt_a',
  tokens: 5,
  sort: 'granted',
  holdId: null,
  reference: null,
  reason: 'For \u001b[2Jit',
}
const hold = {
  id: 'hld_a',
  purseId: 'agt_a',
  state: 'open',
  kind: 'sandbox',
  agentId: 'agt_a',
  taskId: null,
  sandboxId: 'sbx_a',
  tokens: 3,
  cost: null,
  refunded: 0,
  at: '2026-11-16T12:00:00.000Z',
  endedAt: null,
}
const usage = {
  from: null,
  agentId: 'agt_a',
  taskId: null,
  sandboxId: null,
  kind: null,
  meter: 'sandbox_cpu_seconds',
  quantity: 2,
  tokens: 1.5,
  estimated: 0,
}

test('alone it shows the tree with what is left of what there was', async () => {
  const agents = { data: [{ id: 'agt_a', name: 'Shop' }], nextCursor: null }
  const { delta, asked } = await against(json(200, ledger), json(200, agents))
  const { stdout, exitCode } = await delta()
  expect(exitCode).toBe(0)
  expect(asked().map(([, target]) => target)).toEqual(['/v1/ledger', '/v1/agents?limit=500'])
  expect(stdout.split('\n').slice(2, 5)).toEqual([
    'PURSE    NAME  LEFT          TOKENS  GRANTED  BOUGHT  HELD  USED  MONTHLY',
    'reserve        [#########.]  900     900      0       0     100',
    '  agt_a  Shop  [#.........]  <0.01   <0.01    0       40    60    100',
  ])
  expect(stdout).toContain('2026-12-01')
  expect(stdout).not.toContain('owed')
})

test('of a part it says what is owed, and where there is more, also where agents may not be looked at', async () => {
  const { delta, asked } = await against(
    json(200, { ...ledger, owed: 2.5, whole: false }),
    failure(403, 'forbidden'),
    json(200, ledger),
  )
  const { stdout } = await delta('agt_a', '--archived')
  expect(asked()[0]).toEqual(['GET', '/v1/ledger?purseId=agt_a&archived=true', null])
  expect(JSON.parse((await delta('show', '--json')).stdout)).toEqual(ledger)
  expect(asked()).toHaveLength(3)
  expect(stdout).toContain('2.5 tokens are owed')
  expect(stdout).toContain('There are more')
})

describe('usage', () => {
  test('is added up as asked, with a sum', async () => {
    const { delta, requests } = await against(
      json(200, { data: [usage, { ...usage, agentId: null }], nextCursor: null }),
    )
    const { stdout } = await delta('usage', '--by', 'agent,meter', '--from', '2026-11-01', '--sandbox', 'sbx_a')
    expect(Object.fromEntries(new URL(requests[0]!.target, 'http://x').searchParams)).toEqual({
      groupBy: 'agent,meter',
      from: '2026-11-01T00:00:00.000Z',
      sandboxId: 'sbx_a',
      limit: '500',
    })
    expect(stdout.split('\n').slice(0, 3)).toEqual([
      'AGENT  METER                QUANTITY  TOKENS  ESTIMATED',
      'agt_a  sandbox_cpu_seconds  2         1.5',
      '-      sandbox_cpu_seconds  2         1.5',
    ])
    expect(stdout).toContain('3 tokens')
  })

  test('as a table is what the server writes, byte for byte', async () => {
    const table = 'from,agent\r\n,agt_a\r\n'
    const { delta, requests } = await against((_, response) => void response.end(table))
    expect((await delta('usage', '--by', 'agent', '--csv')).stdout).toBe(table)
    expect(requests[0]!.target).toBe('/v1/ledger/usage?groupBy=agent&format=csv')
  })

  test.each([
    ['--by', 'account'],
    ['--from', 'yesterday'],
  ])('%s %s is wrong usage, told without a request', async (...args) => {
    const { delta, requests } = await against()
    const { exitCode, stderr } = await delta('usage', ...args)
    expect(exitCode).toBe(2)
    expect(stderr).toContain(args[1])
    expect(requests).toEqual([])
  })
})

test('transfer, grant and refund say what to whom and why, with a key', async () => {
  const { delta, asked, requests } = await against(
    json(201, written),
    json(201, { ...written, repeated: true }),
    json(201, written),
  )
  expect((await delta('transfer', '5', 'reserve', 'agt_a', 'for', 'it', '--key', 'k')).stdout).toBe(
    '5 tokens moved from reserve to agt_a (entry 12)\n',
  )
  expect((await delta('grant', '5', '--bought', '--account', 'acc_b', 'Invoice 7')).stdout).toContain('before already')
  await delta('refund', 'hld_a', '0.5')
  expect(asked()).toEqual([
    ['POST', '/v1/ledger/transfers', { tokens: 5, from: 'reserve', to: 'agt_a', reason: 'for it' }],
    ['POST', '/v1/ledger/grants', { tokens: 5, sort: 'bought', reason: 'Invoice 7', accountId: 'acc_b' }],
    ['POST', '/v1/ledger/refunds', { holdId: 'hld_a', tokens: 0.5, reason: 'By hand' }],
  ])
  expect(requests[0]!.headers['idempotency-key']).toBe('k')
})

test('history and holds are listed up to a limit, with nothing that a terminal would obey', async () => {
  const page = (data: unknown[]) => json(200, { data, nextCursor: 'more' })
  const { delta, asked } = await against(page([entry, entry]), page([hold, hold]))
  const history = await delta('history', '--limit', '2', '--purse', 'agt_a', '--kind', 'transfer')
  expect(history.stdout).toContain('For \\x1b[2Jit')
  const holds = await delta('holds', '--limit', '1', '--json')
  expect(JSON.parse(holds.stdout)).toEqual([hold])
  expect(asked().map(([, target]) => target)).toEqual([
    '/v1/ledger/transfers?purseId=agt_a&kind=transfer&limit=2',
    '/v1/ledger/holds?state=open&limit=1',
  ])
})

test('watch prints each entry as it comes, as a line or as JSON', async () => {
  const stream = events([
    { event: 'position', id: 6, data: { seq: 6 } },
    { event: 'transfer', id: 7, data: entry },
  ])
  const { delta, requests } = await against(stream, failure(401, 'unauthorized'))
  const { stdout } = await delta('watch', '--from', '6')
  expect(stdout).toBe('7 2026-11-16T12:00:00.000Z transfer reserve -> agt_a 5 granted For \\x1b[2Jit\n')
  expect(requests.map(({ target }) => target)).toEqual(['/v1/ledger/events?from=6', '/v1/ledger/events?from=7'])
})

test('forecast, rates and plans are shown, and an unknown plan is no request', async () => {
  const reckoned = {
    spent: 7,
    perDay: 7,
    expected: 101.5,
    available: 34,
    short: 47,
    runsOutAt: '2026-11-23T00:00:00.000Z',
  }
  const found = {
    period: '2026-11',
    at: 'now',
    endsAt: 'then',
    total: reckoned,
    agents: [{ agentId: 'agt_a', ...reckoned }],
  }
  const rates = { version: '1', tokenUsd: 0.01, data: [{ meter: 'sms', unit: 'SMS', perMillion: 790_000 }] }
  const plan = { plan: 'pro', agents: 10, sandboxHours: null, grantTokens: 1_000 }
  const { delta, asked } = await against(json(200, found), json(200, rates), json(200, plan), json(200, plan))
  expect((await delta('forecast')).stdout).toMatch(/agt_a +7 +7 +101.5 +34 +47 +2026-11-23/)
  expect((await delta('rates')).stdout).toMatch(/sms +SMS +790000/)
  expect((await delta('plan')).stdout).toMatch(/agents +10\nsandbox hours +no limit/)
  await delta('plan', 'pro', '--account', 'acc_b')
  expect((await delta('plan', 'gold')).exitCode).toBe(2)
  expect(asked().slice(2)).toEqual([
    ['GET', '/v1/ledger/plan', null],
    ['PUT', '/v1/ledger/plan', { plan: 'pro', accountId: 'acc_b' }],
  ])
})

test('a bar is empty only where nothing is left, and full only where nothing is gone', () => {
  expect([bar(0, 0), bar(0, 5), bar(1, 1_000), bar(1_000, 1), bar(5, 0)]).toEqual([
    '[..........]',
    '[..........]',
    '[#.........]',
    '[#########.]',
    '[##########]',
  ])
  expect([0, 0.001, -0.001, 1234.567, 0.01].map(showTokens)).toEqual(['0', '<0.01', '>-0.01', '1,234.57', '0.01'])
})
