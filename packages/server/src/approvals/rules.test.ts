import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { testCaller, testKeyPrincipal } from '../access/testing.ts'
import type { Principal, Role } from '../access/principal.ts'
import { right } from '../access/rights.ts'
import { type ApprovalRecord, approvalStates, type Asker } from './record.ts'
import { askerOf, canonical, hashOf, isAsker, isOwn, mayDecide, maySee, stateOf, successors } from './rules.ts'

describe('the one text of an action', () => {
  test('has its names sorted and no spaces', () => {
    expect(canonical({ kind: 'x', b: [1, { z: null, a: true }], 10: 'ä"\n', 9: 0.5 })).toBe(
      '{"10":"ä\\"\\n","9":0.5,"b":[1,{"a":true,"z":null}],"kind":"x"}',
    )
  })

  test('is the same however it was put together, says the same, and differs where the action does', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.jsonValue(), (one, other) => {
        const text = canonical(one as never)
        expect(JSON.parse(text)).toEqual(JSON.parse(JSON.stringify(one)))
        expect(canonical(JSON.parse(text) as never)).toBe(text)
        expect(canonical(shuffled(one) as never)).toBe(text)
        const same = canonical(other as never) === text
        expect(hashOf(canonical(other as never)) === hashOf(text)).toBe(same)
      }),
    )
  })

  test('is hashed as it is sent', () => {
    const text = '{"kind":"ä"}'
    expect(hashOf(text)).toBe(createHash('sha256').update(Buffer.from(text, 'utf8')).digest('hex'))
  })
})

function shuffled(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(shuffled)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value)
      .toReversed()
      .map(([name, one]) => [name, shuffled(one)]),
  )
}

const person = (userId: string, role: Role = 'member', accountId = 'acc_a', secondFactor = false): Principal => ({
  kind: 'user',
  accountId,
  userId,
  sessionId: `ses_${userId}`,
  role,
  secondFactor,
})
const key = (keyId: string, userId: string | undefined, rights: string[], more: object = {}): Principal =>
  testKeyPrincipal({
    accountId: 'acc_a',
    keyId,
    role: 'member',
    ...(userId !== undefined && { userId }),
    rights: rights.map(right),
    ...more,
  })
const agent = (agentId: string): Principal => ({
  kind: 'agent',
  accountId: 'acc_a',
  agentId,
  agentKind: 'main',
  jti: 'tok_a',
  rights: [right('approve'), right('request')],
})

const record = (changes: Partial<ApprovalRecord> = {}) => ({
  accountId: 'acc_a',
  kind: 'egress',
  sandboxId: 'sbx_a',
  asker: {
    actorId: 'agt_a',
    userId: null,
    ties: ['tok_a', 'ses_usr_anna', 'usr_anna'],
    line: 'key_default/agt_a',
    root: 'usr_anna',
  },
  state: 'pending' as const,
  expiresAt: 1_000,
  actionHash: 'a'.repeat(64),
  ...changes,
})
const ask = (principal: Principal, changes: Partial<ApprovalRecord> = {}, more: object = {}) => {
  const ruling = mayDecide(record(changes), {
    looker: testCaller(principal),
    hasSecondFactor: false,
    actionHash: 'a'.repeat(64),
    mayStillAsk: true,
    now: 0,
    ...more,
  })
  return ruling.ok ? 'ok' : ruling.reason
}

describe('who decides', () => {
  test('a session of a member and above, a key that has it for that kind, and nobody else', () => {
    expect(ask(person('usr_bert'))).toBe('ok')
    expect(ask(person('usr_bert', 'owner'))).toBe('ok')
    expect(ask(key('key_b', 'usr_bert', ['approve:*']))).toBe('ok')
    expect(ask(key('key_b', 'usr_bert', ['approve:egress']))).toBe('ok')
    expect(ask(key('key_b', 'usr_bert', ['approve:tokens', 'read:*', 'write:*']))).toBe('hidden')
    expect(ask(key('key_b', 'usr_bert', ['approve:*'], { role: 'viewer' }))).toBe('hidden')
    expect(ask(person('usr_bert', 'viewer'))).toBe('hidden')
    expect(ask(person('usr_bert', 'owner', 'acc_b'))).toBe('hidden')
    expect(ask(agent('agt_b'))).toBe('hidden')
    expect(ask(agent('agt_a'))).toBe('lacks_right')
  })

  test('a key that is limited decides only on what is about its sandboxes', () => {
    const limited = (more: object) => key('key_b', 'usr_bert', ['approve:*'], more)
    expect(ask(limited({ sandboxes: ['sbx_a'] }))).toBe('ok')
    expect(ask(limited({ sandboxes: ['sbx_b'] }))).toBe('hidden')
    expect(ask(limited({ sandboxes: ['sbx_a'] }), { sandboxId: null })).toBe('hidden')
    expect(ask(limited({ agents: ['agt_a'] }))).toBe('hidden')
  })

  test('nobody on their own: neither as themselves nor by a key of theirs', () => {
    const asked = (actorId: string, userId: string | null, ties: string[] = []) => ({
      asker: { actorId, userId, ties: [actorId, ...ties], line: actorId, root: userId ?? 'key_default' },
    })
    expect(ask(person('usr_anna'), asked('usr_anna', 'usr_anna'))).toBe('own')
    expect(ask(person('usr_anna'), asked('key_a', 'usr_anna'))).toBe('own')
    expect(ask(key('key_a', 'usr_anna', ['approve:*']), asked('key_a', 'usr_anna'))).toBe('own')
    expect(ask(key('key_b', 'usr_anna', ['approve:*']), asked('key_a', 'usr_anna'))).toBe('own')
    expect(ask(key('key_b', 'usr_anna', ['approve:*']), asked('usr_anna', 'usr_anna'))).toBe('own')
    expect(ask(person('usr_bert'), asked('usr_anna', 'usr_anna'))).toBe('ok')
  })

  test('a person on what their agent asks, and no key from which the agent descends', () => {
    const ties = ['tok_a', 'key_a', 'key_root', 'usr_anna']
    const asker: Asker = { actorId: 'agt_a', userId: null, ties, line: 'usr_anna/agt_a', root: 'usr_anna' }
    expect(ask(person('usr_anna'), { asker })).toBe('ok')
    for (const keyId of ['key_a', 'key_root', 'key_other']) {
      expect(ask(key(keyId, 'usr_anna', ['approve:*']), { asker })).toBe('own')
    }
    expect(ask(key('key_root', undefined, ['approve:*']), { asker })).toBe('own')
    expect(ask(key('key_b', 'usr_bert', ['approve:*']), { asker })).toBe('ok')
  })

  test('with the second factor where there is one', () => {
    expect(ask(person('usr_bert'), {}, { hasSecondFactor: true })).toBe('second_factor')
    expect(ask(person('usr_bert', 'member', 'acc_a', true), {}, { hasSecondFactor: true })).toBe('ok')
  })

  test('not for whoever may not ask any more; to refuse it they need not', () => {
    expect(ask(person('usr_bert'), {}, { mayStillAsk: false })).toBe('gone')
    expect(ask(person('usr_bert'), {}, { mayStillAsk: false, actionHash: undefined })).toBe('ok')
    expect(ask(person('usr_bert', 'viewer'), {}, { mayStillAsk: false })).toBe('hidden')
  })

  test('an agent sees what it asked with another token, and nothing of one that was given its name', () => {
    const token = (ties: string[], above: string[] = []) => ({ ...testCaller(agent('agt_bot')), ties, above })
    const asked = askerOf(token(['tok_a', 'key_a', 'tok_m', 'usr_anna'], ['agt_main']))
    expect(asked).toMatchObject({ line: 'usr_anna/agt_main/agt_bot', root: 'usr_anna' })
    expect(isAsker(token(['tok_b', 'key_a', 'tok_n', 'usr_anna'], ['agt_main']), asked)).toBe(true)
    expect(isAsker(token(['tok_b', 'key_a', 'usr_anna'], ['agt_main', 'agt_sibling']), asked)).toBe(false)
    expect(isAsker(token(['tok_b', 'key_b', 'usr_bert'], ['agt_main']), asked)).toBe(false)
    expect(isAsker(token(['tok_b', 'key_a', 'usr_anna']), asked)).toBe(false)
  })

  test('on what they saw, in time, once', () => {
    expect(ask(person('usr_bert'), {}, { actionHash: 'b'.repeat(64) })).toBe('changed')
    expect(ask(person('usr_bert'), {}, { now: 999 })).toBe('ok')
    expect(ask(person('usr_bert'), {}, { now: 1_000 })).toBe('expired')
    for (const state of approvalStates) {
      if (state === 'pending') continue
      expect(ask(person('usr_bert'), { state })).toBe(state === 'expired' ? 'expired' : 'decided')
    }
  })
})

test('whatever is over has no successor, and everything ends', () => {
  for (const state of approvalStates) {
    for (const next of successors[state]) expect(next).not.toBe('pending')
    const isOpen = state === 'pending' || state === 'approved'
    expect(successors[state].length > 0).toBe(isOpen)
  }
})

// The same said another way: whatever two parties and whatever request, these hold.
test('for any parties and requests', () => {
  const users = fc.constantFrom('usr_anna', 'usr_bert')
  const roles = fc.constantFrom<Role>('owner', 'admin', 'member', 'viewer')
  const rights = fc.subarray(['approve:*', 'approve:egress', 'approve:tokens', 'request', 'read:*', 'write:*'])
  const accounts = fc.constantFrom('acc_a', 'acc_b')
  const principals = fc.oneof(
    fc.tuple(users, roles, accounts, fc.boolean()).map(([user, ...rest]) => person(user, ...rest)),
    fc
      .tuple(fc.constantFrom('key_a', 'key_b'), fc.option(users, { nil: undefined }), rights, roles, accounts)
      .map(([keyId, user, own, role, accountId]) => key(keyId, user, own, { role, accountId })),
    fc.constantFrom('agt_a', 'agt_b').map(agent),
  )
  const askers = fc
    .tuple(fc.constantFrom('usr_anna', 'key_a', 'agt_a'), fc.option(users), fc.subarray(['key_b', 'usr_bert']))
    .map(([actorId, userId, ties]): Asker => ({
      actorId,
      userId,
      ties: [actorId, ...ties],
      line: actorId === 'agt_a' ? 'key_default/agt_a' : actorId,
      root: userId ?? 'key_default',
    }))
  const request = fc.record({
    kind: fc.constantFrom('egress', 'tokens'),
    asker: askers,
    state: fc.oneof({ weight: 3, arbitrary: fc.constant('pending' as const) }, fc.constantFrom(...approvalStates)),
    expiresAt: fc.constantFrom(0, 1_000, 2_000, 3_000),
  })
  let allowed = 0
  fc.assert(
    fc.property(principals, request, fc.tuple(fc.boolean(), fc.boolean(), fc.boolean()), (principal, asked, facts) => {
      const [hasSecondFactor, seen, mayStillAsk] = facts
      const about = record(asked)
      const looker = testCaller(principal)
      const actionHash = seen ? about.actionHash : 'b'.repeat(64)
      const { ok } = mayDecide(about, { looker, hasSecondFactor, actionHash, mayStillAsk, now: 1 })
      if (!ok) return
      expect(mayStillAsk).toBe(true)
      allowed += 1
      expect(principal.kind).not.toBe('agent')
      expect(principal.accountId).toBe('acc_a')
      expect(stateOf(about, 1)).toBe('pending')
      expect(seen).toBe(true)
      expect(isOwn(principal, about.asker)).toBe(false)
      expect(maySee(looker, about)).toBe(true)
      if (principal.kind === 'agent') return
      expect(principal.role).not.toBe('viewer')
      if (principal.kind === 'user') {
        expect(principal.userId).not.toBe(about.asker.actorId)
        expect(principal.secondFactor || !hasSecondFactor).toBe(true)
      } else {
        expect(about.asker.ties).not.toContain(principal.keyId)
        expect(principal.rights.some((one) => one === 'approve:*' || one === `approve:${about.kind}`)).toBe(true)
      }
    }),
    { numRuns: 20_000, seed: 5 },
  )
  expect(allowed).toBeGreaterThan(100)
})
