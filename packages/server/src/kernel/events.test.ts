import { expect, test } from 'vitest'
import { createEvents } from './events.ts'
import { createLogger } from './log.ts'

interface News {
  started: { id: string }
  ended: { id: string; code: number }
}

function startEvents() {
  const lines: string[] = []
  const log = createLogger({ level: 'debug', write: (line) => lines.push(line) })
  return { events: createEvents<News>({ log }), lines }
}

test('a listener hears its event, at once, until it stops listening', () => {
  const { events } = startEvents()
  const heard: string[] = []
  const off = events.on('started', ({ id }) => heard.push(id))
  events.emit('started', { id: 'a' })
  events.emit('ended', { id: 'b', code: 0 })
  off()
  events.emit('started', { id: 'c' })
  expect(heard).toEqual(['a'])
})

test('a listener that throws is logged and harms neither emitter nor neighbours', () => {
  const { events, lines } = startEvents()
  const heard: string[] = []
  events.on('started', () => {
    throw new Error('broken listener')
  })
  events.on('started', ({ id }) => heard.push(id))
  events.emit('started', { id: 'a' })
  expect(heard).toEqual(['a'])
  expect(lines.join()).toContain('broken listener')
})

test('listeners may come and go while they are called', () => {
  const { events } = startEvents()
  let calls = 0
  const off = events.on('started', () => {
    calls += 1
    off()
    events.on('started', () => (calls += 10))
  })
  events.emit('started', { id: 'a' })
  expect(calls).toBe(1)
  events.emit('started', { id: 'b' })
  expect(calls).toBe(11)
})
