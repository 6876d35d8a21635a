import { once } from 'node:events'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { afterEach, expect, test } from 'vitest'
import { DeltaError } from '../errors.ts'
import { createApi } from './api.ts'
import { type Front, refuseRequest } from './front.ts'
import { type HttpServer, listen } from './server.ts'

let server: HttpServer | undefined
afterEach(() => server?.close())

async function start(front: Front): Promise<number> {
  const api = createApi()
  api.get('/api', (c) => c.text('the api'))
  server = await listen(api, { port: 0, host: '127.0.0.1', fronts: [{}, front] })
  return server.port
}

async function sendRaw(port: number, request: string): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  await once(socket, 'connect')
  socket.end(request)
  return text(socket)
}

const upgrade = (path: string, to: string) =>
  `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: ${to}\r\n\r\n`

test('a front takes what is its own and leaves the rest to the API', async () => {
  const port = await start({
    request: (request, response) => {
      if (request.url !== '/mine') return false
      response.end('the front')
      return true
    },
  })
  expect(await (await fetch(`http://127.0.0.1:${port}/mine`)).text()).toBe('the front')
  expect(await (await fetch(`http://127.0.0.1:${port}/api`)).text()).toBe('the api')
})

test('a front that refuses answers in the one shape of an error', async () => {
  const port = await start({
    request: (_request, response) => {
      refuseRequest(response, new DeltaError('unauthorized', 'No key'))
      return true
    },
  })
  const answer = await fetch(`http://127.0.0.1:${port}/`)
  expect([answer.status, answer.headers.get('www-authenticate')]).toEqual([401, 'Bearer'])
  const { error } = (await answer.json()) as { error: Record<string, string> }
  expect(error).toMatchObject({ code: 'unauthorized', message: 'No key' })
  expect(error['remediation']).not.toBe('')
})

test('a WebSocket is given to the front that takes it', async () => {
  const port = await start({
    upgrade: (_request, socket) => {
      socket.end('taken')
      return true
    },
  })
  expect(await sendRaw(port, upgrade('/ws', 'WebSocket'))).toBe('taken')
})

test('a WebSocket nobody takes is refused with its path and without its query', async () => {
  const port = await start({})
  const answer = await sendRaw(port, upgrade('/nothing?token=secret', 'websocket'))
  expect(answer).toMatch(/^HTTP\/1\.1 404 /)
  expect(answer).toContain('There is no WebSocket at /nothing"')
  expect(answer).not.toContain('secret')
})

test('an upgrade to something else is served as a usual request', async () => {
  const port = await start({ upgrade: () => true })
  expect(await sendRaw(port, upgrade('/api', 'h2c'))).toContain('the api')
})
