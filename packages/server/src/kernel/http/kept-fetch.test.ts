import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { type AddressInfo, createServer as createSocketServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { wasNeverConnected } from '../../models/metered.ts'
import { createKeptFetch, type KeptFetchOptions } from './kept-fetch.ts'

const cleanUp: (() => unknown)[] = []
afterEach(async () => {
  for (const end of cleanUp.splice(0)) await end()
})

async function listen(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  cleanUp.push(() => server.close())
  return (server.address() as AddressInfo).port
}

function certificate(): { key: string; cert: string } {
  const folder = mkdtempSync(join(tmpdir(), 'delta-kept-'))
  const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')]
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost']
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2']
  execFileSync('openssl', ['req', '-x509', ...kind, '-keyout', key, '-out', cert, ...subject], { stdio: 'ignore' })
  const made = { key: readFileSync(key, 'utf8'), cert: readFileSync(cert, 'utf8') }
  rmSync(folder, { recursive: true })
  return made
}

/** A server, and how many connections it was given and has still. */
async function start(answer: RequestListener, options: KeptFetchOptions = {}) {
  const server = createServer(answer)
  const connections = { made: 0, open: 0 }
  server.on('connection', (socket) => {
    connections.made += 1
    connections.open += 1
    socket.once('close', () => (connections.open -= 1))
  })
  const kept = createKeptFetch(options)
  const url = `http://127.0.0.1:${await listen(server)}/v1`
  cleanUp.push(() => (kept.close(), server.closeAllConnections()))
  return { ...kept, url, connections, server }
}

async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await new Promise((resolve) => setTimeout(resolve, 5))
}

const said = async (request: IncomingMessage): Promise<string> => {
  let text = ''
  for await (const part of request) text += part
  return `${request.method} ${request.url} ${request.headers['content-type']} ${request.headers['content-length']} ${text}`
}
const echo = async (request: IncomingMessage, response: ServerResponse) => void response.end(await said(request))
const wish = { method: 'POST', body: 'ä', headers: { 'content-type': 'text/plain' } }

test('one request after the other goes by one connection, several at once by one each', async () => {
  const { fetch, url, connections } = await start(echo)
  for (let round = 0; round < 3; round++) {
    const answer = await fetch(`${url}?a=b`, wish)
    expect([answer.status, await answer.text()]).toEqual([200, 'POST /v1?a=b text/plain 2 ä'])
  }
  expect(connections.made).toBe(1)
  await Promise.all([1, 2, 3].map(async () => (await fetch(url, wish)).text()))
  expect(connections.made).toBe(3)
})

test('an answer without a body leaves its connection for the next', async () => {
  const { fetch, url, connections } = await start((_, response) => response.writeHead(204).end())
  for (let round = 0; round < 3; round++) {
    expect((await fetch(url)).status).toBe(204)
    // It is free when the end of the answer was heard.
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  expect(connections.made).toBe(1)
})

test('a connection that nobody uses is given up, and one that waits for its answer is not', async () => {
  const late = (_: IncomingMessage, response: ServerResponse) => void setTimeout(() => response.end('late'), 200)
  const { fetch, url, connections } = await start(late, { idleMs: 50 })
  expect(await (await fetch(url)).text()).toBe('late')
  await until(() => connections.open === 0)
})

test('closed, nothing is kept open', async () => {
  const { fetch, url, connections, close } = await start(echo)
  await (await fetch(url, wish)).text()
  expect(connections.open).toBe(1)
  close()
  await until(() => connections.open === 0)
})

test('the answer comes as it is sent, and no faster than it is read', async () => {
  const chunk = Buffer.alloc(64 * 1024)
  let written = 0
  const { fetch, url } = await start(async (_, response) => {
    response.setMaxListeners(0)
    response.write('first')
    while (written < 512 && !response.destroyed) {
      written += 1
      if (!response.write(chunk)) await Promise.race([once(response, 'drain'), once(response, 'close')])
    }
    response.end()
  })
  const reader = (await fetch(url)).body!.getReader()
  expect(Buffer.from((await reader.read()).value!).toString('latin1', 0, 5)).toBe('first')
  let seen = -1
  while (seen !== written) {
    seen = written
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  expect(written).toBeLessThan(512)
  let bytes = 0
  for (let next = await reader.read(); !next.done; next = await reader.read()) bytes += next.value.byteLength
  expect(written).toBe(512)
  expect(bytes).toBeGreaterThan(511 * chunk.length)
})

test('where an answer leads is not followed', async () => {
  const { fetch, url } = await start((_, response) => response.writeHead(302, { location: '/other' }).end('there'))
  const answer = await fetch(url, { redirect: 'manual' })
  expect([answer.status, answer.headers.get('location'), await answer.text()]).toEqual([302, '/other', 'there'])
  await expect(fetch(url, { redirect: 'error' })).rejects.toThrow('leads elsewhere')
})

test('what can not be reached fails as with Node’s own, before anything has left', async () => {
  const { fetch } = createKeptFetch()
  const port = await listen(createSocketServer())
  await cleanUp.pop()!()
  const failure = await fetch(`http://127.0.0.1:${port}/`, wish).catch((error: unknown) => error)
  expect(failure).toBeInstanceOf(TypeError)
  expect(failure).toMatchObject({ cause: { code: 'ECONNREFUSED' } })
  expect(wasNeverConnected(failure)).toBe(true)
})

test.each([
  ['before its answer', ''],
  ['in the middle of its head', 'HTTP/1.1 200 OK\r\nContent-'],
])('a connection that is cut %s may have brought what was asked', async (_, words) => {
  const port = await listen(
    createSocketServer((socket) => socket.once('data', () => socket.end(words)).on('error', () => {})),
  )
  const { fetch } = createKeptFetch()
  const failure = await fetch(`http://127.0.0.1:${port}/`, wish).catch((error: unknown) => error)
  expect(failure).toBeInstanceOf(TypeError)
  expect(wasNeverConnected(failure)).toBe(false)
})

test('an answer that is cut fails its reader', async () => {
  const { fetch, url } = await start((_, response) => {
    response.writeHead(200, { 'content-length': '100' })
    response.write('half', () => setTimeout(() => response.destroy(), 20))
  })
  const answer = await fetch(url)
  await expect(answer.text()).rejects.toThrow(TypeError)
})

test('given up, it fails with the reason, and its connection is closed', async () => {
  const { fetch, url, connections } = await start((_, response) => void response.write('begun'))
  const early = new AbortController()
  early.abort(new Error('never mind'))
  await expect(fetch(url, { signal: early.signal })).rejects.toThrow('never mind')
  expect(connections.made).toBe(0)
  const later = new AbortController()
  const answer = await fetch(url, { signal: later.signal })
  later.abort(new Error('enough'))
  await expect(answer.text()).rejects.toThrow('enough')
  await until(() => connections.open === 0)
  const reader = (await fetch(url)).body!.getReader()
  await reader.cancel()
  await until(() => connections.open === 0)
})

test('over TLS the same, and a certificate that nobody vouches for is refused', async () => {
  const { key, cert } = certificate()
  const server = createTlsServer({ key, cert }, echo)
  const url = `https://localhost:${await listen(server)}/`
  const kept = createKeptFetch({ ca: cert })
  cleanUp.push(() => (kept.close(), server.closeAllConnections()))
  expect(await (await kept.fetch(url, wish)).text()).toContain('ä')
  await expect(createKeptFetch().fetch(url, wish)).rejects.toMatchObject({
    cause: { code: 'DEPTH_ZERO_SELF_SIGNED_CERT' },
  })
})
