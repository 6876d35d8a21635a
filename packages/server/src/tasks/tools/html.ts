/** What a page says, without what it is made of: headings, paragraphs, lists, tables, links. One pass, and memory for what comes out. */

/** What stands between these is not shown. */
const hidden = new Set(['script', 'style', 'noscript', 'template', 'svg', 'iframe', 'object', 'select', 'datalist'])
const breaks = new Set(
  'address article aside blockquote body br dd details div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr li main nav ol p pre section summary table tr ul title'.split(
    ' ',
  ),
)
const paragraphs = new Set('p h1 h2 h3 h4 h5 h6 pre blockquote table ul ol title section article'.split(' '))
const linkChars = 500

export function htmlToText(html: string, base: string): string {
  const out = createOut()
  const links: { href: string; from: number }[] = []
  let preformatted = 0
  let at = 0
  while (at < html.length) {
    const open = html.indexOf('<', at)
    out.text(html.slice(at, open === -1 ? html.length : open), preformatted > 0)
    if (open === -1) break
    if (html.startsWith('<!--', open)) {
      at = after(html, '-->', open + 4)
      continue
    }
    if (!/[a-zA-Z/!?]/.test(html[open + 1] ?? '')) {
      out.text('<', preformatted > 0)
      at = open + 1
      continue
    }
    // Looked for where a tag begins alone: before every `<` it would read the page again and again.
    const close = tagEnd(html, open)
    if (close === -1) break
    at = close + 1
    const [, slash, raw] = /^<(\/?)([a-zA-Z][a-zA-Z0-9]*)/.exec(html.slice(open, open + 40)) ?? []
    if (raw === undefined) continue
    const name = raw.toLowerCase()
    const isEnd = slash === '/'
    if (hidden.has(name) && !isEnd) {
      if (html[close - 1] !== '/') at = endOfHidden(html, name, at)
      continue
    }
    const tag = html.slice(open, Math.min(close + 1, open + 4_000))
    if (breaks.has(name)) out.line(paragraphs.has(name) ? 2 : 1)
    if (name === 'pre') preformatted = Math.max(0, preformatted + (isEnd ? -1 : 1))
    if (isEnd) {
      if (name === 'a') closeLink(out, links.pop())
      continue
    }
    if (/^h[1-6]$/.test(name)) out.raw(`${'#'.repeat(Number(name[1]))} `)
    else if (name === 'li') out.raw('- ')
    else if (name === 'td' || name === 'th') out.cell()
    else if (name === 'hr') out.raw('---\n')
    else if (name === 'img') out.text(imageText(tag), false)
    else if (name === 'a') links.push({ href: linkOf(tag, base), from: out.length() })
  }
  return out.done()
}

function closeLink(out: Out, link: { href: string; from: number } | undefined): void {
  if (link && link.href !== '' && out.length() > link.from) out.raw(` (${link.href})`)
}

function linkOf(tag: string, base: string): string {
  const href = attribute(tag, 'href')
  if (href === undefined || href.startsWith('#') || href.length > linkChars) return ''
  const url = URL.canParse(href, base) ? new URL(href, base) : undefined
  return url && /^https?:$/.test(url.protocol) ? url.href : ''
}

function imageText(tag: string): string {
  const alt = attribute(tag, 'alt')?.trim()
  return alt ? ` [image: ${alt.slice(0, 200)}] ` : ''
}

function attribute(tag: string, name: string): string | undefined {
  const found = new RegExp(`[\\s"'/]${name}\\s*=\\s*(?:"([^"]*)"|'([^']*)'|([^\\s"'>]+))`, 'i').exec(tag)
  const value = found?.[1] ?? found?.[2] ?? found?.[3]
  return value === undefined ? undefined : withoutEntities(value)
}

/** The `>` that ends a tag; one within a quoted value does not. */
function tagEnd(html: string, open: number): number {
  let quote = ''
  for (let at = open + 1; at < html.length; at += 1) {
    const char = html[at]!
    if (quote !== '') {
      if (char === quote) quote = ''
    } else if (char === '>') return at
    // Only behind `=` does a quote begin a value.
    else if ((char === '"' || char === "'") && html.slice(open, at).trimEnd().endsWith('=')) quote = char
    // No tag is that long: a quote that nobody closes must not swallow the page, nor cost its square.
    if (at - open > 20_000) return html.indexOf('>', open)
  }
  return html.indexOf('>', open)
}

function endOfHidden(html: string, name: string, from: number): number {
  const end = new RegExp(`</${name}`, 'gi')
  end.lastIndex = from
  const found = end.exec(html)
  return found ? after(html, '>', found.index) : html.length
}

function after(html: string, mark: string, from: number): number {
  const at = html.indexOf(mark, from)
  return at === -1 ? html.length : at + mark.length
}

type Out = ReturnType<typeof createOut>

function createOut() {
  const parts: string[] = []
  let length = 0
  let waitingBreaks = 0
  let isSpace = false
  let atStart = true

  const raw = (text: string): void => {
    if (text === '') return
    if (waitingBreaks > 0 && length > 0) parts.push('\n'.repeat(waitingBreaks))
    else if (isSpace && !atStart) parts.push(' ')
    waitingBreaks = 0
    isSpace = false
    atStart = false
    parts.push(text)
    length += text.length
  }
  return {
    raw,
    length: () => length,
    text(html: string, preformatted: boolean): void {
      if (html === '') return
      const text = withoutEntities(html)
      if (preformatted) return raw(text)
      const words = text.replaceAll(/\s+/g, ' ')
      if (words === ' ') {
        isSpace = true
        return
      }
      if (words.startsWith(' ')) isSpace = true
      raw(words.trim())
      if (words.endsWith(' ')) isSpace = true
    },
    line(count: number): void {
      waitingBreaks = Math.max(waitingBreaks, count)
      isSpace = false
    },
    cell(): void {
      if (waitingBreaks === 0 && !atStart) raw(' | ')
    },
    done: (): string => tidied(parts.join('')),
  }
}

/** No spaces at the ends of lines, and at most one empty line after another. */
function tidied(text: string): string {
  const lines: string[] = []
  for (const line of text.split('\n')) {
    const shown = line.trimEnd()
    if (shown !== '' || (lines.length > 0 && lines.at(-1) !== '')) lines.push(shown)
  }
  return lines.join('\n').trim()
}

// oxfmt-ignore
const named: Readonly<Record<string, string>> = {
  amp: '&', lt: '<', gt: '>', quot: '"', apos: "'", nbsp: ' ', ndash: '–', mdash: '—', hellip: '…', lsquo: '‘', rsquo: '’', ldquo: '“', rdquo: '”',
  laquo: '«', raquo: '»', bull: '•', middot: '·', copy: '©', reg: '®', trade: '™', times: '×', deg: '°', euro: '€', pound: '£', sect: '§', para: '¶',
  larr: '←', rarr: '→', uarr: '↑', darr: '↓', auml: 'ä', ouml: 'ö', uuml: 'ü', Auml: 'Ä', Ouml: 'Ö', Uuml: 'Ü', szlig: 'ß', eacute: 'é', egrave: 'è',
  agrave: 'à', ccedil: 'ç', ntilde: 'ñ', shy: '', zwnj: '', zwj: '',
}

function withoutEntities(text: string): string {
  if (!text.includes('&')) return text
  return text.replaceAll(
    /&(?:#([0-9]{1,7})|#[xX]([0-9a-fA-F]{1,6})|([a-zA-Z]{2,8}));/g,
    (whole, decimal, hex, name) => {
      if (name !== undefined) return named[name as string] ?? (whole as string)
      const code = decimal === undefined ? Number.parseInt(hex as string, 16) : Number(decimal)
      const isCharacter = code > 8 && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff)
      return isCharacter ? String.fromCodePoint(code) : '\u{fffd}'
    },
  )
}
