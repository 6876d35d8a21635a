import { DeltaError } from '../errors.ts'
import type { IdPrefix } from '../ids.ts'

/** Where a page of a list ends that goes from the newest back; of those made at one moment the ids decide. */
export interface Place {
  /** Unix milliseconds. */
  createdAt: number
  id: string
}

/** `prefixes`: of the ids that the list has. Undefined for the first page; throws `invalid_request` for what no list gave. */
export function readCursor(cursor: string | undefined, prefixes: readonly IdPrefix[]): Place | undefined {
  if (cursor === undefined) return undefined
  const [, createdAt, prefix, rest] = /^([0-9]{1,15})\.([a-z]{3})_([a-z0-9]+)$/.exec(textOfCursor(cursor)) ?? []
  if (createdAt === undefined || !prefixes.some((known) => known === prefix)) throw badCursor()
  return { createdAt: Number(createdAt), id: `${prefix}_${rest}` }
}

/** One item more than asked for tells whether there is a next page. */
export function pageOf<Item extends Place>(found: readonly Item[], limit: number) {
  const items = found.slice(0, limit)
  const last = items.at(-1)
  return { items, nextCursor: found.length > limit && last ? writeCursor(`${last.createdAt}.${last.id}`) : null }
}

/** Opaque to whoever gets it. */
export function writeCursor(text: string): string {
  return Buffer.from(text).toString('base64url')
}

export function textOfCursor(cursor: string): string {
  return Buffer.from(cursor, 'base64url').toString('latin1')
}

export function badCursor(): DeltaError {
  return new DeltaError('invalid_request', 'The request is not valid at query.cursor', {
    cause: 'query.cursor: not a cursor of this list',
  })
}
