import type { IncomingMessage } from 'node:http'
import { DeltaError } from '../errors.ts'

/**
 * Why a request is refused that has a header twice: Node shows the first, while a proxy before it may have judged by the last.
 *
 * @param name lower-case
 */
export function repeatedFault(
  { rawHeaders }: Pick<IncomingMessage, 'rawHeaders'>,
  name: string,
): DeltaError | undefined {
  let found = 0
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const header = rawHeaders[at]!
    if (header.length === name.length && header.toLowerCase() === name) found += 1
  }
  if (found <= 1) return undefined
  const shown = name.replace(/^./, (letter) => letter.toUpperCase())
  return new DeltaError('invalid_request', `The request has more than one ${shown} header`, {
    cause: `header.${shown}: at most one`,
  })
}
