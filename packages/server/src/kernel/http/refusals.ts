import type { createRoute } from '@hono/zod-openapi'
import { errorTable } from '../errors.ts'
import type { ErrorCode } from '../errors.ts'
import { errorResponse } from './document.ts'
import type { Needs } from './needs.ts'

export type RouteConfig = Parameters<typeof createRoute>[0] & {
  /** The codes this operation may be refused with, beside those that follow from its path and its request. */
  refuses?: readonly ErrorCode[]
  /** What it asks of its caller. */
  needs: Needs
}

/** The answers other than success that an operation can give, by status. A gateway in between may still give others: `default`. */
export function refusalsOf(route: RouteConfig): Record<string, typeof errorResponse> {
  const byStatus = new Map<number, ErrorCode[]>()
  for (const code of new Set([...codesOf(route), ...(route.refuses ?? [])])) {
    const { status } = errorTable[code]
    byStatus.set(status, [...(byStatus.get(status) ?? []), code])
  }
  const answers: Record<string, typeof errorResponse> = {}
  for (const [status, codes] of [...byStatus].toSorted(([a], [b]) => a - b)) {
    const description = codes.map((code) => `\`${code}\``).join(', ')
    answers[String(status)] = { ...errorResponse, description }
  }
  return answers
}

/** What every operation of this form meets before its own work begins, and the fault that any code may have. */
function codesOf({ path, request, needs }: RouteConfig): ErrorCode[] {
  const codes: ErrorCode[] = ['host_not_allowed', 'shutting_down', 'internal']
  if (path.startsWith('/v1/')) codes.push('csrf_refused', 'too_many_requests')
  if (path.startsWith('/v1/') && needs !== 'public') codes.push('unauthorized')
  if (needs !== 'nothing' && needs !== 'public') codes.push('forbidden')
  if (request) codes.push('invalid_request')
  if (!request?.body) return codes
  codes.push('request_timeout', 'canceled')
  if (Object.hasOwn(request.body.content, 'application/json')) codes.push('malformed_json', 'body_too_large')
  return codes
}
