import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Delta } from '@delta-agents/sdk'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startRegistryPeer } from '../packages/server/src/templates/registry/testing.ts'
import type { RegistryPeer } from '../packages/server/src/templates/registry/testing.ts'
import { newDataDir } from './global-setup.ts'
import { ociArchive, tarOf, tinySystem } from './images.ts'
import { leftovers } from './leftovers.ts'
import { ownUids, startPlatform } from './platform.ts'
import type { Platform } from './platform.ts'

const underGvisor = process.env['DELTA_RUNTIME'] === 'runsc'
const noLongListing =
  'under gVisor `ls -l` of coreutils says Invalid argument, and the tiny image has nothing else that looks'

/** Beside the platform that other tests use. */
const uids = ownUids(400)
const account = { username: 'tests', password: 'pa:ss' }

interface Answer {
  status: number
  body: Record<string, unknown>
}

describe('templates', () => {
  const folder = mkdtempSync(join(tmpdir(), 'delta-templates-'))
  let peer: RegistryPeer
  let platform: Platform
  let delta: Delta

  beforeAll(async () => {
    peer = await startRegistryPeer()
    const dataDir = newDataDir()
    const env = {
      ...uids,
      DELTA_REGISTRIES: `http://${peer.host}`,
    }
    platform = await startPlatform({ dataDir, env })
    delta = new Delta({ url: platform.url, apiKey: platform.key })
  }, 120_000)

  afterAll(async () => {
    await platform.stop('SIGINT')
    await peer.close()
    rmSync(folder, { recursive: true, force: true })
    expect(leftovers(platform.dataDir), platform.log()).toEqual([])
    rmSync(platform.dataDir, { recursive: true, force: true })
  })

  async function call(method: string, path: string, body?: object | Uint8Array): Promise<Answer> {
    const isBytes = body instanceof Uint8Array
    const answer = await fetch(`${platform.url}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${platform.key}`,
        'content-type': isBytes ? 'application/x-tar' : 'application/json',
      },
      ...(body && { body: isBytes ? Buffer.from(body) : JSON.stringify(body) }),
    })
    const text = await answer.text()
    return { status: answer.status, body: (text === '' ? {} : JSON.parse(text)) as Record<string, unknown> }
  }

  /** Waits for the end of a build by its log. */
  async function made({ status, body }: Answer): Promise<{ template: Record<string, unknown>; log: string[] }> {
    expect(status, JSON.stringify(body)).toBe(202)
    const answer = await fetch(`${platform.url}/v1/templates/${body['id']}/log`, {
      headers: { authorization: `Bearer ${platform.key}` },
    })
    const events = (await answer.text())
      .trim()
      .split('\n\n')
      .map((event) => ({
        name: /^event: (.*)$/m.exec(event)?.[1],
        data: JSON.parse(/^data: (.*)$/m.exec(event)![1]!) as Record<string, unknown>,
      }))
    const log = events.filter(({ name }) => name === 'line').map(({ data }) => `${data['kind']}: ${data['text']}`)
    const template = events.at(-1)!.data
    expect(template['state'], log.join('\n')).toBe('ready')
    return { template, log }
  }

  async function run(
    template: string,
    cmd: string | string[],
    options: { user?: string; env?: Record<string, string> } = {},
  ) {
    const sandbox = await delta.sandboxes.create({ template })
    try {
      return await sandbox.commands.run(cmd, options)
    } finally {
      await sandbox.kill()
    }
  }

  test('an image from a registry becomes a template, with its user, folders and variables', async (context) => {
    if (underGvisor) context.skip(noLongListing)
    const pushed = peer.push({
      repository: 'team/tiny',
      tag: '1',
      layers: [
        { tar: tinySystem(folder), compression: 'gzip' },
        { tar: tarOf(folder, { 'app/second': 'from the second layer\n', 'etc/.wh.removed': '' }), compression: 'zstd' },
      ],
      config: { Env: ['PATH=/bin', 'APP=tiny app'], WorkingDir: '/app' },
      index: [
        { os: 'linux', architecture: 's390x' },
        { os: 'linux', architecture: process.arch === 'x64' ? 'amd64' : 'arm64' },
      ],
    })
    Object.assign(peer.behaviour, { auth: 'bearer', account })
    const { template } = await made(
      await call('POST', '/v1/templates', {
        name: 'tiny',
        tags: ['one'],
        from: { image: `${peer.host}/team/tiny:1`, auth: account },
      }),
    )
    expect(template).toMatchObject({ name: 'tiny', version: 1, tags: ['latest', 'one'], digest: pushed.manifestDigest })
    // No bash in it: a text is run by /bin/sh.
    const { stdout, exitCode, stderr } = await run(
      'tiny:one',
      'echo "$APP|$PWD|$0"; cat second; id -u; [ -e /etc/removed ] || echo gone; ls -d /workspace /home/user',
    )
    expect([exitCode, stderr]).toEqual([0, ''])
    expect(stdout).toBe('tiny app|/app|/bin/sh\nfrom the second layer\n1000\ngone\n/home/user\n/workspace\n')
    expect((await run('tiny@1', ['id', '-un'], { user: 'root' })).stdout).toBe('root\n')
    const workspace = await delta.workspaces.create({ template: 'tiny:one' })
    expect(workspace.info.template).toBe('tiny@1')
    const onWorkspace = await workspace.start()
    expect((await onWorkspace.commands.run('echo "$APP|$PWD"; cat second')).stdout).toBe(
      'tiny app|/app\nfrom the second layer\n',
    )
    await onWorkspace.kill()
    // What came from the registry leaves as it came.
    const image = await new Response(await (await workspace.snapshot()).image()).text()
    for (const digest of pushed.layerDigests) expect(image.includes(`blobs/sha256/${digest.slice(7)}`)).toBe(true)
    await workspace.remove()
    expect(await call('POST', '/v1/workspaces', { template: 'tiny:two' })).toMatchObject({
      status: 404,
      body: { error: { code: 'template_not_found' } },
    })
    expect(await call('POST', '/v1/sandboxes', { template: 'tiny@2' })).toMatchObject({ status: 404 })
  }, 60_000)

  test('the same image from an archive, and one that lies', async () => {
    const layer = tinySystem(folder)
    const { template } = await made(
      await call('POST', '/v1/templates/import?name=archived&tag=a', ociArchive(folder, layer)),
    )
    expect(template).toMatchObject({ name: 'archived', source: { kind: 'archive' } })
    expect((await run('archived', 'echo $APP')).stdout).toBe('archived app\n')
    // Of a layer that is here already the bytes that come are not looked at, nor used.
    const fresh = tarOf(folder, { 'etc/other': 'x' })
    const lying = await call('POST', '/v1/templates/import?name=lying', ociArchive(folder, fresh, { lies: true }))
    const ended = await endedOf(lying)
    expect(ended).toMatchObject({ state: 'failed', detail: expect.stringContaining('digest') })
    expect(await call('POST', '/v1/sandboxes', { template: 'lying' })).toMatchObject({
      status: 409,
      body: { error: { code: 'template_not_ready' } },
    })
  }, 60_000)

  async function endedOf({ body }: Answer): Promise<Record<string, unknown>> {
    await fetch(`${platform.url}/v1/templates/${body['id']}/log`, {
      headers: { authorization: `Bearer ${platform.key}` },
    }).then((answer) => answer.text())
    return (await call('GET', `/v1/templates/${body['id']}`)).body
  }

  const dockerfile = [
    'ARG GREETING=hello',
    'FROM host AS builder',
    'ARG GREETING',
    'WORKDIR /build',
    'COPY src/ ./',
    'RUN echo "$GREETING from $(id -un)" > greeting && chmod +x run.sh && ln -s greeting link',
    'FROM tiny',
    'ENV APP=built',
    'COPY --from=builder --chown=user /build/ /opt/app/',
    'COPY <<EOF /opt/app/inline',
    'inline $APP',
    'EOF',
    'RUN cat /opt/app/greeting >&2; echo one > /opt/one',
    'WORKDIR /opt/app',
    'USER user',
    'RUN echo mine > mine',
    'CMD ["./run.sh"]',
  ].join('\n')

  test('a Dockerfile with its files is built in sandboxes, the second time out of the cache', async (context) => {
    if (underGvisor) context.skip(noLongListing)
    const files = (main: string) =>
      tarOf(folder, {
        Dockerfile: dockerfile,
        'src/run.sh': main,
        'src/deep/file': 'deep',
        'src/no.log': 'x',
        '.dockerignore': '**/*.log\n',
      })
    const first = await made(
      await call('POST', '/v1/templates/builds?name=app', files('#!/bin/sh\ncat /opt/app/greeting\n')),
    )
    expect(first.log).toContainEqual('stderr: hello from root\n')
    expect(first.template).toMatchObject({
      detail: 'Dockerfile, 8 steps done, 0 cached',
      config: { cmd: ['./run.sh'], user: 'user', workdir: '/opt/app' },
    })
    const { stdout } = await run(
      'app',
      './run.sh; cat inline; ls -A; cat deep/file; ls -ln link mine run.sh | cut -d" " -f1,3',
    )
    expect(stdout).toBe(
      'hello from root\ninline built\ndeep\ngreeting\ninline\nlink\nmine\nrun.sh\ndeeplrwxrwxrwx 1000\n-rw-r--r-- 1000\n-rwxr-xr-x 1000\n',
    )

    const second = await made(
      await call('POST', '/v1/templates/builds?name=app', files('#!/bin/sh\ncat /opt/app/greeting\n')),
    )
    expect(second.template).toMatchObject({ version: 2, detail: 'Dockerfile, 0 steps done, 8 cached' })
    expect(await run('app', './run.sh')).toMatchObject({ stdout: 'hello from root\n' })

    // What was copied decides, and what comes after it is done anew.
    const third = await made(
      await call('POST', '/v1/templates/builds?name=app&tag=other', files('#!/bin/sh\necho other\n')),
    )
    expect(third.template).toMatchObject({ version: 3, detail: 'Dockerfile, 7 steps done, 1 cached' })
    expect(await run('app:other', './run.sh')).toMatchObject({ stdout: 'other\n' })
    expect(await run('app@1', './run.sh')).toMatchObject({ stdout: 'hello from root\n' })
  }, 120_000)

  test('a step that fails names its line, and a build is canceled in the middle', async () => {
    const failing = await endedOf(
      await call('POST', '/v1/templates', {
        name: 'failing',
        from: { dockerfile: 'FROM host\nRUN true\nRUN echo why >&2; exit 7' },
      }),
    )
    expect(failing).toMatchObject({
      state: 'failed',
      detail: expect.stringContaining('line 3: the command ended with 7'),
    })
    const slow = await call('POST', '/v1/templates', { name: 'slow', from: { dockerfile: 'FROM host\nRUN sleep 600' } })
    while (
      ((await call('GET', '/v1/sandboxes')).body['data'] as { state: string }[]).filter(
        ({ state }) => state === 'running',
      ).length === 0
    )
      await new Promise((done) => setTimeout(done, 50))
    expect(await call('POST', `/v1/templates/${slow.body['id']}/cancel`)).toMatchObject({
      status: 200,
      body: { state: 'canceled' },
    })
    expect((await call('GET', '/v1/sandboxes?state=running')).body['data']).toEqual([])
    expect(
      await call('POST', '/v1/templates', { name: 'bad', from: { dockerfile: 'FROM host\nFETCH x' } }),
    ).toMatchObject({ status: 400, body: { error: { code: 'dockerfile_invalid', context: { line: 2 } } } })
  }, 60_000)

  test('through the SDK and the command line: files are sent, the log is followed, versions are named', async () => {
    const context = mkdtempSync(join(folder, 'context-'))
    writeFileSync(join(context, 'Dockerfile'), 'FROM host\nCOPY word /opt/word\nRUN cat /opt/word && echo done\n')
    writeFileSync(join(context, 'word'), 'spoken\n')
    const begun = await delta.templates.dockerfile({ name: 'spoken', context, network: { egress: 'none' } })
    const lines: string[] = []
    expect(await delta.templates.ready(begun, { onLine: ({ text }) => lines.push(text) })).toMatchObject({ version: 1 })
    expect(lines.join('')).toContain('spoken\ndone')
    const args = ['template', 'create', 'spoken', '--dockerfile', context, '-t', 'again']
    const cli = [join(import.meta.dirname, '../packages/cli/bin/delta.mjs'), ...args]
    const env = { ...process.env, DELTA_URL: platform.url, DELTA_API_KEY: platform.key }
    expect(execFileSync(process.execPath, cli, { env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })).toBe(
      'spoken@2\n',
    )
    expect((await delta.templates.versions('spoken')).map(({ version, tags }) => [version, tags])).toEqual([
      [2, ['again', 'latest']],
      [1, []],
    ])
    expect((await run('spoken:again', 'cat /opt/word')).stdout).toBe('spoken\n')
  }, 60_000)

  test('what a workspace became is a template, and a deleted one leaves nothing behind', async () => {
    const workspace = await call('POST', '/v1/workspaces', { name: 'tools' })
    const { body: sandbox } = await call('POST', '/v1/sandboxes', { workspace: 'tools' })
    await call('POST', `/v1/sandboxes/${sandbox['id']}/execs`, { cmd: 'echo kept > /workspace/kept' })
    const snapshot = await call('POST', '/v1/workspaces/tools/snapshots', {})
    await call('DELETE', `/v1/sandboxes/${sandbox['id']}`)
    await made(await call('POST', '/v1/templates', { name: 'tools', from: { snapshot: snapshot.body['id'] } }))
    expect((await call('DELETE', `/v1/workspaces/${workspace.body['id']}`)).status).toBe(204)
    expect(await run('tools', 'cat kept')).toMatchObject({ stdout: 'kept\n' })
    expect((await call('DELETE', '/v1/templates/tools')).status).toBe(204)
    expect(await call('GET', '/v1/templates/tools')).toMatchObject({
      status: 404,
      body: { error: { code: 'template_not_found' } },
    })
  }, 60_000)
})
