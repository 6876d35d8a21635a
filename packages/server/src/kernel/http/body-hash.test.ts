import { hash, randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { createBodyHash } from './body-hash.ts'

test('a body has one hash however its fields are ordered, and every other body another', () => {
  const hashBody = createBodyHash(randomBytes(32))
  const one = hashBody({ name: 'a', env: { B: '2', A: '1' }, cmd: ['x', 'y'] })
  expect(hashBody({ cmd: ['x', 'y'], env: { A: '1', B: '2' }, name: 'a' })).toBe(one)
  expect(one).toMatch(/^[0-9a-f]{64}$/)
  for (const other of [
    { name: 'a', env: { B: '2', A: '1' }, cmd: ['y', 'x'] },
    { name: 'a', env: { B: '1', A: '2' }, cmd: ['x', 'y'] },
    { name: 'a', env: { B: '2', A: '1' }, cmd: ['xy'] },
    { name: 'a', env: { B: '2', A: '1' } },
  ]) {
    expect(hashBody(other)).not.toBe(one)
  }
})

test('whoever guesses the body and has not the key can not tell', () => {
  const body = { env: { PASSWORD: '1234' } }
  const [ours, theirs] = [createBodyHash(randomBytes(32)), createBodyHash(randomBytes(32))]
  expect(theirs(body)).not.toBe(ours(body))
  expect(ours(body)).not.toBe(hash('sha256', JSON.stringify(body)))
})
