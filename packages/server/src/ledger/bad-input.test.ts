import { expect, test } from 'vitest'
import { testDatabases } from '../kernel/db/testing.ts'
import { reserveId, sideId } from './book.ts'
import { ledgerMigrations } from './migrations.ts'
import { sideKinds, type Operation, type RefusalReason, type UsageLine } from './operations.ts'
import { createWorld, type World } from './testing/world.ts'

const at = Date.UTC(2026, 10, 23, 12)
const most = Number.MAX_SAFE_INTEGER

/** What is no amount: the text and the bigint come from whoever goes around the types. */
const noAmounts: readonly (readonly [string, unknown])[] = [
  ['a negative', -1],
  ['minus zero', -0],
  ['a fraction', 1.5],
  ['not a number', Number.NaN],
  ['infinity', Infinity],
  ['minus infinity', -Infinity],
  ['a text', '5'],
  ['2^53', 2 ** 53],
  ['2^53+2', 2 ** 53 + 2],
  ['2^63', 2 ** 63],
  ['2^53+1 as a bigint', 2n ** 53n + 1n],
  ['a bigint', 5n],
  ['null', null],
  ['true', true],
  ['a list', [5]],
]

const line = (cost: number): UsageLine => ({ meter: 'model_output', quantity: 1, cost })
const purpose = { kind: 'model' }
const owner = 'srv_1'

type Bad = readonly [name: string, operation: Operation, reason: RefusalReason]

testDatabases('bad input to the ledger', (open) => {
  test('is refused by name, and nothing is written', { timeout: 120_000 }, async () => {
    const world = createWorld(await open(ledgerMigrations))
    await begin(world)
    for (const [name, operation, reason] of allBad(world)) {
      expect(world.ask(operation), name).toMatchObject({ ok: false, reason })
      await sendOne(world, name)
    }
  })

  test('what was done is answered again, and nothing is written', { timeout: 120_000 }, async () => {
    const world = createWorld(await open(ledgerMigrations))
    await begin(world)
    for (const [name, operation] of again(world)) {
      expect(world.ask(operation), name).toMatchObject({ ok: true, repeated: true })
      await sendOne(world, name)
    }
  })

  test('takes no operation along that is sent with it', { timeout: 120_000 }, async () => {
    const world = createWorld(await open(ledgerMigrations))
    await begin(world)
    const [accountId] = world.accountIds
    for (const [index, [, operation]] of allBad(world).entries()) {
      const good = { type: 'transfer', accountId, at, from: reserveId(accountId), to: 'agt_one', amount: 1 } as const
      world.ask({ ...good, reason: 'before', key: `before ${index}` })
      world.ask(operation)
      world.ask({ ...good, reason: 'after', key: `after ${index}` })
    }
    await world.send()
  })
})

const allBad = (world: World) => [...amounts(world), ...states(world), ...sums(world)]

/** The world compares all tables with those before. */
async function sendOne(world: World, name: string): Promise<void> {
  await world.send().catch((cause: unknown) => {
    throw new Error(`${name}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  })
}

/** On the first account an agent with a task, one archived and one about to be, and a hold in each state; on the second an agent with a hold. */
async function begin({ accountIds: [accountId, foreignId], ...world }: World): Promise<void> {
  const base = { accountId, at }
  const foreign = { accountId: foreignId, at }
  const reserve = reserveId(accountId)
  const openAccount = { type: 'open_account', grantTokens: 1_000, period: '2026-11', plan: 'free' } as const
  const agent = { type: 'open_purse', kind: 'agent', parentId: reserve, monthly: 0 } as const
  const budget = (to: string): Operation => ({
    ...base,
    type: 'transfer',
    from: reserve,
    to,
    amount: 100,
    reason: 'budget',
    key: `budget ${to}`,
  })
  const hold = (holdId: string, payer = 'agt_one'): Operation => ({
    ...base,
    type: 'hold',
    holdId,
    payer,
    amount: 10,
    purpose,
    owner,
  })
  await world.inTurn([
    { ...base, ...openAccount },
    { ...foreign, ...openAccount },
    ...['agt_one', 'agt_archived', 'agt_closing'].map((purseId): Operation => ({ ...base, ...agent, purseId })),
    { ...base, type: 'open_purse', kind: 'task', parentId: 'agt_one', monthly: 0, purseId: 'tsk_one' },
    { ...foreign, ...agent, parentId: reserveId(foreignId), purseId: 'agt_foreign' },
    ...['agt_one', 'agt_archived', 'agt_closing'].map(budget),
    ...['hld_open', 'hld_sent', 'hld_committed', 'hld_released', 'hld_settled'].map((holdId) => hold(holdId)),
    hold('hld_closing', 'agt_closing'),
    { ...hold('hld_foreign', reserveId(foreignId)), ...foreign },
    { ...base, type: 'archive', purseId: 'agt_archived' },
    { ...base, type: 'archive', purseId: 'agt_closing' },
    { ...base, type: 'sent', holdId: 'hld_sent' },
    { ...base, type: 'commit', holdId: 'hld_committed', lines: [line(6)], rates: '1' },
    { ...base, type: 'release', holdId: 'hld_released' },
    { ...base, type: 'settle', holdId: 'hld_settled' },
  ])
}

function wordsOf({ accountIds: [accountId, foreignId] }: World) {
  const base = { accountId, at }
  return {
    grant: { ...base, type: 'grant', sort: 'bought', amount: 5, reason: 'trial', key: 'grant' },
    transfer: { ...base, type: 'transfer', from: 'agt_one', to: 'tsk_one', amount: 5, reason: 'wish', key: 'wish' },
    hold: { ...base, type: 'hold', holdId: 'hld_new', payer: 'agt_one', amount: 5, purpose, owner },
    sent: { ...base, type: 'sent', holdId: 'hld_open' },
    commit: { ...base, type: 'commit', holdId: 'hld_open', lines: [line(5)], rates: '1' },
    release: { ...base, type: 'release', holdId: 'hld_open' },
    settle: { ...base, type: 'settle', holdId: 'hld_open' },
    charge: { ...base, type: 'charge', payer: 'agt_one', lines: [line(5)], rates: '1', purpose, key: 'charge' },
    refund: { ...base, type: 'refund', holdId: 'hld_committed', amount: 5, reason: 'mended', key: 'refund' },
    purse: { ...base, type: 'open_purse', purseId: 'agt_new', kind: 'agent', parentId: 'agt_one', monthly: 5 },
    change: { ...base, type: 'change_purse', purseId: 'agt_one', monthly: 5 },
    archive: { ...base, type: 'archive', purseId: 'tsk_one' },
    account: { accountId: `${foreignId}x`, at, type: 'open_account', grantTokens: 5, period: '2026-11', plan: 'free' },
    rollOver: { ...base, type: 'roll_over', period: '2026-12', grantTokens: 5 },
    payOwed: { ...base, type: 'pay_owed', key: 'pay' },
  } as const satisfies Record<string, Operation>
}

/** The same with another value, whatever it is: types do not hold whoever sends it. */
function but(operation: Operation, field: string, value: unknown): Operation {
  return Object.assign(structuredClone(operation), { [field]: value })
}

function* amounts(world: World): Generator<Bad> {
  const { grant, transfer, hold, sent, commit, charge, refund, purse, change, account, rollOver } = wordsOf(world)
  for (const [name, value] of noAmounts) {
    for (const operation of [grant, transfer, hold, refund])
      yield [`${name} as the amount of ${operation.type}`, but(operation, 'amount', value), 'amount_invalid']
    for (const operation of [purse, change])
      yield [`${name} as the month of ${operation.type}`, but(operation, 'monthly', value), 'amount_invalid']
    for (const operation of [account, rollOver])
      yield [`${name} as the grant of ${operation.type}`, but(operation, 'grantTokens', value), 'amount_invalid']
    yield [`${name} as the least of a hold`, but(hold, 'atLeast', value), 'amount_invalid']
    yield [`${name} as what was observed`, but(sent, 'observed', value), 'amount_invalid']
    for (const operation of [commit, charge]) {
      const lines = [line(1), Object.assign(line(1), { cost: value })]
      yield [`${name} as the cost of ${operation.type}`, but(operation, 'lines', lines), 'amount_invalid']
    }
  }
  for (const operation of [grant, transfer, hold, refund])
    yield [`zero as the amount of ${operation.type}`, but(operation, 'amount', 0), 'amount_invalid']
  yield ['zero as the least of a hold', but(hold, 'atLeast', 0), 'amount_invalid']
  yield ['less than the least of a hold', but(hold, 'atLeast', 6), 'amount_invalid']
  for (const quantity of [-1, Number.NaN, Infinity, -Infinity, '5', null, 5n, -0, 2 ** 60]) {
    for (const operation of [commit, charge]) {
      const lines = [Object.assign(line(1), { quantity })]
      yield [
        `${String(quantity)} as the quantity of ${operation.type}`,
        but(operation, 'lines', lines),
        'amount_invalid',
      ]
    }
  }
}

function* states(world: World): Generator<Bad> {
  const [accountId, foreignId] = world.accountIds
  const reserve = reserveId(accountId)
  const { grant, transfer, hold, sent, commit, release, settle, charge, refund, purse, change, archive } =
    wordsOf(world)
  const everyone = Object.values(wordsOf(world)).filter(({ type }) => type !== 'open_account')
  for (const operation of everyone)
    yield [`${operation.type} of no account`, { ...operation, accountId: 'acc_none' }, 'ledger_account_not_found']

  for (const id of [
    'agt_none',
    'agt_foreign',
    reserveId(foreignId),
    ...sideKinds.map((kind) => sideId(accountId, kind)),
  ]) {
    yield [`a transfer from ${id}`, { ...transfer, from: id }, 'purse_not_found']
    yield [`a transfer to ${id}`, { ...transfer, to: id }, 'purse_not_found']
    yield [`a hold of ${id}`, { ...hold, payer: id }, 'purse_not_found']
    yield [`a charge of ${id}`, { ...charge, payer: id }, 'purse_not_found']
    yield [`a purse below ${id}`, { ...purse, parentId: id }, 'purse_not_found']
    yield [`another month for ${id}`, { ...change, purseId: id }, 'purse_not_found']
    yield [`an archive of ${id}`, { ...archive, purseId: id }, 'purse_not_found']
  }
  yield ['an archive of the reserve', { ...archive, purseId: reserve }, 'purse_not_found']
  for (const id of ['agt_foreign', reserve, sideId(accountId, 'grant'), sideId(foreignId, 'usage')])
    yield [`a purse by the name of ${id}`, { ...purse, purseId: id }, 'purse_exists']
  yield ['a purse by the name of another kind', { ...purse, purseId: 'tsk_one', parentId: 'agt_one' }, 'purse_exists']

  for (const id of ['agt_archived', 'agt_closing']) {
    yield [`a transfer to ${id}`, { ...transfer, to: id }, 'purse_archived']
    yield [`a hold of ${id}`, { ...hold, payer: id }, 'purse_archived']
    yield [`a purse below ${id}`, { ...purse, parentId: id }, 'purse_archived']
    yield [`another month for ${id}`, { ...change, purseId: id }, 'purse_archived']
  }
  yield ['a transfer from an archived purse', { ...transfer, from: 'agt_archived' }, 'purse_archived']
  yield ['an archive above what is not archived', { ...archive, purseId: 'agt_one' }, 'purse_has_children']

  for (const id of ['agt_one', reserve])
    yield [`a transfer from ${id} to itself`, { ...transfer, from: id, to: id }, 'transfer_to_itself']
  yield ['a transfer of more than there is', { ...transfer, amount: 10_000 }, 'balance_too_low']
  yield ['a hold of more than there is', { ...hold, amount: 10_000 }, 'balance_too_low']
  yield ['a hold of at least more than there is', { ...hold, amount: 10_000, atLeast: 9_999 }, 'balance_too_low']

  for (const holdId of ['hld_none', 'hld_foreign']) {
    for (const operation of [sent, commit, release, settle, refund])
      yield [`${operation.type} of ${holdId}`, { ...operation, holdId }, 'hold_not_found']
  }
  for (const holdId of ['hld_committed', 'hld_released', 'hld_settled']) {
    for (const operation of [sent, commit])
      yield [`${operation.type} of ${holdId}`, { ...operation, holdId }, 'hold_over']
  }
  yield ['a release after the commit', { ...release, holdId: 'hld_committed' }, 'hold_over']
  const first = { ...commit, holdId: 'hld_committed', lines: [line(6)] }
  const commits = [
    { lines: [line(7)] },
    { lines: [line(3), line(3)] },
    { estimated: true },
    { excess: 'absorb' },
  ] as const
  for (const other of commits)
    yield [`a commit that was done, with ${JSON.stringify(other)}`, { ...first, ...other }, 'hold_over']
  yield ['a release after it was sent', { ...release, holdId: 'hld_sent' }, 'hold_sent']
  yield ['a commit above the hold', { ...commit, lines: [line(6), line(5)] }, 'commit_above_hold']
  yield ['a refund above the cost', { ...refund, amount: 7 }, 'refund_above_cost']
  for (const holdId of ['hld_open', 'hld_sent', 'hld_released', 'hld_settled'])
    yield [`a refund of ${holdId}, which has cost nothing`, { ...refund, holdId, amount: 1 }, 'refund_above_cost']

  const known = { ...hold, holdId: 'hld_open', amount: 10 }
  const others = [{ amount: 11 }, { atLeast: 9 }, { payer: reserve }, { purpose: { kind: 'egress' } }]
  for (const other of others)
    yield [`the same hold with ${JSON.stringify(other)}`, { ...known, ...other }, 'hold_conflict']
  yield ['the same hold for an agent', { ...known, purpose: { ...purpose, agentId: 'agt_one' } }, 'hold_conflict']
  yield ['a hold by the name of a foreign one', { ...hold, holdId: 'hld_foreign' }, 'hold_conflict']
  const budget = { ...transfer, from: reserve, to: 'agt_one', amount: 100, reason: 'budget', key: 'budget agt_one' }
  const bodies = [{ amount: 99 }, { to: 'tsk_one' }, { from: 'tsk_one' }, { reason: 'other' }, { reference: 'apr_1' }]
  for (const other of bodies)
    yield [`the same key with ${JSON.stringify(other)}`, { ...budget, ...other }, 'key_conflict']
  for (const operation of [grant, charge, refund])
    yield [`the key of a transfer for ${operation.type}`, { ...operation, key: budget.key }, 'key_conflict']
}

function* sums(world: World): Generator<Bad> {
  const { grant, commit, charge } = wordsOf(world)
  for (const operation of [commit, charge]) {
    for (const lines of [
      [line(most), line(1)],
      [line(most), line(most), line(most)],
      [line(2 ** 52), line(2 ** 52)],
    ])
      yield [`${operation.type} of more than can be counted`, { ...operation, lines }, 'amount_invalid']
  }
  for (const sort of ['granted', 'bought'] as const) {
    yield [`a grant of ${sort} tokens beyond what can be counted`, { ...grant, sort, amount: most }, 'ledger_full']
    yield [`a grant of ${sort} tokens one beyond it`, { ...grant, sort, amount: most - 999 }, 'ledger_full']
  }
  yield ['a commit whose excess is beyond it', { ...commit, lines: [line(most)], excess: 'absorb' }, 'ledger_full']
  yield ['a charge that is owed beyond it', { ...charge, lines: [line(most)] }, 'ledger_full']
}

/** A later `at` is nothing else, and neither is another life of the caller. */
function* again(world: World): Generator<readonly [name: string, operation: Operation]> {
  const [accountId] = world.accountIds
  const { account, transfer, hold, commit, release, settle, purse, archive, rollOver } = wordsOf(world)
  const later = { at: at + 1_000 }
  yield ['the account', { ...account, ...later, accountId, grantTokens: 9 }]
  yield ['a purse', { ...purse, ...later, purseId: 'agt_closing', parentId: reserveId(accountId), monthly: 0 }]
  const budget = { from: reserveId(accountId), to: 'agt_one', amount: 100, reason: 'budget', key: 'budget agt_one' }
  yield ['a transfer', { ...transfer, ...later, ...budget }]
  yield ['a hold', { ...hold, ...later, holdId: 'hld_open', amount: 10, atLeast: 10, owner: 'srv_2' }]
  yield ['a hold that is over', { ...hold, ...later, holdId: 'hld_committed', amount: 10 }]
  yield ['a commit', { ...commit, ...later, holdId: 'hld_committed', lines: [line(6)] }]
  yield ['a release', { ...release, ...later, holdId: 'hld_released' }]
  for (const holdId of ['hld_committed', 'hld_released', 'hld_settled'])
    yield [`settling ${holdId}`, { ...settle, ...later, holdId }]
  for (const purseId of ['agt_archived', 'agt_closing'])
    yield [`an archive of ${purseId}`, { ...archive, ...later, purseId }]
  for (const period of ['2026-11', '2026-10', '1970-01'])
    yield [`the month ${period}`, { ...rollOver, ...later, period }]
}
