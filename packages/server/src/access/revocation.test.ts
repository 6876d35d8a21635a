import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { z } from 'zod'
import { createApp } from '../app.ts'
import { systemClock } from '../kernel/clock.ts'
import { openInSharedThread } from '../kernel/db/testing-threads.ts'
import type { Feature } from '../kernel/http/api.ts'
import { createClientAddress } from '../kernel/http/client-address.ts'
import { createRoute } from '../kernel/http/route.ts'
import { listen } from '../kernel/http/server.ts'
import { sendStream } from '../kernel/http/stream.ts'
import { newId } from '../kernel/ids.ts'
import { silentLogger } from '../kernel/log.ts'
import { createMetrics } from '../kernel/metrics.ts'
import { createExecs } from '../sandboxes/execs/service.ts'
import { createModelGuest } from '../sandboxes/execs/testing.ts'
import { createConnections } from '../terminal/connections.ts'
import { terminalsFeature } from '../terminal/routes.ts'
import { createTerminals } from '../terminal/service.ts'
import { createDefaultKeyReader } from './api-key.ts'
import { createCallerDoor } from './authenticate.ts'
import { openKeys } from './keys/open.ts'
import { keyMigrations } from './keys/migrations.ts'
import { keyHash } from './keys/text.ts'
import { accessMigrations } from './migrations.ts'
import { peopleMigrations } from './people/migrations.ts'
import { openRevocations } from './revocations.ts'
import { uncounted } from './testing.ts'

// Over real connections: what a key has opened ends with it, whatever it waits for.

const master = 'delta_the_key_in_the_data_folder'
const ends: (() => unknown)[] = []

let port: number
let guest: ReturnType<typeof createModelGuest>
const uploaded = { chunks: 0 }

const streamRoute = createRoute({
  method: 'get',
  path: '/v1/stream',
  needs: 'read:sandboxes',
  responses: { 200: { description: 'Ticks' } },
})
const waitRoute = createRoute({
  method: 'get',
  path: '/v1/wait',
  needs: 'read:sandboxes',
  responses: { 200: { description: 'After long' } },
})
const uploadRoute = createRoute({
  method: 'post',
  path: '/v1/upload',
  needs: 'write:sandboxes',
  request: { body: { content: { 'application/json': { schema: z.object({}) } } } },
  responses: { 200: { description: 'Done' } },
})

async function* ticks() {
  for (;;) {
    yield 'data: tick\n\n'
    await systemClock.sleep(20)
  }
}

beforeEach(async () => {
  const folder = mkdtempSync(join(tmpdir(), 'delta-revocation-'))
  ends.push(() => rmSync(folder, { recursive: true }))
  const database = await openInSharedThread({
    path: join(folder, 'delta.db'),
    log: silentLogger,
    migrations: [...accessMigrations, ...peopleMigrations, ...keyMigrations],
  })
  ends.push(database.close)
  const shared = { database, clock: systemClock, log: silentLogger }
  const revocations = await openRevocations(shared)
  const keys = openKeys({ ...shared, revocations, hasSecondFactor: async () => false })
  const access = createCallerDoor({
    readers: [keys.reader, createDefaultKeyReader({ sha256: keyHash(master) })],
    revocations,
    clock: systemClock,
  })
  guest = createModelGuest()
  const terminals = createTerminals({ execs: createExecs({ door: guest.door, newExecId: () => newId('exe') }) })
  const connections = createConnections({
    terminals,
    access,
    tokens: { verify: () => null, hold: () => () => {} },
    count: uncounted,
    clientAddress: createClientAddress([]),
    goesBy: () => true,
    anyOrigin: false,
    clock: systemClock,
    log: silentLogger,
  })
  const sample: Feature = {
    name: 'sample',
    routes(api) {
      api.openapi(streamRoute, (c) => sendStream(c, ticks(), { headers: { 'Content-Type': 'text/event-stream' } }))
      api.openapi(waitRoute, async (c) => {
        await systemClock.sleep(60_000, c.req.raw.signal).catch(() => undefined)
        return c.json({}, 200)
      })
      api.openapi(uploadRoute, (c) => {
        uploaded.chunks += 1
        return c.json({}, 200)
      })
    },
  }
  const terminalFeature = terminalsFeature(terminals, connections)
  const { api } = createApp({
    features: [keys.feature, sample, terminalFeature],
    access,
    log: silentLogger,
    clock: systemClock,
    metrics: createMetrics(),
    checkDatabase: async () => {},
    settings: { version: 'test', host: '127.0.0.1', hosts: [], environment: 'production', installation: () => ({}) },
  })
  const server = await listen(api, { port: 0, host: '127.0.0.1', fronts: [connections.front] })
  port = server.port
  ends.push(
    revocations.stop,
    () => keys.feature.stop?.('leave'),
    () => connections.stop(),
    () => server.close(),
  )
})
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end()
})

async function call(method: string, path: string, { key = master, body }: { key?: string; body?: object } = {}) {
  const answer = await fetch(`http://127.0.0.1:${port}${path}`, {
    method,
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    ...(body && { body: JSON.stringify(body) }),
  })
  const text = await answer.text()
  return {
    status: answer.status,
    body: (text === '' ? {} : JSON.parse(text)) as Record<string, unknown> & { error: { code: string } },
  }
}

async function newKey(rights: string[]): Promise<{ id: string; key: string }> {
  const { body } = await call('POST', '/v1/keys', { body: { name: 'x', rights } })
  return body as unknown as { id: string; key: string }
}

const revoke = (id: string) => call('DELETE', `/v1/keys/${id}`)

test('an event stream ends', async () => {
  const { id, key } = await newKey(['read:sandboxes'])
  const stream = await fetch(`http://127.0.0.1:${port}/v1/stream`, { headers: { authorization: `Bearer ${key}` } })
  const reader = stream.body!.getReader()
  await reader.read()
  expect((await revoke(id)).status).toBe(204)
  await expect(
    (async () => {
      for (;;) if ((await reader.read()).done) throw new Error('it ended as if it were whole')
    })(),
  ).rejects.toThrow('terminated')
  expect((await call('GET', '/v1/stream', { key })).body.error.code).toBe('unauthorized')
})

test('a request that still waits for its answer ends', async () => {
  const { id, key } = await newKey(['read:sandboxes'])
  const waiting = call('GET', '/v1/wait', { key })
  await systemClock.sleep(50)
  await revoke(id)
  await expect(waiting).rejects.toThrow('fetch failed')
})

test('a body that is still being sent does nothing any more', async () => {
  const { id, key } = await newKey(['write:sandboxes'])
  uploaded.chunks = 0
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => {})
  socket.write(
    `POST /v1/upload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${key}\r\nContent-Length: 2\r\n\r\n{`,
  )
  await systemClock.sleep(50)
  await revoke(id)
  await once(socket, 'close')
  socket.destroy()
  expect(uploaded.chunks).toBe(0)
})

test('a key may revoke itself, and hears that it did', async () => {
  const { id, key } = await newKey(['write:keys', 'read:keys'])
  expect((await call('DELETE', `/v1/keys/${id}`, { key })).status).toBe(204)
  expect((await call('GET', '/v1/keys', { key })).status).toBe(401)
})

test('a terminal ends, says why, and takes nothing more; a viewer’s right lets watch and not type', async () => {
  guest.onStart = (exec) => exec.say('stdout', 'hello')
  const made = await call('POST', '/v1/sandboxes/sbx_test/terminals', { body: {} })
  const url = `ws://127.0.0.1:${port}/v1/sandboxes/sbx_test/terminals/${String(made.body['id'])}/connect`
  const { id, key } = await newKey(['read:exec'])
  const headers = { authorization: `Bearer ${key}` }
  const typing = new WebSocket(url, { headers })
  const [, refused] = (await once(typing, 'unexpected-response')) as [unknown, { statusCode: number }]
  expect(refused.statusCode).toBe(403)
  // Of a name that is there twice one value counts, and the same for the decision and the deed.
  const both = new WebSocket(`${url}?readOnly=1&readOnly=0`, { headers })
  const [, also] = (await once(both, 'unexpected-response')) as [unknown, { statusCode: number }]
  expect(also.statusCode).toBe(403)
  const watching = new WebSocket(`${url}?readOnly=1`, { headers })
  await once(watching, 'open')
  const closed = once(watching, 'close')
  await revoke(id)
  expect((await closed)[0]).toBe(4401)
})

test('two Authorization headers are refused, whichever of them is good', async () => {
  const ask = async (...headers: string[]) => {
    const socket = connect(port, '127.0.0.1')
    socket.write(['GET /v1/keys HTTP/1.1', 'Host: localhost', 'Connection: close', ...headers, '', ''].join('\r\n'))
    let text = ''
    for await (const chunk of socket) text += String(chunk)
    return text.slice(0, 12)
  }
  expect(await ask('Authorization: Bearer x')).toBe('HTTP/1.1 401')
  const { key } = await newKey(['read:keys'])
  expect(await ask(`Authorization: Bearer ${key}`)).toBe('HTTP/1.1 200')
  expect(await ask(`Authorization: Bearer ${key}`, 'Authorization: Bearer wrong')).toBe('HTTP/1.1 400')
  expect(await ask('Authorization: Bearer wrong', `authorization: Bearer ${key}`)).toBe('HTTP/1.1 400')
})

test('a key in the query is no key', async () => {
  const { key } = await newKey(['read:keys'])
  for (const name of ['key', 'api_key', 'token', 'access_token', 'authorization', 'delta_token']) {
    const answer = await fetch(`http://127.0.0.1:${port}/v1/keys?${name}=${key}`)
    expect([name, answer.status]).toEqual([name, 401])
  }
})
