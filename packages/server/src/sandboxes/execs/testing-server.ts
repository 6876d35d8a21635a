import { testDoor } from '../../access/testing.ts'
import { createApp } from '../../app.ts'
import type { RoomState } from '../../drivers/driver.ts'
import { systemClock } from '../../kernel/clock.ts'
import type { Api } from '../../kernel/http/api.ts'
import { listen } from '../../kernel/http/server.ts'
import { newId } from '../../kernel/ids.ts'
import { createDocumentCheck } from '../../kernel/http/testing-documented.ts'
import { silentLogger } from '../../kernel/log.ts'
import { createMetrics } from '../../kernel/metrics.ts'
import type { SandboxDoor } from '../door.ts'
import { addFileRoutes } from '../files/routes.ts'
import { createFiles } from '../files/service.ts'
import { addExecRoutes } from './routes.ts'
import { createExecs } from './service.ts'
import { createModelGuest } from './testing.ts'

export type TestServer = Awaited<ReturnType<typeof startTestServer>>

interface Sending {
  body?: string | Buffer | ReadableStream
  headers?: Record<string, string>
}

/** The whole HTTP side on a port of its own, in front of one sandbox: the model guest, or whatever the door leads to. */
export async function startTestServer({ door, answerMs }: { door?: SandboxDoor; answerMs?: number } = {}) {
  const guest = createModelGuest()
  let room: RoomState = 'fine'
  const behind = door ?? guest.door
  const newExecId = () => newId('exe')
  const routes = (api: Api): void => {
    addExecRoutes(api, createExecs({ door: behind, newExecId, answerMs }))
    addFileRoutes(api, createFiles({ door: behind, newExecId, room: () => room, answerMs }))
  }
  const app = createApp({
    features: [{ name: 'execs', routes }],
    access: testDoor(),
    log: silentLogger,
    clock: systemClock,
    metrics: createMetrics(),
    checkDatabase: async () => {},
    settings: { version: 'test', host: '127.0.0.1', hosts: [], environment: 'production', installation: () => ({}) },
  })
  const server = await listen(app.api, { port: 0, host: '127.0.0.1' })
  const url = `http://127.0.0.1:${server.port}`
  const headers = { authorization: 'Bearer test', 'content-type': 'application/json' }
  const isDocumented = createDocumentCheck(app.api)
  /** Every refusal that a test sees must be one that the description names. */
  const send = async (method: string, path: string, { body, headers: more }: Sending = {}) => {
    const response = await fetch(url + path, {
      method,
      headers: { authorization: 'Bearer test', ...more },
      ...(body !== undefined && { body: body as string, duplex: 'half' }),
    } as RequestInit)
    if (response.status >= 400) {
      const text = await response.clone().text()
      const code = text === '' ? undefined : (JSON.parse(text) as { error?: { code: string } }).error?.code
      isDocumented(method, path, { status: response.status, code })
    }
    return response
  }
  return {
    guest,
    url,
    headers,
    send,
    setRoom: (state: RoomState) => (room = state),
    post: (path: string, body: object, more: Record<string, string> = {}) =>
      send('POST', path, { body: JSON.stringify(body), headers: { 'content-type': 'application/json', ...more } }),
    get: (path: string, more: Record<string, string> = {}) => send('GET', path, { headers: more }),
    close: () => server.close(),
  }
}
