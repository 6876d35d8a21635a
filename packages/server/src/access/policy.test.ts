import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { decide, holds, inheritable, mayGrant, type Need } from './policy.ts'
import type { AgentPrincipal, KeyPrincipal, Principal, Role, UserPrincipal } from './principal.ts'
import { allows, covers, isRight, narrow, type Right, right, rightNames, rightsOfRole, withheldFrom } from './rights.ts'

const roles = ['viewer', 'member', 'admin', 'owner'] as const

const user = (role: Role, accountId = 'acc_default'): UserPrincipal => ({
  kind: 'user',
  accountId,
  userId: 'usr_a',
  sessionId: 'ses_a',
  role,
  secondFactor: false,
})
const key = (rights: string[], changes: Partial<KeyPrincipal> = {}): KeyPrincipal => ({
  kind: 'key',
  accountId: 'acc_default',
  keyId: 'key_a',
  role: 'owner',
  rights: rights.map(right),
  ...changes,
})
const agent = (rights: string[], changes: Partial<AgentPrincipal> = {}): AgentPrincipal => ({
  kind: 'agent',
  accountId: 'acc_default',
  agentId: 'agt_a',
  agentKind: 'main',
  jti: 'jti_a',
  rights: rights.map(right),
  ...changes,
})
const may = (principal: Principal, need: Need) => decide(principal, need).allowed

const hosts = [
  '*',
  '*.example.com',
  '*.a.example.com',
  'a.example.com',
  'b.a.example.com',
  'example.com',
  'example.org',
]
const paths = ['*', 'email', 'email:*', 'email:welcome', 'email:bye', 'sms', 'sms:welcome']
const amounts = ['*', '0', '5', '500']
const anyRight: fc.Arbitrary<Right> = fc
  .oneof(
    fc.constantFrom('read:*', 'write:*', ...rightNames),
    fc.constantFrom(...hosts).map((host) => `egress:${host}`),
    fc.constantFrom(...paths).map((path) => `send:${path}`),
    fc.constantFrom(...paths).map((kind) => `approve:${kind}`),
    fc.constantFrom(...amounts).map((amount) => `allocate:${amount}`),
  )
  .map(right)
const anyRights = fc.array(anyRight, { maxLength: 6 })
const anyIds = fc.option(fc.uniqueArray(fc.constantFrom('sbx_a', 'sbx_b', 'sbx_c'), { maxLength: 3 }), {
  nil: undefined,
})
const anyRole = fc.constantFrom(...roles)
const anyNeed: fc.Arbitrary<Need> = fc.oneof(
  fc.record({ right: fc.constantFrom(...rightNames) }),
  fc.record({
    right: fc.constantFrom(...rightNames),
    resource: fc.constantFrom('sandbox' as const, 'agent' as const),
    id: fc.constantFrom('sbx_a', 'sbx_b', 'agt_a', undefined),
  }),
  fc
    .constantFrom('a.example.com', 'b.a.example.com', 'x.org')
    .map((selector) => ({ right: 'egress' as const, selector })),
  fc.constantFrom('email', 'email:welcome', 'sms').map((selector) => ({ right: 'send' as const, selector })),
  fc.constantFrom('0', '4', '5', '6', '501').map((selector) => ({ right: 'allocate' as const, selector })),
  fc.constantFrom('egress', 'tokens').map((selector) => ({ right: 'approve' as const, selector })),
)
const anyPrincipal: fc.Arbitrary<Principal> = fc.oneof(
  anyRole.map((role) => user(role)),
  fc
    .tuple(anyRole, anyRights, anyIds)
    .map(([role, rights, sandboxes]) => key(rights, { role, ...(sandboxes && { sandboxes }) })),
  fc.tuple(anyRights, anyIds).map(([rights, sandboxes]) => agent(rights, sandboxes ? { sandboxes } : {})),
)

describe('rights', () => {
  test.each([
    'read:sandboxes',
    'write:*',
    'egress',
    'egress:*.example.com',
    'send:email:welcome',
    'allocate:500',
    'approve:*',
    'delegate',
  ])('%s is one', (text) => expect(isRight(text)).toBe(true))

  test.each([
    '',
    '*',
    '*:*',
    'read',
    'read:',
    'read:nothing',
    'READ:sandboxes',
    'read:sandboxes ',
    'read:sandboxes:sbx_a',
    'read:constructor',
    '__proto__',
    'toString',
    'write:audit',
    'approve:*:*:*',
    'delegate:all',
    'egress:',
    'egress:*.*',
    'egress:exa mple.com',
    'egress:EXAMPLE.com',
    'egress:еxample.com',
    'allocate:-1',
    'allocate:1e9',
    'allocate:99999999999',
    'send:email:welcome:more',
  ])('%j is none', (text) => expect(isRight(text)).toBe(false))

  test('a host pattern means what is below it', () => {
    const own = [right('egress:*.example.com')]
    expect(allows(own, 'egress', 'a.example.com')).toBe(true)
    expect(allows(own, 'egress', 'b.a.example.com')).toBe(true)
    expect(allows(own, 'egress', 'example.com')).toBe(false)
    expect(allows(own, 'egress', 'evilexample.com')).toBe(false)
    expect(allows(own, 'egress')).toBe(true)
  })

  test('covering is an order', () => {
    fc.assert(
      fc.property(anyRight, anyRight, anyRight, (a, b, c) => {
        expect(covers(a, a)).toBe(true)
        if (covers(a, b) && covers(b, c)) expect(covers(a, c)).toBe(true)
      }),
    )
  })

  test('narrowing gives exactly what both have', () => {
    fc.assert(
      fc.property(anyRights, anyRights, anyNeed, (own, wanted, { right: name, selector }) => {
        // Without a selector the question is for any at all, which two may answer with yes for different ones.
        if (selector === undefined && !/^(read|write):/.test(name)) return
        const both = allows(own, name, selector) && allows(wanted, name, selector)
        expect(allows(narrow(own, wanted), name, selector)).toBe(both)
      }),
    )
  })
})

describe('roles', () => {
  test('each has what the one below it has', () => {
    fc.assert(
      fc.property(anyNeed, fc.nat(2), (need, at) => {
        if (may(user(roles[at]!), need)) expect(may(user(roles[at + 1]!), need)).toBe(true)
      }),
    )
  })

  test.each([
    [
      'viewer',
      ['read:sandboxes', 'read:exec', 'read:billing', 'read:tasks'],
      ['read:files', 'write:exec', 'write:sandboxes', 'read:keys', 'approve'],
    ],
    [
      'member',
      ['write:sandboxes', 'read:files', 'write:keys', 'approve'],
      ['write:members', 'read:audit', 'write:billing', 'read:operations'],
    ],
    ['admin', ['write:members', 'read:audit', 'read:operations'], ['write:account']],
    ['owner', ['write:account'], []],
  ] as const)('%s', (role, has, lacks) => {
    for (const name of has) expect([name, may(user(role), { right: name })]).toEqual([name, true])
    for (const name of lacks) expect([name, may(user(role), { right: name })]).toEqual([name, false])
  })

  test('only the operator’s account sees the installation', () => {
    expect(may(user('owner', 'acc_other'), { right: 'read:operations' })).toBe(false)
    expect(may(key(['read:*'], { accountId: 'acc_other' }), { right: 'read:operations' })).toBe(false)
  })
})

describe('keys', () => {
  test('a key has no more than its rights, and no more than its person’s role', () => {
    fc.assert(
      fc.property(anyRole, anyRights, anyNeed, (role, rights, need) => {
        if (!may(key(rights, { role }), need)) return
        expect(may(user(role), need)).toBe(true)
        expect(allows(rights.map(right), need.right, need.selector)).toBe(true)
      }),
    )
  })

  test('one without rights may do nothing', () => {
    fc.assert(
      fc.property(anyNeed, (need) => {
        expect(may(key([]), need)).toBe(false)
      }),
    )
  })

  test('what it is limited away from looks as if it were not there; making more is refused', () => {
    const one = key(['read:*', 'write:*'], { sandboxes: ['sbx_a'] })
    const of = (id: string | undefined, name: Need['right'] = 'write:sandboxes') =>
      decide(one, { right: name, resource: 'sandbox', id })
    expect(of('sbx_a')).toEqual({ allowed: true })
    expect(of('sbx_b')).toEqual({ allowed: false, reason: 'hidden' })
    expect(of(undefined, 'read:sandboxes')).toEqual({ allowed: true, only: ['sbx_a'] })
    expect(of(undefined)).toEqual({ allowed: false, reason: 'limited' })
    expect(decide(one, { right: 'read:workspaces' })).toEqual({ allowed: false, reason: 'limited' })
    expect(decide(one, { right: 'write:agents', resource: 'agent', id: 'agt_a' })).toEqual({
      allowed: false,
      reason: 'limited',
    })
  })

  test('a right that is lacking comes before what is hidden, so that ids tell nothing', () => {
    const one = key(['read:sandboxes'], { sandboxes: ['sbx_a'] })
    for (const id of ['sbx_a', 'sbx_b']) {
      expect(decide(one, { right: 'write:sandboxes', resource: 'sandbox', id })).toEqual({
        allowed: false,
        reason: 'lacks_right',
      })
    }
  })
})

describe('handing on', () => {
  const child = (rights: readonly Right[], sandboxes?: readonly string[]): Principal => ({
    ...agent([]),
    rights,
    ...(sandboxes && { sandboxes }),
  })

  test('whoever may hand something on may do it themselves, at every need', () => {
    fc.assert(
      fc.property(anyPrincipal, anyRights, anyIds, anyNeed, (parent, rights, sandboxes, need) => {
        if (!mayGrant(parent, { rights, sandboxes }).ok) return
        // The key that is made has its person's role; of `read:*` and `write:*` that role decides.
        const role = parent.kind === 'agent' ? 'owner' : parent.role
        const made = key(rights, { role, ...(sandboxes && { sandboxes }) })
        const { allowed } = decide(made, need)
        if (allowed && parent.kind !== 'agent') expect(decide(parent, need)).toMatchObject({ allowed: true })
      }),
      { numRuns: 500 },
    )
  })

  test('a child is never wider than its parent, whatever its token says', () => {
    fc.assert(
      fc.property(anyPrincipal, anyRights, anyNeed, (parent, wanted, need) => {
        const limits = parent.kind === 'user' ? undefined : parent.sandboxes
        const one = child(narrow(inheritable(parent), wanted), limits)
        if (may(one, need)) expect(may(parent, need)).toBe(true)
      }),
      { numRuns: 500 },
    )
  })

  test('no program gets to approve from a program, and no agent gets to keys, people or money', () => {
    const all = key([...rightNames], { role: 'owner' })
    expect(mayGrant(user('owner'), { rights: [right('approve:*')] }).ok).toBe(true)
    expect(mayGrant(all, { rights: [right('approve:*')] })).toEqual({ ok: false, right: 'approve:*' })
    expect(holds(all, right('write:keys'))).toBe(true)
    const names: readonly string[] = inheritable(user('owner'))
    for (const name of ['approve', 'write:keys', 'write:members', 'write:account', 'read:audit'])
      expect(names).not.toContain(name)
    for (const name of rightNames) {
      if (withheldFrom(name))
        expect([name, may(agent(['read:*', 'write:*', 'approve']), { right: name })]).toEqual([name, false])
    }
  })

  test('limits are handed on, or narrowed', () => {
    const one = key(['read:*'], { sandboxes: ['sbx_a', 'sbx_b'] })
    const rights = [right('read:files')]
    expect(mayGrant(one, { rights })).toEqual({ ok: false, scope: 'sandboxes' })
    expect(mayGrant(one, { rights, sandboxes: ['sbx_a'] })).toEqual({ ok: true })
    expect(mayGrant(one, { rights, sandboxes: ['sbx_a', 'sbx_c'] })).toEqual({ ok: false, scope: 'sandboxes' })
    expect(rightsOfRole('viewer')).not.toContain('read:files')
  })
})
