import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Role } from '../principal.ts'
import { mayChangeRole, mayInvite } from './rules.ts'
import { normaliseEmail } from './schema.ts'

const roles: Role[] = ['owner', 'admin', 'member', 'viewer']
const role = fc.constantFrom(...roles)

test('whatever happens, an account has an owner, and nobody gives more than they have', () => {
  const change = fc.record({
    by: role,
    from: role,
    to: fc.option(role, { nil: undefined }),
    self: fc.boolean(),
    owners: fc.integer({ min: 1, max: 3 }),
  })
  fc.assert(
    fc.property(change, ({ by, from, to, self, owners }) => {
      // Of oneself one's own role is the one that is changed.
      const ask = { by: self ? from : by, from, to, self, owners }
      const allowed = mayChangeRole(ask).ok
      const left = owners - (from === 'owner' && to !== 'owner' ? 1 : 0)
      if (allowed) expect(left).toBeGreaterThan(0)
      if (allowed && (to === 'owner' || (from === 'owner' && !self))) expect(ask.by).toBe('owner')
      if (allowed && !(self && to === undefined)) expect(['owner', 'admin']).toContain(ask.by)
    }),
    { seed: 5, numRuns: 500 },
  )
})

test('members and viewers invite nobody, admins nobody above them', () => {
  const allowed = roles.flatMap((by) => roles.filter((to) => mayInvite(by, to).ok).map((to) => `${by} ${to}`))
  expect(allowed).toEqual([
    'owner owner',
    'owner admin',
    'owner member',
    'owner viewer',
    'admin admin',
    'admin member',
    'admin viewer',
  ])
})

test('an address is one however it is written', () => {
  expect(normaliseEmail(' Ada@Example.COM\n')).toBe('ada@example.com')
})
