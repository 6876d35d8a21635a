import { expect, test } from 'vitest'
import { forecast } from './forecast.ts'

const hour = 3_600_000
const span = { now: 100 * hour, endsAt: 150 * hour }

test('goes on as it did since the first hour with any', () => {
  expect(forecast({ spent: 100, since: 90 * hour, available: 1_000 }, span)).toEqual({
    spent: 100,
    perDay: 240,
    expected: 600,
    available: 1_000,
    short: 0,
    runsOutAt: undefined,
  })
})

test('says what will be missing, and from when on', () => {
  expect(forecast({ spent: 100, since: 90 * hour, available: 200 }, span)).toMatchObject({
    short: 300,
    runsOutAt: 120 * hour,
  })
  expect(forecast({ spent: 1, since: 90 * hour, available: 0 }, span)).toMatchObject({ runsOutAt: span.now })
})

test('takes what was spent within minutes for what an hour costs', () => {
  expect(forecast({ spent: 6, since: 100 * hour, available: 1_000 }, span)).toMatchObject({
    perDay: 144,
    expected: 306,
  })
})

test('of nothing is nothing, also at the very end and with nothing left', () => {
  const nothing = { spent: 0, perDay: 0, expected: 0, available: 0, short: 0, runsOutAt: undefined }
  expect(forecast({ spent: 0, since: undefined, available: 0 }, span)).toEqual(nothing)
  expect(forecast({ spent: 5, since: 90 * hour, available: 0 }, { now: 150 * hour, endsAt: 150 * hour })).toMatchObject(
    {
      expected: 5,
      short: 0,
      runsOutAt: undefined,
    },
  )
})

test('never says more than can be counted', () => {
  const { expected, perDay } = forecast({ spent: Number.MAX_SAFE_INTEGER, since: 99 * hour, available: 0 }, span)
  expect([expected, perDay].every(Number.isSafeInteger)).toBe(true)
})
