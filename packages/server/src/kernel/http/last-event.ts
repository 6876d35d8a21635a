import { DeltaError } from '../errors.ts'
import type { ApiContext } from './api.ts'

/** Where a reader of numbered events was cut off. */
export function lastEventId(c: ApiContext): number | undefined {
  const id = c.req.header('last-event-id')
  if (id === undefined || id === '') return undefined
  if (/^[0-9]{1,15}$/.test(id)) return Number(id)
  throw new DeltaError('invalid_request', 'The request is not valid at header.Last-Event-ID', {
    cause: 'Last-Event-ID: the id of an event of this stream',
  })
}
