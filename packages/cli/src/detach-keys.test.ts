import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createDetachKeys, defaultDetachKeys, parseDetachKeys } from './detach-keys.ts'

const [p, q] = [0x10, 0x11]
const detect = () => createDetachKeys(parseDetachKeys(defaultDetachKeys))

test('keys are read as a terminal sends them', () => {
  expect([...parseDetachKeys('ctrl-p,ctrl-q')!]).toEqual([p, q])
  expect([...parseDetachKeys('ctrl-],x,Ctrl-@')!]).toEqual([0x1d, 0x78, 0])
  expect(parseDetachKeys('none')).toBeUndefined()
  for (const wrong of ['', 'ctrl-', 'ctrl-1', 'ab', 'ctrl-p,']) expect(() => parseDetachKeys(wrong)).toThrow(/no keys/)
})

test('both keys end it, however they arrive; what came before is sent', () => {
  expect(detect().feed(Uint8Array.of(65, p, q, 66))).toEqual({ send: Uint8Array.of(65), pressed: true })
  const keys = detect()
  expect(keys.feed(Uint8Array.of(p))).toEqual({ send: new Uint8Array(), pressed: false })
  expect(keys.feed(Uint8Array.of(q)).pressed).toBe(true)
})

test('the first key alone is the program’s, as soon as something else comes or nothing does', () => {
  const keys = detect()
  keys.feed(Uint8Array.of(p))
  expect(keys.feed(Uint8Array.of(65))).toEqual({ send: Uint8Array.of(p, 65), pressed: false })
  keys.feed(Uint8Array.of(p))
  expect(keys.flush()).toEqual(Uint8Array.of(p))
  expect(keys.flush()).toEqual(new Uint8Array())
  expect(keys.feed(Uint8Array.of(q)).pressed).toBe(false)
})

test('without the keys in it, everything typed is sent, in order', () => {
  const bytes = fc.array(fc.constantFrom(p, 65, 66), { maxLength: 30 })
  fc.assert(
    fc.property(fc.array(bytes, { maxLength: 8 }), (pieces) => {
      const keys = detect()
      const sent = pieces.flatMap((piece) => [...keys.feed(Uint8Array.from(piece)).send])
      expect([...sent, ...keys.flush()]).toEqual(pieces.flat())
    }),
    { seed: 7 },
  )
})
