import { expect, test } from 'vitest'
import { manualClock, systemClock } from './clock.ts'

const manual = manualClock(0)

test('the system clock sleeps at least as long as asked', async () => {
  const from = systemClock.monotonic()
  await systemClock.sleep(20)
  expect(systemClock.monotonic() - from).toBeGreaterThanOrEqual(20)
})

test('an aborted sleep rejects with the reason, before and during', async () => {
  const reason = new Error('enough')
  await expect(systemClock.sleep(60_000, AbortSignal.abort(reason))).rejects.toBe(reason)
  const controller = new AbortController()
  const sleep = systemClock.sleep(60_000, controller.signal)
  controller.abort(reason)
  await expect(sleep).rejects.toBe(reason)
})

test('a sleep longer than a timer can hold does not end at once', async () => {
  const controller = new AbortController()
  let ended = false
  const sleep = systemClock.sleep(2 ** 31 + 5_000, controller.signal).then(() => (ended = true))
  await systemClock.sleep(20)
  expect(ended).toBe(false)
  controller.abort(new Error('done'))
  await expect(sleep).rejects.toThrow('done')
})

test('the manual clock wakes sleepers in order, and chains of them', async () => {
  const clock = manualClock(1_000)
  const woken: string[] = []
  void clock.sleep(200).then(() => woken.push('late'))
  void clock
    .sleep(50)
    .then(() => woken.push('first'))
    .then(() => clock.sleep(50))
    .then(() => woken.push('second'))
  await clock.advance(100)
  expect(woken).toEqual(['first', 'second'])
  expect(clock.now()).toBe(1_100)
  await clock.advance(100)
  expect(woken).toEqual(['first', 'second', 'late'])
})

test.each([
  ['system', systemClock, (ms: number) => systemClock.sleep(ms)],
  ['manual', manual, (ms: number) => manual.advance(ms)],
] as const)('the %s clock calls back once, or never where it was told to forget', async (_, clock, pass) => {
  const woken: string[] = []
  clock.after(10, () => woken.push('kept'))
  const forget = clock.after(5, () => woken.push('forgotten'))
  forget()
  await pass(30)
  expect(woken).toEqual(['kept'])
  forget()
})

test('a jump of the wall clock leaves durations alone', async () => {
  const clock = manualClock(1_000)
  let woken = false
  void clock.sleep(100).then(() => (woken = true))
  clock.jump(1_000_000)
  expect(clock.monotonic()).toBe(0)
  expect(clock.now()).toBe(1_001_000)
  await clock.advance(99)
  expect(woken).toBe(false)
})

test('an aborted manual sleep is forgotten', async () => {
  const clock = manualClock(0)
  const controller = new AbortController()
  const sleep = clock.sleep(100, controller.signal)
  expect(clock.sleepers).toBe(1)
  controller.abort(new Error('off'))
  await expect(sleep).rejects.toThrow('off')
  expect(clock.sleepers).toBe(0)
})
