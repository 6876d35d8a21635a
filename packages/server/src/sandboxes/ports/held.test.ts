import { expect, test } from 'vitest'
import { createHeld } from './held.ts'

test('one sandbox holds no more than its own, and others are not cut off for what it holds', () => {
  const held = createHeld({ heldPerSandboxBytes: 60, heldBytes: 100, heldShareBytes: 10 })
  held.add('sbx_a', 60)
  expect(held.isTooMuch('sbx_a')).toBe(false)
  held.add('sbx_a', 1)
  expect(held.isTooMuch('sbx_a')).toBe(true)
  held.add('sbx_b', 59)
  expect(held.bytes).toBe(120)
  expect([held.isTooMuch('sbx_a'), held.isTooMuch('sbx_b')]).toEqual([true, true])
  held.add('sbx_c', 10)
  expect(held.isTooMuch('sbx_c')).toBe(false)
  held.add('sbx_a', -61)
  expect([held.bytes, held.isTooMuch('sbx_b')]).toEqual([69, false])
})
