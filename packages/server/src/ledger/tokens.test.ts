import { expect, test } from 'vitest'
import { isAmountOrNone, largestTokens, shownTokens } from './amounts.ts'
import { parseTokens } from './tokens.ts'

test.each([
  ['0', 0, 'must be at least 1'],
  ['a negative number', -5, 'must be at least 1'],
  ['−0', -0, 'must not be −0'],
  ['a fraction', 1.5, 'must be a whole number of tokens'],
  ['NaN', Number.NaN, 'is not a number'],
  ['Infinity', Number.POSITIVE_INFINITY, 'must be finite'],
  ['−Infinity', Number.NEGATIVE_INFINITY, 'must be finite'],
  ['a text', '5', 'must be a number, not a text or anything else'],
  ['a bigint', 5n, 'must be a number, not a text or anything else'],
  ['nothing', null, 'must be a number, not a text or anything else'],
  ['2^53 + 1', 2 ** 53 + 1, `must be at most ${largestTokens}`],
  ['2^63', 2 ** 63, `must be at most ${largestTokens}`],
  ['one more than can be counted', largestTokens + 1, `must be at most ${largestTokens}`],
])('%s is no number of tokens, and the refusal says why', (_what, value, why) => {
  const refused = expect.objectContaining({ code: 'amount_invalid', message: `tokens ${why}` })
  expect(() => parseTokens(value, { field: 'tokens' })).toThrow(refused)
})

test('0 is one where it means none, −0 never', () => {
  expect(parseTokens(0, { field: 'monthlyTokens', least: 0 })).toBe(0)
  expect(() => parseTokens(-0, { field: 'monthlyTokens', least: 0 })).toThrow(/−0/)
  expect([0, -0, 1].map((value) => isAmountOrNone(value))).toEqual([true, false, true])
})

test.each([1, 1_000, largestTokens])('%d tokens are exact', (tokens) => {
  expect(BigInt(parseTokens(tokens, { field: 'tokens' }))).toBe(BigInt(tokens) * 1_000_000n)
})

test.each([
  [1, '0.000001'],
  [999_999, '0.999999'],
  [1_000_000, '1'],
  [4_294_967_295_999_999, '4294967295.999999'],
  [1_000_000_000_000_001, '1000000000.000001'],
])('%d micro-tokens are shown as %s', (amount, text) => {
  expect(JSON.stringify(shownTokens(amount))).toBe(text)
})
