// The table of settings, as it is in this folder's environment. `--write` makes env.example and docs/configuration.md of it.
import { writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { findConfig } from './config-found.ts'
import { documentOf, exampleOf } from './config-text.ts'
import { takeEnvFile } from './env-file.mjs'

if (process.argv.includes('--write')) {
  const root = resolve(import.meta.dirname, '..')
  writeFileSync(resolve(root, 'env.example'), exampleOf())
  writeFileSync(resolve(root, 'docs/configuration.md'), documentOf())
} else {
  takeEnvFile(process.env)
  process.stdout.write(`${JSON.stringify(findConfig(process.env))}\n`)
}
