import { dockerfileError, rawWords, shown } from './parse.ts'

export interface WordScope {
  /** Of the instruction, for errors. */
  line: number
  escape: string
  /** The value of a variable; undefined where it is not set. */
  lookUp: (name: string) => string | undefined
}

/** What one instruction may become by its variables: `${a}${a}` doubled thirty times over would fill the memory. */
const mostChars = 1024 * 1024
/** `${a:-${b:-…}}` */
const mostDepth = 32

/** Replaces variables, takes away quotes and escapes, as the builder (not a shell) does it for ENV, COPY, WORKDIR and others. */
export function expandWord(word: string, scope: WordScope): string {
  const reader = { text: word, at: 0, depth: 0, scope }
  return expandUntil(reader, '')
}

export function expandWords(text: string, scope: WordScope): string[] {
  return rawWords(text, scope.escape).map((word) => expandWord(word, scope))
}

/** `name=value` pairs, whose values may have quotes. Undefined where the first word is no such pair. */
export function namedValues(text: string, scope: WordScope): [string, string][] | undefined {
  const words = rawWords(text, scope.escape)
  if (!words[0]?.includes('=')) return undefined
  return words.map((word) => {
    const equals = word.indexOf('=')
    if (equals < 1) throw dockerfileError(scope.line, `${shown(word)} is not name=value`)
    return [expandWord(word.slice(0, equals), scope), expandWord(word.slice(equals + 1), scope)]
  })
}

interface Reader {
  text: string
  at: number
  depth: number
  scope: WordScope
}

/** Reads up to `end`, which stays unread; the empty text is the end of the word. */
function expandUntil(reader: Reader, end: string): string {
  const { text, scope } = reader
  let out = ''
  while (reader.at < text.length) {
    const character = text[reader.at]!
    if (end !== '' && character === end) return out
    if (character === "'") out += singleQuoted(reader)
    else if (character === '"') out += doubleQuoted(reader)
    else if (character === '$') out += variable(reader)
    else if (character === scope.escape) {
      // An escape at the very end stands for itself.
      out += text[reader.at + 1] ?? character
      reader.at += 2
    } else {
      out += character
      reader.at += 1
    }
    checkLength(out, scope)
  }
  if (end !== '') throw dockerfileError(scope.line, `${shown(text)} has no closing ${end}`)
  return out
}

function singleQuoted(reader: Reader): string {
  const end = reader.text.indexOf("'", reader.at + 1)
  if (end === -1) throw dockerfileError(reader.scope.line, `${shown(reader.text)} has no closing '`)
  const inner = reader.text.slice(reader.at + 1, end)
  reader.at = end + 1
  return inner
}

function doubleQuoted(reader: Reader): string {
  const { text, scope } = reader
  reader.at += 1
  let out = ''
  while (reader.at < text.length) {
    const character = text[reader.at]!
    if (character === '"') {
      reader.at += 1
      return out
    }
    if (character === '$') out += variable(reader)
    else if (character === scope.escape) {
      const next = text[reader.at + 1] ?? ''
      // Inside double quotes only these lose their meaning; before anything else the escape stays.
      out += next === '"' || next === '$' || next === scope.escape ? next : character + next
      reader.at += 2
    } else {
      out += character
      reader.at += 1
    }
    checkLength(out, scope)
  }
  throw dockerfileError(scope.line, `${shown(text)} has no closing "`)
}

/** `$name`, `${name}`, `${name:-word}`, `${name:+word}`, `${name:?word}`, and the three without the colon, for which an empty value is a value. */
function variable(reader: Reader): string {
  const { text, scope } = reader
  const plain = /^\$([A-Za-z_][A-Za-z0-9_]*|[0-9])/.exec(text.slice(reader.at, reader.at + 300))
  if (plain) {
    reader.at += plain[0].length
    return scope.lookUp(plain[1]!) ?? ''
  }
  const braced = /^\$\{([A-Za-z_][A-Za-z0-9_]*|[0-9])(\}|:?[-+?])?/.exec(text.slice(reader.at, reader.at + 300))
  if (!braced) {
    if (text[reader.at + 1] === '{')
      throw dockerfileError(scope.line, `${shown(text)} has a variable that cannot be read`)
    reader.at += 1
    return '$'
  }
  const [all, name = '', operator] = braced
  if (operator === undefined) {
    const rest = text.slice(reader.at + all.length, reader.at + all.length + 20)
    throw dockerfileError(scope.line, `\${${name}${rest}: only :-, :+, :?, -, + and ? are supported in a variable`)
  }
  reader.at += all.length
  const value = scope.lookUp(name)
  if (operator === '}') return value ?? ''
  reader.depth += 1
  if (reader.depth > mostDepth)
    throw dockerfileError(scope.line, `variables inside variables, more than ${mostDepth} deep`)
  const word = expandUntil(reader, '}')
  reader.depth -= 1
  reader.at += 1
  const isSet = value !== undefined && (value !== '' || !operator.startsWith(':'))
  if (operator.endsWith('-')) return isSet ? value : word
  if (operator.endsWith('+')) return isSet ? word : ''
  if (isSet) return value
  throw dockerfileError(scope.line, `${name}: ${word || 'is not set'}`)
}

function checkLength(out: string, scope: WordScope): void {
  if (out.length > mostChars)
    throw dockerfileError(scope.line, `its variables make it longer than ${mostChars} characters`)
}
