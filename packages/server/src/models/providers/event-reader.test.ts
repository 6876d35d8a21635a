import { expect, test } from 'vitest'
import { readEvents } from './event-reader.ts'

function read(...pieces: string[]): string[] {
  const found: string[] = []
  const reader = readEvents((data) => found.push(data))
  for (const piece of pieces) reader.push(Buffer.from(piece))
  return found
}

test('an event is there when its blank line is, and not before', () => {
  expect(read('data: a\n')).toEqual([])
  expect(read('data: a\n\n')).toEqual(['a'])
  expect(read('data: a\r\n\r')).toEqual([])
  expect(read('data: a\r\n\r', '\n')).toEqual(['a'])
  expect(read('data: a\r', '\n', '\r', '\n', 'data: b\r\n\r\n')).toEqual(['a', 'b'])
  expect(read('data: a\r\rdata: b\r\r', ':')).toEqual(['a', 'b'])
})

test('comments, names, other fields and lines of one event are as the standard has them', () => {
  expect(read(': hello\nevent: x\nid: 1\ndata: a\ndata:b\ndata:  c\nretry: 3\n\n')).toEqual(['a\nb\n c'])
  expect(read('\uFEFFdata: a\n\n\n\ndatax: b\n\ndata\n\n')).toEqual(['a'])
})

test('an event that is too large is passed over, and not held', () => {
  const found: string[] = []
  const reader = readEvents((data) => found.push(data))
  const piece = Buffer.from(`data: ${'x'.repeat(1024 * 1024)}`)
  for (let times = 0; times < 20; times++) reader.push(piece)
  reader.push(Buffer.from('\n\ndata: a\n\n'))
  expect(found).toEqual(['a'])
  expect(reader.waiting()).toBe(0)
})
