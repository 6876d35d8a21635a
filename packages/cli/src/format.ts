import { UsageError } from './failure.ts'

const unitMs: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }

/** Reads 500ms, 30s, 10m, 2h, 1d. */
export function parseDuration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(text)
  const unit = unitMs[match?.[2] ?? '']
  if (match === null || unit === undefined)
    throw new UsageError(`'${text}' is not a duration. Write 500ms, 30s, 10m, 2h or 1d`)
  return Math.round(Number(match[1]) * unit)
}

export function parseNumber(text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value)) throw new UsageError(`'${text}' is not a number`)
  return value
}

/** How many of something. */
export function parseCount(text: string): number {
  if (!/^[1-9][0-9]{0,8}$/.test(text)) throw new UsageError(`'${text}' is not a whole number above 0`)
  return Number(text)
}

/** Collects repeated NAME=value options. */
export function parsePair(text: string, pairs: Record<string, string> = {}): Record<string, string> {
  const equals = text.indexOf('=')
  if (equals < 1) throw new UsageError(`'${text}' is not of the form NAME=value`)
  return { ...pairs, [text.slice(0, equals)]: text.slice(equals + 1) }
}

export function showBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = bytes
  let unit = 0
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`
}

export function showDuration(ms: number): string {
  const seconds = Math.round(ms / 1000)
  if (seconds < 120) return `${seconds} s`
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`
  return `${Math.round(seconds / 86_400)} d`
}

/**
 * Columns wide enough for their widest cell. Control characters are shown, not sent: a name made inside a sandbox must not be able to
 * drive the terminal.
 */
export function table(header: string[], rows: string[][]): string {
  const all = [header, ...rows.map((row) => row.map(visible))]
  const widths = header.map((_, column) => Math.max(...all.map((row) => (row[column] ?? '').length)))
  const line = (row: string[]) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd()
  return all.map((row) => `${line(row)}\n`).join('')
}

/** With nothing in it that a terminal obeys, that ends a line, or that turns the direction of writing. */
export function visible(text: string): string {
  return text.replace(/[\p{Cc}\p{Bidi_Control}\p{Zl}\p{Zp}]/gu, (char) => {
    const code = char.codePointAt(0)!.toString(16)
    return code.length > 2 ? `\\u{${code}}` : `\\x${code.padStart(2, '0')}`
  })
}
