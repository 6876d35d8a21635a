import { DeltaError } from '../../kernel/errors.ts'

/** What a Dockerfile may be, so that a hostile one costs no more than an honest one. */
export const dockerfileLimits = {
  bytes: 1024 * 1024,
  instructions: 1_000,
  /** One instruction with its continued lines, and one heredoc. */
  instructionBytes: 256 * 1024,
  heredocs: 16,
  stages: 64,
} as const

export const instructionNames = [
  'ADD',
  'ARG',
  'CMD',
  'COPY',
  'ENTRYPOINT',
  'ENV',
  'EXPOSE',
  'FROM',
  'HEALTHCHECK',
  'LABEL',
  'MAINTAINER',
  'ONBUILD',
  'RUN',
  'SHELL',
  'STOPSIGNAL',
  'USER',
  'VOLUME',
  'WORKDIR',
] as const
export type InstructionName = (typeof instructionNames)[number]

export interface Heredoc {
  name: string
  /** The delimiter had no quotes: variables in the content are replaced. */
  expands: boolean
  content: string
}

export interface Instruction {
  /** Of its first line, from 1. */
  line: number
  name: InstructionName
  flags: { name: string; value: string }[]
  /** What follows the flags, with continued lines joined. */
  text: string
  heredocs: Heredoc[]
}

export interface Dockerfile {
  /** The character that continues lines and takes away a special meaning. */
  escape: '\\' | '`'
  instructions: Instruction[]
}

export function dockerfileError(line: number, reason: string): DeltaError {
  return new DeltaError('dockerfile_invalid', `Dockerfile line ${line}: ${reason}`, { context: { line } })
}

/** The instructions of a Dockerfile. What it means is `evaluate`'s business. */
export function parseDockerfile(source: string): Dockerfile {
  if (Buffer.byteLength(source) > dockerfileLimits.bytes) {
    throw dockerfileError(1, `it is longer than ${dockerfileLimits.bytes} bytes`)
  }
  if (source.includes('\0')) throw dockerfileError(1, 'it contains a NUL character')
  const lines = source
    .replace(/^\uFEFF/, '')
    .split('\n')
    .map((line) => line.replace(/\r$/, ''))
  const escape = escapeOf(lines)
  const instructions: Instruction[] = []
  let at = 0
  while (at < lines.length) {
    const first = at
    const joined = joinLines(lines, at, escape)
    at = joined.next
    if (joined.text.trim() === '') continue
    if (instructions.length === dockerfileLimits.instructions) {
      throw dockerfileError(first + 1, `it has more than ${dockerfileLimits.instructions} instructions`)
    }
    const instruction = readInstruction(joined.text, joined.firstLine)
    at = takeHeredocs(lines, at, instruction, escape)
    instructions.push(instruction)
  }
  if (instructions.length === 0) throw dockerfileError(1, 'it has no instruction')
  return { escape, instructions }
}

/** `# escape=` counts only among the comments at the very top that look like directives. */
function escapeOf(lines: readonly string[]): '\\' | '`' {
  for (const [index, line] of lines.entries()) {
    const [, name, value] = /^\s*#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*$/.exec(line) ?? []
    if (name === undefined || value === undefined) break
    if (name.toLowerCase() === 'escape') {
      if (value === '\\' || value === '`') return value
      throw dockerfileError(index + 1, 'the escape character is \\ or `')
    }
    if (
      name.toLowerCase() === 'syntax' &&
      !/^(docker\.io\/)?docker\/dockerfile(:1(\.[0-9.]+)?)?(-labs)?$/.test(value)
    ) {
      throw dockerfileError(
        index + 1,
        `another syntax than docker/dockerfile:1 (${value.slice(0, 80)}) is not supported`,
      )
    }
  }
  return '\\'
}

/** One instruction may go over several lines; comments and empty lines between them are left out. */
function joinLines(lines: readonly string[], start: number, escape: string) {
  let text = ''
  let firstLine = start + 1
  let at = start
  while (at < lines.length) {
    const line = lines[at]!
    at += 1
    if (/^\s*(#|$)/.test(line)) {
      if (text === '') return { text, firstLine, next: at }
      continue
    }
    if (text === '') firstLine = at
    const continued = continues(line, escape)
    text += continued ?? line
    if (text.length > dockerfileLimits.instructionBytes) {
      throw dockerfileError(firstLine, `the instruction is longer than ${dockerfileLimits.instructionBytes} bytes`)
    }
    if (continued === undefined) break
  }
  return { text, firstLine, next: at }
}

/** The line without its escape character at the end; undefined where there is none. Two of them are one that is meant. */
function continues(line: string, escape: string): string | undefined {
  const bare = line.replace(/[ \t]+$/, '')
  if (!bare.endsWith(escape) || bare.at(-2) === escape) return undefined
  return bare.slice(0, -1)
}

function readInstruction(text: string, line: number): Instruction {
  const [, word = '', rest = ''] = /^\s*(\S+)\s*([^]*)$/.exec(text) ?? []
  const name = instructionNames.find((each) => each === word.toUpperCase())
  if (name === undefined) throw dockerfileError(line, `there is no instruction ${shown(word)}`)
  const flags: Instruction['flags'] = []
  let words = rest
  for (;;) {
    const [all, flag, value] = /^--([a-z][a-z-]*)(?:=(\S*))?(?:\s+|$)/.exec(words) ?? []
    if (all === undefined || flag === undefined) break
    if (name === 'CMD' || name === 'ENTRYPOINT' || name === 'HEALTHCHECK') break
    flags.push({ name: flag, value: value ?? '' })
    words = words.slice(all.length)
  }
  const trimmed = words.trim()
  if (trimmed === '') throw dockerfileError(line, `${name} needs something after it`)
  return { line, name, flags, text: trimmed, heredocs: [] }
}

/** Takes the heredocs that the instruction announces from the lines after it; returns where to go on. */
function takeHeredocs(lines: readonly string[], start: number, instruction: Instruction, escape: string): number {
  if (!['RUN', 'COPY', 'ADD'].includes(instruction.name)) return start
  let at = start
  for (const word of rawWords(instruction.text, escape)) {
    const [, tabs, quote, name] = /^[0-9]*<<(-?)(['"]?)([^'"<>\s]+)\2$/.exec(word) ?? []
    if (name === undefined) continue
    if (instruction.heredocs.length === dockerfileLimits.heredocs) {
      throw dockerfileError(instruction.line, `more than ${dockerfileLimits.heredocs} heredocs`)
    }
    let content = ''
    for (;;) {
      const line = lines[at]
      if (line === undefined) throw dockerfileError(instruction.line, `the heredoc ${shown(name)} has no end`)
      at += 1
      const body = tabs === '-' ? line.replace(/^\t+/, '') : line
      if (body === name) break
      content += `${body}\n`
      if (content.length > dockerfileLimits.instructionBytes) {
        throw dockerfileError(instruction.line, `the heredoc is longer than ${dockerfileLimits.instructionBytes} bytes`)
      }
    }
    instruction.heredocs.push({ name, expands: quote === '', content })
  }
  return at
}

/** Words as they are written, with their quotes: white space inside quotes or behind the escape character does not divide. */
export function rawWords(text: string, escape: string): string[] {
  const words: string[] = []
  let word = ''
  let quote = ''
  for (let at = 0; at < text.length; at += 1) {
    const character = text[at]!
    if (quote === '' && /\s/.test(character)) {
      if (word !== '') words.push(word)
      word = ''
      continue
    }
    word += character
    if (character === escape && quote !== "'" && at + 1 < text.length) {
      at += 1
      word += text[at]!
    } else if (quote !== '') {
      if (character === quote) quote = ''
    } else if (character === "'" || character === '"') {
      quote = character
    }
  }
  if (word !== '') words.push(word)
  return words
}

/** The exec form: a JSON list of texts. Anything else is the shell form, as with other builders. */
export function jsonForm(text: string): string[] | undefined {
  if (!text.startsWith('[')) return undefined
  try {
    const value: unknown = JSON.parse(text)
    if (Array.isArray(value) && value.every((each): each is string => typeof each === 'string')) return value
  } catch {
    // A shell command may begin with a bracket.
  }
  return undefined
}

export function shown(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text)
}
