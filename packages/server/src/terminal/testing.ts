import { once } from 'node:events'
import { WebSocket } from 'ws'
import type { ClientOptions } from 'ws'
import { testDoor, testKeyPrincipal, uncounted } from '../access/testing.ts'
import { createApp } from '../app.ts'
import { systemClock } from '../kernel/clock.ts'
import { createClientAddress } from '../kernel/http/client-address.ts'
import { createHostCheck } from '../kernel/http/host-check.ts'
import { listen } from '../kernel/http/server.ts'
import { newId } from '../kernel/ids.ts'
import { silentLogger } from '../kernel/log.ts'
import { createMetrics } from '../kernel/metrics.ts'
import type { SandboxDoor } from '../sandboxes/door.ts'
import { createExecs } from '../sandboxes/execs/service.ts'
import { createConnections } from './connections.ts'
import type { ConnectionsDeps } from './connections.ts'
import { terminalsFeature } from './routes.ts'
import { createTerminals } from './service.ts'

export const testKey = 'test-key'

/** The HTTP side with terminals alone, on a port of its own, in front of whatever the door leads to. */
export async function startTerminalServer(
  door: SandboxDoor,
  {
    killAfterMs = 2_000,
    port = 0,
    ...more
  }: Partial<Omit<ConnectionsDeps, 'terminals' | 'access'>> & { killAfterMs?: number; port?: number } = {},
) {
  const execs = createExecs({ door, newExecId: () => newId('exe') })
  const terminals = createTerminals({ execs, killAfterMs })
  const settings = { host: '127.0.0.1', hosts: [] }
  const access = testDoor({ [testKey]: testKeyPrincipal() })
  const connections = createConnections({
    terminals,
    access,
    tokens: { verify: () => null, hold: () => () => {} },
    count: uncounted,
    clientAddress: createClientAddress([]),
    goesBy: createHostCheck(settings),
    anyOrigin: false,
    clock: systemClock,
    log: silentLogger,
    ...more,
  })
  const feature = terminalsFeature(terminals, connections)
  const app = createApp({
    features: [feature],
    access,
    log: silentLogger,
    clock: systemClock,
    metrics: createMetrics(),
    checkDatabase: async () => {},
    settings: { version: 'test', ...settings, environment: 'production', installation: () => ({}) },
  })
  const server = await listen(app.api, { port, host: '127.0.0.1', fronts: [connections.front] })
  const base = `127.0.0.1:${server.port}/v1/sandboxes/sbx_test/terminals`
  const headers = { authorization: `Bearer ${testKey}`, 'content-type': 'application/json' }
  const viewers: TestViewer[] = []
  return {
    terminals,
    connections,
    port: server.port,
    send: (method: string, path = '', body?: object) =>
      fetch(`http://${base}${path}`, { method, headers, ...(body && { body: JSON.stringify(body) }) }),
    async create(body: object = {}): Promise<string> {
      const answer = await fetch(`http://${base}`, { method: 'POST', headers, body: JSON.stringify(body) })
      const terminal = (await answer.json()) as { id: string }
      if (answer.status !== 201) throw new Error(JSON.stringify(terminal))
      return terminal.id
    },
    view(id: string, query = '', options: ClientOptions = { headers }, protocols: string[] = []): TestViewer {
      const viewer = openViewer(`ws://${base}/${id}/connect${query}`, options, protocols)
      viewers.push(viewer)
      return viewer
    },
    async close() {
      for (const { ws } of viewers) ws.terminate()
      await connections.stop()
      await server.close()
    },
  }
}

export interface TestViewer {
  ws: WebSocket
  /** Everything it was sent, with what was told in between. */
  readonly text: string
  readonly bytes: number
  readonly notices: Record<string, unknown>[]
  closed: Promise<{ code: number; reason: string }>
  /** Resolves when the output so far fits. Rejects when the connection ends first. */
  until(what: RegExp | ((viewer: TestViewer) => boolean)): Promise<void>
  notice(type: string): Promise<Record<string, unknown>>
  write(text: string | Buffer): void
  control(value: unknown): void
}

/** Text kept of a viewer's output, enough for what tests look for. */
const keptChars = 1024 * 1024

function openViewer(url: string, options: ClientOptions, protocols: string[]): TestViewer {
  const ws = new WebSocket(url, protocols, { perMessageDeflate: false, ...options })
  const waiting = new Set<() => void>()
  const notices: Record<string, unknown>[] = []
  let text = ''
  let bytes = 0
  let ended: string | undefined
  const look = (): void => {
    for (const check of waiting) check()
  }
  ws.on('message', (data: Buffer, isBinary: boolean) => {
    if (isBinary) {
      bytes += data.length
      text = (text + data.toString('latin1')).slice(-keptChars)
    } else notices.push(JSON.parse(data.toString()) as Record<string, unknown>)
    look()
  })
  const closed = new Promise<{ code: number; reason: string }>((resolve) => {
    ws.on('error', (error) => {
      ended = error.message
      resolve({ code: 0, reason: error.message })
      look()
    })
    ws.on('close', (code, reason) => {
      ended ??= `${code} ${String(reason)}`
      resolve({ code, reason: String(reason) })
      look()
    })
  })
  const opened = once(ws, 'open').catch(() => {})
  const send = (data: string | Buffer, binary: boolean): void => {
    if (ws.readyState === ws.OPEN) ws.send(data, { binary })
    else void opened.then(() => ws.send(data, { binary }))
  }
  const viewer: TestViewer = {
    ws,
    get text() {
      return text
    },
    get bytes() {
      return bytes
    },
    notices,
    closed,
    until(what) {
      const fits = (): boolean => (typeof what === 'function' ? what(viewer) : what.test(text))
      return new Promise((resolve, reject) => {
        const check = (): void => {
          if (!fits() && ended === undefined) return
          waiting.delete(check)
          if (fits()) resolve()
          else reject(new Error(`closed with ${ended} before ${String(what)}; output ends ${text.slice(-300)}`))
        }
        waiting.add(check)
        check()
      })
    },
    async notice(type) {
      await viewer.until(() => notices.some((notice) => notice['type'] === type))
      return notices.find((notice) => notice['type'] === type)!
    },
    write: (data) => send(Buffer.from(data as string), true),
    control: (value) => send(typeof value === 'string' ? value : JSON.stringify(value), false),
  }
  return viewer
}
