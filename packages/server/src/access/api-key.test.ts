import { createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import { systemClock } from '../kernel/clock.ts'
import { createDefaultKeyReader } from './api-key.ts'
import { createCallerDoor } from './authenticate.ts'

const key = 'delta_0123456789abcdef'
const { authenticate } = createCallerDoor({
  readers: [createDefaultKeyReader({ sha256: createHash('sha256').update(key).digest('hex') })],
  revocations: { isRevoked: () => false, onRevoked: () => {} },
  clock: systemClock,
})

test('the key opens', () => {
  expect(authenticate({ authorization: `Bearer ${key}` })).toMatchObject({
    accountId: 'acc_default',
    actorId: 'key_default',
  })
  expect(authenticate({ authorization: `bearer  ${key}` })).not.toBeNull()
})

test('it is the owner’s, and may do everything but approve', async () => {
  const caller = await authenticate({ authorization: `Bearer ${key}` })
  const { principal } = caller!
  expect(principal).toMatchObject({ kind: 'key', keyId: 'key_default', role: 'owner' })
  const rights: readonly string[] = principal.kind === 'key' ? principal.rights : []
  expect(rights).toEqual(expect.arrayContaining(['write:keys', 'write:account', 'read:operations', 'egress', 'send']))
  expect(rights.filter((right) => right.startsWith('approve'))).toEqual([])
})

test.each([
  ['nothing', undefined],
  ['an empty header', ''],
  ['another scheme', `Basic ${key}`],
  ['no key', 'Bearer '],
  ['another key', 'Bearer delta_0123456789abcdeg'],
  ['a longer key', `Bearer ${key}0`],
  ['a shorter key', `Bearer ${key.slice(0, -1)}`],
  ['two keys', `Bearer ${key} ${key}`],
  ['two headers, as they are joined', `Bearer ${key}, Bearer ${key}`],
  ['the hash itself', `Bearer ${createHash('sha256').update(key).digest('hex')}`],
  ['a very long key', `Bearer ${'x'.repeat(100_000)}`],
  ['bytes that are no text', `Bearer ${key}\u0000`],
  ['letters that only look alike', `Bearer ${key.replace('a', 'а')}`],
])('%s does not', (_what, authorization) => {
  expect(authenticate({ authorization })).toBeNull()
})
