import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { DeltaConnectionError } from './errors.ts'
import { execEvents } from './exec-stream.ts'

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }))
afterEach(() => void vi.useRealTimers())

/** Reads from a server that is gone; says how it ended, or that it goes on. */
async function afterSeconds(seconds: number, isGivenUp: () => boolean): Promise<string> {
  let outcome = 'goes on'
  const open = () => Promise.reject(new DeltaConnectionError('gone', { url: 'http://127.0.0.1:1' }))
  const controller = new AbortController()
  const events = execEvents({ open, reopen: open, signal: controller.signal, isGivenUp })
  const read = events.next().then(
    () => (outcome = 'ended'),
    (cause: Error) => (outcome = cause.message),
  )
  await vi.advanceTimersByTimeAsync(seconds * 1_000)
  const found = outcome
  controller.abort()
  await read
  return found
}

test('a server that is gone is waited for while somebody waits', async () => {
  expect(await afterSeconds(30, () => false)).toBe('goes on')
  expect(await afterSeconds(90, () => false)).toBe('gone')
})

test('once the caller has gone it is waited for as long as a restart takes, and holds up no program that would end', async () => {
  expect(await afterSeconds(4, () => true)).toBe('goes on')
  expect(await afterSeconds(15, () => true)).toBe('gone')
})
