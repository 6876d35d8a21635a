import { expect, test } from 'vitest'
import { imageSize } from './image-size.ts'
import { gifOf, jpegOf, pngOf, webpOf } from './testing-images.ts'

test('is what the header says, in each format', () => {
  for (const [width, height] of [
    [1, 1],
    [640, 480],
    [8_000, 3],
  ] as const) {
    for (const image of [
      pngOf(width, height),
      jpegOf(width, height),
      jpegOf(width, height, 200_000),
      gifOf(width, height),
      webpOf(width, height),
    ]) {
      expect(imageSize(image)).toEqual({ width, height })
    }
  }
})

test('nothing has none', () => {
  const png = pngOf(3, 4)
  for (const bytes of [
    Buffer.alloc(0),
    Buffer.alloc(100),
    png.subarray(0, 20),
    Buffer.from('ffd8ffe0ffff', 'hex'),
    Buffer.from(`ffd8${'ff'.repeat(40)}`, 'hex'),
    pngOf(0, 4),
  ]) {
    expect(imageSize(bytes)).toBeUndefined()
  }
})
