import { randomUUID } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { chmodSync } from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import { connect, createServer, type Server } from 'node:net'
import { join } from 'node:path'
import type { Attack } from '../attack.ts'
import { eventually } from '../host.ts'
import { takeAway } from '../weak-box.ts'

/** Where the guest's proxy listens inside. */
const egressPort = 3129

function portOf(server: Pick<Server, 'address'>): number {
  const address = server.address()
  return typeof address === 'object' && address !== null ? address.port : 0
}

async function openProxy(): Promise<ReturnType<typeof createHttpServer>> {
  const proxy = createHttpServer((_, response) => void response.end()).on('connect', (request, socket) => {
    // Spellings that mean nothing to it are not refused, only not understood.
    if (!URL.canParse(`http://${request.url}`)) return void socket.destroy()
    const { hostname, port } = new URL(`http://${request.url}`)
    const out = connect(Number(port), hostname.replace(/^\[|\]$/g, ''), () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n')
      out.pipe(socket).pipe(out)
    })
    for (const one of [out, socket])
      one.on('error', () => {
        out.destroy()
        socket.destroy()
      })
  })
  proxy.on('clientError', (_, socket) => socket.destroy())
  proxy.listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  return proxy
}

export const networkAttacks: Attack[] = [
  {
    name: 'dial',
    promise: 1,
    tries: "reach what listens on the host's loopback, by TCP and UDP, IPv4 and IPv6",
    async place({ isWeak }) {
      let came = 0
      const server = createServer(() => void came++).listen(0, '0.0.0.0')
      await once(server, 'listening')
      const address = server.address()
      const port = typeof address === 'object' && address !== null ? address.port : 0
      const datagrams = createSocket('udp4', () => void came++).bind(port, '0.0.0.0')
      await once(datagrams, 'listening')
      return {
        args: [String(port), '127.0.0.1', '127.0.0.2', '0.0.0.0', '::1', '::ffff:127.0.0.1'],
        fell: async () =>
          (await eventually(isWeak ? 2 : 0.3, () => came > 0)) ? 'the listener was reached' : undefined,
        end() {
          server.close()
          datagrams.close()
        },
      }
    },
    weak: { without: 'a network namespace', edit: (config) => takeAway.namespace(config, 'network') },
  },
  {
    name: 'dial-proxy',
    promise: 1,
    tries: "reach the host's loopback through the egress proxy, policy `all`, by 19 spellings of its address",
    own: { network: { egress: 'all' } },
    async place({ isWeak }) {
      let came = 0
      const server = createServer((socket) => void (came++, socket.destroy())).listen(0, '0.0.0.0')
      await once(server, 'listening')
      const proxy = isWeak ? await openProxy() : undefined
      return {
        args: [String(proxy === undefined ? egressPort : portOf(proxy)), String(portOf(server))],
        fell: async () =>
          (await eventually(isWeak ? 2 : 0.3, () => came > 0)) ? 'the listener was reached' : undefined,
        end() {
          server.close()
          proxy?.closeAllConnections()
          proxy?.close()
        },
      }
    },
    weak: {
      without: 'judged addresses: a proxy that connects to whatever it is told',
      edit: (config) => takeAway.namespace(config, 'network'),
    },
  },
  {
    name: 'dial-unix',
    promise: 1,
    tries: "reach the host's unix sockets, abstract and by path",
    async place({ folder, isWeak }) {
      let came = 0
      const name = `delta-attack-${randomUUID()}`
      const path = join(folder, 'socket')
      const servers = [`\0${name}`, path].map((at) => createServer(() => void came++).listen(at))
      await Promise.all(servers.map((server) => once(server, 'listening')))
      chmodSync(path, 0o777)
      return {
        args: [name, path],
        fell: async () => ((await eventually(isWeak ? 2 : 0.3, () => came > 0)) ? 'a socket was reached' : undefined),
        end: () => servers.forEach((server) => server.close()),
      }
    },
    weak: { without: 'a network namespace', edit: (config) => takeAway.namespace(config, 'network') },
  },
]
