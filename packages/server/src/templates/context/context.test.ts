import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import { DeltaError } from '../../kernel/errors.ts'
import { tarHeader } from '../../workspaces/image/tar.ts'
import { openContext } from './context.ts'
import { ignoreRules, patternOf } from './match.ts'
import { indexTar } from './tar-index.ts'

const folders: string[] = []
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true })
})

function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'delta-context-'))
  folders.push(folder)
  return folder
}

/** By the system's tar. */
function archiveOf(
  files: Record<string, string>,
  { format = 'gnu', links = {} as Record<string, string> } = {},
): string {
  const root = newFolder()
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, 'in', path)), { recursive: true })
    writeFileSync(join(root, 'in', path), content)
  }
  for (const [path, target] of Object.entries(links)) symlinkSync(target, join(root, 'in', path))
  execFileSync('tar', [`--format=${format}`, '-C', join(root, 'in'), '-cf', join(root, 'a.tar'), '.'])
  return join(root, 'a.tar')
}

function summed(header: Buffer): Buffer {
  header.write('        ', 148)
  header.write(
    `${header
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, '0')}\0 `,
    148,
  )
  return header
}

async function bytesOf(chunks: AsyncIterable<Uint8Array>): Promise<string> {
  const all: Uint8Array[] = []
  for await (const chunk of chunks) all.push(chunk)
  return Buffer.concat(all).toString()
}

async function refusal(promise: Promise<unknown>): Promise<DeltaError> {
  const error = await promise.then(
    () => expect.unreachable('it succeeded'),
    (cause: unknown) => cause,
  )
  expect(error).toBeInstanceOf(DeltaError)
  return error as DeltaError
}

describe('an archive', () => {
  const long = `${'folder-with-a-long-name/'.repeat(12)}file`
  test.each(['gnu', 'ustar', 'pax', 'v7'])('in the form %s is read', async (format) => {
    const files =
      format === 'gnu' || format === 'pax' ? { 'a.txt': 'A', 'd/ü': 'U', [long]: 'L' } : { 'a.txt': 'A', 'd/b': 'B' }
    const context = await openContext(archiveOf(files, { format, links: { link: 'a.txt' } }))
    for (const [path, content] of Object.entries(files)) {
      const [found] = context.find(path)
      expect(found?.kind).toBe('file')
      expect(await bytesOf(found!.items[0]!.open())).toBe(content)
    }
    expect(context.find('link')[0]?.items[0]).toMatchObject({ type: 'symlink', target: 'a.txt' })
    expect(context.find('nothing')).toEqual([])
  })

  test('that is none, is cut off, or leads out of itself is refused', async () => {
    const folder = newFolder()
    const write = (name: string, bytes: Uint8Array) => {
      writeFileSync(join(folder, name), bytes)
      return join(folder, name)
    }
    expect(await refusal(indexTar(write('text', Buffer.alloc(2_000, 'x')), { entries: 9 }))).toMatchObject({
      code: 'archive_invalid',
    })
    const good = execFileSync('cat', [archiveOf({ a: 'x'.repeat(5_000) })])
    expect((await refusal(indexTar(write('cut', good.subarray(0, 3_000)), { entries: 9 }))).cause).toMatch(
      /beyond its end/,
    )
    expect((await refusal(indexTar(write('many', good), { entries: 1 }))).cause).toMatch(/more than 1 entries/)
    const root = newFolder()
    writeFileSync(join(root, 'x'), 'x')
    execFileSync('tar', ['-C', root, '-cPf', join(root, 'out.tar'), '--transform=s,^,../../,', 'x'])
    expect((await refusal(indexTar(join(root, 'out.tar'), { entries: 9 }))).cause).toMatch(/leads out/)
  })

  test('may leave folders out, but not more than it may have entries', async () => {
    const path = join(newFolder(), 'deep.tar')
    const block = (name: string) => Buffer.from(tarHeader(name, 0))
    // Each needs 49 folders of its own: 11,000 entries would be 550,000.
    const deep = (at: number) => `${at.toString(36)}/${'a/'.repeat(46)}x/f`
    writeFileSync(
      path,
      Buffer.concat([...Array.from({ length: 11_000 }, (_, at) => block(deep(at))), Buffer.alloc(1_024)]),
    )
    expect(await refusal(openContext(path))).toMatchObject({
      code: 'archive_invalid',
      cause: expect.stringMatching(/more than 500000 entries, with the folders/),
    })
    writeFileSync(path, Buffer.concat([block(deep(1)), block(deep(2)), Buffer.alloc(1_024)]))
    const context = await openContext(path)
    expect(context.find('.')[0]?.items).toHaveLength(2 * 49)
    expect(context.find('1/a').map(({ items }) => items.length)).toEqual([47])
  })

  test('with paths or targets that are too much to hold is refused', async () => {
    const folder = newFolder()
    const extended = (kind: 'L' | 'K', text: string) => {
      const header = Buffer.from(tarHeader('x', text.length))
      header.write(kind, 156)
      return Buffer.concat([summed(header), Buffer.from(text), Buffer.alloc(512 - (text.length % 512))])
    }
    const link = Buffer.from(tarHeader('link', 0))
    link.write('2', 156)
    writeFileSync(join(folder, 'target'), Buffer.concat([extended('K', 't'.repeat(5_000)), summed(link)]))
    expect((await refusal(openContext(join(folder, 'target')))).cause).toMatch(/target of "link" is too long/)
    // 4,000 bytes of path and 255 folders each, of which no two share one.
    const deep = (at: number) =>
      Buffer.concat([extended('L', `${at}${'/aaaaaaaaaaaaaa'.repeat(250)}`), Buffer.from(tarHeader('x', 0))])
    writeFileSync(join(folder, 'deep'), Buffer.concat(Array.from({ length: 1_000 }, (_, at) => deep(at))))
    expect((await refusal(openContext(join(folder, 'deep')))).cause).toMatch(/paths together have more than/)
  })

  test('garbled at any byte is read or refused', async () => {
    const good = execFileSync('cat', [archiveOf({ a: 'one', 'b/c': 'two' }, { format: 'pax', links: { l: 'a' } })])
    const path = join(newFolder(), 'garbled.tar')
    await fc.assert(
      fc.asyncProperty(fc.nat(good.length - 1), fc.nat(255), async (at, value) => {
        const bytes = Buffer.from(good)
        bytes[at] = value
        writeFileSync(path, bytes)
        await indexTar(path, { entries: 100 }).catch((error: unknown) => expect(error).toBeInstanceOf(DeltaError))
      }),
      { numRuns: 300, seed: 21 },
    )
  })
})

describe('what is copied', () => {
  test('is found among very many folders', async () => {
    const path = join(newFolder(), 'wide.tar')
    const blocks = Array.from({ length: 5_000 }, (_, at) => Buffer.from(tarHeader(`d${at}/f`, 0)))
    writeFileSync(path, Buffer.concat([...blocks, Buffer.alloc(1_024)]))
    const context = await openContext(path)
    const found = context.find('*')
    expect(found).toHaveLength(5_000)
    expect(new Set(found.map(({ kind, items }) => `${kind} ${items.map(({ path: at }) => at).join()}`))).toEqual(
      new Set(['folder f']),
    )
  })

  test('a folder is its content, a pattern is what fits, and the digest is that of contents and modes', async () => {
    const files = { 'src/a.ts': 'a', 'src/b.js': 'b', 'src/deep/c.ts': 'c', Dockerfile: 'FROM a' }
    const context = await openContext(archiveOf(files))
    expect(context.find('src/').map(({ kind, items }) => [kind, items.map(({ path }) => path)])).toEqual([
      ['folder', ['a.ts', 'b.js', 'deep', 'deep/c.ts']],
    ])
    expect(context.find('src/*.ts').map(({ name }) => name)).toEqual(['a.ts'])
    expect(context.find('s*/*').map(({ name }) => name)).toEqual(['a.ts', 'b.js', 'deep'])
    expect(context.find('../../src/a.ts')).toHaveLength(1)
    const digest = await context.digest(context.find('src'))
    const same = await openContext(archiveOf(files))
    expect(await same.digest(same.find('src'))).toBe(digest)
    const other = await openContext(archiveOf({ ...files, 'src/deep/c.ts': 'C' }))
    expect(await other.digest(other.find('src'))).not.toBe(digest)
    expect(await other.digest(other.find('src/a.ts'))).toBe(await context.digest(context.find('src/a.ts')))
  })

  test('.dockerignore leaves out, and takes back in', async () => {
    const files = {
      '.dockerignore': 'node_modules\n*.log\n!keep.log\n**/tmp\n# x\n/docs/*.md',
      'a.log': '',
      'keep.log': '',
      b: '',
    }
    const more = { 'node_modules/x/y': '', 'x/y/tmp/z': '', 'docs/a.md': '', 'docs/sub/a.md': '', 'sub/c.log': '' }
    const context = await openContext(archiveOf({ ...files, ...more }))
    expect(
      context
        .find('.')[0]
        ?.items.filter(({ type }) => type === 'file')
        .map(({ path }) => path),
    ).toEqual(['.dockerignore', 'b', 'docs/sub/a.md', 'keep.log', 'sub/c.log'])
  })

  test.each([
    ['*.ts', 'a.ts', true],
    ['*.ts', 'd/a.ts', false],
    ['a?c', 'abc', true],
    ['a?c', 'a/c', false],
    ['[a-c]x', 'bx', true],
    ['[^a-c]x', 'bx', false],
    ['[^a]', '/', false],
    ['a\\*', 'a*', true],
    ['a\\*', 'ab', false],
    ['(a|b)+', '(a|b)+', true],
    ['a*', 'a', true],
    ['*', '', true],
    ['[a-', 'a', undefined],
    ['[]]', ']', true],
    ['a**b', 'axb', true],
  ])('%s and %s', (pattern, path, fits) => {
    expect(patternOf(pattern)?.test(path)).toBe(fits)
  })

  test.each([
    ['**/b', 'b', true],
    ['**/b', 'x/y/b', true],
    ['**/b', 'xb', false],
    ['a/**/b', 'a/b', true],
    ['a/**/b', 'a/x/b', true],
    ['a/**/b', 'axb', false],
    ['a/**', 'a/x/y', true],
    ['**', 'a/b', true],
  ])('%s and %s in .dockerignore', (pattern, path, fits) => {
    expect(patternOf(pattern, { deep: true })?.test(path)).toBe(fits)
  })

  test('no pattern takes long or throws', () => {
    expect(patternOf('[a')).toBeUndefined()
    const slow = patternOf('*a'.repeat(200))!
    expect(slow.test(`${'a'.repeat(4_000)}b`)).toBe(false)
    expect(() => {
      for (let count = 0; count < 1_000; count += 1) slow.test(`${'a'.repeat(4_000)}b`)
    }).toThrow(DeltaError)
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'*?[]^-a/\\!') }), fc.string(), (pattern, path) => {
        patternOf(pattern, { deep: true })?.test(path)
        ignoreRules(pattern)(path)
      }),
      { seed: 22, numRuns: 500 },
    )
  })
})
