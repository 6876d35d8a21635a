import { DeltaError } from '../../kernel/errors.ts'
import type { ApiContext } from '../../kernel/http/api.ts'
import type { IssuedTokens } from './sessions.ts'

/** What of a request is looked at where it shows cookies. */
interface Shown {
  method: string
  header(name: string): string | undefined
}

export type Cookies = ReturnType<typeof createCookies>

const csrfHeader = 'x-delta-csrf'
const harmless = new Set(['GET', 'HEAD'])
const refreshPath = '/v1/auth'

/**
 * Session tokens in cookies, for pages of this server. No script reads them, no other site's page has them sent. Pages of sandboxes are on the same site
 * (`3000-….localhost`), so that is not enough: an origin that is neither the server's own nor listed by the operator is refused, and whatever
 * changes something needs a header that such a page cannot send without being asked back.
 */
export function createCookies({ publicUrl, origins = [] }: { publicUrl: string; origins?: readonly string[] }) {
  const secure = publicUrl.startsWith('https:')
  // A browser takes these names only with Secure and without a domain: a sandbox's page can then not set one for this server.
  const names = secure
    ? { session: '__Host-delta_session', refresh: '__Secure-delta_refresh' }
    : { session: 'delta_session', refresh: 'delta_refresh' }
  const cookie = (name: string, value: string, path: string, maxAgeMs: number) =>
    `${name}=${value}; Path=${path}; Max-Age=${Math.floor(maxAgeMs / 1000)}; HttpOnly; SameSite=Strict${secure ? '; Secure' : ''}`

  function refusalOf(shown: Shown): DeltaError | undefined {
    const origin = shown.header('origin')
    const site = shown.header('sec-fetch-site')
    const isListed = origin !== undefined && origins.includes(origin)
    const isOwn =
      isListed ||
      ((origin === undefined || isSame(origin, shown.header('host'), publicUrl)) &&
        (site === undefined || ['same-origin', 'none'].includes(site)))
    if (isOwn && (harmless.has(shown.method) || shown.header(csrfHeader) === '1')) return undefined
    return new DeltaError(
      'csrf_refused',
      isOwn ? 'The header X-Delta-CSRF is missing' : 'The request comes from a page of another origin',
    )
  }

  function refuseForeign(shown: Shown): void {
    const refusal = refusalOf(shown)
    if (refusal) throw refusal
  }

  return {
    /**
     * Before anybody gets cookies: a page of another site would else sign its visitor in as somebody of its own choice, and keep what they then do. Its requests show
     * where they come from, and can not have the header.
     */
    refuseForeign,

    /** The same for a form, which has no headers of its own. */
    refuseForeignForm(shown: Shown): void {
      refuseForeign({ ...shown, method: 'GET' })
    },

    /** The `Authorization` that a cookie stands for, and why it does not count here. */
    authorization(shown: Shown): { authorization: string; refusal: DeltaError | undefined } | undefined {
      const token = read(shown.header('cookie'), names.session)
      return token === undefined ? undefined : { authorization: `Bearer ${token}`, refusal: refusalOf(shown) }
    },

    refreshToken(shown: Shown): string | undefined {
      const token = read(shown.header('cookie'), names.refresh)
      if (token !== undefined) refuseForeign(shown)
      return token
    },

    set(c: ApiContext, tokens: IssuedTokens, now: number): void {
      c.header('Set-Cookie', cookie(names.session, tokens.accessToken, '/', tokens.expiresAt - now), { append: true })
      const maxAgeMs = tokens.refreshExpiresAt - now
      c.header('Set-Cookie', cookie(names.refresh, tokens.refreshToken, refreshPath, maxAgeMs), { append: true })
    },

    clear(c: ApiContext): void {
      c.header('Set-Cookie', cookie(names.session, '', '/', 0), { append: true })
      c.header('Set-Cookie', cookie(names.refresh, '', refreshPath, 0), { append: true })
    },
  }
}

function isSame(origin: string, host: string | undefined, publicUrl: string): boolean {
  if (origin === publicUrl) return true
  return host !== undefined && (origin === `http://${host}` || origin === `https://${host}`)
}

/** Undefined where there are two of that name: one of them is somebody else's. */
function read(header: string | undefined, name: string): string | undefined {
  const found = (header ?? '')
    .split(';')
    .map((part) => part.trim())
    .filter((part) => part.startsWith(`${name}=`))
  const value = found.length === 1 ? found[0]!.slice(name.length + 1) : ''
  return /^[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{1,2048}$/.test(value) ? value : undefined
}

/** A request as the router has it. */
export function shownOf(c: ApiContext): Shown {
  return { method: c.req.method, header: (name) => c.req.header(name) }
}
