import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { publint } from 'publint'
import { afterAll, beforeAll, expect, test } from 'vitest'

const root = resolve(import.meta.dirname, '..')
let folder: string
let packed: string

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'delta-pack-'))
  packed = join(folder, 'node_modules/@delta-agents/sdk')
  mkdirSync(join(folder, 'node_modules/@delta-agents'), { recursive: true })
  execFileSync(process.execPath, [join(root, 'scripts/pack-sdk.mjs'), packed])
  // Only for the declarations of Node's own modules.
  symlinkSync(join(root, 'node_modules/@types'), join(folder, 'node_modules/@types'))
  symlinkSync(join(root, 'node_modules/undici-types'), join(folder, 'node_modules/undici-types'))
}, 60_000)

afterAll(() => rmSync(folder, { recursive: true, force: true }))

test('the published package has nothing for publint to say', async () => {
  expect((await publint({ pkgDir: packed, strict: true, pack: false })).messages).toEqual([])
})

test('plain JavaScript imports it from outside of the repository', () => {
  const program = `import { Delta } from '@delta-agents/sdk'; console.log(typeof new Delta({ url: 'http://x', apiKey: 'k' }).sandboxes.create)`
  expect(
    execFileSync(process.execPath, ['--input-type=module', '-e', program], { cwd: folder, encoding: 'utf8' }),
  ).toBe('function\n')
})

test('its declarations stand by themselves, and refuse what the sources refuse', () => {
  const program = [
    `import { Delta } from '@delta-agents/sdk'`,
    'const sandbox = await new Delta().sandboxes.create({ memoryMb: 64 })',
    'const id: string = sandbox.id',
    '// @ts-expect-error',
    `await new Delta().sandboxes.create({ memoryMb: id })`,
  ]
  writeFileSync(join(folder, 'use.mts'), program.join('\n'))
  const options = ['--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2024', '--types', 'node']
  const libraries = ['--lib', 'ES2024,ESNext.Disposable,ESNext.Collection']
  const { status, stdout } = spawnSync(join(root, 'node_modules/.bin/tsc'), [...options, ...libraries, 'use.mts'], {
    cwd: folder,
    encoding: 'utf8',
  })
  expect(status, stdout).toBe(0)
})

test('it holds no tests and needs no other package', () => {
  const files = readdirSync(packed, { recursive: true, encoding: 'utf8' })
  expect(files.filter((file) => file.includes('.test.'))).toEqual([])
  const said = files
    .filter((file) => /\.(d\.ts|js)$/.test(file))
    .map((file) => readFileSync(join(packed, file), 'utf8'))
  const imported = said.flatMap((text) =>
    Array.from(text.matchAll(/(?:from |import\()'([^'.][^']*)'/g), ([, name]) => name!),
  )
  expect(imported.filter((name) => !name.startsWith('node:'))).toEqual([])
})
