import { once } from 'node:events'
import { createServer as createHttpServer, type RequestListener, type Server } from 'node:http'
import { createServer, type Socket } from 'node:net'
import type { AddressInfo } from 'node:net'
import { openAccessTokens } from '../../access/access-tokens.ts'
import type { CountRequest } from '../../access/door.ts'
import { testDoor, testKeyPrincipal, uncounted } from '../../access/testing.ts'
import { accessMigrations } from '../../access/migrations.ts'
import { startRealGuest } from '../../guest/testing/real-guest.ts'
import { type Clock, systemClock } from '../../kernel/clock.ts'
import type { OpenTestDatabase } from '../../kernel/db/testing.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { createApi } from '../../kernel/http/api.ts'
import { createClientAddress } from '../../kernel/http/client-address.ts'
import { listen } from '../../kernel/http/server.ts'
import { createDocumentCheck } from '../../kernel/http/testing-documented.ts'
import { silentLogger } from '../../kernel/log.ts'
import { sandboxMigrations } from '../migrations.ts'
import { createSandboxStore } from '../store.ts'
import { testRecord, testSeal } from '../testing.ts'
import { openPortsFeature } from './feature.ts'
import { portMigrations } from './migrations.ts'

export const sandboxId = 'sbx_aaaaaaaaaaaaaaaaaaaa'
export const apiKey = 'delta_key_of_the_test'

/** The front on a port of its own, over a database and a real guest, which here is a process of this machine: ports inside are ports of this machine. */
export async function startPorts(
  open: OpenTestDatabase,
  { clock = systemClock, count = uncounted }: { clock?: Clock; count?: CountRequest } = {},
) {
  const database = await open([...sandboxMigrations, ...portMigrations, ...accessMigrations])
  await createSandboxStore(database, testSeal).insert(testRecord(sandboxId, { accountId: 'acc_a', state: 'running' }))
  const realGuest = await startRealGuest()
  const guest = await realGuest.connect()
  const tokens = await openAccessTokens({
    database,
    clock: systemClock,
    log: silentLogger,
    callers: { isRevoked: () => false, onRevoked: () => {}, steps: () => [] },
  })
  const refusedBecause: { error?: DeltaError } = {}
  /** What the next one who opens the sandbox waits for. */
  const waking: { done?: Promise<void> } = {}
  let serverPort = 0
  const find = async (id: string, { accountId }: { accountId: string }) => {
    if (id !== sandboxId || accountId !== 'acc_a') throw new DeltaError('sandbox_not_found', 'There is none')
    if (refusedBecause.error) throw refusedBecause.error
    return { state: 'running' } as const
  }
  const ports = await openPortsFeature({
    database,
    clock,
    log: silentLogger,
    door: {
      async open(id, caller) {
        await find(id, caller)
        const { done } = waking
        delete waking.done
        await done
        return { guest, sandbox: { id, env: {}, template: 'host', memoryMb: 512 } }
      },
      oomKills: async () => 0,
    },
    tokens,
    access: testDoor({ [apiKey]: testKeyPrincipal({ accountId: 'acc_a', keyId: 'key_a' }) }),
    findSandbox: find,
    count,
    clientAddress: createClientAddress([]),
    settings: { host: '127.0.0.1', hosts: [], portsDomain: 'localhost' },
    serverPort: () => serverPort,
  })
  const api = createApi()
  api.use('*', async (c, next) => {
    c.set('requestId', 'req_test')
    c.set('caller', { accountId: 'acc_a', actorId: 'key_a' })
    await next()
  })
  ports.routes?.(api)
  const server = await listen(api, { port: 0, host: '127.0.0.1', fronts: [ports.front!] })
  serverPort = server.port
  return {
    port: server.port,
    ports,
    tokens,
    guest,
    refusedBecause,
    waking,
    counts: ports.counts,
    documented: createDocumentCheck(api),
    hostOf: (inside: number, id = sandboxId) => `${inside}-${id.replace('_', '-')}.localhost:${server.port}`,
    async setPublic(numbers: number[]) {
      const path = `http://localhost:${server.port}/v1/sandboxes/${sandboxId}/ports`
      const headers = { 'content-type': 'application/json' }
      const answer = await fetch(path, { method: 'PUT', headers, body: JSON.stringify({ public: numbers }) })
      if (answer.status !== 200) throw new Error(await answer.text())
    },
    token: (inside: number, ttlMs = 60_000) =>
      tokens.create({ sandboxId, accountId: 'acc_a', scopes: [`port:${inside}`], ttlMs }).token,
    async close() {
      await ports.stop?.('leave')
      tokens.stop()
      await server.close()
      guest.close()
      await realGuest.stop()
    },
  }
}

export interface Inside {
  port: number
  close(): Promise<void>
}

/** A server inside that behaves. */
export async function startInside(listener: RequestListener): Promise<Inside & { server: Server }> {
  const server = createHttpServer(listener).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    server,
    port: (server.address() as AddressInfo).port,
    async close() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

/** A server inside that says whatever a test wants. */
export async function startRawInside(onConnection: (socket: Socket) => void): Promise<Inside> {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
    onConnection(socket)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    async close() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}
