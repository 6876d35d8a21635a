import fc from 'fast-check'
import { expect, test } from 'vitest'
import { parseDomain, parseHost, parsePath, portLabel } from './address.ts'
import { answerHeaders } from './answer-headers.ts'
import { isNavigation, splitCookie, splitQuery } from './credentials.ts'
import { listeningPorts } from './listening.ts'
import { locationByPath } from './location.ts'
import { bodyOf, type RequestHead, writeRequestHead } from './request-head.ts'

const id = 'sbx_aaaaaaaaaaaaaaaaaaaa'

test('a host name names a port, however it is written', () => {
  const address = { sandboxId: id, port: 3000 }
  for (const header of [
    `${portLabel(address)}.localhost:8000`,
    `${portLabel(address)}.localhost`,
    `${portLabel(address).toUpperCase()}.LOCALHOST:1`,
  ]) {
    expect(parseHost(header, 'localhost')).toEqual({ kind: 'port', address })
  }
})

test.each(['0-sbx-a', '65536-sbx-a', '03000-sbx-a', '3000-sbx-', '3000-sbx-a-b', '3000-sbx_a', '3000-box-a', '3000-'])(
  '%s only looks like a port, and is nobody’s',
  (label) => {
    expect(parseHost(`${label}.localhost:8000`, 'localhost')).toEqual({ kind: 'unfit' })
  },
)

test.each([
  'localhost:8000',
  '127.0.0.1',
  'localhost.',
  '3000-sbx-a.localhost.example.com',
  '3000-sbx-a.example.com',
  'x.3000-sbx-a.localhost',
  '[::1]:8000',
  '',
])('%j is no port', (header) => {
  expect(parseHost(header, 'localhost')).toBeUndefined()
})

test('a path names a port, and what the program inside is asked for', () => {
  const prefix = `/v1/sandboxes/${id}/ports/80`
  const base = { sandboxId: id, port: 80, prefix }
  expect(parsePath(`${prefix}/a/../b?c`)).toEqual({ ...base, target: '/a/../b?c' })
  expect(parsePath(prefix)).toEqual({ ...base, target: '' })
  expect(parsePath(`${prefix}?a`)).toEqual({ ...base, target: '?a' })
  for (const other of [
    `/v1/sandboxes/${id}/ports`,
    `/v1/sandboxes/${id}/ports/`,
    `/v1/sandboxes/${id}/ports/0/`,
    `/v1/sandboxes/${id}/ports/70000/`,
    '/v1/sandboxes/exe_a/ports/80/',
    `/v1/sandboxes/../${id}/ports/80/`,
  ]) {
    expect(parsePath(other)).toBeUndefined()
  }
})

test('a domain may have a scheme and a port', () => {
  expect(parseDomain('localhost')).toEqual({ scheme: 'http', name: 'localhost', port: '' })
  expect(parseDomain('https://Apps.Example.com:8443')).toEqual({
    scheme: 'https',
    name: 'apps.example.com',
    port: ':8443',
  })
  for (const text of ['', 'a b', 'ftp://a', 'a/b', '.a', 'a..b']) expect(parseDomain(text)).toBeUndefined()
})

test('the token is taken out of a query and the rest left as it was', () => {
  expect(splitQuery('/a?x=%20&delta_token=dat_x.y&z')).toEqual({ target: '/a?x=%20&z', token: 'dat_x.y' })
  expect(splitQuery('/a?delta_token=x')).toEqual({ target: '/a', token: 'x' })
  expect(splitQuery('/delta_token=x?a=delta_token')).toEqual({
    target: '/delta_token=x?a=delta_token',
    token: undefined,
  })
})

test('the token is taken out of the cookies, however many there are', () => {
  expect(splitCookie('a=b; delta_token=x; c=d')).toEqual({ header: 'a=b; c=d', tokens: ['x'] })
  expect(splitCookie('delta_token="x";delta_token = y')).toEqual({ header: '', tokens: ['x', 'y'] })
  expect(splitCookie('xdelta_token=x')).toEqual({ header: 'xdelta_token=x', tokens: [] })
})

const sessionCookies = ['delta_session', '__Host-delta_session', 'delta_refresh', '__Secure-delta_refresh']

test.each(sessionCookies)('%s goes into no sandbox, and none sets it', (name) => {
  const headers = ['Cookie', `a=b; ${name}=secret; ${name} = secret`, 'cookie', `=${name}=secret`]
  const text = written({ headers })!
  expect(text).toContain('Cookie: a=b\r\n')
  expect(text).not.toContain('secret')
  const set = [`${name}=x; Path=/`, `=${name}=x`, ` ${name} =x`, 'a=b'].map((cookie) => ['Set-Cookie', cookie])
  expect(answerHeaders(answer(set), { path: undefined })).toEqual(['Set-Cookie', 'a=b'])
  expect(answerHeaders(answer(set), { path })).not.toContain('Set-Cookie')
})

test('by path no cookie goes in: all of them are the API’s', () => {
  const headers = ['Cookie', 'a=b; delta_session=secret', 'X-A', 'b']
  const text = written({ headers, forwarded: { ...request.forwarded, prefix: '/v1/sandboxes/sbx_a/ports/80' } })!
  expect(text).toContain('X-A: b\r\n')
  expect(text).not.toMatch(/cookie/i)
})

test('a page moves on to an address without the token; scripts and programs are answered at once', () => {
  expect(isNavigation('GET', { 'sec-fetch-mode': 'navigate' })).toBe(true)
  expect(isNavigation('GET', { accept: 'text/html,*/*' })).toBe(true)
  expect(isNavigation('GET', { 'sec-fetch-mode': 'cors', accept: 'text/html' })).toBe(false)
  expect(isNavigation('GET', { accept: '*/*' })).toBe(false)
  expect(isNavigation('POST', { 'sec-fetch-mode': 'navigate' })).toBe(false)
})

const request: RequestHead = {
  method: 'GET',
  target: '/a',
  headers: [],
  host: 'h:1',
  keepAuthorization: true,
  forwarded: { for: '127.0.0.1', host: 'h:1', proto: 'http' },
  body: undefined,
}
const written = (changes: Partial<RequestHead>) => writeRequestHead({ ...request, ...changes })?.toString('latin1')
const forwarded = 'X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: h:1\r\nX-Forwarded-Proto: http\r\n'

test('a request goes in as it was understood', () => {
  const headers = ['Host', 'other', 'X-A', 'b', 'x-a', 'ü', 'Accept', '*/*']
  expect(written({ headers })).toBe(
    `GET /a HTTP/1.1\r\nHost: h:1\r\nX-A: b\r\nx-a: ü\r\nAccept: */*\r\n${forwarded}\r\n`,
  )
  expect(written({ body: 5 })).toContain('Content-Length: 5\r\n\r\n')
  expect(written({ body: 'chunked' })).toContain('Transfer-Encoding: chunked\r\n\r\n')
  expect(written({ upgrade: 'websocket' })).toContain('Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
})

test('what is not for the program inside does not go in', () => {
  const headers = [
    ['Connection', 'keep-alive, X-Hop'],
    ['X-Hop', 'hop'],
    ['Keep-Alive', 'hop'],
    ['TE', 'hop'],
    ['Trailer', 'hop'],
    ['Transfer-Encoding', 'hop'],
    ['Content-Length', 'hop'],
    ['Upgrade', 'hop'],
    ['Expect', 'hop'],
    ['Proxy-Authorization', 'hop'],
    ['X-Forwarded-For', 'hop'],
    ['X-Forwarded-Host', 'hop'],
    ['Forwarded', 'hop'],
    ['X-Delta-Access-Token', 'secret'],
    ['Cookie', 'a=b; delta_token=secret'],
    ['cookie', 'delta_token=secret'],
    ['Referer', 'http://h/?delta_token=secret'],
  ].flat()
  const text = written({ headers })!
  expect(text).not.toMatch(/hop|secret/)
  expect(text).toContain('Cookie: a=b\r\n')
})

test('Authorization is the program’s, unless it is ours', () => {
  const headers = ['Authorization', 'Bearer x']
  expect(written({ headers })).toContain('Authorization: Bearer x')
  expect(written({ headers, keepAuthorization: false })).not.toContain('Bearer')
})

test.each([
  { target: 'http://other/' },
  { target: '/a b' },
  { target: '/a\r\nX: y' },
  { target: '' },
  { method: 'GET /' },
  { host: 'h\r\nX: y' },
  { headers: ['X-A', 'b\r\nX: y'] },
  { headers: ['X-A', 'b\0'] },
  { headers: ['X A', 'b'] },
  { headers: ['X-A: b\r\nX', 'y'] },
])('%j is no request', (changes) => {
  expect(written(changes)).toBeUndefined()
})

test('no request whatever becomes two', () => {
  const text = fc.string({ unit: fc.constantFrom('a', '/', ' ', '\r', '\n', '\0', ':', 'ÿ', '€', '%0d%0a') })
  fc.assert(
    fc.property(text, text, text, text, (target, name, value, host) => {
      const head = written({ target, headers: [name, value], host })
      if (head === undefined) return
      expect(head.split('\r\n\r\n')).toHaveLength(2)
      expect(head.replaceAll('\r\n', '')).not.toMatch(/[\r\n\0]/)
      expect(head.split('\r\n').length).toBeLessThanOrEqual(8)
    }),
    { numRuns: 2_000 },
  )
})

test('a body is framed as Node has read it', () => {
  expect(bodyOf({})).toBeUndefined()
  expect(bodyOf({ 'content-length': '7' })).toBe(7)
  expect(bodyOf({ 'transfer-encoding': 'chunked' })).toBe('chunked')
})

const answer = (headers: string[][], status = 200) => ({
  status,
  reason: '',
  headers: headers.flat(),
  keepsAlive: true,
  bytes: 0,
})

const path = { host: 'localhost:8000', prefix: `/v1/sandboxes/${id}/ports/3000`, port: 3000, target: '/a/b?c' }

test.each([
  ['/login?next=%2F#x', '/login?next=%2F#x'],
  ['c', '/a/c'],
  ['', '/a/b?c'],
  [`/v1/sandboxes/${id}/kill`, `/v1/sandboxes/${id}/kill`],
  ['../../../../../v1/sandboxes', '/v1/sandboxes'],
  ['%2e%2e/%2e%2e/x', '/x'],
  ['\\v1\\sandboxes', '/v1/sandboxes'],
  ['http:/v1/sandboxes', '/v1/sandboxes'],
  ['//localhost:8000/v1', '/v1'],
  ['HTTP://LOCALHOST:8000/v1', '/v1'],
  ['https://localhost:8000/v1', '/v1'],
  ['http://user@localhost:8000/v1', '/v1'],
  ['http://localhost:3000/own', '/own'],
])('a redirect to %j that came by path stays at the port', (location, led) => {
  expect(locationByPath(location, path)).toBe(path.prefix + led)
})

test('a redirect by path to somewhere else is left, in one spelling', () => {
  expect(locationByPath('https://example.com', path)).toBe('https://example.com/')
  expect(locationByPath('\\\\example.com\\a', path)).toBe('http://example.com/a')
  expect(locationByPath('http://localhost:9/', path)).toBe('http://localhost:9/')
  expect(locationByPath('app:callback', path)).toBe('app:callback')
  expect(locationByPath('http://', path)).toBeUndefined()
  // A proxy before the server may have the usual port of another scheme.
  expect(locationByPath('https://api.example/v1', { ...path, host: 'api.example:443' })).toBe(`${path.prefix}/v1`)
  const headers = answer([['Location', '/v1/sandboxes']], 307)
  expect(answerHeaders(headers, { path }).slice(0, 2)).toEqual(['Location', `${path.prefix}/v1/sandboxes`])
  expect(answerHeaders(headers, { path: undefined })).toEqual(['Location', '/v1/sandboxes'])
})

test('an answer loses what ends at the next hop', () => {
  const headers = [
    ['Connection', 'X-Hop'],
    ['X-Hop', 'a'],
    ['Keep-Alive', 'a'],
    ['Transfer-Encoding', 'chunked'],
    ['Upgrade', 'a'],
    ['Alt-Svc', 'a'],
    ['X-A', 'b'],
  ]
  expect(answerHeaders(answer(headers), { path: undefined })).toEqual(['X-A', 'b'])
  expect(answerHeaders(answer([['Content-Length', '5']], 204), { path: undefined })).toEqual([])
})

test('a program sets cookies for its own host name, and never the one that lets people in', () => {
  const headers = [
    ['Set-Cookie', 'a=b; Domain=localhost; Path=/'],
    ['set-cookie', 'delta_token=x'],
    ['set-cookie', '=delta_token=x'],
    ['set-cookie', ' delta_token =x'],
    ['Set-Cookie', 'c'],
  ]
  expect(answerHeaders(answer(headers), { path: undefined })).toEqual(['Set-Cookie', 'a=b; Path=/', 'Set-Cookie', 'c'])
})

test('at the API’s origin a program sets nothing and its pages are strangers', () => {
  const headers = [
    ['Set-Cookie', 'a=b'],
    ['Clear-Site-Data', '"*"'],
    ['Service-Worker-Allowed', '/'],
    ['Content-Security-Policy', 'default-src *'],
    ['X-A', 'b'],
  ]
  const kept = answerHeaders(answer(headers), { path })
  expect(kept.slice(0, 4)).toEqual(['Content-Security-Policy', 'default-src *', 'X-A', 'b'])
  expect(kept.slice(4)).toEqual([
    'Content-Security-Policy',
    expect.stringMatching(/^sandbox (?!.*same-origin)/),
    'X-Content-Type-Options',
    'nosniff',
  ])
})

test('what listens is read from the kernel’s table, and a table that lies is passed over', () => {
  const table = `  sl  local_address rem_address   st tx_queue
   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000
   1: 00000000:1F90 00000000:0000 0A 00000000
   2: 0100007F:1F91 0100007F:0BB8 01 00000000
   3: 0200000A:1F92 00000000:0000 0A 00000000
   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0
   1: 0100007F:ZZZZ 00000000:0000 0A 00000000
   2: 0100007F:0000 00000000:0000 0A 00000000`
  expect(listeningPorts(table, 10)).toEqual([80, 3000, 8080])
  expect(listeningPorts(table, 1)).toEqual([3000])
})

test('the guest’s own proxy and name server are not listed; a server of the sandbox’s at the same number is', () => {
  const at = (address: string) => `   0: ${address} 00000000:0000 0A 00000000:00000000 00:00000000`
  expect(listeningPorts([at('0100007F:0C39'), at('0100007F:0C3A'), at('0100007F:0035')].join('\n'), 10)).toEqual([])
  expect(listeningPorts([at('00000000:0C39'), at('00000000:0035')].join('\n'), 10)).toEqual([53, 3129])
})
