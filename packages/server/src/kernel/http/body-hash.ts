import { createHmac } from 'node:crypto'

/** The same for the same wish, however its fields were ordered: what an Idempotency-Key is bound to. */
export type HashBody = (wish: unknown) => string

/** Keyed, since what is in a body can often be guessed: without the key nobody who has the database can try. */
export function createBodyHash(key: Buffer): HashBody {
  return (wish) => createHmac('sha256', key).update(inOrder(wish)).digest('hex')
}

function inOrder(value: unknown): string {
  return JSON.stringify(value, (_key, item: unknown) =>
    typeof item === 'object' && item !== null && !Array.isArray(item)
      ? Object.fromEntries(Object.entries(item).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : item,
  )
}
