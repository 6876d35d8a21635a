import { expect, test } from 'vitest'
import { manualClock } from '../../kernel/clock.ts'
import { addressName, createAttempts, pauseMs } from './attempts.ts'

const rule = { free: 3, firstMs: 1_000, longestMs: 10_000, forgetMs: 60_000 }

test('the pause doubles up to the longest', () => {
  expect([0, 2, 3, 4, 5, 6, 7, 8, 1_000].map((failures) => pauseMs(failures, rule))).toEqual([
    0, 0, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000,
  ])
})

test('what was long ago is forgotten, and a wall clock that jumps changes nothing', async () => {
  const clock = manualClock(0)
  const attempts = createAttempts({ clock, kept: 10 })
  for (let i = 0; i < 3; i++) await attempts.failed('a', rule)
  expect(await attempts.look('a', rule)).toEqual({ failures: 3, waitMs: 1_000 })
  clock.jump(-3_600_000)
  expect(await attempts.look('a', rule)).toEqual({ failures: 3, waitMs: 1_000 })
  await clock.advance(1_000)
  expect(await attempts.look('a', rule)).toEqual({ failures: 3, waitMs: 0 })
  await clock.advance(60_000)
  expect(await attempts.look('a', rule)).toEqual({ failures: 0, waitMs: 0 })
})

test('no more names are kept than may be', async () => {
  const attempts = createAttempts({ clock: manualClock(0), kept: 10 })
  for (let i = 0; i < 11; i++) await attempts.failed(`name ${i}`, rule)
  expect(await attempts.look('name 0', rule)).toEqual({ failures: 0, waitMs: 0 })
  expect(await attempts.look('name 1', rule)).toMatchObject({ failures: 1 })
})

test.each([
  ['203.0.113.7', '203.0.113.7'],
  ['::ffff:203.0.113.7', '203.0.113.7'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2'],
  ['2001:db8:1:2::9', '2001:db8:1:2'],
  ['2001:0db8:0001:0002::', '2001:db8:1:2'],
  ['::1', '0:0:0:0'],
  ['fe80::1%eth0', 'fe80:0:0:0'],
  [undefined, 'unknown'],
])('%s counts as %s', (address, name) => {
  expect(addressName(address)).toBe(name)
})
