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

test('viewers that are equally far get the same list, until there is more', () => {
  const hub = createHub()
  hub.listen('tsk_a', () => {})
  hub.told('tsk_a', events(1, 2, 3))
  const first = hub.after('tsk_a', 1, 9)
  expect(hub.after('tsk_a', 1, 9)).toBe(first)
  expect(seqs(hub.after('tsk_a', 1, 1))).toEqual([2])
  expect(seqs(hub.after('tsk_a', 2, 9))).toEqual([3])
  hub.told('tsk_a', events(4))
  expect(seqs(hub.after('tsk_a', 1, 9))).toEqual([2, 3, 4])
  hub.left('tsk_a')
  expect(hub.after('tsk_a', 1, 9)).toBeUndefined()
  hub.stop()
})

test('each of many viewers hears of news once, but those that have left meanwhile', async () => {
  const hub = createHub()
  const heard = new Map<number, number>()
  const leaves = Array.from({ length: 100 }, (_, viewer) =>
    hub.listen('tsk_a', () => {
      heard.set(viewer, (heard.get(viewer) ?? 0) + 1)
      // The last one goes while the first are being told.
      if (viewer === 0) leaves[99]!()
    }),
  )
  hub.told('tsk_a', events(1))
  await expect.poll(() => heard.size).toBe(99)
  hub.told('tsk_a', events(2))
  await expect.poll(() => [...heard.values()].every((times) => times === 2)).toBe(true)
  expect(heard.has(99)).toBe(false)
  hub.stop()
})
