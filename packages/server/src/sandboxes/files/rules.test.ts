import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  absolutePath,
  decodeCursor,
  downloadName,
  encodeCursor,
  etagListed,
  parseMode,
  parseRange,
  permissionText,
  queryBytes,
  resolveRange,
  singleEtag,
} from './rules.ts'

describe('a path', () => {
  test('is absolute, or relative to /workspace; `..` and `~` are left to the sandbox', () => {
    expect(absolutePath('/a/../b')).toEqual({ ok: true, path: '/a/../b' })
    expect(absolutePath('a/b')).toEqual({ ok: true, path: '/workspace/a/b' })
    expect(absolutePath('../x')).toEqual({ ok: true, path: '/workspace/../x' })
    expect(absolutePath('~/x')).toEqual({ ok: true, path: '/workspace/~/x' })
    expect(absolutePath(Buffer.from([0xff]))).toEqual({ ok: true, path: Buffer.from('/workspace/\xff', 'latin1') })
  })

  test('that is missing, empty, holds NUL or is too long is refused', () => {
    for (const path of [undefined, '', '/a\0b', Buffer.alloc(0)])
      expect(absolutePath(path)).toMatchObject({ ok: false, code: 'path_invalid' })
    for (const path of ['a'.repeat(5_000), '/a'.repeat(3_000), 'é'.repeat(128), `/x/${'a'.repeat(256)}/y`]) {
      expect(absolutePath(path)).toMatchObject({ ok: false, code: 'name_too_long' })
    }
    expect(absolutePath(`/${'a'.repeat(255)}`).ok).toBe(true)
    expect(absolutePath(`/${'é'.repeat(127)}`).ok).toBe(true)
    expect(absolutePath('/a'.repeat(2_048)).ok).toBe(true)
  })

  test('that is accepted is absolute, bounded and without NUL', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.uint8Array({ maxLength: 600 }).map((bytes) => Buffer.from(bytes)),
        ),
        (path) => {
          const checked = absolutePath(path)
          if (!checked.ok) return
          const bytes = Buffer.from(checked.path as string)
          expect([bytes[0], bytes.includes(0), bytes.length <= 4_096]).toEqual([0x2f, false, true])
        },
      ),
    )
  })
})

test('a query’s path is the bytes it stands for, text or not', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 40 }), (bytes) => {
      const encoded = Buffer.from(bytes).toString('hex').replaceAll(/../g, '%$&')
      const path = queryBytes(`http://x/files?a=1&path=${encoded}&b=path=2#f`, 'path')
      expect(Buffer.from(path as string).equals(Buffer.from(bytes))).toBe(true)
    }),
  )
  expect(queryBytes('http://x/files?path=/a+b%2Bc', 'path')).toBe('/a b+c')
  expect(queryBytes('http://x/files?path=100%', 'path')).toBe('100%')
  expect(queryBytes('http://x/files?path=', 'path')).toBe('')
  expect(queryBytes('http://x/files?xpath=1', 'path')).toBeUndefined()
  expect(queryBytes('http://x/files', 'path')).toBeUndefined()
})

describe('a range', () => {
  const resolve = (header: string, size: number) => {
    const wish = parseRange(header)
    return wish === undefined ? 'whole' : (resolveRange(wish, size) ?? 'none')
  }

  test.each([
    ['bytes=0-9', 100, { from: 0, length: 10 }],
    ['bytes=90-', 100, { from: 90, length: 10 }],
    ['bytes=90-1000', 100, { from: 90, length: 10 }],
    ['bytes=-10', 100, { from: 90, length: 10 }],
    ['bytes=-1000', 100, { from: 0, length: 100 }],
    ['bytes=100-', 100, 'none'],
    ['bytes=-0', 100, 'none'],
    ['bytes=0-', 0, 'none'],
    ['bytes=5-4', 100, 'whole'],
    ['bytes=0-1,5-6', 100, 'whole'],
    ['bytes=-', 100, 'whole'],
    ['bytes=a-b', 100, 'whole'],
    ['lines=1-2', 100, 'whole'],
    ['bytes=99999999999999999999-', 100, 'whole'],
  ])('%s of %i bytes', (header, size, expected) => {
    expect(resolve(header, size)).toEqual(expected)
  })

  test('lies inside the file, whatever is asked', () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.string(), fc.stringMatching(/^bytes=\d{0,4}-\d{0,4}$/)),
        fc.nat(2_000),
        (header, size) => {
          const range = resolve(header, size)
          if (typeof range === 'string') return
          expect(range.length).toBeGreaterThan(0)
          expect(range.from + range.length).toBeLessThanOrEqual(size)
        },
      ),
    )
  })
})

test('modes are octal texts or numbers within the permission bits', () => {
  expect(['0644', '755', '0o700', '4755', 493, 0, '0'].map(parseMode)).toEqual([
    0o644, 0o755, 0o700, 0o4755, 0o755, 0, 0,
  ])
  for (const wrong of ['', '8', '99', '-1', '0x1f', '77777', 'rwx', ' 644', -1, 1.5, Number.NaN, 4096, Infinity]) {
    expect(parseMode(wrong), String(wrong)).toBeUndefined()
  }
  expect([0o644, 0o755, 0o4755, 0o4644, 0o2711, 0o1777, 0o1776, 0].map(permissionText)).toEqual([
    'rw-r--r--',
    'rwxr-xr-x',
    'rwsr-xr-x',
    'rwSr--r--',
    'rwx--s--x',
    'rwxrwxrwt',
    'rwxrwxrwT',
    '---------',
  ])
})

test('ETags are found in lists; a write takes one', () => {
  expect(etagListed('"a", W/"b"', '"b"', { weak: true })).toBe(true)
  expect(etagListed('"a", W/"b"', '"b"', { weak: false })).toBe(false)
  expect(etagListed('*', '"b"', { weak: false })).toBe(true)
  expect(etagListed('"ab"', '"b"', { weak: true })).toBe(false)
  expect(['"a"', ' "a" ', 'W/"a"', '"a", "b"', '*', 'a', ''].map(singleEtag)).toEqual([
    '"a"',
    '"a"',
    undefined,
    undefined,
    undefined,
    undefined,
    undefined,
  ])
})

test('a cursor is the bytes of a path and nothing else', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
      const path = Buffer.concat([Buffer.from('/'), Buffer.from(bytes.map((byte) => byte || 1))])
      expect(decodeCursor(encodeCursor(path))?.equals(path)).toBe(true)
    }),
  )
  for (const wrong of [
    '',
    'a/b',
    '..',
    Buffer.from('relative').toString('base64url'),
    Buffer.from('/a\0').toString('base64url'),
    'L'.repeat(7_000),
  ]) {
    expect(decodeCursor(wrong), wrong).toBeUndefined()
  }
})

test('no name of a file breaks a header', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.string({ unit: 'binary' })), (path) => {
      const value = downloadName(path, '.tar')
      expect(value).toMatch(/^[\x20-\x7e]+$/)
      expect(() => new Headers({ 'content-disposition': value })).not.toThrow()
    }),
  )
  expect(downloadName('/workspace/a b.txt')).toBe('attachment; filename="a b.txt"')
  expect(downloadName('/workspace/é"x')).toBe(`attachment; filename="__x"; filename*=UTF-8''%C3%A9%22x`)
  expect(downloadName('/', '.tar')).toBe('attachment; filename="root.tar"')
})
