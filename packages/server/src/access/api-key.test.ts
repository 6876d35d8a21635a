import { createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import { createApiKeyAuthentication } from './api-key.ts'

const key = 'delta_0123456789abcdef'
const authenticate = createApiKeyAuthentication({ sha256: createHash('sha256').update(key).digest('hex') })

test('the key opens', () => {
  expect(authenticate({ authorization: `Bearer ${key}` })).toEqual({ accountId: 'acc_default', keyId: 'key_default' })
  expect(authenticate({ authorization: `bearer  ${key}` })).not.toBeNull()
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
  ['the hash itself', `Bearer ${createHash('sha256').update(key).digest('hex')}`],
  ['a very long key', `Bearer ${'x'.repeat(100_000)}`],
  ['bytes that are no text', `Bearer ${key}\u0000`],
])('%s does not', (_what, authorization) => {
  expect(authenticate({ authorization })).toBeNull()
})
