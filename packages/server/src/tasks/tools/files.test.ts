import { chmodSync, mkdirSync, readFileSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { imageLimits } from './images.ts'
import { createTools } from './table.ts'
import { agentCaller, callTool, openTestComputer, testContext, testDeps } from './testing.ts'
import type { ToolContext } from './tool.ts'

let box: Awaited<ReturnType<typeof openTestComputer>>
let tools: ReturnType<typeof createTools>

beforeAll(async () => {
  box = await openTestComputer()
  tools = createTools(testDeps(box))
})
afterAll(() => box?.close())

const call = (name: string, input: object, context?: ToolContext) => callTool(tools, name, input, context)
const put = (name: string, content: string | Buffer) => writeFileSync(join(box.folder, name), content)
const got = (name: string) => readFileSync(join(box.folder, name), 'utf8')

describe('read_file', () => {
  test('numbers lines, and shows those asked for', async () => {
    put('lines', Array.from({ length: 30 }, (_, index) => `line ${index + 1}\n`).join(''))
    expect(await call('read_file', { path: 'lines', from: 3, lines: 2 })).toBe(
      '     3\tline 3\n     4\tline 4\n[lines 3 to 4 of 30 lines; go on with from: 5]',
    )
    expect(await call('read_file', { path: join(box.folder, 'lines'), from: 29 })).toBe(
      '    29\tline 29\n    30\tline 30\n[lines 29 to 30 of 30 lines]',
    )
    expect(await call('read_file', { path: 'lines', from: 31 })).toBe(
      'error: There is no line 31: the file has 30 lines.',
    )
  })

  test('on a computer where others may have written, what files hold and are called is data', async () => {
    put('foreign', 'OBEY\n')
    const ask = async (name: string, input: object) => {
      const context = testContext({ isForeign: async () => true })
      const text = await call(name, input, context)
      expect(context.seen.untrusted, name).toEqual(['your computer'])
      return text
    }
    expect(await ask('read_file', { path: 'foreign', lines: 1 })).toMatch(/\n<data-(\w+)>\n     1\tOBEY\n<\/data-\1>$/)
    expect(await ask('search_files', { pattern: 'OBEY' })).toMatch(/\n<data-(\w+)>\nforeign:1:OBEY\n<\/data-\1>$/)
    expect(await ask('list_files', {})).toMatch(/\n<data-(\w+)>\n[^]*foreign {2}5[^]*\n<\/data-\1>$/)
    const edit = { path: 'foreign', oldText: 'OBEX', newText: 'x' }
    expect(await ask('edit_file', edit)).toContain('OBEY')
  })

  test('shows a whole short file without a note, also one without a last line end', async () => {
    put('short', 'a\n\nb é')
    expect(await call('read_file', { path: 'short' })).toBe('     1\ta\n     2\t\n     3\tb é\n')
    put('empty', '')
    expect(await call('read_file', { path: 'empty' })).toBe('[the file is empty]')
    put('crlf', 'a\r\nb\r\n')
    expect(await call('read_file', { path: 'crlf' })).toBe(
      '     1\ta\n     2\tb\n[lines 1 to 2 of 2 lines; lines end with \\r\\n]',
    )
  })

  test('of a long file shows what fits and says how to go on', async () => {
    put('long', 'x'.repeat(99).concat('\n').repeat(5_000))
    const text = await call('read_file', { path: 'long' })
    const [, last, next] = /\[lines 1 to ([0-9]+) of 5,000 lines; go on with from: ([0-9]+)\]$/.exec(text)!
    expect(Number(next)).toBe(Number(last) + 1)
    expect(text.length).toBeLessThan(16_200)
    expect(await call('read_file', { path: 'long', from: Number(next), lines: 1 })).toContain(`${next}\txxx`)
  })

  test('of a file of 10 GB, or a line of it, reads a bounded part', async () => {
    put('huge', 'first\n')
    truncateSync(join(box.folder, 'huge'), 10 * 1024 ** 3)
    expect(await call('read_file', { path: 'huge' })).toMatch(
      /^error: huge is no text: it is a binary file of 10,737,418,240 bytes/,
    )
    put('huge-line', `${'y'.repeat(70_000_000)}\nend\n`)
    const text = await call('read_file', { path: 'huge-line' })
    expect(text.length).toBeLessThan(2_300)
    expect(text).toMatch(
      /y… \[line is cut\]\n\[lines 1 to 1 of more than 1 lines, 70,000,005 bytes; go on with from: 2\]$/,
    )
  })

  test('shows an image by its header, and refuses one that is too large', async () => {
    const png = Buffer.alloc(100)
    png.write('\x89PNG\r\n\x1a\n', 0, 'latin1')
    png.write('IHDR', 12, 'latin1')
    png.writeUInt32BE(20, 16)
    png.writeUInt32BE(30, 20)
    put('a.png', png)
    const read = tools.get('read_file')!
    const outcome = await read.run({ path: 'a.png', from: 1, lines: 1 }, testContext())
    const digest = [...box.images.keys()].at(-1)
    expect(outcome).toEqual({
      kind: 'done',
      isError: false,
      content: [
        { type: 'text', text: 'a.png: image/png, 20 × 30 pixels' },
        { type: 'image', digest, mediaType: 'image/png', width: 20, height: 30 },
      ],
    })
    expect(box.images.get(digest!)).toEqual(png)
    png.writeUInt32BE(8_001, 16)
    put('wide.png', png)
    expect(await call('read_file', { path: 'wide.png' })).toContain('8001 × 30 pixels; at most 8000')
    put('heavy.png', Buffer.concat([png, Buffer.alloc(imageLimits.bytes)]))
    expect(await call('read_file', { path: 'heavy.png' })).toContain('at most 5,242,880 can be seen')
    put('cut.png', png.subarray(0, 18))
    expect(await call('read_file', { path: 'cut.png' })).toContain('header is damaged')
    expect(box.images.size).toBe(1)
  })

  test('says what is wrong with a path', async () => {
    mkdirSync(join(box.folder, 'folder'), { recursive: true })
    expect(await call('read_file', { path: 'missing' })).toMatch(/^error: file_not_found: /)
    expect(await call('read_file', { path: 'folder' })).toMatch(/^error: is_a_directory: /)
  })

  test('takes the right to read files', async () => {
    const caller = agentCaller(['read:exec', 'write:exec', 'write:files'])
    expect(await call('read_file', { path: 'lines' }, testContext({ caller }))).toContain('needs the right read:files')
  })
})

describe('write_file', () => {
  test('writes exactly what is given, makes folders, and again is the same', async () => {
    const content = 'a\r\n\tb\u{1f600}\n\nno end'
    const context = testContext()
    for (const begun of [false, true]) {
      expect(await call('write_file', { path: 'new/deep/file.txt', content }, { ...context, begun })).toBe(
        `Wrote ${box.folder}/new/deep/file.txt: 17 bytes, 4 lines.`,
      )
      expect(got('new/deep/file.txt')).toBe(content)
    }
    expect(await call('write_file', { path: 'nothing', content: '' })).toContain('0 bytes, 0 lines')
    expect(got('nothing')).toBe('')
  })

  test('replaces a file as a whole and keeps its mode', async () => {
    put('script', '#!/bin/sh\nold\n')
    chmodSync(join(box.folder, 'script'), 0o755)
    await call('write_file', { path: 'script', content: 'new' })
    expect(got('script')).toBe('new')
    expect(statSync(join(box.folder, 'script')).mode & 0o777).toBe(0o755)
  })

  test('takes the right to write files', async () => {
    const caller = agentCaller(['read:*', 'write:exec'])
    expect(await call('write_file', { path: 'no', content: 'x' }, testContext({ caller }))).toContain(
      'needs the right write:files',
    )
    expect(await call('read_file', { path: 'no' })).toContain('file_not_found')
  })
})

describe('edit_file', () => {
  test('changes the one place and says where', async () => {
    put('code', 'one\ntwo\nthree\n')
    expect(await call('edit_file', { path: 'code', oldText: 'two', newText: 'zwei' })).toBe(
      `Changed ${box.folder}/code at line 2.`,
    )
    expect(got('code')).toBe('one\nzwei\nthree\n')
  })

  test('refuses what is not there or not the only one, and leaves the file as it is', async () => {
    put('twice', 'x = 1\ny = 2\nx = 1\n')
    expect(await call('edit_file', { path: 'twice', oldText: 'x = 1', newText: 'x = 3' })).toContain(
      '2 times in the file, at lines 1, 3',
    )
    expect(await call('edit_file', { path: 'twice', oldText: 'y = 3', newText: 'y' })).toContain('2\ty = 2')
    expect(got('twice')).toBe('x = 1\ny = 2\nx = 1\n')
    expect(await call('edit_file', { path: 'twice', oldText: 'x = 1', newText: 'x = 3', all: true })).toContain(
      '2 places, lines 1, 3',
    )
    expect(got('twice')).toBe('x = 3\ny = 2\nx = 3\n')
  })

  test('is made once, also when it is run again after a crash', async () => {
    put('again', 'a b c')
    const context = testContext({ begun: true })
    expect(await call('edit_file', { path: 'again', oldText: 'b', newText: 'B' }, context)).toContain('Changed')
    expect(await call('edit_file', { path: 'again', oldText: 'b', newText: 'B' }, context)).toContain(
      'the change was made',
    )
    expect(got('again')).toBe('a B c')
  })

  test('leaves a file alone that is no text, or changes meanwhile', async () => {
    put('bytes', Buffer.from([0x61, 0xff, 0x62]))
    expect(await call('edit_file', { path: 'bytes', oldText: 'a', newText: 'b' })).toContain('no UTF-8 text')
    put('raced', 'a')
    const racing = createTools(
      testDeps({
        ...box,
        files: {
          ...box.files,
          async read(...asked) {
            const answer = await box.files.read(...asked)
            put('raced', 'a changed by another')
            return answer
          },
        },
      }),
    )
    expect(await callTool(racing, 'edit_file', { path: 'raced', oldText: 'a', newText: 'b' })).toMatch(
      /changed by something else|file changed/,
    )
    expect(got('raced')).toBe('a changed by another')
  })
})

describe('list_files', () => {
  test('names entries with their kinds and sizes, as deep as asked', async () => {
    mkdirSync(join(box.folder, 'tree/sub'), { recursive: true })
    put('tree/a', '12345')
    put('tree/sub/b', '')
    symlinkSync('a', join(box.folder, 'tree/link'))
    expect((await call('list_files', { path: 'tree' })).split('\n').toSorted()).toEqual(['a  5', 'link -> a', 'sub/'])
    expect((await call('list_files', { path: 'tree', depth: 2 })).split('\n')).toContain('sub/b  0')
    mkdirSync(join(box.folder, 'bare'), { recursive: true })
    expect(await call('list_files', { path: 'bare' })).toContain('is empty')
    expect(await call('list_files', { path: 'no-such' })).toContain('file_not_found')
  })

  test('of many goes on where it stopped, and shows each once', async () => {
    mkdirSync(join(box.folder, 'many'), { recursive: true })
    for (let index = 0; index < 400; index += 1) put(`many/${'n'.repeat(100)}-${index}`, '')
    const seen: string[] = []
    let cursor: string | undefined
    do {
      const text = await call('list_files', { path: 'many', limit: 1_000, ...(cursor && { cursor }) })
      expect(text.length).toBeLessThan(17_000)
      seen.push(...text.split('\n').filter((line) => line.startsWith('n')))
      cursor = /go on with cursor: (\S+)\]/.exec(text)?.[1]
    } while (cursor !== undefined)
    expect([seen.length, new Set(seen).size]).toEqual([400, 400])
  })
})

describe('search_files', () => {
  test('finds lines by expression or text, and leaves out what is binary or hardly meant', async () => {
    mkdirSync(join(box.folder, 'src/node_modules/x'), { recursive: true })
    put('src/a.ts', 'const one = 1\nconst two = f(1)\n')
    put('src/b.js', 'const one = 1\n')
    put('src/node_modules/x/c.ts', 'const one = 1\n')
    put('src/d.ts', Buffer.concat([Buffer.alloc(10), Buffer.from('const one = 1\n')]))
    const lines = async (input: object) =>
      (await call('search_files', { path: 'src', ...input })).split('\n').toSorted()
    expect(await lines({ pattern: 'const (one|two)' })).toEqual([
      'src/a.ts:1:const one = 1',
      'src/a.ts:2:const two = f(1)',
      'src/b.js:1:const one = 1',
    ])
    expect(await lines({ pattern: 'f(1)', fixed: true })).toEqual(['src/a.ts:2:const two = f(1)'])
    expect(await lines({ pattern: 'CONST ONE', ignoreCase: true, include: '*.js' })).toEqual([
      'src/b.js:1:const one = 1',
    ])
    expect(await lines({ pattern: 'one', path: 'src/node_modules' })).toEqual([
      'src/node_modules/x/c.ts:1:const one = 1',
    ])
    expect(await lines({ pattern: 'nowhere to be found' })).toEqual(['No line fits.'])
    expect(await lines({ pattern: '--help' })).toEqual(['No line fits.'])
    expect(await call('search_files', { pattern: '(' })).toMatch(/^error: The search failed: grep/)
    expect(await call('search_files', { pattern: 'x', path: 'no-such' })).toMatch(/^error: The search failed: grep/)
  })

  test('tells a bounded part of many matches and of long lines', async () => {
    put('src/many', 'needle in here\n'.repeat(100_000))
    const text = await call('search_files', { pattern: 'needle', path: 'src/many', limit: 20 })
    expect(text.split('\n').length).toBe(21)
    expect(text).toContain('[the first 20 matches; narrow')
    put('src/wide', `needle ${'z'.repeat(20_000_000)}`)
    expect((await call('search_files', { pattern: 'needle', path: 'src/wide' })).length).toBeLessThan(600)
  })
})
