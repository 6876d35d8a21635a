import { expect, test } from 'vitest'
import { shouldCollect } from './calm-memory.ts'

const mb = 2 ** 20

test.each([
  ['has grown and is calm', { heapBytes: 120 * mb, keptBytes: 40 * mb, busyShare: 0.01 }, true],
  ['has grown and works', { heapBytes: 120 * mb, keptBytes: 40 * mb, busyShare: 0.5 }, false],
  ['has hardly grown', { heapBytes: 44 * mb, keptBytes: 40 * mb, busyShare: 0 }, false],
  ['is smaller than it was', { heapBytes: 30 * mb, keptBytes: 40 * mb, busyShare: 0 }, false],
])('of a thread that %s is given back what nobody needs: %s', (_, thread, isDue) => {
  expect(shouldCollect(thread)).toBe(isDue)
})
