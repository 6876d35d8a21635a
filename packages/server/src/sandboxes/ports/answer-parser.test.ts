import fc from 'fast-check'
import { expect, test } from 'vitest'
import { AnswerFault, type AnswerHead, createAnswerParser } from './answer-parser.ts'

interface Heard {
  heads: AnswerHead[]
  body: string
  bodies: number
  ended: boolean
  upgraded?: string
}

/** Feeds the text in pieces of the given sizes, the last of which repeats. */
function read(text: string, { method = 'GET', sizes = [Infinity], upgrades = false, end = false } = {}): Heard {
  const heard: Heard = { heads: [], body: '', bodies: 0, ended: false }
  const parser = createAnswerParser({
    head: (head) => heard.heads.push(head),
    body(bytes, last) {
      heard.body += bytes.toString('latin1')
      heard.bodies += 1
      heard.ended ||= last
    },
    upgraded: (_, rest) => (heard.upgraded = rest.toString('latin1')),
  })
  parser.begin(method, upgrades)
  const bytes = Buffer.from(text, 'latin1')
  for (let at = 0, turn = 0; at < bytes.length; turn++) {
    const size = sizes[Math.min(turn, sizes.length - 1)]!
    parser.feed(bytes.subarray(at, at + size))
    at += size
  }
  if (end) parser.end()
  expect(parser.idle).toBe(heard.ended || heard.upgraded !== undefined)
  return heard
}

const length = 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A:  b \t\r\n\r\nhello'
const chunked =
  'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;a=b\r\nlo\r\n0\r\nX-Trailer: x\r\n\r\n'

test('a body with a length, in chunks, and up to the end of the connection', () => {
  const whole = read(length)
  expect(whole).toMatchObject({ body: 'hello', bodies: 1, ended: true })
  expect(whole.heads).toMatchObject([
    { status: 200, reason: 'OK', headers: ['Content-Length', '5', 'X-A', 'b'], keepsAlive: true, bytes: 5 },
  ])
  expect(read(chunked)).toMatchObject({ body: 'hello', bodies: 1, ended: true })
  const until = read('HTTP/1.0 200\r\n\r\nhello', { end: true })
  expect(until).toMatchObject({ body: 'hello', ended: true, heads: [{ keepsAlive: false, bytes: undefined }] })
})

test('however the bytes are cut, the answer is the same', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(length, chunked),
      fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1 }),
      (text, sizes) => {
        const heard = read(text, { sizes: [...sizes, 7] })
        expect([heard.body, heard.ended, heard.heads]).toEqual(['hello', true, read(text).heads])
      },
    ),
  )
})

test('no bytes whatever make it throw anything but a fault, or hear a body without a head', () => {
  const pieces = [
    'HTTP/1.1 200 OK\r\n',
    'HTTP/1.1 100 \r\n\r\n',
    'Content-Length: 3\r\n',
    'Transfer-Encoding: chunked\r\n',
    '\r\n',
    '3\r\nabc\r\n',
    '0\r\n\r\n',
    'abc',
    '\n',
    '\r',
    ':',
    ' ',
    '\0',
    'ÿ',
  ]
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fc.constantFrom(...pieces), fc.string({ maxLength: 5 }))),
      fc.integer({ min: 1, max: 9 }),
      (parts, size) => {
        try {
          const heard = read(parts.join(''), { sizes: [size] })
          if (heard.bodies > 0) expect(heard.heads).toHaveLength(1)
        } catch (error) {
          expect(error).toBeInstanceOf(AnswerFault)
        }
      },
    ),
    { numRuns: 2_000 },
  )
})

test.each([
  ['HEAD', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n'],
  ['HEAD', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'],
  ['GET', 'HTTP/1.1 204 No Content\r\n\r\n'],
  ['GET', 'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n'],
  ['GET', 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'],
])('%s with %j has no body', (method, text) => {
  expect(read(text, { method })).toMatchObject({ body: '', ended: true, heads: [{ keepsAlive: true }] })
})

test('interim answers are passed over, up to a limit', () => {
  const interim = 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'
  expect(read(`HTTP/1.1 100 Continue\r\n\r\n${interim}${length}`)).toMatchObject({
    body: 'hello',
    heads: [{ status: 200 }],
  })
  expect(() => read(interim.repeat(17) + length)).toThrow('more than 16 interim answers')
})

test('switching protocols is heard where it was asked for', () => {
  const text = 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nraw'
  expect(read(text, { upgrades: true }).upgraded).toBe('raw')
  expect(() => read(text)).toThrow('without having been asked')
})

test('a connection is not kept where the answer says so, or HTTP/1.0', () => {
  expect(read(length.replace('X-A', 'Connection: x, Close\r\nX-A')).heads[0]!.keepsAlive).toBe(false)
  expect(read(length.replace('1.1', '1.0')).heads[0]!.keepsAlive).toBe(false)
})

test('a thousand chunks of a byte are one piece', () => {
  const text = `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${'1\r\nx\r\n'.repeat(1_000)}0\r\n\r\n`
  expect(read(text)).toMatchObject({ bodies: 1, ended: true })
})

const head = 'HTTP/1.1 200 OK\r\n'
test.each([
  ['no HTTP', 'hello\r\n\r\n'],
  ['HTTP/2', 'HTTP/2 200\r\n\r\n'],
  ['a status of two digits', 'HTTP/1.1 20 OK\r\n\r\n'],
  ['a bare LF', 'HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n'],
  ['a bare LF in a header', `${head}A: b\nC: d\r\n\r\n`],
  ['a bare CR in a header', `${head}A: b\rC: d\r\n\r\n`],
  ['a NUL', `${head}A: b\0\r\n\r\n`],
  ['a folded line', `${head}A: b\r\n c\r\n\r\n`],
  ['white space before the colon', `${head}Content-Length : 5\r\n\r\nhello`],
  ['a header without a name', `${head}: b\r\n\r\n`],
  ['a header without a colon', `${head}abc\r\n\r\n`],
  ['two lengths', `${head}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!`],
  ['the same length twice', `${head}Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello`],
  ['a list of lengths', `${head}Content-Length: 5, 5\r\n\r\nhello`],
  ['a negative length', `${head}Content-Length: -5\r\n\r\nhello`],
  ['a length with a sign', `${head}Content-Length: +5\r\n\r\nhello`],
  ['a length in hex', `${head}Content-Length: 0x5\r\n\r\nhello`],
  ['an empty length', `${head}Content-Length: \r\n\r\n`],
  ['a length beside chunks', `${head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`],
  ['another coding', `${head}Transfer-Encoding: gzip, chunked\r\n\r\n`],
  ['two codings', `${head}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n`],
  ['chunks in HTTP/1.0', 'HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
  ['a chunk size that is no number', `${head}Transfer-Encoding: chunked\r\n\r\nxyz\r\n`],
  ['a chunk without a size', `${head}Transfer-Encoding: chunked\r\n\r\n\r\n`],
  ['a chunk size with a sign', `${head}Transfer-Encoding: chunked\r\n\r\n-1\r\n`],
  ['a huge chunk', `${head}Transfer-Encoding: chunked\r\n\r\n${'f'.repeat(12)}\r\n`],
  ['a chunk longer than its size', `${head}Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n`],
  ['a chunk size with a bare LF', `${head}Transfer-Encoding: chunked\r\n\r\n1\nab`],
  ['a long extension', `${head}Transfer-Encoding: chunked\r\n\r\n1;${'x'.repeat(300)}\r\n`],
  ['long trailers', `${head}Transfer-Encoding: chunked\r\n\r\n0\r\n${'A: b\r\n'.repeat(2_000)}\r\n`],
  ['a bare LF in the trailers', `${head}Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\r\n`],
  ['a flood of headers', `${head}${'A: b\r\n'.repeat(300)}\r\n`],
  ['a header that never ends', `${head}A: ${'b'.repeat(40_000)}`],
  ['a whole header that is too large', `${head}A: ${'b'.repeat(40_000)}\r\n\r\n`],
  ['a second answer behind the first', `${length}${length}`],
])('%s is refused', (_, text) => {
  expect(() => read(text)).toThrow(AnswerFault)
  expect(() => read(text, { sizes: [1] })).toThrow(AnswerFault)
})

test('an answer that is cut short is refused', () => {
  expect(() => read(head, { end: true })).toThrow('without an answer')
  expect(() => read(`${head}Content-Length: 5\r\n\r\nhel`, { end: true })).toThrow('cut short')
  expect(() => read(`${head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n`, { end: true })).toThrow('cut short')
})
