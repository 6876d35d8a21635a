import { expect, test } from 'vitest'
import { isId, newId } from './ids.ts'

test('an id is its prefix and 20 of a-z0-9', () => {
  for (let i = 0; i < 1_000; i++) expect(newId('sbx')).toMatch(/^sbx_[a-z0-9]{20}$/)
})

test('ids do not repeat', () => {
  expect(new Set(Array.from({ length: 20_000 }, () => newId('exe'))).size).toBe(20_000)
})

test('every character is about equally likely', () => {
  const counts = new Map<string, number>()
  for (let i = 0; i < 10_000; i++)
    for (const letter of newId('evt').slice(4)) counts.set(letter, (counts.get(letter) ?? 0) + 1)
  // 200,000 draws over 36 characters: 5,556 each, standard deviation 74. Without rejection the first four would have 6,250.
  expect(counts.size).toBe(36)
  for (const count of counts.values()) expect(Math.abs(count - 5_556)).toBeLessThan(450)
})

test('isId knows its prefix and alphabet', () => {
  expect(isId('sbx', newId('sbx'))).toBe(true)
  for (const text of ['', 'sbx_', 'exe_abc', 'sbx_ABC', 'sbx_a/b', 'sbx_a\n', `sbx_${'a'.repeat(41)}`, 'sbx_../x']) {
    expect(isId('sbx', text), text).toBe(false)
  }
})
