import { DeltaError } from '../../kernel/errors.ts'

/** One thing a pattern is made of. `star` and `deep` stand for any number of characters; `folders` with `inside` behind it for any number of folders. */
type Token = { kind: 'star' | 'deep' | 'folders' | 'inside' } | { kind: 'one'; fits: (character: string) => boolean }

export interface Pattern {
  test(path: string): boolean
}

/** Steps that all matching for one build may take: some seconds of nobody else being served, were there no bound. */
const mostSteps = 10_000_000
const mostRules = 1_000

export interface Effort {
  steps: number
}

export function newEffort(): Effort {
  return { steps: 0 }
}

/**
 * Wildcards as Go's `filepath.Match` has them, which Docker uses: `*` and `?` stay within one folder, `[a-z]` and `[^a-z]` are sets, `\` takes a meaning away.
 * With `deep`, `**` stands for any number of folders (.dockerignore). Undefined: the pattern cannot be read.
 */
export function patternOf(pattern: string, { deep = false, effort = newEffort() } = {}): Pattern | undefined {
  const simple = simplePattern(pattern, deep)
  if (simple) return simple
  const tokens = tokensOf(pattern, deep)
  return tokens && { test: (path) => fits(tokens, path, effort) }
}

/** Nearly every pattern has at most one `*` or one `**`: what comes before and after it is compared at once. */
function simplePattern(pattern: string, deep: boolean): Pattern | undefined {
  const [, before, star, after] = /^([^*?[\\]*)(\*{0,2})([^*?[\\]*)$/.exec(pattern) ?? []
  if (before === undefined || star === undefined || after === undefined || (star === '**' && !deep)) return undefined
  if (star === '') return { test: (path) => path === pattern }
  const isAround = (path: string, end: string) =>
    path.length >= before.length + end.length && path.startsWith(before) && path.endsWith(end)
  const between = (path: string) => path.slice(before.length, path.length - after.length)
  if (star === '*') return { test: (path) => isAround(path, after) && !between(path).includes('/') }
  if (!after.startsWith('/')) return { test: (path) => isAround(path, after) }
  // `a/**/b` fits `a/b` too, and `**/b` fits `b`.
  return { test: (path) => isAround(path, after) || path === before + after.slice(1) }
}

function tokensOf(pattern: string, deep: boolean): Token[] | undefined {
  const tokens: Token[] = []
  for (let at = 0; at < pattern.length;) {
    const character = pattern[at]!
    if (deep && pattern.startsWith('**', at)) {
      // `a/**/b` fits `a/b` too, and `**/b` fits `b`.
      const folders = pattern[at + 2] === '/'
      if (folders) tokens.push({ kind: 'folders' }, { kind: 'inside' })
      else tokens.push({ kind: 'deep' })
      at += folders ? 3 : 2
    } else if (character === '*') {
      // Two in a row say no more than one.
      if (tokens.at(-1)?.kind !== 'star') tokens.push({ kind: 'star' })
      at += 1
    } else if (character === '?') {
      tokens.push({ kind: 'one', fits: (other) => other !== '/' })
      at += 1
    } else if (character === '[') {
      const end = setEnd(pattern, at)
      const set = end === -1 ? undefined : setOf(pattern.slice(at + 1, end))
      if (!set) return undefined
      tokens.push({ kind: 'one', fits: (other) => other !== '/' && set(other) })
      at = end + 1
    } else {
      const isEscape = character === '\\'
      const literal = isEscape ? pattern[at + 1] : character
      if (literal === undefined) return undefined
      tokens.push({ kind: 'one', fits: (other) => other === literal })
      at += isEscape ? 2 : 1
    }
  }
  return tokens
}

/** All the places in the pattern that the path so far can have led to, at once: no pattern makes this slow, as going back and forth would. */
function fits(tokens: readonly Token[], path: string, effort: Effort): boolean {
  let places = reached(tokens, [0])
  for (const character of path) {
    effort.steps += places.length + 1
    if (effort.steps > mostSteps) {
      throw new DeltaError('archive_invalid', 'Its wildcards and .dockerignore fit too many files to go through')
    }
    const next: number[] = []
    for (const place of places) {
      const token = tokens[place]
      if (!token) continue
      if (token.kind === 'one') {
        if (token.fits(character)) next.push(place + 1)
      } else if (token.kind === 'inside') {
        next.push(place)
        if (character === '/') next.push(place + 1)
      } else if (token.kind === 'deep' || (token.kind === 'star' && character !== '/')) {
        next.push(place)
      }
    }
    if (next.length === 0) return false
    places = reached(tokens, next)
  }
  return places.includes(tokens.length)
}

/** With the places behind what may stand for nothing. */
function reached(tokens: readonly Token[], places: readonly number[]): number[] {
  const found = new Set<number>()
  const waiting = [...places]
  for (let place = waiting.pop(); place !== undefined; place = waiting.pop()) {
    if (found.has(place)) continue
    found.add(place)
    const kind = tokens[place]?.kind
    if (kind === 'star' || kind === 'deep') waiting.push(place + 1)
    // No folder, or inside the first of them.
    if (kind === 'folders') waiting.push(place + 1, place + 2)
  }
  return [...found]
}

export function hasWildcard(pattern: string): boolean {
  return /[*?[\\]/.test(pattern)
}

function setEnd(pattern: string, start: number): number {
  for (let at = start + 1; at < pattern.length; at += 1) {
    if (pattern[at] === '\\') at += 1
    else if (pattern[at] === ']' && at > start + 1 + Number(pattern[start + 1] === '^')) return at
  }
  return -1
}

/** Characters and ranges. Undefined where a range has no end. */
function setOf(text: string): ((character: string) => boolean) | undefined {
  const negated = text.startsWith('^')
  const parts = [...text.slice(negated ? 1 : 0).matchAll(/\\?([^])(?:-\\?([^]))?/g)]
  const ranges = parts.map(([, from = '', to = from]) => [from, to] as const)
  if (ranges.some(([from, to]) => from > to)) return undefined
  return (character) => ranges.some(([from, to]) => character >= from && character <= to) !== negated
}

/** What .dockerignore leaves out. The last line that fits decides; `!` takes back in. */
export function ignoreRules(text: string, effort = newEffort()): (path: string) => boolean {
  const rules = text
    .split('\n')
    .slice(0, mostRules)
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
    .flatMap((line) => {
      const keeps = line.startsWith('!')
      const bare = (keeps ? line.slice(1) : line)
        .trim()
        .replaceAll(/^\/+|\/+$/g, '')
        .replace(/^\.\//, '')
      const pattern = bare === '' ? undefined : patternOf(bare, { deep: true, effort })
      return pattern ? [{ keeps, pattern }] : []
    })
  return (path) => {
    // What lies below a folder that fits, fits.
    const parts = path.split('/')
    const paths = parts.map((_, index) => parts.slice(0, index + 1).join('/'))
    let isIgnored = false
    for (const { keeps, pattern } of rules) {
      if (isIgnored === keeps && paths.some((each) => pattern.test(each))) isIgnored = !keeps
    }
    return isIgnored
  }
}
