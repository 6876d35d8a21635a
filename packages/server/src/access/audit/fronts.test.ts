import { expect, test } from 'vitest'
import { DeltaError } from '../../kernel/errors.ts'
import { silentLogger } from '../../kernel/log.ts'
import type { CallerDoor } from '../door.ts'
import { createRateLimits } from '../limits/rate-limits.ts'
import type { AuditEntry } from './entry.ts'
import { auditFronts } from './fronts.ts'

const viewer = { accountId: 'acc_a', actorId: 'key_viewer' }
const door: CallerDoor = {
  authenticate: () => null,
  admit(caller) {
    if (caller.actorId === viewer.actorId) throw new DeltaError('forbidden', 'This needs more')
    return caller
  },
  isOver: () => false,
  hold: () => () => {},
}
const needs = { right: 'write:exec', resource: 'sandbox' } as const

function start(perSecond = 0) {
  const entries: AuditEntry[] = []
  const access = auditFronts(door, {
    record: async (entry) => void entries.push(entry),
    rateLimits: createRateLimits({ settings: { key: perSecond, account: 0, address: 0 } }),
    log: silentLogger,
  })
  return { access, entries }
}
const settled = () => new Promise((resolve) => setImmediate(resolve))

test('who lacks the right to connect is refused as before, and that is an entry', async () => {
  const { access, entries } = start()
  expect(() => access.admit(viewer, needs, 'sbx_a')).toThrow('This needs more')
  expect(access.admit({ accountId: 'acc_a', actorId: 'key_owner' }, needs, 'sbx_a')).toMatchObject({
    actorId: 'key_owner',
  })
  await settled()
  expect(entries).toEqual([
    {
      accountId: 'acc_a',
      actorId: 'key_viewer',
      action: 'connection.refused',
      target: 'sbx_a',
      outcome: 'refused',
      reason: 'forbidden',
      details: { right: 'write:exec' },
    },
  ])
})

test('a text that is no id is not kept', async () => {
  const { access, entries } = start()
  expect(() => access.admit(viewer, needs, 'hunter2')).toThrow('This needs more')
  await settled()
  expect(entries).toMatchObject([{ target: '(not an id)' }])
})

test('whoever tries again and again fills no log', async () => {
  const { access, entries } = start(5)
  for (let tries = 0; tries < 100; tries++) expect(() => access.admit(viewer, needs, 'sbx_a')).toThrow(DeltaError)
  await settled()
  expect(entries).toHaveLength(10)
})
