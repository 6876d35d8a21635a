import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { bounded, createBoundedText, resultChars } from './bounded.ts'
import { editOf } from './edit-file.ts'
import { htmlToText } from './html.ts'
import { readImageHeader } from '../../models/door.ts'
import { grepOf } from './search-files.ts'
import { createTools, describeFault, describeTool, readCall, usableTools } from './table.ts'
import { agentCaller, testDeps } from './testing.ts'

const tools = createTools(testDeps({}))
const note = (count: number): string => `${count} left out`

describe('a bounded text', () => {
  test('keeps what fits as it is, and head and tail of what does not, with the exact count of the rest', () => {
    fc.assert(
      fc.property(fc.array(fc.string({ maxLength: 400 }), { maxLength: 60 }), (pieces) => {
        const kept = createBoundedText(1_000)
        for (const piece of pieces) kept.add(piece)
        const whole = pieces.join('')
        const text = kept.text(note)
        expect(kept.chars).toBe(whole.length)
        if (whole.length <= 1_000) {
          expect(text).toBe(whole.toWellFormed())
          return
        }
        const [, head, count, tail] = /^([^]*)\n\[([0-9]+) left out\]\n([^]*)$/.exec(text)!
        const own = head!.length + tail!.length
        const ended = whole.startsWith(`${head}\n`) ? 1 : 0
        expect([own, own + ended]).toContain(whole.length - Number(count))
        expect(text.length).toBeLessThan(1_040)
      }),
      { seed: 7 },
    )
  })

  test('is cut at the ends of lines', () => {
    const lines = Array.from({ length: 5_000 }, (_, index) => `line ${index}\n`).join('')
    const shown = bounded(lines, note).split('\n')
    for (const line of shown.filter((one) => !one.startsWith('['))) expect(line).toMatch(/^(line [0-9]+)?$/)
    expect(shown.join('\n').length).toBeLessThan(resultChars + 100)
  })
})

describe('a call as the model wrote it', () => {
  test('is read, with what it leaves out filled in', () => {
    const read = readCall(tools, 'run_terminal', '{"command":"ls"}')
    expect(read).toMatchObject({ ok: true, input: { command: 'ls', background: false, timeoutMs: 120_000 } })
    expect(readCall(tools, 'list_files', '')).toMatchObject({ ok: true, input: { path: '.', depth: 1 } })
  })

  test.each([
    ['run_terminal', '{"command":"ls', 'It ends in the middle'],
    ['run_terminal', '{"command":"a\nb"}', 'write line ends as \\n'],
    ['run_terminal', '["ls"]', 'not a JSON object'],
    ['run_terminal', 'null', 'not a JSON object'],
    ['run_terminal', '{}', '- command: '],
    ['run_terminal', '{"command":5}', '(you sent 5)'],
    ['run_terminal', '{"command":"ls","cmd":"ls"}', '"cmd"'],
    ['run_terminal', '{"command":"ls","timeoutMs":99999999999}', '- timeoutMs: '],
    ['read_file', '{"path":"a","from":0}', '- from: '],
    ['read_file', '{"path":"~/a"}', '~ is not expanded'],
    ['read_file', '{"path":"a\\u0000b"}', 'NUL'],
    ['read_file', '{"path":"a","lines":10000000000}', '- lines: '],
    ['edit_file', '{"path":"a","oldText":"x","newText":"x"}', 'are the same'],
    ['fetch', '{"url":"file:///etc/passwd"}', 'whole address'],
    ['fetch', '{"url":"https://me:secret@example.com/"}', 'without name and password'],
    ['fetch', '{"url":"https://example.com/","headers":{"Host":"other"}}', 'header of the connection itself'],
    ['delegate', '{"task":"x"}', 'name either agentId'],
  ])('%s %s is told what to change', (name, text, expected) => {
    const read = readCall(tools, name, text)
    expect(read).toMatchObject({ ok: false, text: expect.stringContaining(expected) })
    expect(describeFault(tools.get(name)!, text)).toBe(read.ok ? '' : read.text)
    expect(read.ok ? '' : read.text).toContain(`Call ${name} again`)
  })

  test('a fault is bounded, however long what was sent', () => {
    const read = readCall(tools, 'run_terminal', JSON.stringify({ ['k'.repeat(100_000)]: 'v'.repeat(1_000_000) }))
    expect(read.ok).toBe(false)
    expect(read.ok ? 0 : read.text.length).toBeLessThan(10_000)
  })

  test('any text is read or told, and never throws', () => {
    fc.assert(
      fc.property(fc.constantFrom(...tools.keys()), fc.oneof(fc.string(), fc.json()), (name, text) => {
        const read = readCall(tools, name, text)
        expect(read.ok || read.text.length > 0).toBe(true)
        expect(describeFault(tools.get(name)!, text) === undefined).toBe(read.ok)
      }),
      { seed: 7, numRuns: 500 },
    )
  })

  test('an unknown tool is answered with those there are', () => {
    const read = readCall(tools, 'terminal_run', '{}')
    expect(read).toMatchObject({ ok: false, text: expect.stringContaining('Did you mean run_terminal?') })
    expect(readCall(tools, 'x'.repeat(1_000_000), '{}')).toMatchObject({ ok: false })
    expect(readCall(tools, '__proto__', '{}')).toMatchObject({
      ok: false,
      text: expect.stringContaining('There are: '),
    })
  })

  test('every tool has a schema of an object, made once, with a bound for every text', () => {
    for (const tool of tools.values()) {
      const { inputSchema, description, name } = describeTool(tool)
      expect(inputSchema, name).toMatchObject({ type: 'object' })
      expect(describeTool(tool).inputSchema).toBe(inputSchema)
      expect(description.length, name).toBeLessThan(600)
      expect(name).toMatch(/^[a-z_]{1,64}$/)
    }
  })

  test('a model is told only of tools that its agent may use', () => {
    const names = (rights: string[]) => [...usableTools(tools, agentCaller(rights)).keys()]
    expect(names(['read:files'])).toEqual(['read_file', 'list_files', 'ask_user'])
    expect(names(['request', 'egress:example.com'])).toEqual(['fetch', 'ask_user', 'request_tokens', 'request_egress'])
  })
})

describe('an edit', () => {
  const edit = (text: string, oldText: string, newText: string, more = {}) =>
    editOf(text, { oldText, newText, all: false, begun: false, ...more })

  test('changes the one place, or all of them', () => {
    expect(edit('a\nb\nc\n', 'b', 'B')).toEqual({ kind: 'changed', text: 'a\nB\nc\n', lines: [2] })
    expect(edit('x\nx\n\nx', 'x', '$&', { all: true })).toEqual({
      kind: 'changed',
      text: '$&\n$&\n\n$&',
      lines: [1, 2, 4],
    })
  })

  test('of what stands there several times is refused with the lines', () => {
    expect(edit('x\ny\nx\n', 'x', 'z')).toMatchObject({
      kind: 'refused',
      reason: expect.stringContaining('2 times in the file, at lines 1, 3'),
    })
  })

  test('of what does not stand there names the lines most like it', () => {
    const text = 'function one() {\n  return 1\n}\nfunction two() {\n  return 2\n}\n'
    const refused = edit(text, 'function tow() {\n  return 3', 'x')
    expect(refused).toMatchObject({
      kind: 'refused',
      reason: expect.stringMatching(/not stand in the file[^]*4\tfunction two/),
    })
    expect(edit('a\r\nb\r\n', 'a\nb', 'c')).toMatchObject({
      kind: 'refused',
      reason: expect.stringContaining('\\r\\n'),
    })
    expect(edit('', 'a', 'b')).toMatchObject({ kind: 'refused' })
  })

  test('after a crash it is made once', () => {
    const begun = { begun: true }
    expect(edit('a B c', 'b', 'B', begun)).toEqual({ kind: 'done_before' })
    expect(edit('a b c', 'b', 'B', begun)).toMatchObject({ kind: 'changed', text: 'a B c' })
    // Made or not made, these look the same.
    expect(edit('a bb c', 'b', 'bb', begun)).toMatchObject({
      kind: 'refused',
      reason: expect.stringContaining('unknown: it may have run'),
    })
    expect(edit('a c', 'b', '', begun)).toMatchObject({
      kind: 'refused',
      reason: expect.stringContaining('unknown: it may have run'),
    })
  })

  test('whatever it does, running it again after a crash never makes it twice', () => {
    const word = fc.string({ unit: fc.constantFrom('a', 'b', '\n'), maxLength: 12 })
    fc.assert(
      fc.property(
        word,
        fc.string({ unit: fc.constantFrom('a', 'b', '\n'), minLength: 1, maxLength: 3 }),
        word,
        fc.boolean(),
        (text, oldText, newText, all) => {
          if (oldText === newText) return
          const first = editOf(text, { oldText, newText, all, begun: false })
          if (first.kind !== 'changed' || first.text === text) return
          const again = editOf(first.text, { oldText, newText, all, begun: true })
          expect(['refused', 'done_before']).toContain(again.kind)
        },
      ),
      { seed: 7, numRuns: 2_000 },
    )
  })
})

describe('the header of an image', () => {
  const png = (width: number, height: number) => {
    const bytes = Buffer.alloc(33)
    bytes.write('\x89PNG\r\n\x1a\n', 0, 'latin1')
    bytes.writeUInt32BE(13, 8)
    bytes.write('IHDR', 12, 'latin1')
    bytes.writeUInt32BE(width, 16)
    bytes.writeUInt32BE(height, 20)
    return bytes
  }
  const jpeg = Buffer.from(
    'ffd8ffe000104a46494600010100000100010000ffe10006abcdef01ffc000110801e0028003012200021101031101ffda',
    'hex',
  )
  const gif = Buffer.from('474946383961400190010000', 'hex')
  const vp8x = Buffer.concat([
    Buffer.from('RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0', 'latin1'),
    Buffer.from('3f01008f0100', 'hex'),
  ])
  const vp8l = Buffer.concat([
    Buffer.from('RIFF\x16\0\0\0WEBPVP8L\x0a\0\0\0', 'latin1'),
    Buffer.from('2f3fc16300000000000000', 'hex'),
  ])
  const vp8 = Buffer.concat([
    Buffer.from('RIFF\x16\0\0\0WEBPVP8 \x0a\0\0\0', 'latin1'),
    Buffer.from('1000009d012a40019001', 'hex'),
  ])

  test('says type and size', () => {
    expect(readImageHeader(png(640, 480))).toEqual({ mediaType: 'image/png', width: 640, height: 480 })
    expect(readImageHeader(jpeg)).toEqual({ mediaType: 'image/jpeg', width: 640, height: 480 })
    expect(readImageHeader(gif)).toEqual({ mediaType: 'image/gif', width: 320, height: 400 })
    for (const bytes of [vp8x, vp8l, vp8]) {
      expect(readImageHeader(bytes)).toEqual({ mediaType: 'image/webp', width: 320, height: 400 })
    }
  })

  test('that is cut or made up gives nothing, and never throws', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(png(5, 5), jpeg, gif, vp8x, vp8l, vp8),
        fc.nat(40),
        fc.uint8Array({ maxLength: 60 }),
        (start, cut, rest) => {
          const header = readImageHeader(Buffer.concat([start.subarray(0, cut), rest]))
          if (header) expect(header.width * header.height).toBeGreaterThan(0)
        },
      ),
      { seed: 7, numRuns: 1_000 },
    )
    expect(readImageHeader(png(0, 5))).toBeUndefined()
    expect(readImageHeader(Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"/>'))).toBeUndefined()
  })
})

describe('a page as text', () => {
  const text = (html: string) => htmlToText(html, 'https://example.com/a/b')

  test('signs that begin no tag are read once, however many a page has', () => {
    expect(text('<‹'.repeat(200_000))).toHaveLength(400_000)
    expect(text(`${'< '.repeat(1_000)}<p>end</p>`)).toContain('end')
  })

  test('has headings, paragraphs, lists, tables and links, and nothing of scripts and comments', () => {
    const page = `<!doctype html><html><head><title>The  Title</title><style>p { color: red }</style><script>if (a < b) alert("</p>")</script></head>
      <body><!-- <p>no</p> --><h1>One &amp; only</h1><p>First   words, <b>bold</b>.</p><p>A <a href="../c?x=1&amp;y=2">link</a>
      and <a href="javascript:alert(1)">none</a>.</p><ul><li>a</li><li>b</li></ul><table><tr><th>k</th><th>v</th></tr><tr><td>1</td><td>2</td></tr></table>
      <pre>  kept
    as is</pre><img src=x alt="A cat"><p title="a > b">last &#8364; &#x20AC; &nope;</p></body></html>`
    expect(text(page)).toBe(
      [
        'The Title',
        '',
        '# One & only',
        '',
        'First words, bold.',
        '',
        'A link (https://example.com/c?x=1&y=2) and none.',
        '',
        '- a',
        '- b',
        '',
        'k | v',
        '1 | 2',
        '',
        '  kept',
        '    as is',
        '',
        '[image: A cat]',
        '',
        'last € € &nope;',
      ].join('\n'),
    )
  })

  test('of anything at all is made, and what is no tag stays', () => {
    expect(text('1 < 2 and <')).toBe('1 < 2 and <')
    expect(text('<p>a<script>never closed')).toBe('a')
    expect(text('<p>a<b')).toBe('a')
    fc.assert(
      fc.property(
        fc.string({
          unit: fc.constantFrom(
            '<',
            '>',
            '/',
            'a',
            'p',
            'script',
            '"',
            '=',
            ' ',
            '\n',
            '&',
            ';',
            '!--',
            '-->',
            'pre',
            'x',
          ),
        }),
        (html) => {
          expect(text(html).length).toBeLessThan(html.length * 40 + 10)
        },
      ),
      { seed: 7, numRuns: 1_000 },
    )
  })

  // Not timed, but with a square of the length it would not end within the test's time.
  test.each([
    ['tags that do not end', '<a '.repeat(1_500_000)],
    ['quotes that do not end', `${'<a b="'.repeat(700_000)}>`],
    ['spaces', `<pre>${' '.repeat(5_000_000)}x`],
    ['entities', '&amp'.repeat(1_200_000)],
    ['scripts', '<script>'.repeat(600_000)],
    ['comments', '<!--'.repeat(1_200_000)],
    ['links', '<a href=x>'.repeat(500_000)],
    ['line ends', '<br>'.repeat(1_200_000)],
  ])('%s cost no more than their length', (_name, html) => {
    expect(text(html).length).toBeLessThanOrEqual(html.length)
  })
})

test('what is searched for never becomes an option of grep', () => {
  const cmd = grepOf(
    { pattern: '-f/etc/shadow', path: '--help', fixed: false, ignoreCase: true, include: '*.ts' },
    '/workspace',
  )
  expect(cmd.slice(cmd.indexOf('--'))).toEqual(['--', '-f/etc/shadow', '/workspace/--help'])
  expect(
    grepOf({ pattern: 'x', path: 'node_modules/a', fixed: true, ignoreCase: false, include: undefined }, '/w'),
  ).not.toContain('--exclude-dir=node_modules')
})
