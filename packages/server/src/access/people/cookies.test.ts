import { expect, test } from 'vitest'
import { createCookies } from './cookies.ts'

const cookies = createCookies({ publicUrl: 'https://delta.example.com', origins: ['https://app.example.com'] })

function ask(headers: Record<string, string>, method = 'POST') {
  const all: Record<string, string> = { cookie: '__Host-delta_session=token', host: 'delta.example.com', ...headers }
  return cookies.authorization({ method, header: (name) => all[name] })
}

test('pages of the server itself and of a listed origin may use cookies, with the header that shows they were asked', () => {
  for (const [origin, site] of [
    ['https://delta.example.com', 'same-origin'],
    ['https://app.example.com', 'same-site'],
  ] as const) {
    const page = { origin, 'sec-fetch-site': site }
    expect(ask({ ...page, 'x-delta-csrf': '1' })).toEqual({ authorization: 'Bearer token', refusal: undefined })
    expect(ask(page)?.refusal?.message).toBe('The header X-Delta-CSRF is missing')
  }
})

test.each(['https://evil.example', 'https://other.example.com', 'http://app.example.com', 'null'])(
  'a page of %s may not',
  (origin) => {
    const page = { origin, 'sec-fetch-site': 'same-site', 'x-delta-csrf': '1' }
    expect(ask(page)?.refusal?.message).toContain('from a page of another origin')
    expect(ask(page, 'GET')?.refusal?.message).toContain('from a page of another origin')
  },
)
