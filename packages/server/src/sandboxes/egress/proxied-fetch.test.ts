import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import { connect, type Socket } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { wasNeverConnected } from '../../models/metered.ts'
import type { JudgedNetwork } from './judged-network.ts'
import { createProxiedFetch } from './proxied-fetch.ts'
import { createUpstream } from './upstream.ts'

const cleanUp: (() => unknown)[] = []
afterEach(async () => {
  for (const end of cleanUp.splice(0)) await end()
})

async function listen(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  cleanUp.push(() => (server.closeAllConnections(), server.close()))
  const address = server.address()
  return typeof address === 'object' && address !== null ? address.port : 0
}

/** A proxy that leads every name to a server that speaks for models. */
async function start({ status = 200 }: { status?: number } = {}) {
  const bodies: string[] = []
  const model = await listen(
    createServer(async (request, response) => {
      let body = ''
      for await (const part of request) body += part
      bodies.push(`${request.method} ${request.headers.host}${request.url} ${body}`)
      response.writeHead(status, { 'content-type': 'text/event-stream' })
      response.write('data: 1\n\n')
      response.end('data: 2\n\n')
    }),
  )
  const asked: string[] = []
  const proxy = createServer()
  proxy.on('connect', (request, socket: Socket, head) => {
    asked.push(`${request.url} ${request.headers['proxy-authorization']}`)
    const through = connect(model, '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n')
      through.write(head)
      through.pipe(socket).pipe(through)
    })
    for (const one of [through, socket]) one.on('error', () => (through.destroy(), socket.destroy()))
    cleanUp.push(() => (through.destroy(), socket.destroy()))
  })
  const port = await listen(proxy)
  const judge: JudgedNetwork['judge'] = async (host) =>
    host === '127.0.0.1' || host === '::1' ? 'refused' : host === 'models.inner' ? 'unknown' : 'public'
  const open = (to = port) =>
    createProxiedFetch({
      judge,
      upstream: createUpstream({ host: '127.0.0.1', port: to, authorization: 'Basic eA==' }),
    })
  return { model, asked, bodies, open }
}

const wish = { method: 'POST', body: '{"model":"m"}' }

test.each(['api.example', 'models.inner'])('what lies outside is asked through the proxy: %s', async (host) => {
  const { asked, bodies, open } = await start()
  const answer = await open()(`http://${host}/v1/messages?a=1`, wish)
  expect([answer.status, answer.headers.get('content-type'), await answer.text()]).toEqual([
    200,
    'text/event-stream',
    'data: 1\n\ndata: 2\n\n',
  ])
  expect(asked).toEqual([`${host}:80 Basic eA==`])
  expect(bodies).toEqual([`POST ${host}/v1/messages?a=1 {"model":"m"}`])
})

test('a model server on this machine is asked without it', async () => {
  const { model, asked, bodies, open } = await start({ status: 429 })
  const answer = await open()(`http://127.0.0.1:${model}/v1/models`)
  expect(answer.status).toBe(429)
  await answer.text()
  expect(asked).toEqual([])
  expect(bodies).toHaveLength(1)
})

test('a proxy that does not answer is known as a connection that never was', async () => {
  const { open } = await start()
  const error: unknown = await open(1)('http://api.example/', wish).catch((cause: unknown) => cause)
  expect(wasNeverConnected(error)).toBe(true)
})

test('what was given up is not asked', async () => {
  const { open } = await start()
  const abort = new AbortController()
  abort.abort(new Error('enough'))
  await expect(open()('http://api.example/', { ...wish, signal: abort.signal })).rejects.toThrow('enough')
})
