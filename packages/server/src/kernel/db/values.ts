const largest = BigInt(Number.MAX_SAFE_INTEGER)

/** What makes a value none that both databases store and give back alike. */
export function sqlFault(value: unknown): string | undefined {
  if (value === null || value instanceof Uint8Array) return undefined
  if (typeof value === 'string') return value.includes('\0') ? 'holds a NUL character' : undefined
  if (typeof value === 'bigint') return value > largest || value < -largest ? 'is beyond ±2^53' : undefined
  if (typeof value !== 'number') return `is ${typeof value}, not text, number, bytes or null`
  if (!Number.isFinite(value)) return 'is not a finite number'
  return Number.isInteger(value) && !Number.isSafeInteger(value) ? 'is beyond ±2^53' : undefined
}
