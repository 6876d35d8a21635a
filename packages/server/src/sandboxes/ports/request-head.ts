import { hasToken } from './answer-parser.ts'
import { splitCookie, tokenHeader, tokenName } from './credentials.ts'
import { hopByHop, namedByConnection } from './hop-by-hop.ts'

export interface RequestHead {
  method: string
  /** Path and query as the program inside is asked for. */
  target: string
  /** Names and values in turn, as Node has read them. */
  headers: readonly string[]
  host: string
  /** The `Authorization` header is for the program, not for us. */
  keepAuthorization: boolean
  forwarded: { for: string; host: string; proto: string; prefix?: string }
  /** How the body is framed; undefined where there is none. */
  body: 'chunked' | number | undefined
  /** Of a WebSocket. */
  upgrade?: string
}

/** Hop by hop, ours, or written anew. `expect` was answered already. */
const dropped = new Set([
  ...hopByHop,
  'http2-settings',
  'content-length',
  'expect',
  'host',
  'forwarded',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-proto',
  'x-forwarded-port',
  'x-forwarded-prefix',
  'x-real-ip',
  tokenHeader,
])

const targetShape = /^(?:\/[\x21-\x7e\x80-\xff]*|\*)$/
const nameShape = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/
const valueShape = /^[\t\x20-\x7e\x80-\xff]*$/

/**
 * The head as it goes inside: written anew from what was understood, so that no reading of the client's bytes but ours can count. Undefined where
 * something in it is not plain HTTP.
 */
export function writeRequestHead(request: RequestHead): Buffer | undefined {
  const { method, target, headers, forwarded, body, upgrade } = request
  if (!targetShape.test(target) || !nameShape.test(method) || !valueShape.test(request.host)) return undefined
  const named = namedByConnection(headers)
  let text = `${method} ${target} HTTP/1.1\r\nHost: ${request.host}\r\n`
  for (let at = 0; at < headers.length; at += 2) {
    const name = headers[at]!
    const lower = name.toLowerCase()
    if (dropped.has(lower) || named?.has(lower)) continue
    let value = headers[at + 1]!
    if (!nameShape.test(name) || !valueShape.test(value)) return undefined
    if (lower === 'authorization' && !request.keepAuthorization) continue
    // A page that was opened with a token in its address would tell it to the program by way of the next request.
    if (lower === 'referer' && value.includes(tokenName)) continue
    if (lower === 'cookie') {
      // By path they are those of the API's own origin: none was set by the program.
      if (forwarded.prefix !== undefined) continue
      value = splitCookie(value).header
      if (value === '') continue
    }
    text += `${name}: ${value}\r\n`
  }
  text += `X-Forwarded-For: ${forwarded.for}\r\nX-Forwarded-Host: ${forwarded.host}\r\nX-Forwarded-Proto: ${forwarded.proto}\r\n`
  if (forwarded.prefix !== undefined) text += `X-Forwarded-Prefix: ${forwarded.prefix}\r\n`
  if (body === 'chunked') text += 'Transfer-Encoding: chunked\r\n'
  else if (body !== undefined) text += `Content-Length: ${body}\r\n`
  text += upgrade === undefined ? '\r\n' : `Connection: Upgrade\r\nUpgrade: ${upgrade}\r\n\r\n`
  return Buffer.from(text, 'latin1')
}

/** How Node says the body comes; its parser has refused what is ambiguous. */
export function bodyOf(headers: Record<string, string | string[] | undefined>): RequestHead['body'] {
  const coding = headers['transfer-encoding']
  if (coding !== undefined) return hasToken(String(coding), 'chunked') ? 'chunked' : undefined
  const length = headers['content-length']
  return typeof length === 'string' && /^[0-9]{1,15}$/.test(length) ? Number(length) : undefined
}
