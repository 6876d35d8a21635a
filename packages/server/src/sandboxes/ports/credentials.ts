/** The name of the query parameter and of the cookie that carry an access token. */
export const tokenName = 'delta_token'
export const tokenHeader = 'x-delta-access-token'

/** Cookies by which the server knows people and tokens: none of them is a program's to see or to set. */
const ownCookies = new Set([
  tokenName,
  'delta_session',
  'delta_refresh',
  '__Host-delta_session',
  '__Secure-delta_refresh',
])

/** Cookies of the same name that are looked at: a page beside it may set more, and must not shut the right one out. */
const maxCookies = 4

/** The request's target without the token in its query, and that token. */
export function splitQuery(target: string): { target: string; token: string | undefined } {
  const mark = target.indexOf('?')
  if (mark < 0 || !target.includes(tokenName, mark)) return { target, token: undefined }
  const kept: string[] = []
  let token: string | undefined
  for (const part of target.slice(mark + 1).split('&')) {
    if (part === tokenName || part.startsWith(`${tokenName}=`)) token ??= part.slice(tokenName.length + 1)
    else kept.push(part)
  }
  return { target: target.slice(0, mark) + (kept.length > 0 ? `?${kept.join('&')}` : ''), token }
}

/** Whether a `name=value` is one of the server's cookies. One without a name is sent as its bare value, which may look like one with a name. */
export function isOwnCookie(pair: string): boolean {
  return ownCookies.has(
    pair
      .replace(/^[\s=]+/, '')
      .split('=')[0]!
      .trim(),
  )
}

/** The Cookie header without ours, and the tokens in it. */
export function splitCookie(header: string): { header: string; tokens: string[] } {
  if (!header.includes('delta_')) return { header, tokens: [] }
  const tokens: string[] = []
  const kept: string[] = []
  for (const part of header.split(';')) {
    const [, value] = /^[ \t]*delta_token[ \t]*=[ \t]*"?([^"]*?)"?[ \t]*$/.exec(part) ?? []
    if (value === undefined && !isOwnCookie(part)) kept.push(part.trim())
    else if (value !== undefined && tokens.length < maxCookies) tokens.push(value)
  }
  return { header: kept.filter((part) => part !== '').join('; '), tokens }
}

export function tokenCookie(token: string, { maxAgeMs, secure }: { maxAgeMs: number; secure: boolean }): string {
  const seconds = Math.max(1, Math.floor(maxAgeMs / 1_000))
  return `${tokenName}=${token}; Path=/; Max-Age=${seconds}; HttpOnly; SameSite=Lax${secure ? '; Secure' : ''}`
}

/**
 * A page moves on: its address loses the token, which a cookie keeps. A program that sends one request, and a page's own scripts, are answered at once,
 * since they need not keep cookies.
 */
export function isNavigation(method: string, headers: Record<string, string | string[] | undefined>): boolean {
  if (method !== 'GET' && method !== 'HEAD') return false
  const mode = headers['sec-fetch-mode']
  if (mode !== undefined) return mode === 'navigate'
  return String(headers['accept'] ?? '').includes('text/html')
}
