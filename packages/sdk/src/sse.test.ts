import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createEventParser, readEvents, type ServerEvent } from './sse.ts'

function parse(text: string, cuts: number[] = []): ServerEvent[] {
  const parser = createEventParser()
  const bounds = [0, ...cuts.map((cut) => cut % (text.length + 1)).toSorted((a, b) => a - b), text.length]
  return bounds.slice(1).flatMap((end, index) => parser.push(text.slice(bounds[index], end)))
}

test('events have name, data and the last id seen', () => {
  expect(parse('id: 4\nevent: stdout\ndata: {"a":1}\n\nevent: exit\ndata: x\n\n')).toEqual([
    { event: 'stdout', data: '{"a":1}', id: '4' },
    { event: 'exit', data: 'x', id: '4' },
  ])
})

test('comments, unknown fields and events without data are passed over', () => {
  expect(parse(': keepalive\n\nretry: 5\nfoo\nevent: nothing\n\ndata: yes\n\n')).toEqual([
    { event: 'message', data: 'yes', id: undefined },
  ])
})

test('several data lines are joined, one space after the colon is dropped, only one', () => {
  expect(parse('data:a\ndata:  b\ndata\n\n')[0]?.data).toBe('a\n b\n')
})

test('LF, CRLF and CR end lines, wherever the text is cut', () => {
  const text = 'data: one\r\ndata: two\r\n\r\ndata: three\rdata: four\r\rdata: five\n\n'
  const whole = parse(text)
  expect(whole.map(({ data }) => data)).toEqual(['one\ntwo', 'three\nfour', 'five'])
  fc.assert(
    fc.property(fc.array(fc.nat(), { maxLength: 12 }), (cuts) => {
      expect(parse(text, cuts)).toEqual(whole)
    }),
    { seed: 7 },
  )
})

test('an event that never ends is an error, not memory', () => {
  const parser = createEventParser()
  const piece = 'x'.repeat(1024 * 1024)
  parser.push('data: ')
  expect(() => {
    for (let count = 0; count < 20; count++) parser.push(piece)
  }).toThrow(/longer than/)
})

test('a silent stream is an error', async () => {
  const silent = new ReadableStream<Uint8Array>()
  await expect(readEvents(silent, { idleTimeoutMs: 20 }).next()).rejects.toThrow(/silent/)
})

test('a character cut by a chunk arrives whole', async () => {
  const bytes = new TextEncoder().encode('data: grüße\n\n')
  const source = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const byte of bytes) controller.enqueue(Uint8Array.of(byte))
      controller.close()
    },
  })
  const seen: string[] = []
  for await (const { data } of readEvents(source, { idleTimeoutMs: 1000 })) seen.push(data)
  expect(seen).toEqual(['grüße'])
})
