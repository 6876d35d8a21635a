import { expect, test, vi } from 'vitest'
import { eventStream, formatEvent } from './event-stream.ts'
import type { ServerSentEvent } from './event-stream.ts'

async function* events(list: ServerSentEvent[]) {
  for (const event of list) yield event
}

test('an event is one frame whatever its data holds', () => {
  expect(formatEvent({ event: 'stdout', id: '4', data: { data: 'a\nb\r\n\n' } })).toBe(
    'event: stdout\nid: 4\ndata: {"data":"a\\nb\\r\\n\\n"}\n\n',
  )
  expect(formatEvent({ event: 'ready', data: {} })).toBe('event: ready\ndata: {}\n\n')
})

test('events come in order, then the end', async () => {
  const texts: string[] = []
  const cancel = vi.fn()
  for await (const text of eventStream(
    events([
      { event: 'a', data: 1 },
      { event: 'b', data: 2 },
    ]),
    cancel,
  ))
    texts.push(String(text))
  expect(texts).toEqual(['event: a\ndata: 1\n\n', 'event: b\ndata: 2\n\n'])
  expect(cancel).not.toHaveBeenCalled()
})

test('what is formatted already goes out as it is', async () => {
  const ready = Buffer.from('event: a\ndata: 1\n\nevent: b\ndata: 2\n\n')
  async function* source() {
    yield ready
    yield { event: 'c', data: 3 }
  }
  const stream = eventStream(source(), () => {})
  expect((await stream.next()).value).toBe(ready)
  expect((await stream.next()).value).toBe('event: c\ndata: 3\n\n')
  expect((await stream.next()).done).toBe(true)
})

test('a silent source is asked once and keepalives fill the time; nothing is lost after them', async () => {
  const { promise, resolve } = Promise.withResolvers<void>()
  let asked = 0
  const source: AsyncIterator<ServerSentEvent> = {
    async next() {
      asked++
      if (asked > 1) return { done: true, value: undefined }
      await promise
      return { done: false, value: { event: 'late', data: 1 } }
    },
  }
  const stream = eventStream(source, () => {}, 5)
  expect((await stream.next()).value).toBe(': keepalive\n\n')
  expect((await stream.next()).value).toBe(': keepalive\n\n')
  expect(asked).toBe(1)
  resolve()
  await new Promise((done) => setImmediate(done))
  expect((await stream.next()).value).toBe('event: late\ndata: 1\n\n')
  expect((await stream.next()).done).toBe(true)
})

test('a reader that leaves while the source is silent cancels it once and is not kept waiting', async () => {
  const cancel = vi.fn()
  const silent: AsyncIterator<ServerSentEvent> = { next: () => new Promise(() => {}) }
  const stream = eventStream(silent, cancel, 60_000)
  const waiting = stream.next()
  await stream.return!()
  await stream.return!()
  expect((await waiting).done).toBe(true)
  expect((await stream.next()).done).toBe(true)
  expect(cancel).toHaveBeenCalledTimes(1)
})

test('an error of the source reaches the reader, then the stream is over', async () => {
  const failing: AsyncIterator<ServerSentEvent> = { next: () => Promise.reject(new Error('broken')) }
  const stream = eventStream(failing, () => {})
  await expect(stream.next()).rejects.toThrow('broken')
  expect((await stream.next()).done).toBe(true)
})
