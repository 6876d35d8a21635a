// Writes packages/sdk/src/generated/api.ts from the server's own OpenAPI document. `--check` only compares and fails when it is not up to date.
// Needs Node 24 (it imports the server's TypeScript); no helper and no sandbox.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { typesOf } from './openapi-types.ts'
import { serverDocument } from './server-api.mjs'

const target = resolve(import.meta.dirname, '../packages/sdk/src/generated/api.ts')
const text = formatted(typesOf(await serverDocument()))
const current = read(target)
if (process.argv.includes('--check')) {
  if (current !== text) {
    process.stderr.write(
      `${target} does not match the server's OpenAPI document. Run: node scripts/generate-sdk-types.mjs\n`,
    )
    process.exitCode = 1
  }
} else if (current !== text) {
  mkdirSync(dirname(target), { recursive: true })
  writeFileSync(target, text)
  process.stdout.write(`wrote ${target}\n`)
}

function read(path) {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (error.code === 'ENOENT') return undefined
    throw error
  }
}

/** As `oxfmt --check` wants it. */
function formatted(source) {
  const oxfmt = resolve(import.meta.dirname, '../node_modules/oxfmt/bin/oxfmt')
  const done = spawnSync(process.execPath, [oxfmt, '--stdin-filepath', target], { input: source, encoding: 'utf8' })
  if (done.status !== 0) throw new Error(`oxfmt failed: ${done.stderr || done.error?.message}`)
  return done.stdout
}
