import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { testDoor } from './access/testing.ts'
import { auditRequests } from './access/audit/requests.ts'
import { createAudit } from './access/audit/service.ts'
import { createApp } from './app.ts'
import { createProcessDriver } from './drivers/testing/process.ts'
import { systemClock } from './kernel/clock.ts'
import { openInSharedThread } from './kernel/db/testing-threads.ts'
import { keyOf, readAll } from './kernel/db/testing-rows.ts'
import { testDatabases } from './kernel/db/testing.ts'
import { newId } from './kernel/ids.ts'
import { createLogger } from './kernel/log.ts'
import { createMetrics } from './kernel/metrics.ts'
import { allMigrations } from './migrations.ts'
import { addExecRoutes } from './sandboxes/execs/routes.ts'
import { createExecs } from './sandboxes/execs/service.ts'
import { addFileRoutes } from './sandboxes/files/routes.ts'
import { createFiles } from './sandboxes/files/service.ts'
import { sandboxesFeature } from './sandboxes/routes.ts'
import { createSandboxes } from './sandboxes/service.ts'
import { testSeal } from './sandboxes/testing.ts'
import { createConnections } from './terminal/connections.ts'
import { terminalsFeature } from './terminal/routes.ts'
import { createTerminals } from './terminal/service.ts'
import { createBlobStore } from './storage/blob-store.ts'
import { openFolder } from './storage/folder/folder.ts'

const testUser = String(process.getuid!())

testDatabases('what is secret of a sandbox', (_open, _openServers, newPlace) => {
  const ends: (() => unknown)[] = []
  afterEach(async () => {
    for (const end of ends.splice(0).toReversed()) await end()
  })

  async function start() {
    const place = await newPlace()
    const lines: string[] = []
    const log = createLogger({ level: 'debug', write: (line) => lines.push(line) })
    const database = await openInSharedThread({ ...place, migrations: allMigrations, log })
    ends.push(database.close)
    const driver = await createProcessDriver()
    ends.push(driver.close)
    const blobs = join(driver.folderOf('upp_blobs'), 'blobs')
    const parts = { database, clock: systemClock, log }
    const documents = createBlobStore({ objects: await openFolder({ path: blobs }) })
    const audit = createAudit({ ...parts, documents, seed: Buffer.alloc(32) })
    ends.push(audit.stop)
    const sandboxes = createSandboxes({ ...parts, driver, seal: testSeal })
    await (
      await sandboxes.start()
    ).reconciled
    ends.push(() => sandboxes.stop('leave'))
    const { door } = sandboxes
    const newExecId = () => newId('exe')
    const execs = createExecs({ door, newExecId })
    const terminals = createTerminals({ execs })
    const access = testDoor()
    const connections = createConnections({
      terminals,
      access,
      tokens: { verify: () => null, hold: () => () => {} },
      goesBy: () => true,
      anyOrigin: false,
      clock: systemClock,
      log,
    })
    ends.push(() => connections.stop())
    const { api } = createApp({
      features: [
        sandboxesFeature(sandboxes),
        { name: 'execs', routes: (routes) => addExecRoutes(routes, execs) },
        {
          name: 'files',
          routes: (routes) => addFileRoutes(routes, createFiles({ door, newExecId, room: () => 'fine' })),
        },
        terminalsFeature(terminals, connections),
      ],
      access,
      watchRequests: auditRequests(audit),
      log,
      clock: systemClock,
      metrics: createMetrics(),
      checkDatabase: database.check,
      settings: { version: '0', host: '127.0.0.1', hosts: [], environment: 'production', installation: () => ({}) },
    })
    const answers: string[] = []
    const send = async (method: string, path: string, body: object | string) => {
      const sent = typeof body === 'string' ? body : JSON.stringify(body)
      const headers = { authorization: 'Bearer k', 'content-type': 'application/json', 'idempotency-key': newId('evt') }
      const response = await api.request(`http://127.0.0.1/v1/sandboxes${path}`, { method, headers, body: sent })
      const text = await response.text()
      answers.push(text)
      return { status: response.status, body: JSON.parse(text === '' ? '{}' : text) as { id: string; stdout: string } }
    }
    const metrics = async () =>
      (await api.request('http://127.0.0.1/metrics', { headers: { authorization: 'Bearer k' } })).text()
    return { place, database, driver, send, lines, answers, metrics }
  }

  test('planted in variables, stdin, terminals and files, it is in no row, log line, answer or figure, nor in a file of the database', async () => {
    const { place, database, driver, send, lines, answers, metrics } = await start()
    const planted: string[] = []
    const plant = (what: string) => {
      planted.push(`planted-${what}-secret`)
      return planted.at(-1)!
    }
    const made = await send('POST', '', {
      env: { DBPW: plant('sandbox'), NAMED_PLANTED: 'x' },
      metadata: { visible: 'label' },
    })
    expect(made.status).toBe(201)
    const at = `/${made.body.id}`
    const folder = join(driver.folderOf(`upp_${made.body.id.slice(4)}`), 'workspace')
    const where = { user: testUser, cwd: folder }

    const exec = { ...where, cmd: 'wc -c >/dev/null; printf "$DBPW" | wc -c', env: { A: plant('exec'), HOME: '/none' } }
    const ran = await send('POST', `${at}/execs`, { ...exec, stdin: plant('stdin') })
    expect([ran.status, ran.body.stdout.trim()]).toEqual([200, String(planted[0]!.length)])
    expect((await send('POST', `${at}/execs`, { ...exec, background: true, stdin: plant('background') })).status).toBe(
      202,
    )
    const language = {
      ...where,
      language: 'bash',
      source: `: ${plant('source')}`,
      env: { A: plant('code'), HOME: '/none' },
    }
    expect((await send('POST', `${at}/code`, language)).status).toBe(200)
    const terminal = { ...where, cmd: ['/bin/sh'], env: { B: plant('terminal') } }
    expect((await send('POST', `${at}/terminals`, terminal)).status).toBe(201)
    const path = encodeURIComponent(join(folder, 'note'))
    expect((await send('PUT', `${at}/files?path=${path}&owner=${testUser}`, plant('content'))).status).toBe(200)

    // What is refused, too.
    expect((await send('POST', '', { env: { 'no name': plant('refused') } })).status).toBe(400)
    expect((await send('POST', '', { env: { A: plant('typed') }, cpu: plant('number') })).status).toBe(400)
    expect((await send('POST', `${at}/execs`, { cmd: 'true', env: { A: `${plant('nul')}\0` } })).status).toBe(400)
    expect((await send('POST', `${at}/stop`, {})).status).toBe(200)
    expect((await send('POST', `${at}/start`, {})).status).toBe(200)

    const rows = await readAll(database)
    const everywhere = new Map<string, string>()
    for (const [table, all] of rows) everywhere.set(table, all.map(keyOf).join('\n'))
    everywhere.set('log', lines.join(''))
    everywhere.set('answers', answers.join('\n'))
    everywhere.set('figures', await metrics())
    if (place.path !== '') {
      const own = readdirSync(dirname(place.path))
      expect(own).toContain('delta.db-wal')
      for (const file of own) everywhere.set(file, readFileSync(join(dirname(place.path), file), 'latin1'))
    }
    // It is looked for in the right places: what is no secret is found there.
    expect(everywhere.get('sandboxes')).toContain('visible')
    expect(everywhere.get('audit_entries')).toContain('createExec')
    if (place.path !== '') expect(everywhere.get('delta.db-wal')).toContain('visible')
    for (const [name, text] of everywhere) {
      for (const one of [...planted, 'NAMED_PLANTED'])
        expect([name, one, text.includes(one)]).toEqual([name, one, false])
    }
  })
})
