import { describe, expect, test } from 'vitest'
import { largestAmount } from './amounts.ts'
import type { Operation } from './operations.ts'
import { memoryLedger } from './testing.ts'

const accountId = 'acc_a'
const reserve = 'acc_a:reserve'
const base = { accountId, at: Date.UTC(2026, 10, 23) }
const purpose = { kind: 'model', agentId: 'agt_1' }

type Asked<Kind extends Operation> = Kind extends Operation ? Omit<Kind, 'accountId' | 'at'> : never

function start({ grantTokens = 1_000, period = '2026-11' } = {}) {
  const ledger = memoryLedger()
  const done = (asked: Asked<Operation>) => ledger.decide({ ...base, ...asked })
  done({ type: 'open_account', grantTokens, period, plan: 'free' })
  const agent = (purseId: string, { parentId = reserve, monthly = 0, tokens = 0 } = {}) => {
    done({ type: 'open_purse', purseId, kind: 'agent', parentId, monthly })
    if (tokens > 0) move(reserve, purseId, tokens)
  }
  let key = 0
  const move = (from: string, to: string, amount: number) =>
    done({ type: 'transfer', from, to, amount, reason: 'r', key: `move_${++key}` })
  const hold = (holdId: string, amount: number, payer = reserve) =>
    done({ type: 'hold', holdId, payer, amount, purpose, owner: 'srv_a' })
  const commit = (holdId: string, cost: number, excess?: 'absorb') =>
    done({ type: 'commit', holdId, lines: [{ meter: 'in', quantity: 1, cost }], rates: 'v', ...(excess && { excess }) })
  const charge = (cost: number, payer = reserve) =>
    done({
      type: 'charge',
      payer,
      lines: [{ meter: 'disk', quantity: 1, cost }],
      rates: 'v',
      purpose,
      key: `c_${++key}`,
    })
  const buy = (amount: number) => done({ type: 'grant', sort: 'bought', amount, reason: 'paid', key: `buy_${++key}` })
  const roll = (to: string, grant = 1_000) => done({ type: 'roll_over', period: to, grantTokens: grant })
  const of = (id: string) => {
    const { granted, bought, held, used } = ledger.account(id)!
    return { granted, bought, held, used }
  }
  const side = (kind: string) => ledger.account(`acc_a:${kind}`)!.granted + ledger.account(`acc_a:${kind}`)!.bought
  return { ...ledger, done, agent, move, hold, commit, charge, buy, roll, of, side }
}

describe('granted tokens are spent first', () => {
  test('by a hold, a commit and a transfer alike', () => {
    const { hold, commit, agent, move, buy, of } = start({ grantTokens: 100 })
    buy(50)
    agent('agt_1')
    hold('hld_1', 120)
    expect(of(reserve)).toEqual({ granted: 0, bought: 30, held: 120, used: 0 })
    expect(commit('hld_1', 90)).toMatchObject({ ok: true, amount: 90 })
    expect(of(reserve)).toEqual({ granted: 10, bought: 50, held: 0, used: 90 })
    move(reserve, 'agt_1', 25)
    expect(of('agt_1')).toMatchObject({ granted: 10, bought: 15 })
  })

  test('and come back last by a refund', () => {
    const { hold, commit, buy, done, of } = start({ grantTokens: 100 })
    buy(50)
    hold('hld_1', 120)
    commit('hld_1', 120)
    done({ type: 'refund', holdId: 'hld_1', amount: 15, reason: 'r', key: 'k1' })
    expect(of(reserve)).toMatchObject({ granted: 0, bought: 45, used: 105 })
    done({ type: 'refund', holdId: 'hld_1', amount: 10, reason: 'r', key: 'k2' })
    expect(of(reserve)).toMatchObject({ granted: 5, bought: 50, used: 95 })
    expect(done({ type: 'refund', holdId: 'hld_1', amount: 96, reason: 'r', key: 'k3' })).toEqual({
      ok: false,
      reason: 'refund_above_cost',
      available: 95,
    })
  })
})

describe('a hold', () => {
  test('of less will do where that was said', () => {
    const { done, of } = start({ grantTokens: 100 })
    const asked = { type: 'hold', holdId: 'hld_1', payer: reserve, amount: 150, purpose, owner: 'srv_a' } as const
    expect(done({ ...asked, atLeast: 101 })).toEqual({ ok: false, reason: 'balance_too_low', available: 100 })
    expect(done({ ...asked, atLeast: 100 })).toMatchObject({ ok: true, amount: 100 })
    expect(of(reserve)).toMatchObject({ granted: 0, held: 100 })
  })

  test('is the same when asked for again, whoever asks, and refused with anything else', () => {
    const { hold, done, commit, of } = start()
    const first = hold('hld_1', 10)
    expect(hold('hld_1', 10)).toEqual({ ...first, repeated: true })
    expect(hold('hld_1', 11)).toEqual({ ok: false, reason: 'hold_conflict' })
    commit('hld_1', 4)
    const again = { type: 'hold', holdId: 'hld_1', payer: reserve, amount: 10, purpose, owner: 'srv_b' } as const
    expect(done(again)).toEqual({ ...first, repeated: true })
    expect(of(reserve)).toMatchObject({ granted: 996, held: 0 })
  })

  test('is not released once it was sent, and over only once', () => {
    const { hold, commit, done } = start()
    hold('hld_1', 10)
    done({ type: 'sent', holdId: 'hld_1' })
    expect(done({ type: 'release', holdId: 'hld_1' })).toEqual({ ok: false, reason: 'hold_sent' })
    const first = commit('hld_1', 3)
    expect(commit('hld_1', 3)).toEqual({ ...first, repeated: true })
    expect(commit('hld_1', 4)).toEqual({ ok: false, reason: 'hold_over' })
    expect(done({ type: 'release', holdId: 'hld_1' })).toEqual({ ok: false, reason: 'hold_over' })
    hold('hld_2', 10)
    done({ type: 'release', holdId: 'hld_2' })
    expect(done({ type: 'release', holdId: 'hld_2' })).toMatchObject({ ok: true, repeated: true })
    expect(commit('hld_2', 0)).toEqual({ ok: false, reason: 'hold_over' })
    expect(done({ type: 'sent', holdId: 'hld_2' })).toEqual({ ok: false, reason: 'hold_over' })
  })

  test('of another account is nowhere', () => {
    const { hold, decide } = start()
    decide({ ...base, accountId: 'acc_b', type: 'open_account', grantTokens: 100, period: '2026-11', plan: 'free' })
    hold('hld_1', 10)
    const foreign = { ...base, accountId: 'acc_b', holdId: 'hld_1' }
    expect(decide({ ...foreign, type: 'release' })).toEqual({ ok: false, reason: 'hold_not_found' })
    const taken = { ...foreign, type: 'hold', payer: 'acc_b:reserve', amount: 10, purpose, owner: 'srv_a' } as const
    expect(decide(taken)).toEqual({ ok: false, reason: 'hold_conflict' })
    const reaching = { ...taken, holdId: 'hld_2', payer: reserve }
    expect(decide(reaching)).toEqual({ ok: false, reason: 'purse_not_found' })
  })
})

describe('what goes beyond a hold', () => {
  test('is refused, or the platform bears it: the payer never pays more', () => {
    const { hold, commit, of, side, sum } = start({ grantTokens: 100 })
    hold('hld_1', 60)
    expect(commit('hld_1', 61)).toEqual({ ok: false, reason: 'commit_above_hold', available: 60 })
    expect(commit('hld_1', 75, 'absorb')).toMatchObject({ ok: true, amount: 60, unpaid: 15 })
    expect(of(reserve)).toMatchObject({ granted: 40, used: 60 })
    expect([side('usage'), side('absorbed'), sum(accountId)]).toEqual([75, -15, 0])
  })
})

describe('what nobody could pay', () => {
  test('is owed, and nothing new is held until it is paid', () => {
    const { charge, hold, buy, of, side, sum } = start({ grantTokens: 100 })
    expect(charge(130)).toMatchObject({ ok: true, amount: 100, unpaid: 30 })
    expect(side('owed')).toBe(-30)
    buy(20)
    expect(of(reserve)).toMatchObject({ bought: 0, used: 120 })
    expect(hold('hld_1', 1)).toEqual({ ok: false, reason: 'account_owes' })
    buy(20)
    expect(side('owed')).toBe(0)
    expect(hold('hld_1', 10)).toMatchObject({ ok: true, amount: 10 })
    expect(sum(accountId)).toBe(0)
  })

  test('is paid by the next grant before anything else', () => {
    const { charge, roll, agent, of, side } = start({ grantTokens: 100 })
    agent('agt_1', { monthly: 80 })
    charge(150)
    expect(roll('2026-12', 100)).toMatchObject({ ok: true, unrenewed: ['agt_1'], filled: [reserve, 'agt_1'] })
    expect(side('owed')).toBe(0)
    expect(of('agt_1')).toMatchObject({ granted: 50 })
  })

  test('is paid on demand, as far as the reserve goes', () => {
    const { agent, charge, move, done, side, of } = start({ grantTokens: 100 })
    agent('agt_1', { tokens: 10 })
    charge(30, 'agt_1')
    expect(side('owed')).toBe(-20)
    move(reserve, 'agt_1', 85)
    expect(done({ type: 'pay_owed', key: 'k' })).toMatchObject({ ok: true, amount: 5 })
    expect([side('owed'), of(reserve).granted]).toEqual([-15, 0])
  })

  test('is paid by what somebody moves to the reserve', () => {
    const { agent, charge, hold, move, side, of } = start({ grantTokens: 100 })
    agent('agt_1', { tokens: 60 })
    charge(45)
    expect(move('agt_1', reserve, 3)).toMatchObject({ ok: true, amount: 3 })
    expect([side('owed'), of(reserve)]).toEqual([-2, { granted: 0, bought: 0, held: 0, used: 43 }])
    move('agt_1', reserve, 10)
    expect([side('owed'), of(reserve).granted]).toEqual([0, 8])
    expect(hold('hld_1', 8)).toMatchObject({ ok: true })
  })
})

describe('a roll-over', () => {
  test('ends what was granted, also what holds give back, and renews in order of creation', () => {
    const { agent, hold, commit, buy, roll, of, side, sum } = start({ grantTokens: 1_000 })
    agent('agt_1', { monthly: 700, tokens: 100 })
    agent('agt_2', { monthly: 400 })
    agent('agt_3', { monthly: 5 })
    buy(30)
    hold('hld_1', 60, 'agt_1')
    expect(roll('2026-12')).toMatchObject({ ok: true, amount: 1_000, unrenewed: ['agt_2', 'agt_3'] })
    expect(['agt_1', 'agt_2', 'agt_3'].map((id) => of(id).granted)).toEqual([700, 300, 0])
    expect(of(reserve)).toMatchObject({ granted: 0, bought: 30 })
    commit('hld_1', 20)
    expect(of('agt_1')).toEqual({ granted: 700, bought: 0, held: 0, used: 20 })
    expect([side('hold'), side('usage'), sum(accountId)]).toEqual([0, 20, 0])
  })

  test('is done once for each month, and never backwards', () => {
    const { roll, of } = start()
    roll('2026-12')
    for (const period of ['2026-12', '2026-11', '2020-01']) expect(roll(period)).toMatchObject({ repeated: true })
    expect(of(reserve).granted).toBe(1_000)
    expect(roll('2026-13')).toEqual({ ok: false, reason: 'amount_invalid' })
  })

  test('leaves bought tokens in a hold to be given back', () => {
    const { hold, commit, buy, roll, of } = start({ grantTokens: 10 })
    buy(100)
    hold('hld_1', 60)
    roll('2026-12', 10)
    commit('hld_1', 5)
    // 5 of 10 granted were spent, 5 expired; 50 bought come back.
    expect(of(reserve)).toEqual({ granted: 10, bought: 100, held: 0, used: 5 })
  })
})

describe('a hold whose owner has died', () => {
  test('is settled at what was observed, else whole, and corrected by what comes late', () => {
    const { hold, commit, done, of, side, sum } = start({ grantTokens: 200 })
    hold('hld_1', 50)
    done({ type: 'sent', holdId: 'hld_1', observed: 20 })
    hold('hld_2', 50)
    done({ type: 'sent', holdId: 'hld_2' })
    for (const holdId of ['hld_1', 'hld_2']) done({ type: 'settle', holdId })
    expect(of(reserve)).toMatchObject({ granted: 130, held: 0, used: 70 })
    expect(commit('hld_2', 10)).toMatchObject({ ok: true, amount: 10 })
    expect(commit('hld_1', 21)).toEqual({ ok: false, reason: 'commit_above_hold', available: 20 })
    expect(commit('hld_1', 21, 'absorb')).toMatchObject({ ok: true, amount: 20, unpaid: 1 })
    expect(of(reserve)).toMatchObject({ granted: 170, used: 30 })
    expect([side('refund'), side('absorbed'), sum(accountId)]).toEqual([-40, -1, 0])
  })

  test('is not given back twice where a person did before', () => {
    const { hold, commit, done, of } = start({ grantTokens: 100 })
    hold('hld_1', 50)
    done({ type: 'sent', holdId: 'hld_1' })
    done({ type: 'settle', holdId: 'hld_1' })
    done({ type: 'refund', holdId: 'hld_1', amount: 30, reason: 'r', key: 'k' })
    commit('hld_1', 10)
    expect(of(reserve)).toMatchObject({ granted: 90, used: 10 })
    expect(done({ type: 'refund', holdId: 'hld_1', amount: 11, reason: 'r', key: 'k2' })).toMatchObject({ ok: false })
  })
})

describe('archiving', () => {
  test('waits for the last hold, then gives what is left to the parent', () => {
    const { agent, hold, commit, move, done, of, account } = start()
    agent('agt_1', { tokens: 100 })
    hold('hld_1', 40, 'agt_1')
    expect(done({ type: 'archive', purseId: 'agt_1' })).toEqual({ ok: true, seq: 0, amount: 0 })
    expect(hold('hld_2', 1, 'agt_1')).toEqual({ ok: false, reason: 'purse_archived' })
    expect(move(reserve, 'agt_1', 1)).toEqual({ ok: false, reason: 'purse_archived' })
    expect(commit('hld_1', 15)).toMatchObject({ archived: 'agt_1', filled: [reserve] })
    expect(account('agt_1')).toMatchObject({ state: 'archived', granted: 0 })
    expect(of(reserve)).toMatchObject({ granted: 985 })
  })

  test('begins with the children', () => {
    const { agent, done } = start()
    agent('agt_1')
    agent('agt_2', { parentId: 'agt_1' })
    expect(done({ type: 'archive', purseId: 'agt_1' })).toEqual({ ok: false, reason: 'purse_has_children' })
    done({ type: 'archive', purseId: 'agt_2' })
    expect(done({ type: 'archive', purseId: 'agt_1' })).toMatchObject({ archived: 'agt_1' })
    expect(done({ type: 'archive', purseId: 'agt_1' })).toMatchObject({ archived: 'agt_1', repeated: true })
    expect(done({ type: 'archive', purseId: reserve })).toEqual({ ok: false, reason: 'purse_not_found' })
  })

  test('leaves later refunds and charges to what took its place', () => {
    const { agent, hold, commit, charge, done, of, account } = start()
    agent('agt_1', { tokens: 100 })
    agent('agt_2', { parentId: 'agt_1' })
    done({ type: 'transfer', from: 'agt_1', to: 'agt_2', amount: 50, reason: 'r', key: 'k' })
    hold('hld_1', 50, 'agt_2')
    commit('hld_1', 50)
    for (const purseId of ['agt_2', 'agt_1']) done({ type: 'archive', purseId })
    expect(done({ type: 'refund', holdId: 'hld_1', amount: 20, reason: 'r', key: 'k2' })).toMatchObject({
      amount: 20,
      filled: [reserve],
    })
    expect(charge(5, 'agt_2')).toMatchObject({ amount: 5, unpaid: 0 })
    expect(of(reserve)).toMatchObject({ granted: 965 })
    expect(account('agt_2')).toMatchObject({ granted: 0, used: 30 })
  })
})

describe('a key', () => {
  test('does the same once, and is refused for anything else', () => {
    const { done, of } = start()
    const grant = { type: 'grant', sort: 'bought', amount: 5, reason: 'r', key: 'k' } as const
    const first = done(grant)
    expect(done(grant)).toEqual({ ...first, repeated: true })
    expect(done({ ...grant, amount: 6 })).toEqual({ ok: false, reason: 'key_conflict' })
    expect(done({ type: 'pay_owed', key: 'k' })).toEqual({ ok: false, reason: 'key_conflict' })
    expect(of(reserve).bought).toBe(5)
  })

  test('of what was refused is free', () => {
    const { done, agent } = start({ grantTokens: 10 })
    agent('agt_1')
    const move = { type: 'transfer', from: reserve, to: 'agt_1', amount: 20, reason: 'r', key: 'k' } as const
    expect(done(move)).toEqual({ ok: false, reason: 'balance_too_low', available: 10 })
    done({ type: 'grant', sort: 'bought', amount: 10, reason: 'r', key: 'k2' })
    expect(done(move)).toMatchObject({ ok: true, amount: 20 })
  })
})

describe('faults', () => {
  test('of the engine fail the operation: a balance that is wrong is not gone on from', () => {
    const { account, hold, commit } = start()
    hold('hld_1', 10)
    account(reserve)!.held = 3
    expect(() => commit('hld_1', 5)).toThrow(/is below zero/)
  })

  test('a row that was not loaded is not taken for one that is not there', () => {
    const { book } = start()
    expect(() => book.account('agt_9')).toThrow(/was not loaded/)
  })

  test('more than can be counted is refused, and the month begins all the same', () => {
    const { done, buy, roll, of } = start({ grantTokens: 0 })
    expect(buy(largestAmount)).toMatchObject({ ok: true })
    expect(buy(1)).toEqual({ ok: false, reason: 'ledger_full' })
    expect(done({ type: 'charge', payer: reserve, lines: [], rates: 'v', purpose, key: 'k' })).toMatchObject({
      amount: 0,
    })
    expect(roll('2026-12', 5)).toMatchObject({ ok: true, amount: 0 })
    expect(of(reserve)).toMatchObject({ bought: largestAmount, granted: 0 })
  })
})
