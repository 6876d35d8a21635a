import { expect, test } from 'vitest'
import { createHub } from './hub.ts'
import type { TaskEvent } from './record.ts'

const events = (...seqs: number[]): TaskEvent[] => seqs.map((seq) => ({ seq, kind: 'text', data: {}, at: 0 }))
const seqs = (found: readonly TaskEvent[] | undefined) => found?.map(({ seq }) => seq)

test('of what nobody watches nothing is kept', () => {
  const hub = createHub()
  hub.told('tsk_a', events(1, 2))
  expect(hub.after('tsk_a', 0, 9)).toBeUndefined()
  const leave = hub.listen('tsk_a', () => {})
  hub.told('tsk_a', events(3, 4))
  expect(seqs(hub.after('tsk_a', 2, 9))).toEqual([3, 4])
  expect(seqs(hub.after('tsk_a', 4, 9))).toEqual([])
  // The earlier ones are in the database alone.
  expect(hub.after('tsk_a', 1, 9)).toBeUndefined()
  leave()
  leave()
  expect(hub.after('tsk_a', 2, 9)).toBeUndefined()
  hub.stop()
})

test('what was told elsewhere in between is no gap that is passed over', () => {
  const hub = createHub()
  hub.listen('tsk_a', () => {})
  hub.told('tsk_a', events(1, 2))
  hub.told('tsk_a', events(5, 6))
  expect(hub.after('tsk_a', 2, 9)).toBeUndefined()
  expect(seqs(hub.after('tsk_a', 4, 9))).toEqual([5, 6])
  hub.left('tsk_a')
  expect(hub.after('tsk_a', 4, 9)).toBeUndefined()
  hub.stop()
})

test('one who leaves twice takes nobody else’s events', () => {
  const hub = createHub()
  const leave = hub.listen('tsk_a', () => {})
  leave()
  hub.listen('tsk_a', () => {})
  hub.told('tsk_a', events(1))
  leave()
  expect(seqs(hub.after('tsk_a', 0, 9))).toEqual([1])
  hub.stop()
})

test('only the latest are kept, and viewers hear of news', async () => {
  const hub = createHub()
  const heard = new Promise<void>((resolve) => hub.listen('tsk_a', resolve))
  for (let seq = 1; seq <= 1_000; seq += 1) hub.told('tsk_a', events(seq))
  expect(hub.after('tsk_a', 0, 9)).toBeUndefined()
  expect(seqs(hub.after('tsk_a', 998, 9))).toEqual([999, 1_000])
  await heard
  hub.stop()
})
