import { expect, test } from 'vitest'
import { skipLines, skipsIn } from './skips.ts'

const said = `
 ✓ e2e/a.test.ts > runs 8ms
 ↓ e2e/a.test.ts > curl > one 15ms [this machine has no curl]
 ↓ e2e/a.test.ts > two
   → [not a skip]
 ↓ e2e/b.test.ts > three 0ms [long form only]
 ↓ e2e/b.test.ts > four [not here: no cgroups] 1ms [long form only]
test speed::of_one ... ignored, a measurement
test other ... ok
test bare ... ignored
`

test('what was skipped is known with its reason', () => {
  expect(skipsIn(said)).toEqual([
    { name: 'e2e/a.test.ts > curl > one', reason: 'this machine has no curl' },
    { name: 'e2e/a.test.ts > two', reason: 'no reason given' },
    { name: 'e2e/b.test.ts > three', reason: 'long form only' },
    { name: 'e2e/b.test.ts > four [not here: no cgroups]', reason: 'long form only' },
    { name: 'speed::of_one', reason: 'a measurement' },
    { name: 'bare', reason: 'no reason given' },
  ])
})

test('each reason is one line', () => {
  expect(skipLines(skipsIn(said))).toEqual([
    'skip this machine has no curl: e2e/a.test.ts > curl > one',
    'skip no reason given: 2 tests, the first e2e/a.test.ts > two',
    'skip long form only: 2 tests, the first e2e/b.test.ts > three',
    'skip a measurement: speed::of_one',
  ])
})
