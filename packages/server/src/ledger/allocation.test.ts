import { expect, test } from 'vitest'
import type { Principal } from '../access/principal.ts'
import { right } from '../access/rights.ts'
import { testKeyPrincipal } from '../access/testing.ts'
import { mayTransfer, sightOf } from './allocation.ts'

const session = (role: 'viewer' | 'member' | 'owner'): Principal => ({
  kind: 'user',
  accountId: 'acc_a',
  userId: 'usr_a',
  sessionId: 'ses_a',
  role,
  secondFactor: false,
})
const agent = (...rights: string[]): Principal => ({
  kind: 'agent',
  accountId: 'acc_a',
  agentId: 'agt_a',
  agentKind: 'main',
  jti: 'tok_a',
  rights: rights.map(right),
})
const key = (...rights: string[]) => testKeyPrincipal({ accountId: 'acc_a', rights: rights.map(right) })

const wish = { tokens: 10, fromReserve: false, withinSight: true }
const reserve = { ...wish, fromReserve: true }

test.each([
  ['a member’s session', session('member'), reserve, true],
  ['a viewer’s session', session('viewer'), wish, 'lacks_right'],
  ['an agent up to its limit', agent('allocate:10'), wish, true],
  ['an agent beyond its limit', agent('allocate:9'), wish, 'lacks_right'],
  ['an agent without a limit', agent('allocate'), wish, true],
  ['an agent without the right', agent('read:billing'), wish, 'lacks_right'],
  ['an agent, from the reserve, whatever it has', agent('allocate', 'write:billing'), reserve, 'needs_person'],
  ['an agent, out of sight', agent('allocate'), { ...wish, withinSight: false }, 'hidden'],
  ['a key with allocate', key('allocate'), wish, true],
  ['a key with allocate, from the reserve', key('allocate'), reserve, 'lacks_right'],
  ['a key with bills alone', key('write:billing'), reserve, 'lacks_right'],
  ['a key with both, from the reserve', key('allocate:10', 'write:billing'), reserve, true],
  ['a key, to what is not there', key('allocate'), { ...wish, withinSight: false }, 'hidden'],
] as const)('%s', (_, principal, asked, expected) => {
  const ruling = mayTransfer(principal, asked)
  expect(ruling.ok || ruling.reason).toBe(expected)
})

test('an agent sees its own and what is below, everybody else all of the account', () => {
  expect(sightOf(agent())).toEqual({ accountId: 'acc_a', below: 'agt_a' })
  expect(sightOf(session('viewer'))).toEqual({ accountId: 'acc_a' })
  expect(sightOf(key())).toEqual({ accountId: 'acc_a' })
})
