import { expect, test } from 'vitest'
import { createAlarm } from './alarm.ts'
import { manualClock } from './clock.ts'

const start = () => {
  const clock = manualClock(0)
  const stopped = new AbortController()
  const alarm = createAlarm(clock)
  const log: string[] = []
  const rest = async (name: string) => {
    await alarm.rest(1_000, stopped.signal)
    log.push(name)
  }
  return { clock, stopped, alarm, log, rest }
}
const settled = () => new Promise((resolve) => setImmediate(resolve))

test('a rest ends with its time', async () => {
  const { clock, log, rest } = start()
  const resting = rest('a')
  await clock.advance(999)
  expect(log).toEqual([])
  await clock.advance(1)
  await resting
})

test('a ring wakes whoever rests, and whoever rests next when nobody did', async () => {
  const { alarm, log, rest, clock } = start()
  const first = rest('a')
  await settled()
  alarm.ring()
  await first
  const second = rest('b')
  await settled()
  expect(log).toEqual(['a'])
  alarm.ring()
  await second
  alarm.ring()
  alarm.ring()
  await rest('c')
  const last = rest('d')
  await settled()
  expect(log).toEqual(['a', 'b', 'c'])
  await clock.advance(1_000)
  await last
})

test('stopping ends a rest', async () => {
  const { stopped, rest, log } = start()
  const resting = rest('a')
  stopped.abort(new Error('over'))
  await resting
  await rest('b')
  expect(log).toEqual(['a', 'b'])
})
