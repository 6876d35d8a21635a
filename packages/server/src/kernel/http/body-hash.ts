import { createHash } from 'node:crypto'

/** The same for the same wish, however its fields were ordered: what an Idempotency-Key is bound to. */
export function hashOfBody(value: unknown): string {
  const ordered = JSON.stringify(value, (_key, item: unknown) =>
    typeof item === 'object' && item !== null && !Array.isArray(item)
      ? Object.fromEntries(Object.entries(item).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : item,
  )
  return createHash('sha256').update(ordered).digest('hex')
}
