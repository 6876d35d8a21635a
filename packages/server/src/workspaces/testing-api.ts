import { onTestFinished } from 'vitest'
import { testDoor, testKeyPrincipal } from '../access/testing.ts'
import { createApp } from '../app.ts'
import { systemClock } from '../kernel/clock.ts'
import type { Database, Migration } from '../kernel/db/database.ts'
import { createDocumentCheck } from '../kernel/http/testing-documented.ts'
import { testHashBody } from '../kernel/http/testing-body-hash.ts'
import { silentLogger } from '../kernel/log.ts'
import { createMetrics } from '../kernel/metrics.ts'
import { templateMigrations } from '../templates/migrations.ts'
import { templatesFeature } from '../templates/routes.ts'
import { startTemplates } from '../templates/testing.ts'
import { workspaceMigrations } from './migrations.ts'
import { workspacesFeature } from './routes.ts'
import { newWorld, serve } from './testing.ts'
import { volumeMigrations } from './volumes/migrations.ts'
import { volumesFeature } from './volumes/routes.ts'
import { createVolumes } from './volumes/service.ts'

export const apiMigrations: Migration[] = [...workspaceMigrations, ...volumeMigrations, ...templateMigrations]

export interface Answer {
  status: number
  body: Record<string, unknown>
  requestId: string | null
}

export interface CallOptions {
  /** Sent as JSON, but for text, which is sent as it is, and bytes. */
  body?: unknown
  headers?: Record<string, string>
  /** Whose key. @default 'anna' */
  as?: 'anna' | 'bert'
}

const keyOf = (name: string) => testKeyPrincipal({ accountId: `acc_${name}`, keyId: `key_${name}` })

/** The whole API of workspaces, volumes and templates as the server puts it together, on disks in memory. */
export async function startApi(database: Database) {
  const world = await newWorld(database)
  const workspaces = await serve(world)
  const volumes = createVolumes({
    hashBody: testHashBody,
    database,
    driver: world.driver,
    clock: world.clock,
    log: silentLogger,
  })
  const { templates, bench, remove } = startTemplates({ database })
  onTestFinished(async () => {
    await templates.stop()
    remove()
  })
  const { api } = createApp({
    features: [workspacesFeature(workspaces), volumesFeature({ volumes }), templatesFeature({ templates })],
    access: testDoor({ anna: keyOf('anna'), bert: keyOf('bert') }),
    log: silentLogger,
    clock: systemClock,
    metrics: createMetrics(),
    checkDatabase: () => Promise.resolve(),
    settings: { version: '0', host: '127.0.0.1', hosts: [], environment: 'production', installation: () => ({}) },
  })
  const isDocumented = createDocumentCheck(api)

  async function call(method: string, path: string, options: CallOptions = {}): Promise<Answer> {
    const { body, headers, as = 'anna' } = options
    const isRaw = typeof body === 'string' || body instanceof Uint8Array
    const answer = await api.request(`http://localhost${path}`, {
      method,
      headers: { authorization: `Bearer ${as}`, 'content-type': 'application/json', ...headers },
      ...(body !== undefined && { body: isRaw ? (body as string | Uint8Array<ArrayBuffer>) : JSON.stringify(body) }),
    })
    const text = await answer.text()
    const isJson = answer.headers.get('content-type')?.startsWith('application/json')
    const answered = (isJson ? JSON.parse(text) : {}) as Answer['body']
    const { code } = (answered['error'] ?? {}) as { code?: string }
    isDocumented(method, path, { status: answer.status, code })
    return { status: answer.status, body: answered, requestId: answer.headers.get('x-request-id') }
  }

  return { api, call, world, workspaces, volumes, templates, bench }
}
