import { execFileSync } from 'node:child_process'
import { chmod, lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { encodeHeader, endOfArchive, padding, type TarHeader } from './format.ts'
import { packFolder } from './pack.ts'
import { unpackFolder } from './unpack.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'delta-tar-'))
  await mkdir(join(folder, 'in'))
})
afterEach(() => rm(folder, { recursive: true }))

const longName = `${'d'.repeat(120)}/${'f'.repeat(200)}ü`

const at = (name: string) => join(folder, 'in', name)

async function fillFolder(): Promise<void> {
  await mkdir(at('d'.repeat(120)))
  await mkdir(at('empty'))
  await writeFile(at(longName), 'long')
  await writeFile(at('binary'), Buffer.from(Array.from({ length: 100_000 }, (_, index) => index % 251)))
  await writeFile(at('run.sh'), '#!/bin/sh\n')
  await chmod(at('run.sh'), 0o755)
  await symlink('run.sh', at('link'))
  await symlink('x'.repeat(150), at('longlink'))
  await writeFile(at('nothing'), '')
}

async function everything(of: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {}
  for (const name of (await readdir(of, { recursive: true })).toSorted()) {
    const stats = await lstat(join(of, name))
    const mode = (stats.mode & 0o777).toString(8)
    if (stats.isSymbolicLink()) found[name] = `-> ${await readlink(join(of, name))}`
    else
      found[name] = `${mode} ${stats.isDirectory() ? 'directory' : (await readFile(join(of, name))).toString('base64')}`
  }
  return found
}

test('what we pack, tar unpacks', async () => {
  await fillFolder()
  await mkdir(join(folder, 'out'))
  const archive: Uint8Array[] = []
  for await (const part of packFolder(join(folder, 'in'))) archive.push(part)
  execFileSync('tar', ['-xpf', '-', '-C', join(folder, 'out')], { input: Buffer.concat(archive) })
  expect(await everything(join(folder, 'out'))).toEqual(await everything(join(folder, 'in')))
})

test.each(['gnu', 'pax'])('what tar packs in its %s format, we unpack, from pieces of any size', async (format) => {
  await fillFolder()
  const archive = execFileSync('tar', ['-cf', '-', `--format=${format}`, '-C', join(folder, 'in'), '.'])
  async function* inPieces() {
    for (let from = 0, size = 1; from < archive.length; from += size, size = (size * 7 + 3) % 4999)
      yield archive.subarray(from, from + size)
  }
  const { skipped } = await unpackFolder(inPieces(), join(folder, 'out'))
  expect(skipped).toEqual([])
  expect(await everything(join(folder, 'out'))).toEqual(await everything(join(folder, 'in')))
})

test('unpacking over existing files replaces them', async () => {
  await writeFile(join(folder, 'in', 'a'), 'new')
  await mkdir(join(folder, 'out'))
  await writeFile(join(folder, 'out', 'a'), 'something older')
  await unpackFolder(packFolder(join(folder, 'in')), join(folder, 'out'))
  expect(await readFile(join(folder, 'out', 'a'), 'utf8')).toBe('new')
})

interface EvilEntry {
  path: string
  type?: 'file' | 'directory' | 'symlink'
  linkTarget?: string
  content?: string
  mode?: number
  flag?: string
}

async function* archiveOf(entries: EvilEntry[]): AsyncGenerator<Uint8Array, void> {
  for (const { path, type = 'file', linkTarget = '', content = '', mode = 0o644, flag } of entries) {
    const blocks = encodeHeader({ path, type, linkTarget, mode, mtimeSeconds: 1, size: content.length })
    if (flag !== undefined) reflag(blocks[0] as Uint8Array, flag)
    yield* blocks
    yield Buffer.from(content)
    yield padding(content.length)
  }
  yield endOfArchive()
}

function reflag(block: Uint8Array, flag: string): void {
  const old = block[156] ?? 0
  block[156] = flag.charCodeAt(0)
  const sum = Number.parseInt(Buffer.from(block.subarray(148, 154)).toString(), 8) + block[156] - old
  block.set(Buffer.from(`${sum.toString(8).padStart(6, '0')}\0 `), 148)
}

const evil: [string, EvilEntry[], string[]][] = [
  ['a name with ..', [{ path: '../escaped', content: 'x' }], ['../escaped']],
  ['.. in the middle', [{ path: 'a/../../escaped', content: 'x' }], ['a/../../escaped']],
  ['an absolute name', [{ path: '/tmp/delta-escaped', content: 'x' }], ['/tmp/delta-escaped']],
  ['an absolute link', [{ path: 'l', type: 'symlink', linkTarget: '/etc' }], ['l']],
  ['a link that climbs out', [{ path: 'd/l', type: 'symlink', linkTarget: '../../escaped' }], ['d/l']],
  [
    'a link that climbs after going through another',
    [
      { path: 'd/up', type: 'symlink', linkTarget: '..' },
      { path: 'l', type: 'symlink', linkTarget: 'd/up/../escaped' },
    ],
    ['l'],
  ],
  [
    'a file below a link',
    [
      { path: 'd', type: 'directory' },
      { path: 'l', type: 'symlink', linkTarget: 'd' },
      { path: 'l/escaped', content: 'x' },
    ],
    ['l/escaped'],
  ],
  [
    'a folder over a link',
    [
      { path: 'd', type: 'directory' },
      { path: 'l', type: 'symlink', linkTarget: 'd' },
      { path: 'l', type: 'directory', mode: 0 },
    ],
    ['l'],
  ],
  [
    'a link over a folder, to get below it later',
    [
      { path: 'd/x', content: 'kept' },
      { path: 'd', type: 'symlink', linkTarget: '.' },
      { path: 'd/y', content: 'fine' },
    ],
    ['d'],
  ],
  ['a hard link to outside', [{ path: 'l', flag: '1', linkTarget: '../outside' }], ['l']],
  ['a hard link to an absolute path', [{ path: 'l', flag: '1', linkTarget: '/etc/passwd' }], ['l']],
  ['a device', [{ path: 'null', flag: '3' }], ['null']],
  ['the folder itself as a file', [{ path: './', content: 'x' }], ['./']],
]

test.each(evil)('%s does not leave the folder', async (_, entries, expected) => {
  await writeFile(join(folder, 'outside'), 'secret')
  const { skipped } = await unpackFolder(archiveOf(entries), join(folder, 'out'))
  expect(skipped).toEqual(expected)
  expect((await readdir(folder)).toSorted()).toEqual(['in', 'out', 'outside'])
  await expect(lstat('/tmp/delta-escaped')).rejects.toThrow('ENOENT')
  for (const name of await readdir(join(folder, 'out'), { recursive: true })) expect(name).not.toContain('escaped')
})

test('a file replaces a link instead of writing through it', async () => {
  await writeFile(join(folder, 'outside'), 'secret')
  await mkdir(join(folder, 'out'))
  await symlink('../outside', join(folder, 'out', 'a'))
  await unpackFolder(archiveOf([{ path: 'a', content: 'x' }]), join(folder, 'out'))
  expect(await readFile(join(folder, 'outside'), 'utf8')).toBe('secret')
  expect((await lstat(join(folder, 'out', 'a'))).isFile()).toBe(true)
})

test('set-id bits are dropped, other permissions kept', async () => {
  await unpackFolder(archiveOf([{ path: 'a', mode: 0o4755, content: 'x' }]), join(folder, 'out'))
  expect((await lstat(join(folder, 'out', 'a'))).mode & 0o7777).toBe(0o755)
})

test('a hard link inside becomes a copy', async () => {
  const entries = [
    { path: 'a', content: 'same' },
    { path: 'b', flag: '1', linkTarget: 'a' },
  ]
  await unpackFolder(archiveOf(entries), join(folder, 'out'))
  expect(await readFile(join(folder, 'out', 'b'), 'utf8')).toBe('same')
})

test.each([
  ['noise', async () => [Buffer.alloc(512, 7)]],
  ['a cut file', async () => (await parts([{ path: 'a', content: 'x'.repeat(2000) }])).slice(0, -3)],
  ['an archive without its end', async () => (await parts([{ path: 'a', content: 'x' }])).slice(0, -1)],
  ['nothing at all', async () => []],
  ['a pax header of 1 GB', async () => [lyingPax()]],
])('%s is an error', async (_, make) => {
  const pieces = await make()
  async function* source() {
    yield* pieces
  }
  await expect(unpackFolder(source(), join(folder, 'out'))).rejects.toThrow(/archive/)
})

async function parts(entries: EvilEntry[]): Promise<Uint8Array[]> {
  const all: Uint8Array[] = []
  for await (const part of archiveOf(entries)) all.push(part)
  return all
}

function lyingPax(): Uint8Array {
  const header: Pick<TarHeader, 'path' | 'size' | 'mode' | 'mtimeSeconds' | 'linkTarget'> = {
    path: 'pax',
    size: 1e9,
    mode: 0,
    mtimeSeconds: 0,
    linkTarget: '',
  }
  const [block] = encodeHeader({ ...header, type: 'file' })
  reflag(block as Uint8Array, 'x')
  return block as Uint8Array
}
