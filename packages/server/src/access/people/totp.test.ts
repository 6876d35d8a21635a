import { expect, test } from 'vitest'
import { matchingStep, newRecoveryCodes, newTotpSecret, readRecoveryCode, totpCode, totpUri } from './totp.ts'

// RFC 6238, appendix B: the ASCII secret "12345678901234567890", SHA-1; the last six of its eight digits.
const secret = 'GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ'

test.each([
  [59, '287082'],
  [1_111_111_109, '081804'],
  [1_111_111_111, '050471'],
  [1_234_567_890, '005924'],
  [2_000_000_000, '279037'],
  [20_000_000_000, '353130'],
])('at %i seconds the code is %s', (seconds, code) => {
  expect(totpCode(secret, Math.floor(seconds / 30))).toBe(code)
  expect(matchingStep(secret, code, seconds * 1000)).toBe(Math.floor(seconds / 30))
})

test('the codes beside it are taken too, and no other', () => {
  const step = 1_000_000
  const at = step * 30_000
  const found = [-2, -1, 0, 1, 2].map((drift) => matchingStep(secret, totpCode(secret, step + drift), at))
  expect(found).toEqual([undefined, step - 1, step, step + 1, undefined])
})

test.each(['', '12345', '1234567', '12345a', ' 23456', '１２３４５６'])('%j is no code', (code) => {
  expect(matchingStep(secret, code, 59_000)).toBeUndefined()
})

test('secrets have 160 bits and differ', () => {
  const secrets = Array.from({ length: 50 }, newTotpSecret)
  expect(new Set(secrets).size).toBe(50)
  expect(secrets.every((one) => /^[A-Z2-7]{32}$/.test(one))).toBe(true)
})

test('an address with signs in it stays one label', () => {
  expect(totpUri(secret, 'a?secret=x&b@example.com')).toBe(
    `otpauth://totp/DELTA:a%3Fsecret%3Dx%26b%40example.com?secret=${secret}&issuer=DELTA&algorithm=SHA1&digits=6&period=30`,
  )
})

test('recovery codes are ten, differ, and are read however they are typed', () => {
  const codes = newRecoveryCodes()
  expect(new Set(codes).size).toBe(10)
  for (const code of codes)
    expect(readRecoveryCode(` ${code.toUpperCase().replace('-', ' ')}`)).toBe(code.replace('-', ''))
  expect(readRecoveryCode('123456')).toBeUndefined()
})
