import { createHmac, randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { chunksOf, collect, someBytes } from '../conformance.ts'
import { createSeal } from './seal.ts'

const key = someBytes(32, 7)
const seal = createSeal(key)
const segment = 256 * 1024
const sealedSegment = segment + 28

const sealOf = (bytes: Buffer, name = 'a', cipher = seal) => collect(cipher.seal(chunksOf(bytes, 100_000), name))
const openOf = (bytes: Buffer, name = 'a', cipher = seal) => collect(cipher.open(chunksOf(bytes, 100_000), name))

test('any size around the bounds of segments opens again, and its sealed size is known before', async () => {
  const bounds = [0, 1, segment - 1, segment, segment + 1, 2 * segment - 1, 2 * segment, 2 * segment + 1]
  await fc.assert(
    fc.asyncProperty(fc.oneof(fc.constantFrom(...bounds), fc.nat(3 * segment)), fc.nat(), async (size, seed) => {
      const plain = someBytes(size, seed)
      const sealed = await sealOf(plain)
      expect(sealed.length).toBe(seal.sealedSize(size))
      expect(seal.plainSize(sealed.length)).toBe(size)
      expect((await openOf(sealed)).equals(plain)).toBe(true)
    }),
    { numRuns: 30, examples: bounds.map((size) => [size, 1]) },
  )
})

test('sizes that nothing sealed has are known', () => {
  for (const size of [0, 15, 16, 43]) expect(seal.plainSize(size)).toBeNull()
  expect(seal.plainSize(44)).toBe(0)
  // A whole segment and then less than the overhead of another.
  expect(seal.plainSize(16 + sealedSegment + 1)).toBeNull()
  expect(seal.plainSize(16 + sealedSegment + 28)).toBeNull()
  expect(seal.plainSize(16 + sealedSegment + 29)).toBe(segment + 1)
})

test('nothing of the content shows, and equal content twice within it looks different', async () => {
  const plain = Buffer.alloc(2 * segment, 'the secret of the house ')
  const sealed = await sealOf(plain)
  expect(sealed.includes('secret')).toBe(false)
  const [first, second] = [16, 16 + sealedSegment].map((at) => sealed.subarray(at, at + sealedSegment))
  expect(first!.equals(second!)).toBe(false)
})

test('the same content under the same name gives the same bytes, so that an upload can go on', async () => {
  const plain = someBytes(3 * segment)
  expect((await sealOf(plain)).equals(await sealOf(plain))).toBe(true)
})

test('other content under the same name never meets the nonces of the first', async () => {
  const noncesOf = (sealed: Buffer) =>
    Array.from({ length: 3 }, (_, at) =>
      sealed.subarray(16 + at * sealedSegment, 28 + at * sealedSegment).toString('hex'),
    )
  const plain = someBytes(3 * segment)
  const other = Buffer.from(plain)
  other[0]! ^= 1
  other[2 * segment]! ^= 1
  const [first, second] = [noncesOf(await sealOf(plain)), noncesOf(await sealOf(other))]
  expect(first[0]).not.toBe(second[0])
  expect(first[1]).toBe(second[1])
  expect(first[2]).not.toBe(second[2])
  expect(new Set([...first, ...second]).size).toBe(5)
})

describe('what is not genuine does not open', () => {
  const plain = someBytes(3 * segment + 1_000)
  const at = (index: number) => 16 + index * sealedSegment
  const cases: [string, (sealed: Buffer) => Buffer][] = [
    [
      'segments swapped',
      (s) => Buffer.concat([s.subarray(0, 16), s.subarray(at(1), at(2)), s.subarray(16, at(1)), s.subarray(at(2))]),
    ],
    ['a segment left out', (s) => Buffer.concat([s.subarray(0, at(1)), s.subarray(at(2))])],
    ['a segment twice', (s) => Buffer.concat([s.subarray(0, at(1)), s.subarray(at(0), at(1)), s.subarray(at(1))])],
    ['the last segment left out', (s) => s.subarray(0, at(3))],
    ['cut within a segment', (s) => s.subarray(0, at(2) + 500)],
    ['cut behind the header', (s) => s.subarray(0, 16)],
    ['cut within the header', (s) => s.subarray(0, 9)],
    ['nothing', () => Buffer.alloc(0)],
    ['a byte more', (s) => Buffer.concat([s, Buffer.alloc(1)])],
    ['another object behind it', (s) => Buffer.concat([s, s.subarray(16)])],
    ['plain bytes', () => plain],
  ]
  test.each(cases)('%s', async (_, change) => {
    await expect(openOf(change(await sealOf(plain)))).rejects.toMatchObject({ code: 'blob_damaged' })
  })

  test('any single bit turned', async () => {
    const sealed = await sealOf(someBytes(5_000))
    await fc.assert(
      fc.asyncProperty(fc.nat(sealed.length - 1), fc.nat(7), async (byte, bit) => {
        const changed = Buffer.from(sealed)
        changed[byte]! ^= 1 << bit
        const code = byte >= 8 && byte < 16 ? 'storage_key_wrong' : 'blob_damaged'
        await expect(openOf(changed)).rejects.toMatchObject({ code })
      }),
      { numRuns: 200 },
    )
  })

  test('the object of another name', async () => {
    await expect(openOf(await sealOf(plain, 'a'), 'b')).rejects.toMatchObject({ code: 'blob_damaged' })
  })

  test('another key is said as such', async () => {
    const other = createSeal(randomBytes(32))
    await expect(openOf(await sealOf(plain), 'a', other)).rejects.toMatchObject({ code: 'storage_key_wrong' })
  })
})

test('the key itself is in no object, nor what it was called by', async () => {
  const sealed = await sealOf(Buffer.alloc(10))
  expect(sealed.includes(key)).toBe(false)
  const id = createHmac('sha256', key).update('delta storage key id').digest()
  expect(sealed.subarray(8, 16).equals(id.subarray(0, 8))).toBe(true)
})

test('what was opened comes segment by segment, not as a whole', async () => {
  const sealed = await sealOf(someBytes(4 * segment))
  let given = 0
  const source = async function* () {
    for (let from = 0; from < sealed.length; from += 50_000) {
      given = Math.min(sealed.length, from + 50_000)
      yield sealed.subarray(from, from + 50_000)
    }
  }
  for await (const _ of seal.open(source(), 'a')) break
  expect(given).toBeLessThan(sealedSegment + 150_000)
})
