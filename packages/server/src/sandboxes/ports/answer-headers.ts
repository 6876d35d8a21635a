import type { AnswerHead } from './answer-parser.ts'
import { isOwnCookie } from './credentials.ts'
import { hopByHop, namedByConnection } from './hop-by-hop.ts'
import { locationByPath, type PathPlace } from './location.ts'

/** `alt-svc` would send people to where nobody checks who they are. */
const dropped = new Set([...hopByHop, 'alt-svc'])

/** What the API's own origin must not be told by a program. */
const droppedOnPath = new Set([
  'set-cookie',
  'set-cookie2',
  'clear-site-data',
  'strict-transport-security',
  'service-worker-allowed',
  'public-key-pins',
  'www-authenticate',
  'nel',
  'report-to',
  'reporting-endpoints',
  'x-content-type-options',
])

/**
 * Without `allow-same-origin` a page has an origin of its own, so its scripts are strangers to the API and to whatever else the server's name
 * serves.
 */
const sandboxPolicy =
  'sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads allow-pointer-lock allow-presentation'

/** The headers a client gets, names and values in turn. `path`: the answer is not for a host name that is this port's alone. */
export function answerHeaders({ headers, status }: AnswerHead, { path }: { path: PathPlace | undefined }): string[] {
  const ownOrigin = path === undefined
  const named = namedByConnection(headers)
  const kept: string[] = []
  for (let at = 0; at < headers.length; at += 2) {
    const name = headers[at]!
    const lower = name.toLowerCase()
    if (dropped.has(lower) || named?.has(lower)) continue
    if (!ownOrigin && droppedOnPath.has(lower)) continue
    if (status === 204 && lower === 'content-length') continue
    const value = headers[at + 1]!
    if (path && lower === 'location') {
      const location = locationByPath(value, path)
      if (location !== undefined) kept.push(name, location)
      continue
    }
    if (lower !== 'set-cookie') {
      kept.push(name, value)
      continue
    }
    const cookie = ownCookie(value)
    if (cookie !== undefined) kept.push(name, cookie)
  }
  if (!ownOrigin) kept.push('Content-Security-Policy', sandboxPolicy, 'X-Content-Type-Options', 'nosniff')
  return kept
}

/** A program sets cookies for its own host name, not for its neighbours', and never one that lets people in. */
function ownCookie(value: string): string | undefined {
  const [pair = '', ...attributes] = value.split(';')
  if (isOwnCookie(pair)) return undefined
  return [pair, ...attributes.filter((attribute) => !/^\s*domain\s*(=|$)/i.test(attribute))].join(';')
}
