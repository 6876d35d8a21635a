import { expect, test } from 'vitest'
import type { KnownCaller } from './door.ts'
import type { Role } from './principal.ts'
import { right } from './rights.ts'
import { createStanding, type Formerly, toAskAbout } from './standing.ts'
import { testCaller, testKeyPrincipal } from './testing.ts'

interface World {
  roots?: Record<string, KnownCaller>
  roles?: Record<string, Role>
  revoked?: string[]
  /** Of the only agent. @default active */
  state?: string
}

const world = ({ roots = {}, roles = {}, revoked = [], state = 'active' }: World) =>
  createStanding({
    findRoot: (id) => roots[id] ?? null,
    findAgent: (id) =>
      id === 'agt_a'
        ? { id, kind: 'bot', state, mayAct: state === 'active', isAtRest: false, line: [id], rights: [] }
        : undefined,
    roleOf: (_, userId) => roles[userId],
    revocations: { isRevoked: (ids) => ids.some((id) => revoked.includes(id)) },
  })
const standing = (of: World) => (asked: Formerly, sandboxId: string | null) => world(of)(asked, toAskAbout(sandboxId))
const keyWith = (rights: string[], more: object = {}) =>
  testCaller(testKeyPrincipal({ accountId: 'acc_a', keyId: 'key_a', rights: rights.map(right), ...more }))
const by = (actorId: string, ...ties: string[]) => ({ accountId: 'acc_a', actorId, ties: [actorId, ...ties] })

test('a person may ask as long as their role may', async () => {
  const asked = by('usr_anna', 'ses_a')
  expect(await standing({ roles: { usr_anna: 'member' } })(asked, 'sbx_a')).toBe(true)
  expect(await standing({ roles: { usr_anna: 'viewer' } })(asked, 'sbx_a')).toBe(false)
  expect(await standing({})(asked, 'sbx_a')).toBe(false)
})

test('a key may ask while it is good, may still, and for its sandboxes', async () => {
  const asked = by('key_a', 'usr_anna')
  const ask = (key_a: KnownCaller, sandboxId: string | null = 'sbx_a') =>
    standing({ roots: { key_a } })(asked, sandboxId)
  expect(await ask(keyWith(['request']))).toBe(true)
  expect(await ask(keyWith(['request']), null)).toBe(true)
  expect(await ask(keyWith(['request'], { sandboxes: ['sbx_a'] }))).toBe(true)
  expect(await ask(keyWith(['request'], { sandboxes: ['sbx_b'] }))).toBe(false)
  expect(await ask(keyWith(['read:*', 'write:*']))).toBe(false)
  expect(await ask(keyWith(['request'], { role: 'viewer' }))).toBe(false)
  expect(await ask(keyWith(['request'], { accountId: 'acc_b' }))).toBe(false)
  expect(await standing({})(asked, 'sbx_a')).toBe(false)
})

test('an agent may ask while what it comes from may, whichever token it has now, unless one was revoked', async () => {
  const asked = { accountId: 'acc_a', actorId: 'agt_a', ties: ['tok_a', 'key_a', 'tok_parent', 'usr_anna'] }
  const roots = { key_a: keyWith(['request']) }
  expect(await standing({ roots })(asked, 'sbx_a')).toBe(true)
  expect(await standing({})(asked, 'sbx_a')).toBe(false)
  expect(await standing({ roots: { key_a: keyWith(['write:*']) } })(asked, 'sbx_a')).toBe(false)
  for (const id of ['tok_a', 'tok_parent']) expect(await standing({ roots, revoked: [id] })(asked, 'sbx_a')).toBe(false)
})

test('an agent that stands still may still be answered, one that is archived not', async () => {
  const asked = { accountId: 'acc_a', actorId: 'agt_a', ties: ['tok_a', 'key_a'] }
  const roots = { key_a: keyWith(['request']) }
  for (const [state, may] of [
    ['suspended', true],
    ['paused', true],
    ['archiving', false],
    ['archived', false],
  ] as const) {
    expect([state, await standing({ roots, state })(asked, 'sbx_a')]).toEqual([state, may])
  }
  expect(await standing({ roots })({ ...asked, actorId: 'agt_b' }, 'sbx_a')).toBe(false)
})

test('what was asked for with another right is looked at by that right, and by the agents of a key', async () => {
  const needs = { right: 'write:tasks', resource: 'agent', id: 'agt_a' } as const
  const asked = by('key_a', 'usr_anna')
  const may = (key_a: KnownCaller) => world({ roots: { key_a } })(asked, needs)
  expect(await may(keyWith(['write:tasks']))).toBe(true)
  expect(await may(keyWith(['request', 'read:tasks']))).toBe(false)
  expect(await may(keyWith(['write:tasks'], { agents: ['agt_a'] }))).toBe(true)
  expect(await may(keyWith(['write:tasks'], { agents: ['agt_b'] }))).toBe(false)
  expect(await world({ roles: { usr_anna: 'member' } })(by('usr_anna'), needs)).toBe(true)
  expect(await world({ roles: { usr_anna: 'viewer' } })(by('usr_anna'), needs)).toBe(false)
})
