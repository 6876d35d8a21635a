import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { testDoor, uncounted } from './access/testing.ts'
import { auditRequests } from './access/audit/requests.ts'
import { createAudit } from './access/audit/service.ts'
import { createApp } from './app.ts'
import { createProcessDriver } from './drivers/testing/process.ts'
import { systemClock } from './kernel/clock.ts'
import { DeltaError } from './kernel/errors.ts'
import { openInSharedThread } from './kernel/db/testing-threads.ts'
import { keyOf, readAll } from './kernel/db/testing-rows.ts'
import { testDatabases } from './kernel/db/testing.ts'
import { createClientAddress } from './kernel/http/client-address.ts'
import { testHashBody } from './kernel/http/testing-body-hash.ts'
import { newId } from './kernel/ids.ts'
import { createLogger } from './kernel/log.ts'
import { createMetrics } from './kernel/metrics.ts'
import { modelsFeature } from './models/routes.ts'
import { startModels, testCall } from './models/testing/start.ts'
import { answering, startPlainPeer, used } from './models/testing/plain.ts'
import type { Asked, Script } from './models/testing/plain.ts'
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
const answer = (_asked: Asked): Script => answering(used(1, 1))

testDatabases('what is secret of a sandbox', (_open, _openServers, newPlace) => {
  const ends: (() => unknown)[] = []
  afterEach(async () => {
    for (const end of ends.splice(0).toReversed()) await end()
  })

  async function start({ planted = [] as string[], script = answer } = {}) {
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
    const sandboxes = createSandboxes({ hashBody: testHashBody, ...parts, driver, seal: testSeal })
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
      count: uncounted,
      clientAddress: createClientAddress([]),
      goesBy: () => true,
      anyOrigin: false,
      clock: systemClock,
      log,
    })
    ends.push(() => connections.stop())
    const peer = await startPlainPeer((asked) => script(asked))
    ends.push(peer.close)
    const { models } = startModels(database, peer.url, {
      log,
      settings: { anthropic: { apiKey: planted[0], baseUrl: peer.url } },
      deps: { publicBaseUrls: { anthropic: peer.url, google: peer.url } },
    })
    ends.push(models.stop)
    const { api } = createApp({
      features: [
        modelsFeature({ models }),
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
      const at = path.startsWith('/v1/') ? path : `/v1/sandboxes${path}`
      const response = await api.request(`http://127.0.0.1${at}`, {
        method,
        headers,
        ...(method !== 'GET' && { body: sent }),
      })
      const text = await response.text()
      answers.push(text)
      return { status: response.status, body: JSON.parse(text === '' ? '{}' : text) as { id: string; stdout: string } }
    }
    const metrics = async () =>
      (await api.request('http://127.0.0.1/metrics', { headers: { authorization: 'Bearer k' } })).text()
    /** Where anything may be kept or shown, by its name. */
    const everywhere = async () => {
      const found = new Map<string, string>()
      for (const [table, all] of await readAll(database)) found.set(table, all.map(keyOf).join('\n'))
      found.set('log', lines.join(''))
      found.set('answers', answers.join('\n'))
      found.set('figures', await metrics())
      if (place.path === '') return found
      const own = readdirSync(dirname(place.path))
      expect(own).toContain('delta.db-wal')
      for (const file of own) found.set(file, readFileSync(join(dirname(place.path), file), 'latin1'))
      return found
    }
    const expectNowhere = async (secrets: readonly string[]) => {
      for (const [name, text] of await everywhere())
        for (const one of secrets) expect([name, one, text.includes(one)]).toEqual([name, one, false])
    }
    return { place, driver, send, answers, models, everywhere, expectNowhere }
  }

  test('planted in variables, stdin, terminals and files, it is in no row, log line, answer or figure, nor in a file of the database', async () => {
    const { place, driver, send, everywhere, expectNowhere } = await start()
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

    const looked = await everywhere()
    // It is looked for in the right places: what is no secret is found there.
    expect(looked.get('sandboxes')).toContain('visible')
    expect(looked.get('audit_entries')).toContain('createExec')
    if (place.path !== '') expect(looked.get('delta.db-wal')).toContain('visible')
    await expectNowhere([...planted, 'NAMED_PLANTED'])
  })

  test('keys of providers of models go to their provider, and are in no row, log line, answer, error or figure', async () => {
    const planted = ['planted-operator-key', 'planted-account-key', 'planted-refused key']
    const shown: (string | undefined)[] = []
    const script = ({ headers, index }: Asked): Script => {
      shown.push(headers.authorization)
      // As some providers do, it says which key it does not take.
      return index % 2 === 0
        ? answering(used(1, 1))
        : { status: 401, acts: [{ raw: `${headers.authorization} is wrong` }] }
    }
    const { send, models, everywhere, expectNowhere, answers } = await start({ planted, script })
    const call = async () => {
      const asked = models.call(testCall({ accountId: 'acc_default', payer: 'acc_default:reserve' }))
      const error = await asked.catch((reason: unknown) => reason)
      if (error instanceof DeltaError) answers.push(JSON.stringify(error.toBody('req_a')))
    }
    await call()
    await call()
    const set = await send('PUT', '/v1/model-keys/anthropic', { apiKey: planted[1]! })
    expect([set.status, set.body]).toMatchObject([200, { provider: 'anthropic', last: '-key' }])
    expect((await send('PUT', '/v1/model-keys/anthropic', { apiKey: planted[2]! })).status).toBe(400)
    expect((await send('GET', '/v1/model-keys', {})).status).toBe(200)
    expect((await send('GET', '/v1/models', {})).status).toBe(200)
    await call()
    await call()
    const [operators, accounts] = planted.map((key) => `Bearer ${key}`)
    expect(shown).toEqual([operators, operators, accounts, accounts])
    const looked = await everywhere()
    expect(looked.get('answers')).toContain('[redacted] is wrong')
    expect(looked.get('model_keys')).toContain('anthropic')
    expect(looked.get('audit_entries')).toContain('setModelKey')
    await expectNowhere(planted)
  })
})
