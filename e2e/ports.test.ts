import { once } from 'node:events'
import { request as httpRequest, type RequestOptions } from 'node:http'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import type { Sandbox } from '@delta-agents/sdk'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { cli, delta, key, refusal, request, url } from './target.ts'

const serverPort = Number(new URL(url).port)
const server = `
import http.server, json, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *a): pass
    def do_GET(self):
        if self.path == '/events':
            self.send_response(200); self.send_header('Content-Type', 'text/event-stream'); self.send_header('Connection', 'close'); self.end_headers()
            for n in range(1000000):
                self.wfile.write(b'data: %d\\n\\n' % n); self.wfile.flush(); time.sleep(0.05)
        self.answer(json.dumps({'path': self.path, 'headers': dict(self.headers)}).encode())
    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers['Content-Length'])))
    def answer(self, body):
        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)
http.server.ThreadingHTTPServer(('127.0.0.1', 3000), Handler).serve_forever()
`
let sandbox: Sandbox
beforeAll(async () => {
  sandbox = await delta.sandboxes.create({ timeoutMs: 1_800_000 })
  await sandbox.files.write('server.py', server)
  await sandbox.commands.start('python3 server.py')
  await vi.waitUntil(async () => (await listening()).includes(3000), { timeout: 20_000, interval: 100 })
})
afterAll(() => sandbox.kill())

async function listening(): Promise<number[]> {
  return (await sandbox.ports.list()).filter((port) => port.listening).map(({ port }) => port)
}

/** The name is resolved here: not every resolver knows names under localhost. */
function get(address: string, options: RequestOptions & { body?: string } = {}) {
  const { host, pathname, search } = new URL(address)
  return new Promise<{ status: number; body: string }>((resolve, reject) => {
    const headers = { host, ...(options.headers as Record<string, string>) }
    const sent = httpRequest({
      host: '127.0.0.1',
      port: serverPort,
      path: pathname + search,
      agent: false,
      ...options,
      headers,
    })
    sent.on('error', reject)
    sent.on('response', (answer) =>
      text(answer).then((body) => resolve({ status: answer.statusCode ?? 0, body }), reject),
    )
    sent.end(options.body)
  })
}

async function openStream(address: string) {
  const { host, pathname, search } = new URL(address)
  const socket = connect(serverPort, '127.0.0.1')
  socket.on('error', () => {})
  socket.write(`GET ${pathname}${search} HTTP/1.1\r\nHost: ${host}\r\n\r\n`)
  let seen = ''
  while (!seen.includes('data: 3')) seen += String((await once(socket, 'data'))[0])
  socket.resume()
  return { ended: once(socket, 'close') }
}

test('a server inside is reached with an address that the SDK gives, and is listed', async () => {
  const { url: address, token } = await sandbox.ports.open(3000)
  const { status, body } = await get(address)
  expect(status).toBe(200)
  expect(JSON.parse(body)).toMatchObject({ path: '/', headers: { Host: new URL(address).host } })
  expect(body).not.toContain(token)
  expect(await listening()).toEqual([3000])
})

test('bodies of megabytes pass both ways', async () => {
  const { url: address } = await sandbox.ports.open(3000)
  const body = 'x'.repeat(8_000_000)
  expect((await get(address, { method: 'POST', body })).body === body).toBe(true)
})

test('by path with the API key, which does not go in', async () => {
  const answer = await request(`/v1/sandboxes/${sandbox.id}/ports/3000/a?b`)
  const body = await answer.text()
  expect(JSON.parse(body)).toMatchObject({ path: '/a?b', headers: { Host: 'localhost:3000' } })
  expect(body).not.toContain(key)
  expect(answer.headers.get('content-security-policy')).toMatch(/^sandbox /)
})

test('without a token a sandbox looks as if it were none', async () => {
  const words = async (address: string) => {
    const { status, body } = await get(address)
    return `${status} ${body.replace(/req_\w+/, '')}`
  }
  const own = await words(await sandbox.ports.url(3000))
  expect(own).toMatch(/^403 .*port_forbidden/)
  expect(await words(`http://3000-sbx-${'a'.repeat(20)}.localhost:${serverPort}/`)).toBe(own)
})

test('a port nobody listens on says so', async () => {
  const { url: address } = await sandbox.ports.open(3999)
  const { status, body } = await get(address)
  expect([status, (JSON.parse(body) as { error: { code: string } }).error.code]).toEqual([502, 'port_not_listening'])
})

test('events come as they are sent, and end when the token expires or is revoked', async () => {
  const short = await sandbox.ports.open(3000, { ttlMs: 2_000 })
  const long = await sandbox.ports.open(3000)
  const [first, second] = [
    await openStream(short.url.replace('/?', '/events?')),
    await openStream(long.url.replace('/?', '/events?')),
  ]
  await first.ended
  expect((await get(short.url)).status).toBe(403)
  await sandbox.accessTokens.revoke()
  await second.ended
  expect((await get(long.url)).status).toBe(403)
})

test('a public port is open to everybody until it is public no longer', async () => {
  await sandbox.ports.public(3000)
  const address = await sandbox.ports.url(3000)
  expect((await get(address)).status).toBe(200)
  await sandbox.ports.public()
  expect((await get(address)).status).toBe(403)
})

test('the command line gives addresses and tokens', async () => {
  const shown = await cli(['sandbox', 'url', sandbox.id, '3000'])
  expect(shown.exitCode).toBe(0)
  expect((await get(shown.stdout.trim())).status).toBe(200)
  const { stdout } = await cli(['sandbox', 'token', sandbox.id, '--scope', 'port:3000'])
  const headers = { 'x-delta-access-token': stdout.trim() }
  expect((await get(await sandbox.ports.url(3000), { headers })).status).toBe(200)
})

test('a request wakes a stopped sandbox, unless it may not', async () => {
  const other = await delta.sandboxes.create({ timeoutMs: 600_000 })
  try {
    const { url: address } = await other.ports.open(3000)
    await other.stop()
    expect(await get(address)).toMatchObject({ status: 502 })
    expect((await other.refresh()).state).toBe('running')
    await other.update({ autoResume: false })
    await other.stop()
    expect(await get(address)).toMatchObject({ status: 409 })
  } finally {
    await other.kill()
  }
})

test('what is no port, no scope and no list is refused', async () => {
  expect(await refusal(sandbox.ports.public(0))).toMatchObject({ code: 'invalid_request' })
  expect(await refusal(sandbox.accessTokens.create(['port:0' as 'port:1']))).toMatchObject({ code: 'invalid_request' })
  const many = Array.from({ length: 65 }, (_, index) => index + 1)
  expect(await refusal(sandbox.ports.public(...many))).toMatchObject({ code: 'invalid_request' })
})
