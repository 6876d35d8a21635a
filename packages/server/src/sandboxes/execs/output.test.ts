import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createHeldBytes } from '../../kernel/held-bytes.ts'
import { createOutputKeeper, encodeOutput, incompleteTail, KEPT_END_BYTES, outputBudgetOf } from './output.ts'

/** Grows up to a quarter of what is shared. */
const createOutputBudget = (bytes: number) =>
  outputBudgetOf(createHeldBytes({ bytes: 4 * bytes, guaranteedBytes: 0 }).account())

const generous = () => createOutputBudget(1e9)

function keep(chunks: Buffer[], endBytes: number) {
  const keeper = createOutputKeeper(generous(), endBytes)
  for (const chunk of chunks) keeper.add(chunk)
  return keeper.result()
}

describe('kept output', () => {
  test('is the whole stream, or its first and last bytes with the rest counted', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 30 }),
        fc.integer({ min: 1, max: 32 }),
        (parts, end) => {
          const chunks = parts.map((part) => Buffer.from(part))
          const whole = Buffer.concat(chunks)
          const kept = keep(chunks, end)
          if (whole.length <= end * 2) {
            expect(kept).toEqual({ bytes: whole, cutAt: whole.length, droppedBytes: 0 })
          } else {
            const expected = Buffer.concat([whole.subarray(0, end), whole.subarray(whole.length - end)])
            expect(kept).toEqual({ bytes: expected, cutAt: end, droppedBytes: whole.length - end * 2 })
          }
        },
      ),
    )
  })

  test('of a gigabyte is two ends of 1 MiB, and costs no more memory than these', () => {
    let most = 0
    let now = 0
    const keeper = createOutputKeeper({
      take(bytes) {
        now += bytes
        most = Math.max(most, now)
        return true
      },
      give: (bytes) => (now -= bytes),
    })
    const block = Buffer.alloc(64 * 1024, 'x')
    for (let i = 0; i < 16 * 1024; i++) keeper.add(block)
    keeper.add(Buffer.from('end'))
    const kept = keeper.result()
    expect(kept.bytes.length).toBe(2 * KEPT_END_BYTES)
    expect(kept.bytes.toString('latin1').endsWith('xend')).toBe(true)
    expect(kept.droppedBytes).toBe(1024 ** 3 + 3 - 2 * KEPT_END_BYTES)
    expect(most).toBeLessThanOrEqual(2 * KEPT_END_BYTES)
    keeper.release()
    expect(now).toBe(0)
  })

  test('shrinks to two smaller ends when the memory for all is used up, and says what was cut', () => {
    const budget = createOutputBudget(100_000)
    const first = createOutputKeeper(budget)
    const second = createOutputKeeper(budget)
    first.add(Buffer.alloc(90_000, 'a'))
    const text = Array.from({ length: 20_000 }, (_, i) => `line ${i}\n`).join('')
    second.add(Buffer.from(text.slice(0, 10)))
    second.add(Buffer.from(text.slice(10)))
    const kept = second.result()
    const said = kept.bytes.toString()
    expect(said.startsWith('line 0\nline 1\n')).toBe(true)
    expect(said.endsWith('line 19998\nline 19999\n')).toBe(true)
    expect(kept.bytes.length + kept.droppedBytes).toBe(text.length)
    first.release()
    second.release()
    const third = createOutputKeeper(budget)
    third.add(Buffer.from(text).subarray(0, 100_000))
    expect(third.result().droppedBytes).toBe(0)
  })

  test('whatever the budget refuses, kept and dropped bytes add up and both ends are the stream’s', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 9_000 }), { maxLength: 12 }),
        fc.integer({ min: 0, max: 40_000 }),
        (parts, total) => {
          const keeper = createOutputKeeper(createOutputBudget(total), 16_000)
          for (const part of parts) keeper.add(Buffer.from(part))
          const whole = Buffer.concat(parts)
          const { bytes, cutAt, droppedBytes } = keeper.result()
          expect(bytes.length + droppedBytes).toBe(whole.length)
          expect(bytes.subarray(0, cutAt).equals(whole.subarray(0, cutAt))).toBe(true)
          expect(bytes.subarray(cutAt).equals(whole.subarray(whole.length - (bytes.length - cutAt)))).toBe(true)
        },
      ),
      { numRuns: 60 },
    )
  })

  test('lost bytes are counted as dropped', () => {
    const keeper = createOutputKeeper(generous())
    keeper.skip(70)
    keeper.add(Buffer.from('tail'))
    expect(encodeOutput(keeper.result(), 'utf8')).toEqual({ text: 'tail', droppedBytes: 70 })
  })
})

describe('encoded output', () => {
  test('of text cut anywhere has no replacement character, and what is missing is counted', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'grapheme', minLength: 1, maxLength: 60 }),
        fc.integer({ min: 1, max: 40 }),
        (text, end) => {
          fc.pre(!text.includes('\ufffd'))
          const whole = Buffer.from(text)
          const { text: said, droppedBytes } = encodeOutput(keep([whole], end), 'utf8')
          expect(said).not.toContain('\ufffd')
          expect(Buffer.byteLength(said) + droppedBytes).toBe(whole.length)
        },
      ),
    )
  })

  test('of bytes that are no text has replacement characters as utf8, and is exact as base64', () => {
    const bytes = Buffer.from([0x61, 0xff, 0xfe, 0x62])
    expect(encodeOutput(keep([bytes], 100), 'utf8')).toEqual({ text: 'a\ufffd\ufffdb', droppedBytes: 0 })
    expect(encodeOutput(keep([bytes], 100), 'base64')).toEqual({ text: bytes.toString('base64'), droppedBytes: 0 })
    expect(encodeOutput(keep([bytes], 1), 'base64')).toEqual({
      text: Buffer.from('ab').toString('base64'),
      droppedBytes: 2,
    })
  })
})

test('an incomplete tail is what a decoder would wait for', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 8 }), (bytes) => {
      const buffer = Buffer.from(bytes)
      const cut = incompleteTail(buffer)
      expect(cut).toBeLessThanOrEqual(3)
      // Taking the tail away changes no character before it.
      const whole = buffer.toString('utf8', 0, buffer.length - cut)
      expect(buffer.toString('utf8').startsWith(whole)).toBe(true)
    }),
  )
  expect(incompleteTail(Buffer.from('é').subarray(0, 1))).toBe(1)
  expect(incompleteTail(Buffer.from('€').subarray(0, 2))).toBe(2)
  expect(incompleteTail(Buffer.from('😀').subarray(0, 3))).toBe(3)
  expect(incompleteTail(Buffer.from('😀'))).toBe(0)
  expect(incompleteTail(Buffer.from([0x80, 0x80, 0x80]))).toBe(0)
  expect(incompleteTail(Buffer.from([0xff]))).toBe(0)
})
