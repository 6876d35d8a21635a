import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createHeldBytes } from '../kernel/held-bytes.ts'
import { createOutputWindow, firstWindowBytes } from './window.ts'

const plenty = () => createHeldBytes().account()

const mostBytes = 64 * 1024

describe('the window of a terminal', () => {
  test('holds exactly the last of what was said, whatever the pieces were', () => {
    const piece = fc.record({ length: fc.integer({ min: 0, max: 80_000 }), hole: fc.constantFrom(0, 0, 0, 5, 100_000) })
    const start = fc.integer({ min: 0, max: 2 ** 40 })
    fc.assert(
      fc.property(start, fc.array(piece, { maxLength: 20 }), (from, pieces) => {
        const window = createOutputWindow(from, mostBytes, plenty())
        let all = Buffer.alloc(0)
        let at = from
        for (const [index, { length, hole }] of pieces.entries()) {
          if (hole > 0 && length > 0) {
            at += hole
            all = Buffer.alloc(0)
          }
          const bytes = Buffer.alloc(length, index + 1)
          if (length > 0) bytes[0] = 255
          window.append(at, bytes)
          at += length
          all = Buffer.concat([all, bytes]).subarray(-mostBytes)
          expect(window.end).toBe(at)
          expect(window.end - window.base).toBeLessThanOrEqual(mostBytes)
          // As long as memory could still grow nothing is given up.
          expect(window.end - window.base).toBe(all.length)
          expect(window.read(window.base, mostBytes).equals(all)).toBe(true)
          const middle = window.base + Math.floor(all.length / 2)
          expect(window.read(middle, 7).equals(all.subarray(middle - window.base, middle - window.base + 7))).toBe(true)
        }
      }),
      { numRuns: 200, seed: 7 },
    )
  })

  test('what was read stays as it is when the window moves on', () => {
    const window = createOutputWindow(0, 4, plenty())
    window.append(0, Buffer.from('abcd'))
    const read = window.read(0, 4)
    window.append(4, Buffer.from('wxyz'))
    expect([read.toString(), window.read(4, 4).toString(), window.base]).toEqual(['abcd', 'wxyz', 4])
  })

  test('there is nothing to read at its end', () => {
    const window = createOutputWindow(9, 4, plenty())
    expect(window.read(9, 10).length).toBe(0)
  })

  test('where there is no memory to grow it keeps the last of what it has room for, and gives back what it took', () => {
    const held = createHeldBytes({ bytes: 8 * firstWindowBytes, guaranteedBytes: 0 }).account()
    held.take(firstWindowBytes)
    const window = createOutputWindow(0, 1024 * 1024, held)
    const all = Buffer.from(Array.from({ length: 100_000 }, (_, index) => index % 251))
    window.append(0, all)
    expect([window.size, window.end, held.bytes]).toEqual([firstWindowBytes, 100_000, firstWindowBytes])
    expect(window.read(window.base, 1024 * 1024).equals(all.subarray(-firstWindowBytes))).toBe(true)
    window.close()
    expect(held.bytes).toBe(0)
  })
})
