import { once } from 'node:events'
import { type AddressInfo, createServer, type Server, Socket } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { manualClock } from '../../kernel/clock.ts'
import { readInPlace } from '../../kernel/in-place.ts'
import { type Cidr, createAddressGuard } from './addresses.ts'
import { type ConnectSocket, connectSocket } from './connect.ts'
import { createNames } from './names.ts'
import { awaitOutward, createOutward, OutwardError } from './outward.ts'
import { createUpstream } from './upstream.ts'

const cleanUp: (() => void)[] = []
afterEach(() => {
  for (const each of cleanUp.splice(0).toReversed()) each()
})

const loopback: Cidr = { address: '127.0.0.1', prefix: 32, family: 4 }
const never = new AbortController().signal

async function listen(onConnection: (socket: Socket) => void): Promise<number> {
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    cleanUp.push(() => socket.destroy())
    socket.on('error', () => {})
    onConnection(socket)
  }).listen(0, '127.0.0.1')
  cleanUp.push(() => server.close())
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

interface Setting {
  /** What each name leads to; a function is asked each time. */
  names?: Record<string, string[] | (() => string[])>
  allow?: Cidr[]
  connect?: ConnectSocket
  upstream?: { port: number; authorization?: string }
}

function start({ names = {}, allow = [loopback], connect = connectSocket, upstream }: Setting = {}) {
  const clock = manualClock(0)
  const tried: string[] = []
  const connectOutward = createOutward({
    names: createNames({
      lookup: async (host) => {
        const found = names[host]
        if (!found) throw Object.assign(new Error(host), { code: 'ENOTFOUND' })
        return (typeof found === 'function' ? found() : found).map((address) => ({ address, family: 4 }))
      },
      hosts: new Map(),
      monotonic: clock.monotonic,
    }),
    guard: createAddressGuard({ allowCidrs: allow, ownAddresses: () => [] }),
    connect: (address, port) => {
      tried.push(`${address.address}:${port}`)
      return connect(address, port)
    },
    clock,
    upstream: upstream && createUpstream({ host: '127.0.0.1', ...upstream }),
  })
  const to = (host: string, port: number, signal = never) =>
    awaitOutward(connectOutward, 'sbx_a', { host, port }, signal)
  const refusal = async (host: string, port = 443): Promise<OutwardError> => {
    const error = await to(host, port).catch((cause: unknown) => cause)
    expect(error).toBeInstanceOf(OutwardError)
    return error as OutwardError
  }
  return { clock, tried, to, refusal }
}

describe('a connection', () => {
  test('goes to the address that was judged', async () => {
    const port = await listen((socket) => socket.end('hello'))
    const { to, tried } = start({ names: { 'a.example': ['127.0.0.1'] } })
    const { socket, address } = await to('a.example', port)
    cleanUp.push(() => socket.destroy())
    expect(address).toBe('127.0.0.1')
    expect(tried).toEqual([`127.0.0.1:${port}`])
    expect(await new Promise((resolve) => readInPlace(socket, (bytes) => resolve(String(bytes))))).toBe('hello')
  })

  test.each(['10.0.0.1', '169.254.169.254', '127.0.0.2', '100.100.100.200', '192.168.1.1', 'fd00:ec2::254', '::1'])(
    'to a name that leads to %s, or to the address itself, is refused without a packet',
    async (address) => {
      const { refusal, tried } = start({ names: { 'metadata.example': [address] } })
      for (const host of ['metadata.example', address]) {
        expect(await refusal(host, 80)).toMatchObject({
          outcome: 'refused',
          reason: 'address_not_public',
          code: 'permission_denied',
          message: expect.stringContaining('DELTA_EGRESS_ALLOW_CIDRS'),
        })
      }
      expect(tried).toEqual([])
    },
  )

  test('does not tell what address a name of the inner network has', async () => {
    const { refusal } = start({ names: { 'intranet.example': ['10.77.1.2'] } })
    expect((await refusal('intranet.example')).message).not.toContain('10.77')
  })

  test('by a name that leads to a private address the second time gains nothing', async () => {
    const port = await listen((socket) => socket.end('public'))
    let asked = 0
    const { to, refusal, tried, clock } = start({
      names: { 'rebind.example': () => (++asked === 1 ? ['127.0.0.1'] : ['10.0.0.1']) },
    })
    const { socket } = await to('rebind.example', port)
    cleanUp.push(() => socket.destroy())
    expect(asked).toBe(1)
    await clock.advance(10_000)
    expect((await refusal('rebind.example', port)).reason).toBe('address_not_public')
    expect(asked).toBe(2)
    expect(tried).toEqual([`127.0.0.1:${port}`])
  })

  test('by a name with public and private addresses only ever tries the public ones', async () => {
    const port = await listen((socket) => socket.end())
    const { to, tried } = start({ names: { 'mixed.example': ['10.0.0.1', '127.0.0.1', '192.168.0.1'] } })
    const { socket } = await to('mixed.example', port)
    socket.destroy()
    expect(tried).toEqual([`127.0.0.1:${port}`])
  })

  test('tries the next address when one fails', async () => {
    const port = await listen((socket) => socket.end())
    const { to, tried } = start({
      names: { 'two.example': ['127.0.0.9', '127.0.0.1'] },
      allow: [{ address: '127.0.0.0', prefix: 8, family: 4 }],
    })
    const { socket, address } = await to('two.example', port)
    socket.destroy()
    expect(address).toBe('127.0.0.1')
    expect(tried).toEqual([`127.0.0.9:${port}`, `127.0.0.1:${port}`])
  })

  test('that nobody takes, to a name nobody knows, and one that takes too long each say so', async () => {
    const { refusal, to, clock } = start({
      names: { 'a.example': ['127.0.0.1'], 'odd.example': [] },
    })
    expect(await refusal('a.example', 1)).toMatchObject({ outcome: 'failed', code: 'connection_refused' })
    expect(await refusal('unknown.example')).toMatchObject({ reason: 'name_unknown', code: 'not_found' })
    expect(await refusal('odd.example')).toMatchObject({ reason: 'name_unknown', code: 'not_found' })
    const given = new AbortController()
    const up = to('unknown2.example', 443, given.signal).catch((error: unknown) => error)
    given.abort(new OutwardError('failed', 'given_up', 'canceled', 'Given up inside'))
    expect(await up).toMatchObject({ reason: 'given_up' })
    expect(clock.sleepers).toBe(0)
  })

  test('is given up after 15 s, with what it tried', async () => {
    const { clock, to } = start({ connect: () => new Socket() })
    const late = to('127.0.0.1', 443).catch((error: unknown) => error)
    await new Promise((resolve) => setImmediate(resolve))
    await clock.advance(15_000)
    expect(await late).toMatchObject({ outcome: 'failed', code: 'timed_out' })
  })
})

describe('through the operator’s proxy', () => {
  async function proxy(answer: string, more = '') {
    const heads: string[] = []
    const port = await listen((socket) => {
      let head = ''
      socket.on('data', (chunk: Buffer) => {
        head += chunk.toString()
        if (!head.includes('\r\n\r\n')) return
        heads.push(head)
        socket.write(`${answer}\r\nServer: test\r\n\r\n${more}`)
      })
    })
    return { port, heads }
  }

  test('a name goes out by CONNECT with the operator’s credentials, and early bytes are kept', async () => {
    const { port, heads } = await proxy('HTTP/1.1 200 Connection established', 'banner')
    const { to, tried } = start({
      names: { 'a.example': ['1.1.1.1'] },
      upstream: { port, authorization: 'Basic eA==' },
    })
    const { socket, address } = await to('a.example', 443)
    cleanUp.push(() => socket.destroy())
    expect(address).toBeNull()
    expect(heads).toEqual([
      'CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Authorization: Basic eA==\r\n\r\n',
    ])
    socket.resume()
    expect(String((await once(socket, 'data'))[0])).toBe('banner')
    expect(tried).toEqual([])
  })

  test('what is known to be private is refused before it is asked; a name that is not known here is asked for', async () => {
    const { port, heads } = await proxy('HTTP/1.1 200 OK')
    const { to, refusal } = start({
      names: { 'intranet.example': ['10.0.0.1'], 'mixed.example': ['1.1.1.1', '10.0.0.1'] },
      upstream: { port },
    })
    for (const host of ['intranet.example', 'mixed.example', '169.254.169.254', '::1']) {
      expect((await refusal(host)).reason).toBe('address_not_public')
    }
    expect(heads).toEqual([])
    const { socket } = await to('only-the-proxy-knows.example', 443)
    socket.destroy()
    expect(heads.length).toBe(1)
  })

  test.each([
    ['HTTP/1.1 403 Forbidden', 'proxy_refused', '403'],
    ['HTTP/1.1 407 Proxy Authentication Required', 'proxy_refused', '407'],
    ['SSH-2.0-OpenSSH', 'proxy_refused', 'no HTTP'],
  ])('%s is told', async (answer, reason, words) => {
    const { port } = await proxy(answer)
    const { refusal } = start({ names: { 'a.example': ['1.1.1.1'] }, upstream: { port } })
    expect(await refusal('a.example')).toMatchObject({ reason, message: expect.stringContaining(words) })
  })

  test('one that is not there, closes at once or answers without end is told', async () => {
    const names = { 'a.example': ['1.1.1.1'] }
    expect((await start({ names, upstream: { port: 1 } }).refusal('a.example')).reason).toBe('proxy_unreachable')
    const closes = await listen((socket) => socket.end())
    expect((await start({ names, upstream: { port: closes } }).refusal('a.example')).reason).toBe('proxy_refused')
    const endless = await listen((socket) => socket.write('x'.repeat(20_000)))
    expect((await start({ names, upstream: { port: endless } }).refusal('a.example')).message).toContain('too much')
  })
})
