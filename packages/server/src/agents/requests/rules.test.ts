import { describe, expect, test } from 'vitest'
import type { AgentPrincipal, KeyPrincipal, UserPrincipal } from '../../access/principal.ts'
import { right, rightsOfRole } from '../../access/rights.ts'
import { testKeyPrincipal } from '../../access/testing.ts'
import { microPerToken } from '../../ledger/door.ts'
import { tokenRequestStates, type TokenRequestRecord } from './record.ts'
import {
  automaticTokens,
  deciderOf,
  hasTokensAgain,
  isOpen,
  mayAsk,
  mayDecide,
  maySee,
  type Member,
  stateOf,
  successors,
  wayOf,
} from './rules.ts'

const accountId = 'acc_a'
const agent = (agentId: string, changes: Partial<AgentPrincipal> = {}): AgentPrincipal => ({
  kind: 'agent',
  accountId,
  agentId,
  agentKind: 'main',
  jti: 'tok_a',
  rights: [right('allocate'), right('read:agents')],
  ...changes,
})
const person = (userId: string, changes: Partial<UserPrincipal> = {}): UserPrincipal => ({
  kind: 'user',
  accountId,
  userId,
  sessionId: 'ses_a',
  role: 'member',
  secondFactor: false,
  ...changes,
})
const key = (changes: Partial<KeyPrincipal> = {}) => testKeyPrincipal({ accountId, userId: 'usr_bert', ...changes })

const request = (changes: Partial<TokenRequestRecord> = {}): TokenRequestRecord => ({
  id: 'trq_a',
  accountId,
  agentId: 'agt_bot',
  line: ['agt_top', 'agt_main', 'agt_bot'],
  tokens: 50,
  reason: 'It is needed',
  automatic: false,
  state: 'pending_main',
  asker: {
    actorId: 'agt_bot',
    userId: null,
    ties: ['tok_a', 'key_a', 'usr_anna'],
    line: 'usr_anna/agt_bot',
    root: 'usr_anna',
  },
  mainId: 'agt_main',
  mainUntil: 400,
  endorsedBy: null,
  source: null,
  approvalId: null,
  askedAt: 100,
  expiresAt: 1_000,
  decidedBy: null,
  decidedAt: null,
  refusal: null,
  endedAt: null,
  failureCode: null,
  failureText: null,
  changed: 1,
  ...changes,
})

const member = (id: string, changes: Partial<Member> = {}): Member => ({
  id,
  kind: 'main',
  state: 'active',
  rights: [right('allocate')],
  confirmAbove: 10 * microPerToken,
  ...changes,
})

describe('who decides first', () => {
  const bot = member('agt_bot', { kind: 'bot' })
  test.each<[string, Member[], string | undefined]>([
    ['the nearest main agent', [member('agt_top'), member('agt_main'), bot], 'agt_main'],
    ['not the bot between', [member('agt_top'), member('agt_b', { kind: 'bot' }), bot], 'agt_top'],
    ['not one that is paused', [member('agt_top'), member('agt_main', { state: 'paused' }), bot], 'agt_top'],
    ['not one that is out of tokens', [member('agt_top'), member('agt_main', { state: 'suspended' }), bot], 'agt_top'],
    ['not one that is ending', [member('agt_main', { state: 'archiving' }), bot], undefined],
    ['not one that may give nothing', [member('agt_main', { rights: [] }), bot], undefined],
    ['nobody above a main agent at the top', [member('agt_top')], undefined],
    ['nobody decides on its own', [member('agt_top', { state: 'paused' }), member('agt_main')], undefined],
  ])('%s', (_what, line, expected) => {
    expect(deciderOf(line)?.id).toBe(expected)
  })
})

describe('asking', () => {
  test('for itself an agent may, for nobody else; for it who may change it', () => {
    expect(mayAsk(agent('agt_bot'), 'agt_bot')).toBe(true)
    expect(mayAsk(agent('agt_main'), 'agt_bot')).toBe(false)
    expect(mayAsk(agent('agt_sibling'), 'agt_bot')).toBe(false)
    expect(mayAsk(person('usr_anna'), 'agt_bot')).toBe(true)
    expect(mayAsk(person('usr_anna', { role: 'viewer' }), 'agt_bot')).toBe(false)
    expect(mayAsk(key({ rights: [right('request')] }), 'agt_bot')).toBe(false)
    expect(mayAsk(key({ agents: ['agt_other'] }), 'agt_bot')).toBe(false)
    expect(mayAsk(key({ agents: ['agt_bot'] }), 'agt_bot')).toBe(true)
  })
})

describe('seeing', () => {
  test.each([
    ['the agent itself', agent('agt_bot'), true],
    ['its main agent', agent('agt_main'), true],
    ['the one above that', agent('agt_top'), true],
    ['a sibling', agent('agt_sibling'), false],
    ['one below it', agent('agt_below'), false],
    ['an agent whose token is for others', agent('agt_main', { agents: ['agt_other'] }), false],
    ['a viewer', person('usr_v', { role: 'viewer' }), true],
    ['a key that may not look at agents', key({ rights: [right('read:files')] }), false],
    ['a key for another agent', key({ agents: ['agt_other'] }), false],
    ['another account', person('usr_b', { accountId: 'acc_b', role: 'owner' }), false],
    ['an agent of that name elsewhere', agent('agt_main', { accountId: 'acc_b' }), false],
  ])('%s', (_who, principal, expected) => {
    expect(maySee(principal, request())).toBe(expected)
  })
})

describe('deciding', () => {
  const approver = key({ rights: [right('approve:tokens')], keyId: 'key_b' })
  const cases: [string, Parameters<typeof mayDecide>[1]['caller']['principal'], Partial<TokenRequestRecord>, string][] =
    [
      ['its main agent', agent('agt_main'), {}, 'main'],
      ['a main agent further up', agent('agt_top'), {}, 'main'],
      ['a main agent once a person is asked', agent('agt_main'), { state: 'pending_user' }, 'decided'],
      ['the agent itself', agent('agt_bot'), {}, 'own'],
      [
        'the agent itself, asked by a person',
        agent('agt_bot'),
        { asker: { ...request().asker, actorId: 'usr_anna' } },
        'own',
      ],
      ['a sibling', agent('agt_sibling'), {}, 'not_main'],
      ['a main agent that may give nothing', agent('agt_main', { rights: [] }), {}, 'lacks_right'],
      ['a person, in place of main', person('usr_bert'), {}, 'user'],
      ['a person', person('usr_bert'), { state: 'pending_user' }, 'user'],
      ['the person whose agent asked', person('usr_anna'), {}, 'user'],
      ['a viewer', person('usr_v', { role: 'viewer' }), {}, 'lacks_right'],
      [
        'the person who asked',
        person('usr_anna'),
        { asker: { actorId: 'usr_anna', userId: 'usr_anna', ties: ['usr_anna'], line: 'usr_anna', root: 'usr_anna' } },
        'own',
      ],
      ['a key that approves tokens', approver, {}, 'user'],
      ['a key that approves something else', key({ rights: [right('approve:egress')] }), {}, 'lacks_right'],
      ['the key from which the agent descends', key({ keyId: 'key_a', rights: [right('approve')] }), {}, 'own'],
      [
        'another key of the person whose agent asked',
        key({ userId: 'usr_anna', rights: [right('approve')] }),
        {},
        'own',
      ],
      ['a key for some agents', key({ agents: ['agt_bot'] }), {}, 'lacks_right'],
      ['too late', person('usr_bert'), { expiresAt: 500 }, 'expired'],
      ['too late for main', agent('agt_main'), { expiresAt: 500 }, 'expired'],
      ...tokenRequestStates
        .filter((state) => state !== 'pending_main' && state !== 'pending_user')
        .flatMap((state): typeof cases => [
          [`main, of what is ${state}`, agent('agt_main'), { state }, state === 'expired' ? state : 'decided'],
          [`a person, of what is ${state}`, person('usr_bert'), { state }, state === 'expired' ? state : 'decided'],
        ]),
    ]
  test.each(cases)('%s', (_who, principal, changes, expected) => {
    const kind = principal.kind === 'agent' && principal.agentId !== 'agt_bot' ? ('main' as const) : ('bot' as const)
    const ruling = mayDecide(request(changes), { caller: { principal }, kind, tokens: 50, now: 500 })
    expect(ruling.ok ? ruling.as : ruling.reason).toBe(expected)
  })

  test('a bot above another decides nothing, whatever its rights', () => {
    const ruling = mayDecide(request(), { caller: { principal: agent('agt_main') }, kind: 'bot', tokens: 50, now: 500 })
    expect(ruling).toEqual({ ok: false, reason: 'not_main' })
  })

  test.each([49, 51, 5])('%i tokens instead of 50 are not what was asked for', (tokens) => {
    for (const principal of [agent('agt_main'), person('usr_bert')]) {
      const ruling = mayDecide(request(), { caller: { principal }, kind: 'main', tokens, now: 500 })
      expect(ruling).toEqual({ ok: false, reason: 'changed' })
    }
  })
})

describe('what becomes of main’s yes', () => {
  const free = 100 * microPerToken
  const facts = { rights: rightsOfRole('member'), confirmAbove: 10 * microPerToken, free }
  test.each<[string, number, Partial<Parameters<typeof wayOf>[1]>, string]>([
    ['up to the threshold it is enough', 10, {}, 'main'],
    ['one more needs a person', 11, {}, 'user main'],
    ['with a threshold of none each needs a person', 1, { confirmAbove: 0 }, 'user main'],
    ['within its right', 10, { rights: [right('allocate:10')] }, 'main'],
    ['beyond its right', 10, { rights: [right('allocate:9')] }, 'user main'],
    ['all that it has', 10, { free: 10 * microPerToken }, 'main'],
    ['more than it has comes from the reserve', 10, { free: 10 * microPerToken - 1 }, 'user reserve'],
    ['whatever its threshold', 101, { confirmAbove: 1_000 * microPerToken }, 'user reserve'],
  ])('%s', (_what, tokens, changes, expected) => {
    const way = wayOf(tokens, { ...facts, ...changes })
    expect(way.by === 'main' ? 'main' : `user ${way.from}`).toBe(expected)
  })
})

test('what is over has no successor, and everything open can end', () => {
  for (const state of tokenRequestStates) {
    const reached = new Set([state])
    for (const one of reached) for (const next of successors[one]) reached.add(next)
    expect([...reached].some((one) => !isOpen(one))).toBe(true)
    expect(successors[state].includes(state)).toBe(false)
  }
  expect(tokenRequestStates.filter(isOpen)).toEqual(['pending_main', 'pending_user', 'granting'])
})

test('it expires at its time, but not while tokens move', () => {
  expect(stateOf({ state: 'pending_main', expiresAt: 1_000 }, 999)).toBe('pending_main')
  expect(stateOf({ state: 'pending_user', expiresAt: 1_000 }, 1_000)).toBe('expired')
  expect(stateOf({ state: 'granting', expiresAt: 1_000 }, 2_000)).toBe('granting')
})

test.each([
  [1, 0, 1],
  [microPerToken, 0, 1],
  [microPerToken + 1, 0, 2],
  [500_000, 100 * microPerToken, 11],
])('%i micro-tokens refused with %i a month: %i tokens are asked for', (wanted, monthly, tokens) => {
  expect(automaticTokens(wanted, monthly)).toBe(tokens)
})

test('an agent goes on when it has more than it had, not when what was held comes back', () => {
  const low = { wanted: 1_000, had: 100 }
  expect(hasTokensAgain(low, { granted: 20, bought: 0, held: 80 })).toBe(false)
  expect(hasTokensAgain(low, { granted: 60, bought: 40, held: 0 })).toBe(false)
  expect(hasTokensAgain(low, { granted: 60, bought: 41, held: 0 })).toBe(true)
  expect(hasTokensAgain({ wanted: 90, had: 100 }, { granted: 60, bought: 30, held: 0 })).toBe(true)
})
