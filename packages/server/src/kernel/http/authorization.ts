import type { IncomingMessage } from 'node:http'
import { repeatedFault } from './repeated.ts'

/** The Authorization header; whoever sends two is refused. */
export function authorizationOf(request: IncomingMessage): string | undefined {
  const { authorization } = request.headers
  const fault = authorization === undefined ? undefined : repeatedFault(request, 'authorization')
  if (fault) throw fault
  return authorization
}
