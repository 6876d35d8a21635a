import { execFileSync } from 'node:child_process'
import {
  createReadStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { right } from '../access/rights.ts'
import { testCaller, testKeyPrincipal } from '../access/testing.ts'
import type { TemplateStatus } from '../drivers/driver.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { DeltaError } from '../kernel/errors.ts'
import { createApi } from '../kernel/http/api.ts'
import { answerError } from '../kernel/http/errors.ts'
import { createLogger, silentLogger } from '../kernel/log.ts'
import { additionsFor, layerOf } from './additions.ts'
import { catalogue } from './catalogue.ts'
import { indexTar } from './context/tar-index.ts'
import { templateMigrations } from './migrations.ts'
import { parseReference } from './registry/reference.ts'
import { startRegistryPeer } from './registry/testing.ts'
import type { RegistryPeer } from './registry/testing.ts'
import { templatesFeature } from './routes.ts'
import { newBench, startTemplates } from './testing.ts'
import type { StartOptions } from './testing.ts'

const caller = { accountId: 'acc_1' }
const other = { accountId: 'acc_2' }
const cleanups: (() => void | Promise<void>)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup()
})

async function startPeer(): Promise<RegistryPeer> {
  const peer = await startRegistryPeer()
  cleanups.push(() => peer.close())
  return peer
}

function tarOf(files: Record<string, string>): string {
  const root = mkdtempSync(join(tmpdir(), 'delta-tar-'))
  cleanups.push(() => rmSync(root, { recursive: true }))
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, 'in', path)), { recursive: true })
    writeFileSync(join(root, 'in', path), content)
  }
  execFileSync('tar', ['-C', join(root, 'in'), '-cf', join(root, 'a.tar'), '.'])
  return join(root, 'a.tar')
}

async function refusal(promise: Promise<unknown>): Promise<DeltaError> {
  const error = await promise.then(
    () => expect.unreachable('it succeeded'),
    (cause: unknown) => cause,
  )
  expect(error).toBeInstanceOf(DeltaError)
  return error as DeltaError
}

const build = {
  args: {},
  noCache: false,
  network: { egress: 'none' as const },
  cpu: 1,
  memoryMb: 512,
  stepTimeoutMs: 10_000,
  timeoutMs: 20_000,
}
const fromDockerfile = (dockerfile: string) => ({ dockerfile, ...build })

testDatabases('templates', (open) => {
  async function start(options: Omit<StartOptions, 'database'> = {}) {
    const database = await open(templateMigrations)
    const started = startTemplates({ database, ...options })
    cleanups.push(started.remove)
    const { templates } = started
    const api = createApi()
    api.use('*', (c, next) => {
      const rights = c.req.header('x-rights')?.split(' ').map(right)
      c.set('caller', testCaller(testKeyPrincipal({ ...caller, ...(rights && { rights }) })))
      return next()
    })
    templatesFeature({ templates }).routes!(api)
    api.onError((error, c) => answerError(error, c as never, { log: silentLogger }))
    const call = async (method: string, path: string, body?: object, headers?: Record<string, string>) => {
      const wish = { method, ...(headers && { headers }), ...(body && { body: JSON.stringify(body) }) }
      const answer = await api.request(path, wish)
      const text = await answer.text()
      return {
        status: answer.status,
        text,
        body: (text.startsWith('{') ? JSON.parse(text) : {}) as Record<string, unknown>,
      }
    }
    const send = async (path: string, bytes: Uint8Array<ArrayBuffer>, headers: Record<string, string>) => {
      const answer = await api.request(path, { method: 'POST', headers, body: bytes })
      return (await answer.json()) as { id: string; error?: { code: string } }
    }
    /** Waits for the end of it. */
    const settled = async (id: string | null) => {
      const followed = await templates.follow(id!, 0, caller, new AbortController().signal)
      const log: string[] = []
      for await (const { kind, text } of followed.lines) log.push(`${kind}: ${text}`)
      return { template: await followed.ended(), log }
    }
    const make = async (name: string, dockerfile: string) =>
      settled((await templates.create({ name, tags: [], from: fromDockerfile(dockerfile) }, caller)).id)
    return { ...started, database, call, send, settled, make }
  }

  describe('those of the machine', () => {
    function machine({ becomes = 'ready', fails }: { becomes?: TemplateStatus['state']; fails?: DeltaError } = {}) {
      const known = new Map<string, TemplateStatus>([
        ['host', { name: 'host', state: 'ready', detail: 'python3 node; no git' }],
        ['debian', { name: 'debian', state: 'missing', detail: '' }],
      ])
      const builds: string[] = []
      const waiting: (() => void)[] = []
      const buildTemplate = (name: string) => {
        builds.push(name)
        return new Promise<void>((resolve, reject) => {
          waiting.push(() => {
            if (fails) return reject(fails)
            known.set(name, { name, state: becomes, detail: 'no network' })
            resolve()
          })
        })
      }
      const whenBuilding = async () => {
        await expect.poll(() => waiting.length).toBe(1)
        // Whoever else asks has come by now.
        await new Promise((resolve) => setTimeout(resolve, 5))
        waiting.shift()!()
      }
      return { options: { machine: known, buildTemplate }, builds, whenBuilding }
    }

    test('are listed with those of the catalogue, which are not there yet', async () => {
      const { call } = await start(machine().options)
      const { status, body } = await call('GET', '/v1/templates')
      expect(status).toBe(200)
      const data = body['data'] as Record<string, unknown>[]
      expect(data).toContainEqual(
        expect.objectContaining({ name: 'host', state: 'ready', source: { kind: 'machine' } }),
      )
      expect(data.find(({ name }) => name === 'python-3.12')).toMatchObject({
        state: 'missing',
        source: { kind: 'image' },
      })
      expect(data).toHaveLength(2 + catalogue.length)
    })

    test('everybody who asks while one is built waits for the one build; a ready one is not built again', async () => {
      const { options, builds, whenBuilding } = machine()
      const { call } = await start(options)
      expect(await call('POST', '/v1/templates/host/build')).toMatchObject({ status: 200, body: { state: 'ready' } })
      const answers = Promise.all([
        call('POST', '/v1/templates/debian/build'),
        call('POST', '/v1/templates/debian/build'),
      ])
      await whenBuilding()
      for (const answer of await answers)
        expect(answer).toMatchObject({ status: 200, body: { name: 'debian', state: 'ready' } })
      expect(builds).toEqual(['debian'])
    })

    test('a failed build can be tried again and says why; one that ends without a ready template is no success', async () => {
      const fails = new DeltaError('template_build_failed', 'Template debian could not be built', { cause: 'no route' })
      const failing = machine({ fails })
      const { call } = await start(failing.options)
      for (let tries = 0; tries < 2; tries++) {
        const answer = call('POST', '/v1/templates/debian/build')
        await failing.whenBuilding()
        expect(await answer).toMatchObject({
          status: 502,
          body: { error: { code: 'template_build_failed', cause: 'no route' } },
        })
      }
      const lame = machine({ becomes: 'failed' })
      const second = await start(lame.options)
      const answer = second.call('POST', '/v1/templates/debian/build')
      await lame.whenBuilding()
      expect(await answer).toMatchObject({ status: 502, body: { error: { cause: 'no network' } } })
      // It may have changed all the same.
      expect(second.built).toEqual(['debian'])
    })

    test('an unknown one is not found, an impossible name is invalid', async () => {
      const { call } = await start()
      expect(await call('POST', '/v1/templates/nothing/build')).toMatchObject({
        status: 404,
        body: { error: { code: 'template_not_found' } },
      })
      expect(await call('POST', '/v1/templates/..%2Fetc/build')).toMatchObject({ status: 400 })
      expect(await call('GET', '/v1/templates/scratch')).toMatchObject({ status: 404 })
    })
  })

  describe('names, versions and tags', () => {
    test('a name means its newest ready version, a tag or number one of them', async () => {
      const { templates, make, settled, call } = await start()
      await make('tools', 'FROM host\nRUN write /v 1\nENV V=1')
      const second = await templates.create(
        { name: 'tools', tags: ['next'], from: fromDockerfile('FROM host\nENV V=2') },
        caller,
      )
      await settled(second.id)
      expect((await make('tools', 'FROM host\nRUN fail')).template).toMatchObject({ version: 3, state: 'failed' })
      const v = async (name: string) => (await templates.resolve(name, caller))!
      expect((await v('tools')).env).toEqual({ V: '2' })
      expect(await v('tools@1')).toMatchObject({ name: 'tools@1', env: { V: '1' } })
      expect((await v('tools:next')).name).toBe('tools@2')
      expect((await v(second.id!)).name).toBe('tools@2')
      expect(await refusal(templates.resolve('tools@3', caller))).toMatchObject({
        code: 'template_not_ready',
        cause: expect.stringContaining('ended with 3'),
      })
      for (const name of ['tools@4', 'tools:none', 'nothing', 'tpl_none', 'tools@0', 'scratch', 'Tools']) {
        expect(await refusal(templates.resolve(name, caller)), name).toMatchObject({ code: 'template_not_found' })
      }
      expect(await templates.resolve('host', caller)).toBeUndefined()
      expect(await call('PUT', '/v1/templates/tools/tags/stable', { version: 1 })).toMatchObject({
        status: 200,
        body: { tags: ['stable'] },
      })
      expect(await call('PUT', '/v1/templates/tools/tags/stable', { version: 3 })).toMatchObject({ status: 409 })
      expect((await v('tools:stable')).name).toBe('tools@1')
      expect((await call('DELETE', '/v1/templates/tools/tags/stable')).status).toBe(204)
      expect((await call('DELETE', '/v1/templates/tools/tags/stable')).status).toBe(404)
      const versions = (await call('GET', '/v1/templates/tools/versions')).body['data'] as Record<string, unknown>[]
      expect(versions.map(({ version, state }) => [version, state])).toEqual([
        [3, 'failed'],
        [2, 'ready'],
        [1, 'ready'],
      ])
    })

    test('another account sees and touches none of it', async () => {
      const { templates, make, bench } = await start()
      const { template } = await make('tools', 'FROM host\nRUN write /a b')
      for (const name of ['tools', template.id!]) {
        expect(await refusal(templates.resolve(name, other))).toMatchObject({ code: 'template_not_found' })
        expect(await refusal(templates.remove(name, other))).toMatchObject({ code: 'template_not_found' })
        expect(await refusal(templates.get(name, other))).toMatchObject({ code: 'template_not_found' })
      }
      expect(bench.snapshots.has(template.snapshotId!)).toBe(true)
    })

    test('the same Idempotency-Key makes one version; with another wish it is refused', async () => {
      const { templates } = await start()
      const wish = { name: 'tools', tags: [], from: fromDockerfile('FROM host') }
      const [one, two] = await Promise.all([1, 2].map(() => templates.create(wish, caller, { idempotencyKey: 'k' })))
      expect(one!.id).toBe(two!.id)
      const changed = { ...wish, name: 'others' }
      expect(await refusal(templates.create(changed, caller, { idempotencyKey: 'k' }))).toMatchObject({
        code: 'idempotency_conflict',
      })
    })

    test('what is deleted leaves no disk, no pin and no cache, and a name alone is all versions', async () => {
      const { templates, make, bench, call } = await start()
      const { template } = await make('tools', 'FROM host\nRUN write /a b')
      await make('tools', 'FROM host\nRUN write /a c')
      await make('kept', 'FROM host\nRUN write /a b')
      await templates.remove('tools', caller)
      expect([...bench.disks.values()].every(({ name }) => !name.includes(template.id!.slice(4)))).toBe(true)
      expect(bench.pins.get(template.snapshotId!)?.size).toBe(0)
      expect(await call('GET', '/v1/templates/tools')).toMatchObject({ status: 404 })
      // Of a cache that is gone nothing is taken.
      expect((await make('again', 'FROM host\nRUN write /a c')).template.detail).toMatch(/1 steps done, 0 cached/)
    })

    test.each(['host', 'scratch', 'tpl_x', 'Big', 'a b', 'import'])('the name %s cannot be taken', async (name) => {
      const { call } = await start()
      expect(await call('POST', '/v1/templates', { name, from: { dockerfile: 'FROM host' } })).toMatchObject({
        status: 400,
      })
    })
  })

  describe('a build', () => {
    test('does each step in the stage’s box, and the second time none', async () => {
      const { make, bench } = await start()
      const dockerfile =
        'FROM host AS one\nENV A=x\nRUN write /one $A\nFROM scratch\nCOPY --from=one /one /two\nWORKDIR /w\nUSER app\nRUN write /three y'
      const first = await make('app', dockerfile)
      expect(first.template).toMatchObject({
        state: 'ready',
        detail: 'Dockerfile, 4 steps done, 0 cached',
        config: { user: 'app', workdir: '/w' },
      })
      expect(first.log).toContain('stdout: app in /w\n')
      const files = Object.fromEntries(bench.snapshots.get(first.template.snapshotId!)!)
      expect(files).toEqual({ '/base': 'scratch', '/two': 'x 644 0:0', '/w': 'directory', '/three': 'y' })
      expect(bench.openBoxes.size).toBe(0)
      const second = await make('app', dockerfile)
      expect(second.template.detail).toBe('Dockerfile, 0 steps done, 4 cached')
      expect(Object.fromEntries(bench.snapshots.get(second.template.snapshotId!)!)).toEqual(files)
      // From the changed step on, everything is done anew.
      const third = await make('app', dockerfile.replace('ENV A=x', 'ENV A=z'))
      expect(third.template.detail).toBe('Dockerfile, 4 steps done, 0 cached')
    })

    test('takes its files from the tar that was sent, and their content decides what is cached', async () => {
      const { templates, settled, bench, folder } = await start()
      const send = async (main: string) => {
        const archive = tarOf({
          'docker/Dockerfile': 'FROM host\nRUN write /x 1\nCOPY --chmod=755 src /app/',
          'src/main': main,
          'src/sub/b': 'B',
        })
        const wish = { name: 'app', tags: [], dockerfile: './docker/Dockerfile', options: build }
        return settled((await templates.buildArchive(wish, createReadStream(archive), caller)).id)
      }
      const { template } = await send('A')
      const files = bench.snapshots.get(template.snapshotId!)!
      expect([files.get('/app/main'), files.get('/app/sub/b')]).toEqual(['A 755 0:0', 'B 755 0:0'])
      expect((await send('A')).template.detail).toMatch(/0 steps done, 2 cached/)
      expect((await send('C')).template.detail).toMatch(/1 steps done, 1 cached/)
      expect(readdirSync(join(folder, 'uploads'))).toEqual([])
      expect(readdirSync(join(folder, 'builds'))).toEqual([])
    })

    test('ADD unpacks an archive, gzip or not, and COPY does not', async () => {
      const { templates, settled, bench } = await start()
      const inner = tarOf({ 'in/file': 'inside' })
      execFileSync('gzip', ['-k', inner])
      const root = mkdtempSync(join(tmpdir(), 'delta-tar-'))
      cleanups.push(() => rmSync(root, { recursive: true }))
      execFileSync('sh', [
        '-c',
        `cp ${inner} ${root}/a.tar; cp ${inner}.gz ${root}/b.tgz; printf 'FROM host\nADD a.tar /a/\nADD b.tgz /b/\nCOPY b.tgz /c/\n' > ${root}/Dockerfile; tar -C ${root} -cf ${inner}.all .`,
      ])
      const wish = { name: 'app', tags: [], dockerfile: 'Dockerfile', options: build }
      const { template, log } = await settled(
        (await templates.buildArchive(wish, createReadStream(`${inner}.all`), caller)).id,
      )
      expect(template.state, log.join('\n')).toBe('ready')
      const files = bench.snapshots.get(template.snapshotId!)!
      expect([files.get('/a/in/file'), files.get('/b/in/file')]).toEqual(['inside 644 0:0', 'inside 644 0:0'])
      expect(files.has('/c/b.tgz')).toBe(true)
    })

    test('reaches no host that whoever asks may not let it reach', async () => {
      const { call } = await start()
      const mine = { 'x-rights': 'write:workspaces egress:a.test' }
      const options = (network: object) => encodeURIComponent(JSON.stringify({ network }))
      const wanting = (network: object, path = '/v1/templates') =>
        call('POST', path, { name: 'a', from: { dockerfile: 'FROM host\nRUN fail', network } }, mine)
      for (const [network, wanted] of [
        [{ egress: 'all' }, 'egress:*'],
        [{ egress: { hosts: ['b.test'] } }, 'egress:b.test'],
      ] as const) {
        const refused = { status: 403, body: { error: { code: 'forbidden', context: { right: wanted } } } }
        expect(await wanting(network)).toMatchObject(refused)
        expect(await wanting(network, `/v1/templates/builds?name=a&options=${options(network)}`)).toMatchObject(refused)
      }
      expect(await wanting({ egress: { hosts: ['a.test'] } })).toMatchObject({ status: 202 })
    })

    test('tells a mistake of the Dockerfile at once and keeps nothing of it', async () => {
      const { templates, call, folder } = await start()
      expect(
        await call('POST', '/v1/templates', {
          name: 'a',
          from: { dockerfile: 'FROM host\nRUN --mount=type=secret x' },
        }),
      ).toMatchObject({
        status: 400,
        body: { error: { code: 'dockerfile_invalid', context: { line: 2 } } },
      })
      const wish = { name: 'app', tags: [], dockerfile: 'None', options: build }
      expect(await refusal(templates.buildArchive(wish, createReadStream(tarOf({ a: '' })), caller))).toMatchObject({
        code: 'dockerfile_invalid',
      })
      const cut = async function* () {
        yield Buffer.alloc(700, 'x')
      }
      expect(await refusal(templates.buildArchive(wish, cut(), caller))).toMatchObject({ code: 'archive_invalid' })
      expect(readdirSync(join(folder, 'uploads'))).toEqual([])
      expect(((await call('GET', '/v1/templates/a/versions')).body['error'] as { code: string }).code).toBe(
        'template_not_found',
      )
    })

    test.each([
      ['FROM host\nRUN true\nRUN fail', /line 3: the command ended with 3/],
      ['FROM host\nCOPY a b', /line 2: "a" cannot be copied: no files were sent/],
      ['FROM host\nFROM scratch\nCOPY --from=0 /none /x', /line 3: there is no "\/none"/],
      ['FROM 127.0.0.1:1/none', /line 1: 127.0.0.1:1 can not be reached/],
      ['FROM host\nADD http://127.0.0.1:1/x /x', /line 2: .*not public/],
    ])('%j fails and names the line', async (dockerfile, why) => {
      const { make, bench } = await start()
      const { template } = await make('bad', dockerfile)
      expect(template).toMatchObject({ state: 'failed', detail: expect.stringMatching(why) })
      expect(bench.openBoxes.size).toBe(0)
    })

    test('copies no more than a context may hold, however often it names it', async () => {
      const { templates, settled, bench } = await start()
      const files = Object.fromEntries(Array.from({ length: 1_000 }, (_, at) => [`d/${at}`, '']))
      const archive = tarOf({ ...files, Dockerfile: `FROM host\nCOPY ${'d '.repeat(501)}/x/` })
      const wish = { name: 'app', tags: [], dockerfile: 'Dockerfile', options: build }
      const { template } = await settled((await templates.buildArchive(wish, createReadStream(archive), caller)).id)
      expect(template).toMatchObject({
        state: 'failed',
        detail: expect.stringMatching(/line 2: it copies more than 500000/),
      })
      expect(bench.openBoxes.size).toBe(0)
    })

    test('is canceled in the middle, also by deleting it, and waits for its turn', async () => {
      const { templates, bench, call } = await start()
      const begin = async (name: string) =>
        (await templates.create({ name, tags: [], from: fromDockerfile('FROM host\nRUN sleep') }, caller)).id!
      const ids = await Promise.all(['a', 'b', 'c'].map(begin))
      while (bench.openBoxes.size < 2) await new Promise((resolve) => setTimeout(resolve, 1))
      expect(bench.openBoxes.size).toBe(2)
      for (const id of ids.toReversed())
        expect(await call('POST', `/v1/templates/${id}/cancel`)).toMatchObject({
          status: 200,
          body: { state: 'canceled' },
        })
      const last = await begin('d')
      while (bench.openBoxes.size < 1) await new Promise((resolve) => setTimeout(resolve, 1))
      expect((await call('DELETE', `/v1/templates/${last}`)).status).toBe(204)
      expect(bench.openBoxes.size).toBe(0)
      await templates.stop()
    })

    test('that takes too long ends', async () => {
      const { templates, settled } = await start()
      const { id } = await templates.create(
        { name: 'slow', tags: [], from: { ...fromDockerfile('FROM host\nRUN sleep'), timeoutMs: 30 } },
        caller,
      )
      expect((await settled(id)).template).toMatchObject({
        state: 'failed',
        detail: expect.stringContaining('longer than 30 ms'),
      })
    })

    test('of an earlier life of the server is failed, and its sandboxes end', async () => {
      const { templates, database, bench } = await start()
      const { id } = await templates.create(
        { name: 'slow', tags: [], from: fromDockerfile('FROM host\nRUN sleep') },
        caller,
      )
      const next = startTemplates({ database, bench })
      cleanups.push(next.remove)
      await next.templates.start()
      expect(next.ended).toEqual([id])
      expect(await next.templates.get(id!, caller)).toMatchObject({
        state: 'failed',
        detail: expect.stringContaining('restarted'),
      })
      await templates.stop()
    })

    test('its log can be followed from a line on, as it grows and afterwards', async () => {
      const { make, call } = await start()
      const { template, log } = await make('app', 'FROM host\nRUN write /a b')
      const all = await call('GET', `/v1/templates/${template.id}/log`)
      expect(all.text.match(/^event: line$/gm)).toHaveLength(log.length)
      expect(all.text).toMatch(/event: end\ndata: {"id".*"state":"ready"/)
      const rest = await call('GET', `/v1/templates/${template.id}/log?from=${log.length - 1}`)
      expect(rest.text.match(/^id: (\d+)$/gm)).toEqual([`id: ${log.length}`])
    })
  })

  describe('a password', () => {
    const account = { username: 'me', password: 'planted-password' }
    const layers = [{ tar: Buffer.alloc(2_048, 'x'), compression: 'none' as const }]
    const basic = `Basic ${Buffer.from('me:planted-password').toString('base64')}`

    async function startTwo() {
      const [mine, evil] = [await startPeer(), await startPeer()]
      for (const peer of [mine, evil]) {
        peer.push({ repository: 'a', tag: '1', layers })
        Object.assign(peer.behaviour, { auth: 'basic', account })
      }
      return { mine, evil, ...(await start({ registryHosts: [mine.host, evil.host] })) }
    }

    test('goes to the registry it is for, whatever a Dockerfile names', async () => {
      const { mine, evil, templates, settled } = await startTwo()
      const make = async (dockerfile: string, auth: object) => {
        const from = { ...fromDockerfile(dockerfile), auth: { ...account, ...auth } }
        return (await settled((await templates.create({ name: 'a', tags: [], from }, caller)).id)).template
      }
      const refused = { state: 'failed', detail: expect.stringContaining(evil.host) }
      const from = `FROM ${mine.host}/a:1 AS mine\nRUN write /x 1\n`
      expect(await make(from, {})).toMatchObject({ state: 'ready' })
      expect(await make(`${from}COPY --from=${evil.host}/a:1 /base /y`, {})).toMatchObject(refused)
      expect(await make(`${from}FROM ${evil.host}/a:1\nCOPY --from=mine /x /x`, {})).toMatchObject(refused)
      // What comes first of all stages that are built says whose it is, unless the request does.
      expect(await make(`FROM ${evil.host}/a:1\n`, { registry: mine.host })).toMatchObject(refused)
      expect(await make(`FROM host\nCOPY --from=${evil.host}/a:1 /base /y`, {})).toMatchObject(refused)
      expect(evil.requests.length).toBeGreaterThan(0)
      expect(evil.requests.join()).not.toContain('Basic')
      expect(mine.requests.join()).toContain(basic)
    })

    test('and a value of ARG are in no log, answer, row or file of the server', async () => {
      const written: string[] = []
      const log = createLogger({ level: 'debug', write: (line) => void written.push(line) })
      const peer = await startPeer()
      peer.push({ repository: 'a', tag: '1', layers })
      Object.assign(peer.behaviour, { auth: 'basic', account })
      const { call, settled, database, folder, bench } = await start({ registryHost: peer.host, log })
      const told: string[] = []
      const make = async (from: object, key: string) => {
        const { status, text, body } = await call(
          'POST',
          '/v1/templates',
          { name: 'a', from },
          { 'idempotency-key': key },
        )
        expect(status).toBe(202)
        const { template, log: lines } = await settled(String(body['id']))
        told.push(text, JSON.stringify(template), ...lines)
        return template.state
      }
      const args = { TOKEN: 'planted-argument' }
      const dockerfile = `FROM ${peer.host}/a:1\nARG TOKEN\nRUN write /x $TOKEN\n`
      expect(await make({ dockerfile, auth: account, args }, 'k1')).toBe('ready')
      expect([...bench.snapshots.values()].some((files) => files.get('/x') === 'planted-argument')).toBe(true)
      expect(await make({ dockerfile: `${dockerfile}RUN fail $TOKEN`, auth: account, args }, 'k2')).toBe('failed')
      expect(await make({ image: `${peer.host}/none:1`, auth: account }, 'k3')).toBe('failed')
      const wrong = { ...account, password: 'planted-password-2' }
      expect(await make({ image: `${peer.host}/a:1`, auth: wrong }, 'k4')).toBe('failed')
      // A new password is no new wish: what is remembered of one does not depend on it.
      const again = await call(
        'POST',
        '/v1/templates',
        { name: 'a', from: { image: `${peer.host}/a:1`, auth: account } },
        { 'idempotency-key': 'k4' },
      )
      expect(again.body).toMatchObject({ state: 'failed' })
      const invalid = await call('POST', '/v1/templates', {
        name: 'a',
        from: { image: 'a', auth: { ...account, more: 'planted-argument' } },
      })
      expect(invalid.status).toBe(400)
      told.push(again.text, invalid.text, (await call('GET', '/v1/templates')).text)
      const { sql } = database.of<Record<string, Record<string, unknown>>>()
      for (const table of ['templates', 'template_tags', 'template_steps'])
        told.push(JSON.stringify(await database.all(sql.selectFrom(table).selectAll().compile())))
      for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true }))
        if (entry.isFile()) told.push(readFileSync(join(entry.parentPath, entry.name), 'latin1'))
      expect(written.length).toBeGreaterThan(4)
      expect(told.join('\n')).toContain('the command ended with 3')
      const all = [...told, ...written].join('\n')
      const basics = [account, wrong].map(({ username, password }) =>
        Buffer.from(`${username}:${password}`).toString('base64'),
      )
      for (const secret of ['planted-argument', 'planted-password', ...basics]) expect(all).not.toContain(secret)
    })

    test('for another registry than the image’s is refused at once', async () => {
      const { mine, evil, call } = await startTwo()
      const from = { image: `${evil.host}/a:1`, auth: { ...account, registry: mine.host } }
      const { status, text } = await call('POST', '/v1/templates', { name: 'a', from })
      expect(status).toBe(400)
      expect(text).toContain('from.auth.registry')
      expect(text).not.toContain('planted-password')
      expect([...mine.requests, ...evil.requests]).toEqual([])
    })

    test('and nothing else is sent to a host for which whoever asks has no right', async () => {
      const { mine, evil, call, settled } = await startTwo()
      const rights = { 'x-rights': `write:workspaces egress:${mine.host.split(':')[0]}` }
      const none = { 'x-rights': 'write:workspaces egress:elsewhere.test' }
      const network = { egress: 'none' }
      const post = (from: object, headers: Record<string, string>) =>
        call('POST', '/v1/templates', { name: 'a', from }, headers)
      expect(await post({ image: `${evil.host}/a:1` }, none)).toMatchObject({
        status: 403,
        body: { error: { code: 'forbidden', context: { right: `egress:${evil.host.split(':')[0]}` } } },
      })
      for (const dockerfile of [
        `FROM ${evil.host}/a:1`,
        `FROM host\nCOPY --from=${evil.host}/a:1 /x /x`,
        `FROM host\nADD http://${evil.host}/x /x`,
      ]) {
        const { body } = await post({ dockerfile, network }, none)
        const { template, log } = await settled(String(body['id']))
        expect(template.state, log.join('\n')).toBe('failed')
        expect(template.detail).toMatch(/This needs the right egress:\S+, and \S+ does not have it/)
      }
      expect([...mine.requests, ...evil.requests]).toEqual([])
      const { body } = await post({ image: `${mine.host}/a:1`, auth: { ...account, registry: mine.host } }, rights)
      expect((await settled(String(body['id']))).template.state).toBe('ready')
    })

    test('goes with files in a header, and not in the address', async () => {
      const { mine, templates, settled, call, send } = await startTwo()
      const files = readFileSync(tarOf({ Dockerfile: `FROM ${mine.host}/a:1\nRUN write /x 1` }))
      const header = Buffer.from(JSON.stringify(account)).toString('base64url')
      const made = await send('/v1/templates/builds?name=a', files, { 'registry-auth': header })
      expect((await settled(made.id)).template.state).toBe('ready')
      expect(mine.requests.join()).toContain(basic)
      const options = encodeURIComponent(JSON.stringify({ auth: account }))
      const refused = await call('POST', `/v1/templates/builds?name=a&options=${options}`)
      expect(refused).toMatchObject({ status: 400, body: { error: { code: 'invalid_request' } } })
      expect(refused.text).not.toContain('planted-password')
      const garbled = await send('/v1/templates/builds?name=a', files, { 'registry-auth': 'e30' })
      expect(garbled).toMatchObject({ error: { code: 'invalid_request' } })
      expect(templates.counts()).toEqual({ running: 0, waiting: 0 })
    })
  })

  describe('an image', () => {
    const layers = [
      { tar: Buffer.alloc(2_048, 'x'), compression: 'gzip' as const },
      { tar: Buffer.alloc(2_048, 'y'), compression: 'zstd' as const },
    ]
    const config = { Env: ['A=1', 'bad name=2'], WorkingDir: '/app', User: '1000:1000' }

    test('is pulled, unpacked and given what every sandbox relies on', async () => {
      const peer = await startPeer()
      const pushed = peer.push({ repository: 'a', tag: '1', layers, config })
      const { templates, settled, bench } = await start({ registryHost: peer.host })
      const { id } = await templates.create({ name: 'a', tags: [], from: { image: `${peer.host}/a:1` } }, caller)
      const { template } = await settled(id)
      expect(template).toMatchObject({ state: 'ready', digest: pushed.manifestDigest, config: { env: { A: '1' } } })
      expect(bench.layers[0]).toBe('x'.repeat(2_048))
      expect(bench.layers[1]).toBe('y'.repeat(2_048))
      expect(bench.layers[2]).toContain('user:x:1000:1000:user:/home/user:/bin/sh')
      expect(await templates.resolve('a', caller)).toMatchObject({ env: { A: '1' }, cwd: '/app', user: '1000:1000' })
      // As a base it is not unpacked a second time by the next build.
      const again = async () =>
        settled(
          (
            await templates.create(
              { name: 'b', tags: [], from: fromDockerfile(`FROM ${peer.host}/a:1\nRUN write /x 1`) },
              caller,
            )
          ).id,
        )
      await again()
      const before = bench.layers.length
      const { log } = await again()
      expect(bench.layers.length).toBe(before)
      expect(log.join('\n')).toMatch(/is here already/)
    })

    test('with a layer that is not what was said is refused', async () => {
      const peer = await startPeer()
      const { layerDigests } = peer.push({
        repository: 'a',
        tag: '1',
        layers: [{ tar: Buffer.alloc(2_048, 'x'), compression: 'none' }],
      })
      peer.behaviour.corrupt = (digest, bytes) =>
        digest === layerDigests[0] ? Buffer.from(bytes).fill(0, bytes.length - 8) : bytes
      const { templates, settled } = await start({ registryHost: peer.host })
      const { id } = await templates.create({ name: 'a', tags: [], from: { image: `${peer.host}/a:1` } }, caller)
      expect((await settled(id)).template).toMatchObject({
        state: 'failed',
        detail: expect.stringContaining(layerDigests[0]!),
      })
    })

    test('with an absurd environment is refused', async () => {
      const peer = await startPeer()
      peer.push({
        repository: 'a',
        tag: '1',
        layers,
        config: { Env: Array.from({ length: 1_500 }, (_, at) => `V${at}=x`) },
      })
      const { templates, settled } = await start({ registryHost: peer.host })
      const { id } = await templates.create({ name: 'a', tags: [], from: { image: `${peer.host}/a:1` } }, caller)
      expect((await settled(id)).template.detail).toMatch(/more than 1000 variables/)
    })

    test('of the catalogue is pulled at its first use; without a network the error says so', async () => {
      const { templates } = await start()
      const refused = await refusal(templates.resolve('python-3.12', caller))
      expect(refused).toMatchObject({
        code: 'template_build_failed',
        cause: expect.stringContaining('registry-1.docker.io can not be reached'),
      })
    })

    test('that is no archive, or none that is known, is refused', async () => {
      const { templates, settled } = await start()
      const send = async (path: string) =>
        settled((await templates.importArchive({ name: 'i', tags: [] }, createReadStream(path), caller)).id)
      expect((await send(tarOf({ a: '' }))).template.detail).toMatch(/neither an index.json/)
      expect((await send(tarOf({ 'index.json': '{"schemaVersion":2,"manifests":[]}' }))).template.detail).toMatch(
        /is not there for/,
      )
      expect(
        (await send(tarOf({ 'manifest.json': '[{"Config":"c","Layers":["../../etc/passwd"]}]' }))).template.detail,
      ).toMatch(/not there/)
    })
  })

  test('a snapshot becomes a template of its own', async () => {
    const bench = newBench()
    bench.snapshots.set('snp_a', new Map([['/kept', 'yes']]))
    const { templates, settled } = await start({ bench })
    const { id } = await templates.create({ name: 'mine', tags: [], from: { snapshot: 'snp_a' } }, caller)
    const { template } = await settled(id)
    expect(template.snapshotId).not.toBe('snp_a')
    expect(bench.snapshots.get(template.snapshotId!)?.get('/kept')).toBe('yes')
    expect(bench.pins.get(template.snapshotId!)).toContain(id)
    expect(
      await refusal(templates.create({ name: 'no', tags: [], from: { snapshot: 'snp_b' } }, caller)),
    ).toMatchObject({ code: 'snapshot_not_found' })
    expect(await templates.resolve('snp_a', caller)).toMatchObject({ template: 'snp_a' })
    expect(await refusal(templates.resolve('snp_none', caller))).toMatchObject({ code: 'snapshot_not_found' })
  })
})

describe('what is added to an image', () => {
  const types = (all: Record<string, 'file' | 'directory' | 'symlink'>) => new Map(Object.entries(all))

  test('is only what is missing', () => {
    const all = {
      etc: 'directory',
      home: 'directory',
      'home/user': 'directory',
      workspace: 'directory',
      tmp: 'directory',
      root: 'directory',
      'usr/bin/bash': 'file',
      'etc/passwd': 'file',
    } as const
    const passwd = 'root:x:0:0:root:/root:/bin/bash\nnode:x:1000:1000::/home/node:/bin/bash'
    const added = additionsFor({ types: types(all), passwd, group: 'root:x:0:\nuser:x:1000:\n' })
    expect(added?.map(({ path }) => path)).toEqual(['etc/passwd', 'etc/hosts', 'etc/resolv.conf'])
    expect(added?.[0]?.content).toBe(`${passwd}\nuser:x:1000:1000:user:/home/user:/bin/bash\n`)
    expect(additionsFor({ types: types({}), passwd: '', group: '' })?.map(({ path }) => path)).toContain('workspace')
  })

  test('goes nowhere through a link', () => {
    for (const path of ['etc', 'home', 'etc/passwd']) {
      expect(additionsFor({ types: types({ [path]: 'symlink' }), passwd: '', group: '' })).toBeUndefined()
    }
  })

  test('is a tar that tar reads', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'delta-additions-'))
    cleanups.push(() => rmSync(folder, { recursive: true }))
    writeFileSync(join(folder, 'a.tar'), layerOf(additionsFor({ types: new Map(), passwd: '', group: '' })!))
    execFileSync('tar', ['-C', folder, '--no-same-owner', '-xf', join(folder, 'a.tar')])
    expect(existsSync(join(folder, 'home/user'))).toBe(true)
    const entries = await indexTar(join(folder, 'a.tar'), { entries: 100 })
    expect(entries.get('tmp')).toMatchObject({ type: 'directory', mode: 0o1777 })
    expect(execFileSync('tar', ['-tvf', join(folder, 'a.tar'), '--numeric-owner'], { encoding: 'utf8' })).toMatch(
      /1000\/1000 .* workspace\//,
    )
  })
})

test('every image of the catalogue is a reference', () => {
  for (const { image, name } of catalogue) expect(parseReference(image).ok, name).toBe(true)
})
