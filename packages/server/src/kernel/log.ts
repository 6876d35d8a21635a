import { systemClock } from './clock.ts'
import { limits } from './limits.ts'
import { withoutSecrets } from './secret-texts.ts'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'
export type LogFields = Record<string, unknown>

export interface Logger {
  debug(event: string, fields?: LogFields): void
  info(event: string, fields?: LogFields): void
  warn(event: string, fields?: LogFields): void
  error(event: string, fields?: LogFields): void
  /** A logger whose lines all carry these fields. */
  child(fields: LogFields): Logger
}

export interface LogOptions {
  level: LogLevel
  /** Receives one whole line with its end. */
  write: (line: string) => void
  now?: () => number
}

const levels: readonly LogLevel[] = ['debug', 'info', 'warn', 'error']
const secretKey = /authorization|cookie|key|token|secret|password|env|stdin/i
const redacted = '[redacted]'

/** Keys come from our own source, mostly; the bound is for those that do not. */
const judgedMost = 1_000
const judged = new Map<string, boolean>()

function isSecret(key: string): boolean {
  let secret = judged.get(key)
  if (secret === undefined) {
    secret = secretKey.test(key)
    if (judged.size < judgedMost) judged.set(key, secret)
  }
  return secret
}

/** One JSON line per event. What sits under a key that sounds like a secret is never written. */
export function createLogger({ level, write, now = systemClock.now }: LogOptions): Logger {
  const least = levels.indexOf(level)
  const build = (base: LogFields): Logger => {
    const at = (lineLevel: LogLevel) => (event: string, fields?: LogFields) => {
      if (levels.indexOf(lineLevel) < least) return
      const head = { at: new Date(now()).toISOString(), level: lineLevel, event }
      write(`${JSON.stringify(Object.assign(head, base, fields && (safe(fields, 0) as LogFields)))}\n`)
    }
    return {
      debug: at('debug'),
      info: at('info'),
      warn: at('warn'),
      error: at('error'),
      child: (fields) => build({ ...base, ...(safe(fields, 0) as LogFields) }),
    }
  }
  return build({})
}

/** For tests and tools that want no log. */
export const silentLogger: Logger = createLogger({ level: 'error', write: () => {} })

function safe(value: unknown, depth: number): unknown {
  if (typeof value === 'string') return cut(value)
  if (typeof value === 'bigint') return value.toString()
  if (typeof value !== 'object' || value === null) return value
  if (depth === limits.logDepth) return '[deep]'
  if (value instanceof Error) return safeError(value, depth)
  if (ArrayBuffer.isView(value)) return `[${value.byteLength} bytes]`
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString()
  if (Array.isArray(value)) return value.slice(0, limits.logItems).map((item) => safe(item, depth + 1))
  const copy: LogFields = {}
  let items = 0
  for (const key in value) {
    if (items++ === limits.logItems) break
    const item = (value as LogFields)[key]
    copy[key] = isSecret(key) ? redacted : safe(item, depth + 1)
  }
  return copy
}

function safeError(error: Error, depth: number): unknown {
  const { name, message, stack, cause } = error
  const code = (error as { code?: unknown }).code
  return {
    name,
    message: cut(message),
    ...(code !== undefined && { code: safe(code, depth + 1) }),
    ...(stack && { stack: cut(stack) }),
    ...(cause !== undefined && { cause: safe(cause, depth + 1) }),
  }
}

function cut(whole: string): string {
  const text = withoutSecrets(whole)
  return text.length <= limits.logTextChars
    ? text
    : `${text.slice(0, limits.logTextChars)}… (${text.length} characters)`
}
