import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Delta, type Sandbox } from '@delta-agents/sdk'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Snapshot } from '../packages/sdk/src/generated/api.ts'
import { newDataDir } from './global-setup.ts'
import { ociArchive, pythonSystem } from './images.ts'
import { leftovers } from './leftovers.ts'
import { freePort, type Platform, startPlatform } from './platform.ts'

type Json = Record<string, unknown>

let dataDir: string
let platform: Platform
let delta: Delta

beforeAll(async () => {
  dataDir = newDataDir()
  platform = await startPlatform({ dataDir, port: await freePort() })
  delta = new Delta({ url: platform.url, apiKey: platform.key })
})

afterAll(async () => {
  await platform.stop('SIGINT')
  const left = leftovers(dataDir)
  const log = platform.log()
  rmSync(dataDir, { recursive: true, force: true })
  expect(left, log).toEqual([])
})

async function call(method: string, path: string, body?: unknown): Promise<{ status: number; body: Json }> {
  const answer = await fetch(`${platform.url}${path}`, {
    method,
    headers: { authorization: `Bearer ${platform.key}`, 'content-type': 'application/json' },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  })
  const text = await answer.text()
  return { status: answer.status, body: text === '' ? {} : (JSON.parse(text) as Json) }
}

async function ok(method: string, path: string, body?: unknown): Promise<Json> {
  const answer = await call(method, path, body)
  expect(answer.status, JSON.stringify(answer.body)).toBeLessThan(300)
  return answer.body
}

async function sandboxOn(workspace: string, more: object = {}): Promise<Sandbox> {
  const { id } = await ok('POST', '/v1/sandboxes', { workspace, ...more })
  return delta.sandboxes.get(id as string)
}

const out = async (sandbox: Sandbox, command: string, user?: string) =>
  (await sandbox.commands.run(command, user === undefined ? {} : { user })).stdout.trim()

const history = async (workspace: string) =>
  (await ok('GET', `/v1/workspaces/${workspace}/snapshots`))['data'] as Snapshot[]

test('what was installed survives stop, start, rollback, fork and the death of the server', async () => {
  await ok('POST', '/v1/workspaces', { name: 'agent' })
  const sandbox = await sandboxOn('agent')
  await sandbox.commands.run(
    "printf '#!/bin/sh\\necho tool one\\n' > /usr/local/bin/tool && chmod 755 /usr/local/bin/tool",
    {
      user: 'root',
    },
  )
  await sandbox.commands.run('mkdir -p ~/deep/er && echo data > ~/deep/er/file && ln -s file ~/deep/er/link')
  await sandbox.stop()
  const [first] = await history('agent')
  expect(first).toMatchObject({ reason: 'stop', parentId: null })
  await expect
    .poll(async () => ((await ok('GET', `/v1/snapshots/${first!.id}`)) as Snapshot).changes?.packages.tools)
    .toEqual([{ path: '/usr/local/bin/tool', kind: 'added' }])

  // A command starts it again.
  expect(await out(sandbox, 'tool; cat ~/deep/er/link')).toBe('tool one\ndata')
  const second = await call('POST', '/v1/sandboxes', { workspace: 'agent' })
  expect(second).toMatchObject({
    status: 409,
    body: { error: { code: 'workspace_in_use', context: { sandboxId: sandbox.id } } },
  })
  expect(await call('POST', '/v1/sandboxes', { workspace: 'agent', ifHeld: 'join' })).toMatchObject({
    status: 200,
    body: { id: sandbox.id },
  })

  // Of a running one, which goes on.
  await sandbox.commands.run('echo changed > ~/deep/er/file')
  const running = await ok('POST', '/v1/workspaces/agent/snapshots', { comment: 'while it runs', name: 'changed' })
  expect(running).toMatchObject({ name: 'changed', parentId: first!.id, reason: 'manual' })
  expect(running['frozenMicros']).toBeGreaterThan(0)
  const { data: forks } = await ok('POST', `/v1/snapshots/${first!.id}/forks`, { names: ['fork-a', 'fork-b'] })
  expect(forks).toHaveLength(2)
  const fork = await sandboxOn('fork-a')
  expect(await out(fork, 'tool; cat ~/deep/er/file')).toBe('tool one\ndata')
  await fork.commands.run('echo fork > ~/deep/er/file')
  expect(await out(sandbox, 'cat ~/deep/er/file')).toBe('changed')
  await fork.kill()

  const back = await ok('POST', `/v1/sandboxes/${sandbox.id}/rollback`, { snapshotId: first!.id })
  expect(back['state']).toBe('running')
  expect(await out(sandbox, 'cat ~/deep/er/file')).toBe('data')
  const diff = await ok('GET', `/v1/snapshots/${first!.id}/diff/${running['id']}`)
  expect((diff['data'] as Json[]).map(({ path }) => path)).toContain('/home/user/deep/er/file')

  // Whatever a command that ended wrote is there after kill -9 of the helper, and with it the server.
  await sandbox.commands.run('echo last > ~/last && sync')
  await platform.kill()
  platform = await startPlatform({ dataDir, port: platform.port })
  expect(await out(sandbox, 'cat ~/last; tool')).toBe('last\ntool one')
  await sandbox.kill()
  const third = await sandboxOn('agent')
  expect(await out(third, 'cat ~/last; tool')).toBe('last\ntool one')
  await third.kill()
  expect(await ok('GET', '/v1/workspaces/agent')).toMatchObject({ heldBy: null, isLocal: true })
})

test('a sandbox that nobody uses stops with a snapshot, and its files are there for the next command', async () => {
  await ok('POST', '/v1/workspaces', { name: 'idle' })
  const sandbox = await sandboxOn('idle', { idleTimeoutMs: 1_000 })
  await sandbox.commands.run('echo kept > ~/file')
  await expect.poll(async () => (await sandbox.refresh()).state).toBe('stopped')
  expect((await history('idle')).map(({ reason }) => reason)).toEqual(['idle'])
  expect(await out(sandbox, 'cat ~/file')).toBe('kept')
  await sandbox.kill()
})

test('an image of another tool becomes a workspace, and its export is read by other tools', async () => {
  const place = mkdtempSync(join(tmpdir(), 'delta-image-'))
  const tool = (name: string, ...args: string[]) => execFileSync(name, args, { cwd: place }).toString()
  try {
    tool('umoci', 'init', '--layout', 'layout')
    tool('umoci', 'new', '--image', 'layout:tiny')
    tool('umoci', 'unpack', '--image', 'layout:tiny', 'made')
    mkdirSync(join(place, 'made/rootfs/etc'))
    writeFileSync(join(place, 'made/rootfs/etc/os-release'), 'ID=tiny\n')
    tool('umoci', 'repack', '--image', 'layout:tiny', 'made')
    tool('tar', '-cf', 'image.tar', '-C', 'layout', '.')
    const authorization = `Bearer ${platform.key}`
    const imported = await fetch(`${platform.url}/v1/workspaces/import?name=tiny`, {
      method: 'POST',
      headers: { authorization, 'content-type': 'application/x-tar' },
      body: readFileSync(join(place, 'image.tar')),
    })
    expect(imported.status, await imported.clone().text()).toBe(201)
    expect(await imported.json()).toMatchObject({ name: 'tiny', template: 'scratch' })
    const [snapshot] = await history('tiny')
    const file = await fetch(`${platform.url}/v1/snapshots/${snapshot!.id}/files?path=/etc/os-release`, {
      headers: { authorization },
    })
    expect(await file.text()).toBe('ID=tiny\n')
    const exported = await fetch(`${platform.url}/v1/snapshots/${snapshot!.id}/image`, {
      headers: { authorization },
    })
    writeFileSync(join(place, 'out.tar'), Buffer.from(await exported.arrayBuffer()))
    const before = JSON.parse(tool('skopeo', 'inspect', '--raw', 'oci:layout:tiny')) as Json
    const after = JSON.parse(tool('skopeo', 'inspect', '--raw', 'oci-archive:out.tar')) as Json
    expect(after).toEqual(before)
    mkdirSync(join(place, 'again'))
    tool('tar', '-xf', 'out.tar', '-C', 'again')
    tool('umoci', 'unpack', '--image', `again:${snapshot!.id}`, 'bundle')
    expect(readFileSync(join(place, 'bundle/rootfs/etc/os-release'), 'utf8')).toBe('ID=tiny\n')
  } finally {
    rmSync(place, { recursive: true, force: true })
  }
})

test('what a sandbox did is unpacked by another tool as the sandbox has it, and comes back with the same digests', async ({
  skip,
}) => {
  skip(
    process.env['DELTA_RUNTIME'] === 'runsc',
    'gVisor has no attributes of users, and keeps times, links and pipes to itself',
  )
  const place = mkdtempSync(join(tmpdir(), 'delta-image-'))
  const tool = (name: string, ...args: string[]) => execFileSync(name, args, { cwd: place }).toString()
  const authorization = `Bearer ${platform.key}`
  // Each path below the folder: kind, mode, owner, size or target, names it shares, time, attributes, content.
  const describe = `import os,sys,stat,hashlib
os.chdir(sys.argv[1])
first={}
for d,ds,fs in os.walk('.'):
  ds.sort()
  for n in sorted(ds+fs):
    p=os.path.join(d,n);s=os.lstat(p);k=stat.S_IFMT(s.st_mode)
    same=first.setdefault(s.st_ino,p) if k==stat.S_IFREG else ''
    what=os.readlink(p) if k==stat.S_IFLNK else hashlib.sha256(open(p,'rb').read()).hexdigest() if k==stat.S_IFREG else ''
    x={a:os.getxattr(p,a,follow_symlinks=False).hex() for a in sorted(os.listxattr(p,follow_symlinks=False)) if a.startswith('user.') and a!='user.rootlesscontainers'}
    print(repr(p),oct(s.st_mode),s.st_uid,s.st_gid,s.st_mtime_ns if k!=stat.S_IFLNK else '',same,what,x)`
  const make = `import os
for d in ['gone','replaced/old','d']: os.makedirs('/tree/'+d)
os.chdir('/tree')
for n,t in [('a','one'),('gone/x','kept'),('replaced/old/x','old'),('.removed','hidden')]: open(n,'w').write(t)
os.symlink('/etc/hosts','link')`
  const change = `import os,shutil
os.chdir('/tree'); os.link('a','d/hard'); shutil.rmtree('gone'); os.remove('.removed'); shutil.rmtree('replaced'); os.mkdir('replaced')
open('replaced/new','w').write('new'); os.chmod('replaced',0o1770); os.mkfifo('pipe')
with open('sparse','wb') as f: f.seek(5<<20); f.write(b'end')
os.chown('a',1000,7); os.chmod('a',0o4751); open('empty','w'); open('name with ü','w').write('ü')
os.setxattr('a','user.note',b'\\x00\\xff'); os.setxattr('replaced','user.on',b'folder')`
  try {
    // Of the machine's own /usr an export has gigabytes.
    const archive = ociArchive(place, pythonSystem(place), { path: '/usr/local/bin:/usr/bin:/bin' })
    await delta.templates.ready(await delta.templates.import(archive, { name: 'small-python' }))
    await ok('POST', '/v1/workspaces', { name: 'packed', template: 'small-python' })
    const sandbox = await sandboxOn('packed')
    const asRoot = async (program: string, ...args: string[]) => {
      const result = await sandbox.commands.run(['python3', '-c', program, ...args], { user: 'root' })
      expect(result.exitCode, result.stderr).toBe(0)
      return result.stdout
    }
    await asRoot(make)
    await ok('POST', '/v1/workspaces/packed/snapshots', {})
    await asRoot(change)
    const seen = await asRoot(describe, '/tree')
    await sandbox.kill()
    const [packed] = await history('packed')
    const id = packed!.id
    const exported = await fetch(`${platform.url}/v1/snapshots/${id}/image`, { headers: { authorization } })
    expect(exported.status).toBe(200)
    writeFileSync(join(place, 'out.tar'), Buffer.from(await exported.arrayBuffer()))
    mkdirSync(join(place, 'layout'))
    tool('tar', '-xf', 'out.tar', '-C', 'layout')
    const inspected = JSON.parse(tool('skopeo', 'inspect', 'oci-archive:out.tar')) as { Layers: string[] }
    expect(inspected.Layers.length).toBeGreaterThanOrEqual(2)
    tool('umoci', 'unpack', '--image', `layout:${id}`, 'bundle')
    const unpacked = execFileSync('python3', ['-c', describe, join(place, 'bundle/rootfs/tree')]).toString()
    expect(unpacked.split('\n')).toEqual(seen.split('\n'))
    const imported = await fetch(`${platform.url}/v1/workspaces/import?name=packed-back`, {
      method: 'POST',
      headers: { authorization, 'content-type': 'application/x-tar' },
      body: readFileSync(join(place, 'out.tar')),
    })
    expect(imported.status, await imported.clone().text()).toBe(201)
    const [back] = await history('packed-back')
    const again = await fetch(`${platform.url}/v1/snapshots/${back!.id}/image`, { headers: { authorization } })
    writeFileSync(join(place, 'again.tar'), Buffer.from(await again.arrayBuffer()))
    expect(tool('skopeo', 'inspect', '--raw', 'oci-archive:again.tar')).toBe(
      tool('skopeo', 'inspect', '--raw', 'oci-archive:out.tar'),
    )
    const returned = await sandboxOn('packed-back')
    const result = await returned.commands.run(['python3', '-c', describe, '/tree'], { user: 'root' })
    expect(result.stdout.split('\n')).toEqual(seen.split('\n'))
    await returned.kill()
  } finally {
    rmSync(place, { recursive: true, force: true })
  }
})
