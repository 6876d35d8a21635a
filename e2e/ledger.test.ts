import { Delta } from '@delta-agents/sdk'
import { afterAll, expect, test } from 'vitest'
import { cli, delta, refusal, request, url } from './target.ts'

const watching = new AbortController()
afterAll(() => watching.abort())

test('tokens are given once for each key, and are in the tree, the journal and delta budget', async () => {
  const before = await delta.ledger.get()
  expect(before.purses[0]).toMatchObject({ id: 'reserve', kind: 'reserve', depth: 0, parentId: null })
  const wish = { tokens: 7, sort: 'bought', reason: 'To test', idempotencyKey: `e2e-${crypto.randomUUID()}` } as const
  const made = await delta.ledger.grant(wish)
  expect(made).toMatchObject({ tokens: 7, repeated: false })
  expect(await delta.ledger.grant(wish)).toEqual({ ...made, repeated: true })
  expect(await refusal(delta.ledger.grant({ ...wish, tokens: 8 }))).toMatchObject({ code: 'key_conflict' })
  const after = await delta.ledger.get({ purseId: 'reserve' })
  expect(after.purses[0]!.bought).toBe(before.purses[0]!.bought + 7)
  const seen = []
  for await (const entry of delta.ledger.transfers({ kind: 'grant' })) if (seen.push(entry) === 1) break
  expect(seen).toMatchObject([
    { seq: made.seq, from: 'grant', to: 'reserve', tokens: 7, sort: 'bought', reason: 'To test' },
  ])

  const given = await cli(['budget', 'grant', '3', '--bought', 'By', 'hand'])
  expect(given).toMatchObject({
    exitCode: 0,
    stdout: expect.stringMatching(/^3 tokens given to the reserve \(entry \d+\)\n$/),
  })
  const shown = await cli(['budget'])
  expect(shown.stdout).toMatch(/^PURSE +NAME +LEFT +TOKENS/m)
  expect(shown.stdout).toMatch(/^reserve +\[#+\.*\]/m)
  const history = await cli(['budget', 'history', '--kind', 'grant', '--limit', '2', '--json'])
  expect(JSON.parse(history.stdout)).toMatchObject([{ tokens: 3, reason: 'By hand' }, { tokens: 7 }])
})

test('what is no amount, or no purse, moves nothing and is refused by name', async () => {
  const { purses } = await delta.ledger.get()
  const move = (tokens: number, from: string, to: string) => delta.ledger.transfer({ tokens, from, to, reason: 'x' })
  for (const tokens of [0, -1, 0.5, 2 ** 53]) {
    expect(await refusal(move(tokens, 'reserve', 'agt_nobody'))).toMatchObject({ code: 'amount_invalid', status: 400 })
  }
  expect(await refusal(move(1, 'reserve', 'agt_nobody'))).toMatchObject({ code: 'purse_not_found', status: 404 })
  expect(await refusal(move(1, 'reserve', 'reserve'))).toMatchObject({ code: 'transfer_to_itself' })
  const told = await cli(['budget', 'transfer', '1', 'reserve', 'agt_nobody'])
  expect(told).toMatchObject({ exitCode: 1, stderr: expect.stringContaining('There is no purse agt_nobody') })
  expect((await delta.ledger.get()).purses[0]!.bought).toBe(purses[0]!.bought)
})

test('who follows the journal is told of each entry, and goes on after the last one that was seen', async () => {
  const grant = async (tokens: number) =>
    (await delta.ledger.grant({ tokens, sort: 'bought', reason: 'To follow' })).seq
  const seqs = [await grant(1), await grant(2)]
  const told: number[] = []
  for await (const { seq } of delta.ledger.follow({ from: seqs[0]! - 1, signal: watching.signal })) {
    if (told.push(seq) === 2) break
  }
  expect(told).toEqual(seqs)
  const cut = await request('/v1/ledger/events', { headers: { 'last-event-id': String(seqs[0]) } })
  expect(cut.headers.get('content-type')).toContain('text/event-stream')
  const reader = cut.body!.getReader()
  let text = ''
  while (!text.includes('event: transfer')) text += Buffer.from((await reader.read()).value!).toString()
  await reader.cancel()
  expect(text).toContain(`event: position\nid: ${seqs[0]}\n`)
  expect(text).toContain(`event: transfer\nid: ${seqs[1]}\n`)
})

test('usage comes as JSON and as a table, with a forecast of it', async () => {
  const usage = await delta.ledger.usage({ groupBy: ['kind', 'meter', 'day'] }).all()
  const table = await cli(['budget', 'usage', '--by', 'kind,meter,day', '--csv'])
  const [head, ...lines] = table.stdout.trimEnd().split('\r\n')
  expect(head).toBe('from,agent,task,sandbox,kind,meter,quantity,tokens,estimated')
  expect(lines.length).toBeGreaterThanOrEqual(usage.length)
  const { total, endsAt, period } = await delta.ledger.forecast()
  expect(new Date(endsAt).getTime()).toBeGreaterThan(Date.now())
  expect(period).toMatch(/^\d{4}-\d{2}$/)
  expect(total.expected).toBeGreaterThanOrEqual(total.spent)
  expect((await cli(['budget', 'forecast'])).stdout).toContain('BY THE END')
  expect((await delta.ledger.rates()).data.map(({ meter }) => meter)).toContain('sandbox_cpu_seconds')
  expect(await delta.ledger.plan()).toMatchObject({ plan: 'enterprise', agents: null })
})

test('tokens go from the reserve to an agent and on to its bot, and no further than each may see', async () => {
  const main = await delta.agents.create({ name: 'Budget', config: { memoryMb: 128, tokenBudget: 50 } })
  try {
    const bot = await delta.agents.createBot({
      name: 'Spender',
      parentAgent: main,
      type: 'email',
      task: 'Answer questions',
      rights: ['read:billing', 'allocate:10'],
    })
    const key = `e2e-${crypto.randomUUID()}`
    const wish = ['budget', 'transfer', '5', 'reserve', main.id, 'For', 'the', 'release', '--key', key]
    expect((await cli(wish)).stdout).toMatch(/^5 tokens moved from reserve to agt_\S+ \(entry \d+\)\n$/)
    expect((await cli(wish)).stdout).toContain('before already')
    await delta.ledger.transfer({ tokens: 15, from: main.id, to: bot.id, reason: 'To answer' })
    const { purses } = await delta.ledger.get({ purseId: main.id })
    expect(purses).toMatchObject([
      { id: main.id, depth: 0, granted: 40 },
      { id: bot.id, depth: 1, parentId: main.id, granted: 15 },
    ])
    expect(await delta.ledger.transfers({ purseId: bot.id }).all()).toMatchObject([
      { from: main.id, to: bot.id, tokens: 15 },
    ])

    const { token } = await delta.agentTokens.create({ agentId: bot.id, rights: ['read:billing', 'allocate:10'] })
    const own = new Delta({ url, apiKey: token, maxRetries: 0 })
    expect(await own.ledger.get()).toMatchObject({ purses: [{ id: bot.id, granted: 15 }], owed: null })
    expect(await own.ledger.transfers().all()).toHaveLength(1)
    const move = (from: string, to: string) => own.ledger.transfer({ tokens: 1, from, to, reason: 'x' })
    expect(await refusal(move('reserve', bot.id))).toMatchObject({ code: 'forbidden' })
    for (const from of [main.id, 'agt_nobody']) {
      expect(await refusal(move(from, bot.id))).toMatchObject({ code: 'purse_not_found' })
    }
    expect(await refusal(own.ledger.grant({ tokens: 1, sort: 'bought', reason: 'x' }))).toMatchObject({
      code: 'forbidden',
    })
  } finally {
    const { purses } = await delta.ledger.get({ purseId: main.id })
    for (const { id } of purses.toReversed()) await (await delta.agents.get(id)).archive()
  }
  expect((await delta.ledger.get({ purseId: main.id, archived: true })).purses[0]).toMatchObject({ granted: 0 })
})
