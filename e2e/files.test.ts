import { createHash, randomBytes } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { chmod, mkdir, mkdtemp, readFile, readlink, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import type { Sandbox, WatchEvent } from '@delta-agents/sdk'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { delta, refusal, request, serverMemoryBytes } from './target.ts'

const mib = 1024 * 1024
let sandbox: Sandbox
let folder: string
beforeAll(async () => {
  sandbox = await delta.sandboxes.create({ timeoutMs: 1_800_000 })
  folder = await mkdtemp(join(tmpdir(), 'delta-e2e-files-'))
})
afterAll(async () => {
  await sandbox.kill()
  await rm(folder, { recursive: true })
})
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
const at = (query: string, options?: RequestInit) => request(`/v1/sandboxes/${sandbox.id}/files?${query}`, options)

test('every byte value survives a round trip', async () => {
  const bytes = Uint8Array.from({ length: 4096 }, (_, index) => (index * 7) % 256)
  const entry = await sandbox.files.write('/workspace/all.bin', bytes)
  expect(entry).toMatchObject({
    path: '/workspace/all.bin',
    name: 'all.bin',
    type: 'file',
    size: 4096,
    mode: 0o644,
    permissions: 'rw-r--r--',
    owner: 'user',
    uid: 1000,
    symlinkTarget: null,
  })
  expect(await sandbox.files.read('/workspace/all.bin')).toEqual(bytes)
  expect((await sandbox.commands.run('sha256sum all.bin')).stdout).toContain(sha256(bytes))
})

test('a relative path starts at /workspace, missing folders are made', async () => {
  expect((await sandbox.files.write('deep/er/file', 'x')).path).toBe('/workspace/deep/er/file')
  expect(await refusal(sandbox.files.write('nowhere/file', 'x', { parents: false }))).toMatchObject({
    code: 'file_not_found',
  })
})

test('names of every kind work', async () => {
  for (const name of [
    'with space',
    'ünïcode-日本',
    'quo\'te"s',
    'new\nline',
    '-rf',
    '%2e%2e',
    'a?b#c&d',
    '*',
    `${'x'.repeat(255)}`,
  ]) {
    await sandbox.files.write(`/workspace/names/${name}`, name)
    expect(await sandbox.files.readText(`/workspace/names/${name}`)).toBe(name)
  }
  expect((await sandbox.files.list('/workspace/names').all()).map(({ name }) => name)).toContain('new\nline')
})

test('ranges, ETags and HEAD follow the standard', async () => {
  const { etag } = await sandbox.files.write('/workspace/range', '0123456789')
  const ranged = async (range: string) => {
    const answer = await at('path=/workspace/range', { headers: { range } })
    return [answer.status, answer.headers.get('content-range'), await answer.text()]
  }
  expect(await ranged('bytes=2-4')).toEqual([206, 'bytes 2-4/10', '234'])
  expect(await ranged('bytes=7-')).toEqual([206, 'bytes 7-9/10', '789'])
  expect(await ranged('bytes=-3')).toEqual([206, 'bytes 7-9/10', '789'])
  expect(await ranged('bytes=5-99')).toEqual([206, 'bytes 5-9/10', '56789'])
  expect((await ranged('bytes=10-'))[0]).toBe(416)
  expect((await at('path=/workspace/range', { headers: { 'if-none-match': etag } })).status).toBe(304)
  const head = await at('path=/workspace/range', { method: 'HEAD' })
  expect([head.status, head.headers.get('content-length'), head.headers.get('etag')]).toEqual([200, '10', etag])
  expect(await sandbox.files.readText('/workspace/range', { from: 3, length: 2 })).toBe('34')
})

test('a write is refused when the file has changed or exists', async () => {
  const first = await sandbox.files.write('/workspace/if', 'one')
  const second = await sandbox.files.write('/workspace/if', 'two', { ifMatch: first.etag })
  expect(second.etag).not.toBe(first.etag)
  expect(await refusal(sandbox.files.write('/workspace/if', 'three', { ifMatch: first.etag }))).toMatchObject({
    status: 412,
  })
  expect(await refusal(sandbox.files.write('/workspace/if', 'four', { overwrite: false }))).toMatchObject({
    code: 'file_exists',
  })
  expect(await sandbox.files.readText('/workspace/if')).toBe('two')
})

test('mode and owner are set as asked and kept as they were', async () => {
  await sandbox.files.write('/workspace/mode', '#!/bin/sh\necho ran\n', { mode: 0o750 })
  expect((await sandbox.commands.run('./mode')).stdout).toBe('ran\n')
  await sandbox.files.write('/workspace/mode', '#!/bin/sh\necho again\n')
  expect((await sandbox.files.stat('/workspace/mode')).mode).toBe(0o750)
  expect((await sandbox.files.chmod('/workspace/mode', 0o4711)).mode).toBe(0o4711)
  expect(await sandbox.files.write('/workspace/owned', 'x', { owner: 'root' })).toMatchObject({ owner: 'root', uid: 0 })
})

test('a broken upload leaves the old file and no rest', async () => {
  await sandbox.files.write('/workspace/atomic/file', 'old')
  const broken = new ReadableStream<Uint8Array>({
    start(controller) {
      controller.enqueue(new Uint8Array(mib))
    },
    async pull(controller) {
      await new Promise((done) => setTimeout(done, 200))
      controller.error(new Error('cable cut'))
    },
  })
  await expect(sandbox.files.write('/workspace/atomic/file', broken)).rejects.toThrow()
  await expect
    .poll(async () => (await sandbox.commands.run('find /workspace/atomic -mindepth 1 -printf "%f\\n"')).stdout)
    .toBe('file\n')
  expect(await sandbox.files.readText('/workspace/atomic/file')).toBe('old')
})

test('200 MB go up and down unharmed at flat memory', async () => {
  const local = join(folder, 'big')
  const digest = createHash('sha256')
  async function* noise() {
    for (let part = 0; part < 200; part++) {
      const bytes = randomBytes(1_000_000)
      digest.update(bytes)
      yield bytes
    }
  }
  await pipeline(noise, createWriteStream(local))
  const expected = digest.digest('hex')
  const before = await serverMemoryBytes()
  const entry = await sandbox.files.write('/workspace/big', createReadStream(local))
  expect(entry.size).toBe(200_000_000)
  expect((await sandbox.commands.run('sha256sum /workspace/big')).stdout).toContain(expected)
  const back = createHash('sha256')
  for await (const part of await sandbox.files.readStream('/workspace/big')) back.update(part)
  expect(back.digest('hex')).toBe(expected)
  expect((await serverMemoryBytes()) - before).toBeLessThan(96 * mib)
  await sandbox.files.remove('/workspace/big')
})

test('lists show a folder by depth, in pages, without entering links', async () => {
  await sandbox.commands.run(
    'mkdir -p tree/a/b tree/c; touch tree/a/1 tree/a/b/2 tree/z; ln -s a tree/link; ln -s nowhere tree/dangling',
  )
  const names = async (depth: number, pageSize?: number) =>
    (await sandbox.files.list('/workspace/tree', { depth, ...(pageSize ? { pageSize } : {}) }).all()).map(({ path }) =>
      path.slice('/workspace/tree/'.length),
    )
  expect(await names(1)).toEqual(['a', 'c', 'dangling', 'link', 'z'])
  const deep = ['a', 'a/1', 'a/b', 'a/b/2', 'c', 'dangling', 'link', 'z']
  expect(await names(5)).toEqual(deep)
  expect(await names(5, 3)).toEqual(deep)
  const link = (await sandbox.files.list('/workspace/tree').all()).find(({ name }) => name === 'dangling')
  expect(link).toMatchObject({ type: 'symlink', symlinkTarget: 'nowhere' })
})

test('a listing passes by folders that nobody may read', async () => {
  const { pid } = await sandbox.commands.start('sleep 600')
  const entries = await sandbox.files.list(`/proc/${pid}`, { depth: 2 }).all()
  expect(entries.map(({ path }) => path)).toContain(`/proc/${pid}/status`)
})

test('a folder of 5,000 files is listed whole', async () => {
  await sandbox.commands.run('mkdir many && cd many && seq 5000 | xargs touch')
  expect(await sandbox.files.list('/workspace/many').all()).toHaveLength(5000)
})

test('folders are made, things are moved and removed', async () => {
  expect(await sandbox.files.mkdir('/workspace/m/k', { mode: 0o700 })).toMatchObject({ type: 'directory', mode: 0o700 })
  await sandbox.files.mkdir('/workspace/m/k')
  expect((await refusal(sandbox.files.mkdir('/workspace/m/k', { parents: false }))).code).toBe('file_exists')
  await sandbox.files.write('/workspace/m/k/f', 'x')
  expect((await sandbox.files.move('/workspace/m/k', '/workspace/m/l')).path).toBe('/workspace/m/l')
  await sandbox.files.write('/workspace/m/other', 'y')
  expect((await refusal(sandbox.files.move('/workspace/m/other', '/workspace/m/l/f'))).code).toBe('file_exists')
  await sandbox.files.move('/workspace/m/other', '/workspace/m/l/f', { overwrite: true })
  expect(await sandbox.files.readText('/workspace/m/l/f')).toBe('y')
  expect((await refusal(sandbox.files.remove('/workspace/m'))).code).toBe('directory_not_empty')
  await sandbox.files.remove('/workspace/m', { recursive: true })
  expect(await sandbox.files.exists('/workspace/m')).toBe(false)
  expect((await refusal(sandbox.files.remove('/workspace/m'))).code).toBe('file_not_found')
})

test('removing a folder does not follow its links', async () => {
  await sandbox.commands.run('mkdir -p keep gone; touch keep/me; ln -s ../keep gone/link')
  await sandbox.files.remove('/workspace/gone', { recursive: true })
  expect(await sandbox.files.exists('/workspace/keep/me')).toBe(true)
})

test('a folder goes up and down as tar with modes and links', async () => {
  const source = join(folder, 'tree')
  await mkdir(join(source, 'sub', 'empty'), { recursive: true })
  await writeFile(join(source, 'sub', 'data'), randomBytes(300_000))
  await writeFile(join(source, 'run'), '#!/bin/sh\n')
  await writeFile(join(source, `${'n'.repeat(200)}`), 'long')
  await chmod(join(source, 'run'), 0o755)
  await symlink('sub/data', join(source, 'link'))
  await sandbox.files.uploadFolder(source, '/workspace/up')
  expect((await sandbox.commands.run('find up/run -printf "%u %m\\n"; readlink up/link; find up | wc -l')).stdout).toBe(
    'user 755\nsub/data\n7\n',
  )
  const target = join(folder, 'back')
  expect(await sandbox.files.downloadFolder('/workspace/up', target)).toEqual({ skipped: [] })
  expect(await readFile(join(target, 'sub', 'data'))).toEqual(await readFile(join(source, 'sub', 'data')))
  expect((await stat(join(target, 'run'))).mode & 0o777).toBe(0o755)
  expect(await readlink(join(target, 'link'))).toBe('sub/data')
  expect((await stat(join(target, 'sub', 'empty'))).isDirectory()).toBe(true)
})

test('an archive that climbs out stays inside the folder it is unpacked in', async () => {
  const evil = (
    await sandbox.commands.run('cd /tmp; echo pwned > x; tar -cPf - --transform "s,x,../../escaped," x | base64 -w0')
  ).stdout
  await sandbox.files.writeTar('/workspace/jail', Buffer.from(evil, 'base64')).catch(() => {})
  for (const path of ['/escaped', '/workspace/escaped', '/home/escaped'])
    expect(await sandbox.files.exists(path), path).toBe(false)
})

test('changes are seen as they happen, in new folders too', async () => {
  await sandbox.files.mkdir('/workspace/watched')
  await using watcher = await sandbox.files.watch('/workspace/watched')
  await sandbox.commands.run('cd watched; mkdir d; sleep 0.3; echo 1 > d/f; chmod 600 d/f; mv d/f d/g; rm d/g')
  const seen: WatchEvent[] = []
  for await (const event of watcher) {
    seen.push(event)
    if (event.kind === 'remove' && event.path.endsWith('/d/g')) break
  }
  const kinds = (name: string) =>
    seen.filter(({ path }) => path === `/workspace/watched/${name}`).map(({ kind }) => kind)
  expect(kinds('d')).toContain('create')
  expect(kinds('d/f')).toEqual(expect.arrayContaining(['create', 'write', 'chmod']))
  expect(seen.some(({ kind }) => kind === 'rename')).toBe(true)
  expect(seen.find(({ path }) => path.endsWith('/d'))?.isDirectory).toBe(true)
})

test('a watch of a single level does not look deeper', async () => {
  await sandbox.files.mkdir('/workspace/flat/sub')
  await using watcher = await sandbox.files.watch('/workspace/flat', { recursive: false })
  await sandbox.files.write('/workspace/flat/sub/deep', 'x')
  await sandbox.files.write('/workspace/flat/last', 'x')
  for await (const { path } of watcher) {
    expect(path).not.toContain('deep')
    if (path.endsWith('last')) break
  }
})

test.each([
  ['reading what is not there', () => sandbox.files.read('/workspace/none'), 'file_not_found'],
  ['reading a folder', () => sandbox.files.read('/workspace'), 'is_a_directory'],
  ['reading a device', () => sandbox.files.read('/dev/zero'), 'not_a_file'],
  ['listing a file', () => sandbox.files.list('/etc/passwd').all(), 'not_a_directory'],
  ['a file as a folder', () => sandbox.files.read('/etc/passwd/x'), 'not_a_directory'],
  ['writing over a folder', () => sandbox.files.write('/workspace', 'x'), 'is_a_directory'],
  ['watching what is not there', () => sandbox.files.watch('/workspace/none'), 'file_not_found'],
  ['an unknown owner', () => sandbox.files.write('/workspace/o', 'x', { owner: 'nobody-here' }), 'user_not_found'],
])('%s is refused', async (_, call, code) => {
  expect((await refusal(call() as Promise<unknown>)).code).toBe(code)
})

test('a pipe that nobody writes to does not hang the server', async () => {
  await sandbox.commands.run('mkfifo /workspace/pipe')
  expect((await refusal(sandbox.files.read('/workspace/pipe'))).code).toBe('not_a_file')
  expect((await refusal(sandbox.files.write('/workspace/pipe', 'x'))).code).toBe('not_a_file')
})
