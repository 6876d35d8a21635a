import { expect, test } from 'vitest'
import { manualClock } from '../kernel/clock.ts'
import { paced } from './paced.ts'
import { createShares } from './shares.ts'

const pace = { bytesPerSecond: 1_000, patienceMs: 10_000 }

/** Ten pieces of 1,000 bytes, which say when they are no longer wanted. */
function pieces() {
  const seen = { closed: 0, done: 0 }
  const source = (async function* () {
    try {
      for (let at = 0; at < 10; at += 1) yield new Uint8Array(1_000)
    } finally {
      seen.closed += 1
    }
  })()
  return { source, seen, done: () => void (seen.done += 1) }
}

test('a reader that keeps up reads to the end, however long that takes', async () => {
  const clock = manualClock(0)
  const { source, seen, done } = pieces()
  let bytes = 0
  for await (const chunk of paced(source, pace, { clock, done })) {
    bytes += chunk.byteLength
    await clock.advance(1_900)
  }
  expect({ bytes, ...seen }).toEqual({ bytes: 10_000, closed: 1, done: 1 })
  expect(clock.sleepers).toBe(0)
})

test('a reader that stops, trickles or never comes is cut, told why, and what it read from is closed', async () => {
  for (const pauses of [[10_001], [9_000, 3_001], [4_000, 4_000, 5_001]]) {
    const clock = manualClock(0)
    const { source, seen, done } = pieces()
    const reader = paced(source, pace, { clock, done })
    for (const pauseMs of pauses.slice(0, -1)) {
      await clock.advance(pauseMs)
      expect((await reader.next()).done).toBe(false)
    }
    await clock.advance(pauses.at(-1)!)
    await expect(reader.next()).rejects.toMatchObject({ code: 'reader_too_slow' })
    expect(seen.done).toBe(1)
    expect(await source.next()).toEqual({ done: true, value: undefined })
    expect(clock.sleepers).toBe(0)
  }
})

test('what the source takes is not the fault of the reader, and its failure is the reader to know', async () => {
  const clock = manualClock(0)
  const seen = { done: 0 }
  const source = (async function* () {
    await clock.advance(1_000_000)
    yield new Uint8Array(1)
    throw new Error('broken')
  })()
  const reader = paced(source, pace, { clock, done: () => void (seen.done += 1) })
  expect((await reader.next()).value).toHaveLength(1)
  await expect(reader.next()).rejects.toThrow('broken')
  expect(seen.done).toBe(1)
})

test('a reader that leaves closes the source once', async () => {
  const clock = manualClock(0)
  const { source, seen, done } = pieces()
  for await (const chunk of paced(source, pace, { clock, done })) if (chunk) break
  expect(seen).toEqual({ closed: 1, done: 1 })
  expect(clock.sleepers).toBe(0)
})

test('an account that asks for much waits for itself and not others for it', async () => {
  const shares = createShares({ total: 3, perAccount: 2, waiting: 4 })
  const order: string[] = []
  const ends = new Map<string, () => void>()
  const ask = (accountId: string, name: string) =>
    shares.take(accountId).then((done) => {
      order.push(name)
      ends.set(name, done)
    })
  const settle = () => new Promise((resolve) => setImmediate(resolve))
  for (const name of ['a1', 'a2', 'a3', 'a4', 'a5']) void ask('a', name)
  await settle()
  expect(order).toEqual(['a1', 'a2'])
  void ask('b', 'b1')
  void ask('b', 'b2')
  void ask('c', 'c1')
  await settle()
  expect(order).toEqual(['a1', 'a2', 'b1'])
  ends.get('a1')!()
  // Given back twice is given back once.
  ends.get('a1')!()
  await settle()
  expect(order).toHaveLength(4)
  ends.get('b1')!()
  ends.get('a2')!()
  await settle()
  expect(order).toHaveLength(6)
  expect(new Set(order.slice(3))).toContain('c1')
  expect(new Set(order.slice(3))).toContain('b2')
})

test('one more than may wait is refused', async () => {
  const shares = createShares({ total: 1, perAccount: 1, waiting: 2 })
  const end = await shares.take('a')
  const waiting = [shares.take('a'), shares.take('a')]
  await expect(shares.take('a')).rejects.toMatchObject({ code: 'too_many_requests' })
  const other = shares.take('b')
  end()
  for (const next of [...waiting, other]) void next.then((done) => done())
  expect(await Promise.all([...waiting, other])).toHaveLength(3)
})
