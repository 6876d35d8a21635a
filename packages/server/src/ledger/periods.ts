import type { Period } from './operations.ts'

/** The month in UTC at that moment. */
export function periodOf(at: number): Period {
  return new Date(at).toISOString().slice(0, 7)
}

export function isPeriod(text: unknown): text is Period {
  return typeof text === 'string' && /^\d{4}-(0[1-9]|1[0-2])$/.test(text)
}

/** Milliseconds since 1970 at which the period begins, and at which the next one does. */
export function boundsOf(period: Period): { from: number; until: number } {
  const [year, month] = period.split('-').map(Number) as [number, number]
  return { from: Date.UTC(year, month - 1), until: Date.UTC(year, month) }
}
