import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createOutputKeeper } from './output.ts'

test('the first and the last bytes are kept and the rest is counted, however it is cut', () => {
  const pieces = fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 60 })
  fc.assert(
    fc.property(pieces, fc.integer({ min: 1, max: 30 }), (parts, keep) => {
      const keeper = createOutputKeeper(keep)
      for (const part of parts) keeper.push(part)
      const all = Buffer.concat(parts)
      const expected =
        all.length <= 2 * keep ? all : Buffer.concat([all.subarray(0, keep), all.subarray(all.length - keep)])
      expect(keeper.bytesCut()).toBe(all.length - expected.length)
      expect(keeper.text('base64')).toBe(expected.toString('base64'))
    }),
    { seed: 11 },
  )
})

test('a flood stays within a few times what is kept', () => {
  const keeper = createOutputKeeper(1024)
  const piece = new Uint8Array(700)
  for (let count = 0; count < 10_000; count++) keeper.push(piece)
  expect(keeper.bytesCut()).toBe(7_000_000 - 2048)
  expect(keeper.text('utf8').length).toBe(2048)
})
