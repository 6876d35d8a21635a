import { EventEmitter } from 'node:events'
import { PassThrough, Readable } from 'node:stream'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { DeltaError } from '../../kernel/errors.ts'
import { pour } from './pour.ts'

const never = new Promise(() => {})
const soon = () => new Promise<void>((resolve) => setImmediate(resolve))

test('every byte arrives in order, whatever the pace', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ minLength: 1, maxLength: 50 })),
      fc.array(fc.boolean()),
      async (parts, slow) => {
        const taken: Buffer[] = []
        const write = (chunk: Buffer) => {
          taken.push(chunk)
          return slow[taken.length] === true ? soon() : undefined
        }
        expect(await pour(Readable.from(parts.map((part) => Buffer.from(part))), write, never)).toBe(true)
        expect(Buffer.concat(taken).equals(Buffer.concat(parts))).toBe(true)
      },
    ),
    { numRuns: 50 },
  )
})

test('the end counts when the last chunk is taken, even if the source says it before', async () => {
  const source = Object.assign(new EventEmitter(), { pause() {}, resume() {}, readableEnded: false, destroyed: false })
  let takeLast = () => {}
  let done = false
  const poured = pour(source as unknown as Readable, () => new Promise((resolve) => (takeLast = resolve)), never).then(
    (whole) => {
      done = true
      return whole
    },
  )
  source.emit('data', Buffer.from('last'))
  source.emit('end')
  source.emit('close')
  await soon()
  expect(done).toBe(false)
  takeLast()
  expect(await poured).toBe(true)
})

test('a source that breaks is an error: its own where it has one', async () => {
  const cut = new PassThrough()
  const first = pour(cut, () => undefined, never)
  cut.destroy()
  await expect(first).rejects.toMatchObject({ code: 'canceled' })
  const slow = new PassThrough()
  const second = pour(slow, () => undefined, never)
  slow.destroy(new DeltaError('request_timeout', 'too slow'))
  await expect(second).rejects.toMatchObject({ code: 'request_timeout' })
  await expect(pour(cut, () => undefined, never)).rejects.toMatchObject({ code: 'canceled' })
})

test('a taker that is over stops it, with the source left alone', async () => {
  const source = new PassThrough()
  const over = Promise.withResolvers<void>()
  const poured = pour(source, () => over.promise, over.promise)
  source.write('x')
  await soon()
  over.resolve()
  expect(await poured).toBe(false)
  expect(source.destroyed).toBe(false)
})
