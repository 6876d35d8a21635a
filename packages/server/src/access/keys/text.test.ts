import fc from 'fast-check'
import { expect, test } from 'vitest'
import { isKeyText, keyHash, newKeyText } from './text.ts'

test('a key is dk_, 43 letters and a checksum, and each another', () => {
  const keys = Array.from({ length: 200 }, newKeyText)
  for (const key of keys) expect(key).toMatch(/^dk_[0-9A-Za-z]{49}$/)
  expect(new Set(keys).size).toBe(200)
  expect(keys.every(isKeyText)).toBe(true)
})

test('the checksum is that of GitHub’s tokens: CRC32 in base 62', () => {
  // Of 'dk_' and 43 zeros, by another implementation.
  expect(isKeyText(`dk_${'0'.repeat(43)}3xMPgs`)).toBe(true)
  expect(isKeyText(`dk_${'0'.repeat(43)}000000`)).toBe(false)
})

test('one wrong letter, two that changed places and a look-alike are noticed without asking anybody', () => {
  const letters = [...'0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz']
  fc.assert(
    fc.property(fc.integer({ min: 3, max: 51 }), fc.constantFrom(...letters), (at, letter) => {
      const key = newKeyText()
      const changed = key.slice(0, at) + letter + key.slice(at + 1)
      expect(isKeyText(changed)).toBe(changed === key)
    }),
  )
  const key = newKeyText()
  for (const other of ['', 'dk_', key.slice(1), `${key}0`, key.slice(0, -1), key.replace('dk_', 'dк_'), `${key}\n`]) {
    expect([other, isKeyText(other)]).toEqual([other, false])
  }
})

test('what is kept of it does not show it', () => {
  const key = newKeyText()
  expect(keyHash(key)).toMatch(/^[0-9a-f]{64}$/)
  expect(keyHash(key)).not.toContain(key.slice(3, 20))
})
