// Makes the folder that is published as @delta-agents/sdk: JavaScript and declarations by the compiler itself, and a package.json of which the
// exports point to them. The one in packages/sdk goes on pointing to the sources, so that nothing here has to be built first.
//   node scripts/pack-sdk.mjs [folder]        then: npm publish folder
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'

const root = resolve(import.meta.dirname, '..')
const target = resolve(process.argv[2] ?? join(root, '.build/sdk'))
rmSync(target, { recursive: true, force: true })
mkdirSync(target, { recursive: true })
const compiler = spawnSync(
  join(root, 'node_modules/.bin/tsc'),
  ['-p', join(root, 'packages/sdk/tsconfig.build.json'), '--outDir', join(target, 'dist')],
  { stdio: 'inherit' },
)
if (compiler.status !== 0) process.exit(compiler.status ?? 1)

// The compiler rewrites the imports of JavaScript alone.
for (const file of readdirSync(join(target, 'dist'), { recursive: true, encoding: 'utf8' })) {
  if (!file.endsWith('.d.ts')) continue
  const path = join(target, 'dist', file)
  writeFileSync(path, readFileSync(path, 'utf8').replaceAll(/(from |import\()'(\.[^']*)\.ts'/g, "$1'$2.js'"))
}

const { name, version, description, license, type, engines } = JSON.parse(
  readFileSync(join(root, 'packages/sdk/package.json'), 'utf8'),
)
const entry = { types: './dist/index.d.ts', default: './dist/index.js' }
const published = {
  name,
  version,
  description,
  license,
  type,
  engines,
  sideEffects: false,
  files: ['dist'],
  types: entry.types,
  exports: { '.': entry },
}
writeFileSync(join(target, 'package.json'), `${JSON.stringify(published, null, 2)}\n`)
copyFileSync(join(root, 'LICENSE'), join(target, 'LICENSE'))
copyFileSync(join(root, 'docs/sdk.md'), join(target, 'README.md'))
process.stdout.write(`${target}\n`)
