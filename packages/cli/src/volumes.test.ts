import { expect, test } from 'vitest'
import { parseMount } from './volumes.ts'

test('a volume is named with its path, and may be for reading only', () => {
  expect(parseMount('data:/data')).toEqual([{ volume: 'data', path: '/data', readOnly: false }])
  expect(parseMount('data:/data:ro', parseMount('vol_1:/b c:rw'))).toEqual([
    { volume: 'vol_1', path: '/b c', readOnly: false },
    { volume: 'data', path: '/data', readOnly: true },
  ])
})

test.each(['', 'data', 'data:', ':/data', 'data:relative', 'data:/a:xx', 'data:/a:ro:rw'])('%j is refused', (text) => {
  expect(() => parseMount(text)).toThrow('NAME:/path')
})
